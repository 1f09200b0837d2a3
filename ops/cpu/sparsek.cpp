// A row of sparsek on the CPU: survey, list what may be above tau, search tau there, write.
//
// Where k is small against n, the largest scores of groups (about four times k of them) are a row of their
// own whose tau cannot be above that of the whole row: what lies below it never enters the list.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/cpu/sparsek_kernels.hpp"
#include "manyhop/ops/cpu/sparsek_threshold.hpp"
#include "manyhop/ops/edge_value.hpp"
#include "manyhop/ops/sparsek_backends.hpp"

namespace manyhop::ops::cpu {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kLowest = std::numeric_limits<double>::lowest();
constexpr Offset kChunk = Offset{1} << 17;  // of a long row; longer rows run on all threads
constexpr Offset kGrain = Offset{1} << 16;  // scores of a task of short rows
constexpr double kSlack = 0.05;  // of the bound that the groups give: two steps less, a few scores more
constexpr Offset kMostOfGroup = kChunk / 128;  // a chunk of a long row holds whole groups of any vector width
// From here on tau - base loses digits that gates would show (1e-13 of 512).
constexpr double kFar = 512;

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

// Grows and is never cleared.
template <class V>
class Buffer {
 public:
  V* get(Offset count) {
    if (count > size_) {
      data_ = std::make_unique_for_overwrite<V[]>(at(count));
      size_ = count;
    }
    return data_.get();
  }

 private:
  std::unique_ptr<V[]> data_;
  Offset size_ = 0;
};

template <class E>
struct Scratch {
  Buffer<E> row;  // where z or p cannot be used in place
  Buffer<E> maxima;
  Buffer<std::int32_t> where;
  Buffer<double> x;
};

template <class E>
class RowSolver {
 public:
  explicit RowSolver(Scratch<E>& scratch) : scratch_(scratch) {}

  /// Reads z and then writes p (which may be z); returns tau.
  double run(const E* z, Offset n, double k, SparsekMethod method, E* p) {
    z_ = z;
    n_ = n;
    k_ = k;
    listed_ = -1;
    chunks_ = (n + kChunk - 1) / kChunk;
    const Survey<E> survey = look();
    if (survey.nan) return fill(p, std::numeric_limits<E>::quiet_NaN(), std::nan(""));
    if (n == 0 || survey.largest == -kInfinity) return fill(p, 0, -kInfinity);
    if (static_cast<double>(survey.largest) == kInfinity) return with_infinities(p);
    if (k == 0) return fill(p, 0, static_cast<double>(survey.largest));
    base_ = static_cast<double>(survey.largest);
    const Threshold found = k >= static_cast<double>(n)       ? Threshold{0, kLowest}
                            : method == SparsekMethod::sorted ? by_sorting()
                                                              : by_search(survey.groups);
    write(found, p);
    return found.tau == kLowest ? -kInfinity : found.sum();
  }

 private:
  template <class F>
  void for_chunks(F&& body) {
    if (chunks_ <= 1) {
      if (n_ > 0) body(0, 0, n_);
      return;
    }
    parallel_for(chunks_, [&](Offset c) { body(c, c * kChunk, std::min(n_, (c + 1) * kChunk)); });
  }

  double fill(E* p, E value, double tau) {
    std::fill_n(p, n_, value);
    return tau;
  }

  Survey<E> look() {
    // Scores of a group; fewer than two make no list shorter.
    const double wanted = 4 * std::ceil(std::min(k_, 1e18)) + 64;
    block_ = wanted < static_cast<double>(n_) / 2 ? static_cast<Offset>(static_cast<double>(n_) / wanted) : 0;
    if (chunks_ > 1) block_ = std::min(block_, kMostOfGroup);
    group_room_ = block_ > 0 ? std::min(n_, kChunk) / block_ + 1 : 0;
    E* maxima = block_ > 0 ? scratch_.maxima.get(group_room_ * chunks_) : nullptr;
    std::vector<Survey<E>> parts(at(std::max<Offset>(chunks_, 1)),
                                 Survey<E>{-std::numeric_limits<E>::infinity(), false, 0});
    for_chunks([&](Offset c, Offset begin, Offset end) {
      parts[at(c)] = kernels_.survey(z_ + begin, end - begin, block_, maxima + c * group_room_);
    });
    Survey<E> all = parts[0];
    for (Offset c = 1; c < chunks_; ++c) {
      std::copy_n(maxima + c * group_room_, parts[at(c)].groups, maxima + all.groups);
      all.groups += parts[at(c)].groups;
      all.largest = std::max(all.largest, parts[at(c)].largest);
      all.nan |= parts[at(c)].nan;
    }
    return all;
  }

  // Scores above -inf, less `base`.
  Offset load(double* x, double base) const {
    Offset count = 0;
    for (Offset i = 0; i < n_; ++i) {
      const auto value = static_cast<double>(z_[i]);
      if (value != -kInfinity) x[count++] = value - base;
    }
    return count;
  }

  Threshold by_sorting() {
    double* x = scratch_.x.get(n_);
    const Offset count = load(x, 0);
    if (k_ >= static_cast<double>(count)) return {0, kLowest};
    return threshold_by_sorting({x, at(count)}, k_);
  }

  /// Lists the scores above `limit`; chunks side by side, then moved together.
  Offset list(E limit) {
    double* x = scratch_.x.get(n_);
    std::int32_t* where = scratch_.where.get(n_);
    counts_.assign(at(chunks_), 0);
    for_chunks([&](Offset c, Offset begin, Offset end) {
      counts_[at(c)] = kernels_.above(z_ + begin, end - begin, limit, base_, where + begin, x + begin);
    });
    Offset total = 0;
    for (Offset c = 0; c < chunks_; ++c) {
      if (c > 0) std::copy_n(x + c * kChunk, counts_[at(c)], x + total);
      total += counts_[at(c)];
    }
    return total;
  }

  Threshold by_search(Offset groups) {
    double lowest = -kInfinity;
    if (groups > 0) {
      const E* maxima = scratch_.maxima.get(0);
      double* x = scratch_.x.get(n_);
      Offset count = 0;
      for (Offset g = 0; g < groups; ++g) {
        if (maxima[g] != -std::numeric_limits<E>::infinity()) {
          x[count++] = static_cast<double>(maxima[g]) - base_;
        }
      }
      if (static_cast<double>(count) > k_ &&
          !threshold_by_search({x, at(count)}, k_, -kInfinity, lowest, kSlack)) {
        lowest = -kInfinity;
      }
    }
    // The list may hold more than what is above, never less; tau itself is found to the last digit.
    auto limit = static_cast<E>(base_ + lowest);
    limit = std::nextafter(limit, -std::numeric_limits<E>::infinity());
    const Offset count = list(limit);
    if (static_cast<double>(count) <= k_) {
      if (lowest == -kInfinity) return {0, kLowest};
      return by_sorting();
    }
    double tau = 0;
    // The search takes the list apart; positions stay.
    if (!threshold_by_search({scratch_.x.get(0), at(count)}, k_, lowest, tau) || std::abs(tau) > kFar) {
      listed_ = -1;
      return by_sorting();
    }
    listed_ = count;
    return {base_, tau};
  }

  void write(Threshold found, E* p) {
    if (listed_ < 0 || listed_ > n_ / 8) {
      for_chunks([&](Offset, Offset begin, Offset end) {
        kernels_.gates(z_ + begin, end - begin, found.base, found.tau, p + begin);
      });
      return;
    }
    const std::int32_t* where = scratch_.where.get(0);
    double* values = scratch_.x.get(0);
    for_chunks([&](Offset c, Offset begin, Offset end) {
      // Gates first: p may be z.
      for (Offset e = 0; e < counts_[at(c)]; ++e) {
        const double score = static_cast<double>(z_[begin + where[begin + e]]);
        values[begin + e] = std::clamp((score - found.base) - found.tau, 0.0, 1.0);
      }
      std::fill(p + begin, p + end, E{0});
      for (Offset e = 0; e < counts_[at(c)]; ++e) {
        p[begin + where[begin + e]] = static_cast<E>(values[begin + e]);
      }
    });
  }

  // Scores of +inf come first; what they leave of k goes to the others.
  double with_infinities(E* p) {
    double* x = scratch_.x.get(n_);
    const Offset count = load(x, 0);
    double* finite = std::partition(x, x + count, [](double value) { return value == kInfinity; });
    const auto infinite = static_cast<double>(finite - x);
    const auto others = static_cast<double>(x + count - finite);
    if (k_ < infinite || k_ == 0) {
      const E share = static_cast<E>(k_ / infinite);
      for (Offset i = 0; i < n_; ++i) p[i] = static_cast<double>(z_[i]) == kInfinity ? share : E{0};
      return kInfinity;
    }
    Threshold found{0, kLowest};
    if (k_ - infinite < others) found = threshold_by_sorting({finite, at(x + count - finite)}, k_ - infinite);
    write(found, p);
    return found.tau == kLowest ? -kInfinity : found.sum();
  }

  Scratch<E>& scratch_;
  const SparsekKernels<E> kernels_ = sparsek_kernels<E>();
  const E* z_ = nullptr;
  Offset n_ = 0;
  double k_ = 0;
  double base_ = 0;
  Offset chunks_ = 0;
  Offset block_ = 0;
  Offset group_room_ = 0;
  Offset listed_ = -1;  // positions listed, or -1: all must be looked at
  std::vector<Offset> counts_;
};

// One row of storage T: in place where the layout allows, else through a copy.
template <class T, class E>
void run_row(const SparsekCall& call, Offset r, const RowsOf<const T>& z, const RowsOf<T>& p,
             Scratch<E>& scratch) {
  const Offset n = z.size(r);
  const T* from = z.row(r);
  T* to = p.row(r);
  const bool direct =
      std::is_same_v<T, E> && call.temperature == 1 && (n <= 1 || (z.step() == 1 && p.step() == 1));
  RowSolver<E> solver(scratch);
  if (direct) {
    call.set_tau(r, solver.run(reinterpret_cast<const E*>(from), n, call.k_of(r), call.method,
                               reinterpret_cast<E*>(to)));
    return;
  }
  E* row = scratch.row.get(n);
  for (Offset i = 0; i < n; ++i) {
    row[i] = static_cast<E>(double{widen(from[i * z.step()])} / call.temperature);
  }
  call.set_tau(r, solver.run(row, n, call.k_of(r), call.method, row));
  for (Offset i = 0; i < n; ++i) to[i * p.step()] = narrow<T>(row[i]);
}

// A temperature makes scores that float cannot hold; they are kept in double.
template <class T>
void run_rows(const SparsekCall& call, const RowsOf<const T>& z, const RowsOf<T>& p, Offset begin,
              Offset end) {
  if (std::is_same_v<T, double> || call.temperature != 1) {
    Scratch<double> scratch;
    for (Offset r = begin; r < end; ++r) run_row<T, double>(call, r, z, p, scratch);
  } else {
    Scratch<float> scratch;
    for (Offset r = begin; r < end; ++r) run_row<T, float>(call, r, z, p, scratch);
  }
}

}  // namespace

template <class T>
void sparsek(const SparsekCall& call, const RowsOf<const T>& z, const RowsOf<T>& p) {
  // Tasks of about as many scores, cut where rows end; a long row is a task for all threads.
  std::vector<Offset> starts{0};
  std::vector<Offset> long_rows;
  Offset scores = 0;
  for (Offset r = 0; r < z.rows(); ++r) {
    const Offset n = z.size(r);
    if (n > kChunk) long_rows.push_back(r);
    scores += n + 64;
    if (scores >= kGrain || n > kChunk) {
      starts.push_back(r + 1);
      scores = 0;
    }
  }
  if (starts.back() != z.rows()) starts.push_back(z.rows());
  parallel_for(static_cast<Offset>(starts.size()) - 1, [&](Offset task) {
    Offset end = starts[at(task) + 1];
    if (z.size(end - 1) > kChunk) --end;
    run_rows<T>(call, z, p, starts[at(task)], end);
  });
  for (const Offset r : long_rows) run_rows<T>(call, z, p, r, r + 1);
}

template void sparsek<float>(const SparsekCall&, const RowsOf<const float>&, const RowsOf<float>&);
template void sparsek<double>(const SparsekCall&, const RowsOf<const double>&, const RowsOf<double>&);
template void sparsek<bf16>(const SparsekCall&, const RowsOf<const bf16>&, const RowsOf<bf16>&);

}  // namespace manyhop::ops::cpu

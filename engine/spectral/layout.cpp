#include "manyhop/engine/spectral/layout.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <span>
#include <utility>

#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::spectral {
namespace {

constexpr Offset kLongRun = 8;        // columns from which two prefix sums cost less than the columns
constexpr Offset kChunkWork = 32768;  // least edges and rows of a chunk
constexpr Offset kChunkRows = 16384;  // most rows: their sums and a block of x stay in L2
// Chunks for each thread. A chunk reads all of x, block by block, so few and large ones let a line of a block
// serve many rows (a product of the diffuser pattern of 65536 vertices, 16 chunks against 256: 2.9 and 3.8
// ms). A row's sum does not depend on where chunks are cut, so they may depend on the number of threads.
constexpr Offset kChunksEach = 8;
constexpr Offset kSampledRows = 64;    // looked at for common columns ...
constexpr Offset kSampledShare = 58;   // ... which so many of them have
constexpr Offset kLeastRows = 512;     // of a graph for which that pays
constexpr Offset kMostCommon = 65536;  // columns
// Columns of a block, as a power of two, and how many of them a row must have there on average: the fewer,
// the more the visits cost, and the larger the block, the more its misses (12: 32 KiB of doubles, for L1).
// With 128 single edges a row, in single precision: 4.5, 5.6 and 6.5 ms in blocks of 13, 14 and 15 for 2^17
// vertices, 24, 26 and 28 ms for 2^19, 63, 60 and 68 ms for 2^20.
constexpr struct {
  int bits;
  double least;
} kBlocks[] = {{12, 6}, {13, 2}, {14, 1}, {15, 0}};

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

// Columns of a row in a block up to which a visit is code of its own, without a loop: 1.39 ms instead of 1.57
// a product of 65536 rows with 128 single edges, eight to a visit.
constexpr std::uint32_t kUnrolled = 32;

/// Sum over `count` columns, in four chains of additions that hide their latency.
template <std::uint32_t count, class X>
double columns_sum(const X* base, const std::uint16_t* column) {
  X sum[4] = {0, 0, 0, 0};
  for (std::uint32_t e = 0; e + 4 <= count; e += 4) {
    std::uint64_t four = 0;  // one load of four columns leaves the ports to x
    std::memcpy(&four, column + e, sizeof(four));
    for (std::uint32_t l = 0; l < 4; ++l) sum[l] += base[four >> 16 * l & 0xFFFF];
  }
  for (std::uint32_t e = count / 4 * 4; e < count; ++e) sum[e % 4] += base[column[e]];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/// Rows that have `count` columns each in a block.
template <std::uint32_t count, class X>
void visit(const X* base, const std::uint16_t* column, const std::uint16_t* row, std::uint32_t members,
           double* sums) {
  for (const std::uint16_t* last = row + members; row != last; ++row, column += count)
    sums[*row] += columns_sum<count>(base, column);
}

template <class X>
using Visit = void (*)(const X*, const std::uint16_t*, const std::uint16_t*, std::uint32_t, double*);
template <class X>
constexpr auto kVisits = []<std::size_t... count>(std::index_sequence<count...>) {
  return std::array<Visit<X>, kUnrolled>{visit<count + 1, X>...};
}(std::make_index_sequence<kUnrolled>());

}  // namespace

Layout::Layout(Graph graph) : graph_(std::move(graph)), by_runs_(graph_.implicit()) {
  const Offset n = graph_.n_rows();
  if (!by_runs_) {
    find_common();
    choose_block();
  }
  const Offset all = n + (by_runs_ ? 4 * n : graph_.nnz());
  const Offset wanted = std::max(kChunkWork, all / (kChunksEach * thread_count()));
  Offset work = 0;
  Offset begin = 0;
  for (Offset i = 0; i < n; ++i) {
    work += 1 + (by_runs_ ? 4 : graph_.degree(i));
    if (work >= wanted || i + 1 - begin == kChunkRows || i + 1 == n) {
      chunks_.emplace_back();
      chunks_.back().begin = begin;
      chunks_.back().end = begin = i + 1;
      work = 0;
    }
  }
  if (by_runs_) {
    any_runs_ = true;
    std::vector<Offset> counts(chunks_.size());
    parallel_for(static_cast<Offset>(chunks_.size()), [&](Offset c) {
      for (Offset i = chunks_[at(c)].begin; i < chunks_[at(c)].end; ++i)
        graph_.for_each_run(i, [&](Run) { ++counts[at(c)]; });
    });
    stored_ = std::accumulate(counts.begin(), counts.end(), Offset{0});
    return;
  }
  parallel_for(static_cast<Offset>(chunks_.size()), [&](Offset c) { fill(chunks_[at(c)]); });
  for (const Chunk& chunk : chunks_) {
    singles_ += static_cast<Offset>(chunk.columns.size());
    stored_ += static_cast<Offset>(chunk.columns.size() + chunk.runs.size() + chunk.less_columns.size());
    any_runs_ = any_runs_ || !chunk.runs.empty();
  }
}

void Layout::find_common() {
  const Offset n = graph_.n_rows();
  if (n < kLeastRows) return;
  std::vector<std::uint8_t> seen(at(graph_.n_cols()));
  for (Offset s = 0; s < kSampledRows; ++s)
    graph_.for_each_run((2 * s + 1) * n / (2 * kSampledRows), [&](Run run) {
      if (run.end - run.begin >= kLongRun) return;
      for (Index j = run.begin; j < run.end; ++j) ++seen[at(j)];
    });
  for (Offset j = 0; j < graph_.n_cols(); ++j)
    if (seen[at(j)] >= kSampledShare) common_.push_back(static_cast<Index>(j));
  if (static_cast<Offset>(common_.size()) > kMostCommon) common_.clear();
  if (common_.empty()) return;
  is_common_.resize(at(graph_.n_cols()));
  for (const Index j : common_) is_common_[at(j)] = 1;
}

void Layout::choose_block() {
  const Offset n = graph_.n_rows();
  Offset singles = 0;
  const Offset sampled = std::min(n, kSampledRows);
  for (Offset s = 0; s < sampled; ++s) {
    graph_.for_each_run((2 * s + 1) * n / (2 * sampled), [&](Run run) {
      if (run.end - run.begin >= kLongRun) return;
      for (Index j = run.begin; j < run.end; ++j)
        singles += is_common_.empty() || is_common_[at(j)] == 0 ? 1 : 0;
    });
  }
  const double each = static_cast<double>(singles) / static_cast<double>(std::max<Offset>(sampled, 1));
  for (const auto& [bits, least] : kBlocks) {
    block_bits_ = bits;
    if (each * static_cast<double>(Offset{1} << bits) >= least * static_cast<double>(graph_.n_cols())) break;
  }
}

void Layout::fill(Chunk& chunk) const {
  const Offset rows = chunk.end - chunk.begin;
  const Offset blocks = (graph_.n_cols() + (Offset{1} << block_bits_) - 1) >> block_bits_;
  std::vector<Index> singles;                            // row by row, increasing
  std::vector<std::size_t> ends;                         // of each row's singles
  std::vector<std::uint32_t> counts(at(blocks * rows));  // [block][row]
  chunk.common.resize(at(rows));
  std::vector<Index> held;   // common columns of a row, in runs or not
  std::vector<Index> loose;  // of those, the ones that are in runs
  for (Offset i = chunk.begin; i < chunk.end; ++i) {
    const Offset r = i - chunk.begin;
    const std::size_t first_single = singles.size();
    held.clear();
    loose.clear();
    graph_.for_each_run(i, [&](Run run) {
      const bool is_long = run.end - run.begin >= kLongRun;
      if (is_long) chunk.runs.push_back(run);
      if (common_.empty()) {
        if (!is_long)
          for (Index j = run.begin; j < run.end; ++j) singles.push_back(j);
        return;
      }
      if (is_long) {
        const auto first = std::lower_bound(common_.begin(), common_.end(), run.begin);
        for (auto j = first; j != common_.end() && *j < run.end; ++j) held.push_back(*j);
        return;
      }
      for (Index j = run.begin; j < run.end; ++j) (is_common_[at(j)] != 0 ? held : singles).push_back(j);
    });
    chunk.run_ends.push_back(static_cast<std::uint32_t>(chunk.runs.size()));
    // Runs leave the common columns out, so a row without most of them lists what it has.
    chunk.common[at(r)] = !common_.empty() && 2 * held.size() >= common_.size() ? 1 : 0;
    if (chunk.common[at(r)] == 0 && !held.empty()) {
      const auto middle = static_cast<std::ptrdiff_t>(singles.size());
      singles.insert(singles.end(), held.begin(), held.end());
      std::inplace_merge(singles.begin() + static_cast<std::ptrdiff_t>(first_single),
                         singles.begin() + middle, singles.end());
    }
    for (std::size_t e = first_single; e < singles.size(); ++e)
      ++counts[at((singles[e] >> block_bits_) * rows + r)];
    ends.push_back(singles.size());
    if (chunk.common[at(r)] == 0) continue;
    std::set_difference(common_.begin(), common_.end(), held.begin(), held.end(), std::back_inserter(loose));
    for (const Index j : loose) {
      chunk.less_rows.push_back(static_cast<Index>(r));
      chunk.less_columns.push_back(j);
    }
  }
  chunk.columns.resize(singles.size());
  chunk.order.reserve(at(rows));
  std::uint16_t* to = chunk.columns.data();
  std::vector<std::size_t> next(at(rows));  // a row's first single that no block has taken
  for (std::size_t r = 1; r < next.size(); ++r) next[r] = ends[r - 1];
  std::vector<std::uint32_t> of_size;  // rows with so many columns, then where they go
  std::vector<std::uint16_t> order;
  const Index mask = (Index{1} << block_bits_) - 1;
  for (Offset b = 0; b < blocks; ++b) {
    const std::span<const std::uint32_t> count(counts.data() + b * rows, at(rows));
    of_size.assign(1, 0);
    for (const std::uint32_t c : count) {
      if (c >= of_size.size()) of_size.resize(c + 1);
      ++of_size[c];
    }
    std::uint32_t before = 0;
    for (std::size_t c = 1; c < of_size.size(); ++c) {
      if (of_size[c] > 0) chunk.groups.push_back({of_size[c], static_cast<std::uint32_t>(c)});
      before += std::exchange(of_size[c], before);
    }
    chunk.group_ends.push_back(static_cast<std::uint32_t>(chunk.groups.size()));
    order.resize(before);
    for (std::size_t r = 0; r < count.size(); ++r)
      if (count[r] > 0) order[of_size[count[r]]++] = static_cast<std::uint16_t>(r);
    for (const std::uint16_t r : order)
      for (std::uint32_t c = 0; c < count[r]; ++c)
        *to++ = static_cast<std::uint16_t>(singles[next[r]++] & mask);
    chunk.order.insert(chunk.order.end(), order.begin(), order.end());
  }
}

Layout::Prefix Layout::prefix(const double* x, std::vector<double>& scratch) const {
  Prefix result;
  for (const Index j : common_) result.common += x[j];
  if (!any_runs_) return result;
  constexpr Offset kPiece = Offset{1} << kPieceBits;
  const Offset n = graph_.n_cols();
  const Offset pieces = n / kPiece + 1;  // run.end may be n
  scratch.resize(at(n + 1 + pieces + 1));
  double* within = scratch.data();
  double* whole = scratch.data() + n + 1;
  constexpr Offset kPiecesEach = 16;
  parallel_ranges(pieces, kPiecesEach, [&](Offset begin, Offset end) {
    for (Offset p = begin; p < end; ++p) {
      double sum = 0;
      const Offset last = std::min(n, (p + 1) * kPiece);
      for (Offset j = p * kPiece; j < last; ++j) {
        within[j] = sum;
        sum += is_common_.empty() || is_common_[at(j)] == 0 ? x[j] : 0.0;
      }
      if (p + 1 == pieces) within[n] = sum;
      whole[p + 1] = sum;
    }
  });
  whole[0] = 0;
  for (Offset p = 0; p < pieces; ++p) whole[p + 1] += whole[p];
  result.within = within;
  result.pieces = whole;
  return result;
}

void Layout::for_chunks(const std::function<void(const Chunk&)>& body) const {
  parallel_for(static_cast<Offset>(chunks_.size()), [&](Offset c) { body(chunks_[at(c)]); });
}

template <class X>
void Layout::chunk_sums(const Chunk& chunk, const double* x, const X* singles, const Prefix& prefix,
                        double* sums) const {
  const Offset rows = chunk.end - chunk.begin;
  if (by_runs_) {
    for (Offset r = 0; r < rows; ++r) {
      double sum = 0;
      graph_.for_each_run(chunk.begin + r, [&](Run run) { sum += prefix.over(run); });
      sums[r] = sum;
    }
    return;
  }
  std::uint32_t run = 0;
  for (Offset r = 0; r < rows; ++r) {
    double sum = chunk.common[at(r)] != 0 ? prefix.common : 0.0;
    for (; run < chunk.run_ends[at(r)]; ++run) sum += prefix.over(chunk.runs[run]);
    sums[r] = sum;
  }
  const std::uint16_t* column = chunk.columns.data();
  const std::uint16_t* row = chunk.order.data();
  std::size_t group = 0;
  for (std::size_t b = 0; b < chunk.group_ends.size(); ++b) {
    const X* base = singles + (static_cast<Offset>(b) << block_bits_);
    for (; group < chunk.group_ends[b]; ++group) {
      const auto [members, count] = chunk.groups[group];
      if (count <= kUnrolled) {
        kVisits<X>[count - 1](base, column, row, members, sums);
      } else {
        for (std::uint32_t k = 0; k < members; ++k) {
          const std::uint16_t* mine = column + std::size_t{k} * count;
          double sum = columns_sum<kUnrolled>(base, mine);
          for (std::uint32_t e = kUnrolled; e < count; ++e) sum += static_cast<double>(base[mine[e]]);
          sums[row[k]] += sum;
        }
      }
      row += members;
      column += std::size_t{members} * count;
    }
  }
  for (std::size_t e = 0; e < chunk.less_rows.size(); ++e)
    sums[chunk.less_rows[e]] -= x[chunk.less_columns[e]];
}

template void Layout::chunk_sums<double>(const Chunk&, const double*, const double*, const Prefix&,
                                         double*) const;
template void Layout::chunk_sums<float>(const Chunk&, const double*, const float*, const Prefix&,
                                        double*) const;

}  // namespace manyhop::spectral

#include "manyhop/engine/spectral/skyline.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>

#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::spectral {
namespace {

constexpr Offset kMaxEdges = 64'000'000;  // beyond that an envelope is not looked for

struct Envelope {
  std::vector<Index> first;
  Offset entries = 0;
  double work = 0;
};

Envelope envelope(const SymmetricOperator& op, std::span<const Index> position, Offset max_entries) {
  Envelope result;
  const Offset n = op.size();
  result.first.resize(at(n));
  std::iota(result.first.begin(), result.first.end(), Index{0});
  for (const Product& term : op.terms())
    for (Offset i = 0; i < n; ++i) {
      if ((i & 0xFFFF) == 0) check_stop();
      term.graph().for_each_run(i, [&](Run run) {
        for (Index j = run.begin; j < run.end; ++j) {
          const Index a = position[at(i)];
          const Index b = position[at(j)];
          Index& first = result.first[at(std::max(a, b))];
          first = std::min({first, a, b});
        }
      });
    }
  for (Offset i = 0; i < n; ++i) result.entries += i - result.first[at(i)] + 1;
  if (result.entries > max_entries) return result;
  for (Offset i = 0; i < n; ++i) {
    if ((i & 0xFFF) == 0) check_stop();
    for (Offset j = result.first[at(i)]; j < i; ++j)
      result.work += static_cast<double>(j - std::max(result.first[at(i)], result.first[at(j)]) + 1);
  }
  return result;
}

/// Reverse Cuthill-McKee: breadth-first by increasing degree from an end of each component, reversed.
std::vector<Index> reverse_cuthill_mckee(const SymmetricOperator& op) {
  const Offset n = op.size();
  std::vector<Offset> degree(at(n));
  for (const Product& term : op.terms())
    for (Offset i = 0; i < n; ++i) degree[at(i)] += term.graph().degree(i);
  std::vector<Index> order;
  order.reserve(at(n));
  std::vector<char> seen(at(n));
  std::vector<Index> found;
  // Appends the component of `root` in breadth-first order.
  const auto walk = [&](Index root) {
    const std::size_t begin = order.size();
    order.push_back(root);
    seen[at(root)] = 1;
    for (std::size_t head = begin; head < order.size(); ++head) {
      if ((head & 0xFFFF) == 0) check_stop();
      found.clear();
      for (const Product& term : op.terms())
        term.graph().for_each_run(order[head], [&](Run run) {
          for (Index j = run.begin; j < run.end; ++j)
            if (!seen[at(j)]) {
              seen[at(j)] = 1;
              found.push_back(j);
            }
        });
      std::sort(found.begin(), found.end(),
                [&](Index a, Index b) { return std::pair(degree[at(a)], a) < std::pair(degree[at(b)], b); });
      order.insert(order.end(), found.begin(), found.end());
    }
  };
  for (Offset start = 0; start < n; ++start) {
    if (seen[at(start)]) continue;
    auto root = static_cast<Index>(start);
    const std::size_t begin = order.size();
    for (int sweep = 0; sweep < 3; ++sweep) {  // the last vertex of a walk is nearly an end
      if (sweep > 0) {
        root = order.back();
        for (std::size_t k = begin; k < order.size(); ++k) seen[at(order[k])] = 0;
        order.resize(begin);
      }
      walk(root);
    }
  }
  std::reverse(order.begin(), order.end());
  return order;
}

std::vector<Index> inverse(std::span<const Index> order) {
  std::vector<Index> position(order.size());
  for (std::size_t k = 0; k < order.size(); ++k) position[at(order[k])] = static_cast<Index>(k);
  return position;
}

}  // namespace

std::optional<Skyline> Skyline::plan(const SymmetricOperator& op, Offset max_entries, double max_work) {
  Offset edges = 0;
  for (const Product& term : op.terms()) edges += term.graph().nnz();
  if (edges > std::min(kMaxEdges, 2 * max_entries)) return std::nullopt;
  const auto fits = [&](const Envelope& e) { return e.entries <= max_entries && e.work <= max_work; };

  Skyline result;
  result.order_.resize(at(op.size()));
  std::iota(result.order_.begin(), result.order_.end(), Index{0});
  Envelope best = envelope(op, result.order_, max_entries);
  if (!fits(best) || best.work > 50.0 * static_cast<double>(edges)) {
    auto order = reverse_cuthill_mckee(op);
    Envelope other = envelope(op, inverse(order), max_entries);
    if (fits(other) && (!fits(best) || other.work < best.work)) {
      best = std::move(other);
      result.order_ = std::move(order);
    }
  }
  if (!fits(best)) return std::nullopt;
  result.work_ = best.work;
  result.position_ = inverse(result.order_);
  result.first_ = std::move(best.first);
  result.starts_.assign(1, 0);
  for (Offset i = 0; i < op.size(); ++i)
    result.starts_.push_back(result.starts_.back() + i - result.first_[at(i)] + 1);
  return result;
}

bool Skyline::factor(const SymmetricOperator& op, double sign, double sigma) {
  const Offset n = op.size();
  values_.assign(at(entries()), 0.0);
  const double factor = sign / static_cast<double>(op.terms().size());
  for (const Product& term : op.terms())
    for (Offset i = 0; i < n; ++i) {
      if ((i & 0xFFFF) == 0) check_stop();
      const Offset a = position_[at(i)];
      term.for_each(i, [&](Index j, double value) {
        const Offset b = position_[at(j)];
        if (b <= a) values_[at(starts_[at(a)] + b - first_[at(a)])] += factor * value;
      });
    }
  for (Offset i = 0; i < n; ++i) {
    if ((i & 0xFF) == 0) check_stop();
    double* row = values_.data() + starts_[at(i)];
    const Offset begin = first_[at(i)];
    for (Offset j = begin; j < i; ++j) {
      const Offset from = std::max(begin, Offset{first_[at(j)]});
      const double* other = values_.data() + starts_[at(j)];
      const auto length = at(j - from);
      const double sum = dot({row + (from - begin), length}, {other + (from - first_[at(j)]), length});
      row[j - begin] = (row[j - begin] - sum) / other[j - first_[at(j)]];
    }
    const double pivot = row[i - begin] - sign * sigma - dot({row, at(i - begin)}, {row, at(i - begin)});
    if (!(pivot > 0)) return false;
    row[i - begin] = std::sqrt(pivot);
  }
  return true;
}

void Skyline::solve(const double* x, double* y) const {
  const auto n = static_cast<Offset>(order_.size());
  std::vector<double> z(at(n));
  for (Offset i = 0; i < n; ++i) {
    const double* row = values_.data() + starts_[at(i)];
    const auto length = at(i - first_[at(i)]);
    const double sum = dot({row, length}, {z.data() + first_[at(i)], length});
    z[at(i)] = (x[order_[at(i)]] - sum) / row[length];
  }
  for (Offset i = n - 1; i >= 0; --i) {
    const double* row = values_.data() + starts_[at(i)];
    const auto length = at(i - first_[at(i)]);
    const double value = z[at(i)] / row[length];
    z[at(i)] = value;
    double* below = z.data() + first_[at(i)];
    for (std::size_t k = 0; k < length; ++k) below[k] -= value * row[k];
    y[order_[at(i)]] = value;
  }
}

}  // namespace manyhop::spectral

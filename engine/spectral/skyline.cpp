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

/// An upper bound of the work: row i meets each row of its envelope over at most the length of either.
Envelope measured(std::vector<Index> first) {
  Envelope result;
  const auto n = static_cast<Offset>(first.size());
  result.first = std::move(first);
  std::vector<Offset> before(at(n) + 1);  // entries of the rows before
  for (Offset i = 0; i < n; ++i) {
    const Offset from = result.first[at(i)];
    const Offset length = i - from + 1;
    result.entries += length;
    before[at(i) + 1] = result.entries;
    result.work += std::min(0.5 * static_cast<double>(length) * static_cast<double>(length),
                            static_cast<double>(before[at(i)] - before[at(from)]));
  }
  return result;
}

Envelope envelope(const SymmetricOperator& op, std::span<const Index> position) {
  const Offset n = op.size();
  std::vector<Index> first(at(n));
  std::iota(first.begin(), first.end(), Index{0});
  for (const Product& term : op.terms())
    for (Offset i = 0; i < n; ++i) {
      if ((i & 0xFFFF) == 0) check_stop();
      term.graph().for_each_run(i, [&](Run run) {
        for (Index j = run.begin; j < run.end; ++j) {
          const Index a = position[at(i)];
          const Index b = position[at(j)];
          Index& least = first[at(std::max(a, b))];
          least = std::min({least, a, b});
        }
      });
    }
  return measured(std::move(first));
}

/// Widest level of a breadth-first search from the vertex that another one ends at: about the bandwidth that
/// the order below can reach. Past `limit` (the first search: four times that) the rest is not looked at.
Offset widest_level(const SymmetricOperator& op, Offset limit) {
  const Offset n = op.size();
  std::vector<Index> queue;
  Offset widest = 0;
  Index root = 0;
  for (int sweep = 0; sweep < 2; ++sweep) {
    std::vector<char> seen(at(n));
    widest = 0;
    queue.assign(1, root);
    seen[at(root)] = 1;
    for (std::size_t begin = 0; begin < queue.size();) {
      check_stop();
      const std::size_t end = queue.size();
      widest = std::max(widest, static_cast<Offset>(end - begin));
      if (widest > (sweep == 0 ? 4 * limit : limit)) return widest;
      for (; begin < end; ++begin)
        for (const Product& term : op.terms())
          term.graph().for_each_run(queue[begin], [&](Run run) {
            for (Index j = run.begin; j < run.end; ++j)
              if (!seen[at(j)]) {
                seen[at(j)] = 1;
                queue.push_back(j);
              }
          });
    }
    root = queue.back();
  }
  return widest;
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

void Skyline::take(std::vector<Index> order, std::vector<Index> first, double work) {
  order_ = std::move(order);
  position_ = inverse(order_);
  first_ = std::move(first);
  work_ = work;
  starts_.assign(1, 0);
  for (std::size_t i = 0; i < first_.size(); ++i)
    starts_.push_back(starts_.back() + static_cast<Offset>(i) - first_[i] + 1);
}

std::optional<Skyline> Skyline::natural(const SymmetricOperator& op, Offset max_entries, double max_work) {
  const Offset n = op.size();
  std::vector<Index> order(at(n));
  std::iota(order.begin(), order.end(), Index{0});
  std::vector<Index> first = order;
  Offset entries = 0;
  for (Offset i = 0; i < n; ++i) {
    if ((i & 0xFFFF) == 0) check_stop();
    const Graph& graph = op.terms().front().graph();
    if (op.terms().size() == 1 && !graph.implicit()) {  // symmetric: the row's first column is all there is
      const auto row = graph.row(i);
      if (!row.empty()) first[at(i)] = std::min(first[at(i)], row.front());
      entries += i - first[at(i)] + 1;
      if (entries > max_entries) return std::nullopt;
      continue;
    }
    for (const Product& term : op.terms())
      term.graph().for_each_run(i, [&](Run run) {
        first[at(i)] = std::min(first[at(i)], run.begin);
        // The transpose: later rows of a column that this row holds begin here or before.
        for (Offset j = std::max(Offset{run.begin}, i + 1); op.terms().size() > 1 && j < run.end; ++j)
          first[at(j)] = std::min(first[at(j)], static_cast<Index>(i));
      });
    entries += i - first[at(i)] + 1;
    if (entries > max_entries) return std::nullopt;
  }
  Envelope found = measured(std::move(first));
  if (found.entries > max_entries || found.work > max_work) return std::nullopt;
  Skyline result;
  result.take(std::move(order), std::move(found.first), found.work);
  return result;
}

std::optional<Skyline> Skyline::plan(const SymmetricOperator& op, Offset max_entries, double max_work) {
  Offset edges = 0;
  for (const Product& term : op.terms()) edges += term.graph().nnz();
  if (edges > std::min(kMaxEdges, 2 * max_entries)) return std::nullopt;
  if (auto found = natural(op, max_entries, std::min(max_work, 50.0 * static_cast<double>(edges))))
    return found;
  const double limit = std::max(64.0, std::sqrt(64 * max_work / static_cast<double>(op.size())));
  if (static_cast<double>(widest_level(op, static_cast<Offset>(limit))) > limit) {
    // Levels may be narrow elsewhere, but not by so much.
    return natural(op, max_entries, max_work);
  }
  auto order = reverse_cuthill_mckee(op);
  Envelope found = envelope(op, inverse(order));
  if (found.entries > max_entries || found.work > max_work) return natural(op, max_entries, max_work);
  Skyline result;
  result.take(std::move(order), std::move(found.first), found.work);
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

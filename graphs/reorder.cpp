#include "manyhop/graphs/reorder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop {

namespace {

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

Graph without_hubs(const Graph& graph, const std::vector<bool>& hub) {
  const Offset n = graph.n_rows();
  std::vector<Offset> indptr(at(n) + 1, 0);
  std::vector<Index> indices;
  for (Offset i = 0; i < n; ++i) {
    if (!hub[at(i)]) {
      graph.for_each_run(i, [&](Run run) {
        for (Index j = run.begin; j < run.end; ++j) {
          if (!hub[static_cast<std::size_t>(j)]) indices.push_back(j);
        }
      });
    }
    indptr[at(i) + 1] = static_cast<Offset>(indices.size());
  }
  return Graph::from_csr(n, n, std::move(indptr), std::move(indices));
}

std::vector<Index> by_degree(const Graph& graph) {
  std::vector<Index> order(at(graph.n_rows()));
  std::iota(order.begin(), order.end(), Index{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](Index a, Index b) { return graph.degree(a) > graph.degree(b); });
  return order;
}

// Breadth-first levels over edges of either direction; appends the vertices as they are met, those of lower
// degree first.
class CuthillMcKee {
 public:
  explicit CuthillMcKee(const Graph& rows)
      : rows_(rows), columns_(rows.transpose()), seen_(at(rows.n_rows()), 0) {}

  /// Levels from some vertex of lowest degree and back: about n / band where there is a band.
  std::size_t depth(const std::vector<bool>& hub) {
    Index start = -1;
    for (Index i = 0; i < static_cast<Index>(seen_.size()); ++i) {
      if (!hub[static_cast<std::size_t>(i)] && (start < 0 || degree(i) < degree(start))) start = i;
    }
    if (start < 0) return 0;
    std::vector<Index> met;
    search(start, ++stamp_, met);
    const Index last = met.back();
    met.clear();
    return search(last, ++stamp_, met);
  }

  void run(const std::vector<bool>& hub, std::vector<Index>& order) {
    const auto n = static_cast<Index>(seen_.size());
    std::vector<Index> starts;
    for (Index i = 0; i < n; ++i) {
      if (!hub[static_cast<std::size_t>(i)]) starts.push_back(i);
    }
    std::stable_sort(starts.begin(), starts.end(), [&](Index a, Index b) { return degree(a) < degree(b); });
    constexpr int kDone = -1;
    for (const Index start : starts) {
      if (seen_[static_cast<std::size_t>(start)] == kDone) continue;
      // From an end of a longest path that a few sweeps find: the last vertex met.
      Index from = start;
      std::size_t depth = 0;
      for (int sweep = 0; sweep < 4; ++sweep) {
        std::vector<Index> met;
        const std::size_t levels = search(from, ++stamp_, met);
        if (levels <= depth) break;
        depth = levels;
        from = met.back();
      }
      const std::size_t first = order.size();
      search(from, ++stamp_, order);
      for (std::size_t i = first; i < order.size(); ++i) seen_[static_cast<std::size_t>(order[i])] = kDone;
    }
    std::reverse(order.begin(), order.end());
  }

 private:
  Offset degree(Index i) const { return rows_.degree(i) + columns_.degree(i); }

  std::size_t search(Index start, int stamp, std::vector<Index>& met) {
    std::size_t level = met.size();
    std::size_t levels = 0;
    const auto visit = [&](Index j) {
      int& mark = seen_[static_cast<std::size_t>(j)];
      if (mark == stamp) return;
      mark = stamp;
      met.push_back(j);
    };
    visit(start);
    while (level < met.size()) {
      ++levels;
      const std::size_t end = met.size();
      for (; level < end; ++level) {
        const std::size_t first = met.size();
        const Index i = met[level];
        for (const Index j : rows_.row(i)) visit(j);
        for (const Index j : columns_.row(i)) visit(j);
        std::stable_sort(met.begin() + static_cast<std::ptrdiff_t>(first), met.end(),
                         [&](Index a, Index b) { return degree(a) < degree(b); });
      }
    }
    return levels;
  }

  const Graph& rows_;
  const Graph& columns_;
  std::vector<int> seen_;
  int stamp_ = 0;
};

// Around a seed row the 31 rows that have most of its columns; the next seed is the best of those left, so
// that groups which share columns follow one another.
void cluster(const Graph& rows, const std::vector<bool>& hub, std::vector<Index>& order) {
  constexpr Offset kLongest = 2048;  // a column of more rows tells little and costs much
  const Graph& columns = rows.transpose();
  const auto n = static_cast<Index>(rows.n_rows());
  std::vector<bool> done(hub);
  std::vector<Index> shared(static_cast<std::size_t>(n), 0);
  std::vector<Index> met;
  Index lowest = 0;
  Index next = -1;
  for (;;) {
    check_stop();
    while (lowest < n && done[static_cast<std::size_t>(lowest)]) ++lowest;
    if (lowest == n) return;
    const Index seed = next >= 0 ? std::exchange(next, -1) : lowest;
    met.clear();
    for (const Index column : rows.row(seed)) {
      if (columns.degree(column) > kLongest) continue;
      for (const Index row : columns.row(column)) {
        if (done[static_cast<std::size_t>(row)]) continue;
        if (shared[static_cast<std::size_t>(row)]++ == 0) met.push_back(row);
      }
    }
    if (shared[static_cast<std::size_t>(seed)] == 0) met.push_back(seed);
    shared[static_cast<std::size_t>(seed)] = n;  // the seed itself comes first
    const std::size_t most = std::min<std::size_t>(met.size(), kPanelRows + 1);
    std::partial_sort(met.begin(), met.begin() + static_cast<std::ptrdiff_t>(most), met.end(),
                      [&](Index a, Index b) {
                        const Index x = shared[static_cast<std::size_t>(a)];
                        const Index y = shared[static_cast<std::size_t>(b)];
                        return x != y ? x > y : a < b;
                      });
    for (const Index row : met) shared[static_cast<std::size_t>(row)] = 0;
    const std::size_t group = std::min<std::size_t>(most, kPanelRows);
    std::sort(met.begin(), met.begin() + static_cast<std::ptrdiff_t>(group));
    for (std::size_t i = 0; i < group; ++i) {
      order.push_back(met[i]);
      done[static_cast<std::size_t>(met[i])] = true;
    }
    if (most > group) next = met[group];
  }
}

// A graph without its global tokens, and what may be found in it.
class Search {
 public:
  explicit Search(const Graph& graph) : hub_(at(graph.n_rows())) {
    for (Offset i = 0; i < graph.n_rows(); ++i) {
      hub_[at(i)] = graph.degree(i) * 2 >= graph.n_cols() && graph.degree(i) > kPanelRows;
      if (hub_[at(i)]) hubs_.push_back(static_cast<Index>(i));
    }
    rows_ = without_hubs(graph, hub_);
  }

  std::vector<Index> order(Reorder kind) const {
    std::vector<Index> order;
    order.reserve(hub_.size());
    if (kind == Reorder::rcm) {
      CuthillMcKee(rows_).run(hub_, order);
    } else {
      cluster(rows_, hub_, order);
    }
    order.insert(order.begin(), hubs_.begin(), hubs_.end());
    return order;
  }

  /// A band has about n / depth vertices on a level and edges to two more levels; levels much wider than rows
  /// are long belong to a graph that mixes, and no order gives it a band.
  bool may_have_band() const {
    constexpr double kWide = 8;
    const auto depth = static_cast<double>(CuthillMcKee(rows_).depth(hub_));
    const auto n = static_cast<double>(hub_.size());
    return n * n < kWide * depth * static_cast<double>(std::max(rows_.nnz(), rows_.n_rows()));
  }

  /// Rows of very unequal length.
  bool skewed() const {
    return static_cast<double>(degrees(rows_).max) * static_cast<double>(rows_.n_rows()) >
           4 * static_cast<double>(rows_.nnz());
  }

 private:
  std::vector<bool> hub_;
  std::vector<Index> hubs_;
  Graph rows_;
};

void require_square(const Graph& graph) {
  if (graph.square()) return;
  throw ValueError(
      fmt::format("reorder: the graph is {} x {}, a square one is wanted", graph.n_rows(), graph.n_cols()));
}

Reordered apply(const Graph& graph, std::vector<Index> order, Reorder kind) {
  const Offset n = graph.n_rows();
  std::vector<Index> place(at(n));
  for (Offset i = 0; i < n; ++i) place[static_cast<std::size_t>(order[at(i)])] = static_cast<Index>(i);
  std::vector<Offset> indptr(at(n) + 1, 0);
  for (Offset i = 0; i < n; ++i) indptr[at(i) + 1] = indptr[at(i)] + graph.degree(order[at(i)]);
  std::vector<Index> indices(at(graph.nnz()));
  std::vector<Offset> edges(at(graph.nnz()));
  parallel_ranges(n, 64, [&](Offset begin, Offset end) {
    std::vector<std::uint64_t> keys;  // new column, place in the old row
    for (Offset i = begin; i < end; ++i) {
      keys.clear();
      graph.for_each_run(order[at(i)], [&](Run run) {
        for (Index j = run.begin; j < run.end; ++j) {
          keys.push_back(static_cast<std::uint64_t>(place[static_cast<std::size_t>(j)]) << 32 | keys.size());
        }
      });
      std::sort(keys.begin(), keys.end());
      const Offset old = graph.indptr()[static_cast<std::size_t>(order[at(i)])];
      for (std::size_t e = 0; e < keys.size(); ++e) {
        const std::size_t to = at(indptr[at(i)]) + e;
        indices[to] = static_cast<Index>(keys[e] >> 32);
        edges[to] = old + static_cast<Offset>(keys[e] & 0xFFFFFFFFU);
      }
    }
  });
  Reordered result;
  result.kind = kind;
  result.graph = Graph::from_csr(n, n, std::move(indptr), std::move(indices));
  result.order = std::move(order);
  result.edges = std::move(edges);
  result.tiling = make_tiling(result.graph);
  return result;
}

}  // namespace

std::string_view name_of(Reorder reorder) {
  constexpr std::array<std::string_view, 5> kNames{"none", "degree", "rcm", "cluster", "auto"};
  return kNames[static_cast<std::size_t>(reorder)];
}

std::size_t Reordered::bytes() const {
  return order.empty() ? 0 : graph.bytes() + order.size() * sizeof(Index) + edges.size() * sizeof(Offset);
}

double tile_cost(const Tiling& tiling) {
  return static_cast<double>(tiling.dense_edges + tiling.padding) +
         static_cast<double>(tiling.irregular_edges) * kPanelRows / kEdgesOfColumn;
}

std::vector<Index> vertex_order(const Graph& graph, Reorder kind) {
  require_square(graph);
  switch (kind) {
    case Reorder::degree:
      return by_degree(graph);
    case Reorder::rcm:
    case Reorder::cluster:
      return Search(graph).order(kind);
    case Reorder::automatic:
      if (std::vector<Index> order = reorder(graph, kind).order; !order.empty()) return order;
      break;
    case Reorder::none:
      break;
  }
  std::vector<Index> order(at(graph.n_rows()));
  std::iota(order.begin(), order.end(), Index{0});
  return order;
}

Reordered reorder(const Graph& graph, Reorder kind) {
  require_square(graph);
  if (kind != Reorder::none && kind != Reorder::automatic)
    return apply(graph, vertex_order(graph, kind), kind);
  Reordered best;
  best.graph = graph;
  best.tiling = make_tiling(graph);
  constexpr double kWorth = 0.1;  // what an order must save, and single edges cost, to be worth it
  const auto worth = [&] {
    const Tiling& tiling = best.tiling;
    const double single = tile_cost(tiling) - static_cast<double>(tiling.dense_edges + tiling.padding);
    return single > kWorth * tile_cost(tiling);
  };
  if (kind == Reorder::none || graph.implicit() || !worth()) return best;
  const auto attempt = [&](std::vector<Index> order, Reorder tried) {
    Reordered candidate = apply(graph, std::move(order), tried);
    if (tile_cost(candidate.tiling) < tile_cost(best.tiling) * (1 - kWorth)) best = std::move(candidate);
  };
  const Search search(graph);
  attempt(search.order(Reorder::cluster), Reorder::cluster);
  if (worth() && search.may_have_band()) attempt(search.order(Reorder::rcm), Reorder::rcm);
  if (worth() && search.skewed()) attempt(by_degree(graph), Reorder::degree);
  return best;
}

}  // namespace manyhop

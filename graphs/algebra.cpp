// Set algebra and whole-graph facts, all on runs: an implicit graph is never written out.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <numeric>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/memory.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/runs.hpp"

namespace manyhop {

namespace {

constexpr Offset kRowGrain = 1024;

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

void read_row(const Graph& graph, Offset i, RunList& out) {
  out.clear();
  graph.for_each_run(i, [&](Run run) { out.push_back(run); });
}

using Combine = void (*)(std::span<const Run>, std::span<const Run>, RunList&);

Graph combine(const char* name, const Graph& a, const Graph& b, Combine op) {
  if (a.n_rows() != b.n_rows() || a.n_cols() != b.n_cols()) {
    throw ValueError(fmt::format("{}: left graph is {} x {}, right graph is {} x {}, equal sizes wanted",
                                 name, a.n_rows(), a.n_cols(), b.n_rows(), b.n_cols()));
  }
  return build_rows(a.n_rows(), a.n_cols(), [&](Offset i, RunList& out) {
    RunList left;
    RunList right;
    read_row(a, i, left);
    read_row(b, i, right);
    op(left, right, out);
  });
}

}  // namespace

Graph unite(const Graph& a, const Graph& b) {
  return combine("unite", a, b, [](auto l, auto r, RunList& o) { unite(l, r, o); });
}
Graph intersect(const Graph& a, const Graph& b) {
  return combine("intersect", a, b, [](auto l, auto r, RunList& o) { intersect(l, r, o); });
}
Graph subtract(const Graph& a, const Graph& b) {
  return combine("subtract", a, b, [](auto l, auto r, RunList& o) { subtract(l, r, o); });
}

Graph symmetrised(const Graph& a) {
  if (!a.square()) {
    throw ValueError(
        fmt::format("sym: the graph is {} x {}, a square one is wanted", a.n_rows(), a.n_cols()));
  }
  if (a.implicit()) return unite(a, a.transpose());
  // Edges that are written out are merged as they are; columns drawn at random leave nothing to predict, so
  // both steps are additions, and a run that both rows have (a window, a hub's row) goes eight at a time.
  // Rows are counted, then written where they belong: twice the steps, but a copy of all edges less (65536
  // rows of the diffuser pattern: 62 ms against 140).
  const Graph& mirrored = a.transpose();
  const auto merge = [&](Offset i, auto&& one, auto&& eight) {
    const auto left = a.row(i);
    const auto right = mirrored.row(i);
    std::size_t l = 0, r = 0;
    Offset k = 0;
    const auto step = [&] {
      const Index x = left[l], y = right[r];
      one(k++, std::min(x, y));
      l += static_cast<std::size_t>(x <= y);
      r += static_cast<std::size_t>(y <= x);
    };
    while (l + 8 <= left.size() && r + 8 <= right.size()) {
      const Index x = left[l];
      if (right[r] == x && left[l + 7] == x + 7 && right[r + 7] == x + 7) {
        eight(k, x);
        k += 8;
        l += 8;
        r += 8;
      } else {
        for (int s = 0; s < 8; ++s) step();
      }
    }
    while (l < left.size() && r < right.size()) step();
    for (; l < left.size(); ++l) one(k++, left[l]);
    for (; r < right.size(); ++r) one(k++, right[r]);
    return k;
  };
  std::vector<Offset> indptr(at(a.n_rows()) + 1);
  parallel_ranges(a.n_rows(), kRowGrain, [&](Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i)
      indptr[at(i) + 1] = merge(
          i, [](Offset, Index) {}, [](Offset, Index) {});
  });
  std::partial_sum(indptr.begin(), indptr.end(), indptr.begin());
  std::vector<Index> indices;
  resize_large(indices, at(indptr.back()));
  parallel_ranges(a.n_rows(), kRowGrain, [&](Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i) {
      Index* out = indices.data() + indptr[at(i)];
      merge(
          i, [out](Offset k, Index column) { out[k] = column; },
          [out](Offset k, Index first) {
            for (Index e = 0; e < 8; ++e) out[k + e] = first + e;
          });
    }
  });
  return Graph::from_csr(a.n_rows(), a.n_cols(), std::move(indptr), std::move(indices));
}

DegreeSummary degrees(const Graph& graph) {
  DegreeSummary summary;
  if (graph.n_rows() == 0) return summary;
  summary.min = graph.degree(0);
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    summary.min = std::min(summary.min, graph.degree(i));
    summary.max = std::max(summary.max, graph.degree(i));
  }
  summary.mean = static_cast<double>(graph.nnz()) / static_cast<double>(graph.n_rows());
  return summary;
}

Offset self_loop_count(const Graph& graph) {
  std::atomic<Offset> loops{0};
  parallel_ranges(graph.n_rows(), kRowGrain, [&](Offset begin, Offset end) {
    Offset found = 0;
    for (Offset i = begin; i < end; ++i) {
      graph.for_each_run(i, [&](Run run) { found += run.begin <= i && i < run.end ? 1 : 0; });
    }
    loops += found;
  });
  return loops;
}

bool is_symmetric(const Graph& graph) {
  if (!graph.square()) return false;
  if (graph.implicit()) return graph.same_edges(graph.transpose());
  // Rows are visited in order, so the mirrors of what they hold come in order too: a place in each row says
  // which edge is next, and the first that is another ends the search. Chunks of rows look their places up.
  // A search for each mirror took ten times as long (64 edges a row).
  const Offset n = graph.n_rows();
  const auto indptr = graph.indptr();
  const auto columns = graph.indices();
  constexpr Offset kMostChunks = 16;
  const Offset chunks = std::clamp<Offset>(graph.nnz() / (16 * n + 1), 1, kMostChunks);
  std::atomic<bool> mirrored{true};
  // A graph that is not symmetric shows it in nearly every row: a look at a few saves the places of all.
  constexpr Offset kLooks = 16;
  for (Offset look = 0; look < std::min(n, kLooks); ++look) {
    const Offset i = look * n / std::min(n, kLooks);
    for (const Index j : graph.row(i)) {
      const auto row = graph.row(j);
      if (!std::binary_search(row.begin(), row.end(), static_cast<Index>(i))) return false;
    }
  }
  parallel_for(chunks, [&](Offset c) {
    const Offset begin = c * n / chunks, end = (c + 1) * n / chunks;
    std::vector<Offset> next(indptr.begin(), indptr.end());
    if (begin > 0) {
      for (Offset j = 0; j < n; ++j) {
        const auto row = graph.row(j);
        next[at(j)] += std::lower_bound(row.begin(), row.end(), static_cast<Index>(begin)) - row.begin();
      }
    }
    for (Offset i = begin; i < end; ++i) {
      if (i % kRowGrain == 0) check_stop();
      if (!mirrored.load(std::memory_order_relaxed)) return;
      for (Offset e = indptr[at(i)]; e < indptr[at(i) + 1]; ++e) {
        const Index j = columns[at(e)];
        const Offset place = next[at(j)]++;
        if (place == indptr[at(j) + 1] || columns[at(place)] != i) {
          mirrored = false;
          return;
        }
      }
    }
  });
  return mirrored;
}

Components components(const Graph& graph) {
  // Union-find over vertices. A run makes one component of its columns; neighbouring columns c and c + 1 are
  // joined at most once, and `last` (a second union-find) skips to the end of what is joined already.
  const Offset rows = graph.n_rows();
  const Offset shift = graph.square() ? 0 : rows;
  const Offset total = graph.square() ? rows : rows + graph.n_cols();
  if (total > kMaxVertices) {
    throw ValueError(fmt::format("components: {} rows and {} columns together exceed {} vertices", rows,
                                 graph.n_cols(), kMaxVertices));
  }
  const auto find = [](std::vector<Index>& parent, Index v) {
    while (parent[at(v)] != v) {
      parent[at(v)] = parent[at(parent[at(v)])];
      v = parent[at(v)];
    }
    return v;
  };
  std::vector<Index> parent(at(total));
  std::iota(parent.begin(), parent.end(), Index{0});
  Offset joins = 0;
  const auto join = [&](Offset v, Offset w) {
    const Index a = find(parent, static_cast<Index>(v));
    const Index b = find(parent, static_cast<Index>(w));
    if (a == b) return;
    parent[at(std::max(a, b))] = std::min(a, b);
    ++joins;
  };
  // Mostly the ends of rows join everything.
  if (!graph.implicit() && total > 1) {
    for (Offset i = 0; i < rows && joins + 1 < total; ++i) {
      const auto row = graph.row(i);
      if (row.empty()) continue;
      join(i, row.front() + shift);
      join(i, row.back() + shift);
      join(i, row[row.size() / 2] + shift);
    }
    if (joins + 1 == total) {
      Components one;
      one.count = 1;
      one.label.assign(at(total), 0);
      return one;
    }
  }
  std::vector<Index> last(at(graph.n_cols()));
  std::iota(last.begin(), last.end(), Index{0});
  std::vector<char> touched(at(total));
  for (Offset i = 0; i < rows; ++i) {
    if (i % kRowGrain == 0) check_stop();
    graph.for_each_run(i, [&](Run run) {
      if (shift == 0 && run.begin == i && run.end == i + 1) return;  // a loop joins nothing
      touched[at(i)] = 1;
      touched[at(run.begin + shift)] = 1;
      join(i, run.begin + shift);
      for (Index c = find(last, run.begin); c + 1 < run.end; c = find(last, c)) {
        join(c + shift, c + 1 + shift);
        touched[at(c + shift)] = 1;
        touched[at(c + 1 + shift)] = 1;
        last[at(c)] = c + 1;
      }
    });
  }
  Components result;
  result.label.assign(at(total), -1);
  for (Offset v = 0; v < total; ++v) {
    const Index root = find(parent, static_cast<Index>(v));
    if (root == v)
      result.label[at(v)] = static_cast<Index>(result.count++);
    else
      result.label[at(v)] = result.label[at(root)];
    if (!touched[at(v)]) ++result.isolated;
  }
  return result;
}

}  // namespace manyhop

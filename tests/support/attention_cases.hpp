// Graphs and cases that tests of attention draw from.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include "tests/support/attention_run.hpp"

namespace manyhop::test {

inline constexpr Backend kBackends[] = {Backend::reference, Backend::cpu};

inline Context on(Backend backend, int threads = 1) {
  Context ctx;
  ctx.backend = backend;
  ctx.threads = threads;
  return ctx;
}

inline Graph runs_graph(Offset n, Offset n_cols, const std::function<Run(Offset)>& row) {
  std::vector<Offset> indptr{0};
  std::vector<Run> runs;
  for (Offset i = 0; i < n; ++i) {
    const Run run = row(i);
    if (run.end > run.begin) runs.push_back(run);
    indptr.push_back(static_cast<Offset>(runs.size()));
  }
  return Graph::from_runs(n, n_cols, indptr, runs);
}

inline Graph full_graph(Offset n, Offset n_cols) {
  return runs_graph(n, n_cols, [&](Offset) { return Run{0, static_cast<Index>(n_cols)}; });
}
inline Graph causal_graph(Offset n) {
  return runs_graph(n, n, [&](Offset i) { return Run{0, static_cast<Index>(i + 1)}; });
}
inline Graph window_graph(Offset n, Offset r) {
  return runs_graph(n, n, [&](Offset i) {
    return Run{static_cast<Index>(std::max<Offset>(0, i - r)), static_cast<Index>(std::min(n, i + r + 1))};
  });
}

// Structures that tilings treat differently: runs, hubs, blocks, scattered edges, empty rows.
inline Graph some_graph(Offset n, std::uint64_t seed) {
  switch (seed % 10) {
    case 0:
      return random_graph(n, n, 0.05, seed);
    case 1:
      return window_graph(n, 9);
    case 2:
      return unite(window_graph(n, 5), random_graph(n, n, 0.02, seed));
    case 3:
      return n < 260 ? full_graph(n, n) : window_graph(n, 40);
    case 4:
      return n < 260 ? causal_graph(n) : intersect(causal_graph(n), window_graph(n, 64));
    case 5:
      return n > 1 ? unite(star_graph(n), random_graph(n, n, 0.01, seed)) : empty_graph(n, n);
    case 6:  // blocks of 32
      return runs_graph(n, n, [&](Offset i) {
        return Run{static_cast<Index>(i / 32 * 32), static_cast<Index>(std::min(n, i / 32 * 32 + 32))};
      });
    case 7:  // every third row is empty, others skip near columns
      return intersect(random_graph(n, n, 0.1, seed), subtract(full_graph(n, n), window_graph(n, 3)));
    case 8:
      return empty_graph(n, n);
    default:
      return subtract(window_graph(n, 30), window_graph(n, 10));
  }
}

/// Values that T can hold, scaled so that the largest score is near `largest`.
template <class T>
AttentionCase some_case(Graph graph, Offset batch, Offset heads, Offset kv_heads, Offset d, Offset d_v,
                        std::uint64_t seed, double largest) {
  AttentionCase c;
  c.graphs = {std::move(graph)};
  c.batch = batch;
  c.heads = heads;
  c.kv_heads = kv_heads;
  c.d = d;
  c.d_v = d_v;
  c.q = doubles(random_values<T>(batch * heads * c.rows() * d, seed));
  c.k = doubles(random_values<T>(batch * kv_heads * c.cols() * d, seed + 1));
  c.v = doubles(random_values<T>(batch * kv_heads * c.cols() * d_v, seed + 2));
  double most = 1e-3;
  const Offset n = c.rows() * c.cols() > 0 ? 2000 : 0;
  for (Offset s = 0; s < n; ++s) {
    double dot = 0;
    for (Offset x = 0; x < d; ++x) {
      dot += c.q[static_cast<std::size_t>(s % c.rows() * d + x)] *
             c.k[static_cast<std::size_t>(s * 7 % c.cols() * d + x)];
    }
    most = std::max(most, std::abs(dot));
  }
  c.scale = largest / most;
  return c;
}

}  // namespace manyhop::test

// Personalised PageRank of single vertices by forward push (Andersen, Chung, Lang: Local graph partitioning
// using PageRank vectors, FOCS 2006): only what the mass of a seed reaches is touched, whatever the size of
// the graph.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "manyhop/engine/diffusion.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/ops/context.hpp"

namespace manyhop {

struct PprOptions {
  double teleport = 0.1;  // in (0, 1]
  // > 0: a vertex passes its residual on while that is above tol times the number of arcs that leave it.
  double tol = 1e-4;
  std::optional<Offset> topk = std::nullopt;  // >= 1: keeps the k largest scores of a seed
  // col: walks along arcs, from a column to the rows that receive from it; row: against them, from a row to
  // the columns that it hears; sym: symmetric graphs.
  Normalization normalization = Normalization::col;
  Dangling dangling = Dangling::zero;  // zero; self, restart (col and row)
};

/// One sparse row of scores for each seed, CSR over vertices.
struct PprResult {
  std::vector<Offset> indptr;   // seeds + 1
  std::vector<Index> indices;   // increasing in a row
  std::vector<double> values;   // above 0
  std::vector<double> bound;    // of each seed: on || exact - row ||, 1-norm (sym: 2-norm)
  std::vector<Offset> visited;  // of each seed: arcs that were looked at
};

/// Row s holds a sum_k (1-a)^k P^k e_seed: a walk from the seed that ends with probability a = teleport at
/// each step. col: P = A D_c^-1, column `seed` of what diffuse() applies. row: P = (D_r^-1 A)^T, *row* `seed`
/// of what diffuse() applies, the weights with which the seed hears the others. Both are the same on
/// undirected graphs. sym: D^-1/2 A D^-1/2, whose rows and columns are the same.
///
/// Scores are below the exact ones (but for rounding, about 1e-15 / a), by at most `bound` in sum: the mass
/// that was not passed on, and what topk left out.   Cost: at most degree(seed) + 1 / (a tol) arcs of a seed
/// and as much memory, in parallel over seeds; once in the life of a graph O(n + m) for its transpose (not
/// for row), and sym looks at all weights. A seed without arcs keeps its mass by `dangling`: a, or 1 (self,
/// restart).   Same bits for any thread count.
/// Throws ValueError for rectangles, seeds outside of the vertices, options outside of their range, negative
/// weights where it meets them, sym on a graph that is not symmetric; LimitError where one walk, or the
/// scores of all, pass half of the memory limit, for any thread count; Interrupted.
PprResult ppr(const Context& ctx, const Graph& graph, std::span<const Offset> seeds,
              const PprOptions& options = {});

}  // namespace manyhop

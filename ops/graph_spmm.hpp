// y = A x for a weighted graph and a block of feature columns, with the normalisation as scales of rows and
// columns: A_ij = row_scale_i w_ij col_scale_j. The product that diffusion and spectra repeat.
#pragma once

#include "manyhop/graphs/graph.hpp"
#include "manyhop/ops/context.hpp"

namespace manyhop::ops {

/// Feature columns are stored [n][stride] with stride = block_stride(columns), zeros in between.
Offset block_stride(Offset columns);

struct ScaledGraph {
  const Graph* graph = nullptr;
  const double* row_scale = nullptr;  // [n_rows], or null: 1
  const double* col_scale = nullptr;  // [n_cols], or null: 1
  bool by_runs = false;               // take unweighted rows as runs of columns (prefix sums)
};

/// True where prefix sums over runs pay: the same answer for implicit and written storage of the same edges,
/// so that the bits of a product do not depend on whether indices() was called before.
///
/// Unweighted graphs only.   Cost O(n + runs) for implicit storage, O(m) for written edges.
bool wants_runs(const Graph& graph);

/// y[i, f] = row_scale_i sum over edges (i <- j) of w_ij col_scale_j x[j, f].
///
/// Shapes   x [n_cols][stride], y [n_rows][stride], stride = block_stride(columns); y must not alias x.
/// Cost     2 m columns flops, rows in parallel; by_runs costs O((n + runs) columns). Edge     a row without
/// edges yields zeros. Order    sums run over at most 128 edges before they join the row's total: same bits
/// for any thread count.
template <class C>
void graph_spmm(Backend backend, const ScaledGraph& a, const C* x, C* y, Offset columns);

/// out[e] += factor <g[i, :], x[j, :]> for every edge e = (i <- j) in CSR order, summed in double.
///
/// Shapes   g [n_rows][stride], x [n_cols][stride], out [m].   Cost     2 m columns flops, rows in parallel.
/// Order    a fixed order within a row of columns: same bits for any thread count.
template <class C>
void graph_sddmm(const Graph& graph, const C* g, const C* x, Offset columns, double factor, double* out);

namespace cpu {
/// Rows [begin, end) of graph_spmm for an explicit graph.
template <class C>
void graph_spmm_rows(const ScaledGraph& a, const C* x, C* y, Offset columns, Offset begin, Offset end);
/// Rows [begin, end) of graph_sddmm.
template <class C>
void graph_sddmm_rows(const Graph& graph, const C* g, const C* x, Offset columns, double factor, double* out,
                      Offset begin, Offset end);
}  // namespace cpu

}  // namespace manyhop::ops

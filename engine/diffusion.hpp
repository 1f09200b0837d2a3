// Diffusion over any graph: personalised PageRank, heat kernel, or free coefficients of a normalised
// adjacency.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/ops/context.hpp"

namespace manyhop {

enum class Kernel : std::uint8_t { ppr, heat, coefficients };
enum class Normalization : std::uint8_t { sym, row, col, none };
enum class Dangling : std::uint8_t { zero, self, uniform, restart };

struct DiffuseOptions {
  Kernel kernel = Kernel::ppr;
  double teleport = 0.1;                     // in [0, 1]; ppr
  double t = 1.0;                            // >= 0; heat
  std::vector<double> coefficients = {};     // c_0, c_1, ...; coefficients
  std::optional<int> hops = std::nullopt;    // fixed K >= 0
  std::optional<double> tol = std::nullopt;  // > 0; neither: 1e-6, both: ValueError
  Normalization normalization = Normalization::sym;
  Dangling dangling = Dangling::zero;
};

struct DiffuseResult {
  int hops = 0;
  double residual = 0;  // ||Z_K - Z_{K-1}||, worst column, relative to ||x|| (absolute where x = 0)
  double bound = 0;     // on ||Z_K - Z_inf||, same measure
  bool converged = true;
};

/// ppr: Z_0 = X, Z_{t+1} = (1-a) A Z_t + a X.  heat: exp(-t (I - A)) X.  coefficients: sum_k c_k A^k X.
/// x, z [n, c] or [n] over a square graph, any strides; z shares no memory with x.
///
/// Cost     O(K (m + n) c).
/// Memory   four blocks of n c numbers beside graph, x and z; where the limit wants fewer, columns go in
///          turns.
/// Edge     no vertices or columns: nothing to do. Rows (or columns) of A without weight: `dangling`.
/// Order    the same bits for any thread count and memory limit.
/// Result   `converged` false after 10^6 hops, with the bound reached. float: sums are double where rounding
///          could be seen; `residual` and `bound` do not count the rounding of z itself.
/// Throws   ValueError for options that contradict each other, shapes, weights, or an entry of x that is not
///          finite, naming it; LimitError; Interrupted.
/// Source   Gasteiger et al., Diffusion Improves Graph Learning, 2019 (arXiv 1911.05485).
template <class T>
DiffuseResult diffuse(const Context& ctx, const Graph& graph, TensorView<const T> x, TensorView<T> z,
                      const DiffuseOptions& options);

enum class BackwardMode : std::uint8_t { stored, checkpointed, implicit };

template <class T>
struct DiffuseGradients {
  TensorView<T> x;              // [n, c], or empty
  bool want_weights = true;     // fill `weights`; explicit graphs only
  std::vector<double> weights;  // by CSR edge, of the un-normalised weights
  double teleport = 0;
  double t = 0;
  std::vector<double> coefficients;
};

/// Gradients of sum(gz * diffuse(x)) to x, edge weights, teleport, t and coefficients for a fixed number of
/// hops (options.hops, or what the forward run reported); `implicit` differentiates the fixed point of ppr.
/// gz like z.
///
/// Cost     two products for each hop (checkpointed: three), O(m c) more for each with weights.   Memory: K
///          blocks of n c numbers (checkpointed: 2 sqrt(K); implicit: two) and six more, 16 bytes an edge.
/// Order    the same bits for any thread count and memory limit.
/// Throws   as diffuse(); ValueError without hops where they are wanted.
template <class T>
void diffuse_backward(const Context& ctx, const Graph& graph, TensorView<const T> x, TensorView<const T> gz,
                      const DiffuseOptions& options, BackwardMode mode, DiffuseGradients<T>& gradients);

extern template DiffuseResult diffuse<float>(const Context&, const Graph&, TensorView<const float>,
                                             TensorView<float>, const DiffuseOptions&);
extern template DiffuseResult diffuse<double>(const Context&, const Graph&, TensorView<const double>,
                                              TensorView<double>, const DiffuseOptions&);
extern template void diffuse_backward<float>(const Context&, const Graph&, TensorView<const float>,
                                             TensorView<const float>, const DiffuseOptions&, BackwardMode,
                                             DiffuseGradients<float>&);
extern template void diffuse_backward<double>(const Context&, const Graph&, TensorView<const double>,
                                              TensorView<const double>, const DiffuseOptions&, BackwardMode,
                                              DiffuseGradients<double>&);

}  // namespace manyhop

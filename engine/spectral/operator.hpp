// Products of a graph with a vector, matrix-free and threaded: what the eigen-solvers see of a graph.
//
// A row is summed by one thread in one order and rows are cut into chunks by the structure, so a product has
// the same bits for any thread count.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "manyhop/engine/spectral/layout.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/ops/context.hpp"
#include "manyhop/ops/cuda/product.hpp"

namespace manyhop::spectral {

/// Vectors of vertices are indexed by std::size_t.
inline std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

/// y = L G R x with L = diag(left), R = diag(right) (empty: identity) and G the graph as 0/1 or with its
/// weights.   Cost O(n + m) with weights, else O(n + what Layout stores). One caller at a time.
class Product {
 public:
  /// `weighted` has no effect on a graph without weights. On the backend cuda the graph lies on the device, x
  /// and y travel with each product; every other backend is the CPU.
  Product(Graph graph, bool weighted, std::vector<double> left = {}, std::vector<double> right = {},
          Backend backend = Backend::cpu);

  Offset rows() const { return graph_.n_rows(); }
  Offset cols() const { return graph_.n_cols(); }
  /// x has cols() entries, y rows(); they do not overlap. y = factor L G R x, or y += that with `add`.
  void apply(const double* x, double* y, double factor = 1, bool add = false) const;
  /// The same where single edges read R x, and are added up a few at a time, in single precision; where
  /// has_rounded(). See Layout.
  void apply_rounded(const double* x, double* y, double factor = 1, bool add = false) const;
  bool has_rounded() const { return layout_ && layout_->wants_rounded(); }

  /// f(column, value) for every edge of row i, the scales included.
  void for_each(Offset i, const std::function<void(Index, double)>& f) const;
  const Graph& graph() const { return graph_; }
  Offset stored() const { return layout_ ? layout_->stored() : graph_.nnz(); }  // the cost of a product

 private:
  double row_sum(Offset i, const double* x) const;

  Graph graph_;
  bool weighted_;
  std::vector<double> left_, right_;
  double scale_ = 1;                      // what left_ and right_ had in common
  std::shared_ptr<const Layout> layout_;  // without weights, on the CPU
  std::optional<ops::cuda::DeviceProduct> device_;
  std::vector<Offset> chunks_;  // with weights: rows chunks_[c] .. chunks_[c + 1] are summed by one thread
  mutable std::vector<double> scaled_, scratch_;
  mutable std::vector<float> rounded_;
};

/// A symmetric operator: the mean of its terms (one symmetric product, or one and its transpose).
class SymmetricOperator {
 public:
  explicit SymmetricOperator(std::vector<Product> terms) : terms_(std::move(terms)) {}
  Offset size() const { return terms_.front().rows(); }
  void apply(const double* x, double* y) const;
  /// See Product.
  void apply_rounded(const double* x, double* y) const;
  bool has_rounded() const;
  const std::vector<Product>& terms() const { return terms_; }

 private:
  std::vector<Product> terms_;
};

/// Weights count where they are asked for, and in patterns that are multigraphs (they are multiplicities).
inline bool uses_weights(const Graph& graph, bool asked) {
  return asked || (graph.weighted() && graph.source() == Source::pattern);
}

/// y = D x - S x for S without scales and its row sums D.
void apply_laplacian(const Product& s, std::span<const double> degree, const double* x, double* y);

/// Sums by row of the weights, or of ones.
std::vector<double> row_sums(const Graph& graph, bool weighted);

/// Sums in a fixed order.
double dot(std::span<const double> a, std::span<const double> b);
double norm(std::span<const double> a);
/// a := a / ||a||; false when the norm is 0 or not finite.
bool normalise(std::span<double> a);
/// a := a - (u . a) u
void project_out(std::span<const double> u, std::span<double> a);
/// a := a + factor b
void add_to(std::span<double> a, double factor, std::span<const double> b);
/// A start vector: uniform in [-1, 1) from the counter-based generator, the same on every machine.
std::vector<double> start_vector(Offset n, std::uint32_t stage);

}  // namespace manyhop::spectral

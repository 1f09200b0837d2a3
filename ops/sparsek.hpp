// SparseK: a differentiable top-k. Rows are projected onto the capped simplex.
//
//   sparsek(z, k) = argmin ||p - z||^2 over 0 <= p <= 1, sum p = k,   so   p = clip(z - tau, 0, 1)
//
// with the tau that makes the sum k: a relaxation of top-k in which gradients reach the scores. Lou, Jia,
// Zheng, Tu, "Sparser is Faster and Less is More", arXiv 2406.16747.
#pragma once

#include <cstdint>
#include <span>

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/ops/context.hpp"

namespace manyhop {

enum class SparsekMethod : std::uint8_t { linear, sorted };

struct SparsekOptions {
  double temperature = 1;             // of z / temperature; positive and finite
  std::span<const double> row_k{};    // one k for each row, in place of the scalar
  std::span<const Offset> offsets{};  // ragged rows: row r of a flat z is [offsets[r], offsets[r + 1])
  SparsekMethod method = SparsekMethod::linear;  // same result but for the last bits
  std::span<double> tau{};                       // out: one for each row
};

/// p = clip(z / temperature - tau, 0, 1) with sum p = min(k, number of scores above -inf), row by row.
///
/// Shapes   z and p [rows, n], or flat [total] with offsets (without them a flat z is one row); any strides,
///          inner stride 1 is fastest. T: float, bf16 (fp32 arithmetic), double. k >= 0, need not be whole.
/// Effects  overwrites p, which may be z itself. tau is the smallest threshold that gives p (-inf where every
///          score gets 1), so it never falls when scores are added or raised.
/// Cost     linear: O(n) expected, two reads and one write of a row in the usual case; sorted: O(n log n).
///          Rows run in parallel, rows beyond 131072 also inside.
/// Edge     k = 0 gives zeros, k >= n ones. A score of -inf is absent: it gets 0 and does not count. Scores
///          of +inf get 1, or k / count each where they are more than k. Equal scores get equal shares. A row
///          with a NaN becomes NaN (tau too) and no other; a row without scores, or of -inf only, is 0 with
///          tau = -inf whatever k is.
/// cuda     with a stream z, p and tau lie on the device; row_k and offsets on the host in any case.
/// Throws   ValueError for a k that is negative or NaN, offsets that do not cover z in order, sizes that
///          disagree, a temperature that is not positive; Interrupted.
/// Order    same bits for any thread count. Error: 1e-6 (float), 1e-12 (double) for |z| <= 16.
template <class T>
void sparsek(const Context& ctx, TensorView<const T> z, double k, TensorView<T> p,
             const SparsekOptions& options = {});

/// Directional derivative: dp = s (dz / temperature - mean over s of dz / temperature) + s / |s| dk, with s
/// the entries where 0 < p < 1. Zero where there are none (the derivative at a kink is that of saturation).
///
/// Shapes   p, dz, dp like p of sparsek(); dk one for each row, or empty (zero). temperature and offsets of
/// `options` count. A change of temperature dt is one of z: give dz - z dt / temperature.
/// Effects  overwrites dp, which may be dz.   Cost O(n).
/// Throws   ValueError when sizes disagree.
template <class T>
void sparsek_jvp(const Context& ctx, TensorView<const T> p, TensorView<const T> dz, TensorView<T> dp,
                 const SparsekOptions& options = {}, std::span<const double> dk = {});

/// Overwritten; empty ones are not computed.
template <class T>
struct SparsekGradients {
  TensorView<T> z{};
  std::span<double> k{};            // one for each row: the mean of g over s, 0 where s is empty
  std::span<double> temperature{};  // one for each row: -<dz, z> / temperature; wants `scores`
  TensorView<const T> scores{};     // z of the forward call
};

/// Gradient of sum(p g): dz = s (g - mean over s of g) / temperature. The Jacobian is symmetric.
///
/// Shapes   p and g like p of sparsek().   Effects  gradients.z may be g.   Cost O(n).
/// Edge     values of g outside of s are never used. bf16 storage rounds p above 1 - 2^-9 to 1: such entries
///          count as saturated.
/// Throws   ValueError when sizes disagree, or for a temperature gradient without scores.
template <class T>
void sparsek_vjp(const Context& ctx, TensorView<const T> p, TensorView<const T> g,
                 const SparsekGradients<T>& gradients, const SparsekOptions& options = {});

/// Hard top-k: indices[r] = positions of the k largest scores of row r in increasing order, then -1 where the
/// row has fewer. Of equal scores the later one wins; -inf and NaN are never taken.
///
/// Shapes   z as in sparsek(); indices [rows, k]. options: offsets alone.   Cost O(n) expected a row.
/// Throws   ValueError for a negative k or other sizes.
template <class T>
void topk(const Context& ctx, TensorView<const T> z, Offset k, TensorView<Index> indices,
          const SparsekOptions& options = {});

}  // namespace manyhop

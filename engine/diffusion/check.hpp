// Checks that the forward and the backward pass of diffuse share.
#pragma once

#include "manyhop/engine/diffusion.hpp"

namespace manyhop::diffusion {

/// Throws ValueError for options that contradict each other or lie outside of their range.
void check_options(const DiffuseOptions& options);

/// The degree of the polynomial in A; 0 where a tolerance decides.
int hops_of(const DiffuseOptions& options);

/// Whether sums in float could miss 2e-6: errors of the matrix add up over the hops that count, and the
/// change that a tolerance looks for must stay well above the rounding of the signal (6e-8).
bool wants_double(const DiffuseOptions& options, const Graph& graph);

/// The signal as a matrix [n, c]; throws ValueError with both sizes for another shape.
template <class T>
TensorView<T> as_columns(const char* name, TensorView<T> x, Offset n);

}  // namespace manyhop::diffusion

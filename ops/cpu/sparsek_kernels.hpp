// The passes over a row that sparsek is made of, for the best instruction set of the machine. E: float,
// double.
#pragma once

#include <cstdint>

#include "manyhop/graphs/base/types.hpp"

namespace manyhop::ops::cpu {

/// What one pass over a row tells.
template <class E>
struct Survey {
  E largest;
  bool nan;
  Offset groups;  // maxima written
};

/// State of the search for tau in (lo, hi]: what every tau in there agrees on has left the list.
struct Narrowed {
  double saturated = 0;  // scores that are at 1 for every tau
  double inner = 0;      // scores that are strictly between for every tau, and their sum
  double inner_sum = 0;
  // Of the scores still in the list, at the tau that was asked for:
  double above = 0;  // strictly between
  double above_sum = 0;
  double full = 0;  // at 1
};

template <class E>
struct SparsekKernels {
  /// Largest score, whether there is a NaN, and (block > 0) the largest of each of groups of `block` scores,
  /// which are spread over a stretch of block vectors. With a NaN the others are not defined.
  Survey<E> (*survey)(const E* z, Offset n, Offset block, E* maxima);
  /// Positions i with z[i] > limit, in order, and z[i] - base. Returns how many; room for n.
  Offset (*above)(const E* z, Offset n, E limit, double base, std::int32_t* where, double* x);
  /// p[i] = clip((z[i] - base) - tau, 0, 1); p may be z.
  void (*gates)(const E* z, Offset n, double base, double tau, E* p);
};

/// Takes out of x what agrees on (lo, hi], adds it to `state`, and sums the rest at tau. Returns how many
/// scores are left in x, which needs no room behind n.
using NarrowKernel = Offset (*)(double* x, Offset n, double lo, double hi, double tau, Narrowed& state);

template <class E>
SparsekKernels<E> sparsek_kernels();
NarrowKernel narrow_kernel();

}  // namespace manyhop::ops::cpu

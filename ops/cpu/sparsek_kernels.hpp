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

/// The scores strictly between tau and tau + 1, and how many are at or above tau + 1.
struct GateSums {
  double inner = 0;
  double inner_sum = 0;
  double full = 0;
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

struct SearchKernels {
  GateSums (*sums)(const double* x, Offset n, double tau);
  /// Takes out of x the scores on which all tau in (lo, hi] agree, and adds to `settled` those of them that
  /// are not 0. Returns how many are left in x, which needs no room behind n.
  Offset (*narrow)(double* x, Offset n, double lo, double hi, GateSums& settled);
};

template <class E>
SparsekKernels<E> sparsek_kernels();
SearchKernels search_kernels();

}  // namespace manyhop::ops::cpu

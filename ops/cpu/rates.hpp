// How fast this machine runs the kernels, one thread, measured in a few milliseconds: what a plan's predicted
// times are made of.
#pragma once

#include "manyhop/graphs/base/types.hpp"

namespace manyhop::ops::cpu {

struct Rates {
  double tile_flops = 1;    // FLOP/s of dense tiles with their weights in L1
  double gather_bytes = 1;  // bytes/s of single edges from a block of as many rows as asked for
  double exponentials = 1;  // cells/s of the softmax
  double stream_bytes = 1;  // bytes/s of rows copied, read and written counted once
};

/// For a source of n_cols rows. C: float or double, and S what rows are kept in, C or (of float) bf16; with
/// bf16 tiles of AMX where there are. Cost about 3 ms.
template <class C, class S>
Rates measure_rates(Offset n_cols);

}  // namespace manyhop::ops::cpu

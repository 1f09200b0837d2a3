// Which instruction set the CPU kernels run on; asked for before anything is dispatched.
#pragma once

#include "manyhop/ops/context.hpp"

namespace manyhop::ops::cpu {

/// Makes MANYHOP_SIMD count. Throws ValueError as simd_name().
inline void use_simd() { (void)simd_name(); }

}  // namespace manyhop::ops::cpu

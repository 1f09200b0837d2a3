// Index types and the one glossary of letters and directions.
//
//   row = query = receives, column = key = sends, so `out = A x` pulls: out[i] = sum over edges (i <- j).
//   n tokens, m edges, h heads, d head width, K hops, teleport in [0, 1].
#pragma once

#include <cstdint>

namespace manyhop {

using Index = std::int32_t;   // a row or a column; n <= 2^31 - 1
using Offset = std::int64_t;  // an edge position; edge counts may exceed 2^31

inline constexpr Offset kMaxVertices = 2147483647;  // 2^31 - 1

}  // namespace manyhop

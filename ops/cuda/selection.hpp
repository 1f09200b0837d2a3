// SparseK over all prefixes of a sequence on a CUDA device. No CUDA type; see engine/sparsek/selection.hpp
// for what it computes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "manyhop/graphs/base/types.hpp"
#include "manyhop/ops/cuda/sparsek.hpp"

namespace manyhop::ops::cuda {

struct SelectionCall {
  Stream stream{};
  Offset heads = 0;
  Offset rows = 0;
  double k = 0;
  Offset cap = 0;  // keys of a row at most: `rows` for all of them
  double temperature = 1;
};

/// By head and row, on the host. A head whose scores hold a NaN ends at its row `nan`.
struct SelectedRows {
  std::vector<double> score, tau;
  std::vector<Index> until;
  std::vector<std::int64_t> edges, capped, nan;  // by head; nan: `rows` where there is none
};

/// Scores [heads][rows] lie on the device where the call has a stream; waits for the result.
template <class T>
SelectedRows causal_select(const SelectionCall& call, ScoreRows<const T> scores);

}  // namespace manyhop::ops::cuda

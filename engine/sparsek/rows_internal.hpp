// The kept keys of every row in turn: what expands a delta-encoded selection.
#pragma once

#include <vector>

#include "manyhop/engine/sparsek/selection.hpp"

namespace manyhop {

/// Keys that leave, by row, and the keys at the start of chunks of rows, so that chunks expand side by side.
/// Memory O(n): where a selection is so wide that starts would take more, they are looked for.
class SelectionRows {
 public:
  SelectionRows(const CausalSelection& selection, Offset chunk);

  /// Moves `keys` (increasing) from row i - 1 to row i.
  void step(Offset i, std::vector<Index>& keys) const;
  /// The keys of the row before a chunk's first.
  std::vector<Index> before_chunk(Offset c) const;

 private:
  const CausalSelection& selection_;
  Offset chunk_;
  std::vector<Offset> first_;  // of the keys that leave at each row
  std::vector<Index> leaves_;
  std::vector<std::vector<Index>> starts_;  // of the first chunks, as far as memory goes
};

}  // namespace manyhop

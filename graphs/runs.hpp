// Sorted lists of disjoint column runs and their set algebra, each linear in the runs and never in the
// columns.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "manyhop/graphs/graph.hpp"

namespace manyhop {

using RunList = std::vector<Run>;  // increasing, disjoint, not touching, not empty

/// Appends a run that begins at or after the last one's begin; joins what overlaps or touches.
inline void append_run(RunList& list, Run run) {
  if (run.begin >= run.end) return;
  if (!list.empty() && run.begin <= list.back().end) {
    if (run.end > list.back().end) list.back().end = run.end;
  } else {
    list.push_back(run);
  }
}
/// Runs of sorted columns (duplicates allowed).
void append_columns(RunList& list, std::span<const Index> sorted);
void unite(std::span<const Run> a, std::span<const Run> b, RunList& out);
void intersect(std::span<const Run> a, std::span<const Run> b, RunList& out);
void subtract(std::span<const Run> a, std::span<const Run> b, RunList& out);

/// Builds a graph from row(i, out): out arrives empty and leaves as the runs of row i. Rows are made in
/// parallel chunks.
Graph build_rows(Offset n_rows, Offset n_cols, const std::function<void(Offset, RunList&)>& row);

}  // namespace manyhop

// Renumbering the vertices of a graph so that its edges fall into dense tiles. Results are given back in the
// caller's numbering; only plans work in the other one.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/tiling.hpp"

namespace manyhop {

/// - degree: vertices with most edges first (hubs meet hubs in the first tiles).
/// - rcm: reverse Cuthill-McKee, a narrow band where there is one.   Cuthill, McKee 1969; George 1971.
/// - cluster: groups of 32 vertices that share most columns; finds blocks and bands under random edges.
/// - automatic: the first of none, cluster, rcm, degree whose tiles cost least.
enum class Reorder : std::uint8_t { none, degree, rcm, cluster, automatic };
std::string_view name_of(Reorder reorder);  // "none", "degree", "rcm", "cluster", "auto"

/// order[i] is the old number of the new vertex i. Square graphs only, else ValueError with both sizes.
/// Vertices with most of the graph's columns (global tokens) come first. Deterministic; ties go to the lower
/// number.   Cost O(n + m log m); of cluster O(n + m d) for degree d, cut at 2048 rows a column.
std::vector<Index> vertex_order(const Graph& graph, Reorder reorder);

struct Reordered {
  Reorder kind = Reorder::none;
  Graph graph;                // row i and column j are the old order[i] and order[j]
  std::vector<Index> order;   // empty: nothing moved
  std::vector<Offset> edges;  // old CSR position of each new edge
  Tiling tiling;

  std::size_t bytes() const;  // without the tiling
};

/// The graph in that order and its tiling. `automatic` compares tilings and may move nothing; an implicit
/// graph is written out only when it is asked for by name.
Reordered reorder(const Graph& graph, Reorder kind);

/// What the tiles cost, in cells of a dense tile: dense cells, and for each single edge what it takes in such
/// cells.
double tile_cost(const Tiling& tiling);

}  // namespace manyhop

// Pictures of a graph's sparsity, binned to pixels: rows go down, columns go right. Made from runs, so an
// implicit graph is never written out; memory is at most the square of the pixels of one side.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "manyhop/graphs/graph.hpp"

namespace manyhop {

/// Edges counted in a grid: cell (y, x) holds the edges with floor(row * height / n_rows) = y and
/// floor(column * width / n_cols) = x.
struct SpyGrid {
  int height = 0;
  int width = 0;
  std::vector<Offset> row_edges;  // bin y is rows row_edges[y] .. row_edges[y + 1] - 1
  std::vector<Offset> col_edges;
  std::vector<Offset> count;  // height * width, row-major

  Offset edges(int y, int x) const {
    return count[static_cast<std::size_t>(y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(x)];
  }
  /// Filled cells over all cells of the bin, in [0, 1].
  double share(int y, int x) const;
};

/// Counts edges in at most height x width bins (never more bins than rows or columns).
/// Cost O(n + runs + height * width), parallel.   Edge: an axis of size 0 gives 0 bins.
/// Throws ValueError when height or width is outside 1 .. 4096.
SpyGrid spy_grid(const Graph& graph, int height, int width);

/// Text as XML 1.0 and HTML take it between tags and in attributes, at most `limit` characters, then an
/// ellipsis; line ends become blanks and what XML cannot hold becomes U+FFFD.
std::string xml_text(std::string_view text, std::size_t limit);

struct SpyOptions {
  std::string title;  // empty: the graph's pattern text
  int pixels = 256;   // bins of the longer side, 1 .. 4096
};

/// A self-contained SVG picture with title, sizes, edges and edges per token; it follows the reader's light
/// or dark scheme. The opacity of a bin is the square root of its share of filled cells, and at least 1/8
/// where it has an edge, so that one edge in a large bin still shows. A rectangle keeps its aspect.
/// Cost O(n + runs + pixels^2).   Edge: n = 0 gives an empty frame.   Throws ValueError for bad pixels.
std::string spy_svg(const Graph& graph, const SpyOptions& options = {});

/// A framed picture in braille characters (2 x 4 dots each) for a terminal, at most `columns` x `rows`
/// characters inside the frame, with row and column numbers and one caption line; ends with a newline. Small
/// graphs are enlarged by whole factors. While at most a third of the bins have an edge each of those is a
/// dot; a fuller picture is dithered by the square root of the share relative to the fullest bin.
/// Cost O(n + runs + dots).   Throws ValueError when columns or rows is outside 1 .. 1000.
std::string spy_braille(const Graph& graph, int columns, int rows);

}  // namespace manyhop

#include "manyhop/graphs/spy.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop {

namespace {

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

// First index of each bin: the smallest i with floor(i * bins / n) >= b.
std::vector<Offset> bin_edges(Offset n, Offset bins) {
  std::vector<Offset> edges(at(bins) + 1);
  for (Offset b = 0; b <= bins; ++b) edges[at(b)] = bins == 0 ? 0 : (b * n + bins - 1) / bins;
  return edges;
}

// Bins of one axis when the longer one has `longest`: proportional, at least one where there is a cell.
int proportional(Offset n, Offset longest, double per_cell) {
  if (n == 0) return 0;
  const auto wanted = static_cast<Offset>(std::llround(static_cast<double>(n) * per_cell));
  return static_cast<int>(std::clamp<Offset>(wanted, 1, std::min(n, longest)));
}

std::string grouped(Offset value) {  // 1234567 as 1,234,567
  std::string digits = fmt::format("{}", value);
  for (auto i = static_cast<std::ptrdiff_t>(digits.size()) - 3; i > 0; i -= 3) {
    digits.insert(static_cast<std::size_t>(i), 1, ',');
  }
  return digits;
}

std::string caption(const Graph& graph) {
  const std::string size = graph.square()
                               ? fmt::format("n = {}", grouped(graph.n_rows()))
                               : fmt::format("{} x {}", grouped(graph.n_rows()), grouped(graph.n_cols()));
  const double per_token =
      graph.n_rows() == 0 ? 0.0 : static_cast<double>(graph.nnz()) / static_cast<double>(graph.n_rows());
  return fmt::format("{}, {} edges, {:.4g} per token", size, grouped(graph.nnz()), per_token);
}

// Length of the valid UTF-8 sequence at the front, 0 when there is none.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  const std::size_t length = lead < 0x80   ? 1
                             : lead < 0xC2 ? 0
                             : lead < 0xE0 ? 2
                             : lead < 0xF0 ? 3
                             : lead < 0xF5 ? 4
                                           : 0;
  if (length == 0 || length > text.size()) return 0;
  unsigned code = length == 1 ? lead : lead & (0xFFU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0U) != 0x80U) return 0;
    code = (code << 6) | (byte(i) & 0x3FU);
  }
  constexpr std::array<unsigned, 5> kLeast{0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  if (code < kLeast[length] || surrogate || code > 0x10FFFF || code == 0xFFFE || code == 0xFFFF) return 0;
  return length;
}

constexpr int kLevels = 16;  // shades; one path each keeps the file small

// 0 for an empty bin, else 2 .. kLevels: the opacity in sixteenths.
int shade(double share) {
  if (share <= 0) return 0;
  return std::clamp(static_cast<int>(std::lround(std::sqrt(share) * kLevels)), 2, kLevels);
}

void require_range(const char* name, int value, int high) {
  if (value < 1 || value > high) {
    throw ValueError(fmt::format("{}: {} is outside 1 .. {}", name, value, high));
  }
}

}  // namespace

std::string xml_text(std::string_view text, std::size_t limit) {
  std::string out;
  for (std::size_t used = 0; !text.empty(); ++used) {
    if (used == limit) return out + "\u2026";
    const std::size_t length = utf8_length(text);
    const std::string_view piece = text.substr(0, std::max<std::size_t>(length, 1));
    text.remove_prefix(piece.size());
    if (piece == "&") {
      out += "&amp;";
    } else if (piece == "<") {
      out += "&lt;";
    } else if (piece == ">") {
      out += "&gt;";
    } else if (piece == "\"") {
      out += "&quot;";
    } else if (piece == "'") {
      out += "&#39;";
    } else if (piece == "\t" || piece == "\n" || piece == "\r") {
      out += ' ';
    } else if (length == 0 || (length == 1 && static_cast<unsigned char>(piece[0]) < 0x20)) {
      out += "\uFFFD";
    } else {
      out += piece;
    }
  }
  return out;
}

double SpyGrid::share(int y, int x) const {
  const Offset cells = (row_edges[at(y) + 1] - row_edges[at(y)]) * (col_edges[at(x) + 1] - col_edges[at(x)]);
  return static_cast<double>(edges(y, x)) / static_cast<double>(cells);
}

SpyGrid spy_grid(const Graph& graph, int height, int width) {
  require_range("spy height", height, 4096);
  require_range("spy width", width, 4096);
  SpyGrid grid;
  grid.height = static_cast<int>(std::min<Offset>(height, graph.n_rows()));
  grid.width = static_cast<int>(std::min<Offset>(width, graph.n_cols()));
  grid.row_edges = bin_edges(graph.n_rows(), grid.height);
  grid.col_edges = bin_edges(graph.n_cols(), grid.width);
  grid.count.resize(at(grid.height) * at(grid.width));
  if (grid.count.empty()) return grid;
  parallel_for(grid.height, [&](Offset y) {
    // A run costs the same however long it is: its two ends are counted, the bins between are a difference.
    std::vector<Offset> whole(at(grid.width) + 1);
    Offset* const count = grid.count.data() + y * grid.width;
    const auto bin = [&](Offset column) { return at(column * grid.width / graph.n_cols()); };
    for (Offset i = grid.row_edges[at(y)]; i < grid.row_edges[at(y) + 1]; ++i) {
      graph.for_each_run(i, [&](Run run) {
        const std::size_t first = bin(run.begin);
        const std::size_t last = bin(run.end - 1);
        if (first == last) {
          count[first] += run.end - run.begin;
          return;
        }
        count[first] += grid.col_edges[first + 1] - run.begin;
        count[last] += run.end - grid.col_edges[last];
        ++whole[first + 1];
        --whole[last];
      });
    }
    Offset covered = 0;
    for (std::size_t x = 0; x < at(grid.width); ++x) {
      covered += whole[x];
      count[x] += covered * (grid.col_edges[x + 1] - grid.col_edges[x]);
    }
  });
  return grid;
}

std::string spy_svg(const Graph& graph, const SpyOptions& options) {
  require_range("spy pixels", options.pixels, 4096);
  constexpr double kSide = 512;  // of the longer side of the frame
  constexpr double kLeft = 20;
  constexpr double kTop = 62;
  const Offset longest = std::max<Offset>({graph.n_rows(), graph.n_cols(), 1});
  const double per_cell = std::min(1.0, options.pixels / static_cast<double>(longest));
  const int height = proportional(graph.n_rows(), options.pixels, per_cell);
  const int width = proportional(graph.n_cols(), options.pixels, per_cell);
  const SpyGrid grid = spy_grid(graph, std::max(height, 1), std::max(width, 1));
  const double bin = kSide / std::clamp<double>(static_cast<double>(longest), 1, options.pixels);
  const double drawn_height =
      std::max(bin, kSide * static_cast<double>(graph.n_rows()) / static_cast<double>(longest));
  const double drawn_width =
      std::max(bin, kSide * static_cast<double>(graph.n_cols()) / static_cast<double>(longest));
  const double page_width = kSide + 2 * kLeft;
  const double page_height = kTop + drawn_height + 44;
  const std::string title = options.title.empty() ? graph.text() : options.title;
  const std::string facts = caption(graph);
  const std::string shown = title.empty() ? std::string("graph") : title;

  std::string out;
  auto put = std::back_inserter(out);
  fmt::format_to(put,
                 "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.5g}\" height=\"{1:.6g}\" "
                 "viewBox=\"0 0 {0:.5g} {1:.6g}\" role=\"img\">\n",
                 page_width, page_height);
  fmt::format_to(put, "<title>{}: {}</title>\n", xml_text(shown, 4096), facts);
  out +=
      "<style>\n"
      ".page{fill:#ffffff}.ink{fill:#1b3a5c}.text{fill:#222222}.soft{fill:#666666}.frame{fill:none;stroke:#"
      "888888}\n"
      "text{font-family:system-ui,sans-serif;font-size:12px}\n"
      "@media (prefers-color-scheme:dark){.page{fill:#14171a}.ink{fill:#8ec5ff}.text{fill:#eeeeee}"
      ".soft{fill:#a0a0a0}.frame{stroke:#777777}}\n"
      "</style>\n"
      "<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n";
  fmt::format_to(
      put,
      "<text class=\"text\" x=\"{0}\" y=\"22\" style=\"font-size:15px;font-weight:600\">{1}</text>\n"
      "<text class=\"text\" x=\"{0}\" y=\"40\">{2}</text>\n"
      "<text class=\"soft\" x=\"{0}\" y=\"56\">columns send</text>\n",
      kLeft, xml_text(shown, 62), facts);
  fmt::format_to(put, "<text class=\"soft\" transform=\"translate(14 {:.6g}) rotate(-90)\">{}</text>\n",
                 kTop + drawn_height, drawn_height >= 80 ? "rows receive" : "");

  std::array<std::string, kLevels + 1> paths;
  for (int y = 0; y < grid.height; ++y) {
    for (int x = 0; x < grid.width;) {
      const int level = shade(grid.share(y, x));
      int end = x + 1;
      while (end < grid.width && shade(grid.share(y, end)) == level) ++end;
      if (level > 0) {
        fmt::format_to(std::back_inserter(paths[at(level)]), "M{} {}h{}v1h-{}z", x, y, end - x, end - x);
      }
      x = end;
    }
  }
  fmt::format_to(put,
                 "<svg x=\"{}\" y=\"{}\" width=\"{:.6g}\" height=\"{:.6g}\" viewBox=\"0 0 {} {}\" "
                 "preserveAspectRatio=\"none\" shape-rendering=\"crispEdges\">\n",
                 kLeft, kTop, drawn_width, drawn_height, std::max(grid.width, 1), std::max(grid.height, 1));
  for (int level = 1; level <= kLevels; ++level) {
    const std::string& path = paths[at(level)];
    if (path.empty()) continue;
    fmt::format_to(put, "<path class=\"ink\" fill-opacity=\"{:.4g}\" d=\"{}\"/>\n",
                   level / static_cast<double>(kLevels), path);
  }
  out += "</svg>\n";
  fmt::format_to(put, "<rect class=\"frame\" x=\"{}\" y=\"{}\" width=\"{:.6g}\" height=\"{:.6g}\"/>\n",
                 kLeft - 0.5, kTop - 0.5, drawn_width + 1, drawn_height + 1);
  // The scale of shades, named by the share of filled cells.
  const double foot = kTop + drawn_height + 18;
  fmt::format_to(put, "<text class=\"soft\" x=\"{}\" y=\"{:.6g}\">share of filled cells</text>\n", kLeft,
                 foot + 10);
  constexpr std::array<double, 4> kShares{0.01, 0.1, 0.5, 1};
  double x = kLeft + 140;
  for (const double share : kShares) {
    fmt::format_to(put,
                   "<rect class=\"ink\" fill-opacity=\"{:.4g}\" x=\"{}\" y=\"{:.6g}\" width=\"12\" "
                   "height=\"12\"/><text class=\"soft\" x=\"{}\" y=\"{:.6g}\">{:.4g}</text>\n",
                   shade(share) / static_cast<double>(kLevels), x, foot, x + 17, foot + 10, share);
    x += 64;
  }
  out += "</svg>\n";
  return out;
}

std::string spy_braille(const Graph& graph, int columns, int rows) {
  require_range("spy columns", columns, 1000);
  require_range("spy rows", rows, 1000);
  const int most_x = 2 * columns;
  const int most_y = 4 * rows;
  const double per_cell = std::min(most_x / static_cast<double>(std::max<Offset>(graph.n_cols(), 1)),
                                   most_y / static_cast<double>(std::max<Offset>(graph.n_rows(), 1)));
  const int zoom = std::max(1, static_cast<int>(per_cell));
  const int height = proportional(graph.n_rows(), most_y, std::min(1.0, per_cell));
  const int width = proportional(graph.n_cols(), most_x, std::min(1.0, per_cell));
  const SpyGrid grid = spy_grid(graph, std::max(height, 1), std::max(width, 1));

  const Offset bins = static_cast<Offset>(grid.count.size());
  const Offset filled =
      bins - static_cast<Offset>(std::count(grid.count.begin(), grid.count.end(), Offset{0}));
  double fullest = 0;
  for (int y = 0; y < grid.height; ++y) {
    for (int x = 0; x < grid.width; ++x) fullest = std::max(fullest, grid.share(y, x));
  }
  const bool dither = filled * 3 > bins;
  // Bayer's 4 x 4 order: neighbouring dots of one shade differ, and a level of k / 16 sets k dots of 16.
  constexpr std::array<int, 16> kBayer{0, 8, 2, 10, 12, 4, 14, 6, 3, 11, 1, 9, 15, 7, 13, 5};
  const auto dot = [&](int y, int x) {
    if (y / zoom >= grid.height || x / zoom >= grid.width) return false;
    const double share = grid.share(y / zoom, x / zoom);
    if (!dither || share <= 0) return share > 0;
    const double threshold = (kBayer[at((y % 4) * 4 + x % 4)] + 0.5) / 16;
    return std::sqrt(share / fullest) > threshold;
  };

  const int chars_x = std::max(1, (grid.width * zoom + 1) / 2);
  const int chars_y = std::max(1, (grid.height * zoom + 3) / 4);
  const std::string last_row = fmt::format("{}", std::max<Offset>(graph.n_rows() - 1, 0));
  const std::string last_column = fmt::format("{}", std::max<Offset>(graph.n_cols() - 1, 0));
  const int margin = static_cast<int>(last_row.size());
  std::string line;
  for (int x = 0; x < chars_x; ++x) line += "\u2500";
  std::string out;
  auto put = std::back_inserter(out);
  const int room = chars_x - 1 - static_cast<int>(last_column.size());
  fmt::format_to(put, "{:{}}  0{}\n", "", margin,
                 room >= 1 ? fmt::format("{:>{}}", last_column, chars_x - 1) : "");
  fmt::format_to(put, "{:{}} \u250C{}\u2510\n", "", margin, line);
  for (int cy = 0; cy < chars_y; ++cy) {
    const std::string label = cy == 0 ? "0" : cy == chars_y - 1 ? last_row : "";
    fmt::format_to(put, "{:>{}} \u2502", label, margin);
    for (int cx = 0; cx < chars_x; ++cx) {
      // Dots 1 2 3 7 run down the left, 4 5 6 8 down the right; bit k - 1 sets dot k.
      constexpr std::array<std::array<unsigned, 2>, 4> kBits{
          {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}}};
      unsigned bits = 0;
      for (int dy = 0; dy < 4; ++dy) {
        for (int dx = 0; dx < 2; ++dx) {
          if (dot(4 * cy + dy, 2 * cx + dx)) bits |= kBits[at(dy)][at(dx)];
        }
      }
      out += '\xE2';  // U+2800 + bits in UTF-8
      out += static_cast<char>(0xA0U + (bits >> 6));
      out += static_cast<char>(0x80U + (bits & 0x3FU));
    }
    out += "\u2502\n";
  }
  fmt::format_to(put, "{:{}} \u2514{}\u2518\n", "", margin, line);
  // A text may hold a file's name: no control character of it reaches the terminal.
  std::string text = graph.text();
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  fmt::format_to(put, "{}{}{}\n", text, text.empty() ? "" : ": ", caption(graph));
  return out;
}

}  // namespace manyhop

// METIS: "n m [fmt [ncon]]", then for each vertex a line "[size] [weights] neighbour [weight] ...", ids from
// 1, each edge listed at both ends. fmt holds three binary digits: vertex sizes, vertex weights, edge
// weights.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/io/formats.hpp"
#include "manyhop/graphs/io/text.hpp"

namespace manyhop {

namespace {

constexpr double kLargestWhole = 9007199254740992.0;  // 2^53

struct Header {
  Offset n = 0;
  Offset m = 0;
  bool sizes = false;
  bool edge_weights = false;
  Offset vertex_weights = 0;  // numbers to skip
  Offset line = 0;
};

Header read_header(LineReader& in) {
  if (!in.next_content("%")) in.fail_at(1, "the header line (vertices edges [fmt [ncon]]) is wanted");
  Header header;
  header.line = in.line();
  header.n = in.integer(in.want_token("the vertices"), "vertices", 0, kMaxVertices);
  header.m = in.integer(in.want_token("the edges"), "edges", 0, INT64_MAX);
  if (const std::string_view format = in.next_token(); !format.empty()) {
    if (format.size() > 3 || format.find_first_not_of("01") != std::string_view::npos) {
      in.fail(fmt::format("fmt {} is not one to three digits 0 or 1", shown(format)));
    }
    const std::string digits = std::string(3 - format.size(), '0') + std::string(format);
    header.sizes = digits[0] == '1';
    header.vertex_weights = digits[1] == '1' ? 1 : 0;
    header.edge_weights = digits[2] == '1';
    if (const std::string_view count = in.next_token(); !count.empty()) {
      const Offset ncon = in.integer(count, "ncon", 0, kMaxVertices);
      if (header.vertex_weights != 0) header.vertex_weights = std::max<Offset>(ncon, 1);
    }
  }
  in.want_end("ncon");
  // A vertex takes at least its line end (the last one may go without), an edge at least "1 " at both ends.
  if (static_cast<std::uint64_t>(header.n) > in.bytes_left() + 1) {
    in.fail(fmt::format("{} vertices are promised but only {} bytes follow", header.n, in.bytes_left()));
  }
  if (static_cast<std::uint64_t>(header.m) > in.bytes_left() / 2) {
    in.fail(fmt::format("{} edges are promised but only {} bytes follow", header.m, in.bytes_left()));
  }
  return header;
}

// First row whose edges or weights differ from those of the transpose, with the text that tells why.
void want_symmetric(const LineReader& in, const Graph& graph, const std::vector<Offset>& lines) {
  if (graph.equals_transpose()) return;
  const Graph& other = graph.transpose();
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    const auto row = graph.row(i);
    const auto column = other.row(i);
    for (const Index c : row) {
      if (!std::ranges::binary_search(column, c)) {
        in.fail_at(lines[static_cast<std::size_t>(i)],
                   fmt::format("vertex {} lists {}, but {} does not list {}", i + 1, c + 1, c + 1, i + 1));
      }
    }
    if (!graph.weighted() || row.size() != column.size()) continue;
    const auto base = static_cast<std::size_t>(graph.indptr()[static_cast<std::size_t>(i)]);
    const auto mirror = static_cast<std::size_t>(other.indptr()[static_cast<std::size_t>(i)]);
    for (std::size_t e = 0; e < row.size(); ++e) {
      const double here = graph.weights()[base + e];
      const double there = other.weights()[mirror + e];
      if (here != there) {
        in.fail_at(lines[static_cast<std::size_t>(i)],
                   fmt::format("edge {} - {} weighs {} here and {} at the other end", i + 1, row[e] + 1, here,
                               there));
      }
    }
  }
}

}  // namespace

Graph parse_metis(std::string_view bytes, const std::string& name, const LoadOptions&) {
  LineReader in(bytes, name);
  const Header header = read_header(in);
  std::vector<Index> rows;
  std::vector<Index> cols;
  std::vector<double> weights;
  rows.reserve(static_cast<std::size_t>(2 * header.m));
  cols.reserve(static_cast<std::size_t>(2 * header.m));
  std::vector<Offset> lines(static_cast<std::size_t>(header.n));
  for (Offset i = 0; i < header.n; ++i) {
    bool found = in.next_line();
    while (found && in.first() == '%') found = in.next_line();
    if (!found) {
      if (i + 1 < header.n) {
        in.fail(fmt::format("the file ends after {} of the {} vertices that line {} promises", i, header.n,
                            header.line));
      }
      lines.back() = in.line() + 1;  // an isolated last vertex may go without its line end
      break;
    }
    lines[static_cast<std::size_t>(i)] = in.line();
    if (header.sizes) in.integer(in.want_token("a vertex size"), "vertex size", 0, INT64_MAX);
    for (Offset k = 0; k < header.vertex_weights; ++k) {
      in.integer(in.want_token("a vertex weight"), "vertex weight", 0, INT64_MAX);
    }
    for (std::string_view token = in.next_token(); !token.empty(); token = in.next_token()) {
      const Offset j = in.integer(token, "neighbour", 1, header.n) - 1;
      if (j == i) in.fail(fmt::format("vertex {} lists itself, METIS has no self loops", i + 1));
      rows.push_back(static_cast<Index>(i));
      cols.push_back(static_cast<Index>(j));
      if (header.edge_weights) {
        const double weight = in.whole(in.want_token("an edge weight"), "edge weight");
        if (weight < 1) in.fail(fmt::format("edge weight {} is below 1", weight));
        weights.push_back(weight);
      }
    }
  }
  if (in.next_content("%")) {
    in.fail(fmt::format("more than the {} vertices that line {} promises", header.n, header.line));
  }
  if (static_cast<Offset>(rows.size()) != 2 * header.m) {
    in.fail_at(header.line, fmt::format("{} edges are promised, {} neighbours wanted, but the lines list {}",
                                        header.m, 2 * header.m, rows.size()));
  }
  Graph graph = Graph::from_edges(header.n, header.n, rows, cols, weights).labelled({}, Source::matrix);
  want_symmetric(in, graph, lines);
  return graph;
}

void format_metis(const Graph& graph, const Sink& sink) {
  if (!graph.square()) {
    throw ValueError(
        fmt::format("graph: {} x {}, METIS holds square graphs only", graph.n_rows(), graph.n_cols()));
  }
  if (const Offset loops = self_loop_count(graph); loops != 0) {
    throw ValueError(
        fmt::format("graph: {} self loops, METIS holds none; .mtx, .npz and edge lists do", loops));
  }
  const auto weights = graph.weights();
  if (!is_symmetric(graph) || !std::ranges::equal(weights, graph.transpose().weights())) {
    throw ValueError(
        "graph: not symmetric, METIS holds undirected graphs only; .mtx, .npz and edge lists hold directed "
        "ones");
  }
  for (std::size_t e = 0; e < weights.size(); ++e) {
    if (!(weights[e] >= 1 && weights[e] <= kLargestWhole && std::floor(weights[e]) == weights[e])) {
      throw ValueError(
          fmt::format("weights[{}]: {}, METIS holds whole numbers 1 .. 2^53 only", e, weights[e]));
    }
  }
  sink(fmt::format("{} {}{}\n", graph.n_rows(), graph.nnz() / 2, graph.weighted() ? " 001" : ""));
  std::string line;
  std::size_t e = 0;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    line.clear();
    graph.for_each_run(i, [&](Run run) {
      for (Index c = run.begin; c < run.end; ++c, ++e) {
        fmt::format_to(std::back_inserter(line), "{}{}", line.empty() ? "" : " ", Offset{c} + 1);
        if (!weights.empty()) {
          fmt::format_to(std::back_inserter(line), " {}", static_cast<Offset>(weights[e]));
        }
      }
    });
    line += '\n';
    sink(line);
  }
}

}  // namespace manyhop

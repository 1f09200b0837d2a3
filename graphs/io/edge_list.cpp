// Edge lists: one arc `u v [weight]` a line, blanks or tabs between, comments after # or %. u sends to v: row
// v, column u. The comment that a written list begins with holds its number of vertices.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <system_error>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/io/formats.hpp"
#include "manyhop/graphs/io/text.hpp"

namespace manyhop {

namespace {

struct Arcs {
  std::vector<Offset> from;  // ids as the file gives them
  std::vector<Offset> to;
  std::vector<double> weights;
  Offset largest = -1;
  Offset largest_line = 0;
};

Arcs read_arcs(LineReader& in, const LoadOptions& options) {
  Arcs arcs;
  // About eight bytes make an arc; a wrong guess costs one more growth.
  arcs.from.reserve(in.bytes_left() / 8);
  arcs.to.reserve(in.bytes_left() / 8);
  const Offset low = options.base;
  const Offset high = options.compact ? INT64_MAX : kMaxVertices - 1 + options.base;
  bool weighted = false;
  Offset first_line = 0;
  while (in.next_content("#%")) {
    const Offset u = in.integer(in.want_token("an id"), "id", low, high);
    const Offset v = in.integer(in.want_token("the second id of an arc"), "id", low, high);
    std::string_view token = in.next_token();
    if (token == "{}") token = in.next_token();  // the empty attributes of networkx.write_edgelist
    const bool has_weight = !token.empty() && token[0] != '#' && token[0] != '%';
    if (first_line == 0) {
      first_line = in.line();
      weighted = has_weight;
      if (weighted) arcs.weights.reserve(in.bytes_left() / 12);
    } else if (has_weight != weighted) {
      in.fail(
          fmt::format("{} where line {} has {}; every arc is `u v` or every arc is `u v weight` (a count of "
                      "vertices or edges belongs in a comment)",
                      has_weight ? "a third field" : "two fields", first_line, weighted ? "three" : "two"));
    }
    if (has_weight) {
      arcs.weights.push_back(in.number(token, "weight"));
      token = in.next_token();
      if (!token.empty() && token[0] != '#' && token[0] != '%') {
        in.fail(fmt::format("{} follows the weight, an arc is `u v [weight]`", shown(token)));
      }
    }
    arcs.from.push_back(u);
    arcs.to.push_back(v);
    if (std::max(u, v) > arcs.largest) {
      arcs.largest = std::max(u, v);
      arcs.largest_line = in.line();
    }
  }
  return arcs;
}

/// Vertices by the first line of format_edge_list, which isolated last vertices are in nothing else of; 0
/// where it is another one, or arcs have come or gone since.
Offset saved_vertices(std::string_view bytes, const std::string& name, Offset arcs) {
  LineReader in(bytes, name);
  if (!in.next_line() || in.next_token() != "#") return 0;
  const std::string_view vertices = in.next_token();
  if (in.next_token() != "vertices," || in.next_token() != fmt::to_string(arcs) ||
      in.next_token() != "arcs;") {
    return 0;
  }
  Offset n = 0;
  const auto [end, problem] = std::from_chars(vertices.begin(), vertices.end(), n);
  const bool whole = problem == std::errc() && end == vertices.end();
  return whole && n <= kMaxVertices ? n : 0;
}

}  // namespace

Graph parse_edge_list(std::string_view bytes, const std::string& name, const LoadOptions& options) {
  LineReader in(bytes, name);
  Arcs arcs = read_arcs(in, options);
  const auto count = static_cast<Offset>(arcs.from.size());
  Offset n = 0;
  std::vector<Offset> used;
  if (options.compact) {
    used.reserve(arcs.from.size() * 2);
    used.insert(used.end(), arcs.from.begin(), arcs.from.end());
    used.insert(used.end(), arcs.to.begin(), arcs.to.end());
    std::ranges::sort(used);
    used.erase(std::unique(used.begin(), used.end()), used.end());
    n = static_cast<Offset>(used.size());
    if (n > kMaxVertices) in.fail(fmt::format("{} different ids are past {}", n, kMaxVertices));
    if (options.n && *options.n < n) {
      in.fail(fmt::format("{} different ids are used, but n = {}", n, *options.n));
    }
  } else {
    n = arcs.largest < 0 ? 0 : arcs.largest - options.base + 1;
    if (options.n && n > *options.n) {
      in.fail_at(arcs.largest_line, fmt::format("id {} is past n = {} vertices from id {} on", arcs.largest,
                                                *options.n, options.base));
    }
    const Offset believed = believed_size(count, options);
    if (n - 1 > believed) {
      in.fail_at(arcs.largest_line,
                 fmt::format(
                     "id {} for {} arcs is past {} = max(2^20, 64 x arcs); compact renumbers the ids, n = {} "
                     "would allow it",
                     arcs.largest, count, believed, n));
    }
    if (options.base == 0 && !options.n) {
      const Offset saved = saved_vertices(bytes, name, count);
      if (saved > std::max(believed, n)) {
        in.fail_at(1, fmt::format(
                          "{} vertices for {} arcs are past {} = max(2^20, 64 x arcs); n = {} would allow it",
                          saved, count, believed, saved));
      }
      n = std::max(n, saved);
    }
  }
  if (options.map != nullptr) options.map->clear();
  if (options.compact && options.map != nullptr) *options.map = used;
  n = options.n.value_or(n);

  const auto renumbered = [&](Offset id) {
    if (!options.compact) return static_cast<Index>(id - options.base);
    return static_cast<Index>(std::ranges::lower_bound(used, id) - used.begin());
  };
  std::vector<Index> rows;
  std::vector<Index> cols;
  std::vector<double> weights;
  const std::size_t room = arcs.from.size() * (options.undirected ? 2U : 1U);
  rows.reserve(room);
  cols.reserve(room);
  if (!arcs.weights.empty()) weights.reserve(room);
  for (std::size_t e = 0; e < arcs.from.size(); ++e) {
    const Index u = renumbered(arcs.from[e]);
    const Index v = renumbered(arcs.to[e]);
    rows.push_back(v);
    cols.push_back(u);
    if (!arcs.weights.empty()) weights.push_back(arcs.weights[e]);
    if (options.undirected && u != v) {  // beside its arc, so that both directions add in one order
      rows.push_back(u);
      cols.push_back(v);
      if (!arcs.weights.empty()) weights.push_back(arcs.weights[e]);
    }
  }
  arcs = {};
  try {
    return Graph::from_edges(n, n, rows, cols, weights).labelled({}, Source::arcs);
  } catch (const ValueError& error) {  // sums of duplicates that overflow
    in.fail(error.what());
  }
}

void format_edge_list(const Graph& graph, const Sink& sink) {
  if (!graph.square()) {
    throw ValueError(
        fmt::format("graph: {} x {}, an edge list holds square graphs only; .mtx and .npz hold rectangles",
                    graph.n_rows(), graph.n_cols()));
  }
  sink(fmt::format("# {} vertices, {} arcs; u v{}: u sends to v\n", graph.n_rows(), graph.nnz(),
                   graph.weighted() ? " weight" : ""));
  std::string line;
  const auto weights = graph.weights();
  std::size_t e = 0;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    graph.for_each_run(i, [&](Run run) {
      for (Index c = run.begin; c < run.end; ++c, ++e) {
        line.clear();
        append_number(line, Offset{c});
        line += ' ';
        append_number(line, i);
        if (!weights.empty()) {
          line += ' ';
          append_number(line, weights[e]);
        }
        line += '\n';
        sink(line);
      }
    });
  }
}

}  // namespace manyhop

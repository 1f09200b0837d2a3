// The double cover, components without an odd cycle, and the two sides of those.
#include <algorithm>

#include "manyhop/engine/spectral/operators.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/runs.hpp"

namespace manyhop::spectral {
namespace {

constexpr char kUnseen = 2;

/// Colours by breadth-first search. An edge within a colour closes an odd cycle: its component is done with.
void colour(const Graph& graph, const std::vector<Index>& label, Sides& sides) {
  std::vector<char>& side = sides.side;
  side.assign(at(graph.n_rows()), kUnseen);
  std::vector<Index> queue;
  for (Offset root = 0; root < graph.n_rows(); ++root) {
    char& odd = sides.odd[at(label[at(root)])];
    if (odd != 0 || side[at(root)] != kUnseen) continue;
    queue.assign(1, static_cast<Index>(root));
    side[at(root)] = 0;
    for (std::size_t head = 0; head < queue.size() && odd == 0; ++head) {
      if ((head & 0xFFFF) == 0) check_stop();
      const char mine = side[at(queue[head])];
      for (const Index v : graph.row(queue[head])) {
        if (side[at(v)] == kUnseen) {
          side[at(v)] = mine == 0 ? 1 : 0;
          queue.push_back(v);
        } else if (side[at(v)] == mine) {
          odd = 1;
          break;
        }
      }
    }
  }
}

}  // namespace

std::vector<Index> double_cover(const Graph& graph) {
  const Offset n = graph.n_rows();
  const Graph wide = build_rows(n, n + 1, [&](Offset i, RunList& out) {
    graph.for_each_run(i, [&](Run run) { append_run(out, run); });
  });
  return components(wide).label;
}

bool has_loop(const Graph& graph, Offset v) {
  if (!graph.implicit()) {
    const auto row = graph.row(v);
    return std::binary_search(row.begin(), row.end(), static_cast<Index>(v));
  }
  bool found = false;
  graph.for_each_run(v, [&](Run run) { found = found || (run.begin <= v && v < run.end); });
  return found;
}

Sides two_sides(const std::vector<Graph>& terms, const Components& parts) {
  const Offset n = terms[0].n_rows();
  Sides sides;
  sides.odd.resize(at(parts.count));
  // A loop is an odd cycle; where every component has one nothing more is asked.
  Offset open = parts.count;
  for (Offset v = 0; v < n && open > 0; ++v) {
    char& odd = sides.odd[at(parts.label[at(v)])];
    if (odd == 0 && has_loop(terms[0], v)) {
      odd = 1;
      --open;
    }
  }
  if (open == 0) return sides;
  const Graph graph = terms.size() == 1 ? terms[0] : symmetrised(terms[0]);
  if (!graph.implicit()) {
    colour(graph, parts.label, sides);
    return sides;
  }
  const auto label = double_cover(graph);
  sides.side.resize(at(n));
  for (Offset v = 0; v < n; ++v) {
    if (label[at(v)] == label[at(n + v)]) sides.odd[at(parts.label[at(v)])] = 1;
    sides.side[at(v)] = label[at(v)] > label[at(n + v)] ? 1 : 0;
  }
  return sides;
}

}  // namespace manyhop::spectral

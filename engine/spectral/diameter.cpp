// iFUB: from a central vertex u, distances of vertices further than i from u are at most the largest
// eccentricity found among them, and all others are within 2 (i - 1) of each other.
#include <algorithm>
#include <cstdint>
#include <utility>

#include "manyhop/engine/spectral/expansion.hpp"
#include "manyhop/engine/spectral/operators.hpp"
#include "manyhop/engine/spectral/twins.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::spectral {
namespace {

constexpr std::size_t kBits = 64;
constexpr Index kDeep = 48;  // levels from which 64 searches of their own beat one of 64 bits

/// The largest eccentricity of up to 64 sources: steps until no bit moves.   Cost O(steps (n + m)).
Index joint_eccentricity(const Graph& graph, std::span<const Index> sources) {
  const auto n = at(graph.n_rows());
  std::vector<std::uint64_t> reached(n), next(n);
  for (std::size_t b = 0; b < sources.size(); ++b) reached[at(sources[b])] |= std::uint64_t{1} << b;
  const std::uint64_t all =
      sources.size() == kBits ? ~std::uint64_t{0} : (std::uint64_t{1} << sources.size()) - 1;
  for (Index steps = 0;; ++steps) {
    check_stop();
    bool complete = true;
    for (std::size_t v = 0; v < n; ++v) {
      std::uint64_t word = reached[v];
      if (word != all)
        for (const Index u : graph.row(static_cast<Offset>(v))) {
          word |= reached[at(u)];
          if (word == all) break;
        }
      next[v] = word;
      complete = complete && reached[v] == all;
    }
    if (complete) return steps;
    reached.swap(next);
  }
}

struct Sweeps {
  Offset lower = 0;
  Search centre;
  double work = 0;
  Offset searches = 0;
};

/// Four sweeps (Crescenzi et al.): far ends of far ends, and the middle of the path between them.
Sweeps four_sweeps(const SymmetricGraph& s, double cost) {
  Sweeps result;
  const auto middle = [](const Graph& graph, const Search& from, Index end) {
    Index v = end;
    for (Index level = from.eccentricity; level > from.eccentricity / 2; --level) {
      Index before = v;
      graph.for_each_run(v, [&](Run run) {
        for (Index u = run.begin; u < run.end && before == v; ++u)
          if (from.distance[at(u)] == level - 1) before = u;
      });
      v = before;
    }
    return v;
  };
  auto start = static_cast<Index>(std::max_element(s.degree.begin(), s.degree.end()) - s.degree.begin());
  for (int pass = 0; pass < 2; ++pass) {
    const Search first = search(s.graph, start);
    const Search second = search(s.graph, first.order.back());
    result.lower = std::max<Offset>({result.lower, first.eccentricity, second.eccentricity});
    start = middle(s.graph, second, second.order.back());
    result.work += 2 * cost;
    result.searches += 2;
  }
  result.centre = search(s.graph, start);
  result.lower = std::max<Offset>(result.lower, result.centre.eccentricity);
  result.work += cost;
  ++result.searches;
  return result;
}

/// What one vertex of each class sees of the others; twins of each other are as far apart as `between` says.
SymmetricGraph classes_of(const Twins& twins, Offset& between) {
  SymmetricGraph base;
  base.graph = twins.base;
  base.degree = row_sums(base.graph, false);
  base.volume = static_cast<double>(base.graph.nnz());
  base.parts.count = 1;
  between = 0;
  for (Offset c = 0; c < base.n(); ++c) {
    if (twins.sizes[at(c)] < 2) continue;
    // Not next to each other, they meet over any vertex that they see.
    between = std::max(between, Offset{has_loop(base.graph, c) ? 1 : 2});
  }
  return base;
}

}  // namespace

Diameter diameter(const Context& ctx, const SymmetricGraph& s, double max_work) {
  const ThreadScope scope(ctx.threads, ctx.stop);
  Diameter result;
  if (s.n() == 1) {
    result.lower = result.upper = 0;
    return result;
  }
  if (!s.connected()) return result;
  if (const auto twins = find_twins(s.graph)) {
    Offset between = 0;
    result = diameter(ctx, classes_of(*twins, between), max_work);
    for (auto* bound : {&result.lower, &result.upper}) *bound = std::max(**bound, between);
    return result;
  }
  const auto cost = static_cast<double>(s.stored() + 2 * s.n());
  Sweeps sweeps = four_sweeps(s, cost);
  result.searches = sweeps.searches;
  Offset lower = sweeps.lower;
  const auto& order = sweeps.centre.order;
  const auto& distance = sweeps.centre.distance;
  Offset level = sweeps.centre.eccentricity;
  Offset upper = std::min<Offset>(2 * level, s.n() - 1);
  if (s.graph.nnz() == s.n() * s.n() || s.graph.nnz() == s.n() * (s.n() - 1))
    upper = std::min<Offset>(upper, 1);
  const bool joint = !s.graph.implicit() && lower < kDeep;
  const double group_cost = joint ? cost * static_cast<double>(lower + 1) : cost * kBits;
  constexpr std::size_t kWave =
      8;  // groups between looks at the bounds: fixed, for the same work on any machine
  std::size_t end = order.size();
  while (lower < upper && level > 0) {
    std::size_t begin = end;
    while (begin > 0 && distance[at(order[begin - 1])] == level) --begin;
    bool finished = true;
    for (std::size_t wave = begin; wave < end && lower < upper; wave += kWave * kBits) {
      const std::size_t wave_end = std::min(end, wave + kWave * kBits);
      const std::size_t groups = (wave_end - wave + kBits - 1) / kBits;
      const double wave_cost =
          joint ? group_cost * static_cast<double>(groups) : cost * static_cast<double>(wave_end - wave);
      if (sweeps.work + wave_cost > max_work) {
        finished = false;
        break;
      }
      sweeps.work += wave_cost;
      std::vector<Index> deepest(groups);
      parallel_for(static_cast<std::int64_t>(groups), [&](std::int64_t g) {
        const std::size_t from = wave + at(g) * kBits;
        const std::size_t to = std::min(wave_end, from + kBits);
        if (joint) {
          deepest[at(g)] = joint_eccentricity(s.graph, std::span(order).subspan(from, to - from));
          return;
        }
        for (std::size_t k = from; k < to; ++k)
          deepest[at(g)] = std::max(deepest[at(g)], search(s.graph, order[k]).eccentricity);
      });
      for (const Index e : deepest) lower = std::max<Offset>(lower, e);
      result.searches += static_cast<Offset>(wave_end - wave);
    }
    if (!finished) break;
    // Whoever is at this level or further has been searched; the others are this close to each other.
    upper = std::min(upper, std::max<Offset>(lower, 2 * (level - 1)));
    end = begin;
    --level;
  }
  result.lower = lower;
  result.upper = std::max(lower, upper);
  return result;
}

}  // namespace manyhop::spectral

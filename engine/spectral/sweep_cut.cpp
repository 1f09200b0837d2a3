#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <string>

#include "manyhop/engine/spectral/expansion.hpp"
#include "manyhop/engine/spectral/operator.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::spectral {
namespace {

constexpr Offset kGrain = 1024;  // rows of a chunk

/// Members counted by position, for runs of an implicit graph.
class Counter {
 public:
  explicit Counter(Offset n) : tree_(at(n) + 1) {}
  void add(Offset v) {
    for (std::size_t i = at(v) + 1; i < tree_.size(); i += i & (~i + 1)) ++tree_[i];
  }
  Offset below(Offset v) const {
    Offset sum = 0;
    for (std::size_t i = at(v); i > 0; i -= i & (~i + 1)) sum += tree_[i];
    return sum;
  }

 private:
  std::vector<Offset> tree_;
};

/// edges[k] = weight of the edges that leave the first k + 1 vertices of the order.
std::vector<double> prefix_cuts(const SymmetricGraph& s, const std::vector<Index>& order) {
  const std::size_t n = order.size();
  std::vector<double> edges(n);
  if (s.graph.implicit()) {
    Counter members(s.n());
    double cut = 0;
    for (std::size_t k = 0; k < n; ++k) {
      if ((k & 0xFFFF) == 0) check_stop();
      const Index v = order[k];
      Offset inside = 0;
      bool loop = false;
      s.graph.for_each_run(v, [&](Run run) {
        inside += members.below(run.end) - members.below(run.begin);
        loop = loop || (run.begin <= v && v < run.end);
      });
      cut += s.degree[at(v)] - (loop ? 1 : 0) - 2 * static_cast<double>(inside);
      members.add(v);
      edges[k] = cut;
    }
    return edges;
  }
  std::vector<Index> rank(n);
  for (std::size_t k = 0; k < n; ++k) rank[at(order[k])] = static_cast<Index>(k);
  // An edge is cut by the prefixes that end between its two vertices: it counts for the vertex that comes
  // first and against the other, so each vertex sums its own edges.
  parallel_ranges(s.n(), kGrain, [&](Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i) {
      const Index mine = rank[at(i)];
      double sum = 0;
      s.for_each_edge(i, [&](Index j, double w) {
        if (j != i) sum += rank[at(j)] > mine ? w : -w;
      });
      edges[at(mine)] = sum;
    }
  });
  std::partial_sum(edges.begin(), edges.end(), edges.begin());
  // What rounding of weights leaves of a prefix that no edge leaves may lie below 0.
  for (double& sum : edges) sum = std::max(sum, 0.0);
  return edges;
}

/// Weight of the edges that leave the vertices inside, from the edges alone: a prefix sum loses a light edge
/// among heavy ones.
double leaving(const SymmetricGraph& s, const std::vector<char>& inside) {
  std::vector<double> parts(at((s.n() + kGrain - 1) / kGrain));
  parallel_ranges(s.n(), kGrain, [&](Offset begin, Offset end) {
    double sum = 0;
    for (Offset i = begin; i < end; ++i) {
      if (inside[at(i)] == 0) continue;
      s.for_each_edge(i, [&](Index j, double w) { sum += inside[at(j)] == 0 ? w : 0.0; });
    }
    parts[at(begin / kGrain)] = sum;
  });
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

/// Fills what follows from `inside`, volume and edges.
void finish(const SymmetricGraph& s, Cut& cut) {
  const Offset n = s.n();
  cut.size = std::count(cut.inside.begin(), cut.inside.end(), char{1});
  const double least = std::min(cut.volume, s.volume - cut.volume);
  cut.conductance = least > 0 ? cut.edges / least : 0;
  const Offset smaller = std::min(cut.size, n - cut.size);
  if (smaller == 0) return;
  cut.edge_expansion = cut.edges / static_cast<double>(smaller);
  const char side = cut.size <= n - cut.size ? 1 : 0;
  // Vertices next to the side: those beyond with an edge, or a run, that leads into it.
  std::vector<Index> before;  // vertices of the side
  if (s.graph.implicit()) {
    before.resize(at(n) + 1);
    for (Offset v = 0; v < n; ++v) before[at(v) + 1] = before[at(v)] + (cut.inside[at(v)] == side ? 1 : 0);
  }
  const auto reaches = [&](Offset v) {
    if (!s.graph.implicit()) {
      const auto row = s.graph.row(v);
      return std::any_of(row.begin(), row.end(), [&](Index u) { return cut.inside[at(u)] == side; });
    }
    bool found = false;
    s.graph.for_each_run(v, [&](Run run) { found = found || before[at(run.end)] > before[at(run.begin)]; });
    return found;
  };
  std::atomic<Offset> near{0};
  parallel_ranges(n, kGrain, [&](Offset begin, Offset end) {
    Offset found = 0;
    for (Offset v = begin; v < end; ++v) {
      if (cut.inside[at(v)] == side) continue;
      found += reaches(v) ? 1 : 0;
    }
    near += found;
  });
  cut.vertex_expansion = static_cast<double>(near.load()) / static_cast<double>(smaller);
}

Cut least_component(const SymmetricGraph& s) {
  std::vector<double> volume(at(s.parts.count));
  for (Offset v = 0; v < s.n(); ++v) volume[at(s.parts.label[at(v)])] += s.degree[at(v)];
  const auto least = std::min_element(volume.begin(), volume.end());
  const auto label = static_cast<Index>(least - volume.begin());
  Cut cut;
  cut.inside.resize(at(s.n()));
  for (std::size_t v = 0; v < cut.inside.size(); ++v) cut.inside[v] = s.parts.label[v] == label ? 1 : 0;
  cut.volume = *least;
  finish(s, cut);
  return cut;
}

}  // namespace

std::optional<Cut> sweep_cut(const Context& ctx, const SymmetricGraph& s, std::span<const double> vector) {
  const Offset n = s.n();
  if (n < 2) return std::nullopt;
  const ThreadScope scope(ctx.threads, ctx.stop);
  if (s.parts.count > 1) return least_component(s);
  if (vector.size() != at(n))
    throw ValueError("sweep_cut wants a vector of " + std::to_string(n) + " numbers, got " +
                     std::to_string(vector.size()));
  const std::vector<Index> order = sweep_order(s, vector);
  const auto edges = prefix_cuts(s, order);
  std::size_t best = 0;
  double best_ratio = 0, best_volume = 0, volume = 0;
  for (std::size_t k = 0; k + 1 < order.size(); ++k) {
    volume += s.degree[at(order[k])];
    const double ratio = edges[k] / std::min(volume, s.volume - volume);
    if (k == 0 || ratio < best_ratio) {
      best = k;
      best_ratio = ratio;
      best_volume = volume;
    }
  }
  Cut cut;
  const bool first_side = best_volume <= s.volume - best_volume;
  cut.inside.assign(at(n), first_side ? 0 : 1);
  for (std::size_t k = 0; k <= best; ++k) cut.inside[at(order[k])] = first_side ? 1 : 0;
  cut.volume = first_side ? best_volume : s.volume - best_volume;
  cut.edges = s.weighted ? leaving(s, cut.inside) : edges[best];
  finish(s, cut);
  return cut;
}

Cheeger cheeger(const SymmetricGraph& s, std::optional<double> lambda2) {
  if (s.n() < 2 || !lambda2) return {};
  const double gap = s.parts.count > 1 ? 0.0 : std::max(0.0, 1 - *lambda2);
  return {gap / 2, std::sqrt(2 * gap)};
}

}  // namespace manyhop::spectral

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "manyhop/engine/spectral/operator.hpp"
#include "manyhop/engine/spectral/probes.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/base/random.hpp"

namespace manyhop::spectral {
namespace {

constexpr std::uint32_t kPairStage = 0x44495343;
constexpr Offset kPrefixes = 512;

/// The discrepancy of one pair from its edges and volumes.
double of_pair(double edges, double a, double b, double volume) {
  const double size = a * b * (1 - a / volume) * (1 - b / volume);
  return size > 1e-12 * volume * volume ? std::abs(edges - a * b / volume) / std::sqrt(size) : 0;
}

/// All pairs of prefixes of an order, by sums over blocks of the order.
double of_sweep(const SymmetricGraph& s, const std::vector<double>& vector, std::int64_t& pairs) {
  const auto n = at(s.n());
  const std::vector<Index> order = sweep_order(s, vector);
  const auto blocks = at(std::min(s.n(), kPrefixes));
  std::vector<Index> block(n);
  std::vector<double> volume(blocks);
  for (std::size_t k = 0; k < n; ++k) {
    block[at(order[k])] = static_cast<Index>(k * blocks / n);
    volume[k * blocks / n] += s.degree[at(order[k])];
  }
  std::vector<double> edges(blocks * blocks);
  for (Offset i = 0; i < s.n(); ++i) {
    if ((i & 0xFFF) == 0) check_stop();
    double* row = edges.data() + at(block[at(i)]) * blocks;
    s.for_each_edge(i, [&](Index j, double w) { row[block[at(j)]] += w; });
  }
  std::partial_sum(volume.begin(), volume.end(), volume.begin());
  for (std::size_t a = 0; a < blocks; ++a) {
    std::partial_sum(edges.begin() + static_cast<std::ptrdiff_t>(a * blocks),
                     edges.begin() + static_cast<std::ptrdiff_t>((a + 1) * blocks),
                     edges.begin() + static_cast<std::ptrdiff_t>(a * blocks));
    if (a > 0)
      for (std::size_t b = 0; b < blocks; ++b) edges[a * blocks + b] += edges[(a - 1) * blocks + b];
  }
  double largest = 0;
  for (std::size_t a = 0; a + 1 < blocks; ++a)
    for (std::size_t b = 0; b <= a; ++b) {
      largest = std::max(largest, of_pair(edges[a * blocks + b], volume[a], volume[b], s.volume));
      ++pairs;
    }
  return largest;
}

}  // namespace

Discrepancy discrepancy(const Context& ctx, const SymmetricGraph& s,
                        const std::vector<std::vector<double>>& vectors, int random_pairs, std::uint64_t seed,
                        double max_work) {
  if (random_pairs < 0)
    throw ValueError("random_pairs is " + std::to_string(random_pairs) + " and must be 0 or more");
  for (const auto& vector : vectors)
    if (vector.size() != at(s.n()))
      throw ValueError("discrepancy wants vectors of " + std::to_string(s.n()) + " numbers, got " +
                       std::to_string(vector.size()));
  const ThreadScope scope(ctx.threads, ctx.stop);
  Discrepancy result;
  if (!s.connected() || s.n() < 2) return result;
  double largest = 0;
  // Blocks of an implicit graph would write its edges out one by one.
  if (static_cast<double>(s.graph.nnz()) <= max_work)
    for (const auto& vector : vectors) largest = std::max(largest, of_sweep(s, vector, result.sweep_pairs));
  const auto n = at(s.n());
  const Product adjacency(s.graph, s.weighted);
  const double pair_work = static_cast<double>(s.stored() + 4 * s.n());
  result.random_pairs = static_cast<std::int64_t>(std::min<double>(random_pairs, max_work / pair_work));
  result.thinned = result.random_pairs < random_pairs || (!vectors.empty() && s.n() > kPrefixes) ||
                   static_cast<double>(s.graph.nnz()) > max_work;
  // Pair by pair: a product has threads inside and takes one caller at a time.
  std::vector<double> a(n), b(n), moved(n);
  for (std::int64_t pair = 0; pair < result.random_pairs; ++pair) {
    check_stop();
    CounterRng rng(seed, kPairStage, static_cast<std::uint64_t>(pair));
    const double share_a = rng.uniform(), share_b = rng.uniform();
    double volume_a = 0, volume_b = 0;
    for (std::size_t v = 0; v < n; ++v) {
      a[v] = rng.uniform() < share_a ? 1 : 0;
      b[v] = rng.uniform() < share_b ? 1 : 0;
      volume_a += a[v] * s.degree[v];
      volume_b += b[v] * s.degree[v];
    }
    adjacency.apply(b.data(), moved.data());
    largest = std::max(largest, of_pair(dot(a, moved), volume_a, volume_b, s.volume));
  }
  result.value = largest;
  return result;
}

}  // namespace manyhop::spectral

// smallworld(k, p): Watts and Strogatz, "Collective dynamics of small-world networks", Nature 393 (1998).
#include <fmt/format.h>

#include <numeric>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/patterns/edge_set.hpp"
#include "manyhop/graphs/patterns/source.hpp"

namespace manyhop::patterns {

namespace {

// Draws for one new end; an edge whose vertex sees nearly all others may stay where it is.
constexpr int kTries = 256;

}  // namespace

Source smallworld(const Place& place, std::uint64_t k, double p, std::uint64_t seed) {
  place.want_square("smallworld");
  const Offset n = place.n_rows;
  if (k % 2 == 1) place.fail(fmt::format("smallworld: k = {} is odd; {} and {} fit", k, k - 1, k + 1));
  if (n > 0 && k > static_cast<std::uint64_t>(n - 1) && !place.clip) {
    place.fail(fmt::format("smallworld: k = {} is above n - 1 = {}", k, n - 1));
  }
  const Offset half = capped(k, std::max<Offset>(n - 1, 0)) / 2;
  require_memory(place, static_cast<double>(n) * (16 + 60.0 * static_cast<double>(half)),
                 fmt::format("smallworld({})", k));
  // A ring where every vertex sees its half next ones; each such edge moves its far end with probability p.
  std::vector<Index> u;
  std::vector<Index> v;
  u.reserve(static_cast<std::size_t>(n * half));
  v.reserve(static_cast<std::size_t>(n * half));
  std::vector<Offset> degree(static_cast<std::size_t>(n), 2 * half);
  EdgeSet edges(n, n * half);
  for (Offset s = 1; s <= half; ++s) {
    check_stop();
    for (Offset i = 0; i < n; ++i) {
      u.push_back(static_cast<Index>(i));
      v.push_back(static_cast<Index>((i + s) % n));
      edges.insert(u.back(), v.back());
    }
  }
  for (std::size_t e = 0; p > 0 && e < u.size(); ++e) {
    if (e % 65536 == 0) check_stop();
    CounterRng rng(seed, kStageSmallworld, e);
    const auto at = static_cast<std::size_t>(u[e]);
    if (rng.uniform() >= p || degree[at] >= n - 1) continue;
    for (int tries = 0; tries < kTries; ++tries) {
      const auto end = static_cast<Index>(rng.below(static_cast<std::uint64_t>(n)));
      if (end == u[e] || edges.contains(u[e], end)) continue;
      edges.erase(u[e], v[e]);
      edges.insert(u[e], end);
      --degree[static_cast<std::size_t>(v[e])];
      ++degree[static_cast<std::size_t>(end)];
      v[e] = end;
      break;
    }
  }
  return from_graph(undirected_graph(n, u, v));
}

}  // namespace manyhop::patterns

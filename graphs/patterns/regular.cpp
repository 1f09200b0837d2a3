// regular(d): the pairing model, repaired by switchings.
//
// d stubs of each vertex are paired at random; loops and repeated edges are then switched with random good
// edges, (u v)(x y) -> (u x)(v y), until none is left. McKay and Wormald, "Uniform generation of random
// regular graphs of moderate degree", J. Algorithms 11 (1990), analyse the exact form; this one is
// approximately uniform and takes O(n d).
#include <fmt/format.h>

#include <numeric>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/patterns/edge_set.hpp"
#include "manyhop/graphs/patterns/source.hpp"

namespace manyhop::patterns {

namespace {

constexpr int kAttempts = 32;            // pairings before the circulant takes over (tiny graphs only)
constexpr int kSwitchTries = 1000;       // random partners for one bad pair
constexpr std::size_t kPoll = 1U << 20;  // draws between looks at the stop flag

struct Pairs {
  std::vector<Index> u;
  std::vector<Index> v;
};

std::size_t pick(CounterRng& rng, std::size_t bound) { return static_cast<std::size_t>(rng.below(bound)); }

// A random pairing made simple; false when some bad pair found no partner.
bool pair_and_switch(Offset n, Offset d, std::uint64_t seed, std::uint64_t attempt, Pairs& pairs) {
  const std::size_t m = static_cast<std::size_t>(n) * static_cast<std::size_t>(d) / 2;
  std::vector<Index> stubs(2 * m);
  for (std::size_t s = 0; s < stubs.size(); ++s) {
    stubs[s] = static_cast<Index>(s / static_cast<std::size_t>(d));
  }
  CounterRng pairing(seed, kStageRegularPairing, attempt);
  for (std::size_t s = stubs.size(); s-- > 1;) {
    if (s % kPoll == 0) check_stop();
    std::swap(stubs[s], stubs[pick(pairing, s + 1)]);
  }
  pairs.u.resize(m);
  pairs.v.resize(m);
  for (std::size_t e = 0; e < m; ++e) {
    pairs.u[e] = stubs[2 * e];
    pairs.v[e] = stubs[2 * e + 1];
  }
  std::vector<Index>().swap(stubs);

  EdgeSet edges(n, static_cast<Offset>(m));
  std::vector<char> good(m);
  std::vector<std::size_t> bad;
  constexpr std::size_t kAhead = 12;  // table slots are far apart: ask for them before they are needed
  for (std::size_t e = 0; e < m; ++e) {
    if (e % kPoll == 0) check_stop();
    if (e + kAhead < m) edges.prefetch(pairs.u[e + kAhead], pairs.v[e + kAhead]);
    good[e] = pairs.u[e] != pairs.v[e] && edges.insert(pairs.u[e], pairs.v[e]) ? 1 : 0;
    if (good[e] == 0) bad.push_back(e);
  }
  CounterRng switching(seed, kStageRegularSwitch, attempt);
  for (const std::size_t e : bad) {
    check_stop();
    int tries = 0;
    for (; tries < kSwitchTries; ++tries) {
      const std::size_t other = pick(switching, m);
      const bool turned = (switching.next32() & 1U) != 0;
      if (good[other] == 0) continue;
      const Index u = pairs.u[e];
      const Index v = pairs.v[e];
      const Index x = turned ? pairs.v[other] : pairs.u[other];
      const Index y = turned ? pairs.u[other] : pairs.v[other];
      const bool same = (u == v && x == y) || (u == y && x == v);
      if (u == x || v == y || same || edges.contains(u, x) || edges.contains(v, y)) continue;
      edges.erase(x, y);
      edges.insert(u, x);
      edges.insert(v, y);
      pairs.u[e] = u;
      pairs.v[e] = x;
      pairs.u[other] = v;
      pairs.v[other] = y;
      good[e] = 1;
      break;
    }
    if (tries == kSwitchTries) return false;
  }
  return true;
}

// The circulant graph stirred by random switchings: always simple and regular.
void stir_circulant(Offset n, Offset d, std::uint64_t seed, Pairs& pairs) {
  pairs.u.clear();
  pairs.v.clear();
  EdgeSet edges(n, n * d / 2);
  const auto add = [&](Offset u, Offset v) {
    pairs.u.push_back(static_cast<Index>(u));
    pairs.v.push_back(static_cast<Index>(v));
    edges.insert(static_cast<Index>(u), static_cast<Index>(v));
  };
  for (Offset s = 1; s <= d / 2; ++s) {
    for (Offset i = 0; i < n; ++i) add(i, (i + s) % n);
  }
  if (d % 2 == 1) {
    for (Offset i = 0; i < n / 2; ++i) add(i, i + n / 2);
  }
  CounterRng rng(seed, kStageRegularSwitch, kAttempts);
  const std::size_t m = pairs.u.size();
  for (std::size_t step = 0; m > 0 && step < 20 * m; ++step) {
    if (step % kPoll == 0) check_stop();
    const std::size_t e = pick(rng, m);
    const std::size_t f = pick(rng, m);
    if ((rng.next32() & 1U) != 0) std::swap(pairs.u[f], pairs.v[f]);
    const Index u = pairs.u[e];
    const Index v = pairs.v[e];
    const Index x = pairs.u[f];
    const Index y = pairs.v[f];
    if (e == f || u == x || v == y || (u == y && v == x) || edges.contains(u, x) || edges.contains(v, y))
      continue;
    edges.erase(u, v);
    edges.erase(x, y);
    edges.insert(u, x);
    edges.insert(v, y);
    pairs.v[e] = x;
    pairs.u[f] = v;
  }
}

Graph sparse_regular(Offset n, Offset d, std::uint64_t seed) {
  Pairs pairs;
  bool done = false;
  for (int attempt = 0; attempt < kAttempts && !done; ++attempt) {
    done = pair_and_switch(n, d, seed, static_cast<std::uint64_t>(attempt), pairs);
  }
  if (!done) stir_circulant(n, d, seed, pairs);
  return undirected_graph(n, pairs.u, pairs.v);
}

}  // namespace

Source regular(const Place& place, std::uint64_t degree, std::uint64_t seed) {
  place.want_square("regular");
  const Offset n = place.n_rows;
  if (n > 0 && degree > static_cast<std::uint64_t>(n - 1) && !place.clip) {
    place.fail(fmt::format("regular: d = {} is above n - 1 = {}", degree, n - 1));
  }
  Offset d = capped(degree, std::max<Offset>(n - 1, 0));
  if (n % 2 == 1 && d % 2 == 1) {
    if (!place.clip) {
      place.fail(fmt::format("regular: n * d = {} * {} is odd; n = {} and n = {} fit, or d = {} and d = {}",
                             n, d, n - 1, n + 1, d - 1, d + 1));
    }
    --d;
  }
  const bool dense = d > (n - 1) / 2;
  const Offset drawn = dense ? n - 1 - d : d;
  require_memory(place, static_cast<double>(n) * (16 + 44.0 * static_cast<double>(drawn)),
                 fmt::format("regular({})", degree));
  Graph graph = sparse_regular(n, drawn, seed);
  if (!dense) return from_graph(std::move(graph));
  Source source;
  source.edges = static_cast<double>(n) * static_cast<double>(d);
  source.runs = static_cast<double>(n) * static_cast<double>(std::min(drawn + 2, d));
  source.row = [graph, n](Offset i, RunList& out) {
    // All columns but i and those of the complement.
    Index begin = 0;
    const auto leave_out = [&](Index column) {
      append_run(out, {begin, column});
      begin = column + 1;
    };
    bool own = false;
    for (const Index column : graph.row(i)) {
      if (!own && column > i) {
        leave_out(static_cast<Index>(i));
        own = true;
      }
      leave_out(column);
    }
    if (!own) leave_out(static_cast<Index>(i));
    append_run(out, {begin, static_cast<Index>(n)});
  };
  return source;
}

}  // namespace manyhop::patterns

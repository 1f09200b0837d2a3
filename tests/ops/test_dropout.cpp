#include "manyhop/ops/dropout.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <set>

#include "manyhop/graphs/base/error.hpp"

using namespace manyhop;

TEST_CASE("dropout: threshold and scale of a probability") {
  CHECK_FALSE(Dropout::of(0).active());
  CHECK(Dropout::of(0).scale == 1);
  CHECK(Dropout::of(0.5).threshold == 0x80000000U);
  CHECK(Dropout::of(0.5).scale == 2);
  CHECK(Dropout::of(0.1).threshold == 429496730U);  // round(0.1 * 2^32)
  CHECK(Dropout::of(std::nextafter(1.0, 0.0)).threshold == 0xFFFFFFFFU);
  for (const double bad : {-0.1, 1.0, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
    CHECK_THROWS_AS(Dropout::of(bad), ValueError);
  }
}

TEST_CASE("dropout: the four-wide form is the single form") {
  const DropoutStream stream(7, DropoutStream::Use::edges, 2, 3);
  for (const Offset e : {Offset{0}, Offset{3}, Offset{4}, Offset{1} << 33, (Offset{1} << 33) + 1}) {
    CHECK(stream.edge_block(e / 4)[static_cast<std::size_t>(e % 4)] == edge_bits(7, 2, 3, e));
  }
  const DropoutStream hops(7, DropoutStream::Use::hops, 2, 3);
  CHECK(hops.hop_block(1, 5, 2)[3] == hop_bits(7, 2, 3, 1, 5, 11));
}

TEST_CASE("dropout: every part of the key matters") {
  std::set<std::uint32_t> seen;
  seen.insert(edge_bits(1, 0, 0, 0));
  seen.insert(edge_bits(2, 0, 0, 0));
  seen.insert(edge_bits(std::uint64_t{1} << 32 | 1, 0, 0, 0));
  seen.insert(edge_bits(1, 1, 0, 0));
  seen.insert(edge_bits(1, Offset{1} << 32, 0, 0));
  seen.insert(edge_bits(1, 0, 1, 0));
  seen.insert(edge_bits(1, 0, 0, 1));
  seen.insert(edge_bits(1, 0, 0, 4));
  seen.insert(edge_bits(1, 0, 0, Offset{1} << 34));
  seen.insert(hop_bits(1, 0, 0, 0, 0, 0));
  seen.insert(hop_bits(1, 0, 0, 1, 0, 0));
  seen.insert(hop_bits(1, 0, 0, 0, 1, 0));
  seen.insert(hop_bits(1, 0, 0, 0, 0, 1));
  seen.insert(hop_bits(1, 0, 0, 0, 0, 4));
  CHECK(seen.size() == 14);
}

// The masks are part of the contract (a saved seed reproduces a training run): these numbers were written
// down once and hold on every machine.
TEST_CASE("dropout: share kept and known masks") {
  const Dropout dropout = Dropout::of(0.1);
  int kept = 0;
  for (Offset e = 0; e < 100000; ++e) kept += keep_edge(5, 0, 1, e, dropout.threshold) ? 1 : 0;
  CHECK(std::abs(kept - 90000) < 5 * std::sqrt(100000 * 0.09));
  kept = 0;
  for (Offset token = 0; token < 1000; ++token) {
    for (Offset c = 0; c < 100; ++c) kept += keep_hop(5, 0, 1, 2, token, c, dropout.threshold) ? 1 : 0;
  }
  CHECK(std::abs(kept - 90000) < 5 * std::sqrt(100000 * 0.09));
  CHECK(edge_bits(1, 2, 3, 4) == 1726055380U);
  CHECK(hop_bits(1, 2, 3, 4, 5, 6) == 1838865260U);
}

#include "manyhop/graphs/base/random.hpp"

#include <doctest/doctest.h>

#include <array>
#include <set>
#include <vector>

using namespace manyhop;

using Words = std::array<std::uint32_t, 4>;

// Known answers of philox4x32-10 from the Random123 distribution (kat_vectors).
TEST_CASE("philox known answers") {
  CHECK(philox({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  const std::uint32_t ones = 0xffffffff;
  CHECK(philox({ones, ones, ones, ones}, {ones, ones}) ==
        Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("streams are keyed by seed, stage and index") {
  std::set<std::uint64_t> firsts;
  for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 32}) {
    for (const std::uint32_t stage : {0U, 1U}) {
      for (const std::uint64_t index : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 32}) {
        CounterRng rng(seed, stage, index);
        CounterRng again(seed, stage, index);
        const std::uint64_t first = rng.next64();
        CHECK(first == again.next64());
        firsts.insert(first);
      }
    }
  }
  CHECK(firsts.size() == 18);
  CounterRng rng(0, 0, 0);
  CHECK(rng.next32() == 0x6627e8d5);
  CHECK(rng.next64() == 0xbc57ac4ce169c58dULL);
}

TEST_CASE("below is in range and even") {
  CounterRng rng(1, 2, 3);
  for (const std::uint64_t bound :
       {std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{3}, std::uint64_t{1} << 32,
        (std::uint64_t{1} << 32) + 1, ~std::uint64_t{0}}) {
    for (int draw = 0; draw < 200; ++draw) CHECK(rng.below(bound) < bound);
  }
  std::array<int, 6> count{};
  constexpr int kDraws = 60000;
  for (int draw = 0; draw < kDraws; ++draw) ++count[rng.below(6)];
  double chi = 0;
  for (const int c : count) chi += (c - 10000.0) * (c - 10000.0) / 10000.0;
  CHECK(chi < 20.5);  // 5 degrees of freedom: 0.1 %; the draw is fixed, so this never flickers
  double sum = 0;
  for (int draw = 0; draw < kDraws; ++draw) {
    const double u = rng.uniform();
    CHECK_UNARY(u >= 0 && u < 1);
    sum += u;
  }
  CHECK(sum / kDraws == doctest::Approx(0.5).epsilon(0.01));
}

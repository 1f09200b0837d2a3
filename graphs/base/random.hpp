// Counter-based random numbers: (seed, stage, index) names a stream, so the same draw comes out on every
// machine, thread count and run. Philox 4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2,
// 3", SC 2011.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace manyhop {

/// Ten rounds of Philox 4x32 on counter under key.
constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                              std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53U} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57U} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return counter;
}

/// A stream of draws for one (seed, stage, index). `stage` separates uses of one seed (an atom of a pattern,
/// dropout).
class CounterRng {
 public:
  CounterRng(std::uint64_t seed, std::uint32_t stage, std::uint64_t index)
      : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
        counter_{0, stage, static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32)} {}

  std::uint32_t next32() {
    if (used_ == 4) refill();
    return block_[used_++];
  }

  std::uint64_t next64() {
    const std::uint64_t low = next32();
    return low | (std::uint64_t{next32()} << 32);
  }

  /// Uniform in [0, bound), bound >= 1, without bias (Lemire's multiply with rejection).
  std::uint64_t below(std::uint64_t bound) {
    if (bound <= 0xFFFFFFFFU) {
      const auto small = static_cast<std::uint32_t>(bound);
      std::uint64_t product = std::uint64_t{next32()} * small;
      if (static_cast<std::uint32_t>(product) < small) {
        const std::uint32_t threshold = (0U - small) % small;
        while (static_cast<std::uint32_t>(product) < threshold) product = std::uint64_t{next32()} * small;
      }
      return product >> 32;
    }
    const std::uint64_t limit = ~std::uint64_t{0} - ~std::uint64_t{0} % bound;
    std::uint64_t draw = next64();
    while (draw >= limit) draw = next64();
    return draw % bound;
  }

  /// Uniform in [0, 1) with 53 bits.
  double uniform() { return static_cast<double>(next64() >> 11) * 0x1.0p-53; }

 private:
  void refill() {
    block_ = philox(counter_, key_);
    ++counter_[0];
    used_ = 0;
  }

  std::array<std::uint32_t, 2> key_;
  std::array<std::uint32_t, 4> counter_;
  std::array<std::uint32_t, 4> block_{};
  std::size_t used_ = 4;
};

}  // namespace manyhop

// The two inner loops of the probes, compiled for this very machine (bench/CMakeLists.txt: -march=native).
#include "peaks.hpp"

#include <cstring>

namespace manyhop::bench {
namespace {
using Lanes [[gnu::vector_size(64)]] = float;  // 16 floats; narrower machines take two or four registers
}

double multiply_add(long loops, float* sink) {
  constexpr int kChains = 10;  // latency 4, two units: at least 8 chains, and 10 fit the registers
  Lanes sums[kChains] = {};
  const Lanes factor = Lanes{} + 0.999F;
  const Lanes step = Lanes{} + *sink;
  for (long loop = 0; loop < loops; ++loop) {
    for (int chain = 0; chain < kChains; ++chain) sums[chain] = sums[chain] * factor + step;
  }
  Lanes total{};
  for (const Lanes& sum : sums) total += sum;
  *sink = total[0];
  return static_cast<double>(loops) * kChains * 16 * 2 * 1e-9;
}

float add_up(const float* values, std::size_t count) {
  Lanes sums[4] = {};
  for (std::size_t i = 0; i < count; i += 64) {
    for (std::size_t part = 0; part < 4; ++part) {
      Lanes lanes;
      std::memcpy(&lanes, values + i + part * 16, sizeof lanes);
      sums[part] += lanes;
    }
  }
  const Lanes total = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return total[0] + total[7] + total[15];
}

}  // namespace manyhop::bench

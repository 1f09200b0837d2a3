// The two inner loops of the probes, compiled for this very machine (bench/CMakeLists.txt: -march=native).
#include "peaks.hpp"

#include <cstring>

namespace manyhop::bench {
namespace {
#ifdef __AVX512F__
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;  // wider vectors of the language would spill on narrower machines
#endif
using Lanes [[gnu::vector_size(kLanes * sizeof(float))]] = float;
}  // namespace

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
  return static_cast<double>(loops) * kChains * kLanes * 2 * 1e-9;
}

float add_up(const float* values, std::size_t count) {
  constexpr std::size_t kParts = 64 / kLanes;
  Lanes sums[kParts] = {};
  for (std::size_t i = 0; i < count; i += 64) {
    for (std::size_t part = 0; part < kParts; ++part) {
      Lanes lanes;
      std::memcpy(&lanes, values + i + part * kLanes, sizeof lanes);
      sums[part] += lanes;
    }
  }
  Lanes total{};
  for (const Lanes& sum : sums) total += sum;
  return total[0] + total[kLanes - 1];
}

}  // namespace manyhop::bench

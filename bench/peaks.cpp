#include "peaks.hpp"

#include <algorithm>
#include <chrono>
#include <vector>

#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::bench {
namespace {

template <class F>
double seconds(F&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The best of three: a probe asks what the machine can do.
double bandwidth(const std::vector<float>& values, std::size_t each, int threads, int rounds) {
  double best = 0;
  std::vector<float> sinks(static_cast<std::size_t>(threads) * 16);
  for (int attempt = 0; attempt < 3; ++attempt) {
    const double time = seconds([&] {
      parallel_for(threads, [&](std::int64_t thread) {
        const float* mine = values.data() + static_cast<std::size_t>(thread) * each;
        float sum = 0;
        for (int round = 0; round < rounds; ++round) sum += add_up(mine, each);
        sinks[static_cast<std::size_t>(thread) * 16] = sum;
      });
    });
    best = std::max(best, static_cast<double>(each) * 4 * threads * rounds / time * 1e-9);
  }
  return best;
}

}  // namespace

Peaks measure_peaks() {
  const int threads = thread_count();
  Peaks peaks;
  for (int attempt = 0; attempt < 3; ++attempt) {
    std::vector<float> sinks(static_cast<std::size_t>(threads) * 16, 1e-3F);
    std::vector<double> work(static_cast<std::size_t>(threads));
    const double time = seconds([&] {
      parallel_for(threads, [&](std::int64_t thread) {
        const auto t = static_cast<std::size_t>(thread);
        work[t] = multiply_add(2000000 / 10, &sinks[t * 16]);
      });
    });
    double total = 0;
    for (const double share : work) total += share;
    peaks.fma_gflops = std::max(peaks.fma_gflops, total / time);
  }
  const auto count = static_cast<std::size_t>(threads);
  const std::size_t total = std::max<std::size_t>(std::size_t{1} << 26, count << 21);  // floats
  const std::vector<float> values(total, 1.0F);
  peaks.l2_gbs = bandwidth(values, std::size_t{1} << 16, threads, 80);
  peaks.l3_gbs = bandwidth(values, std::size_t{1} << 21, threads, 3);
  peaks.dram_gbs = bandwidth(values, total / count / 64 * 64, threads, 1);
  return peaks;
}

}  // namespace manyhop::bench

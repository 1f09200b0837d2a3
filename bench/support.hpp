// Shared by the binaries: registering the table's cases, verifying before timing, and the counters beside a
// time.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cases.hpp"
#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/ops/context.hpp"
#include "peaks.hpp"

namespace manyhop::bench {

/// Registers stage/name for each case that `takes` accepts.
void for_each_case(const std::string& stage, const std::function<bool(const Case&)>& takes,
                   void (*run)(benchmark::State&, const Case&));

/// Reports a failed verification and makes the program end with 1.
void fail(benchmark::State& state, const std::string& why);

/// GFLOP/s, GB/s (of bytes that must move at least), edges/s, and the machine's peaks measured just now.
void report(benchmark::State& state, double flops, double bytes, double edges);

/// Approximately normal numbers keyed by (seed, i); different values for different seeds.
template <class T>
std::vector<T> noise(std::size_t count, std::uint64_t seed) {
  std::vector<T> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t bits = CounterRng(seed, 0, i).next64();
    const double sum = static_cast<double>(bits & 0xffff) + static_cast<double>(bits >> 16 & 0xffff) +
                       static_cast<double>(bits >> 32 & 0xffff) + static_cast<double>(bits >> 48);
    values[i] = static_cast<T>(static_cast<float>((sum / 65536 - 2) * 1.7320508));
  }
  return values;
}

/// ||a - b|| / ||b||
template <class T>
double relative_error(std::span<const T> a, std::span<const T> b) {
  double difference = 0;
  double size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto x = static_cast<double>(static_cast<float>(a[i]));
    const auto y = static_cast<double>(static_cast<float>(b[i]));
    difference += (x - y) * (x - y);
    size += y * y;
  }
  return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}

}  // namespace manyhop::bench

#include "support.hpp"

#include <iostream>

#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::bench {
namespace {
bool failed = false;
}

void for_each_case(const std::string& stage, const std::function<bool(const Case&)>& takes,
                   void (*run)(benchmark::State&, const Case&)) {
  for (const Case& c : kCases) {
    if (!takes(c)) continue;
    benchmark::RegisterBenchmark((stage + "/" + std::string(c.name)).c_str(),
                                 [run, &c](benchmark::State& state) { run(state, c); })
        ->UseRealTime()
        ->MeasureProcessCPUTime()
        ->Unit(benchmark::kMillisecond);
  }
}

void fail(benchmark::State& state, const std::string& why) {
  failed = true;
  state.SkipWithError(why.c_str());
}

void report(benchmark::State& state, double flops, double bytes, double edges) {
  using benchmark::Counter;
  const auto rate = [&](double amount) {
    return Counter(amount, Counter::kIsIterationInvariantRate, Counter::kIs1000);
  };
  if (flops > 0) state.counters["flop/s"] = rate(flops);
  if (bytes > 0) state.counters["byte/s"] = rate(bytes);
  if (edges > 0) state.counters["edge/s"] = rate(edges);
  const Peaks peaks = measure_peaks();
  state.counters["peak_flop/s"] = Counter(peaks.fma_gflops * 1e9, Counter::kDefaults, Counter::kIs1000);
  state.counters["peak_L2_byte/s"] = Counter(peaks.l2_gbs * 1e9, Counter::kDefaults, Counter::kIs1000);
  state.counters["peak_L3_byte/s"] = Counter(peaks.l3_gbs * 1e9, Counter::kDefaults, Counter::kIs1000);
  state.counters["peak_DRAM_byte/s"] = Counter(peaks.dram_gbs * 1e9, Counter::kDefaults, Counter::kIs1000);
}

}  // namespace manyhop::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("commit", MANYHOP_COMMIT);
  benchmark::AddCustomContext("compiler", __VERSION__);
  benchmark::AddCustomContext("flags", MANYHOP_FLAGS);
  benchmark::AddCustomContext("threads", std::to_string(manyhop::thread_count()));
  if (benchmark::RunSpecifiedBenchmarks() == 0) {
    std::cerr << "no case matches\n";
    return 2;
  }
  benchmark::Shutdown();
  return manyhop::bench::failed ? 1 : 0;
}

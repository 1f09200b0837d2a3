// The projection onto the capped simplex, beside reading z and writing p once.
#include "manyhop/ops/sparsek.hpp"

#include <array>
#include <cstring>
#include <string>

#include "manyhop/graphs/base/parallel.hpp"
#include "support.hpp"

namespace manyhop::bench {
namespace {

struct Rows {
  const char* name;
  Offset rows;
  Offset n;
  double k;
};
constexpr std::array kRows{Rows{"tiny", 8, 300, 16}, Rows{"4k/64", 4096, 4096, 64},
                           Rows{"4k/1024", 4096, 4096, 1024}, Rows{"one/64", 1, 1 << 24, 64},
                           Rows{"one/1M", 1, 1 << 24, 1 << 20}};

template <class T>
void time_rows(benchmark::State& state, const Rows& c) {
  const Context ctx;
  auto z = noise<T>(static_cast<std::size_t>(c.rows * c.n), 1);
  std::vector<T> p(z.size());
  const auto run = [&](Backend backend, Offset rows, std::vector<T>& to) {
    Context here;
    here.backend = backend;
    sparsek<T>(here, {z.data(), {rows, c.n}}, c.k, {to.data(), {rows, c.n}});
  };
  if (c.n <= 4096) {
    const Offset some = std::min<Offset>(c.rows, 16);
    std::vector<T> expected(static_cast<std::size_t>(some * c.n));
    run(Backend::reference, some, expected);
    run(Backend::cpu, some, p);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      if (!(std::abs(p[i] - expected[i]) <= T{1e-6F})) return fail(state, "differs from the reference");
    }
  }
  for (auto _ : state) run(Backend::cpu, c.rows, p);
  double sum = 0;
  for (const T v : p) sum += static_cast<double>(v);
  const double want = c.k * static_cast<double>(c.rows);
  if (!(std::abs(sum - want) <= 1e-4 * want))
    return fail(state, "the gates add up to " + std::to_string(sum));
  report(state, 0, static_cast<double>(2 * z.size() * sizeof(T)), 0);
}

// What no projection can be faster than: a copy in as many parts as there are tasks.
void time_copy(benchmark::State& state, const Rows& c) {
  const auto z = noise<float>(static_cast<std::size_t>(c.rows * c.n), 1);
  std::vector<float> p(z.size());
  for (auto _ : state) {
    parallel_ranges(static_cast<Offset>(z.size()), 1 << 16, [&](Offset begin, Offset end) {
      std::memcpy(p.data() + begin, z.data() + begin, static_cast<std::size_t>(end - begin) * sizeof(float));
    });
    benchmark::DoNotOptimize(p.data());
  }
  report(state, 0, static_cast<double>(2 * z.size() * sizeof(float)), 0);
}

[[maybe_unused]] const bool registered = [] {
  const auto add = [](const char* stage, const Rows& c, void (*run)(benchmark::State&, const Rows&)) {
    benchmark::RegisterBenchmark((std::string(stage) + "/" + c.name).c_str(),
                                 [run, &c](benchmark::State& state) { run(state, c); })
        ->UseRealTime()
        ->MeasureProcessCPUTime()
        ->Unit(benchmark::kMillisecond);
  };
  for (const Rows& c : kRows) {
    add("sparsek", c, time_rows<float>);
    add("sparsek/f64", c, time_rows<double>);
    add("copy", c, time_copy);
  }
  return true;
}();

}  // namespace
}  // namespace manyhop::bench

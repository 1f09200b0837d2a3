// The projection onto the capped simplex beside reading z and writing p once, selection over all prefixes,
// and attention over what it selects.
#include "manyhop/ops/sparsek.hpp"

#include <array>
#include <cstring>
#include <string>

#include "manyhop/engine/sparsek/attention.hpp"
#include "manyhop/engine/sparsek/cache.hpp"
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

struct Tokens {
  const char* name;
  Offset n;
  Offset heads;
  int d;
  Offset window;
  double k;
};
constexpr std::array kTokens{Tokens{"tiny", 100, 2, 16, 8, 8}, Tokens{"64k/64", 65536, 1, 64, 256, 64},
                             Tokens{"4k/256", 4096, 12, 64, 256, 256},
                             Tokens{"16k/256", 16384, 12, 64, 256, 256}};

// Sums of gates in the first and last rows.
bool adds_up(const CausalSelection& selection, double k) {
  const Offset n = selection.rows();
  for (const Offset i : {Offset{0}, n / 2, n - 1}) {
    double sum = 0;
    for (Offset j = 0; j <= i; ++j) sum += selection.gate(i, j);
    if (!(std::abs(sum - std::min(k, static_cast<double>(i + 1))) < 1e-9)) return false;
  }
  return true;
}

void time_selection(benchmark::State& state, const Tokens& c, bool expand) {
  const Context ctx;
  CausalOptions options;
  options.k = c.k;
  Offset edges = 0;
  std::uint64_t seed = 1;
  for (auto _ : state) {
    state.PauseTiming();
    const auto u = noise<float>(static_cast<std::size_t>(c.n), seed++);
    state.ResumeTiming();
    const CausalSelection selection = causal_sparsek(std::span<const float>(u), options);
    if (expand) {
      const Graph graph = to_graph(ctx, selection);
      edges = graph.nnz();
    } else {
      edges = selection.edges;
    }
    state.PauseTiming();
    if (!adds_up(selection, c.k)) return fail(state, "the gates of a row do not add up to k");
    state.ResumeTiming();
  }
  report(state, 0, 0, static_cast<double>(edges));
}

void time_attention(benchmark::State& state, const Tokens& c, bool backward) {
  SparsekAttentionOptions options;
  options.select.k = c.k;
  options.join.window = c.window;
  const auto view = [&]<class T>(T* data, Offset n) { return TensorView<T>(data, {1, c.heads, n, c.d}); };
  const auto read = [&](const std::vector<float>& x, Offset n) { return view(x.data(), n); };
  const auto count = static_cast<std::size_t>(c.heads * c.n * c.d);
  auto q = noise<float>(count, 1);
  auto k = noise<float>(count, 2);
  auto v = noise<float>(count, 3);
  const auto g = noise<float>(count, 4);
  auto u = noise<float>(static_cast<std::size_t>(c.heads * c.n), 5);
  std::vector<float> out(count), dq(count), dk(count), dv(count), du(u.size());
  const auto run = [&](Backend way, Offset n) {
    const Context ctx{.backend = way};
    return sparsek_attention<float>(ctx, read(q, n), read(k, n), read(v, n), {u.data(), {1, c.heads, n}},
                                    view(out.data(), n), options);
  };
  const Offset some = std::min<Offset>(c.n, 600);
  run(Backend::reference, some);
  const std::vector<float> expected(out.begin(), out.begin() + c.heads * some * c.d);
  run(Backend::cpu, some);
  const double wrong = relative_error<float>(std::span<const float>(out).first(expected.size()), expected);
  if (!(wrong <= 4e-6)) return fail(state, "differs from the reference by " + std::to_string(wrong));
  std::uint64_t seed = 6;
  SparsekAttentionInfo info;
  for (auto _ : state) {
    state.PauseTiming();
    u = noise<float>(u.size(), seed);
    q = noise<float>(q.size(), seed++);
    state.ResumeTiming();
    if (backward) {
      const Context ctx;
      sparsek_attention_backward<float>(
          ctx, read(q, c.n), read(k, c.n), read(v, c.n), {u.data(), {1, c.heads, c.n}}, read(g, c.n),
          {view(dq.data(), c.n), view(dk.data(), c.n), view(dv.data(), c.n), {du.data(), {1, c.heads, c.n}}},
          options);
    } else {
      info = run(Backend::cpu, c.n);
    }
  }
  state.counters["capped_rows"] = static_cast<double>(info.capped_rows);
  report(state, 0, 0, static_cast<double>(info.selected + c.heads * c.n * c.window));
}

// A token appended and attended to, early and late in a sequence: memory and time must not grow.
void time_decode(benchmark::State& state, Offset before) {
  SparsekCacheOptions options;
  options.select.k = 64;
  options.join.window = 64;
  SparsekCache<float> cache(options);
  const auto x = noise<float>(64, 1);
  const auto u = noise<float>(static_cast<std::size_t>(before) + 1000, 2);
  std::vector<float> out(64);
  for (Offset i = 0; i < before; ++i) {
    cache.append({x.data(), {1, 64}}, {x.data(), {1, 64}}, {u.data() + i, {1}});
  }
  const std::size_t held = cache.bytes();
  std::size_t next = 0;
  for (auto _ : state) {
    cache.append({x.data(), {1, 64}}, {x.data(), {1, 64}}, {u.data() + next++ % u.size(), {1}});
    cache.attend({x.data(), {1, 64}}, {out.data(), {1, 64}});
  }
  if (cache.bytes() != held) return fail(state, "the cache has grown");
  state.counters["bytes"] = static_cast<double>(held);
  report(state, 0, 0, 0);
}

[[maybe_unused]] const bool registered = [] {
  const auto add_tokens = [](const char* stage, const Tokens& c,
                             void (*run)(benchmark::State&, const Tokens&)) {
    benchmark::RegisterBenchmark((std::string(stage) + "/" + c.name).c_str(),
                                 [run, &c](benchmark::State& state) { run(state, c); })
        ->UseRealTime()
        ->MeasureProcessCPUTime()
        ->Unit(benchmark::kMillisecond);
  };
  for (const auto& [name, before] : {std::pair{"tiny", Offset{10}}, std::pair{"1k", Offset{1000}},
                                     std::pair{"10k", Offset{10000}}, std::pair{"100k", Offset{100000}}}) {
    benchmark::RegisterBenchmark((std::string("decode/") + name).c_str(),
                                 [n = before](benchmark::State& state) { time_decode(state, n); })
        ->UseRealTime()
        ->MeasureProcessCPUTime()
        ->Unit(benchmark::kMicrosecond);
  }
  for (const Tokens& c : kTokens) {
    add_tokens("select", c, [](benchmark::State& s, const Tokens& t) { time_selection(s, t, false); });
    add_tokens("select/graph", c, [](benchmark::State& s, const Tokens& t) { time_selection(s, t, true); });
    if (c.n > 16384) continue;
    add_tokens("attention", c, [](benchmark::State& s, const Tokens& t) { time_attention(s, t, false); });
    add_tokens("attention/backward", c,
               [](benchmark::State& s, const Tokens& t) { time_attention(s, t, true); });
  }
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

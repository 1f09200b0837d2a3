// `bench`: attention on the named cases of bench/cases.hpp. Each is compared with the plain loops on at most
// 512 tokens first; every timed run has new values, and the last one is compared too where plain loops can.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>

#include "bench/cases.hpp"
#include "manyhop/engine/attention.hpp"
#include "manyhop/engine/version.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "manyhop/ops/cpu/simd.hpp"
#include "output.hpp"
#include "qkv.hpp"
#include "verbs.hpp"

namespace manyhop::cli {
namespace {

using manyhop::bench::Case;
using manyhop::bench::kCases;

constexpr Offset kVerifiedTokens = 512;
constexpr double kVerifiedFlops = 3e9;  // what plain loops do in a few seconds
constexpr std::uint32_t kStage = 0x42454E43;

struct BenchVerb {
  std::vector<std::string> cases;
  std::optional<std::int64_t> repeat;
};

/// q, k, v and out of a case, [n, h, d].
struct Values {
  std::vector<Offset> shape;
  Tensor in[3], out;

  Values(const Case& c, Offset n) : shape{n, c.heads, c.d} {
    for (Tensor& tensor : in) tensor = Tensor::zeros(c.dtype, shape);
    out = Tensor::zeros(c.dtype, shape);
  }
  /// Numbers of mean 0 and variance 1.
  template <class T>
  void draw(std::uint64_t seed) {
    const double size = std::sqrt(12.0);
    const Offset row = shape[1] * shape[2];
    for (std::uint64_t t = 0; t < 3; ++t) {
      T* data = in[t].as<T>();
      parallel_ranges(shape[0], 256, [&](Offset begin, Offset end) {
        for (Offset i = begin; i < end; ++i) {
          CounterRng rng(3 * seed + t, kStage, static_cast<std::uint64_t>(i));
          for (Offset f = 0; f < row; ++f)
            data[i * row + f] = T(static_cast<float>(size * (rng.uniform() - 0.5)));
        }
      });
    }
  }
  template <class T>
  void attend(const Context& ctx, const Plan& plan, const Case& c) {
    attention<T>(ctx, plan, view_of<const T>(in[0].as<T>(), shape, Layout::nhd),
                 view_of<const T>(in[1].as<T>(), shape, Layout::nhd),
                 view_of<const T>(in[2].as<T>(), shape, Layout::nhd),
                 view_of<T>(out.as<T>(), shape, Layout::nhd),
                 {.hops = c.hops, .teleport = c.hops > 1 ? 0.1 : 0.0});
  }
};

Plan plan_of(const Context& ctx, const Graph& graph, const Case& c) {
  return plan(ctx, graph, {.heads = c.heads, .head_dim = c.d, .dtype = c.dtype, .hops = c.hops});
}

/// ||out - reference's|| / ||reference's|| for the values as they are.
template <class T>
double error_of(const Context& ctx, const Graph& graph, const Case& c, Values& values) {
  Context plain;
  plain.backend = Backend::reference;
  plain.threads = ctx.threads;
  plain.stop = ctx.stop;
  const Tensor mine = values.out.to(DType::f64);
  values.attend<T>(plain, plan_of(plain, graph, c), c);
  const Tensor wanted = values.out.to(DType::f64);
  double difference = 0;
  double size = 0;
  for (Offset i = 0; i < mine.size(); ++i) {
    const double a = mine.as<double>()[i];
    const double b = wanted.as<double>()[i];
    difference += (a - b) * (a - b);
    size += b * b;
  }
  const double error = std::sqrt(difference / size);
  const double most = c.dtype == DType::bf16 ? 1e-2 : 2e-6;
  if (!(error <= most))
    throw Error(fmt::format("bench: case {} is off by {:.3g} on {} tokens, at most {:.3g} is wanted", c.name,
                            error, values.shape[0], most));
  return error;
}

template <class T>
Json timed(Session& session, const Case& c, int repeat) {
  const Context& ctx = session.context;
  const auto text = std::string(c.pattern);
  PatternOptions building;
  building.memory_limit = ctx.memory_limit;
  building.clip = true;
  Values small(c, std::min(c.n, kVerifiedTokens));
  small.draw<T>(0);
  {
    const Graph graph = pattern(text, small.shape[0], small.shape[0], building);
    small.attend<T>(ctx, plan_of(ctx, graph, c), c);
    error_of<T>(ctx, graph, c, small);
  }
  const Stopwatch generating;
  const Graph graph = pattern(text, c.n, c.n, building);
  const double generate_seconds = generating.seconds();
  const Stopwatch planning;
  const Plan made = plan_of(ctx, graph, c);
  const double plan_seconds = planning.seconds();
  Values values(c, c.n);
  std::vector<double> seconds;
  for (int run = 0; run <= repeat; ++run) {
    values.draw<T>(static_cast<std::uint64_t>(run));
    const Stopwatch clock;
    values.attend<T>(ctx, made, c);
    if (run > 0) seconds.push_back(clock.seconds());  // the first one warms up
  }
  const std::size_t peak = 4 * values.out.bytes.size() + made.memory().graph + ctx.workspace.capacity();
  const double flops =
      2.0 * static_cast<double>(graph.nnz()) * static_cast<double>(c.heads) * c.d * (c.hops + 1);
  std::sort(seconds.begin(), seconds.end());
  const double median = (seconds[(seconds.size() - 1) / 2] + seconds[seconds.size() / 2]) / 2;
  Json json;
  json["name"] = c.name;
  json["pattern"] = graph.text();
  json["n"] = c.n;
  json["edges"] = graph.nnz();
  json["heads"] = c.heads;
  json["head_dim"] = c.d;
  json["hops"] = c.hops;
  json["teleport"] = c.hops > 1 ? 0.1 : 0.0;
  json["dtype"] = name_of(c.dtype);
  json["seconds"] = median;
  json["least_seconds"] = seconds.front();
  json["most_seconds"] = seconds.back();
  json["plan_seconds"] = plan_seconds;
  json["generate_seconds"] = generate_seconds;
  json["gflops"] = flops / median / 1e9;
  json["peak_bytes"] = peak;
  json["error"] = flops <= kVerifiedFlops ? Json(error_of<T>(ctx, graph, c, values)) : Json(nullptr);
  return json;
}

int bench(Session& session, const BenchVerb& options) {
  std::vector<const Case*> chosen;
  for (const std::string& name : options.cases) {
    const auto found =
        std::find_if(kCases.begin(), kCases.end(), [&](const Case& c) { return c.name == name; });
    if (found == kCases.end()) {
      std::string names;
      for (const Case& c : kCases) names += fmt::format("{}{}", names.empty() ? "" : ", ", c.name);
      throw ValueError(fmt::format("bench: '{}' is no case, expected one of {}", name, names));
    }
    chosen.push_back(&*found);
  }
  if (chosen.empty())
    for (const Case& c : kCases) chosen.push_back(&c);
  if (session.dtype)
    throw ValueError(fmt::format("--dtype {}: a case has its own type", name_of(*session.dtype)));
  const int repeat = static_cast<int>(options.repeat.value_or(7));
  Json json;
  json["version"] = version();
  json["simd"] = simd_name();
  json["threads"] = thread_count();
  json["backend"] = name_of(session.context.backend);
  json["repeat"] = repeat;
  json["cases"] = Json::array();
  Table table({"case", "edges/token", "type", "hops", "time", "least", "most", "GFLOP/s", "plan",
               "peak memory", "error"});
  for (const Case* c : chosen) {
    const Json one =
        c->dtype == DType::bf16 ? timed<bf16>(session, *c, repeat) : timed<float>(session, *c, repeat);
    json["cases"].push_back(one);
    table.add({one["name"], fmt::format("{:.1f}", one["edges"].get<double>() / static_cast<double>(c->n)),
               one["dtype"], fmt::format("{}", c->hops), seconds_text(one["seconds"]),
               seconds_text(one["least_seconds"]), seconds_text(one["most_seconds"]),
               fmt::format("{:.1f}", one["gflops"].get<double>()), seconds_text(one["plan_seconds"]),
               bytes_text(one["peak_bytes"].get<double>()),
               one["error"].is_null() ? "-" : fmt::format("{:.1e}", one["error"].get<double>())});
  }
  session.report(json, table.text());
  return kOk;
}

}  // namespace

void add_bench(CLI::App& app, Session& session) {
  auto options = std::make_shared<BenchVerb>();
  CLI::App* verb = add_verb(
      app, session, "bench", "Time attention on named cases",
      "  manyhop bench                        (every case; minutes)\n"
      "  manyhop bench 4k/diffuser 4k/window --repeat 21\n"
      "  manyhop bench tiny --json\n"
      "Each case is compared with plain loops on at most 512 tokens, then timed: the median of --repeat\n"
      "runs with new values each. error: of the last run, where plain loops can do it in seconds.");
  verb->add_option("CASE", options->cases, "names of cases; all where none is given");
  add_integer(*verb, "--repeat", options->repeat, "R", "timed runs (default 7)", 1, 100000);
  verb->callback(
      [&session, options] { session.run = [&session, options] { return bench(session, *options); }; });
}

}  // namespace manyhop::cli

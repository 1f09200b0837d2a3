#include "manyhop/engine/spectral/design.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <exception>
#include <set>
#include <utility>

#include "manyhop/engine/attention.hpp"
#include "manyhop/engine/plan.hpp"
#include "manyhop/engine/spectral/expansion.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"

namespace manyhop::spectral {
namespace {

constexpr std::uint32_t kInputStage = 0x44455349;

void check(const DesignOptions& o) {
  if (o.n < 2 || o.n > kMaxVertices)
    throw ValueError(fmt::format("n is {} and must be between 2 and {}", o.n, kMaxVertices));
  if (!std::isfinite(o.edges_per_token) || o.edges_per_token < 1)
    throw ValueError(
        fmt::format("edges_per_token is {} and must be finite and 1 or more", o.edges_per_token));
  if (o.align < 1 || o.align > o.n)
    throw ValueError(fmt::format("align is {} and must be between 1 and n = {}", o.align, o.n));
  if (o.align > o.edges_per_token)
    throw ValueError(
        fmt::format("align is {} and must be at most edges_per_token = {}: a block row has that many edges",
                    o.align, o.edges_per_token));
  if (o.seeds < 1 || o.seeds > 64)
    throw ValueError(fmt::format("seeds is {} and must be between 1 and 64", o.seeds));
  if (o.heads < 1 || o.head_dim < 1 || o.repeat < 1)
    throw ValueError(fmt::format("heads is {}, head_dim {}, repeat {}: all must be 1 or more", o.heads,
                                 o.head_dim, o.repeat));
}

struct Candidate {
  std::string text;
  bool baseline = false;
};

/// Texts of designs for `budget` edges a token; blocks are multiples of align. Beside what is kept, cycles
/// and matchings are shortcuts; alone they fall apart.
std::vector<Candidate> undirected_candidates(const DesignOptions& o, double budget) {
  std::vector<Candidate> found;
  const auto seeded = [&](auto&& text_of) {
    for (int s = 0; s < o.seeds; ++s)
      found.push_back({text_of(o.seed + static_cast<std::uint64_t>(s)), false});
  };
  const auto lifted = [](const std::string& text, Offset b) {
    return b == 1 ? text : fmt::format("lift({}, {})", text, b);
  };
  const Offset least = o.keep.empty() ? 3 : 1;
  const Offset fewest = std::min<Offset>(least, 2);
  for (Offset b = o.align; static_cast<double>(b * fewest) <= budget && b <= 256; b *= 2) {
    const Offset base = (o.n + b - 1) / b;
    auto d = std::min(base - 1, static_cast<Offset>(budget / static_cast<double>(b)));
    if (d < fewest) continue;
    const auto block = [&](const std::string& text) { return lifted(text, b); };
    const auto even = [&](Offset degree) { return base * degree % 2 == 0 ? degree : degree - 1; };
    if (even(d) >= least)
      seeded([&](std::uint64_t seed) { return block(fmt::format("regular({}, seed={})", even(d), seed)); });
    if (even(d - 1) >= least)
      seeded([&](std::uint64_t seed) {
        return block(fmt::format("self|regular({}, seed={})", even(d - 1), seed));
      });
    if (even(d - 3) >= least)
      seeded([&](std::uint64_t seed) {
        return block(fmt::format("window(1, ring=true)|regular({}, seed={})", even(d - 3), seed));
      });
    if (const auto corners = static_cast<std::uint64_t>(base);
        std::has_single_bit(corners) && std::countr_zero(corners) <= d)
      found.push_back({block("hypercube"), false});
    // A window beside a lift of half the degree, in blocks of the least size.
    if (const Offset half = even(d / 2); half >= least) {
      const double left = (budget - static_cast<double>(half * b)) / o.align;
      const auto radius = static_cast<Offset>((left - 1) / 2);
      if (radius >= 1)
        seeded([&](std::uint64_t seed) {
          return fmt::format("{}|{}", lifted(fmt::format("window({})", radius), o.align),
                             block(fmt::format("regular({}, seed={})", half, seed)));
        });
    }
  }
  // What small budgets leave room for.
  const double blocks = std::min(budget, static_cast<double>(o.n)) / o.align;
  if (const auto radius = static_cast<Offset>((blocks - 1) / 2); radius >= 1)
    found.push_back({lifted(fmt::format("window({}, ring=true)", radius), o.align), false});
  if (const auto radius = static_cast<Offset>(blocks / 2); radius >= 1)
    found.push_back({lifted(fmt::format("window({}, ring=true)-self", radius), o.align), false});
  if (blocks >= 1 && blocks < 3) found.push_back({lifted("self", o.align), false});
  return found;
}

std::vector<Candidate> causal_candidates(const DesignOptions& o, double budget) {
  std::vector<Candidate> found;
  const auto b = static_cast<Offset>(budget);
  const auto in_blocks = [&](const std::string& text) {
    found.push_back(
        {o.align == 1 ? text + "&causal" : fmt::format("lift({}, {})&causal", text, o.align), false});
  };
  // The own block keeps (align + 1) / 2 edges a token, each block before it all.
  const auto before = static_cast<Offset>((budget - (o.align + 1) / 2.0) / o.align);
  in_blocks(before >= 1 ? fmt::format("window({})", before) : "self");
  in_blocks("logsparse");
  for (Offset stride = 2; stride <= std::min<Offset>(o.n / o.align, 4096); stride *= 2)
    in_blocks(fmt::format("strided({})", stride));
  for (int s = 0; s < o.seeds; ++s) {
    const std::uint64_t seed = o.seed + static_cast<std::uint64_t>(s);
    if (o.align == 1 && b >= 2) {
      found.push_back(
          {fmt::format("self|random({}, seed={}, causal=true)", std::min(b - 1, o.n), seed), false});
      if (b >= 4)
        found.push_back(
            {fmt::format("(window({})&causal)|random({}, seed={}, causal=true)", b / 2 - 1, b / 2, seed),
             false});
    }
    for (Offset size = std::max(o.align, 8); static_cast<double>(size) * 2 <= budget && size <= 128;
         size *= 2) {
      const Offset base = (o.n + size - 1) / size;
      // Half of a symmetric lift is in the past, so that twice the degree fits; own blocks keep half too.
      auto d = std::min(base - 1, static_cast<Offset>(2 * budget / static_cast<double>(size)) - 1);
      if (base * d % 2 != 0) --d;
      if (d >= 2)
        found.push_back({fmt::format("lift(self|regular({}, seed={}), {})&causal", d, seed, size), false});
    }
  }
  return found;
}

/// The published patterns scaled to the budget: shares as in their papers' settings.
std::vector<Candidate> baselines(const DesignOptions& o, double budget) {
  std::vector<Candidate> found;
  const auto add = [&](std::string text) {
    found.push_back({o.causal ? fmt::format("({})&causal", text) : std::move(text), true});
  };
  // diffuser: overlap(b, b/2) has 1.5 b edges a row, r random and 2 g of g global tokens.
  const auto unit = static_cast<Offset>(budget / 4.5);
  if (unit >= 2 && unit <= o.n) add(fmt::format("diffuser({}, {}, {})", unit, unit, unit));
  // longformer: 2 r + 1 and 2 g edges, r = 4 g.
  const auto g = static_cast<Offset>((budget - 1) / 10);
  if (g >= 1 && g <= o.n) add(fmt::format("longformer({}, {})", 4 * g, g));
  // bigbird: blocks of b: window 3, global 4 and r random ones.
  for (const Offset b : {Offset{64}, Offset{32}, Offset{16}, Offset{8}, Offset{4}}) {
    const auto r = static_cast<Offset>(budget / static_cast<double>(b)) - 7;
    if (r < 1 || b > o.n) continue;
    add(fmt::format("bigbird({}, {})", b, std::min<Offset>(r, 3)));
    break;
  }
  return found;
}

/// Runs attention on drawn q, k, v; the median of the runs after one to warm up.
double timed(const Context& ctx, const Plan& plan, const DesignOptions& o) {
  const Offset n = plan.graph().n_rows();
  std::vector<Tensor> in;
  for (std::uint64_t t = 0; t < 4; ++t) {
    in.push_back(Tensor::zeros(DType::f32, {1, o.heads, n, o.head_dim}));
    auto* data = in.back().as<float>();
    const Offset row = o.heads * static_cast<Offset>(o.head_dim);
    parallel_ranges(n, 1024, [&](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i) {
        CounterRng rng(t, kInputStage, static_cast<std::uint64_t>(i));
        for (Offset c = 0; c < row; ++c) data[i * row + c] = static_cast<float>(2 * rng.uniform() - 1);
      }
    });
  }
  const auto view = [&](std::size_t t) {
    return TensorView<float>(in[t].as<float>(), {1, o.heads, n, o.head_dim});
  };
  std::vector<double> seconds;
  for (int run = 0; run <= o.repeat; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    attention<float>(ctx, plan, view(0), view(1), view(2), view(3));
    const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (run > 0) seconds.push_back(took);
  }
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2),
                   seconds.end());
  return seconds[seconds.size() / 2];
}

double quality(const Design& d, bool causal) { return causal ? d.reach : d.gap.value_or(0); }

bool dominates(const Design& a, const Design& b, bool causal, bool measured) {
  const auto time = [&](const Design& d) { return measured ? d.measured_seconds : d.predicted_seconds; };
  const double qa = quality(a, causal), qb = quality(b, causal);
  const double ca = causal ? 0 : a.capacity.value_or(0), cb = causal ? 0 : b.capacity.value_or(0);
  return qa >= qb && ca >= cb && time(a) <= time(b) && (qa > qb || ca > cb || time(a) < time(b));
}

std::vector<Design> front(const std::vector<Design>& all, bool causal, bool measured) {
  std::vector<Design> kept;
  for (const Design& d : all)
    if (!d.baseline && std::none_of(all.begin(), all.end(), [&](const Design& other) {
          return !other.baseline && dominates(other, d, causal, measured);
        }))
      kept.push_back(d);
  return kept;
}

}  // namespace

DesignResult design(const Context& ctx, const DesignOptions& options) {
  check(options);
  const ThreadScope scope(ctx.threads, ctx.stop);
  DesignResult result;
  const double d = options.edges_per_token / options.align;
  const double neighbours = std::ceil(static_cast<double>(options.n) / options.align) - 1;
  if (!options.causal && d > 2 && d < neighbours) result.ceiling = 1 - 2 * std::sqrt(d - 1) / d;

  PatternOptions building;
  building.memory_limit = ctx.memory_limit;
  building.seed = options.seed;
  // A row has n columns, whatever is asked for.
  const double asked = std::min(options.edges_per_token, static_cast<double>(options.n));
  double budget = asked;
  const double most = options.edges_per_token * static_cast<double>(options.n);
  std::string keep;
  if (!options.keep.empty()) {
    keep = options.causal ? fmt::format("({})&causal", options.keep) : options.keep;
    const Graph kept = pattern(keep, options.n, options.n, building);
    keep = kept.text();
    if (static_cast<double>(kept.nnz()) > most)
      throw ValueError(fmt::format(
          "keep {} has {:.6g} edges a token and must be at most edges_per_token = {}", options.keep,
          static_cast<double>(kept.nnz()) / static_cast<double>(options.n), options.edges_per_token));
    budget -= static_cast<double>(kept.nnz()) / static_cast<double>(options.n);
  }
  auto candidates =
      options.causal ? causal_candidates(options, budget) : undirected_candidates(options, budget);
  if (!keep.empty()) {
    for (Candidate& c : candidates) c.text = fmt::format("{}|({})", keep, c.text);
    candidates.push_back({keep, false});
  }
  // Half of a published pattern's edges are in the past.
  const auto published = baselines(options, asked * (options.causal ? 2 : 1));
  candidates.insert(candidates.end(), published.begin(), published.end());

  PlanOptions shape;
  shape.heads = options.heads;
  shape.head_dim = options.head_dim;
  std::set<std::uint64_t> seen;
  std::vector<Design> all;
  // What a candidate does; empty for one that passes the budget or has come before.
  const auto judged = [&](const Candidate& candidate) -> std::optional<Design> {
    Design item;
    item.baseline = candidate.baseline;
    const Graph graph = pattern(candidate.text, options.n, options.n, building);
    item.text = graph.text();
    ++result.tried;
    item.edges = graph.nnz();
    // Published patterns stand for comparison even where their rounding passes the budget a little.
    if (static_cast<double>(item.edges) > most * (item.baseline ? 1.1 : 1) ||
        !seen.insert(graph.hash()).second)
      return std::nullopt;
    const Plan planned = plan(ctx, graph, shape);
    item.padding = planned.tiling().padding;
    item.predicted_seconds = planned.predicted_seconds();
    if (!options.causal) {
      SpectralOptions request;
      request.tol = options.tol;
      request.reach_hops = 0;
      const GapResult solved = gap(ctx, graph, request);
      item.gap = solved.gap;
      item.residual = solved.residual;
    }
    item.capacity = capacity(ctx, graph);
    const auto reached = reach(ctx, graph, kReachHops, options.n <= 4096 ? 4096 : 256);
    item.reach = reached.empty() ? 0 : reached.back().mean;
    return item;
  };
  std::exception_ptr refused;
  for (const Candidate& candidate : candidates) {
    check_stop();
    try {
      if (auto item = judged(candidate)) all.push_back(std::move(*item));
    } catch (const LimitError&) {
      ++result.left_out;
      if (!refused) refused = std::current_exception();
    }
  }
  if (all.empty() && refused) std::rethrow_exception(refused);

  auto kept = front(all, options.causal, false);
  std::sort(kept.begin(), kept.end(), [&](const Design& a, const Design& b) {
    return quality(a, options.causal) > quality(b, options.causal);
  });
  if (kept.size() > 12) kept.resize(12);
  for (const Design& item : all)
    if (item.baseline) kept.push_back(item);
  for (Design& item : kept) {
    const Plan planned = plan(ctx, pattern(item.text, options.n, options.n, building), shape);
    item.measured_seconds = timed(ctx, planned, options);
  }
  if (options.max_ms > 0)
    std::erase_if(kept, [&](const Design& item) {
      return !item.baseline && item.measured_seconds * 1e3 > options.max_ms;
    });
  for (Design& item : kept)
    item.pareto = !item.baseline && std::none_of(kept.begin(), kept.end(), [&](const Design& other) {
      return !other.baseline && dominates(other, item, options.causal, true);
    });
  result.designs = std::move(kept);
  const auto score = [&](const Design& item) {
    if (options.causal) return item.reach;
    const double gap = item.gap.value_or(0), capacity = item.capacity.value_or(0);
    return capacity >= 0.9 ? 1 + gap : gap * capacity;
  };
  for (std::size_t k = 0; k < result.designs.size(); ++k) {
    if (result.designs[k].baseline) continue;
    if (!result.chosen || score(result.designs[k]) > score(result.designs[*result.chosen])) result.chosen = k;
  }
  return result;
}

}  // namespace manyhop::spectral

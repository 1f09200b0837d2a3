#include <algorithm>
#include <cmath>
#include <string>

#include "manyhop/engine/spectral/operator.hpp"
#include "manyhop/engine/spectral/probes.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/base/random.hpp"

namespace manyhop::spectral {
namespace {

constexpr std::uint32_t kProbeStage = 0x52414E4B;
constexpr Offset kExactSize = 64;
constexpr int kSketch = 8;  // vectors that carry what is large of the operator

}  // namespace

std::optional<Estimate> effective_rank(const Context& ctx, const Graph& graph, int hops, bool weighted,
                                       const ProbeOptions& options) {
  if (!graph.square())
    throw ValueError("effective_rank wants a square graph, got " + std::to_string(graph.n_rows()) + " x " +
                     std::to_string(graph.n_cols()));
  if (hops < 1 || hops > 1024)
    throw ValueError("hops is " + std::to_string(hops) + " and must be between 1 and 1024");
  if (options.probes < 2)
    throw ValueError("probes is " + std::to_string(options.probes) + " and must be 2 or more");
  const bool use_weights = graph.weighted() && uses_weights(graph, weighted);
  if (use_weights &&
      std::any_of(graph.weights().begin(), graph.weights().end(), [](double w) { return w < 0; }))
    throw ValueError("effective_rank wants weights of 0 or more");
  const auto n = at(graph.n_rows());
  if (n == 0) return std::nullopt;
  const ThreadScope scope(ctx.threads, ctx.stop);
  auto inverse = row_sums(graph, use_weights);
  for (double& d : inverse) d = d > 0 ? 1 / d : 0;
  const Product forward(graph, use_weights, inverse);               // P
  const Product back(graph.transpose(), use_weights, {}, inverse);  // P^T
  const auto power = [&](const Product& op, std::vector<double>& x) {
    std::vector<double> y(n);
    for (int hop = 0; hop < hops; ++hop) {
      check_stop();
      op.apply(x.data(), y.data());
      x.swap(y);
    }
  };
  // With M = P^K: sum s^2 = tr M^T M = E |M g|^2 and sum s^4 = tr (M^T M)^2 = E |M^T M g|^2 over signs g;
  // over the unit vectors instead of signs both are exact sums.
  const bool exact = graph.n_rows() <= kExactSize;
  const double probe_work = 2.0 * hops * static_cast<double>(forward.stored() + 4 * graph.n_rows());
  const int probes = exact ? static_cast<int>(n)
                           : static_cast<int>(std::clamp(options.max_work / probe_work, 2.0,
                                                         static_cast<double>(options.probes)));
  // What is large goes into an orthonormal sketch Q and is summed exactly; probes see the rest (Hutch++:
  // Meyer, Musco, Musco, Woodruff, SOSA 2021).
  const auto draw = [&](std::uint64_t index) {
    std::vector<double> g(n);
    CounterRng rng(options.seed, kProbeStage, index);
    for (double& value : g) value = (rng.next32() & 1U) != 0 ? 1 : -1;
    return g;
  };
  std::vector<std::vector<double>> sketch;
  double base_square = 0, base_fourth = 0;
  for (int k = 0; k < kSketch && !exact; ++k) {
    auto q = draw(static_cast<std::uint64_t>(k));
    power(forward, q);
    power(back, q);
    const double size = norm(q);
    for (int pass = 0; pass < 2; ++pass)
      for (const auto& known : sketch) project_out(known, q);
    if (!(norm(q) > 1e-10 * size) || !normalise(q)) continue;
    sketch.push_back(q);
    power(forward, q);
    base_square += dot(q, q);
    power(back, q);
    base_fourth += dot(q, q);
  }
  std::vector<double> squares, fourths;
  for (int probe = 0; probe < probes; ++probe) {
    std::vector<double> g(n);
    if (exact) {
      g[static_cast<std::size_t>(probe)] = 1;
    } else {
      g = draw(static_cast<std::uint64_t>(probe) + kSketch);
      for (const auto& known : sketch) project_out(known, g);
    }
    power(forward, g);
    squares.push_back(dot(g, g) + base_square);
    power(back, g);
    fourths.push_back(dot(g, g) + base_fourth);
  }
  double square = 0, fourth = 0;
  for (const double value : squares) square += value;
  for (const double value : fourths) fourth += value;
  if (!(fourth > 0)) return std::nullopt;
  Estimate result;
  const double scale = exact ? 1 : 1.0 / probes;
  result.value = square * square * scale / fourth;
  if (exact) return result;
  // The ratio without one probe at a time (jackknife).
  double spread = 0;
  for (std::size_t k = 0; k < squares.size(); ++k) {
    const double s2 = square - squares[k];
    const double s4 = fourth - fourths[k];
    const double without = s4 > 0 ? s2 * s2 / (s4 * (probes - 1)) : result.value;
    spread += (without - result.value) * (without - result.value);
  }
  result.error = std::sqrt(spread * (probes - 1) / probes);
  result.probes = probes;
  return result;
}

}  // namespace manyhop::spectral

#include "manyhop/engine/spectral/survey.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "manyhop/engine/spectral/operator.hpp"
#include "manyhop/engine/spectral/operators.hpp"
#include "manyhop/graphs/base/error.hpp"

namespace manyhop::spectral {
namespace {

constexpr double kReachWork = 2e9;  // words of 64 rows that reach may move

std::optional<double> real(const std::optional<std::complex<double>>& value) {
  if (!value) return std::nullopt;
  return value->real();
}

/// Column k of GapResult::vectors.
std::vector<double> column(const GapResult& result, std::size_t k) {
  std::vector<double> x;
  x.reserve(result.vectors.size() / 2);
  for (std::size_t i = k; i < result.vectors.size(); i += 2) x.push_back(result.vectors[i]);
  return x;
}

bool negative_weights(const Graph& graph, const SpectralOptions& options) {
  return graph.weighted() && uses_weights(graph, options.weighted) &&
         std::any_of(graph.weights().begin(), graph.weights().end(), [](double w) { return w < 0; });
}

Offset reach_rows(const Graph& graph, const SymmetricGraph& s, int hops) {
  const auto n = graph.n_rows();
  const double block = static_cast<double>(hops) * static_cast<double>(s.stored() + n);
  const auto rows =
      static_cast<Offset>(64 * std::clamp(std::floor(kReachWork / std::max(1.0, block)), 1.0, 64.0));
  return std::min(n, rows);
}

}  // namespace

Survey survey(const Context& ctx, const Graph& graph, const SurveyOptions& options) {
  for (const double eps : options.eps)
    if (!(eps > 0 && eps < 1))
      throw ValueError("eps is " + std::to_string(eps) + " and must be between 0 and 1");
  Survey result;
  SpectralOptions asked = options.spectral;
  asked.reach_hops = 0;
  const bool normalized = asked.op == Operator::normalized;
  // The Laplacian is I - N but at vertices without edges: one solve serves both.
  const bool laplacian = asked.op == Operator::laplacian;
  if (normalized || laplacian) asked.vectors = true;
  std::optional<Graph> merged;  // edges and their mirrors, once for all that want them
  result.gap = gap_of(ctx, graph, asked, merged);
  const int hops = options.spectral.reach_hops;
  result.triangular = graph.n_rows() > 1 && triangular(graph);
  if (result.triangular && hops > 0) result.paths = path_counts(ctx, graph, hops);
  if (negative_weights(graph, options.spectral)) {
    result.reason = "expansion is not defined for negative weights";
    if (hops > 0 && graph.n_rows() > 0) {
      result.reach_rows = std::min<Offset>(graph.n_rows(), 4096);
      result.reach = reach(ctx, graph, hops, result.reach_rows, options.seed);
    }
    return result;
  }
  if (normalized) {
    result.normalized = result.gap;
  } else if (laplacian && result.gap.isolated == 0) {
    result.normalized = result.gap;
    for (auto* value : {&result.normalized.lambda2, &result.normalized.lambda_n})
      if (*value) *value = 1.0 - **value;
  } else {
    asked.op = Operator::normalized;
    asked.vectors = true;
    result.normalized = gap_of(ctx, graph, asked, merged);
  }
  if (!options.spectral.vectors) result.gap.vectors.clear();

  const bool weighted = options.spectral.weighted;
  result.s = symmetric_graph(ctx, graph, weighted, merged ? &*merged : nullptr);
  merged.reset();
  const SymmetricGraph& s = result.s;
  if (hops > 0 && s.n() > 0) {
    result.reach_rows = reach_rows(graph, s, hops);
    result.reach = reach(ctx, graph, hops, result.reach_rows, options.seed);
  }
  const auto lambda2 = real(result.normalized.lambda2);
  const auto lambda_n = real(result.normalized.lambda_n);
  const double residual = result.normalized.residual;
  const auto second = column(result.normalized, 0);
  const auto last = column(result.normalized, 1);
  const bool has_vectors = second.size() == at(s.n());

  result.cheeger = cheeger(s, lambda2);
  if (has_vectors || s.parts.count > 1) result.cut = sweep_cut(ctx, s, second);
  result.diameter = diameter(ctx, s);
  result.ramanujan = ramanujan(s, lambda2, lambda_n, residual, result.diameter.lower);
  MixingOptions mixing;
  mixing.eps = options.mixing_eps;
  mixing.seed = options.seed;
  result.mixing = mixing_time(ctx, s, lambda2, has_vectors ? second : std::vector<double>{}, mixing);
  for (const double eps : options.eps)
    result.hops_for.push_back(hops_for(s, lambda2, lambda_n, eps, options.teleport));
  result.capacity = capacity(ctx, graph, kSurveyHops, weighted);

  const bool small = s.n() <= options.small - std::min(options.small, s.graph.nnz());
  const auto take = [&](bool wanted, double limit) {
    return wanted || (small && static_cast<double>(s.n()) <= limit);
  };
  if (options.spectral.op == Operator::singular) {
    if (result.triangular) result.singular = result.gap;
  } else if (result.triangular && take(false, 4096)) {
    SpectralOptions directed = options.spectral;
    directed.op = Operator::singular;
    directed.reach_hops = 0;
    directed.vectors = false;
    result.singular = gap(ctx, graph, directed);
  }
  const Wanted& wanted = options.wanted;
  if (take(wanted.hubs, 4096)) result.without_hubs = without_hubs(ctx, graph, options.spectral);
  if (take(wanted.complete, 4096) || (s.regular() && s.connected()))
    result.complete_distance =
        complete_distance(ctx, s, lambda2, lambda_n, residual, std::max(1e-8, options.spectral.tol));
  ProbeOptions probes;
  probes.seed = options.seed;
  if (take(wanted.rank, 4096))
    result.effective_rank = effective_rank(ctx, graph, kSurveyHops, weighted, probes);
  if (take(wanted.resistance, 2048)) result.resistance = resistance(ctx, s, probes);
  if (take(wanted.discrepancy, 1024)) {
    std::vector<std::vector<double>> vectors;
    if (has_vectors) vectors = {second, last};
    result.discrepancy = discrepancy(ctx, s, vectors, 1000, options.seed);
  }
  if (take(wanted.density, 2048)) {
    DensityOptions request;
    request.seed = options.seed;
    result.density = density(ctx, s, request);
  }
  return result;
}

}  // namespace manyhop::spectral

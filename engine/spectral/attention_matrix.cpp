#include "manyhop/engine/spectral/attention_matrix.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "manyhop/engine/spectral/operators.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/edge_softmax.hpp"
#include "manyhop/ops/sddmm.hpp"

namespace manyhop::spectral {
namespace {

constexpr std::size_t kEdgeBytes = 64;  // about five copies: A, scaled, transposed, both of these as products

void require_square(const Graph& graph, const char* what) {
  if (!graph.square())
    throw ValueError(
        fmt::format("{} wants a square graph, got {} x {}", what, graph.n_rows(), graph.n_cols()));
}

void require_hops(int hops) {
  if (hops < 0 || hops > 1024)
    throw ValueError(fmt::format("hops is {} and must be between 0 and 1024", hops));
}

void centre(std::vector<double>& x) {
  const double mean = std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
  for (double& value : x) value -= mean;
}

/// The largest eigenvalue of a symmetric operator without negative ones, beside those `known`.
Pair largest(const Context& ctx, Offset n, const std::function<void(const double*, double*)>& apply,
             std::vector<std::vector<double>> known, double tol, int max_iterations) {
  SymmetricProblem problem;
  problem.n = n;
  problem.known = std::move(known);
  problem.apply = apply;
  if (n > kDenseSize) return extremes(ctx, problem, true, false, tol, max_iterations).top;
  const auto left_out = [&](const double* x, double* y) {
    std::vector<double> inside(x, x + n), out(at(n));
    for (const auto& u : problem.known) project_out(u, inside);
    apply(inside.data(), out.data());
    for (const auto& u : problem.known) project_out(u, out);
    std::copy(out.begin(), out.end(), y);
  };
  const DenseSpectrum spectrum = dense_spectrum(n, left_out);
  const double* last = spectrum.vectors.data() + (n - 1) * n;
  return checked(left_out, {last, last + n});
}

/// A root of a Gram operator's eigenvalue, and the residual of the pair it belongs to.
struct Singular {
  double value = 0, residual = 0;
};
Singular root_of(const Pair& pair) {
  const double value = std::sqrt(std::max(0.0, pair.value));
  // ||B^T u - s v|| = ||B^T B v - s^2 v|| / s; at the level of rounding the value itself bounds it.
  return {value, value > 0 ? std::min(pair.residual / value, value) : 0};
}

/// Z_0 = x, Z_{t+1} = (1-a) A Z_t + a x; the same with A^T is its transpose.
void diffuse_in_place(const Product& product, int hops, double teleport, std::vector<double>& x) {
  std::vector<double> z = x, next(x.size());
  for (int hop = 0; hop < hops; ++hop) {
    product.apply(z.data(), next.data(), 1 - teleport);
    if (teleport != 0) add_to(next, teleport, x);
    z.swap(next);
  }
  x.swap(z);
}

}  // namespace

Graph softmax_graph(const Context& ctx, const Graph& pattern, TensorView<const double> q,
                    TensorView<const double> k, double scale) {
  const ThreadScope scope(ctx.threads, ctx.stop);
  if (static_cast<double>(pattern.nnz()) * kEdgeBytes > static_cast<double>(ctx.limit()))
    throw LimitError(fmt::format("the softmax matrix has {} edges and takes about {} bytes; the limit is {}",
                                 pattern.nnz(), static_cast<double>(pattern.nnz()) * kEdgeBytes,
                                 ctx.limit()));
  std::vector<double> weights(at(pattern.nnz()));
  const TensorView<double> scores(weights.data(), {pattern.nnz()});
  SddmmOptions<double> options;
  options.scale = scale;
  sddmm<double>(ctx, pattern, q, k, options, scores);
  const auto bad = std::find_if(weights.begin(), weights.end(), [](double s) { return !std::isfinite(s); });
  if (bad != weights.end()) {
    const auto indptr = pattern.indptr();
    const auto e = bad - weights.begin();
    const auto row = std::upper_bound(indptr.begin(), indptr.end(), e) - indptr.begin() - 1;
    throw ValueError(fmt::format("the score of query {} and key {} is {} and must be finite", row,
                                 pattern.indices()[at(e)], *bad));
  }
  edge_softmax<double>(ctx, pattern, scores, scores);
  return pattern.with_weights(std::move(weights)).labelled(pattern.text(), Source::matrix);
}

bool triangular(const Graph& graph) {
  bool lower = graph.square();
  bool upper = graph.square();
  for (Offset i = 0; i < graph.n_rows() && (lower || upper); ++i)
    graph.for_each_run(i, [&](Run run) {
      lower = lower && run.end <= i + 1;
      upper = upper && run.begin >= i;
    });
  return lower || upper;
}

std::vector<Paths> path_counts(const Context& ctx, const Graph& graph, int hops) {
  require_square(graph, "path_counts");
  require_hops(hops);
  const ThreadScope scope(ctx.threads, ctx.stop);
  std::vector<Paths> result;
  if (graph.n_rows() == 0) return result;
  const Product ones(graph.without_weights(), false);
  std::vector<double> walks(at(graph.n_rows()), 1.0), next(walks.size());
  for (int hop = 1; hop <= hops; ++hop) {
    check_stop();
    ones.apply(walks.data(), next.data());
    walks.swap(next);
    // Prefix sums leave rounding where a row has no walks at all.
    for (double& count : walks) count = std::max(0.0, std::round(count));
    const auto [least, most] = std::minmax_element(walks.begin(), walks.end());
    double mean = 0;
    for (const double count : walks) mean += count / static_cast<double>(walks.size());
    result.push_back({hop, mean, *least, *most});
  }
  return result;
}

std::complex<double> filter_response(std::complex<double> mu, int hops, double teleport) {
  std::complex<double> z = 1;
  for (int hop = 0; hop < hops; ++hop) z = (1 - teleport) * mu * z + teleport;
  return z;
}

std::optional<double> filter_limit(double mu, double teleport) {
  const double left = 1 - (1 - teleport) * mu;
  if (teleport <= 0 || left <= 0) return std::nullopt;
  return teleport / left;
}

AttentionMatrix attention_matrix(const Context& ctx, const Graph& a, const AttentionMatrixOptions& options) {
  require_square(a, "attention_matrix");
  require_hops(options.hops);
  if (!(options.teleport >= 0 && options.teleport <= 1))
    throw ValueError(fmt::format("teleport is {} and must be between 0 and 1", options.teleport));
  const ThreadScope scope(ctx.threads, ctx.stop);
  AttentionMatrix result;
  SpectralOptions request;
  request.tol = options.tol;
  request.max_iterations = options.max_iterations;
  request.weighted = true;
  request.reach_hops = 0;
  request.op = Operator::transition;
  result.transition = gap(ctx, a, request);
  request.op = Operator::singular;
  result.singular = gap(ctx, a, request);
  if (options.structural) {
    request.op = Operator::chung;
    result.chung = gap(ctx, a, request);
    result.stationary = stationary_distribution(ctx, a, true, options.max_iterations);
    double entropy = 0;
    for (const double share : result.stationary.pi)
      if (share > 0) entropy -= share * std::log(share);
    if (!result.stationary.pi.empty()) result.effective_tokens = std::exp(entropy);
  }
  result.converged = result.transition.converged && result.singular.converged &&
                     (!options.structural || !result.chung.applies || result.chung.converged);
  const Offset n = a.n_rows();
  if (result.transition.lambda2)
    result.response = filter_response(*result.transition.lambda2, options.hops, options.teleport);
  if (n == 0 || a.nnz() == 0) {
    result.gain = n < 2 ? 0 : std::pow(0.0, options.hops) + (options.hops > 0 ? options.teleport : 0);
    return result;
  }

  const Product forward(a, true);
  const Product back(a.transpose(), true);
  const double tol = std::max(1e-2 * options.tol, 1e-14);
  std::vector<double> middle(at(n));
  const auto gram = [&](const double* x, double* y) {
    forward.apply(x, middle.data());
    back.apply(middle.data(), y);
  };
  const Pair first = largest(ctx, n, gram, {}, tol, options.max_iterations);
  const Singular one = root_of(first);
  result.sigma1 = one.value;
  result.sigma_residual = one.residual;
  if (n < 2) return result;
  const Singular two = root_of(largest(ctx, n, gram, {first.vector}, tol, options.max_iterations));
  result.sigma2 = two.value;
  result.sigma_residual = std::max(one.residual, two.residual);

  std::vector<double> x(at(n));
  const auto kept = [&](const double* from, double* to) {
    std::copy(from, from + n, x.begin());
    centre(x);
    diffuse_in_place(forward, options.hops, options.teleport, x);
    centre(x);
    diffuse_in_place(back, options.hops, options.teleport, x);
    centre(x);
    std::copy(x.begin(), x.end(), to);
  };
  std::vector<double> constant(at(n), 1 / std::sqrt(static_cast<double>(n)));
  const Singular left = root_of(largest(ctx, n, kept, {std::move(constant)}, tol, options.max_iterations));
  result.gain = left.value;
  result.gain_residual = left.residual;
  result.converged =
      result.converged && result.sigma_residual <= options.tol && result.gain_residual <= options.tol;
  return result;
}

}  // namespace manyhop::spectral

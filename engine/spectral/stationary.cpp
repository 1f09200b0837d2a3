// The stationary distribution of a walk, to full relative accuracy of every entry where that can be had.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "manyhop/engine/spectral/attention_matrix.hpp"
#include "manyhop/engine/spectral/operators.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::spectral {
namespace {

constexpr double kTrusted = 1e-6;

constexpr double kLeastShare = 1e-280;  // below that roots of pi lose their digits
constexpr double kRelative = 1e-12;     // goal of `worst`
constexpr std::int64_t kFirstSteps = 500;

/// Sets both residuals; `next` receives pi P.
void measure(const Product& pull, Stationary& at_rest, std::vector<double>& next) {
  next.resize(at_rest.pi.size());
  pull.apply(at_rest.pi.data(), next.data());
  at_rest.residual = at_rest.worst = 0;
  for (std::size_t i = 0; i < next.size(); ++i) {
    const double moved = std::abs(next[i] - at_rest.pi[i]);
    at_rest.residual += moved;
    at_rest.worst = std::max(at_rest.worst, at_rest.pi[i] > kLeastShare ? moved / at_rest.pi[i] : 1.0);
  }
}

void to_mass_one(std::vector<double>& pi) {
  double total = 0;
  for (const double value : pi) total += value;
  for (double& value : pi) value /= total;
}

/// Elimination of states without subtractions (Grassmann, Taksar, Heyman): every entry to full relative
/// accuracy.
std::vector<double> eliminate(const Product& walk) {
  const Offset n = walk.rows();
  std::vector<double> p(at(n * n));
  for (Offset i = 0; i < n; ++i) walk.for_each(i, [&](Index j, double value) { p[at(i * n + j)] = value; });
  for (Offset k = n - 1; k > 0; --k) {
    double out = 0;
    for (Offset j = 0; j < k; ++j) out += p[at(k * n + j)];
    for (Offset i = 0; i < k; ++i) {
      double& share = p[at(i * n + k)];
      if (share == 0) continue;
      share /= out;
      for (Offset j = 0; j < k; ++j) p[at(i * n + j)] += share * p[at(k * n + j)];
    }
  }
  std::vector<double> pi(at(n));
  pi[0] = 1;
  for (Offset k = 1; k < n; ++k)
    for (Offset i = 0; i < k; ++i) pi[at(k)] += pi[at(i)] * p[at(i * n + k)];
  to_mass_one(pi);
  return pi;
}

}  // namespace

Stationary stationary(const Context& ctx, const std::vector<double>& sums, const Product& walk,
                      const Product& pull, int max_iterations) {
  Stationary result;
  std::vector<double> next;
  // In-weights equal to out-weights: the row sums are stationary.
  result.pi = sums;
  to_mass_one(result.pi);
  measure(pull, result, next);
  if (result.worst <= kRelative) return result;
  if (walk.rows() <= kDenseSize) {
    result.pi = eliminate(walk);
    measure(pull, result, next);
    return result;
  }
  const std::int64_t steps = std::int64_t{20} * max_iterations;
  for (std::int64_t step = 0; step < steps && result.worst > kRelative; ++step) {
    check_stop();
    if (step == kFirstSteps) {  // mixes slowly: Arnoldi takes the slow part, the steps after it each entry
      const std::function<void(const double*, double*)> lazy = [&](const double* x, double* y) {
        pull.apply(x, y, 0.5);
        for (std::size_t i = 0; i < sums.size(); ++i) y[i] += 0.5 * x[i];
      };
      Stationary other;
      other.pi = dominant_vector(ctx, walk.rows(), lazy, result.pi, max_iterations);
      to_mass_one(other.pi);
      measure(pull, other, next);
      if (other.residual < result.residual)
        result = std::move(other);
      else
        measure(pull, result, next);
    }
    // Lazy steps converge for periodic walks too, and sums of what is not negative keep every digit.
    for (std::size_t i = 0; i < next.size(); ++i) result.pi[i] = 0.5 * (next[i] + result.pi[i]);
    to_mass_one(result.pi);
    measure(pull, result, next);
    if (*std::min_element(result.pi.begin(), result.pi.end()) <= kLeastShare) break;  // it only shrinks
  }
  return result;
}

namespace {

/// The graph without edges of weight 0.
Graph positive_edges(const Graph& graph) {
  Offset zeros = 0;
  for (std::size_t e = 0; e < graph.weights().size(); ++e) {
    const double w = graph.weights()[e];
    if (w < 0)
      throw ValueError("stationary_distribution wants weights of 0 or more, got " + std::to_string(w) +
                       " at edge " + std::to_string(e));
    zeros += w == 0 ? 1 : 0;
  }
  if (zeros == 0) return graph;
  std::vector<Offset> indptr{0};
  std::vector<Index> indices;
  std::vector<double> weights;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    for (Offset e = graph.indptr()[at(i)]; e < graph.indptr()[at(i) + 1]; ++e)
      if (graph.weights()[at(e)] > 0) {
        indices.push_back(graph.indices()[at(e)]);
        weights.push_back(graph.weights()[at(e)]);
      }
    indptr.push_back(static_cast<Offset>(indices.size()));
  }
  return Graph::from_csr(graph.n_rows(), graph.n_cols(), std::move(indptr), std::move(indices),
                         std::move(weights));
}

}  // namespace

StationaryDistribution stationary_distribution(const Context& ctx, const Graph& given, bool weighted,
                                               int max_iterations) {
  if (!given.square())
    throw ValueError("stationary_distribution wants a square graph, got " + std::to_string(given.n_rows()) +
                     " x " + std::to_string(given.n_cols()));
  const ThreadScope scope(ctx.threads, ctx.stop);
  StationaryDistribution result;
  weighted = weighted && given.weighted();
  const Graph graph = weighted ? positive_edges(given) : given;
  const auto n = at(graph.n_rows());
  if (n == 0) {
    result.reason = "there are no vertices";
    return result;
  }
  const StrongComponents strong = strong_components(graph);
  std::vector<char> open(at(strong.count));
  for (std::size_t v = 0; v < n; ++v) {
    const Index mine = strong.label[v];
    graph.for_each_run(static_cast<Offset>(v), [&](Run run) {
      for (Index j = run.begin; open[at(mine)] == 0 && j < run.end; ++j)
        if (strong.label[at(j)] != mine) open[at(mine)] = 1;
    });
  }
  const auto closed = std::count(open.begin(), open.end(), char{0});
  if (closed != 1) {
    result.reason = "walks end in " + std::to_string(closed) + " closed components, each with its own";
    return result;
  }
  const auto home = static_cast<Index>(std::find(open.begin(), open.end(), char{0}) - open.begin());
  std::vector<char> leaves(n);
  std::vector<Index> members;
  for (std::size_t v = 0; v < n; ++v) {
    leaves[v] = strong.label[v] == home ? 0 : 1;
    if (leaves[v] == 0) members.push_back(static_cast<Index>(v));
  }
  const Graph part =
      members.size() == n ? graph : induced(graph, leaves, static_cast<Offset>(members.size()));
  if (part.nnz() == 0) {
    result.reason = "walks end in a row without edges";
    return result;
  }
  const auto sums = row_sums(part, weighted);
  std::vector<double> inverse(sums.size());
  for (std::size_t i = 0; i < sums.size(); ++i) inverse[i] = 1 / sums[i];
  const Product walk(part, weighted, inverse);
  const Product pull(part.transpose(), weighted, {}, inverse);
  const Stationary at_rest = stationary(ctx, sums, walk, pull, max_iterations);
  result.residual = at_rest.residual;
  if (!(at_rest.residual <= kTrusted)) {
    result.reason = "the walk mixes too slowly: what is known is off by " + std::to_string(at_rest.residual);
    return result;
  }
  result.pi.assign(n, 0.0);
  for (std::size_t k = 0; k < members.size(); ++k) result.pi[at(members[k])] = at_rest.pi[k];
  return result;
}

}  // namespace manyhop::spectral

#include <algorithm>
#include <string>

#include "manyhop/engine/spectral/expansion.hpp"
#include "manyhop/engine/spectral/operator.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::spectral {

std::optional<double> capacity(const Context& ctx, const Graph& graph, int hops, bool weighted) {
  if (!graph.square())
    throw ValueError("capacity wants a square graph, got " + std::to_string(graph.n_rows()) + " x " +
                     std::to_string(graph.n_cols()));
  if (hops < 1 || hops > 1024)
    throw ValueError("hops is " + std::to_string(hops) + " and must be between 1 and 1024");
  const bool use_weights = graph.weighted() && uses_weights(graph, weighted);
  if (use_weights) {
    const auto weights = graph.weights();
    const auto least = std::min_element(weights.begin(), weights.end());
    if (least != weights.end() && *least < 0)
      throw ValueError("capacity wants weights of 0 or more, got " + std::to_string(*least) + " at edge " +
                       std::to_string(least - weights.begin()));
  }
  const auto n = at(graph.n_rows());
  if (n == 0) return std::nullopt;
  const ThreadScope scope(ctx.threads, ctx.stop);
  auto inverse = row_sums(graph, use_weights);
  for (double& d : inverse) d = d > 0 ? 1 / d : 0;
  const Product back(graph.transpose(), use_weights, {}, std::move(inverse));  // P^T
  std::vector<double> m(n, 1 / static_cast<double>(n)), next(n), mean(n);
  for (int hop = 0; hop < hops; ++hop) {
    check_stop();
    back.apply(m.data(), next.data());
    m.swap(next);
    for (std::size_t v = 0; v < n; ++v) mean[v] += m[v] / hops;
  }
  const double squares = dot(mean, mean);
  if (!(squares > 0)) return std::nullopt;
  return 1 / (static_cast<double>(n) * squares);
}

}  // namespace manyhop::spectral

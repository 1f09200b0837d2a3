#include "manyhop/engine/spectral/gap.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <tuple>
#include <utility>

#include "manyhop/engine/spectral/operators.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::spectral {
namespace {

std::string name_of(Operator op) {
  switch (op) {
    case Operator::normalized:
      return "normalized";
    case Operator::adjacency:
      return "adjacency";
    case Operator::laplacian:
      return "laplacian";
    case Operator::transition:
      return "transition";
    case Operator::singular:
      return "singular";
    case Operator::chung:
      return "chung";
  }
  return "normalized";
}

void check(const Graph& graph, const SpectralOptions& options) {
  if (!graph.square())
    throw ValueError(
        fmt::format("spectral wants a square graph, got {} x {}", graph.n_rows(), graph.n_cols()));
  if (!(options.tol > 0) || !std::isfinite(options.tol))
    throw ValueError(fmt::format("tol is {} and must be finite and above 0", options.tol));
  if (options.max_iterations < 1)
    throw ValueError(fmt::format("max_iterations is {} and must be 1 or more", options.max_iterations));
  if (options.reach_hops < 0 || options.reach_hops > 1024)
    throw ValueError(fmt::format("reach_hops is {} and must be between 0 and 1024", options.reach_hops));
}

bool undirected(Operator op) {
  return op == Operator::normalized || op == Operator::adjacency || op == Operator::laplacian;
}

bool symmetric_weights(const Graph& graph) {
  const auto weights = graph.weights();
  const auto mirrored = graph.transpose().weights();
  return std::equal(weights.begin(), weights.end(), mirrored.begin(), mirrored.end());
}

/// Whether a class of several vertices has no edges: each of them would get a loop of its own.
bool lonely_twins(const Twins& twins) {
  const Graph& mirrored = twins.base.transpose();
  for (Offset c = 0; c < twins.base.n_rows(); ++c)
    if (twins.sizes[at(c)] > 1 && twins.base.degree(c) == 0 && mirrored.degree(c) == 0) return true;
  return false;
}

/// Drops edges of weight 0, scales the rest to size at most 1, and refuses negative ones where a square root
/// of their sums is taken.
Input prepare(const Graph& graph, const SpectralOptions& options) {
  Input input;
  input.graph = graph;
  input.weighted = uses_weights(graph, options.weighted);
  if (!input.weighted && graph.weighted()) input.graph = graph.without_weights();
  if (input.weighted && graph.weighted()) {
    const auto weights = graph.weights();
    const auto indptr = graph.indptr();
    double largest = 0;
    Offset zeros = 0;
    for (Offset i = 0; i < graph.n_rows(); ++i)
      for (Offset e = indptr[at(i)]; e < indptr[at(i) + 1]; ++e) {
        const double w = weights[at(e)];
        if (w < 0 && options.op != Operator::adjacency)
          throw ValueError(fmt::format(
              "operator {} wants weights of 0 or more, got {} at row {}, column {}; adjacency takes any",
              name_of(options.op), w, i, graph.indices()[at(e)]));
        largest = std::max(largest, std::abs(w));
        zeros += w == 0 ? 1 : 0;
      }
    if (zeros > 0 || (largest > 0 && largest != 1)) {
      std::vector<Offset> kept_indptr{0};
      std::vector<Index> kept;
      std::vector<double> values;
      for (Offset i = 0; i < graph.n_rows(); ++i) {
        for (Offset e = indptr[at(i)]; e < indptr[at(i) + 1]; ++e) {
          const double w = weights[at(e)];
          if (w == 0) continue;
          kept.push_back(graph.indices()[at(e)]);
          values.push_back(w / largest);
        }
        kept_indptr.push_back(static_cast<Offset>(kept.size()));
      }
      input.graph = Graph::from_csr(graph.n_rows(), graph.n_cols(), std::move(kept_indptr), std::move(kept),
                                    std::move(values));
      input.scale = largest > 0 ? largest : 1;
    }
  }
  if (!input.weighted && undirected(options.op)) {
    input.twins = find_twins(input.graph);
    if (input.twins && options.op == Operator::laplacian && lonely_twins(*input.twins)) input.twins.reset();
    if (input.twins) input.graph = input.twins->base;
  }
  input.symmetric = is_symmetric(input.graph);
  if (input.symmetric && input.weighted && input.graph.weighted())
    input.symmetric = symmetric_weights(input.graph);
  input.parts = components(input.graph);
  return input;
}

/// Weak components of the graph and vertices without edges but a loop, also where `graph` is a base of twins.
std::pair<Offset, Offset> part_counts(const Input& input) {
  if (!input.twins) return {input.parts.count, input.parts.isolated};
  const Graph& base = input.graph;
  std::vector<char> touched(at(base.n_rows()));
  for (Offset c = 0; c < base.n_rows(); ++c)
    base.for_each_run(c, [&](Run run) {
      for (Index d = run.begin; d < run.end; ++d) touched[at(c)] = touched[at(d)] = 1;
    });
  Offset more = 0;
  Offset isolated = 0;
  std::vector<char> alone(touched.size(), 1);
  for (Offset c = 0; c < base.n_rows(); ++c)
    base.for_each_run(c, [&](Run run) {
      for (Index d = run.begin; d < run.end; ++d)
        if (d != c) alone[at(c)] = alone[at(d)] = 0;
    });
  for (std::size_t c = 0; c < touched.size(); ++c) {
    const auto size = static_cast<Offset>(input.twins->sizes[c]);
    if (touched[c] == 0) {
      more += size - 1;
      isolated += size;
    } else if (alone[c] != 0 && size == 1) {
      ++isolated;
    }
  }
  return {input.parts.count + more, isolated};
}

}  // namespace

void store(const Solution& solution, const SpectralOptions& options, GapResult& result) {
  const auto n = at(result.n);
  if (solution.has_second) {
    result.lambda2 = solution.second.value;
    result.residual = std::max(result.residual, solution.second.residual);
  }
  if (solution.has_last) {
    result.lambda_n = solution.last.value;
    result.residual = std::max(result.residual, solution.last.residual);
  }
  result.iterations = solution.iterations;
  result.method = solution.method;
  if (options.vectors && n == 1 && solution.last.vector.size() == 1) {
    result.vectors = {0, solution.last.vector[0]};  // one vertex has no second eigenvalue
  } else if (options.vectors && solution.second.vector.size() == n && solution.last.vector.size() == n &&
             n > 0) {
    result.vectors.resize(2 * n);
    for (std::size_t i = 0; i < n; ++i) {
      result.vectors[2 * i] = solution.second.vector[i];
      result.vectors[2 * i + 1] = solution.last.vector[i];
    }
  }
}

GapResult gap(const Context& ctx, const Graph& graph, const SpectralOptions& options) {
  std::optional<Graph> merged;
  return gap_of(ctx, graph, options, merged);
}

GapResult gap_of(const Context& ctx, const Graph& graph, const SpectralOptions& options,
                 std::optional<Graph>& merged) {
  check(graph, options);
  require_backend(ctx, "spectral");
  const ThreadScope scope(ctx.threads, ctx.stop);
  GapResult result;
  result.n = graph.n_rows();
  result.edges = graph.nnz();
  result.op = name_of(options.op);
  const auto begin = std::chrono::steady_clock::now();
  Input input = prepare(graph, options);
  std::optional<Graph> of_base;
  // The Laplacian of a graph with isolated vertices is solved on another graph: solve_laplacian().
  const bool as_it_is = options.op != Operator::laplacian || input.parts.isolated == 0;
  if (undirected(options.op) && !input.weighted && !input.symmetric && as_it_is) {
    std::optional<Graph>& made = input.twins ? of_base : merged;
    if (!made) made = symmetrised(input.graph);
    input.merged = &*made;
  }
  std::tie(result.components, result.isolated) = part_counts(input);
  result.method = "none (no vertices)";
  if (result.n > 0) {
    switch (options.op) {
      case Operator::normalized:
        result.symmetrised = !input.symmetric;
        store(solve_normalized(ctx, input, options), options, result);
        if (result.lambda2) result.gap = 1 - result.lambda2->real();
        break;
      case Operator::laplacian: {
        result.symmetrised = !input.symmetric;
        store(solve_laplacian(ctx, input, options), options, result);
        if (result.lambda2) result.gap = result.lambda2->real();
        break;
      }
      case Operator::adjacency: {
        result.symmetrised = !input.symmetric;
        Pair first;
        store(solve_adjacency(ctx, input, options, first), options, result);
        result.residual = std::max(result.residual, first.residual);
        if (result.lambda2) result.gap = std::max(0.0, first.value - result.lambda2->real());
        break;
      }
      case Operator::transition:
        solve_transition(ctx, input, options, result);
        break;
      case Operator::singular:
        solve_singular(ctx, input, options, result);
        break;
      case Operator::chung:
        solve_chung(ctx, input, options, result);
        break;
    }
  }
  if (result.gap && result.components > 1) result.gap = 0;
  result.converged = result.converged && result.residual <= options.tol;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (options.reach_hops > 0 && result.n > 0) result.reach = reach(ctx, graph, options.reach_hops);
  return result;
}

}  // namespace manyhop::spectral

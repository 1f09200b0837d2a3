// The symmetric operators: normalized, adjacency (and laplacian, which is read off normalized).
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "manyhop/engine/spectral/closed.hpp"
#include "manyhop/engine/spectral/operators.hpp"
#include "manyhop/graphs/runs.hpp"

namespace manyhop::spectral {
namespace {

Pair pick(const DenseSpectrum& spectrum, Offset n, Offset k,
          const std::function<void(const double*, double*)>& apply) {
  const auto* column = spectrum.vectors.data() + k * n;
  Pair pair = checked(apply, {column, column + n});
  return pair;
}

void take(Solution& solution, Extremes found, bool top, bool bottom) {
  if (top) solution.second = std::move(found.top);
  if (bottom) solution.last = std::move(found.bottom);
  solution.has_second = solution.has_second || top;
  solution.has_last = solution.has_last || bottom;
  solution.iterations += found.iterations;
  solution.method = found.method;
}

/// A loop on every vertex without edges.
Graph with_loops_on_isolated(const Graph& graph) {
  const Graph& mirrored = graph.transpose();
  const auto lonely = [&](Offset i) { return graph.degree(i) == 0 && mirrored.degree(i) == 0; };
  if (!graph.weighted())
    return build_rows(graph.n_rows(), graph.n_cols(), [&](Offset i, RunList& out) {
      if (lonely(i)) append_run(out, {static_cast<Index>(i), static_cast<Index>(i + 1)});
      graph.for_each_run(i, [&](Run run) { append_run(out, run); });
    });
  std::vector<Offset> indptr{0};
  std::vector<Index> indices;
  std::vector<double> weights;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    const auto row = graph.row(i);
    indices.insert(indices.end(), row.begin(), row.end());
    const auto values = graph.weights().subspan(at(graph.indptr()[at(i)]), row.size());
    weights.insert(weights.end(), values.begin(), values.end());
    if (lonely(i)) {
      indices.push_back(static_cast<Index>(i));
      weights.push_back(1);
    }
    indptr.push_back(static_cast<Offset>(indices.size()));
  }
  return Graph::from_csr(graph.n_rows(), graph.n_cols(), std::move(indptr), std::move(indices),
                         std::move(weights));
}

}  // namespace

Solution dense_solution(Offset n, const std::function<void(const double*, double*)>& apply, Pair* first) {
  Solution solution;
  solution.method = "dense";
  const DenseSpectrum spectrum = dense_spectrum(n, apply);
  solution.last = pick(spectrum, n, 0, apply);
  solution.has_last = true;
  if (n > 1) {
    solution.second = pick(spectrum, n, n - 2, apply);
    solution.has_second = true;
  }
  if (first != nullptr) *first = pick(spectrum, n, n - 1, apply);
  return solution;
}

std::vector<Graph> symmetric_terms(const Input& input) {
  if (input.symmetric) return {input.graph};
  if (input.weighted) return {input.graph, input.graph.transpose()};
  if (input.merged != nullptr) return {*input.merged};
  return {symmetrised(input.graph)};
}

namespace {

/// Degrees of the vertices of the graph, or of one vertex of each class.
std::vector<double> degree_sums(const Input& input, const Graph& term) {
  if (!input.twins) return row_sums(term, input.weighted);
  std::vector<double> sums(input.twins->sizes.size());
  Product(term, false).apply(input.twins->sizes.data(), sums.data());
  return sums;
}

/// The closed form of an undirected graph, or of a base of twins of one size.
std::optional<ClosedForm> closed_form_of(const Input& input, const std::vector<Graph>& terms) {
  if (terms.size() != 1 || input.weighted) return std::nullopt;
  if (input.twins) {
    const auto& sizes = input.twins->sizes;
    if (std::any_of(sizes.begin(), sizes.end(), [&](double size) { return size != sizes[0]; }))
      return std::nullopt;
  }
  return closed_form(terms[0]);
}

/// ||H x - value x|| by a fresh product, with the value given.
Pair measured(const std::function<void(const double*, double*)>& apply, std::vector<double> x, double value) {
  Pair pair;
  std::vector<double> y(x.size());
  apply(x.data(), y.data());
  add_to(y, -value, x);
  pair.residual = norm(y);
  pair.value = value;
  pair.vector = std::move(x);
  return pair;
}

Solution from_closed(ClosedForm& closed, double factor,
                     const std::function<void(const double*, double*)>& apply) {
  Solution solution;
  solution.second = measured(apply, std::move(closed.second_vector), factor * closed.second);
  solution.last = measured(apply, std::move(closed.last_vector), factor * closed.last);
  solution.has_second = solution.has_last = true;
  solution.method = closed.method;
  return solution;
}

/// From the factors of a product of graphs: eigenvalues are products of theirs, and so are vectors.
std::optional<Solution> from_factors(const Context& ctx, const Graph& graph, const SpectralOptions& options,
                                     const std::function<void(const double*, double*)>& apply) {
  const auto factors = product_graph(graph);
  if (!factors) return std::nullopt;
  struct Side {
    double second = 0, last = 0;
    std::vector<double> vectors[3];  // of the largest, second and last
    std::string method;
  };
  const auto solve = [&](const Graph& factor) -> std::optional<Side> {
    SpectralOptions request = options;
    request.op = Operator::normalized;
    request.tol = std::max(options.tol / 4, 1e-14);
    request.weighted = false;
    request.vectors = true;
    request.reach_hops = 0;
    const GapResult found = gap(ctx, factor, request);
    if (found.components != 1 || !found.lambda2 || found.vectors.empty()) return std::nullopt;
    Side side{found.lambda2->real(), found.lambda_n->real(), {}, found.method};
    side.vectors[0] = row_sums(factor, false);
    for (double& x : side.vectors[0]) x = std::sqrt(x);
    normalise(side.vectors[0]);
    for (std::size_t i = 0; i < found.vectors.size(); i += 2) {
      side.vectors[1].push_back(found.vectors[i]);
      side.vectors[2].push_back(found.vectors[i + 1]);
    }
    return side;
  };
  const auto outer = solve(factors->outer);
  const auto inner = outer ? solve(factors->inner) : std::nullopt;
  if (!inner) return std::nullopt;
  const auto spread = [&](std::size_t a, std::size_t b) {
    std::vector<double> x;
    x.reserve(at(graph.n_rows()));
    for (const double left : outer->vectors[a])
      for (const double right : inner->vectors[b]) x.push_back(left * right);
    normalise(x);
    return checked(apply, std::move(x));
  };
  // No eigenvalue is larger in size than 1, which both have: only these can be second or last.
  Solution solution;
  const double both = outer->last * inner->last;
  solution.second = both > std::max(outer->second, inner->second) ? spread(2, 2)
                    : outer->second >= inner->second              ? spread(1, 0)
                                                                  : spread(0, 1);
  solution.last = outer->last <= inner->last ? spread(2, 0) : spread(0, 2);
  solution.has_second = solution.has_last = true;
  solution.method = "product of " + std::to_string(factors->outer.n_rows()) + " (" + outer->method +
                    ") and " + std::to_string(factors->inner.n_rows()) + " (" + inner->method + ") vertices";
  return solution;
}

Solution base_normalized(const Context& ctx, const Input& input, const SpectralOptions& options) {
  const Offset n = input.graph.n_rows();
  const auto terms = symmetric_terms(input);
  // With twins a vertex stands for `size` of them: the root of its degree and its scale both take the root
  // of the size.
  std::vector<double> root(at(n));
  for (const Graph& term : terms) {
    const auto sums = degree_sums(input, term);
    for (std::size_t i = 0; i < root.size(); ++i) root[i] += sums[i] / static_cast<double>(terms.size());
  }
  std::vector<double> inverse(root.size());
  for (std::size_t i = 0; i < root.size(); ++i) {
    const double size = input.twins ? input.twins->sizes[i] : 1.0;
    inverse[i] = root[i] > 0 ? std::sqrt(size) / std::sqrt(root[i]) : 0;
    root[i] = std::sqrt(size) * std::sqrt(root[i]);
  }
  std::vector<Product> products;
  products.reserve(terms.size());
  for (const Graph& term : terms) products.emplace_back(term, input.weighted, inverse, inverse, ctx.backend);
  const SymmetricOperator op(std::move(products));
  const auto apply = [&op](const double* x, double* y) { op.apply(x, y); };

  if (auto closed = closed_form_of(input, terms)) {
    const double degree = closed->degree;
    return from_closed(*closed, 1 / degree, apply);
  }
  if (n > kDenseSize && !input.twins && !input.weighted && input.parts.count == 1 && terms.size() == 1)
    if (auto solution = from_factors(ctx, terms[0], options, apply)) return *solution;

  // Eigenvalue 1 belongs to each component with an edge, -1 to each bipartite one: those are known exactly.
  std::vector<double> mass(at(input.parts.count));
  for (Offset v = 0; v < n; ++v) mass[at(input.parts.label[at(v)])] += root[at(v)] * root[at(v)];
  std::vector<Offset> filled;
  for (Offset c = 0; c < input.parts.count; ++c)
    if (mass[at(c)] > 0) filled.push_back(c);
  const auto support = [&](Offset component) {
    std::vector<double> u(at(n));
    for (Offset v = 0; v < n; ++v)
      if (input.parts.label[at(v)] == component) u[at(v)] = root[at(v)];
    normalise(u);
    return u;
  };

  Solution solution;
  if (n <= kDenseSize) solution = dense_solution(n, apply, nullptr);
  if (filled.empty()) {
    if (n > kDenseSize) {
      std::vector<double> a(at(n)), b(at(n));
      a[0] = 1;
      b[1] = 1;
      solution.second = checked(apply, std::move(a));
      solution.last = checked(apply, std::move(b));
      solution.has_second = solution.has_last = true;
      solution.method = "exact (no edges)";
    }
    return solution;
  }
  const bool top_known = filled.size() > 1;
  if (top_known) {
    auto a = support(filled[0]);
    const auto b = support(filled[1]);
    const double share_a = std::sqrt(mass[at(filled[0])]);
    const double share_b = std::sqrt(mass[at(filled[1])]);
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = share_b * a[i] - share_a * b[i];
    normalise(a);
    solution.second = checked(apply, std::move(a));
    solution.second.value = 1;
    solution.has_second = true;
  }
  const Sides sides = two_sides(terms, input.parts);
  const auto bipartite =
      std::find_if(filled.begin(), filled.end(), [&](Offset c) { return sides.odd[at(c)] == 0; });
  const bool bottom_known = bipartite != filled.end();
  if (bottom_known) {
    auto u = support(*bipartite);
    for (std::size_t v = 0; v < u.size(); ++v)
      if (sides.side[v] == 1) u[v] = -u[v];
    solution.last = checked(apply, std::move(u));
    solution.last.value = -1;
    solution.has_last = true;
  }
  if (n <= kDenseSize) return solution;
  if (top_known && bottom_known) {
    solution.method = "exact (components, bipartite)";
    return solution;
  }

  SymmetricProblem problem;
  problem.n = n;
  problem.apply = apply;
  if (op.has_rounded()) problem.rounded = [&op](const double* x, double* y) { op.apply_rounded(x, y); };
  problem.banded = &op;
  if (!top_known) {
    problem.known.push_back(support(filled[0]));
    problem.known_value = 1;
    if (bottom_known) problem.known.push_back(solution.last.vector);
  }
  take(solution, extremes(ctx, problem, !top_known, !bottom_known, options.tol, options.max_iterations),
       !top_known, !bottom_known);
  return solution;
}

}  // namespace

Solution solve_normalized(const Context& ctx, const Input& input, const SpectralOptions& options) {
  Solution solution = base_normalized(ctx, input, options);
  expand(input, solution);
  return solution;
}

void expand(const Input& input, Solution& solution) {
  if (!input.twins) return;
  const Twins& twins = *input.twins;
  const auto spread = [&](Pair& pair) {
    std::vector<double> x(twins.label.size());
    for (std::size_t v = 0; v < x.size(); ++v) {
      const auto c = at(twins.label[v]);
      x[v] = pair.vector[c] / std::sqrt(twins.sizes[c]);
    }
    pair.vector = std::move(x);
  };
  Pair zero;
  std::vector<Index> earlier(twins.sizes.size(), -1);
  zero.vector.resize(twins.label.size());
  for (std::size_t v = 0; v < twins.label.size(); ++v) {
    Index& other = earlier[at(twins.label[v])];
    if (other >= 0) {
      zero.vector[at(other)] = std::sqrt(0.5);
      zero.vector[v] = -std::sqrt(0.5);
      break;
    }
    other = static_cast<Index>(v);
  }
  if (solution.has_second && solution.second.value >= 0)
    spread(solution.second);
  else
    solution.second = zero;
  if (solution.has_last && solution.last.value <= 0)
    spread(solution.last);
  else
    solution.last = zero;
  solution.has_second = solution.has_last = true;
  solution.method = "twins (" + std::to_string(twins.sizes.size()) + " classes) + " + solution.method;
}

Solution solve_laplacian(const Context& ctx, const Input& input, const SpectralOptions& options) {
  Input filled = input;
  if (input.parts.isolated > 0) filled.graph = with_loops_on_isolated(input.graph);
  Solution solution = solve_normalized(ctx, filled, options);
  solution.second.value = 1 - solution.second.value;
  solution.last.value = 1 - solution.last.value;
  return solution;
}

Solution solve_adjacency(const Context& ctx, const Input& input, const SpectralOptions& options,
                         Pair& first) {
  const Offset n = input.graph.n_rows();
  std::vector<Product> products;
  std::vector<double> sizes(at(n));
  std::vector<double> scales;  // roots of the sizes of twins
  if (input.twins)
    for (const double size : input.twins->sizes) scales.push_back(std::sqrt(size));
  for (const Graph& term : symmetric_terms(input)) {
    std::vector<double> absolute(term.weights().begin(), term.weights().end());
    for (double& w : absolute) w = std::abs(w);
    const auto sums =
        degree_sums(input, input.weighted && term.weighted() ? term.with_weights(std::move(absolute)) : term);
    for (std::size_t i = 0; i < sizes.size(); ++i) sizes[i] += sums[i];
    products.emplace_back(term, input.weighted, scales, scales, ctx.backend);
  }
  const auto count = static_cast<double>(products.size());
  const SymmetricOperator op(std::move(products));
  const auto apply = [&op](const double* x, double* y) { op.apply(x, y); };
  SymmetricProblem problem;
  problem.n = n;
  problem.apply = apply;
  problem.banded = &op;
  problem.bound = sizes.empty() ? 0 : *std::max_element(sizes.begin(), sizes.end()) / count;

  Solution solution;
  const double tol = options.tol / input.scale;
  if (auto closed = closed_form_of(input, symmetric_terms(input))) {
    const double size = input.twins ? input.twins->sizes[0] : 1.0;
    first = measured(apply, std::vector<double>(at(n), 1 / std::sqrt(static_cast<double>(n))),
                     size * closed->degree);
    solution = from_closed(*closed, size, apply);
  } else if (n <= kDenseSize) {
    solution = dense_solution(n, apply, &first);
  } else if (problem.bound == 0) {
    first = checked(apply, start_vector(n, 1));
    std::vector<double> a(at(n)), b(at(n));
    a[0] = 1;
    b[1] = 1;
    solution.second = checked(apply, std::move(a));
    solution.last = checked(apply, std::move(b));
    solution.has_second = solution.has_last = true;
    solution.method = "exact (no edges)";
  } else {
    // What is left of the first pair shows in the residuals of the others.
    const double tighter = std::max(0.05 * tol, 1e-14 * problem.bound);
    Extremes largest = extremes(ctx, problem, true, false, std::min(tol, tighter), options.max_iterations);
    first = std::move(largest.top);
    problem.known.push_back(first.vector);
    problem.known_value = first.value;
    take(solution, extremes(ctx, problem, true, true, tol, options.max_iterations), true, true);
    solution.iterations += largest.iterations;
    if (largest.method.size() > solution.method.size()) solution.method = largest.method;
  }
  expand(input, solution);
  for (Pair* pair : {&first, &solution.second, &solution.last}) {
    pair->value *= input.scale;
    pair->residual *= input.scale;
  }
  return solution;
}

}  // namespace manyhop::spectral

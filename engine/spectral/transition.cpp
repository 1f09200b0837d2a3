// transition: second-largest modulus of D_r^-1 A as given. Its spectrum is that of its strong components side
// by side, so each is solved alone: a triangular graph has its diagonal, a closed component has the known
// eigenvalue 1, a period p adds the p-th roots of unity. Residuals are those of the component's block.
#include <Spectra/GenEigsSolver.h>
#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

#include "manyhop/engine/spectral/operators.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/runs.hpp"

namespace manyhop::spectral {
namespace {

using Number = std::complex<double>;
using Apply = std::function<void(const double*, double*)>;
constexpr Offset kSubspace = 60;
constexpr int kNilpotentSteps = 64;

struct Candidate {
  Number value;
  double residual = 0;
};

struct Operation {
  using Scalar = double;
  Eigen::Index size;
  const Apply* apply;
  Eigen::Index rows() const { return size; }
  Eigen::Index cols() const { return size; }
  void perform_op(const double* x, double* y) const {
    check_stop();
    (*apply)(x, y);
  }
};

class Arnoldi : public Spectra::GenEigsSolver<Operation> {
 public:
  using Spectra::GenEigsSolver<Operation>::GenEigsSolver;
  struct Ritz {
    Eigen::VectorXcd values;
    Eigen::MatrixXcd vectors;
  };
  /// Converged or not, the k largest.
  Ritz largest(Eigen::Index k) const {
    const Eigen::EigenSolver<Eigen::MatrixXd> small(this->m_fac.matrix_H());
    std::vector<Eigen::Index> order(static_cast<std::size_t>(small.eigenvalues().size()));
    std::iota(order.begin(), order.end(), Eigen::Index{0});
    std::stable_sort(order.begin(), order.end(), [&](Eigen::Index a, Eigen::Index b) {
      return std::abs(small.eigenvalues()[a]) > std::abs(small.eigenvalues()[b]);
    });
    Ritz result;
    result.values.resize(k);
    Eigen::MatrixXcd chosen(small.eigenvalues().size(), k);
    for (Eigen::Index i = 0; i < k; ++i) {
      result.values[i] = small.eigenvalues()[order[at(i)]];
      chosen.col(i) = small.eigenvectors().col(order[at(i)]);
    }
    result.vectors = this->m_fac.matrix_V().cast<Number>() * chosen;
    return result;
  }
};

Offset subspace(const Context& ctx, Offset n) {
  const auto column = static_cast<std::size_t>(n) * sizeof(double);
  const Offset fit = static_cast<Offset>(ctx.limit() / column / 2) - 8;
  if (fit < 8)
    throw LimitError("the eigen-solver needs " + std::to_string(32 * column) +
                     " bytes and the memory limit is " + std::to_string(ctx.limit()));
  return std::min({n, kSubspace, fit});
}

/// ||A x - value x|| / ||x|| by a fresh product.
double residual_of(const Apply& apply, Number value, const Eigen::VectorXcd& x) {
  const Eigen::VectorXd re = x.real();
  const Eigen::VectorXd im = x.imag();
  Eigen::VectorXd out_re(re.size()), out_im(im.size());
  apply(re.data(), out_re.data());
  apply(im.data(), out_im.data());
  Eigen::VectorXcd left(x.size());
  left.real() = out_re;
  left.imag() = out_im;
  left -= value * x;
  const double size = x.norm();
  return size > 0 ? left.norm() / size : 1;
}

/// One strong component with more than one vertex.
struct Block {
  Graph graph;
  std::vector<double> inverse;  // 1 / row sum in the whole graph
  bool closed = false;
};

/// Greatest common divisor of the cycle lengths, and (where that is not 1) a level of every vertex.
Offset period(const Graph& graph, std::vector<Index>& level) {
  const Offset n = graph.n_rows();
  level.assign(at(n), -1);
  std::vector<Index> queue{0};
  level[0] = 0;
  Offset result = 0;
  for (std::size_t head = 0; head < queue.size() && result != 1; ++head) {
    if ((head & 0xFFF) == 0) check_stop();
    const Index u = queue[head];
    graph.for_each_run(u, [&](Run run) {
      for (Index v = run.begin; v < run.end && result != 1; ++v) {
        if (level[at(v)] < 0) {
          level[at(v)] = level[at(u)] + 1;
          queue.push_back(v);
        } else {
          result = std::gcd(result, Offset{level[at(u)]} + 1 - level[at(v)]);  // never negative
        }
      }
    });
  }
  return result;
}

void dense_block(const Product& walk, bool closed, std::vector<Candidate>& out) {
  const Offset n = walk.rows();
  Eigen::MatrixXd matrix = Eigen::MatrixXd::Zero(n, n);
  for (Offset i = 0; i < n; ++i) walk.for_each(i, [&](Index j, double value) { matrix(i, j) = value; });
  const Eigen::EigenSolver<Eigen::MatrixXd> solver(matrix);
  std::vector<Candidate> found;
  for (Eigen::Index k = 0; k < n; ++k) {
    const Number value = solver.eigenvalues()[k];
    const Eigen::VectorXcd x = solver.eigenvectors().col(k);
    found.push_back({value, (matrix.cast<Number>() * x - value * x).norm() / x.norm()});
  }
  if (closed) {
    const auto one = std::min_element(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) {
      return std::abs(a.value - 1.0) < std::abs(b.value - 1.0);
    });
    one->value = 1;
  }
  out.insert(out.end(), found.begin(), found.end());
}

constexpr Offset kDenseRescue = 800;  // a dense solve settles what Arnoldi has not, in seconds

class Solver {
 public:
  Solver(const Context& ctx, const Input& input, const SpectralOptions& options, GapResult& result)
      : ctx_(ctx), input_(input), options_(options), result_(result) {}

  void solve(const Block& block, std::vector<Candidate>& out) {
    const Offset n = block.graph.n_rows();
    const Product walk(block.graph, input_.weighted, block.inverse);
    const Apply plain = [&](const double* x, double* y) { walk.apply(x, y); };
    // P - 1 (1/n) 1^T has the spectrum of P with the eigenvalue 1 moved to 0 (Brauer).
    const Apply moved = [&](const double* x, double* y) {
      walk.apply(x, y);
      const double mean = std::accumulate(x, x + n, 0.0) / static_cast<double>(n);
      for (Offset i = 0; i < n; ++i) y[i] -= mean;
    };
    if (block.closed) {
      std::vector<Index> level;
      if (const Offset p = period(block.graph, level); p > 1) {
        out.push_back({1.0, 0});
        const Number root = std::polar(1.0, 2 * std::numbers::pi / static_cast<double>(p));
        Eigen::VectorXcd x(n);
        for (Offset v = 0; v < n; ++v)
          x[v] = std::polar(
              1.0, 2 * std::numbers::pi * static_cast<double>(level[at(v)] % p) / static_cast<double>(p));
        out.push_back({p == 2 ? Number(-1.0) : root, residual_of(plain, root, x)});
        note("exact (period)");
        return;
      }
      if (nilpotent(moved, n)) {
        out.push_back({1.0, 0});
        out.push_back({0.0, 0});
        note("exact (nilpotent beside 1)");
        return;
      }
    }
    if (n <= kDenseSize) {
      dense_block(walk, block.closed, out);
      note("dense");
      return;
    }
    const std::size_t before = out.size();
    if (block.closed) out.push_back({1.0, 0});
    const bool was = result_.converged;
    arnoldi(block.closed ? moved : plain, plain, block.closed, n, out);
    note("arnoldi (Spectra)");
    const bool far = std::any_of(out.begin() + static_cast<std::ptrdiff_t>(before), out.end(),
                                 [&](const Candidate& c) { return !(c.residual <= options_.tol); });
    if (n > kDenseRescue || !(far || (was && !result_.converged))) return;
    result_.converged = was;
    out.resize(before);
    dense_block(walk, block.closed, out);
    note("dense");
  }

 private:
  // Whether a random vector is sent to rounding error in a few steps.
  static bool nilpotent(const Apply& apply, Offset n) {
    auto x = start_vector(n, 4);
    normalise(x);
    std::vector<double> y(x.size());
    for (int step = 0; step < kNilpotentSteps; ++step) {
      apply(x.data(), y.data());
      if (norm(y) <= 1e-13) return true;
      x.swap(y);
      normalise(x);
    }
    return false;
  }

  void arnoldi(const Apply& apply, const Apply& plain, bool closed, Offset n, std::vector<Candidate>& out) {
    const Offset size = subspace(ctx_, n);
    Operation operation{n, &apply};
    const Eigen::Index wanted = closed ? 1 : 2;
    Arnoldi solver(operation, wanted, size);
    const auto start = start_vector(n, 5);
    solver.init(start.data());
    try {
      solver.compute(Spectra::SortRule::LargestMagn, options_.max_iterations,
                     std::max(0.1 * options_.tol, 1e-14));
    } catch (const Error&) {
      throw;
    } catch (
        const std::exception&) {  // the small dense solver gave up: what there is comes back as not converged
      result_.converged = false;
    }
    result_.iterations += static_cast<int>(solver.num_iterations());
    const auto ritz = solver.largest(wanted);
    for (Eigen::Index k = 0; k < wanted; ++k) {
      const Number value = ritz.values[k];
      Eigen::VectorXcd x = ritz.vectors.col(k);
      if (closed && std::abs(value - 1.0) > 1e-14) {  // back from P - 1 (1/n) 1^T to P
        const Number shift = x.mean() / (value - 1.0);
        x.array() += shift;
      }
      out.push_back({value, residual_of(plain, value, x)});
    }
  }

  void note(const std::string& method) {
    if (result_.method.find(method) != std::string::npos) return;
    result_.method = result_.method.empty() ? method : result_.method + " + " + method;
  }

  const Context& ctx_;
  const Input& input_;
  const SpectralOptions& options_;
  GapResult& result_;
};

/// Similar to D^-1/2 S D^-1/2: real, and solved as such.
void solve_similar(const Context& ctx, const Input& input, const SpectralOptions& options,
                   GapResult& result) {
  const auto sums = row_sums(input.graph, input.weighted);
  double least = 0;
  double most = 0;
  std::vector<double> inverse(sums.size());
  for (std::size_t i = 0; i < sums.size(); ++i) {
    inverse[i] = sums[i] > 0 ? 1 / sums[i] : 0;
    if (sums[i] > 0) least = least > 0 ? std::min(least, sums[i]) : sums[i];
    most = std::max(most, sums[i]);
  }
  SpectralOptions tighter = options;
  if (least > 0) tighter.tol = std::max(options.tol * std::sqrt(least / most), std::min(options.tol, 1e-13));
  Solution solution = solve_normalized(ctx, input, tighter);
  Pair& pair =
      std::abs(solution.last.value) > std::abs(solution.second.value) ? solution.last : solution.second;
  const double value = pair.value;
  auto x = std::move(pair.vector);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] *= inverse[i] > 0 ? std::sqrt(inverse[i]) : 1.0;
  normalise(x);
  const Product walk(input.graph, input.weighted, std::move(inverse));
  std::vector<double> y(x.size());
  walk.apply(x.data(), y.data());
  for (std::size_t i = 0; i < y.size(); ++i) y[i] -= value * x[i];
  result.lambda2 = value;
  result.gap = 1 - std::abs(value);
  result.residual = std::max({norm(y), solution.last.residual, solution.second.residual});
  result.iterations = solution.iterations;
  result.method = solution.method;
}

}  // namespace

std::vector<double> dominant_vector(const Context& ctx, Offset n, const Apply& apply,
                                    const std::vector<double>& start, int max_iterations) {
  Operation operation{n, &apply};
  Arnoldi solver(operation, 1, subspace(ctx, n));
  solver.init(start.data());
  try {
    solver.compute(Spectra::SortRule::LargestMagn, max_iterations, 1e-14);
  } catch (const Error&) {
    throw;
  } catch (const std::exception&) {  // the caller measures what there is
  }
  const Eigen::VectorXcd x = solver.largest(1).vectors.col(0);
  std::vector<double> result(at(n));
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = std::abs(x[static_cast<Eigen::Index>(i)]);
  return result;
}

void solve_transition(const Context& ctx, const Input& input, const SpectralOptions& options,
                      GapResult& result) {
  const Graph& graph = input.graph;
  const Offset n = graph.n_rows();
  if (n < 2) {
    result.method = "none (fewer than two vertices)";
    return;
  }
  if (input.symmetric) {
    solve_similar(ctx, input, options, result);
    return;
  }
  const auto sums = row_sums(graph, input.weighted);
  const StrongComponents strong = strong_components(graph);
  std::vector<Offset> start(at(strong.count) + 1);
  for (const Index label : strong.label) ++start[at(label) + 1];
  std::partial_sum(start.begin(), start.end(), start.begin());
  std::vector<Index> members(at(n)), local(at(n));
  auto fill = start;
  for (Offset v = 0; v < n; ++v) {
    const auto label = at(strong.label[at(v)]);
    local[at(v)] = static_cast<Index>(fill[label] - start[label]);
    members[at(fill[label]++)] = static_cast<Index>(v);
  }
  result.method.clear();
  Solver solver(ctx, input, options, result);
  std::vector<Candidate> all;
  for (std::size_t c = 0; c < at(strong.count); ++c) {
    if ((c & 0xFFF) == 0) check_stop();
    const Offset size = start[c + 1] - start[c];
    const std::span<const Index> mine(members.data() + start[c], at(size));
    if (size == 1) {
      const Offset v = mine[0];
      double loop = 0;
      std::size_t position = 0;
      graph.for_each_run(v, [&](Run run) {
        if (run.begin <= v && v < run.end)
          loop = input.weighted && graph.weighted()
                     ? graph.weights()[at(graph.indptr()[at(v)]) + position + at(v - run.begin)]
                     : 1.0;
        position += at(run.end - run.begin);
      });
      all.push_back({loop > 0 ? loop / sums[at(v)] : 0.0, 0});
      continue;
    }
    Block block;
    block.inverse.resize(at(size));
    for (std::size_t k = 0; k < mine.size(); ++k) block.inverse[k] = 1 / sums[at(mine[k])];
    if (size == n) {
      block.graph = graph;
      block.closed = true;
    } else {
      std::vector<Offset> indptr{0};
      std::vector<Index> indices;
      std::vector<double> weights;
      Offset kept_out = 0;
      for (const Index v : mine) {
        std::size_t e = at(graph.indptr()[at(v)]);
        graph.for_each_run(v, [&](Run run) {
          for (Index j = run.begin; j < run.end; ++j, ++e) {
            if (at(strong.label[at(j)]) != c) {
              ++kept_out;
              continue;
            }
            indices.push_back(local[at(j)]);
            if (input.weighted && graph.weighted()) weights.push_back(graph.weights()[e]);
          }
        });
        indptr.push_back(static_cast<Offset>(indices.size()));
      }
      block.closed = kept_out == 0;
      block.graph = Graph::from_csr(size, size, std::move(indptr), std::move(indices), std::move(weights));
    }
    solver.solve(block, all);
  }
  if (result.method.empty()) result.method = "exact (triangular)";
  // Second by modulus; of equal ones the larger real part comes first.
  std::stable_sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
    return std::pair(std::abs(a.value), a.value.real()) > std::pair(std::abs(b.value), b.value.real());
  });
  const Candidate& second = all[1];
  result.lambda2 = Number(second.value.real(), std::abs(second.value.imag()));
  result.gap = std::max(0.0, 1 - std::abs(second.value));
  result.residual = second.residual;
}

}  // namespace manyhop::spectral

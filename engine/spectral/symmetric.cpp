#include "manyhop/engine/spectral/symmetric.hpp"

#include <fmt/format.h>

#include <Spectra/SymEigsSolver.h>
#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "manyhop/engine/spectral/skyline.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::spectral {
namespace {

constexpr Offset kSubspace = 40;            // Lanczos vectors
constexpr int kFirstRestarts = 2;           // of Lanczos, where shift-invert could take over
constexpr Offset kInverseWork = 5'000'000;  // vertices times restarts of Lanczos on the inverse ...
constexpr int kInverseRestarts = 40;        // ... and at most so many: it mostly needs one or two
constexpr int kRounds = 6;                  // of factorisations, each closer to the end
constexpr Offset kFactorEntries = 64'000'000;
constexpr double kFactorWork = 1e10;  // multiply-adds: some seconds

using Apply = std::function<void(const double*, double*)>;

/// What Spectra asks of a matrix.
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

/// Spectra returns converged pairs only; the best ones are needed either way.
class Lanczos : public Spectra::SymEigsSolver<Operation> {
 public:
  using Spectra::SymEigsSolver<Operation>::SymEigsSolver;
  struct Ends {
    std::vector<double> top, bottom;
  };
  Ends ends() const {
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> small(this->m_fac.matrix_H());
    const Eigen::VectorXd low = this->m_fac.matrix_V() * small.eigenvectors().col(0);
    const Eigen::VectorXd high = this->m_fac.matrix_V() * small.eigenvectors().rightCols(1);
    return {{high.data(), high.data() + high.size()}, {low.data(), low.data() + low.size()}};
  }
};

Offset subspace(const Context& ctx, Offset n) {
  const Offset wanted = std::min(n, kSubspace);
  const auto column = static_cast<std::size_t>(n) * sizeof(double);
  const auto fit = static_cast<Offset>(ctx.limit() / column / 2) - 4;  // the basis is copied at a restart
  if (fit < 8)
    throw LimitError(
        fmt::format("the eigen-solver needs {} bytes for 8 vectors of {} entries and the memory limit is {}",
                    column * 24, n, ctx.limit()));
  return std::min(wanted, fit);
}

void leave_out(const SymmetricProblem& problem, std::span<double> x) {
  for (const auto& u : problem.known) project_out(u, x);
}

/// H on the complement of the known vectors; on their span the number `inner`, which lies between the ends
/// wanted: a known vector that rounding or a random restart lets in never shows as an end.
Apply complement(const SymmetricProblem& problem, double inner, double scale, double shift) {
  return [&problem, inner, scale, shift](const double* x, double* y) {
    const std::span<const double> in(x, at(problem.n));
    const std::span<double> out(y, at(problem.n));
    std::vector<double> kept(in.begin(), in.end());
    leave_out(problem, kept);
    problem.apply(kept.data(), y);
    leave_out(problem, out);
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i] = scale * (out[i] + inner * (in[i] - kept[i])) + shift * in[i];
  };
}

Pair finish(const SymmetricProblem& problem, std::vector<double> x) {
  leave_out(problem, x);
  leave_out(problem, x);
  if (!normalise(x)) {
    x = start_vector(problem.n, 2);
    leave_out(problem, x);
    normalise(x);
  }
  return checked(problem.apply, std::move(x));
}

/// Lanczos with one run for both ends.
void run_lanczos(const Context& ctx, const SymmetricProblem& problem, bool top, bool bottom, double tol,
                 int restarts, Extremes& result) {
  auto start = start_vector(problem.n, 1);
  leave_out(problem, start);
  normalise(start);
  const double inner = checked(problem.apply, start).value;
  // The spectrum moves to [1, 3], as Spectra's tolerance is relative to the eigenvalue.
  const double scale = 1 / problem.bound;
  const Apply apply = complement(problem, inner, scale, 2);
  Operation operation{problem.n, &apply};
  const bool both = top && bottom;
  Lanczos solver(operation, both ? 2 : 1, subspace(ctx, problem.n));
  solver.init(start.data());
  const auto rule = both  ? Spectra::SortRule::BothEnds
                    : top ? Spectra::SortRule::LargestAlge
                          : Spectra::SortRule::SmallestAlge;
  solver.compute(rule, restarts, std::max(0.1 * tol * scale, 1e-15), Spectra::SortRule::LargestAlge);
  result.iterations += static_cast<int>(solver.num_iterations());
  const auto ends = solver.ends();
  if (top) result.top = finish(problem, ends.top);
  if (bottom) result.bottom = finish(problem, ends.bottom);
}

/// One end by Lanczos on the inverse of H - sigma I, sigma just beyond the end: the factorisation fails while
/// sigma lies inside the spectrum, so the end that comes out is the true one.
void invert(const Context& ctx, const SymmetricProblem& problem, Skyline& skyline, bool top, double tol,
            Pair& pair, int& iterations) {
  const double sign = top ? -1 : 1;  // sign (H - sigma I) is positive definite
  const double rounding = 1e-12 * problem.bound;
  for (int round = 0; round < kRounds && pair.residual > tol; ++round) {
    const double base =
        top && !problem.known.empty() ? std::max(pair.value, problem.known_value) : pair.value;
    const bool fixed = base != pair.value;
    double step = std::max(rounding, fixed ? rounding : pair.residual);
    double sigma = base - sign * step;
    while (!skyline.factor(*problem.banded, sign, sigma)) {
      if (step > 4 * problem.bound) return;
      step *= 8;
      sigma = base - sign * step;
    }
    const Apply apply = [&](const double* x, double* y) {
      std::vector<double> kept(x, x + problem.n);
      leave_out(problem, kept);
      skyline.solve(kept.data(), y);
      leave_out(problem, {y, at(problem.n)});
    };
    Operation operation{problem.n, &apply};
    Lanczos solver(operation, 1, std::min(subspace(ctx, problem.n), Offset{20}));
    // Later rounds begin at what is known so far, and enough of everything else not to miss what it lacks.
    auto start = start_vector(problem.n, 3);
    normalise(start);
    for (std::size_t i = 0; i < start.size(); ++i) start[i] += (round > 0 ? 10 : 0) * pair.vector[i];
    leave_out(problem, start);
    solver.init(start.data());
    const auto restarts = std::clamp(kInverseWork / problem.n, Offset{4}, Offset{kInverseRestarts});
    solver.compute(Spectra::SortRule::LargestAlge, restarts, 1e-13, Spectra::SortRule::LargestAlge);
    iterations += static_cast<int>(solver.num_iterations());
    Pair next = finish(problem, solver.ends().top);
    // Nearer the end by more than the uncertainty of what there was.
    const bool beyond = sign * (pair.value - next.value) > pair.residual + rounding;
    if (next.residual < pair.residual || beyond) pair = std::move(next);
  }
}

}  // namespace

Pair checked(const Apply& apply, std::vector<double> x) {
  Pair pair;
  std::vector<double> y(x.size());
  apply(x.data(), y.data());
  pair.value = dot(x, y);
  for (std::size_t i = 0; i < y.size(); ++i) y[i] -= pair.value * x[i];
  pair.residual = norm(y);
  pair.vector = std::move(x);
  return pair;
}

DenseSpectrum dense_spectrum(Offset n, const Apply& apply) {
  Eigen::MatrixXd matrix(n, n);
  std::vector<double> unit(at(n)), column(at(n));
  for (Offset j = 0; j < n; ++j) {
    unit[at(j)] = 1;
    apply(unit.data(), column.data());
    unit[at(j)] = 0;
    for (Offset i = 0; i < n; ++i) matrix(i, j) = column[at(i)];
  }
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver((matrix + matrix.transpose()) / 2);
  DenseSpectrum result;
  result.values.assign(solver.eigenvalues().data(), solver.eigenvalues().data() + n);
  result.vectors.assign(solver.eigenvectors().data(), solver.eigenvectors().data() + n * n);
  return result;
}

Extremes extremes(const Context& ctx, const SymmetricProblem& problem, bool top, bool bottom, double tol,
                  int max_restarts) {
  Extremes result;
  result.method = "lanczos (Spectra)";
  std::optional<Skyline> skyline;
  if (problem.banded != nullptr) {
    const auto room = static_cast<Offset>(ctx.limit() / sizeof(double) / 2);
    skyline = Skyline::plan(*problem.banded, std::min(kFactorEntries, room), kFactorWork);
  }
  int restarts = max_restarts;
  if (skyline) {  // Lanczos may cost what a factorisation costs
    double round = 160.0 * static_cast<double>(problem.n);
    for (const Product& term : problem.banded->terms()) round += static_cast<double>(term.stored());
    const double share = skyline->work() / (static_cast<double>(kSubspace) / 2 * round);
    restarts = std::min(max_restarts, kFirstRestarts + static_cast<int>(share));
  }
  run_lanczos(ctx, problem, top, bottom, tol, restarts, result);
  if (skyline && restarts < max_restarts) {
    for (const bool end : {true, false}) {
      Pair& pair = end ? result.top : result.bottom;
      if (!(end ? top : bottom) || pair.residual <= tol) continue;
      invert(ctx, problem, *skyline, end, tol, pair, result.iterations);
      result.method = "lanczos + shift-invert (Spectra)";
    }
  }
  return result;
}

}  // namespace manyhop::spectral

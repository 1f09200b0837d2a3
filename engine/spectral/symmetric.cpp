#include "manyhop/engine/spectral/symmetric.hpp"

#include <fmt/format.h>

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "manyhop/engine/spectral/lanczos.hpp"
#include "manyhop/engine/spectral/skyline.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::spectral {
namespace {

constexpr int kStepsOfRestart = 40;  // `max_restarts` of them bound the products of a run
// Steps of Lanczos before a factorisation is looked for, and steps of Lanczos that it may cost instead: a
// narrow band at once, a wide one when Lanczos turns out to be slow, a wider one at last; more than that
// takes longer than the steps that most graphs still need.
constexpr struct {
  int after, worth;
} kFactorings[] = {{0, 400}, {160, 1000}, {2000, 20000}};
constexpr int kLikelySteps = 500;  // of Lanczos, to size its basis
constexpr std::size_t kBasisBytes = std::size_t{5} << 30;
constexpr int kRefineSteps = 12;  // products that take rounding off a Ritz vector
constexpr int kRefineRounds = 4;
constexpr int kRoughSteps = 24;    // of Lanczos before the inverse
constexpr int kInverseSteps = 16;  // solves of a pass on the inverse: two or three passes are mostly enough
constexpr int kInversePasses = 6;
constexpr int kRounds = 8;       // of factorisations, each closer to the end
constexpr int kFixedRounds = 2;  // where a known eigenvalue keeps them all at one place
constexpr int kStalls = 3;       // restarts without progress that end a run
// A dense solve settles what Lanczos has not: some seconds at 1500 vertices, more than that is not worth it.
constexpr Offset kDenseRescue = 1500;
constexpr Offset kFactorEntries = 256'000'000;
constexpr double kFactorWork = 2e10;  // multiply-adds: some seconds

using Apply = std::function<void(const double*, double*)>;

std::size_t basis_bytes(const Context& ctx, Offset n) {
  const auto column = static_cast<std::size_t>(n) * sizeof(double);
  if (ctx.limit() < 24 * column)
    throw LimitError(
        fmt::format("the eigen-solver needs {} bytes for 8 vectors of {} entries and the memory limit is {}",
                    column * 24, n, ctx.limit()));
  return std::min(ctx.limit() / 2 - 4 * column, std::max(kBasisBytes, 40 * column));
}

void leave_out(const SymmetricProblem& problem, std::span<double> x) {
  for (const auto& u : problem.known) project_out(u, x);
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

/// The pair of an end as a run of Lanczos left it, with what a few products more can do.
Pair settled(const SymmetricProblem& problem, const Lanczos& lanczos, bool top, double tol) {
  Pair pair = finish(problem, lanczos.vector(top));
  if (!lanczos.converged(top)) return pair;
  for (int round = 0; round < kRefineRounds && pair.residual > tol; ++round) {
    Pair next = finish(problem, refine(problem, pair.vector, top, kRefineSteps));
    if (!(next.residual < pair.residual)) break;
    pair = std::move(next);
  }
  return pair;
}

/// One end by Lanczos on the inverse of H - sigma I, sigma just beyond the end: the factorisation fails while
/// sigma lies inside the spectrum, so the end that comes out is the true one.
void invert(const SymmetricProblem& problem, Skyline& skyline, bool top, double tol, Pair& pair,
            int& iterations) {
  const double sign = top ? -1 : 1;  // sign (H - sigma I) is positive definite
  const double rounding = 1e-12 * problem.bound;
  SymmetricProblem inverse;
  inverse.n = problem.n;
  inverse.known = problem.known;
  inverse.bound = 0;
  inverse.apply = [&](const double* x, double* y) { skyline.solve(x, y); };
  double nearest = problem.bound;
  for (int round = 0; round < kRounds && pair.residual > tol; ++round) {
    const double base =
        top && !problem.known.empty() ? std::max(pair.value, problem.known_value) : pair.value;
    const bool fixed = base != pair.value;
    if (fixed && round >= kFixedRounds) break;
    // A Rayleigh quotient is far nearer the end than its residual says: each round tries a closer shift.
    nearest = std::min(pair.residual, 0.01 * nearest);
    double step = std::max(rounding, fixed ? rounding : nearest);
    double sigma = base - sign * step;
    while (!skyline.factor(*problem.banded, sign, sigma)) {
      if (step > 4 * problem.bound) return;
      step *= 8;
      sigma = base - sign * step;
    }
    if (!fixed) nearest = step;
    // Later rounds begin at what is known so far, and enough of everything else not to miss what it lacks.
    auto start = start_vector(problem.n, 3);
    normalise(start);
    for (std::size_t i = 0; i < start.size(); ++i) start[i] += (round > 0 ? 10 : 0) * pair.vector[i];
    double last = std::numeric_limits<double>::infinity();
    for (int pass = 0; pass < kInversePasses; ++pass) {
      Pair next = finish(problem, refine(inverse, std::move(start), true, kInverseSteps));
      iterations += kInverseSteps;
      start = next.vector;
      const bool settled = !(next.residual < 0.5 * last) || next.residual <= 1e-14 * problem.bound;
      last = next.residual;
      // Both are quotients on the complement of what is known, so the one further out is nearer the end.
      const double outwards = sign * (pair.value - next.value);
      if (outwards > rounding || (outwards > -rounding && next.residual < pair.residual))
        pair = std::move(next);
      if (settled) break;
    }
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

namespace {

/// Ends that are open yet from the dense matrix, with the known vectors at the other end of its spectrum.
void rescue(const SymmetricProblem& problem, bool top, bool bottom, double tol, Extremes& result) {
  for (const bool end : {true, false}) {
    Pair& pair = end ? result.top : result.bottom;
    if (!(end ? top : bottom) || pair.residual <= tol) continue;
    const double away = (end ? -2 : 2) * problem.bound;
    const auto apply = [&](const double* x, double* y) {
      std::vector<double> rest(x, x + problem.n), image(at(problem.n)), moved(at(problem.n));
      for (const auto& u : problem.known) {
        const double along = dot(u, {x, at(problem.n)});
        add_to(rest, -along, u);
        add_to(moved, away * along, u);
      }
      problem.apply(rest.data(), image.data());
      leave_out(problem, image);
      add_to(image, 1, moved);
      std::copy(image.begin(), image.end(), y);
    };
    const DenseSpectrum spectrum = dense_spectrum(problem.n, apply);
    const auto first =
        spectrum.vectors.begin() + static_cast<std::ptrdiff_t>((end ? problem.n - 1 : 0) * problem.n);
    pair = finish(problem, {first, first + static_cast<std::ptrdiff_t>(problem.n)});
  }
  result.method += " + dense";
}

/// Multiply-adds of one step of Lanczos.
double step_work(const SymmetricProblem& problem) {
  double work = 12.0 * static_cast<double>(problem.n);
  for (const Product& term : problem.banded->terms()) work += static_cast<double>(term.stored());
  return work;
}

}  // namespace

Extremes extremes(const Context& ctx, const SymmetricProblem& problem, bool top, bool bottom, double tol,
                  int max_restarts) {
  Extremes result;
  const double goal = std::max(0.7 * tol, 2e-16 * problem.bound);
  Lanczos lanczos(problem, basis_bytes(ctx, problem.n), kLikelySteps, goal);
  int left = static_cast<int>(std::min<std::int64_t>(std::int64_t{kStepsOfRestart} * max_restarts, 1 << 30));
  const auto run = [&](int steps, bool t, bool b) {
    const int before = lanczos.steps();
    lanczos.run(std::min(steps, left), t, b, goal);
    left -= lanczos.steps() - before;
    result.iterations += lanczos.steps() - before;
  };
  // A vector of its own where some are known: they may be what a run from the first one has found.
  lanczos.start(start_vector(problem.n, problem.known.empty() ? 1 : 4));

  std::optional<Skyline> skyline;
  const auto done = [&] {
    return (!top || lanczos.converged(true)) && (!bottom || lanczos.converged(false));
  };
  if (problem.banded != nullptr) {
    const Offset entries = std::min(kFactorEntries, static_cast<Offset>(ctx.limit() / sizeof(double) / 2));
    for (const auto& [after, worth] : kFactorings) {
      run(after - lanczos.steps(), top, bottom);
      if (done() || left == 0 || lanczos.full()) break;
      const double work = std::min(kFactorWork, worth * step_work(problem));
      skyline = after == 0 ? Skyline::natural(*problem.banded, entries, work)
                           : Skyline::plan(*problem.banded, entries, work);
      if (skyline) break;
    }
  }
  run(skyline ? kRoughSteps : left, top, bottom);
  result.method = "lanczos";
  const auto open = [&](bool end) {
    return (end ? top : bottom) && (end ? result.top : result.bottom).residual > tol && left > 0;
  };
  // Takes what a run has found where it is nearer: whether it was.
  const auto take = [&](bool end) {
    Pair& pair = end ? result.top : result.bottom;
    Pair next = settled(problem, lanczos, end, tol);
    const double outwards = end ? next.value - pair.value : pair.value - next.value;
    const bool better = next.residual < 0.9 * pair.residual || outwards > tol;
    if (next.residual < pair.residual || outwards > tol) pair = std::move(next);
    return better;
  };
  for (const bool end : {true, false}) {
    if (!(end ? top : bottom)) continue;
    Pair& pair = end ? result.top : result.bottom;
    pair = settled(problem, lanczos, end, tol);
    if (skyline && open(end)) {
      invert(problem, *skyline, end, tol, pair, result.iterations);
      result.method = "lanczos + shift-invert";
    }
  }
  if (skyline && (open(true) || open(false)) &&
      !lanczos.full()) {  // a cluster away from every shift: on as before
    const bool ends[] = {open(true), open(false)};
    run(left, ends[0], ends[1]);
    for (const bool end : {true, false})
      if (ends[end ? 0 : 1]) take(end);
  }
  // A basis that is full, or noise of rounded products that refine() could not take off: on from the best
  // vector of each end alone.
  lanczos.be_exact();
  for (const bool end : {true, false}) {
    for (int stalled = 0; open(end) && stalled < kStalls;) {
      lanczos.start((end ? result.top : result.bottom).vector);
      run(left, end, !end);
      stalled = take(end) ? 0 : stalled + 1;
      result.method = "lanczos with restarts";
    }
  }
  if ((open(true) || open(false)) && problem.n <= kDenseRescue) rescue(problem, top, bottom, tol, result);
  return result;
}

}  // namespace manyhop::spectral

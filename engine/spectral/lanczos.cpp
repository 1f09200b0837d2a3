#include "manyhop/engine/spectral/lanczos.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "manyhop/engine/spectral/symmetric.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::spectral {
namespace {

constexpr Offset kGrain = 8192;  // entries of one chunk of an element-wise loop
constexpr int kLookEvery = 8;    // steps between looks at the tridiagonal matrix, where nothing is known
constexpr int kFirstLook = 16;
// Goals from which products may read vectors, and add up visits, in single precision. What rounding adds to a
// product is noise of 2e-8 times what the operator leaves of noise, about 2 / sqrt(degree), and of sums of a
// few such entries; a basis in single precision adds as much again to a vector. For a tol of 1e-8 the
// residuals end at 4e-9 to 9.5e-9: a fresh product judges the pair, and refine() or exact steps mend what it
// finds.
constexpr double kRoundedGoal = 5e-9;
// Up to here a basis is kept in double precision, and further where the goal is below that one. In single
// precision 65536 vertices take half of 160 MB, which costs a system more to hand out (0.1 to 0.2 s, a
// product being 1.6 ms) than it costs to write.
constexpr std::size_t kLooseBytes = std::size_t{1} << 25;
constexpr std::size_t kLooseBytesExact = std::size_t{1} << 30;

void fill_scaled(const std::vector<double>& from, double factor, std::vector<double>& to) {
  parallel_ranges(static_cast<Offset>(from.size()), kGrain, [&](Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i) to[at(i)] = factor * from[at(i)];
  });
}

/// y = sum_k share[k] basis[k].
void combine(const std::vector<std::vector<double>>& basis, const std::vector<double>& share,
             std::vector<double>& y) {
  parallel_ranges(static_cast<Offset>(y.size()), 2048, [&](Offset begin, Offset end) {
    std::fill(y.begin() + begin, y.begin() + end, 0.0);
    for (std::size_t k = 0; k < share.size(); ++k)
      for (Offset i = begin; i < end; ++i) y[at(i)] += share[k] * basis[k][at(i)];
  });
}

/// sum over i of x[i] y[i], in four chains.
double piece(const double* x, const double* y, Offset count) {
  double sum[4] = {0, 0, 0, 0};
  Offset i = 0;
  for (; i + 4 <= count; i += 4)
    for (Offset l = 0; l < 4; ++l) sum[l] += x[i + l] * y[i + l];
  for (; i < count; ++i) sum[0] += x[i] * y[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

}  // namespace

TridiagonalEnd tridiagonal_end(const std::vector<double>& diagonal, const std::vector<double>& off,
                               bool top) {
  const std::size_t n = diagonal.size();
  const double sign = top ? 1 : -1;  // the largest eigenvalue of sign T
  double low = sign * diagonal[0];
  double high = low;
  double size = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const double reach = (i > 0 ? std::abs(off[i - 1]) : 0) + (i + 1 < n ? std::abs(off[i]) : 0);
    low = std::max(low, sign * diagonal[i]);
    high = std::max(high, sign * diagonal[i] + reach);
    size = std::max(size, std::abs(diagonal[i]) + reach);
  }
  const double tiny =
      std::numeric_limits<double>::min() / std::numeric_limits<double>::epsilon() + 1e-32 * size * size;
  // Whether sign T has an eigenvalue above x: the pivots of x - sign T are not all positive.
  const auto any_above = [&](double x) {
    double pivot = x - sign * diagonal[0];
    for (std::size_t i = 1; i < n; ++i) {
      if (!(pivot > 0)) return true;
      pivot = x - sign * diagonal[i] - off[i - 1] * off[i - 1] / pivot;
    }
    return !(pivot > 0);
  };
  for (int step = 0; step < 200 && high - low > 2e-16 * size; ++step) {
    const double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) break;
    (any_above(middle) ? low : high) = middle;
  }
  TridiagonalEnd result;
  const double x = high;
  result.value = sign * x;
  // sign T - x from both sides; the vector is 1 where the two meet best.
  std::vector<double> down(n), up(n);
  const auto guard = [&](double pivot) { return std::abs(pivot) < tiny ? -tiny : pivot; };
  for (std::size_t i = 0; i < n; ++i)
    down[i] = guard(sign * diagonal[i] - x - (i > 0 ? off[i - 1] * off[i - 1] / down[i - 1] : 0.0));
  for (std::size_t i = n; i-- > 0;)
    up[i] = guard(sign * diagonal[i] - x - (i + 1 < n ? off[i] * off[i] / up[i + 1] : 0.0));
  std::size_t best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < n; ++i) {
    const double gamma = std::abs(down[i] + up[i] - (sign * diagonal[i] - x));
    if (gamma < least) {
      least = gamma;
      best = i;
    }
  }
  auto& z = result.vector;
  z.assign(n, 0.0);
  z[best] = 1;
  for (std::size_t i = best; i-- > 0;) z[i] = -sign * off[i] * z[i + 1] / down[i];
  for (std::size_t i = best + 1; i < n; ++i) z[i] = -sign * off[i - 1] * z[i - 1] / up[i];
  double length = 0;
  for (const double value : z) length += value * value;
  for (double& value : z) value /= std::sqrt(length);
  return result;
}

Lanczos::Lanczos(const SymmetricProblem& problem, std::size_t max_bytes, int likely_steps, double goal)
    : problem_(problem) {
  const auto column = static_cast<std::size_t>(problem.n) * sizeof(double);
  const auto wanted = static_cast<std::size_t>(likely_steps) * column;
  const bool loose = goal >= kRoundedGoal * problem.bound;
  single_ = wanted > std::min(loose ? kLooseBytes : kLooseBytesExact, max_bytes);
  const std::size_t each = single_ ? column / 2 : column;
  capacity_ = static_cast<int>(std::min<std::size_t>(max_bytes / std::max<std::size_t>(each, 1), 1U << 20));
  // Rounded up: smaller blocks get no large pages.
  block_ = static_cast<int>((kLargeBlock + each - 1) / std::max<std::size_t>(each, 1));
}

template <class T>
T* Lanczos::column(Basis<T>& basis, int k) {
  const auto n = static_cast<std::size_t>(problem_.n);
  if (static_cast<std::size_t>(k / block_) >= basis.size()) {
    basis.emplace_back();
    const std::size_t room = n * static_cast<std::size_t>(std::min(block_, capacity_ - k / block_ * block_));
    basis.back().reserve(room);
    fetch_large_pages(basis.back().data(), room * sizeof(T));  // by one thread at a time they stop the others
  }
  return basis[static_cast<std::size_t>(k / block_)].data() + n * static_cast<std::size_t>(k % block_);
}

template <class T>
const T* Lanczos::column(const Basis<T>& basis, int k) const {
  return basis[static_cast<std::size_t>(k / block_)].data() +
         static_cast<std::size_t>(problem_.n) * static_cast<std::size_t>(k % block_);
}

template <class T>
void Lanczos::combine(const Basis<T>& basis, const std::vector<double>& share, std::vector<double>& y) const {
  parallel_ranges(problem_.n, 2048, [&](Offset begin, Offset end) {
    std::fill(y.begin() + begin, y.begin() + end, 0.0);
    for (std::size_t k = 0; k < share.size(); ++k) {
      const T* v = column(basis, static_cast<int>(k));
      for (Offset i = begin; i < end; ++i) y[at(i)] += share[k] * static_cast<double>(v[i]);
    }
  });
}

void Lanczos::start(std::vector<double> x) {
  for (const auto& u : problem_.known) project_out(u, x);
  for (const auto& u : problem_.known) project_out(u, x);
  normalise(x);
  v_ = std::move(x);
  before_.assign(v_.size(), 0.0);
  w_.resize(v_.size());
  alpha_.clear();
  beta_.clear();
  broken_ = false;
  rounded_ = false;
  along_before_.assign(problem_.known.size(), 0.0);
  next_look_ = kFirstLook;
  looked_ = 0;
  expected_[0] = expected_[1] = 0;
  for (End& end : ends_) end = {};
  if (single_) {
    float* to = column(basis_single_, 0);
    for (std::size_t i = 0; i < v_.size(); ++i) to[i] = static_cast<float>(v_[i]);
  } else {
    std::copy(v_.begin(), v_.end(), column(basis_, 0));
  }
}

/// w -= alpha v + beta before + what w has of the known vectors; the length of w.
double Lanczos::advance(double alpha, double beta, const std::vector<double>& along) {
  std::vector<double> parts(at((problem_.n + kGrain - 1) / kGrain));
  parallel_ranges(problem_.n, kGrain, [&](Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i) w_[at(i)] -= alpha * v_[at(i)] + beta * before_[at(i)];
    for (std::size_t u = 0; u < along.size(); ++u) {
      const double* known = problem_.known[u].data();
      for (Offset i = begin; i < end; ++i) w_[at(i)] -= along[u] * known[i];
    }
    parts[at(begin / kGrain)] = piece(w_.data() + begin, w_.data() + begin, end - begin);
  });
  return std::sqrt(std::accumulate(parts.begin(), parts.end(), 0.0));
}

/// The next vector of the basis: w times `scale`.
void Lanczos::take_next(double scale) {
  before_.swap(v_);
  float* single = single_ ? column(basis_single_, steps()) : nullptr;
  double* both = single_ ? nullptr : column(basis_, steps());
  parallel_ranges(problem_.n, kGrain, [&](Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i) v_[at(i)] = scale * w_[at(i)];
    if (single != nullptr)
      for (Offset i = begin; i < end; ++i) single[i] = static_cast<float>(v_[at(i)]);
    else
      std::copy(v_.data() + begin, v_.data() + end, both + begin);
  });
}

void Lanczos::run(int steps, bool top, bool bottom, double goal) {
  const auto done = [&] { return (!top || ends_[0].converged) && (!bottom || ends_[1].converged); };
  const auto chunks = at((problem_.n + kGrain - 1) / kGrain);
  const std::size_t known = problem_.known.size();
  std::vector<double> parts((2 * known + 1) * chunks), along(known), now(known);
  for (int step = 0; step < steps && !full() && !broken_ && !done(); ++step) {
    check_stop();
    const bool round = problem_.rounded && !exact_ && goal >= kRoundedGoal * problem_.bound;
    rounded_ = rounded_ || round;
    (round ? problem_.rounded : problem_.apply)(v_.data(), w_.data());
    parallel_ranges(problem_.n, kGrain, [&](Offset begin, Offset end) {
      const auto c = at(begin / kGrain);
      parts[c] = piece(v_.data() + begin, w_.data() + begin, end - begin);
      for (std::size_t u = 0; u < known; ++u) {
        const double* vector = problem_.known[u].data() + begin;
        parts[(2 * u + 1) * chunks + c] = piece(vector, w_.data() + begin, end - begin);
        parts[(2 * u + 2) * chunks + c] = piece(vector, v_.data() + begin, end - begin);
      }
    });
    const auto total = [&](std::size_t row) {
      const auto from = parts.begin() + static_cast<std::ptrdiff_t>(row * chunks);
      return std::accumulate(from, from + static_cast<std::ptrdiff_t>(chunks), 0.0);
    };
    const double alpha = total(0);
    const double beta = beta_.empty() ? 0.0 : beta_.back();
    // What w will have of a known vector once v and the vector before are taken off. Rounding leaves them
    // some of it; without their share it would follow the recurrence of an eigenvalue 0, and grow where 0
    // lies outside of what is looked for.
    for (std::size_t u = 0; u < known; ++u) {
      now[u] = total(2 * u + 2);
      along[u] = total(2 * u + 1) - alpha * now[u] - beta * along_before_[u];
    }
    along_before_ = now;
    const double next = advance(alpha, beta, along);
    alpha_.push_back(alpha);
    beta_.push_back(next);
    broken_ = !(next > 1e-15 * problem_.bound);
    if (!broken_ && !full()) take_next(1 / next);
    const int taken = this->steps();
    if (broken_ || full() || taken >= next_look_) look(goal);
  }
  if (!done() && !alpha_.empty() && looked_ != this->steps()) look(goal);
}

void Lanczos::look(double goal) {
  double wait = 0;  // steps until the slower end is expected to be there
  const int since = std::max(1, steps() - looked_);
  for (const bool top : {true, false}) {
    const int k = top ? 0 : 1;
    End& end = ends_[k];
    if (end.converged) continue;
    TridiagonalEnd found = tridiagonal_end(alpha_, beta_, top);
    const double left = beta_.back() * std::abs(found.vector.back());
    end.converged = broken_ || left <= goal;
    end.share = std::move(found.vector);
    if (!end.converged && expected_[k] > left && left > 0)
      wait = std::max(wait, since * std::log(left / goal) / std::log(expected_[k] / left));
    expected_[k] = left;
  }
  looked_ = steps();
  const int most = std::max(kLookEvery, steps() / 16);
  next_look_ = steps() + std::clamp(static_cast<int>(0.8 * wait), kLookEvery / 2, most);
}

std::vector<double> Lanczos::vector(bool top) const {
  const auto& share = ends_[top ? 0 : 1].share;
  std::vector<double> y(at(problem_.n));
  if (single_)
    combine(basis_single_, share, y);
  else
    combine(basis_, share, y);
  for (const auto& u : problem_.known) project_out(u, y);
  normalise(y);
  return y;
}

std::vector<double> refine(const SymmetricProblem& problem, std::vector<double> x, bool top, int steps) {
  std::vector<std::vector<double>> basis;
  std::vector<double> alpha, beta;
  std::vector<double> w(x.size());
  const auto clean = [&](std::vector<double>& y) {
    for (int pass = 0; pass < 2; ++pass) {
      for (const auto& u : problem.known) project_out(u, y);
      for (const auto& v : basis) project_out(v, y);
    }
  };
  clean(x);
  normalise(x);
  for (int step = 0; step < steps; ++step) {
    check_stop();
    basis.push_back(x);
    problem.apply(x.data(), w.data());
    alpha.push_back(dot(x, w));
    clean(w);
    beta.push_back(norm(w));
    if (!(beta.back() > 1e-15 * problem.bound)) break;
    fill_scaled(w, 1 / beta.back(), x);
  }
  const TridiagonalEnd end = tridiagonal_end(alpha, beta, top);
  std::vector<double> y(x.size());
  combine(basis, end.vector, y);
  normalise(y);
  return y;
}

}  // namespace manyhop::spectral

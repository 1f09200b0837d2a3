#include "manyhop/engine/spectral/lanczos.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "manyhop/engine/spectral/symmetric.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::spectral {
namespace {

constexpr Offset kGrain = 8192;  // entries of one chunk of an element-wise loop
constexpr int kLookEvery = 8;    // steps between looks at the tridiagonal matrix
constexpr int kFirstLook = 16;
constexpr std::size_t kLooseBytes = std::size_t{1} << 30;  // up to here a basis is kept in double precision

void fill_scaled(const std::vector<double>& from, double factor, std::vector<double>& to) {
  parallel_ranges(static_cast<Offset>(from.size()), kGrain, [&](Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i) to[at(i)] = factor * from[at(i)];
  });
}

/// y = sum_k share[k] basis[k].
template <class T>
void combine(const std::vector<std::vector<T>>& basis, const std::vector<double>& share,
             std::vector<double>& y) {
  parallel_ranges(static_cast<Offset>(y.size()), 2048, [&](Offset begin, Offset end) {
    std::fill(y.begin() + begin, y.begin() + end, 0.0);
    for (std::size_t k = 0; k < share.size(); ++k) {
      const T* v = basis[k].data();
      for (Offset i = begin; i < end; ++i) y[at(i)] += share[k] * static_cast<double>(v[i]);
    }
  });
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

Lanczos::Lanczos(const SymmetricProblem& problem, std::size_t max_bytes, int likely_steps)
    : problem_(problem) {
  const auto column = static_cast<std::size_t>(problem.n) * sizeof(double);
  const auto wanted = static_cast<std::size_t>(likely_steps) * column;
  single_ = wanted > std::min(kLooseBytes, max_bytes);
  const std::size_t each = single_ ? column / 2 : column;
  capacity_ = static_cast<int>(std::min<std::size_t>(max_bytes / std::max<std::size_t>(each, 1), 1U << 20));
}

void Lanczos::keep(const std::vector<double>& v) {
  const std::size_t k = alpha_.size();
  if (single_) {
    if (basis_single_.size() <= k) basis_single_.emplace_back(v.size());
    float* to = basis_single_[k].data();
    parallel_ranges(static_cast<Offset>(v.size()), kGrain, [&](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i) to[i] = static_cast<float>(v[at(i)]);
    });
  } else if (basis_.size() <= k) {
    basis_.push_back(v);
  } else {
    fill_scaled(v, 1, basis_[k]);
  }
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
  next_look_ = kFirstLook;
  for (End& end : ends_) end = {};
}

void Lanczos::run(int steps, bool top, bool bottom, double goal) {
  const auto done = [&] { return (!top || ends_[0].converged) && (!bottom || ends_[1].converged); };
  const Offset chunks = (problem_.n + kGrain - 1) / kGrain;
  std::vector<double> parts(at(chunks));
  for (int step = 0; step < steps && !full() && !broken_ && !done(); ++step) {
    check_stop();
    keep(v_);
    problem_.apply(v_.data(), w_.data());
    const double alpha = dot(v_, w_);
    const double beta = beta_.empty() ? 0.0 : beta_.back();
    parallel_ranges(problem_.n, kGrain, [&](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i) w_[at(i)] -= alpha * v_[at(i)] + beta * before_[at(i)];
    });
    for (const auto& u : problem_.known) project_out(u, w_);
    const double next = norm(w_);
    alpha_.push_back(alpha);
    beta_.push_back(next);
    broken_ = !(next > 1e-15 * problem_.bound);
    if (!broken_) {
      before_.swap(v_);
      fill_scaled(w_, 1 / next, v_);
    }
    const int taken = this->steps();
    if (broken_ || full() || taken >= next_look_) {
      look(goal);
      next_look_ = taken + std::max(kLookEvery, taken / 16);
    }
  }
  if (!done() && !alpha_.empty()) look(goal);
}

void Lanczos::look(double goal) {
  for (const bool top : {true, false}) {
    End& end = ends_[top ? 0 : 1];
    if (end.converged) continue;
    TridiagonalEnd found = tridiagonal_end(alpha_, beta_, top);
    end.converged = broken_ || beta_.back() * std::abs(found.vector.back()) <= goal;
    end.share = std::move(found.vector);
  }
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

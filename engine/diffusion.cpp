#include "manyhop/engine/diffusion.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>

#include "manyhop/engine/diffusion/blocks.hpp"
#include "manyhop/engine/diffusion/check.hpp"
#include "manyhop/engine/diffusion/series.hpp"
#include "manyhop/engine/diffusion/walk.hpp"
#include "manyhop/engine/plan.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop {

namespace {

using diffusion::Walk;

// A column whose largest entry is outside of these is scaled: squares and sums stay plain numbers, in float
// too.
constexpr double kSmallSignal = 1e-12;
constexpr double kLargeSignal = 1e12;
// The signal, two powers in turn, and a sum.
constexpr diffusion::BlockOptions kBlocks{.count = 4};

template <class T>
void require_finite(TensorView<const T> x) {
  for (Offset i = 0; i < x.extent[0]; ++i) {
    for (Offset c = 0; c < x.extent[1]; ++c) {
      if (!std::isfinite(x(i, c))) {
        throw ValueError(fmt::format("signal: entry (row {}, column {}) is {}, finite values are wanted", i,
                                     c, static_cast<double>(x(i, c))));
      }
    }
  }
}

// Columns [first, first + count) of x as a block. A column whose largest entry is extreme is brought near 1
// by a power of two, which loses nothing and keeps its norm a plain number. Returns what to multiply results
// with.
template <class T, class S>
std::vector<double> read_block(TensorView<const T> x, Offset first, Offset count, S* block) {
  const Offset stride = ops::block_stride(count);
  std::vector<double> most(static_cast<std::size_t>(count));
  for (Offset i = 0; i < x.extent[0]; ++i) {
    for (Offset c = 0; c < stride; ++c) {
      const double value = c < count ? static_cast<double>(x(i, first + c)) : 0.0;
      block[i * stride + c] = static_cast<S>(value);
      if (c < count) {
        double& largest = most[static_cast<std::size_t>(c)];
        largest = std::max(largest, std::abs(value));
      }
    }
  }
  std::vector<double> unit(most.size(), 1.0);
  for (std::size_t c = 0; c < most.size(); ++c) {
    if (most[c] == 0 || (most[c] > kSmallSignal && most[c] < kLargeSignal)) continue;
    const double down = std::ldexp(1.0, std::min(-std::ilogb(most[c]), 1000));
    for (Offset i = 0; i < x.extent[0]; ++i) {
      const Offset column = static_cast<Offset>(c);
      block[i * stride + column] = static_cast<S>(static_cast<double>(x(i, first + column)) * down);
    }
    unit[c] = 1 / down;
  }
  return unit;
}

template <class T>
class Evaluation {
 public:
  /// `memory` holds blocks_on_host() blocks, the signal in the first.
  Evaluation(const Context& ctx, Walk<T>& walk, const DiffuseOptions& options, T* memory, Offset count)
      : ctx_(ctx), walk_(walk), o_(options) {
    walk_.start(memory, count);
    blocks_ = diffusion::make_blocks<T>(ctx, walk, memory, kBlocks);
    x_norm_ = blocks_->norms(walk.norm(), kSignal, kNone);
  }

  DiffuseResult solve(std::optional<int> hops) {
    return o_.kernel == Kernel::ppr ? ppr(hops) : polynomial(hops);
  }

  const T* value() const { return blocks_->read(value_); }

 private:
  // Blocks.
  static constexpr int kNone = -1, kSignal = 0, kFirst = 1, kSecond = 2, kSum = 3;
  static int other(int block) { return block == kFirst ? kSecond : kFirst; }

  // The worst column, relative to ||x|| where x is not 0.
  double worst(const std::vector<double>& norms) const {
    double most = 0;
    for (std::size_t c = 0; c < norms.size(); ++c) {
      const double relative = x_norm_[c] == 0 ? norms[c] : norms[c] / x_norm_[c];
      most = std::isnan(relative) ? relative : std::max(most, relative);
    }
    return most;
  }

  void report(int hop, int of) const {
    if (ctx_.progress && of > 0) ctx_.progress("diffuse", static_cast<double>(hop) / static_cast<double>(of));
  }

  DiffuseResult ppr(std::optional<int> hops) {
    const double a = o_.teleport;
    const double s = walk_.strength();
    const bool plain = o_.normalization != Normalization::none || s <= 1;
    const double rate = (1 - a) * (plain ? 1 : s);
    walk_.require_contraction();
    // ||Z_K - Z|| <= rate^K ||V - Z||, and <= rate / (1 - rate) ||Z_K - Z_{K-1}||.
    const double spread = plain ? 2 : 1 + a / (1 - rate);
    const auto bound_of = [&](int k, double residual) {
      double bound = k == 0 ? spread : spread * std::pow(rate, k);
      if (a > 0 && !std::isnan(residual))
        bound = std::min(bound, (plain ? (1 - a) / a : rate / (1 - rate)) * residual);
      return bound;
    };
    const double tol = o_.tol.value_or(1e-6);
    const int most = hops.value_or(kMostHops);
    // A teleport that 1 - a rounds away has the rate 1, which never gets there.
    const int expected = hops ? *hops
                         : rate < 1
                             ? static_cast<int>(std::clamp<double>(
                                   rate == 0 ? 1 : std::log(tol / spread) / std::log(rate), 0, kMostHops))
                             : kMostHops;
    DiffuseResult result;
    result.residual = std::numeric_limits<double>::quiet_NaN();
    result.bound = bound_of(0, result.residual);
    int z = kSignal;
    while (result.hops < most && (hops || result.bound > tol)) {
      check_stop();
      const int next = other(z);
      blocks_->apply(z, next);
      blocks_->combine(next, 1 - a, kSignal, a);
      ++result.hops;
      if (!hops || result.hops == most) {
        result.residual = worst(blocks_->norms(walk_.norm(), next, z));
        result.bound = bound_of(result.hops, result.residual);
      }
      z = next;
      report(result.hops, expected);
    }
    result.converged = hops.has_value() || result.bound <= tol;
    value_ = z;
    return result;
  }

  // heat and coefficients: sum_k p_k A^k X, powers scaled by ||A|| so that they cannot overflow before their
  // weight.
  DiffuseResult polynomial(std::optional<int> hops) {
    DiffuseResult result;
    const double s = walk_.strength();
    const bool heat = o_.kernel == Kernel::heat;
    const double scale = heat && s > 1 ? s : 1;
    if (heat && !hops) {
      const double tol = o_.tol.value_or(1e-6);
      const int enough = diffusion::heat_hops(o_.t, std::max(s, heat_strength()), tol, kMostHops);
      result.converged = enough >= 0;
      result.hops = enough >= 0 ? enough : kMostHops;
    } else {
      result.hops = heat ? *hops : static_cast<int>(o_.coefficients.size()) - 1;
    }
    const auto weight = [&](int k) {
      if (!heat) return o_.coefficients[static_cast<std::size_t>(k)];
      if (o_.t == 0) return k == 0 ? 1.0 : 0.0;
      return std::exp(diffusion::log_poisson(o_.t, k) + k * std::log(scale));
    };
    int power = kSignal;
    blocks_->combine(kSum, 0, power, weight(0));
    double last = weight(0);
    for (int k = 1; k <= result.hops; ++k) {
      check_stop();
      const int next = other(power);
      blocks_->apply(power, next);
      if (scale != 1) blocks_->combine(next, 0, next, 1 / scale);
      last = weight(k);
      if (last != 0) blocks_->combine(kSum, 1, next, last);
      power = next;
      report(k, result.hops);
    }
    std::vector<double> change = blocks_->norms(walk_.norm(), power, kNone);
    for (double& c : change) c *= std::abs(last);
    result.residual = result.hops == 0 ? std::numeric_limits<double>::quiet_NaN() : worst(change);
    result.bound = heat ? diffusion::heat_bound(o_.t, heat_strength(), result.hops) : 0;
    value_ = kSum;
    return result;
  }

  double heat_strength() const { return o_.normalization == Normalization::none ? walk_.strength() : 1.0; }

  const Context& ctx_;
  Walk<T>& walk_;
  const DiffuseOptions& o_;
  std::unique_ptr<diffusion::Blocks<T>> blocks_;
  int value_ = kSignal;
  std::vector<double> x_norm_;
};

// Columns at a time: all of them unless the memory limit wants fewer.
template <class T, class S>
Offset columns_at_once(const Context& ctx, const Graph& graph, Offset n, Offset columns) {
  const auto bytes = [&](Offset count) {
    return static_cast<std::size_t>(kBlocks.count * n * ops::block_stride(count)) * sizeof(S);
  };
  const std::size_t held = graph.bytes() + static_cast<std::size_t>(2 * n * columns) * sizeof(T);
  Offset count = columns;
  while (count > 1 && held + bytes(count) > ctx.limit()) count = (count + 1) / 2;
  if (held + bytes(count) > ctx.limit()) {
    throw LimitError(
        fmt::format("memory limit: {} bytes are below the {} that the graph, x, z and one column take",
                    ctx.limit(), held + bytes(count)));
  }
  return std::max<Offset>(count, 1);
}

// diffuse for checked views [n, c], with the state of the hops in S.
template <class T, class S>
DiffuseResult diffuse_in(const Context& ctx, Walk<S>& walk, const Graph& graph, TensorView<const T> x,
                         TensorView<T> z, const DiffuseOptions& options) {
  const Offset n = graph.n_rows();
  const Offset columns = n == 0 ? 0 : x.extent[1];  // of nothing there may be many
  const Offset at_once = columns_at_once<T, S>(ctx, graph, n, columns);
  S* memory = reinterpret_cast<S*>(ctx.workspace.reserve(
      static_cast<std::size_t>(diffusion::blocks_on_host(ctx, kBlocks) * n * ops::block_stride(at_once)) *
      sizeof(S)));
  // With a tolerance the slowest block decides on the hops of all: the result must not depend on the memory
  // limit.
  const std::optional<int> hops = options.hops;
  DiffuseResult result;
  result.residual = std::numeric_limits<double>::quiet_NaN();
  const auto run_block = [&](Offset first, std::optional<int> fixed) {
    const Offset count = std::min(at_once, columns - first);
    const std::vector<double> unit = read_block(x, first, count, memory);
    Evaluation<S> run(ctx, walk, options, memory, count);
    const DiffuseResult part = run.solve(fixed);
    const S* value = run.value();
    const Offset stride = ops::block_stride(count);
    for (Offset i = 0; i < n; ++i) {
      for (Offset c = 0; c < count; ++c) {
        z(i, first + c) =
            static_cast<T>(static_cast<double>(value[i * stride + c]) * unit[static_cast<std::size_t>(c)]);
      }
    }
    return part;
  };
  const auto join = [&](const DiffuseResult& part) {
    result.residual = std::isnan(result.residual) ? part.residual : std::max(result.residual, part.residual);
    result.bound = std::max(result.bound, part.bound);
    result.hops = std::max(result.hops, part.hops);
    result.converged = result.converged && part.converged;
  };
  std::vector<DiffuseResult> parts;
  for (Offset first = 0; first < std::max<Offset>(columns, 1); first += at_once)
    parts.push_back(run_block(first, hops));
  int most = 0;
  for (const DiffuseResult& part : parts) most = std::max(most, part.hops);
  for (std::size_t b = 0; b < parts.size(); ++b) {
    if (parts[b].hops < most) {
      const bool converged = parts[b].converged;
      parts[b] = run_block(static_cast<Offset>(b) * at_once, most);
      parts[b].converged = converged;
    }
    join(parts[b]);
  }
  return result;
}

}  // namespace

template <class T>
DiffuseResult diffuse(const Context& ctx, const Graph& graph, TensorView<const T> x, TensorView<T> z,
                      const DiffuseOptions& options) {
  require_backend(ctx, "diffuse");
  const ThreadScope scope(ctx.threads, ctx.stop);
  diffusion::check_options(options);
  const auto run = [&]<class S>(Walk<S>&& walk) {
    const Offset n = graph.n_rows();
    const auto in = diffusion::as_columns("signal", x, n);
    const auto out = diffusion::as_columns("result", z, n);
    if (in.extent[1] != out.extent[1]) {
      throw ValueError(fmt::format("result: {} columns for a signal of {}", out.extent[1], in.extent[1]));
    }
    if (in.data == out.data && in.size() > 0)
      throw ValueError("result: the same memory as the signal, another is wanted");
    require_finite(in);
    return diffuse_in<T, S>(ctx, walk, graph, in, out, options);
  };
  if (std::is_same_v<T, double> || diffusion::wants_double(options, graph))
    return run(Walk<double>(ctx, graph, options));
  return run(Walk<T>(ctx, graph, options));
}

template DiffuseResult diffuse<float>(const Context&, const Graph&, TensorView<const float>,
                                      TensorView<float>, const DiffuseOptions&);
template DiffuseResult diffuse<double>(const Context&, const Graph&, TensorView<const double>,
                                       TensorView<double>, const DiffuseOptions&);

}  // namespace manyhop

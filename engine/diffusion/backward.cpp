// Gradients of diffuse. Every kernel is a polynomial sum_k p_k A^k X of a fixed degree K, so with F_k = A^k X
// and the adjoint B_K = p_K g, B_k = p_k g + A^T B_{k+1}:
//   dX = B_0,   dA_ij = sum_k <B_{k+1,i}, F_{k,j}>,   dp_k = <g, F_k>,
// and dA goes through the normalisation to the weights. `implicit` does the same at the fixed point of ppr:
//   W = g + (1 - a) A^T W,  dX = a W,  dA_ij = (1 - a) <W_i, Z*_j>.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "manyhop/engine/diffusion/check.hpp"
#include "manyhop/engine/diffusion/series.hpp"
#include "manyhop/engine/diffusion/walk.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop {

namespace {

using diffusion::Walk;

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

template <class T>
using Block = std::vector<T>;  // [n][stride]

template <class T>
class Backward {
 public:
  Backward(const Context& ctx, const Graph& graph, TensorView<const T> x, TensorView<const T> gz,
           const DiffuseOptions& options, DiffuseGradients<T>& gradients)
      : walk_(ctx, graph, options), o_(options), out_(gradients), n_(graph.n_rows()), columns_(x.extent[1]) {
    if (o_.kernel == Kernel::ppr) walk_.require_contraction();
    x_ = read("signal", x);
    g_ = read("gz", gz);
    walk_.start(x_.data(), columns_);
    dx_ = zeros();
    if (gradients.want_weights && !graph.implicit()) da_.assign(at(graph.nnz()), 0);
  }

  void unrolled(bool checkpointed) {
    const int hops =
        o_.kernel == Kernel::coefficients ? static_cast<int>(o_.coefficients.size()) - 1 : *o_.hops;
    // Powers of A / unit: those of a large A would overflow long before their weights end.
    if (o_.normalization == Normalization::none && o_.kernel != Kernel::coefficients) {
      unit_ = std::max(1.0, walk_.strength());
    }
    const std::vector<double> p = diffusion::series(o_, hops, unit_);
    const std::vector<double> slope = diffusion::series_slope(o_, hops, unit_);
    const int length =
        checkpointed ? std::max(1, static_cast<int>(std::ceil(std::sqrt(hops)))) : std::max(1, hops);
    // Powers F_0, F_length, F_2length, ... are kept; those in between are made again, one segment at a time.
    std::vector<Block<T>> kept{x_};
    Block<T> f = x_;
    std::vector<double> dp(p.size());
    dp[0] = dot(g_, f);
    std::vector<Block<T>> segment;
    if (length >= hops) segment.push_back(x_);
    for (int k = 1; k <= hops; ++k) {
      f = product(f);
      dp[static_cast<std::size_t>(k)] = dot(g_, f);
      if (k % length == 0 && k < hops) kept.push_back(f);
      if (length >= hops && k < hops) segment.push_back(f);
    }
    Block<T> b = scaled(g_, p[static_cast<std::size_t>(hops)]);
    for (int start = (hops - 1) / length * length; start >= 0 && hops > 0; start -= length) {
      const int end = std::min(hops, start + length);
      if (length < hops) {
        segment.assign(1, std::move(kept.back()));
        kept.pop_back();
        for (int k = start + 1; k < end; ++k) segment.push_back(product(segment.back()));
      }
      for (int k = end - 1; k >= start; --k) {
        through_matrix(b, segment[static_cast<std::size_t>(k - start)], 1 / unit_);
        b = transposed(b);
        add(b, g_, p[static_cast<std::size_t>(k)]);
      }
    }
    add(dx_, b, 1);
    double along = 0;
    for (std::size_t k = 0; k < p.size(); ++k) along += slope[k] * dp[k];
    if (o_.kernel == Kernel::ppr) out_.teleport = along;
    if (o_.kernel == Kernel::heat) out_.t = along;
    if (o_.kernel == Kernel::coefficients) out_.coefficients = dp;
  }

  void implicit() {
    const double a = o_.teleport;
    const auto settle = [&](Block<T> now, auto&& step) {
      for (int k = 0; k < kMostRounds; ++k) {
        Block<T> next = step(now);
        double change = 0;
        double size = 0;
        for (std::size_t i = 0; i < next.size(); ++i) {
          change = std::max(change, static_cast<double>(std::abs(next[i] - now[i])));
          size = std::max(size, static_cast<double>(std::abs(next[i])));
        }
        now = std::move(next);
        if (change <= 2 * std::numeric_limits<T>::epsilon() * size) break;
      }
      return now;
    };
    const Block<T> z = settle(x_, [&](const Block<T>& now) {
      Block<T> next = scaled(product(now), 1 - a);
      add(next, x_, a);
      return next;
    });
    const Block<T> w = settle(g_, [&](const Block<T>& now) {
      Block<T> next = scaled(transposed(now), 1 - a);
      add(next, g_, 1);
      return next;
    });
    through_matrix(w, z, 1 - a);
    add(dx_, w, a);
    out_.teleport = dot(w, x_) - dot(w, product(z));
  }

  void finish(TensorView<T> dx) {
    if (!dx.empty()) {
      for (Offset i = 0; i < n_; ++i) {
        for (Offset c = 0; c < columns_; ++c) dx(i, c) = dx_[at(i * walk_.stride() + c)];
      }
    }
    out_.weights = weight_gradient();
  }

 private:
  static constexpr int kMostRounds = 100000;

  Block<T> zeros() const { return Block<T>(at(n_ * ops::block_stride(columns_))); }
  Block<T> read(const char* name, TensorView<const T> from) const {
    Block<T> block = zeros();
    for (Offset i = 0; i < n_; ++i) {
      for (Offset c = 0; c < columns_; ++c) {
        if (!std::isfinite(from(i, c))) {
          throw ValueError(fmt::format("{}: entry (row {}, column {}) is {}, finite values are wanted", name,
                                       i, c, static_cast<double>(from(i, c))));
        }
        block[at(i * ops::block_stride(columns_) + c)] = from(i, c);
      }
    }
    return block;
  }
  Block<T> product(const Block<T>& x) const {
    check_stop();
    Block<T> y = zeros();
    walk_.apply(x.data(), y.data());
    return unit_ == 1 ? y : scaled(y, 1 / unit_);
  }
  Block<T> transposed(const Block<T>& x) const {
    check_stop();
    Block<T> y = zeros();
    walk_.apply_transposed(x.data(), y.data());
    return unit_ == 1 ? y : scaled(y, 1 / unit_);
  }
  static Block<T> scaled(const Block<T>& x, double factor) {
    Block<T> y(x.size());
    add(y, x, factor);
    return y;
  }
  static void add(Block<T>& y, const Block<T>& x, double factor) {
    for (std::size_t i = 0; i < x.size(); ++i)
      y[i] = static_cast<T>(y[i] + factor * static_cast<double>(x[i]));
  }
  static double dot(const Block<T>& a, const Block<T>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    return sum;
  }

  // The part of <b, A f> that lies in A: its edges, and the restart vector.
  void through_matrix(const Block<T>& b, const Block<T>& f, double factor) {
    if (!da_.empty()) ops::graph_sddmm(walk_.graph(), b.data(), f.data(), columns_, factor, da_.data());
    if (factor == 1) {
      walk_.restart_gradient(b.data(), f.data(), dx_.data());
    } else {
      walk_.restart_gradient(scaled(b, factor).data(), f.data(), dx_.data());
    }
  }

  // row: dw = (dA - sum over the row of A dA) / r;  col: the same by columns;
  // sym: dw = dA / sqrt(r c) - R / (2 r) - C / (2 c) with R, C the sums of A dA over the row and the column.
  std::vector<double> weight_gradient() const {
    if (da_.empty() || o_.normalization == Normalization::none) return da_;
    const Graph& graph = walk_.graph();
    const auto weights = graph.weights();
    const auto indices = graph.indices();
    const auto scale_of = [](const std::vector<double>& scale, Offset i) {
      return scale.empty() ? 1.0 : scale[at(i)];
    };
    std::vector<double> by_row(at(n_));
    std::vector<double> by_col(at(n_));
    const auto each = [&](auto&& f) {
      for (Offset i = 0; i < n_; ++i) {
        for (Offset e = graph.indptr()[at(i)]; e < graph.indptr()[at(i) + 1]; ++e) {
          const Offset j = indices[at(e)];
          f(i, j, at(e), scale_of(walk_.row_scale(), i) * scale_of(walk_.col_scale(), j));
        }
      }
    };
    each([&](Offset i, Offset j, std::size_t e, double scale) {
      const double part = (weights.empty() ? 1.0 : weights[e]) * scale * da_[e];
      by_row[at(i)] += part;
      by_col[at(j)] += part;
    });
    std::vector<double> dw(da_.size());
    each([&](Offset i, Offset j, std::size_t e, double scale) {
      const double r = walk_.row_sums()[at(i)];
      const double c = walk_.col_sums()[at(j)];
      dw[e] = da_[e] * scale;
      switch (o_.normalization) {
        case Normalization::row:
          dw[e] -= r == 0 ? 0 : by_row[at(i)] / r;
          break;
        case Normalization::col:
          dw[e] -= c == 0 ? 0 : by_col[at(j)] / c;
          break;
        default:
          dw[e] -= (r == 0 ? 0 : by_row[at(i)] / (2 * r)) + (c == 0 ? 0 : by_col[at(j)] / (2 * c));
      }
      dw[e] *= walk_.weight_unit();
    });
    return dw;
  }

  Walk<T> walk_;
  const DiffuseOptions& o_;
  DiffuseGradients<T>& out_;
  Offset n_;
  Offset columns_;
  Block<T> x_, g_, dx_;
  std::vector<double> da_;  // by edge
  double unit_ = 1;         // powers are those of A / unit
};

std::vector<double> widened(TensorView<const float> x) {
  std::vector<double> wide;
  wide.reserve(at(x.size()));
  for (Offset i = 0; i < x.extent[0]; ++i) {
    for (Offset c = 0; c < x.extent[1]; ++c) wide.push_back(static_cast<double>(x(i, c)));
  }
  return wide;
}

// Blocks of the signal's size and what belongs to edges.
template <class T>
void check_memory(const Context& ctx, const Graph& graph, Offset columns, const DiffuseOptions& options,
                  BackwardMode mode) {
  const double hops = options.kernel == Kernel::coefficients
                          ? static_cast<double>(options.coefficients.size()) - 1
                          : static_cast<double>(options.hops.value_or(0));
  const double kept = mode == BackwardMode::stored         ? hops
                      : mode == BackwardMode::checkpointed ? 2 * std::sqrt(hops)
                                                           : 2;
  const double block =
      static_cast<double>(graph.n_rows()) * static_cast<double>(ops::block_stride(columns)) * sizeof(T);
  const double bytes = (kept + 6) * block + 16 * static_cast<double>(graph.implicit() ? 0 : graph.nnz());
  if (bytes <= static_cast<double>(ctx.limit())) return;
  throw LimitError(fmt::format(
      "memory limit: gradients of {:.0f} hops over {} x {} numbers take {:.0f} bytes, the limit is {}{}",
      hops, graph.n_rows(), columns, bytes, ctx.limit(),
      mode == BackwardMode::stored ? "; checkpointed takes less" : ""));
}

}  // namespace

template <class T>
void diffuse_backward(const Context& ctx, const Graph& graph, TensorView<const T> x, TensorView<const T> gz,
                      const DiffuseOptions& options, BackwardMode mode, DiffuseGradients<T>& gradients) {
  require_backend(ctx, "diffuse");
  const ThreadScope scope(ctx.threads, ctx.stop);
  diffusion::check_options(options);
  x = diffusion::as_columns("signal", x, graph.n_rows());
  gz = diffusion::as_columns("gz", gz, graph.n_rows());
  TensorView<T> dx =
      gradients.x.empty() ? TensorView<T>() : diffusion::as_columns("dx", gradients.x, graph.n_rows());
  if (gz.extent[1] != x.extent[1] || (!dx.empty() && dx.extent[1] != x.extent[1])) {
    throw ValueError(fmt::format("gz: {} columns for a signal of {}", gz.extent[1], x.extent[1]));
  }
  const bool fixed_point = mode == BackwardMode::implicit;
  if (fixed_point && (options.kernel != Kernel::ppr || !(options.teleport > 0))) {
    throw ValueError(
        "backward: implicit wants kernel ppr with teleport above 0; stored and checkpointed always work");
  }
  if (!fixed_point && options.kernel != Kernel::coefficients && !options.hops) {
    throw ValueError("hops: the backward pass wants the hops of the forward run, or mode implicit for ppr");
  }
  const auto run = [&]<class S>(TensorView<const S> in, TensorView<const S> g, TensorView<S> to,
                                DiffuseGradients<S>& found) {
    check_memory<S>(ctx, graph, in.extent[1], options, mode);
    Backward<S> backward(ctx, graph, in, g, options, found);
    if (fixed_point) {
      backward.implicit();
    } else {
      backward.unrolled(mode == BackwardMode::checkpointed);
    }
    backward.finish(to);
  };
  if constexpr (std::is_same_v<T, float>) {
    if (diffusion::wants_double(options, graph)) {  // as the forward pass does
      const std::vector<double> wide_x = widened(x);
      const std::vector<double> wide_g = widened(gz);
      std::vector<double> wide_dx(dx.empty() ? 0 : wide_x.size());
      const auto shape = {x.extent[0], x.extent[1]};
      DiffuseGradients<double> wide;
      wide.want_weights = gradients.want_weights;
      run.template operator()<double>(
          {wide_x.data(), shape}, {wide_g.data(), shape},
          dx.empty() ? TensorView<double>() : TensorView<double>(wide_dx.data(), shape), wide);
      for (Offset i = 0; !dx.empty() && i < dx.extent[0]; ++i) {
        for (Offset c = 0; c < dx.extent[1]; ++c)
          dx(i, c) = static_cast<float>(wide_dx[at(i * dx.extent[1] + c)]);
      }
      gradients.weights = std::move(wide.weights);
      gradients.teleport = wide.teleport;
      gradients.t = wide.t;
      gradients.coefficients = std::move(wide.coefficients);
      return;
    }
  }
  run.template operator()<T>(x, gz, dx, gradients);
}

template void diffuse_backward<float>(const Context&, const Graph&, TensorView<const float>,
                                      TensorView<const float>, const DiffuseOptions&, BackwardMode,
                                      DiffuseGradients<float>&);
template void diffuse_backward<double>(const Context&, const Graph&, TensorView<const double>,
                                       TensorView<const double>, const DiffuseOptions&, BackwardMode,
                                       DiffuseGradients<double>&);

}  // namespace manyhop

// Gradients of diffuse. Every kernel is a polynomial sum_k p_k A^k X of a fixed degree K, so with F_k = A^k X
// and the adjoint B_K = p_K g, B_k = p_k g + A^T B_{k+1}:
//   dX = B_0,   dA_ij = sum_k <B_{k+1,i}, F_{k,j}>,   dp_k = <g, F_k>,
// and dA goes through the normalisation to the weights. `implicit` does the same at the fixed point of ppr:
//   W = g + (1 - a) A^T W,  dX = a W,  dA_ij = (1 - a) <W_i, Z*_j>.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "manyhop/engine/diffusion/blocks.hpp"
#include "manyhop/engine/diffusion/check.hpp"
#include "manyhop/engine/diffusion/series.hpp"
#include "manyhop/engine/diffusion/walk.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop {

namespace {

using diffusion::Walk;

template <class I>
std::size_t at(I i) {
  return static_cast<std::size_t>(i);
}

template <class T>
class Backward {
 public:
  Backward(const Context& ctx, const Graph& graph, TensorView<const T> x, TensorView<const T> gz,
           const DiffuseOptions& options, BackwardMode mode, DiffuseGradients<T>& gradients)
      : walk_(ctx, graph, options), o_(options), out_(gradients), n_(graph.n_rows()), columns_(x.extent[1]) {
    if (o_.kernel == Kernel::ppr) walk_.require_contraction();
    hops_ = diffusion::hops_of(o_);
    implicit_ = mode == BackwardMode::implicit;
    segment_ = segment_of(hops_, mode);
    diffusion::BlockOptions wanted;
    wanted.count = block_count(hops_, mode);
    wanted.gradients = true;
    wanted.edge_gradient = gradients.want_weights && !graph.implicit();
    const auto cells = at(n_ * ops::block_stride(columns_));
    memory_ = std::make_unique_for_overwrite<T[]>(at(diffusion::blocks_on_host(ctx, wanted)) * cells);
    read("signal", x, memory_.get());
    walk_.start(memory_.get(), columns_);
    blocks_ = diffusion::make_blocks<T>(ctx, walk_, memory_.get(), wanted);
    const auto g = std::make_unique_for_overwrite<T[]>(cells);
    read("gz", gz, g.get());
    blocks_->write(kG, g.get());
    blocks_->combine(kDx, 0, kG, 0);
  }

  /// Blocks of the signal's size.
  static Offset block_count(int hops, BackwardMode mode) {
    if (mode == BackwardMode::implicit) return kPowers;
    const Offset segment = segment_of(hops, mode);
    return kPowers + segment - 1 + std::max(0, hops - 1) / segment;
  }

  void run() { implicit_ ? implicit() : unrolled(); }

  void finish(TensorView<T> dx) {
    const std::vector<double> da = blocks_->edge_gradient();
    if (!dx.empty()) {
      const T* const found = blocks_->read(kDx);
      for (Offset i = 0; i < n_; ++i) {
        for (Offset c = 0; c < columns_; ++c) dx(i, c) = found[i * walk_.stride() + c];
      }
    }
    out_.weights = weight_gradient(da);
  }

 private:
  static constexpr int kMostRounds = 100000;
  // Blocks; powers of A from kPowers on.
  static constexpr int kX = 0, kG = 1, kDx = 2, kB = 3, kNext = 4, kF = 5, kPowers = 7;

  /// Hops between powers that are kept.
  static int segment_of(int hops, BackwardMode mode) {
    return std::max(1,
                    mode == BackwardMode::checkpointed ? static_cast<int>(std::ceil(std::sqrt(hops))) : hops);
  }

  void unrolled() {
    // Powers of A / unit: those of a large A would overflow long before their weights end.
    if (o_.normalization == Normalization::none && o_.kernel != Kernel::coefficients) {
      unit_ = std::max(1.0, walk_.strength());
    }
    const std::vector<double> p = diffusion::series(o_, hops_, unit_);
    const std::vector<double> slope = diffusion::series_slope(o_, hops_, unit_);
    // Powers F_0, F_segment, F_2segment, ... are kept; those in between are made again, a segment at a time.
    const auto kept = [&](int k) { return k == 0 ? kX : kPowers + segment_ - 1 + k / segment_ - 1; };
    const auto within = [&](int k) { return k % segment_ == 0 ? kept(k) : kPowers + k % segment_ - 1; };
    const bool stored = segment_ >= hops_;
    std::vector<double> dp(p.size());
    dp[0] = blocks_->dot(kG, kX);
    int f = kX;
    for (int k = 1; k <= hops_; ++k) {
      const bool keep = k < hops_ && (stored || k % segment_ == 0);
      const int to = keep ? within(k) : f == kF ? kF + 1 : kF;
      product(f, to);
      f = to;
      dp[at(k)] = blocks_->dot(kG, f);
    }
    int b = kB;
    blocks_->combine(b, 0, kG, p[at(hops_)]);
    for (int start = (hops_ - 1) / segment_ * segment_; start >= 0 && hops_ > 0; start -= segment_) {
      const int end = std::min(hops_, start + segment_);
      for (int k = start + 1; k < end && !stored; ++k) product(within(k - 1), within(k));
      for (int k = end - 1; k >= start; --k) {
        through_matrix(b, within(k), 1 / unit_);
        const int next = b == kB ? kNext : kB;
        transposed(b, next);
        blocks_->combine(next, 1, kG, p[at(k)]);
        b = next;
      }
    }
    blocks_->combine(kDx, 1, b, 1);
    double along = 0;
    for (std::size_t k = 0; k < p.size(); ++k) along += slope[k] * dp[k];
    if (o_.kernel == Kernel::ppr) out_.teleport = along;
    if (o_.kernel == Kernel::heat) out_.t = along;
    if (o_.kernel == Kernel::coefficients) out_.coefficients = dp;
  }

  void implicit() {
    const double a = o_.teleport;
    const auto most = [&](int one, int other) {
      const std::vector<double> found = blocks_->norms(diffusion::Norm::max, one, other);
      return found.empty() ? 0.0 : *std::max_element(found.begin(), found.end());
    };
    // The fixed point of step(now, next), from what `now` holds; which of the two blocks has it.
    const auto settle = [&](int now, int next, auto&& step) {
      for (int k = 0; k < kMostRounds; ++k) {
        step(now, next);
        const bool there = most(next, now) <= 2 * std::numeric_limits<T>::epsilon() * most(next, -1);
        std::swap(now, next);
        if (there) break;
      }
      return now;
    };
    blocks_->combine(kF, 0, kX, 1);
    const int z = settle(kF, kF + 1, [&](int now, int next) {
      product(now, next);
      blocks_->combine(next, 1 - a, kX, a);
    });
    blocks_->combine(kB, 0, kG, 1);
    const int w = settle(kB, kNext, [&](int now, int next) {
      transposed(now, next);
      blocks_->combine(next, 1 - a, kG, 1);
    });
    through_matrix(w, z, 1 - a);
    blocks_->combine(kDx, 1, w, a);
    const int again = z == kF ? kF + 1 : kF;
    product(z, again);
    out_.teleport = blocks_->dot(w, kX) - blocks_->dot(w, again);
  }

  void read(const char* name, TensorView<const T> from, T* block) const {
    const Offset stride = ops::block_stride(columns_);
    for (Offset i = 0; i < n_; ++i) {
      std::fill(block + i * stride, block + (i + 1) * stride, T{0});
      for (Offset c = 0; c < columns_; ++c) {
        if (!std::isfinite(from(i, c))) {
          throw ValueError(fmt::format("{}: entry (row {}, column {}) is {}, finite values are wanted", name,
                                       i, c, static_cast<double>(from(i, c))));
        }
        block[i * stride + c] = from(i, c);
      }
    }
  }
  void product(int from, int to) {
    check_stop();
    blocks_->apply(from, to);
    if (unit_ != 1) blocks_->combine(to, 0, to, 1 / unit_);
  }
  void transposed(int from, int to) {
    check_stop();
    blocks_->apply_transposed(from, to);
    if (unit_ != 1) blocks_->combine(to, 0, to, 1 / unit_);
  }

  // The part of factor <b, A f> that lies in A: its edges, and the restart vector.
  void through_matrix(int b, int f, double factor) {
    blocks_->add_edge_gradient(b, f, factor);
    blocks_->add_restart_gradient(b, f, factor, kDx);
  }

  // row: dw = (dA - sum over the row of A dA) / r;  col: the same by columns;
  // sym: dw = dA / sqrt(r c) - R / (2 r) - C / (2 c) with R, C the sums of A dA over the row and the column.
  std::vector<double> weight_gradient(const std::vector<double>& da) const {
    if (da.empty() || o_.normalization == Normalization::none) return da;
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
      const double part = (weights.empty() ? 1.0 : weights[e]) * scale * da[e];
      by_row[at(i)] += part;
      by_col[at(j)] += part;
    });
    std::vector<double> dw(da.size());
    each([&](Offset i, Offset j, std::size_t e, double scale) {
      const double r = walk_.row_sums()[at(i)];
      const double c = walk_.col_sums()[at(j)];
      dw[e] = da[e] * scale;
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
  bool implicit_ = false;
  int hops_ = 0;
  int segment_ = 1;
  std::unique_ptr<T[]> memory_;
  std::unique_ptr<diffusion::Blocks<T>> blocks_;
  double unit_ = 1;  // powers are those of A / unit
};

std::vector<double> widened(TensorView<const float> x) {
  std::vector<double> wide;
  wide.reserve(at(x.size()));
  for (Offset i = 0; i < x.extent[0]; ++i) {
    for (Offset c = 0; c < x.extent[1]; ++c) wide.push_back(static_cast<double>(x(i, c)));
  }
  return wide;
}

// Blocks of the signal's size, what belongs to edges and to hops.
template <class T>
void check_memory(const Context& ctx, const Graph& graph, Offset columns, const DiffuseOptions& options,
                  BackwardMode mode) {
  const int hops = diffusion::hops_of(options);
  const auto blocks = static_cast<double>(1 + Backward<T>::block_count(hops, mode));
  const double block =
      static_cast<double>(graph.n_rows()) * static_cast<double>(ops::block_stride(columns)) * sizeof(T);
  const double bytes =
      blocks * block + 24.0 * hops + 16 * static_cast<double>(graph.implicit() ? 0 : graph.nnz());
  if (bytes <= static_cast<double>(ctx.limit())) return;
  throw LimitError(fmt::format(
      "memory limit: gradients of {} hops over {} x {} numbers take {:.0f} bytes, the limit is {}{}", hops,
      graph.n_rows(), columns, bytes, ctx.limit(),
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
    Backward<S> backward(ctx, graph, in, g, options, mode, found);
    backward.run();
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

// Checks of shapes, the switch on the backend, and what needs no kernels: derivatives and hard top-k.
#include "manyhop/ops/sparsek.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/cuda/sparsek.hpp"
#include "manyhop/ops/edge_value.hpp"
#include "manyhop/ops/sparsek_backends.hpp"
#include "manyhop/ops/tensor_checks_internal.hpp"

namespace manyhop {

namespace {

using ops::check_data;
using ops::RowsOf;
using ops::shape_text;

constexpr Offset kGrain = 1 << 16;  // scores of a task

template <class T>
RowsOf<T> rows_of(const char* op, const char* name, const TensorView<T>& view,
                  std::span<const Offset> offsets) {
  const int most = offsets.empty() ? 2 : 1;
  if (view.rank < 1 || view.rank > most) {
    throw ValueError(fmt::format("{}: {} has shape {}, want {}", op, name, shape_text(view),
                                 most == 2 ? "[rows, n] or [n]" : "[total] with offsets"));
  }
  check_data(op, name, view);
  if (!offsets.empty()) {
    if (offsets.front() != 0 || offsets.back() != view.extent[0]) {
      throw ValueError(fmt::format("{}: offsets run from {} to {}, want 0 to {}, the length of {}", op,
                                   offsets.front(), offsets.back(), view.extent[0], name));
    }
    for (std::size_t r = 1; r < offsets.size(); ++r) {
      if (offsets[r] < offsets[r - 1]) {
        throw ValueError(fmt::format("{}: offsets[{}] is {} after {}; offsets must not fall", op, r,
                                     offsets[r], offsets[r - 1]));
      }
    }
  }
  return {view, offsets};
}

template <class A, class B>
void same_shape(const char* op, const char* a_name, const TensorView<A>& a, const char* b_name,
                const TensorView<B>& b) {
  if (a.rank == b.rank && a.extent == b.extent) return;
  throw ValueError(fmt::format("{}: {} has shape {}, {} has shape {}; they must be equal", op, a_name,
                               shape_text(a), b_name, shape_text(b)));
}

void check_count(const char* op, const char* name, std::size_t count, Offset rows) {
  if (static_cast<Offset>(count) != rows) {
    throw ValueError(fmt::format("{}: {} has {} entries, there are {} rows", op, name, count, rows));
  }
}

void check_temperature(const char* op, double temperature) {
  if (!(temperature > 0) || !std::isfinite(temperature)) {
    throw ValueError(fmt::format("{}: temperature is {}, it must be positive and finite", op, temperature));
  }
}

// body(row) in tasks of about as many scores.
template <class T, class F>
void for_rows(const RowsOf<T>& rows, F&& body) {
  const Offset count = rows.rows();
  const Offset total = std::max<Offset>(rows.view.size(), 1);
  const Offset grain = std::max<Offset>(1, kGrain * count / total);
  parallel_ranges(count, grain, [&](Offset begin, Offset end) {
    for (Offset r = begin; r < end; ++r) body(r);
  });
}

template <class T>
ops::cuda::ScoreRows<T> score_rows(const RowsOf<T>& rows) {
  const auto& view = rows.view;
  return {view.data, view.rank == 1 ? (rows.offsets.empty() ? 0 : view.stride[0]) : view.stride[0],
          rows.step()};
}

template <class T>
ops::cuda::SparsekRows on_device(const Context& ctx, const RowsOf<T>& rows, const SparsekOptions& options) {
  ops::cuda::SparsekRows call;
  call.stream = ctx.stream;
  call.memory_limit = ctx.memory_limit;
  call.rows = rows.rows();
  call.size = rows.offsets.empty() && call.rows > 0 ? rows.size(0) : 0;
  call.offsets = options.offsets;
  call.temperature = options.temperature;
  return call;
}

template <class T>
bool inside(T gate) {
  return gate > 0 && gate < 1;
}

}  // namespace

template <class T>
void sparsek(const Context& ctx, TensorView<const T> z, double k, TensorView<T> p,
             const SparsekOptions& options) {
  constexpr const char* kOp = "sparsek";
  const auto from = rows_of(kOp, "z", z, options.offsets);
  same_shape(kOp, "z", z, "p", p);
  const auto to = rows_of(kOp, "p", p, options.offsets);
  check_temperature(kOp, options.temperature);
  if (options.row_k.empty()) {
    if (!(k >= 0)) throw ValueError(fmt::format("sparsek: k is {}, it must be 0 or more", k));
  } else {
    check_count(kOp, "row_k", options.row_k.size(), from.rows());
    for (std::size_t r = 0; r < options.row_k.size(); ++r) {
      if (!(options.row_k[r] >= 0)) {
        throw ValueError(fmt::format("sparsek: row_k[{}] is {}, it must be 0 or more", r, options.row_k[r]));
      }
    }
  }
  if (!options.tau.empty()) check_count(kOp, "tau", options.tau.size(), from.rows());
  require_backend(ctx, kOp);
  const ThreadScope scope(ctx.threads, ctx.stop);
  if (ctx.backend == Backend::cuda) {
    ops::cuda::SparsekRows rows = on_device(ctx, from, options);
    rows.k = k;
    rows.row_k = options.row_k;
    ops::cuda::sparsek<T>(rows, score_rows(from), score_rows(to),
                          options.tau.empty() ? nullptr : options.tau.data());
    return;
  }
  const ops::SparsekCall call{k, options.row_k, options.temperature, options.method, options.tau};
  if (ctx.backend == Backend::reference) {
    ops::reference::sparsek<T>(call, from, to);
  } else {
    ops::cpu::sparsek<T>(call, from, to);
  }
}

template <class T>
void sparsek_jvp(const Context& ctx, TensorView<const T> p, TensorView<const T> dz, TensorView<T> dp,
                 const SparsekOptions& options, std::span<const double> dk) {
  constexpr const char* kOp = "sparsek_jvp";
  const auto gates = rows_of(kOp, "p", p, options.offsets);
  same_shape(kOp, "p", p, "dz", dz);
  same_shape(kOp, "p", p, "dp", dp);
  const auto from = rows_of(kOp, "dz", dz, options.offsets);
  const auto to = rows_of(kOp, "dp", dp, options.offsets);
  check_temperature(kOp, options.temperature);
  if (!dk.empty()) check_count(kOp, "dk", dk.size(), gates.rows());
  require_backend(ctx, kOp);
  const ThreadScope scope(ctx.threads, ctx.stop);
  if (ctx.backend == Backend::cuda) {
    ops::cuda::sparsek_derivative<T>(on_device(ctx, gates, options), score_rows(gates), score_rows(from),
                                     score_rows(to), {}, dk, nullptr, nullptr);
    return;
  }
  for_rows(gates, [&](Offset r) {
    const T* gate = gates.row(r);
    const T* change = from.row(r);
    double sum = 0;
    Offset count = 0;
    for (Offset i = 0; i < gates.size(r); ++i) {
      if (!inside(widen(gate[i * gates.step()]))) continue;
      sum += double{widen(change[i * from.step()])};
      ++count;
    }
    const double mean = count > 0 ? sum / static_cast<double>(count) : 0;
    const double share =
        count > 0 && !dk.empty() ? dk[static_cast<std::size_t>(r)] / static_cast<double>(count) : 0;
    for (Offset i = 0; i < gates.size(r); ++i) {
      const double slope = inside(widen(gate[i * gates.step()]))
                               ? (double{widen(change[i * from.step()])} - mean) / options.temperature + share
                               : 0.0;
      to.row(r)[i * to.step()] = narrow<T>(slope);
    }
  });
}

template <class T>
void sparsek_vjp(const Context& ctx, TensorView<const T> p, TensorView<const T> g,
                 const SparsekGradients<T>& gradients, const SparsekOptions& options) {
  constexpr const char* kOp = "sparsek_vjp";
  const auto gates = rows_of(kOp, "p", p, options.offsets);
  same_shape(kOp, "p", p, "g", g);
  const auto from = rows_of(kOp, "g", g, options.offsets);
  check_temperature(kOp, options.temperature);
  const bool wants_z = !gradients.z.empty();
  if (wants_z) same_shape(kOp, "p", p, "gradients.z", gradients.z);
  if (!gradients.k.empty()) check_count(kOp, "gradients.k", gradients.k.size(), gates.rows());
  const bool wants_temperature = !gradients.temperature.empty();
  if (wants_temperature) {
    check_count(kOp, "gradients.temperature", gradients.temperature.size(), gates.rows());
    // NOLINTNEXTLINE(readability-container-size-empty): empty() asks for data
    if (gradients.scores.empty() && p.size() > 0) {
      throw ValueError(
          "sparsek_vjp: gradients.temperature wants gradients.scores, the z of the forward call");
    }
    same_shape(kOp, "p", p, "gradients.scores", gradients.scores);
  }
  const RowsOf<T> to{gradients.z, options.offsets};
  const RowsOf<const T> scores{gradients.scores, options.offsets};
  require_backend(ctx, kOp);
  const ThreadScope scope(ctx.threads, ctx.stop);
  if (ctx.backend == Backend::cuda) {
    ops::cuda::sparsek_derivative<T>(on_device(ctx, gates, options), score_rows(gates), score_rows(from),
                                     wants_z ? score_rows(to) : ops::cuda::ScoreRows<T>{},
                                     wants_temperature ? score_rows(scores) : ops::cuda::ScoreRows<const T>{},
                                     {}, gradients.k.empty() ? nullptr : gradients.k.data(),
                                     wants_temperature ? gradients.temperature.data() : nullptr);
    return;
  }
  for_rows(gates, [&](Offset r) {
    const T* gate = gates.row(r);
    const T* change = from.row(r);
    double sum = 0;
    Offset count = 0;
    for (Offset i = 0; i < gates.size(r); ++i) {
      if (!inside(widen(gate[i * gates.step()]))) continue;
      sum += double{widen(change[i * from.step()])};
      ++count;
    }
    const double mean = count > 0 ? sum / static_cast<double>(count) : 0;
    if (!gradients.k.empty()) gradients.k[static_cast<std::size_t>(r)] = mean;
    double by_temperature = 0;
    for (Offset i = 0; i < gates.size(r); ++i) {
      const bool counts = inside(widen(gate[i * gates.step()]));
      const double slope =
          counts ? (double{widen(change[i * from.step()])} - mean) / options.temperature : 0.0;
      if (counts && wants_temperature)
        by_temperature -= slope * double{widen(scores.row(r)[i * scores.step()])};
      if (wants_z) to.row(r)[i * to.step()] = narrow<T>(slope);
    }
    if (wants_temperature) {
      gradients.temperature[static_cast<std::size_t>(r)] = by_temperature / options.temperature;
    }
  });
}

template <class T>
void topk(const Context& ctx, TensorView<const T> z, Offset k, TensorView<Index> indices,
          const SparsekOptions& options) {
  constexpr const char* kOp = "topk";
  const auto from = rows_of(kOp, "z", z, options.offsets);
  if (k < 0) throw ValueError(fmt::format("topk: k is {}, it must be 0 or more", k));
  if (indices.rank != 2 || indices.extent[0] != from.rows() || indices.extent[1] != k) {
    throw ValueError(fmt::format("topk: indices has shape {}, want [{}, {}] (rows, k)", shape_text(indices),
                                 from.rows(), k));
  }
  check_data("topk", "indices", indices);
  for (Offset r = 0; r < from.rows(); ++r) {
    if (from.size(r) > kMaxVertices) {
      throw ValueError(
          fmt::format("topk: row {} has {} scores, at most {} have an index", r, from.size(r), kMaxVertices));
    }
  }
  const ThreadScope scope(ctx.threads, ctx.stop);
  for_rows(from, [&](Offset r) {
    using E = EdgeValue<T>;
    const T* row = from.row(r);
    const Offset step = from.step();
    std::vector<Index> taken;
    taken.reserve(static_cast<std::size_t>(from.size(r)));
    for (Offset i = 0; i < from.size(r); ++i) {
      if (widen(row[i * step]) > -std::numeric_limits<E>::infinity()) taken.push_back(static_cast<Index>(i));
    }
    if (static_cast<Offset>(taken.size()) > k) {
      std::nth_element(taken.begin(), taken.begin() + k, taken.end(), [&](Index a, Index b) {
        const E x = widen(row[a * step]);
        const E y = widen(row[b * step]);
        return x > y || (x == y && a > b);
      });
      taken.resize(static_cast<std::size_t>(k));
    }
    std::sort(taken.begin(), taken.end());
    for (Offset i = 0; i < k; ++i) {
      indices(r, i) = i < static_cast<Offset>(taken.size()) ? taken[static_cast<std::size_t>(i)] : Index{-1};
    }
  });
}

#define MANYHOP_INSTANTIATE(T)                                                                          \
  template void sparsek<T>(const Context&, TensorView<const T>, double, TensorView<T>,                  \
                           const SparsekOptions&);                                                      \
  template void sparsek_jvp<T>(const Context&, TensorView<const T>, TensorView<const T>, TensorView<T>, \
                               const SparsekOptions&, std::span<const double>);                         \
  template void sparsek_vjp<T>(const Context&, TensorView<const T>, TensorView<const T>,                \
                               const SparsekGradients<T>&, const SparsekOptions&);                      \
  template void topk<T>(const Context&, TensorView<const T>, Offset, TensorView<Index>, const SparsekOptions&)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop

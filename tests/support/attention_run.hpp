// Runs engine attention on an AttentionCase in a storage type, a backend and a layout, and gathers the answer
// for comparison with the oracle.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "manyhop/engine/attention.hpp"
#include "tests/support/near.hpp"
#include "tests/support/oracle.hpp"

namespace manyhop::test {

/// contiguous [b, h, n, d]; tokens first [b, n, h, d]; gaps after every row; every second element.
enum class Layout : std::uint8_t { bhsd, bshd, gaps, spread };

template <class T>
T not_a_number() {
  return T(std::numeric_limits<float>::quiet_NaN());
}

/// A tensor [b, h, n, d] in some layout; what lies between its elements is NaN and must stay as it is.
template <class T>
struct Laid {
  std::vector<T> storage;
  std::array<Offset, 4> extent{}, stride{};

  Laid(Layout layout, Offset b, Offset h, Offset n, Offset d) : extent{b, h, n, d} {
    switch (layout) {
      case Layout::bhsd:
        stride = {h * n * d, n * d, d, 1};
        break;
      case Layout::bshd:
        stride = {n * h * d, d, h * d, 1};
        break;
      case Layout::gaps:
        stride = {h * n * (d + 3), n * (d + 3), d + 3, 1};
        break;
      case Layout::spread:
        stride = {h * n * d * 2, n * d * 2, d * 2, 2};
        break;
    }
    storage.assign(static_cast<std::size_t>(b * h * n * (d + 3) * 2 + 1), not_a_number<T>());
  }
  Offset at(Offset x) const {
    const Offset c = x % extent[3];
    const Offset i = x / extent[3] % extent[2];
    const Offset h = x / (extent[3] * extent[2]) % extent[1];
    const Offset b = x / (extent[3] * extent[2] * extent[1]);
    return b * stride[0] + h * stride[1] + i * stride[2] + c * stride[3];
  }
  Offset size() const { return extent[0] * extent[1] * extent[2] * extent[3]; }
  Laid& fill(const std::vector<double>& values) {
    for (Offset x = 0; x < size(); ++x) {
      const double value = values[static_cast<std::size_t>(x)];
      if constexpr (std::is_same_v<T, double>) {
        storage[static_cast<std::size_t>(at(x))] = value;
      } else {
        storage[static_cast<std::size_t>(at(x))] = T(static_cast<float>(value));
      }
    }
    return *this;
  }
  std::vector<T> gather() const {
    std::vector<T> values;
    for (Offset x = 0; x < size(); ++x) values.push_back(storage[static_cast<std::size_t>(at(x))]);
    return values;
  }
  /// Whether everything between the elements is still NaN.
  bool untouched() const {
    std::vector<bool> owned(storage.size(), false);
    for (Offset x = 0; x < size(); ++x) owned[static_cast<std::size_t>(at(x))] = true;
    for (std::size_t x = 0; x < storage.size(); ++x) {
      if (!owned[x] && !std::isnan(to_double(storage[x]))) return false;
    }
    return true;
  }
  TensorView<T> view() {
    return TensorView<T>(storage.data(), {extent[0], extent[1], extent[2], extent[3]},
                         {stride[0], stride[1], stride[2], stride[3]});
  }
};

template <class T>
struct AttentionRun {
  std::vector<T> out, dq, dk, dv;
  std::vector<float> lse, weights, dbias;  // [b, h, n], [b, h, m], like bias
  double dteleport = 0;
  bool untouched = true;
};

template <class T>
constexpr DType dtype_for() {
  return std::is_same_v<T, double> ? DType::f64 : std::is_same_v<T, float> ? DType::f32 : DType::bf16;
}

/// bias: [m], [h, m] or [b, h, m] by its size; it must be what c.bias says. Gradients when g is given.
template <class T>
AttentionRun<T> run_attention(const Context& ctx, const AttentionCase& c, Layout layout = Layout::bhsd,
                              const std::vector<float>& bias = {}, const std::vector<double>& g = {},
                              const std::vector<float>& g_lse = {},
                              AttentionBackward mode = AttentionBackward::stored) {
  const Offset n = c.rows();
  const Offset n_cols = c.cols();
  const Offset m = c.graphs[0].nnz();
  bool equal = true;
  for (const Graph& graph : c.graphs) equal = equal && graph.nnz() == m;
  const Plan made = plan(ctx, c.graphs,
                         {.batch = c.batch,
                          .heads = static_cast<int>(c.heads),
                          .kv_heads = static_cast<int>(c.kv_heads),
                          .head_dim = static_cast<int>(c.d),
                          .value_dim = static_cast<int>(c.d_v),
                          .dtype = dtype_for<T>(),
                          .tf32 = c.tf32,
                          .hops = c.hops,
                          .backward = !g.empty(),
                          .reorder = c.reorder});
  Laid<T> q(layout, c.batch, c.heads, n, c.d), k(layout, c.batch, c.kv_heads, n_cols, c.d),
      v(layout, c.batch, c.kv_heads, n_cols, c.d_v), out(layout, c.batch, c.heads, n, c.d_v);
  q.fill(c.q);
  k.fill(c.k);
  v.fill(c.v);
  AttentionRun<T> run;
  run.lse.resize(static_cast<std::size_t>(c.batch * c.heads * n), 99);
  AttentionOptions options;
  options.hops = c.hops;
  options.teleport = c.teleport;
  options.scale = c.scale;
  options.lengths = c.lengths;
  options.dropout_p = c.dropout_p;
  options.hop_dropout_p = c.hop_dropout_p;
  options.seed = c.seed;
  options.backward = mode;
  const auto edges = [&](auto* data, std::size_t size) -> TensorView<std::remove_pointer_t<decltype(data)>> {
    if (size == static_cast<std::size_t>(m) && c.graphs.size() == 1) return {data, {m}};
    if (size == static_cast<std::size_t>(c.heads * m)) return {data, {c.heads, m}};
    return {data, {c.batch, c.heads, m}};
  };
  if (!bias.empty()) options.bias = edges(bias.data(), bias.size());
  options.lse = {run.lse.data(), {c.batch, c.heads, n}};
  if (equal) {
    run.weights.resize(static_cast<std::size_t>(c.batch * c.heads * m), 99);
    options.weights = {run.weights.data(), {c.batch, c.heads, m}};
  }
  AttentionState state;
  if (c.keep) options.state = &state;
  attention<T>(ctx, made, q.view(), k.view(), v.view(), out.view(), options);
  run.out = out.gather();
  run.untouched = out.untouched();
  if (g.empty()) return run;

  options.lse = {};
  options.weights = {};
  Laid<T> dq(layout, c.batch, c.heads, n, c.d), dk(layout, c.batch, c.kv_heads, n_cols, c.d),
      dv(layout, c.batch, c.kv_heads, n_cols, c.d_v), g_laid(layout, c.batch, c.heads, n, c.d_v);
  g_laid.fill(g);
  run.dbias.resize(bias.size(), 99);
  AttentionGradients<T> gradients;
  gradients.q = dq.view();
  gradients.k = dk.view();
  gradients.v = dv.view();
  gradients.teleport = 99;
  if (!bias.empty()) gradients.bias = edges(run.dbias.data(), run.dbias.size());
  TensorView<const float> lse_view;
  if (!g_lse.empty()) lse_view = {g_lse.data(), {c.batch, c.heads, n}};
  attention_backward<T>(ctx, made, q.view(), k.view(), v.view(), g_laid.view(), gradients, options, lse_view);
  run.dq = dq.gather();
  run.dk = dk.gather();
  run.dv = dv.gather();
  run.dteleport = gradients.teleport;
  run.untouched = run.untouched && dq.untouched() && dk.untouched() && dv.untouched();
  return run;
}

inline std::vector<double> flat(const std::vector<std::vector<double>>& parts) {
  std::vector<double> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

/// The oracle's gradient of a bias that batch items or heads share.
inline std::vector<double> reduced(const std::vector<std::vector<double>>& dbias, std::size_t size) {
  std::vector<double> sum(size);
  std::size_t at = 0;
  for (const auto& part : dbias) {
    for (const double value : part) sum[at++ % size] += value;
  }
  return sum;
}

}  // namespace manyhop::test

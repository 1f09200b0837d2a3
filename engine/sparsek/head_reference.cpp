// Edge by edge in double: the definition of correct.
#include <cmath>

#include "manyhop/engine/sparsek/head_internal.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::sparsek_head::reference {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

struct Edge {
  Offset j;
  double gate;   // what the value is multiplied with
  bool slopes;   // the gate is strictly between 0 and 1: scores move it
  bool counts;   // the edge passes a gradient on to its gate (not in window or sinks)
  double a = 0;  // softmax
  double w = 0;  // weight
};

template <class T>
double value(TensorView<const T> x, Offset i, Offset c) {
  return double{widen(x(i, c))};
}

template <class T>
std::vector<std::vector<Edge>> edges_of(const Input<T>& in, std::vector<double>& lse) {
  std::vector<std::vector<Edge>> rows(at(in.n));
  lse.assign(at(in.n), -kInfinity);
  for (Offset i = 0; i < in.n; ++i) {
    check_stop();
    auto& row = rows[at(i)];
    double most = -kInfinity;
    for (Offset j = 0; j <= i; ++j) {
      const double p = in.selection->gate(i, j);
      const bool always = in.always(i, j);
      if (!always && !in.selection->has(i, j)) continue;
      Edge edge{j, always ? 1 : p, p > 0 && p < 1, !always};
      for (Offset c = 0; c < in.d; ++c) edge.a += value(in.q, i, c) * value(in.k, j, c);
      edge.a *= in.scale;
      most = std::max(most, edge.a);
      row.push_back(edge);
    }
    if (row.empty()) continue;
    double sum = 0;
    double gated = 0;
    for (Edge& edge : row) {
      edge.a = std::exp(edge.a - most);
      sum += edge.a;
      gated += edge.a * edge.gate;
    }
    for (Edge& edge : row) {
      edge.a /= sum;
      edge.w = in.gate == Gate::values ? edge.a * edge.gate : edge.a * edge.gate * sum / gated;
    }
    lse[at(i)] = most + std::log(in.gate == Gate::values ? sum : gated);
  }
  return rows;
}

template <class T>
std::vector<double> packed(TensorView<const T> x, Offset n, Offset d) {
  std::vector<double> all(at(n * d));
  for (Offset i = 0; i < n; ++i) {
    for (Offset c = 0; c < d; ++c) all[at(i * d + c)] = value(x, i, c);
  }
  return all;
}

using Rows = std::vector<std::vector<Edge>>;

std::vector<double> hop(const Rows& rows, const std::vector<double>& z, const std::vector<double>& v,
                        Offset d, double teleport) {
  std::vector<double> next(v.size());
  for (std::size_t x = 0; x < v.size(); ++x) next[x] = teleport * v[x];
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (const Edge& edge : rows[i]) {
      for (Offset c = 0; c < d; ++c) {
        next[i * at(d) + at(c)] += (1 - teleport) * edge.w * z[at(edge.j * d + c)];
      }
    }
  }
  return next;
}

}  // namespace

template <class T>
void forward(const Input<T>& in, const Output<T>& out) {
  std::vector<double> lse;
  const Rows rows = edges_of(in, lse);
  const auto v = packed(in.v, in.n, in.d_value);
  auto z = v;
  for (int t = 0; t < in.hops; ++t) z = hop(rows, z, v, in.d_value, in.teleport);
  for (Offset i = 0; i < in.n; ++i) {
    for (Offset c = 0; c < in.d_value; ++c) out.out(i, c) = narrow<T>(z[at(i * in.d_value + c)]);
    if (!out.lse.empty()) out.lse(i) = static_cast<float>(lse[at(i)]);
  }
}

template <class T>
void backward(const Input<T>& in, const Gradient<T>& gradient) {
  const Offset dv = in.d_value;
  std::vector<double> lse;
  const Rows rows = edges_of(in, lse);
  const auto v = packed(in.v, in.n, dv);
  std::vector<std::vector<double>> z{v};
  for (int t = 0; t < in.hops; ++t) z.push_back(hop(rows, z.back(), v, dv, in.teleport));
  auto g = packed(gradient.g, in.n, dv);
  std::vector<std::vector<double>> dw(at(in.n));
  for (Offset i = 0; i < in.n; ++i) dw[at(i)].assign(rows[at(i)].size(), 0);
  for (int t = in.hops - 1; t >= 0; --t) {
    std::vector<double> before(g.size(), 0);
    for (Offset i = 0; i < in.n; ++i) {
      for (std::size_t e = 0; e < rows[at(i)].size(); ++e) {
        const Edge& edge = rows[at(i)][e];
        for (Offset c = 0; c < dv; ++c) {
          dw[at(i)][e] += (1 - in.teleport) * g[at(i * dv + c)] * z[at(t)][at(edge.j * dv + c)];
          before[at(edge.j * dv + c)] += (1 - in.teleport) * edge.w * g[at(i * dv + c)];
        }
      }
    }
    for (std::size_t x = 0; x < g.size(); ++x) (*gradient.v)[x] += in.teleport * g[x];
    g = before;
  }
  for (std::size_t x = 0; x < g.size(); ++x) (*gradient.v)[x] += g[x];
  for (Offset i = 0; i < in.n; ++i) {
    const auto& row = rows[at(i)];
    std::vector<double> dq(at(in.d), 0);
    std::vector<double> dgate(row.size(), 0);
    double mean = 0;
    for (std::size_t e = 0; e < row.size(); ++e) {
      mean += (in.gate == Gate::values ? row[e].a * row[e].gate : row[e].w) * dw[at(i)][e];
    }
    double total = 0;
    double count = 0;
    for (std::size_t e = 0; e < row.size(); ++e) {
      const Edge& edge = row[e];
      const double ds = in.gate == Gate::values ? edge.a * (edge.gate * dw[at(i)][e] - mean)
                                                : edge.w * (dw[at(i)][e] - mean);
      if (edge.counts) dgate[e] = in.gate == Gate::values ? edge.a * dw[at(i)][e] : ds / edge.gate;
      if (edge.slopes) {
        total += dgate[e];
        count += 1;
      }
      for (Offset c = 0; c < in.d; ++c) {
        dq[at(c)] += in.scale * ds * value(in.k, edge.j, c);
        (*gradient.k)[at(edge.j * in.d + c)] += in.scale * ds * value(in.q, i, c);
      }
    }
    for (std::size_t e = 0; e < row.size(); ++e) {
      if (row[e].slopes) (*gradient.scores)[at(row[e].j)] += dgate[e] - total / count;
    }
    if (gradient.q.empty()) continue;
    for (Offset c = 0; c < in.d; ++c) gradient.q(i, c) = narrow<T>(dq[at(c)]);
  }
}

#define MANYHOP_INSTANTIATE(T)                                 \
  template void forward<T>(const Input<T>&, const Output<T>&); \
  template void backward<T>(const Input<T>&, const Gradient<T>&)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::sparsek_head::reference

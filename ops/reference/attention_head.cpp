// The definition of one attention head in plain loops and double precision; a row of A is computed again
// wherever it is needed, so nothing of the size of the edges is held.
#include "manyhop/ops/attention_head.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::ops::reference {

namespace {

using Rows = std::vector<double>;  // [n][width], row-major
std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

template <class T>
double value_of(T value) {
  if constexpr (std::is_same_v<T, double>) {
    return value;
  } else {
    return static_cast<double>(static_cast<float>(value));
  }
}

template <class T>
T stored_as(double value) {
  if constexpr (std::is_same_v<T, bf16>) {
    return bf16(static_cast<float>(value));
  } else {
    return static_cast<T>(value);
  }
}

struct Edge {
  Offset column;
  Offset position;  // in CSR order
  double weight;    // softmax
  double kept;      // after dropout
};

/// Row i of A; returns its log-sum-exp.
template <class T>
double attention_row(const HeadInput<T>& in, Offset i, std::vector<Edge>& row) {
  check_stop();
  row.clear();
  Offset position = in.graph->indptr()[at(i)];
  double most = -std::numeric_limits<double>::infinity();
  in.graph->for_each_run(i, [&](Run run) {
    for (Offset j = run.begin; j < run.end; ++j, ++position) {
      if (j >= in.n_cols) continue;
      double score = 0;
      for (Offset f = 0; f < in.d; ++f) score += value_of(in.q(i, f)) * value_of(in.k(j, f));
      score *= in.scale;
      if (in.bias != nullptr) score += static_cast<double>(in.bias[position]);
      row.push_back({j, position, score, 0});
      most = std::isnan(score) || score > most ? score : most;
    }
  });
  if (most == -std::numeric_limits<double>::infinity()) most = 0;
  double sum = 0;
  for (const Edge& edge : row) sum += std::exp(edge.weight - most);
  for (Edge& edge : row) {
    edge.weight = sum == 0 ? 0 : std::exp(edge.weight - most) / sum;
    const bool keep = !in.edge_dropout.active() ||
                      keep_edge(in.seed, in.batch, in.head, edge.position, in.edge_dropout.threshold);
    edge.kept = keep ? edge.weight * in.edge_dropout.scale64 : 0;
  }
  return sum == 0 ? -std::numeric_limits<double>::infinity() : most + std::log(sum);
}

template <class T>
double hop_factor(const HeadInput<T>& in, int hop, Offset i, Offset c) {
  if (!in.hop_dropout.active()) return 1;
  return keep_hop(in.seed, in.batch, in.head, hop, i, c, in.hop_dropout.threshold) ? in.hop_dropout.scale64
                                                                                   : 0;
}

/// Z_{t+1} from Z_t.
template <class T>
Rows hop(const HeadInput<T>& in, int t, const Rows& z, const Rows& v) {
  Rows next(at(in.n_rows * in.d_value));
  std::vector<Edge> row;
  for (Offset i = 0; i < in.n_rows; ++i) {
    attention_row(in, i, row);
    for (Offset c = 0; c < in.d_value; ++c) {
      double sum = 0;
      for (const Edge& edge : row) sum += edge.kept * z[at(edge.column * in.d_value + c)];
      const double own = in.teleport == 0 ? 0 : in.teleport * v[at(i * in.d_value + c)];
      next[at(i * in.d_value + c)] = ((1 - in.teleport) * sum + own) * hop_factor(in, t, i, c);
    }
  }
  return next;
}

template <class T>
Rows read(TensorView<const T> from, Offset n, Offset d) {
  Rows rows(at(n * d));
  for (Offset i = 0; i < n; ++i) {
    for (Offset c = 0; c < d; ++c) rows[at(i * d + c)] = value_of(from(i, c));
  }
  return rows;
}

template <class T>
void write(const Rows& rows, Offset n, Offset d, TensorView<T> to) {
  if (to.empty()) return;
  for (Offset i = 0; i < n; ++i) {
    for (Offset c = 0; c < d; ++c) to(i, c) = stored_as<T>(rows[at(i * d + c)]);
  }
}

/// dA_ij += sum_c g[i, c] z[j, c] for the pairs (g, z) of all hops, then through softmax into dq, dk, dbias.
template <class T>
void through_scores(const HeadInput<T>& in, const HeadGradient<T>& gradient, const std::vector<Rows>& g,
                    const std::vector<Rows>& z, Rows& dk) {
  Rows dq(at(in.n_rows * in.d));
  std::vector<Edge> row;
  for (Offset i = 0; i < in.n_rows; ++i) {
    attention_row(in, i, row);
    std::vector<double> da(row.size());
    double dot = gradient.g_lse.empty() ? 0 : -static_cast<double>(gradient.g_lse(i));
    for (std::size_t e = 0; e < row.size(); ++e) {
      double sum = 0;
      for (std::size_t t = 0; t < g.size(); ++t) {
        for (Offset c = 0; c < in.d_value; ++c) {
          sum += g[t][at(i * in.d_value + c)] * z[t][at(row[e].column * in.d_value + c)];
        }
      }
      if (gradient.teleport != nullptr) *gradient.teleport -= row[e].kept * sum;
      const double mask = row[e].weight == 0 ? 0 : row[e].kept / row[e].weight;
      da[e] = (1 - in.teleport) * sum * mask;
      dot += row[e].weight * da[e];
    }
    for (std::size_t e = 0; e < row.size(); ++e) {
      const double ds = row[e].weight * (da[e] - dot);
      if (gradient.bias != nullptr) gradient.bias[row[e].position] += static_cast<ComputeOf<T>>(ds);
      for (Offset f = 0; f < in.d; ++f) {
        dq[at(i * in.d + f)] += in.scale * ds * value_of(in.k(row[e].column, f));
        dk[at(row[e].column * in.d + f)] += in.scale * ds * value_of(in.q(i, f));
      }
    }
  }
  write(dq, in.n_rows, in.d, gradient.q);
}

/// (1 - a) A^T g.
template <class T>
Rows pull_back(const HeadInput<T>& in, const Rows& g) {
  Rows out(at(in.n_cols * in.d_value));
  std::vector<Edge> row;
  for (Offset i = 0; i < in.n_rows; ++i) {
    attention_row(in, i, row);
    for (const Edge& edge : row) {
      for (Offset c = 0; c < in.d_value; ++c) {
        out[at(edge.column * in.d_value + c)] += (1 - in.teleport) * edge.kept * g[at(i * in.d_value + c)];
      }
    }
  }
  return out;
}

double dot(const Rows& a, const Rows& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

template <class T>
void attention_head(const HeadInput<T>& in, const HeadOutput<T>& out) {
  const Rows v = read(in.v, in.n_cols, in.d_value);
  Rows z = v;
  for (int t = 0; t < in.hops; ++t) z = hop(in, t, z, v);
  write(z, in.n_rows, in.d_value, out.out);
  std::vector<Edge> row;
  for (Offset i = 0; i < in.n_rows; ++i) {
    const double lse = attention_row(in, i, row);
    if (!out.lse.empty()) out.lse(i) = static_cast<ComputeOf<T>>(lse);
    if (out.weights == nullptr) continue;
    for (const Edge& edge : row) out.weights[edge.position] = static_cast<ComputeOf<T>>(edge.kept);
  }
}

template <class T>
void attention_head_backward(const HeadInput<T>& in, const HeadGradient<T>& gradient, std::vector<double>& dk,
                             std::vector<double>& dv) {
  if (gradient.first) {
    dk.assign(at(in.n_cols * in.d), 0);
    dv.assign(at(in.n_cols * in.d_value), 0);
  }
  const auto add = [&](const Rows& from, double factor) {
    for (std::size_t i = 0; i < from.size() && i < dv.size(); ++i) dv[i] += factor * from[i];
  };
  const Rows v = read(in.v, in.n_cols, in.d_value);
  Rows g = read(gradient.g, in.n_rows, in.d_value);
  std::vector<Rows> gs;
  std::vector<Rows> zs;
  if (gradient.mode == HeadBackward::implicit && in.hops > 0) {
    // The fixed points by iteration until nothing changes any more (or 10^5 rounds).
    const auto settle = [](Rows now, const auto& step) {
      for (int t = 0; t < 100000; ++t) {
        Rows next = step(now);
        double change = 0;
        double size = 0;
        for (std::size_t i = 0; i < next.size(); ++i) {
          change = std::max(change, std::abs(next[i] - now[i]));
          size = std::max(size, std::abs(next[i]));
        }
        now = std::move(next);
        if (change <= 1e-15 * size) break;
      }
      return now;
    };
    zs.push_back(settle(v, [&](const Rows& z) { return hop(in, 0, z, v); }));
    gs.push_back(settle(g, [&](const Rows& w) {
      Rows next = pull_back(in, w);
      for (std::size_t i = 0; i < next.size(); ++i) next[i] += g[i];
      return next;
    }));
    add(gs[0], in.teleport);
    if (gradient.teleport != nullptr) *gradient.teleport += dot(gs[0], v);
  } else {
    zs.push_back(v);
    for (int t = 0; t + 1 < in.hops; ++t) zs.push_back(hop(in, t, zs.back(), v));
    if (in.hops == 0) zs.clear();
    gs.resize(zs.size());
    for (int t = in.hops - 1; t >= 0; --t) {
      for (Offset i = 0; i < in.n_rows; ++i) {
        for (Offset c = 0; c < in.d_value; ++c) g[at(i * in.d_value + c)] *= hop_factor(in, t, i, c);
      }
      gs[static_cast<std::size_t>(t)] = g;
      add(g, in.teleport);
      if (gradient.teleport != nullptr) *gradient.teleport += dot(g, v);
      g = pull_back(in, g);
    }
    add(g, 1);
  }
  through_scores(in, gradient, gs, zs, dk);
  if (gradient.last) {
    write(dk, in.n_cols, in.d, gradient.k);
    write(dv, in.n_cols, in.d_value, gradient.v);
  }
}

#define MANYHOP_INSTANTIATE(T)                                                          \
  template void attention_head<T>(const HeadInput<T>&, const HeadOutput<T>&);           \
  template void attention_head_backward<T>(const HeadInput<T>&, const HeadGradient<T>&, \
                                           std::vector<double>&, std::vector<double>&)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::reference

// The whole attention definition as plain dense loops in double, with its gradients: what the engine is
// compared with. Cost and memory are n x n for each head; for n up to several hundred.
#pragma once

#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <vector>

#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/reorder.hpp"
#include "manyhop/ops/dropout.hpp"

namespace manyhop::test {

struct AttentionCase {
  std::vector<Graph> graphs;  // one, or one for each head
  Offset batch = 1, heads = 1, kv_heads = 1, d = 1, d_v = 1;
  std::vector<double> q, k, v;  // [b, h, n_rows, d], [b, h_kv, n_cols, d], [b, h_kv, n_cols, d_v]
  int hops = 1;
  double teleport = 0;
  double scale = 1;
  std::function<double(Offset b, Offset h, Offset e)> bias;  // empty: none
  std::vector<Offset> lengths;                               // empty: all positions
  double dropout_p = 0, hop_dropout_p = 0;
  std::uint64_t seed = 0;
  bool keep = false;                // the forward pass leaves a state for the backward pass
  bool tf32 = false;                // of the plan, too
  Reorder reorder = Reorder::none;  // of the plan; the oracle knows nothing of it

  const Graph& graph(Offset head) const {
    return graphs[graphs.size() == 1 ? 0 : static_cast<std::size_t>(head)];
  }
  Offset rows() const { return graphs[0].n_rows(); }
  Offset cols() const { return graphs[0].n_cols(); }
};

struct AttentionAnswer {
  std::vector<double> out, lse;              // [b, h, n_rows, d_v], [b, h, n_rows]
  std::vector<std::vector<double>> weights;  // [b h] of CSR order, after dropout
  std::vector<double> dq, dk, dv;            // like q, k, v; empty without g
  std::vector<std::vector<double>> dbias;    // like weights
  double dteleport = 0;
};

namespace detail {

// A dense matrix; loops below read like the formulas of the definition.
struct Matrix {
  Offset rows, cols;
  std::vector<double> values;
  Matrix(Offset r, Offset c) : rows(r), cols(c), values(static_cast<std::size_t>(r * c), 0.0) {}
  double& operator()(Offset i, Offset j) { return values[static_cast<std::size_t>(i * cols + j)]; }
  double operator()(Offset i, Offset j) const { return values[static_cast<std::size_t>(i * cols + j)]; }
};

inline Matrix slice(const std::vector<double>& all, Offset which, Offset rows, Offset cols) {
  Matrix part(rows, cols);
  for (std::size_t x = 0; x < part.values.size(); ++x) {
    part.values[x] = all[static_cast<std::size_t>(which * rows * cols) + x];
  }
  return part;
}

inline void add_slice(std::vector<double>& all, Offset which, const Matrix& part) {
  for (std::size_t x = 0; x < part.values.size(); ++x) {
    all[static_cast<std::size_t>(which * part.rows * part.cols) + x] += part.values[x];
  }
}

// C = A B; entries of A that are exactly zero are absent edges.
inline Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c(a.rows, b.cols);
  for (Offset i = 0; i < a.rows; ++i) {
    for (Offset j = 0; j < a.cols; ++j) {
      if (a(i, j) == 0) continue;
      for (Offset x = 0; x < b.cols; ++x) c(i, x) += a(i, j) * b(j, x);
    }
  }
  return c;
}

inline Matrix transposed(const Matrix& a) {
  Matrix t(a.cols, a.rows);
  for (Offset i = 0; i < a.rows; ++i) {
    for (Offset j = 0; j < a.cols; ++j) t(j, i) = a(i, j);
  }
  return t;
}

}  // namespace detail

/// out = Z_K of Z_0 = V, Z_{t+1} = M_t o ((1 - a) (M o A) Z_t + a V), A = softmax over the edges of each row
/// of scale q.k + bias; M and M_t are the dropout masks with their factor. With g (like out) also the
/// gradients of sum(out * g) + sum(lse * g_lse).
inline AttentionAnswer oracle(const AttentionCase& c, const std::vector<double>& g = {},
                              const std::vector<double>& g_lse = {}) {
  using detail::Matrix;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const Offset n = c.rows();
  const Offset n_cols = c.cols();
  const Offset group = c.heads == 0 ? 1 : c.heads / c.kv_heads;
  const Dropout dropout = Dropout::of(c.dropout_p);
  const Dropout hop_dropout = Dropout::of(c.hop_dropout_p);
  AttentionAnswer answer;
  answer.out.resize(static_cast<std::size_t>(c.batch * c.heads * n * c.d_v));
  answer.lse.resize(static_cast<std::size_t>(c.batch * c.heads * n), -kInfinity);
  if (!g.empty() || !g_lse.empty()) {
    answer.dq.resize(c.q.size());
    answer.dk.resize(c.k.size());
    answer.dv.resize(c.v.size());
  }
  for (Offset b = 0; b < c.batch; ++b) {
    const Offset length =
        c.lengths.empty() ? std::numeric_limits<Offset>::max() : c.lengths[static_cast<std::size_t>(b)];
    for (Offset h = 0; h < c.heads; ++h) {
      const Graph& graph = c.graph(h);
      const Offset which = b * c.heads + h;
      const Offset kv = b * c.kv_heads + h / group;
      const Matrix q = detail::slice(c.q, which, n, c.d);
      const Matrix k = detail::slice(c.k, kv, n_cols, c.d);
      Matrix v = detail::slice(c.v, kv, n_cols, c.d_v);
      for (Offset j = length; j < n_cols; ++j) {
        for (Offset x = 0; x < c.d_v; ++x) v(j, x) = 0;
      }

      // Scores on edges, absent elsewhere.
      Matrix score(n, n_cols);
      for (double& s : score.values) s = -kInfinity;
      Matrix mask(n, n_cols);  // dropout with its factor
      for (Offset i = 0; i < n; ++i) {
        for (Offset e = graph.indptr()[static_cast<std::size_t>(i)];
             e < graph.indptr()[static_cast<std::size_t>(i + 1)]; ++e) {
          const Offset j = graph.indices()[static_cast<std::size_t>(e)];
          if ((n == n_cols && i >= length) || j >= length) continue;  // a rectangle's rows are all there
          double dot = 0;
          for (Offset x = 0; x < c.d; ++x) dot += q(i, x) * k(j, x);
          score(i, j) = c.scale * dot + (c.bias ? c.bias(b, h, e) : 0.0);
          mask(i, j) = dropout.keeps(edge_bits(c.seed, b, h, e)) ? 1 / (1 - c.dropout_p) : 0.0;
        }
      }
      // A = softmax of each row.
      Matrix a(n, n_cols);
      for (Offset i = 0; i < n; ++i) {
        double largest = -kInfinity;
        for (Offset j = 0; j < n_cols; ++j) largest = std::max(largest, score(i, j));
        if (largest == -kInfinity) continue;
        double sum = 0;
        for (Offset j = 0; j < n_cols; ++j) sum += std::exp(score(i, j) - largest);
        for (Offset j = 0; j < n_cols; ++j) a(i, j) = std::exp(score(i, j) - largest) / sum;
        answer.lse[static_cast<std::size_t>(which * n + i)] = largest + std::log(sum);
      }
      Matrix dropped = a;
      for (std::size_t x = 0; x < a.values.size(); ++x) dropped.values[x] *= mask.values[x];
      std::vector<double> weights;
      for (Offset i = 0; i < n; ++i) {
        for (const Index j : graph.row(i)) weights.push_back(dropped(i, j));
      }
      answer.weights.push_back(weights);

      // Z_0 .. Z_K.
      const double t = c.teleport;
      std::vector<Matrix> z{v};
      std::vector<Matrix> az;        // A Z_t
      std::vector<Matrix> hop_mask;  // makes Z_{t+1}
      for (int hop = 0; hop < c.hops; ++hop) {
        az.push_back(detail::product(dropped, z.back()));
        Matrix next(n, c.d_v);
        Matrix keep(n, c.d_v);
        for (Offset i = 0; i < n; ++i) {
          for (Offset x = 0; x < c.d_v; ++x) {
            keep(i, x) = !hop_dropout.active()                                  ? 1.0
                         : hop_dropout.keeps(hop_bits(c.seed, b, h, hop, i, x)) ? 1 / (1 - c.hop_dropout_p)
                                                                                : 0.0;
            next(i, x) = keep(i, x) * ((1 - t) * az.back()(i, x) + (t == 0 ? 0 : t * v(i, x)));
          }
        }
        hop_mask.push_back(keep);
        z.push_back(next);
      }
      detail::add_slice(answer.out, which, z.back());
      if (answer.dq.empty()) continue;

      // Backward: G_K = g, then hop by hop.
      Matrix gz = g.empty() ? Matrix(z.back().rows, c.d_v) : detail::slice(g, which, z.back().rows, c.d_v);
      Matrix dv(n_cols, c.d_v);
      Matrix da(n, n_cols);
      for (int hop = c.hops - 1; hop >= 0; --hop) {
        const auto s = static_cast<std::size_t>(hop);
        for (std::size_t x = 0; x < gz.values.size(); ++x) gz.values[x] *= hop_mask[s].values[x];
        for (Offset i = 0; i < n; ++i) {
          for (Offset j = 0; j < n_cols; ++j) {
            if (mask(i, j) == 0) continue;
            double dot = 0;
            for (Offset x = 0; x < c.d_v; ++x) dot += gz(i, x) * z[s](j, x);
            da(i, j) += (1 - t) * dot * mask(i, j);
          }
          for (Offset x = 0; x < c.d_v; ++x) {
            if (n == n_cols) {
              dv(i, x) += t * gz(i, x);
              answer.dteleport += gz(i, x) * (v(i, x) - az[s](i, x));
            }
          }
        }
        gz = detail::product(detail::transposed(dropped), gz);
        for (double& value : gz.values) value *= 1 - t;
      }
      for (Offset j = 0; j < std::min(length, n_cols); ++j) {
        for (Offset x = 0; x < c.d_v; ++x) dv(j, x) += gz(j, x);
      }
      for (Offset j = length; j < n_cols; ++j) {
        for (Offset x = 0; x < c.d_v; ++x) dv(j, x) = 0;
      }

      // Through the softmax and the scores.
      Matrix ds(n, n_cols);
      for (Offset i = 0; i < n; ++i) {
        double mean = 0;
        for (Offset j = 0; j < n_cols; ++j) mean += a(i, j) * da(i, j);
        const double from_lse = g_lse.empty() ? 0.0 : g_lse[static_cast<std::size_t>(which * n + i)];
        for (Offset j = 0; j < n_cols; ++j) ds(i, j) = a(i, j) * (da(i, j) - mean + from_lse);
      }
      Matrix dq = detail::product(ds, k);
      Matrix dk = detail::product(detail::transposed(ds), q);
      for (double& value : dq.values) value *= c.scale;
      for (double& value : dk.values) value *= c.scale;
      std::vector<double> dbias;
      for (Offset i = 0; i < n; ++i) {
        for (const Index j : graph.row(i)) dbias.push_back(ds(i, j));
      }
      answer.dbias.push_back(dbias);
      detail::add_slice(answer.dq, which, dq);
      detail::add_slice(answer.dk, kv, dk);
      detail::add_slice(answer.dv, kv, dv);
    }
  }
  return answer;
}

}  // namespace manyhop::test

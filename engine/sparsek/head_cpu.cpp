// Panels of 32 rows, each one dense product with its own list of keys. A panel is built from the changes of
// the selection, used, and forgotten: memory does not grow with the number of selected pairs.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <memory>

#include "manyhop/engine/sparsek/head_internal.hpp"
#include "manyhop/engine/sparsek/panel_internal.hpp"
#include "manyhop/graphs/base/memory.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/attention_head.hpp"
#include "manyhop/ops/cpu/head_rows.hpp"

namespace manyhop::sparsek_head::cpu {

namespace {

using ops::ComputeOf;
using ops::cpu::padded_width;
using ops::cpu::PanelView;
using ops::cpu::Rows;

constexpr Offset kStripes = 8;              // of the backward pass: each has sums of its own
constexpr Offset kStripeRows = 4 * kChunk;  // at least

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

template <class C>
using Block = std::vector<C, BlockAllocator<C>>;

template <class C>
struct Matrix {
  Block<C> data;
  Offset count = 0;
  Offset width = 0;
  Matrix(Offset rows, Offset columns) : count(rows), width(padded_width<C>(columns)) {
    data.resize(at(count * width));
  }
  operator Rows<C>() { return {data.data(), count, width}; }
  Rows<const C> view() const { return {data.data(), count, width}; }
};

/// Returns whether all values are finite.
template <class C, class T>
bool pack(TensorView<const T> from, Offset d, Matrix<C>& to) {
  std::atomic<bool> finite{true};
  const Rows<C> rows = to;
  parallel_ranges(to.count, kChunk, [&](Offset begin, Offset end) {
    bool good = true;
    for (Offset i = begin; i < end; ++i) {
      for (Offset block = 0; block < rows.width; block += Rows<C>::kBlock) {
        C* row = rows.row(block, i);
        ops::cpu::read_row(from, i, d, C{1}, block, block + rows.stride(block), row);
        good &= ops::cpu::all_finite(row, rows.stride(block));
      }
    }
    if (!good) finite = false;
  });
  return finite;
}

/// What one panel needs.
template <class C>
struct Scratch {
  SelectedPanel<C> panel;
  Block<C> q, rows_t, out, values, weights, d_values;
  Block<C> peaks = Block<C>(kPanelRows);
  Block<C> lse = Block<C>(kPanelRows);
  bool finite = true;  // q
  Scratch(Offset width, Offset value_width)
      : q(at(kPanelRows * width)),
        rows_t(at(kPanelRows * std::max(width, value_width))),
        out(at(kPanelRows * std::max(width, value_width))) {}
  void room(Block<C>& block) {
    const std::size_t wanted = at(std::max<Offset>(panel.count(), 1) * kPanelRows);
    if (block.size() < wanted) block.resize(wanted + wanted / 4);
  }
};

template <class T>
class Head {
 public:
  using C = ComputeOf<T>;
  explicit Head(const Input<T>& input) : in(input), k(in.n, in.d), v(in.n, in.d_value) {
    const bool finite = pack(in.k, in.d, k);
    careful = !pack(in.v, in.d_value, v) || !finite;
  }

  /// body(scratch, first row, rows) for the panels of chunks [begin, end).
  template <class F>
  void panels(Offset begin, Offset end, F&& body) const {
    Scratch<C> scratch(k.width, v.width);
    std::vector<Index> keys = in.rows->before_chunk(begin);
    for (Offset first = begin * kChunk; first < std::min(in.n, end * kChunk); first += kPanelRows) {
      check_stop();
      const int rows = static_cast<int>(std::min<Offset>(kPanelRows, in.n - first));
      scratch.panel.build(in, first, rows, keys);
      body(scratch, first, rows);
    }
  }

  static void transpose(const C* rows, Offset width, C* rows_t) {
    for (Offset f = 0; f < width; f += 16) {
      for (Offset r = 0; r < kPanelRows; ++r) {
        for (Offset x = f; x < f + 16; ++x) rows_t[x * kPanelRows + r] = rows[r * width + x];
      }
    }
  }

  // Returns what values are multiplied with: in s.weights, with the softmax left in s.values, or (not
  // `both`) in s.values.
  const C* weigh(Scratch<C>& s, Offset first, int rows, bool both) const {
    const PanelView view = s.panel.view();
    s.room(s.values);
    if (both) s.room(s.weights);
    C* const weights = (both ? s.weights : s.values).data();
    for (int r = 0; r < kPanelRows; ++r) {
      C* row = s.q.data() + r * k.width;
      if (r < rows) {
        ops::cpu::read_row(in.q, first + r, in.d, static_cast<C>(in.scale), Offset{0}, k.width, row);
      } else {
        std::fill_n(row, k.width, C{0});
      }
    }
    s.finite = ops::cpu::all_finite(s.q.data(), kPanelRows * k.width);
    transpose(s.q.data(), k.width, s.rows_t.data());
    ops::cpu::sddmm_dense<C>(view, s.rows_t.data(), k.view(), s.values.data(), false);
    ops::cpu::row_peaks<C>(view, s.values.data(), s.peaks.data());
    ops::cpu::softmax<C>(view, s.values.data(), s.peaks.data(), s.lse.data());
    const Offset cells = s.panel.count() * kPanelRows;
    if (both) std::copy_n(s.values.data(), cells, weights);
    for (const Offset c : s.panel.gated) {
      C gate[kPanelRows];
      s.panel.gates(*in.selection, c, gate);
      apply(gate, s.panel.free[at(c)]);
      C* weight = weights + c * kPanelRows;
      for (int r = 0; r < kPanelRows; ++r) weight[r] *= gate[r];
    }
    if (in.gate == Gate::values) return weights;
    C sum[kPanelRows] = {};
    for (Offset c = 0; c < s.panel.count(); ++c) {
      for (int r = 0; r < kPanelRows; ++r) sum[r] += weights[c * kPanelRows + r];
    }
    for (int r = 0; r < kPanelRows; ++r) {
      if (r < rows) s.lse[at(r)] += static_cast<C>(std::log(static_cast<double>(sum[r])));
      sum[r] = sum[r] == 0 ? C{0} : 1 / sum[r];
    }
    for (Offset c = 0; c < s.panel.count(); ++c) {
      for (int r = 0; r < kPanelRows; ++r) weights[c * kPanelRows + r] *= sum[r];
    }
    return weights;
  }

  /// Rows that have the key by window or sinks take it whole.
  static void apply(C* gate, std::uint32_t free) {
    if (free == 0) return;
    for (int r = 0; r < kPanelRows; ++r) gate[r] = ((free >> r) & 1U) != 0 ? C{1} : gate[r];
  }

  /// One hop from z; the last writes to `out`, others to z_out.
  void hop(const Matrix<C>& z, bool last, Matrix<C>* z_out, const Output<T>* out) {
    // A NaN in q is one in Z_1, and cells that are no edge hold 0: the next hop must leave them out.
    std::atomic<bool> finite{true};
    const C keep = static_cast<C>(1 - in.teleport);
    const C teleport = static_cast<C>(in.teleport);
    parallel_for((in.n + kChunk - 1) / kChunk, [&](Offset chunk) {
      panels(chunk, chunk + 1, [&](Scratch<C>& s, Offset first, int rows) {
        const C* weights = weigh(s, first, rows, false);
        ops::cpu::spmm_dense<C, C>(s.panel.view(), weights, z.view(), s.out.data(), careful);
        for (int r = 0; r < rows; ++r) {
          C* row = s.out.data() + r * v.width;
          for (Offset block = 0; block < v.width && in.teleport != 0; block += Rows<C>::kBlock) {
            const C* own = v.view().row(block, first + r);
            for (Offset f = 0; f < v.view().stride(block); ++f) {
              row[block + f] = keep * row[block + f] + teleport * own[f];
            }
          }
          if (z_out != nullptr) {
            ops::cpu::copy_row<C, C>(row, Rows<C>(*z_out), first + r);
            if (!ops::cpu::all_finite(row, v.width)) finite = false;
          }
          if (last && out != nullptr) {
            ops::cpu::write_row(row, in.d_value, out->out, first + r);
            if (!out->lse.empty()) out->lse(first + r) = static_cast<float>(s.lse[at(r)]);
          }
        }
      });
    });
    careful = careful || !finite;
  }

  const Input<T>& in;
  Matrix<C> k, v;
  bool careful = false;
};

template <class T>
void values_out(const Input<T>& in, const Output<T>& out) {
  std::vector<ComputeOf<T>> row(at(in.d_value));
  for (Offset i = 0; i < in.n; ++i) {
    ops::cpu::read_row(in.v, i, in.d_value, ComputeOf<T>{1}, Offset{0}, in.d_value, row.data());
    ops::cpu::write_row(row.data(), in.d_value, out.out, i);
  }
}

/// Sums of one stripe of rows; keys are never past its end.
template <class C>
struct Sums {
  Matrix<C> k, z;
  std::vector<double> scores;
  Sums(Offset rows, Offset d, Offset d_value) : k(rows, d), z(rows, d_value), scores(at(rows), 0) {}
};

template <class C>
void add_rows(std::vector<double>& to, const Matrix<C>& from, Offset d, double factor) {
  parallel_ranges(from.count, kChunk, [&](Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i) {
      for (Offset block = 0; block < d; block += Rows<C>::kBlock) {
        const C* row = from.view().row(block, i);
        for (Offset f = 0; f < std::min(d - block, from.view().stride(block)); ++f) {
          to[at(i * d + block + f)] += factor * static_cast<double>(row[f]);
        }
      }
    }
  });
}

template <class T>
class Backward {
  using C = ComputeOf<T>;

 public:
  Backward(const Input<T>& in, const Gradient<T>& gradient)
      : in_(in), gradient_(gradient), head_(in), dq_(in.n, in.d), g_(in.n, in.d_value) {}

  void run() {
    const int last = std::max(in_.hops - 1, 0);
    z_.reserve(at(last));
    for (int t = 0; t < last; ++t) {
      z_.emplace_back(in_.n, in_.d_value);
      head_.hop(t == 0 ? head_.v : z_[at(t - 1)], false, &z_.back(), nullptr);
    }
    careful_ = !pack(gradient_.g, in_.d_value, g_) || head_.careful;
    for (int t = in_.hops - 1; t >= 0; --t) hop(t == 0 ? head_.v : z_[at(t - 1)]);
    add_rows(*gradient_.v, g_, in_.d_value, 1);
    if (gradient_.q.empty()) return;
    std::vector<C> row(at(dq_.width));
    for (Offset i = 0; i < in_.n; ++i) {
      ops::cpu::copy_row<C, C>(dq_.view(), i, row.data());
      ops::cpu::write_row(row.data(), in_.d, gradient_.q, i);
    }
  }

 private:
  // Takes G_{t+1} in g_ and leaves G_t.
  void hop(const Matrix<C>& z) {
    if (in_.teleport != 0) add_rows(*gradient_.v, g_, in_.d_value, in_.teleport);
    const Offset chunks = (in_.n + kChunk - 1) / kChunk;
    const Offset each = std::max(kStripeRows / kChunk, (chunks + kStripes - 1) / kStripes);
    const Offset stripes = (chunks + each - 1) / each;
    std::vector<std::unique_ptr<Sums<C>>> sums(at(stripes));
    parallel_for(stripes, [&](Offset s) {
      const Offset end = std::min(chunks, (s + 1) * each);
      sums[at(s)] = std::make_unique<Sums<C>>(std::min(in_.n, end * kChunk), in_.d, in_.d_value);
      stripe(s * each, end, z, *sums[at(s)]);
    });
    const Rows<C> g = g_;
    std::atomic<bool> finite{true};
    parallel_ranges(in_.n, kChunk, [&](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i) {
        for (Offset block = 0; block < g.width; block += Rows<C>::kBlock) {
          C* row = g.row(block, i);
          std::fill_n(row, g.stride(block), C{0});
          for (const auto& part : sums) {
            if (i >= part->z.count) continue;
            const C* more = part->z.view().row(block, i);
            for (Offset f = 0; f < g.stride(block); ++f) row[f] += more[f];
          }
          if (!ops::cpu::all_finite(row, g.stride(block))) finite = false;
        }
        for (const auto& part : sums) {
          if (i < part->z.count) (*gradient_.scores)[at(i)] += part->scores[at(i)];
        }
      }
    });
    for (const auto& part : sums) add_rows(*gradient_.k, part->k, in_.d, 1);
    careful_ = careful_ || !finite;
  }

  void stripe(Offset begin, Offset end, const Matrix<C>& z, Sums<C>& sums) {
    const C keep = static_cast<C>(1 - in_.teleport);
    const Offset width = head_.v.width;
    Block<C> g(at(kPanelRows * width)), g_t(at(kPanelRows * width));
    head_.panels(begin, end, [&](Scratch<C>& s, Offset first, int rows) {
      head_.weigh(s, first, rows, true);
      const PanelView view = s.panel.view();
      const Offset cells = s.panel.count() * kPanelRows;
      for (int r = 0; r < kPanelRows; ++r) {
        C* row = g.data() + r * width;
        if (r < rows) {
          ops::cpu::copy_row<C, C>(g_.view(), first + r, row);
          for (Offset f = 0; f < width; ++f) row[f] *= keep;
        } else {
          std::fill_n(row, width, C{0});
        }
      }
      ops::cpu::scatter_dense<C>(view, s.weights.data(), g.data(), 0, width, sums.z, careful_);
      Head<T>::transpose(g.data(), width, g_t.data());
      s.room(s.d_values);
      ops::cpu::sddmm_dense<C>(view, g_t.data(), z.view(), s.d_values.data(), false);
      clear_empty(s);
      to_scores(s, rows, sums.scores);
      for (Offset x = 0; x < cells; ++x) s.values[at(x)] = s.d_values[at(x)];
      // Scaled queries are in s.q, so keys' gradients have their scale; queries' take it here.
      ops::cpu::scatter_dense<C>(view, s.values.data(), s.q.data(), 0, head_.k.width, sums.k,
                                 careful_ || !s.finite);
      ops::cpu::spmm_dense<C, C>(view, s.values.data(), head_.k.view(), s.out.data(), careful_);
      for (int r = 0; r < rows; ++r) {
        C* row = s.out.data() + r * head_.k.width;
        for (Offset block = 0; block < dq_.width; block += Rows<C>::kBlock) {
          C* to = Rows<C>(dq_).row(block, first + r);
          for (Offset f = 0; f < dq_.view().stride(block); ++f) {
            to[f] += static_cast<C>(in_.scale) * row[block + f];
          }
        }
      }
    });
  }

  // Cells that are no edge: products of rows with keys they do not have.
  static void clear_empty(Scratch<C>& s) {
    for (Offset c = 0; c < s.panel.count(); ++c) {
      const std::uint32_t mask = s.panel.tiling.masks[at(c)];
      if (mask == ~std::uint32_t{0}) continue;
      C* cell = s.d_values.data() + c * kPanelRows;
      for (int r = 0; r < kPanelRows; ++r) cell[r] = ((mask >> r) & 1U) != 0 ? cell[r] : C{0};
    }
  }

  // d_values: from gradients of weights to gradients of q.k; adds to the scores' on the way.
  void to_scores(Scratch<C>& s, int rows, std::vector<double>& scores) const {
    const Offset count = s.panel.count();
    const auto valid = SelectedPanel<C>::bits(0, rows);
    const PanelView view = s.panel.view();
    const bool on_values = in_.gate == Gate::values;
    // Gradients of gates, [kept columns][32].
    std::vector<Offset> columns;
    for (Offset c = 0; c < count; ++c) {
      if ((s.panel.kept[at(c)] & valid) != 0) columns.push_back(c);
    }
    std::vector<C> d_gates(columns.size() * kPanelRows, C{0});
    std::vector<std::uint32_t> slopes(columns.size());
    const auto each = [&](auto&& body) {
      C gate[kPanelRows];
      for (std::size_t x = 0; x < columns.size(); ++x) {
        s.panel.gates(*in_.selection, columns[x], gate);
        body(x, columns[x], gate);
      }
    };
    if (on_values) {
      each([&](std::size_t x, Offset c, C* gate) {
        const std::uint32_t alone = s.panel.kept[at(c)] & ~s.panel.free[at(c)] & valid;
        C* d_cell = s.d_values.data() + c * kPanelRows;
        const C* a = s.values.data() + c * kPanelRows;
        for (int r = 0; r < kPanelRows; ++r) {
          if (((alone >> r) & 1U) == 0) continue;
          d_gates[x * kPanelRows + at(r)] = a[r] * d_cell[r];
          d_cell[r] *= gate[r];
        }
      });
    }
    const C zero[kPanelRows] = {};
    ops::cpu::softmax_backward<C>(view, on_values ? s.values.data() : s.weights.data(), s.d_values.data(),
                                  zero);
    double total[kPanelRows] = {};
    double inside[kPanelRows] = {};
    each([&](std::size_t x, Offset c, C* gate) {
      const std::uint32_t keeps = s.panel.kept[at(c)] & valid;
      const std::uint32_t alone = keeps & ~s.panel.free[at(c)];
      const C* d_cell = s.d_values.data() + c * kPanelRows;
      std::uint32_t sloped = 0;
      for (int r = 0; r < kPanelRows; ++r) {
        if (((keeps >> r) & 1U) == 0 || !(gate[r] > 0 && gate[r] < 1)) continue;
        sloped |= std::uint32_t{1} << r;
        C& d_gate = d_gates[x * kPanelRows + at(r)];
        if (!on_values && ((alone >> r) & 1U) != 0) d_gate = d_cell[r] / gate[r];
        total[r] += static_cast<double>(d_gate);
        inside[r] += 1;
      }
      slopes[x] = sloped;
    });
    for (std::size_t x = 0; x < columns.size(); ++x) {
      double sum = 0;
      for (std::uint32_t left = slopes[x]; left != 0; left &= left - 1) {
        const int r = std::countr_zero(left);
        sum += static_cast<double>(d_gates[x * kPanelRows + at(r)]) - total[r] / inside[r];
      }
      scores[at(s.panel.cols[at(columns[x])])] += sum;
    }
  }

  const Input<T>& in_;
  const Gradient<T>& gradient_;
  Head<T> head_;
  std::vector<Matrix<C>> z_;  // Z_1 .. Z_{K-1}
  Matrix<C> dq_, g_;
  bool careful_ = false;
};

}  // namespace

template <class T>
std::size_t bytes(Offset n, Offset d, Offset d_value, int hops, bool backward) {
  using C = ComputeOf<T>;
  const auto key = at(padded_width<C>(d)) * sizeof(C);
  const auto value = at(padded_width<C>(d_value)) * sizeof(C);
  std::size_t row = key + value + value * at(std::min(std::max(hops - 1, 0), 2));
  if (backward)
    row = 2 * key + (2 + at(std::max(hops, 1))) * value + at(kStripes + 1) * (key + value + 8) / 2;
  return at(n) * row;
}

template <class T>
void forward(const Input<T>& in, const Output<T>& out) {
  if (in.hops == 0) values_out(in, out);
  if (in.hops == 0 && out.lse.empty()) return;
  Head<T> head(in);
  if (in.hops == 0) {
    Output<T> lse_only = out;
    std::vector<T> unused(at(in.n * in.d_value));
    lse_only.out = {unused.data(), {in.n, in.d_value}};
    return head.hop(head.v, true, nullptr, &lse_only);
  }
  std::vector<Matrix<typename Head<T>::C>> z;
  for (int t = 1; t < std::min(in.hops, 3); ++t) z.emplace_back(in.n, in.d_value);
  for (int t = 0; t < in.hops; ++t) {
    const bool last = t + 1 == in.hops;
    head.hop(t == 0 ? head.v : z[at((t - 1) % 2)], last, last ? nullptr : &z[at(t % 2)], &out);
  }
}

template <class T>
void backward(const Input<T>& in, const Gradient<T>& gradient) {
  Backward<T>(in, gradient).run();
}

#define MANYHOP_INSTANTIATE(T)                                      \
  template std::size_t bytes<T>(Offset, Offset, Offset, int, bool); \
  template void forward<T>(const Input<T>&, const Output<T>&);      \
  template void backward<T>(const Input<T>&, const Gradient<T>&)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::sparsek_head::cpu

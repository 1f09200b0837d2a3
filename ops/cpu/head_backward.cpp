// The backward pass of a head (FACTS: G_t = (1 - a) A^T G_{t+1}, dA_ij = (1 - a) sum_t <G_{t+1,i}, Z_{t,j}>).
//
// A row panel scatters into columns, which two panels may share. Heads therefore scatter serially, or, when
// one head has all threads, in parallel over slices of features: each element still sees the panels in the
// same order, so the bits do not depend on the threads and no transposed structure is needed.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/ops/cpu/head.hpp"

namespace manyhop::ops::cpu {

namespace {

constexpr Offset kRowGrain = 256;
std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

template <class T>
class Backward {
  using C = ComputeOf<T>;

 public:
  Backward(const HeadInput<T>& in, const HeadGradient<T>& gradient, const HeadResources& resources)
      : in_(in),
        gradient_(gradient),
        head_(in, resources),
        parallel_(resources.threads > 1 && resources.stored),
        teleport_sums_(in.tiling->panels.size()) {}

  void run() {
    const Offset k_size = in_.n_cols * head_.width();
    const Offset v_size = in_.n_cols * head_.value_width();
    if (gradient_.first) {
      std::fill_n(scratch().dk, k_size, C{0});
      std::fill_n(scratch().dv, v_size, C{0});
    }
    head_.pack();
    if (in_.hops == 0) {
      load_gradient(scratch().g[0]);
      add(scratch().dv, scratch().g[0], C{1}, in_.n_rows);
      // lse may still be asked for: its gradient goes through the scores alone.
      if (!gradient_.g_lse.empty())
        finish(0, 0);
      else
        clear_q();
    } else if (gradient_.mode == HeadBackward::implicit) {
      implicit();
    } else {
      unrolled();
    }
    if (gradient_.last) write_key_gradients();
    if (gradient_.teleport != nullptr) {
      for (const double part : teleport_sums_) *gradient_.teleport -= part;
    }
  }

 private:
  HeadScratch<C>& scratch() { return head_.scratch_; }

  void ranges(Offset count, const std::function<void(Offset, Offset)>& body) {
    if (head_.resources.threads > 1) {
      parallel_ranges(count, kRowGrain, body);
    } else {
      body(0, count);
    }
  }

  void load_gradient(C* g) {
    const Offset padded = head_.value_width();
    ranges(in_.n_rows, [&](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i) {
        for (Offset f = 0; f < in_.d_value; ++f) {
          if constexpr (std::is_same_v<T, double>) {
            g[i * padded + f] = gradient_.g(i, f);
          } else {
            g[i * padded + f] = static_cast<C>(static_cast<float>(gradient_.g(i, f)));
          }
        }
        std::fill(g + i * padded + in_.d_value, g + (i + 1) * padded, C{0});
      }
    });
  }

  // to += factor * from, rows of V's width.
  void add(C* to, const C* from, C factor, Offset rows) {
    if (factor == 0) return;
    const Offset padded = head_.value_width();
    ranges(rows, [&](Offset begin, Offset end) {
      for (Offset i = begin * padded; i < end * padded; ++i) to[i] += factor * from[i];
    });
  }

  // <g, v> summed in fixed chunks.
  double dot_with_v(const C* g) {
    const Offset padded = head_.value_width();
    const Offset chunks = (in_.n_rows + kRowGrain - 1) / kRowGrain;
    std::vector<double> parts(at(chunks));
    const auto chunk_sum = [&](Offset chunk) {
      double sum = 0;
      for (Offset i = chunk * kRowGrain * padded; i < std::min(in_.n_rows, (chunk + 1) * kRowGrain) * padded;
           ++i) {
        sum += static_cast<double>(g[i]) * static_cast<double>(scratch().z[0][i]);
      }
      parts[at(chunk)] = sum;
    };
    if (head_.resources.threads > 1) {
      parallel_for(chunks, chunk_sum);
    } else {
      for (Offset chunk = 0; chunk < chunks; ++chunk) chunk_sum(chunk);
    }
    double total = 0;
    for (const double part : parts) total += part;
    return total;
  }

  // g_out = (1 - a) A^T g_in, all features of all columns.
  void pull_back(const C* g_in, C* g_out) {
    const Offset padded = head_.value_width();
    std::fill_n(g_out, std::max(in_.n_cols, in_.n_rows) * padded, C{0});
    scatter(
        padded, g_out, [&](const Panel& panel, PanelScratch<C>& s) { return stored_weights(panel, s); },
        [&](const Panel& panel, Offset from, Offset to, PanelScratch<C>& s) {
          head_.gather_rows(panel, g_in, padded, from, to, s.out);
          return s.out;
        });
    const C keep = static_cast<C>(1 - in_.teleport);
    if (keep != 1) {
      ranges(in_.n_cols, [&](Offset begin, Offset end) {
        for (Offset i = begin * padded; i < end * padded; ++i) g_out[i] *= keep;
      });
    }
  }

  const C* stored_weights(const Panel& panel, PanelScratch<C>& s) {
    if (head_.resources.stored) return scratch().values + panel.values;
    alignas(64) C lse[kPanelRows];
    const PanelView view{in_.tiling, &panel, s.cols};
    head_.panel_softmax(view, s, s.values, lse);
    head_.drop_edges(view, s.values);
    return s.values;
  }

  // out[col] += sum over panels of values[c, r] rows[r]; see the top of the file for the order.
  template <class Values, class Rows>
  void scatter(Offset padded, C* out, Values&& values_of, Rows&& rows_of) {
    if (!parallel_) {
      head_.for_panels(false, [&](const PanelView& view, PanelScratch<C>& s, Offset) {
        const C* values = values_of(*view.panel, s);
        spmm_transposed(view, values, rows_of(*view.panel, 0, padded, s), padded, 0, padded, out);
      });
      return;
    }
    const Offset slices = padded / kWidthStep;
    std::vector<PanelScratch<C>> scratches = head_.take_scratch();
    std::mutex mutex;
    parallel_for(slices, [&](Offset slice) {
      std::unique_lock lock(mutex);
      PanelScratch<C> s = scratches.back();
      scratches.pop_back();
      lock.unlock();
      for (const Panel& panel : in_.tiling->panels) {
        expand_columns(*in_.tiling, panel, s.cols);
        const Offset from = slice * kWidthStep;
        const C* rows = rows_of(panel, from, from + kWidthStep, s);
        spmm_transposed(PanelView{in_.tiling, &panel, s.cols}, values_of(panel, s), rows, padded, from,
                        from + kWidthStep, out);
      }
      lock.lock();
      scratches.push_back(s);
    });
    head_.give_scratch(std::move(scratches));
  }

  void unrolled() {
    const int hops = in_.hops;
    const Segments segments = Segments::of(hops, gradient_.mode, head_.resources.stored);
    auto& z = scratch().z;
    auto& g = scratch().g;
    // Forward up to Z_{K-1}; checkpoint j is Z_{(j + 1) * length}.
    bool first = true;
    const auto advance = [&](int t, const C* from, C* to) {
      head_.hop(t, std::exchange(first, false), from, to, nullptr);
    };
    const C* at_start = z[0];
    for (int j = 0; j + 1 < segments.count; ++j) {
      const C* from = at_start;
      for (int i = 0; i < segments.length; ++i) {
        const bool to_checkpoint = i + 1 == segments.length;
        C* to = to_checkpoint ? scratch().checkpoint[at(j)] : g[at(i)];  // g is free until the way back
        advance(j * segments.length + i, from, to);
        from = to;
      }
      at_start = from;
    }
    if (first && head_.resources.stored && hops == 1) head_.weights_only({});
    load_gradient(g[at(segments.length)]);
    const C teleport = static_cast<C>(in_.teleport);
    const C* g_last = nullptr;
    for (int j = segments.count - 1; j >= 0; --j) {
      const int begin = j * segments.length;
      const int end = std::min(hops, begin + segments.length);
      // z_[i] is Z_{begin + i}; Z_0 = V stays in z[0], so a later segment starts from its checkpoint.
      z_start_ = j == 0 ? z[0] : scratch().checkpoint[at(j - 1)];
      for (int t = begin; t + 1 < end; ++t) advance(t, z_at(t - begin), z[at(t - begin + 1)]);
      if (g_last != nullptr) std::copy_n(g_last, in_.n_rows * head_.value_width(), g[at(segments.length)]);
      // g_[i + 1] is G_{begin + i + 1} after the mask of its hop; it walks down from the buffer of the
      // segment's end.
      if (end - begin < segments.length) std::swap(g[at(end - begin)], g[at(segments.length)]);
      for (int t = end - 1; t >= begin; --t) {
        C* g_next = g[at(t - begin + 1)];
        mask(t, g_next);
        if (teleport != 0) add(scratch().dv, g_next, teleport, in_.n_rows);
        if (gradient_.teleport != nullptr) *gradient_.teleport += dot_with_v(g_next);
        pull_back(g_next, g[at(t - begin)]);
      }
      g_last = g[0];
      if (segments.count > 1)
        accumulate(end - begin, j == segments.count - 1);
      else
        single_ = end - begin;
    }
    add(scratch().dv, g_last, C{1}, in_.n_cols);
    finish(single_, segments.count);
  }

  const C* z_at(int i) { return i == 0 ? z_start_ : scratch().z[at(i)]; }

  void mask(int t, C* g) {
    if (!in_.hop_dropout.active()) return;
    const Offset padded = head_.value_width();
    ranges(in_.n_rows, [&](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i) head_.drop_hop(t, static_cast<Index>(i), g + i * padded);
    });
  }

  // d_values (+)= sum_i <G_{i+1, r}, Z_{i, c}> of one panel for the segment's hops.
  void panel_gradient(const PanelView& view, PanelScratch<C>& s, int hops, bool fresh, C* d_values) {
    const Offset padded = head_.value_width();
    for (int i = 0; i < hops; ++i) {
      head_.gather_rows(*view.panel, scratch().g[at(i + 1)], padded, 0, padded, s.rows);
      Head<T>::transpose_rows(s.rows, padded, s.rows_t);
      sddmm(view, s.rows, s.rows_t, z_at(i), padded, d_values, !fresh || i > 0);
    }
  }

  void accumulate(int hops, bool fresh) {
    head_.for_panels(true, [&](const PanelView& view, PanelScratch<C>& s, Offset) {
      panel_gradient(view, s, hops, fresh, scratch().d_values + view.panel->values);
    });
  }

  // From dA to dq, dk, dbias. `hops` of the one segment are still to be summed; with several they lie in
  // d_values.
  void finish(int hops, int segments) {
    const bool keep_all = parallel_;
    const Offset padded = head_.width();
    head_.for_panels(keep_all, [&](const PanelView& view, PanelScratch<C>& s, Offset p) {
      const Panel& panel = *view.panel;
      const Offset count = in_.tiling->panel_values(panel);
      C* d_values = scratch().d_values != nullptr ? scratch().d_values + panel.values : s.d_values;
      if (segments <= 1) {
        if (hops == 0) std::fill_n(d_values, count, C{0});
        panel_gradient(view, s, hops, true, d_values);
      }
      alignas(64) C lse[kPanelRows];
      C* weights = s.values;
      head_.panel_softmax(view, s, weights, lse);  // leaves the scaled q rows in s.rows
      finish_panel(view, s, p, weights, d_values);
      if (!keep_all && !gradient_.k.empty()) {
        spmm_transposed(view, d_values, s.rows, padded, 0, padded, scratch().dk);
      }
    });
    if (keep_all && !gradient_.k.empty()) {
      scatter(
          padded, scratch().dk,
          [&](const Panel& panel, PanelScratch<C>&) -> const C* { return scratch().d_values + panel.values; },
          [&](const Panel& panel, Offset from, Offset to, PanelScratch<C>& s) {
            head_.load_queries(panel, from, to, s.out);
            return s.out;
          });
    }
  }

  void finish_panel(const PanelView& view, PanelScratch<C>& s, Offset p, C* weights, C* d_values) {
    const Panel& panel = *view.panel;
    const Offset count = in_.tiling->panel_values(panel);
    const C keep = static_cast<C>(1 - in_.teleport);
    if (in_.edge_dropout.active()) head_.drop_edges(view, d_values);  // dA = dA~ M / (1 - p)
    double through = 0;
    for (Offset i = 0; i < count; ++i) {
      through += static_cast<double>(weights[i]) * static_cast<double>(d_values[i]);
      d_values[i] *= keep;
    }
    teleport_sums_[at(p)] = through;
    alignas(64) C d_lse[kPanelRows] = {};
    if (!gradient_.g_lse.empty()) {
      for (int r = 0; r < panel.count; ++r) {
        d_lse[r] = static_cast<C>(gradient_.g_lse(in_.tiling->rows[at(panel.first + r)]));
      }
    }
    softmax_backward(view, weights, d_values, d_lse);
    if (gradient_.bias != nullptr) {
      for (int r = 0; r < panel.count; ++r) {
        for_each_panel_edge(*in_.graph, *in_.tiling, panel, r, [&](Offset edge, Offset value) {
          gradient_.bias[edge] += static_cast<float>(d_values[value]);
        });
      }
    }
    if (gradient_.q.empty()) return;
    const Offset padded = head_.width();
    spmm(view, d_values, scratch().k, padded, s.out, head_.careful);
    const C scale = static_cast<C>(in_.scale);
    for (int r = 0; r < panel.count; ++r) {
      C* row = s.out + r * padded;
      for (Offset f = 0; f < padded; ++f) row[f] *= scale;
      write_row<T>(row, in_.d, gradient_.q, in_.tiling->rows[at(panel.first + r)]);
    }
  }

  void clear_q() {
    if (gradient_.q.empty()) return;
    const std::vector<C> zero(at(in_.d));
    for (Offset i = 0; i < in_.n_rows; ++i) write_row<T>(zero.data(), in_.d, gradient_.q, i);
  }

  // Largest change between two blocks of n rows, and largest entry of the first.
  std::pair<C, C> change(const C* a, const C* b) {
    C difference = 0;
    C size = 0;
    for (Offset i = 0; i < in_.n_rows * head_.value_width(); ++i) {
      difference = std::max(difference, std::abs(a[i] - b[i]));
      size = std::max(size, std::abs(a[i]));
    }
    return {difference, size};
  }

  // Z* = (1 - a) A Z* + a V and W = G + (1 - a) A^T W by iteration until nothing moves but the last bits.
  void implicit() {
    constexpr int kMostHops = 100000;
    const C tol = 4 * std::numeric_limits<C>::epsilon();
    auto& z = scratch().z;
    auto& g = scratch().g;
    C* now = z[1];
    C* next = z[2];
    std::copy_n(z[0], in_.n_rows * head_.value_width(), now);
    for (int t = 0; t < kMostHops; ++t) {
      head_.hop(0, t == 0, now, next, nullptr);
      std::swap(now, next);
      const auto [difference, size] = change(now, next);
      if (difference <= tol * size) break;
    }
    load_gradient(g[0]);
    std::copy_n(g[0], in_.n_rows * head_.value_width(), g[1]);
    for (int t = 0; t < kMostHops; ++t) {
      pull_back(g[1], g[2]);
      add(g[2], g[0], C{1}, in_.n_rows);
      std::swap(g[1], g[2]);
      const auto [difference, size] = change(g[1], g[2]);
      if (difference <= tol * size) break;
    }
    add(scratch().dv, g[1], static_cast<C>(in_.teleport), in_.n_rows);
    if (gradient_.teleport != nullptr) *gradient_.teleport += dot_with_v(g[1]);
    z_start_ = now;
    finish(1, 1);
  }

  void write_key_gradients() {
    const auto write = [&](TensorView<T> to, const C* from, Offset d) {
      if (to.empty()) return;
      const Offset padded = padded_width(d);
      for (Offset i = 0; i < in_.n_cols; ++i) write_row<T>(from + i * padded, d, to, i);
    };
    write(gradient_.k, scratch().dk, in_.d);
    write(gradient_.v, scratch().dv, in_.d_value);
  }

  const HeadInput<T>& in_;
  const HeadGradient<T>& gradient_;
  Head<T> head_;
  bool parallel_;
  std::vector<double> teleport_sums_;  // by panel: sum of A dA / (1 - a)
  const C* z_start_ = nullptr;
  int single_ = 0;
};

}  // namespace

template <class T>
void attention_head_backward(const HeadInput<T>& in, const HeadGradient<T>& gradient,
                             const HeadResources& resources) {
  Backward<T>(in, gradient, resources).run();
}

template void attention_head_backward<float>(const HeadInput<float>&, const HeadGradient<float>&,
                                             const HeadResources&);
template void attention_head_backward<double>(const HeadInput<double>&, const HeadGradient<double>&,
                                              const HeadResources&);
template void attention_head_backward<bf16>(const HeadInput<bf16>&, const HeadGradient<bf16>&,
                                            const HeadResources&);

}  // namespace manyhop::ops::cpu

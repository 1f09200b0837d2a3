// The backward pass of a head (FACTS: G_t = (1 - a) A^T G_{t+1}, dA_ij = (1 - a) sum_t <G_{t+1,i}, Z_{t,j}>).
//
// A row panel scatters into columns, which two panels may share. Heads therefore scatter serially, or, when
// one head has all threads, in parallel over slices of features: each element still sees the panels in the
// same order, so the bits do not depend on the threads and no transposed structure is needed.
#include <algorithm>
#include <atomic>
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
    if (gradient_.first) {
      std::fill_n(scratch().dk, in_.n_cols * head_.width(), C{0});
      std::fill_n(scratch().dv, z_size(), C{0});
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
  Offset z_size() const { return std::max(in_.n_cols, in_.n_rows) * head_.value_width(); }

  // body(first element, end) of rows [begin, end) in each block of a Z.
  template <class F>
  void blocks(Offset begin, Offset end, F&& body) const {
    const Rows<const C> shape = head_.features(static_cast<const C*>(nullptr));
    for (Offset block = 0; block < shape.width; block += shape.kBlock) {
      const Offset first = block * shape.count;
      body(first + begin * shape.stride(block), first + end * shape.stride(block));
    }
  }

  void ranges(Offset count, const std::function<void(Offset, Offset)>& body) {
    if (head_.resources.threads > 1) {
      parallel_ranges(count, kRowGrain, body);
    } else {
      body(0, count);
    }
  }

  void load_gradient(C* g) {
    const Rows<C> to = head_.features(g);
    std::atomic<bool> finite{true};
    ranges(in_.n_rows, [&](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i) {
        for (Offset block = 0; block < to.width; block += to.kBlock) {
          C* row = to.row(block, i);
          read_row(gradient_.g, in_.token(i), in_.d_value, C{1}, block, block + to.stride(block), row);
          if (!all_finite(row, to.stride(block))) finite = false;
        }
      }
    });
    careful_ = !finite;
  }

  // to += factor * from for the first rows.
  void add(C* to, const C* from, C factor, Offset rows) {
    if (factor == 0) return;
    ranges(rows, [&](Offset begin, Offset end) {
      blocks(begin, end, [&](Offset first, Offset last) {
        for (Offset i = first; i < last; ++i) to[i] += factor * from[i];
      });
    });
  }

  void copy(const C* from, C* to) {
    blocks(0, in_.n_rows,
           [&](Offset first, Offset last) { std::copy(from + first, from + last, to + first); });
  }

  // <g, v> summed in fixed chunks.
  double dot_with_v(const C* g) {
    const Offset chunks = (in_.n_rows + kRowGrain - 1) / kRowGrain;
    std::vector<double> parts(at(chunks));
    const auto chunk_sum = [&](Offset chunk) {
      double sum = 0;
      blocks(chunk * kRowGrain, std::min(in_.n_rows, (chunk + 1) * kRowGrain),
             [&](Offset first, Offset last) {
               for (Offset i = first; i < last; ++i)
                 sum += static_cast<double>(g[i]) * static_cast<double>(scratch().z[0][i]);
             });
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
    std::fill_n(g_out, z_size(), C{0});
    scatter(
        head_.features(g_out), careful_,
        [&](const PanelView& view, PanelScratch<C>& s) { return stored_weights(view, s); },
        [&](const PanelView& view, Offset from, Offset to, PanelScratch<C>& s) {
          Head<T>::gather_rows(view, head_.features(g_in), from, to, s.out);
          return s.out;
        });
    const C keep = static_cast<C>(1 - in_.teleport);
    if (keep != 1) {
      ranges(in_.n_cols, [&](Offset begin, Offset end) {
        blocks(begin, end, [&](Offset first, Offset last) {
          for (Offset i = first; i < last; ++i) g_out[i] *= keep;
        });
      });
    }
  }

  const C* stored_weights(const PanelView& view, PanelScratch<C>& s) {
    if (head_.resources.stored) return scratch().values + view.panel->values;
    head_.make_weights(view, s, s.values, nullptr);
    return s.values;
  }

  // out[col] += sum over panels of values[c, r] rows[r]; see the top of the file for the order.
  template <class Values, class RowsOf>
  void scatter(Rows<C> out, bool careful, Values&& values_of, RowsOf&& rows_of) {
    if (!parallel_) {
      head_.for_panels(false, [&](const PanelView& view, PanelScratch<C>& s, Offset) {
        const C* values = values_of(view, s);
        spmm_transposed<C>(view, values, rows_of(view, 0, out.width, s), 0, out.width, out, careful);
      });
      return;
    }
    parallel_for(out.width / kWidthStep, [&](Offset slice) {
      head_.with_scratch([&](PanelScratch<C>& s) {
        for (const Panel& panel : in_.tiling->panels) {
          expand_columns(*in_.tiling, panel, s.cols);
          const PanelView view{in_.tiling, &panel, s.cols};
          const Offset from = slice * kWidthStep;
          const C* rows = rows_of(view, from, from + kWidthStep, s);
          spmm_transposed<C>(view, values_of(view, s), rows, from, from + kWidthStep, out, careful);
        }
      });
    });
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
      if (g_last != nullptr) copy(g_last, g[at(segments.length)]);
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
    const Rows<C> rows = head_.features(g);
    ranges(in_.n_rows, [&](Offset begin, Offset end) {
      std::vector<C> row(at(rows.width));
      for (Offset i = begin; i < end; ++i) {
        copy_row<C>(rows, i, row.data());
        head_.drop_hop(t, in_.token(i), row.data());
        copy_row<C>(row.data(), rows, i);
      }
    });
  }

  // d_values (+)= sum_i <G_{i+1, r}, Z_{i, c}> of one panel for the segment's hops.
  void panel_gradient(const PanelView& view, PanelScratch<C>& s, int hops, bool fresh, C* d_values) {
    const Offset padded = head_.value_width();
    for (int i = 0; i < hops; ++i) {
      const C* g = scratch().g[at(i + 1)];
      Head<T>::gather_rows(view, head_.features(g), 0, padded, s.rows);
      Head<T>::transpose_rows(s.rows, padded, s.rows_t);
      const Rows<const C> x = head_.features(z_at(i));
      const bool more = !fresh || i > 0;
      sddmm_dense<C>(view, s.rows_t, x, d_values, more);
      for (Offset block = 0; block < x.width; block += x.kBlock)
        sddmm_rest<C>(view, s.rows, x, block, d_values, more || block > 0);
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
    const Rows<C> dk = head_.keys(scratch().dk);
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
        spmm_transposed<C>(view, d_values, s.rows, 0, dk.width, dk, false);
      }
    });
    if (keep_all && !gradient_.k.empty()) {
      scatter(
          dk, false,
          [&](const PanelView& view, PanelScratch<C>&) -> const C* {
            return scratch().d_values + view.panel->values;
          },
          [&](const PanelView& view, Offset from, Offset to, PanelScratch<C>& s) {
            head_.load_queries(view, from, to, s.out);
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
        d_lse[r] = static_cast<C>(gradient_.g_lse(in_.token(in_.tiling->rows[at(panel.first + r)])));
      }
    }
    softmax_backward(view, weights, d_values, d_lse);
    if (gradient_.bias != nullptr) {
      for (int r = 0; r < panel.count; ++r) {
        for_each_panel_edge(*in_.graph, *in_.tiling, panel, r, [&](Offset edge, Offset value) {
          gradient_.bias[in_.edge(edge)] += static_cast<float>(d_values[value]);
        });
      }
    }
    if (gradient_.q.empty()) return;
    const Rows<const C> keys = head_.keys(scratch().k);
    const Rows<C> rest{s.rows_t, kPanelRows, keys.width};
    for (Offset block = 0; block < keys.width; block += keys.kBlock) {
      C* targets[kPanelRows];
      for (int r = 0; r < panel.count; ++r) targets[r] = rest.row(block, r);
      spmm_rest<C>(view, d_values, keys, block, targets);
    }
    spmm_dense<C>(view, d_values, keys, s.out, head_.careful_keys);
    cpu::finish<C>(view, {.keep = static_cast<C>(in_.scale),
                          .z = s.out,
                          .rest = rest,
                          .local_rest = true,
                          .to = rest,
                          .local_to = true});
    for (int r = 0; r < panel.count; ++r) {
      copy_row<C>(rest, r, s.out);
      write_row<T>(s.out, in_.d, gradient_.q, in_.token(view.row(r)));
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
    blocks(0, in_.n_rows, [&](Offset first, Offset last) {
      for (Offset i = first; i < last; ++i) {
        difference = std::max(difference, std::abs(a[i] - b[i]));
        size = std::max(size, std::abs(a[i]));
      }
    });
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
    copy(z[0], now);
    for (int t = 0; t < kMostHops; ++t) {
      head_.hop(0, t == 0, now, next, nullptr);
      std::swap(now, next);
      const auto [difference, size] = change(now, next);
      if (difference <= tol * size) break;
    }
    load_gradient(g[0]);
    copy(g[0], g[1]);
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
    const auto write = [&](TensorView<T> to, Rows<const C> from, Offset d) {
      if (to.empty()) return;
      std::vector<C> row(at(from.width));
      for (Offset i = 0; i < in_.n_cols; ++i) {
        copy_row<C>(from, i, row.data());
        write_row<T>(row.data(), d, to, in_.token(i));
      }
    };
    write(gradient_.k, head_.keys(scratch().dk), in_.d);
    write(gradient_.v, head_.features(scratch().dv), in_.d_value);
  }

  const HeadInput<T>& in_;
  const HeadGradient<T>& gradient_;
  Head<T> head_;
  bool parallel_;
  bool careful_ = false;               // g holds a NaN or an infinity
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

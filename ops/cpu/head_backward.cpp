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
constexpr Offset kStep = 16;  // features of a slice: widths are multiples of it
std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

// Eight sums, for one is a chain of additions that each wait for the last.
template <class C>
double dot_in_double(const C* a, const C* b, Offset count) {
  double parts[8] = {};
  Offset i = 0;
  for (; i + 8 <= count; i += 8) {
    for (Offset x = 0; x < 8; ++x) parts[x] += static_cast<double>(a[i + x]) * static_cast<double>(b[i + x]);
  }
  for (; i < count; ++i) parts[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
}

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
  HeadScratch<C, C>& scratch() { return head_.scratch_; }
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
               sum += dot_in_double(g + first, scratch().z[0] + first, last - first);
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
    const Rows<C> out = head_.features(g_out);
    const Rows<const C> g = head_.features(g_in);
    // Single edges first, of all panels, one block of features after the other: the block stays in L2.
    const bool by_column = in_.by_column != nullptr && scratch().by_column != nullptr;
    if (!by_column) std::fill_n(g_out, z_size(), C{0});
    if (by_column) {
      arrange_by_column();
      for (Offset block = 0; block < out.width; block += out.kBlock) {
        check_stop();
        ranges(in_.n_cols, [&](Offset begin, Offset end) {
          gather_columns<C>(*in_.by_column, scratch().by_column, g, block, begin, end, out);
        });
      }
    } else if (in_.tiling->irregular_edges > 0) {
      const auto rest = [&](const PanelView& view, PanelScratch<C>& s, Offset from, Offset to) {
        const C* rows[kPanelRows];
        const Offset block = from / g.kBlock * g.kBlock;
        for (int r = 0; r < view.panel->count; ++r) rows[r] = g.row(block, view.row(r)) + (from - block);
        scatter_rest<C>(view, stored_weights(view, s), rows, from, to, out);
      };
      const Offset step = parallel_ ? kStep : g.kBlock;
      const auto pass = [&](Offset from, PanelScratch<C>& s) {
        const Offset to = std::min(from + step, out.width);
        for (const Panel& panel : in_.tiling->panels) {
          if (!head_.resources.stored) expand_columns(*in_.tiling, panel, s.cols);
          rest(PanelView{in_.tiling, &panel, s.cols}, s, from, to);
        }
      };
      const Offset passes = (out.width + step - 1) / step;
      if (parallel_) {
        parallel_for(passes,
                     [&](Offset i) { head_.with_scratch([&](PanelScratch<C>& s) { pass(i * step, s); }); });
      } else {
        for (Offset i = 0; i < passes; ++i) {
          check_stop();
          head_.with_scratch([&](PanelScratch<C>& s) { pass(i * step, s); });
        }
      }
    }
    scatter(
        out, careful_, false,
        [&](const PanelView& view, PanelScratch<C>& s) { return stored_weights(view, s); },
        [&](const PanelView& view, Offset from, Offset to, PanelScratch<C>& s) {
          Head<T>::gather_rows(view, g, from, to, s.out);
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

  // A of the single edges column by column, once.
  void arrange_by_column() {
    if (std::exchange(arranged_, true)) return;
    for (const Panel& panel : in_.tiling->panels) {
      const Offset first = in_.tiling->rest_indptr[at(panel.first)];
      const Offset last = in_.tiling->rest_indptr[at(panel.first + panel.count)];
      const C* values = scratch().values + panel.values + panel.dense_cols * kPanelRows;
      for (Offset e = first; e < last; ++e)
        scratch().by_column[in_.by_column->slots[at(e)]] = values[e - first];
    }
  }

  const C* stored_weights(const PanelView& view, PanelScratch<C>& s) {
    if (head_.resources.stored) return scratch().values + view.panel->values;
    head_.make_weights(view, s, s.values, nullptr);
    return s.values;
  }

  // out[col] += sum over panels of values[c, r] rows[r] over dense columns and, `with_rest`, single edges;
  // see the top of the file for the order.
  template <class Values, class RowsOf>
  void scatter(Rows<C> out, bool careful, bool with_rest, Values&& values_of, RowsOf&& rows_of) {
    const auto one = [&](const PanelView& view, PanelScratch<C>& s, Offset from, Offset to) {
      const C* values = values_of(view, s);
      const C* rows = rows_of(view, from, to, s);
      if (with_rest) scatter_panel_rest(view, values, rows, from, to, out);
      scatter_dense<C>(view, values, rows, from, to, out, careful);
    };
    if (!parallel_) {
      head_.for_panels(
          false, [&](const PanelView& view, PanelScratch<C>& s, Offset) { one(view, s, 0, out.width); });
      return;
    }
    parallel_for(out.width / kStep, [&](Offset slice) {
      head_.with_scratch([&](PanelScratch<C>& s) {
        for (const Panel& panel : in_.tiling->panels) {
          expand_columns(*in_.tiling, panel, s.cols);
          one(PanelView{in_.tiling, &panel, s.cols}, s, slice * kStep, (slice + 1) * kStep);
        }
      });
    });
  }

  void scatter_panel_rest(const PanelView& view, const C* values, const C* rows, Offset from, Offset to,
                          Rows<C> out) {
    if (in_.tiling->irregular_edges == 0) return;
    const C* starts[kPanelRows];
    for (int r = 0; r < view.panel->count; ++r) starts[r] = rows + r * out.width + from;
    scatter_rest<C>(view, values, starts, from, to, out);
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
    const bool kept = head_.resources.kept != nullptr;
    if (kept && segments.count == 1) first = false;  // A is there, and all of Z
    const C* at_start = z[0];
    for (int j = 0; j + 1 < segments.count && !kept; ++j) {
      const C* from = at_start;
      for (int i = 0; i < segments.length; ++i) {
        const bool to_checkpoint = i + 1 == segments.length;
        C* to = to_checkpoint ? scratch().checkpoint[at(j)] : g[at(i)];  // g is free until the way back
        advance(j * segments.length + i, from, to);
        from = to;
      }
      at_start = from;
    }
    weights_made_ = head_.resources.stored;
    load_gradient(g[at(segments.length)]);
    const C teleport = static_cast<C>(in_.teleport);
    const C* g_last = nullptr;
    for (int j = segments.count - 1; j >= 0; --j) {
      const int begin = j * segments.length;
      const int end = std::min(hops, begin + segments.length);
      // z_[i] is Z_{begin + i}; Z_0 = V stays in z[0], so a later segment starts from its checkpoint.
      z_start_ = j == 0 ? z[0] : scratch().checkpoint[at(j - 1)];
      for (int t = begin; t + 1 < end && !(kept && segments.count == 1); ++t)
        advance(t, z_at(t - begin), z[at(t - begin + 1)]);
      if (std::exchange(first, false) && head_.resources.stored) head_.weights_only({});
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
        copy_row<C, C>(rows, i, row.data());
        head_.drop_hop(t, in_.token(i), row.data());
        copy_row<C, C>(row.data(), rows, i);
      }
    });
  }

  // d_values (+)= sum_i <G_{i+1, r}, Z_{i, c}> for the segment's hops: of single edges in passes over all
  // panels, a block of features at a time, where the whole of d_values is there.
  void rest_gradient(int hops, bool fresh) {
    if (in_.tiling->irregular_edges == 0) return;
    head_.for_strips([&](PanelScratch<C>& s, Offset begin, Offset end) {
      for (int i = 0; i < hops; ++i) {
        const Rows<const C> x = head_.features(z_at(i));
        for (Offset block = 0; block < x.width; block += x.kBlock) {
          check_stop();
          for (Offset p = begin; p < end; ++p) {
            const PanelView view{in_.tiling, &in_.tiling->panels[at(p)], s.cols};
            rest_scores(view, i, block, !fresh || i > 0 || block > 0,
                        scratch().d_values + view.panel->values);
          }
        }
      }
    });
  }
  void rest_scores(const PanelView& view, int i, Offset block, bool accumulate, C* d_values) {
    const Rows<const C> g = head_.features(static_cast<const C*>(scratch().g[at(i + 1)]));
    const C* rows[kPanelRows];
    for (int r = 0; r < view.panel->count; ++r) rows[r] = g.row(block, view.row(r));
    sddmm_rest<C>(view, rows, head_.features(z_at(i)), block, d_values, accumulate);
  }
  // Of dense columns, and with `rest` of single edges, in one panel.
  void panel_gradient(const PanelView& view, PanelScratch<C>& s, int hops, bool fresh, bool rest,
                      C* d_values) {
    const Offset padded = head_.value_width();
    for (int i = 0; i < hops; ++i) {
      const Rows<const C> g = head_.features(static_cast<const C*>(scratch().g[at(i + 1)]));
      Head<T>::gather_rows(view, g, 0, padded, s.rows);
      Head<T>::transpose_rows(s.rows, padded, s.rows_t);
      const Rows<const C> x = head_.features(z_at(i));
      const bool more = !fresh || i > 0;
      sddmm_dense<C>(view, s.rows_t, x, d_values, more);
      if (!rest) continue;
      for (Offset block = 0; block < x.width; block += x.kBlock)
        rest_scores(view, i, block, more || block > 0, d_values);
    }
  }

  void accumulate(int hops, bool fresh) {
    rest_gradient(hops, fresh);
    head_.for_panels(true, [&](const PanelView& view, PanelScratch<C>& s, Offset) {
      panel_gradient(view, s, hops, fresh, false, scratch().d_values + view.panel->values);
    });
  }

  // From dA to dq, dk, dbias. `hops` of the one segment are still to be summed; with several they lie in
  // d_values.
  void finish(int hops, int segments) {
    const bool keep_all = parallel_;
    const bool whole = scratch().d_values != nullptr;
    const Rows<C> dk = head_.keys(scratch().dk);
    if (segments <= 1 && whole) rest_gradient(hops, true);
    head_.for_panels(keep_all, [&](const PanelView& view, PanelScratch<C>& s, Offset p) {
      const Panel& panel = *view.panel;
      C* d_values = whole ? scratch().d_values + panel.values : s.d_values;
      if (segments <= 1) {
        if (hops == 0) std::fill_n(d_values, in_.tiling->panel_values(panel), C{0});
        panel_gradient(view, s, hops, true, !whole, d_values);
      }
      const C* weights = s.values;
      if (weights_made_ && !in_.edge_dropout.active()) {  // what is kept is the softmax itself
        weights = scratch().values + panel.values;
        head_.load_queries(view, 0, dk.width, s.rows);
      } else {
        alignas(64) C lse[kPanelRows];
        head_.panel_softmax(view, s, s.values, lse);  // leaves the scaled q rows in s.rows
      }
      finish_panel(view, s, p, weights, d_values);
      if (!keep_all && !gradient_.k.empty()) {
        scatter_panel_rest(view, d_values, s.rows, 0, dk.width, dk);
        scatter_dense<C>(view, d_values, s.rows, 0, dk.width, dk, false);
      }
    });
    if (keep_all && !gradient_.k.empty()) {
      scatter(
          dk, false, true,
          [&](const PanelView& view, PanelScratch<C>&) -> const C* {
            return scratch().d_values + view.panel->values;
          },
          [&](const PanelView& view, Offset from, Offset to, PanelScratch<C>& s) {
            head_.load_queries(view, from, to, s.out);
            return s.out;
          });
    }
  }

  void finish_panel(const PanelView& view, PanelScratch<C>& s, Offset p, const C* weights, C* d_values) {
    const Panel& panel = *view.panel;
    const Offset count = in_.tiling->panel_values(panel);
    const C keep = static_cast<C>(1 - in_.teleport);
    if (in_.edge_dropout.active()) head_.drop_edges(view, d_values);  // dA = dA~ M / (1 - p)
    teleport_sums_[at(p)] = dot_in_double(weights, static_cast<const C*>(d_values), count);
    for (Offset i = 0; i < count; ++i) d_values[i] *= keep;
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
          gradient_.bias[in_.edge(edge)] += d_values[value];
        });
      }
    }
    if (gradient_.q.empty()) return;
    const Rows<const C> keys = head_.keys(scratch().k);
    const Rows<C> rest{s.rows_t, kPanelRows, keys.width};
    for (Offset block = 0; block < keys.width; block += keys.kBlock) {
      C* targets[kPanelRows];
      for (int r = 0; r < panel.count; ++r) targets[r] = rest.row(block, r);
      spmm_rest<C, C>(view, d_values, keys, block, targets);
    }
    spmm_dense<C, C>(view, d_values, keys, s.out, head_.careful_keys);
    cpu::finish<C, C>(view, {.keep = static_cast<C>(in_.scale),
                             .z = s.out,
                             .rest = rest,
                             .local_rest = true,
                             .to = rest,
                             .local_to = true});
    for (int r = 0; r < panel.count; ++r) {
      copy_row<C, C>(rest, r, s.out);
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
    weights_made_ = head_.resources.stored;
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
        copy_row<C, C>(from, i, row.data());
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
  bool arranged_ = false;
  bool weights_made_ = false;  // A lies in the head's memory
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

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
#include "manyhop/ops/cpu/head_backward.hpp"

namespace manyhop::ops::cpu {

namespace {

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

}  // namespace

template <class T>
void Backward<T>::run() {
  if (gradient_.first) {
    clear_keys();
    std::fill_n(scratch().dv, z_size(), C{0});
  } else if (gradient_.own_order) {
    reorder_sums(false);
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
  if (gradient_.last) {
    write_key_gradients();
  } else if (gradient_.own_order) {
    reorder_sums(true);
  }
  if (gradient_.teleport != nullptr) {
    for (const double part : teleport_sums_) *gradient_.teleport -= part;
  }
}

template <class T>
void Backward<T>::clear_keys() {
  std::fill_n(scratch().dk, in_.n_cols * head_.width(), C{0});
}

// Between heads the sums lie by tokens. K and Z_0 are not in use then.
template <class T>
void Backward<T>::reorder_sums(bool by_token) {
  if (in_.order == nullptr) return;
  const auto move = [&](Rows<C> sums, C* spare) {
    std::copy_n(sums.data, in_.n_cols * sums.width, spare);
    const Rows<const C> from{spare, sums.count, sums.width};
    ranges(in_.n_cols, [&](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i) {
        for (Offset block = 0; block < sums.width; block += sums.kBlock) {
          const Offset token = in_.token(i);
          const C* row = from.row(block, by_token ? i : token);
          std::copy_n(row, sums.stride(block), sums.row(block, by_token ? token : i));
        }
      }
    });
  };
  move(head_.keys(scratch().dk), scratch().k);
  move(head_.features(scratch().dv), scratch().z[0]);
}

template <class T>
void Backward<T>::load_gradient(C* g) {
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

template <class T>
void Backward<T>::add(C* to, const C* from, C factor, Offset rows) {
  if (factor == 0) return;
  ranges(rows, [&](Offset begin, Offset end) {
    blocks(begin, end, [&](Offset first, Offset last) {
      for (Offset i = first; i < last; ++i) to[i] += factor * from[i];
    });
  });
}

template <class T>
void Backward<T>::copy(const C* from, C* to) {
  blocks(0, in_.n_rows, [&](Offset first, Offset last) { std::copy(from + first, from + last, to + first); });
}

template <class T>
double Backward<T>::dot_with_v(const C* g) {
  const Offset chunks = (in_.n_rows + kRowGrain - 1) / kRowGrain;
  std::vector<double> parts(at(chunks));
  const auto chunk_sum = [&](Offset chunk) {
    double sum = 0;
    blocks(chunk * kRowGrain, std::min(in_.n_rows, (chunk + 1) * kRowGrain), [&](Offset first, Offset last) {
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

template <class T>
void Backward<T>::pull_back(const C* g_in, C* g_out, const C* z, bool fresh) {
  const Rows<C> out = head_.features(g_out);
  const Rows<const C> g = head_.features(g_in);
  // Single edges first, of all panels, one block of features after the other: the block stays in L2.
  if (!by_column()) std::fill_n(g_out, z_size(), C{0});
  if (by_column()) {
    arrange_by_column();
    for (Offset block = 0; block < out.width; block += out.kBlock) {
      check_stop();
      ranges(in_.n_cols, [&](Offset begin, Offset end) {
        if (z == nullptr) {
          gather_columns<C>(*in_.by_column, scratch().by_column, g, block, begin, end, out);
        } else {
          pull_columns<C>(*in_.by_column, scratch().by_column, g, head_.features(z), block, begin, end, out,
                          scratch().d_column, !fresh || block > 0);
        }
      });
    }
  } else if (in_.tiling->irregular_edges > 0) {
    const auto rest = [&](const PanelView& view, PanelScratch<C>& s, Offset from, Offset to) {
      const C* rows[kPanelRows];
      const Offset block = from / g.kBlock * g.kBlock;
      for (int r = 0; r < view.panel->count; ++r) rows[r] = g.row(block, view.row(r)) + (from - block);
      scatter_rest<C>(view, stored_weights(view, s), rows, from, to, out);
    };
    const Offset step = parallel_ ? step_ : g.kBlock;
    const auto pass = [&](Offset from, PanelScratch<C>& s) {
      const Offset to = std::min(from + step, out.width);
      for (const Panel& panel : in_.tiling->panels) {
        rest(head_.resources.stored ? s.view(*in_.tiling, panel) : s.expand(*in_.tiling, panel), s, from, to);
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
  for_slices(out.width, [&](const PanelView& view, PanelScratch<C>& s, Offset from, Offset to) {
    Head<T>::gather_rows(view, g, from, to, s.out);
    scatter_columns(view, stored_weights(view, s), s.out, from, to, out, careful_, s);
  });
  const C keep = static_cast<C>(1 - in_.teleport);
  std::atomic<bool> finite{true};
  ranges(in_.n_cols, [&](Offset begin, Offset end) {
    blocks(begin, end, [&](Offset first, Offset last) {
      for (Offset i = first; i < last && keep != 1; ++i) g_out[i] *= keep;
      if (!all_finite(g_out + first, last - first)) finite = false;
    });
  });
  careful_ = careful_ || !finite;
}

template <class T>
void Backward<T>::arrange_by_column() {
  if (std::exchange(arranged_, true)) return;
  for (const Panel& panel : in_.tiling->panels) {
    const C* rest = scratch().values + panel.values + panel.dense_cols * kPanelRows;
    for_slots(panel, [&](Offset i, Offset slot) { scratch().by_column[slot] = rest[i]; });
  }
}

template <class T>
void Backward<T>::gradients_by_row() {
  head_.for_strips([&](PanelScratch<C>&, Offset begin, Offset end) {
    for (Offset p = begin; p < end; ++p) {
      const Panel& panel = in_.tiling->panels[at(p)];
      C* rest = rest_of(panel);
      for_slots(panel, [&](Offset i, Offset slot) { rest[i] = scratch().d_column[slot]; });
    }
  });
  if (scratch().d_column == scratch().dk) clear_keys();
}

template <class T>
auto Backward<T>::stored_weights(const PanelView& view, PanelScratch<C>& s) -> const C* {
  if (head_.resources.stored) return scratch().values + view.panel->values;
  head_.make_weights(view, s, s.values, nullptr);
  return s.values;
}

template <class T>
void Backward<T>::unrolled() {
  const int hops = in_.hops;
  const Segments segments = Segments::of(head_.resources.shape, head_.resources.stored);
  auto& z = scratch().z;
  auto& g = scratch().g;
  // Forward up to Z_{K-1}; checkpoint j is Z_{(j + 1) * length}.
  bool first = true;
  const auto advance = [&](int t, const C* from, C* to) {
    head_.hop(t, std::exchange(first, false), from, to, nullptr);
  };
  const bool kept = head_.resources.kept != nullptr;
  if (kept) first = false;  // A is there, and all of Z
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
  weights_made_ = head_.resources.stored;
  load_gradient(g[at(segments.length)]);
  const C teleport = static_cast<C>(in_.teleport);
  const C* g_last = nullptr;
  for (int j = segments.count - 1; j >= 0; --j) {
    const int begin = j * segments.length;
    const int end = std::min(hops, begin + segments.length);
    // z_[i] is Z_{begin + i}; Z_0 = V stays in z[0], so a later segment starts from its checkpoint.
    z_start_ = j == 0 ? z[0] : scratch().checkpoint[at(j - 1)];
    for (int t = begin; t + 1 < end && !kept; ++t) advance(t, z_at(t - begin), z[at(t - begin + 1)]);
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
      pull_back(g_next, g[at(t - begin)], pulls_gradients() ? z_at(t - begin) : nullptr, t + 1 == hops);
    }
    g_last = g[0];
    if (segments.count > 1)
      accumulate(end - begin, j == segments.count - 1);
    else
      single_ = end - begin;
  }
  add(scratch().dv, g_last, C{1}, in_.n_cols);
  if (pulls_gradients()) gradients_by_row();
  if (scratch().keys_lent) head_.pack_keys();
  finish(single_, segments.count);
}

template <class T>
void Backward<T>::mask(int t, C* g) {
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

template <class T>
auto Backward<T>::change(const C* a, const C* b) -> std::pair<C, C> {
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

template <class T>
void Backward<T>::implicit() {
  constexpr int kMostSteps = 100000;
  const C tol = 4 * std::numeric_limits<C>::epsilon();
  auto& z = scratch().z;
  auto& g = scratch().g;
  C* now = z[1];
  C* next = z[2];
  copy(z[0], now);
  for (int t = 0; t < kMostSteps; ++t) {
    head_.hop(0, t == 0, now, next, nullptr);
    std::swap(now, next);
    const auto [difference, size] = change(now, next);
    if (difference <= tol * size) break;
  }
  weights_made_ = head_.resources.stored;
  load_gradient(g[0]);
  copy(g[0], g[1]);
  for (int t = 0; t < kMostSteps; ++t) {
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

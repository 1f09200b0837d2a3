// Gradients of SparseK attention: the hops run again and Z_1 .. Z_K are kept, the gradients of Z come back
// through the transposed weights, then rows make dq and what their gates have in common, keys dk and the
// gradients of their scores.
#include "manyhop/ops/cuda/sparsek_run.cuh"

namespace manyhop::ops::cuda {

template <class T>
void SparsekRun<T>::hop_back(Rows<T> g, C* totals) const {
  some_panels([&](std::int64_t first, std::int64_t end) {
    SelectedHopBack<T> p;
    p.attend = attending(tall_);
    p.g = g;
    p.parts = {first, end, padded_, parts_};
    launch(p, key_warps(end - first), [](auto width, auto slab) {
      if constexpr (kTensorCores)
        return panel_hop_back<T, width.value, slab.value>;
      else
        return selected_hop_back<T, width.value>;
    });
    add(parts_, first, end, padded_, units_, totals);
  });
}

template <class T>
void SparsekRun<T>::rows_back(const SelectedGradient<T>& gradient, T* dq) const {
  SelectedBackward<T> p;
  p.attend = attending(low_);
  p.gradient = gradient;
  p.finish = finish(dq);
  launch(p, kTensorCores ? low_.panels : n_, [](auto width, auto slab) {
    if constexpr (kTensorCores)
      return panel_rows_back<T, slab.value>;
    else
      return selected_rows_back<T, width.value>;
  });
}

template <class T>
void SparsekRun<T>::keys_back(SelectedGradient<T> gradient, C* dk, C* dscores) const {
  gradient.score_parts = score_parts_;
  some_panels([&](std::int64_t first, std::int64_t end) {
    SelectedBackward<T> p;
    p.attend = attending(tall_);
    p.gradient = gradient;
    p.parts = {first, end, padded_, parts_};
    launch(p, key_warps(end - first), [](auto width, auto slab) {
      if constexpr (kTensorCores)
        return panel_keys_back<T, slab.value>;
      else
        return selected_keys_back<T, width.value>;
    });
    if (dk != nullptr) add(parts_, first, end, padded_, kv_units_, dk);
    if (dscores != nullptr) add(score_parts_, first, end, 1, score_units_, dscores);
  });
}

namespace {

template <class T>
class SparsekBackward {
 public:
  using C = EdgeValue<T>;

  SparsekBackward(SparsekRun<T>& run, const SparsekGradients<T>& want)
      : run_(run), call_(run.call_), want_(want) {}

  void take(Arena& arena) {
    run_.take(arena, true);
    const std::int64_t level = run_.cells(run_.units_);
    z_ = arena.take<T>(level * call_.hops);
    g_ = arena.take<T>(level * std::max(call_.hops, 1));
    last_ = arena.take<T>(level);
    totals_ = arena.take<C>(level);
    dk_ = arena.take<C>(run_.cells(run_.kv_units_));
    dv_ = arena.take<C>(run_.cells(run_.kv_units_));
    dscores_ = arena.take<C>(run_.score_units_ * call_.n);
    narrow_ = arena.take<T>(run_.cells(run_.kv_units_));
    raw_scores_ = arena.take<C>(run_.host() ? run_.score_units_ * call_.n : 0);
    dots_ = arena.take<C>(run_.units_ * call_.n);
    means_ = arena.take<C>(run_.units_ * call_.n);
  }

  void run() {
    const int hops = call_.hops;
    run_.prepare(true);
    run_.make_lse();
    for (int t = 0; t < hops; ++t) run_.hop(t == 0 ? run_.v() : run_.rows(z(t)), z(t + 1));
    run_.pack(want_.g, run_.units_, call_.heads, call_.d_value, hops > 0 ? g(hops) : last_);
    for (int t = hops - 1; t >= 0; --t) {
      clear(totals_, run_.cells(run_.units_));
      run_.hop_back(run_.rows(g(t + 1)), totals_);
      FinishRows<T> p;
      p.sums = totals_;
      p.finish.keep = static_cast<C>(1 - call_.teleport);
      p.finish.n = call_.n;
      p.finish.width = run_.padded_;
      p.finish.out = t == 0 ? last_ : g(t);
      launch_threads(finish_rows<T>, pieces(), run_.units_, run_.stream_, p);
    }
    if (!want_.v.empty()) give_values();
    if (want_.q.empty() && want_.k.empty() && want_.scores.empty()) return;
    const SelectedGradient<T> gradient = dots();
    // The rows' means are made with dq, so the scores need that pass too.
    run_.rows_back(gradient, last_);
    if (!want_.q.empty()) run_.unpack(last_, want_.q, run_.units_, call_.heads, call_.d);
    if (want_.k.empty() && want_.scores.empty()) return;
    C* const dk = want_.k.empty() ? nullptr : dk_;
    C* const dscores = want_.scores.empty() ? nullptr : dscores_;
    if (dk != nullptr) clear(dk_, run_.cells(run_.kv_units_));
    if (dscores != nullptr) clear(dscores_, run_.score_units_ * call_.n);
    run_.keys_back(gradient, dk, dscores);
    if (dk != nullptr) give(dk_, want_.k, call_.d);
    if (dscores != nullptr) give_scores();
  }

 private:
  T* z(int t) const { return z_ + (t - 1) * run_.cells(run_.units_); }  // t = 1 .. hops
  T* g(int t) const { return g_ + (t - 1) * run_.cells(run_.units_); }
  std::int64_t pieces() const { return call_.n * (run_.padded_ / Piece<T>::kSize); }
  void clear(C* data, std::int64_t count) const {
    check(cudaMemsetAsync(data, 0, static_cast<std::size_t>(count) * sizeof(C), run_.stream_),
          "cudaMemsetAsync");
  }
  Series<T> gradients() const {
    return {run_.rows(g(1)), run_.rows(call_.hops > 1 ? g(2) : g(1)), run_.cells(run_.units_)};
  }
  /// Totals [kv units][n][padded] to the caller's rows.
  void give(const C* totals, TensorView<T> to, int width) const {
    const NarrowTotals<T> p{totals, narrow_, run_.cells(run_.kv_units_)};
    launch_threads(narrow_totals<T>, p.count / Piece<T>::kSize, 1, run_.stream_, p);
    run_.unpack(narrow_, to, run_.kv_units_, call_.kv_heads, width);
  }
  void give_values() const {
    clear(dv_, run_.cells(run_.kv_units_));
    const int share = call_.heads / call_.kv_heads;
    for (int i = 0; i < share; ++i) {
      ValueGradient<T> p;
      p.units.first = i;
      p.units.step = share;
      p.units.heads = call_.heads;
      p.g = gradients();
      p.hops = call_.teleport == 0 ? 0 : call_.hops;
      p.last = last_;
      p.teleport = call_.teleport;
      p.totals = dv_;
      p.n = call_.n;
      p.width = run_.padded_;
      p.share = share;
      launch_threads(value_gradient<T>, pieces(), run_.kv_units_, run_.stream_, p);
    }
    give(dv_, want_.v, call_.d_value);
  }
  SelectedGradient<T> dots() const {
    RowDots<T> d;
    d.units.heads = call_.heads;
    d.units.n_rows = call_.n;
    d.units.n_cols = call_.n;
    d.g = gradients();
    d.z = run_.rows(z_);
    d.z_step = run_.cells(run_.units_);
    d.v = run_.v();
    d.end = call_.hops;
    d.teleport = call_.teleport;
    d.dots = dots_;
    launch_warps(row_dots<T>, call_.n, run_.units_, run_.stream_, d);
    SelectedGradient<T> p;
    p.z = {run_.v(), run_.rows(z_), run_.cells(run_.units_)};
    p.g = gradients();
    p.hops = call_.hops;
    p.keep = static_cast<C>(1 - call_.teleport);
    p.dots = dots_;
    p.means = means_;
    return p;
  }
  void give_scores() const {
    const ScaleValues<C> p{dscores_, 1 / call_.temperature, run_.score_units_ * call_.n};
    launch_threads(scale_values<C>, p.count, 1, run_.stream_, p);
    const TensorView<C>& to = want_.scores;
    const TensorView<C> view(to.data, {call_.batch, call_.score_heads, call_.n, 1},
                             {to.stride[0], to.stride[1], to.stride[2], 0});
    run_.transfer_.unpack(Copy<C>{}, dscores_, view, run_.score_units_, call_.score_heads, call_.n, 1, 1,
                          raw_scores_);
  }

  SparsekRun<T>& run_;
  const SparsekCall<T>& call_;
  const SparsekGradients<T>& want_;
  T* z_ = nullptr;
  T* g_ = nullptr;
  T* last_ = nullptr;  // the gradient of Z_0, by query head; then dq
  C* totals_ = nullptr;
  C* dk_ = nullptr;
  C* dv_ = nullptr;
  C* dscores_ = nullptr;
  T* narrow_ = nullptr;
  C* raw_scores_ = nullptr;
  C* dots_ = nullptr;
  C* means_ = nullptr;
};

}  // namespace

template <class T>
SparsekCounts sparsek_attention_backward(const SparsekCall<T>& call, const SparsekGradients<T>& want) {
  SparsekRun<T> run(call);
  if (run.units_ * call.n == 0) return {};
  const SparsekCounts counts = run.select();
  if (counts.nan_row >= 0) return counts;
  SparsekBackward<T> backward(run, want);
  std::size_t bytes = 0;
  do {
    Arena measure;
    backward.take(measure);
    bytes = measure.used();
  } while (bytes > memory_of_device(run.limit_left(), bytes) && run.fewer_parts());
  require_memory(run.limit_left(), bytes, "SparseK attention's gradient");
  const Buffer memory(bytes, run.stream_);
  Arena arena(memory.data());
  backward.take(arena);
  backward.run();
  if (run.host()) run.transfer_.wait();
  return counts;
}

#define MANYHOP_INSTANTIATE(T)                                                  \
  template void SparsekRun<T>::hop_back(Rows<T>, C*) const;                     \
  template void SparsekRun<T>::rows_back(const SelectedGradient<T>&, T*) const; \
  template void SparsekRun<T>::keys_back(SelectedGradient<T>, C*, C*) const;    \
  template SparsekCounts sparsek_attention_backward<T>(const SparsekCall<T>&, const SparsekGradients<T>&)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::cuda

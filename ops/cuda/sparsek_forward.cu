#include "manyhop/ops/cuda/sparsek_run.cuh"

namespace manyhop::ops::cuda {

namespace {

/// Scores without gaps on the device, [score units][n].
template <class C>
void pack_scores(const Transfer& transfer, TensorView<const C> scores, Offset batch, int heads, Offset n,
                 C* raw, C* to) {
  const TensorView<const C> view(scores.data, {batch, heads, n, 1},
                                 {scores.stride[0], scores.stride[1], scores.stride[2], 0});
  transfer.pack(Copy<C>{}, view, batch * heads, heads, n, 1, 1, raw, to);
}

}  // namespace

template <class T>
SparsekCounts SparsekRun<T>::select() {
  if (is_captured(stream_)) {
    throw ValueError(
        "sparsek attention: waits for its selection, which a stream that is being captured cannot");
  }
  lasting_stream();  // made once a device, and with it the pool keeps what it is given back
  Selecting<C> s;
  s.heads = score_units_;
  s.rows = n_;
  s.k = call_.keys;
  s.cap = std::min(call_.cap, n_);
  s.temperature = call_.temperature;
  C* raw = nullptr;
  C* compact = nullptr;
  const auto place = [&](Arena& arena) {
    raw = arena.take<C>(host() ? score_units_ * n_ : 0);
    compact = arena.take<C>(score_units_ * n_);
    s.take(arena);
  };
  Arena measure;
  place(measure);
  require_memory(call_.memory_limit, measure.used(), "SparseK's selection");
  selection_ = Buffer(measure.used(), stream_);
  Arena arena(selection_.data());
  place(arena);
  pack_scores(transfer_, call_.scores, call_.batch, call_.score_heads, n_, raw, compact);
  s.scores = {compact, n_, 1};
  launch_warps(select_rows<C>, s.heads, 1, stream_, s);
  const auto heads = static_cast<std::size_t>(s.heads);
  std::vector<std::int64_t> edges(heads), capped(heads), nan(heads), most(heads);
  const auto fetch = [&](std::vector<std::int64_t>& to, const std::int64_t* from) {
    if (heads == 0) return;
    check(cudaMemcpyAsync(to.data(), from, heads * sizeof(from[0]), cudaMemcpyDeviceToHost, stream_),
          "cudaMemcpyAsync");
  };
  fetch(edges, s.edges);
  fetch(capped, s.capped);
  fetch(nan, s.nan);
  fetch(most, s.most);
  transfer_.wait();
  SparsekCounts counts;
  for (std::size_t h = 0; h < heads; ++h) {
    counts.selected += edges[h];
    counts.capped_rows += capped[h];
    if (nan[h] < n_ && counts.nan_row < 0) counts.nan_row = nan[h];
    most_ = std::max(most_, most[h]);
  }
  selected_.score = s.score;
  selected_.tau = s.tau;
  selected_.until = s.until;
  selected_.n = n_;
  selected_.window = std::min(call_.window, n_);
  selected_.sinks = std::min(call_.sinks, n_);
  selected_.gate_scores = call_.gate_scores;
  selected_.share = call_.heads / call_.score_heads;
  return counts;
}

template <class T>
void SparsekRun<T>::make_lse() const {
  const Attending<T> p = attending(low_);
  for_width(padded_, [&](auto width) {
    if constexpr (kTensorCores) {
      launch_warps(panel_lse<T, width.value>, low_.panels, units_, stream_, p);
    } else {
      launch_warps(selected_lse<T, width.value>, n_, units_, stream_, p);
    }
  });
}

template <class T>
void SparsekRun<T>::hop(Rows<T> z, T* to) const {
  SelectedHop<T> p;
  p.attend = attending(low_);
  p.z = z;
  p.finish = finish(to);
  p.finish.keep = static_cast<C>(1 - call_.teleport);
  if (call_.teleport != 0) {
    p.finish.extra = v();
    p.finish.extra_scale = static_cast<C>(call_.teleport);
  }
  launch(p, kTensorCores ? low_.panels : n_, [](auto width, auto slab) {
    if constexpr (kTensorCores)
      return panel_hop<T, width.value, slab.value>;
    else
      return selected_hop<T, width.value>;
  });
}

template <class T>
SparsekCounts sparsek_attention(const SparsekCall<T>& call, TensorView<T> out, TensorView<float> lse) {
  using C = EdgeValue<T>;
  SparsekRun<T> run(call);
  if (run.units_ * call.n == 0) return {};
  const SparsekCounts counts = run.select();
  if (counts.nan_row >= 0) return counts;
  T* z[2] = {};
  float* wanted = nullptr;
  float* raw = nullptr;
  const auto place = [&](Arena& arena) {
    run.take(arena, false);
    for (T*& one : z) one = arena.take<T>(run.cells(run.units_));
    wanted = arena.take<float>(lse.empty() ? 0 : run.units_ * call.n);
    raw = arena.take<float>(lse.empty() || !run.host() ? 0 : run.units_ * call.n);
  };
  Arena measure;
  place(measure);
  require_memory(run.limit_left(), measure.used(), "SparseK attention");
  const Buffer memory(measure.used(), run.stream_);
  Arena arena(memory.data());
  place(arena);
  run.prepare(false);
  run.make_lse();
  for (int t = 0; t < call.hops; ++t) run.hop(t == 0 ? run.v() : run.rows(z[(t - 1) % 2]), z[t % 2]);
  if (call.hops == 0) {
    FinishRows<T> p;  // V of each head: no sum, only what is added to it
    p.units.heads = call.heads;
    p.finish.n = call.n;
    p.finish.width = run.padded_;
    p.finish.keep = 0;
    p.finish.extra = run.v();
    p.finish.extra_scale = 1;
    p.finish.out = z[1];
    launch_threads(finish_rows<T>, call.n * (run.padded_ / Piece<T>::kSize), run.units_, run.stream_, p);
  }
  run.unpack(z[(call.hops + 1) % 2], out, run.units_, call.heads, call.d_value);
  if (!lse.empty()) {
    const NarrowLse<C> p{run.lse_, wanted, run.units_ * call.n};
    launch_threads(narrow_lse<C>, p.count, 1, run.stream_, p);
    const TensorView<float> view(lse.data, {call.batch, call.heads, call.n, 1},
                                 {lse.stride[0], lse.stride[1], lse.stride[2], 0});
    run.transfer_.unpack(Copy<float>{}, wanted, view, run.units_, call.heads, call.n, 1, 1, raw);
  }
  if (run.host()) run.transfer_.wait();
  return counts;
}

#define MANYHOP_INSTANTIATE(T)                         \
  template SparsekCounts SparsekRun<T>::select();      \
  template void SparsekRun<T>::make_lse() const;       \
  template void SparsekRun<T>::hop(Rows<T>, T*) const; \
  template SparsekCounts sparsek_attention<T>(const SparsekCall<T>&, TensorView<T>, TensorView<float>)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::cuda

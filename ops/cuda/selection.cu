#include "manyhop/ops/cuda/selection.cuh"

#include "manyhop/ops/cuda/runtime.cuh"

namespace manyhop::ops::cuda {

namespace {

template <class X>
std::vector<X> on_host(const X* from, std::int64_t count, cudaStream_t stream) {
  std::vector<X> values(static_cast<std::size_t>(count));
  if (count > 0) {
    check(cudaMemcpyAsync(values.data(), from, values.size() * sizeof(X), cudaMemcpyDeviceToHost, stream),
          "cudaMemcpyAsync");
  }
  return values;
}

}  // namespace

template <class T>
SelectedRows causal_select(const SelectionCall& call, ScoreRows<const T> scores) {
  const auto stream = stream_of(call.stream);
  const bool host = !call.stream.has_value();
  const std::int64_t all = call.heads * call.rows;
  DeviceArray<T> copied;
  Selecting<T> s;
  s.scores = scores;
  if (host) {
    std::vector<T> compact;
    compact.reserve(static_cast<std::size_t>(all));
    for (Offset h = 0; h < call.heads; ++h)
      for (Offset i = 0; i < call.rows; ++i) compact.push_back(scores.data[h * scores.row + i * scores.step]);
    copied = DeviceArray<T>(compact, stream);
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    s.scores = {copied.data(), call.rows, 1};
  }
  s.heads = call.heads;
  s.rows = call.rows;
  s.k = call.k;
  s.cap = call.cap;
  s.temperature = call.temperature;
  Arena measure;
  s.take(measure);
  const Buffer memory(measure.used(), stream);
  Arena arena(memory.data());
  s.take(arena);
  launch_warps(select_rows<T>, call.heads, 1, stream, s);
  SelectedRows result{on_host(s.score, all, stream),         on_host(s.tau, all, stream),
                      on_host(s.until, all, stream),         on_host(s.edges, call.heads, stream),
                      on_host(s.capped, call.heads, stream), on_host(s.nan, call.heads, stream)};
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  return result;
}

template SelectedRows causal_select<float>(const SelectionCall&, ScoreRows<const float>);
template SelectedRows causal_select<double>(const SelectionCall&, ScoreRows<const double>);

}  // namespace manyhop::ops::cuda

// How a call's tensors get onto the device and back: packed into padded rows there, from any strides.
#pragma once

#include "manyhop/ops/cuda/inputs.cuh"
#include "manyhop/ops/cuda/run.cuh"

namespace manyhop::ops::cuda {

template <class T>
void Run<T>::take_inputs(Arena& arena) {
  raw_ = arena.take<T>(std::max({raw(units_, n_rows_, std::max(call_.d, call_.d_value)),
                                 raw(kv_units_, n_cols_, std::max(call_.d, call_.d_value))}));
  q_ = arena.take<T>(cells(units_, n_rows_));
  k_ = arena.take<T>(cells(kv_units_, n_cols_));
  v_ = arena.take<T>(cells(kv_units_, n_cols_));
  bias_memory_ = arena.take<C>(host() && call_.bias != nullptr ? call_.bias_count : 0);
  lengths_ = arena.take<std::int64_t>(static_cast<std::int64_t>(call_.lengths.size()));
  keys_ =
      arena.take<std::uint32_t>(call_.edge_dropout.active() || call_.hop_dropout.active() ? 4 * units_ : 0);
}

template <class T>
void Run<T>::read_inputs() {
  const auto lengths = static_cast<std::int64_t>(call_.lengths.size());
  for (std::int64_t first = 0; first < lengths; first += Numbers::kMost) {
    Numbers p;
    p.count = static_cast<int>(std::min<std::int64_t>(Numbers::kMost, lengths - first));
    std::copy_n(call_.lengths.begin() + first, p.count, p.value);
    p.out = lengths_ + first;
    launch_threads(write_numbers, p.count, 1, stream_, p);
  }
  if (keys_ != nullptr) {
    launch_threads(make_dropout_keys, 2 * units_, 1, stream_,
                   DropoutKeys{call_.seed, units_, call_.heads, keys_});
    if (call_.edge_dropout.active()) {
      edge_dropout_ = {keys_, call_.edge_dropout.threshold, call_.edge_dropout.scale64};
    }
    if (call_.hop_dropout.active()) {
      hop_dropout_ = {keys_ + 2 * units_, call_.hop_dropout.threshold, call_.hop_dropout.scale64};
    }
  }
  bias_ = call_.bias;
  if (host() && call_.bias != nullptr) {
    to_device(bias_memory_, call_.bias, call_.bias_count);
    bias_ = bias_memory_;
  }
  pack(call_.q, units_, call_.heads, n_rows_, call_.d, raw_, q_);
  pack(call_.k, kv_units_, call_.kv_heads, n_cols_, call_.d, raw_, k_);
  pack(call_.v, kv_units_, call_.kv_heads, n_cols_, call_.d_value, raw_, v_);
}

/// Calls f(element of the view) in the order batch, head, row, feature.
template <class T, class F>
void for_each_value(TensorView<T> view, F&& f) {
  for (Offset b = 0; b < view.extent[0]; ++b) {
    for (Offset h = 0; h < view.extent[1]; ++h) {
      for (Offset i = 0; i < view.extent[2]; ++i) {
        for (Offset c = 0; c < view.extent[3]; ++c) f(view(b, h, i, c));
      }
    }
  }
}

template <class T>
Strided<T> strided(T* data, int heads, std::int64_t n, int width) {
  return {data, heads * n * width, n * width, width, 1};
}

template <class T>
void Run<T>::pack(TensorView<const T> view, std::int64_t units, int heads, std::int64_t n, int width, T* raw,
                  T* to, DeviceDropout dropout, int hop_number) const {
  Copy<T> p;
  if (host()) {
    std::vector<T> values;
    values.reserve(static_cast<std::size_t>(units * n * width));
    for_each_value(view, [&](const T& value) { values.push_back(value); });
    to_device(raw, values.data(), units * n * width);
    wait();
    p.outside = strided(raw, heads, n, width);
  } else {
    p.outside = {const_cast<T*>(view.data), view.stride[0], view.stride[1], view.stride[2], view.stride[3]};
  }
  p.inside = to;
  p.n = n;
  p.heads = heads;
  p.width = width;
  p.padded = padded_;
  p.lengths = n == n_cols_ ? lengths_ : nullptr;
  p.dropout = dropout;
  p.hop = hop_number;
  launch_threads(pack_rows<T>, n * padded_, units, stream_, p);
}

template <class T>
void Run<T>::unpack(const T* from, TensorView<T> view, std::int64_t units, int heads, std::int64_t n,
                    int width, T* raw) const {
  Copy<T> p;
  p.outside = host() ? strided(raw, heads, n, width)
                     : Strided<T>{view.data, view.stride[0], view.stride[1], view.stride[2], view.stride[3]};
  p.inside = const_cast<T*>(from);
  p.n = n;
  p.heads = heads;
  p.width = width;
  p.padded = padded_;
  p.lengths = n == n_cols_ ? lengths_ : nullptr;
  launch_threads(unpack_rows<T>, n * width, units, stream_, p);
  if (!host()) return;
  std::vector<T> values(static_cast<std::size_t>(units * n * width));
  to_host(values.data(), raw, units * n * width);
  std::size_t at = 0;
  for_each_value(view, [&](T& value) { value = values[at++]; });
}

}  // namespace manyhop::ops::cuda

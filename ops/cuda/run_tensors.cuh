// What a call of attention is given, on the device.
#pragma once

#include "manyhop/ops/cuda/inputs.cuh"
#include "manyhop/ops/cuda/run.cuh"

namespace manyhop::ops::cuda {

/// Whether rows of the caller's on the device are what kernels read. Without data (an estimate) they are
/// taken to be.
template <class T>
bool Run<T>::as_they_are(TensorView<const T> view, std::int64_t n, int width) const {
  if (host() || width != padded_ || !call_.lengths.empty()) return false;
  if (view.data == nullptr) return true;
  std::int64_t step = 1;
  for (int a = 3; a >= 0; --a) {
    const auto axis = static_cast<std::size_t>(a);
    if (view.extent[axis] != 1 && view.stride[axis] != step) return false;
    step *= view.extent[axis];
  }
  constexpr std::uintptr_t kAlign = 64;
  return view.extent[2] == n && reinterpret_cast<std::uintptr_t>(view.data) % kAlign == 0;
}

template <class T>
T* Run<T>::take_rows(Arena& arena, TensorView<const T> view, std::int64_t units, std::int64_t n,
                     int width) const {
  if (as_they_are(view, n, width)) return const_cast<T*>(view.data);  // inputs are only read
  return arena.take<T>(cells(units, n));
}

template <class T>
void Run<T>::take_inputs(Arena& arena) {
  raw_ = arena.take<T>(std::max({raw(units_, n_rows_, std::max(call_.d, call_.d_value)),
                                 raw(kv_units_, n_cols_, std::max(call_.d, call_.d_value))}));
  q_ = take_rows(arena, call_.q, units_, n_rows_, call_.d);
  k_ = take_rows(arena, call_.k, kv_units_, n_cols_, call_.d);
  v_ = captures() ? arena.take<T>(cells(kv_units_, n_cols_))
                  : take_rows(arena, call_.v, kv_units_, n_cols_, call_.d_value);
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
  if (q_ != call_.q.data) pack(call_.q, units_, call_.heads, n_rows_, call_.d, raw_, q_);
  if (k_ != call_.k.data) pack(call_.k, kv_units_, call_.kv_heads, n_cols_, call_.d, raw_, k_);
  if (v_ != call_.v.data) pack(call_.v, kv_units_, call_.kv_heads, n_cols_, call_.d_value, raw_, v_);
}

template <class T>
void Run<T>::pack(TensorView<const T> view, std::int64_t units, int heads, std::int64_t n, int width, T* raw,
                  T* to, DeviceDropout dropout, int hop_number) const {
  Copy<T> p;
  p.lengths = n == n_cols_ ? lengths_ : nullptr;
  p.dropout = dropout;
  p.hop = hop_number;
  transfer().pack(p, view, units, heads, n, width, padded_, raw, to);
}

template <class T>
void Run<T>::unpack(const T* from, TensorView<T> view, std::int64_t units, int heads, std::int64_t n,
                    int width, T* raw) const {
  Copy<T> p;
  p.lengths = n == n_cols_ ? lengths_ : nullptr;
  transfer().unpack(p, from, view, units, heads, n, width, padded_, raw);
}

}  // namespace manyhop::ops::cuda

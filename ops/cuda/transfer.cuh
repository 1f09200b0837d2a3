// How a call's tensors get onto the device and back: packed into padded rows there, from any strides.
#pragma once

#include <vector>

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/ops/cuda/rows.cuh"
#include "manyhop/ops/cuda/runtime.cuh"

namespace manyhop::ops::cuda {

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

/// Tensors of one call. `raw` is scratch for those on the host, of as many elements as the view has.
struct Transfer {
  cudaStream_t stream = nullptr;
  bool host = false;

  template <class X>
  void to_device(X* to, const X* from, std::int64_t count) const {
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(count) * sizeof(X), cudaMemcpyHostToDevice,
                          stream),
          "cudaMemcpyAsync");
  }
  /// Waits for it.
  template <class X>
  void to_host(X* to, const X* from, std::int64_t count) const {
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(count) * sizeof(X), cudaMemcpyDeviceToHost,
                          stream),
          "cudaMemcpyAsync");
    wait();
  }
  void wait() const { check(cudaStreamSynchronize(stream), "cudaStreamSynchronize"); }

  /// The caller's [units][n][width] to [units][n][padded]. `p` may hold lengths and dropout.
  template <class T>
  void pack(Copy<T> p, TensorView<const T> view, std::int64_t units, int heads, std::int64_t n, int width,
            int padded, T* raw, T* to) const {
    if (host) {
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
    p.padded = padded;
    launch_threads(pack_rows<T>, n * padded, units, stream, p);
  }
  /// And back.
  template <class T>
  void unpack(Copy<T> p, const T* from, TensorView<T> view, std::int64_t units, int heads, std::int64_t n,
              int width, int padded, T* raw) const {
    p.outside = host ? strided(raw, heads, n, width)
                     : Strided<T>{view.data, view.stride[0], view.stride[1], view.stride[2], view.stride[3]};
    p.inside = const_cast<T*>(from);
    p.n = n;
    p.heads = heads;
    p.width = width;
    p.padded = padded;
    launch_threads(unpack_rows<T>, n * width, units, stream, p);
    if (!host) return;
    std::vector<T> values(static_cast<std::size_t>(units * n * width));
    to_host(values.data(), raw, units * n * width);
    std::size_t at = 0;
    for_each_value(view, [&](T& value) { value = values[at++]; });
  }
};

}  // namespace manyhop::ops::cuda

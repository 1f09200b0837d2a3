// q, k and v of `attend` and `spectral`: read by name from a safetensors file, checked, seen as [b, h, s, d].
#pragma once

#include <string>

#include "manyhop/graphs/base/tensor.hpp"

namespace manyhop::cli {

enum class Layout : std::uint8_t { nhd, bhsd };

struct Qkv {
  Tensor q, k, v;
  DType type = DType::f32;  // as in the file
  Layout layout = Layout::nhd;
  Offset batch = 1;
  Offset n = 0;       // queries
  Offset n_keys = 0;  // keys and values
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int value_dim = 0;

  std::size_t bytes() const { return q.bytes.size() + k.bytes.size() + v.bytes.size(); }
  std::vector<Offset> out_shape() const;
};

/// Without `values` a tensor v is not looked for, and stays empty.
/// Throws ValueError for a missing tensor, mixed types or shapes that do not fit.
Qkv load_qkv(const std::string& path, Layout layout, bool values = true);

/// A [s, h, d] or [b, h, s, d] block as a view [b, h, s, d].
template <class T>
TensorView<T> view_of(T* data, const std::vector<Offset>& shape, Layout layout) {
  if (layout == Layout::bhsd) return TensorView<T>(data, {shape[0], shape[1], shape[2], shape[3]});
  const Offset width = shape[1] * shape[2];
  return TensorView<T>(data, {1, shape[1], shape[0], shape[2]}, {shape[0] * width, shape[2], width, 1});
}

}  // namespace manyhop::cli

// Dense data: TensorView (pointer, extents, strides; owns nothing) and Tensor (a typed, contiguous, owned
// block as it comes from a file). Element types: f64, f32, f16, bf16.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

#include "manyhop/graphs/base/memory.hpp"
#include "manyhop/graphs/base/types.hpp"

namespace manyhop {

enum class DType : std::uint8_t { f64, f32, f16, bf16 };

constexpr std::size_t size_of(DType dtype) { return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2; }
std::string_view name_of(DType dtype);  // "f64", "f32", "f16", "bf16"

/// bfloat16 storage: the upper half of a float. Conversion rounds to nearest even; NaN stays NaN.
struct bf16 {
  std::uint16_t bits = 0;
  bf16() = default;
  explicit bf16(float value) {  // inline and without a branch, so that loops over rows become vectors
    const auto word = std::bit_cast<std::uint32_t>(value);
    const bool nan = (word & 0x7FFFFFFFU) > 0x7F800000U;
    const std::uint32_t even = word + 0x7FFFU + ((word >> 16) & 1U);
    bits = static_cast<std::uint16_t>((nan ? word | 0x400000U : even) >> 16);  // a quiet NaN stays one
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
  friend bool operator==(bf16, bf16) = default;
};

/// IEEE binary16 storage. Conversion rounds to nearest even and overflows to infinity.
struct f16 {
  std::uint16_t bits = 0;
  f16() = default;
  explicit f16(float value);
  explicit operator float() const;
  friend bool operator==(f16, f16) = default;
};

/// A strided view of up to four axes. Unused leading axes have extent 1. Strides count elements.
template <class T>
struct TensorView {
  T* data = nullptr;
  int rank = 0;
  std::array<Offset, 4> extent{1, 1, 1, 1};
  std::array<Offset, 4> stride{0, 0, 0, 0};

  TensorView() = default;
  TensorView(T* pointer, std::initializer_list<Offset> extents)
      : data(pointer), rank(static_cast<int>(extents.size())) {
    int axis = 0;
    for (const Offset e : extents) extent[static_cast<std::size_t>(axis++)] = e;
    Offset step = 1;
    for (int a = rank - 1; a >= 0; --a) {
      stride[static_cast<std::size_t>(a)] = step;
      step *= extent[static_cast<std::size_t>(a)];
    }
  }
  TensorView(T* pointer, std::initializer_list<Offset> extents, std::initializer_list<Offset> strides)
      : TensorView(pointer, extents) {
    int axis = 0;
    for (const Offset s : strides) stride[static_cast<std::size_t>(axis++)] = s;
  }
  /// A view of T as a view of const T.
  operator TensorView<const T>() const {
    TensorView<const T> view;
    view.data = data;
    view.rank = rank;
    view.extent = extent;
    view.stride = stride;
    return view;
  }

  bool empty() const { return data == nullptr; }
  /// Whether it promises values without memory behind them.
  bool lacks_data() const { return data == nullptr && size() > 0; }
  Offset size() const {
    Offset total = rank == 0 ? 0 : 1;
    for (int a = 0; a < rank; ++a) total *= extent[static_cast<std::size_t>(a)];
    return total;
  }
  T& operator()(Offset a) const { return data[a * stride[0]]; }
  T& operator()(Offset a, Offset b) const { return data[a * stride[0] + b * stride[1]]; }
  T& operator()(Offset a, Offset b, Offset c) const {
    return data[a * stride[0] + b * stride[1] + c * stride[2]];
  }
  T& operator()(Offset a, Offset b, Offset c, Offset e) const {
    return data[a * stride[0] + b * stride[1] + c * stride[2] + e * stride[3]];
  }
  /// Swaps two axes without moving data.
  TensorView transposed(int a, int b) const {
    TensorView view = *this;
    std::swap(view.extent[static_cast<std::size_t>(a)], view.extent[static_cast<std::size_t>(b)]);
    std::swap(view.stride[static_cast<std::size_t>(a)], view.stride[static_cast<std::size_t>(b)]);
    return view;
  }
};

/// An owned, row-major block with a run-time type.
struct Tensor {
  DType dtype = DType::f32;
  std::vector<Offset> shape;
  std::vector<std::byte, BlockAllocator<std::byte>> bytes;

  static Tensor zeros(DType dtype, std::vector<Offset> shape);
  Offset size() const;
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(bytes.data());
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(bytes.data());
  }
  /// The same values in another type (rounds to nearest even).
  Tensor to(DType target) const;
};

}  // namespace manyhop

// Arrays of Python as views, and results as NumPy arrays: nothing is copied.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "manyhop/graphs/base/tensor.hpp"

namespace manyhop::python {

namespace nb = nanobind;

using ReadArray = nb::ndarray<nb::ro>;
using WriteArray = nb::ndarray<>;

/// f64, f32, f16 or bf16; throws TypeError naming the array and what is wanted.
DType dtype_of(const nb::dlpack::dtype& dtype, const char* name);

namespace detail {
/// Checks device and rank; returns extents and strides.
struct Layout {
  int rank = 0;
  std::array<Offset, 4> extent{1, 1, 1, 1};
  std::array<Offset, 4> stride{0, 0, 0, 0};
  bool none = false;  // an axis of size 0
};
Layout layout_of(int device, int wanted, std::size_t rank, const std::int64_t* shape,
                 const std::int64_t* strides, const char* name);
extern double nothing[8];  // what views of no elements point at: a null pointer would be no view
}  // namespace detail

/// The view of an array whose type has been checked. `device`: the DLPack kind of device where it must lie.
template <class T, class Array>
TensorView<T> view_of(const Array& array, const char* name, int device = nb::device::cpu::value) {
  const detail::Layout layout = detail::layout_of(array.device_type(), device, array.ndim(),
                                                  array.shape_ptr(), array.stride_ptr(), name);
  TensorView<T> view;
  view.rank = layout.rank;
  view.extent = layout.extent;
  view.stride = layout.stride;
  if constexpr (std::is_const_v<T>) {
    view.data = layout.none ? reinterpret_cast<T*>(detail::nothing) : static_cast<T*>(array.data());
  } else {
    view.data = layout.none ? reinterpret_cast<T*>(detail::nothing)
                            : static_cast<T*>(const_cast<void*>(static_cast<const void*>(array.data())));
  }
  return view;
}

/// A NumPy array over memory that `owner` keeps alive.
template <class T>
nb::object borrowed_array(std::span<const T> values, nb::handle owner) {
  static T none{};
  return nb::cast(nb::ndarray<nb::numpy, const T, nb::ndim<1>>(values.empty() ? &none : values.data(),
                                                               {values.size()}, owner));
}

/// A NumPy array that owns the vector.
template <class T>
nb::object owned_array(std::vector<T> values, std::initializer_list<std::size_t> shape) {
  auto* held = new std::vector<T>(std::move(values));
  const nb::capsule owner(held, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  static T none{};
  return nb::cast(nb::ndarray<nb::numpy, T>(held->empty() ? &none : held->data(), shape, owner));
}
template <class T>
nb::object owned_array(std::vector<T> values) {
  const std::size_t count = values.size();
  return owned_array(std::move(values), {count});
}

}  // namespace manyhop::python

#include "arrays.hpp"

#include <fmt/format.h>

namespace manyhop::python {

DType dtype_of(const nb::dlpack::dtype& dtype, const char* name) {
  using Code = nb::dlpack::dtype_code;
  if (dtype.lanes == 1) {
    if (dtype.code == static_cast<std::uint8_t>(Code::Float)) {
      if (dtype.bits == 64) return DType::f64;
      if (dtype.bits == 32) return DType::f32;
      if (dtype.bits == 16) return DType::f16;
    }
    if (dtype.code == static_cast<std::uint8_t>(Code::Bfloat) && dtype.bits == 16) return DType::bf16;
  }
  // NumPy has no bfloat16 of its own: its bits come as uint16.
  if (dtype == nb::dtype<std::uint16_t>()) return DType::bf16;
  throw nb::type_error(
      fmt::format("{}: element type of code {} with {} bits, expected float64, float32 or bfloat16", name,
                  dtype.code, dtype.bits)
          .c_str());
}

namespace detail {

double nothing[8] = {};

Layout layout_of(int device, int wanted, std::size_t rank, const std::int64_t* shape,
                 const std::int64_t* strides, const char* name) {
  if (device != wanted) {
    throw nb::type_error(
        (wanted == nb::device::cpu::value
             ? fmt::format("{}: lies on a device of kind {}, this call runs on the CPU: move it with .cpu()",
                           name, device)
             : fmt::format("{}: lies on a device of kind {}, this call runs on kind {} (CUDA)", name, device,
                           wanted))
            .c_str());
  }
  if (rank < 1 || rank > 4)
    throw nb::value_error(fmt::format("{}: {} axes, 1 to 4 are wanted", name, rank).c_str());
  Layout layout;
  layout.rank = static_cast<int>(rank);
  for (std::size_t a = 0; a < rank; ++a) {
    layout.extent[a] = shape[a];
    layout.stride[a] = strides[a];
    if (shape[a] == 0) layout.none = true;
  }
  return layout;
}

}  // namespace detail
}  // namespace manyhop::python

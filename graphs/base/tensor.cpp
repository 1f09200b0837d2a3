#include "manyhop/graphs/base/tensor.hpp"

#include <cmath>
#include <cstdint>

#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop {

std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return "f64";
    case DType::f32:
      return "f32";
    case DType::f16:
      return "f16";
    case DType::bf16:
      return "bf16";
  }
  return "?";
}

f16::f16(float value) {
  const auto word = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (word >> 16) & 0x8000U;
  const std::uint32_t magnitude = word & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) {
    bits = static_cast<std::uint16_t>(sign | 0x7E00U);
  } else if (magnitude >= 0x477FF000U) {  // rounds past 65504
    bits = static_cast<std::uint16_t>(sign | 0x7C00U);
  } else if (magnitude <
             0x38800000U) {  // subnormal: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    bits = static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000U));
  } else {
    const std::uint32_t rounded = magnitude + 0xFFFU + ((magnitude >> 13) & 1U);
    bits = static_cast<std::uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
  }
}

f16::operator float() const {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1FU;
  const std::uint32_t fraction = bits & 0x3FFU;
  if (exponent == 0) {
    const float value = static_cast<float>(fraction) * 0x1.0p-24F;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000U | (fraction << 13));
  return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (fraction << 13));
}

Tensor Tensor::zeros(DType dtype, std::vector<Offset> shape) {
  Tensor tensor;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  tensor.bytes.resize(static_cast<std::size_t>(tensor.size()) * size_of(dtype));
  return tensor;
}

Offset Tensor::size() const {
  Offset total = 1;
  for (const Offset extent : shape) total *= extent;
  return total;
}

namespace {

// To a float rounded to odd, so that rounding again to a shorter type gives what one rounding would have
// given.
float to_odd(double value) {
  auto near = static_cast<float>(value);
  if (static_cast<double>(near) == value || std::isnan(value)) return near;
  auto word = std::bit_cast<std::uint32_t>(near);
  if (std::abs(static_cast<double>(near)) > std::abs(value)) --word;  // towards zero
  return std::bit_cast<float>(word | 1U);
}

template <class From, class To>
void convert(const From* from, To* to, Offset count) {
  parallel_ranges(count, 1 << 16, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      if constexpr (std::is_same_v<From, To>) {
        to[i] = from[i];
      } else if constexpr (std::is_same_v<To, double>) {
        to[i] = static_cast<double>(static_cast<float>(from[i]));
      } else if constexpr (std::is_same_v<From, double> && !std::is_same_v<To, float>) {
        to[i] = static_cast<To>(to_odd(from[i]));
      } else {
        to[i] = static_cast<To>(static_cast<float>(from[i]));
      }
    }
  });
}

template <class From>
void convert_from(const Tensor& source, Tensor& target) {
  const From* from = source.as<From>();
  switch (target.dtype) {
    case DType::f64:
      return convert(from, target.as<double>(), source.size());
    case DType::f32:
      return convert(from, target.as<float>(), source.size());
    case DType::f16:
      return convert(from, target.as<f16>(), source.size());
    case DType::bf16:
      return convert(from, target.as<bf16>(), source.size());
  }
}

}  // namespace

Tensor Tensor::to(DType target) const {
  if (target == dtype) return *this;
  Tensor result = zeros(target, shape);
  switch (dtype) {
    case DType::f64:
      convert_from<double>(*this, result);
      break;
    case DType::f32:
      convert_from<float>(*this, result);
      break;
    case DType::f16:
      convert_from<f16>(*this, result);
      break;
    case DType::bf16:
      convert_from<bf16>(*this, result);
      break;
  }
  return result;
}

}  // namespace manyhop

#include "manyhop/graphs/base/tensor.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

using namespace manyhop;

namespace {

// The value of a 16-bit pattern with `exponent` and `fraction` bits, from the definition.
double value_of(unsigned bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>((bits >> fraction_bits) & ((1U << exponent_bits) - 1));
  const double fraction = static_cast<double>(bits & ((1U << fraction_bits) - 1));
  const double sign = (bits & 0x8000U) != 0 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) {
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
}

template <class Half>
Half from_double(double value) {
  Tensor tensor = Tensor::zeros(DType::f64, {1});
  tensor.as<double>()[0] = value;
  const Tensor converted = tensor.to(std::is_same_v<Half, f16> ? DType::f16 : DType::bf16);
  return *converted.as<Half>();
}

// Every pattern reads as defined and comes back; halfway points go to even, their neighbours to the nearer.
template <class Half>
void exhaustive(int exponent_bits, int fraction_bits) {
  std::size_t wrong = 0;
  for (unsigned bits = 0; bits < 65536; ++bits) {
    Half half;
    half.bits = static_cast<std::uint16_t>(bits);
    const double value = value_of(bits, exponent_bits, fraction_bits);
    const auto read = static_cast<float>(half);
    if (std::isnan(value)) {
      if (!std::isnan(read) || !std::isnan(static_cast<float>(Half(read)))) ++wrong;
      continue;
    }
    if (static_cast<double>(read) != value || std::signbit(read) != std::signbit(value)) ++wrong;
    if (Half(read).bits != bits) ++wrong;
    if (from_double<Half>(value).bits != bits) ++wrong;
    const unsigned magnitude = bits & 0x7FFFU;
    const unsigned infinite = ((1U << exponent_bits) - 1) << fraction_bits;
    if (magnitude >= infinite) continue;
    // The next pattern away from zero; past the largest number the step goes on as if there were no infinity.
    const double here = std::abs(value);
    const double step = magnitude + 1 == infinite
                            ? here - std::abs(value_of(magnitude - 1, exponent_bits, fraction_bits))
                            : std::abs(value_of(magnitude + 1, exponent_bits, fraction_bits)) - here;
    const double sign = std::signbit(value) ? -1 : 1;
    const double half_way = here + step / 2;
    const unsigned up = bits + 1;
    const unsigned even = bits % 2 == 0 ? bits : up;
    const auto middle = static_cast<float>(sign * half_way);
    if (Half(middle).bits != even) ++wrong;
    const double inf = std::numeric_limits<double>::infinity();
    if (from_double<Half>(sign * half_way).bits != even) ++wrong;
    if (from_double<Half>(sign * std::nextafter(half_way, inf)).bits != up) ++wrong;
    if (from_double<Half>(sign * std::nextafter(half_way, 0.0)).bits != bits) ++wrong;
    if (Half(std::nextafter(middle, 0.0F)).bits != bits) ++wrong;
    if (Half(std::nextafter(middle, static_cast<float>(sign * inf))).bits != up) ++wrong;
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("f16 on all patterns") { exhaustive<f16>(5, 10); }
TEST_CASE("bf16 on all patterns") { exhaustive<bf16>(8, 7); }

TEST_CASE("what is too large becomes infinite and too small zero") {
  CHECK(f16(65519.996F).bits == 0x7BFF);
  CHECK(f16(65520.0F).bits == 0x7C00);
  CHECK(f16(-1e30F).bits == 0xFC00);
  CHECK(f16(0x1p-25F).bits == 0);
  CHECK(f16(0x1.000002p-25F).bits == 1);
  CHECK(f16(-0.0F).bits == 0x8000);
  CHECK(bf16(std::numeric_limits<float>::max()).bits == 0x7F80);
  CHECK(from_double<bf16>(1e300).bits == 0x7F80);
  CHECK(from_double<f16>(-1e300).bits == 0xFC00);
  CHECK(from_double<f16>(1e-300).bits == 0);
  CHECK(std::isnan(static_cast<float>(from_double<f16>(std::nan("")))));
}

TEST_CASE("tensors convert between all types") {
  const std::vector<DType> types{DType::f64, DType::f32, DType::f16, DType::bf16};
  Tensor tensor = Tensor::zeros(DType::f64, {2, 2});
  const std::vector<double> values{0, 1, -2.5, 96};  // exact in each type
  std::memcpy(tensor.bytes.data(), values.data(), 32);
  for (const DType a : types) {
    for (const DType b : types) {
      const Tensor there = tensor.to(a).to(b);
      CHECK(there.bytes.size() == 4 * size_of(b));
      CHECK(there.shape == tensor.shape);
      CHECK(there.to(DType::f64).bytes == tensor.bytes);
    }
  }
  CHECK(Tensor::zeros(DType::f32, {3, 0}).size() == 0);
  CHECK(Tensor::zeros(DType::f32, {0, 3}).to(DType::f16).bytes.empty());
  CHECK(Tensor::zeros(DType::bf16, {}).size() == 1);
  CHECK(name_of(DType::bf16) == "bf16");
}

TEST_CASE("views count strides in elements") {
  std::vector<int> data{0, 1, 2, 3, 4, 5};
  const TensorView<int> view(data.data(), {2, 3});
  CHECK(view(1, 2) == 5);
  CHECK(view.size() == 6);
  CHECK(view.transposed(0, 1)(2, 1) == 5);
  CHECK(view.transposed(0, 1).extent[0] == 3);
  const TensorView<int> skip(data.data(), {3}, {2});
  CHECK(skip(2) == 4);
  CHECK(TensorView<int>().empty());
  CHECK(TensorView<int>().size() == 0);
  const TensorView<const int> reading = view;
  CHECK(reading(0, 1) == 1);
}

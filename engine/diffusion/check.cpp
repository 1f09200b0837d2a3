#include "manyhop/engine/diffusion/check.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "manyhop/graphs/base/error.hpp"

namespace manyhop::diffusion {

namespace {
constexpr int kFloatHops = 16;  // hops that float keeps within 1e-6 of double
}  // namespace

void check_options(const DiffuseOptions& o) {
  if (!(o.teleport >= 0 && o.teleport <= 1)) {
    throw ValueError(fmt::format("teleport: {} is outside of [0, 1]", o.teleport));
  }
  if (!(o.t >= 0) || !std::isfinite(o.t))
    throw ValueError(fmt::format("t: {} is not a finite number >= 0", o.t));
  if (o.hops && o.tol) {
    throw ValueError(
        fmt::format("hops: both hops = {} and tol = {} are given, one of them is wanted", *o.hops, *o.tol));
  }
  if (o.hops && *o.hops < 0) throw ValueError(fmt::format("hops: {}, at least 0 is wanted", *o.hops));
  if (o.tol && (!(*o.tol > 0) || !std::isfinite(*o.tol))) {
    throw ValueError(fmt::format("tol: {} is not a finite number above 0", *o.tol));
  }
  if (o.kernel == Kernel::ppr && o.teleport == 0 && !o.hops) {
    throw ValueError("teleport: 0 has no limit to converge to, give hops or a teleport above 0");
  }
  if (o.kernel != Kernel::coefficients) {
    if (!o.coefficients.empty()) {
      throw ValueError(fmt::format("coefficients: {} are given, only kernel coefficients takes them",
                                   o.coefficients.size()));
    }
    return;
  }
  if (o.coefficients.empty()) throw ValueError("coefficients: 0 are given, at least 1 is wanted");
  for (std::size_t k = 0; k < o.coefficients.size(); ++k) {
    if (!std::isfinite(o.coefficients[k])) {
      throw ValueError(fmt::format("coefficients[{}]: {} is not finite", k, o.coefficients[k]));
    }
  }
  const auto last = static_cast<Offset>(o.coefficients.size()) - 1;
  if (o.hops && *o.hops != last) {
    throw ValueError(
        fmt::format("hops: {} with {} coefficients, which make {} hops", *o.hops, last + 1, last));
  }
  if (o.tol) throw ValueError(fmt::format("tol: {} with kernel coefficients, whose sum is finite", *o.tol));
}

int hops_of(const DiffuseOptions& o) {
  return o.kernel == Kernel::coefficients ? static_cast<int>(o.coefficients.size()) - 1 : o.hops.value_or(0);
}

bool wants_double(const DiffuseOptions& o, const Graph& graph) {
  const auto weights = graph.weights();
  if (std::any_of(weights.begin(), weights.end(),
                  [](double w) { return w != 0 && (std::abs(w) < 1e-15 || std::abs(w) > 1e15); })) {
    return true;
  }
  switch (o.kernel) {
    case Kernel::ppr:
      return o.hops ? *o.hops > kFloatHops && o.teleport * kFloatHops < 1
                    : o.tol.value_or(1e-6) * o.teleport < 1e-4;
    case Kernel::heat:
      return o.t > kFloatHops || o.tol.value_or(1) < 1e-4;
    case Kernel::coefficients: {
      const bool mixed =
          std::any_of(o.coefficients.begin(), o.coefficients.end(), [](double c) { return c < 0; });
      return mixed || o.coefficients.size() > kFloatHops;
    }
  }
  return true;
}

template <class T>
TensorView<T> as_columns(const char* name, TensorView<T> x, Offset n) {
  if (x.lacks_data()) throw ValueError(fmt::format("{}: {} numbers without data", name, x.size()));
  if (x.rank == 1 && x.extent[0] == n) {
    TensorView<T> columns = x;
    columns.rank = 2;
    columns.extent = {n, 1, 1, 1};
    columns.stride = {x.stride[0], 1, 0, 0};
    return columns;
  }
  if (x.rank == 2 && x.extent[0] == n) return x;
  throw ValueError(fmt::format("{}: shape [{}{}] where [{}] or [{}, c] is wanted", name, x.extent[0],
                               x.rank == 2 ? fmt::format(", {}", x.extent[1]) : "", n, n));
}

template TensorView<float> as_columns(const char*, TensorView<float>, Offset);
template TensorView<double> as_columns(const char*, TensorView<double>, Offset);
template TensorView<const float> as_columns(const char*, TensorView<const float>, Offset);
template TensorView<const double> as_columns(const char*, TensorView<const double>, Offset);

}  // namespace manyhop::diffusion

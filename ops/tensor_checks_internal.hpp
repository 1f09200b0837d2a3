#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <string>
#include <string_view>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/tensor.hpp"

/// What checks of tensors at a public border say, the same for every operator.
namespace manyhop::ops {

/// "[2, 12, 64]"
template <class T>
std::string shape_text(const TensorView<T>& view) {
  std::string text = "[";
  for (int a = 0; a < view.rank; ++a)
    text += fmt::format("{}{}", a > 0 ? ", " : "", view.extent[static_cast<std::size_t>(a)]);
  return text + "]";
}

/// Throws ValueError for a view that lacks_data().
template <class T>
void check_data(std::string_view op, std::string_view name, const TensorView<T>& view) {
  if (view.lacks_data())
    throw ValueError(fmt::format("{}: {} has no data, its {} values must be given", op, name, view.size()));
}

}  // namespace manyhop::ops

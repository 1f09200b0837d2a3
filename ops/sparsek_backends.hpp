// What each backend defines for sparsek.cpp. Shapes are checked by then.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/ops/context.hpp"
#include "manyhop/ops/sparsek.hpp"

namespace manyhop::ops {

/// Rows of a matrix or of a flat array, alike.
template <class T>
struct RowsOf {
  TensorView<T> view;
  std::span<const Offset> offsets;

  Offset rows() const {
    return !offsets.empty() ? static_cast<Offset>(offsets.size()) - 1 : view.rank == 1 ? 1 : view.extent[0];
  }
  Offset size(Offset r) const {
    if (offsets.empty()) return view.rank == 1 ? view.extent[0] : view.extent[1];
    const auto at = static_cast<std::size_t>(r);
    return offsets[at + 1] - offsets[at];
  }
  Offset step() const { return view.rank == 1 ? view.stride[0] : view.stride[1]; }
  T* row(Offset r) const {
    if (offsets.empty()) return view.rank == 1 ? view.data : view.data + r * view.stride[0];
    return view.data + offsets[static_cast<std::size_t>(r)] * view.stride[0];
  }
};

struct SparsekCall {
  double k = 0;
  std::span<const double> row_k;
  double temperature = 1;
  SparsekMethod method = SparsekMethod::linear;
  std::span<double> tau;

  double k_of(Offset r) const { return row_k.empty() ? k : row_k[static_cast<std::size_t>(r)]; }
  void set_tau(Offset r, double value) const {
    if (!tau.empty()) tau[static_cast<std::size_t>(r)] = value;
  }
};

namespace reference {
template <class T>
void sparsek(const SparsekCall& call, const RowsOf<const T>& z, const RowsOf<T>& p);
}
namespace cpu {
template <class T>
void sparsek(const SparsekCall& call, const RowsOf<const T>& z, const RowsOf<T>& p);
}

}  // namespace manyhop::ops

// One head of SparseK attention, by plain loops and by panels.
#pragma once

#include <vector>

#include "manyhop/engine/sparsek/attention.hpp"
#include "manyhop/engine/sparsek/rows_internal.hpp"

namespace manyhop::sparsek_head {

inline constexpr Offset kChunk = 256;  // rows of a task, a multiple of the panel's 32

template <class T>
struct Input {
  Offset n = 0;
  Offset d = 0;
  Offset d_value = 0;
  TensorView<const T> q, k, v;  // [n, d], [n, d], [n, d_value]
  const CausalSelection* selection = nullptr;
  const SelectionRows* rows = nullptr;  // cut in kChunk
  Join join;
  Gate gate = Gate::values;
  int hops = 1;
  double teleport = 0;
  double scale = 1;

  bool always(Offset i, Offset j) const { return j < join.sinks || j > i - join.window; }
};

template <class T>
struct Output {
  TensorView<T> out;      // [n, d_value]
  TensorView<float> lse;  // [n] or empty
};

/// Sums over the heads that share k and v, or scores; the caller clears them and writes them out.
template <class T>
struct Gradient {
  TensorView<const T> g;        // [n, d_value]
  TensorView<T> q;              // [n, d], overwritten, or empty
  std::vector<double>* k;       // [n d]
  std::vector<double>* v;       // [n d_value]
  std::vector<double>* scores;  // [n]
};

namespace reference {
template <class T>
void forward(const Input<T>& in, const Output<T>& out);
template <class T>
void backward(const Input<T>& in, const Gradient<T>& gradient);
}  // namespace reference

namespace cpu {
/// Bytes of scratch that a head takes.
template <class T>
std::size_t bytes(Offset n, Offset d, Offset d_value, int hops, bool backward);
template <class T>
void forward(const Input<T>& in, const Output<T>& out);
template <class T>
void backward(const Input<T>& in, const Gradient<T>& gradient);
}  // namespace cpu

}  // namespace manyhop::sparsek_head

// In the place of the CUDA sources where a build has none.
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/ops/cuda/attention.hpp"
#include "manyhop/ops/cuda/product.hpp"
#include "manyhop/ops/cuda/selection.hpp"
#include "manyhop/ops/cuda/signals.hpp"
#include "manyhop/ops/cuda/sparsek.hpp"
#include "manyhop/ops/cuda/sparsek_attention.hpp"

namespace manyhop::ops::cuda {

namespace {

[[noreturn]] void missing() { throw ValueError("backend: " + unavailable()); }

}  // namespace

bool compiled() { return false; }
std::string unavailable() { return "'cuda' is not in this build (configure with MANYHOP_CUDA=ON)"; }
int current_device() { return 0; }
void release_memory() {}
std::size_t DeviceGraphs::bytes() const { return 0; }
std::string DeviceGraphs::hops() const { return {}; }
std::string DeviceGraphs::captured() const { return {}; }

DeviceProduct::DeviceProduct(const ScaledGraph&) { missing(); }
std::size_t DeviceProduct::bytes() const { return 0; }
template <class C>
void DeviceProduct::apply(const C*, C*, Offset) const {
  missing();
}
template void DeviceProduct::apply<float>(const float*, float*, Offset) const;
template void DeviceProduct::apply<double>(const double*, double*, Offset) const;

template <class C>
struct DeviceSignals<C>::Data {};
template <class C>
DeviceSignals<C>::DeviceSignals(const DeviceProduct&, const EmptyLines&, const C*, Offset, Offset) {
  missing();
}
template <class C>
void DeviceSignals<C>::apply(int, int) {
  missing();
}
template <class C>
void DeviceSignals<C>::combine(int, double, int, double) {
  missing();
}
template <class C>
std::vector<double> DeviceSignals<C>::norms(ColumnNorm, int, int) const {
  missing();
}
template <class C>
void DeviceSignals<C>::read(int, C*) const {
  missing();
}
template <class C>
void DeviceSignals<C>::want_gradients(const DeviceProduct&, bool) {
  missing();
}
template <class C>
void DeviceSignals<C>::write(int, const C*) {
  missing();
}
template <class C>
void DeviceSignals<C>::apply_transposed(int, int) {
  missing();
}
template <class C>
double DeviceSignals<C>::dot(int, int) const {
  missing();
}
template <class C>
void DeviceSignals<C>::add_edge_gradient(int, int, double) {
  missing();
}
template <class C>
std::vector<double> DeviceSignals<C>::edge_gradient() const {
  missing();
}
template <class C>
void DeviceSignals<C>::add_restart_gradient(int, int, double, int) {
  missing();
}
template class DeviceSignals<float>;
template class DeviceSignals<double>;

DeviceGraphs upload(std::span<const Graph>, std::span<const Tiling>, DType, bool, bool, bool, Offset, int) {
  missing();
}

template <class T>
std::size_t workspace_bytes(const DeviceGraphs&, const AttentionCall<T>&, bool, HeadBackward) {
  missing();
}
template <class T>
void attention(const DeviceGraphs&, const AttentionCall<T>&, const AttentionResult<T>&) {
  missing();
}
template <class T>
void attention_backward(const DeviceGraphs&, const AttentionCall<T>&, const AttentionGradient<T>&) {
  missing();
}
template <class T>
void sparsek(const SparsekRows&, ScoreRows<const T>, ScoreRows<T>, double*) {
  missing();
}
template <class T>
void sparsek_derivative(const SparsekRows&, ScoreRows<const T>, ScoreRows<const T>, ScoreRows<T>,
                        ScoreRows<const T>, std::span<const double>, double*, double*) {
  missing();
}
template <class T>
SparsekCounts sparsek_attention(const SparsekCall<T>&, TensorView<T>, TensorView<float>) {
  missing();
}
template <class T>
SparsekCounts sparsek_attention_backward(const SparsekCall<T>&, const SparsekGradients<T>&) {
  missing();
}
template <class T>
SelectedRows causal_select(const SelectionCall&, ScoreRows<const T>) {
  missing();
}

#define MANYHOP_INSTANTIATE(T)                                                                               \
  template std::size_t workspace_bytes<T>(const DeviceGraphs&, const AttentionCall<T>&, bool, HeadBackward); \
  template void attention<T>(const DeviceGraphs&, const AttentionCall<T>&, const AttentionResult<T>&);       \
  template void attention_backward<T>(const DeviceGraphs&, const AttentionCall<T>&,                          \
                                      const AttentionGradient<T>&);                                          \
  template void sparsek<T>(const SparsekRows&, ScoreRows<const T>, ScoreRows<T>, double*);                   \
  template void sparsek_derivative<T>(const SparsekRows&, ScoreRows<const T>, ScoreRows<const T>,            \
                                      ScoreRows<T>, ScoreRows<const T>, std::span<const double>, double*,    \
                                      double*);                                                              \
  template SparsekCounts sparsek_attention<T>(const SparsekCall<T>&, TensorView<T>, TensorView<float>);      \
  template SparsekCounts sparsek_attention_backward<T>(const SparsekCall<T>&, const SparsekGradients<T>&)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE
template SelectedRows causal_select<float>(const SelectionCall&, ScoreRows<const float>);
template SelectedRows causal_select<double>(const SelectionCall&, ScoreRows<const double>);

}  // namespace manyhop::ops::cuda

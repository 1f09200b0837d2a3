#include "manyhop/ops/cuda/signals.hpp"

#include <cmath>

#include "manyhop/ops/cuda/product_data.cuh"
#include "manyhop/ops/cuda/signals.cuh"

namespace manyhop::ops::cuda {

namespace {

constexpr cudaStream_t kStream = nullptr;  // the products' own

std::int64_t chunks_of(std::int64_t rows) { return (rows + kRowsAChunk - 1) / kRowsAChunk; }

template <class X>
void copy(X* to, const X* from, std::int64_t count, cudaMemcpyKind kind) {
  if (count == 0) return;
  check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(count) * sizeof(X), kind, kStream),
        "cudaMemcpyAsync");
}

}  // namespace

template <class C>
struct DeviceSignals<C>::Data {
  explicit Data(const DeviceProduct& a) : product(a) {}

  DeviceProduct product;
  EmptyLines::Rule rule = EmptyLines::Rule::nothing;
  std::int64_t n = 0;
  std::int64_t columns = 0;
  std::int64_t stride = 1;
  DeviceArray<Index> lines;
  DeviceArray<double> block0_sum;
  Buffer memory;
  std::vector<C*> blocks;
  double* product_parts = nullptr;
  double* parts = nullptr;  // [chunks][stride]
  double* total = nullptr;  // [stride]

  std::int64_t cells() const { return n * stride; }
  C* block(int i) const { return blocks[static_cast<std::size_t>(i)]; }

  /// Folds a (less b) over all rows, or over the empty lines, into `total`.
  void fold(Fold how, const C* a, const C* b, bool of_lines) const {
    FoldCall<C> call;
    call.fold = how;
    call.a = a;
    call.b = b;
    call.lines = of_lines ? lines.data() : nullptr;
    call.count = of_lines ? lines.size() : n;
    call.stride = stride;
    call.width = lanes_a_row(stride);
    call.parts = parts;
    call.total = total;
    launch_warps(fold_rows<C>, chunks_of(call.count), 1, kStream, call);
    launch_warps(fold_chunks<C>, stride, 1, kStream, call);
  }
};

template <class C>
DeviceSignals<C>::DeviceSignals(const DeviceProduct& a, const EmptyLines& empty, const C* x, Offset columns,
                                int count)
    : data_(std::make_shared<Data>(a)) {
  Data& to = *data_;
  a.data().require_device();
  to.n = a.data().n_rows;
  to.columns = columns;
  to.stride = block_stride(columns);
  to.rule = empty.lines.empty() ? EmptyLines::Rule::nothing : empty.rule;
  if (to.rule != EmptyLines::Rule::nothing) {
    const std::vector<Index> lines(empty.lines.begin(), empty.lines.end());
    std::vector<double> sums(empty.block0_sum.begin(), empty.block0_sum.end());
    sums.resize(static_cast<std::size_t>(to.stride));  // of the padding: 0
    to.lines = {lines, kStream};
    to.block0_sum = {sums, kStream};
    check(cudaStreamSynchronize(kStream), "cudaStreamSynchronize");  // the vectors end here
  }
  to.blocks.resize(static_cast<std::size_t>(count));
  const auto carve = [&](Arena arena) {
    for (C*& block : to.blocks) block = arena.take<C>(to.cells());
    to.product_parts = arena.take<double>(a.data().parts(to.stride));
    to.parts = arena.take<double>(chunks_of(to.n) * to.stride);
    to.total = arena.take<double>(to.stride);
    return arena.used();
  };
  to.memory = Buffer(carve(Arena()), kStream);
  carve(Arena(to.memory.data()));
  copy(to.block(0), x, to.cells(), cudaMemcpyHostToDevice);
}

template <class C>
void DeviceSignals<C>::apply(int from, int to) {
  const Data& d = *data_;
  const C* x = d.block(from);
  C* y = d.block(to);
  if (d.cells() == 0) return;
  d.product.data().launch(x, y, d.product_parts, d.stride, kStream);
  using Rule = EmptyLines::Rule;
  if (d.rule == Rule::nothing) return;
  const bool to_lines = d.rule == Rule::self || d.rule == Rule::average;
  if (d.rule != Rule::self) d.fold(Fold::sum, x, nullptr, !to_lines);
  EmptyCall<C> call;
  call.lines = to_lines ? d.lines.data() : nullptr;
  call.count = to_lines ? d.lines.size() : d.n;
  call.stride = d.stride;
  call.x = d.rule == Rule::self ? x : nullptr;
  call.total = d.total;
  call.share = 1 / static_cast<double>(d.n);
  call.block0 = d.rule == Rule::restart ? d.block(0) : nullptr;
  call.block0_sum = d.block0_sum.data();
  call.y = y;
  launch_threads(fill_empty<C>, call.count * d.stride, 1, kStream, call);
}

template <class C>
void DeviceSignals<C>::combine(int to, double keep, int from, double factor) {
  const Data& d = *data_;
  const CombineCall<C> call{d.block(to), d.block(from), keep, factor, d.cells()};
  launch_threads(combine_blocks<C>, call.count, 1, kStream, call);
}

template <class C>
std::vector<double> DeviceSignals<C>::norms(ColumnNorm norm, int a, int b) const {
  const Data& d = *data_;
  std::vector<double> found(static_cast<std::size_t>(d.columns));
  if (d.cells() == 0) return found;
  const Fold how = norm == ColumnNorm::max   ? Fold::largest
                   : norm == ColumnNorm::one ? Fold::size
                                             : Fold::square;
  d.fold(how, d.block(a), b < 0 ? nullptr : d.block(b), false);
  copy(found.data(), d.total, d.columns, cudaMemcpyDeviceToHost);
  check(cudaStreamSynchronize(kStream), "cudaStreamSynchronize");
  if (norm == ColumnNorm::two) {
    for (double& value : found) value = std::sqrt(value);
  }
  return found;
}

template <class C>
void DeviceSignals<C>::read(int block, C* to) const {
  copy(to, static_cast<const C*>(data_->block(block)), data_->cells(), cudaMemcpyDeviceToHost);
  check(cudaStreamSynchronize(kStream), "cudaStreamSynchronize");
}

template class DeviceSignals<float>;
template class DeviceSignals<double>;

}  // namespace manyhop::ops::cuda

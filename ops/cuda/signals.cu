#include "manyhop/ops/cuda/signals.hpp"

#include <cmath>
#include <numeric>
#include <optional>

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

  std::optional<DeviceProduct> transposed;
  Buffer gradients;
  double* transposed_parts = nullptr;
  double* along = nullptr;  // [stride]
  double* edges = nullptr;  // by edge; null: not wanted
  std::int64_t edge_count = 0;

  std::int64_t cells() const { return n * stride; }
  C* block(int i) const { return blocks[static_cast<std::size_t>(i)]; }
  /// What the empty lines give y beside the product with x, but for restart.
  EmptyCall<C> empty_call(const C* x, C* y, bool to_lines) const;

  /// Folds a and b over all rows, or over the empty lines, into `to`.
  void fold(Fold how, const C* a, const C* b, bool of_lines, double* to) const {
    FoldCall<C> call;
    call.fold = how;
    call.a = a;
    call.b = b;
    call.lines = of_lines ? lines.data() : nullptr;
    call.count = of_lines ? lines.size() : n;
    call.stride = stride;
    call.width = lanes_a_row(stride);
    call.parts = parts;
    call.total = to;
    launch_warps(fold_rows<C>, chunks_of(call.count), 1, kStream, call);
    launch_warps(fold_chunks<C>, stride, 1, kStream, call);
  }
};

template <class C>
EmptyCall<C> DeviceSignals<C>::Data::empty_call(const C* x, C* y, bool to_lines) const {
  EmptyCall<C> call;
  call.lines = to_lines ? lines.data() : nullptr;
  call.count = to_lines ? lines.size() : n;
  call.stride = stride;
  call.x = rule == EmptyLines::Rule::self ? x : nullptr;
  call.total = total;
  call.share = 1 / static_cast<double>(n);
  call.y = y;
  return call;
}

template <class C>
DeviceSignals<C>::DeviceSignals(const DeviceProduct& a, const EmptyLines& empty, const C* x, Offset columns,
                                Offset count)
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
  if (d.rule != Rule::self) d.fold(Fold::sum, x, nullptr, !to_lines, d.total);
  EmptyCall<C> call = d.empty_call(x, y, to_lines);
  if (d.rule == Rule::restart) {
    call.block0 = d.block(0);
    call.block0_sum = d.block0_sum.data();
  }
  launch_threads(fill_empty<C>, call.count * d.stride, 1, kStream, call);
}

// A row that averages is a column that spreads, and the other way round.
template <class C>
void DeviceSignals<C>::apply_transposed(int from, int to) {
  const Data& d = *data_;
  const C* x = d.block(from);
  C* y = d.block(to);
  if (d.cells() == 0) return;
  d.transposed->data().launch(x, y, d.transposed_parts, d.stride, kStream);
  using Rule = EmptyLines::Rule;
  if (d.rule == Rule::nothing) return;
  const bool to_lines = d.rule != Rule::average;
  if (d.rule == Rule::restart) {
    d.fold(Fold::product, x, d.block(0), false, d.total);
  } else if (d.rule != Rule::self) {
    d.fold(Fold::sum, x, nullptr, !to_lines, d.total);
  }
  EmptyCall<C> call = d.empty_call(x, y, to_lines);
  if (d.rule == Rule::restart) call.block0_sum = d.block0_sum.data();
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
  d.fold(how, d.block(a), b < 0 ? nullptr : d.block(b), false, d.total);
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

template <class C>
void DeviceSignals<C>::want_gradients(const DeviceProduct& transposed, bool edges) {
  Data& d = *data_;
  d.transposed = transposed;
  if (edges) d.edge_count = d.product.data().columns.size();
  const auto carve = [&](Arena arena) {
    d.transposed_parts = arena.take<double>(transposed.data().parts(d.stride));
    d.along = arena.take<double>(d.stride);
    d.edges = arena.take<double>(d.edge_count);
    return arena.used();
  };
  d.gradients = Buffer(carve(Arena()), kStream);
  carve(Arena(d.gradients.data()));
  if (d.edge_count > 0) {
    check(cudaMemsetAsync(d.edges, 0, static_cast<std::size_t>(d.edge_count) * sizeof(double), kStream),
          "cudaMemsetAsync");
  }
}

template <class C>
void DeviceSignals<C>::write(int to, const C* from) {
  copy(data_->block(to), from, data_->cells(), cudaMemcpyHostToDevice);
}

template <class C>
double DeviceSignals<C>::dot(int a, int b) const {
  const Data& d = *data_;
  if (d.cells() == 0) return 0;
  d.fold(Fold::product, d.block(a), d.block(b), false, d.total);
  std::vector<double> found(static_cast<std::size_t>(d.columns));
  copy(found.data(), d.total, d.columns, cudaMemcpyDeviceToHost);
  check(cudaStreamSynchronize(kStream), "cudaStreamSynchronize");
  return std::accumulate(found.begin(), found.end(), 0.0);
}

template <class C>
void DeviceSignals<C>::add_edge_gradient(int b, int f, double factor) {
  const Data& d = *data_;
  if (d.edge_count == 0 || d.cells() == 0) return;
  const auto& a = d.product.data();
  EdgeGradientCall<C> call;
  call.tasks = a.tasks.data();
  call.task_count = a.tasks.size();
  call.columns = a.columns.data();
  call.b = d.block(b);
  call.f = d.block(f);
  call.factor = factor;
  call.stride = d.stride;
  call.width = lanes_a_row(d.stride);
  call.edges = d.edges;
  launch_warps(edge_gradients<C>, call.task_count, 1, kStream, call);
}

template <class C>
std::vector<double> DeviceSignals<C>::edge_gradient() const {
  const Data& d = *data_;
  std::vector<double> found(static_cast<std::size_t>(d.edge_count));
  copy(found.data(), static_cast<const double*>(d.edges), d.edge_count, cudaMemcpyDeviceToHost);
  check(cudaStreamSynchronize(kStream), "cudaStreamSynchronize");
  return found;
}

template <class C>
void DeviceSignals<C>::add_restart_gradient(int b, int f, double factor, int to) {
  const Data& d = *data_;
  if (d.rule != EmptyLines::Rule::restart || d.cells() == 0) return;
  d.fold(Fold::sum, d.block(f), nullptr, true, d.total);
  d.fold(Fold::product, d.block(b), d.block(0), false, d.along);
  RestartCall<C> call;
  call.b = d.block(b);
  call.lost = d.total;
  call.along = d.along;
  call.block0_sum = d.block0_sum.data();
  call.factor = factor;
  call.stride = d.stride;
  call.count = d.cells();
  call.to = d.block(to);
  launch_threads(restart_gradient<C>, call.count, 1, kStream, call);
}

template class DeviceSignals<float>;
template class DeviceSignals<double>;

}  // namespace manyhop::ops::cuda

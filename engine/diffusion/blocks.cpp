#include "manyhop/engine/diffusion/blocks.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/cuda/signals.hpp"

namespace manyhop::diffusion {

namespace {

constexpr Offset kCellGrain = Offset{1} << 14;

template <class T>
class HostBlocks final : public Blocks<T> {
 public:
  HostBlocks(const Walk<T>& walk, T* memory, const BlockOptions& options)
      : walk_(walk), memory_(memory), cells_(walk.size() * walk.stride()) {
    if (options.edge_gradient) edges_.resize(static_cast<std::size_t>(walk.graph().nnz()));
  }

  void apply(int from, int to) override { walk_.apply(block(from), block(to)); }

  void combine(int to_block, double keep, int from_block, double factor) override {
    T* const to = block(to_block);
    const T* const from = block(from_block);
    parallel_ranges(cells_, kCellGrain, [&](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i) {
        const double value = factor * static_cast<double>(from[i]);
        to[i] = static_cast<T>(keep == 0 ? value : keep * static_cast<double>(to[i]) + value);
      }
    });
  }

  std::vector<double> norms(Norm norm, int a, int b) override {
    return column_norms<T>(norm, block(a), b < 0 ? nullptr : block(b), walk_.size(), walk_.columns());
  }

  const T* read(int block_number) override { return block(block_number); }

  void write(int to, const T* from) override { std::copy(from, from + cells_, block(to)); }

  void apply_transposed(int from, int to) override { walk_.apply_transposed(block(from), block(to)); }

  double dot(int a_block, int b_block) override {
    const T* const a = block(a_block);
    const T* const b = block(b_block);
    std::vector<double> parts(static_cast<std::size_t>((cells_ + kCellGrain - 1) / kCellGrain));
    parallel_ranges(cells_, kCellGrain, [&](Offset begin, Offset end) {
      double sum = 0;
      for (Offset i = begin; i < end; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
      parts[static_cast<std::size_t>(begin / kCellGrain)] = sum;
    });
    return std::accumulate(parts.begin(), parts.end(), 0.0);
  }

  void add_edge_gradient(int b, int f, double factor) override {
    if (edges_.empty()) return;
    ops::graph_sddmm(walk_.graph(), block(b), block(f), walk_.columns(), factor, edges_.data());
  }
  std::vector<double> edge_gradient() override { return std::move(edges_); }

  void add_restart_gradient(int b, int f, double factor, int to) override {
    walk_.restart_gradient(block(b), block(f), factor, block(to));
  }

 private:
  T* block(int i) const { return memory_ + i * cells_; }

  const Walk<T>& walk_;
  T* memory_;
  Offset cells_;
  std::vector<double> edges_;
};

template <class T>
class DeviceBlocks final : public Blocks<T> {
 public:
  DeviceBlocks(const Walk<T>& walk, T* memory, const BlockOptions& options)
      : memory_(memory), signals_(walk.device(), walk.empty_lines(), memory, walk.columns(), options.count) {
    if (options.gradients) signals_.want_gradients(walk.device_transposed(), options.edge_gradient);
  }

  void apply(int from, int to) override { signals_.apply(from, to); }
  void combine(int to, double keep, int from, double factor) override {
    signals_.combine(to, keep, from, factor);
  }
  std::vector<double> norms(Norm norm, int a, int b) override { return signals_.norms(named(norm), a, b); }
  const T* read(int block) override {
    signals_.read(block, memory_);
    return memory_;
  }
  void write(int to, const T* from) override { signals_.write(to, from); }
  void apply_transposed(int from, int to) override { signals_.apply_transposed(from, to); }
  double dot(int a, int b) override { return signals_.dot(a, b); }
  void add_edge_gradient(int b, int f, double factor) override { signals_.add_edge_gradient(b, f, factor); }
  std::vector<double> edge_gradient() override { return signals_.edge_gradient(); }
  void add_restart_gradient(int b, int f, double factor, int to) override {
    signals_.add_restart_gradient(b, f, factor, to);
  }

 private:
  static ops::cuda::ColumnNorm named(Norm norm) {
    switch (norm) {
      case Norm::max:
        return ops::cuda::ColumnNorm::max;
      case Norm::one:
        return ops::cuda::ColumnNorm::one;
      case Norm::two:
        break;
    }
    return ops::cuda::ColumnNorm::two;
  }

  T* memory_;
  ops::cuda::DeviceSignals<T> signals_;
};

}  // namespace

Offset blocks_on_host(const Context& ctx, const BlockOptions& options) {
  return ctx.backend == Backend::cuda ? 1 : options.count;
}

template <class T>
std::unique_ptr<Blocks<T>> make_blocks(const Context& ctx, const Walk<T>& walk, T* memory,
                                       const BlockOptions& options) {
  if (ctx.backend == Backend::cuda) return std::make_unique<DeviceBlocks<T>>(walk, memory, options);
  return std::make_unique<HostBlocks<T>>(walk, memory, options);
}

template std::unique_ptr<Blocks<float>> make_blocks<float>(const Context&, const Walk<float>&, float*,
                                                           const BlockOptions&);
template std::unique_ptr<Blocks<double>> make_blocks<double>(const Context&, const Walk<double>&, double*,
                                                             const BlockOptions&);

}  // namespace manyhop::diffusion

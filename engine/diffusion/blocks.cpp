#include "manyhop/engine/diffusion/blocks.hpp"

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/cuda/signals.hpp"

namespace manyhop::diffusion {

namespace {

constexpr Offset kCellGrain = Offset{1} << 14;

template <class T>
class HostBlocks final : public Blocks<T> {
 public:
  HostBlocks(const Walk<T>& walk, T* memory)
      : walk_(walk), memory_(memory), cells_(walk.size() * walk.stride()) {}

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

  std::vector<double> norms(int a, int b) override {
    return column_norms<T>(walk_.norm(), block(a), b < 0 ? nullptr : block(b), walk_.size(), walk_.columns());
  }

  const T* read(int block_number) override { return block(block_number); }

 private:
  T* block(int i) const { return memory_ + i * cells_; }

  const Walk<T>& walk_;
  T* memory_;
  Offset cells_;
};

template <class T>
class DeviceBlocks final : public Blocks<T> {
 public:
  DeviceBlocks(const Walk<T>& walk, T* memory)
      : norm_(norm_of(walk.norm())),
        memory_(memory),
        signals_(walk.device(), walk.empty_lines(), memory, walk.columns(), Blocks<T>::kCount) {}

  void apply(int from, int to) override { signals_.apply(from, to); }
  void combine(int to, double keep, int from, double factor) override {
    signals_.combine(to, keep, from, factor);
  }
  std::vector<double> norms(int a, int b) override { return signals_.norms(norm_, a, b); }
  const T* read(int block) override {
    signals_.read(block, memory_);
    return memory_;
  }

 private:
  static ops::cuda::ColumnNorm norm_of(Norm norm) {
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

  ops::cuda::ColumnNorm norm_;
  T* memory_;
  ops::cuda::DeviceSignals<T> signals_;
};

}  // namespace

int blocks_on_host(const Context& ctx) { return ctx.backend == Backend::cuda ? 1 : Blocks<float>::kCount; }

template <class T>
std::unique_ptr<Blocks<T>> make_blocks(const Context& ctx, const Walk<T>& walk, T* memory) {
  if (ctx.backend == Backend::cuda) return std::make_unique<DeviceBlocks<T>>(walk, memory);
  return std::make_unique<HostBlocks<T>>(walk, memory);
}

template std::unique_ptr<Blocks<float>> make_blocks<float>(const Context&, const Walk<float>&, float*);
template std::unique_ptr<Blocks<double>> make_blocks<double>(const Context&, const Walk<double>&, double*);

}  // namespace manyhop::diffusion

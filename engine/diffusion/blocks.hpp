// The blocks of a forward diffusion and what a hop does to them: on the host, or on a device from the first
// hop to the last.
#pragma once

#include <memory>
#include <vector>

#include "manyhop/engine/diffusion/walk.hpp"

namespace manyhop::diffusion {

/// Block 0 is the signal; blocks are named by number.
template <class T>
class Blocks {
 public:
  static constexpr int kCount = 4;
  virtual ~Blocks() = default;
  Blocks() = default;
  Blocks(const Blocks&) = delete;
  Blocks& operator=(const Blocks&) = delete;

  /// to = A from.
  virtual void apply(int from, int to) = 0;
  /// to = keep to + factor from; with keep = 0 what `to` holds does not count.
  virtual void combine(int to, double keep, int from, double factor) = 0;
  /// Of each column of a - b in the walk's norm; b < 0: of a.
  virtual std::vector<double> norms(int a, int b) = 0;
  /// A block on the host. The signal may be gone.
  virtual const T* read(int block) = 0;
};

/// Blocks of host memory that the context's backend takes for one block of the signal.
int blocks_on_host(const Context& ctx);

/// `memory` holds blocks_on_host() blocks [n][stride] of the walk, of which the first is the signal; the walk
/// has started on it.
template <class T>
std::unique_ptr<Blocks<T>> make_blocks(const Context& ctx, const Walk<T>& walk, T* memory);

}  // namespace manyhop::diffusion

// The blocks of a diffusion or of its gradient, and what a hop does to them: on the host, or on a device from
// the first hop to the last.
#pragma once

#include <memory>
#include <vector>

#include "manyhop/engine/diffusion/walk.hpp"

namespace manyhop::diffusion {

/// Blocks are named by number, block 0 is the signal.
template <class T>
class Blocks {
 public:
  virtual ~Blocks() = default;
  Blocks() = default;
  Blocks(const Blocks&) = delete;
  Blocks& operator=(const Blocks&) = delete;

  /// to = A from.
  virtual void apply(int from, int to) = 0;
  /// to = keep to + factor from; with keep = 0 what `to` holds does not count.
  virtual void combine(int to, double keep, int from, double factor) = 0;
  /// Of each column of a - b; b < 0: of a.
  virtual std::vector<double> norms(Norm norm, int a, int b) = 0;
  /// A block on the host, until the next call; on a device it takes the place of the signal there.
  virtual const T* read(int block) = 0;

  // What gradients take, where the blocks were made for them.

  /// A block [n][stride] of the host, which stays as it is.
  virtual void write(int to, const T* from) = 0;
  /// to = A^T from.
  virtual void apply_transposed(int from, int to) = 0;
  /// Over all rows and columns.
  virtual double dot(int a, int b) = 0;
  /// factor d<b, A f> by the entries of A, added up over the calls.
  virtual void add_edge_gradient(int b, int f, double factor) = 0;
  /// Their sums, by edge; empty unless they were wanted.
  virtual std::vector<double> edge_gradient() = 0;
  /// to += factor d<b, A f> by the signal, where empty columns return to it.
  virtual void add_restart_gradient(int b, int f, double factor, int to) = 0;
};

struct BlockOptions {
  Offset count = 4;
  bool gradients = false;
  bool edge_gradient = false;
};

/// Blocks of host memory that the context's backend takes.
Offset blocks_on_host(const Context& ctx, const BlockOptions& options);

/// `memory` holds blocks_on_host() blocks [n][stride] of the walk, of which the first is the signal; the walk
/// has started on it.
template <class T>
std::unique_ptr<Blocks<T>> make_blocks(const Context& ctx, const Walk<T>& walk, T* memory,
                                       const BlockOptions& options);

}  // namespace manyhop::diffusion

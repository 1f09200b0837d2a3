// Signals of a diffusion that stay on a CUDA device from hop to hop. No CUDA type: a build without CUDA links
// not_compiled.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "manyhop/ops/cuda/product.hpp"

namespace manyhop::ops::cuda {

/// What empty rows or columns of A give beside y = A x.
struct EmptyLines {
  enum class Rule : std::uint8_t {
    nothing,
    self,     // y_i += x_i for the lines
    average,  // y_i += sum x / n for the lines
    spread,   // every y_i += (sum of x over the lines) / n
    restart,  // every y_i += (sum of x over the lines) block0_i / sum block0, 0 where that sum is
  };
  Rule rule = Rule::nothing;
  std::span<const Index> lines = {};
  std::span<const double> block0_sum = {};  // [columns]; restart
};

enum class ColumnNorm : std::uint8_t { max, one, two };

/// Blocks [n][block_stride(columns)] in device memory, and what one hop does to them.
///
/// Memory   `count` blocks, 16 bytes for each column of 1024 rows, what the products want beside their
/// vectors, 8 bytes an edge for its gradient. Order   sums over rows in double, 1024 rows at a time in one
/// order: the same bits in every run. Errors   LimitError without the memory, ValueError on another device
/// than the product's. Only what comes back to the host waits for the device.
template <class C>  // float, double
class DeviceSignals {
 public:
  struct Data;
  /// Block 0 is x [n][block_stride(columns)] of the host; the others hold nothing yet.
  DeviceSignals(const DeviceProduct& a, const EmptyLines& empty, const C* x, Offset columns, Offset count);

  /// to = A from, with the empty lines.
  void apply(int from, int to);
  /// to = keep to + factor from; with keep = 0 what `to` holds does not count.
  void combine(int to, double keep, int from, double factor);
  /// Of each column of a - b; b < 0: of a.
  std::vector<double> norms(ColumnNorm norm, int a, int b) const;
  void read(int block, C* to) const;

  /// Before what follows; block 0 stays as it is from here on. `edges`: with the gradient of every edge.
  void want_gradients(const DeviceProduct& transposed, bool edges);
  void write(int to, const C* from);
  /// to = A^T from, with the empty lines.
  void apply_transposed(int from, int to);
  /// Over all rows and columns.
  double dot(int a, int b) const;
  /// For every edge (i <- j) of A: += factor <block b, row i; block f, row j>; nothing unless wanted.
  void add_edge_gradient(int b, int f, double factor);
  std::vector<double> edge_gradient() const;
  /// Rule::restart: to += factor d<block b, A block f> by block 0; else nothing.
  void add_restart_gradient(int b, int f, double factor, int to);

 private:
  std::shared_ptr<Data> data_;
};

}  // namespace manyhop::ops::cuda

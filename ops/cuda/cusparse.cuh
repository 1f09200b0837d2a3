// Hops of single edges by cuSPARSE's SpMM: the other way beside edge_hop. The library is opened at run time;
// a machine without it has one way less and nothing else changes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "manyhop/graphs/graph.hpp"
#include "manyhop/ops/cuda/runtime.cuh"

namespace manyhop::ops::cuda {

/// Sums [n_rows][width] = A Z for values of the edges of a graph that are given with each product; C float or
/// double. Holds descriptors, the analysis of the structure and its workspace. SPMM_CSR_ALG3: the same bits
/// in every run.
template <class C>
class SparseProduct {
 public:
  /// `columns`: the graph's, on the device. Below 2^31 edges only.
  SparseProduct(const Graph& graph, const Index* columns, int width, cudaStream_t stream);
  ~SparseProduct();
  SparseProduct(const SparseProduct&) = delete;
  SparseProduct& operator=(const SparseProduct&) = delete;

  /// Queued on the stream; uses on several streams follow each other.
  void multiply(const C* values, const C* z, C* sums, cudaStream_t stream);
  /// For a graph of several products: work() queues on the stream after all earlier uses and before all later
  /// ones, and calls record() where multiply() would be called.
  void in_turn(cudaStream_t stream, const std::function<void()>& work);
  void record(const C* values, const C* z, C* sums, cudaStream_t stream);
  std::size_t bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Why SparseProduct cannot be made; empty where it can.
std::string sparse_library_missing();

/// MANYHOP_CUDA_HOPS=own|cusparse|measure (the default), read once. Throws ValueError.
enum class HopChoice : std::uint8_t { own, cusparse, measure };
HopChoice hop_choice();

}  // namespace manyhop::ops::cuda

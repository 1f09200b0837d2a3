// Attention and its gradients on a CUDA device, for all heads of a call. No CUDA type: a build without CUDA
// links not_compiled.cpp in place of the rest of this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/tiling.hpp"
#include "manyhop/ops/attention_head.hpp"
#include "manyhop/ops/dropout.hpp"
#include "manyhop/ops/edge_value.hpp"

namespace manyhop::ops::cuda {

/// Whether this build has CUDA code.
bool compiled();
/// Empty where a device can be used, else why not.
std::string unavailable();

/// The device that this thread's calls use; 0 where there is none.
int current_device();

/// Device memory that calls have given back is held for the next ones; this gives it to the devices, and
/// waits for them. Nothing where no device was used.
void release_memory();

/// The graphs of a plan in device memory. Copies share them. The memory outlives the last copy until work
/// that reads it is done, on whatever stream; that of a graph whose calls a caller has captured is never
/// freed.
class DeviceGraphs {
 public:
  struct Data;
  explicit DeviceGraphs(std::shared_ptr<Data> data = nullptr) : data_(std::move(data)) {}
  bool empty() const { return data_ == nullptr; }
  std::size_t bytes() const;
  /// Which way hops of single edges go and why, for people; empty with tiles.
  std::string hops() const;
  /// What became of capturing hops as CUDA Graphs, for people.
  std::string captured() const;
  Data& data() const { return *data_; }
  const std::shared_ptr<Data>& shared() const { return data_; }

 private:
  std::shared_ptr<Data> data_;
};

/// Tiles where `dtype` is bf16, or f32 with `tf32`, single edges else; the transposed graphs too where
/// `backward`. `units`: heads times batch, for the size of tasks. `features`: the wider of keys' and values',
/// for which hops of f32 and f64 are measured both ways, by own kernels and by cuSPARSE, unless
/// `deterministic`, which takes the own ones. What was measured for a graph of as many rows, columns and
/// edges, a width, a type, a device and as many units holds for all such plans of the process, so that they
/// have the same bits; MANYHOP_CUDA_HOPS=own|cusparse decides for all processes. Throws ValueError where
/// there is no device, LimitError where it has not the memory.
DeviceGraphs upload(std::span<const Graph> graphs, std::span<const Tiling> tilings, DType dtype, bool tf32,
                    bool deterministic, bool backward, Offset units, int features);

/// Where a call's tensors are: on the host (absent), and then the call copies and waits; or on the device,
/// and the work is queued on this stream (a cudaStream_t) and the call returns at once.
using Stream = std::optional<std::uintptr_t>;

/// What forward and backward are given. Tensors have rank 4 and the extents of the call.
template <class T>
struct AttentionCall {
  using C = EdgeValue<T>;
  Stream stream{};
  std::size_t memory_limit = 0;  // bytes of device memory; 0: what is free
  // Bytes that a forward call takes at most where it can without leaving the device idle; 0: those of its
  // tensors, or 64 MiB.
  std::size_t scratch_aim = 0;
  Offset batch = 1;
  int heads = 1;
  int kv_heads = 1;
  int d = 0;
  int d_value = 0;
  TensorView<const T> q, k, v;
  int hops = 1;
  double teleport = 0;
  double scale = 1;
  // By edge; the head's and the batch item's first edge are this far apart (0: shared). With a graph for each
  // head `first_edge` [heads] says where a head's edges begin.
  const C* bias = nullptr;
  Offset bias_batch = 0;
  Offset bias_head = 0;
  Offset bias_count = 0;  // values in all
  std::span<const Offset> first_edge{};
  std::span<const Offset> lengths{};
  Dropout edge_dropout{};
  Dropout hop_dropout{};
  std::uint64_t seed = 0;
};

template <class T>
struct AttentionResult {
  using C = EdgeValue<T>;
  TensorView<T> out;
  C* lse = nullptr;  // [batch][heads][n_rows]
  C* weights = nullptr;
  Offset weights_batch = 0;
  Offset weights_head = 0;
  Offset weights_count = 0;
};

template <class T>
struct AttentionGradient {
  using C = EdgeValue<T>;
  TensorView<const T> g;
  const C* g_lse = nullptr;  // [batch][heads][n_rows]
  TensorView<T> q, k, v;     // empty ones are not computed
  C* bias = nullptr;         // strides like the call's bias
  Offset bias_batch = 0;
  Offset bias_head = 0;
  Offset bias_count = 0;
  double* teleport = nullptr;  // on the host; wanting it waits for the device
  HeadBackward mode = HeadBackward::stored;
};

/// Bytes of device memory that a call takes beside its tensors and the graphs.
template <class T>
std::size_t workspace_bytes(const DeviceGraphs& graphs, const AttentionCall<T>& call, bool backward,
                            HeadBackward mode);
template <class T>
void attention(const DeviceGraphs& graphs, const AttentionCall<T>& call, const AttentionResult<T>& result);
template <class T>
void attention_backward(const DeviceGraphs& graphs, const AttentionCall<T>& call,
                        const AttentionGradient<T>& gradient);

}  // namespace manyhop::ops::cuda

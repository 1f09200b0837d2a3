// Hops after the first as CUDA Graphs: a call that comes again with the same memory queues them by one
// launch.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <vector>

namespace manyhop::ops::cuda {

/// Whether what is queued on this stream becomes part of a graph of the caller's; true where the device does
/// not tell.
bool is_captured(cudaStream_t stream);

/// Everything that launches of hops are made from and that calls of one plan may have different: two series
/// of hops with equal keys are the same launches with the same arguments.
struct HopsKey {
  enum class Series : std::uint8_t { forward, starts, kept, back, fixed_point, fixed_point_back };
  const void* values = nullptr;   // V
  const void* rows[3] = {};       // what else the series reads and writes
  const void* scratch = nullptr;  // the first array of SideMemory, whose other places follow from the group
  const void* lengths = nullptr;
  const void* dropout_keys = nullptr;
  std::uint32_t dropout_threshold = 0;
  double dropout_scale = 1;
  double teleport = 0;
  std::int64_t call[4] = {};   // batch, heads, key/value heads, padded features
  std::int64_t group[4] = {};  // first, step, count, and of how many units the scratch is
  int type = 0;                // bytes of a stored value
  int graph = 0;
  Series series = Series::forward;
  int segment = 0;  // of the backward pass: hops that are kept
  int begin = 0;
  int count = 0;

  bool operator==(const HopsKey&) const = default;
};

/// The graphs of a plan. The first time that a key is seen hops are queued one by one (which loads their
/// kernels); the second time they are captured; from then on they are launched. The least recently used one
/// leaves for a new one. Any thread may call.
class CapturedHops {
 public:
  static constexpr std::size_t kMost = 64;  // keys that are remembered
  static constexpr int kLeastHops = 2;      // one is not worth a graph
  static constexpr int kMostHops = 512;

  CapturedHops();
  ~CapturedHops();
  CapturedHops(const CapturedHops&) = delete;
  CapturedHops& operator=(const CapturedHops&) = delete;

  /// Whether hops on this stream may be launched as a graph: not while it is being captured itself.
  bool wanted(cudaStream_t stream, int hops) const;
  /// Queues the hops on `stream` as a graph and returns true; false: the caller queues them. `record` queues
  /// them on the stream that it is given, where they are captured and do not run.
  bool launch(const HopsKey& key, cudaStream_t stream, const std::function<void(cudaStream_t)>& record);
  /// What became of it, for people.
  std::string told() const;

 private:
  struct Entry {
    HopsKey key;
    cudaGraphExec_t graph = nullptr;
    cudaEvent_t used = nullptr;  // its last launch
  };
  cudaGraphExec_t capture(const std::function<void(cudaStream_t)>& record);
  static void destroy(const Entry& entry);
  void retire(Entry& entry);
  void sweep();

  mutable std::mutex mutex_;
  std::list<Entry> entries_;    // most recently used first
  std::vector<Entry> retired_;  // left, and may still run
  cudaStream_t stream_ = nullptr;
  std::string off_;  // why there are none
  long captures_ = 0;
  long launches_ = 0;
};

}  // namespace manyhop::ops::cuda

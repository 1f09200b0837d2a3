#include "manyhop/ops/cuda/captured.cuh"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <string_view>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/ops/cuda/runtime.cuh"

namespace manyhop::ops::cuda {

namespace {

/// MANYHOP_CUDA_GRAPHS=0|1 (the default), read once. Throws ValueError.
bool graphs_asked() {
  static const bool asked = [] {
    const char* text = std::getenv("MANYHOP_CUDA_GRAPHS");
    const std::string_view value = text == nullptr ? "" : text;
    if (value.empty() || value == "1") return true;
    if (value == "0") return false;
    throw ValueError("MANYHOP_CUDA_GRAPHS is '" + std::string(value) + "': expected 0 or 1");
  }();
  return asked;
}

/// Ends a capture whatever happens in it.
class Capture {
 public:
  explicit Capture(cudaStream_t stream) : stream_(stream) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  }
  ~Capture() {
    if (open_) cudaStreamEndCapture(stream_, &graph_);
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
    if (open_) cudaGetLastError();
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  cudaGraph_t end() {
    open_ = false;
    check(cudaStreamEndCapture(stream_, &graph_), "cudaStreamEndCapture");
    return graph_;
  }

 private:
  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  bool open_ = true;
};

}  // namespace

bool is_captured(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(stream, &status) == cudaSuccess) return status != cudaStreamCaptureStatusNone;
  cudaGetLastError();
  return true;
}

CapturedHops::CapturedHops() {
  if (!graphs_asked()) off_ = "MANYHOP_CUDA_GRAPHS";
}

CapturedHops::~CapturedHops() {
  for (Entry& entry : entries_) retire(entry);
  for (const Entry& entry : retired_) {
    if (entry.used != nullptr) cudaEventSynchronize(entry.used);
    destroy(entry);
  }
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

void CapturedHops::destroy(const Entry& entry) {
  if (entry.used != nullptr) cudaEventDestroy(entry.used);
  if (entry.graph != nullptr) cudaGraphExecDestroy(entry.graph);
}

void CapturedHops::retire(Entry& entry) {
  retired_.push_back(entry);
  entry = {};
}

// A graph that may still run is not destroyed, and nobody waits for it either.
void CapturedHops::sweep() {
  std::erase_if(retired_, [](const Entry& entry) {
    if (entry.used != nullptr && cudaEventQuery(entry.used) != cudaSuccess) {
      cudaGetLastError();
      return false;
    }
    destroy(entry);
    return true;
  });
}

bool CapturedHops::wanted(cudaStream_t stream, int hops) const {
  if (hops < kLeastHops || hops > kMostHops) return false;
  const std::scoped_lock lock(mutex_);
  return off_.empty() && !is_captured(stream);
}

cudaGraphExec_t CapturedHops::capture(const std::function<void(cudaStream_t)>& record) {
  if (stream_ == nullptr) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  Capture open(stream_);
  record(stream_);
  cudaGraphExec_t graph = nullptr;
  check(cudaGraphInstantiateWithFlags(&graph, open.end(), 0), "cudaGraphInstantiateWithFlags");
  return graph;
}

bool CapturedHops::launch(const HopsKey& key, cudaStream_t stream,
                          const std::function<void(cudaStream_t)>& record) {
  const std::scoped_lock lock(mutex_);
  if (!off_.empty()) return false;
  sweep();
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.key == key; });
  if (found == entries_.end()) {
    entries_.push_front({key, nullptr, nullptr});
    if (entries_.size() > kMost) {
      retire(entries_.back());
      entries_.pop_back();
    }
    return false;
  }
  entries_.splice(entries_.begin(), entries_, found);
  Entry& entry = entries_.front();
  try {
    if (entry.graph == nullptr) {
      if (entry.used == nullptr) {
        check(cudaEventCreateWithFlags(&entry.used, cudaEventDisableTiming), "cudaEventCreateWithFlags");
      }
      entry.graph = capture(record);
      ++captures_;
    }
    check(cudaGraphLaunch(entry.graph, stream), "cudaGraphLaunch");
  } catch (const Error& error) {  // nothing was queued, and plain launches do the same work
    off_ = error.what();
    return false;
  }
  ++launches_;
  check(cudaEventRecord(entry.used, stream), "cudaEventRecord");
  return true;
}

std::string CapturedHops::told() const {
  const std::scoped_lock lock(mutex_);
  const std::string counts =
      std::to_string(captures_) + " captured, " + std::to_string(launches_) + " launched";
  if (!off_.empty()) return "none (" + off_ + ")" + (captures_ > 0 ? ", before that " + counts : "");
  return "hops after the first of a call that comes again: " + counts;
}

}  // namespace manyhop::ops::cuda

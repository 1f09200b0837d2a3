#include <algorithm>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

using Work = std::vector<std::function<void()>>;

struct CUgraph_st {
  Work nodes;
  std::vector<void*> memory;
};
struct CUgraphExec_st {
  Work nodes;
  std::vector<void*> memory;
};
struct CUstream_st {
  bool capturing = false;
  bool broken = false;
  CUgraph_st graph;
};
using Clock = std::map<int, long>;  // of each stream, by its number: how much of its work comes before
struct CUevent_st {
  cudaStream_t captured_in = nullptr;  // recorded in a capture of this stream
  Clock at;
};

namespace emulator {

namespace {

long waited = 0;
long copied = 0;
GraphCounts counts;
std::string failing;
bool events_held = false;
std::vector<float> times;  // the next one last

bool fails(const char* call) { return failing == call; }

// What comes before what: work of a stream, what it has waited for, and what the host has waited for.
struct Timeline {
  int number = 0;
  Clock seen;
};
std::map<cudaStream_t, Timeline>& timelines() {
  static std::map<cudaStream_t, Timeline> all{{nullptr, {}}};
  return all;
}
int last_number = 0;
Clock queued;
Clock seen_by_host;
long unordered = 0;

void merge(Clock& into, const Clock& from) {
  for (const auto& [number, count] : from) into[number] = std::max(into[number], count);
}
Timeline& timeline(cudaStream_t stream) {
  const auto found = timelines().find(stream);
  if (found == timelines().end()) throw std::logic_error("emulator: a stream that is no more");
  merge(found->second.seen, seen_by_host);
  return found->second;
}
void wait_for(const Clock& clock) {
  count_wait();
  merge(seen_by_host, clock);
}

}  // namespace

void queue(cudaStream_t stream, std::function<void()> work) {
  if (stream != nullptr && stream->capturing) {
    stream->graph.nodes.push_back(std::move(work));
  } else {
    Timeline& mine = timeline(stream);
    mine.seen[mine.number] = ++queued[mine.number];
    const Access access;
    work();
  }
}
bool keep_for_graph(cudaStream_t stream, void* memory) {
  if (stream == nullptr || !stream->capturing) return false;
  stream->graph.memory.push_back(memory);
  return true;
}
bool may_wait(cudaStream_t stream) {
  if (stream == nullptr || !stream->capturing) return true;
  stream->broken = true;
  return false;
}
long unordered_frees() { return unordered; }
void count_free(cudaStream_t stream) {
  if (timelines().count(stream) == 0) {
    ++unordered;
    return;
  }
  Clock& seen = timeline(stream).seen;
  for (const auto& [number, count] : queued) {
    if (seen[number] < count) {
      ++unordered;
      return;
    }
  }
}
long waits() { return waited; }
long host_copies() { return copied; }
void count_wait() { ++waited; }
void count_host_copy() { ++copied; }
GraphCounts graphs() { return counts; }
void fail_graphs_at(const char* call) { failing = call == nullptr ? "" : call; }
void hold_events(bool held) { events_held = held; }
void elapse(std::vector<float> milliseconds) {
  std::reverse(milliseconds.begin(), milliseconds.end());
  times = std::move(milliseconds);
}

}  // namespace emulator

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  if (emulator::fails("cudaStreamCreateWithFlags")) return cudaErrorMemoryAllocation;
  *stream = new CUstream_st;
  emulator::timelines()[*stream] = {++emulator::last_number, {}};
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  emulator::timelines().erase(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const bool capturing = stream != nullptr && stream->capturing;
  *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  emulator::wait_for(emulator::timeline(stream).seen);
  return emulator::may_wait(stream) ? cudaSuccess : cudaErrorStreamCaptureUnsupported;
}
cudaError_t cudaDeviceSynchronize() {
  emulator::wait_for(emulator::queued);
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || stream->capturing || emulator::fails("cudaStreamBeginCapture")) {
    return cudaErrorStreamCaptureUnsupported;
  }
  *stream = CUstream_st{true, false, {}};
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!stream->capturing) return cudaErrorStreamCaptureUnsupported;
  CUstream_st ended = std::exchange(*stream, CUstream_st{});
  if (ended.broken || emulator::fails("cudaStreamEndCapture")) return cudaErrorStreamCaptureInvalidated;
  *graph = new CUgraph_st(std::move(ended.graph));
  ++emulator::counts.captures;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  if (emulator::fails("cudaGraphInstantiateWithFlags")) return cudaErrorMemoryAllocation;
  *exec = new CUgraphExec_st{graph->nodes, std::exchange(graph->memory, {})};
  ++emulator::counts.alive;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  for (void* memory : graph->memory) cudaFreeAsync(memory, nullptr);
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  if (emulator::fails("cudaGraphLaunch")) return cudaErrorMemoryAllocation;
  ++emulator::counts.launches;
  for (const auto& node : exec->nodes) emulator::queue(stream, node);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  for (void* memory : exec->memory) cudaFreeAsync(memory, nullptr);
  delete exec;
  --emulator::counts.alive;
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->captured_in = stream != nullptr && stream->capturing ? stream : nullptr;
  event->at = emulator::timeline(stream).seen;
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  *ms = emulator::times.empty() ? 1 : emulator::times.back();
  if (!emulator::times.empty()) emulator::times.pop_back();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  emulator::wait_for(event->at);
  return event->captured_in == nullptr ? cudaSuccess : cudaErrorCapturedEvent;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event->captured_in != nullptr) return cudaErrorCapturedEvent;
  if (emulator::events_held) return cudaErrorNotReady;
  emulator::merge(emulator::seen_by_host, event->at);
  return cudaSuccess;
}
// An event from outside a capture has no meaning inside, nor the other way round.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const bool capturing = stream != nullptr && stream->capturing;
  if (capturing && event->captured_in != stream) {
    stream->broken = true;
    return cudaErrorStreamCaptureIsolation;
  }
  emulator::merge(emulator::timeline(stream).seen, event->at);
  return capturing || event->captured_in == nullptr ? cudaSuccess : cudaErrorCapturedEvent;
}

// Pageable memory goes through the host: it waits, and a capture does not allow it.
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (kind != cudaMemcpyDeviceToDevice) {
    emulator::count_host_copy();
    if (!emulator::may_wait(stream)) return cudaErrorStreamCaptureUnsupported;
  }
  if (bytes > 0) emulator::queue(stream, [=] { std::memcpy(to, from, bytes); });
  if (kind != cudaMemcpyDeviceToDevice) {
    emulator::merge(emulator::seen_by_host, emulator::timeline(stream).seen);
  }
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  if (bytes > 0) emulator::queue(stream, [=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}

// Streams, events and CUDA Graphs of the emulator. Work on a stream runs at once; on a stream that is being
// captured it becomes a closure of the graph, with its arguments as they are then, and runs at each launch.
// What a capture does not allow is refused and breaks it, as the runtime does.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal = 0,
  cudaStreamCaptureModeThreadLocal = 1,
  cudaStreamCaptureModeRelaxed = 2
};
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone = 0, cudaStreamCaptureStatusActive = 1 };
inline constexpr unsigned cudaStreamNonBlocking = 1;
inline constexpr unsigned cudaEventDefault = 0;
inline constexpr unsigned cudaEventDisableTiming = 2;
using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
using cudaGraph_t = struct CUgraph_st*;
using cudaGraphExec_t = struct CUgraphExec_st*;

namespace emulator {

/// Runs `work`, or records it where the stream is being captured.
void queue(cudaStream_t stream, std::function<void()> work);
/// Keeps memory that was freed while the stream was captured as long as the graph; false: the stream is not.
bool keep_for_graph(cudaStream_t stream, void* memory);
/// False where the stream is being captured: the call is not allowed and the capture is broken.
bool may_wait(cudaStream_t stream);

/// Blocks that were given back on a stream of which nobody can say that all work queued before, on whatever
/// stream, comes first; or on one that is no more. A call's own scratch counts where other streams work.
long unordered_frees();
void count_free(cudaStream_t stream);

/// Waits of the host for the device, and copies between them, since the program started.
long waits();
long host_copies();
void count_wait();
void count_host_copy();

struct GraphCounts {
  long captures = 0;  // that ended well
  long launches = 0;
  long alive = 0;  // executable ones
};
GraphCounts graphs();
/// The call of this name fails from now on; null: none does.
void fail_graphs_at(const char* call);
/// Milliseconds between events in the next measurements; without any it is 1.
void elapse(std::vector<float> milliseconds);
/// While true cudaEventQuery says that the work before an event is not done.
void hold_events(bool held);

}  // namespace emulator

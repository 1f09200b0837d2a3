// Enough of CUDA to run the kernels of ops/cuda on the host, lane by lane: what a test links in place of the
// toolkit.
//
// A warp is 32 fibers. A fiber runs until it meets an exchange (shuffle, tensor-core product), leaves its
// operands in its slot and waits; when every lane of the warp has come, each takes what it wants from the
// others' slots. Lanes run in another order in every round, so that nothing can hang on an order. A warp of
// which some lanes wait while others have ended, or that meet different exchanges, stops the test. Device
// memory is host memory with guards, filled with NaN.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>

#include "cuda_graphs.h"

// NOLINTBEGIN(bugprone-reserved-identifier): CUDA has these names
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  dim3(unsigned a, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};

extern thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

/// What a lane shows the others: up to 64 bytes, and which exchange it is in.
struct Slot {
  std::array<std::byte, 64> bytes;
  int kind = 0;
};

/// Leaves `bytes` in this lane's slot and returns when every lane of the warp has done so.
void exchange(const void* bytes, std::size_t count, int kind);
/// The slot of a lane in the exchange that this lane has just come out of.
const Slot& slot(int lane);
int lane();

/// Runs `body` for every thread of the grid, now or where the stream's graph is launched. Throws
/// std::logic_error where a warp falls apart.
void launch(cudaStream_t stream, dim3 grid, unsigned threads, std::function<void()> body);
/// Kernels that have run since the program started.
long launches();
/// The next so many allocations succeed, those after them fail; negative: all succeed.
void fail_allocations_after(int count);
/// Bytes that are allocated now.
std::size_t allocated();
/// Memory that is allocated while true lies in pages of its own that the host cannot read: only work of the
/// device and copies can. Slow where launches are many.
void guard_memory(bool guarded);
/// Device memory can be read while one of these lives.
class Access {
 public:
  Access();
  ~Access();
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;
};

/// The tensor cores' m16n8k16 product by its definition, with the operands' places as in the PTX ISA.
inline void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  const std::uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  exchange(mine, sizeof(mine), 2);
  const auto word = [](int from, int which) {
    std::uint32_t bits;
    std::memcpy(&bits, slot(from).bytes.data() + 4 * which, 4);
    return bits;
  };
  const auto half = [](std::uint32_t pair, int which) {
    return std::bit_cast<float>(which == 0 ? pair << 16 : pair & 0xffff0000U);
  };
  const int g = lane() / 4;
  const int t = lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i / 2);
    const int column = 2 * t + i % 2;
    for (int k = 0; k < 16; ++k) {
      const float left = half(word(row % 8 * 4 + k % 8 / 2, row / 8 + 2 * (k / 8)), k % 2);
      const float right = half(word(column * 4 + k % 8 / 2, 4 + k / 8), k % 2);
      c[i] += left * right;
    }
  }
}

/// m16n8k8 of TF32, whose operands must have been rounded to 10 bits of mantissa.
inline void multiply_tf32(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  const std::uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  for (const std::uint32_t word : mine) {
    if ((word & 0x1fffU) != 0) throw std::logic_error("emulator: an operand of TF32 that is not rounded");
  }
  exchange(mine, sizeof(mine), 3);
  const auto value = [](int from, int which) {
    float number;
    std::memcpy(&number, slot(from).bytes.data() + 4 * which, 4);
    return number;
  };
  const int g = lane() / 4;
  const int t = lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i / 2);
    const int column = 2 * t + i % 2;
    for (int k = 0; k < 8; ++k) {
      c[i] += value(row % 8 * 4 + k % 4, row / 8 + 2 * (k / 4)) * value(column * 4 + k % 4, 4 + k / 4);
    }
  }
}

}  // namespace emulator

template <class T>
T __shfl_xor_sync(unsigned, T value, int lanes) {
  emulator::exchange(&value, sizeof(value), 1);
  T other;
  std::memcpy(&other, emulator::slot(emulator::lane() ^ lanes).bytes.data(), sizeof(other));
  return other;
}

inline void __syncwarp(unsigned) {
  const char nothing = 0;
  emulator::exchange(&nothing, sizeof(nothing), 4);
}

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100,
  cudaErrorNotReady = 600,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureIsolation = 905,
  cudaErrorCapturedEvent = 907
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor = 75 };
enum cudaMemPoolAttr {
  cudaMemPoolAttrReleaseThreshold = 4,
  cudaMemPoolAttrReservedMemCurrent = 5,
  cudaMemPoolAttrUsedMemCurrent = 7,
  cudaMemPoolAttrUsedMemHigh = 8
};
using cudaMemPool_t = struct CUmemPoolHandle_st*;

cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream);
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end);
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorMemoryAllocation ? "out of memory" : "an error";
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize();
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 8;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = nullptr;
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, std::size_t keep);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr which, void* value);
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr which, void* value);
// NOLINTEND(bugprone-reserved-identifier)

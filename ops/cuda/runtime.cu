#include "manyhop/ops/cuda/runtime.cuh"

#include <algorithm>
#include <map>
#include <set>

#include "manyhop/ops/cuda/attention.hpp"
#include "manyhop/ops/cuda/captured.cuh"

namespace manyhop::ops::cuda {

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  const std::string text = std::string(call) + ": " + cudaGetErrorString(status);
  cudaGetLastError();  // an error that sticks would be found again by a call that has nothing to do with it
  if (status == cudaErrorMemoryAllocation) throw LimitError("device memory: " + text);
  throw Error("cuda: " + text);
}

namespace {

struct Pools {
  std::mutex mutex;
  std::set<int> devices;  // whose pools are kept
};
Pools& pools() {
  static Pools& one = *new Pools;
  return one;
}

/// What the pool of the current device holds and nobody uses goes back to the device, after all its work.
cudaError_t trim_pool() {
  int device = 0;
  cudaMemPool_t pool = nullptr;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess) status = cudaDeviceGetDefaultMemPool(&pool, device);
  if (status == cudaSuccess) status = cudaDeviceSynchronize();
  if (status == cudaSuccess) status = cudaMemPoolTrimTo(pool, 0);
  return status;
}

}  // namespace

void release_memory() {
  const std::scoped_lock lock(pools().mutex);
  if (pools().devices.empty()) return;
  int current = 0;
  check(cudaGetDevice(&current), "cudaGetDevice");
  for (const int device : pools().devices) {
    cudaError_t status = cudaSetDevice(device);
    if (status == cudaSuccess) status = trim_pool();
    cudaSetDevice(current);
    check(status, "cudaMemPoolTrimTo");
  }
}

void keep_pool(int device) {
  const std::scoped_lock lock(pools().mutex);
  pools().devices.insert(device);
  cudaMemPool_t pool = nullptr;
  check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  std::uint64_t keep = ~std::uint64_t{0};
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
}

cudaStream_t lasting_stream() {
  static std::mutex& mutex = *new std::mutex;
  static std::map<int, cudaStream_t>& streams = *new std::map<int, cudaStream_t>;
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  const std::scoped_lock lock(mutex);
  cudaStream_t& stream = streams[device];
  if (stream == nullptr) {
    keep_pool(device);
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  return stream;
}

StreamUses::~StreamUses() {
  for (const Use& use : uses_) cudaEventDestroy(use.done);
}

void StreamUses::record(cudaStream_t stream) noexcept {
  const std::scoped_lock lock(mutex_);
  const auto same = [&](const Use& use) { return use.stream == stream; };
  const auto done = [](const Use& use) {
    if (cudaEventQuery(use.done) == cudaSuccess) return true;
    cudaGetLastError();
    return false;
  };
  auto found = std::find_if(uses_.begin(), uses_.end(), same);
  if (found != uses_.end()) {
    // The stream may be another one where an earlier one was: its uses must not be forgotten.
    if (cudaStreamWaitEvent(stream, found->done, 0) != cudaSuccess) {
      cudaGetLastError();
      cudaEventSynchronize(found->done);
    }
  } else {
    constexpr std::size_t kMost = 16;  // before streams that come no more are looked for
    if (uses_.size() >= kMost) found = std::find_if(uses_.begin(), uses_.end(), done);
    if (found == uses_.end()) {
      cudaEvent_t event = nullptr;
      if (cudaEventCreateWithFlags(&event, cudaEventDisableTiming) != cudaSuccess) {
        cudaGetLastError();
        cudaStreamSynchronize(stream);
        return;
      }
      found = uses_.insert(uses_.end(), {stream, event});
    }
    found->stream = stream;
  }
  if (cudaEventRecord(found->done, stream) != cudaSuccess) {
    cudaGetLastError();
    cudaStreamSynchronize(stream);
  }
}

void StreamUses::come_before(cudaStream_t stream) noexcept {
  const std::scoped_lock lock(mutex_);
  for (const Use& use : uses_) {
    if (cudaStreamWaitEvent(stream, use.done, 0) == cudaSuccess) continue;
    cudaGetLastError();
    cudaEventSynchronize(use.done);
  }
}

dim3 grid_of(std::int64_t warps, std::int64_t units) {
  constexpr std::int64_t kMostBlocks = 0x7fffffff;
  constexpr std::int64_t kMostUnits = 65535;
  const std::int64_t blocks = warps / 4 + (warps % 4 > 0 ? 1 : 0);
  if (blocks > kMostBlocks || units > kMostUnits) {
    throw LimitError("cuda: a launch of " + std::to_string(blocks) + " blocks for " + std::to_string(units) +
                     " units, a grid holds " + std::to_string(kMostBlocks) + " for " +
                     std::to_string(kMostUnits));
  }
  return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(units));
}

Buffer::Buffer(std::size_t bytes, cudaStream_t stream) : bytes_(bytes), stream_(stream) {
  if (bytes == 0) return;
  void* memory = nullptr;
  cudaError_t status = cudaMallocAsync(&memory, bytes, stream);
  if (status == cudaErrorMemoryAllocation && !is_captured(stream)) {  // the pool may hold it in pieces
    cudaGetLastError();
    if (trim_pool() == cudaSuccess) status = cudaMallocAsync(&memory, bytes, stream);
  }
  check(status, "cudaMallocAsync");
  data_ = static_cast<std::byte*>(memory);
}

Buffer::~Buffer() { give_back(); }

void Buffer::give_back() noexcept {
  // Who asks for the last error next is not to blame.
  if (data_ != nullptr && cudaFreeAsync(data_, stream_) != cudaSuccess) cudaGetLastError();
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      stream_(other.stream_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    give_back();
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    stream_ = other.stream_;
  }
  return *this;
}

bool compiled() { return true; }

int current_device() {
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) cudaGetLastError();
  return device;
}

std::string unavailable() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return std::string("'cuda' has no device that can be used: ") + cudaGetErrorString(status);
  }
  if (devices == 0) return "'cuda' has no device that can be used: 0 were found";
  int device = 0;
  int major = 0;
  if (cudaGetDevice(&device) == cudaSuccess &&
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major < 8) {
    return "'cuda' wants compute capability 8.0 or newer, device " + std::to_string(device) + " has " +
           std::to_string(major) + ".x";
  }
  return "";
}

}  // namespace manyhop::ops::cuda

// The CUDA runtime behind a few owners: every status is checked where it comes up, destructors do not throw.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "manyhop/graphs/base/error.hpp"

namespace manyhop::ops::cuda {

/// Throws LimitError where the device has not the memory, else Error, naming the call. The device's own
/// record of the error is taken, so that the next call starts clean.
void check(cudaError_t status, const char* call);

/// The caller's stream, which travels as a number through what knows no CUDA; without one, the default
/// stream.
inline cudaStream_t stream_of(std::optional<std::uintptr_t> stream) {
  return reinterpret_cast<cudaStream_t>(stream.value_or(0));  // NOLINT(performance-no-int-to-ptr)
}

/// What the device's pool is given back stays there for the next call.
void keep_pool(int device);

/// The current device's stream for memory that outlives calls, which are queued on streams that come and go:
/// it waits for no other and is never destroyed. Its pool is kept as keep_pool() says.
cudaStream_t lasting_stream();

/// Memory from the device's stream-ordered pool, given back on the same stream.
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::size_t bytes, cudaStream_t stream);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  void give_back() noexcept;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  cudaStream_t stream_ = nullptr;
};

/// Up to where each stream uses memory that calls share.
class StreamUses {
 public:
  StreamUses() = default;
  ~StreamUses();
  StreamUses(const StreamUses&) = delete;
  StreamUses& operator=(const StreamUses&) = delete;
  /// After the last work of a call on a stream that is not being captured.
  void record(cudaStream_t stream) noexcept;
  /// What comes on `stream` from now on follows all uses; the host waits for none.
  void come_before(cudaStream_t stream) noexcept;

 private:
  struct Use {
    cudaStream_t stream = nullptr;
    cudaEvent_t done = nullptr;
  };
  std::mutex mutex_;
  std::vector<Use> uses_;
};

/// Cuts one block into arrays: a first pass without memory finds the size, a second hands out the places.
class Arena {
 public:
  explicit Arena(std::byte* base = nullptr) : base_(base) {}
  template <class X>
  X* take(std::int64_t count) {
    constexpr std::size_t kAlign = 256;
    const std::size_t at = used_;
    used_ += (static_cast<std::size_t>(count) * sizeof(X) + kAlign - 1) / kAlign * kAlign;
    return base_ == nullptr || count == 0 ? nullptr : reinterpret_cast<X*>(base_ + at);
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

/// A vector's copy on the device.
template <class X>
class DeviceArray {
 public:
  DeviceArray() = default;
  DeviceArray(const std::vector<X>& values, cudaStream_t stream)
      : buffer_(values.size() * sizeof(X), stream), size_(static_cast<std::int64_t>(values.size())) {
    if (!values.empty()) {
      check(cudaMemcpyAsync(buffer_.data(), values.data(), buffer_.bytes(), cudaMemcpyHostToDevice, stream),
            "cudaMemcpyAsync");
    }
  }
  const X* data() const { return reinterpret_cast<const X*>(buffer_.data()); }
  X* data() { return reinterpret_cast<X*>(buffer_.data()); }
  std::int64_t size() const { return size_; }
  std::size_t bytes() const { return buffer_.bytes(); }

 private:
  Buffer buffer_;
  std::int64_t size_ = 0;
};

/// Blocks of four warps for each of `units`. Throws LimitError beyond what a grid holds: 2^31 - 1 blocks,
/// 65535 units.
dim3 grid_of(std::int64_t warps, std::int64_t units);

/// Runs kernel(arguments) with `warps` warps (of 32 threads, four to a block) for each of `units`.
template <class P>
void launch_warps(void (*kernel)(P), std::int64_t warps, std::int64_t units, cudaStream_t stream,
                  const P& arguments) {
  constexpr unsigned kThreads = 128;
  if (warps <= 0 || units <= 0) return;
  const dim3 grid = grid_of(warps, units);
#ifdef __CUDACC__
  kernel<<<grid, kThreads, 0, stream>>>(arguments);
#else
  emulator::launch(stream, grid, kThreads, [kernel, arguments] { kernel(arguments); });
#endif
  check(cudaGetLastError(), "kernel launch");
}
template <class P>
void launch_threads(void (*kernel)(P), std::int64_t threads, std::int64_t units, cudaStream_t stream,
                    const P& arguments) {
  launch_warps(kernel, (threads + 31) / 32, units, stream, arguments);
}

}  // namespace manyhop::ops::cuda

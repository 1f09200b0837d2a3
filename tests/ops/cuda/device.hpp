// What the tests of the CUDA backend ask of the device: the emulator knows its memory, a real one is not
// asked.
#pragma once

/// A test of the device: without one it counts as skipped, not as passed.
#define DEVICE_CASE(name) TEST_CASE(name* doctest::skip(*manyhop::test::no_device() != '\0'))

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <vector>

namespace manyhop::test {

#ifdef MANYHOP_TEST_ON_DEVICE
inline constexpr bool kEmulated = false;
inline std::size_t device_bytes() { return 0; }
inline void fail_allocations_after(int) {}
inline void guard_memory(bool) {}
#else
inline constexpr bool kEmulated = true;
inline std::size_t device_bytes() { return emulator::allocated(); }
inline void fail_allocations_after(int count) { emulator::fail_allocations_after(count); }
inline void guard_memory(bool guarded) { emulator::guard_memory(guarded); }
#endif

/// Bytes of the device's pool that a call takes at most beside what is taken before it.
template <class F>
std::size_t most_taken(F&& call) {
  cudaMemPool_t pool = nullptr;
  std::uint64_t before = 0;
  std::uint64_t high = 0;
  if (cudaStreamSynchronize(nullptr) != cudaSuccess || cudaDeviceGetDefaultMemPool(&pool, 0) != cudaSuccess ||
      cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &before) != cudaSuccess ||
      cudaMemPoolSetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &high) != cudaSuccess) {
    throw std::runtime_error("the device's pool does not tell what is used");
  }
  call();
  if (cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &high) != cudaSuccess) {
    throw std::runtime_error("the device's pool does not tell what was used");
  }
  return static_cast<std::size_t>(high - before);
}

/// Device memory that is allocated in the life of one of these cannot be read by the host, as on a device.
class GuardedMemory {
 public:
  GuardedMemory() { guard_memory(true); }
  ~GuardedMemory() { guard_memory(false); }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;
};

/// Values in device memory: a vector's, or whatever they are.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(std::int64_t count) : count_(count) {
    void* memory = nullptr;
    if (cudaMallocAsync(&memory, bytes() + (count == 0 ? 1 : 0), nullptr) != cudaSuccess ||
        cudaStreamSynchronize(nullptr) != cudaSuccess) {
      throw std::runtime_error("the device has not the memory");
    }
    data_ = static_cast<T*>(memory);
  }
  explicit OnDevice(const std::vector<T>& values) : OnDevice(static_cast<std::int64_t>(values.size())) {
    write(values);
  }
  /// Waits for the default stream.
  void write(const std::vector<T>& values) {
    if (static_cast<std::int64_t>(values.size()) != count_)
      throw std::logic_error("another number of values");
    if (cudaMemcpyAsync(data_, values.data(), bytes(), cudaMemcpyHostToDevice, nullptr) != cudaSuccess ||
        cudaStreamSynchronize(nullptr) != cudaSuccess) {
      throw std::runtime_error("values do not reach the device");
    }
  }
  /// Waits for the stream.
  std::vector<T> read(cudaStream_t stream = nullptr) const {
    std::vector<T> values(static_cast<std::size_t>(count_));
    if (cudaMemcpyAsync(values.data(), data_, bytes(), cudaMemcpyDeviceToHost, stream) != cudaSuccess ||
        cudaStreamSynchronize(stream) != cudaSuccess) {
      throw std::runtime_error("values do not leave the device");
    }
    return values;
  }
  std::size_t bytes() const { return static_cast<std::size_t>(count_) * sizeof(T); }
  ~OnDevice() { cudaFreeAsync(data_, nullptr); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  std::int64_t count_;
};

/// Says why a test of the device does not run here; empty where it does. With MANYHOP_EXPECT_GPU there is no
/// reason, and what cannot use the device fails: a driver that is too old is no machine without a GPU.
inline const char* no_device() {
  if (std::getenv("MANYHOP_EXPECT_GPU") != nullptr) return "";
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0 ? "" : "skipped: no GPU";
}

}  // namespace manyhop::test

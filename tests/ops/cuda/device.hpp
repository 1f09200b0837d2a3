// What the tests of the CUDA backend ask of the device: the emulator knows its memory, a real one is not
// asked.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>

namespace manyhop::test {

#ifdef MANYHOP_TEST_ON_DEVICE
inline constexpr bool kEmulated = false;
inline std::size_t device_bytes() { return 0; }
inline void fail_allocations_after(int) {}
#else
inline constexpr bool kEmulated = true;
inline std::size_t device_bytes() { return emulator::allocated(); }
inline void fail_allocations_after(int count) { emulator::fail_allocations_after(count); }
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

/// Values in device memory, whatever they are.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(std::int64_t count) {
    void* memory = nullptr;
    if (cudaMallocAsync(&memory, static_cast<std::size_t>(count) * sizeof(T), nullptr) != cudaSuccess) {
      throw std::runtime_error("the device has not the memory");
    }
    data_ = static_cast<T*>(memory);
  }
  ~OnDevice() { cudaFreeAsync(data_, nullptr); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
};

/// Says why a test of the device does not run here; empty where it does. With MANYHOP_EXPECT_GPU there is no reason, and what
/// cannot use the device fails: a driver that is too old is no machine without a GPU.
inline const char* no_device() {
  if (std::getenv("MANYHOP_EXPECT_GPU") != nullptr) return "";
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0 ? "" : "skipped: no GPU";
}

}  // namespace manyhop::test

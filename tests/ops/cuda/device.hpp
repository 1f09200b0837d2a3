// What the tests of the CUDA backend ask of the device: the emulator knows its memory, a real one is not
// asked.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

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

/// Says why a test of the device does not run here; empty where it does.
inline const char* no_device() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0 ? "" : "skipped: no GPU";
}

}  // namespace manyhop::test

// Small inputs that reach the device without its waiting for the host: as arguments of a kernel, or made
// there.
#pragma once

#include "manyhop/ops/cuda/device.cuh"
#include "manyhop/ops/dropout.hpp"

namespace manyhop::ops::cuda {

/// Numbers that travel as a kernel's argument, of which there may be 4 KiB.
struct Numbers {
  static constexpr int kMost = 480;
  std::int64_t value[kMost] = {};
  int count = 0;
  std::int64_t* out = nullptr;
};

inline __global__ void __launch_bounds__(128) write_numbers(Numbers p) {
  const std::int64_t i = thread_id();
  if (i < p.count) p.out[i] = p.value[i];
}

/// The keys of a call's dropout, [edges, hops][units][2].
struct DropoutKeys {
  std::uint64_t seed = 0;
  std::int64_t units = 0;
  int heads = 1;
  std::uint32_t* out = nullptr;
};

inline __global__ void __launch_bounds__(128) make_dropout_keys(DropoutKeys p) {
  const std::int64_t i = thread_id();
  if (i >= 2 * p.units) return;
  const std::int64_t unit = i % p.units;
  const DropoutStream stream(p.seed, i < p.units ? DropoutStream::Use::edges : DropoutStream::Use::hops,
                             unit / p.heads, unit % p.heads);
  p.out[2 * i] = stream.key()[0];
  p.out[2 * i + 1] = stream.key()[1];
}

}  // namespace manyhop::ops::cuda

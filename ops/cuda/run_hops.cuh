// How the hops of a call are queued: one by one, or as the CUDA Graph of an earlier call.
#pragma once

#include "manyhop/ops/cuda/run.cuh"

namespace manyhop::ops::cuda {

template <class T>
template <class F>
void Run<T>::queue_hops(HopsKey key, const Side& side, const SideMemory<T>& memory, const Group& group,
                        std::int64_t scratch_units, F&& hop) const {
  const auto all = [&](const Run& run) {
    for (int t = key.begin; t < key.begin + key.count; ++t) hop(run, t);
  };
  // Hops that make weights are made from more than the key has.
  const bool made = !side.tiled || memory.tile_values != nullptr;
  if (!made || !graphs_.captured.wanted(stream_, key.count)) return all(*this);
  key.values = v_;
  key.scratch = memory.edge_values != nullptr ? static_cast<const void*>(memory.edge_values)
                                              : static_cast<const void*>(memory.tile_values);
  key.lengths = lengths_;
  key.dropout_keys = hop_dropout_.keys;
  key.dropout_threshold = hop_dropout_.threshold;
  key.dropout_scale = hop_dropout_.scale;
  key.teleport = call_.teleport;
  const std::int64_t shape[4] = {call_.batch, call_.heads, call_.kv_heads, padded_};
  std::copy(shape, shape + 4, key.call);
  const std::int64_t units[4] = {group.first, group.step, group.count, scratch_units};
  std::copy(units, units + 4, key.group);
  key.type = sizeof(T);
  bool launched = false;
  const auto launch = [&] {
    launched = graphs_.captured.launch(key, stream_, [&](cudaStream_t stream) {
      Run other = *this;
      other.stream_ = stream;
      other.recording_ = true;
      all(other);
    });
  };
  if constexpr (sizeof(T) >= 4) {
    if (memory.sums != nullptr) {
      side.template sparse<C>()->in_turn(stream_, launch);
    } else {
      launch();
    }
  } else {
    launch();
  }
  if (!launched) all(*this);
}

}  // namespace manyhop::ops::cuda

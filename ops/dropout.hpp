// Dropout masks that are a function of their key and nothing else: forward and backward, every thread count
// and every split of the work see the same mask, and no mask is ever stored.
//
//   A   edge e of head h, batch item b:                 lane e % 4 of block e / 4 of stream (seed, b, h)
//   Z   hop t, token i, channel c of head h, item b:    lane c % 4 of block (t, i, c / 4), same stream
//
// A draw is 32 uniform bits; it is kept iff bits >= threshold, so the drop probability is threshold / 2^32:
// p to within 2^-33. What is kept is multiplied by 1 / (1 - p).
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/base/types.hpp"

namespace manyhop {

struct Dropout {
  std::uint32_t threshold = 0;
  float scale = 1;     // 1 / (1 - p)
  double scale64 = 1;  // the same for double kernels

  /// Throws ValueError unless 0 <= p < 1.
  static Dropout of(double p) {
    if (!(p >= 0 && p < 1)) {
      throw ValueError("dropout: the probability is " + std::to_string(p) + "; it must be in [0, 1)");
    }
    Dropout dropout;
    // Rounding can reach 2^32 just below p = 1, which the 32-bit threshold cannot hold.
    dropout.threshold = static_cast<std::uint32_t>(std::min(std::round(p * 0x1p32), 0x1p32 - 1));
    dropout.scale64 = 1 / (1 - p);
    dropout.scale = static_cast<float>(dropout.scale64);
    return dropout;
  }
  bool active() const { return threshold > 0; }
  bool keeps(std::uint32_t bits) const { return bits >= threshold; }
};

/// The draws of one (seed, use, batch, head). Making one costs a philox, and so do four draws: kernels make
/// the stream once for a head and ask for whole blocks.
class DropoutStream {
 public:
  enum class Use : std::uint32_t { edges = 0x44524F41, hops = 0x44524F5A };

  constexpr DropoutStream(std::uint64_t seed, Use use, Offset batch, Offset head) {
    // Batch and head take 64 bits each, so they are hashed into the key rather than packed into the counter.
    const auto low = philox({word(batch, 0), word(batch, 1), static_cast<std::uint32_t>(use), 0},
                            {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
    const auto mixed = philox({word(head, 0), word(head, 1), low[2], low[3]}, {low[0], low[1]});
    key_ = {mixed[0], mixed[1]};
  }

  /// What the draws depend on beside their place.
  constexpr std::array<std::uint32_t, 2> key() const { return key_; }
  /// Draws of edges 4 block .. 4 block + 3.
  std::array<std::uint32_t, 4> edge_block(Offset block) const {
    return philox({word(block, 0), word(block, 1), 0, 0}, key_);
  }
  std::uint32_t edge(Offset e) const { return edge_block(e / 4)[static_cast<std::size_t>(e % 4)]; }

  /// Draws of channels 4 block .. 4 block + 3 of a token after a hop (hop 0 makes Z_1 from Z_0).
  std::array<std::uint32_t, 4> hop_block(int hop, Offset token, Offset block) const {
    return philox({word(token, 0), static_cast<std::uint32_t>(hop), word(block, 0), word(block, 1)}, key_);
  }
  std::uint32_t hop(int hop, Offset token, Offset channel) const {
    return hop_block(hop, token, channel / 4)[static_cast<std::size_t>(channel % 4)];
  }

 private:
  static constexpr std::uint32_t word(Offset value, int half) {
    return static_cast<std::uint32_t>(static_cast<std::uint64_t>(value) >> (32 * half));
  }
  std::array<std::uint32_t, 2> key_;
};

/// The 32 bits that decide on edge `edge` (CSR position) of A.
inline std::uint32_t edge_bits(std::uint64_t seed, Offset batch, Offset head, Offset edge) {
  return DropoutStream(seed, DropoutStream::Use::edges, batch, head).edge(edge);
}

/// The 32 bits that decide on one entry of Z_{hop+1}.
inline std::uint32_t hop_bits(std::uint64_t seed, Offset batch, Offset head, int hop, Offset token,
                              Offset channel) {
  return DropoutStream(seed, DropoutStream::Use::hops, batch, head).hop(hop, token, channel);
}

inline bool keep_edge(std::uint64_t seed, Offset batch, Offset head, Offset edge, std::uint32_t threshold) {
  return edge_bits(seed, batch, head, edge) >= threshold;
}

inline bool keep_hop(std::uint64_t seed, Offset batch, Offset head, int hop, Offset token, Offset channel,
                     std::uint32_t threshold) {
  return hop_bits(seed, batch, head, hop, token, channel) >= threshold;
}

}  // namespace manyhop

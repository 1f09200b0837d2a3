// `spectral --qkv`: the softmax matrices of given queries and keys, head by head.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "options.hpp"

namespace manyhop::cli {

struct SpectralQkv {
  std::string path;
  std::string pattern;  // empty: full
  std::optional<std::int64_t> hops, head;
  std::optional<double> teleport, scale;
  std::optional<std::size_t> layout;
  std::string stationary;  // .npy of [heads, n]

  bool any() const {
    return !path.empty() || !pattern.empty() || hops || head || scale || layout || !stationary.empty();
  }
};

/// Solves every head (or the one asked for) on the pattern, reports them and what the pattern says about
/// itself where it is causal. Exit code 3 when a head has not converged.
int spectral_qkv(Session& session, const SpectralQkv& request, GraphArgument graph);

}  // namespace manyhop::cli

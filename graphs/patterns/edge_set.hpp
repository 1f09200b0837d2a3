// A set of undirected edges for generators that must avoid repetitions, and the graph of an edge list.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/graph.hpp"

namespace manyhop::patterns {

/// Open addressing with linear probing at a load of at most one half; holds up to `capacity` edges.
class EdgeSet {
 public:
  EdgeSet(Offset n, Offset capacity)
      : n_(static_cast<std::uint64_t>(n)),
        slots_(std::bit_ceil(static_cast<std::size_t>(std::max<Offset>(capacity, 4)) * 2), kFree),
        shift_(64 - static_cast<int>(std::bit_width(slots_.size() - 1))) {}

  bool contains(Index u, Index v) const { return slots_[find(key(u, v))] != kFree; }
  /// False when the edge is there already.
  bool insert(Index u, Index v) {
    const std::uint64_t wanted = key(u, v);
    std::uint64_t& slot = slots_[find(wanted)];
    if (slot == wanted) return false;
    slot = wanted;
    return true;
  }
  void prefetch(Index u, Index v) const { __builtin_prefetch(&slots_[home(key(u, v))], 1); }
  /// Closes the gap by moving later members of the cluster back.
  void erase(Index u, Index v) {
    const std::size_t mask = slots_.size() - 1;
    std::size_t hole = find(key(u, v));
    if (slots_[hole] == kFree) return;
    for (std::size_t next = (hole + 1) & mask; slots_[next] != kFree; next = (next + 1) & mask) {
      const std::size_t wanted = home(slots_[next]);
      if (((next - wanted) & mask) >= ((next - hole) & mask)) {
        slots_[hole] = slots_[next];
        hole = next;
      }
    }
    slots_[hole] = kFree;
  }

 private:
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};

  std::uint64_t key(Index u, Index v) const {
    return static_cast<std::uint64_t>(std::min(u, v)) * n_ + static_cast<std::uint64_t>(std::max(u, v));
  }
  std::size_t home(std::uint64_t k) const {
    return static_cast<std::size_t>((k * 0x9E3779B97F4A7C15U) >> shift_);
  }
  std::size_t find(std::uint64_t k) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = home(k);
    while (slots_[slot] != kFree && slots_[slot] != k) slot = (slot + 1) & mask;
    return slot;
  }

  std::uint64_t n_;
  std::vector<std::uint64_t> slots_;
  int shift_;
};

/// The graph with u[e] - v[e] in both directions; the edges are distinct and have no loops.
inline Graph undirected_graph(Offset n, const std::vector<Index>& u, const std::vector<Index>& v) {
  std::vector<Offset> indptr(static_cast<std::size_t>(n) + 1);
  for (const Index a : u) ++indptr[static_cast<std::size_t>(a) + 1];
  for (const Index a : v) ++indptr[static_cast<std::size_t>(a) + 1];
  for (std::size_t i = 1; i < indptr.size(); ++i) indptr[i] += indptr[i - 1];
  std::vector<Offset> next(indptr.begin(), indptr.end() - 1);
  std::vector<Index> indices(static_cast<std::size_t>(indptr.back()));
  for (std::size_t e = 0; e < u.size(); ++e) {
    indices[static_cast<std::size_t>(next[static_cast<std::size_t>(u[e])]++)] = v[e];
    indices[static_cast<std::size_t>(next[static_cast<std::size_t>(v[e])]++)] = u[e];
  }
  parallel_ranges(n, 1024, [&](Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i) {
      std::sort(indices.begin() + indptr[static_cast<std::size_t>(i)],
                indices.begin() + indptr[static_cast<std::size_t>(i) + 1]);
    }
  });
  return Graph::from_csr(n, n, std::move(indptr), std::move(indices));
}

}  // namespace manyhop::patterns

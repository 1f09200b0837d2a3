// Search for the pattern that mixes best for a given cost.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "manyhop/graphs/graph.hpp"
#include "manyhop/ops/context.hpp"

namespace manyhop::spectral {

struct DesignOptions {
  Offset n = 0;
  double edges_per_token = 0;  // at most this many edges a token on average, `keep` included
  int align = 1;               // blocks are multiples of this many tokens
  bool causal = false;         // edges j <= i only; judged by reach instead of gap and capacity
  std::string keep;            // a pattern that every design contains; empty: none
  double max_ms = 0;           // designs that are slower when measured are left out; 0: no limit
  int seeds = 2;               // tried for each random part, 1 .. 64
  std::uint64_t seed = 0;      // the first of them, and of what `keep` leaves open
  int heads = 1;               // of the timed attention: f32, one hop
  int head_dim = 64;
  double tol = 1e-8;
  int repeat = 5;  // timed runs; the median counts
};

/// A pattern and what it does. Better: a larger gap, a larger capacity, less time (causal: reach and time).
struct Design {
  std::string text;
  bool baseline = false;  // bigbird, longformer or diffuser scaled to the same edges: for comparison
  bool pareto = false;    // no other design is at least as good in all and better in one
  Offset edges = 0;
  Offset padding = 0;
  double predicted_seconds = 0;
  double measured_seconds = 0;  // 0: not measured
  std::optional<double> gap;    // empty for causal designs
  double residual = 0;
  std::optional<double> capacity;
  double reach = 0;  // mean share of all columns within kReachHops hops
};

struct DesignResult {
  std::vector<Design> designs;        // the Pareto set and the baselines, best first
  std::optional<std::size_t> chosen;  // into `designs`; empty when nothing fits the budget
  // 1 - 2 sqrt(d - 1)/d, d = edges_per_token / align, for d > 2 and below what n / align blocks have room
  // for.
  std::optional<double> ceiling;
  int tried = 0;     // candidates that were built
  int left_out = 0;  // candidates that pass the memory limit
};

inline constexpr int kReachHops = 3;

/// Builds candidates within the edge budget (lifts of regular graphs, hypercubes and windows in blocks;
/// causal: the past of lifted windows, strides and regular graphs, and random pasts where align is 1),
/// measures gap, capacity and reach of each, times those that no other dominates by the planner's prediction,
/// and chooses: the largest gap of those with capacity of at least 0.9, else the largest gap times capacity;
/// causal: the largest reach. The search is the same on every machine, the times are not.
/// Cost about 30 builds and solves of n edges_per_token edges, and the timed runs.
/// Throws ValueError for n < 2, edges_per_token that is not finite or below 1, align outside 1 .. n, a `keep`
/// that is no pattern, or that alone passes the budget; LimitError where every candidate passes the memory
/// limit; Interrupted.
DesignResult design(const Context& ctx, const DesignOptions& options);

}  // namespace manyhop::spectral

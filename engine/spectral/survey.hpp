// All measures of one graph: the eigenvalues asked for, expansion, and those probes that are wanted or cheap.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "manyhop/engine/spectral/attention_matrix.hpp"
#include "manyhop/engine/spectral/expansion.hpp"
#include "manyhop/engine/spectral/gap.hpp"
#include "manyhop/engine/spectral/probes.hpp"

namespace manyhop::spectral {

/// Measures that take a while on a large graph.
struct Wanted {
  bool density = false;
  bool resistance = false;
  bool discrepancy = false;
  bool rank = false;
  bool hubs = false;
  bool complete = false;

  static Wanted all() { return {true, true, true, true, true, true}; }
};

struct SurveyOptions {
  SpectralOptions spectral;                   // reach_hops counts hops of reach, capacity and rank stay at 5
  Wanted wanted;                              // taken whatever the size
  Offset small = 2'000'000;                   // vertices + edges up to which all of `wanted` are taken
  std::vector<double> eps{0.1, 0.01, 0.001};  // of hops_for, each in (0, 1)
  double mixing_eps = 0.25;
  double teleport = 0.1;  // of hops_for
  std::uint64_t seed = 0;
};

inline constexpr int kSurveyHops = 5;  // of capacity and effective rank

struct Survey {
  GapResult gap;         // of the operator that was asked for
  GapResult normalized;  // of N: where the expansion measures come from; the same for Operator::normalized
  std::string reason;    // why the expansion measures are missing (negative weights); else empty
  SymmetricGraph s;
  Cheeger cheeger;
  std::optional<Cut> cut;
  Ramanujan ramanujan;
  MixingTime mixing;
  std::vector<HopsFor> hops_for;
  Diameter diameter;
  std::optional<double> capacity;
  std::vector<Reach> reach;
  // Triangular graphs of more than one vertex (causal patterns): eigenvalues of the walk say nothing.
  bool triangular = false;
  std::vector<Paths> paths;           // of reach_hops hops; for triangular graphs
  std::optional<GapResult> singular;  // for triangular graphs, small ones or those whose operator it is
  Offset reach_rows = 0;              // rows that reach was counted from: all (exact), or drawn by seed
  // Measures that were not taken are empty.
  std::optional<WithoutHubs> without_hubs;
  std::optional<CompleteDistance> complete_distance;
  std::optional<Estimate> effective_rank;
  std::optional<Resistance> resistance;
  std::optional<Discrepancy> discrepancy;
  std::optional<Density> density;
};

/// Solves, then measures; each measure has a work budget, and says what it found within it. Graphs with
/// negative weights (adjacency only) have eigenvalues and reach, and `reason`.
/// Throws what gap() throws, and ValueError for eps outside (0, 1) or teleport outside [0, 1].
Survey survey(const Context& ctx, const Graph& graph, const SurveyOptions& options = {});

}  // namespace manyhop::spectral

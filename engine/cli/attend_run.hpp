// One timed run of `attend` and its comparison with full attention.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "manyhop/engine/spectral/gap.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/reorder.hpp"
#include "options.hpp"
#include "qkv.hpp"

namespace manyhop::cli {

struct AttendRequest {
  DType dtype = DType::f32;  // q, k, v are in it already
  int hops = 1;
  double teleport = 0;
  std::optional<double> scale;
  int repeat = 1;
  Reorder reorder = Reorder::none;
  bool tf32 = false;
  bool explain = false;  // fill AttendRun::plan, which measures the machine first
  bool lse = false;
};

struct AttendRun {
  std::string pattern;
  Graph graph;
  Tensor out;               // in the request's dtype
  std::vector<double> lse;  // [b, h, n] when asked for
  double seconds = 0;
  double plan_seconds = 0;
  double gflops = 0;
  std::size_t peak_bytes = 0;
  std::vector<std::string> plan;
};

/// Plans, runs once to warm up (this run gives the LSE), then `repeat` times: seconds is their median.
/// Nothing computed from the values of q, k, v is kept between runs.
AttendRun attend(Session& session, const Graph& graph, const Qkv& in, const AttendRequest& request);

struct Comparison {
  double rel_l2 = 0;    // ||out - full|| / ||full||
  double cosine = 0;    // of the angle between them
  double coverage = 0;  // mean over rows and heads of full attention's mass on the edges
};

/// NaN where undefined (full is zero). Coverage needs no n x n: the softmax of row i puts
/// exp(lse_i - full lse_i) of its mass on the pattern's edges.
Comparison compare(const AttendRun& run, const AttendRun& full);

}  // namespace manyhop::cli

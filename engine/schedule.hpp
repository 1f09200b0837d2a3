// How the heads of a call share threads and memory: all threads on different heads, or all on one; A kept
// between hops or made again. Every choice gives the same bits.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <string>

#include "manyhop/engine/plan.hpp"
#include "manyhop/ops/attention_head.hpp"
#include "manyhop/ops/cuda/attention.hpp"

namespace manyhop {

struct Schedule {
  ops::HeadShape shape;
  bool stored = true;           // A is kept between hops
  int slots = 1;                // heads in flight
  int panel_slots = 1;          // panels in flight
  std::size_t head_bytes = 0;   // of one of several heads in flight
  std::size_t whole_bytes = 0;  // of a head that has all threads
  std::size_t panel_bytes = 0;
  std::size_t heads() const { return std::max(static_cast<std::size_t>(slots) * head_bytes, whole_bytes); }
  std::size_t workspace() const { return heads() + static_cast<std::size_t>(panel_slots) * panel_bytes; }
};

/// Fills in what V and Z are kept in and what multiplies them.
ops::HeadShape with_arithmetic(ops::HeadShape shape, DType dtype);

/// The fastest schedule that keeps `held` bytes (inputs, graph) plus workspace within the limit.
/// Throws LimitError with both numbers when not even one head without stored A fits.
Schedule make_schedule(const ops::HeadShape& shape, DType dtype, Backend backend, Offset units, int threads,
                       std::size_t held, std::size_t inputs, std::size_t limit);

struct Plan::Data {
  PlanOptions options;
  std::vector<Graph> graphs;            // one, or one for each head
  std::vector<Tiling> tilings;          // as many
  std::vector<Reordered> reordered;     // none, or as many; their tilings have moved to `tilings`
  std::vector<RestByColumn> by_column;  // for plans with a backward pass, as many as tilings
  ops::HeadShape shape;
  Schedule schedule;
  ops::cuda::DeviceGraphs device;  // of plans for cuda
  Backend backend = Backend::cpu;
  int threads = 1;
  mutable std::atomic<double> last_seconds{0};  // of the last whole forward run, for explain()
};

std::string mebibytes(std::size_t bytes);

/// Bytes of q, k, v and out.
std::size_t input_bytes(const PlanOptions& options, Offset n_rows, Offset n_cols);
std::size_t graph_bytes(const Plan::Data& data);

}  // namespace manyhop

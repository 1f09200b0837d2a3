// Inspect once, run many times: a Plan is an immutable choice of tiles, tasks and workspace for a graph (or
// one graph per head) and a shape of q, k, v. Threads may share it.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/reorder.hpp"
#include "manyhop/graphs/tiling.hpp"
#include "manyhop/ops/context.hpp"

namespace manyhop {

/// Hops of a plan or a call, and where a diffusion to a tolerance gives up.
inline constexpr int kMostHops = 1 << 20;

struct PlanOptions {
  Offset batch = 1;
  int heads = 1;
  int kv_heads = 0;          // 0: heads; else a divisor of heads (grouped queries)
  int head_dim = 64;         // of q and k
  int value_dim = 0;         // of v and out; 0: head_dim
  DType dtype = DType::f32;  // f64, f32, bf16
  // f32 on CUDA: dense columns by the tensor cores' TF32 products, whose operands are rounded to 10 bits of
  // mantissa (errors of about 1e-3 instead of 1e-6). Never on by itself.
  bool tf32 = false;
  // f32 and f64 on CUDA: hops by the own kernels alone. Else a measurement decides between them and cuSPARSE,
  // whose sums have another order, and another process may find the other one faster: the same bits in every
  // run of a process, not in every process. Other types and backends have the same bits either way.
  bool deterministic = false;
  int hops = 1;
  bool backward = false;  // memory() counts the backward pass too
  // Renumber tokens inside the plan so that edges fall into tiles; q, k, v, out, bias and weights stay in the
  // caller's order. The CPU backend on square graphs; a cut batch item (lengths) runs as it comes. Other bits
  // than without, the same for any thread count.
  Reorder reorder = Reorder::none;

  friend bool operator==(const PlanOptions&, const PlanOptions&) = default;
};

/// What a run will hold, in bytes.
struct MemoryEstimate {
  std::size_t inputs = 0;     // q, k, v, out
  std::size_t graph = 0;      // CSR and tiling
  std::size_t workspace = 0;  // scratch of the context
  std::size_t total() const { return inputs + graph + workspace; }
};

class Plan {
 public:
  const PlanOptions& options() const;
  const Graph& graph(int head = 0) const;
  const Tiling& tiling(int head = 0) const;
  Backend backend() const;  // of the context that made it; calls run there
  bool per_head() const;
  Offset edges() const;  // of all heads together when there is one graph per head, else of the one graph
  MemoryEstimate memory() const;
  /// Human-readable lines: tiles, the kernel of each part with FLOPs and bytes, what other choices would
  /// take, units in flight, memory, predicted and last measured time. Predictions come from rates that are
  /// measured on first use, in a few milliseconds.
  std::vector<std::string> explain() const;
  /// Seconds of one run by those rates; 0 for backends other than the CPU's.
  double predicted_seconds() const;

  struct Data;
  explicit Plan(std::shared_ptr<const Data> data);
  const Data& data() const { return *data_; }

 private:
  std::shared_ptr<const Data> data_;
};

/// Throws ValueError for shapes that cannot be, LimitError when even the smallest split passes the context's
/// limit.
Plan plan(const Context& ctx, std::span<const Graph> graphs, const PlanOptions& options);
Plan plan(const Context& ctx, const Graph& graph, const PlanOptions& options);

}  // namespace manyhop

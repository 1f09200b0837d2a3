#include "manyhop/engine/plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "manyhop/engine/attention_device.hpp"
#include "manyhop/engine/schedule.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/cpu/tiles.hpp"

namespace manyhop {

namespace {

// Keeping A saves making it again in each hop, about half of the work; it may cost as much memory as the
// inputs or this.
constexpr std::size_t kStoredBudget = std::size_t{256} << 20;

constexpr int kMostFeatures = 1 << 24;  // sums of two widths and a row's bytes stay within their types

void check(const PlanOptions& o, std::span<const Graph> graphs) {
  if (graphs.empty()) throw ValueError("plan: 0 graphs were given, 1 or one for each head is wanted");
  const auto positive = [](const char* name, Offset value) {
    if (value < 1) throw ValueError(fmt::format("plan: {} is {}, at least 1 is wanted", name, value));
  };
  if (o.batch < 0) throw ValueError(fmt::format("plan: batch is {}, at least 0 is wanted", o.batch));
  positive("heads", o.heads);
  positive("kv_heads", o.kv_heads);
  positive("head_dim", o.head_dim);
  positive("value_dim", o.value_dim);
  const int width = std::max(o.head_dim, o.value_dim);
  if (width > kMostFeatures) {
    throw ValueError(fmt::format("plan: {} is {}, at most {} is wanted",
                                 o.head_dim == width ? "head_dim" : "value_dim", width, kMostFeatures));
  }
  if (o.heads % o.kv_heads != 0) {
    throw ValueError(fmt::format("plan: {} key/value heads do not divide {} heads", o.kv_heads, o.heads));
  }
  if (o.dtype == DType::f16) throw ValueError("plan: dtype f16 cannot be computed in, only f32, bf16 or f64");
  if (o.tf32 && o.dtype != DType::f32) {
    throw ValueError(fmt::format("plan: tf32 with dtype {}, f32 is wanted", name_of(o.dtype)));
  }
  if (o.hops < 0 || o.hops > kMostHops)
    throw ValueError(fmt::format("plan: hops is {}, 0 to {} are wanted", o.hops, kMostHops));
  if (graphs.size() != 1 && graphs.size() != static_cast<std::size_t>(o.heads)) {
    throw ValueError(
        fmt::format("plan: {} graphs for {} heads, 1 or {} wanted", graphs.size(), o.heads, o.heads));
  }
  for (const Graph& graph : graphs) {
    if (graph.n_rows() != graphs[0].n_rows() || graph.n_cols() != graphs[0].n_cols()) {
      throw ValueError(fmt::format("plan: head graphs of {} x {} and {} x {}, equal sizes wanted",
                                   graphs[0].n_rows(), graphs[0].n_cols(), graph.n_rows(), graph.n_cols()));
    }
    if (!graph.square() && o.hops != 1) {
      throw ValueError(fmt::format("plan: hops is {} on a {} x {} graph, a rectangle allows hops = 1 only",
                                   o.hops, graph.n_rows(), graph.n_cols()));
    }
  }
}

// What the tensors of a call count: sizes that no machine holds would leave 64 bits on the way.
void check_size(const PlanOptions& o, const Graph& graph) {
  constexpr double kMost = 0x1p60;
  const Offset tokens = std::max(graph.n_rows(), graph.n_cols());
  const double numbers = static_cast<double>(std::max<Offset>(1, o.batch)) * static_cast<double>(o.heads) *
                         static_cast<double>(std::max<Offset>(1, tokens)) *
                         (static_cast<double>(o.head_dim) + static_cast<double>(o.value_dim));
  if (numbers > kMost) {
    throw ValueError(fmt::format(
        "plan: batch {} x heads {} x {} tokens x head_dim {} is {:.3g} numbers, at most 2^60 are wanted",
        o.batch, o.heads, tokens, o.head_dim, numbers));
  }
}

// Whether tiles save more than they cost where gradients follow: cells take 0.7 of the time there, but all
// rows are rounded and paired, as much as 8 cells a row, and rows of float are padded to whole tiles for
// single edges as well, each of which takes as long as three cells.
bool tiles_pay(const ops::HeadShape& shape, std::span<const Tiling> tilings) {
  double cells = 0;
  double tiled = 0;  // padded to whole steps
  double edges = 0;
  double rows = 0;
  for (const Tiling& tiling : tilings) {
    for (const Panel& panel : tiling.panels) {
      if (!ops::cpu::worth_tiles(panel)) continue;
      cells += static_cast<double>(panel.dense_cols * kPanelRows);
      tiled += static_cast<double>(ops::cpu::tile_weight_elements(panel.dense_cols));
    }
    edges += static_cast<double>(tiling.irregular_edges);
    rows += static_cast<double>(tiling.rows.size());
  }
  const auto work = [&](Offset d, Offset d_value) { return static_cast<double>(d + shape.hops * d_value); };
  const double wider =
      work(ops::cpu::tile_width(shape.d), ops::cpu::tile_width(shape.d_value)) /
      work(ops::cpu::padded_width<float>(shape.d), ops::cpu::padded_width<float>(shape.d_value));
  return wider * (0.7 * tiled + 3 * edges) + 8 * rows < cells + 3 * edges;
}

ops::HeadShape shape_of(const PlanOptions& o, std::span<const Graph> graphs,
                        std::span<const Tiling> tilings) {
  ops::HeadShape shape{.n_rows = graphs[0].n_rows(),
                       .n_cols = graphs[0].n_cols(),
                       .d = o.head_dim,
                       .d_value = o.value_dim,
                       .hops = o.hops,
                       .backward = o.backward,
                       .shared = o.kv_heads != o.heads};
  for (const Tiling& tiling : tilings) shape.cover(tiling);
  shape.dense = tiles_pay(shape, tilings);
  return shape;
}

}  // namespace

std::string mebibytes(std::size_t bytes) {
  if (bytes < std::size_t{1} << 17) return fmt::format("{} bytes", bytes);
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / 1048576.0);
}

std::size_t input_bytes(const PlanOptions& o, Offset n_rows, Offset n_cols) {
  const Offset rows = o.batch * o.heads * n_rows * (o.head_dim + o.value_dim);
  const Offset cols = o.batch * o.kv_heads * n_cols * (o.head_dim + o.value_dim);
  return static_cast<std::size_t>(rows + cols) * size_of(o.dtype);
}

std::size_t graph_bytes(const Plan::Data& data) {
  std::size_t total = 0;
  for (const Graph& graph : data.graphs) total += graph.bytes();
  for (const Tiling& tiling : data.tilings) total += tiling.bytes();
  for (const RestByColumn& edges : data.by_column) total += edges.bytes();
  for (const Reordered& reordered : data.reordered) total += reordered.bytes();
  return total + data.device.bytes();
}

ops::HeadShape with_arithmetic(ops::HeadShape shape, DType dtype) {
  // A row of few features may be nearly zero, and then what rounding adds is large beside it.
  const bool rounds = dtype == DType::bf16 && shape.d_value >= 16;
  shape.half = rounds && !shape.backward && !shape.exact;
  // An iteration of rounded factors may end in a cycle instead of at a fixed point.
  shape.tiles = rounds && (shape.half || shape.dense) && shape.mode != ops::HeadBackward::implicit &&
                !tiles_name().empty();
  return shape;
}

Schedule make_schedule(const ops::HeadShape& shape, DType dtype, Backend backend, Offset units, int threads,
                       std::size_t held, std::size_t inputs, std::size_t limit) {
  Schedule best;
  best.shape = with_arithmetic(shape, dtype);
  if (backend != Backend::cpu) return best;  // plain loops hold a few rows of V, a device has its own memory
  const bool wide = dtype == DType::f64;
  const std::size_t panel =
      wide ? ops::cpu::panel_bytes<double>(best.shape) : ops::cpu::panel_bytes<float>(best.shape);
  const auto head = [&](bool stored, bool parallel) {
    return wide ? ops::cpu::head_bytes<double>(best.shape, stored, parallel)
                : ops::cpu::head_bytes<float>(best.shape, stored, parallel);
  };
  const std::size_t values = static_cast<std::size_t>(shape.value_count) * (wide ? 8 : 4);
  const int most = static_cast<int>(std::clamp<Offset>(units, 1, threads));
  std::size_t smallest = 0;
  for (const bool stored : {true, false}) {
    // One hop uses A once. It is kept where gathered rows of K and V would push each other out of the cache.
    if (stored && !shape.backward && !shape.kept && shape.hops <= 1 && !shape.scattered) continue;
    if (!stored && shape.kept) continue;
    for (const int slots : {units >= threads ? most : 1, 1}) {
      for (const int panels : {threads, 1}) {
        if (panels < slots) continue;
        Schedule candidate = best;
        candidate.stored = stored;
        candidate.slots = slots;
        candidate.panel_slots = panels;
        candidate.head_bytes = head(stored, false);
        candidate.whole_bytes = head(stored, panels > 1);
        candidate.panel_bytes = panel;
        smallest = candidate.workspace();
        if (stored && !shape.kept &&
            values * static_cast<std::size_t>(slots) > std::max(inputs, kStoredBudget))
          continue;
        if (held + smallest <= limit) return candidate;
      }
    }
  }
  throw LimitError(fmt::format(
      "memory limit: {} is below the {} that inputs and graph ({}) and the smallest workspace ({}) take",
      mebibytes(limit), mebibytes(held + smallest), mebibytes(held), mebibytes(smallest)));
}

Plan::Plan(std::shared_ptr<const Data> data) : data_(std::move(data)) {}
const PlanOptions& Plan::options() const { return data_->options; }
Backend Plan::backend() const { return data_->backend; }
bool Plan::per_head() const { return data_->graphs.size() > 1; }
const Graph& Plan::graph(int head) const {
  return data_->graphs[per_head() ? static_cast<std::size_t>(head) : 0];
}
const Tiling& Plan::tiling(int head) const {
  return data_->tilings[per_head() ? static_cast<std::size_t>(head) : 0];
}

Offset Plan::edges() const {
  Offset total = 0;
  for (const Graph& graph : data_->graphs) total += graph.nnz();
  return total;
}

MemoryEstimate Plan::memory() const {
  const Graph& graph = data_->graphs[0];
  return {.inputs = input_bytes(data_->options, graph.n_rows(), graph.n_cols()),
          .graph = graph_bytes(*data_),
          .workspace = data_->device.empty() ? data_->schedule.workspace() : device_workspace(*data_)};
}

Plan plan(const Context& ctx, std::span<const Graph> graphs, const PlanOptions& given) {
  require_backend(ctx, "plan");
  const ThreadScope scope(ctx.threads, ctx.stop);
  PlanOptions options = given;
  if (options.kv_heads == 0) options.kv_heads = options.heads;
  if (options.value_dim == 0) options.value_dim = options.head_dim;
  check(options, graphs);
  check_size(options, graphs[0]);
  if (options.tf32 && ctx.backend != Backend::cuda) {
    throw ValueError("plan: tf32 without backend 'cuda', which alone has such products");
  }
  auto data = std::make_shared<Plan::Data>();
  data->options = options;
  data->graphs.assign(graphs.begin(), graphs.end());
  data->backend = ctx.backend;
  data->threads = thread_count();
  // Left to itself, a rectangle keeps its order; orders that were asked for by name are refused there.
  const bool rectangle =
      std::any_of(graphs.begin(), graphs.end(), [](const Graph& graph) { return !graph.square(); });
  if (options.reorder == Reorder::none || ctx.backend != Backend::cpu ||
      (options.reorder == Reorder::automatic && rectangle)) {
    for (const Graph& graph : data->graphs) data->tilings.push_back(make_tiling(graph));
  } else {
    for (const Graph& graph : data->graphs) {
      data->reordered.push_back(reorder(graph, options.reorder));
      data->tilings.push_back(std::move(data->reordered.back().tiling));
    }
  }
  data->shape = shape_of(options, data->graphs, data->tilings);
  if (options.backward && data->shape.irregular && ctx.backend == Backend::cpu) {
    for (const Tiling& tiling : data->tilings) {
      data->by_column.push_back(rest_by_column(tiling, graphs[0].n_cols()));
      data->shape.by_column = std::max(data->shape.by_column, tiling.irregular_edges);
    }
  }
  if (ctx.backend == Backend::cuda) {
    data->device = ops::cuda::upload(
        graphs, data->tilings, options.dtype, options.tf32, options.deterministic, options.backward,
        std::max<Offset>(1, options.batch * options.heads), std::max(options.head_dim, options.value_dim));
  }
  const std::size_t inputs = input_bytes(options, graphs[0].n_rows(), graphs[0].n_cols());
  data->schedule = make_schedule(data->shape, options.dtype, ctx.backend, options.batch * options.heads,
                                 data->threads, inputs + graph_bytes(*data), inputs, ctx.limit());
  return Plan(std::move(data));
}

Plan plan(const Context& ctx, const Graph& graph, const PlanOptions& options) {
  return plan(ctx, std::span<const Graph>(&graph, 1), options);
}

}  // namespace manyhop

// What a plan says about itself: tiles, kernels and why not others, FLOPs, bytes, predicted and measured
// time.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "manyhop/engine/plan.hpp"
#include "manyhop/engine/schedule.hpp"
#include "manyhop/ops/cpu/rates.hpp"

namespace manyhop {

namespace {

using ops::cpu::Rates;

double arithmetic_bytes(DType dtype) { return dtype == DType::f64 ? 8 : 4; }

// Sizes that gather alike are measured once a process.
Rates known_rates(int row_bytes, Offset n_cols) {
  static std::mutex mutex;
  static std::map<std::pair<int, Offset>, Rates> known;
  Offset size = 64;
  while (size < n_cols && size < (Offset{1} << 17)) size *= 2;
  const std::lock_guard lock(mutex);
  const auto [item, fresh] = known.try_emplace({row_bytes, size});
  if (fresh) {
    item->second = row_bytes == 8   ? ops::cpu::measure_rates<double, double>(size)
                   : row_bytes == 4 ? ops::cpu::measure_rates<float, float>(size)
                                    : ops::cpu::measure_rates<float, bf16>(size);
  }
  return item->second;
}

Rates rates_for(const Plan::Data& data) {
  const Offset n_cols = data.graphs[0].n_cols();
  const ops::HeadShape& shape = data.schedule.shape;
  if (shape.half) return known_rates(2, n_cols);
  Rates rates = known_rates(static_cast<int>(arithmetic_bytes(data.options.dtype)), n_cols);
  if (shape.tiles) rates.tile_flops = known_rates(2, n_cols).tile_flops;  // of rounded rows of floats
  return rates;
}

/// Work of one head, and what it takes one thread.
struct Parts {
  double cells = 0;  // of dense tiles, padding too
  double edges = 0;  // single ones
  double tile_score = 0, rest_score = 0, softmax = 0;
  double tile_hop = 0, rest_hop = 0, rows_hop = 0;
  double ends = 0;  // q, k, v read and packed, out written

  double weights() const { return tile_score + rest_score + softmax; }
  double hop() const { return tile_hop + rest_hop + rows_hop; }
};

Parts parts_of(const Plan::Data& data, const Rates& rates) {
  const PlanOptions& o = data.options;
  const double size = arithmetic_bytes(o.dtype);
  const double row_size = data.schedule.shape.half ? 2 : size;  // of V and Z
  const auto count = static_cast<double>(data.tilings.size());
  Parts p;
  for (const Tiling& t : data.tilings) {
    p.cells += static_cast<double>(t.dense_edges + t.padding) / count;
    p.edges += static_cast<double>(t.irregular_edges) / count;
  }
  const auto rows = static_cast<double>(data.graphs[0].n_rows());
  const auto cols = static_cast<double>(data.graphs[0].n_cols());
  p.tile_score = 2 * p.cells * o.head_dim / rates.tile_flops;
  p.rest_score = p.edges * o.head_dim * size / rates.gather_bytes;
  p.softmax = (p.cells + p.edges) / rates.exponentials;
  p.tile_hop = 2 * p.cells * o.value_dim / rates.tile_flops;
  p.rest_hop = p.edges * o.value_dim * row_size / rates.gather_bytes;
  p.rows_hop = 2 * rows * o.value_dim * row_size / rates.stream_bytes;
  p.ends = ((rows + cols) * (o.head_dim + o.value_dim)) * size / rates.stream_bytes;
  return p;
}

std::string milliseconds(double seconds) { return fmt::format("{:.3g} ms", seconds * 1e3); }

void kernel_lines(const Plan::Data& data, const Rates& rates, const Parts& p, std::vector<std::string>& lines,
                  std::vector<std::string>& rejected) {
  const PlanOptions& o = data.options;
  const bool half = data.schedule.shape.half;
  const double size = half ? 2 : arithmetic_bytes(o.dtype);
  const double weight_size = half && data.schedule.shape.tiles ? 2 : arithmetic_bytes(o.dtype);
  if (p.cells > 0) {
    lines.push_back(
        fmt::format("dense     a hop of a head: {:.4g} MFLOP, weights {:.3g} MB, {} at {:.3g} GFLOP/s",
                    2e-6 * p.cells * o.value_dim, 1e-6 * p.cells * weight_size, milliseconds(p.tile_hop),
                    1e-9 * rates.tile_flops));
    rejected.push_back(fmt::format("rejected  dense columns as single edges: {} a hop of a head",
                                   milliseconds(p.cells * o.value_dim * size / rates.gather_bytes)));
  }
  if (p.edges > 0) {
    lines.push_back(fmt::format("single    a hop of a head: {:.4g} MFLOP, rows {:.3g} MB, {} at {:.3g} GB/s",
                                2e-6 * p.edges * o.value_dim, 1e-6 * p.edges * o.value_dim * size,
                                milliseconds(p.rest_hop), 1e-9 * rates.gather_bytes));
    rejected.push_back(fmt::format("rejected  single edges as dense columns, one each: {} a hop of a head",
                                   milliseconds(2 * p.edges * kPanelRows * o.value_dim / rates.tile_flops)));
  }
  if (const std::string better = simd_rejected(); !better.empty())
    rejected.push_back(
        fmt::format("rejected  {}: this processor has it not, or MANYHOP_SIMD says so", better));
  if (const std::string why = tiles_rejected(); o.dtype == DType::bf16 && !why.empty())
    rejected.push_back(fmt::format("rejected  bf16 tiles of AMX: {}", why));
}

/// Of all heads, with A kept between hops or made again in each.
double predicted(const Plan::Data& data, const Parts& p, bool stored) {
  const PlanOptions& o = data.options;
  const double head = p.ends + (stored ? 1 : std::max(1, o.hops)) * p.weights() + o.hops * p.hop();
  return head * static_cast<double>(o.batch) * o.heads / std::max(1, data.threads);
}

}  // namespace

double Plan::predicted_seconds() const {
  if (data_->backend != Backend::cpu) return 0;
  return predicted(*data_, parts_of(*data_, rates_for(*data_)), data_->schedule.stored);
}

std::vector<std::string> Plan::explain() const {
  const PlanOptions& o = data_->options;
  const Schedule& s = data_->schedule;
  std::vector<std::string> lines;
  const Graph& first = data_->graphs[0];
  lines.push_back(fmt::format("graph     {} x {}, {} edges{}{}", first.n_rows(), first.n_cols(), edges(),
                              per_head() ? fmt::format(" over {} graphs", data_->graphs.size()) : "",
                              first.implicit() ? ", implicit (runs, edges not written)" : ""));
  Offset dense = 0;
  Offset rest = 0;
  Offset padding = 0;
  Offset panels = 0;
  for (const Tiling& t : data_->tilings) {
    dense += t.dense_edges;
    rest += t.irregular_edges;
    padding += t.padding;
    panels += static_cast<Offset>(t.panels.size());
  }
  const double m = std::max(1.0, static_cast<double>(dense + rest));
  lines.push_back(fmt::format(
      "tiles     {} panels of {} rows: {} edges in dense columns ({:.1f} %), {} single, {} padded cells",
      panels, kPanelRows, dense, 100.0 * static_cast<double>(dense) / m, rest, padding));
  if (o.reorder != Reorder::none) {
    std::string text;
    for (const Reordered& r : data_->reordered) {
      text += fmt::format("{}{}", text.empty() ? "" : ", ", name_of(r.kind));
      if (data_->reordered.size() > 8) break;
    }
    lines.push_back(
        fmt::format("order     {} asked for, {} taken", name_of(o.reorder), text.empty() ? "none" : text));
  }
  lines.push_back(
      fmt::format("shape     batch {}, {} heads over {} key/value heads, d {} and {}, {} hops, {}", o.batch,
                  o.heads, o.kv_heads, o.head_dim, o.value_dim, o.hops, name_of(o.dtype)));
  if (data_->backend == Backend::reference) {
    lines.emplace_back("kernel    reference: plain loops in double precision, A made again for each hop");
  } else if (data_->backend == Backend::cuda) {
    lines.emplace_back(
        o.dtype == DType::bf16
            ? "kernel    cuda: dense columns by bf16 products of the tensor cores, single edges as "
              "gathers of a warp, fp32 sums"
        : o.tf32 ? "kernel    cuda: dense columns by TF32 products of the tensor cores (10 bits of "
                   "mantissa), single "
                   "edges as gathers of a warp, fp32 sums"
                 : fmt::format("kernel    cuda: every edge as a gather of a warp, {} sums",
                               o.dtype == DType::f64 ? "fp64" : "fp32"));
    if (const std::string hops = data_->device.hops(); !hops.empty()) {
      lines.push_back(fmt::format("hops      {}", hops));
    }
    lines.push_back(fmt::format("captured  {}", data_->device.captured()));
    lines.emplace_back(o.hops > 1 ? "weights   kept between hops" : "weights   used once, not kept");
  } else {
    lines.push_back(
        fmt::format("kernel    cpu, {}{}: dense columns as 32-row tiles, single edges as gathers{}, {} sums",
                    simd_name(), s.shape.tiles ? fmt::format(" and {}", tiles_name()) : "",
                    s.shape.half ? " of bf16 rows" : "", o.dtype == DType::f64 ? "fp64" : "fp32"));
    lines.push_back(s.stored ? (o.hops <= 1 ? "weights   kept until single edges are summed"
                                            : "weights   kept between hops")
                             : (o.hops <= 1 && !o.backward ? "weights   used once, not kept"
                                                           : "weights   made again in each hop (memory)"));
    lines.push_back(s.slots > 1 || data_->threads == 1
                        ? fmt::format("threads   {}: one head each", s.slots)
                        : fmt::format("threads   {}: panels of one head at a time", s.panel_slots));
  }
  std::vector<std::string> timing;
  if (data_->backend == Backend::cpu) {
    const Rates rates = rates_for(*data_);
    const Parts p = parts_of(*data_, rates);
    std::vector<std::string> rejected;
    kernel_lines(*data_, rates, p, lines, rejected);
    const double units = static_cast<double>(o.batch) * o.heads;
    const auto total = [&](bool stored) { return milliseconds(predicted(*data_, p, stored)); };
    if (o.hops > 1) {
      rejected.push_back(fmt::format("rejected  weights {}: {} in all{}",
                                     s.stored ? "made again in each hop" : "kept between hops",
                                     total(!s.stored), s.stored ? "" : ", and too much memory"));
    }
    for (std::string& line : rejected) timing.push_back(std::move(line));
    timing.push_back(
        fmt::format("predicted {} for {} head{}", total(s.stored), units, units == 1 ? "" : "s"));
    const double measured = data_->last_seconds.load();
    timing.push_back(measured > 0 ? fmt::format("measured  {} by the last run", milliseconds(measured))
                                  : "measured  not run yet");
  }
  const double flops = 2.0 * static_cast<double>(edges()) / static_cast<double>(data_->graphs.size()) *
                       o.head_dim * o.heads * static_cast<double>(o.batch) * (o.hops + 1);
  const MemoryEstimate bytes = memory();
  lines.push_back(fmt::format("work      {:.3f} GFLOP", flops / 1e9));
  lines.push_back(fmt::format("memory    inputs {}, graph {}, workspace {}", mebibytes(bytes.inputs),
                              mebibytes(bytes.graph), mebibytes(bytes.workspace)));
  for (std::string& line : timing) lines.push_back(std::move(line));
  return lines;
}

}  // namespace manyhop

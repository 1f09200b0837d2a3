#include "attend_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "manyhop/engine/attention.hpp"
#include "manyhop/graphs/base/error.hpp"

namespace manyhop::cli {
namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

template <class T>
void timed_runs(const Context& context, const Plan& plan, const Qkv& in, const AttendRequest& request,
                AttendRun& run) {
  const auto q = view_of<const T>(in.q.as<T>(), in.q.shape, in.layout);
  const auto k = view_of<const T>(in.k.as<T>(), in.k.shape, in.layout);
  const auto v = view_of<const T>(in.v.as<T>(), in.v.shape, in.layout);
  const auto out = view_of<T>(run.out.as<T>(), run.out.shape, in.layout);
  AttentionOptions options;
  options.hops = request.hops;
  options.teleport = request.teleport;
  options.scale = request.scale;
  {
    AttentionOptions first = options;
    const auto count = static_cast<std::size_t>(request.lse ? in.batch * in.heads * in.n : 0);
    using Lse = std::conditional_t<std::is_same_v<T, double>, double, float>;
    std::vector<Lse> lse(count);
    if (request.lse) first.lse = TensorView<Lse>(lse.data(), {in.batch, in.heads, in.n});
    attention<T>(context, plan, q, k, v, out, first);
    run.lse.assign(lse.begin(), lse.end());
  }
  std::vector<double> seconds;
  for (int r = 0; r < request.repeat; ++r) {
    const Stopwatch clock;
    attention<T>(context, plan, q, k, v, out, options);
    seconds.push_back(clock.seconds());
  }
  run.seconds = median(std::move(seconds));
}

}  // namespace

AttendRun attend(Session& session, const Graph& graph, const Qkv& in, const AttendRequest& request) {
  AttendRun run;
  run.graph = graph;
  session.context.workspace.release();
  PlanOptions options;
  options.batch = in.batch;
  options.heads = in.heads;
  options.kv_heads = in.kv_heads;
  options.head_dim = in.head_dim;
  options.value_dim = in.value_dim;
  options.dtype = request.dtype;
  options.hops = request.hops;
  options.reorder = request.reorder;
  options.tf32 = request.tf32;
  const Stopwatch clock;
  const Plan made = plan(session.context, graph, options);
  run.plan_seconds = clock.seconds();
  run.out = Tensor::zeros(request.dtype, in.out_shape());
  switch (request.dtype) {
    case DType::f64:
      timed_runs<double>(session.context, made, in, request, run);
      break;
    case DType::bf16:
      timed_runs<bf16>(session.context, made, in, request, run);
      break;
    default:
      timed_runs<float>(session.context, made, in, request, run);
  }
  if (request.explain) run.plan = made.explain();
  const double flops = 2.0 * static_cast<double>(graph.nnz()) * static_cast<double>(in.batch) * in.heads *
                       (in.head_dim + static_cast<double>(request.hops) * in.value_dim);
  run.gflops = run.seconds > 0 ? flops / run.seconds / 1e9 : std::numeric_limits<double>::quiet_NaN();
  // A device's scratch is not the context's.
  const MemoryEstimate memory = made.memory();
  const std::size_t scratch =
      made.backend() == Backend::cuda ? memory.workspace : session.context.workspace.capacity();
  run.peak_bytes =
      in.bytes() + run.out.bytes.size() + run.lse.size() * sizeof(double) + memory.graph + scratch;
  return run;
}

Comparison compare(const AttendRun& run, const AttendRun& full) {
  const Tensor a = run.out.to(DType::f64);
  const Tensor b = full.out.to(DType::f64);
  double difference = 0;
  double product = 0;
  double norm_a = 0;
  double norm_b = 0;
  const double* x = a.as<double>();
  const double* y = b.as<double>();
  for (Offset i = 0; i < a.size(); ++i) {
    difference += (x[i] - y[i]) * (x[i] - y[i]);
    product += x[i] * y[i];
    norm_a += x[i] * x[i];
    norm_b += y[i] * y[i];
  }
  Comparison result;
  result.rel_l2 = std::sqrt(difference / norm_b);
  result.cosine = product / std::sqrt(norm_a * norm_b);
  if (std::isinf(result.rel_l2)) result.rel_l2 = std::numeric_limits<double>::quiet_NaN();
  double mass = 0;
  for (std::size_t i = 0; i < run.lse.size(); ++i) {
    // A row without edges has LSE = -inf and covers nothing.
    const double share = std::exp(run.lse[i] - full.lse[i]);
    mass += std::isinf(run.lse[i]) && run.lse[i] < 0 ? 0.0 : std::min(share, 1.0);
  }
  result.coverage = mass / static_cast<double>(run.lse.size());
  return result;
}

}  // namespace manyhop::cli

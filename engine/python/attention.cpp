// manyhop._core: plans, attention forward and backward. Outputs are written into arrays that the caller made.
#include <fmt/format.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "bindings.hpp"
#include "call.hpp"
#include "manyhop/engine/attention.hpp"
#include "manyhop/engine/plan_cache.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/ops/cuda/attention.hpp"

namespace manyhop::python {

namespace {

PlanCache& cache() {
  static PlanCache& instance = *new PlanCache(32);
  return instance;
}

DType dtype_named(const std::string& name) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    if (name == name_of(dtype)) return dtype;
  }
  throw ValueError(fmt::format("dtype: '{}', expected f64, f32 or bf16", name));
}

Reorder reorder_named(const std::string& name) {
  for (const Reorder r :
       {Reorder::none, Reorder::degree, Reorder::rcm, Reorder::cluster, Reorder::automatic}) {
    if (name == name_of(r)) return r;
  }
  throw ValueError(fmt::format("reorder: '{}', expected none, degree, rcm, cluster or auto", name));
}

AttentionBackward backward_named(const std::string& name) {
  if (name == "stored") return AttentionBackward::stored;
  if (name == "checkpointed") return AttentionBackward::checkpointed;
  if (name == "implicit") return AttentionBackward::implicit;
  throw ValueError(fmt::format("backward: '{}', expected stored, checkpointed or implicit", name));
}

/// What a call is given beside its tensors.
struct CallOptions {
  int hops = 1;
  double teleport = 0;
  std::optional<double> scale;
  std::vector<Offset> lengths;
  double dropout_p = 0;
  double hop_dropout_p = 0;
  std::uint64_t seed = 0;
  std::string backward = "stored";
  int threads = 0;
  std::size_t memory_limit = 0;
  std::optional<std::uintptr_t> stream;  // tensors are on a device, work is queued here
  bool wants_teleport = true;

  int device() const { return stream ? nb::device::cuda::value : nb::device::cpu::value; }

  AttentionOptions attention() const {
    AttentionOptions o;
    o.hops = hops;
    o.teleport = teleport;
    o.scale = scale;
    o.lengths = lengths;
    o.dropout_p = dropout_p;
    o.hop_dropout_p = hop_dropout_p;
    o.seed = seed;
    o.backward = backward_named(backward);
    return o;
  }
};

RealInput real_input(const std::optional<ReadArray>& array, const char* name, int device) {
  if (!array) return {};
  switch (dtype_of(array->dtype(), name)) {
    case DType::f64:
      return view_of<const double>(*array, name, device);
    case DType::f32:
      return view_of<const float>(*array, name, device);
    default:
      throw nb::type_error(fmt::format("{}: a 16-bit type, float32 or float64 is wanted", name).c_str());
  }
}

RealOutput real_output(const std::optional<WriteArray>& array, const char* name, int device) {
  if (!array) return {};
  switch (dtype_of(array->dtype(), name)) {
    case DType::f64:
      return view_of<double>(*array, name, device);
    case DType::f32:
      return view_of<float>(*array, name, device);
    default:
      throw nb::type_error(fmt::format("{}: a 16-bit type, float32 or float64 is wanted", name).c_str());
  }
}

template <class T>
TensorView<T> optional_view(const std::optional<WriteArray>& array, const char* name, int device) {
  if (!array) return {};
  return view_of<T>(*array, name, device);
}

void require_dtype(DType found, DType wanted, const char* name) {
  if (found == wanted) return;
  throw nb::type_error(fmt::format("{}: {} where q is {}", name, name_of(found), name_of(wanted)).c_str());
}

/// f(T{}) for the element type.
template <class F>
void dispatch(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64:
      return f(double{});
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(bf16{});
    default:
      throw nb::type_error("q: float16, expected float64, float32 or bfloat16");
  }
}

std::span<std::byte> bytes_of(const std::optional<WriteArray>& array) {
  if (!array) return {};
  if (array->ndim() != 1 || array->dtype() != nb::dtype<std::uint8_t>() ||
      array->device_type() != nb::device::cpu::value)
    throw nb::type_error("state: one axis of uint8 on the CPU is wanted");
  return {reinterpret_cast<std::byte*>(array->data()), array->shape(0)};
}

bool aligned(std::span<const std::byte> bytes) {
  return reinterpret_cast<std::uintptr_t>(bytes.data()) % 64 == 0;
}

void forward(const Plan& plan, const ReadArray& q, const ReadArray& k, const ReadArray& v,
             const WriteArray& out, const std::optional<ReadArray>& bias,
             const std::optional<WriteArray>& lse, const std::optional<WriteArray>& weights,
             const std::optional<WriteArray>& state, const CallOptions& given) {
  const DType dtype = dtype_of(q.dtype(), "q");
  require_dtype(dtype_of(k.dtype(), "k"), dtype, "k");
  require_dtype(dtype_of(v.dtype(), "v"), dtype, "v");
  require_dtype(dtype_of(out.dtype(), "out"), dtype, "out");
  AttentionOptions options = given.attention();
  options.bias = real_input(bias, "bias", given.device());
  options.lse = real_output(lse, "lse", given.device());
  options.weights = real_output(weights, "weights", given.device());
  const std::span<std::byte> kept = bytes_of(state);
  AttentionState held;
  if (state) options.state = &held;  // wanted; whether it fits must not show in the bits
  if (!kept.empty()) {
    if (!aligned(kept)) throw nb::value_error("state: memory aligned to 64 bytes is wanted");
    held.lend(kept.data(), kept.size());
  }
  dispatch(dtype, [&]<class T>(T) {
    const auto q_view = view_of<const T>(q, "q", given.device());
    const auto k_view = view_of<const T>(k, "k", given.device());
    const auto v_view = view_of<const T>(v, "v", given.device());
    const auto out_view = view_of<T>(out, "out", given.device());
    run(
        given.threads, given.memory_limit,
        [&](const Context& ctx) { attention<T>(ctx, plan, q_view, k_view, v_view, out_view, options); },
        plan.backend(), given.stream);
  });
}

double backward(const Plan& plan, const ReadArray& q, const ReadArray& k, const ReadArray& v,
                const ReadArray& g, const std::optional<ReadArray>& g_lse,
                const std::optional<ReadArray>& bias, const std::optional<WriteArray>& dq,
                const std::optional<WriteArray>& dk, const std::optional<WriteArray>& dv,
                const std::optional<WriteArray>& dbias, const std::optional<WriteArray>& state,
                const CallOptions& given) {
  const DType dtype = dtype_of(q.dtype(), "q");
  require_dtype(dtype_of(k.dtype(), "k"), dtype, "k");
  require_dtype(dtype_of(v.dtype(), "v"), dtype, "v");
  require_dtype(dtype_of(g.dtype(), "g"), dtype, "g");
  AttentionOptions options = given.attention();
  options.bias = real_input(bias, "bias", given.device());
  const RealInput from_lse = real_input(g_lse, "g_lse", given.device());
  const std::span<std::byte> kept = bytes_of(state);
  double teleport = 0;
  dispatch(dtype, [&]<class T>(T) {
    const auto q_view = view_of<const T>(q, "q", given.device());
    const auto k_view = view_of<const T>(k, "k", given.device());
    const auto v_view = view_of<const T>(v, "v", given.device());
    const auto g_view = view_of<const T>(g, "g", given.device());
    AttentionGradients<T> gradients;
    gradients.q = optional_view<T>(dq, "dq", given.device());
    gradients.k = optional_view<T>(dk, "dk", given.device());
    gradients.v = optional_view<T>(dv, "dv", given.device());
    gradients.bias = real_output(dbias, "dbias", given.device());
    gradients.wants_teleport = given.wants_teleport;
    const auto work = [&](const Context& ctx) {
      AttentionState held;
      AttentionOptions resumed = options;
      Workspace moved;
      if (!kept.empty()) {
        std::byte* at = kept.data();
        if (!aligned(kept)) {  // hooks of autograd may have stored it anywhere
          at = moved.reserve(kept.size());
          std::memcpy(at, kept.data(), kept.size());
        }
        held = AttentionState::resume(ctx, plan, options, at, kept.size());
        resumed.state = &held;
      }
      attention_backward<T>(ctx, plan, q_view, k_view, v_view, g_view, gradients, resumed, from_lse);
    };
    run(given.threads, given.memory_limit, work, plan.backend(), given.stream);
    teleport = gradients.teleport;
  });
  return teleport;
}

}  // namespace

void bind_attention(nb::module_& m) {
  nb::class_<CallOptions>(m, "CallOptions")
      .def(nb::init<>())
      .def_rw("hops", &CallOptions::hops)
      .def_rw("teleport", &CallOptions::teleport)
      .def_rw("scale", &CallOptions::scale, nb::arg().none())
      .def_rw("lengths", &CallOptions::lengths)
      .def_rw("dropout_p", &CallOptions::dropout_p)
      .def_rw("hop_dropout_p", &CallOptions::hop_dropout_p)
      .def_rw("seed", &CallOptions::seed)
      .def_rw("backward", &CallOptions::backward)
      .def_rw("threads", &CallOptions::threads)
      .def_rw("memory_limit", &CallOptions::memory_limit)
      .def_rw("stream", &CallOptions::stream, nb::arg().none())
      .def_rw("wants_teleport", &CallOptions::wants_teleport);

  nb::class_<Plan>(m, "Plan")
      .def("explain", &Plan::explain)
      .def("predicted_seconds", &Plan::predicted_seconds)
      .def("edges", &Plan::edges)
      .def("memory",
           [](const Plan& plan) {
             const MemoryEstimate estimate = plan.memory();
             nb::dict result;
             result["inputs"] = estimate.inputs;
             result["graph"] = estimate.graph;
             result["workspace"] = estimate.workspace;
             result["total"] = estimate.total();
             return result;
           })
      .def("state_bytes", [](const Plan& plan, const CallOptions& given) {
        return run(
            given.threads, given.memory_limit,
            [&](const Context& ctx) { return attention_state_bytes(ctx, plan, given.attention()); },
            plan.backend());
      });

  m.def(
      "plan",
      [](const std::vector<Graph>& graphs, Offset batch, int heads, int kv_heads, int head_dim, int value_dim,
         const std::string& dtype, int hops, bool backward, const std::string& reorder,
         const std::string& backend, bool tf32, bool deterministic, int threads, std::size_t memory_limit) {
        PlanOptions options;
        options.batch = batch;
        options.heads = heads;
        options.kv_heads = kv_heads;
        options.head_dim = head_dim;
        options.value_dim = value_dim;
        options.dtype = dtype_named(dtype);
        options.hops = hops;
        options.backward = backward;
        options.reorder = reorder_named(reorder);
        options.tf32 = tf32;
        options.deterministic = deterministic;
        const Backend chosen = backend_of(backend);
        return run(
            threads, memory_limit, [&](const Context& ctx) { return cache().get(ctx, graphs, options); },
            chosen);
      },
      nb::arg("graphs"), nb::kw_only(), nb::arg("batch") = 1, nb::arg("heads") = 1, nb::arg("kv_heads") = 0,
      nb::arg("head_dim") = 64, nb::arg("value_dim") = 0, nb::arg("dtype") = "f32", nb::arg("hops") = 1,
      nb::arg("backward") = false, nb::arg("reorder") = "none", nb::arg("backend") = "cpu",
      nb::arg("tf32") = false, nb::arg("deterministic") = false, nb::arg("threads") = 0,
      nb::arg("memory_limit") = 0);
  m.def("clear_plans", [] {
    cache().clear();
    ops::cuda::release_memory();
  });

  m.def("attention", &forward, nb::arg("plan"), nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("out"),
        nb::arg("bias").none(), nb::arg("lse").none(), nb::arg("weights").none(), nb::arg("state").none(),
        nb::arg("options"));
  m.def("attention_backward", &backward, nb::arg("plan"), nb::arg("q"), nb::arg("k"), nb::arg("v"),
        nb::arg("g"), nb::arg("g_lse").none(), nb::arg("bias").none(), nb::arg("dq").none(),
        nb::arg("dk").none(), nb::arg("dv").none(), nb::arg("dbias").none(), nb::arg("state").none(),
        nb::arg("options"));
}

}  // namespace manyhop::python

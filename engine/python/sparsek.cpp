// manyhop._core: SparseK, its selections over prefixes, and attention over them.
#include <fmt/format.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "bindings.hpp"
#include "call.hpp"
#include "manyhop/engine/sparsek/attention.hpp"
#include "manyhop/engine/sparsek/cache.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/sparsek.hpp"
#include "sparsek_pickle.hpp"

namespace manyhop::python {

namespace {

using Doubles = nb::ndarray<double, nb::ndim<1>, nb::c_contig>;  // where the tensors are
using StreamNumber = std::optional<std::uintptr_t>;
using ReadDoubles = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ReadOffsets = nb::ndarray<const Offset, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Indices = nb::ndarray<Index, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class T, class Array>
std::span<T> span_of(const std::optional<Array>& array) {
  if (!array) return {};
  return {array->data(), array->shape(0)};
}

/// The DLPack kind of device of a call's tensors.
int device_of(const StreamNumber& stream) {
  return stream ? nb::device::cuda::value : nb::device::cpu::value;
}
Backend backend_of(const StreamNumber& stream) { return stream ? Backend::cuda : Backend::cpu; }

void require_there(const std::optional<Doubles>& array, const StreamNumber& stream, const char* name) {
  if (!array || array->device_type() == device_of(stream)) return;
  throw nb::type_error(fmt::format("{}: on another device than the scores", name).c_str());
}

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
      throw nb::type_error("float16, expected float64, float32 or bfloat16");
  }
}

void require_same(const ReadArray& a, DType wanted, const char* name) {
  if (dtype_of(a.dtype(), name) != wanted)
    throw nb::type_error(fmt::format("{}: another type than the first tensor", name).c_str());
}

SparsekOptions options_of(double temperature, const std::optional<ReadDoubles>& row_k,
                          const std::optional<ReadOffsets>& offsets, const std::optional<Doubles>& tau) {
  SparsekOptions o;
  o.temperature = temperature;
  o.row_k = span_of<const double>(row_k);
  o.offsets = span_of<const Offset>(offsets);
  o.tau = span_of<double>(tau);
  return o;
}

SparsekAttentionOptions attention_options(double k, Offset cap, double temperature, Offset window,
                                          Offset sinks, const std::string& gate, int hops, double teleport,
                                          std::optional<double> scale) {
  SparsekAttentionOptions o;
  o.select = {.k = k, .cap = cap, .temperature = temperature};
  o.join = {.window = window, .sinks = sinks};
  if (gate != "values" && gate != "scores")
    throw ValueError(fmt::format("gate: '{}', expected values or scores", gate));
  o.gate = gate == "values" ? Gate::values : Gate::scores;
  o.hops = hops;
  o.teleport = teleport;
  o.scale = scale;
  return o;
}

SparsekCacheOptions cache_options(Offset heads, Offset kv_heads, Offset score_heads, Offset head_dim,
                                  Offset value_dim, const SparsekAttentionOptions& given) {
  SparsekCacheOptions o;
  o.heads = heads;
  o.kv_heads = kv_heads;
  o.score_heads = score_heads;
  o.head_dim = head_dim;
  o.value_dim = value_dim;
  o.select = given.select;
  o.join = given.join;
  o.gate = given.gate;
  o.scale = given.scale;
  return o;
}

/// Token i of [heads, n, ..]: [heads, ..].
template <class T>
TensorView<T> token_of(const TensorView<T>& all, Offset i) {
  TensorView<T> one;
  one.data = all.data + i * all.stride[1];
  one.rank = all.rank - 1;
  for (int x = 0; x < one.rank; ++x) {
    const auto from = static_cast<std::size_t>(x == 0 ? 0 : x + 1);
    one.extent[static_cast<std::size_t>(x)] = all.extent[from];
    one.stride[static_cast<std::size_t>(x)] = all.stride[from];
  }
  return one;
}

/// One call at a time: the interpreter's lock is let go while tokens are taken.
template <class T>
struct Guarded {
  Guarded(const SparsekCacheOptions& options, const Context& ctx) : cache(options, ctx) {}
  Guarded(const Guarded& other) : Guarded(other, std::scoped_lock(other.mutex)) {}

  /// f(cache) while nobody else has it. Not with the interpreter's lock: who waits must not hold what the
  /// other wants.
  template <class F>
  auto locked(F&& f) const {
    const std::scoped_lock lock(mutex);
    return f(cache);
  }

  SparsekCache<T> cache;
  mutable std::mutex mutex;

 private:
  Guarded(const Guarded& other, const std::scoped_lock<std::mutex>&) : cache(other.cache) {}
};

template <class T>
void bind_cache(nb::module_& m, const char* name) {
  using Cache = Guarded<T>;
  using E = EdgeValue<T>;
  using Unlocked = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<Cache>(m, name)
      .def("__init__",
           [](Cache* self, const SparsekCacheOptions& options, std::size_t memory_limit) {
             Context ctx;
             ctx.memory_limit = memory_limit;
             new (self) Cache(options, ctx);
           })
      .def(
          "__copy__", [](const Cache& c) { return Cache(c); }, Unlocked())
      .def_prop_ro(
          "tokens", [](const Cache& c) { return c.locked([](const auto& cache) { return cache.tokens(); }); },
          Unlocked())
      .def_prop_ro(
          "bytes", [](const Cache& c) { return c.locked([](const auto& cache) { return cache.bytes(); }); },
          Unlocked())
      // Tokens one after another: k [h_kv, n, d], v [h_kv, n, d_v], scores [h_s, n], and with q [h, n, d] the
      // attention of each into out [h, n, d_v]. What came before an interrupt stays.
      .def(
          "step",
          [](Cache& guarded, const ReadArray& k, const ReadArray& v, const ReadArray& scores,
             const std::optional<ReadArray>& q, const std::optional<WriteArray>& out) {
            const auto k_view = view_of<const T>(k, "k");
            const auto v_view = view_of<const T>(v, "v");
            const auto s_view = view_of<const E>(scores, "scores");
            const auto q_view = q ? view_of<const T>(*q, "q") : TensorView<const T>{};
            const auto o_view = out ? view_of<T>(*out, "out") : TensorView<T>{};
            run(1, 0, [&](const Context& ctx) {
              const std::scoped_lock lock(guarded.mutex);
              SparsekCache<T>& c = guarded.cache;
              const ThreadScope scope(1, ctx.stop);
              for (Offset i = 0; i < s_view.extent[1]; ++i) {
                for (Offset h = 0; h < s_view.extent[0]; ++h) {
                  if (std::isnan(static_cast<double>(s_view(h, i))))
                    throw ValueError(
                        fmt::format("sparsek cache: score {} of token {} is NaN, no token was taken", h, i));
                }
              }
              for (Offset i = 0; i < s_view.extent[1]; ++i) {
                check_stop();
                c.append(token_of(k_view, i), token_of(v_view, i), token_of(s_view, i));
                if (q) c.attend(token_of(q_view, i), token_of(o_view, i));
              }
            });
          },
          nb::arg("k"), nb::arg("v"), nb::arg("scores"), nb::arg("q").none(), nb::arg("out").none())
      .def("state",
           [](const Cache& c) {
             typename SparsekCache<T>::State state;
             {
               const nb::gil_scoped_release released;
               state = c.locked([](const auto& cache) { return cache.state(); });
             }
             return packed<T>(state);
           })
      // What state() gave of a cache with the same options.
      .def("restore",
           [](Cache& c, Offset tokens, const nb::bytes& fixed, const nb::bytes& kept, const nb::bytes& places,
              const nb::bytes& numbers, const nb::bytes& counts, const nb::bytes& scores,
              const nb::bytes& positions) {
             const auto state = unpacked<T>(tokens, fixed, kept, places, numbers, counts, scores, positions);
             const nb::gil_scoped_release released;
             const std::scoped_lock lock(c.mutex);
             c.cache = SparsekCache<T>(c.cache.options(), state);
           })
      .def(
          "tau",
          [](const Cache& c, Offset head) {
            return c.locked([&](const auto& cache) { return cache.selection(head).tau(); });
          },
          Unlocked())
      .def("kept", [](const Cache& c, Offset head) {
        std::vector<Index> positions;
        std::vector<double> gates;
        {
          const nb::gil_scoped_release released;
          c.locked([&](const auto& cache) {
            cache.selection(head).for_each([&](const CausalSparsek::Key& key, double gate) {
              positions.push_back(key.position);
              gates.push_back(gate);
            });
          });
        }
        return nb::make_tuple(owned_array(std::move(positions)), owned_array(std::move(gates)));
      });
}

}  // namespace

void bind_sparsek(nb::module_& m) {
  m.def(
      "sparsek",
      [](const ReadArray& z, double k, const WriteArray& p, const std::optional<ReadDoubles>& row_k,
         const std::optional<ReadOffsets>& offsets, double temperature, const std::optional<Doubles>& tau,
         bool sorted, int threads, const StreamNumber& stream) {
        require_there(tau, stream, "tau");
        SparsekOptions options = options_of(temperature, row_k, offsets, tau);
        options.method = sorted ? SparsekMethod::sorted : SparsekMethod::linear;
        const DType dtype = dtype_of(z.dtype(), "z");
        dispatch(dtype, [&]<class T>(T) {
          const auto from = view_of<const T>(z, "z", device_of(stream));
          const auto to = view_of<T>(p, "p", device_of(stream));
          run(
              threads, 0, [&](const Context& ctx) { sparsek<T>(ctx, from, k, to, options); },
              backend_of(stream), stream);
        });
      },
      nb::arg("z"), nb::arg("k"), nb::arg("p"), nb::arg("row_k").none(), nb::arg("offsets").none(),
      nb::arg("temperature"), nb::arg("tau").none(), nb::arg("sorted"), nb::arg("threads"),
      nb::arg("stream") = nb::none());
  m.def(
      "sparsek_vjp",
      [](const ReadArray& p, const ReadArray& g, const std::optional<WriteArray>& dz,
         const std::optional<Doubles>& dk, const std::optional<ReadOffsets>& offsets, double temperature,
         int threads, const StreamNumber& stream) {
        require_there(dk, stream, "dk");
        const DType dtype = dtype_of(p.dtype(), "p");
        require_same(g, dtype, "g");
        const SparsekOptions options = options_of(temperature, std::nullopt, offsets, std::nullopt);
        dispatch(dtype, [&]<class T>(T) {
          SparsekGradients<T> gradients;
          if (dz) gradients.z = view_of<T>(*dz, "dz", device_of(stream));
          gradients.k = span_of<double>(dk);
          const auto at = view_of<const T>(p, "p", device_of(stream));
          const auto given = view_of<const T>(g, "g", device_of(stream));
          run(
              threads, 0, [&](const Context& ctx) { sparsek_vjp<T>(ctx, at, given, gradients, options); },
              backend_of(stream), stream);
        });
      },
      nb::arg("p"), nb::arg("g"), nb::arg("dz").none(), nb::arg("dk").none(), nb::arg("offsets").none(),
      nb::arg("temperature"), nb::arg("threads"), nb::arg("stream") = nb::none());
  m.def(
      "sparsek_jvp",
      [](const ReadArray& p, const ReadArray& dz, const WriteArray& dp, const std::optional<ReadDoubles>& dk,
         const std::optional<ReadOffsets>& offsets, double temperature, int threads,
         const StreamNumber& stream) {
        const DType dtype = dtype_of(p.dtype(), "p");
        require_same(dz, dtype, "dz");
        const SparsekOptions options = options_of(temperature, std::nullopt, offsets, std::nullopt);
        dispatch(dtype, [&]<class T>(T) {
          const auto at = view_of<const T>(p, "p", device_of(stream));
          const auto along = view_of<const T>(dz, "dz", device_of(stream));
          const auto to = view_of<T>(dp, "dp", device_of(stream));
          run(
              threads, 0,
              [&](const Context& ctx) {
                sparsek_jvp<T>(ctx, at, along, to, options, span_of<const double>(dk));
              },
              backend_of(stream), stream);
        });
      },
      nb::arg("p"), nb::arg("dz"), nb::arg("dp"), nb::arg("dk").none(), nb::arg("offsets").none(),
      nb::arg("temperature"), nb::arg("threads"), nb::arg("stream") = nb::none());
  m.def(
      "topk",
      [](const ReadArray& z, Offset k, const Indices& indices, int threads) {
        dispatch(dtype_of(z.dtype(), "z"), [&]<class T>(T) {
          const auto from = view_of<const T>(z, "z");
          const TensorView<Index> to(
              indices.data(), {static_cast<Offset>(indices.shape(0)), static_cast<Offset>(indices.shape(1))});
          run(threads, 0, [&](const Context& ctx) { topk<T>(ctx, from, k, to); });
        });
      },
      nb::arg("z"), nb::arg("k"), nb::arg("indices"), nb::arg("threads"));

  nb::class_<CausalSelection>(m, "CausalSelection",
                              "Which keys each query keeps, as it changes from row to row.")
      // What from_state() takes: (k, cap, temperature, score, tau, until, capped rows), arrays as bytes.
      .def("state",
           [](const CausalSelection& s) {
             return nb::make_tuple(s.options.k, s.options.cap, s.options.temperature, bytes_of(s.score),
                                   bytes_of(s.tau), bytes_of(s.until), s.capped_rows);
           })
      .def_static("from_state",
                  [](double k, Offset cap, double temperature, const nb::bytes& score, const nb::bytes& tau,
                     const nb::bytes& until, Offset capped_rows) {
                    return selection_of({.k = k, .cap = cap, .temperature = temperature}, score, tau, until,
                                        capped_rows);
                  })
      .def_prop_ro("edges", [](const CausalSelection& s) { return s.edges; })
      .def_prop_ro("capped_rows", [](const CausalSelection& s) { return s.capped_rows; })
      .def_prop_ro("score",
                   [](nb::handle self) {
                     return borrowed_array(
                         std::span<const double>(nb::cast<const CausalSelection&>(self).score), self);
                   })
      .def_prop_ro("tau",
                   [](nb::handle self) {
                     return borrowed_array(
                         std::span<const double>(nb::cast<const CausalSelection&>(self).tau), self);
                   })
      .def_prop_ro("until",
                   [](nb::handle self) {
                     return borrowed_array(
                         std::span<const Index>(nb::cast<const CausalSelection&>(self).until), self);
                   })
      .def("to_graph", [](const CausalSelection& s, Offset window, Offset sinks) {
        return run(0, 0,
                   [&](const Context& ctx) { return to_graph(ctx, s, {.window = window, .sinks = sinks}); });
      });
  m.def(
      "causal_selections",
      [](const ReadArray& scores, double k, Offset cap, double temperature, int threads,
         const StreamNumber& stream) {
        const CausalOptions options{.k = k, .cap = cap, .temperature = temperature};
        std::vector<CausalSelection> found;
        const auto all = [&]<class T>(T) {
          const auto from = view_of<const T>(scores, "scores", device_of(stream));
          found = run(
              threads, 0, [&](const Context& ctx) { return causal_sparsek<T>(ctx, from, options); },
              backend_of(stream), stream);
        };
        dtype_of(scores.dtype(), "scores") == DType::f64 ? all(double{}) : all(float{});
        nb::list list;
        for (CausalSelection& one : found) list.append(nb::cast(std::move(one)));
        return list;
      },
      nb::arg("scores"), nb::arg("k"), nb::arg("cap"), nb::arg("temperature"), nb::arg("threads"),
      nb::arg("stream") = nb::none());
  m.def(
      "select",
      [](const ReadDoubles& scores, Offset k, Offset sinks, Offset window, bool causal) {
        return run(0, 0, [&](const Context& ctx) {
          return select(ctx, std::span<const double>(scores.data(), scores.shape(0)),
                        {.k = k, .sinks = sinks, .window = window, .causal = causal});
        });
      },
      nb::arg("scores"), nb::arg("k"), nb::arg("sinks"), nb::arg("window"), nb::arg("causal"));

  static_cast<void>(nb::class_<SparsekAttentionOptions>(m, "SparsekAttentionOptions"));
  m.def("sparsek_attention_options", &attention_options, nb::arg("k"), nb::arg("cap"), nb::arg("temperature"),
        nb::arg("window"), nb::arg("sinks"), nb::arg("gate"), nb::arg("hops"), nb::arg("teleport"),
        nb::arg("scale").none());
  m.def(
      "sparsek_attention",
      [](const ReadArray& q, const ReadArray& k, const ReadArray& v, const ReadArray& scores,
         const WriteArray& out, const SparsekAttentionOptions& options, int threads, std::size_t memory_limit,
         const StreamNumber& stream) {
        const auto device = device_of(stream);
        const DType dtype = dtype_of(q.dtype(), "q");
        require_same(k, dtype, "k");
        require_same(v, dtype, "v");
        require_same(scores, dtype == DType::f64 ? DType::f64 : DType::f32, "scores");
        SparsekAttentionInfo info;
        dispatch(dtype, [&]<class T>(T) {
          using E = EdgeValue<T>;
          const auto q_view = view_of<const T>(q, "q", device);
          const auto k_view = view_of<const T>(k, "k", device);
          const auto v_view = view_of<const T>(v, "v", device);
          const auto s_view = view_of<const E>(scores, "scores", device);
          const auto o_view = view_of<T>(out, "out", device);
          info = run(
              threads, memory_limit,
              [&](const Context& ctx) {
                return sparsek_attention<T>(ctx, q_view, k_view, v_view, s_view, o_view, options);
              },
              backend_of(stream), stream);
        });
        return nb::make_tuple(info.selected, info.capped_rows);
      },
      nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("scores"), nb::arg("out"), nb::arg("options"),
      nb::arg("threads"), nb::arg("memory_limit"), nb::arg("stream") = nb::none());
  m.def(
      "sparsek_attention_backward",
      [](const ReadArray& q, const ReadArray& k, const ReadArray& v, const ReadArray& scores,
         const ReadArray& g, const std::optional<WriteArray>& dq, const std::optional<WriteArray>& dk,
         const std::optional<WriteArray>& dv, const std::optional<WriteArray>& dscores,
         const SparsekAttentionOptions& options, int threads, std::size_t memory_limit,
         const StreamNumber& stream) {
        const auto device = device_of(stream);
        const DType dtype = dtype_of(q.dtype(), "q");
        for (const auto& [array, name] : {std::pair{&k, "k"}, std::pair{&v, "v"}, std::pair{&g, "g"}})
          require_same(*array, dtype, name);
        require_same(scores, dtype == DType::f64 ? DType::f64 : DType::f32, "scores");
        dispatch(dtype, [&]<class T>(T) {
          using E = EdgeValue<T>;
          SparsekAttentionGradients<T> gradients;
          if (dq) gradients.q = view_of<T>(*dq, "dq", device);
          if (dk) gradients.k = view_of<T>(*dk, "dk", device);
          if (dv) gradients.v = view_of<T>(*dv, "dv", device);
          if (dscores) gradients.scores = view_of<E>(*dscores, "dscores", device);
          const auto q_view = view_of<const T>(q, "q", device);
          const auto k_view = view_of<const T>(k, "k", device);
          const auto v_view = view_of<const T>(v, "v", device);
          const auto s_view = view_of<const E>(scores, "scores", device);
          const auto g_view = view_of<const T>(g, "g", device);
          run(
              threads, memory_limit,
              [&](const Context& ctx) {
                sparsek_attention_backward<T>(ctx, q_view, k_view, v_view, s_view, g_view, gradients,
                                              options);
              },
              backend_of(stream), stream);
        });
      },
      nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("scores"), nb::arg("g"), nb::arg("dq").none(),
      nb::arg("dk").none(), nb::arg("dv").none(), nb::arg("dscores").none(), nb::arg("options"),
      nb::arg("threads"), nb::arg("memory_limit"), nb::arg("stream") = nb::none());

  static_cast<void>(nb::class_<SparsekCacheOptions>(m, "SparsekCacheOptions"));
  m.def("sparsek_cache_options", &cache_options);
  bind_cache<double>(m, "SparsekCache_f64");
  bind_cache<float>(m, "SparsekCache_f32");
  bind_cache<bf16>(m, "SparsekCache_bf16");
}

}  // namespace manyhop::python

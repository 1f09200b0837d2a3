// manyhop._core: diffusion forward and backward on [n, c] arrays.
#include <fmt/format.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "bindings.hpp"
#include "call.hpp"
#include "manyhop/engine/diffusion.hpp"
#include "manyhop/graphs/base/error.hpp"

namespace manyhop::python {

namespace {

template <class E>
E named(const char* what, const std::string& name, std::initializer_list<std::pair<const char*, E>> choices) {
  std::string all;
  for (const auto& [text, value] : choices) {
    if (name == text) return value;
    all += (all.empty() ? "" : ", ") + std::string(text);
  }
  throw ValueError(fmt::format("{}: '{}', expected one of {}", what, name, all));
}

DiffuseOptions options_of(const std::string& kernel, double teleport, double t,
                          std::vector<double> coefficients, std::optional<int> hops,
                          std::optional<double> tol, const std::string& normalization,
                          const std::string& dangling) {
  DiffuseOptions o;
  o.kernel =
      named<Kernel>("kernel", kernel,
                    {{"ppr", Kernel::ppr}, {"heat", Kernel::heat}, {"coefficients", Kernel::coefficients}});
  o.teleport = teleport;
  o.t = t;
  o.coefficients = std::move(coefficients);
  o.hops = hops;
  o.tol = tol;
  o.normalization = named<Normalization>("normalization", normalization,
                                         {{"sym", Normalization::sym},
                                          {"row", Normalization::row},
                                          {"col", Normalization::col},
                                          {"none", Normalization::none}});
  o.dangling = named<Dangling>("dangling", dangling,
                               {{"zero", Dangling::zero},
                                {"self", Dangling::self},
                                {"uniform", Dangling::uniform},
                                {"restart", Dangling::restart}});
  return o;
}

template <class F>
void dispatch(const nb::dlpack::dtype& dtype, F&& f) {
  switch (dtype_of(dtype, "x")) {
    case DType::f64:
      return f(double{});
    case DType::f32:
      return f(float{});
    default:
      throw nb::type_error("x: a 16-bit type, expected float64 or float32");
  }
}

}  // namespace

void bind_diffusion(nb::module_& m) {
  static_cast<void>(nb::class_<DiffuseOptions>(m, "DiffuseOptions"));
  m.def("diffuse_options", &options_of, nb::arg("kernel"), nb::arg("teleport"), nb::arg("t"),
        nb::arg("coefficients"), nb::arg("hops").none(), nb::arg("tol").none(), nb::arg("normalization"),
        nb::arg("dangling"));
  m.def(
      "diffuse",
      [](const Graph& graph, const ReadArray& x, const WriteArray& z, const DiffuseOptions& options,
         int threads, std::size_t memory_limit, const std::string& backend) {
        if (dtype_of(x.dtype(), "x") != dtype_of(z.dtype(), "z"))
          throw nb::type_error("z: another type than x");
        DiffuseResult result;
        dispatch(x.dtype(), [&]<class T>(T) {
          const auto from = view_of<const T>(x, "x");
          const auto to = view_of<T>(z, "z");
          result = run(
              threads, memory_limit,
              [&](const Context& ctx) { return diffuse<T>(ctx, graph, from, to, options); },
              backend_of(backend));
        });
        return nb::make_tuple(result.hops, result.residual, result.bound, result.converged);
      },
      nb::arg("graph"), nb::arg("x"), nb::arg("z"), nb::arg("options"), nb::arg("threads"),
      nb::arg("memory_limit"), nb::arg("backend") = "cpu");
  m.def(
      "diffuse_backward",
      [](const Graph& graph, const ReadArray& x, const ReadArray& gz, const DiffuseOptions& options,
         const std::string& mode, const std::optional<WriteArray>& dx, bool want_weights, int threads,
         std::size_t memory_limit, const std::string& backend) {
        const BackwardMode how = named<BackwardMode>("backward", mode,
                                                     {{"stored", BackwardMode::stored},
                                                      {"checkpointed", BackwardMode::checkpointed},
                                                      {"implicit", BackwardMode::implicit}});
        nb::object found;
        dispatch(x.dtype(), [&]<class T>(T) {
          DiffuseGradients<T> gradients;
          if (dx) gradients.x = view_of<T>(*dx, "dx");
          gradients.want_weights = want_weights;
          const auto from = view_of<const T>(x, "x");
          const auto given = view_of<const T>(gz, "gz");
          run(
              threads, memory_limit,
              [&](const Context& ctx) {
                diffuse_backward<T>(ctx, graph, from, given, options, how, gradients);
              },
              backend_of(backend));
          found = nb::make_tuple(owned_array(std::move(gradients.weights)), gradients.teleport, gradients.t,
                                 owned_array(std::move(gradients.coefficients)));
        });
        return found;
      },
      nb::arg("graph"), nb::arg("x"), nb::arg("gz"), nb::arg("options"), nb::arg("mode"),
      nb::arg("dx").none(), nb::arg("want_weights"), nb::arg("threads"), nb::arg("memory_limit"),
      nb::arg("backend") = "cpu");
}

}  // namespace manyhop::python

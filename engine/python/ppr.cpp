// manyhop._core: personalised PageRank by forward push.
#include <fmt/format.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <span>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "bindings.hpp"
#include "call.hpp"
#include "manyhop/engine/ppr.hpp"
#include "manyhop/graphs/base/error.hpp"

namespace manyhop::python {

namespace {

Normalization normalization_named(const std::string& name) {
  if (name == "col") return Normalization::col;
  if (name == "row") return Normalization::row;
  if (name == "sym") return Normalization::sym;
  throw ValueError(fmt::format("normalization: '{}', expected col, row or sym", name));
}

Dangling dangling_named(const std::string& name) {
  if (name == "zero") return Dangling::zero;
  if (name == "self") return Dangling::self;
  if (name == "restart") return Dangling::restart;
  throw ValueError(fmt::format("dangling: '{}', expected zero, self or restart", name));
}

}  // namespace

void bind_ppr(nb::module_& m) {
  using Seeds = nb::ndarray<const Offset, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
  m.def(
      "ppr",
      [](const Graph& graph, const Seeds& seeds, double teleport, double tol, std::optional<Offset> topk,
         const std::string& normalization, const std::string& dangling, std::size_t memory_limit) {
        const PprOptions options{.teleport = teleport,
                                 .tol = tol,
                                 .topk = topk,
                                 .normalization = normalization_named(normalization),
                                 .dangling = dangling_named(dangling)};
        const std::span<const Offset> vertices(seeds.data(), seeds.shape(0));
        const auto rows = static_cast<Offset>(vertices.size());
        PprResult found;
        Graph scores = run(0, memory_limit, [&](const Context& ctx) {
          found = ppr(ctx, graph, vertices, options);
          return Graph::from_csr(rows, graph.n_cols(), std::move(found.indptr), std::move(found.indices),
                                 std::move(found.values));
        });
        return nb::make_tuple(std::move(scores), owned_array(std::move(found.bound)),
                              owned_array(std::move(found.visited)));
      },
      nb::arg("graph"), nb::arg("seeds"), nb::arg("teleport"), nb::arg("tol"), nb::arg("topk").none(),
      nb::arg("normalization"), nb::arg("dangling"), nb::arg("memory_limit"));
}

}  // namespace manyhop::python

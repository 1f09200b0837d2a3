// manyhop._core.Graph: the C++ graph with NumPy views of its arrays.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "arrays.hpp"
#include "bindings.hpp"
#include "call.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/io/io.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "manyhop/graphs/spy.hpp"

namespace manyhop::python {

namespace {

using Offsets = nb::ndarray<const Offset, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Indices = nb::ndarray<const Index, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Weights = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T, class Array>
std::vector<T> copied(const Array& array) {
  return std::vector<T>(array.data(), array.data() + array.shape(0));
}
template <class T, class Array>
std::span<const T> span_of(const Array& array) {
  return {array.data(), array.shape(0)};
}

template <class F>
auto in_scope(F&& f) {
  return run(0, 0, [&](const Context& ctx) {
    const ThreadScope scope(ctx.threads, ctx.stop);
    if constexpr (std::is_invocable_v<F, const Context&>) {
      return f(ctx);
    } else {
      return f();
    }
  });
}

}  // namespace

void bind_graphs(nb::module_& m) {
  nb::class_<Graph>(m, "Graph", "A token graph in CSR by row; immutable, copies share storage.")
      .def_static(
          "from_pattern",
          [](const std::string& text, Offset n_rows, std::optional<Offset> n_cols, std::uint64_t seed) {
            return in_scope([&](const Context& ctx) {
              PatternOptions options;
              options.seed = seed;
              options.memory_limit = ctx.memory_limit;
              return pattern(text, n_rows, n_cols, options);
            });
          },
          nb::arg("text"), nb::arg("n_rows"), nb::arg("n_cols").none(), nb::arg("seed"))
      .def_static(
          "from_csr",
          [](Offset n_rows, Offset n_cols, const Offsets& indptr, const Indices& indices,
             const std::optional<Weights>& weights) {
            return in_scope([&] {
              return Graph::from_csr(n_rows, n_cols, copied<Offset>(indptr), copied<Index>(indices),
                                     weights ? copied<double>(*weights) : std::vector<double>());
            });
          },
          nb::arg("n_rows"), nb::arg("n_cols"), nb::arg("indptr"), nb::arg("indices"),
          nb::arg("weights").none())
      .def_static(
          "from_edges",
          [](Offset n_rows, Offset n_cols, const Indices& rows, const Indices& cols,
             const std::optional<Weights>& weights) {
            if (rows.shape(0) != cols.shape(0) || (weights && weights->shape(0) != rows.shape(0))) {
              throw ValueError("edges: rows, columns and weights have " + std::to_string(rows.shape(0)) +
                               ", " + std::to_string(cols.shape(0)) + " and " +
                               (weights ? std::to_string(weights->shape(0)) : "no") +
                               " entries, equal numbers are wanted");
            }
            return in_scope([&] {
              return Graph::from_edges(n_rows, n_cols, span_of<Index>(rows), span_of<Index>(cols),
                                       weights ? span_of<double>(*weights) : std::span<const double>());
            });
          },
          nb::arg("n_rows"), nb::arg("n_cols"), nb::arg("rows"), nb::arg("cols"), nb::arg("weights").none())
      .def_static(
          "from_runs",
          [](Offset n_rows, Offset n_cols, const Offsets& run_indptr, const Indices& runs) {
            if (runs.shape(0) % 2 != 0) throw ValueError("runs: pairs of columns are wanted");
            return in_scope([&] {
              std::vector<Run> found(runs.shape(0) / 2);
              for (std::size_t r = 0; r < found.size(); ++r) found[r] = {runs(2 * r), runs(2 * r + 1)};
              return Graph::from_runs(n_rows, n_cols, copied<Offset>(run_indptr), std::move(found));
            });
          },
          nb::arg("n_rows"), nb::arg("n_cols"), nb::arg("run_indptr"), nb::arg("runs"))
      .def_static(
          "load",
          [](const std::string& path, std::optional<Offset> n, bool undirected, bool compact, int base) {
            return in_scope([&] {
              LoadOptions options;
              options.n = n;
              options.undirected = undirected;
              options.compact = compact;
              options.base = base;
              return load(path, options);
            });
          },
          nb::arg("path"), nb::arg("n").none(), nb::arg("undirected"), nb::arg("compact"), nb::arg("base"))
      .def("save", [](const Graph& g, const std::string& path) { in_scope([&] { save(g, path); }); })
      .def_prop_ro("n_rows", &Graph::n_rows)
      .def_prop_ro("n_cols", &Graph::n_cols)
      .def_prop_ro("nnz", &Graph::nnz)
      .def_prop_ro("weighted", &Graph::weighted)
      .def_prop_ro("implicit", &Graph::implicit)
      .def_prop_ro("text", &Graph::text)
      .def_prop_ro("nbytes", &Graph::bytes)
      .def_prop_ro("hash", &Graph::hash)
      .def_prop_ro(
          "indptr",
          [](nb::handle self) { return borrowed_array(nb::cast<const Graph&>(self).indptr(), self); })
      .def_prop_ro("indices",
                   [](nb::handle self) {
                     const Graph& g = nb::cast<const Graph&>(self);
                     const auto columns = in_scope([&] { return g.indices(); });
                     return borrowed_array(columns, self);
                   })
      .def("runs",  // offsets by row, and begin, end of one run after another
           [](const Graph& g) {
             std::vector<Offset> offsets{0};
             std::vector<Index> runs;
             in_scope([&] {
               offsets.reserve(static_cast<std::size_t>(g.n_rows()) + 1);
               for (Offset i = 0; i < g.n_rows(); ++i) {
                 g.for_each_run(i, [&](Run run) { runs.insert(runs.end(), {run.begin, run.end}); });
                 offsets.push_back(static_cast<Offset>(runs.size() / 2));
               }
             });
             return nb::make_tuple(owned_array(std::move(offsets)), owned_array(std::move(runs)));
           })
      .def_prop_ro("weights",
                   [](nb::handle self) -> nb::object {
                     const Graph& g = nb::cast<const Graph&>(self);
                     if (!g.weighted()) return nb::none();
                     return borrowed_array(g.weights(), self);
                   })
      .def("row_offsets",
           [](const Graph& g) {
             const auto offsets = g.row_offsets();
             return std::vector<Offset>(offsets.begin(), offsets.end());
           })
      .def("col_offsets",
           [](const Graph& g) {
             const auto offsets = g.col_offsets();
             return std::vector<Offset>(offsets.begin(), offsets.end());
           })
      .def("rows", [](const Graph& g, Offset i, Offset j) { return in_scope([&] { return g.rows(i, j); }); })
      .def("transpose", [](const Graph& g) { return in_scope([&] { return g.transpose(); }); })
      .def("without_weights", [](const Graph& g) { return in_scope([&] { return g.without_weights(); }); })
      .def("with_weights",
           [](const Graph& g, const Weights& w) {
             return in_scope([&] { return g.with_weights(copied<double>(w)); });
           })
      .def("unite", [](const Graph& a, const Graph& b) { return in_scope([&] { return unite(a, b); }); })
      .def("intersect",
           [](const Graph& a, const Graph& b) { return in_scope([&] { return intersect(a, b); }); })
      .def("subtract",
           [](const Graph& a, const Graph& b) { return in_scope([&] { return subtract(a, b); }); })
      .def("symmetrised", [](const Graph& a) { return in_scope([&] { return symmetrised(a); }); })
      .def("same_edges",
           [](const Graph& a, const Graph& b) { return in_scope([&] { return a.same_edges(b); }); })
      .def("is_symmetric", [](const Graph& g) { return in_scope([&] { return is_symmetric(g); }); })
      .def("components",
           [](const Graph& g) {
             Components found = in_scope([&] { return components(g); });
             nb::object labels = owned_array(std::move(found.label));
             return nb::make_tuple(found.count, found.isolated, labels);
           })
      .def("labelled",
           [](const Graph& g, const std::string& text) { return g.labelled(text, Source::pattern); })
      .def("spy_svg",
           [](const Graph& g, const std::string& title, int pixels) {
             return in_scope([&] { return spy_svg(g, {.title = title, .pixels = pixels}); });
           })
      .def("spy_text", [](const Graph& g, int columns,
                          int rows) { return in_scope([&] { return spy_braille(g, columns, rows); }); })
      .def("spy_grid", [](const Graph& g, int height, int width) {
        SpyGrid grid = in_scope([&] { return spy_grid(g, height, width); });
        const auto h = static_cast<std::size_t>(grid.height);
        const auto w = static_cast<std::size_t>(grid.width);
        return owned_array(std::move(grid.count), {h, w});
      });
  m.def("batch", [](const std::vector<Graph>& items) { return in_scope([&] { return batch(items); }); });
  m.def("canonical_pattern", [](const std::string& text) { return canonical_pattern(text); });
  m.def("implied_size", [](const std::string& text) { return implied_size(text); });
  m.def("pattern_names", &pattern_names);
  m.def("is_graph_path", [](const std::string& text) { return is_graph_path(text); });
}

}  // namespace manyhop::python

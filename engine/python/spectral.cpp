// manyhop._core: eigenvalues, measures and design, as plain dictionaries.
#include <fmt/format.h>
#include <nanobind/stl/complex.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "bindings.hpp"
#include "call.hpp"
#include "manyhop/engine/spectral/design.hpp"
#include "manyhop/engine/spectral/survey.hpp"
#include "manyhop/graphs/base/error.hpp"

namespace manyhop::python {

namespace {

using spectral::Estimate;
using spectral::GapResult;
using spectral::Reach;
using spectral::SpectralOptions;
using spectral::Survey;

spectral::Operator operator_named(const std::string& name) {
  using spectral::Operator;
  constexpr std::array<std::pair<const char*, Operator>, 6> kNames{{{"normalized", Operator::normalized},
                                                                    {"adjacency", Operator::adjacency},
                                                                    {"laplacian", Operator::laplacian},
                                                                    {"transition", Operator::transition},
                                                                    {"singular", Operator::singular},
                                                                    {"chung", Operator::chung}}};
  for (const auto& [text, op] : kNames) {
    if (name == text) return op;
  }
  throw ValueError(fmt::format(
      "operator: '{}', expected normalized, adjacency, laplacian, transition, singular or chung", name));
}

template <class T>
nb::object optional_value(const std::optional<T>& value) {
  if (!value) return nb::none();
  return nb::cast(*value);
}
/// A real number where the imaginary part is exactly 0.
nb::object number(const std::optional<std::complex<double>>& value) {
  if (!value) return nb::none();
  if (value->imag() == 0) return nb::cast(value->real());
  return nb::cast(*value);
}

nb::object reach_rows(const std::vector<Reach>& reach) {
  nb::list rows;
  for (const Reach& r : reach) {
    nb::dict row;
    row["hop"] = r.hop;
    row["mean"] = r.mean;
    row["min"] = r.min;
    rows.append(row);
  }
  return rows;
}

nb::dict gap_dict(GapResult& r) {
  nb::dict d;
  d["n"] = r.n;
  d["edges"] = r.edges;
  d["operator"] = r.op;
  d["method"] = r.method;
  d["lambda2"] = number(r.lambda2);
  d["lambda_n"] = number(r.lambda_n);
  d["gap"] = optional_value(r.gap);
  d["residual"] = r.residual;
  d["converged"] = r.converged;
  d["iterations"] = r.iterations;
  d["seconds"] = r.seconds;
  d["symmetrised"] = r.symmetrised;
  d["components"] = r.components;
  d["isolated"] = r.isolated;
  d["applies"] = r.applies;
  d["reason"] = r.reason;
  d["reach"] = reach_rows(r.reach);
  const std::size_t rows = r.vectors.size() / 2;
  d["vectors"] = r.vectors.empty() ? nb::none() : owned_array(std::move(r.vectors), {rows, std::size_t{2}});
  return d;
}

nb::object estimate_dict(const std::optional<Estimate>& e) {
  if (!e) return nb::none();
  nb::dict d;
  d["value"] = e->value;
  d["error"] = e->error;
  d["probes"] = e->probes;
  return d;
}

nb::dict survey_dict(Survey& s) {
  nb::dict d = gap_dict(s.gap);
  d["reach"] = reach_rows(s.reach);
  d["reach_rows"] = s.reach_rows;
  nb::dict cheeger;
  cheeger["lower"] = optional_value(s.cheeger.lower);
  cheeger["upper"] = optional_value(s.cheeger.upper);
  d["cheeger"] = cheeger;
  if (s.cut) {
    nb::dict cut;
    cut["size"] = s.cut->size;
    cut["volume"] = s.cut->volume;
    cut["edges"] = s.cut->edges;
    cut["conductance"] = s.cut->conductance;
    cut["edge_expansion"] = optional_value(s.cut->edge_expansion);
    cut["vertex_expansion"] = optional_value(s.cut->vertex_expansion);
    std::vector<std::uint8_t> inside(s.cut->inside.begin(), s.cut->inside.end());
    cut["inside"] = owned_array(std::move(inside));
    d["cut"] = cut;
  } else {
    d["cut"] = nb::none();
  }
  nb::dict ramanujan;
  ramanujan["applies"] = s.ramanujan.applies;
  ramanujan["reason"] = s.ramanujan.reason;
  ramanujan["degree"] = s.ramanujan.degree;
  ramanujan["bound"] = optional_value(s.ramanujan.bound);
  ramanujan["lambda"] = optional_value(s.ramanujan.lambda);
  ramanujan["margin"] = optional_value(s.ramanujan.margin);
  ramanujan["error"] = optional_value(s.ramanujan.error);
  ramanujan["verdict"] = optional_value(s.ramanujan.verdict);
  ramanujan["alon_boppana"] = optional_value(s.ramanujan.alon_boppana);
  d["ramanujan"] = ramanujan;
  nb::dict mixing;
  mixing["eps"] = s.mixing.eps;
  mixing["lower"] = optional_value(s.mixing.lower);
  mixing["upper"] = optional_value(s.mixing.upper);
  mixing["simulated"] = optional_value(s.mixing.simulated);
  d["mixing"] = mixing;
  nb::dict hops_for;
  for (const auto& h : s.hops_for) {
    nb::dict entry;
    entry["walk"] = optional_value(h.walk);
    entry["ppr"] = optional_value(h.ppr);
    hops_for[nb::cast(h.eps)] = entry;
  }
  d["hops_for"] = hops_for;
  d["diameter"] = nb::make_tuple(optional_value(s.diameter.lower), optional_value(s.diameter.upper));
  d["capacity"] = optional_value(s.capacity);
  if (s.without_hubs) {
    nb::dict hubs;
    hubs["hubs"] = s.without_hubs->hubs;
    hubs["gap"] = optional_value(s.without_hubs->gap);
    d["without_hubs"] = hubs;
  }
  if (s.complete_distance) d["complete_distance"] = optional_value(s.complete_distance->value);
  if (s.effective_rank) d["effective_rank"] = estimate_dict(s.effective_rank);
  if (s.resistance) {
    d["kirchhoff"] = estimate_dict(s.resistance->kirchhoff);
    d["mean_resistance"] = optional_value(s.resistance->mean);
  }
  if (s.discrepancy) d["discrepancy"] = optional_value(s.discrepancy->value);
  if (s.density) {
    nb::dict density;
    density["edges"] = owned_array(std::move(s.density->edges));
    density["kpm"] = owned_array(std::move(s.density->kpm));
    density["kpm_error"] = owned_array(std::move(s.density->kpm_error));
    density["lanczos"] = owned_array(std::move(s.density->lanczos));
    density["lanczos_error"] = owned_array(std::move(s.density->lanczos_error));
    density["law"] = s.density->law;
    density["law_share"] = owned_array(std::move(s.density->law_share));
    d["density"] = density;
  }
  return d;
}

}  // namespace

void bind_spectral(nb::module_& m) {
  m.def(
      "gap",
      [](const Graph& graph, const std::string& op, double tol, bool weighted, int max_iterations,
         bool vectors, int reach_hops, int threads, std::size_t memory_limit) {
        SpectralOptions options;
        options.op = operator_named(op);
        options.tol = tol;
        options.weighted = weighted;
        options.max_iterations = max_iterations;
        options.vectors = vectors;
        options.reach_hops = reach_hops;
        GapResult result = run(threads, memory_limit,
                               [&](const Context& ctx) { return spectral::gap(ctx, graph, options); });
        return gap_dict(result);
      },
      nb::arg("graph"), nb::arg("operator"), nb::arg("tol"), nb::arg("weighted"), nb::arg("max_iterations"),
      nb::arg("vectors"), nb::arg("reach_hops"), nb::arg("threads"), nb::arg("memory_limit"));
  m.def(
      "reach",
      [](const Graph& graph, int hops, Offset exact_rows, std::uint64_t seed) {
        return reach_rows(run(
            0, 0, [&](const Context& ctx) { return spectral::reach(ctx, graph, hops, exact_rows, seed); }));
      },
      nb::arg("graph"), nb::arg("hops"), nb::arg("exact_rows"), nb::arg("seed"));
  m.def(
      "survey",
      [](const Graph& graph, const std::string& op, double tol, bool weighted, int max_iterations,
         bool everything, const std::vector<double>& eps, double teleport, std::uint64_t seed, int threads,
         std::size_t memory_limit) {
        spectral::SurveyOptions options;
        options.spectral.op = operator_named(op);
        options.spectral.tol = tol;
        options.spectral.weighted = weighted;
        options.spectral.max_iterations = max_iterations;
        if (everything) options.wanted = spectral::Wanted::all();
        options.eps = eps;
        options.teleport = teleport;
        options.seed = seed;
        Survey result = run(threads, memory_limit,
                            [&](const Context& ctx) { return spectral::survey(ctx, graph, options); });
        return survey_dict(result);
      },
      nb::arg("graph"), nb::arg("operator"), nb::arg("tol"), nb::arg("weighted"), nb::arg("max_iterations"),
      nb::arg("everything"), nb::arg("eps"), nb::arg("teleport"), nb::arg("seed"), nb::arg("threads"),
      nb::arg("memory_limit"));
  m.def(
      "design",
      [](Offset n, double edges_per_token, int align, bool causal, const std::string& keep, double max_ms,
         int seeds, int heads, int head_dim, double tol, int threads) {
        spectral::DesignOptions options;
        options.n = n;
        options.edges_per_token = edges_per_token;
        options.align = align;
        options.causal = causal;
        options.keep = keep;
        options.max_ms = max_ms;
        options.seeds = seeds;
        options.heads = heads;
        options.head_dim = head_dim;
        options.tol = tol;
        const spectral::DesignResult result =
            run(threads, 0, [&](const Context& ctx) { return spectral::design(ctx, options); });
        nb::list designs;
        for (const spectral::Design& design : result.designs) {
          nb::dict row;
          row["pattern"] = design.text;
          row["baseline"] = design.baseline;
          row["pareto"] = design.pareto;
          row["edges"] = design.edges;
          row["padding"] = design.padding;
          row["gap"] = optional_value(design.gap);
          row["capacity"] = optional_value(design.capacity);
          row["reach"] = design.reach;
          row["predicted_seconds"] = design.predicted_seconds;
          row["measured_seconds"] = design.measured_seconds;
          designs.append(row);
        }
        nb::dict all;
        all["designs"] = designs;
        all["chosen"] = result.chosen ? designs[*result.chosen] : nb::object(nb::none());
        all["ceiling"] = optional_value(result.ceiling);
        all["tried"] = result.tried;
        all["left_out"] = result.left_out;
        return all;
      },
      nb::arg("n"), nb::arg("edges_per_token"), nb::arg("align"), nb::arg("causal"), nb::arg("keep"),
      nb::arg("max_ms"), nb::arg("seeds"), nb::arg("heads"), nb::arg("head_dim"), nb::arg("tol"),
      nb::arg("threads"));
}

}  // namespace manyhop::python

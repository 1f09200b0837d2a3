#include "spectral_report.hpp"

#include <fmt/format.h>

#include <cmath>
#include <complex>

namespace manyhop::cli {
namespace {

// transition has complex eigenvalues, so its numbers are objects always; the other operators' are real.
Json eigenvalue(const std::optional<std::complex<double>>& value, bool complex) {
  if (!value) return nullptr;
  if (!complex) return value->real();
  return {{"re", value->real()}, {"im", value->imag()}};
}

std::string eigenvalue_text(const std::optional<std::complex<double>>& value) {
  if (!value) return "-";
  if (value->imag() == 0) return fmt::format("{:.10g}", value->real());
  return fmt::format("{:.10g} {} {:.10g} i", value->real(), value->imag() < 0 ? '-' : '+',
                     std::abs(value->imag()));
}

template <class T>
Json optional(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

template <class T>
std::string text_of(const std::optional<T>& value) {
  return value ? fmt::format("{:.6g}", static_cast<double>(*value)) : "-";
}

Json estimate(const spectral::Estimate& value) {
  return {{"value", value.value}, {"error", value.error}, {"probes", value.probes}};
}

void add_expansion(Json& json, const spectral::Survey& survey) {
  const auto& cut = survey.cut;
  json["cheeger"] = {{"lower", optional(survey.cheeger.lower)},
                     {"upper", optional(survey.cheeger.upper)},
                     {"sweep", cut ? Json(cut->conductance) : Json(nullptr)}};
  json["cut"] = nullptr;
  if (cut)
    json["cut"] = {{"size", cut->size},
                   {"volume", cut->volume},
                   {"edges", cut->edges},
                   {"edge_expansion", optional(cut->edge_expansion)},
                   {"vertex_expansion", optional(cut->vertex_expansion)}};
  const auto& r = survey.ramanujan;
  json["ramanujan"] = {{"applies", r.applies},
                       {"bound", optional(r.bound)},
                       {"ratio", optional(r.ratio)},
                       {"lambda", optional(r.lambda)},
                       {"margin", optional(r.margin)},
                       {"error", optional(r.error)},
                       {"verdict", optional(r.verdict)},
                       {"bipartite", r.bipartite},
                       {"alon_boppana", optional(r.alon_boppana)}};
  if (!r.applies) json["ramanujan"]["reason"] = survey.reason.empty() ? r.reason : survey.reason;
  const auto& m = survey.mixing;
  json["mixing_time"] = {{"eps", m.eps},
                         {"lower", optional(m.lower)},
                         {"upper", optional(m.upper)},
                         {"simulated", optional(m.simulated)},
                         {"starts", m.starts}};
  json["hops_for"] = Json::object();
  for (const auto& hops : survey.hops_for)
    json["hops_for"][fmt::format("{}", hops.eps)] = {{"walk", optional(hops.walk)},
                                                     {"ppr", optional(hops.ppr)}};
  json["reach"] = reach_json(survey.reach);
  json["triangular"] = survey.triangular;
  json["remark"] = survey.triangular ? Json(kTriangularRemark) : Json(nullptr);
  json["paths"] = survey.triangular ? paths_json(survey.paths) : Json(nullptr);
  json["singular_gap"] = survey.singular ? optional(survey.singular->gap) : Json(nullptr);
  json["reach_rows"] = survey.reach_rows;
  json["diameter"] = {{"lower", optional(survey.diameter.lower)}, {"upper", optional(survey.diameter.upper)}};
  json["capacity"] = optional(survey.capacity);
}

void add_measures(Json& json, const spectral::Survey& survey) {
  for (const char* key :
       {"without_hubs", "complete_distance", "effective_rank", "resistance", "discrepancy", "density"})
    json[key] = nullptr;
  if (const auto& hubs = survey.without_hubs)
    json["without_hubs"] = {{"hubs", hubs->hubs},
                            {"gap", optional(hubs->gap)},
                            {"residual", hubs->residual},
                            {"converged", hubs->converged}};
  if (const auto& distance = survey.complete_distance)
    json["complete_distance"] = {{"value", optional(distance->value)},
                                 {"residual", distance->residual},
                                 {"converged", distance->converged}};
  if (survey.effective_rank) json["effective_rank"] = estimate(*survey.effective_rank);
  if (const auto& resistance = survey.resistance)
    json["resistance"] = {
        {"kirchhoff", resistance->kirchhoff ? estimate(*resistance->kirchhoff) : Json(nullptr)},
        {"mean", optional(resistance->mean)},
        {"converged", resistance->converged},
        {"iterations", resistance->iterations}};
  if (const auto& discrepancy = survey.discrepancy)
    json["discrepancy"] = {{"lower_bound", optional(discrepancy->value)},
                           {"random_pairs", discrepancy->random_pairs},
                           {"sweep_pairs", discrepancy->sweep_pairs},
                           {"thinned", discrepancy->thinned}};
  if (const auto& density = survey.density)
    json["density"] = {{"edges", density->edges},
                       {"kpm", density->kpm},
                       {"kpm_error", density->kpm_error},
                       {"lanczos", density->lanczos},
                       {"lanczos_error", density->lanczos_error},
                       {"moments", density->moments},
                       {"steps", density->steps},
                       {"probes", density->probes},
                       {"law", density->law.empty() ? Json(nullptr) : Json(density->law)},
                       {"law_share", density->law_share}};
}

std::string ramanujan_text(const spectral::Ramanujan& r) {
  if (!r.applies) return "does not apply: " + r.reason;
  const char* verdict = !r.verdict ? "undecided within the error" : *r.verdict ? "yes" : "no";
  if (!r.lambda) return fmt::format("{}, no eigenvalue but the trivial ones", verdict);
  return fmt::format("{}{}: |lambda| {:.6g} of {:.6g}, margin {:.3g} +- {:.1g}", verdict,
                     r.bipartite ? " (bipartite)" : "", *r.lambda, *r.bound, *r.margin, *r.error);
}

std::string mixing_text(const spectral::MixingTime& m) {
  return fmt::format("{} .. {} lazy steps to {}{}", text_of(m.lower), text_of(m.upper), m.eps,
                     m.simulated ? fmt::format(", simulated {} (worst of {} starts)", *m.simulated, m.starts)
                                 : std::string(", not simulated"));
}

void add_expansion_fields(Fields& fields, const spectral::Survey& survey) {
  fields.add("conductance", fmt::format("{} .. {} (Cheeger), sweep cut {}", text_of(survey.cheeger.lower),
                                        text_of(survey.cheeger.upper),
                                        survey.cut ? number_text(survey.cut->conductance) : "-"));
  if (const auto& cut = survey.cut)
    fields.add("cut", fmt::format("{} vertices, {:.6g} edges leave; edge expansion {}, vertex expansion {}",
                                  cut->size, cut->edges, text_of(cut->edge_expansion),
                                  text_of(cut->vertex_expansion)));
  fields.add("Ramanujan", ramanujan_text(survey.ramanujan));
  if (survey.ramanujan.alon_boppana)
    fields.add("Alon-Boppana", fmt::format("lambda2 of this degree and diameter is at least {:.6g}",
                                           *survey.ramanujan.alon_boppana));
  fields.add("mixing time", mixing_text(survey.mixing));
  for (const auto& hops : survey.hops_for)
    fields.add(fmt::format("hops for {}", hops.eps),
               fmt::format("walk {}, diffusion {}", text_of(hops.walk), text_of(hops.ppr)));
  const auto& diameter = survey.diameter;
  fields.add("diameter", !diameter.lower ? "-"
                         : *diameter.lower == *diameter.upper
                             ? fmt::format("{}", *diameter.lower)
                             : fmt::format("{} .. {}", *diameter.lower, *diameter.upper));
  fields.add("capacity", text_of(survey.capacity));
}

void add_measure_fields(Fields& fields, const spectral::Survey& survey) {
  if (const auto& hubs = survey.without_hubs)
    fields.add("without hubs",
               fmt::format("gap {} after {} hubs are taken out", text_of(hubs->gap), hubs->hubs));
  if (const auto& distance = survey.complete_distance)
    fields.add("to complete", fmt::format("{}{}", text_of(distance->value),
                                          distance->converged ? "" : " at least (NOT converged)"));
  if (const auto& rank = survey.effective_rank)
    fields.add("effective rank", fmt::format("{:.6g} +- {:.2g} after {} hops", rank->value, rank->error,
                                             spectral::kSurveyHops));
  if (const auto& r = survey.resistance) {
    if (r->kirchhoff) {
      fields.add("Kirchhoff index", fmt::format("{:.6g} +- {:.2g}, mean resistance {}", r->kirchhoff->value,
                                                r->kirchhoff->error, text_of(r->mean)));
    } else {
      fields.add("Kirchhoff index", r->converged
                                        ? "infinite (several components)"
                                        : fmt::format("not solved within {} iterations", r->iterations));
    }
  }
  if (const auto& d = survey.discrepancy)
    fields.add("discrepancy",
               fmt::format("at least {} over {} random and {} sweep pairs{}", text_of(d->value),
                           d->random_pairs, d->sweep_pairs, d->thinned ? " (not all: work is bounded)" : ""));
  if (survey.density)
    fields.add("density", fmt::format("{} bins from {} probes (in --json and --html)",
                                      survey.density->kpm.size(), survey.density->probes));
}

}  // namespace

Json reach_json(const std::vector<spectral::Reach>& reach) {
  Json json = Json::array();
  for (const auto& hop : reach)
    json.push_back({{"hop", hop.hop}, {"mean", hop.mean}, {"min", hop.min}, {"error", hop.error}});
  return json;
}

Json paths_json(const std::vector<spectral::Paths>& paths) {
  const auto count = [](double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); };
  Json json = Json::array();
  for (const auto& hop : paths)
    json.push_back(
        {{"hop", hop.hop}, {"mean", count(hop.mean)}, {"min", count(hop.min)}, {"max", count(hop.max)}});
  return json;
}

void add_reach_fields(Fields& fields, const std::vector<spectral::Reach>& reach, Offset rows, Offset n) {
  for (const auto& hop : reach)
    fields.add(fmt::format("reach in {}", hop.hop),
               fmt::format("mean {:.4g}{}, min {:.4g} of all columns{}", hop.mean,
                           rows < n ? fmt::format(" +- {:.2g}", hop.error) : std::string(), hop.min,
                           rows < n ? fmt::format(" ({} rows drawn)", rows) : std::string()));
}

void add_path_fields(Fields& fields, const std::vector<spectral::Paths>& paths) {
  for (const auto& hop : paths)
    fields.add(
        fmt::format("paths of {}", hop.hop),
        fmt::format("mean {:.4g}, least {:.4g}, most {:.4g} that end at a row", hop.mean, hop.min, hop.max));
}

Json survey_json(const Graph& graph, const spectral::Survey& survey, double generate_seconds) {
  const spectral::GapResult& result = survey.gap;
  const bool complex = result.op == "transition";
  Json json;
  json["n"] = graph.n_rows();
  json["edges"] = graph.nnz();
  json["operator"] = result.op;
  json["method"] = result.method;
  json["lambda2"] = eigenvalue(result.lambda2, complex);
  json["lambda_n"] = eigenvalue(result.lambda_n, complex);
  json["gap"] = optional(result.gap);
  json["residual"] = result.residual;
  json["converged"] = result.converged;
  json["iterations"] = result.iterations;
  json["seconds"] = result.seconds;
  json["generate_seconds"] = generate_seconds;
  json["symmetrised"] = result.symmetrised;
  json["components"] = result.components;
  json["isolated"] = result.isolated;
  json["applies"] = result.applies;
  if (!result.applies) json["reason"] = result.reason;
  add_expansion(json, survey);
  add_measures(json, survey);
  return json;
}

Fields survey_fields(const Graph& graph, const spectral::Survey& survey, const std::string& title,
                     double generate_seconds) {
  const spectral::GapResult& result = survey.gap;
  Fields fields;
  fields.add("graph", title);
  fields.add("size", fmt::format("{} vertices, {} edges", graph.n_rows(), graph.nnz()));
  fields.add("operator", result.op + (result.symmetrised ? " (symmetrised)" : ""));
  if (!result.applies) fields.add("does not apply", result.reason);
  fields.add("lambda2", eigenvalue_text(result.lambda2));
  fields.add("lambda_n", eigenvalue_text(result.lambda_n));
  fields.add("gap", result.gap ? fmt::format("{:.10g}", *result.gap) : "-");
  fields.add("residual", fmt::format("{:.3g}{}", result.residual, result.converged ? "" : ", NOT converged"));
  fields.add("method", fmt::format("{}, {} iterations", result.method, result.iterations));
  fields.add("components", fmt::format("{}, isolated vertices {}", result.components, result.isolated));
  if (survey.reason.empty()) {
    add_expansion_fields(fields, survey);
    add_measure_fields(fields, survey);
  } else {
    fields.add("expansion", survey.reason);
  }
  if (survey.triangular) fields.add("remark", std::string(kTriangularRemark));
  if (survey.singular)
    fields.add("singular gap", fmt::format("{}{}", text_of(survey.singular->gap),
                                           survey.singular->converged ? "" : " (NOT converged)"));
  add_reach_fields(fields, survey.reach, survey.reach_rows, graph.n_rows());
  add_path_fields(fields, survey.paths);
  fields.add("time",
             fmt::format("{}, graph {}", seconds_text(result.seconds), seconds_text(generate_seconds)));
  return fields;
}

}  // namespace manyhop::cli

#include <fmt/format.h>

#include <cmath>
#include <complex>
#include <cstring>
#include <memory>

#include "manyhop/engine/spectral/gap.hpp"
#include "output.hpp"
#include "verbs.hpp"

namespace manyhop::cli {
namespace {

const std::vector<std::string> kOperators{"normalized", "adjacency", "laplacian",
                                          "transition", "singular",  "chung"};

struct SpectralVerb {
  GraphArgument graph;
  std::optional<std::size_t> op;
  bool weighted = false;
  std::string vectors;
};

// transition has complex eigenvalues, so its numbers are objects always; the other operators' are real.
Json eigenvalue(const std::optional<std::complex<double>>& value, spectral::Operator op) {
  if (!value) return nullptr;
  if (op != spectral::Operator::transition) return value->real();
  return {{"re", value->real()}, {"im", value->imag()}};
}

std::string eigenvalue_text(const std::optional<std::complex<double>>& value) {
  if (!value) return "-";
  if (value->imag() == 0) return fmt::format("{:.10g}", value->real());
  return fmt::format("{:.10g} {} {:.10g} i", value->real(), value->imag() < 0 ? '-' : '+',
                     std::abs(value->imag()));
}

int spectral_verb(Session& session, SpectralVerb& options) {
  if (!options.vectors.empty()) session.output("--vectors", options.vectors, {".npy"});
  const Stopwatch clock;
  const Graph graph = options.graph.make(session);
  const double generate_seconds = clock.seconds();

  spectral::SpectralOptions request;
  request.op = static_cast<spectral::Operator>(options.op.value_or(0));
  if (session.tol) request.tol = *session.tol;
  request.weighted = options.weighted;
  request.vectors = !options.vectors.empty();
  const spectral::GapResult result = spectral::gap(session.context, graph, request);

  if (request.vectors) {
    const auto rows = static_cast<Offset>(result.vectors.size() / 2);
    Tensor tensor = Tensor::zeros(DType::f64, {rows, 2});
    if (!result.vectors.empty()) std::memcpy(tensor.bytes.data(), result.vectors.data(), tensor.bytes.size());
    Outputs outputs;
    outputs.add(options.vectors, [&](const std::string& path) { save_npy(tensor, path); });
    outputs.commit();
  }

  Json json;
  json["n"] = graph.n_rows();
  json["edges"] = graph.nnz();
  json["operator"] = result.op;
  json["method"] = result.method;
  json["lambda2"] = eigenvalue(result.lambda2, request.op);
  json["lambda_n"] = eigenvalue(result.lambda_n, request.op);
  json["gap"] = result.gap ? Json(*result.gap) : Json(nullptr);
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
  json["reach"] = Json::array();
  for (const auto& reach : result.reach)
    json["reach"].push_back({{"hop", reach.hop}, {"mean", reach.mean}, {"min", reach.min}});

  // Measures that this build does not take.
  for (const char* key : {"cheeger", "ramanujan", "mixing_time", "hops_for", "diameter", "capacity"})
    json[key] = nullptr;

  Fields fields;
  fields.add("graph", graph.text().empty() ? options.graph.text : graph.text());
  fields.add("size", fmt::format("{} vertices, {} edges", graph.n_rows(), graph.nnz()));
  fields.add("operator", result.op + (result.symmetrised ? " (symmetrised)" : ""));
  if (!result.applies) fields.add("does not apply", result.reason);
  fields.add("lambda2", eigenvalue_text(result.lambda2));
  fields.add("lambda_n", eigenvalue_text(result.lambda_n));
  fields.add("gap", result.gap ? fmt::format("{:.10g}", *result.gap) : "-");
  fields.add("residual", fmt::format("{:.3g}{}", result.residual, result.converged ? "" : ", NOT converged"));
  fields.add("method", fmt::format("{}, {} iterations", result.method, result.iterations));
  fields.add("components", fmt::format("{}, isolated vertices {}", result.components, result.isolated));
  for (const auto& reach : result.reach)
    fields.add(fmt::format("reach in {}", reach.hop),
               fmt::format("mean {:.4g}, min {:.4g} of all columns", reach.mean, reach.min));
  fields.add("time",
             fmt::format("{}, graph {}", seconds_text(result.seconds), seconds_text(generate_seconds)));
  session.report(json, fields.text());
  if (result.converged) return kOk;
  note(fmt::format("not converged: residual {:.3g} after {} iterations, wanted {:.3g}; raise --tol",
                   result.residual, result.iterations, request.tol));
  return kNotConverged;
}

}  // namespace

void add_spectral(CLI::App& app, Session& session) {
  auto options = std::make_shared<SpectralVerb>();
  CLI::App* verb = add_verb(
      app, session, "spectral", "Second and last eigenvalue, gap and reach of a graph",
      "  manyhop spectral 'regular(8)' -n 4096\n"
      "  manyhop spectral 'diffuser(64, 64, 64)' -n 16384 --json\n"
      "  manyhop spectral links.txt --operator transition --tol 1e-10\n"
      "  manyhop spectral grid.mtx --weighted --operator laplacian --vectors fiedler.npy\n"
      "--tol bounds the residual (default 1e-8). Not converged: the result is printed, exit code 3.");
  options->graph.add(*verb, "GRAPH", "pattern text, or a graph file; square");
  options->graph.add_options(*verb);
  add_choice(*verb, "--operator", options->op, kOperators,
             "matrix whose spectrum is wanted (default normalized)");
  verb->add_flag("--weighted", options->weighted, "use the edge weights instead of 0 and 1");
  add_text(*verb, "--vectors", options->vectors, "FILE.npy",
           "write the vectors of lambda2 and lambda_n, [n, 2]");
  verb->callback([&session, options] {
    session.run = [&session, options] { return spectral_verb(session, *options); };
  });
}

}  // namespace manyhop::cli

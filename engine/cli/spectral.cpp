#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <limits>
#include <memory>

#include "manyhop/engine/spectral/survey.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "output.hpp"
#include "spectral_qkv.hpp"
#include "spectral_report.hpp"
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
  std::string cut;
  std::string html;
  std::vector<double> eps{0.1, 0.01, 0.001};
  bool eps_given = false;
  std::optional<double> mixing_eps, teleport;
  spectral::Wanted wanted;
  SpectralQkv qkv;
};

constexpr std::pair<std::string_view, bool spectral::Wanted::*> kMeasures[] = {
    {"density", &spectral::Wanted::density},
    {"resistance", &spectral::Wanted::resistance},
    {"discrepancy", &spectral::Wanted::discrepancy},
    {"rank", &spectral::Wanted::rank},
    {"hubs", &spectral::Wanted::hubs},
    {"complete", &spectral::Wanted::complete}};

/// "density,rank" as the measures to take.
spectral::Wanted wanted_of(const std::string& text) {
  spectral::Wanted wanted;
  for (std::size_t begin = 0; begin <= text.size();) {
    const auto comma = std::min(text.find(',', begin), text.size());
    const auto word = text.substr(begin, comma - begin);
    begin = comma + 1;
    const auto named = std::find_if(std::begin(kMeasures), std::end(kMeasures),
                                    [&](const auto& measure) { return measure.first == word; });
    if (word == "all") {
      wanted = spectral::Wanted::all();
    } else if (named != std::end(kMeasures)) {
      wanted.*named->second = true;
    } else {
      throw ValueError(
          fmt::format("--measure is '{}': expected density, resistance, discrepancy, rank, hubs, complete or "
                      "all, separated by "
                      "commas",
                      text));
    }
  }
  return wanted;
}

/// The members of the cut: ids, one a line, or [n] of 0 and 1.
void write_cut(const std::optional<spectral::Cut>& cut, const std::string& path) {
  const std::vector<char> none;
  const auto& inside = cut ? cut->inside : none;
  if (has_suffix(path, {".npy"})) {
    Tensor tensor = Tensor::zeros(DType::f32, {static_cast<Offset>(inside.size())});
    for (std::size_t v = 0; v < inside.size(); ++v) tensor.as<float>()[v] = inside[v] != 0 ? 1.0F : 0.0F;
    save_npy(tensor, path);
    return;
  }
  std::string text;
  for (std::size_t v = 0; v < inside.size(); ++v)
    if (inside[v] != 0) text += fmt::format("{}\n", v);
  write_atomically(path, text);
}

int spectral_verb(Session& session, SpectralVerb& options) {
  if (!options.vectors.empty()) session.output("--vectors", options.vectors, {".npy"});
  if (!options.cut.empty()) session.output("--cut", options.cut, {".txt", ".npy"});
  if (!options.html.empty()) session.output("--html", options.html, {".html"});
  if (options.qkv.any()) {
    for (const auto& [name, given] : {std::pair<const char*, bool>{"--operator", options.op.has_value()},
                                      {"--weighted", options.weighted},
                                      {"--vectors", !options.vectors.empty()},
                                      {"--cut", !options.cut.empty()},
                                      {"--eps", options.eps_given},
                                      {"--mixing-eps", options.mixing_eps.has_value()},
                                      {"--html", !options.html.empty()}})
      if (given) throw ValueError(fmt::format("{} does not go with --qkv", name));
    options.qkv.teleport = options.teleport;
    return spectral_qkv(session, options.qkv, options.graph);
  }
  if (options.graph.text.empty()) throw ValueError("GRAPH is required, or --qkv FILE");
  const auto op = static_cast<spectral::Operator>(options.op.value_or(0));
  if (!options.vectors.empty() && op >= spectral::Operator::transition)
    throw ValueError(fmt::format("--vectors: operator {} has none; normalized, laplacian and adjacency have",
                                 kOperators[*options.op]));
  const Stopwatch clock;
  const Graph graph = options.graph.make(session);
  const double generate_seconds = clock.seconds();

  spectral::SurveyOptions options_of_survey;
  spectral::SpectralOptions& request = options_of_survey.spectral;
  request.op = static_cast<spectral::Operator>(options.op.value_or(0));
  if (session.tol) request.tol = *session.tol;
  request.weighted = options.weighted;
  request.vectors = !options.vectors.empty();
  options_of_survey.eps = options.eps;
  if (options.mixing_eps) options_of_survey.mixing_eps = *options.mixing_eps;
  if (options.teleport) options_of_survey.teleport = *options.teleport;
  options_of_survey.wanted = options.wanted;
  if (!options.html.empty()) options_of_survey.wanted.density = true;
  options_of_survey.seed = session.seed;
  const spectral::Survey survey = spectral::survey(session.context, graph, options_of_survey);
  const spectral::GapResult& result = survey.gap;

  Outputs outputs;
  if (request.vectors) {
    if (result.vectors.empty() && graph.n_rows() > 0)
      throw ValueError(
          fmt::format("--vectors: operator {} has none here; normalized, laplacian and adjacency of "
                      "symmetric graphs have",
                      result.op));
    const auto rows = static_cast<Offset>(result.vectors.size() / 2);
    Tensor tensor = Tensor::zeros(DType::f64, {rows, 2});
    if (!result.vectors.empty()) std::memcpy(tensor.bytes.data(), result.vectors.data(), tensor.bytes.size());
    outputs.add(options.vectors, [tensor](const std::string& path) { save_npy(tensor, path); });
  }
  if (!options.cut.empty())
    outputs.add(options.cut, [&](const std::string& path) { write_cut(survey.cut, path); });
  const std::string title = graph.text().empty() ? options.graph.text : graph.text();
  if (!options.html.empty()) {
    const std::string page = spectral_page(graph, survey, title, generate_seconds);
    outputs.add(options.html, [page](const std::string& path) { write_atomically(path, page); });
  }
  outputs.commit();

  session.report(survey_json(graph, survey, generate_seconds),
                 survey_fields(graph, survey, title, generate_seconds).text());
  const bool distant = survey.complete_distance && !survey.complete_distance->converged;
  if (result.converged && distant)
    note(fmt::format("not converged: the distance to the complete graph, residual {:.3g}",
                     survey.complete_distance->residual));
  if (result.converged) return distant ? kNotConverged : kOk;
  note(fmt::format("not converged: residual {:.3g} after {} iterations, wanted {:.3g}; raise --tol",
                   result.residual, result.iterations, request.tol));
  return kNotConverged;
}

}  // namespace

void add_spectral(CLI::App& app, Session& session) {
  auto options = std::make_shared<SpectralVerb>();
  CLI::App* verb = add_verb(
      app, session, "spectral", "Eigenvalues, gap, expansion, mixing time, diameter and capacity of a graph",
      "  manyhop spectral 'regular(8)' -n 4096\n"
      "  manyhop spectral 'diffuser(64, 64, 64)' -n 16384 --json\n"
      "  manyhop spectral links.txt --operator transition --tol 1e-10\n"
      "  manyhop spectral grid.mtx --weighted --operator laplacian --vectors fiedler.npy\n"
      "  manyhop spectral 'lift(regular(4), 64)' -n 16384 --cut half.txt --html report.html\n"
      "  manyhop spectral 'diffuser(64, 64, 64)' -n 65536 --measure density,hubs --json\n"
      "  manyhop spectral --qkv qkv.safetensors --pattern 'causal' --hops 5 --teleport 0.1\n"
      "Graphs of up to 1024 vertices get every measure; larger ones by --measure, or where it is cheap.\n"
      "With --qkv the softmax matrix of each head is measured: it is not symmetric, so second modulus, "
      "singular "
      "values,\n"
      "stationary distribution, Chung's Laplacian, and what K hops leave of a signal.\n"
      "--tol bounds the residual (default 1e-8). Not converged: the result is printed, exit code 3.");
  add_text(*verb, "GRAPH", options->graph.text, "", "pattern text, or a graph file; square");
  options->graph.add_options(*verb);
  add_choice(*verb, "--operator", options->op, kOperators,
             "matrix whose spectrum is wanted (default normalized)");
  verb->add_flag("--weighted", options->weighted, "use the edge weights instead of 0 and 1");
  add_text(*verb, "--vectors", options->vectors, "FILE.npy",
           "write the vectors of lambda2 and lambda_n, [n, 2]");
  add_text(*verb, "--cut", options->cut, "FILE",
           "write the members of the sweep cut: .txt ids, one a line; .npy [n] of 0 and 1");
  add_text(*verb, "--html", options->html, "FILE.html", "write a report for people: one page with pictures");
  const std::function<void(const std::string&)> set_measure = [options](const std::string& text) {
    options->wanted = wanted_of(text);
  };
  verb->add_option_function("--measure", set_measure,
                            "take these too: density, resistance, discrepancy, rank, hubs, complete, all")
      ->type_name("LIST");
  const std::function<void(const std::string&)> set_eps = [options](const std::string& text) {
    options->eps = reals_of("--eps", text);
    options->eps_given = true;
    for (const double eps : options->eps)
      if (!(eps > 0 && eps < 1))
        throw ValueError(fmt::format("--eps is '{}': expected numbers between 0 and 1", text));
  };
  verb->add_option_function("--eps", set_eps, "what hops_for leaves of the start (default 0.1,0.01,0.001)")
      ->type_name("E,E,..");
  add_real(*verb, "--mixing-eps", options->mixing_eps, "E", "distance that counts as mixed (default 0.25)",
           1e-300, 1 - 1e-15);
  add_real(*verb, "--teleport", options->teleport, "A",
           "of the diffusion in hops_for (default 0.1), or with --qkv (default 0)", 0, 1);
  SpectralQkv& qkv = options->qkv;
  add_text(*verb, "--qkv", qkv.path, "FILE",
           "safetensors file with tensors q, k: the softmax matrix of every head");
  add_text(*verb, "--pattern", qkv.pattern, "GRAPH", "with --qkv: edges of that matrix (default full)");
  add_integer(*verb, "--hops", qkv.hops, "K", "with --qkv: hops of the diffusion (default 1)", 0, 1024);
  add_integer(*verb, "--head", qkv.head, "H", "with --qkv: this head alone", 0,
              std::numeric_limits<int>::max());
  add_real(*verb, "--scale", qkv.scale, "S", "with --qkv: of the scores (default 1 / sqrt(d))", -kHuge);
  add_choice(*verb, "--layout", qkv.layout, {"nhd", "bhsd"}, "with --qkv: of q and k (default nhd)");
  add_text(*verb, "--stationary", qkv.stationary, "FILE.npy",
           "with --qkv: write the stationary distributions, [heads, n]");
  verb->callback([&session, options] {
    session.run = [&session, options] { return spectral_verb(session, *options); };
  });
}

}  // namespace manyhop::cli

#include <fmt/format.h>

#include <memory>

#include "manyhop/graphs/base/error.hpp"
#include "output.hpp"
#include "verbs.hpp"

namespace manyhop::cli {
namespace {

struct GenOptions {
  GraphArgument graph;
  std::string output;
};

int gen(Session& session, GenOptions& options) {
  if (!options.output.empty()) session.output("-o", options.output, graph_suffixes());
  const Stopwatch clock;
  const Graph graph = options.graph.make(session);
  const double seconds = clock.seconds();
  if (!options.output.empty()) {
    check_written(session, graph, options.output);
    Outputs outputs;
    outputs.add(options.output, [&](const std::string& path) { save(graph, path); });
    outputs.commit();
  }
  Json json;
  json["n_rows"] = graph.n_rows();
  json["n_cols"] = graph.n_cols();
  json["edges"] = graph.nnz();
  json["seconds"] = seconds;
  json["hash"] = graph.hash_text();
  json["bytes"] = graph.bytes();
  json["pattern"] = graph.text();
  json["file"] = options.output.empty() ? Json(nullptr) : Json(options.output);
  Fields fields;
  fields.add("pattern", graph.text().empty() ? options.graph.text : graph.text());
  fields.add("size", fmt::format("{} x {}", graph.n_rows(), graph.n_cols()));
  fields.add("edges", fmt::format("{}", graph.nnz()));
  fields.add("hash", graph.hash_text());
  fields.add("memory", bytes_text(static_cast<double>(graph.bytes())));
  fields.add("generated in", seconds_text(seconds));
  if (!options.output.empty()) fields.add("written to", options.output);
  session.report(json, fields.text());
  return kOk;
}

}  // namespace

void add_gen(CLI::App& app, Session& session) {
  auto options = std::make_shared<GenOptions>();
  CLI::App* verb = add_verb(app, session, "gen", "Make a graph and write it to a file",
                            "  manyhop gen 'window(4)|global(2)' -n 512 -o graph.npz\n"
                            "  manyhop gen 'regular(6)' -n 1000 --seed 7 -o expander.mtx\n"
                            "  manyhop gen causal -n 3x5 -o -            (Matrix Market on standard output)\n"
                            "  manyhop gen 'lps(5, 13)' --json -o lps.el (n is implied)");
  options->graph.add(*verb, "GRAPH", "pattern text, or a graph file");
  options->graph.add_options(*verb);
  add_text(*verb, "-o,--output", options->output, "FILE",
           "graph file (.mtx .npz .graph .el .txt .tsv .edgelist), - for standard output");
  verb->callback(
      [&session, options] { session.run = [&session, options] { return gen(session, *options); }; });
}

}  // namespace manyhop::cli

#include <fmt/format.h>

#include <memory>

#include "manyhop/graphs/tiling.hpp"
#include "output.hpp"
#include "verbs.hpp"

namespace manyhop::cli {
namespace {

constexpr std::string_view kArcs = "arcs u v: u sends to v (row v, column u)";
constexpr std::string_view kMatrix = "row receives from column";

int info(Session& session, GraphArgument& argument) {
  const Graph graph = argument.make(session);
  const DegreeSummary degree = degrees(graph);
  const bool symmetric = is_symmetric(graph);
  const Offset loops = self_loop_count(graph);
  const Components parts = components(graph);
  const Tiling tiling = make_tiling(graph);
  const std::string_view direction = graph.source() == Source::arcs ? kArcs : kMatrix;

  Json json;
  json["n_rows"] = graph.n_rows();
  json["n_cols"] = graph.n_cols();
  json["edges"] = graph.nnz();
  json["degree"] = {{"min", degree.min}, {"mean", degree.mean}, {"max", degree.max}};
  json["symmetric"] = symmetric;
  json["self_loops"] = loops;
  json["components"] = parts.count;
  json["isolated"] = parts.isolated;
  json["weighted"] = graph.weighted();
  json["direction"] = direction;
  json["bytes"] = graph.bytes();
  json["pattern"] = graph.text().empty() ? Json(nullptr) : Json(graph.text());
  json["hash"] = graph.hash_text();
  json["tiles"] = {{"dense_edges", tiling.dense_edges},
                   {"irregular_edges", tiling.irregular_edges},
                   {"padding", tiling.padding}};

  Fields fields;
  fields.add("graph", graph.text().empty() ? argument.text : graph.text());
  fields.add("size", fmt::format("{} x {}", graph.n_rows(), graph.n_cols()));
  fields.add("edges", fmt::format("{}{}", graph.nnz(), graph.weighted() ? ", weighted" : ""));
  fields.add("degree", fmt::format("{} .. {}, mean {:.6g}", degree.min, degree.max, degree.mean));
  fields.add("symmetric", symmetric ? "yes" : "no");
  fields.add("self loops", fmt::format("{}", loops));
  fields.add("components", fmt::format("{}, isolated vertices {}", parts.count, parts.isolated));
  fields.add("direction", std::string(direction));
  fields.add("memory", bytes_text(static_cast<double>(graph.bytes())));
  fields.add("hash", graph.hash_text());
  fields.add("tiles", fmt::format("{} dense edges, {} irregular edges, {} cells of padding",
                                  tiling.dense_edges, tiling.irregular_edges, tiling.padding));
  session.report(json, fields.text());
  return kOk;
}

}  // namespace

void add_info(CLI::App& app, Session& session) {
  auto argument = std::make_shared<GraphArgument>();
  CLI::App* verb =
      add_verb(app, session, "info", "Size, degrees, symmetry, components and tiles of a graph",
               "  manyhop info 'diffuser(64, 64, 64)' -n 4096\n"
               "  manyhop info citations.txt --undirected --json\n"
               "  manyhop gen causal -n 8 -o - | manyhop info -\n"
               "direction is '" +
                   std::string(kMatrix) + "' for patterns and matrices (mtx, npz, METIS)\nand '" +
                   std::string(kArcs) + "' for edge lists.");
  argument->add(*verb, "GRAPH", "pattern text, or a graph file");
  argument->add_options(*verb);
  verb->callback(
      [&session, argument] { session.run = [&session, argument] { return info(session, *argument); }; });
}

}  // namespace manyhop::cli

#include "manyhop/engine/spectral/design.hpp"

#include <fmt/format.h>

#include <memory>

#include "manyhop/engine/spectral/survey.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "output.hpp"
#include "spectral_report.hpp"
#include "verbs.hpp"

namespace manyhop::cli {
namespace {

struct DesignVerb {
  std::optional<std::int64_t> n, align, seeds, heads, head_dim;
  std::optional<double> budget, max_ms;
  bool causal = false;
  std::string keep, output, html;
};

Json design_json(const spectral::Design& item) {
  Json json;
  json["pattern"] = item.text;
  json["baseline"] = item.baseline;
  json["pareto"] = item.pareto;
  json["gap"] = item.gap ? Json(*item.gap) : Json(nullptr);
  json["residual"] = item.residual;
  json["capacity"] = item.capacity ? Json(*item.capacity) : Json(nullptr);
  json["reach"] = item.reach;
  json["edges"] = item.edges;
  json["padding"] = item.padding;
  json["predicted_ms"] = 1e3 * item.predicted_seconds;
  json["ms"] = 1e3 * item.measured_seconds;
  return json;
}

int design_verb(Session& session, DesignVerb& options) {
  if (!options.output.empty()) session.output("-o", options.output, {".txt"});
  if (!options.html.empty()) session.output("--html", options.html, {".html"});
  if (!options.n) throw ValueError("design wants -n N, the number of tokens");
  if (!options.budget) throw ValueError("design wants --edges-per-token B");
  spectral::DesignOptions request;
  request.n = *options.n;
  request.edges_per_token = *options.budget;
  request.align = static_cast<int>(options.align.value_or(1));
  request.causal = options.causal;
  request.keep = is_graph_path(options.keep) ? fmt::format("file(\"{}\")", options.keep) : options.keep;
  request.max_ms = options.max_ms.value_or(0);
  request.seeds = static_cast<int>(options.seeds.value_or(2));
  request.seed = session.seed;
  request.heads = static_cast<int>(options.heads.value_or(1));
  request.head_dim = static_cast<int>(options.head_dim.value_or(64));
  if (session.tol) request.tol = *session.tol;
  const Stopwatch clock;
  const spectral::DesignResult result = spectral::design(session.context, request);

  Json json;
  json["n"] = request.n;
  json["edges_per_token"] = request.edges_per_token;
  json["align"] = request.align;
  json["causal"] = request.causal;
  json["heads"] = request.heads;
  json["head_dim"] = request.head_dim;
  json["tried"] = result.tried;
  json["left_out"] = result.left_out;
  json["ceiling"] = result.ceiling ? Json(*result.ceiling) : Json(nullptr);
  json["chosen"] = result.chosen ? design_json(result.designs[*result.chosen]) : Json(nullptr);
  json["designs"] = Json::array();
  Table table({"pattern", "gap", "capacity", fmt::format("reach in {}", spectral::kReachHops), "edges",
               "padding", "predicted", "measured"});
  for (std::size_t k = 0; k < result.designs.size(); ++k) {
    const auto& item = result.designs[k];
    json["designs"].push_back(design_json(item));
    const char* mark = result.chosen == k ? "* "
                       : item.baseline    ? "  (compare) "
                       : item.pareto      ? "  "
                                          : "  (slower) ";
    table.add({mark + item.text, item.gap ? number_text(*item.gap) : "-",
               item.capacity ? number_text(*item.capacity) : "-", number_text(item.reach),
               fmt::format("{}", item.edges), fmt::format("{}", item.padding),
               seconds_text(item.predicted_seconds), seconds_text(item.measured_seconds)});
  }
  json["seconds"] = clock.seconds();

  Outputs outputs;
  if (result.chosen) {
    const std::string text = result.designs[*result.chosen].text;
    if (!options.output.empty())
      outputs.add(options.output, [text](const std::string& path) { write_atomically(path, text + "\n"); });
    if (!options.html.empty()) {
      const Graph graph = pattern(text, request.n);
      spectral::SurveyOptions survey;
      survey.wanted.density = true;
      const std::string page =
          spectral_page(graph, spectral::survey(session.context, graph, survey), text, 0);
      outputs.add(options.html, [page](const std::string& path) { write_atomically(path, page); });
    }
  }
  outputs.commit();
  std::string text = table.text();
  if (result.ceiling)
    text += fmt::format("ceiling of a hub-free design in blocks of {}: gap {:.4g}\n", request.align,
                        *result.ceiling);
  if (result.left_out > 0)
    text += fmt::format("{} candidates pass the memory limit and are left out\n", result.left_out);
  text += result.chosen ? fmt::format("{}\n", result.designs[*result.chosen].text)
                        : std::string("no design fits\n");
  session.report(json, text);
  if (result.chosen) return kOk;
  note(fmt::format("none of {} designs fits {} edges a token{}; raise --edges-per-token or --max-ms",
                   result.tried, request.edges_per_token, request.max_ms > 0 ? " within --max-ms" : ""));
  return kFailure;
}

}  // namespace

void add_design(CLI::App& app, Session& session) {
  auto options = std::make_shared<DesignVerb>();
  CLI::App* verb =
      add_verb(app, session, "design", "Search the pattern that mixes best for a number of edges",
               "  manyhop design -n 16384 --edges-per-token 256 --align 64\n"
               "  manyhop design -n 4096 --edges-per-token 64 --keep 'window(8)' -o best.txt\n"
               "  manyhop design -n 4096 --edges-per-token 128 --causal --json\n"
               "* marks the choice: the largest gap with a capacity of 0.9 or more; causal: reach.\n"
               "Times are of one hop of f32 attention.");
  add_integer(*verb, "-n", options->n, "N", "tokens", 2, kMaxVertices);
  add_real(*verb, "--edges-per-token", options->budget, "B", "edges a token on average, at most", 1);
  add_integer(*verb, "--align", options->align, "b", "blocks are multiples of b tokens (default 1)", 1, 4096);
  verb->add_flag("--causal", options->causal, "edges to the past only, judged by reach");
  add_text(*verb, "--keep", options->keep, "EXPR", "a pattern that every design contains");
  add_real(*verb, "--max-ms", options->max_ms, "T", "leave out what is slower when measured", 1e-6);
  add_integer(*verb, "--seeds", options->seeds, "S", "seeds of each random part, from --seed on (default 2)",
              1, 64);
  add_integer(*verb, "--heads", options->heads, "H", "of the timed attention (default 1)", 1, 1024);
  add_integer(*verb, "--head-dim", options->head_dim, "D", "of the timed attention (default 64)", 1, 1024);
  add_text(*verb, "-o,--output", options->output, "FILE.txt", "write the chosen pattern text");
  add_text(*verb, "--html", options->html, "FILE.html", "write the spectral report of the choice");
  verb->callback(
      [&session, options] { session.run = [&session, options] { return design_verb(session, *options); }; });
}

}  // namespace manyhop::cli

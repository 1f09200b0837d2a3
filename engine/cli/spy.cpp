#include "manyhop/graphs/spy.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "manyhop/graphs/base/error.hpp"
#include "output.hpp"
#include "verbs.hpp"

namespace manyhop::cli {
namespace {

struct SpyVerb {
  GraphArgument graph;
  std::string output;
  std::optional<std::int64_t> pixels;
};

struct TerminalSize {
  int columns = 80;
  int rows = 40;
};

TerminalSize terminal_size() {
  winsize window{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) != 0 || window.ws_col < 20 || window.ws_row < 10) return {};
  return {std::min<int>(window.ws_col, 160), std::min<int>(window.ws_row, 80)};
}

int spy(Session& session, SpyVerb& options) {
  if (!options.output.empty()) session.output("-o", options.output, {".svg"});
  if (options.pixels && options.output.empty())
    throw ValueError(
        fmt::format("--pixels {} is of the picture that -o FILE.svg writes, give both", *options.pixels));
  const Graph graph = options.graph.make(session);
  Json json;
  json["n_rows"] = graph.n_rows();
  json["n_cols"] = graph.n_cols();
  json["edges"] = graph.nnz();
  if (options.output.empty()) {
    const TerminalSize size = terminal_size();
    // Room for the frame, the row numbers and the caption.
    const std::string picture = spy_braille(graph, size.columns - 14, size.rows - 6);
    json["picture"] = picture;
    session.report(json, picture);
    return kOk;
  }
  SpyOptions drawing;
  if (graph.text().empty()) drawing.title = options.graph.text;
  if (options.pixels) drawing.pixels = static_cast<int>(*options.pixels);
  const std::string svg = spy_svg(graph, drawing);
  Outputs outputs;
  outputs.add(options.output, [&](const std::string& path) { write_atomically(path, svg); });
  outputs.commit();
  json["file"] = options.output;
  Fields fields;
  fields.add("size", fmt::format("{} x {}", graph.n_rows(), graph.n_cols()));
  fields.add("edges", fmt::format("{}", graph.nnz()));
  fields.add("written to", options.output);
  session.report(json, fields.text());
  return kOk;
}

}  // namespace

void add_spy(CLI::App& app, Session& session) {
  auto options = std::make_shared<SpyVerb>();
  CLI::App* verb = add_verb(app, session, "spy", "Draw a graph's sparsity, in the terminal or as SVG",
                            "  manyhop spy 'bigbird(8, 3)' -n 512\n"
                            "  manyhop spy 'diffuser(64, 64, 64)' -n 4096 -o diffuser.svg\n"
                            "  manyhop spy citations.mtx --pixels 1024 -o citations.svg");
  options->graph.add(*verb, "GRAPH", "pattern text, or a graph file");
  options->graph.add_options(*verb);
  add_text(*verb, "-o,--output", options->output, "FILE.svg", "SVG file, - for standard output");
  add_integer(*verb, "--pixels", options->pixels, "P", "SVG: bins of the longer side (default 256)", 1, 4096);
  verb->callback(
      [&session, options] { session.run = [&session, options] { return spy(session, *options); }; });
}

}  // namespace manyhop::cli

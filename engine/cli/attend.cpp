#include <fmt/format.h>
#include <fmt/ranges.h>

#include <unistd.h>
#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>
#include <set>
#include <system_error>

#include "attend_run.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "manyhop/graphs/spy.hpp"
#include "output.hpp"
#include "signals.hpp"
#include "verbs.hpp"

namespace manyhop::cli {
namespace {

struct AttendVerb {
  std::string qkv;
  std::vector<std::string> patterns;
  GraphArgument graph;  // its options; the texts are `patterns`
  std::optional<std::int64_t> hops, repeat;
  std::optional<double> teleport, scale;
  std::optional<std::size_t> layout, compare, reorder;
  bool explain = false, tf32 = false;
  std::string svg;
  std::string output;
};

struct Row {
  AttendRun run;
  std::optional<Comparison> error;
  std::optional<spectral::GapResult> gap;
};

// A file's name may be any bytes, text in a file of tensors may not.
std::string utf8(const std::string& text) {
  return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
}

Json nullable(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

double edges_per_token(const Graph& graph) {
  return graph.n_rows() == 0 ? std::numeric_limits<double>::quiet_NaN()
                             : static_cast<double>(graph.nnz()) / static_cast<double>(graph.n_rows());
}

// pattern text -> name of a file: letters and digits stay, everything else becomes one '_'.
std::string file_name(const std::string& pattern, std::set<std::string>& taken) {
  std::string name;
  for (const char c : pattern) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      name += c;
    } else if (!name.empty() && name.back() != '_') {
      name += '_';
    }
  }
  name.resize(std::min<std::size_t>(name.size(), 80));
  while (!name.empty() && name.back() == '_') name.pop_back();
  if (name.empty()) name = "pattern";
  std::string unique = name;
  for (int copy = 2; !taken.insert(unique).second; ++copy) unique = fmt::format("{}_{}", name, copy);
  return unique + ".svg";
}

void check_folder(const std::string& folder) {
  std::error_code error;
  if (std::filesystem::is_directory(folder, error)) {
    if (access(folder.c_str(), W_OK | X_OK) != 0)
      throw ValueError(fmt::format("--svg {}: the folder cannot be written", folder));
    return;
  }
  if (std::filesystem::exists(folder, error))
    throw ValueError(fmt::format("--svg {}: is not a folder", folder));
  auto parent = std::filesystem::path(folder).parent_path();
  if (parent.empty()) parent = ".";
  if (!std::filesystem::is_directory(parent, error) || access(parent.c_str(), W_OK | X_OK) != 0)
    throw ValueError(
        fmt::format("--svg {}: the folder {} does not exist or cannot be written", folder, parent.string()));
}

void check_call(Session& session, const AttendVerb& verb) {
  session.data_input("--qkv", verb.qkv);
  for (const std::string& text : verb.patterns) session.input("--pattern", text);
  if (!verb.output.empty()) session.output("-o", verb.output, {".safetensors", ".npy"});
  if (has_suffix(verb.output, {".npy"}) && verb.patterns.size() > 1)
    throw ValueError(fmt::format("-o {}: holds one array and {} patterns were given; expected .safetensors",
                                 verb.output, verb.patterns.size()));
  if (!verb.svg.empty()) check_folder(verb.svg);
}

Graph graph_of(const Session& session, AttendVerb& verb, const std::string& text, const Qkv& in) {
  verb.graph.text = text;
  Graph graph = verb.graph.make(session, Size{in.n, in.n_keys});
  if (graph.n_rows() != in.n || graph.n_cols() != in.n_keys)
    throw ValueError(fmt::format("--pattern {}: the graph is {} x {}, and {} has {} queries and {} keys",
                                 text, graph.n_rows(), graph.n_cols(), verb.qkv, in.n, in.n_keys));
  return graph;
}

void write_files(const AttendVerb& verb, const Qkv& in, std::vector<Row>& rows) {
  Outputs outputs;
  std::set<std::string> taken;
  std::vector<std::pair<std::string, std::string>> pictures;
  if (!verb.svg.empty()) {
    for (const Row& row : rows) {
      SpyOptions options;
      options.title = row.run.pattern;
      pictures.emplace_back((std::filesystem::path(verb.svg) / file_name(row.run.pattern, taken)).string(),
                            spy_svg(row.run.graph, options));
    }
    check_stop();
    if (!std::filesystem::exists(verb.svg)) {
      forget_on_success(verb.svg);
      std::filesystem::create_directory(verb.svg);
    }
    for (const auto& [path, svg] : pictures)
      outputs.add(path, [&svg = svg](const std::string& target) { write_atomically(target, svg); });
  }
  if (has_suffix(verb.output, {".npy"})) {
    outputs.add(verb.output, [&](const std::string& path) { save_npy(rows[0].run.out.to(in.type), path); });
  } else if (!verb.output.empty()) {
    outputs.add(verb.output, [&](const std::string& path) {
      NamedTensors file;
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const std::string name = rows.size() == 1 ? "out" : fmt::format("out_{}", i + 1);
        Tensor& out = rows[i].run.out;
        file.tensors.emplace(name, out.dtype == in.type ? std::move(out) : out.to(in.type));
        file.metadata.emplace(rows.size() == 1 ? "pattern" : name, utf8(rows[i].run.pattern));
      }
      save_safetensors(file, path);
    });
  }
  outputs.commit();
}

Json json_of(const Session& session, const Row& row, const Qkv& in, const AttendRequest& request,
             const std::optional<AttendRun>& full) {
  const AttendRun& run = row.run;
  Json json;
  json["pattern"] = run.pattern;
  json["n"] = in.n;
  json["edges"] = run.graph.nnz();
  json["heads"] = in.heads;
  json["head_dim"] = in.head_dim;
  json["hops"] = request.hops;
  json["teleport"] = request.teleport;
  json["dtype"] = name_of(request.dtype);
  json["backend"] = name_of(session.context.backend);
  json["threads"] = thread_count();
  json["seconds"] = run.seconds;
  json["plan_seconds"] = run.plan_seconds;
  json["gflops"] = nullable(run.gflops);
  json["peak_bytes"] = run.peak_bytes;
  json["plan"] = run.plan;
  json["hash"] = run.graph.hash_text();
  if (full) json["full"] = {{"seconds", full->seconds}, {"peak_bytes", full->peak_bytes}};
  if (row.error)
    json["error"] = {{"rel_l2", nullable(row.error->rel_l2)},
                     {"cosine", nullable(row.error->cosine)},
                     {"coverage", nullable(row.error->coverage)}};
  if (row.gap) {
    json["edges_per_token"] = nullable(edges_per_token(run.graph));
    json["lambda2"] = row.gap->lambda2 ? Json(row.gap->lambda2->real()) : Json(nullptr);
    json["gap"] = row.gap->gap ? Json(*row.gap->gap) : Json(nullptr);
    json["converged"] = row.gap->converged;
    json["reach"] = Json::array();
    for (const auto& reach : row.gap->reach)
      json["reach"].push_back({{"hop", reach.hop}, {"mean", reach.mean}, {"min", reach.min}});
  }
  return json;
}

std::string comparison_text(const std::vector<Row>& rows, const Qkv& in, const AttendRequest& request,
                            const std::optional<AttendRun>& full) {
  std::vector<std::string> header{
      "pattern", "edges/token", "lambda2", "gap", fmt::format("reach({})", request.hops),
      "time",    "peak memory"};
  if (full) header.insert(header.end(), {"rel. error", "cosine", "coverage"});
  Table table(header);
  for (const Row& row : rows) {
    const auto number = [](const char* format, std::optional<double> value) {
      return value && std::isfinite(*value) ? fmt::format(fmt::runtime(format), *value) : std::string("-");
    };
    std::optional<double> lambda2;
    std::optional<double> gap;
    std::optional<double> reach;
    if (row.gap) {
      if (row.gap->lambda2) lambda2 = row.gap->lambda2->real();
      gap = row.gap->gap;
      if (!row.gap->reach.empty()) reach = row.gap->reach.back().mean;
    }
    std::vector<std::string> cells{row.run.pattern,
                                   number("{:.1f}", edges_per_token(row.run.graph)),
                                   number("{:.4f}", lambda2),
                                   number("{:.4f}", gap),
                                   number("{:.3f}", reach),
                                   seconds_text(row.run.seconds),
                                   bytes_text(static_cast<double>(row.run.peak_bytes))};
    if (row.error) {
      cells.push_back(number("{:.4f}", row.error->rel_l2));
      cells.push_back(number("{:.4f}", row.error->cosine));
      cells.push_back(number("{:.4f}", row.error->coverage));
    }
    table.add(std::move(cells));
  }
  std::string text =
      fmt::format("{} tokens, {} heads of {}, {} hop{}, teleport {}, {}, {} thread{}\n\n", in.n, in.heads,
                  in.head_dim, request.hops, request.hops == 1 ? "" : "s", request.teleport,
                  name_of(request.dtype), thread_count(), thread_count() == 1 ? "" : "s") +
      table.text();
  if (full)
    text += fmt::format("\nfull attention, 1 hop, teleport 0: {}, {}\n", seconds_text(full->seconds),
                        bytes_text(static_cast<double>(full->peak_bytes)));
  return text;
}

std::string single_text(const Row& row, const Qkv& in, const AttendRequest& request,
                        const std::optional<AttendRun>& full) {
  Fields fields;
  fields.add("pattern", row.run.pattern);
  fields.add("shape", fmt::format("{} x {} tokens, {} heads of {}", in.n, in.n_keys, in.heads, in.head_dim));
  fields.add("edges", in.n == 0 ? "0"
                                : fmt::format("{}, {:.1f} per token", row.run.graph.nnz(),
                                              edges_per_token(row.run.graph)));
  fields.add("hops", fmt::format("{}, teleport {}", request.hops, request.teleport));
  fields.add("type", std::string(name_of(request.dtype)));
  fields.add(
      "time",
      fmt::format("{}{}, plan {}", seconds_text(row.run.seconds),
                  std::isfinite(row.run.gflops) ? fmt::format(" ({:.3g} GFLOP/s)", row.run.gflops) : "",
                  seconds_text(row.run.plan_seconds)));
  fields.add("peak memory", bytes_text(static_cast<double>(row.run.peak_bytes)));
  if (full)
    fields.add("full attention", fmt::format("{}, {}", seconds_text(full->seconds),
                                             bytes_text(static_cast<double>(full->peak_bytes))));
  if (row.error) {
    fields.add("relative error", number_text(row.error->rel_l2));
    fields.add("cosine", number_text(row.error->cosine));
    fields.add("coverage", number_text(row.error->coverage));
  }
  return fields.text();
}

int attend_verb(Session& session, AttendVerb& verb) {
  check_call(session, verb);
  session.limit_graphs = false;
  Qkv in = load_qkv(verb.qkv, static_cast<Layout>(verb.layout.value_or(0)));
  AttendRequest request;
  request.dtype = session.dtype.value_or(in.type == DType::f16 ? DType::f32 : in.type);
  request.hops = static_cast<int>(verb.hops.value_or(1));
  request.teleport = verb.teleport.value_or(0);
  request.scale = verb.scale;
  request.repeat = static_cast<int>(verb.repeat.value_or(1));
  request.lse = verb.compare.has_value();
  request.explain = verb.explain || session.json;
  request.reorder = static_cast<Reorder>(verb.reorder.value_or(0));
  request.tf32 = verb.tf32;
  if (in.n != in.n_keys && (request.hops != 1 || request.teleport != 0))
    throw ValueError(
        fmt::format("{} queries and {} keys make a rectangle, which allows --hops 1 and --teleport 0 only",
                    in.n, in.n_keys));
  std::vector<Graph> graphs;
  graphs.reserve(verb.patterns.size());
  for (const std::string& text : verb.patterns) graphs.push_back(graph_of(session, verb, text, in));
  for (Tensor* tensor : {&in.q, &in.k, &in.v})
    if (tensor->dtype != request.dtype) *tensor = tensor->to(request.dtype);

  std::optional<AttendRun> full;
  if (verb.compare) {
    AttendRequest plain = request;
    plain.hops = 1;
    plain.teleport = 0;
    plain.reorder = Reorder::none;
    plain.explain = false;
    full = attend(session, pattern("full", in.n, in.n_keys), in, plain);
  }
  const bool several = verb.patterns.size() > 1;
  bool converged = true;
  std::vector<Row> rows;
  for (std::size_t i = 0; i < graphs.size(); ++i) {
    Row row{attend(session, graphs[i], in, request), std::nullopt, std::nullopt};
    row.run.pattern = graphs[i].text().empty() ? verb.patterns[i] : graphs[i].text();
    if (full) row.error = compare(row.run, *full);
    if (several && graphs[i].square()) {
      spectral::SpectralOptions options;
      if (session.tol) options.tol = *session.tol;
      options.reach_hops = request.hops;
      row.gap = spectral::gap(session.context, graphs[i], options);
      converged = converged && row.gap->converged;
    }
    rows.push_back(std::move(row));
  }

  Json json;
  if (several) {
    json["runs"] = Json::array();
    for (const Row& row : rows) json["runs"].push_back(json_of(session, row, in, request, full));
  } else {
    json = json_of(session, rows[0], in, request, full);
  }
  std::string text =
      several ? comparison_text(rows, in, request, full) : single_text(rows[0], in, request, full);
  if (verb.explain)
    for (const Row& row : rows)
      text += fmt::format("\nplan of {}\n  {}\n", row.run.pattern, fmt::join(row.run.plan, "\n  "));
  write_files(verb, in, rows);
  session.report(json, text);
  if (!verb.output.empty() && verb.output != "-") note(fmt::format("wrote {}", verb.output));
  if (!verb.svg.empty()) note(fmt::format("wrote {} pictures into {}", rows.size(), verb.svg));
  if (converged) return kOk;
  note("an eigenvalue of the table has not converged: raise --tol");
  return kNotConverged;
}

}  // namespace

void add_attend(CLI::App& app, Session& session) {
  auto verb = std::make_shared<AttendVerb>();
  CLI::App* sub = add_verb(
      app, session, "attend", "Sparse attention and its hops over q, k, v of a file",
      "  manyhop attend --qkv examples/alice-minilm-l6.safetensors --pattern 'diffuser(64, 16, 8)' \\\n"
      "      --hops 5 --teleport 0.1 --compare full -o out.safetensors\n"
      "  manyhop attend --qkv qkv.safetensors --layout bhsd --pattern 'causal & window(128)' --explain\n"
      "  manyhop attend --qkv qkv.safetensors --pattern full --pattern 'window(32)' --compare full --svg "
      "pictures\n"
      "q is [n, h, d], k [n_keys, h_kv, d], v [n_keys, h_kv, d_v] (bhsd: [b, h, s, d]); `out` has the layout "
      "and the\n"
      "type of the input (F16 is computed in f32). Several --pattern make one comparison table; their "
      "results are\n"
      "out_1, out_2, ... and the file's metadata names the patterns.");
  add_text(*sub, "--qkv", verb->qkv, "FILE", "safetensors file with tensors q, k, v; - for standard input")
      ->required();
  sub->add_option("--pattern", verb->patterns, "pattern text or graph file; may be repeated")
      ->type_name("GRAPH")
      ->required()
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false);  // a stray word is no second pattern
  add_integer(*sub, "--hops", verb->hops, "K", "hops of the diffusion (default 1; 0 returns v)", 0,
              std::numeric_limits<int>::max());
  add_real(*sub, "--teleport", verb->teleport, "A", "share of v in every hop (default 0)", 0, 1);
  add_real(*sub, "--scale", verb->scale, "S", "of the scores (default 1 / sqrt(d))", -kHuge);
  add_choice(*sub, "--layout", verb->layout, {"nhd", "bhsd"}, "of q, k, v and out (default nhd)");
  add_choice(*sub, "--compare", verb->compare, {"full"}, "error and coverage against plain full attention");
  add_integer(*sub, "--repeat", verb->repeat, "R",
              "timed runs after the warm-up; the median counts (default 1)", 1, 1'000'000);
  add_choice(*sub, "--reorder", verb->reorder, {"none", "degree", "rcm", "cluster", "auto"},
             "renumber tokens inside the plan so that edges fall into tiles; results keep the given order "
             "(default none)");
  sub->add_flag(
      "--tf32", verb->tf32,
      "f32 on --backend cuda: dense columns by TF32 products (10 bits of mantissa) of the tensor cores");
  sub->add_flag("--explain", verb->explain, "print the plan");
  add_text(*sub, "--svg", verb->svg, "FOLDER", "draw each pattern into the folder");
  add_text(*sub, "-o,--output", verb->output, "OUT", "result (.safetensors, or .npy for one pattern)");
  verb->graph.add_options(*sub);
  sub->callback([&session, verb] { session.run = [&session, verb] { return attend_verb(session, *verb); }; });
}

}  // namespace manyhop::cli

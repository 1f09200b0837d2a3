#include "options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <system_error>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/io/files.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "output.hpp"
#include "progress.hpp"
#include "signals.hpp"

namespace manyhop::cli {
namespace {

std::string range_text(double low, double high) {
  if (high == kHuge && low == -kHuge) return "a finite number";
  if (low == std::numeric_limits<double>::denorm_min()) return "a finite number above 0";
  if (high == kHuge) return fmt::format("a finite number of at least {}", low);
  return fmt::format("a number from {} to {}", low, high);
}

}  // namespace

double real_of(std::string_view option, std::string_view text, double low, double high) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value) || value < low ||
      value > high)
    throw ValueError(fmt::format("{} is '{}': expected {}", option, text, range_text(low, high)));
  return value;
}

std::int64_t integer_of(std::string_view option, std::string_view text, std::int64_t low, std::int64_t high) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high)
    throw ValueError(fmt::format("{} is '{}': expected an integer from {} to {}{}", option, text, low, high,
                                 high == kMaxVertices ? " (2^31 - 1)" : ""));
  return value;
}

std::size_t bytes_of(std::string_view option, std::string_view text) {
  int shift = 0;
  std::string_view digits = text;
  if (!digits.empty()) {
    constexpr std::string_view units = "kmgt";
    const char last = digits.back();
    const auto unit = units.find(last >= 'A' && last <= 'Z' ? static_cast<char>(last - 'A' + 'a') : last);
    if (unit != std::string_view::npos) {
      shift = 10 * (static_cast<int>(unit) + 1);
      digits.remove_suffix(1);
    }
  }
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size() || value == 0 ||
      value > (std::uint64_t{1} << (62 - shift)))
    throw ValueError(fmt::format(
        "{} is '{}': expected a positive number of bytes with an optional k, M, G or T, as 40M or 2G", option,
        text));
  return value << shift;
}

std::vector<double> reals_of(std::string_view option, std::string_view text) {
  std::vector<double> values;
  for (std::size_t begin = 0; begin <= text.size();) {
    const auto comma = std::min(text.find(',', begin), text.size());
    values.push_back(real_of(option, text.substr(begin, comma - begin), -kHuge, kHuge));
    begin = comma + 1;
  }
  return values;
}

Size size_of(std::string_view text) {
  const auto cross = text.find('x');
  if (cross == std::string_view::npos) return {integer_of("-n", text, 0, kMaxVertices), std::nullopt};
  return {integer_of("-n (rows)", text.substr(0, cross), 0, kMaxVertices),
          integer_of("-n (columns)", text.substr(cross + 1), 0, kMaxVertices)};
}

CLI::Option* add_text(CLI::App& verb, const std::string& names, std::string& target, const std::string& type,
                      const std::string& help) {
  const std::function<void(const std::string&)> set = [&target, names](const std::string& text) {
    if (text.empty()) throw ValueError(fmt::format("{} is the empty text", names));
    target = text;
  };
  return verb.add_option_function(names, set, help)->type_name(type);
}

CLI::Option* add_real(CLI::App& verb, const std::string& name, std::optional<double>& target,
                      const std::string& type, const std::string& help, double low, double high) {
  const std::function<void(const std::string&)> set = [&target, name, low, high](const std::string& text) {
    target = real_of(name, text, low, high);
  };
  return verb.add_option_function(name, set, help)->type_name(type);
}

CLI::Option* add_integer(CLI::App& verb, const std::string& name, std::optional<std::int64_t>& target,
                         const std::string& type, const std::string& help, std::int64_t low,
                         std::int64_t high) {
  const std::function<void(const std::string&)> set = [&target, name, low, high](const std::string& text) {
    target = integer_of(name, text, low, high);
  };
  return verb.add_option_function(name, set, help)->type_name(type);
}

CLI::Option* add_choice(CLI::App& verb, const std::string& name, std::optional<std::size_t>& target,
                        const std::vector<std::string>& choices, const std::string& help) {
  const std::function<void(const std::string&)> set = [&target, name, choices](const std::string& text) {
    const auto found = std::find(choices.begin(), choices.end(), text);
    if (found == choices.end())
      throw ValueError(fmt::format("{} is '{}': expected one of {}", name, text, fmt::join(choices, ", ")));
    target = static_cast<std::size_t>(found - choices.begin());
  };
  return verb.add_option_function(name, set, help)->type_name(fmt::format("{}", fmt::join(choices, "|")));
}

void Session::prepare() {
  (void)simd_name();  // a bad MANYHOP_SIMD is bad input
  (void)tiles_name();
  context.stop = &stop_flag();
  context.progress = progress_bar();
}

void Session::data_input(std::string_view option, const std::string& path) {
  input(option, path);
  std::error_code problem;  // what is wrong with the file, reading it says
  const std::uintmax_t size = path.empty() || path == "-" ? 0 : std::filesystem::file_size(path, problem);
  if (!problem && size > context.limit())
    throw LimitError(
        fmt::format("{} {}: {} bytes, the memory limit is {}", option, path, size, context.limit()));
}

void Session::input(std::string_view option, const std::string& path) {
  if (path != "-") return;
  if (!reader_.empty())
    throw ValueError(fmt::format("{} - and {} - both want standard input: name a file", reader_, option));
  reader_ = option;
}

void Session::output(std::string_view option, const std::string& path,
                     const std::vector<std::string>& suffixes) {
  check_output(option, path, suffixes);
  // ./x.npy and a link to it are x.npy, too.
  std::error_code unknown;
  const std::string file =
      path == "-" ? path : std::filesystem::weakly_canonical(link_target(path), unknown).string();
  for (const auto& [other, name] : outputs_) {
    if (name == file)
      throw ValueError(fmt::format("{} and {} both name {}: name two files", other, option, path));
  }
  outputs_.emplace_back(option, file);
  if (path != "-") return;
  if (json) throw ValueError(fmt::format("{} - and --json both want standard output: name a file", option));
  data_on_stdout = true;
}

void Session::report(const Json& result, const std::string& text) const {
  if (json) {
    print(result.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  } else if (data_on_stdout) {
    tell(text);
  } else {
    print(text);
  }
}

CLI::App* add_verb(CLI::App& app, Session& session, const std::string& name, const std::string& summary,
                   const std::string& examples) {
  CLI::App* verb = app.add_subcommand(name, summary);
  verb->footer("Examples:\n" + examples);
  const auto text = [&](const std::string& option, const std::string& type, const std::string& help,
                        const std::function<void(const std::string&)>& set) {
    verb->add_option_function(option, set, help)->type_name(type)->group("Common options");
  };
  text("--threads", "T", "threads (default: MANYHOP_THREADS, else all); results have the same bits for any",
       [&session](const std::string& value) {
         session.context.threads = static_cast<int>(integer_of("--threads", value, 1, kMostNamedThreads));
       });
  text("--backend", "NAME", "reference, cpu (default) or cuda, where the build has it",
       [&session](const std::string& value) { session.context.backend = backend_of(value); });
  text("--dtype", "f32|bf16|f64", "type the arithmetic runs in", [&session](const std::string& value) {
    if (value == "f32") {
      session.dtype = DType::f32;
    } else if (value == "bf16") {
      session.dtype = DType::bf16;
    } else if (value == "f64") {
      session.dtype = DType::f64;
    } else {
      throw ValueError(fmt::format("--dtype is '{}': expected f32, bf16 or f64", value));
    }
  });
  text("--seed", "S", "of random patterns that name none (default 0)", [&session](const std::string& value) {
    session.seed =
        static_cast<std::uint64_t>(integer_of("--seed", value, 0, std::numeric_limits<std::int64_t>::max()));
  });
  text("--tol", "E", "tolerance of iterative results", [&session](const std::string& value) {
    session.tol = real_of("--tol", value, std::numeric_limits<double>::denorm_min(), kHuge);
  });
  text("--memory-limit", "BYTES",
       "40M, 2G, ...: refuse or split work beyond it (default: half of the memory)",
       [&session](const std::string& value) {
         session.context.memory_limit = bytes_of("--memory-limit", value);
       });
  verb->add_flag("--json", session.json, "one JSON object on standard output and nothing else")
      ->group("Common options");
  return verb;
}

void GraphArgument::add(CLI::App& verb, const std::string& name, const std::string& help) {
  add_text(verb, name, text, "", help)->required();
}

void GraphArgument::add_options(CLI::App& verb) {
  const std::function<void(const std::string&)> set = [this](const std::string& value) {
    size = size_of(value);
  };
  verb.add_option_function("-n", set, "vertices of a pattern or an edge list")->type_name("N|ROWSxCOLS");
  verb.add_flag("--undirected", files.undirected, "edge lists: mirror every arc");
  verb.add_flag("--compact", files.compact, "edge lists: renumber the ids in use");
  add_choice(verb, "--format", format, graph_formats(),
             "of graph files, whatever their suffix; METIS on - wants it");
  add_integer(verb, "--base", base, "0|1", "edge lists: the first id", 0, 1);
}

Graph make_graph(const std::string& text, const Session& session, const LoadOptions& files,
                 std::optional<Size> size, std::optional<Size> fallback) {
  LoadOptions reading = files;
  if (is_graph_path(text)) {
    if (has_suffix(text, tensor_suffixes()))
      throw ValueError(fmt::format("{}: holds a tensor, expected a graph ({}) or a pattern text", text,
                                   fmt::join(graph_suffixes(), ", ")));
    if (size && size->cols.value_or(size->rows) == size->rows) reading.n = size->rows;
    reading.memory_limit = session.limit_graphs ? session.context.memory_limit : 0;
    Graph graph = load(text, reading);
    if (size && (graph.n_rows() != size->rows || graph.n_cols() != size->cols.value_or(size->rows)))
      throw ValueError(fmt::format("-n {}x{} does not fit {}, which is {} x {}", size->rows,
                                   size->cols.value_or(size->rows), text, graph.n_rows(), graph.n_cols()));
    return graph;
  }
  if (files.undirected || files.compact || files.base != 0 || !files.format.empty()) {
    const std::string canonical = canonical_pattern(text);  // blanks are free: file ("x.el")
    if (canonical.find("file(") == std::string::npos)
      throw ValueError(fmt::format("--{} is an option of {}, the pattern {} reads none",
                                   files.undirected  ? "undirected"
                                   : files.compact   ? "compact"
                                   : files.base != 0 ? "base"
                                                     : "format",
                                   files.format.empty() ? "edge lists" : "files", canonical));
  }
  PatternOptions options;
  options.seed = session.seed;
  options.memory_limit = session.limit_graphs ? session.context.memory_limit : 0;
  if (size && !size->cols) reading.n = size->rows;
  options.files = &reading;
  if (!size) {
    if (const auto implied = implied_size(text, options)) size = Size{*implied, std::nullopt};
  }
  if (!size) size = fallback;
  if (!size)
    throw ValueError(
        fmt::format("the pattern {} fixes no number of vertices: give -n N", canonical_pattern(text)));
  return pattern(text, size->rows, size->cols, options);
}

Graph GraphArgument::make(const Session& session, std::optional<Size> fallback) {
  files.base = static_cast<int>(base.value_or(0));
  if (format) files.format = graph_formats()[*format];
  if (!map_path.empty()) files.map = &map;
  return make_graph(text, session, files, size, fallback);
}

void check_written(const Session& session, const Graph& graph, const std::string& path) {
  const auto edges = static_cast<double>(graph.nnz());
  double bytes = graph.implicit() ? 4 * edges : 0;
  // An archive is packed in memory, which may save nothing.
  if (has_suffix(path, {".npz"}))
    bytes += edges * (graph.weighted() ? 12 : 5) + 8.0 * static_cast<double>(graph.n_rows());
  if (bytes > static_cast<double>(session.context.limit()))
    throw LimitError(fmt::format("writing {} edges takes {:.0f} bytes, the memory limit is {}", graph.nnz(),
                                 bytes, session.context.limit()));
}

const std::vector<std::string>& graph_suffixes() {
  static const std::vector<std::string> suffixes{".mtx", ".npz", ".graph",   ".el",
                                                 ".txt", ".tsv", ".edgelist"};
  return suffixes;
}

const std::vector<std::string>& graph_formats() {
  static const std::vector<std::string> formats{"mtx", "npz", "metis", "el"};
  return formats;
}

const std::vector<std::string>& tensor_suffixes() {
  static const std::vector<std::string> suffixes{".npy", ".safetensors"};
  return suffixes;
}

bool has_suffix(std::string_view path, const std::vector<std::string>& suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(),
                     [&](const std::string& suffix) { return manyhop::has_suffix(path, suffix); });
}

Stopwatch::Stopwatch() : start_(std::chrono::steady_clock::now().time_since_epoch().count()) {}

double Stopwatch::seconds() const {
  const std::chrono::steady_clock::duration passed(
      std::chrono::steady_clock::now().time_since_epoch().count() - start_);
  return std::chrono::duration<double>(passed).count();
}

}  // namespace manyhop::cli

// What the verbs share: common options, strict numbers, graph arguments.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/io/io.hpp"
#include "manyhop/ops/context.hpp"

namespace manyhop::cli {

using Json = nlohmann::ordered_json;

inline constexpr int kOk = 0;
inline constexpr int kFailure = 1;
inline constexpr int kUsage = 2;
inline constexpr int kNotConverged = 3;
inline constexpr int kInterrupted = 130;

/// Finite number of the whole text, or ValueError naming `option`, the text and the range.
double real_of(std::string_view option, std::string_view text, double low, double high);
std::int64_t integer_of(std::string_view option, std::string_view text, std::int64_t low, std::int64_t high);
/// 40M, 2G, 512: bytes with a binary suffix k, M, G or T.
std::size_t bytes_of(std::string_view option, std::string_view text);
/// "c0,c1,.." as finite numbers.
std::vector<double> reals_of(std::string_view option, std::string_view text);

struct Size {
  Offset rows = 0;
  std::optional<Offset> cols;
};
/// "N" or "ROWSxCOLS", 0 .. 2^31 - 1 each.
Size size_of(std::string_view text);

inline constexpr double kHuge = std::numeric_limits<double>::max();

CLI::Option* add_text(CLI::App& verb, const std::string& names, std::string& target, const std::string& type,
                      const std::string& help);
CLI::Option* add_real(CLI::App& verb, const std::string& name, std::optional<double>& target,
                      const std::string& type, const std::string& help, double low, double high = kHuge);
CLI::Option* add_integer(CLI::App& verb, const std::string& name, std::optional<std::int64_t>& target,
                         const std::string& type, const std::string& help, std::int64_t low,
                         std::int64_t high);
/// One of the words of `choices`; the index of the chosen one goes to `target`.
CLI::Option* add_choice(CLI::App& verb, const std::string& name, std::optional<std::size_t>& target,
                        const std::vector<std::string>& choices, const std::string& help);

/// One call of the program: the common options, and what the chosen verb will do.
struct Session {
  Context context;
  std::optional<DType> dtype;
  std::uint64_t seed = 0;
  std::optional<double> tol;
  bool json = false;
  bool limit_graphs = true;     // --memory-limit bounds patterns by themselves; attend's plan counts them
  bool data_on_stdout = false;  // an output is "-": people's table goes to standard error
  std::function<int()> run;

  /// Kernels, stop flag and progress, after parsing.
  void prepare();
  /// Two of a call cannot read standard input: ValueError names both.
  void input(std::string_view option, const std::string& path);
  /// The same of a file that is no graph, whose size load() holds to the limit: LimitError before it is read.
  void data_input(std::string_view option, const std::string& path);
  /// check_output(), and notes an output that goes to standard output (then --json is a usage error).
  void output(std::string_view option, const std::string& path, const std::vector<std::string>& suffixes);
  /// Prints `json` with --json, else `text`.
  void report(const Json& json, const std::string& text) const;

 private:
  std::string reader_;                                        // what reads standard input
  std::vector<std::pair<std::string, std::string>> outputs_;  // option and file of each
};

/// A verb with the common options; `examples` are shown at the end of its --help.
CLI::App* add_verb(CLI::App& app, Session& session, const std::string& name, const std::string& summary,
                   const std::string& examples);

/// A graph named on the command line: pattern text with -n, or a file.
struct GraphArgument {
  std::string text;
  std::optional<Size> size;
  LoadOptions files;
  std::optional<std::int64_t> base;
  std::optional<std::size_t> format;  // of graph_formats()
  std::string map_path;
  std::vector<Offset> map;

  /// The positional GRAPH and the options of edge lists.
  void add(CLI::App& verb, const std::string& name, const std::string& help);
  /// -n, --undirected, --compact, --base, --format.
  void add_options(CLI::App& verb);
  /// `fallback`: rows x columns when neither -n nor the text fixes them.   Throws ValueError, FileError.
  Graph make(const Session& session, std::optional<Size> fallback = std::nullopt);
};

Graph make_graph(const std::string& text, const Session& session, const LoadOptions& files,
                 std::optional<Size> size, std::optional<Size> fallback);

/// Refuses what writing the graph to `path` would hold past the memory limit: edges that are implicit, an
/// archive.   Throws LimitError.
void check_written(const Session& session, const Graph& graph, const std::string& path);

const std::vector<std::string>& graph_suffixes();
const std::vector<std::string>& graph_formats();
const std::vector<std::string>& tensor_suffixes();
/// Capitals or not.
bool has_suffix(std::string_view path, const std::vector<std::string>& suffixes);

/// Wall-clock seconds since construction.
class Stopwatch {
 public:
  Stopwatch();
  double seconds() const;

 private:
  std::int64_t start_;
};

}  // namespace manyhop::cli

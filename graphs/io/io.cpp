#include "manyhop/graphs/io/io.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/io/files.hpp"
#include "manyhop/graphs/io/formats.hpp"

namespace manyhop {

namespace {

using Parser = Graph (*)(std::string_view, const std::string&, const LoadOptions&);
using Formatter = void (*)(const Graph&, const Sink&);

struct Format {
  std::string_view suffix;
  Parser parse;
  Formatter format;
  bool edge_list;
};

constexpr std::array<Format, 7> kFormats{{{".mtx", parse_mtx, format_mtx, false},
                                          {".npz", parse_npz, format_npz, false},
                                          {".graph", parse_metis, format_metis, false},
                                          {".el", parse_edge_list, format_edge_list, true},
                                          {".txt", parse_edge_list, format_edge_list, true},
                                          {".tsv", parse_edge_list, format_edge_list, true},
                                          {".edgelist", parse_edge_list, format_edge_list, true}}};
constexpr std::string_view kKnown = ".mtx .npz .graph .el .txt .tsv .edgelist";

const Format& format_of(const std::string& path) {
  for (const Format& format : kFormats) {
    if (has_suffix(path, format.suffix)) return format;
  }
  throw FileError(fmt::format("{}: the name does not end in a graph format, one of {} wanted", path, kKnown));
}

// What `format` of the options names: a suffix without its dot, and METIS by its own name.
const Format& format_called(std::string_view name) {
  for (const Format& format : kFormats) {
    if (name == format.suffix.substr(1) || (name == "metis" && format.parse == parse_metis)) return format;
  }
  throw ValueError(
      fmt::format("format: '{}' is none of mtx, npz, graph (or metis), el, txt, tsv, edgelist", name));
}

// Standard input has no suffix: the first bytes tell Matrix Market and zip from an edge list.
const Format& format_of_bytes(std::string_view bytes) {
  if (bytes.substr(0, 2) == "PK") return kFormats[1];
  return bytes.substr(0, 2) == "%%" ? kFormats[0] : kFormats[3];
}

template <class Writer>
void write_file(const std::string& path, const Writer& writer) {
  AtomicFile file(path);
  writer([&file](std::string_view bytes) { file.write(bytes); });
  file.commit();
}

}  // namespace

bool is_graph_path(std::string_view path) {
  if (path == "-") return true;
  std::string plain;  // what stands outside of quotes
  bool quoted = false;
  for (const char c : path) {
    if (c == '"') quoted = !quoted;
    plain += quoted || c == '"' ? '"' : c;
  }
  if (plain.find('/') != std::string::npos) return true;
  return has_suffix(plain, ".npy") || has_suffix(plain, ".safetensors") ||
         std::any_of(kFormats.begin(), kFormats.end(),
                     [&](const Format& format) { return has_suffix(plain, format.suffix); });
}

Offset believed_size(Offset entries, const LoadOptions& options) {
  const Offset by_entries = std::max(Offset{1} << 20, 64 * std::min(entries, kMaxVertices));
  return std::min(kMaxVertices, std::max(by_entries, options.n.value_or(0)));
}

Graph load(const std::string& path, const LoadOptions& options) {
  if (options.base != 0 && options.base != 1) {
    throw ValueError(fmt::format("base: {}, the first id of an edge list is 0 or 1", options.base));
  }
  if (options.n && (*options.n < 0 || *options.n > kMaxVertices)) {
    throw ValueError(fmt::format("n: {} is outside 0 .. {}", *options.n, kMaxVertices));
  }
  const bool named = path != "-";
  // What is unknown is told before anything is read.
  const Format* known = !options.format.empty() ? &format_called(options.format)
                        : named                 ? &format_of(path)
                                                : nullptr;
  const std::string bytes = read_file_within(path, options.memory_limit);
  if (known == nullptr && bytes.starts_with("\x93NUMPY")) {
    throw FileError(fmt::format("{}: holds an array of NumPy, a graph is wanted", path));
  }
  const Format& format = known != nullptr ? *known : format_of_bytes(bytes);
  if (!format.edge_list && (options.undirected || options.compact || options.base != 0)) {
    throw ValueError(
        fmt::format("{}: {} is an option of edge lists (.el .txt .tsv .edgelist), this is a {} file", path,
                    options.undirected ? "undirected"
                    : options.compact  ? "compact"
                                       : "base",
                    format.suffix));
  }
  if (options.memory_limit > 0 && format.parse != parse_npz) {
    // The text, and of each entry two ids while they are read, two more while they are sorted.
    const char between = format.parse == parse_metis ? ' ' : '\n';
    const auto entries = static_cast<std::size_t>(std::count(bytes.begin(), bytes.end(), between));
    const std::size_t held = bytes.size() + 24 * entries * (options.undirected ? 2 : 1);
    if (held > options.memory_limit) {
      throw LimitError(fmt::format("{}: reading about {} entries takes {} bytes, the memory limit is {}",
                                   path, entries, held, options.memory_limit));
    }
  }
  Graph graph = [&] {
    try {
      return format.parse(bytes, path, options);
    } catch (const FileError& error) {
      const bool chosen = options.undirected || options.compact || options.base != 0 || options.n;
      if (known != nullptr || !format.edge_list || chosen || bytes.empty()) throw;
      // Nothing in METIS or a table of another kind tells it from an edge list.
      throw FileError(fmt::format("{} (read as an edge list; format names another, as metis)", error.what()));
    }
  }();
  if (options.memory_limit > 0 && graph.bytes() > options.memory_limit) {
    throw LimitError(fmt::format("{}: the graph takes {} bytes, the memory limit is {}", path, graph.bytes(),
                                 options.memory_limit));
  }
  return graph;
}

void save(const Graph& graph, const std::string& path) {
  // Matrix Market on standard output: it holds every graph and load("-") knows it again.
  const Format& format = path == "-" ? kFormats[0] : format_of(path);
  write_file(path, [&](const Sink& sink) { format.format(graph, sink); });
}

Tensor load_npy(const std::string& path) { return parse_npy(read_file(path), path); }

void save_npy(const Tensor& tensor, const std::string& path) {
  write_file(path, [&](const Sink& sink) { format_npy(tensor, sink); });
}

NamedTensors load_safetensors(const std::string& path, std::span<const std::string> names) {
  return parse_safetensors(read_file(path), path, names);
}

void save_safetensors(const NamedTensors& tensors, const std::string& path) {
  write_file(path, [&](const Sink& sink) { format_safetensors(tensors, sink); });
}

}  // namespace manyhop

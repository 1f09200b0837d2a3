#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/io/files.hpp"
#include "manyhop/graphs/io/formats.hpp"
#include "output.hpp"
#include "verbs.hpp"

namespace manyhop::cli {
namespace {

struct ConvertOptions {
  GraphArgument graph;
  std::string output;
  std::string name;
};

// One array: .npy holds just one, .safetensors is asked by name when it holds several.
Tensor read_tensor(const std::string& path, std::string& name, std::size_t limit) {
  NamedTensors file;
  if (path == "-") {  // told by its first bytes
    const std::string bytes = read_file_within(path, limit);
    if (bytes.size() < 9 || bytes[8] != '{') return parse_npy(bytes, path);
    file = parse_safetensors(bytes, path);
  } else if (has_suffix(path, {".safetensors"})) {
    file = load_safetensors(path);
  } else {
    return load_npy(path);
  }
  if (name.empty() && file.tensors.size() == 1) name = file.tensors.begin()->first;
  const auto found = file.tensors.find(name);
  if (found == file.tensors.end()) {
    std::vector<std::string> names;
    names.reserve(file.tensors.size());
    for (const auto& [key, tensor] : file.tensors) names.push_back(key);
    throw ValueError(fmt::format("{}: --name {} picks none of its {} tensors: {}", path,
                                 name.empty() ? "(not given)" : name, names.size(), fmt::join(names, ", ")));
  }
  return std::move(found->second);
}

int convert_tensor(Session& session, ConvertOptions& options) {
  for (const auto& [name, given] : {std::pair<const char*, bool>{"-n", options.graph.size.has_value()},
                                    {"--undirected", options.graph.files.undirected},
                                    {"--compact", options.graph.files.compact},
                                    {"--base", options.graph.base.has_value()},
                                    {"--format", options.graph.format.has_value()},
                                    {"--map", !options.graph.map_path.empty()}})
    if (given) throw ValueError(fmt::format("{} is of graphs, {} holds a tensor", name, options.graph.text));
  if (!options.name.empty() && options.graph.text != "-" &&
      !has_suffix(options.graph.text, {".safetensors"}) && !has_suffix(options.output, {".safetensors"}))
    throw ValueError("--name is of .safetensors files, neither IN nor OUT is one");
  session.data_input("IN", options.graph.text);
  session.output("OUT", options.output, tensor_suffixes());
  const Stopwatch clock;
  Tensor tensor = read_tensor(options.graph.text, options.name, session.context.limit());
  if (session.dtype) tensor = tensor.to(*session.dtype);
  const bool npy = !has_suffix(options.output, {".safetensors"});
  if (npy && tensor.dtype == DType::bf16) tensor = tensor.to(DType::f32);  // which NumPy has not
  const std::string name = options.name.empty() ? "tensor" : options.name;
  Json json;
  json["shape"] = tensor.shape;
  json["dtype"] = name_of(tensor.dtype);
  Fields fields;
  fields.add("shape", fmt::format("[{}]", fmt::join(tensor.shape, ", ")));
  fields.add("type", std::string(name_of(tensor.dtype)));
  Outputs outputs;
  outputs.add(options.output, [&](const std::string& path) {
    if (npy) return save_npy(tensor, path);
    NamedTensors file;
    file.tensors.emplace(name, std::move(tensor));
    save_safetensors(file, path);
  });
  outputs.commit();
  json["seconds"] = clock.seconds();
  json["file"] = options.output;
  fields.add("written to", options.output);
  session.report(json, fields.text());
  return kOk;
}

int convert(Session& session, ConvertOptions& options) {
  const bool from_input = options.graph.text == "-" && has_suffix(options.output, tensor_suffixes());
  if (from_input || has_suffix(options.graph.text, tensor_suffixes()))
    return convert_tensor(session, options);
  if (!options.name.empty())
    throw ValueError(fmt::format("--name picks a tensor, {} is a graph", options.graph.text));
  session.output("OUT", options.output, graph_suffixes());
  if (!options.graph.map_path.empty()) {
    if (!options.graph.files.compact) throw ValueError("--map writes the old ids of --compact: give both");
    if (!is_graph_path(options.graph.text))
      throw ValueError(fmt::format("--map is of one edge list, IN is the pattern {}", options.graph.text));
    session.output("--map", options.graph.map_path, {".txt", ".tsv"});
    if (options.graph.map_path == options.output)
      throw ValueError(fmt::format("--map and OUT are both {}: name two files", options.output));
  }
  const Stopwatch clock;
  const Graph graph = options.graph.make(session);
  check_written(session, graph, options.output);
  Outputs outputs;
  outputs.add(options.output, [&](const std::string& path) { save(graph, path); });
  if (!options.graph.map_path.empty())
    outputs.add(options.graph.map_path, [&](const std::string& path) {
      std::string lines;
      for (const Offset id : options.graph.map) lines += fmt::format("{}\n", id);
      write_atomically(path, lines);
    });
  outputs.commit();
  Json json;
  json["n_rows"] = graph.n_rows();
  json["n_cols"] = graph.n_cols();
  json["edges"] = graph.nnz();
  json["weighted"] = graph.weighted();
  json["hash"] = graph.hash_text();
  json["bytes"] = graph.bytes();
  json["seconds"] = clock.seconds();
  json["file"] = options.output;
  Fields fields;
  fields.add("size", fmt::format("{} x {}", graph.n_rows(), graph.n_cols()));
  fields.add("edges", fmt::format("{}{}", graph.nnz(), graph.weighted() ? ", weighted" : ""));
  fields.add("hash", graph.hash_text());
  fields.add("written to", options.output);
  if (!options.graph.map_path.empty()) fields.add("map", options.graph.map_path);
  session.report(json, fields.text());
  return kOk;
}

}  // namespace

void add_convert(CLI::App& app, Session& session) {
  auto options = std::make_shared<ConvertOptions>();
  CLI::App* verb =
      add_verb(app, session, "convert", "Rewrite a graph or a tensor in another format",
               "  manyhop convert citations.txt citations.mtx --undirected\n"
               "  manyhop convert arcs.el small.npz --compact --map ids.txt --base 1\n"
               "  manyhop convert signal.npy signal.safetensors --dtype f32\n"
               "Matrix-like files keep (row, column), the row receives; edge lists hold arcs u v, u\n"
               "sends to v. Converting between the kinds transposes, so that the graph stays the same.");
  options->graph.add(*verb, "IN", "graph file, pattern text with -n, or a tensor (.npy .safetensors)");
  add_text(*verb, "OUT", options->output, "", "file to write; the suffix chooses the format")->required();
  options->graph.add_options(*verb);
  add_text(*verb, "--map", options->graph.map_path, "FILE",
           "--compact: the old id of each vertex, one a line");
  add_text(*verb, "--name", options->name, "NAME",
           "tensor to take from, or to write to, a .safetensors file");
  verb->callback(
      [&session, options] { session.run = [&session, options] { return convert(session, *options); }; });
}

}  // namespace manyhop::cli

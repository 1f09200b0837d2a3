// Graphs and tensors from and to files. Every reader checks sizes that a header claims against the bytes that
// are there before it allocates; every writer writes a temporary name beside the target and renames it.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/graph.hpp"

namespace manyhop {

/// Whether a command-line argument names a file: "-", a text with a '/' or one that ends in a known suffix
/// (.mtx .npz .graph .el .txt .tsv .edgelist .npy .safetensors). What stands in double quotes does not count,
/// so file("a/b.el")|self is pattern text.
bool is_graph_path(std::string_view path);

struct LoadOptions {
  bool undirected = false;  // edge lists: mirror every arc
  bool compact = false;     // edge lists: renumber the used ids in increasing order
  int base = 0;             // edge lists: first id, 0 or 1
  std::optional<Offset>
      n;  // edge lists: vertices (allows ids above the sanity bound, and isolated last vertices)
  std::string_view format = {};  // mtx, npz, graph or el, whatever the name says; empty: by suffix
  std::size_t memory_limit = 0;  // bytes of the file, of reading or unpacking it and of the graph; 0: none
  std::vector<Offset>* map = nullptr;  // --compact: receives old id of each new vertex
};

/// Reads a graph by options.format, else by suffix; "-" is standard input, told by its first bytes (METIS has
/// none of its own: it wants a format). Matrix-like files (mtx, npz) keep (row, column); METIS is undirected;
/// edge lists `u v [w]` mean u sends to v: row v, column u. Duplicates merge, weights add. An edge list has
/// max id + 1 vertices, or as many as the first line says that save()
/// wrote, as long as its number of arcs is right. Throws FileError: path, line (text) or byte (binary), what
/// was found and what was expected; ValueError for options that do not fit. Sizes that the bytes do not back
/// (ids of an edge list, rows of a Matrix Market header) above max(2^20, 64 x entries) are refused unless
/// options.n allows them.
Graph load(const std::string& path, const LoadOptions& options = {});

/// Writes a graph by suffix, atomically. Edge lists are written as arcs (u sends to v), METIS wants a
/// symmetric graph without self loops. "-" writes Matrix Market to standard output.   Throws FileError,
/// ValueError for what the format cannot hold.
void save(const Graph& graph, const std::string& path);

/// One array of a .npy file in C order (Fortran order is transposed). f8, f4, f2 keep their type; integers
/// and booleans become f64 where that is exact; either byte order.
Tensor load_npy(const std::string& path);
/// Writes f64, f32, f16; bf16, which NumPy does not know, is widened to f32.
void save_npy(const Tensor& tensor, const std::string& path);

struct NamedTensors {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;  // __metadata__
};
/// Reads the tensors called `names` (absent ones are left out), or all of them when it is empty. Element
/// types other than F64, F32, F16, BF16 are refused by name when they would be loaded.
NamedTensors load_safetensors(const std::string& path, std::span<const std::string> names = {});
void save_safetensors(const NamedTensors& tensors, const std::string& path);

/// Writes `bytes` to a temporary name beside `path` and renames it over; leaves nothing behind on failure or
/// interruption. "-" writes to standard output.
void write_atomically(const std::string& path, std::string_view bytes);
/// The whole file ("-": standard input), or FileError with the system's reason.
std::string read_file(const std::string& path);

}  // namespace manyhop

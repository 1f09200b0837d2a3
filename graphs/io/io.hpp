// Graphs and tensors from and to files. Every reader checks sizes that a header claims against the bytes that
// are there before it allocates; every writer writes a temporary name beside the target and renames it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/graph.hpp"

namespace manyhop {

/// Suffixes that name a graph file: .mtx .npz .graph .el .txt .tsv .edgelist
bool is_graph_path(
    std::string_view path);  // has a '/' or a known suffix (graph or tensor), else it is pattern text

struct LoadOptions {
  bool undirected = false;  // edge lists: mirror every arc
  bool compact = false;     // edge lists: renumber the used ids in increasing order
  int base = 0;             // edge lists: first id, 0 or 1
  std::optional<Offset>
      n;  // edge lists: vertices (allows ids above the sanity bound, and isolated last vertices)
  std::vector<Offset>* map = nullptr;  // --compact: receives old id of each new vertex
};

/// Reads a graph by suffix. Matrix-like files (mtx, npz) keep (row, column); METIS is undirected; edge lists
/// `u v [w]` mean u sends to v: row v, column u. Duplicates merge, weights add. Throws FileError: path, line
/// (text) or byte (binary), what was found and what was expected.
Graph load(const std::string& path, const LoadOptions& options = {});

/// Writes a graph by suffix, atomically. Edge lists are written as arcs (u sends to v), METIS wants a
/// symmetric graph without self loops.   Throws FileError, ValueError for what the format cannot hold.
void save(const Graph& graph, const std::string& path);

/// One array of a .npy file (C order; Fortran order is transposed on reading).
Tensor load_npy(const std::string& path);
void save_npy(const Tensor& tensor, const std::string& path);

struct NamedTensors {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;  // __metadata__
};
NamedTensors load_safetensors(const std::string& path);
void save_safetensors(const NamedTensors& tensors, const std::string& path);

/// Writes `bytes` to a temporary name beside `path` and renames it over; leaves nothing behind on failure or
/// interruption. "-" writes to standard output.
void write_atomically(const std::string& path, std::string_view bytes);
/// The whole file ("-": standard input), or FileError with the system's reason.
std::string read_file(const std::string& path);

}  // namespace manyhop

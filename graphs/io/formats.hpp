// One parser and one formatter for each file format, over bytes in memory. `name` is what messages call the
// source; every parser throws FileError with it and a line (text) or byte (binary), and allocates in
// proportion to the bytes that are there, never to what a header claims.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "manyhop/graphs/io/io.hpp"

namespace manyhop {

/// Receives the bytes of an output in order.
using Sink = std::function<void(std::string_view)>;

Graph parse_mtx(std::string_view bytes, const std::string& name, const LoadOptions& options = {});
Graph parse_npz(std::string_view bytes, const std::string& name, const LoadOptions& options = {});
Graph parse_metis(std::string_view bytes, const std::string& name, const LoadOptions& options = {});
Graph parse_edge_list(std::string_view bytes, const std::string& name, const LoadOptions& options = {});
Tensor parse_npy(std::string_view bytes, const std::string& name);
/// Only the tensors called `names`, or all when it is empty.
NamedTensors parse_safetensors(std::string_view bytes, const std::string& name,
                               std::span<const std::string> names = {});

void format_mtx(const Graph& graph, const Sink& sink);
void format_npz(const Graph& graph, const Sink& sink);
/// ValueError unless symmetric (weights too), free of self loops, with positive whole weights.
void format_metis(const Graph& graph, const Sink& sink);
/// ValueError for rectangles.
void format_edge_list(const Graph& graph, const Sink& sink);
void format_npy(const Tensor& tensor, const Sink& sink);
void format_safetensors(const NamedTensors& tensors, const Sink& sink);

/// The rule for sizes that bytes do not back: n <= max(2^20, 64 x entries), or n <= options.n. Returns the
/// largest n that is believed.
Offset believed_size(Offset entries, const LoadOptions& options);

}  // namespace manyhop

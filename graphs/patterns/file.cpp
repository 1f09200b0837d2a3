// file("path"): a graph as an atom.
#include "manyhop/graphs/io/io.hpp"
#include "manyhop/graphs/patterns/source.hpp"

namespace manyhop::patterns {

Graph load_file(std::size_t column, const std::string& path, const PatternOptions& options) {
  // A pattern is read again wherever it is made, its size alone included; a stream can be read once.
  if (path == "-") fail_at(column, "file \"-\" is standard input, which a pattern cannot read; name a file");
  LoadOptions load_options = options.files != nullptr ? *options.files : LoadOptions{};
  if (load_options.memory_limit == 0) load_options.memory_limit = options.memory_limit;
  load_options.map = nullptr;  // belongs to a load by the caller, not to an atom
  return load(path, load_options);
}

}  // namespace manyhop::patterns

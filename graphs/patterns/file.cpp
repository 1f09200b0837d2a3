// file("path"): a graph as an atom.
#include "manyhop/graphs/io/io.hpp"
#include "manyhop/graphs/patterns/source.hpp"

namespace manyhop::patterns {

Graph load_file(const std::string& path, const PatternOptions& options) {
  LoadOptions load_options = options.files != nullptr ? *options.files : LoadOptions{};
  load_options.map = nullptr;  // belongs to a load by the caller, not to an atom
  return load(path, load_options);
}

}  // namespace manyhop::patterns

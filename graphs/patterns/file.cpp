// file("path"): a graph as an atom.
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/source.hpp"

namespace manyhop::patterns {

Graph load_file(const std::string& path, const PatternOptions&) {
  throw FileError(path + ": files within patterns are read once graphs/io is linked");
}

}  // namespace manyhop::patterns

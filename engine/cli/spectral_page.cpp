#include "spectral_report.hpp"

namespace manyhop::cli {
std::string spectral_page(const Graph& graph, const spectral::Survey& survey, const std::string& title) {
  (void)graph;
  (void)survey;
  return title;
}
}  // namespace manyhop::cli

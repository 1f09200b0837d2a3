// How a survey is shown: as JSON, as a table, and as one page of HTML.
#pragma once

#include <string>

#include "manyhop/engine/spectral/survey.hpp"
#include "options.hpp"
#include "output.hpp"

namespace manyhop::cli {

Json survey_json(const Graph& graph, const spectral::Survey& survey, double generate_seconds);
Fields survey_fields(const Graph& graph, const spectral::Survey& survey, const std::string& title,
                     double generate_seconds);
/// A self-contained page: pictures as inline SVG, light and dark, readable from 360 px on, no scripts.
std::string spectral_page(const Graph& graph, const spectral::Survey& survey, const std::string& title,
                          double generate_seconds);

}  // namespace manyhop::cli

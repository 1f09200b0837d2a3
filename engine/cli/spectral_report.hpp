// How a survey is shown: as JSON, as a table, and as one page of HTML.
#pragma once

#include <string>
#include <string_view>

#include <vector>

#include "manyhop/engine/spectral/attention_matrix.hpp"
#include "manyhop/engine/spectral/survey.hpp"
#include "options.hpp"
#include "output.hpp"

namespace manyhop::cli {

Json survey_json(const Graph& graph, const spectral::Survey& survey, double generate_seconds);
Fields survey_fields(const Graph& graph, const spectral::Survey& survey, const std::string& title,
                     double generate_seconds);
inline constexpr std::string_view kTriangularRemark =
    "triangular: the eigenvalues of the walk are its diagonal and say nothing about mixing; see reach, paths "
    "and the singular gap";
/// Share of columns per hop, and walks per hop; counts that pass all doubles are null.
Json reach_json(const std::vector<spectral::Reach>& reach);
Json paths_json(const std::vector<spectral::Paths>& paths);
void add_reach_fields(Fields& fields, const std::vector<spectral::Reach>& reach, Offset rows, Offset n);
void add_path_fields(Fields& fields, const std::vector<spectral::Paths>& paths);
/// A self-contained page: pictures as inline SVG, light and dark, readable from 360 px on, no scripts.
std::string spectral_page(const Graph& graph, const spectral::Survey& survey, const std::string& title,
                          double generate_seconds);

}  // namespace manyhop::cli

// The report for people: one page, pictures as inline SVG coloured by CSS variables of the reader's scheme.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "manyhop/graphs/spy.hpp"
#include "spectral_report.hpp"

namespace manyhop::cli {
namespace {

constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --line: #d5dae0; --paper: #ffffff;
  --card: #f6f8fa; --one: #0a5fb4; --two: #c2410c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebee; --soft: #9aa4af; --line: #39424c; --paper: #14181d; --card: #1c2229; --one: #6cb2ff;
    --two: #ffa366; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; margin: 0 0 .25rem; }
h2 { font-size: 1rem; margin: 0 0 .25rem; }
p { margin: .25rem 0; }
.soft { color: var(--soft); font-size: .875rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem;
  margin: 1rem 0; }
figure { margin: 0; padding: .75rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  min-width: 0; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.one { fill: var(--one); } .two { fill: var(--two); }
.one-line { fill: none; stroke: var(--one); stroke-width: 2; }
.two-line { fill: none; stroke: var(--two); stroke-width: 2; stroke-dasharray: 5 3; }
.frame { fill: none; stroke: var(--line); }
dl { margin: 0; } dl > div { padding: .5rem 0; border-top: 1px solid var(--line); }
dt { font-weight: 600; } dt span { font-weight: 400; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
dd { margin: 0; color: var(--soft); font-size: .875rem; }
)";

std::string escaped(std::string_view text) { return xml_text(text, 4096); }

constexpr double kLeft = 44, kRight = 312, kTop = 8, kBottom = 152;  // of a chart of 320 x 180

/// Axes and the labels at their ends.
struct Chart {
  double x0 = 0, x1 = 1, y1 = 1;  // y starts at 0
  std::string body;

  double x(double v) const { return kLeft + (kRight - kLeft) * (v - x0) / (x1 > x0 ? x1 - x0 : 1); }
  double y(double v) const {
    return kBottom - (kBottom - kTop) * std::clamp(v / (y1 > 0 ? y1 : 1), 0.0, 1.0);
  }
  void bar(double from, double to, double value, std::string_view style) {
    if (value <= 0) return;
    body += fmt::format(R"(<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>)", style,
                        x(from), y(value), std::max(0.5, x(to) - x(from) - 0.5), kBottom - y(value));
  }
  void line(const std::vector<std::pair<double, double>>& points, std::string_view style) {
    std::string path;
    for (const auto& [px, py] : points)
      path += fmt::format("{}{:.2f} {:.2f}", path.empty() ? "M" : " L", x(px), y(py));
    body += fmt::format(R"(<path class="{}" d="{}"/>)", style, path);
  }
  std::string svg(std::string_view what, std::string_view x_name) const {
    return fmt::format(
        R"(<svg viewBox="0 0 320 180" role="img" aria-label="{}">{}<path class="frame" d="M{} {}V{}H{}"/>)"
        R"(<text x="{}" y="{}" text-anchor="end">{:.4g}</text><text x="{}" y="{}" text-anchor="end">0</text>)"
        R"(<text x="{}" y="168">{:.4g}</text><text x="{}" y="168" text-anchor="end">{:.4g}</text>)"
        R"(<text x="{}" y="168" text-anchor="middle">{}</text></svg>)",
        what, body, kLeft, kTop, kBottom, kRight, kLeft - 4, kTop + 10, y1, kLeft - 4, kBottom, kLeft, x0,
        kRight, x1, (kLeft + kRight) / 2, x_name);
  }
};

std::string figure(std::string_view title, const std::string& picture, const std::string& caption) {
  return fmt::format("<figure><h2>{}</h2>{}<figcaption class=\"soft\">{}</figcaption></figure>\n", title,
                     picture, caption);
}

/// Bins of edges, rows downwards; two colours where the cut is drawn: `order` puts its members first.
std::string spy_picture(const SpyGrid& grid) {
  constexpr double kSide = 256;
  std::string cells;
  const double w = kSide / std::max(1, grid.width), h = kSide / std::max(1, grid.height);
  for (int y = 0; y < grid.height; ++y)
    for (int x = 0; x < grid.width; ++x)
      if (grid.edges(y, x) > 0)
        cells +=
            fmt::format(R"(<rect x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" opacity="{:.2f}"/>)",
                        x * w, y * h, w, h, std::max(0.125, std::sqrt(grid.share(y, x))));
  return fmt::format(R"(<svg viewBox="0 0 256 256" role="img" aria-label="edges"><g class="one">{}</g>)"
                     R"(<rect class="frame" width="256" height="256"/></svg>)",
                     cells);
}

std::string degree_figure(const Graph& graph) {
  if (graph.n_rows() == 0) return {};
  const DegreeSummary summary = degrees(graph);
  const auto bins = static_cast<std::size_t>(std::min<Offset>(summary.max - summary.min + 1, 40));
  const double width = static_cast<double>(summary.max - summary.min + 1) / static_cast<double>(bins);
  std::vector<double> count(bins);
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    const auto bin = static_cast<std::size_t>(static_cast<double>(graph.degree(i) - summary.min) / width);
    ++count[std::min(bin, bins - 1)];
  }
  Chart chart;
  chart.x0 = static_cast<double>(summary.min);
  chart.x1 = static_cast<double>(summary.max + 1);
  chart.y1 = *std::max_element(count.begin(), count.end());
  for (std::size_t b = 0; b < bins; ++b)
    chart.bar(chart.x0 + width * static_cast<double>(b), chart.x0 + width * static_cast<double>(b + 1),
              count[b], "one");
  return figure("Degrees", chart.svg("rows by degree", "edges of a row"),
                fmt::format("Rows by their number of edges: {} to {}, {:.4g} on average.", summary.min,
                            summary.max, summary.mean));
}

std::string density_figure(const spectral::Density& density) {
  if (density.kpm.empty()) return {};
  Chart chart;
  chart.x0 = -1;
  chart.y1 = *std::max_element(density.kpm.begin(), density.kpm.end());
  for (const double v : density.law_share) chart.y1 = std::max(chart.y1, v);
  double error = 0;
  for (const double e : density.kpm_error) error = std::max(error, e);
  std::vector<std::pair<double, double>> law;
  for (std::size_t b = 0; b < density.kpm.size(); ++b) {
    chart.bar(density.edges[b], density.edges[b + 1], density.kpm[b], "one");
    if (!density.law_share.empty())
      law.emplace_back((density.edges[b] + density.edges[b + 1]) / 2, density.law_share[b]);
  }
  if (!law.empty()) chart.line(law, "two-line");
  const std::string name = density.law == "kesten-mckay" ? "Kesten-McKay law of random regular graphs"
                                                         : "semicircle of random graphs of this mean degree";
  return figure("Spectral density", chart.svg("share of eigenvalues", "eigenvalue"),
                fmt::format("Share of the eigenvalues in each bin, from {} probes (error at most {:.1g}){}.",
                            density.probes, error, law.empty() ? std::string() : "; dashed: the " + name));
}

std::string reach_figure(const Graph& graph, const spectral::Survey& survey) {
  if (survey.reach.empty()) return {};
  Chart chart;
  chart.x1 = static_cast<double>(survey.reach.size());
  const double self = graph.n_rows() > 0 ? 1 / static_cast<double>(graph.n_rows()) : 0;
  std::vector<std::pair<double, double>> mean{{0, self}}, least{{0, self}};
  for (const auto& reach : survey.reach) {
    mean.emplace_back(reach.hop, reach.mean);
    least.emplace_back(reach.hop, reach.min);
  }
  chart.line(mean, "one-line");
  chart.line(least, "two-line");
  return figure(
      "Reach", chart.svg("share of tokens reached", "hops"),
      fmt::format("Share of all tokens that a row hears from within so many hops: the mean, and dashed the "
                  "least of {} rows.",
                  survey.reach_rows));
}

std::string filter_figure() {
  constexpr double kTeleport = 0.1;
  Chart chart;
  chart.x0 = -1;
  std::vector<std::pair<double, double>> hops, limit;
  for (int step = 0; step <= 100; ++step) {
    const double mu = -1 + 0.02 * step;
    double z = 1;
    for (int hop = 0; hop < spectral::kSurveyHops; ++hop) z = (1 - kTeleport) * mu * z + kTeleport;
    hops.emplace_back(mu, std::abs(z));
    limit.emplace_back(mu, kTeleport / (1 - (1 - kTeleport) * mu));
  }
  chart.line(hops, "one-line");
  chart.line(limit, "two-line");
  return figure(
      "Filter response", chart.svg("response", "eigenvalue"),
      fmt::format("What {} hops of diffusion with teleport {} leave of a signal at each eigenvalue; dashed: "
                  "endless hops.",
                  spectral::kSurveyHops, kTeleport));
}

/// The graph with the members of the cut first.
std::string cut_figure(const spectral::Survey& survey) {
  constexpr int kBins = 64;
  const auto n = survey.s.n();
  if (!survey.cut || survey.s.graph.implicit() || n == 0) return {};
  std::vector<Offset> place(static_cast<std::size_t>(n));
  Offset next = 0;
  for (const char side : {char{1}, char{0}})
    for (std::size_t v = 0; v < place.size(); ++v)
      if (survey.cut->inside[v] == side) place[v] = next++;
  const int bins = static_cast<int>(std::min<Offset>(n, kBins));
  std::vector<double> count(static_cast<std::size_t>(bins * bins));
  const auto bin = [&](Offset v) {
    return static_cast<std::size_t>(place[static_cast<std::size_t>(v)] * bins / n);
  };
  for (Offset i = 0; i < n; ++i)
    survey.s.for_each_edge(
        i, [&](Index j, double) { ++count[bin(i) * static_cast<std::size_t>(bins) + bin(j)]; });
  const double most = *std::max_element(count.begin(), count.end());
  std::string cells;
  const double side = 256.0 / bins;
  const double border = 256.0 * static_cast<double>(survey.cut->size) / static_cast<double>(n);
  for (int y = 0; y < bins; ++y)
    for (int x = 0; x < bins; ++x) {
      const double c =
          count[static_cast<std::size_t>(y) * static_cast<std::size_t>(bins) + static_cast<std::size_t>(x)];
      if (c == 0) continue;
      const bool crossing = ((y + 0.5) * side < border) != ((x + 0.5) * side < border);
      cells += fmt::format(
          R"(<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" opacity="{:.2f}"/>)",
          crossing ? "two" : "one", x * side, y * side, side, side, std::max(0.125, std::sqrt(c / most)));
    }
  const std::string picture = fmt::format(
      R"(<svg viewBox="0 0 256 256" role="img" aria-label="sweep cut">{}<path class="two-line" d="M0 {:.2f}H256M{:.2f} 0V256"/>)"
      R"(<rect class="frame" width="256" height="256"/></svg>)",
      cells, border, border);
  return figure(
      "Sweep cut", picture,
      fmt::format("The edges with the {} vertices of the cut first; {:.6g} edges (the other colour) join "
                  "them to the rest, conductance {:.4g}.",
                  survey.cut->size, survey.cut->edges, survey.cut->conductance));
}

/// One plain sentence for each row of the table.
std::string_view meaning(std::string_view name) {
  constexpr std::pair<std::string_view, std::string_view> kMeanings[] = {
      {"size", "How many tokens there are, and how many pairs of them attend."},
      {"operator", "The matrix whose eigenvalues these are."},
      {"does not apply", "Why this matrix has no such numbers here."},
      {"lambda2", "How slowly the slowest pattern fades: near 1 is slow, near 0 is gone in a hop."},
      {"lambda_n", "The other end of the spectrum; -1 means that the graph alternates between two sides."},
      {"gap",
       "The distance from 1: the larger, the fewer hops until every token has heard from every other."},
      {"residual", "How far these are from exact eigenvalues, measured by a fresh product."},
      {"method", "How they were found."},
      {"components", "Pieces that never exchange anything, and tokens without any edge."},
      {"conductance", "The share of edges that leave the best-separated part: low means a bottleneck."},
      {"cut", "The bottleneck that was found: its size and the edges across it."},
      {"Ramanujan", "Whether the graph mixes as well as a graph of its degree can."},
      {"Alon-Boppana", "What theory says cannot be undercut."},
      {"mixing time", "Steps of a lazy random walk until it has all but forgotten where it began."},
      {"diameter", "The most hops that lie between two tokens."},
      {"capacity", "1: all tokens carry alike; near 0: everything is squeezed through a few hubs."},
      {"without hubs", "The gap that is left when the busiest tokens are taken away."},
      {"to complete",
       "How far the pattern is from full attention, at its best scale: 0 is equal, 1 disconnected."},
      {"effective rank", "How many independent directions survive the hops."},
      {"Kirchhoff index", "The resistance of all pairs added up: low means many parallel ways."},
      {"discrepancy", "The largest surplus or lack of edges between two sets that was found."},
      {"density", "How the picture of all eigenvalues was made."},
      {"remark", "Which of these numbers count here."},
      {"singular gap", "How much one hop evens out, in the sense that holds for patterns with a direction."},
      {"expansion", "Why the expansion is missing."},
      {"time", "What the solve and the making of the graph took."}};
  for (const auto& [known, text] : kMeanings)
    if (known == name) return text;
  if (name.starts_with("hops for")) return "Hops until only this share of the start is left.";
  if (name.starts_with("paths of")) return "In how many ways so many hops lead from any token to a row.";
  if (name.starts_with("reach in")) return "How many of the tokens a row hears from within so many hops.";
  return "";
}

}  // namespace

std::string spectral_page(const Graph& graph, const spectral::Survey& survey, const std::string& title,
                          double generate_seconds) {
  const std::string name = escaped(title);
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<link rel=\"icon\" "
      "href=\"data:,\">\n"
      "<title>{} - spectral report</title>\n<style>{}</style>\n</head>\n<body>\n<h1>{}</h1>\n"
      "<p class=\"soft\">{} tokens, {} edges: how well this pattern mixes.</p>\n<div class=\"grid\">\n",
      name, kStyle, name, graph.n_rows(), graph.nnz());
  page += figure("Edges", spy_picture(spy_grid(graph, 64, 64)),
                 "Rows receive and go down, columns send and go right; darker bins are fuller.");
  page += degree_figure(graph);
  if (survey.density) page += density_figure(*survey.density);
  page += reach_figure(graph, survey);
  page += cut_figure(survey);
  page += filter_figure();
  page += "</div>\n<h2>Numbers</h2>\n<dl>\n";
  const Fields fields = survey_fields(graph, survey, title, generate_seconds);
  for (const auto& [field, value] : fields.rows())
    if (field != "graph")
      page += fmt::format("<div><dt>{}: <span>{}</span></dt><dd>{}</dd></div>\n", escaped(field),
                          escaped(value), meaning(field));
  page += "</dl>\n</body>\n</html>\n";
  return page;
}

}  // namespace manyhop::cli

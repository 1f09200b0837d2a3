#include "spectral_qkv.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <limits>
#include <vector>

#include "manyhop/engine/spectral/attention_matrix.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "output.hpp"
#include "qkv.hpp"
#include "spectral_report.hpp"

namespace manyhop::cli {
namespace {

constexpr int kCurvePoints = 41;  // of the filter response over [-1, 1]

struct Head {
  Offset batch = 0;
  int head = 0;
  spectral::AttentionMatrix matrix;
  double seconds = 0;
};

/// One head of a tensor as [n, d] in doubles.
TensorView<const double> head_view(const Tensor& tensor, Layout layout, Offset batch, Offset head) {
  const auto all = view_of(tensor.as<double>(), tensor.shape, layout);
  return {&all(batch, head, 0, 0), {all.extent[2], all.extent[3]}, {all.stride[2], all.stride[3]}};
}

Json of_complex(const std::optional<std::complex<double>>& value) {
  if (!value) return nullptr;
  return {{"re", value->real()}, {"im", value->imag()}};
}

Json of_real(const std::optional<std::complex<double>>& value) {
  return value ? Json(value->real()) : Json(nullptr);
}

Json solved(const spectral::GapResult& result, Json lambda2) {
  Json json;
  json["lambda2"] = std::move(lambda2);
  json["gap"] = result.gap ? Json(*result.gap) : Json(nullptr);
  json["residual"] = result.residual;
  json["converged"] = result.converged;
  json["method"] = result.method;
  return json;
}

/// Which of a head's numbers is not known, and what would help.
std::string not_converged(const Head& head, double tol) {
  const auto& m = head.matrix;
  const auto iterated = [&](const char* what, double residual) {
    return fmt::format("batch {} head {}: {} has a residual of {:.2g}, wanted {:.2g}; raise --tol",
                       head.batch, head.head, what, residual, tol);
  };
  if (!m.transition.converged) return iterated("lambda2", m.transition.residual);
  if (!m.singular.converged) return iterated("the second singular value", m.singular.residual);
  if (m.chung.applies && !m.chung.converged) {
    if (m.chung.reason.empty()) return iterated("Chung's Laplacian", m.chung.residual);
    return fmt::format("batch {} head {}: Chung's Laplacian is left out, as {}; all else has converged",
                       head.batch, head.head, m.chung.reason);
  }
  return iterated("a singular value of the matrix or its filter",
                  std::max(m.sigma_residual, m.gain_residual));
}

Json json_of(const Head& head) {
  const auto& m = head.matrix;
  Json json;
  json["batch"] = head.batch;
  json["head"] = head.head;
  json["transition"] = solved(m.transition, of_complex(m.transition.lambda2));
  json["transition"]["modulus"] =
      m.transition.lambda2 ? Json(std::abs(*m.transition.lambda2)) : Json(nullptr);
  json["singular"] = solved(m.singular, of_real(m.singular.lambda2));
  json["sigma"] = {{"first", m.sigma1}, {"second", m.sigma2}, {"residual", m.sigma_residual}};
  json["chung"] = solved(m.chung, of_real(m.chung.lambda2));
  json["chung"]["applies"] = m.chung.applies;
  if (!m.chung.reason.empty()) json["chung"]["reason"] = m.chung.reason;
  const auto& pi = m.stationary.pi;
  json["stationary"] = nullptr;
  if (pi.empty()) {
    json["stationary_reason"] = m.stationary.reason;
  } else {
    const auto most = std::max_element(pi.begin(), pi.end());
    json["stationary"] = {{"effective_tokens", m.effective_tokens},
                          {"largest", *most},
                          {"token", most - pi.begin()},
                          {"residual", m.stationary.residual}};
  }
  json["filter"] = {{"at_lambda2", m.transition.lambda2 ? of_complex(m.response) : Json(nullptr)},
                    {"gain", m.gain},
                    {"residual", m.gain_residual}};
  json["converged"] = m.converged;
  json["seconds"] = head.seconds;
  return json;
}

/// Least, mean and largest of a number over the heads that have it.
template <class F>
Json summary_of(const std::vector<Head>& heads, F&& number) {
  double sum = 0;
  double least = std::numeric_limits<double>::infinity();
  double most = -least;
  int count = 0;
  for (const Head& head : heads)
    if (const std::optional<double> value = number(head.matrix)) {
      sum += *value;
      least = std::min(least, *value);
      most = std::max(most, *value);
      ++count;
    }
  if (count == 0) return nullptr;
  return {{"min", least}, {"mean", sum / count}, {"max", most}};
}

Json summary(const std::vector<Head>& heads) {
  Json json;
  json["modulus"] = summary_of(heads, [](const spectral::AttentionMatrix& m) -> std::optional<double> {
    if (!m.transition.lambda2) return std::nullopt;
    return std::abs(*m.transition.lambda2);
  });
  json["singular_gap"] = summary_of(heads, [](const spectral::AttentionMatrix& m) { return m.singular.gap; });
  json["chung_gap"] = summary_of(heads, [](const spectral::AttentionMatrix& m) { return m.chung.gap; });
  json["gain"] =
      summary_of(heads, [](const spectral::AttentionMatrix& m) -> std::optional<double> { return m.gain; });
  json["effective_tokens"] =
      summary_of(heads, [](const spectral::AttentionMatrix& m) -> std::optional<double> {
        if (m.stationary.pi.empty()) return std::nullopt;
        return m.effective_tokens;
      });
  return json;
}

Json curve(int hops, double teleport) {
  Json points = Json::array();
  for (int step = 0; step < kCurvePoints; ++step) {
    const double mu = -1 + 2.0 * step / (kCurvePoints - 1);
    const auto limit = spectral::filter_limit(mu, teleport);
    points.push_back({{"mu", mu},
                      {"response", spectral::filter_response(mu, hops, teleport).real()},
                      {"limit", limit ? Json(*limit) : Json(nullptr)}});
  }
  return points;
}

std::string real_text(const std::optional<std::complex<double>>& value) {
  return value ? fmt::format("{:.6f}", value->real()) : "-";
}

std::string heads_text(const std::vector<Head>& heads, Offset batches) {
  Table table({"head", "|lambda2|", "lambda2", "sigma2 norm.", "sigma1", "sigma2", "Chung gap",
               "tokens of pi", "|response|", "gain"});
  for (const Head& head : heads) {
    const auto& m = head.matrix;
    const auto& l2 = m.transition.lambda2;
    table.add(
        {batches > 1 ? fmt::format("{}.{}", head.batch, head.head) : fmt::format("{}", head.head),
         l2 ? fmt::format("{:.6f}", std::abs(*l2)) : "-",
         l2 ? fmt::format("{:.4f}{}", l2->real(), l2->imag() != 0 ? fmt::format("+-{:.4f}i", l2->imag()) : "")
            : "-",
         real_text(m.singular.lambda2), fmt::format("{:.6f}", m.sigma1), fmt::format("{:.6f}", m.sigma2),
         m.chung.gap ? fmt::format("{:.6f}", *m.chung.gap) : "-",
         m.stationary.pi.empty() ? "-" : fmt::format("{:.1f}", m.effective_tokens),
         l2 ? fmt::format("{:.6f}", std::abs(m.response)) : "-", fmt::format("{:.6f}", m.gain)});
  }
  return table.text();
}

void check_call(Session& session, const SpectralQkv& request, const GraphArgument& graph) {
  if (request.path.empty())
    throw ValueError("--pattern, --hops, --head, --scale, --layout and --stationary go with --qkv FILE");
  if (!graph.text.empty())
    throw ValueError(fmt::format("GRAPH '{}' and --qkv are given: with --qkv the graph is named by --pattern",
                                 graph.text));
  session.data_input("--qkv", request.path);
  session.input("--pattern", request.pattern);
  if (!request.stationary.empty()) session.output("--stationary", request.stationary, {".npy"});
}

}  // namespace

int spectral_qkv(Session& session, const SpectralQkv& request, GraphArgument graph) {
  check_call(session, request, graph);
  session.limit_graphs = false;
  const auto layout = static_cast<Layout>(request.layout.value_or(0));
  Qkv in = load_qkv(request.path, layout, false);
  if (in.n != in.n_keys)
    throw ValueError(
        fmt::format("{}: {} queries and {} keys make a rectangle, and spectra want as many of both",
                    request.path, in.n, in.n_keys));
  if (request.head && *request.head >= in.heads)
    throw ValueError(
        fmt::format("--head is {} and {} has heads 0 .. {}", *request.head, request.path, in.heads - 1));
  graph.text = request.pattern.empty() ? "full" : request.pattern;
  const Graph pattern = graph.make(session, Size{in.n, in.n}).without_weights();
  if (pattern.n_rows() != in.n || pattern.n_cols() != in.n)
    throw ValueError(fmt::format("--pattern {}: the graph is {} x {}, and {} has {} tokens", graph.text,
                                 pattern.n_rows(), pattern.n_cols(), request.path, in.n));
  in.q = in.q.to(DType::f64);
  in.k = in.k.to(DType::f64);
  const double scale = request.scale.value_or(1 / std::sqrt(static_cast<double>(in.head_dim)));

  spectral::AttentionMatrixOptions options;
  options.hops = static_cast<int>(request.hops.value_or(1));
  options.teleport = request.teleport.value_or(0);
  if (session.tol) options.tol = *session.tol;
  const bool triangular = in.n > 1 && spectral::triangular(pattern);
  const int curves = std::max(options.hops, 5);  // hops of reach and paths
  const auto reach = spectral::reach(session.context, pattern, curves, 4096, session.seed);
  const auto paths = spectral::path_counts(session.context, pattern, curves);

  const Stopwatch clock;
  std::vector<Head> heads;
  const int first = static_cast<int>(request.head.value_or(0));
  const int last = request.head ? first + 1 : in.heads;
  for (Offset b = 0; b < in.batch; ++b)
    for (int h = first; h < last; ++h) {
      const Stopwatch own;
      Head head{b, h, {}, 0};
      const Offset kv_head = h / (in.heads / in.kv_heads);
      if (in.n > 0) {
        const Graph a = spectral::softmax_graph(session.context, pattern, head_view(in.q, layout, b, h),
                                                head_view(in.k, layout, b, kv_head), scale);
        head.matrix = spectral::attention_matrix(session.context, a, options);
      } else {
        head.matrix = spectral::attention_matrix(session.context, pattern, options);
      }
      head.seconds = own.seconds();
      heads.push_back(std::move(head));
      if (session.context.progress)
        session.context.progress(
            "heads", static_cast<double>(heads.size()) / static_cast<double>(in.batch * (last - first)));
    }
  const bool converged =
      std::all_of(heads.begin(), heads.end(), [](const Head& head) { return head.matrix.converged; });

  Json json;
  json["n"] = in.n;
  json["edges"] = pattern.nnz();
  json["pattern"] = pattern.text().empty() ? graph.text : pattern.text();
  json["heads"] = in.heads;
  json["head_dim"] = in.head_dim;
  json["scale"] = scale;
  json["hops"] = options.hops;
  json["teleport"] = options.teleport;
  json["triangular"] = triangular;
  json["remark"] = triangular ? Json(kTriangularRemark) : Json(nullptr);
  json["reach"] = reach_json(reach);
  json["paths"] = paths_json(paths);
  json["matrices"] = Json::array();
  for (const Head& head : heads) json["matrices"].push_back(json_of(head));
  json["summary"] = summary(heads);
  json["filter"] = curve(options.hops, options.teleport);
  json["converged"] = converged;
  json["seconds"] = clock.seconds();

  Fields fields;
  fields.add("queries, keys", request.path);
  fields.add("pattern", json["pattern"].get<std::string>());
  fields.add("size",
             fmt::format("{} tokens, {} edges, {} heads of {}", in.n, pattern.nnz(), in.heads, in.head_dim));
  fields.add("diffusion", fmt::format("{} hop{}, teleport {}", options.hops, options.hops == 1 ? "" : "s",
                                      options.teleport));
  if (triangular) fields.add("remark", std::string(kTriangularRemark));
  add_reach_fields(fields, reach, std::min<Offset>(in.n, 4096), in.n);
  add_path_fields(fields, paths);
  std::string text = fields.text() + "\n" + heads_text(heads, in.batch);
  text +=
      "\n|response|: what the hops leave of the eigenvector of lambda2; gain: the most they leave of "
      "any\ndifference between tokens, above 1 where columns gather mass; tokens of pi: how many share the "
      "stationary distribution.\n\n"
      "filter response at eigenvalue mu\n";
  Table filter({"mu", "hops", "endless"});
  for (const double mu : {-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0}) {
    const auto limit = spectral::filter_limit(mu, options.teleport);
    filter.add({fmt::format("{}", mu),
                fmt::format("{:.6f}", spectral::filter_response(mu, options.hops, options.teleport).real()),
                limit ? fmt::format("{:.6f}", *limit) : "-"});
  }
  text += filter.text();
  for (const Head& head : heads) {
    if (!head.matrix.chung.applies && !triangular)
      text += fmt::format("\nhead {}: Chung's Laplacian does not apply: {}\n", head.head,
                          head.matrix.chung.reason);
    if (head.matrix.chung.applies && !head.matrix.chung.converged)
      text += fmt::format("\nhead {}: Chung's Laplacian is not resolved: {}\n", head.head,
                          head.matrix.chung.reason);
    if (head.matrix.stationary.pi.empty())
      text += fmt::format("\nhead {}: no stationary distribution: {}\n", head.head,
                          head.matrix.stationary.reason);
  }

  Outputs outputs;
  if (!request.stationary.empty()) {
    Tensor tensor = Tensor::zeros(DType::f64, {static_cast<Offset>(heads.size()), in.n});
    for (std::size_t h = 0; h < heads.size(); ++h) {
      const auto& pi = heads[h].matrix.stationary.pi;
      double* row = tensor.as<double>() + static_cast<Offset>(h) * in.n;
      if (pi.empty())
        std::fill(row, row + in.n, std::numeric_limits<double>::quiet_NaN());
      else
        std::copy(pi.begin(), pi.end(), row);
    }
    outputs.add(request.stationary, [tensor](const std::string& path) { save_npy(tensor, path); });
  }
  outputs.commit();
  session.report(json, text);
  if (converged) return kOk;
  const Head& failed =
      *std::find_if(heads.begin(), heads.end(), [](const Head& h) { return !h.matrix.converged; });
  note(not_converged(failed, options.tol));
  return kNotConverged;
}

}  // namespace manyhop::cli

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>

#include "labels.hpp"
#include "manyhop/engine/diffusion.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "output.hpp"
#include "verbs.hpp"

namespace manyhop::cli {
namespace {

const std::vector<std::string> kKernels{"ppr", "heat", "coefficients"};
const std::vector<std::string> kNormalizations{"sym", "row", "col", "none"};
const std::vector<std::string> kDanglings{"zero", "self", "uniform", "restart"};

struct DiffuseVerb {
  GraphArgument graph;
  std::string signal;
  std::string output;
  std::optional<std::size_t> kernel, normalization, dangling;
  std::optional<double> teleport, t;
  std::optional<std::vector<double>> coefficients;
  std::optional<std::int64_t> hops, split;
  std::string labels, masks;
};

DiffuseOptions request_of(const Session& session, const DiffuseVerb& verb) {
  DiffuseOptions request;
  request.kernel = static_cast<Kernel>(verb.kernel.value_or(0));
  request.normalization = static_cast<Normalization>(verb.normalization.value_or(0));
  request.dangling = static_cast<Dangling>(verb.dangling.value_or(0));
  const std::string& kernel = kKernels[verb.kernel.value_or(0)];
  const auto only = [&](bool given, std::string_view option, Kernel owner) {
    if (given && request.kernel != owner)
      throw ValueError(fmt::format("{} belongs to --kernel {}, not to {}", option,
                                   kKernels[static_cast<std::size_t>(owner)], kernel));
  };
  only(verb.teleport.has_value(), "--teleport", Kernel::ppr);
  only(verb.t.has_value(), "--t", Kernel::heat);
  only(verb.coefficients.has_value(), "--coefficients", Kernel::coefficients);
  if (verb.hops && session.tol)
    throw ValueError("--hops and --tol contradict each other: give a fixed number of hops or a tolerance");
  if (request.kernel == Kernel::coefficients) {
    if (!verb.coefficients) throw ValueError("--kernel coefficients wants --coefficients c0,c1,..");
    if (verb.hops || session.tol)
      throw ValueError(fmt::format("{} does not go with --kernel coefficients: their number fixes the hops",
                                   verb.hops ? "--hops" : "--tol"));
    request.coefficients = *verb.coefficients;
  }
  if (verb.teleport) request.teleport = *verb.teleport;
  if (verb.t) request.t = *verb.t;
  if (verb.hops) request.hops = static_cast<int>(*verb.hops);
  request.tol = session.tol;
  if (request.dangling != Dangling::zero &&
      (request.normalization == Normalization::sym || request.normalization == Normalization::none))
    throw ValueError(fmt::format("--dangling {} does not go with --normalization {}, which knows only zero",
                                 kDanglings[verb.dangling.value_or(0)],
                                 kNormalizations[verb.normalization.value_or(0)]));
  if (request.dangling == Dangling::restart && request.normalization != Normalization::col)
    throw ValueError("--dangling restart goes with --normalization col only");
  return request;
}

void check_call(Session& session, const DiffuseVerb& verb) {
  const bool by_labels = !verb.labels.empty() || !verb.masks.empty();
  if (by_labels == !verb.signal.empty())
    throw ValueError(by_labels ? "--signal and --labels contradict each other: give one"
                               : "give --signal X.npy, or --labels FILE with --masks FILE");
  if (by_labels && (verb.labels.empty() || verb.masks.empty()))
    throw ValueError("--labels FILE and --masks FILE go together");
  if (!by_labels && verb.split) throw ValueError("--split picks a column of --masks: give that, too");
  if (!verb.signal.empty() && verb.signal != "-" && !has_suffix(verb.signal, {".npy"}))
    throw ValueError(fmt::format("--signal {}: expected a .npy file", verb.signal));
  if (session.dtype == DType::bf16) throw ValueError("--dtype bf16: diffuse computes in f32 or f64");
  session.input("GRAPH", verb.graph.text);
  session.data_input("--signal", verb.signal);
  session.data_input("--labels", verb.labels);
  session.data_input("--masks", verb.masks);
  if (!verb.output.empty()) session.output("-o", verb.output, {".npy"});
}

DiffuseResult run_diffuse(const Session& session, const Graph& graph, const Tensor& x, Tensor& z,
                          const DiffuseOptions& request) {
  const Offset n = x.shape[0];
  const Offset c = x.shape.size() == 2 ? x.shape[1] : 1;
  const auto run = [&]<class T>(T) {
    const TensorView<const T> in(x.as<T>(), {n, c});
    const TensorView<T> out(z.as<T>(), {n, c});
    return diffuse<T>(session.context, graph, in, out, request);
  };
  return x.dtype == DType::f64 ? run(double{}) : run(float{});
}

void add_score(Json& json, Fields& fields, const Accuracy& accuracy) {
  json["accuracy"] = {{"train", accuracy.train.share()},
                      {"validation", accuracy.validation.share()},
                      {"test", accuracy.test.share()}};
  const auto add = [&](const char* name, const Score& part) {
    json["counts"][name] = {{"correct", part.correct}, {"total", part.total}};
    fields.add(fmt::format("{} accuracy", name),
               part.total == 0
                   ? "-"
                   : fmt::format("{:.3f} ({} of {})",
                                 static_cast<double>(part.correct) / static_cast<double>(part.total),
                                 part.correct, part.total));
  };
  add("train", accuracy.train);
  add("validation", accuracy.validation);
  add("test", accuracy.test);
}

int diffuse_verb(Session& session, DiffuseVerb& verb) {
  check_call(session, verb);
  const DiffuseOptions request = request_of(session, verb);
  std::optional<Labels> labels;
  Tensor x;
  if (verb.signal.empty()) {
    labels = load_labels(verb.labels, verb.masks, verb.split.value_or(0));
    const std::size_t bytes = labels->label.size() * static_cast<std::size_t>(labels->classes) * 16;
    if (bytes > session.context.limit())
      throw LimitError(fmt::format("{} vertices in {} classes take {} bytes, the memory limit is {}",
                                   labels->label.size(), labels->classes, bytes, session.context.limit()));
    x = training_signal(*labels);
  } else {
    x = load_npy(verb.signal);
    if (x.shape.empty() || x.shape.size() > 2)
      throw ValueError(fmt::format("--signal {} has shape [{}]: expected [n] or [n, c]", verb.signal,
                                   fmt::join(x.shape, ", ")));
    if (x.dtype != DType::f32 && x.dtype != DType::f64)
      throw ValueError(fmt::format("--signal {} is {}: expected f32 or f64", verb.signal, name_of(x.dtype)));
  }
  const Graph graph = verb.graph.make(session, Size{x.shape[0], std::nullopt});
  if (!graph.square() || graph.n_rows() != x.shape[0])
    throw ValueError(
        fmt::format("the graph is {} x {} and {} has {} rows: they have to agree (-n gives an edge list "
                    "more vertices)",
                    graph.n_rows(), graph.n_cols(), labels ? verb.labels : verb.signal, x.shape[0]));

  const DType type = x.dtype;
  if (session.dtype && *session.dtype != type && !labels) x = x.to(*session.dtype);
  Tensor z = Tensor::zeros(x.dtype, x.shape);
  const Stopwatch clock;
  const DiffuseResult result = run_diffuse(session, graph, x, z, request);
  const double seconds = clock.seconds();
  if (z.dtype != type) z = z.to(type);
  if (!verb.output.empty()) {
    Outputs outputs;
    outputs.add(verb.output, [&](const std::string& path) { save_npy(z, path); });
    outputs.commit();
  }

  const std::string& kernel = kKernels[verb.kernel.value_or(0)];
  Json json;
  json["n"] = graph.n_rows();
  json["edges"] = graph.nnz();
  json["kernel"] = kernel;
  json["hops"] = result.hops;
  json["residual"] = result.residual;
  json["bound"] = result.bound;
  json["converged"] = result.converged;
  json["seconds"] = seconds;
  json["normalization"] = kNormalizations[verb.normalization.value_or(0)];
  json["dangling"] = kDanglings[verb.dangling.value_or(0)];
  Fields fields;
  fields.add("graph",
             fmt::format("{}, {} vertices, {} edges", graph.text().empty() ? verb.graph.text : graph.text(),
                         graph.n_rows(), graph.nnz()));
  fields.add("kernel",
             fmt::format("{}, {} normalization", kernel, kNormalizations[verb.normalization.value_or(0)]));
  fields.add("hops", fmt::format("{}{}", result.hops, result.converged ? "" : ", NOT converged"));
  fields.add("residual", number_text(result.residual));
  fields.add("error bound", number_text(result.bound));
  fields.add("time", seconds_text(seconds));
  if (labels) add_score(json, fields, score(*labels, z));
  if (!verb.output.empty()) fields.add("written to", verb.output);
  session.report(json, fields.text());
  if (result.converged) return kOk;
  note(fmt::format("not converged: the bound is {:.3g} after {} hops, wanted {:.3g}", result.bound,
                   result.hops, request.tol.value_or(1e-6)));
  return kNotConverged;
}

}  // namespace

void add_diffuse(CLI::App& app, Session& session) {
  auto verb = std::make_shared<DiffuseVerb>();
  CLI::App* sub = add_verb(
      app, session, "diffuse", "Spread a signal over a graph: personalised PageRank, heat, coefficients",
      "  manyhop diffuse links.mtx --signal x.npy --teleport 0.15 --tol 1e-8 -o z.npy\n"
      "  manyhop diffuse links.el --undirected --signal x.npy --kernel heat --t 3 -o z.npy\n"
      "  manyhop diffuse 'window(1)' --signal x.npy --kernel coefficients --coefficients 0.5,0.5 -o z.npy\n"
      "  manyhop diffuse links.mtx --signal p.npy --normalization col --dangling uniform -o rank.npy\n"
      "  manyhop diffuse 'file(\"examples/cora/edges.txt\")|self' --undirected --hops 100 \\\n"
      "      --labels examples/cora/labels.txt --masks examples/cora/masks.txt\n"
      "Without --hops and --tol the tolerance is 1e-6. Not converged: the result is written, exit code 3.");
  verb->graph.add(*sub, "GRAPH", "pattern text, or a graph file; square");
  verb->graph.add_options(*sub);
  add_text(*sub, "--signal", verb->signal, "X.npy", "[n] or [n, c], f32 or f64; the result has its type");
  add_choice(*sub, "--kernel", verb->kernel, kKernels, "(default ppr)");
  add_real(*sub, "--teleport", verb->teleport, "A", "ppr: share of the signal in every hop (default 0.1)", 0,
           1);
  add_real(*sub, "--t", verb->t, "T", "heat: time (default 1)", 0);
  const std::function<void(const std::string&)> set = [target = verb.get()](const std::string& text) {
    target->coefficients = reals_of("--coefficients", text);
  };
  sub->add_option_function("--coefficients", set, "coefficients: of A^0, A^1, ...")->type_name("C0,C1,..");
  add_integer(*sub, "--hops", verb->hops, "K", "a fixed number of hops", 0, std::numeric_limits<int>::max());
  add_choice(*sub, "--normalization", verb->normalization, kNormalizations, "of the weights (default sym)");
  add_choice(*sub, "--dangling", verb->dangling, kDanglings,
             "rows (row) or columns (col) whose sum is 0 (default zero)");
  add_text(*sub, "-o,--output", verb->output, "Z.npy", "where the result goes, - for standard output");
  add_text(*sub, "--labels", verb->labels, "FILE", "label propagation: one class a line, -1 for none");
  add_text(*sub, "--masks", verb->masks, "FILE",
           "one line a vertex: t train, v validation, s test, - unused");
  add_integer(*sub, "--split", verb->split, "I", "column of --masks (default 0)", 0, 1'000'000);
  sub->callback(
      [&session, verb] { session.run = [&session, verb] { return diffuse_verb(session, *verb); }; });
}

}  // namespace manyhop::cli

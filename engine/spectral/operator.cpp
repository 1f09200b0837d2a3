#include "manyhop/engine/spectral/operator.hpp"

#include <cmath>
#include <utility>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/base/random.hpp"

namespace manyhop::spectral {
namespace {

constexpr Offset kChunkWork = 32768;  // edges and rows of one chunk of a product
constexpr Offset kGrain = 16384;      // entries of one chunk of an element-wise loop

}  // namespace

Product::Product(Graph graph, bool weighted, std::vector<double> left, std::vector<double> right)
    : graph_(std::move(graph)),
      weighted_(weighted && graph_.weighted()),
      by_runs_(graph_.implicit() && !weighted_),
      left_(std::move(left)),
      right_(std::move(right)) {
  chunks_.push_back(0);
  Offset work = 0;
  for (Offset i = 0; i < rows(); ++i) {
    work += 1 + (by_runs_ ? 4 : graph_.degree(i));
    if (work >= kChunkWork || i + 1 == rows()) {
      chunks_.push_back(i + 1);
      work = 0;
    }
  }
}

Offset Product::stored() const {
  if (!by_runs_) return graph_.nnz();
  Offset total = 0;
  for (Offset i = 0; i < rows(); ++i) graph_.for_each_run(i, [&](Run) { ++total; });
  return total;
}

double Product::row_sum(Offset i, const double* x, const double* prefix) const {
  if (by_runs_) {
    double sum = 0;
    graph_.for_each_run(i, [&](Run run) { sum += prefix[run.end] - prefix[run.begin]; });
    return sum;
  }
  const auto columns = graph_.row(i);
  const std::size_t count = columns.size();
  double sum[4] = {0, 0, 0, 0};  // four chains of additions hide their latency
  std::size_t e = 0;
  if (weighted_) {
    const double* w = graph_.weights().data() + graph_.indptr()[at(i)];
    for (; e + 4 <= count; e += 4)
      for (std::size_t l = 0; l < 4; ++l) sum[l] += w[e + l] * x[columns[e + l]];
    for (; e < count; ++e) sum[0] += w[e] * x[columns[e]];
  } else {
    for (; e + 4 <= count; e += 4)
      for (std::size_t l = 0; l < 4; ++l) sum[l] += x[columns[e + l]];
    for (; e < count; ++e) sum[0] += x[columns[e]];
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

void Product::apply(const double* x, double* y, double factor, bool add) const {
  std::vector<double> scaled;
  if (!right_.empty()) {
    scaled.resize(right_.size());
    parallel_ranges(cols(), kGrain, [&](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i) scaled[at(i)] = right_[at(i)] * x[i];
    });
    x = scaled.data();
  }
  std::vector<double> prefix;
  if (by_runs_) {
    prefix.resize(at(cols()) + 1);
    for (Offset j = 0; j < cols(); ++j) prefix[at(j) + 1] = prefix[at(j)] + x[j];
  }
  parallel_for(static_cast<Offset>(chunks_.size()) - 1, [&](Offset c) {
    for (Offset i = chunks_[at(c)]; i < chunks_[at(c) + 1]; ++i) {
      double sum = factor * row_sum(i, x, prefix.data());
      if (!left_.empty()) sum *= left_[at(i)];
      y[i] = add ? y[i] + sum : sum;
    }
  });
}

void Product::for_each(Offset i, const std::function<void(Index, double)>& f) const {
  const double left = left_.empty() ? 1.0 : left_[at(i)];
  std::size_t e = 0;
  const auto weights =
      weighted_ ? graph_.weights().subspan(at(graph_.indptr()[at(i)])) : std::span<const double>{};
  graph_.for_each_run(i, [&](Run run) {
    for (Index j = run.begin; j < run.end; ++j, ++e) {
      const double value = weighted_ ? weights[e] : 1.0;
      f(j, left * value * (right_.empty() ? 1.0 : right_[at(j)]));
    }
  });
}

void SymmetricOperator::apply(const double* x, double* y) const {
  const double factor = 1.0 / static_cast<double>(terms_.size());
  bool add = false;
  for (const Product& term : terms_) {
    term.apply(x, y, factor, add);
    add = true;
  }
}

std::vector<double> row_sums(const Graph& graph, bool weighted) {
  std::vector<double> sums(at(graph.n_rows()));
  const bool use = weighted && graph.weighted();
  parallel_ranges(graph.n_rows(), kGrain, [&](Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i) {
      if (!use) {
        sums[at(i)] = static_cast<double>(graph.degree(i));
        continue;
      }
      double sum = 0;
      const auto indptr = graph.indptr();
      for (Offset e = indptr[at(i)]; e < indptr[at(i) + 1]; ++e) sum += graph.weights()[at(e)];
      sums[at(i)] = sum;
    }
  });
  return sums;
}

double dot(std::span<const double> a, std::span<const double> b) {
  double sum[4] = {0, 0, 0, 0};
  std::size_t i = 0;
  for (; i + 4 <= a.size(); i += 4)
    for (std::size_t l = 0; l < 4; ++l) sum[l] += a[i + l] * b[i + l];
  for (; i < a.size(); ++i) sum[0] += a[i] * b[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

double norm(std::span<const double> a) { return std::sqrt(dot(a, a)); }

bool normalise(std::span<double> a) {
  const double size = norm(a);
  if (!(size > 0) || !std::isfinite(size)) return false;
  for (double& value : a) value /= size;
  return true;
}

void project_out(std::span<const double> u, std::span<double> a) {
  const double share = dot(u, a);
  for (std::size_t i = 0; i < a.size(); ++i) a[i] -= share * u[i];
}

std::vector<double> start_vector(Offset n, std::uint32_t stage) {
  std::vector<double> x(at(n));
  for (Offset i = 0; i < n; ++i)
    x[at(i)] = 2 * CounterRng(0x5EED, stage, static_cast<std::uint64_t>(i)).uniform() - 1;
  return x;
}

}  // namespace manyhop::spectral

#include "manyhop/engine/spectral/operator.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/base/random.hpp"

namespace manyhop::spectral {
namespace {

constexpr Offset kChunkWork = 32768;  // edges and rows of one chunk of a product
constexpr Offset kGrain = 8192;       // entries of one chunk of an element-wise loop

}  // namespace

Product::Product(Graph graph, bool weighted, std::vector<double> left, std::vector<double> right,
                 Backend backend)
    : graph_(std::move(graph)),
      weighted_(weighted && graph_.weighted()),
      left_(std::move(left)),
      right_(std::move(right)) {
  if (backend == Backend::cuda) {
    const Graph plain = graph_.weighted() && !weighted_ ? graph_.without_weights() : graph_;
    device_.emplace(ops::ScaledGraph{&plain, left_.empty() ? nullptr : left_.data(),
                                     right_.empty() ? nullptr : right_.data(), false});
    return;
  }
  // Of a regular graph all scales are equal: one number then, and a pass over x less (9 % of the solve of
  // regular(64) with 16384 vertices).
  for (auto* scales : {&left_, &right_}) {
    if (scales->empty() ||
        std::any_of(scales->begin(), scales->end(), [&](double s) { return s != scales->front(); }))
      continue;
    scale_ *= scales->front();
    std::vector<double>().swap(*scales);
  }
  if (!weighted_) {
    layout_ = std::make_shared<const Layout>(graph_);
    return;
  }
  chunks_.push_back(0);
  Offset work = 0;
  for (Offset i = 0; i < rows(); ++i) {
    work += 1 + graph_.degree(i);
    if (work >= kChunkWork || i + 1 == rows()) {
      chunks_.push_back(i + 1);
      work = 0;
    }
  }
}

double Product::row_sum(Offset i, const double* x) const {
  const auto columns = graph_.row(i);
  const std::size_t count = columns.size();
  double sum[4] = {0, 0, 0, 0};  // four chains of additions hide their latency
  std::size_t e = 0;
  const double* w = graph_.weights().data() + graph_.indptr()[at(i)];
  for (; e + 4 <= count; e += 4)
    for (std::size_t l = 0; l < 4; ++l) sum[l] += w[e + l] * x[columns[e + l]];
  for (; e < count; ++e) sum[0] += w[e] * x[columns[e]];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

void Product::apply(const double* x, double* y, double factor, bool add) const {
  if (device_) {
    scratch_.resize(at(rows()));
    device_->apply(x, scratch_.data(), 1);
    parallel_ranges(rows(), kGrain, [&](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i)
        y[i] = add ? y[i] + factor * scratch_[at(i)] : factor * scratch_[at(i)];
    });
    return;
  }
  factor *= scale_;
  if (!right_.empty()) {
    scaled_.resize(right_.size());
    parallel_ranges(cols(), kGrain, [&](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i) scaled_[at(i)] = right_[at(i)] * x[i];
    });
    x = scaled_.data();
  }
  const auto store = [&](Offset i, double sum) {
    sum *= factor;
    if (!left_.empty()) sum *= left_[at(i)];
    y[i] = add ? y[i] + sum : sum;
  };
  if (layout_) {
    layout_->sums(x, scratch_, store);
    return;
  }
  parallel_for(static_cast<Offset>(chunks_.size()) - 1, [&](Offset c) {
    for (Offset i = chunks_[at(c)]; i < chunks_[at(c) + 1]; ++i) store(i, row_sum(i, x));
  });
}

void Product::apply_rounded(const double* x, double* y, double factor, bool add) const {
  factor *= scale_;
  scaled_.resize(right_.size());
  rounded_.resize(at(cols()));
  const double* const scaled = right_.empty() ? x : scaled_.data();
  parallel_ranges(cols(), kGrain, [&](Offset begin, Offset end) {
    if (!right_.empty())
      for (Offset i = begin; i < end; ++i) scaled_[at(i)] = right_[at(i)] * x[i];
    for (Offset i = begin; i < end; ++i) rounded_[at(i)] = static_cast<float>(scaled[i]);
  });
  layout_->sums(scaled, rounded_.data(), scratch_, [&](Offset i, double sum) {
    sum *= factor;
    if (!left_.empty()) sum *= left_[at(i)];
    y[i] = add ? y[i] + sum : sum;
  });
}

void Product::for_each(Offset i, const std::function<void(Index, double)>& f) const {
  const double left = left_.empty() ? scale_ : scale_ * left_[at(i)];
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

void SymmetricOperator::apply_rounded(const double* x, double* y) const {
  const double factor = 1.0 / static_cast<double>(terms_.size());
  bool add = false;
  for (const Product& term : terms_) {
    term.apply_rounded(x, y, factor, add);
    add = true;
  }
}

bool SymmetricOperator::has_rounded() const {
  return std::all_of(terms_.begin(), terms_.end(), [](const Product& term) { return term.has_rounded(); });
}

void apply_laplacian(const Product& s, std::span<const double> degree, const double* x, double* y) {
  s.apply(x, y, -1);
  parallel_ranges(s.rows(), kGrain, [&](Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i) y[i] += degree[at(i)] * x[i];
  });
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

namespace {

double short_dot(const double* a, const double* b, std::size_t n) {
  double sum[4] = {0, 0, 0, 0};
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (std::size_t l = 0; l < 4; ++l) sum[l] += a[i + l] * b[i + l];
  for (; i < n; ++i) sum[0] += a[i] * b[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

}  // namespace

double dot(std::span<const double> a, std::span<const double> b) {
  const auto n = static_cast<Offset>(a.size());
  if (n <= kGrain) return short_dot(a.data(), b.data(), a.size());
  std::vector<double> parts(at((n + kGrain - 1) / kGrain));
  parallel_ranges(n, kGrain, [&](Offset begin, Offset end) {
    parts[at(begin / kGrain)] = short_dot(a.data() + begin, b.data() + begin, at(end - begin));
  });
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

double norm(std::span<const double> a) { return std::sqrt(dot(a, a)); }

bool normalise(std::span<double> a) {
  const double size = norm(a);
  if (!(size > 0) || !std::isfinite(size)) return false;
  parallel_ranges(static_cast<Offset>(a.size()), kGrain, [&](Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i) a[at(i)] /= size;
  });
  return true;
}

void project_out(std::span<const double> u, std::span<double> a) { add_to(a, -dot(u, a), u); }

void add_to(std::span<double> a, double factor, std::span<const double> b) {
  parallel_ranges(static_cast<Offset>(a.size()), kGrain, [&](Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i) a[at(i)] += factor * b[at(i)];
  });
}

std::vector<double> start_vector(Offset n, std::uint32_t stage) {
  std::vector<double> x(at(n));
  parallel_ranges(n, kGrain, [&](Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i)
      x[at(i)] = 2 * CounterRng(0x5EED, stage, static_cast<std::uint64_t>(i)).uniform() - 1;
  });
  return x;
}

}  // namespace manyhop::spectral

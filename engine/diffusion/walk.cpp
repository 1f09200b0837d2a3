#include "manyhop/engine/diffusion/walk.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::diffusion {

namespace {

constexpr Offset kRowGrain = 1024;
// Inside of these, sums of weights and their inverses are plain numbers.
constexpr double kSmallWeight = 1e-290;
constexpr double kLargeWeight = 1e290;
std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

// sum over rows of f(i, column) for each column, in fixed chunks.
template <class F>
std::vector<double> reduce_rows(Offset n, Offset columns, F&& f) {
  const Offset chunks = (n + kRowGrain - 1) / kRowGrain;
  std::vector<double> parts(at(chunks * columns));
  parallel_for(chunks, [&](Offset chunk) {
    double* part = parts.data() + chunk * columns;
    for (Offset i = chunk * kRowGrain; i < std::min(n, (chunk + 1) * kRowGrain); ++i) {
      for (Offset c = 0; c < columns; ++c) part[c] += f(i, c);
    }
  });
  std::vector<double> total(at(columns));
  for (Offset chunk = 0; chunk < chunks; ++chunk) {
    for (Offset c = 0; c < columns; ++c) total[at(c)] += parts[at(chunk * columns + c)];
  }
  return total;
}

std::string_view text_of(Normalization normalization) {
  switch (normalization) {
    case Normalization::sym:
      return "sym";
    case Normalization::row:
      return "row";
    case Normalization::col:
      return "col";
    case Normalization::none:
      return "none";
  }
  return "?";
}

void check_dangling(const DiffuseOptions& o) {
  const bool row_or_col = o.normalization == Normalization::row || o.normalization == Normalization::col;
  if (o.dangling == Dangling::zero) return;
  if (!row_or_col) {
    throw ValueError(
        fmt::format("dangling: normalization {} accepts only zero; row and col accept self and uniform too",
                    text_of(o.normalization)));
  }
  if (o.dangling == Dangling::restart && o.normalization != Normalization::col) {
    throw ValueError(
        "dangling: restart is defined for normalization col only, row accepts zero, self, uniform");
  }
}

}  // namespace

template <class T>
Walk<T>::Walk(const Context& ctx, const Graph& graph, const DiffuseOptions& options)
    : graph_(graph), options_(options), backend_(ctx.backend) {
  if (!graph.square()) {
    throw ValueError(
        fmt::format("diffuse: the graph is {} x {}, a square one is wanted", graph.n_rows(), graph.n_cols()));
  }
  check_dangling(options);
  if (options.normalization != Normalization::none) rescale_weights();
  sums();
  by_runs_ = ops::wants_runs(graph_);
  const auto inverse = [](const char* axis, const std::vector<double>& sums, bool root) {
    std::vector<double> scale(sums.size());
    for (std::size_t i = 0; i < sums.size(); ++i) {
      scale[i] = sums[i] == 0 ? 0 : 1 / (root ? std::sqrt(sums[i]) : sums[i]);
      if (!std::isfinite(scale[i])) {
        throw ValueError(fmt::format(
            "weights: the sum of {} {} is {} of the largest weight's size, too small to divide by", axis, i,
            sums[i]));
      }
    }
    return scale;
  };
  switch (options.normalization) {
    case Normalization::row:
      row_scale_ = inverse("row", row_sums_, false);
      break;
    case Normalization::col:
      col_scale_ = inverse("column", col_sums_, false);
      norm_ = Norm::one;
      break;
    case Normalization::sym:
      row_scale_ = inverse("row", row_sums_, true);
      col_scale_ = inverse("column", col_sums_, true);
      norm_ = Norm::two;
      break;
    case Normalization::none:
      break;
  }
  if (options.dangling != Dangling::zero) {
    const auto& mine = options.normalization == Normalization::row ? row_sums_ : col_sums_;
    for (std::size_t i = 0; i < mine.size(); ++i) {
      if (mine[i] == 0) dangling_.push_back(static_cast<Index>(i));
    }
  }
}

// A normalised matrix does not change when all weights are multiplied; weights of extreme size are brought
// near 1 by a power of two, which loses nothing.
template <class T>
void Walk<T>::rescale_weights() {
  double most = 0;
  for (const double w : graph_.weights()) most = std::max(most, std::abs(w));
  if (most == 0 || (most > kSmallWeight && most < kLargeWeight)) return;
  const int exponent = std::ilogb(most);
  weight_unit_ = std::ldexp(1.0, std::min(-exponent, 1000));  // 2^1000 keeps a subnormal weight near 1e-22
  std::vector<double> scaled(graph_.weights().begin(), graph_.weights().end());
  for (std::size_t e = 0; e < scaled.size(); ++e) {
    const double w = scaled[e] * weight_unit_;
    if (w == 0 && scaled[e] != 0) {
      throw ValueError(fmt::format("weights[{}]: {} beside a weight of size {}, too far apart to normalize",
                                   e, scaled[e], most));
    }
    scaled[e] = w;
  }
  graph_ = graph_.with_weights(std::move(scaled));
}

template <class T>
void Walk<T>::require_contraction() const {
  const double keep = 1 - options_.teleport;
  if (options_.normalization != Normalization::none || keep * strength_ < 1) return;
  throw ValueError(
      fmt::format("teleport: normalization none wants (1 - teleport) s < 1, here s = {} and "
                  "(1 - {}) s = {}",
                  strength_, options_.teleport, keep * strength_));
}

template <class T>
void Walk<T>::sums() {
  const Offset n = graph_.n_rows();
  const auto weights = graph_.weights();
  row_sums_.assign(at(n), 0);
  col_sums_.assign(at(n), 0);
  if (weights.empty()) {
    std::vector<double> change(at(n) + 1);  // runs begin and end
    for (Offset i = 0; i < n; ++i) {
      row_sums_[at(i)] = static_cast<double>(graph_.degree(i));
      graph_.for_each_run(i, [&](Run run) {
        ++change[at(run.begin)];
        --change[at(run.end)];
      });
    }
    double running = 0;
    for (Offset j = 0; j < n; ++j) col_sums_[at(j)] = running += change[at(j)];
  } else {
    for (Offset i = 0; i < n; ++i) {
      for (Offset e = graph_.indptr()[at(i)]; e < graph_.indptr()[at(i) + 1]; ++e) {
        const Index j = graph_.indices()[at(e)];
        if (weights[at(e)] < 0 && options_.normalization != Normalization::none) {
          throw ValueError(
              fmt::format("weights: entry (row {}, column {}) is {}, normalization {} wants weights >= 0; "
                          "none accepts negative ones",
                          i, j, weights[at(e)], text_of(options_.normalization)));
        }
        row_sums_[at(i)] += weights[at(e)];
        col_sums_[at(j)] += weights[at(e)];
      }
    }
  }
  if (options_.normalization == Normalization::none) {
    strength_ = 0;
    for (Offset i = 0; i < n; ++i) {
      double sum = 0;
      if (weights.empty()) sum = row_sums_[at(i)];
      for (Offset e = graph_.indptr()[at(i)]; !weights.empty() && e < graph_.indptr()[at(i) + 1]; ++e) {
        sum += std::abs(weights[at(e)]);
      }
      strength_ = std::max(strength_, sum);
    }
  }
  for (Offset i = 0; i < n; ++i) {
    const bool row_bad = !std::isfinite(row_sums_[at(i)]);
    if (row_bad || !std::isfinite(col_sums_[at(i)])) {
      throw ValueError(fmt::format("weights: the sum of {} {} is not finite", row_bad ? "row" : "column", i));
    }
  }
}

template <class T>
void Walk<T>::start(const T* x, Offset columns) {
  columns_ = columns;
  x0_ = x;
  if (options_.dangling != Dangling::restart) return;
  const Offset n = size();
  for (Offset i = 0; i < n; ++i) {
    for (Offset c = 0; c < columns; ++c) {
      if (x[i * stride() + c] < 0) {
        throw ValueError(
            fmt::format("signal: entry (row {}, column {}) is {}, dangling restart wants values >= 0", i, c,
                        static_cast<double>(x[i * stride() + c])));
      }
    }
  }
  x0_sum_ = all_sum(x);
}

template <class T>
std::vector<double> Walk<T>::all_sum(const T* x) const {
  return reduce_rows(size(), columns_,
                     [&](Offset i, Offset c) { return static_cast<double>(x[i * stride() + c]); });
}

template <class T>
std::vector<double> Walk<T>::dangling_sum(const T* x) const {
  return reduce_rows(static_cast<Offset>(dangling_.size()), columns_, [&](Offset i, Offset c) {
    return static_cast<double>(x[dangling_[at(i)] * stride() + c]);
  });
}

template <class T>
ops::ScaledGraph Walk<T>::scaled() const {
  return {&graph_, row_scale_.empty() ? nullptr : row_scale_.data(),
          col_scale_.empty() ? nullptr : col_scale_.data(), by_runs_};
}

template <class T>
ops::ScaledGraph Walk<T>::scaled_transposed() const {
  return {&graph_.transpose(), col_scale_.empty() ? nullptr : col_scale_.data(),
          row_scale_.empty() ? nullptr : row_scale_.data(), by_runs_};
}

template <class T>
const ops::cuda::DeviceProduct& Walk<T>::device() const {
  if (!device_) device_.emplace(scaled());
  return *device_;
}

template <class T>
const ops::cuda::DeviceProduct& Walk<T>::device_transposed() const {
  if (!device_transposed_) device_transposed_.emplace(scaled_transposed());
  return *device_transposed_;
}

template <class T>
ops::cuda::EmptyLines Walk<T>::empty_lines() const {
  using Rule = ops::cuda::EmptyLines::Rule;
  const bool by_row = options_.normalization == Normalization::row;
  Rule rule = Rule::nothing;
  switch (options_.dangling) {
    case Dangling::zero:
      break;
    case Dangling::self:
      rule = Rule::self;
      break;
    case Dangling::uniform:
      rule = by_row ? Rule::average : Rule::spread;
      break;
    case Dangling::restart:
      rule = Rule::restart;
      break;
  }
  return {rule, dangling_, x0_sum_};
}

template <class T>
void Walk<T>::apply(const T* x, T* y) const {
  ops::graph_spmm(backend_, scaled(), x, y, columns_);
  if (dangling_.empty()) return;
  const Offset n = size();
  const bool by_row = options_.normalization == Normalization::row;
  if (options_.dangling == Dangling::self) {
    for (const Index i : dangling_) {
      for (Offset c = 0; c < columns_; ++c) y[i * stride() + c] += x[i * stride() + c];
    }
  } else if (by_row) {  // a dangling row averages
    const std::vector<double> total = all_sum(x);
    for (const Index i : dangling_) {
      for (Offset c = 0; c < columns_; ++c)
        y[i * stride() + c] += static_cast<T>(total[at(c)] / static_cast<double>(n));
    }
  } else {  // a dangling column spreads its value evenly, or as x0
    const std::vector<double> lost = dangling_sum(x);
    parallel_ranges(n, kRowGrain, [&](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i) {
        for (Offset c = 0; c < columns_; ++c) {
          const double share = options_.dangling == Dangling::uniform ? 1 / static_cast<double>(n)
                               : x0_sum_[at(c)] == 0
                                   ? 0
                                   : static_cast<double>(x0_[i * stride() + c]) / x0_sum_[at(c)];
          y[i * stride() + c] += static_cast<T>(lost[at(c)] * share);
        }
      }
    });
  }
}

template <class T>
void Walk<T>::apply_transposed(const T* x, T* y) const {
  ops::graph_spmm(backend_, scaled_transposed(), x, y, columns_);
  if (dangling_.empty()) return;
  const Offset n = size();
  const bool by_row = options_.normalization == Normalization::row;
  if (options_.dangling == Dangling::self) {
    for (const Index i : dangling_) {
      for (Offset c = 0; c < columns_; ++c) y[i * stride() + c] += x[i * stride() + c];
    }
  } else if (by_row) {
    const std::vector<double> total = dangling_sum(x);
    parallel_ranges(n, kRowGrain, [&](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i) {
        for (Offset c = 0; c < columns_; ++c)
          y[i * stride() + c] += static_cast<T>(total[at(c)] / static_cast<double>(n));
      }
    });
  } else {
    const std::vector<double> total = reduce_rows(n, columns_, [&](Offset i, Offset c) {
      const double value = static_cast<double>(x[i * stride() + c]);
      if (options_.dangling == Dangling::uniform) return value / static_cast<double>(n);
      return x0_sum_[at(c)] == 0 ? 0 : value * static_cast<double>(x0_[i * stride() + c]) / x0_sum_[at(c)];
    });
    for (const Index j : dangling_) {
      for (Offset c = 0; c < columns_; ++c) y[j * stride() + c] += static_cast<T>(total[at(c)]);
    }
  }
}

template <class T>
void Walk<T>::restart_gradient(const T* g, const T* z, double factor, T* dx) const {
  if (options_.dangling != Dangling::restart || dangling_.empty()) return;
  const std::vector<double> lost = dangling_sum(z);
  const std::vector<double> mean = reduce_rows(size(), columns_, [&](Offset i, Offset c) {
    const Offset cell = i * stride() + c;
    return x0_sum_[at(c)] == 0
               ? 0
               : static_cast<double>(g[cell]) * static_cast<double>(x0_[cell]) / x0_sum_[at(c)];
  });
  parallel_ranges(size(), kRowGrain, [&](Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i) {
      for (Offset c = 0; c < columns_; ++c) {
        if (x0_sum_[at(c)] == 0) continue;
        const double slope =
            lost[at(c)] * (static_cast<double>(g[i * stride() + c]) - mean[at(c)]) / x0_sum_[at(c)];
        dx[i * stride() + c] += static_cast<T>(factor * slope);
      }
    }
  });
}

template <class T>
std::vector<double> column_norms(Norm norm, const T* a, const T* b, Offset n, Offset columns) {
  const Offset stride = ops::block_stride(columns);
  const Offset chunks = (n + kRowGrain - 1) / kRowGrain;
  std::vector<double> parts(at(chunks * columns));
  parallel_for(chunks, [&](Offset chunk) {
    double* part = parts.data() + chunk * columns;
    for (Offset i = chunk * kRowGrain; i < std::min(n, (chunk + 1) * kRowGrain); ++i) {
      for (Offset c = 0; c < columns; ++c) {
        const Offset cell = i * stride + c;
        const double value =
            std::abs(static_cast<double>(a[cell]) - (b == nullptr ? 0.0 : static_cast<double>(b[cell])));
        if (norm == Norm::max) {
          part[c] = std::isnan(value) ? value : std::max(part[c], value);
        } else {
          part[c] += norm == Norm::one ? value : value * value;
        }
      }
    }
  });
  std::vector<double> total(at(columns));
  for (Offset chunk = 0; chunk < chunks; ++chunk) {
    for (Offset c = 0; c < columns; ++c) {
      const double part = parts[at(chunk * columns + c)];
      double& sum = total[at(c)];
      sum = norm == Norm::max ? (std::isnan(part) ? part : std::max(sum, part)) : sum + part;
    }
  }
  if (norm == Norm::two) {
    for (double& sum : total) sum = std::sqrt(sum);
  }
  return total;
}

template class Walk<float>;
template class Walk<double>;
template std::vector<double> column_norms<float>(Norm, const float*, const float*, Offset, Offset);
template std::vector<double> column_norms<double>(Norm, const double*, const double*, Offset, Offset);

}  // namespace manyhop::diffusion

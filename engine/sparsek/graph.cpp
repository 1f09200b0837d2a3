// Selections as graphs.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "manyhop/engine/sparsek/rows_internal.hpp"
#include "manyhop/engine/sparsek/selection.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/runs.hpp"
#include "manyhop/ops/sparsek.hpp"

namespace manyhop {

namespace {

constexpr Offset kChunk = 1024;

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

void check_join(const char* what, Offset window, Offset sinks) {
  if (window < 0 || sinks < 0) {
    throw ValueError(fmt::format("{}: window {} and sinks {}, both must be 0 or more", what, window, sinks));
  }
}

// A row of the join: sinks, then kept keys between them and the window, then the window.
struct JoinedRow {
  Offset sinks = 0;         // columns 0 .. sinks - 1
  Offset window_begin = 0;  // columns window_begin .. i
  const Index* begin = nullptr;
  const Index* end = nullptr;
  Offset count(Offset i) const { return sinks + (end - begin) + (i + 1 - window_begin); }
};

JoinedRow joined(Offset i, const std::vector<Index>& keys, const Join& join) {
  JoinedRow row;
  row.window_begin = std::max<Offset>(0, i + 1 - std::min(join.window, i + 1));
  row.sinks = std::min(join.sinks, row.window_begin);
  const Index* data = keys.data();
  const Index* end = data + keys.size();
  row.begin = std::lower_bound(data, end, static_cast<Index>(row.sinks));
  row.end = std::lower_bound(row.begin, end, static_cast<Index>(row.window_begin));
  return row;
}

}  // namespace

SelectionRows::SelectionRows(const CausalSelection& selection, Offset chunk)
    : selection_(selection), chunk_(chunk) {
  const Offset n = selection.rows();
  first_.assign(at(n + 1), 0);
  for (Offset j = 0; j < n; ++j) {
    const Offset row = selection.until[at(j)];
    if (row > j && row < n) ++first_[at(row + 1)];
  }
  for (Offset i = 0; i < n; ++i) first_[at(i + 1)] += first_[at(i)];
  leaves_.resize(at(first_.back()));
  std::vector<Offset> place = first_;
  for (Offset j = 0; j < n; ++j) {
    const Offset row = selection.until[at(j)];
    if (row > j && row < n) leaves_[at(place[at(row)]++)] = static_cast<Index>(j);
  }
  std::vector<Index> keys;
  Offset room = 4 * n;
  for (Offset i = 0; i < n; ++i) {
    if (i % chunk == 0) {
      room -= static_cast<Offset>(keys.size());
      if (room < 0) return;
      starts_.push_back(keys);
    }
    step(i, keys);
  }
}

std::vector<Index> SelectionRows::before_chunk(Offset c) const {
  if (c < static_cast<Offset>(starts_.size())) return starts_[at(c)];
  const Offset row = c * chunk_ - 1;
  std::vector<Index> keys;
  for (Offset j = 0; j <= row; ++j) {
    if (Offset{selection_.until[at(j)]} > row) keys.push_back(static_cast<Index>(j));
  }
  return keys;
}

void SelectionRows::step(Offset i, std::vector<Index>& keys) const {
  const Index* leave = leaves_.data() + first_[at(i)];
  const Index* const end = leaves_.data() + first_[at(i + 1)];
  if (leave != end) {
    auto to = std::lower_bound(keys.begin(), keys.end(), *leave);
    for (auto from = to; from != keys.end(); ++from) {
      if (leave != end && *from == *leave) {
        ++leave;
      } else {
        *to++ = *from;
      }
    }
    keys.erase(to, keys.end());
  }
  if (Offset{selection_.until[at(i)]} > i) keys.push_back(static_cast<Index>(i));
}

Graph to_graph(const Context& ctx, const CausalSelection& selection, const Join& join) {
  check_join("to_graph", join.window, join.sinks);
  const ThreadScope scope(ctx.threads, ctx.stop);
  const Offset n = selection.rows();
  const SelectionRows rows(selection, kChunk);
  const Offset chunks = (n + kChunk - 1) / kChunk;
  const auto each = [&](auto&& body) {
    parallel_for(chunks, [&](Offset c) {
      std::vector<Index> keys = rows.before_chunk(c);
      for (Offset i = c * kChunk; i < std::min(n, (c + 1) * kChunk); ++i) {
        rows.step(i, keys);
        body(i, joined(i, keys, join));
      }
    });
  };
  std::vector<Offset> indptr(at(n + 1), 0);
  each([&](Offset i, const JoinedRow& row) { indptr[at(i + 1)] = row.count(i); });
  for (Offset i = 0; i < n; ++i) indptr[at(i + 1)] += indptr[at(i)];
  const std::size_t bytes = at(indptr.back()) * (sizeof(Index) + sizeof(double));
  if (bytes > ctx.limit()) {
    throw LimitError(
        fmt::format("to_graph: {} edges take {} bytes, the memory limit is {}; use the selection "
                    "as it is, or a smaller window or k",
                    indptr.back(), bytes, ctx.limit()));
  }
  std::vector<Index> indices(at(indptr.back()));
  std::vector<double> weights(at(indptr.back()));
  each([&](Offset i, const JoinedRow& row) {
    Index* column = indices.data() + indptr[at(i)];
    double* weight = weights.data() + indptr[at(i)];
    for (Offset j = 0; j < row.sinks; ++j) {
      *column++ = static_cast<Index>(j);
      *weight++ = 1;
    }
    const double tau = selection.tau[at(i)];
    for (const Index* key = row.begin; key != row.end; ++key) {
      *column++ = *key;
      *weight++ = CausalSparsek::gate(selection.score[at(*key)], tau);
    }
    for (Offset j = row.window_begin; j <= i; ++j) {
      *column++ = static_cast<Index>(j);
      *weight++ = 1;
    }
  });
  return Graph::from_csr(n, n, std::move(indptr), std::move(indices), std::move(weights));
}

namespace {

template <class T>
Graph select_by(const Context& ctx, std::span<const T> scores, const SelectOptions& options) {
  check_join("select", options.window, options.sinks);
  if (options.k < 0) throw ValueError(fmt::format("select: k is {}, it must be 0 or more", options.k));
  const auto n = static_cast<Offset>(scores.size());
  for (Offset i = 0; i < n; ++i) {
    if (std::isnan(scores[at(i)])) throw ValueError(fmt::format("select: the score of token {} is NaN", i));
  }
  const ThreadScope scope(ctx.threads, ctx.stop);
  if (options.causal) {
    // With the cap at k every kept key has gate 1: a hard choice.
    const Offset k = std::min(options.k, n);
    CausalOptions hard;
    hard.k = static_cast<double>(k);
    hard.cap = k == 0 ? 1 : k;
    const CausalSelection selection = causal_sparsek(scores, hard);
    return to_graph(ctx, selection, {options.window, options.sinks}).without_weights();
  }
  const Offset k = std::min(options.k, n);
  std::vector<Index> best(at(k));
  topk<T>(ctx, {scores.data(), {n}}, k, {best.data(), {1, k}});
  best.erase(std::remove(best.begin(), best.end(), Index{-1}), best.end());
  RunList common;
  append_run(common, {0, static_cast<Index>(std::min(options.sinks, n))});
  RunList columns;
  append_columns(columns, best);
  RunList all;
  unite(common, columns, all);
  return build_rows(n, n, [&](Offset i, RunList& out) {
    const Offset reach = std::min(options.window, n);
    const RunList window{
        {static_cast<Index>(std::max<Offset>(0, i + 1 - reach)), static_cast<Index>(std::min(n, i + reach))}};
    if (reach == 0) {
      out = all;
    } else {
      unite(all, window, out);
    }
  });
}

}  // namespace

Graph select(const Context& ctx, std::span<const float> scores, const SelectOptions& options) {
  return select_by(ctx, scores, options);
}
Graph select(const Context& ctx, std::span<const double> scores, const SelectOptions& options) {
  return select_by(ctx, scores, options);
}

}  // namespace manyhop

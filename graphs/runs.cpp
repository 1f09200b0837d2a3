#include "manyhop/graphs/runs.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/memory.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop {

void append_columns(RunList& list, std::span<const Index> sorted) {
  for (const Index column : sorted) append_run(list, {column, column + 1});
}

void unite(std::span<const Run> a, std::span<const Run> b, RunList& out) {
  out.clear();
  std::size_t i = 0;
  std::size_t j = 0;
  while (i < a.size() || j < b.size()) {
    const bool take_a = j == b.size() || (i < a.size() && a[i].begin <= b[j].begin);
    append_run(out, take_a ? a[i++] : b[j++]);
  }
}

void intersect(std::span<const Run> a, std::span<const Run> b, RunList& out) {
  out.clear();
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    append_run(out, {std::max(a[i].begin, b[j].begin), std::min(a[i].end, b[j].end)});
    a[i].end < b[j].end ? ++i : ++j;
  }
}

void subtract(std::span<const Run> a, std::span<const Run> b, RunList& out) {
  out.clear();
  std::size_t j = 0;
  for (Run run : a) {
    while (j < b.size() && b[j].end <= run.begin) ++j;
    for (std::size_t k = j; k < b.size() && b[k].begin < run.end; ++k) {
      append_run(out, {run.begin, std::max(run.begin, b[k].begin)});
      run.begin = std::min(run.end, b[k].end);
    }
    append_run(out, run);
  }
}

Graph build_rows(Offset n_rows, Offset n_cols, const std::function<void(Offset, RunList&)>& row) {
  constexpr Offset kGrain =
      256;  // rows a chunk: small enough to balance, large enough to hide a task's start
  if (n_rows < 0 || n_cols < 0 || n_rows > kMaxVertices || n_cols > kMaxVertices) {
    throw ValueError(
        fmt::format("graph: size {} x {} is outside 0 .. {} on an axis", n_rows, n_cols, kMaxVertices));
  }
  const Offset chunks = (n_rows + kGrain - 1) / kGrain;
  std::vector<RunList> parts(static_cast<std::size_t>(chunks));
  std::vector<Offset> run_indptr(static_cast<std::size_t>(n_rows) + 1);
  parallel_for(chunks, [&](Offset chunk) {
    RunList scratch;
    RunList& part = parts[static_cast<std::size_t>(chunk)];
    for (Offset i = chunk * kGrain; i < std::min(n_rows, (chunk + 1) * kGrain); ++i) {
      scratch.clear();
      row(i, scratch);
      run_indptr[static_cast<std::size_t>(i) + 1] = static_cast<Offset>(scratch.size());
      part.insert(part.end(), scratch.begin(), scratch.end());
    }
  });
  for (std::size_t i = 1; i < run_indptr.size(); ++i) run_indptr[i] += run_indptr[i - 1];
  std::vector<Run> runs;
  resize_large(runs, static_cast<std::size_t>(run_indptr.back()));
  parallel_for(chunks, [&](Offset chunk) {
    RunList& part = parts[static_cast<std::size_t>(chunk)];
    std::copy(part.begin(), part.end(), runs.begin() + run_indptr[static_cast<std::size_t>(chunk * kGrain)]);
    RunList().swap(part);
  });
  return Graph::from_runs(n_rows, n_cols, std::move(run_indptr), std::move(runs));
}

}  // namespace manyhop

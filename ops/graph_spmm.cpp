#include "manyhop/ops/graph_spmm.hpp"

#include <algorithm>
#include <vector>

#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::ops {

namespace {

constexpr Offset kRowGrain = 256;
constexpr Offset kFewestEdges = Offset{1}
                                << 16;  // with the sixteenth below, where Graph::from_runs keeps runs
std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

// Column sums up to each column: a run of columns is then a difference of two of them. What each addition
// loses is kept beside it, because the sums may be far larger than the run.
template <class C>
void run_spmm(const ScaledGraph& a, const C* x, C* y, Offset columns) {
  const Graph& graph = *a.graph;
  const Offset stride = block_stride(columns);
  std::vector<double> prefix(at(graph.n_cols()) + 1);
  std::vector<double> lost(prefix.size());
  for (Offset f = 0; f < columns; ++f) {
    check_stop();
    for (Offset j = 0; j < graph.n_cols(); ++j) {
      const double scale = a.col_scale == nullptr ? 1.0 : a.col_scale[j];
      const double value = scale * static_cast<double>(x[j * stride + f]);
      const double sum = prefix[at(j)] + value;
      const double back = sum - prefix[at(j)];
      lost[at(j) + 1] = lost[at(j)] + ((prefix[at(j)] - (sum - back)) + (value - back));
      prefix[at(j) + 1] = sum;
    }
    parallel_ranges(graph.n_rows(), kRowGrain, [&](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i) {
        double sum = 0;
        graph.for_each_run(i, [&](Run run) {
          sum += (prefix[at(run.end)] - prefix[at(run.begin)]) + (lost[at(run.end)] - lost[at(run.begin)]);
        });
        y[i * stride + f] = static_cast<C>(a.row_scale == nullptr ? sum : a.row_scale[i] * sum);
      }
    });
  }
  for (Offset i = 0; i < graph.n_rows(); ++i) std::fill(y + i * stride + columns, y + (i + 1) * stride, C{0});
}

template <class C>
void reference_spmm(const ScaledGraph& a, const C* x, C* y, Offset columns) {
  const Graph& graph = *a.graph;
  const Offset stride = block_stride(columns);
  const auto weights = graph.weights();
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    for (Offset f = 0; f < stride; ++f) {
      double sum = 0;
      Offset e = graph.indptr()[at(i)];
      graph.for_each_run(i, [&](Run run) {
        for (Offset j = run.begin; j < run.end; ++j, ++e) {
          const double scale = a.col_scale == nullptr ? 1.0 : a.col_scale[j];
          sum += (weights.empty() ? 1.0 : weights[at(e)]) * scale * static_cast<double>(x[j * stride + f]);
        }
      });
      y[i * stride + f] = static_cast<C>(a.row_scale == nullptr ? sum : a.row_scale[i] * sum);
    }
  }
}

}  // namespace

Offset block_stride(Offset columns) { return columns <= 1 ? columns : (columns + 7) / 8 * 8; }

bool wants_runs(const Graph& graph) {
  const Offset m = graph.nnz();
  if (graph.weighted() || m < kFewestEdges) return false;
  if (graph.implicit()) return true;
  const Offset chunks = (graph.n_rows() + kRowGrain - 1) / kRowGrain;
  std::vector<Offset> runs(at(chunks));
  parallel_for(chunks, [&](Offset chunk) {
    for (Offset i = chunk * kRowGrain; i < std::min(graph.n_rows(), (chunk + 1) * kRowGrain); ++i) {
      graph.for_each_run(i, [&](Run) { ++runs[at(chunk)]; });
    }
  });
  Offset total = 0;
  for (const Offset count : runs) total += count;
  return 2 * total + 2 * graph.n_rows() <= m / 16;
}

template <class C>
void graph_spmm(Backend backend, const ScaledGraph& a, const C* x, C* y, Offset columns) {
  if (columns == 0) return;
  if (backend == Backend::reference) return reference_spmm(a, x, y, columns);
  if (a.by_runs && !a.graph->weighted()) return run_spmm(a, x, y, columns);
  parallel_ranges(a.graph->n_rows(), kRowGrain,
                  [&](Offset begin, Offset end) { cpu::graph_spmm_rows(a, x, y, columns, begin, end); });
}

template <class C>
void graph_sddmm(const Graph& graph, const C* g, const C* x, Offset columns, double factor, double* out) {
  parallel_ranges(graph.n_rows(), kRowGrain, [&](Offset begin, Offset end) {
    cpu::graph_sddmm_rows(graph, g, x, columns, factor, out, begin, end);
  });
}

template void graph_spmm<float>(Backend, const ScaledGraph&, const float*, float*, Offset);
template void graph_spmm<double>(Backend, const ScaledGraph&, const double*, double*, Offset);
template void graph_sddmm<float>(const Graph&, const float*, const float*, Offset, double, double*);
template void graph_sddmm<double>(const Graph&, const double*, const double*, Offset, double, double*);

}  // namespace manyhop::ops

// Gradients on the device. The hops run again and Z_1 .. Z_K are kept, all of them or those of a segment of
// about sqrt(K) hops (checkpointed); G_t, the gradient that reaches hop t, comes back by hops over the
// transposed layout; then scores and dq are summed by rows of the layout and dk by rows of the transposed
// one, so no sum needs an atomic and the bits are the same in every run.
#include <cmath>

#include "manyhop/ops/cuda/attention.hpp"
#include "manyhop/ops/cuda/backward_memory.cuh"
#include "manyhop/ops/cuda/run_hops.cuh"
#include "manyhop/ops/cuda/run_tensors.cuh"

namespace manyhop::ops::cuda {

namespace {

constexpr int kMostIterations = 100000;  // of the fixed points, as on the host

template <class T>
class Backward {
 public:
  using C = EdgeValue<T>;

  Backward(Run<T>& run, const BackwardMemory<T>& memory, const AttentionGradient<T>& want)
      : run_(run),
        call_(run.call_),
        memory_(memory),
        want_(want),
        level_(memory.level(run)),
        scratch_(memory.last + run.cells(run.units_, std::max(run.n_rows_, run.n_cols_))) {
    g_lse_ = run.host() && want.g_lse != nullptr ? memory.g_lse : want.g_lse;
  }

  /// One graph and all units over it.
  void run_graph(int graph, const Group& heads, T* g) {
    graph_ = graph;
    heads_ = heads;
    forward_ = &run_.graphs_.forward[static_cast<std::size_t>(graph)];
    transposed_ = &run_.graphs_.transposed[static_cast<std::size_t>(graph)];
    ahead_ = BackwardMemory<T>::of(memory_.forward_bytes, *forward_, heads.count, run_);
    back_ = BackwardMemory<T>::of(memory_.transposed_bytes, *transposed_, heads.count, run_);
    // The first hop each way makes the weights; without hops the gradient of log-sum-exp wants that alone.
    made_ahead_ = false;
    made_back_ = false;
    if (call_.hops == 0)
      run_.make_weights(*forward_, ahead_, heads, graph, run_.q(), run_.k(), memory_.lse, false);
    want_.mode == HeadBackward::implicit&& call_.hops > 0 ? fixed_points(g) : segments(g);
  }

 private:
  Rows<T> rows(const T* data) const { return {data, run_.n_rows_, run_.padded_, 1}; }
  T* z(int t) const { return memory_.z + t * level_; }
  T* g(int t) const { return memory_.g + t * level_; }

  void step(const Run<T>& by, Rows<T> from, int hop, T* to, double keep, double teleport, bool dropped) {
    Finish<T> finish;
    finish.keep = static_cast<C>(keep);
    if (teleport != 0) {
      finish.extra = run_.v();
      finish.extra_scale = static_cast<C>(teleport);
    }
    if (dropped) finish.dropout = run_.hop_dropout();
    finish.hop = hop;
    finish.out = to;
    if (made_ahead_) {
      return by.hop(*forward_, ahead_, heads_, graph_, from, finish, true, by.q(), by.k(), memory_.lse,
                    false);
    }
    by.attend(*forward_, ahead_, heads_, graph_, from, finish, by.q(), by.k(), memory_.lse);
    made_ahead_ = true;
  }
  /// (1 - a) A^T g, times the dropout of hop `hop` where that is not negative, plus `extra`.
  void step_back(const Run<T>& by, Rows<T> from, int hop, T* to, Rows<T> extra = {}) {
    Finish<T> finish;
    finish.keep = static_cast<C>(1 - call_.teleport);
    finish.extra = extra;
    finish.extra_scale = extra.data == nullptr ? C{0} : C{1};
    if (hop >= 0) finish.dropout = run_.hop_dropout();
    finish.hop = std::max(hop, 0);
    finish.out = to;
    if (!made_back_) by.make_weights(*transposed_, back_, heads_, graph_, by.k(), by.q(), memory_.lse, true);
    by.hop(*transposed_, back_, heads_, graph_, from, finish, made_back_, by.k(), by.q(), memory_.lse, true);
    made_back_ = true;
  }

  /// Queues hops begin .. begin + count - 1 of a series: the first one, which may have weights to make, and
  /// the others.
  template <class F>
  void series(HopsKey::Series name, const T* first, const T* second, const T* third, int begin, int count,
              F&& hop) {
    if (count > 0) hop(run_, begin);
    if (count < 2) return;
    const bool back = name == HopsKey::Series::back || name == HopsKey::Series::fixed_point_back;
    HopsKey key;
    key.rows[0] = first;
    key.rows[1] = second;
    key.rows[2] = third;
    key.graph = graph_;
    key.series = name;
    key.segment = memory_.segment;
    key.begin = begin + 1;
    key.count = count - 1;
    run_.queue_hops(key, back ? *transposed_ : *forward_, back ? back_ : ahead_, heads_, heads_.count, hop);
  }

  void segments(T* from) {
    const int hops = call_.hops;
    const double keep = 1 - call_.teleport;
    const auto start_of = [&](int s) { return s == 0 ? run_.v() : rows(memory_.start + (s - 1) * level_); };
    const auto to = [&](int t) {  // keeping where each segment starts
      const bool border = (t + 1) % memory_.segment == 0;
      return border ? memory_.start + ((t + 1) / memory_.segment - 1) * level_ : z(t % memory_.segment);
    };
    series(HopsKey::Series::starts, memory_.start, memory_.z, nullptr, 0,
           (memory_.segments - 1) * memory_.segment, [&](const Run<T>& by, int t) {
             step(by, t == 0 ? run_.v() : rows(to(t - 1)), t, to(t), keep, call_.teleport, true);
           });
    const T* come = from;
    // Rows that end with another number of columns go where no other unit's still wait.
    T* left = run_.n_rows_ == run_.n_cols_ ? memory_.last : scratch_;
    for (int s = memory_.segments - 1; s >= 0; --s) {
      const int begin = s * memory_.segment;
      const int count = std::min(hops, begin + memory_.segment) - begin;
      const Rows<T> start = start_of(s);
      series(HopsKey::Series::kept, memory_.z, nullptr, nullptr, begin, count, [&](const Run<T>& by, int t) {
        step(by, t == begin ? start : rows(z(t - begin - 1)), t, z(t - begin), keep, call_.teleport, true);
      });
      // The gradient that comes to the end of the segment has passed the dropout of its last hop.
      if (count > 0) copy(come, g(count - 1));
      series(HopsKey::Series::back, memory_.g, left, nullptr, begin, count, [&](const Run<T>& by, int i) {
        const int t = begin + count - 1 - i;
        step_back(by, rows(g(t)), begin + t - 1, t == 0 ? left : g(t - 1));
      });
      gradients(start, count, s == memory_.segments - 1, s == 0);
      come = left;
    }
    add_values({}, 0, come);
  }

  void copy(const T* from, T* to) const {
    if (from == to) return;
    if (heads_.step == 1) {
      const std::int64_t first = run_.cells(heads_.first, run_.n_rows_);
      copy_cells(from + first, to + first, run_.cells(heads_.count, run_.n_rows_));
      return;
    }
    for (std::int64_t i = 0; i < heads_.count; ++i) {
      const std::int64_t first = run_.cells(heads_.first + i * heads_.step, run_.n_rows_);
      copy_cells(from + first, to + first, run_.cells(1, run_.n_rows_));
    }
  }
  void copy_cells(const T* from, T* to, std::int64_t count) const {
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(count) * sizeof(T), cudaMemcpyDeviceToDevice,
                          run_.stream_),
          "cudaMemcpyAsync");
  }

  /// Of the fixed points Z = (1 - a) A Z + a V and G = (1 - a) A^T G + g.
  void fixed_points(T* from) {
    const double factor =
        (1 - call_.teleport) / (1 - static_cast<double>(call_.edge_dropout.threshold) * 0x1p-32);
    const double exact = sizeof(T) == 8 ? 1e-16 : 1e-9;
    const int rounds = factor == 0 ? 1
                                   : static_cast<int>(std::min<double>(
                                         kMostIterations, std::ceil(std::log(exact) / std::log(factor)) + 1));
    // The last one of each series ends in z(0) and g(0).
    const auto to = [&](T* last, int t) { return (rounds - t) % 2 == 1 ? last : scratch_; };
    series(HopsKey::Series::fixed_point, z(0), scratch_, nullptr, 0, rounds, [&](const Run<T>& by, int t) {
      step(by, t == 0 ? run_.v() : rows(to(z(0), t - 1)), 0, to(z(0), t), 1 - call_.teleport, call_.teleport,
           false);
    });
    const Rows<T> given = rows(from);
    series(HopsKey::Series::fixed_point_back, g(0), scratch_, from, 0, rounds, [&](const Run<T>& by, int t) {
      step_back(by, t == 0 ? given : rows(to(g(0), t - 1)), -1, to(g(0), t), given);
    });
    gradients(rows(z(0)), 1, true, true);
  }

  /// dq, dk, dbias, da of the hops whose Z and G are kept; `start` is Z before the first of them.
  void gradients(Rows<T> start, int count, bool newest, bool oldest) {
    const Series<T> zs{start, rows(z(0)), level_};
    const Series<T> gs{rows(g(0)), rows(count > 1 ? g(1) : g(0)), level_};
    RowDots<T> d;
    d.units = run_.units(heads_);
    d.g = gs;
    d.z = rows(z(0));
    d.z_step = level_;
    d.v = run_.v();
    d.end = count;
    d.teleport = call_.teleport;
    d.dropout_scale = run_.hop_dropout().active() ? call_.hop_dropout.scale64 : 1;
    d.g_lse = newest ? g_lse_ : nullptr;
    d.dots = memory_.dots;
    d.teleports = memory_.teleports;
    d.flow_factor = call_.teleport < 1 ? 1 / (1 - call_.teleport) : 0;
    launch_warps(row_dots<T>, run_.n_rows_, heads_.count, run_.stream_, d);
    if (memory_.teleports != nullptr && call_.teleport == 1 && newest && count > 0) {
      // A Z_{K-1} cannot be had from Z_K where nothing of it went in. Hops before the last get no gradient.
      step(run_, count > 1 ? rows(z(count - 2)) : start, 0, scratch_, 1, 0, false);
      RowDots<T> e = d;
      e.g = {rows(g(count - 1)), rows(g(count - 1)), 0};
      e.z = rows(scratch_);
      e.z_step = 0;
      e.end = 1;
      e.teleport = 0;
      e.dropout_scale = 1;
      e.dots = nullptr;
      e.own_factor = 0;
      e.flow_factor = 1;
      launch_warps(row_dots<T>, run_.n_rows_, heads_.count, run_.stream_, e);
    }
    Gradient<T> p;
    p.scores = run_.scores(graph_);
    p.scores.lse = memory_.lse;
    p.end = count;
    p.keep = static_cast<C>(1 - call_.teleport);
    p.dots = memory_.dots;
    if (!want_.q.empty() || want_.bias != nullptr) {
      p.x = run_.q();
      p.y = run_.k();
      p.u = gs;
      p.w = zs;
      p.bias = want_.bias == nullptr ? nullptr : memory_.bias;
      p.bias_n = run_.graphs_.graphs[static_cast<std::size_t>(graph_)].nnz();
      Finish<T> finish;
      finish.totals = memory_.q_totals;
      finish.first = newest;
      finish.last = oldest;
      finish.out = memory_.q;
      run_.gradient(*forward_, ahead_, heads_, p, finish, false);
    }
    if (!want_.k.empty()) {
      p.x = run_.k();
      p.y = run_.q();
      p.u = zs;
      p.w = gs;
      p.bias = nullptr;
      p.scores.lse_by_column = true;
      for_heads_of_a_key([&](const Group& some, bool first, bool last) {
        Finish<T> finish;
        finish.totals = memory_.k_totals;
        finish.first = newest && first;
        finish.last = oldest && last;
        finish.out = memory_.k;
        finish.share = run_.share_;
        run_.gradient(*transposed_, back_, some, p, finish, true);
      });
    }
    if (want_.v.empty() || call_.teleport == 0) return;
    add_values(gs, count, nullptr);
  }

  /// Heads that add to different keys, one group after the other.
  template <class F>
  void for_heads_of_a_key(F&& f) const {
    if (run_.per_head()) {
      const std::int64_t i = heads_.first % call_.heads % run_.share_;
      f(heads_, i == 0, i + 1 == run_.share_);
      return;
    }
    for (std::int64_t i = 0; i < run_.share_; ++i) {
      f(Group{heads_.first + i, run_.share_, heads_.count / run_.share_}, i == 0, i + 1 == run_.share_);
    }
  }

  void add_values(Series<T> gs, int hops, const T* last) const {
    if (want_.v.empty()) return;
    for_heads_of_a_key([&](const Group& some, bool, bool) {
      ValueGradient<T> p;
      p.units = run_.units(some, true);
      p.g = gs;
      p.hops = hops;
      p.last = last;
      p.teleport = call_.teleport;
      p.totals = memory_.v_totals;
      p.n = run_.n_cols_;
      p.width = run_.padded_;
      p.share = run_.share_;
      launch_threads(value_gradient<T>, run_.n_cols_ * (run_.padded_ / Piece<T>::kSize), some.count,
                     run_.stream_, p);
    });
  }

  Run<T>& run_;
  const AttentionCall<T>& call_;
  const BackwardMemory<T>& memory_;
  const AttentionGradient<T>& want_;
  std::int64_t level_;
  T* scratch_;
  const C* g_lse_ = nullptr;
  int graph_ = 0;
  Group heads_;
  const Side* forward_ = nullptr;
  const Side* transposed_ = nullptr;
  SideMemory<T> ahead_;
  SideMemory<T> back_;
  bool made_ahead_ = false;
  bool made_back_ = false;
};

template <class T>
std::size_t bytes_of(Run<T>& run, const AttentionGradient<T>& want, std::int64_t group,
                     BackwardMemory<T>& memory, std::byte* base) {
  Arena arena(base);
  run.take_inputs(arena);
  memory.take(arena, run, run.graphs_, group, want);
  return arena.used();
}

/// How many hops follow each other, and whether those after the first, which made the weights, want them.
template <class T>
void expect_hops(Run<T>& run, HeadBackward mode) {
  if (mode == HeadBackward::implicit && run.call_.hops > 0) run.series_ = kMostIterations;
  run.stored_ = run.series_ > 1;
}

}  // namespace

template <class T>
std::size_t backward_bytes(const DeviceGraphs& graphs, const AttentionCall<T>& call, HeadBackward mode) {
  Run<T> run(graphs.data(), call);
  AttentionGradient<T> want;
  want.mode = mode;
  expect_hops(run, mode);
  BackwardMemory<T> memory;
  return bytes_of(run, want, run.most_units(), memory, nullptr);
}
template std::size_t backward_bytes<float>(const DeviceGraphs&, const AttentionCall<float>&, HeadBackward);
template std::size_t backward_bytes<double>(const DeviceGraphs&, const AttentionCall<double>&, HeadBackward);
template std::size_t backward_bytes<bf16>(const DeviceGraphs&, const AttentionCall<bf16>&, HeadBackward);

template <class T>
void attention_backward(const DeviceGraphs& graphs, const AttentionCall<T>& call,
                        const AttentionGradient<T>& want) {
  using C = EdgeValue<T>;
  require_shape(call.d, call.d_value, call.batch * call.heads);
  if (want.teleport != nullptr) *want.teleport = 0;
  if (call.batch == 0) {  // what batch items share gets nothing from none
    if (want.bias == nullptr || want.bias_count == 0) return;
    const std::size_t bytes = static_cast<std::size_t>(want.bias_count) * sizeof(C);
    if (!call.stream) {
      std::fill_n(want.bias, want.bias_count, C{0});
    } else {
      check(cudaMemsetAsync(want.bias, 0, bytes, stream_of(call.stream)), "cudaMemsetAsync");
    }
    return;
  }
  if (!graphs.data().backward) {
    throw ValueError("plan: made without backward, 'cuda' wants PlanOptions::backward for gradients");
  }
  const CallOn use(graphs, call.stream);
  Run<T> run(graphs.data(), call);
  if (want.bias != nullptr) run.want_order();
  BackwardMemory<T> memory;
  expect_hops(run, want.mode);
  const auto bytes_with = [&](std::int64_t group) { return bytes_of(run, want, group, memory, nullptr); };
  const std::int64_t most = run.most_units();
  const std::int64_t least = run.least_units();
  const std::size_t limit = memory_of_device(call.memory_limit, bytes_with(most));
  if (bytes_with(least) > limit) run.stored_ = false;  // weights are made again in each hop
  if (const std::size_t bytes = bytes_with(least); bytes > limit) {
    throw LimitError("memory limit: " + std::to_string(limit >> 20) +
                     " MiB of device memory, the gradients take " + std::to_string((bytes >> 20) + 1) +
                     (want.mode == HeadBackward::stored ? " MiB; checkpointed hops take less" : " MiB"));
  }
  std::int64_t group = largest_group(most, least, limit, bytes_with);
  run.make_order();
  const Buffer buffer = memory_of_group(group, least, run.stream_, bytes_with);
  bytes_of(run, want, group, memory, buffer.data());
  run.read_inputs();
  const auto clear = [&](auto* data, std::int64_t count) {
    if (data == nullptr || count == 0) return;
    check(cudaMemsetAsync(data, 0, static_cast<std::size_t>(count) * sizeof(*data), run.stream_),
          "cudaMemsetAsync");
  };
  clear(memory.v_totals, run.cells(run.kv_units_, run.n_cols_));
  clear(memory.teleports, want.teleport == nullptr ? 0 : run.units_ * run.n_rows_);
  clear(memory.q, run.cells(run.units_, run.n_rows_));
  clear(memory.k, run.cells(run.kv_units_, run.n_cols_));
  if (run.host() && want.g_lse != nullptr) run.to_device(memory.g_lse, want.g_lse, run.units_ * run.n_rows_);
  // What comes in passes the dropout of the last hop first.
  const bool dropped = want.mode != HeadBackward::implicit && call.hops > 0;
  run.pack(want.g, run.units_, call.heads, run.n_rows_, call.d_value, run.raw_, memory.last,
           dropped ? run.hop_dropout() : DeviceDropout{}, std::max(call.hops - 1, 0));
  C* bias_out = run.host() ? memory.bias_out : want.bias;
  for (int g = 0; g < run.graph_count(); ++g) {
    const std::int64_t edges = run.graphs_.graphs[static_cast<std::size_t>(g)].nnz();
    clear(memory.bias, want.bias == nullptr ? 0 : run.units_ * edges);
    for (const Group& heads : run.groups(g, group)) {
      Backward<T> backward(run, memory, want);
      backward.run_graph(g, heads, memory.last);
    }
    if (want.bias == nullptr) continue;
    SumUnits<C> s;
    s.values = memory.bias;
    s.n = edges;
    s.batch = static_cast<int>(call.batch);
    s.heads = call.heads;
    s.head_first = run.per_head() ? g : 0;
    s.head_end = run.per_head() ? g + 1 : call.heads;
    s.out = bias_out + (call.first_edge.empty() ? 0 : call.first_edge[static_cast<std::size_t>(g)]);
    s.out_batch = want.bias_batch;
    s.out_head = want.bias_head;
    launch_threads(sum_units<C>, edges, 1, run.stream_, s);
  }
  if (!want.q.empty()) run.unpack(memory.q, want.q, run.units_, call.heads, run.n_rows_, call.d, run.raw_);
  if (!want.k.empty())
    run.unpack(memory.k, want.k, run.kv_units_, call.kv_heads, run.n_cols_, call.d, run.raw_);
  if (!want.v.empty()) {
    const NarrowTotals<T> p{memory.v_totals, memory.v, run.cells(run.kv_units_, run.n_cols_)};
    launch_threads(narrow_totals<T>, p.count / Piece<T>::kSize, 1, run.stream_, p);
    run.unpack(memory.v, want.v, run.kv_units_, call.kv_heads, run.n_cols_, call.d_value, run.raw_);
  }
  if (want.bias != nullptr && run.host()) run.to_host(want.bias, bias_out, want.bias_count);
  if (want.teleport != nullptr) {
    const SumRows<double> p{memory.teleports, run.n_rows_, memory.teleport};
    launch_warps(sum_rows<double>, 1, run.units_, run.stream_, p);
    std::vector<double> parts(static_cast<std::size_t>(run.units_));
    run.to_host(parts.data(), memory.teleport, run.units_);
    for (const double part : parts) *want.teleport += part;
  }
  if (run.host()) run.wait();
}

#define MANYHOP_INSTANTIATE(T)                                                      \
  template void attention_backward<T>(const DeviceGraphs&, const AttentionCall<T>&, \
                                      const AttentionGradient<T>&)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::cuda

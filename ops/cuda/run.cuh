// One call of attention on the device: its tensors as padded rows, and the launches that make weights, hops
// and gradients of a group of heads. Those launches (run_weights.cu, run_hop.cu, run_gradient.cu) are most of
// what nvcc compiles, so that they are a file each and compiled once.
#pragma once

#include <algorithm>
#include <functional>
#include <type_traits>
#include <vector>

#include "manyhop/ops/cuda/graphs.cuh"
#include "manyhop/ops/cuda/rows.cuh"
#include "manyhop/ops/cuda/tiles.cuh"
#include "manyhop/ops/cuda/transfer.cuh"

namespace manyhop::ops::cuda {

inline constexpr int kMostFeatures = 256;
inline constexpr Offset kMostUnits = 65535;  // of a launch's second axis

/// What the pool and the device can still give, at most `limit` (0: no limit). The device is asked, which may
/// wait for it, only where the pool has less than `wanted` of its own.
std::size_t memory_of_device(std::size_t limit, std::size_t wanted);
/// The most units, by halves from `units` down to `least`, whose bytes are within the limit. Throws
/// LimitError.
std::int64_t largest_group(std::int64_t units, std::int64_t least, std::size_t limit,
                           const std::function<std::size_t(std::int64_t)>& bytes);
/// Memory for `group` units, or for fewer, down to `least`, where the device has not what it said it has.
Buffer memory_of_group(std::int64_t& group, std::int64_t least, cudaStream_t stream,
                       const std::function<std::size_t(std::int64_t)>& bytes);
/// Throws ValueError for what kernels are not made for.
void require_shape(int d, int d_value, Offset units);
template <class T>
std::size_t backward_bytes(const DeviceGraphs& graphs, const AttentionCall<T>& call, HeadBackward mode);

/// Heads that run together: units first, first + step, ...
struct Group {
  std::int64_t first = 0;
  std::int64_t step = 1;
  std::int64_t count = 1;
};

/// f(integral_constant of the padded width).
template <class F>
void for_width(int padded, F&& f) {
  switch (padded) {
    case 32:
      return f(std::integral_constant<int, 32>{});
    case 64:
      return f(std::integral_constant<int, 64>{});
    case 128:
      return f(std::integral_constant<int, 128>{});
    default:
      return f(std::integral_constant<int, 256>{});
  }
}

/// f(integral_constant of the padded width, of the features of a launch): once for each 64 features, of which
/// p.feature is the first.
template <class P, class F>
void for_slabs(int padded, P& p, F&& f) {
  for_width(padded, [&](auto width) {
    constexpr int kSlab = width.value < 64 ? width.value : 64;
    for (p.feature = 0; p.feature < width.value; p.feature += kSlab) {
      f(width, std::integral_constant<int, kSlab>{});
    }
  });
}

/// Scratch of a group of heads over one layout.
template <class T>
struct SideMemory {
  using C = EdgeValue<T>;
  C* edge_values = nullptr;
  SoftmaxSum<C>* edge_sums = nullptr;
  std::uint32_t* tile_values = nullptr;  // null: weights of tiles are made again in each hop
  SoftmaxSum<float>* tile_sums = nullptr;
  C* edge_parts = nullptr;
  float* panel_parts = nullptr;
  C* sums = nullptr;  // of cuSPARSE, [units][n_rows][padded]

  /// `stored`: weights of tiles are kept, for hops after the first or for the caller.
  void take(Arena& arena, const Side& side, std::int64_t units, int padded, bool stored) {
    edge_values = arena.take<C>(units * side.value_stride());
    edge_sums = arena.take<SoftmaxSum<C>>(units * side.edge_tasks.size());
    if (side.tiled || side.split_rows.size() > 0) {
      edge_parts = arena.take<C>(units * side.edge_tasks.size() * padded);
    }
    if constexpr (sizeof(T) >= 4) {
      if (side.template sparse<C>() && side.sparse_width == padded) {
        sums = arena.take<C>(units * side.host.n_rows * padded);
      }
    }
    if (!side.tiled) return;
    constexpr std::int64_t kWords = kChunkCells * static_cast<std::int64_t>(sizeof(T)) / 4;
    tile_values = arena.take<std::uint32_t>(stored ? units * side.chunks * kWords : 0);
    tile_sums = arena.take<SoftmaxSum<float>>(units * side.tile_tasks.size() * kPanelRows);
    panel_parts = arena.take<float>(units * side.slots * kPanelRows * padded);
  }
};

template <class T>
class Run {
 public:
  using C = EdgeValue<T>;
  static constexpr bool kTileable = sizeof(T) <= 4;

  Run(DeviceGraphs::Data& graphs, const AttentionCall<T>& call)
      : graphs_(graphs),
        call_(call),
        stream_(stream_of(call.stream)),
        n_rows_(graphs.graphs[0].n_rows()),
        n_cols_(graphs.graphs[0].n_cols()),
        units_(call.batch * call.heads),
        kv_units_(call.batch * call.kv_heads),
        share_(call.heads / call.kv_heads) {
    if (const int device = current_device(); device != graphs.device) {
      throw ValueError("plan: on device " + std::to_string(graphs.device) + ", the call is on device " +
                       std::to_string(device));
    }
    padded_ = padded_features(std::max(call.d, call.d_value));
    series_ = call.hops;
    ordered_ = call.bias != nullptr || call.edge_dropout.active();
    callers_graph_ = is_captured(stream_);
  }

  std::int64_t cells(std::int64_t units, std::int64_t n) const { return units * n * padded_; }
  bool host() const { return !call_.stream.has_value(); }
  bool per_head() const { return graphs_.graphs.size() > 1; }
  int graph_count() const { return static_cast<int>(graphs_.graphs.size()); }

  /// Heads that can run together, at most `count` of them, and in multiples of those that share keys.
  std::vector<Group> groups(int graph, std::int64_t count) const {
    if (per_head()) {
      std::vector<Group> found;
      for (std::int64_t first = 0; first < call_.batch; first += count) {
        found.push_back(
            {graph + first * call_.heads, call_.heads, std::min<std::int64_t>(count, call_.batch - first)});
      }
      return found;
    }
    std::vector<Group> found;
    const std::int64_t step = std::max<std::int64_t>(1, count / share_) * share_;
    for (std::int64_t first = 0; first < units_; first += step) {
      found.push_back({first, 1, std::min(step, units_ - first)});
    }
    return found;
  }

  Units units(const Group& group, bool transposed = false) const {
    Units u;
    u.first = group.first;
    u.step = group.step;
    u.heads = call_.heads;
    u.lengths = lengths_;
    u.n_rows = transposed ? n_cols_ : n_rows_;
    u.n_cols = transposed ? n_rows_ : n_cols_;
    u.square = n_rows_ == n_cols_;
    u.transposed = transposed;
    return u;
  }

  Edges edges(const Side& side) const {
    return {side.edge_tasks.data(), side.edge_tasks.size(), side.columns.data(), side.edge_order.data(),
            side.value_stride()};
  }
  Tiles tiles(const Side& side) const {
    return {side.tile_tasks.data(),
            side.tile_tasks.size(),
            side.panel_rows.data(),
            side.chunk_columns.data(),
            side.chunk_masks.data(),
            side.cell_order.data(),
            side.chunks};
  }
  /// What edges of `graph` add to products.
  Scores<C> scores(int graph) const {
    Scores<C> s;
    s.scale = static_cast<C>(call_.scale);
    if (bias_ != nullptr) {
      s.bias = bias_ + (call_.first_edge.empty() ? 0 : call_.first_edge[static_cast<std::size_t>(graph)]);
      s.bias_batch = call_.bias_batch;
      s.bias_head = call_.bias_head;
    }
    s.lse_n = n_rows_;
    s.dropout = edge_dropout_;
    return s;
  }
  DeviceDropout hop_dropout() const { return hop_dropout_; }

  /// Weights of a layout from features and log-sum-exp; of the forward layout (lse not given) makes that too.
  void make_weights(const Side& side, const SideMemory<T>& memory, const Group& group, int graph, Rows<T> x,
                    Rows<T> y, C* lse, bool transposed, bool only_split = false) const;

  /// Weights of the forward layout, log-sum-exp and the first hop, which go together where there are no
  /// tiles.
  void attend(const Side& side, const SideMemory<T>& memory, const Group& group, int graph, Rows<T> z,
              Finish<T> finish, Rows<T> x, Rows<T> y, C* lse) const;

  /// One hop. `made` false, or no memory for them: weights of tiles are made on the way, from x, y and lse.
  void hop(const Side& side, const SideMemory<T>& memory, const Group& group, int graph, Rows<T> z,
           Finish<T> finish, bool made, Rows<T> x, Rows<T> y, const C* lse, bool transposed) const;

  /// Hops key.begin .. key.begin + key.count - 1, whose weights are there: as a CUDA Graph where the same
  /// ones have come before, else one by one. hop(run, t) queues hop t by `run`, this one or a copy of it.
  template <class F>
  void queue_hops(HopsKey key, const Side& side, const SideMemory<T>& memory, const Group& group,
                  std::int64_t scratch_units, F&& hop) const;

  /// See Gradient: of scores, and of the features of the layout's rows, into finish.out.
  void gradient(const Side& side, const SideMemory<T>& memory, const Group& group, Gradient<T> g,
                Finish<T> finish, bool transposed) const;

  /// Whether hops after the first may become a CUDA Graph, which holds the address of V.
  bool captures() const {
    const auto made = [&](const Side& side) { return stored_ || !side.tiled; };
    return series_ > CapturedHops::kLeastHops &&
           std::any_of(graphs_.forward.begin(), graphs_.forward.end(), made);
  }
  /// Units of one graph, and the fewest that can run together.
  std::int64_t most_units() const { return per_head() ? call_.batch : units_; }
  std::int64_t least_units() const { return per_head() ? 1 : share_; }
  /// Bytes of the caller's q, k, v and out.
  std::size_t tensor_bytes() const {
    const std::int64_t width = call_.d + call_.d_value;
    return static_cast<std::size_t>((units_ * n_rows_ + kv_units_ * n_cols_) * width) * sizeof(T);
  }
  /// Warps that a launch over `units` heads has.
  std::int64_t warps(std::int64_t units) const {
    std::int64_t tasks = 0;
    for (const Side& side : graphs_.forward) {
      tasks = std::max({tasks, side.tile_tasks.size(), side.edge_tasks.size()});
    }
    return units * tasks;
  }

  // Inputs of the call, on the device and padded; the memory lies in the arena of the caller's choice.
  bool as_they_are(TensorView<const T> view, std::int64_t n, int width) const;
  T* take_rows(Arena& arena, TensorView<const T> view, std::int64_t units, std::int64_t n, int width) const;
  void take_inputs(Arena& arena);
  void read_inputs();
  void want_order() { ordered_ = true; }
  void make_order() const {
    if (ordered_) graphs_.order_edges();
  }
  /// The caller's rows as padded rows; `raw` is scratch for host tensors, of as many elements as the view
  /// has.
  void pack(TensorView<const T> view, std::int64_t units, int heads, std::int64_t n, int width, T* raw, T* to,
            DeviceDropout dropout = {}, int hop_number = 0) const;
  void unpack(const T* from, TensorView<T> view, std::int64_t units, int heads, std::int64_t n, int width,
              T* raw) const;
  /// Elements of scratch that pack() and unpack() want for a tensor.
  std::int64_t raw(std::int64_t units, std::int64_t n, int width) const {
    return host() ? units * n * width : 0;
  }
  Transfer transfer() const { return {stream_, host()}; }
  template <class X>
  void to_device(X* to, const X* from, std::int64_t count) const {
    transfer().to_device(to, from, count);
  }
  template <class X>
  void to_host(X* to, const X* from, std::int64_t count) const {
    transfer().to_host(to, from, count);
  }
  void wait() const { transfer().wait(); }

  DeviceGraphs::Data& graphs_;
  const AttentionCall<T>& call_;
  cudaStream_t stream_;
  std::int64_t n_rows_;
  std::int64_t n_cols_;
  std::int64_t units_;
  std::int64_t kv_units_;
  int share_;
  int padded_ = 64;
  int series_ = 0;  // hops that follow each other: of the call, or more where a fixed point is sought
  bool ordered_ = false;
  bool stored_ = true;      // see SideMemory
  bool recording_ = false;  // on a stream that is being captured
  bool callers_graph_ = false;
  T* raw_ = nullptr;
  T* q_ = nullptr;
  T* k_ = nullptr;
  T* v_ = nullptr;
  C* bias_memory_ = nullptr;
  const C* bias_ = nullptr;
  std::int64_t* lengths_ = nullptr;
  std::uint32_t* keys_ = nullptr;
  DeviceDropout edge_dropout_{};
  DeviceDropout hop_dropout_{};

  Rows<T> q() const { return {q_, n_rows_, padded_, 1}; }
  Rows<T> k() const { return {k_, n_cols_, padded_, share_}; }
  Rows<T> v() const { return {v_, n_cols_, padded_, share_}; }

 private:
  /// One product of cuSPARSE for each unit, then what a row's sum leaves with.
  void sparse_hop(const Side& side, const SideMemory<T>& memory, const Group& group, const Units& u,
                  Rows<T> z, const Finish<T>& finish) const;
  void combine_split_rows(const Side& side, const Parts<C>& parts, const Units& u, const Group& group,
                          const Finish<T>& finish) const;
  void combine_split_panels(const Side& side, const Parts<float>& edge_parts, const Parts<float>& panel_parts,
                            const Units& u, const Group& group, const Finish<T>& finish) const;
};

}  // namespace manyhop::ops::cuda

// Sparse attention and its K-hop diffusion: A = softmax over the edges of each row of (scale q.k + bias),
// then Z_0 = V, Z_{t+1} = (1 - a) A Z_t + a V, out = Z_K. hops = 1, teleport = 0 is plain sparse attention.
#pragma once

#include <initializer_list>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "manyhop/engine/plan.hpp"
#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/ops/context.hpp"

namespace manyhop {

/// stored: Z of all hops are held, of all heads where a state keeps them (AttentionState). checkpointed: A
/// and Z of the heads in flight alone, made again by the backward pass; where all K of its Z take more memory
/// than about sqrt(K) checkpoints, those and the hops between two. implicit: the gradient at the fixed point.
enum class AttentionBackward : std::uint8_t { stored, checkpointed, implicit };

struct AttentionOptions;

/// What attention() may keep for attention_backward() of the same plan, tensors and options: A and Z_1 ..
/// Z_{K-1} of all heads. Without it the backward pass runs the forward pass again, head by head; the bits are
/// the same. Stays empty where the backward pass would not take it (checkpointed, implicit, hops = 0, the
/// reference backend) or where it would pass the memory limit.
/// A call of bf16 tensors that is given a state holds rows between hops in fp32, one without in bf16;
/// products round their factors to bf16 either way, where the machine multiplies bf16 and the plan's graph
/// has dense columns enough (Plan::explain).
///
/// Bytes    about 4 h (m + (K - 1) n d_v) for fp32 and bf16, twice that for f64.
class AttentionState {
 public:
  AttentionState() = default;
  /// What is moved from is empty.
  AttentionState(AttentionState&& other) noexcept { *this = std::move(other); }
  AttentionState& operator=(AttentionState&& other) noexcept {
    memory = std::move(other.memory);
    units = std::exchange(other.units, 0);
    unit_bytes = other.unit_bytes;
    plan = other.plan;
    hops = other.hops;
    mode = other.mode;
    return *this;
  }
  bool empty() const { return units == 0; }
  std::size_t bytes() const { return empty() ? 0 : unit_bytes * static_cast<std::size_t>(units); }
  /// Holds nothing; the memory stays for the next call.
  void clear() { units = 0; }
  /// Lies in the caller's memory: at least attention_state_bytes(), 64-byte aligned, alive as long as this.
  void lend(std::byte* bytes, std::size_t count) { memory.lend(bytes, count); }
  /// What attention() of this plan and these options left in `bytes` lent to another state. Throws ValueError
  /// when `count` is not attention_state_bytes().
  static AttentionState resume(const Context& ctx, const Plan& plan, const AttentionOptions& options,
                               std::byte* bytes, std::size_t count);

  // What made it; attention_backward() compares.
  Workspace memory = {};
  Offset units = 0;
  std::size_t unit_bytes = 0;
  const void* plan = nullptr;
  int hops = 0;
  AttentionBackward mode = AttentionBackward::stored;
};

/// Values by edge or row: f32, or f64 beside tensors of f64 (which take f32 too). Made from a view, or like
/// one.
template <class F32, class F64>
struct RealValues {
  TensorView<F32> f32{};
  TensorView<F64> f64{};

  RealValues() = default;
  RealValues(TensorView<F32> view) : f32(view) {}
  RealValues(TensorView<F64> view) : f64(view) {}
  RealValues(TensorView<std::remove_const_t<F32>> view)
    requires std::is_const_v<F32>
      : f32(view) {}
  RealValues(TensorView<std::remove_const_t<F64>> view)
    requires std::is_const_v<F64>
      : f64(view) {}
  RealValues(F32* data, std::initializer_list<Offset> extents) : f32(data, extents) {}
  RealValues(F64* data, std::initializer_list<Offset> extents) : f64(data, extents) {}
  RealValues(F32* data, std::initializer_list<Offset> extents, std::initializer_list<Offset> strides)
      : f32(data, extents, strides) {}
  RealValues(F64* data, std::initializer_list<Offset> extents, std::initializer_list<Offset> strides)
      : f64(data, extents, strides) {}
  bool empty() const { return f32.empty() && f64.empty(); }
};
using RealInput = RealValues<const float, const double>;
using RealOutput = RealValues<float, double>;

struct AttentionOptions {
  int hops = 1;                       // K >= 0; 0 returns V
  double teleport = 0;                // in [0, 1]
  std::optional<double> scale{};      // 1 / sqrt(d) when absent
  RealInput bias{};                   // added to scaled scores, CSR edge order: [m], [h, m] or [b, h, m]
  std::span<const Offset> lengths{};  // [b]: positions at or past a length are never read and are written 0
  double dropout_p = 0;               // on A, once; key (seed, batch, head, edge)
  double hop_dropout_p = 0;           // on Z in every hop; key (seed, batch, head, hop, token, channel)
  std::uint64_t seed = 0;
  RealOutput lse{};      // out: [b, h, n], natural log; -inf for rows without edges
  RealOutput weights{};  // out: A in CSR edge order, [m], [h, m] or [b, h, m] (after dropout)
  AttentionBackward backward = AttentionBackward::stored;
  AttentionState* state = nullptr;  // kept by attention(), taken by attention_backward(); bf16: see there
};

/// q [b, h, n_rows, d], k [b, h_kv, n_cols, d], v [b, h_kv, n_cols, d_v], out [b, h, n_rows, d_v]: any
/// strides, inner stride 1 is fastest; `out` shares no memory with the others.   T: float, bf16 (fp32 sums),
/// double.
///
/// Cost     O(b h (m (d + K d_v) + K n d_v)).   Memory: plan.memory().
/// Edge     a row without edges is 0 after one hop without teleport; hops = 0 gives V. What is not finite in
///          q, k or v goes along edges, hop by hop, and nowhere else (cuda: to other rows of a tile too).
/// Order    the same bits for any thread count and memory limit.
/// Throws   ValueError with both sizes, or naming the option; LimitError before it begins; Interrupted, and
///          then heads that were done are in `out`.
/// Source   Feng et al., Diffuser, 2022 (arXiv 2210.11794).
template <class T>
void attention(const Context& ctx, const Plan& plan, TensorView<const T> q, TensorView<const T> k,
               TensorView<const T> v, TensorView<T> out, const AttentionOptions& options = {});

/// Bytes that attention() keeps in a state for these options (their views are not read); 0 where it keeps
/// none.
std::size_t attention_state_bytes(const Context& ctx, const Plan& plan, const AttentionOptions& options);

template <class T>
struct AttentionGradients {
  TensorView<T> q{}, k{}, v{};  // overwritten; empty ones are not computed
  RealOutput bias{};            // like options.bias
  double teleport = 0;          // overwritten
  bool wants_teleport = true;   // costs a few passes, on cuda a wait for the device; false: left 0
};

/// Gradients of sum(out * g) (+ sum(lse * g_lse) when given), shapes as in attention(); g like out.
///
/// Cost     2 to 3 times the forward pass, and that pass again where no state is taken.
/// Order    the same bits for any thread count, memory limit, and with or without a state.
/// Throws   as attention(); ValueError for a state of another plan or options.
template <class T>
void attention_backward(const Context& ctx, const Plan& plan, TensorView<const T> q, TensorView<const T> k,
                        TensorView<const T> v, TensorView<const T> g, AttentionGradients<T>& gradients,
                        const AttentionOptions& options = {}, const RealInput& g_lse = {});

#define MANYHOP_EXTERN(T)                                                                                  \
  extern template void attention<T>(const Context&, const Plan&, TensorView<const T>, TensorView<const T>, \
                                    TensorView<const T>, TensorView<T>, const AttentionOptions&);          \
  extern template void attention_backward<T>(                                                              \
      const Context&, const Plan&, TensorView<const T>, TensorView<const T>, TensorView<const T>,          \
      TensorView<const T>, AttentionGradients<T>&, const AttentionOptions&, const RealInput&)
MANYHOP_EXTERN(float);
MANYHOP_EXTERN(double);
MANYHOP_EXTERN(bf16);
#undef MANYHOP_EXTERN

}  // namespace manyhop

// Keys and values for decoding token by token in constant memory: a ring of the window, the sinks, and at
// most c kept keys of each score head.
#pragma once

#include <optional>
#include <vector>

#include "manyhop/engine/sparsek/attention.hpp"
#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/ops/context.hpp"
#include "manyhop/ops/edge_value.hpp"

namespace manyhop {

struct SparsekCacheOptions {
  Offset heads = 1;
  Offset kv_heads = 0;     // 0: heads; else a divisor of heads
  Offset score_heads = 0;  // 0: kv_heads; a divisor of heads that divides kv_heads or is divided by them
  Offset head_dim = 64;
  Offset value_dim = 0;    // 0: head_dim
  CausalOptions select{};  // with a cap: the exact form has no bound on its memory
  Join join{};
  Gate gate = Gate::values;
  std::optional<double> scale{};  // 1 / sqrt(head_dim) when absent
};

/// attend() after append() gives the row that sparsek_attention() (one hop) gives the token; gates are the
/// same bits. Copies are independent (beams). T: float, bf16 (fp32 arithmetic), double.
template <class T>
class SparsekCache {
 public:
  /// All that later tokens depend on beside the options.
  struct State {
    Offset tokens = 0;
    std::vector<T> fixed, kept;                    // keys and values, as they are held
    std::vector<Index> positions;                  // of those kept [h_s, c]; -1: a free place
    std::vector<CausalSparsek::State> selections;  // [h_s]
  };

  /// Allocates keys, values and slots at once. Throws ValueError for head counts that do not divide, an
  /// uncapped selection, negative sizes; LimitError past the context's memory limit.
  explicit SparsekCache(const SparsekCacheOptions& options, const Context& ctx = {});
  /// Goes on from what state() of a cache with these options gave, elsewhere.   Throws as the other;
  /// ValueError for another state.
  SparsekCache(const SparsekCacheOptions& options, const State& state, const Context& ctx = {});

  /// Takes the next token: k [h_kv, d], v [h_kv, d_v], scores [h_s].   Cost O(h_kv (d + d_v) + h_s log c).
  /// Throws ValueError for other shapes or a NaN score; then nothing has changed.
  void append(TensorView<const T> k, TensorView<const T> v, TensorView<const EdgeValue<T>> scores);

  /// Attention of the last token's queries: q [h, d], out [h, d_v].   Cost O(h (window + sinks + c) d).
  /// Throws ValueError for other shapes, or before the first token.
  void attend(TensorView<const T> q, TensorView<T> out) const;

  Offset tokens() const { return tokens_; }
  State state() const;
  std::size_t bytes() const;  // held; does not grow with tokens
  const SparsekCacheOptions& options() const { return options_; }
  /// Of one score head: kept keys, thresholds.
  const CausalSparsek& selection(Offset score_head) const {
    return states_[static_cast<std::size_t>(score_head)];
  }

 private:
  struct Slot {
    Index position = -1;  // -1: free
    double score = 0;
  };
  Offset row_width() const { return options_.head_dim + options_.value_dim; }
  /// Heads of k and v that a score head keeps: the first and how many.
  Offset first_kept(Offset score_head) const;
  Offset kept_heads() const;
  T* slot(Offset score_head, Offset slot);
  const T* slot(Offset score_head, Offset slot) const;

  SparsekCacheOptions options_;
  Offset tokens_ = 0;
  std::vector<T> fixed_;     // [sinks + window, h_kv, d + d_v]; the window as a ring
  std::vector<T> kept_;      // [h_s, c, kept heads, d + d_v]
  std::vector<Slot> slots_;  // [h_s, c]
  std::vector<CausalSparsek> states_;
};

extern template class SparsekCache<float>;
extern template class SparsekCache<double>;
extern template class SparsekCache<bf16>;

}  // namespace manyhop

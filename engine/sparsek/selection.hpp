// SparseK over all prefixes of a sequence: which keys each query keeps, and how strongly.
//
//   row i:  p^(i) = sparsek(u_0 .. u_i, k)          (exact)
//           p^(i) = sparsek(top c of u_0 .. u_i, k)  (capped: constant memory; of equal scores the later
//           stays)
//
// tau never falls from row to row, so a key enters at its own row, leaves once and never comes back: the
// whole n x n selection is n thresholds and n rows at which keys leave.
#pragma once

#include <limits>
#include <span>
#include <vector>

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/base/types.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/ops/context.hpp"

namespace manyhop {

inline constexpr Offset kUncapped = -1;

struct CausalOptions {
  double k = 64;           // gates of a row add up to min(k, tokens so far); 0 or more, finite
  Offset cap = 0;          // c, at least k; 0: twice k (rounded up); kUncapped: the exact form
  double temperature = 1;  // of scores / temperature
};

/// The state of one head: scores come one by one and only the keys in use are held.
///
/// Scores of -inf are never kept and do not count; scores beyond 2^30 in size are compared as floats, where
/// neighbours are more than 1 apart, so only their order matters (+inf included).
/// Gates are right to about 2^-52 times the size of the scores.
class CausalSparsek {
 public:
  struct Key {
    double score = 0;  // as compared: over the temperature
    Index position = 0;
  };
  struct Step {
    Index row = 0;
    bool entered = false;           // the new key has a gate
    double score = 0;               // of the new key, as compared
    double tau = 0;                 // of this row; -inf: every key has gate 1
    bool capped = false;            // the exact form would give this row other gates
    std::span<const Index> left{};  // keys without a gate from this row on; valid until the next call
  };

  /// All that later steps depend on beside the options; the order of the keys does not matter.
  struct State {
    Offset rows = 0;
    double tau = -std::numeric_limits<double>::infinity();
    double lost = -std::numeric_limits<double>::infinity();
    double sum = 0, sum_rest = 0;
    std::vector<Key> between, full;
  };

  /// Throws ValueError for a k that is negative, NaN or infinite, a cap below k, or a bad temperature.
  explicit CausalSparsek(const CausalOptions& options);
  /// Goes on from what state() gave, elsewhere.   Throws ValueError for numbers and keys that no state has.
  CausalSparsek(const CausalOptions& options, State state);

  /// Takes the score of the next token.   Cost O(log c), amortised. Throws ValueError naming the token when
  /// the score is NaN (the state stays as it was), or past 2^31 - 1 tokens.
  Step append(double score);

  Offset rows() const { return rows_; }
  double tau() const { return tau_; }
  Offset selected() const { return static_cast<Offset>(between_.size() + full_.size()); }
  /// Calls f(key, gate) for the keys of the last row, in no particular order.
  template <class F>
  void for_each(F&& f) const {
    for (const Key& key : between_) f(key, gate(key.score, tau_));
    for (const Key& key : full_) f(key, 1.0);
  }
  const CausalOptions& options() const { return options_; }
  State state() const { return {rows_, tau_, lost_, sum_, sum_rest_, between_, full_}; }

  static double gate(double score, double tau) {
    const double p = score - tau;
    return p < 0 ? 0 : p > 1 ? 1 : p;
  }

 private:
  void add(double value);
  void settle();
  void leave(Index position);
  double bar() const;

  CausalOptions options_;
  Offset rows_ = 0;
  double tau_ = -std::numeric_limits<double>::infinity();
  double lost_ = -std::numeric_limits<double>::infinity();  // best score that the cap has pushed out
  std::vector<Key> between_;  // 0 < p < 1; both are heaps with the least (score, position) on top
  std::vector<Key> full_;     // p = 1
  double sum_ = 0;            // scores of between_, with what rounding took off beside it
  double sum_rest_ = 0;
  std::vector<Index> left_;
};

/// All rows of a head, as they change.   Memory: 20 bytes a token.
struct CausalSelection {
  static constexpr Index kOpen = std::numeric_limits<Index>::max();

  CausalOptions options;
  std::vector<double> score;  // [n] as compared
  std::vector<double> tau;    // [n] threshold of each row
  std::vector<Index> until;   // [n] key j is in rows j .. until[j] - 1; kOpen: not left yet
  Offset edges = 0;           // keys of all rows together
  Offset capped_rows = 0;     // rows that the cap has changed
  Offset rows() const { return static_cast<Offset>(tau.size()); }
  bool has(Offset i, Offset j) const { return j <= i && i < Offset{until[static_cast<std::size_t>(j)]}; }
  /// 0 where row i does not keep key j.
  double gate(Offset i, Offset j) const {
    return has(i, j)
               ? CausalSparsek::gate(score[static_cast<std::size_t>(j)], tau[static_cast<std::size_t>(i)])
               : 0;
  }
};

/// Appends rows to a selection; chunks of any sizes give what one call gives.   Cost O(n log c).
/// Throws as CausalSparsek::append; what came before the bad score stays appended.
void extend(CausalSparsek& state, std::span<const float> scores, CausalSelection& selection);
void extend(CausalSparsek& state, std::span<const double> scores, CausalSelection& selection);

CausalSelection causal_sparsek(std::span<const float> scores, const CausalOptions& options);
CausalSelection causal_sparsek(std::span<const double> scores, const CausalOptions& options);

/// Of each row of scores [heads, n], heads in parallel; on the context's backend, with the same bits on every
/// one. cuda: a warp walks down each head, so it takes many heads, or scores that lie there already (where
/// the context has a stream), to win; the result is on the host. A key that enters costs O(1 + kept / 32).
/// Throws   as CausalSparsek, naming the head where there are several; BackendUnavailable's ValueError;
/// LimitError.
template <class T>  // float, double
std::vector<CausalSelection> causal_sparsek(const Context& ctx, TensorView<const T> scores,
                                            const CausalOptions& options);

/// What every row keeps besides: itself and the window - 1 tokens before it, and the first `sinks` tokens.
struct Join {
  Offset window = 0;
  Offset sinks = 0;
};

/// The selection as a graph: row i receives from the keys it keeps (weight: the gate), from its window and
/// from the sinks (weight 1, whether kept or not).   Cost O(n + edges), parallel; 12 bytes an edge.
/// Throws ValueError for negative sizes; LimitError past the context's memory limit.
Graph to_graph(const Context& ctx, const CausalSelection& selection, const Join& join = {});

struct SelectOptions {
  Offset k = 64;
  Offset sinks = 0;
  Offset window = 0;
  bool causal = true;
};

/// Hard top-k as a pattern over the n tokens of `scores`. causal: row i keeps the k best of tokens 0 .. i,
/// its window i - window + 1 .. i and the sinks up to i. Else every row keeps the k best of all tokens, |i -
/// j| < window and the sinks. Of equal scores the later is better; -inf is never kept. Throws ValueError for
/// negative numbers or a NaN score.
Graph select(const Context& ctx, std::span<const float> scores, const SelectOptions& options = {});
Graph select(const Context& ctx, std::span<const double> scores, const SelectOptions& options = {});

}  // namespace manyhop

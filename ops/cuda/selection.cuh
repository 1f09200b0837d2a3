// A warp for each head walks down the rows. 32 scores at a time are held against tau: those that stay below
// it are written at once, the first above it enters the set as on the CPU, step by step in the same order, so
// the bits are the same. The set lies in two lists without order, of keys between 0 and 1 and of keys at 1;
// their least keys are known, and looked for by all lanes once they have left.
#pragma once

#include "manyhop/ops/cuda/device.cuh"
#include "manyhop/ops/cuda/runtime.cuh"
#include "manyhop/ops/cuda/selection.hpp"
#include "manyhop/ops/cuda/sparsek.cuh"

namespace manyhop::ops::cuda {

template <class T>
struct Selecting {
  ScoreRows<const T> scores{};
  std::int64_t heads = 0;
  std::int64_t rows = 0;
  double k = 0;
  std::int64_t cap = 0;
  double temperature = 1;
  double* list_score = nullptr;  // [heads][2][cap + 1]
  Index* list_place = nullptr;
  double* score = nullptr;  // [heads][rows]
  double* tau = nullptr;
  Index* until = nullptr;
  std::int64_t* edges = nullptr;  // [heads]
  std::int64_t* capped = nullptr;
  std::int64_t* nan = nullptr;
  std::int64_t* most = nullptr;  // keys of a row

  void take(Arena& arena) {
    const std::int64_t listed = heads * 2 * (cap + 1);
    list_score = arena.take<double>(listed);
    score = arena.take<double>(heads * rows);
    tau = arena.take<double>(heads * rows);
    edges = arena.take<std::int64_t>(heads);
    capped = arena.take<std::int64_t>(heads);
    nan = arena.take<std::int64_t>(heads);
    most = arena.take<std::int64_t>(heads);
    list_place = arena.take<Index>(listed);
    until = arena.take<Index>(heads * rows);
  }
};

struct HeldKey {
  double score;
  std::int64_t place;  // row
  std::int64_t slot;
};

/// Of two keys the one that leaves first: the lower score, of equal ones the earlier.
__device__ __forceinline__ bool leaves_first(const HeldKey& a, const HeldKey& b) {
  return a.score < b.score || (a.score == b.score && a.place < b.place);
}

/// Keys in no order; every lane knows the same count and least key.
struct HeldKeys {
  double* score;
  Index* place;
  std::int64_t count = 0;
  HeldKey least = {INFINITY, 0, 0};

  __device__ __forceinline__ void find_least() {
    sync_warp();  // what lane 0 has written is there
    least = {INFINITY, INT64_MAX, 0};
    for (std::int64_t i = lane_id(); i < count; i += kWarp) {
      const HeldKey key{score[i], place[i], i};
      if (leaves_first(key, least)) least = key;
    }
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      const HeldKey other{shuffle_xor(least.score, lanes), shuffle_xor(least.place, lanes),
                          shuffle_xor(least.slot, lanes)};
      if (leaves_first(other, least)) least = other;
    }
    sync_warp();  // all have read before lane 0 writes again
  }
  __device__ __forceinline__ void put(double value, std::int64_t row) {
    const HeldKey key{value, row, count};
    if (lane_id() == 0) {
      score[count] = value;
      place[count] = static_cast<Index>(row);
    }
    if (count == 0 || leaves_first(key, least)) least = key;
    ++count;
  }
  __device__ __forceinline__ HeldKey take_least() {
    const HeldKey key = least;
    --count;
    if (lane_id() == 0) {
      score[key.slot] = score[count];
      place[key.slot] = place[count];
    }
    find_least();
    return key;
  }
  __device__ __forceinline__ double lowest() const {
    return count == 0 ? static_cast<double>(INFINITY) : least.score;
  }
};

/// CausalSparsek::comparable: beyond 2^30 the steps between neighbouring floats become 2.
__device__ __forceinline__ double comparable_score(double score) {
  constexpr double kApart = 1073741824.0;
  if (!(fabs(score) > kApart)) return score;  // NaN as well
  const std::uint32_t bits = as_bits(static_cast<float>(fabs(score)));
  const std::uint32_t first = as_bits(static_cast<float>(kApart));
  return copysign(kApart + 2.0 * static_cast<double>(bits - first), score);
}

/// The set of CausalSparsek, with lists for heaps; every lane holds the same numbers.
struct SelectionState {
  double k;
  std::int64_t cap;
  HeldKeys between, full;
  Index* until;
  double tau = -INFINITY;
  double lost = -INFINITY;
  double sum = 0;
  double sum_rest = 0;

  __device__ __forceinline__ std::int64_t held() const { return between.count + full.count; }
  __device__ __forceinline__ double bar() const {
    const bool whole = between.count == 0 && full.count > 0 && static_cast<double>(full.count) == k;
    return whole ? fmax(tau, full.lowest() - 1) : tau;
  }
  __device__ __forceinline__ void add(double value) {
    const double total = sum + value;
    const double part = total - sum;
    sum_rest += (sum - (total - part)) + (value - part);
    sum = total;
  }
  __device__ __forceinline__ void leave(std::int64_t key, std::int64_t row) {
    if (lane_id() == 0) until[key] = static_cast<Index>(row);
  }
  __device__ __forceinline__ void enter(double value, std::int64_t row) {
    if (lane_id() == 0) until[row] = kOpenRow;
    if (tau == -INFINITY || value >= tau + 1) {
      full.put(value, row);
    } else {
      between.put(value, row);
      add(value);
    }
    if (held() > cap) {
      const bool inner = between.count > 0;
      const HeldKey out = inner ? between.take_least() : full.take_least();
      if (inner) add(-out.score);
      lost = fmax(lost, out.score);
      leave(out.place, row);
    }
    settle(row);
  }
  __device__ __forceinline__ void settle(std::int64_t row) {
    if (tau == -INFINITY && static_cast<double>(held()) <= k) return;
    for (;;) {
      const double missing = k - static_cast<double>(full.count);
      const double falls = between.lowest();
      const double loosens = full.lowest() - 1;
      double next_tau = INFINITY;
      if (between.count > 0) {
        next_tau = ((sum - missing) + sum_rest) / static_cast<double>(between.count);
      } else if (missing >= 0) {
        next_tau = tau;
      }
      const double next = fmin(falls, loosens);
      if (next_tau <= next) {
        tau = fmax(tau, next_tau);
        break;
      }
      tau = fmax(tau, next);
      if (loosens <= falls) {
        const HeldKey key = full.take_least();
        between.put(key.score, key.place);
        add(key.score);
      } else {
        const HeldKey key = between.take_least();
        add(-key.score);
        leave(key.place, row);
      }
    }
    while (between.count > 0 && between.least.score <= tau) {
      const HeldKey key = between.take_least();
      add(-key.score);
      leave(key.place, row);
    }
    if (between.count == 0) sum = sum_rest = 0;
  }

  static constexpr Index kOpenRow = 0x7fffffff;
};

/// The lowest of the lanes' numbers.
__device__ __forceinline__ int least_of_warp(int value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const int other = shuffle_xor(value, lanes);
    value = other < value ? other : value;
  }
  return value;
}

template <class T>
__global__ void __launch_bounds__(128) select_rows(Selecting<T> s) {
  const std::int64_t head = warp_id();
  if (head >= s.heads) return;
  constexpr int kNobody = static_cast<int>(kWarp);
  const int lane = lane_id();
  double* lists = s.list_score + head * 2 * (s.cap + 1);
  Index* places = s.list_place + head * 2 * (s.cap + 1);
  SelectionState state;
  state.k = s.k;
  state.cap = s.cap;
  state.between = {lists, places};
  state.full = {lists + s.cap + 1, places + s.cap + 1};
  state.until = s.until + head * s.rows;
  std::int64_t edges = 0;
  std::int64_t capped = 0;
  std::int64_t nan = s.rows;
  std::int64_t most = 0;
  for (std::int64_t base = 0; base < s.rows && nan == s.rows; base += kWarp) {
    const std::int64_t row = base + lane;
    const bool here = row < s.rows;
    const std::int64_t left = s.rows - base;
    const int chunk = left < kNobody ? static_cast<int>(left) : kNobody;
    double value = -INFINITY;
    if (here) {
      const auto given =
          static_cast<double>(widen_value(s.scores.data[head * s.scores.row + row * s.scores.step]));
      value = given == -INFINITY ? given : comparable_score(given / s.temperature);
      s.score[head * s.rows + row] = value;
    }
    for (int from = 0; from < chunk;) {
      const bool enters = lane >= from && (value != value || (value > state.tau && value != -INFINITY));
      const int first = least_of_warp(enters ? lane : chunk);
      if (here && lane >= from && lane < first) {
        s.tau[head * s.rows + row] = state.tau;
        state.until[row] = static_cast<Index>(row);
      }
      edges += (first - from) * state.held();
      capped += state.lost > state.bar() ? first - from : 0;
      from = first + 1;
      if (first >= chunk) break;
      if (least_of_warp(lane == first && value != value ? 0 : 1) == 0) {
        nan = base + first;
        break;
      }
      state.enter(most_of_warp(lane == first ? value : static_cast<double>(-INFINITY)), base + first);
      if (lane == first) s.tau[head * s.rows + row] = state.tau;
      edges += state.held();
      most = state.held() > most ? state.held() : most;
      capped += state.lost > state.bar() ? 1 : 0;
    }
  }
  if (lane > 0) return;
  s.edges[head] = edges;
  s.capped[head] = capped;
  s.nan[head] = nan;
  s.most[head] = most;
}

}  // namespace manyhop::ops::cuda

// A warp for each row of scores. tau is found by Newton's method inside a bracket: the sum of the gates is
// linear between breakpoints, so a step from inside the right piece is exact, and a step that leaves the
// bracket halves it instead. Every read of a row after the first comes from a cache.
#pragma once

#include "manyhop/ops/cuda/device.cuh"
#include "manyhop/ops/cuda/sparsek.hpp"

namespace manyhop::ops::cuda {

struct RowTable {
  std::int64_t rows = 0;
  std::int64_t size = 0;
  const std::int64_t* offsets = nullptr;  // [rows + 1], or null
  double k = 0;
  const double* row_k = nullptr;
  double temperature = 1;

  __device__ __forceinline__ std::int64_t count(std::int64_t r) const {
    return offsets == nullptr ? size : offsets[r + 1] - offsets[r];
  }
  template <class T>
  __device__ __forceinline__ T* start(const ScoreRows<T>& of, std::int64_t r) const {
    return of.data + (offsets == nullptr ? r : offsets[r]) * of.row;
  }
};

__device__ __forceinline__ double over_warp(double value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value += shuffle_xor(value, lanes);
  return value;
}
__device__ __forceinline__ double most_of_warp(double value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value = fmax(value, shuffle_xor(value, lanes));
  return value;
}

template <class T>
struct Projection {
  RowTable table{};
  ScoreRows<const T> z{};
  ScoreRows<T> p{};
  double* tau = nullptr;  // [rows], or null
};

/// What a lane's scores add up to at a threshold.
struct Gates {
  double sum = 0;     // of the gates
  double inside = 0;  // gates between 0 and 1
};

template <class T>
struct ScoreRow {
  const T* z;
  std::int64_t step;
  std::int64_t count;
  double temperature;

  __device__ __forceinline__ double score(std::int64_t i) const {
    return static_cast<double>(widen_value(z[i * step])) / temperature;
  }
  __device__ __forceinline__ Gates gates(double tau) const {
    Gates gates;
    for (std::int64_t i = lane_id(); i < count; i += kWarp) {
      const double above = score(i) - tau;
      gates.sum += above >= 1 ? 1.0 : above > 0 ? above : 0.0;
      gates.inside += above > 0 && above < 1 ? 1.0 : 0.0;
    }
    gates.sum = over_warp(gates.sum);
    gates.inside = over_warp(gates.inside);
    return gates;
  }
};

/// tau of a row of finite (or -inf) scores, `there` of them, that lie in [least, most]; 0 <= k < there.
template <class T>
__device__ __forceinline__ double threshold(const ScoreRow<T>& row, double k, double least, double most) {
  if (k == 0) return most;
  constexpr int kMostSteps = 2200;  // halving a bracket of doubles ends before
  double lo = least - 1;            // every gate is 1
  double hi = most;                 // every gate is 0
  double tau = most - 1 > lo ? most - 1 : lo;
  for (int step = 0; step < kMostSteps; ++step) {
    const Gates gates = row.gates(tau);
    const double over = gates.sum - k;
    if (over >= 0) lo = tau;
    if (over <= 0) hi = tau;
    if (over == 0) break;
    // over > 0 makes lo = tau and steps up, over < 0 makes hi = tau and steps down: a step too small to count
    // ends at tau, one that reaches the other end has left its piece.
    double next = tau + over / fmax(gates.inside, 1.0);
    if (gates.inside > 0 && next == tau) break;
    if (gates.inside == 0 || !(next > lo && next < hi)) next = lo + (hi - lo) / 2;
    if (next == lo || next == hi) break;
    tau = next;
  }
  return tau;
}

template <class T>
__global__ void __launch_bounds__(128) project(Projection<T> p) {
  const std::int64_t r = warp_id();
  if (r >= p.table.rows) return;
  const ScoreRow<T> row{p.table.start(p.z, r), p.z.step, p.table.count(r), p.table.temperature};
  T* out = p.table.start(p.p, r);
  const double k = p.table.row_k == nullptr ? p.table.k : p.table.row_k[r];
  double most = -INFINITY;
  double least = INFINITY;
  double there = 0;
  double infinite = 0;
  double nan = 0;
  for (std::int64_t i = lane_id(); i < row.count; i += kWarp) {
    const double x = row.score(i);
    if (x != x) nan = 1;
    if (x != x || x == -INFINITY) continue;
    there += 1;
    if (x == INFINITY) {
      infinite += 1;
      continue;
    }
    most = fmax(most, x);
    least = fmin(least, x);
  }
  nan = over_warp(nan);
  there = over_warp(there);
  infinite = over_warp(infinite);
  most = most_of_warp(most);
  least = -most_of_warp(-least);
  double tau = -INFINITY;  // every score gets 1
  double of_infinite = 1;  // what a score of +inf gets
  if (nan > 0) {
    tau = static_cast<double>(NAN);
  } else if (k < there) {
    if (infinite > 0 && k <= infinite) {
      tau = INFINITY;
      of_infinite = k / infinite;
    } else {
      tau = threshold(row, k, least, most);  // scores of +inf have gate 1 at any tau
    }
  }
  if (p.tau != nullptr && lane_id() == 0) p.tau[r] = tau;
  for (std::int64_t i = lane_id(); i < row.count; i += kWarp) {
    const double x = row.score(i);
    double gate = 0;
    if (nan > 0) {
      gate = static_cast<double>(NAN);
    } else if (x == INFINITY) {
      gate = of_infinite;
    } else if (x != -INFINITY) {
      const double above = x - tau;
      gate = above >= 1 ? 1.0 : above > 0 ? above : 0.0;
    }
    out[i * p.p.step] = narrow_value<T>(gate);
  }
}

template <class T>
struct Derivative {
  RowTable table{};
  ScoreRows<const T> p{};
  ScoreRows<const T> change{};
  ScoreRows<T> out{};
  ScoreRows<const T> z{};
  const double* by_k = nullptr;
  double* means = nullptr;
  double* temperatures = nullptr;
};

template <class T>
__global__ void __launch_bounds__(128) derive(Derivative<T> d) {
  const std::int64_t r = warp_id();
  if (r >= d.table.rows) return;
  const std::int64_t count = d.table.count(r);
  const T* gate = d.table.start(d.p, r);
  const T* change = d.table.start(d.change, r);
  const auto inside = [&](std::int64_t i) {
    const auto value = widen_value(gate[i * d.p.step]);
    return value > 0 && value < 1;
  };
  double sum = 0;
  double members = 0;
  for (std::int64_t i = lane_id(); i < count; i += kWarp) {
    if (!inside(i)) continue;
    sum += static_cast<double>(widen_value(change[i * d.change.step]));
    members += 1;
  }
  sum = over_warp(sum);
  members = over_warp(members);
  const double mean = members > 0 ? sum / members : 0;
  const double share = members > 0 && d.by_k != nullptr ? d.by_k[r] / members : 0;
  double by_temperature = 0;
  for (std::int64_t i = lane_id(); i < count; i += kWarp) {
    double slope = 0;
    if (inside(i)) {
      slope =
          (static_cast<double>(widen_value(change[i * d.change.step])) - mean) / d.table.temperature + share;
      if (d.temperatures != nullptr) {
        by_temperature -= slope * static_cast<double>(widen_value(d.table.start(d.z, r)[i * d.z.step]));
      }
    }
    if (d.out.data != nullptr) d.table.start(d.out, r)[i * d.out.step] = narrow_value<T>(slope);
  }
  if (d.means != nullptr && lane_id() == 0) d.means[r] = mean;
  if (d.temperatures == nullptr) return;
  by_temperature = over_warp(by_temperature);
  if (lane_id() == 0) d.temperatures[r] = by_temperature / d.table.temperature;
}

}  // namespace manyhop::ops::cuda

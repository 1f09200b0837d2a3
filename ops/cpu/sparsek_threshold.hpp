// The search for tau among few or many scores in double.
#pragma once

#include <span>
#include <vector>

#include "manyhop/graphs/base/types.hpp"

namespace manyhop::ops::cpu {

/// p = clip((z - base) - tau, 0, 1): base is a score near tau, so that large scores keep their digits.
struct Threshold {
  double base = 0;
  double tau = 0;
  double sum() const { return base + tau; }
};

/// The smallest tau whose gates sum to k at most, for scores x that are finite, 0 <= k < x.size(). Sorts x
/// (downwards).   Cost O(n log n).
Threshold threshold_by_sorting(std::span<double> x, double k);

/// The same by a bracketed Newton search that drops every score on which the bracket agrees; `lowest` is a
/// bound from below (-inf: none), the scores below which need not be in x; scores are at most 0. Destroys x.
/// With `slack` a tau from below that is about that close will do. False where it did not settle; then x
/// tells nothing.   Cost O(n) expected.
bool threshold_by_search(std::span<double> x, double k, double lowest, double& tau, double slack = 0);

}  // namespace manyhop::ops::cpu

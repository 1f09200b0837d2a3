// The polynomial p(A) = sum_k p_k A^k behind each kernel, and what is known of its tail.
#pragma once

#include <vector>

#include "manyhop/engine/diffusion.hpp"

namespace manyhop::diffusion {

/// log(t^k / k!) - t, for t > 0.
double log_poisson(double t, double k);
/// P(N > k) for N ~ Poisson(t), accurate in the tail.
double poisson_tail(double t, int k);

/// e^{t (s - 1)} P(Poisson(t s) > k): what the Taylor sum of exp(-t (I - A)) leaves out after k, ||A|| <= s.
double heat_bound(double t, double strength, int k);
/// The first k with heat_bound <= tol, or -1 when it is above `most`.
int heat_hops(double t, double strength, double tol, int most);

/// p_k unit^k for k = 0 .. K of ppr, heat or the given coefficients, and their derivative by teleport or t:
/// the weights of (A / unit)^k, which stay finite where those of A^k and its size would not.
std::vector<double> series(const DiffuseOptions& options, int hops, double unit = 1);
std::vector<double> series_slope(const DiffuseOptions& options, int hops, double unit = 1);

}  // namespace manyhop::diffusion

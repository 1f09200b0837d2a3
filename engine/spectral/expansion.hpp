// How well a graph expands: Cheeger bounds and the sweep cut, the Ramanujan verdict, mixing times, diameter
// and capacity. All but capacity look at S of symmetric_graph.hpp, the symmetrised graph whose normalised
// adjacency N = D^-1/2 S D^-1/2 gap() solves; its lambda2, lambda_n and vectors come from there. A number
// that is not defined is empty.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "manyhop/engine/spectral/gap.hpp"
#include "manyhop/engine/spectral/symmetric_graph.hpp"

namespace manyhop::spectral {

/// A set of vertices and the edges that leave it.
struct Cut {
  std::vector<char> inside;  // [n]: 1 for the members, the side of the smaller volume
  Offset size = 0;           // members
  double volume = 0;         // sum of their degrees
  double edges = 0;          // weight of the edges from members to others
  double conductance = 0;    // edges / min(volume, volume of the others); 0 for a part without edges
  std::optional<double> edge_expansion;    // edges / min(size, n - size)
  std::optional<double> vertex_expansion;  // vertices next to the smaller side / its size
};

/// The best of the n - 1 cuts that `vector`, an eigenvector of lambda2 of N, sorts the vertices into:
/// prefixes of the order of x_v / sqrt(d_v). Its conductance is at most sqrt(2 (1 - lambda2)) (Chung,
/// Spectral Graph Theory, 1997, chapter 2). A graph of several components is cut at the component of the
/// least volume: conductance 0; `vector` is not read then.   Cost O(n log n + m); O(n log n + runs log n) for
/// an implicit graph. Empty for n < 2.   Throws ValueError when the vector's length is not n; Interrupted.
std::optional<Cut> sweep_cut(const Context& ctx, const SymmetricGraph& s, std::span<const double> vector);

/// (1 - lambda2)/2 <= phi <= sqrt(2 (1 - lambda2)), phi = the least conductance of a cut; 0 and 0 for several
/// components; empty without a lambda2. The upper bound may pass 1, which no conductance does.
struct Cheeger {
  std::optional<double> lower, upper;
};
Cheeger cheeger(const SymmetricGraph& s, std::optional<double> lambda2);

/// Whether every eigenvalue l of S with |l| != d has |l| <= 2 sqrt(d - 1), for a connected d-regular graph.
struct Ramanujan {
  bool applies = false;
  std::string reason;            // why it does not apply
  double degree = 0;             // d; multiplicities and loops counted
  std::optional<double> bound;   // 2 sqrt(d - 1)
  std::optional<double> lambda;  // largest |l| != d (bipartite: and != -d); empty where there is none
  std::optional<double> ratio;   // lambda / bound
  std::optional<double> margin;  // bound - lambda
  std::optional<double> error;   // of lambda and margin: d residual
  std::optional<bool> verdict;   // empty: the margin is within its error
  bool bipartite = false;
  std::optional<double> alon_boppana;  // what no graph of this degree and diameter gets below (Nilli 1991)
};
/// From both ends of N and their residual. `diameter_lower`: any lower bound of the diameter; l2 >= 2 sqrt(d
/// - 1) - (2 sqrt(d - 1) - 1)/(floor(D/2) - 1) for D >= 4 (A. Nilli, Discrete Mathematics 91, 1991), empty
/// below. Does not apply to graphs that are irregular, of degree below 2, or not connected: `reason`.
Ramanujan ramanujan(const SymmetricGraph& s, std::optional<double> lambda2, std::optional<double> lambda_n,
                    double residual, std::optional<Offset> diameter_lower = std::nullopt);

/// Steps until the total variation distance of a walk is at most eps, from the worst start.
struct MixingTime {
  double eps = 0.25;
  std::optional<double> lower;        // (t_rel - 1) ln(1/(2 eps)), t_rel = 1/(1 - l), l = (1 + lambda2)/2
  std::optional<std::int64_t> upper;  // first t with 1/2 sqrt((1 - pi_min)/pi_min) l^t <= eps
  // The largest first t of the simulated starts; empty where work ran out or eps is below 1e-13.
  std::optional<std::int64_t> simulated;
  int starts = 0;   // simulated
  Index worst = 0;  // the start that took longest
};
struct MixingOptions {
  double eps = 0.25;  // 0 < eps < 1
  int starts = 6;     // least and largest degree, both ends of the vector, then drawn by seed
  std::uint64_t seed = 0;
  double max_work = 1e9;  // edges visited by the simulation; 0: bounds only
};
/// The lazy walk (stay with probability 1/2, else along an edge of S). The simulation is exact for the starts
/// it takes, so it is a lower bound of the mixing time (and equal to it where all vertices are alike). Empty
/// numbers for several components or no edges. `vector` may be empty.   Cost O(starts t (n + m)), bounded by
/// max_work.   Levin, Peres, Wilmer: Markov Chains and Mixing Times, 2009, theorems 12.4 and 12.5.
/// Throws ValueError for eps outside (0, 1), starts < 1, a vector of another length; Interrupted.
MixingTime mixing_time(const Context& ctx, const SymmetricGraph& s, std::optional<double> lambda2,
                       std::span<const double> vector, const MixingOptions& options = {});

/// Hops until what is left of the start is at most eps.
struct HopsFor {
  double eps = 0;
  std::optional<std::int64_t>
      walk;  // first t with 1/2 sqrt((1 - pi_min)/pi_min) l^t <= eps, l = max(|l2|, |ln|)
  std::optional<std::int64_t> ppr;  // ceil(log(eps/2) / log(1 - teleport))
};
/// walk is empty for l = 1 (several components, bipartite), ppr for teleport 0.   Throws ValueError for eps
/// outside (0, 1) or teleport outside [0, 1].
HopsFor hops_for(const SymmetricGraph& s, std::optional<double> lambda2, std::optional<double> lambda_n,
                 double eps, double teleport = 0.1);

/// Largest distance between two vertices.
struct Diameter {
  std::optional<Offset> lower, upper;  // equal: exact; empty: no vertices, or several components
  Offset searches = 0;
};
/// Double sweeps and iFUB (Crescenzi et al., On computing the diameter of real-world undirected graphs, TCS
/// 514, 2013), 64 sources at once where the diameter is small; of classes of twins (blocks of `lift`) one
/// vertex is searched. Stops with bounds once about `max_work` edges have been visited.   Same result for any
/// thread count.   Throws Interrupted.
Diameter diameter(const Context& ctx, const SymmetricGraph& s, double max_work = 2e9);

/// 1/(n sum_v m_v^2), m = (1/K) sum_{t=1..K} (P^T)^t 1/n, P = D_r^-1 A of the graph as given (directed): 1
/// when all tokens carry alike, about (hub tokens)/n when a few carry everything. Empty without vertices or
/// edges. Weights count as in symmetric_graph().   Cost O(K (n + m or runs)).
/// Throws ValueError for rectangles, hops outside 1 .. 1024, negative weights where they count; Interrupted.
std::optional<double> capacity(const Context& ctx, const Graph& graph, int hops = 5, bool weighted = false);

/// What is left without the hubs: vertices whose degree (in the symmetrised 0/1 graph) is above `factor`
/// times the median degree.
struct WithoutHubs {
  Offset hubs = 0;
  std::optional<double> gap;  // of N of the others; the whole graph's where there are no hubs
  double residual = 0;
  bool converged = true;
};
/// Takes the hubs out and solves again.   Cost O(n + m) and one gap().   Throws ValueError for rectangles and
/// a factor below 1; Interrupted.
WithoutHubs without_hubs(const Context& ctx, const Graph& graph, const SpectralOptions& options,
                         double factor = 4);

/// (mu_n - mu_2)/(mu_n + mu_2) of D - S: the least eps with (1 - eps) L_complete <= c L <= (1 + eps)
/// L_complete for some scale c. 0 for the complete graph, 1 for several components.
struct CompleteDistance {
  std::optional<double> value;  // from Ritz values: a lower bound while not converged
  double mu2 = 0, mu_n = 0;
  double residual = 0;
  bool converged = true;
};
/// Regular graphs: from both ends of N; else solved, with at most `max_iterations` restarts.
/// Empty for n < 2.   Throws Interrupted.
CompleteDistance complete_distance(const Context& ctx, const SymmetricGraph& s, std::optional<double> lambda2,
                                   std::optional<double> lambda_n, double residual, double tol = 1e-8,
                                   int max_iterations = 100);

}  // namespace manyhop::spectral

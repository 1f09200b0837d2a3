"""How well a graph mixes: extreme eigenvalues with residuals, expansion, reach, and the search for better patterns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from . import _core, _settings
from ._check import flag, number, numbers, string, whole
from ._graph import Graph
from .errors import BadType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._types import Array, Int, Real

    Operator = Literal["normalized", "adjacency", "laplacian", "transition", "singular", "chung"]

__all__ = ["Result", "design", "gap", "reach", "survey"]


class Result(dict[str, Any]):
    """A dictionary whose keys are attributes too.

    >>> import manyhop as mh
    >>> r = mh.spectral.gap(mh.graph("full", 8))
    >>> r.n, r["edges"], "lambda2" in r
    (8, 64, True)
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no {name!r} here: {', '.join(self)}") from None

    def __dir__(self) -> list[str]:
        return list(self)


def _checked(graph: Graph) -> _core.Graph:
    if not isinstance(graph, Graph):
        raise BadType(f"graph: {type(graph).__name__}, a Graph is wanted")
    return graph._core


def gap(graph: Graph, *, operator: Operator = "normalized", tol: Real = 1e-8, weighted: bool = False, max_iterations: Int = 1000,
        vectors: bool = False, reach_hops: Int = 0) -> Result:
    """Second and last eigenvalue of an operator of a square graph, each to `tol` in ||A x - l x||.

    operator : which matrix, and what its gap is. S = A or A^T as 0/1, or (W + W^T)/2 if `weighted`; loops are kept.

        - "normalized" D^-1/2 S D^-1/2: gap 1 - lambda2
        - "adjacency" S: lambda1 - lambda2
        - "laplacian" I - D^-1/2 S D^-1/2: gap lambda2, the second smallest
        - "transition" D_r^-1 A as given: lambda2 of the second largest modulus (complex where it is), gap 1 - |lambda2|
        - "singular" D_r^-1/2 A D_c^-1/2: gap 1 - sigma2
        - "chung" I - (Pi^1/2 P Pi^-1/2 + its transpose)/2, for strongly connected graphs (else ``applies`` is False)
    tol : on the residual, with ||x|| = 1.
    max_iterations : of 40 products each.
    vectors : also the two eigenvectors [n, 2].
    reach_hops : also :func:`reach` of that many hops.

    Keys: n, edges, operator, method, lambda2, lambda_n, gap, residual, converged, iterations, seconds, symmetrised,
    components, isolated, applies, reason, reach, vectors. Undefined numbers (fewer than two vertices) are None; gap is 0 with
    more than one component. Not converging is data. Errors: BadValue for rectangles and tol that is not positive; LimitError.

    >>> import math, manyhop as mh
    >>> round(mh.spectral.gap(mh.graph("full", 8)).gap, 6)
    1.0
    >>> ring = mh.spectral.gap(mh.graph("window(1, ring=true) - self", 12), operator="laplacian")
    >>> math.isclose(ring.gap, 1 - math.cos(2 * math.pi / 12))
    True
    """
    return Result(_core.gap(_checked(graph), string(operator, "operator"), number(tol, "tol"), flag(weighted, "weighted"),
                            whole(max_iterations, "max_iterations", 1), flag(vectors, "vectors"),
                            whole(reach_hops, "reach_hops"), 0, _settings._limit))


def survey(graph: Graph, *, operator: Operator = "normalized", tol: Real = 1e-8, weighted: bool = False,
           max_iterations: Int = 1000, everything: bool = False, eps: Sequence[Real] | Array = (0.1, 0.01, 0.001),
           teleport: Real = 0.1, seed: Int = 0) -> Result:
    """:func:`gap` and how the graph expands.

    Further keys: cheeger {lower, upper} and cut (the sweep cut of the second eigenvector, its ``conductance`` between them),
    ramanujan {applies, bound, verdict, ...}, mixing {eps, lower, upper, simulated} (steps of the lazy walk), hops_for {eps:
    {walk, ppr}}, diameter (lower, upper), capacity (1: all tokens carry alike after 5 hops; about hubs / n: a few carry all),
    without_hubs, reach; for small graphs, or with `everything`, density, kirchhoff, mean_resistance, discrepancy,
    effective_rank and complete_distance. What does not apply is None.

    eps : of hops_for.
    teleport : of its ppr.
    seed : of random probes.

    >>> import manyhop as mh
    >>> s = mh.spectral.survey(mh.graph("hypercube", 16))
    >>> s.cheeger["lower"] <= s.cut["conductance"] <= s.cheeger["upper"], s.diameter, round(s.capacity, 6)
    (True, (4, 4), 1.0)
    """
    return Result(_core.survey(_checked(graph), string(operator, "operator"), number(tol, "tol"), flag(weighted, "weighted"),
                               whole(max_iterations, "max_iterations", 1), flag(everything, "everything"),
                               numbers(eps, "eps"), number(teleport, "teleport"), whole(seed, "seed", 0, 2**64 - 1), 0,
                               _settings._limit))


def reach(graph: Graph, hops: Int, *, exact_rows: Int = 4096, seed: Int = 0) -> list[dict[str, Any]]:
    """Mean and least share of columns that a row reaches in 1 .. hops steps, or by itself: a list of {hop, mean, min}.

    Exact up to `exact_rows` rows, else over that many rows drawn by `seed`. Cost: linear in hops and edges for every 64 rows.

    >>> import manyhop as mh
    >>> [round(r["mean"], 2) for r in mh.spectral.reach(mh.graph("window(1, ring=true)", 10), 3)]
    [0.3, 0.5, 0.7]
    """
    return _core.reach(_checked(graph), whole(hops, "hops"), whole(exact_rows, "exact_rows", 1),
                       whole(seed, "seed", 0, 2**64 - 1))


def design(n: Int, edges_per_token: Real, *, align: Int = 1, causal: bool = False, keep: str = "", max_ms: Real = 0.0,
           seeds: Int = 2, heads: Int = 1, head_dim: Int = 64, tol: Real = 1e-8) -> Result:
    """Searches for the pattern that mixes best within `edges_per_token` edges a token on average.

    align : blocks are multiples of this many tokens.
    causal : edges to earlier tokens only, judged by reach instead of gap.
    keep : pattern text that every design contains.
    max_ms : slower designs are left out; 0: none.
    seeds : tried for each random part.
    heads, head_dim : of the timed attention.

    Keys: chosen and designs (each {pattern, gap, capacity, reach, edges, padding, predicted_seconds, measured_seconds, pareto,
    baseline}; the Pareto set and, for comparison, bigbird, longformer and diffuser of as many edges), ceiling (1 - 2 sqrt(d - 1)/d,
    d = edges_per_token / align; None from the complete graph on), tried and left_out (candidates that pass the memory limit). The
    search is the same on every machine, the times are not.

    >>> import manyhop as mh
    >>> best = mh.spectral.design(64, 8).chosen
    >>> mh.graph(best["pattern"], 64).nnz <= 8 * 64
    True
    """
    return Result(_core.design(whole(n, "n"), number(edges_per_token, "edges_per_token"), whole(align, "align"),
                               flag(causal, "causal"), string(keep, "keep"), number(max_ms, "max_ms"), whole(seeds, "seeds"),
                               whole(heads, "heads"), whole(head_dim, "head_dim"), number(tol, "tol"), 0))

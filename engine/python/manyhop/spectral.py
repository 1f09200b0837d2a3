"""How well a graph mixes: extreme eigenvalues with residuals, expansion, reach, and the search for better patterns."""

from . import _core, _settings
from ._graph import Graph
from .errors import BadType


class Result(dict):
    """A dictionary whose keys are attributes too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no {name!r} here: {', '.join(self)}") from None

    def __dir__(self):
        return list(self)


def _checked(graph):
    if not isinstance(graph, Graph):
        raise BadType(f"graph: {type(graph).__name__}, a Graph is wanted")
    return graph._core


def gap(graph, *, operator="normalized", tol=1e-8, weighted=False, max_iterations=1000, vectors=False, reach_hops=0):
    """Second and last eigenvalue of an operator of a square graph, each to `tol` in ||A x - l x||.

    operator: "normalized" D^-1/2 S D^-1/2 (S = A or A^T), "adjacency", "laplacian", "transition", "singular", "chung".
    Keys: n, edges, operator, method, lambda2, lambda_n, gap, residual, converged, iterations, seconds, symmetrised,
    components, isolated, applies, reason, reach, vectors [n, 2]. Undefined numbers are None.

    >>> import manyhop as mh
    >>> round(mh.spectral.gap(mh.graph("full", 8)).gap, 6)
    1.0
    """
    return Result(_core.gap(_checked(graph), operator, tol, weighted, max_iterations, vectors, reach_hops, 0,
                            _settings._limit))


def survey(graph, *, operator="normalized", tol=1e-8, weighted=False, max_iterations=1000, everything=False,
           eps=(0.1, 0.01, 0.001), teleport=0.1, seed=0):
    """:func:`gap` and how the graph expands: Cheeger bounds and cut, Ramanujan verdict, mixing time, diameter, reach,
    capacity, hops_for, and (small graphs, or `everything`) spectral density, resistance, discrepancy, effective rank."""
    return Result(_core.survey(_checked(graph), operator, tol, weighted, max_iterations, everything, list(eps), teleport,
                               seed, 0, _settings._limit))


def reach(graph, hops, *, exact_rows=4096, seed=0):
    """Mean and least share of columns that a row reaches in 1 .. hops steps: a list of {hop, mean, min}."""
    return _core.reach(_checked(graph), hops, exact_rows, seed)


def design(n, edges_per_token, *, align=1, causal=False, keep="", max_ms=0.0, seeds=2, heads=1, head_dim=64, tol=1e-8):
    """Searches for the pattern that mixes best within `edges_per_token`; keys: chosen, designs, ceiling, tried."""
    return Result(_core.design(n, float(edges_per_token), align, causal, keep, float(max_ms), seeds, heads, head_dim, tol, 0))

"""Personalised PageRank of single vertices, and graphs rewired by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from . import _core, _settings
from ._check import flag, number, string, to_numpy, whole
from ._graph import Graph
from .errors import BadType, BadValue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._types import Array, Float64, Int, Int64, Real, Tensor


class PprResult(NamedTuple):
    """What :func:`ppr` returns.

    scores : Graph [seeds x n], a row of scores (``scores.weights``) for each seed.
    bound : float64 [seeds], on ||exact - row|| in the 1-norm ("sym": 2-norm), what `topk` left out included.
    visited : int64 [seeds], arcs that were looked at.

    >>> import manyhop as mh
    >>> r = mh.ppr(mh.graph("self", 3), 1)
    >>> r.scores.to_dense().round(3).tolist(), r.bound.shape, r.visited.shape
    ([[0.0, 1.0, 0.0]], (1,), (1,))
    """

    scores: Graph  #: [seeds x n], a row of scores (``scores.weights``) for each seed
    bound: Float64  #: [seeds], on ||exact - row|| in the 1-norm (sym: 2-norm), what `topk` left out included
    visited: Int64  #: [seeds], arcs that were looked at


def _vertices(seeds):
    array = to_numpy(seeds, "seeds")
    if array.size == 0 and array.ndim <= 1:
        return np.zeros(0, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise BadType(f"seeds: {array.dtype}, vertices as integers are wanted")
    if array.ndim > 1:
        raise BadValue(f"seeds: {array.ndim} axes, one vertex or [seeds] is wanted")
    if array.dtype.kind == "u" and int(array.max()) >= 2**63:
        raise BadValue(f"seeds: {int(array.max())} is no vertex")
    return np.ascontiguousarray(np.atleast_1d(array), dtype=np.int64)


def ppr(graph: Graph, seeds: Int | Sequence[int] | Array | Tensor, tol: Real = 1e-4, topk: Int | None = None, *,
        teleport: Real = 0.1, normalization: Literal["col", "row", "sym"] = "col",
        dangling: Literal["zero", "self", "restart"] = "zero") -> PprResult:
    """Personalised PageRank of each seed by forward push: cost at most degree + 1 / (teleport tol) arcs of a seed, whatever n.

    Row s of ``scores`` is a sum_k (1-a)^k P^k e_seed, a = teleport. ``"col"`` walks along arcs, from a column to the rows that
    receive from it: column `seed` of what :func:`diffuse` applies. ``"row"`` walks against them, to the columns that a row
    hears: *row* `seed` of what diffuse applies. Both are the same on undirected graphs. ``"sym"`` (symmetric graphs only) is
    D^-1/2 A D^-1/2.

    seeds : a vertex or [seeds].
    tol : a vertex passes its residual on while that is above tol times its number of arcs.
    topk : keeps the k largest scores of a seed.
    dangling : what a walk does at a vertex without arcs: "zero" ends it, "self" stays, "restart" goes back to the seed.

    Errors: BadValue for a seed that is no vertex, tol that is not above 0, teleport outside (0, 1]; BadType. No seeds: a graph of 0 rows.

    Returns :class:`PprResult`; scores are below the exact ones, by at most ``bound`` in sum.

    Source: Andersen, Chung, Lang, Local graph partitioning using PageRank vectors, FOCS 2006.

    >>> import manyhop as mh
    >>> r = mh.ppr(mh.graph("window(1, ring=true)", 1000), [0, 500], tol=1e-6, topk=3)
    >>> r.scores.shape, r.scores.rows(0, 1).indices.tolist()
    ((2, 1000), [0, 1, 999])
    """
    if not isinstance(graph, Graph):
        raise BadType(f"graph: {type(graph).__name__}, a Graph is wanted")
    topk = None if topk is None else whole(topk, "topk", 1, 2**63 - 1)
    scores, bound, visited = _core.ppr(graph._core, _vertices(seeds), number(teleport, "teleport"), number(tol, "tol"), topk,
                                       string(normalization, "normalization"), string(dangling, "dangling"),
                                       _settings._limit)
    return PprResult(Graph(scores), bound, visited)


def gdc(graph: Graph, topk: Int | None = 64, tol: Real = 1e-4, *, teleport: Real = 0.15,
        normalization: Literal["col", "row", "sym"] = "sym", self_loops: bool = True) -> Graph:
    """Graph diffusion convolution: the graph of the largest personalised PageRank scores of every vertex.

    Row i of the result holds the `topk` columns that matter most to i ("col": column j the rows that j matters most to), with
    their scores as weights; diffuse it, or attend over it. No n x n matrix is made: the cost is that of :func:`ppr` for all
    vertices. `self_loops` adds the identity first.

    Source: Gasteiger, Weissenberger, Guennemann, Diffusion improves graph learning, NeurIPS 2019.

    >>> import manyhop as mh
    >>> g = mh.gdc(mh.graph("window(1)", 50), topk=5)
    >>> g.shape, int(g.degrees().max())
    ((50, 50), 5)
    """
    if not isinstance(graph, Graph):
        raise BadType(f"graph: {type(graph).__name__}, a Graph is wanted")
    if graph.shape[0] != graph.shape[1]:
        raise BadValue(f"graph: {graph.shape[0]} x {graph.shape[1]}, as many rows as columns are wanted")
    if flag(self_loops, "self_loops"):
        graph = _with_loops(graph)
    found = ppr(graph, np.arange(graph.shape[0]), tol, topk, teleport=teleport, normalization=normalization).scores
    return found.transpose() if normalization == "col" else found


def _with_loops(graph):
    """Weight 1 is added to every loop, as in A + I."""
    n = graph.shape[0]
    rows = np.repeat(np.arange(n, dtype=np.int32), graph.degrees())
    loops = np.arange(n, dtype=np.int32)
    weights = np.ones(graph.nnz) if graph.weights is None else graph.weights
    return Graph(_core.Graph.from_edges(n, n, np.concatenate([rows, loops]), np.concatenate([graph.indices, loops]),
                                        np.concatenate([weights, np.ones(n)])))

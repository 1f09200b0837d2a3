"""Personalised PageRank of single vertices, and graphs rewired by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from . import _core, _settings
from ._check import choice, flag, laid_out, number, string, to_numpy, whole
from ._diffusion import diffuse
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
    if array.dtype == np.uint64 and int(array.max()) >= 2**63:
        raise BadValue(f"seeds: {int(array.max())} is no vertex")
    return laid_out(np.atleast_1d(array), np.int64, "seeds")


def ppr(graph: Graph, seeds: Int | Sequence[int] | Array | Tensor, tol: Real = 1e-4, topk: Int | None = None, *,
        teleport: Real = 0.1, normalization: Literal["col", "row", "sym"] = "col",
        dangling: Literal["zero", "self", "restart"] = "zero") -> PprResult:
    """Personalised PageRank of each seed by forward push: at most degree + 1 / (teleport tol) arcs of a seed.

    Row s of ``scores`` is a sum_k (1-a)^k P^k e_seed, a = teleport. ``"col"`` walks along arcs, from a column to the rows that
    receive from it: column `seed` of what :func:`diffuse` applies. ``"row"`` walks against them, to the columns that a row
    hears: *row* `seed` of what diffuse applies. Both are the same on undirected graphs. ``"sym"`` (symmetric graphs only) is
    D^-1/2 A D^-1/2.

    seeds : a vertex or [seeds].
    tol : a vertex passes its residual on while that is above tol times its number of arcs.
    topk : keeps the k largest scores of a seed.
    dangling : what a walk does at a vertex without arcs: "zero" ends it, "self" stays, "restart" goes back to the seed.

    Cost: that of the seeds, whatever n; but the first call with "col" or "sym" for a graph makes the transpose that the graph
    keeps, linear in all its edges (seconds for ten million).
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


def gdc(graph: Graph, topk: Int | None = 64, tol: Real = 1e-4, *, kernel: Literal["ppr", "heat"] = "ppr", teleport: Real = 0.15,
        t: Real = 5.0, eps: Real | None = None, normalization: Literal["col", "row", "sym"] = "sym",
        self_loops: bool = True) -> Graph:
    """Graph diffusion convolution: the graph of the largest diffusion weights of every vertex.

    Row i of the result holds the columns that matter most to i ("col": column j the rows that j matters most to), with their
    weights in sum_k teleport (1 - teleport)^k A^k (kernel "ppr") or exp(-t (I - A)) ("heat"); diffuse it, or attend over it.

    topk : how many each vertex keeps at most, None for no such number.
    tol : "ppr" that of :func:`ppr`; "heat" the bound of :func:`diffuse`.
    eps : the least weight that is kept, from 0; beside `topk` both count (``topk=None`` leaves eps alone).
    teleport, t : of the kernel "ppr" and of "heat".
    normalization : "sym", "row" or "col" as in diffuse; ppr's "sym" wants a symmetric graph.
    self_loops : adds the identity first.

    No n x n matrix is made. Cost: "ppr" that of :func:`ppr` for all vertices, the same for any n each; "heat" goes to all
    vertices from each, 2 n nnz flops a hop. Memory: linear in tokens and edges, of both graphs. Errors: BadValue, BadType;
    LimitError, where no `topk` and no `eps` keeps the result small.

    Source: Gasteiger, Weissenberger, Guennemann, Diffusion improves graph learning, NeurIPS 2019.

    >>> import manyhop as mh
    >>> g = mh.gdc(mh.graph("window(1)", 50), topk=5)
    >>> g.shape, int(g.degrees().max())
    ((50, 50), 5)
    >>> mh.gdc(mh.graph("window(1)", 50), None, kernel="heat", t=1.0, eps=0.05).degrees()[:4].tolist()
    [2, 3, 3, 3]
    """
    if not isinstance(graph, Graph):
        raise BadType(f"graph: {type(graph).__name__}, a Graph is wanted")
    if graph.shape[0] != graph.shape[1]:
        raise BadValue(f"graph: {graph.shape[0]} x {graph.shape[1]}, as many rows as columns are wanted")
    topk, eps = check_gdc(topk, tol, kernel, teleport, t, eps, normalization, self_loops)
    if self_loops:
        graph = _with_loops(graph)
    if kernel == "heat":
        found = _heat(graph, topk, tol, t, eps, normalization)
    else:
        found = ppr(graph, np.arange(graph.shape[0]), tol, topk, teleport=teleport, normalization=normalization).scores
        found = found if eps is None else _at_least(found, eps)
    return found.transpose() if normalization == "col" else found


def check_gdc(topk, tol, kernel, teleport, t, eps, normalization, self_loops):
    """topk and eps of the right kinds; the ranges of teleport and t are for ppr and diffuse to say."""
    flag(self_loops, "self_loops")
    choice(kernel, "kernel", ("ppr", "heat"))
    choice(normalization, "normalization", ("sym", "row", "col"))
    for name, value, default, owner in (("teleport", teleport, 0.15, "ppr"), ("t", t, 5.0, "heat")):
        if kernel != owner and number(value, name) != default:
            raise BadValue(f"{name}: {value} with kernel {kernel}, only kernel {owner} takes it")
    if not number(tol, "tol") > 0:
        raise BadValue(f"tol: {tol}, a number above 0 is wanted")
    return None if topk is None else whole(topk, "topk", 1, 2**63 - 1), None if eps is None else number(eps, "eps", 0)


def _at_least(graph, least):
    """The graph without edges of a smaller weight."""
    kept = graph.weights >= least
    indptr = np.concatenate([[0], np.cumsum(kept)])[graph.indptr]
    return Graph.from_csr(indptr, graph.indices[kept], graph.weights[kept], shape=graph.shape)


_COLUMNS = 64  # signals of one call to diffuse


def _heat(graph, topk, tol, t, eps, normalization):
    """Row s: what is kept of column s of exp(-t (I - A)) ("col"), or else of its row s, a column of that of the transpose."""
    n = graph.shape[0]
    if normalization != "col":
        graph, normalization = graph.transpose(), {"sym": "sym", "row": "col"}[normalization]
    indices, weights, counts, edges = [], [], np.zeros(n + 1, dtype=np.int64), 0
    for first in range(0, n, _COLUMNS):
        count = min(_COLUMNS, n - first)
        signals = _settings.empty((n, count), np.float64, f"{count} signals of {n} vertices")
        signals.fill(0)
        signals[np.arange(first, first + count), np.arange(count)] = 1
        spread = diffuse(graph, signals, "heat", t=t, tol=tol, normalization=normalization).value
        for s, values in enumerate(np.ascontiguousarray(spread.T), first):
            columns = _largest(values, topk, eps)
            indices.append(columns.astype(np.int32))
            weights.append(values[columns])
            counts[s + 1] = len(columns)
        edges += int(counts[first + 1:first + count + 1].sum())
        _settings.need_memory(24 * edges, f"a graph of {edges} edges or more")
    return Graph.from_csr(np.cumsum(counts), np.concatenate([np.zeros(0, np.int32), *indices]),
                          np.concatenate([np.zeros(0), *weights]), shape=(n, n))


def _largest(values, count, least):
    """Where the `count` largest of the positive values are, in order of position; of equal ones the first."""
    places = np.flatnonzero(values > 0 if least is None else (values >= least) & (values > 0))
    if count is None or len(places) <= count:
        return places
    found = values[places]
    last = np.partition(found, len(found) - count)[len(found) - count]
    above = found > last
    equal = np.flatnonzero(found == last)[:count - int(above.sum())]
    above[equal] = True
    return places[above]


def _with_loops(graph):
    """Weight 1 is added to every loop, as in A + I."""
    n = graph.shape[0]
    rows = np.repeat(np.arange(n, dtype=np.int32), graph.degrees())
    loops = np.arange(n, dtype=np.int32)
    weights = np.ones(graph.nnz) if graph.weights is None else graph.weights
    return Graph(_core.Graph.from_edges(n, n, np.concatenate([rows, loops]), np.concatenate([graph.indices, loops]),
                                        np.concatenate([weights, np.ones(n)])))

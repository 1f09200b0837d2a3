"""Pictures of graphs, spectra and attention, on matplotlib. Each function draws on `ax` (a new one when None) and returns it.

>>> import manyhop as mh
>>> ax = mh.plot.spy(mh.graph("window(2)|global(1)", 40))                       # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

try:
    from matplotlib import pyplot
except ImportError as error:  # pragma: no cover
    from .errors import Error

    raise Error("manyhop.plot wants the package matplotlib, which is not installed here: pip install matplotlib") from error

from . import spectral
from ._attention import attention
from ._check import number, real, whole
from ._graph import Graph
from .errors import BadType, BadValue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from ._types import ArrayLike, Int, Real

__all__ = ["attention_text", "degree", "reach", "spectrum", "spy"]

_MOST_PIXELS = 512


def _axes(ax: Axes | None, size: tuple[float, float] = (4, 4)) -> Axes:
    return pyplot.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def _want_graph(graph):
    if not isinstance(graph, Graph):
        raise BadType(f"graph: {type(graph).__name__}, a Graph is wanted")


def _title(ax, graph):
    ax.set_title(graph.text or f"{graph.shape[0]} x {graph.shape[1]}, {graph.nnz} edges", fontsize="medium")


def spy(graph: Graph, ax: Axes | None = None, *, cells: Int = 256) -> Axes:
    """Where the edges are: rows receive, columns send; a pixel is darker the more of its pairs are edges.

    cells : pixels along the longer side, at most; the shade is the square root of the share of edges.

    >>> import manyhop as mh
    >>> mh.plot.spy(mh.graph("window(2)|global(1)", 40)).get_xlabel()
    'column (sends)'
    """
    _want_graph(graph)
    cells = whole(cells, "cells", 1, _MOST_PIXELS * 8)
    ax = _axes(ax)
    rows, cols = graph.shape
    block = max(1, -(-max(rows, cols) // cells))
    height, width = max(1, -(-rows // block)), max(1, -(-cols // block))
    counts = _counts(graph, block, height, width)
    pairs = np.outer(np.minimum(block, rows - np.arange(height) * block), np.minimum(block, cols - np.arange(width) * block))
    share = counts / np.maximum(pairs, 1)
    # Square roots keep single edges of a large graph visible.
    ax.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1, interpolation="nearest",
              extent=(-0.5, max(cols, 1) - 0.5, max(rows, 1) - 0.5, -0.5))
    ax.set_xlabel("column (sends)")
    ax.set_ylabel("row (receives)")
    _title(ax, graph)
    return ax


def _counts(graph, block, height, width):
    """Edges of each `block` x `block` pairs. The runs of ``full`` and its like are counted by their ends, whatever their length."""
    rows = graph.shape[0]
    if not graph._core.implicit:
        counts = np.zeros((height, width), dtype=np.int64)
        for y in range(-(-rows // block)):
            part = graph.rows(y * block, min(y * block + block, rows))
            counts[y] = np.bincount(part.indices // block, minlength=width)
        return counts
    offsets, ends = graph._core.runs()
    y = np.repeat(np.arange(rows), np.diff(offsets)) // block
    below = np.zeros((height, width + 1), dtype=np.int64)  # whole blocks: how many runs cover them, as steps
    counts = np.zeros((height, width + 1), dtype=np.int64)
    for end, sign in ((ends[1::2], 1), (ends[::2], -1)):  # a run is what lies below its end, without what lies below its begin
        np.add.at(below, (y, 0), sign)
        np.add.at(below, (y, end // block), -sign)
        np.add.at(counts, (y, end // block), sign * (end % block).astype(np.int64))
    return (counts + block * np.cumsum(below, axis=1))[:, :width]


def _column_degrees(graph):
    if not graph._core.implicit:
        return np.bincount(graph.indices, minlength=graph.shape[1])
    _, ends = graph._core.runs()
    steps = np.bincount(ends[::2], minlength=graph.shape[1] + 1) - np.bincount(ends[1::2], minlength=graph.shape[1] + 1)
    return np.cumsum(steps)[:-1]


def degree(graph: Graph, ax: Axes | None = None) -> Axes:
    """How many rows hear how many columns, and how many columns are heard how often; logarithmic where hubs stand out.

    >>> import manyhop as mh
    >>> mh.plot.degree(mh.graph("window(2)|random(2)", 40)).get_xlabel()
    'edges'
    """
    _want_graph(graph)
    ax = _axes(ax, (5, 3.2))
    rows = graph.degrees()
    cols = _column_degrees(graph)
    most = int(max(rows.max(initial=0), cols.max(initial=0)))
    wide = most > 50 * max(1.0, float(np.median(rows)) if len(rows) else 1.0)
    edges = np.unique(np.geomspace(1, most + 1, 40).astype(int)) if wide else np.arange(most + 2)
    edges = np.concatenate([[0], edges]) if edges[0] > 0 else edges
    if len(edges) > 80:
        edges = np.linspace(0, most + 1, 80)
    for values, name in ((rows, "rows (hear)"), (cols, "columns (are heard)")):
        ax.hist(values, bins=edges, histtype="stepfilled", alpha=0.5, label=name)
    if wide:
        ax.set_xscale("symlog")
        ax.set_yscale("symlog")
    ax.set_xlabel("edges")
    ax.set_ylabel("vertices")
    ax.legend(frameon=False)
    _title(ax, graph)
    return ax


def reach(graphs: Graph | Sequence[Graph], ax: Axes | None = None, *, hops: Int = 5) -> Axes:
    """Mean share of the tokens that a token hears within 1 .. hops hops, a line for each graph. `graphs`: one or a list.

    >>> import manyhop as mh
    >>> len(mh.plot.reach([mh.graph("window(2)", 40), mh.graph("regular(4)", 40)], hops=3).lines)
    2
    """
    if not isinstance(graphs, (list, tuple)):
        graphs = [graphs]
    hops = whole(hops, "hops")
    ax = _axes(ax, (5, 3.2))
    for number, graph in enumerate(graphs):
        _want_graph(graph)
        found = spectral.reach(graph, hops)
        ax.plot([r["hop"] for r in found], [r["mean"] for r in found], marker="o", label=graph.text or f"graph {number + 1}")
    ax.set_xlabel("hops")
    ax.set_ylabel("share of tokens reached")
    ax.set_ylim(0, 1.03)
    ax.set_xticks(range(1, hops + 1))
    ax.legend(frameon=False, fontsize="small")
    return ax


def spectrum(graph: Graph, ax: Axes | None = None) -> Axes:
    """Density of the eigenvalues of the normalised adjacency, from random probes, beside the law of a random graph.

    The dotted line is lambda2: what is left of it to 1 is the gap.

    >>> import manyhop as mh
    >>> mh.plot.spectrum(mh.graph("regular(6)", 64)).get_xlabel()
    'eigenvalue'
    """
    _want_graph(graph)
    ax = _axes(ax, (5, 3.2))
    found = spectral.survey(graph, everything=True)
    density = found["density"]
    edges, share = np.asarray(density["edges"]), np.asarray(density["kpm"])
    edges = edges if edges.size else np.zeros(1)  # no vertices
    width = np.diff(edges)
    ax.stairs(share / width, edges, fill=True, alpha=0.5, label="eigenvalues")
    law = np.asarray(density["law_share"])
    if density["law"] and law.size:
        ax.plot((edges[1:] + edges[:-1]) / 2, law / width, "k--", linewidth=1, label=density["law"])
    if found["lambda2"] is not None:
        ax.axvline(found["lambda2"], color="tab:red", linestyle=":", label=f"lambda2 = {found['lambda2']:.4f}")
    ax.set_xlabel("eigenvalue")
    ax.set_ylabel("density")
    ax.legend(frameon=False, fontsize="small")
    _title(ax, graph)
    return ax


def attention_text(tokens: Sequence[Any], q: ArrayLike, k: ArrayLike, graph: Graph, token: Int, ax: Axes | None = None, *,
                   hops: Int = 5, teleport: Real = 0.1, scale: Real | None = None, columns: Int = 12) -> Axes:
    """Who reaches one token within the hops: its words, each shaded by its weight in row `token` of the diffused attention.

    tokens : the n words.
    q, k : [n, d] of one head.
    token : the row that is shown.

    The weights are a sum over paths of all lengths; they add up to 1 for a row whose paths all have edges.

    >>> import numpy as np, manyhop as mh
    >>> words = "a row receives and a column sends".split()
    >>> q, k = np.random.default_rng(0).standard_normal((2, 7, 4))
    >>> mh.plot.attention_text(words, q, k, mh.graph("window(1)", 7), 2, hops=3).get_title()
    "heard by 'receives' within 3 hops"
    """
    _want_graph(graph)
    if not hasattr(tokens, "__len__"):
        raise BadType(f"tokens: {type(tokens).__name__}, a list of words is wanted")
    n = len(tokens)
    if graph.shape != (n, n):
        raise BadValue(f"graph: {graph.shape[0]} x {graph.shape[1]} for {n} tokens")
    token, hops, columns = whole(token, "token"), whole(hops, "hops"), whole(columns, "columns", 1)
    if token >= n:
        raise BadValue(f"token: {token} of {n}")
    teleport = number(teleport, "teleport")
    if not 0 <= teleport <= 1:
        raise BadValue(f"teleport: {teleport} is outside [0, 1]")
    weights = diffused_row(real(q, "q", np.float64), real(k, "k", np.float64), graph, token, hops, teleport, scale)
    lines = -(-n // columns)
    ax = _axes(ax, (1.0 * columns, 0.42 * lines + 0.6))
    most = max(weights.max(), 1e-300)
    for i, word in enumerate(tokens):
        x, y = i % columns, i // columns
        strength = float(np.sqrt(weights[i] / most))
        ax.add_patch(pyplot.Rectangle((x, y), 1, 1, facecolor=pyplot.get_cmap("Blues")(0.85 * strength),
                                      edgecolor="tab:red" if i == token else "none", linewidth=2))
        shown = str(word) if len(str(word)) <= 11 else str(word)[:10] + "…"
        ax.text(x + 0.5, y + 0.5, shown.replace("$", r"\$"), ha="center", va="center", fontsize=8,
                color="white" if strength > 0.75 else "black")
    ax.set_xlim(0, columns)
    ax.set_ylim(lines, 0)
    ax.set_axis_off()
    ax.set_title(f"heard by {tokens[token]!r} within {hops} hops".replace("$", r"\$"), fontsize="medium")
    return ax


def diffused_row(q, k, graph, token, hops, teleport, scale=None):
    """[n]: row `token` of (1-a)^K A^K + a sum_{i<K} (1-a)^i A^i, a product with A^T a hop."""
    q, k = q[None, None], k[None, None]
    _, a = attention(q, k, np.zeros((*k.shape[:3], 1)), graph, scale=scale, return_weights=True)
    heard = graph.with_weights(a.reshape(-1)).transpose()
    columns = np.repeat(np.arange(graph.shape[0]), heard.degrees())
    row = np.zeros(graph.shape[0])
    row[token] = 1
    total = teleport * row if hops > 0 else row.copy()
    for hop in range(1, hops + 1):
        row = (1 - teleport) * np.bincount(columns, heard.weights * row[heard.indices], minlength=len(row))
        total += row if hop == hops else teleport * row
    return total

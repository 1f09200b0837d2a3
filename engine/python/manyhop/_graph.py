"""Token graphs: who receives from whom, in CSR by row."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from ._check import flag, is_compiling, path_name, vector, whole
from ._conversions import Conversions, two, values_or_none
from ._settings import need_memory
from .errors import BadType, BadValue, Error

if TYPE_CHECKING:
    from os import PathLike

    from ._types import ArrayLike, Float64, Int, Int32, Int64, Shape

_numbers = itertools.count(1)
# Compiled torch programs name graphs by number.
_by_number: weakref.WeakValueDictionary[int, Graph] = weakref.WeakValueDictionary()


class Graph(Conversions):
    """A token graph: row i (query) receives from column j (key) over edge (i, j).

    Immutable; made by :func:`graph`, :func:`batch`, the ``from_`` methods and the operators ``|``, ``&``, ``-``.
    ``indptr`` (int64, n_rows + 1), ``indices`` (int32, nnz, increasing in a row) and ``weights`` (float64, nnz, or None)
    are NumPy views of the graph's own memory.

    >>> import manyhop as mh
    >>> g = mh.graph("window(1)|global(1)", 4)
    >>> g
    Graph('window(1) | global(1)', 4 x 4, 14 edges)
    >>> g.indices[g.indptr[3]:g.indptr[4]].tolist()
    [0, 2, 3]

    ``a | b`` unites edges, ``a & b`` intersects, ``a - b`` removes; weights are dropped. ``a == b`` compares shape, edges and
    weights. Graphs pickle (``full`` and its like without their edges), copies are the graph itself, and they hash by shape and
    edges.

    >>> (g - mh.graph("global(1)", 4)).nnz, g == mh.graph("window(1)", 4) | mh.graph("global(1)", 4)
    (7, True)
    """

    __slots__ = ("_core", "_number", "__weakref__")

    def __init__(self, core: _core.Graph) -> None:
        if not isinstance(core, _core.Graph):
            raise BadType("Graph: made by mh.graph(), mh.batch() or Graph.from_...(), not by its constructor")
        self._core = core
        self._number = next(_numbers)
        _by_number[self._number] = self

    # Structure
    @property
    def shape(self) -> tuple[int, int]:
        """(n_rows, n_cols).

        >>> import manyhop as mh
        >>> mh.graph("full", 2, 5).shape
        (2, 5)
        """
        if is_compiling():
            return of_program(_shape, self)
        return _shape(self)

    @property
    def nnz(self) -> int:
        """Number of edges. Counted, not enumerated, for graphs such as ``full``.

        >>> import manyhop as mh
        >>> mh.graph("causal", 100000).nnz
        5000050000
        """
        if is_compiling():
            return of_program(_nnz, self)
        return _nnz(self)

    @property
    def indptr(self) -> Int64:
        """int64 [n_rows + 1]: row i has the edges indptr[i] .. indptr[i + 1] - 1. A read-only view of the graph's memory.

        >>> import manyhop as mh
        >>> mh.graph("window(1)", 4).indptr.tolist()
        [0, 2, 5, 8, 10]
        """
        return self._core.indptr

    @property
    def indices(self) -> Int32:
        """int32 [nnz]: the columns, increasing within a row. A read-only view of the graph's memory. Those of a graph such as
        ``full`` are written when first asked for (LimitError where they pass the memory limit).

        >>> import manyhop as mh
        >>> mh.graph("window(1)", 3).indices.tolist()
        [0, 1, 0, 1, 2, 1, 2]
        """
        if self._core.implicit:
            need_memory(4 * self.nnz, f"an array of {self.nnz} columns")
        return self._core.indices

    @property
    def weights(self) -> Float64 | None:
        """float64 [nnz] in the order of ``indices``, or None. A read-only view of the graph's memory.

        >>> import manyhop as mh
        >>> mh.graph("self", 2).with_weights([3, 4]).weights.tolist(), mh.graph("self", 2).weights
        ([3.0, 4.0], None)
        """
        return self._core.weights

    @property
    def text(self) -> str:
        """The pattern text it was made from; empty for arrays and files.

        >>> import manyhop as mh
        >>> mh.graph("window(2)|global(1)", 9).text
        'window(2) | global(1)'
        """
        return self._core.text

    @property
    def nbytes(self) -> int:
        """Bytes held. Graphs such as ``full`` hold runs, until ``indices`` is asked for.

        >>> import manyhop as mh
        >>> mh.graph("full", 10000).nbytes < 10000 * 10000
        True
        """
        return self._core.nbytes

    @property
    def row_offsets(self) -> Int64:
        """int64 [sequences + 1]: rows offsets[s] .. offsets[s + 1] - 1 belong to sequence s of a :func:`batch`.

        >>> import manyhop as mh
        >>> mh.batch([mh.graph("self", 2), mh.graph("self", 3)]).row_offsets.tolist(), mh.graph("self", 2).row_offsets.tolist()
        ([0, 2, 5], [0, 2])
        """
        return np.asarray(self._core.row_offsets(), dtype=np.int64)

    @property
    def col_offsets(self) -> Int64:
        """int64 [sequences + 1]: as ``row_offsets``, of columns.

        >>> import manyhop as mh
        >>> mh.batch([mh.graph("full", 2, 4), mh.graph("full", 3)]).col_offsets.tolist()
        [0, 4, 7]
        """
        return np.asarray(self._core.col_offsets(), dtype=np.int64)

    def rows(self, i: Int, j: Int) -> Graph:
        """Rows i .. j - 1 over the same columns, as in decoding. BadValue outside 0 <= i <= j <= n_rows.

        >>> import manyhop as mh
        >>> last = mh.graph("causal & window(2)", 8).rows(7, 8)
        >>> last.shape, last.indices.tolist()
        ((1, 8), [5, 6, 7])
        """
        return self._derived("rows", whole(i, "rows"), whole(j, "rows"))

    def transpose(self) -> Graph:
        """Columns send where rows received; weights follow. Cost: linear in the edges.

        >>> import manyhop as mh
        >>> mh.graph("causal", 3).transpose().to_dense().tolist()
        [[1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]
        """
        return self._derived("transpose")

    def symmetrised(self) -> Graph:
        """Edges in both directions, without weights; square graphs only.

        >>> import manyhop as mh
        >>> mh.graph("causal & window(1)", 3).symmetrised() == mh.graph("window(1)", 3)
        True
        """
        return self._derived("symmetrised")

    def with_weights(self, weights: ArrayLike | None) -> Graph:
        """The same edges with other weights [nnz] in the order of ``indices``, or without (None). A tensor leaves its gradient.

        >>> import manyhop as mh
        >>> mh.graph("self", 2).with_weights([3, 4]).to_dense().tolist()
        [[3.0, 0.0], [0.0, 4.0]]
        """
        if weights is None:
            return Graph(self._core.without_weights())
        return Graph(self._core.with_weights(values_or_none(weights, length=self.nnz)))

    def is_symmetric(self) -> bool:
        """Whether each edge (i, j) has (j, i) of the same weight beside it.

        >>> import manyhop as mh
        >>> mh.graph("window(1)", 4).is_symmetric(), mh.graph("causal", 4).is_symmetric()
        (True, False)
        """
        return self._core.is_symmetric()

    def components(self) -> tuple[int, int, Int32]:
        """(number of weak components, isolated vertices, label of each vertex); directions do not matter.

        >>> import manyhop as mh
        >>> count, isolated, labels = mh.graph("block(2)", 4).components()
        >>> count, isolated, labels.tolist()
        (2, 0, [0, 0, 1, 1])
        """
        return self._core.components()

    def degrees(self) -> Int64:
        """int64 [n_rows]: the edges of each row, itself included where it is one.

        >>> import manyhop as mh
        >>> mh.graph("window(1)", 4).degrees().tolist()
        [2, 3, 3, 2]
        """
        return np.diff(self.indptr)

    def _derived(self, operation: str, *given: Any) -> Graph:
        if is_compiling():
            return of_program(_derivation, operation, self, *given)
        return _derivation(operation, self, *given)

    def __or__(self, other: Graph) -> Graph:
        return self._derived("unite", other) if isinstance(other, Graph) else NotImplemented

    def __and__(self, other: Graph) -> Graph:
        return self._derived("intersect", other) if isinstance(other, Graph) else NotImplemented

    def __sub__(self, other: Graph) -> Graph:
        return self._derived("subtract", other) if isinstance(other, Graph) else NotImplemented

    def __eq__(self, other: object) -> bool:
        """Same shape, edges and weights."""
        if not isinstance(other, Graph):
            return NotImplemented
        if self is other:
            return True
        if self.shape != other.shape or self.nnz != other.nnz or not self._core.same_edges(other._core):
            return False
        mine, theirs = self.weights, other.weights
        if mine is None or theirs is None:
            return mine is theirs
        return np.array_equal(mine, theirs)

    def __hash__(self) -> int:
        return self._core.hash

    def __repr__(self) -> str:
        name = f"{self.text!r}, " if self.text else ""
        weighted = ", weighted" if self._core.weighted else ""
        return f"Graph({name}{self.shape[0]} x {self.shape[1]}, {self.nnz} edges{weighted})"

    def __copy__(self) -> Graph:
        return self

    def __deepcopy__(self, memo: Any) -> Graph:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if len(self.row_offsets) > 2:
            rows, cols = self.row_offsets, self.col_offsets
            items = [(self.rows(int(rows[s]), int(rows[s + 1])), int(cols[s]), int(cols[s + 1])) for s in range(len(rows) - 1)]
            return _unpickle_batch, ([_parts(item, low, high) for item, low, high in items],)
        return _unpickle, _parts(self, 0, self.shape[1])

    # Files
    @classmethod
    def load(cls, path: str | PathLike[str], n: Int | None = None, *, undirected: bool = False, compact: bool = False,
             base: Int = 0) -> Graph:
        """A graph from a file: .mtx, .npz (SciPy CSR), .graph (METIS), .el .txt .tsv .edgelist.

        Edge lists (`u v [weight]`: u sends to v): `n` vertices (default: largest id + 1), `undirected` mirrors every arc,
        `compact` renumbers the ids in use, `base` is the first id. Other files have a size: BadValue for an `n` that is not
        theirs. FileError names the line or byte and what was expected.

        >>> import manyhop as mh, os, tempfile
        >>> name = os.path.join(tempfile.mkdtemp(), "arcs.txt")
        >>> _ = open(name, "w").write("# u sends to v\\n0 1\\n1 2\\n")
        >>> mh.Graph.load(name).to_dense().tolist()
        [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
        """
        n = None if n is None else whole(n, "n")
        found = cls(_core.Graph.load(path_name(path), n, flag(undirected, "undirected"), flag(compact, "compact"),
                                     whole(base, "base")))
        if n is not None and found.shape != (n, n):
            raise BadValue(f"n: {n} x {n} does not fit {path}, which is {found.shape[0]} x {found.shape[1]}")
        return found

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the graph in the format of the path's suffix; the file appears whole or not at all.

        >>> import manyhop as mh, os, tempfile
        >>> name = os.path.join(tempfile.mkdtemp(), "window.mtx")
        >>> mh.graph("window(1)", 5).save(name)
        >>> mh.Graph.load(name) == mh.graph("window(1)", 5)
        True
        """
        self._core.save(path_name(path))

    # Arrays; the base class has the conversions from and to other libraries
    @classmethod
    def from_csr(cls, indptr: ArrayLike, indices: ArrayLike, weights: ArrayLike | None = None, *,
                 shape: Shape | None = None) -> Graph:
        """From CSR arrays; columns strictly increasing within a row. `shape` defaults to square.

        NumPy, torch, lists, or DLPack on the CPU. Integers that fit are converted; BadValue names the first row that is not in
        order.

        >>> import manyhop as mh
        >>> mh.Graph.from_csr([0, 2, 3], [0, 1, 1])
        Graph(2 x 2, 3 edges)
        """
        shape = None if shape is None else two(shape, "shape")
        indptr, indices = vector(indptr, "indptr", np.int64), vector(indices, "indices", np.int32)
        shape = (max(len(indptr) - 1, 0),) * 2 if shape is None else shape
        weights = values_or_none(weights, length=len(indices))  # below, none at all are no weights
        return cls(_core.Graph.from_csr(*shape, indptr, indices, weights))

    @classmethod
    def from_edges(cls, rows: ArrayLike, cols: ArrayLike, weights: ArrayLike | None = None, *, shape: Shape) -> Graph:
        """From edges in any order: rows[e] receives from cols[e]. Duplicates merge, their weights add.

        >>> import manyhop as mh
        >>> mh.Graph.from_edges([1, 0, 1], [0, 1, 0], [2.0, 5.0, 3.0], shape=(2, 2)).weights.tolist()
        [5.0, 5.0]
        """
        shape = two(shape, "shape")
        rows, cols = vector(rows, "rows", np.int32), vector(cols, "cols", np.int32)
        return cls(_core.Graph.from_edges(*shape, rows, cols, values_or_none(weights, length=len(rows))))

    def to_dense(self) -> Float64:
        """[n_rows, n_cols] of weights (or ones) and zeros, float64: n x n memory (LimitError where there is less).

        >>> import manyhop as mh
        >>> mh.graph("self", 2).to_dense().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
        """
        need_memory(8 * self.shape[0] * self.shape[1], f"a dense matrix of {self.shape[0]} x {self.shape[1]}")
        dense = np.zeros(self.shape)
        dense[np.repeat(np.arange(self.shape[0]), self.degrees()), self.indices] = 1.0 if self.weights is None else self.weights
        return dense

    # Pictures
    def spy(self, columns: Int = 64, rows: Int = 32) -> str:
        """A picture of the edges in braille characters, at most `columns` by `rows` of them, for a terminal.

        >>> import manyhop as mh
        >>> print(mh.graph("window(1)", 8).spy(8, 4).splitlines()[-1])
        window(1): n = 8, 22 edges, 2.75 per token
        """
        return self._core.spy_text(whole(columns, "columns"), whole(rows, "rows"))

    def _repr_svg_(self) -> str:
        return self._core.spy_svg("", 256)


def _derivation(operation, graph, *given):
    """The graph that a method of the core makes of `graph` and what is given with it, graphs or numbers."""
    return Graph(getattr(graph._core, operation)(*(x._core if isinstance(x, Graph) else x for x in given)))


def _shape(graph):
    return (graph._core.n_rows, graph._core.n_cols)


def _nnz(graph):
    return graph._core.nnz


def _parts(graph, low, high):
    """What pickles: sizes, offsets, columns (of an implicit graph begin and end of its runs), weights, text. Columns of a batch
    item count from its own first one."""
    implicit = graph._core.implicit
    offsets, columns = graph._core.runs() if implicit else (graph.indptr, graph.indices)
    return (graph.shape[0], high - low, offsets, columns - low if low else columns, graph.weights, graph.text, implicit)


def _unpickle(n_rows, n_cols, offsets, columns, weights, text, implicit=False):
    offsets, columns = np.ascontiguousarray(offsets), np.ascontiguousarray(columns)
    if implicit:
        core = _core.Graph.from_runs(n_rows, n_cols, offsets, columns)
    else:
        core = _core.Graph.from_csr(n_rows, n_cols, offsets, columns, weights)
    return Graph(core.labelled(text) if text else core)


def _unpickle_batch(items):
    return batch([_unpickle(*item) for item in items])


def graph(text: str | Graph, n: Int | None = None, n_cols: Int | None = None, *, seed: Int = 0) -> Graph:
    """The graph of a pattern text on `n` tokens (rows) by `n_cols` (default `n`), or of a graph file.

    text : ``term | term - term``, a term ``atom & atom``: `|` unites, `-` removes, `&` intersects and binds tighter. The
        README lists the atoms. Text with a `/` or the suffix of a graph file is a file.
    n, n_cols : 0 to 2^31 - 1; ``n`` may be left out where the text fixes it (``lps(5, 13)``, ``file("...")``), and has to be
        that of a file. ``causal`` on a rectangle is bottom-right: j <= i + n_cols - n.
    seed : for random parts that name none; the same graph on every machine for the same seed.

    In a function under torch.compile the graph is made while it is traced, as are those of its operators and of :func:`batch`; each
    number of tokens is a program of its own. torch keeps 8 programs of a function, then runs it as it is (with fullgraph=True it
    raises): ``torch._dynamo.config.recompile_limit`` is that number. A Graph that is an argument is no program of its own.

    Cost: linear in the edges; ``full``, ``causal`` and what is left of them by ``-`` keep runs of columns instead. Errors:
    BadValue pointing at the column of the text; LimitError before memory is asked for that is not there.

    >>> import manyhop as mh
    >>> mh.graph("causal & window(2)", 5).nnz
    12
    >>> mh.graph("windw(2)", 5)                                                 # doctest: +ELLIPSIS
    Traceback (most recent call last):
    manyhop.errors.BadValue: ...windw...
    """
    if isinstance(text, Graph):
        return text
    if not isinstance(text, str):
        raise BadType(f"graph: {type(text).__name__}, a pattern text is wanted (other kinds: Graph.from_scipy, ...)")
    if is_compiling():
        n, n_cols = (x if x is None else whole(x, name) for x, name in ((n, "n"), (n_cols, "n_cols")))
        return of_program(_made, text, n, n_cols, seed)
    return _made(text, n, n_cols, seed)


_programs = {}


def of_program(make, *given):
    """What make(*given) is in a traced program, such as a graph; it lives as long as programs may."""
    # Graphs go by number: their programs are made again for others, and torch takes numbers from anywhere.
    found, problem = _once(make, *((whole(x._number, "graph"),) if isinstance(x, Graph) else x for x in given))
    if problem is not None:  # raised here, where torch hands it to the caller; from a constant it would be an error of its own
        raise problem[0](problem[1])
    return found


def _once(make, *given):
    if (make, given) not in _programs:
        try:
            _programs[make, given] = make(*(_by_number[x[0]] if isinstance(x, tuple) else x for x in given))
        except Error as error:
            return None, (type(error), str(error))
    return _programs[make, given], None


# What torch.compiler.assume_constant_result sets, which would load torch to do so: made while torch.compile traces.
_once._dynamo_marked_constant = True


def _made(text, n, n_cols, seed):
    if _core.is_graph_path(text):
        if n_cols is not None:
            raise BadValue(f"graph: a file has its own size, n_cols={n_cols} cannot change it")
        return Graph.load(text, n)
    if n is None:
        n = _core.implied_size(text)
        if n is None:
            raise BadValue(f"graph: '{text}' fits any number of tokens, give one: mh.graph(text, n)")
    return Graph(_core.Graph.from_pattern(text, whole(n, "n"), None if n_cols is None else whole(n_cols, "n_cols"),
                                          whole(seed, "seed", 0, 2**64 - 1)))


def batch(graphs: Iterable[Graph]) -> Graph:
    """Sequences of unequal length side by side without padding: for layout="thd".

    Rows and columns of the result are those of the graphs one after another, edges stay within a sequence. An empty list is a
    graph of 0 x 0.

    >>> import manyhop as mh
    >>> mh.batch([mh.graph("full", 2), mh.graph("full", 3)]).row_offsets.tolist()
    [0, 2, 5]
    """
    if not isinstance(graphs, Iterable):
        raise BadType(f"graphs: {type(graphs).__name__}, a list of Graphs is wanted")
    graphs = list(graphs)
    for i, item in enumerate(graphs):
        if not isinstance(item, Graph):
            raise BadType(f"batch[{i}]: {type(item).__name__}, a Graph is wanted")
    if is_compiling():
        return of_program(_batched, *graphs)
    return _batched(*graphs)


def _batched(*graphs):
    return Graph(_core.batch([item._core for item in graphs]))

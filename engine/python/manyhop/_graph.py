"""Token graphs: who receives from whom, in CSR by row."""

import itertools
import sys
import weakref

import numpy as np

from . import _core
from .errors import BadType, BadValue, Error

_numbers = itertools.count(1)
# Compiled torch programs name graphs by number.
_by_number = weakref.WeakValueDictionary()


def _size(value, name):
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise BadType(f"{name}: {value!r} of type {type(value).__name__}, an integer is wanted")
    return value.__index__()


def _need(module, what):
    try:
        return __import__(module)
    except ImportError as error:
        raise Error(f"{what} wants the package {module}, which is not installed here: pip install {module}") from error


def _vector(values, dtype, name):
    """One axis of `dtype`, checked: no silent rounding of floats to vertex numbers."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise BadValue(f"{name}: {array.ndim} axes, 1 is wanted")
    kind = np.dtype(dtype).kind
    if array.size == 0:
        return np.ascontiguousarray(array, dtype=dtype)
    if kind == "i":
        if array.dtype.kind not in "iu":
            raise BadType(f"{name}: {array.dtype}, an integer type is wanted")
        if array.dtype.itemsize > np.dtype(dtype).itemsize or array.dtype.kind == "u":
            info = np.iinfo(dtype)
            low, high = int(array.min()), int(array.max())
            if low < info.min or high > info.max:
                raise BadValue(f"{name}: values {low} .. {high} pass the {info.bits} bits of an index")
    elif array.dtype.kind not in "fiub":
        raise BadType(f"{name}: {array.dtype}, real numbers are wanted")
    return np.ascontiguousarray(array, dtype=dtype)


class Graph:
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
    """

    __slots__ = ("_core", "_number", "__weakref__")

    def __init__(self, core):
        if not isinstance(core, _core.Graph):
            raise BadType("Graph: made by mh.graph(), mh.batch() or Graph.from_...(), not by its constructor")
        self._core = core
        self._number = next(_numbers)
        _by_number[self._number] = self

    # Structure
    @property
    def shape(self):
        """(n_rows, n_cols)"""
        return (self._core.n_rows, self._core.n_cols)

    @property
    def nnz(self):
        """Edges."""
        return self._core.nnz

    @property
    def indptr(self):
        return self._core.indptr

    @property
    def indices(self):
        return self._core.indices

    @property
    def weights(self):
        return self._core.weights

    @property
    def text(self):
        """The pattern text it was made from; empty for arrays and files."""
        return self._core.text

    @property
    def nbytes(self):
        """Bytes held. Graphs such as ``full`` hold runs, until ``indices`` is asked for."""
        return self._core.nbytes

    @property
    def row_offsets(self):
        """Rows offsets[s] .. offsets[s + 1] belong to sequence s of a batch."""
        return np.asarray(self._core.row_offsets(), dtype=np.int64)

    @property
    def col_offsets(self):
        return np.asarray(self._core.col_offsets(), dtype=np.int64)

    def rows(self, i, j):
        """Rows i .. j - 1 over the same columns, as in decoding."""
        return Graph(self._core.rows(_size(i, "rows"), _size(j, "rows")))

    def transpose(self):
        """Columns send where rows received; weights follow."""
        return Graph(self._core.transpose())

    def symmetrised(self):
        """Edges in both directions, without weights."""
        return Graph(self._core.symmetrised())

    def with_weights(self, weights):
        """The same edges with other weights [nnz], or without (None)."""
        if weights is None:
            return Graph(self._core.without_weights())
        return Graph(self._core.with_weights(_vector(weights, np.float64, "weights")))

    def is_symmetric(self):
        return self._core.is_symmetric()

    def components(self):
        """(number of weak components, isolated vertices, label of each vertex)"""
        return self._core.components()

    def degrees(self):
        """Edges of each row [n_rows]."""
        return np.diff(self.indptr)

    def _other(self, other, operator):
        if not isinstance(other, Graph):
            return None
        return other._core

    def __or__(self, other):
        core = self._other(other, "|")
        return NotImplemented if core is None else Graph(self._core.unite(core))

    def __and__(self, other):
        core = self._other(other, "&")
        return NotImplemented if core is None else Graph(self._core.intersect(core))

    def __sub__(self, other):
        core = self._other(other, "-")
        return NotImplemented if core is None else Graph(self._core.subtract(core))

    def __eq__(self, other):
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

    def __hash__(self):
        return self._core.hash

    def __repr__(self):
        name = f"{self.text!r}, " if self.text else ""
        weighted = ", weighted" if self._core.weighted else ""
        return f"Graph({name}{self.shape[0]} x {self.shape[1]}, {self.nnz} edges{weighted})"

    def __reduce__(self):
        if len(self.row_offsets) > 2:
            rows, cols = self.row_offsets, self.col_offsets
            items = [(self.rows(int(rows[s]), int(rows[s + 1])), int(cols[s]), int(cols[s + 1])) for s in range(len(rows) - 1)]
            return _unpickle_batch, ([_parts(item, low, high) for item, low, high in items],)
        return _unpickle, _parts(self, 0, self.shape[1])

    # Files
    @classmethod
    def load(cls, path, n=None, *, undirected=False, compact=False, base=0):
        """A graph from a file: .mtx, .npz (SciPy CSR), .graph (METIS), .el .txt .tsv .edgelist.

        Edge lists: `n` vertices (default: largest id + 1), `undirected` mirrors every arc, `compact` renumbers the ids in
        use, `base` is the first id.
        """
        return cls(_core.Graph.load(str(path), None if n is None else _size(n, "n"), bool(undirected), bool(compact),
                                    _size(base, "base")))

    def save(self, path):
        """Writes the graph in the format of the path's suffix; the file appears whole or not at all."""
        self._core.save(str(path))

    # Other libraries
    @classmethod
    def from_csr(cls, indptr, indices, weights=None, *, shape=None):
        """From CSR arrays; columns strictly increasing within a row. `shape` defaults to square."""
        indptr = _vector(indptr, np.int64, "indptr")
        indices = _vector(indices, np.int32, "indices")
        if shape is None:
            shape = (max(len(indptr) - 1, 0),) * 2
        weights = None if weights is None else _vector(weights, np.float64, "weights")
        return cls(_core.Graph.from_csr(_size(shape[0], "shape"), _size(shape[1], "shape"), indptr, indices, weights))

    @classmethod
    def from_edges(cls, rows, cols, weights=None, *, shape):
        """From edges in any order: rows[e] receives from cols[e]. Duplicates merge, their weights add."""
        weights = None if weights is None else _vector(weights, np.float64, "weights")
        return cls(_core.Graph.from_edges(_size(shape[0], "shape"), _size(shape[1], "shape"),
                                          _vector(rows, np.int32, "rows"), _vector(cols, np.int32, "cols"), weights))

    @classmethod
    def from_scipy(cls, matrix, *, weights=True):
        """From a SciPy sparse matrix or array: entry (i, j) is an edge, i receives. Duplicates add."""
        sparse = _need("scipy.sparse", "from_scipy").sparse
        if not sparse.issparse(matrix):
            raise BadType(f"from_scipy: {type(matrix).__name__}, a SciPy sparse matrix is wanted")
        if matrix.ndim != 2:
            raise BadValue(f"from_scipy: {matrix.ndim} axes, 2 are wanted")
        csr = matrix.tocsr()
        if not csr.has_canonical_format:
            csr = csr.copy()
            csr.sum_duplicates()
        return cls.from_csr(csr.indptr, csr.indices, csr.data if weights else None, shape=csr.shape)

    def to_scipy(self):
        """scipy.sparse.csr_array; weights, or ones (float64)."""
        sparse = _need("scipy.sparse", "to_scipy").sparse
        data = np.ones(self.nnz) if self.weights is None else self.weights.copy()
        matrix = sparse.csr_array((data, self.indices.copy(), self.indptr.copy()), shape=self.shape)
        matrix.has_canonical_format = True
        return matrix

    def to_dense(self):
        """[n_rows, n_cols] of weights (or ones) and zeros, float64: n x n memory."""
        dense = np.zeros(self.shape)
        dense[np.repeat(np.arange(self.shape[0]), self.degrees()), self.indices] = 1.0 if self.weights is None else self.weights
        return dense

    @classmethod
    def from_edge_index(cls, edge_index, n=None, edge_weight=None):
        """From PyTorch Geometric's edge_index [2, m]: edge_index[0] sends to edge_index[1]."""
        pair = _numpy(edge_index)
        if pair.ndim != 2 or pair.shape[0] != 2:
            raise BadValue(f"edge_index: shape {list(pair.shape)}, [2, edges] is wanted")
        if n is None:
            n = int(pair.max()) + 1 if pair.size else 0
        shape = (n, n) if np.ndim(n) == 0 else (n[1], n[0])  # PyG: (sources, targets)
        weights = None if edge_weight is None else _numpy(edge_weight).astype(np.float64)
        return cls.from_edges(pair[1], pair[0], weights, shape=shape)

    def to_edge_index(self):
        """int64 [2, nnz]: sender, receiver of each edge, in CSR order (NumPy; torch.from_numpy() takes it as it is)."""
        rows = np.repeat(np.arange(self.shape[0], dtype=np.int64), self.degrees())
        return np.stack([self.indices.astype(np.int64), rows])

    @classmethod
    def from_torch(cls, tensor, *, weights=True):
        """From a torch sparse tensor (COO, CSR, CSC): entry (i, j) is an edge, i receives."""
        torch = _need("torch", "from_torch")
        if not isinstance(tensor, torch.Tensor) or tensor.layout == torch.strided:
            raise BadType("from_torch: a sparse torch tensor is wanted")
        if tensor.dim() != 2:
            raise BadValue(f"from_torch: {tensor.dim()} axes, 2 are wanted")
        coo = tensor.detach().to_sparse_coo().coalesce().cpu()
        rows, cols = coo.indices().numpy()
        values = coo.values().to(torch.float64).numpy() if weights else None
        return cls.from_edges(rows, cols, values, shape=tuple(tensor.shape))

    def to_torch(self, dtype=None):
        """torch.sparse_csr tensor of weights (or ones); float32 unless `dtype` is given."""
        torch = _need("torch", "to_torch")
        data = np.ones(self.nnz) if self.weights is None else self.weights
        return torch.sparse_csr_tensor(torch.from_numpy(self.indptr.copy()), torch.from_numpy(self.indices.astype(np.int64)),
                                       torch.from_numpy(data.copy()).to(dtype or torch.float32), self.shape)

    @classmethod
    def from_networkx(cls, graph, *, weight=None, nodes=None):
        """From a NetworkX graph: arc u -> v means v receives from u; undirected edges count in both directions.

        Vertices are numbered in the order of `nodes` (default: the graph's own). `weight` names the edge attribute.
        """
        _need("networkx", "from_networkx")
        nodes = list(graph.nodes) if nodes is None else list(nodes)
        number = {node: i for i, node in enumerate(nodes)}
        rows, cols, weights = [], [], []
        for u, v, data in graph.edges(data=True):
            for a, b in [(u, v)] if graph.is_directed() or u == v else [(u, v), (v, u)]:
                rows.append(number[b])
                cols.append(number[a])
                weights.append(1.0 if weight is None else data.get(weight, 1.0))
        return cls.from_edges(rows, cols, None if weight is None else weights, shape=(len(nodes), len(nodes)))

    def to_networkx(self):
        """networkx.DiGraph with an arc from sender to receiver for each edge, attribute "weight" where weighted."""
        networkx = _need("networkx", "to_networkx")
        if self.shape[0] != self.shape[1]:
            raise BadValue(f"to_networkx: {self.shape[0]} x {self.shape[1]}, a square graph is wanted")
        result = networkx.DiGraph()
        result.add_nodes_from(range(self.shape[0]))
        senders, receivers = self.to_edge_index().tolist()
        if self.weights is None:
            result.add_edges_from(zip(senders, receivers))
        else:
            result.add_weighted_edges_from(zip(senders, receivers, self.weights.tolist()))
        return result

    @classmethod
    def from_dgl(cls, graph, *, weight=None):
        """From a homogeneous DGL graph: source sends to destination. `weight` names the edge feature."""
        senders, receivers = (_numpy(x) for x in graph.edges(order="eid"))
        n = graph.num_nodes()
        weights = None if weight is None else _numpy(graph.edata[weight]).astype(np.float64)
        return cls.from_edges(receivers, senders, weights, shape=(n, n))

    @classmethod
    def from_igraph(cls, graph, *, weight=None):
        """From an igraph.Graph: arc u -> v means v receives; undirected edges count in both directions."""
        pairs = np.asarray(graph.get_edgelist(), dtype=np.int64).reshape(-1, 2)
        weights = None if weight is None else np.asarray(graph.es[weight], dtype=np.float64)
        return cls._from_arcs(pairs, weights, graph.vcount(), graph.is_directed())

    @classmethod
    def from_networkit(cls, graph):
        """From a networkit.Graph, with its weights where it has them."""
        pairs, weights = [], []
        for u, v, w in graph.iterEdgesWeights():
            pairs.append((u, v))
            weights.append(w)
        pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        return cls._from_arcs(pairs, np.asarray(weights) if graph.isWeighted() else None, graph.numberOfNodes(),
                              graph.isDirected())

    @classmethod
    def _from_arcs(cls, pairs, weights, n, directed):
        senders, receivers = pairs[:, 0], pairs[:, 1]
        if not directed:
            other = senders != receivers
            senders, receivers = np.concatenate([senders, receivers[other]]), np.concatenate([receivers, senders[other]])
            weights = None if weights is None else np.concatenate([weights, weights[other]])
        return cls.from_edges(receivers, senders, weights, shape=(n, n))

    # Pictures
    def spy(self, columns=64, rows=32):
        """A picture of the edges in braille characters, for a terminal."""
        return self._core.spy_text(columns, rows)

    def _repr_svg_(self):
        return self._core.spy_svg("", 256)


def _numpy(array):
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return array.detach().cpu().numpy()
    return np.asarray(array)


def _parts(graph, low, high):
    """What pickles: arrays, sizes, text. Columns of a batch item count from its own first one."""
    indices = graph.indices - low if low else graph.indices
    return (graph.shape[0], high - low, graph.indptr, indices, graph.weights, graph.text)


def _unpickle(n_rows, n_cols, indptr, indices, weights, text):
    core = _core.Graph.from_csr(n_rows, n_cols, np.ascontiguousarray(indptr), np.ascontiguousarray(indices), weights)
    return Graph(core.labelled(text) if text else core)


def _unpickle_batch(items):
    return batch([_unpickle(*item) for item in items])


def graph(text, n=None, n_cols=None, *, seed=0):
    """The graph of a pattern text on `n` tokens (rows) by `n_cols` (default `n`), or of a graph file.

    ``n`` may be left out where the text fixes it (``lps(5, 13)``, ``file("...")``). `seed` is for random parts that name
    none. Raises BadValue pointing at the column of the text.

    >>> import manyhop as mh
    >>> mh.graph("causal & window(2)", 5).nnz
    12
    """
    if isinstance(text, Graph):
        return text
    if not isinstance(text, str):
        raise BadType(f"graph: {type(text).__name__}, a pattern text is wanted (other kinds: Graph.from_scipy, ...)")
    if _core.is_graph_path(text):
        if n_cols is not None:
            raise BadValue(f"graph: a file has its own size, n_cols={n_cols} cannot change it")
        return Graph.load(text, n)
    if n is None:
        n = _core.implied_size(text)
        if n is None:
            raise BadValue(f"graph: '{text}' fits any number of tokens, give one: mh.graph(text, n)")
    seed = _size(seed, "seed")
    if not 0 <= seed < 2**64:
        raise BadValue(f"seed: {seed} is outside 0 .. {2**64 - 1}")
    return Graph(_core.Graph.from_pattern(text, _size(n, "n"), None if n_cols is None else _size(n_cols, "n_cols"), seed))


def batch(graphs):
    """Sequences of unequal length side by side without padding: for layout="thd".

    >>> import manyhop as mh
    >>> mh.batch([mh.graph("full", 2), mh.graph("full", 3)]).row_offsets.tolist()
    [0, 2, 5]
    """
    graphs = list(graphs)
    for i, item in enumerate(graphs):
        if not isinstance(item, Graph):
            raise BadType(f"batch[{i}]: {type(item).__name__}, a Graph is wanted")
    return Graph(_core.batch([item._core for item in graphs]))

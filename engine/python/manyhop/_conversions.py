"""Graphs from and to what other libraries hold: SciPy, PyTorch Geometric, torch, NetworkX, DGL, igraph, networkit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ._check import flag, real, shown, string, to_numpy, vector, whole
from ._settings import need_memory, room
from .errors import BadType, BadValue, Error

if TYPE_CHECKING:
    import networkx
    import scipy.sparse
    import torch

    from ._graph import Graph
    from ._types import Array, ArrayLike, Int, Int64, Shape


def _need(module, what):
    try:
        return __import__(module)
    except ImportError as error:
        raise Error(f"{what} wants the package {module}, which is not installed here: pip install {module}") from error


def _of_kind(graph, kind, name, wanted):
    if not isinstance(graph, kind):
        raise BadType(f"{name}: {type(graph).__name__}, {wanted} is wanted")


def two(sizes, name, wanted="(rows, columns)"):
    if not isinstance(sizes, (list, tuple)) and getattr(sizes, "ndim", 0) != 1:
        raise BadType(f"{name}: {shown(sizes)}, {wanted} is wanted")
    if len(sizes) != 2:
        raise BadValue(f"{name}: {len(sizes)} numbers, {wanted} is wanted")
    return whole(sizes[0], f"{name}[0]"), whole(sizes[1], f"{name}[1]")


def values_or_none(weights, name="weights", length=None):
    return None if weights is None else vector(weights, name, np.float64, length, "edges")


def _named(weight, names):
    """A weight that the edges of another library's graph have."""
    if string(weight, "weight") not in names:
        raise BadValue(f"weight: {weight!r}, the edges have {', '.join(map(repr, names)) or 'none'}")
    return weight


def _check_numbers(values, most, name):
    """Integers 0 .. most - 1."""
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise BadValue(f"{name}: {values.dtype} with {values.ndim} axes, one axis of integers is wanted")
    if values.size:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= most:
            raise BadValue(f"{name}: {low if low < 0 else high}, an integer from 0 to {most - 1} is wanted")


def _check_compressed(indptr, indices, values, shape, place):
    """Of a matrix compressed along the first axis of `shape`; what converts it trusts the offsets and numbers."""
    indptr, indices = np.asarray(indptr), np.asarray(indices)
    held = min(len(indices), len(values))
    if indptr.ndim != 1 or indptr.dtype.kind not in "iu" or len(indptr) != shape[0] + 1:
        raise BadValue(f"{place}: indptr is {indptr.dtype} {list(indptr.shape)}, integers [{shape[0] + 1}] are wanted")
    if indptr[0] != 0:
        raise BadValue(f"{place}: indptr[0] is {indptr[0]}, 0 is wanted")
    if (falls := indptr[1:] < indptr[:-1]).any():
        at = int(falls.argmax()) + 1
        raise BadValue(f"{place}: indptr[{at}] is {indptr[at]} after {indptr[at - 1]}, offsets that do not fall are wanted")
    if indptr[-1] > held:
        raise BadValue(f"{place}: indptr ends at {indptr[-1]}, there are {len(indices)} indices and {len(values)} values")
    _check_numbers(indices[:int(indptr[-1])], shape[1], f"{place}: indices")


def _check_coordinates(rows, cols, values, shape, place):
    rows, cols = np.asarray(rows), np.asarray(cols)
    if not len(rows) == len(cols) == len(values):
        raise BadValue(f"{place}: {len(rows)} rows, {len(cols)} columns and {len(values)} values, equal numbers are wanted")
    _check_numbers(rows, shape[0], f"{place}: rows")
    _check_numbers(cols, shape[1], f"{place}: columns")


def _check_scipy(matrix):
    """SciPy's conversions write where a matrix says, and its arrays may be assigned to without any check."""
    place = f"from_scipy: {matrix.format} matrix"
    rows, cols = matrix.shape
    if matrix.format in ("csr", "csc"):
        shape = (rows, cols) if matrix.format == "csr" else (cols, rows)
        _check_compressed(matrix.indptr, matrix.indices, matrix.data, shape, place)
    elif matrix.format == "bsr":
        _, height, width = matrix.data.shape
        if height < 1 or width < 1 or rows % height or cols % width:
            raise BadValue(f"{place}: blocks of {height} x {width}, divisors of {rows} x {cols} are wanted")
        _check_compressed(matrix.indptr, matrix.indices, matrix.data, (rows // height, cols // width), place)
    elif matrix.format == "coo":
        _check_coordinates(matrix.row, matrix.col, matrix.data, matrix.shape, place)
    elif matrix.format == "dia":
        if matrix.data.ndim != 2 or matrix.offsets.shape != matrix.data.shape[:1]:
            raise BadValue(f"{place}: offsets {list(matrix.offsets.shape)} beside data {list(matrix.data.shape)}, "
                           "one for each row of it are wanted")
    elif matrix.format == "lil":
        if not len(matrix.rows) == len(matrix.data) == rows:
            raise BadValue(f"{place}: lists of {len(matrix.rows)} rows and {len(matrix.data)} values, {rows} are wanted")
        for i, (columns, values) in enumerate(zip(matrix.rows, matrix.data)):
            if len(columns) != len(values):
                raise BadValue(f"{place}: row {i} has {len(columns)} columns and {len(values)} values, equal numbers are wanted")


def _check_torch(tensor):
    """As torch does where check_invariants is on, which it is not by default; but duplicates and any order pass."""
    kind = str(tensor.layout).removeprefix("torch.sparse_")
    place = f"from_torch: {kind} tensor"
    if kind == "coo":
        rows, cols = tensor._indices().numpy()
        return _check_coordinates(rows, cols, tensor._values(), tensor.shape, place)
    if kind in ("csr", "bsr"):
        outer, inner, shape = tensor.crow_indices(), tensor.col_indices(), tuple(tensor.shape)
    else:
        outer, inner, shape = tensor.ccol_indices(), tensor.row_indices(), tuple(tensor.shape)[::-1]
    values = tensor.values()
    if values.dim() == 3:
        height, width = values.shape[1:] if kind == "bsr" else tuple(values.shape[1:])[::-1]
        shape = (shape[0] // max(height, 1), shape[1] // max(width, 1))
    _check_compressed(outer.numpy(), inner.numpy(), values, shape, place)


def _canonical(matrix):
    """A CSR matrix without duplicates, which may be the matrix itself."""
    if matrix.dtype.kind in "biuf" and not (matrix.format == "csr" and matrix.has_canonical_format):
        matrix = matrix.astype(np.float64)  # sums of duplicates may pass what a narrow type holds
    csr = matrix.tocsr()
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    return csr


class Conversions:
    """Base of :class:`manyhop.Graph`; asks it for ``from_csr``, ``from_edges``, ``shape``, ``nnz`` and the arrays alone."""

    __slots__ = ()

    @classmethod
    def from_scipy(cls, matrix: scipy.sparse.spmatrix | scipy.sparse.sparray, *, weights: bool = True) -> Graph:
        """From a SciPy sparse matrix or array: entry (i, j) is an edge, i receives. Duplicates add; stored zeros stay edges.

        BadValue where the matrix's own arrays contradict each other, which SciPy does not look for.

        >>> import manyhop as mh, numpy as np, scipy.sparse
        >>> mask = np.tri(4, dtype=bool)
        >>> mh.Graph.from_scipy(scipy.sparse.csr_array(mask), weights=False) == mh.graph("causal", 4)
        True
        """
        sparse = _need("scipy.sparse", "from_scipy").sparse
        if not sparse.issparse(matrix):
            raise BadType(f"from_scipy: {type(matrix).__name__}, a SciPy sparse matrix is wanted")
        if matrix.ndim != 2:
            raise BadValue(f"from_scipy: {matrix.ndim} axes, 2 are wanted")
        flag(weights, "weights")
        try:
            _check_scipy(matrix)
            with room(12 * matrix.nnz, f"a matrix of {matrix.nnz} edges"):
                csr = _canonical(matrix)
        except Error:
            raise
        except (ValueError, TypeError, IndexError, AttributeError) as error:  # its parts are none of a matrix
            raise BadValue(f"from_scipy: {matrix.format} matrix that SciPy cannot convert: {error}") from None
        edges = int(csr.indptr[-1])  # spare room may follow them
        return cls.from_csr(csr.indptr, csr.indices[:edges], csr.data[:edges] if weights else None, shape=csr.shape)

    def to_scipy(self) -> scipy.sparse.csr_array:
        """scipy.sparse.csr_array of weights, or ones (float64); a copy.

        >>> import manyhop as mh, scipy.sparse
        >>> mh.graph("window(1)", 3).to_scipy().toarray().tolist()
        [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
        """
        sparse = _need("scipy.sparse", "to_scipy").sparse
        need_memory(12 * self.nnz, f"a matrix of {self.nnz} edges")
        data = np.ones(self.nnz) if self.weights is None else self.weights.copy()
        matrix = sparse.csr_array((data, self.indices.copy(), self.indptr.copy()), shape=self.shape)
        matrix.has_canonical_format = True
        return matrix

    @classmethod
    def from_edge_index(cls, edge_index: ArrayLike, n: Int | Shape | None = None,
                        edge_weight: ArrayLike | None = None) -> Graph:
        """From PyTorch Geometric's edge_index [2, m]: edge_index[0] sends to edge_index[1].

        n : vertices, or (sources, targets); the largest number + 1 by default.
        edge_weight : [m]; duplicates merge and their weights add. NumPy or torch, whose gradient ends here.

        >>> import manyhop as mh
        >>> mh.Graph.from_edge_index([[0, 0], [1, 2]], 3).to_dense().tolist()   # 0 sends to 1 and 2
        [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
        """
        pair = to_numpy(edge_index, "edge_index")
        if pair.ndim != 2 or pair.shape[0] != 2:
            raise BadValue(f"edge_index: shape {list(pair.shape)}, [2, edges] is wanted")
        senders, receivers = (vector(x, "edge_index", np.int32) for x in pair)
        if n is None:
            n = int(max(senders.max(), receivers.max())) + 1 if pair.size else 0
        n = (n, n) if hasattr(n, "__index__") and not getattr(n, "ndim", 0) else n
        sources, targets = two(n, "n", "one number or (sources, targets)")
        weights = values_or_none(edge_weight, "edge_weight", pair.shape[1])
        return cls.from_edges(receivers, senders, weights, shape=(targets, sources))

    def to_edge_index(self) -> Int64:
        """int64 [2, nnz]: sender, receiver of each edge, in CSR order (NumPy; torch.from_numpy() takes it as it is).

        >>> import manyhop as mh
        >>> mh.graph("causal", 2).to_edge_index().tolist()
        [[0, 0, 1], [0, 1, 1]]
        """
        need_memory(24 * self.nnz, f"an edge_index of {self.nnz} edges")
        rows = np.repeat(np.arange(self.shape[0], dtype=np.int64), self.degrees())
        return np.stack([self.indices.astype(np.int64), rows])

    @classmethod
    def from_torch(cls, tensor: torch.Tensor, *, weights: bool = True) -> Graph:
        """From a torch sparse tensor (COO, CSR, CSC): entry (i, j) is an edge, i receives. Duplicates add.

        >>> import manyhop as mh, torch
        >>> mh.Graph.from_torch(torch.ones(3, 3).tril().to_sparse(), weights=False) == mh.graph("causal", 3)
        True
        """
        torch = _need("torch", "from_torch")
        if not isinstance(tensor, torch.Tensor) or tensor.layout == torch.strided:
            raise BadType(f"from_torch: {getattr(tensor, 'layout', type(tensor).__name__)}, a sparse torch tensor is wanted")
        if tensor.dim() != 2 or tensor.dense_dim() != 0:
            raise BadValue(f"from_torch: {tensor.dim()} axes, {tensor.dense_dim()} of them dense, 2 sparse ones are wanted")
        tensor = tensor.detach().cpu()
        _check_torch(tensor)
        coo = tensor.to_sparse_coo()
        if not (coo.is_coalesced() or coo.dtype.is_complex):
            coo = torch.sparse_coo_tensor(coo._indices(), coo._values().to(torch.float64), coo.shape)
        coo = coo.coalesce()
        rows, cols = coo.indices().numpy()
        return cls.from_edges(rows, cols, coo.values() if flag(weights, "weights") else None, shape=tuple(tensor.shape))

    def to_torch(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """torch.sparse_csr tensor of weights (or ones); float32 unless `dtype` is given.

        >>> import manyhop as mh, torch
        >>> mh.graph("self", 2).to_torch().to_dense().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
        """
        torch = _need("torch", "to_torch")
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise BadType(f"dtype: {dtype!r}, a type of torch is wanted")
        need_memory(24 * self.nnz, f"a tensor of {self.nnz} edges")
        data = np.ones(self.nnz) if self.weights is None else self.weights
        return torch.sparse_csr_tensor(torch.from_numpy(self.indptr.copy()), torch.from_numpy(self.indices.astype(np.int64)),
                                       torch.from_numpy(data.copy()).to(dtype or torch.float32), self.shape)

    @classmethod
    def from_networkx(cls, graph: networkx.Graph[Any], *, weight: str | None = None,
                      nodes: Iterable[Any] | None = None) -> Graph:
        """From a NetworkX graph: arc u -> v means v receives from u; undirected edges count in both directions.

        Vertices are numbered in the order of `nodes` (default: the graph's own), which has to name each once. `weight` names
        the edge attribute; an edge without it weighs 1.

        >>> import manyhop as mh, networkx
        >>> mh.Graph.from_networkx(networkx.cycle_graph(5)) == mh.graph("window(1, ring=true) - self", 5)
        True
        """
        _of_kind(graph, _need("networkx", "from_networkx").Graph, "from_networkx", "a NetworkX graph")
        if weight is not None:
            string(weight, "weight")
        if nodes is not None and not isinstance(nodes, Iterable):
            raise BadType(f"nodes: {type(nodes).__name__}, a list of the graph's nodes is wanted")
        nodes = list(graph.nodes if nodes is None else nodes)
        for node in nodes:
            if node not in graph:
                raise BadValue(f"nodes: {node!r} is none of the graph's")
        number = {node: i for i, node in enumerate(nodes)}
        if not len(nodes) == len(number) == len(graph):
            raise BadValue(f"nodes: {len(nodes)}, {len(number)} of them different, for the {len(graph)} of the graph "
                           "(graph.subgraph(nodes) has fewer)")
        rows, cols, weights = [], [], []
        for u, v, data in graph.edges(data=True):
            for a, b in [(u, v)] if graph.is_directed() or u == v else [(u, v), (v, u)]:
                rows.append(number[b])
                cols.append(number[a])
                weights.append(1.0 if weight is None else data.get(weight, 1.0))
        return cls.from_edges(rows, cols, None if weight is None else weights, shape=(len(nodes), len(nodes)))

    def to_networkx(self) -> networkx.DiGraph[int]:
        """networkx.DiGraph with an arc from sender to receiver for each edge, attribute "weight" where weighted.

        >>> import manyhop as mh, networkx
        >>> list(mh.graph("causal - self", 3).to_networkx().edges)
        [(0, 1), (0, 2), (1, 2)]
        """
        networkx = _need("networkx", "to_networkx")
        self._want_square("to_networkx")
        result = networkx.DiGraph()
        result.add_nodes_from(range(self.shape[0]))
        senders, receivers = self.to_edge_index().tolist()
        if self.weights is None:
            result.add_edges_from(zip(senders, receivers))
        else:
            result.add_weighted_edges_from(zip(senders, receivers, self.weights.tolist()))
        return result

    @classmethod
    def from_dgl(cls, graph: Any, *, weight: str | None = None) -> Graph:
        """From a DGL graph of one edge type: source sends to destination. `weight` names the edge feature [m].

        Where the two are of different node types (or of a block) the graph is a rectangle, destinations x sources.

        >>> import manyhop as mh, dgl
        >>> mh.Graph.from_dgl(dgl.graph(([0, 0], [1, 2]))).transpose().indices.tolist()   # whom 0 sends to
        [1, 2]
        """
        _of_kind(graph, _need("dgl", "from_dgl").DGLGraph, "from_dgl", "a DGL graph")
        if len(graph.canonical_etypes) != 1:
            raise BadValue(f"from_dgl: {len(graph.canonical_etypes)} edge types, one is wanted (graph[etype] picks it)")
        (source, _, destination), = graph.canonical_etypes
        senders, receivers = graph.edges(order="eid")
        weights = None if weight is None else graph.edata[_named(weight, graph.edata)]
        shape = graph.num_dst_nodes(destination), graph.num_src_nodes(source)
        return cls.from_edges(receivers, senders, weights, shape=shape)

    def to_dgl(self) -> Any:
        """dgl.DGLGraph with an arc from sender to receiver for each edge, in CSR order; edata["weight"] (float64) where weighted.

        A rectangle has the node types "sender" and "receiver", with edges of type "sends".

        >>> import manyhop as mh, dgl
        >>> [ends.tolist() for ends in mh.graph("causal - self", 3).to_dgl().edges(order="eid")]   # 0 sends to 1 and 2
        [[0, 0, 1], [1, 2, 2]]
        """
        dgl, torch = _need("dgl", "to_dgl"), _need("torch", "to_dgl")
        rows, cols = self.shape
        arcs = tuple(torch.from_numpy(self.to_edge_index()))
        if rows == cols:
            result = dgl.graph(arcs, num_nodes=rows)
        else:
            result = dgl.heterograph({("sender", "sends", "receiver"): arcs}, num_nodes_dict={"sender": cols, "receiver": rows})
        if self.weights is not None:
            result.edata["weight"] = torch.from_numpy(self.weights.copy())
        return result

    @classmethod
    def from_igraph(cls, graph: Any, *, weight: str | None = None) -> Graph:
        """From an igraph.Graph: arc u -> v means v receives; undirected edges count in both directions. `weight` names the
        edge attribute.

        >>> import manyhop as mh, igraph
        >>> mh.Graph.from_igraph(igraph.Graph.Ring(5)) == mh.graph("window(1, ring=true) - self", 5)
        True
        """
        _of_kind(graph, _need("igraph", "from_igraph").Graph, "from_igraph", "an igraph.Graph")
        pairs = np.asarray(graph.get_edgelist(), dtype=np.int64).reshape(-1, 2)
        weights = None if weight is None else real(graph.es[_named(weight, graph.es.attributes())], "weight")
        return cls._from_arcs(pairs, weights, graph.vcount(), graph.is_directed())

    def to_igraph(self) -> Any:
        """Directed igraph.Graph with an arc from sender to receiver for each edge, in CSR order, attribute "weight" where weighted.

        >>> import manyhop as mh, igraph
        >>> mh.graph("causal - self", 3).to_igraph().successors(0)   # 0 sends to 1 and 2
        [1, 2]
        """
        igraph = _need("igraph", "to_igraph")
        self._want_square("to_igraph")
        attributes = {} if self.weights is None else {"weight": self.weights.tolist()}
        return igraph.Graph(self.shape[0], self.to_edge_index().T.tolist(), directed=True, edge_attrs=attributes)

    @classmethod
    def from_networkit(cls, graph: Any) -> Graph:
        """From a networkit.Graph, with its weights where it has them: arc u -> v means v receives; undirected edges count in
        both directions. Nodes are numbered in their order, ids of removed ones are skipped.

        >>> import manyhop as mh, networkit
        >>> path = networkit.Graph(3)
        >>> _ = path.addEdge(0, 1), path.addEdge(1, 2)
        >>> mh.Graph.from_networkit(path) == mh.graph("window(1) - self", 3)
        True
        """
        _of_kind(graph, _need("networkit", "from_networkit").Graph, "from_networkit", "a networkit.Graph")
        number = {node: i for i, node in enumerate(graph.iterNodes())}
        pairs, weights = [], []
        for u, v, w in graph.iterEdgesWeights():
            pairs.append((number[u], number[v]))
            weights.append(w)
        pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        return cls._from_arcs(pairs, np.asarray(weights) if graph.isWeighted() else None, len(number), graph.isDirected())

    def to_networkit(self) -> Any:
        """Directed networkit.Graph with an arc from sender to receiver for each edge, weighted where this graph is.

        >>> import manyhop as mh, networkit
        >>> list(mh.graph("causal - self", 3).to_networkit().iterNeighbors(0))   # 0 sends to 1 and 2
        [1, 2]
        """
        networkit = _need("networkit", "to_networkit")
        self._want_square("to_networkit")
        senders, receivers = self.to_edge_index()
        weighted = self.weights is not None
        result = networkit.Graph(self.shape[0], weighted=weighted, directed=True)
        result.addEdges((self.weights.copy(), (senders, receivers)) if weighted else (senders, receivers))
        return result

    def _want_square(self, name):
        if self.shape[0] != self.shape[1]:
            raise BadValue(f"{name}: {self.shape[0]} x {self.shape[1]}, a square graph is wanted")

    @classmethod
    def _from_arcs(cls, pairs, weights, n, directed):
        senders, receivers = pairs[:, 0], pairs[:, 1]
        if not directed:
            other = senders != receivers
            senders, receivers = np.concatenate([senders, receivers[other]]), np.concatenate([receivers, senders[other]])
            weights = None if weights is None else np.concatenate([weights, weights[other]])
        return cls.from_edges(receivers, senders, weights, shape=(n, n))

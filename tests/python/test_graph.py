import copy
import pickle

import numpy as np
import pytest

import manyhop as mh

sp = pytest.importorskip("scipy.sparse")


def test_arrays_are_views_of_the_graph():
    g = mh.graph("window(1)", 5)
    assert g.indptr.dtype == np.int64 and g.indices.dtype == np.int32
    assert g.indptr.tolist() == [0, 2, 5, 8, 11, 13]
    assert g.indices.__array_interface__["data"] == g.indices.__array_interface__["data"]
    assert not g.indices.flags.writeable
    indices = g.indices
    del g
    assert indices.tolist()[:5] == [0, 1, 0, 1, 2]  # the view keeps the graph alive


def test_set_operators_equal_those_of_sets():
    a, b = mh.graph("window(3)", 20), mh.graph("strided(4)", 20)
    da, db = a.to_dense() > 0, b.to_dense() > 0
    assert np.array_equal((a | b).to_dense() > 0, da | db)
    assert np.array_equal((a & b).to_dense() > 0, da & db)
    assert np.array_equal((a - b).to_dense() > 0, da & ~db)
    with pytest.raises(TypeError):
        a | 3
    with pytest.raises(ValueError, match="20.*21|21.*20"):
        a | mh.graph("window(3)", 21)


def test_equality_is_of_edges_and_weights():
    a, b = mh.graph("window(1)", 6), mh.graph("strided(2)", 6)
    again = mh.Graph.from_scipy(a.to_scipy(), weights=False)
    assert a == again and hash(a) == hash(again) and a != b
    assert a != a.with_weights(np.arange(a.nnz))
    assert a != "window(1)"


def test_scipy_both_ways(rng):
    matrix = sp.random(17, 23, density=0.2, random_state=1, format="coo")
    g = mh.Graph.from_scipy(matrix)
    assert g.shape == (17, 23)
    assert np.array_equal(g.to_dense(), matrix.toarray())
    assert (g.to_scipy() != matrix.tocsr()).nnz == 0
    doubled = sp.coo_matrix(([1.0, 2.0], ([0, 0], [1, 1])), shape=(2, 2))
    assert mh.Graph.from_scipy(doubled).weights.tolist() == [3.0]
    shuffled = sp.csr_matrix((np.array([1.0, 2.0]), np.array([1, 0]), np.array([0, 2, 2])), shape=(2, 2))
    assert mh.Graph.from_scipy(shuffled).weights.tolist() == [2.0, 1.0]
    assert shuffled.indices.tolist() == [1, 0]  # the caller's matrix is left as it was


def test_arcs_mean_sender_to_receiver():
    g = mh.Graph.from_edge_index(np.array([[0, 1, 2], [1, 2, 0]]))
    assert g.to_dense().tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert np.array_equal(mh.Graph.from_edge_index(g.to_edge_index()).to_dense(), g.to_dense())


def test_networkx_both_ways():
    nx = pytest.importorskip("networkx")
    arcs = nx.DiGraph([("a", "b"), ("b", "c")])
    g = mh.Graph.from_networkx(arcs)
    assert g.to_dense().tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    ring = nx.cycle_graph(7)
    assert np.array_equal(mh.Graph.from_networkx(ring).to_dense(), nx.to_numpy_array(ring))
    back = mh.graph("random(3)", 12).to_networkx()
    assert mh.Graph.from_networkx(back) == mh.graph("random(3)", 12)


def test_networkx_nodes_are_each_named_once():
    nx = pytest.importorskip("networkx")
    path = nx.path_graph(3)
    assert mh.Graph.from_networkx(path, nodes=[2, 0, 1]).to_dense().tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    for nodes, kind, words in (([0, 1], ValueError, "2, 2 of them different, for the 3"), (3, TypeError, "nodes: int"),
                               ([0, 1, 2, 0], ValueError, "4, 3 of them"), ([0, 1, 7], ValueError, "7 is none"),
                               ([[0], 1, 2], ValueError, "none of the graph's")):
        with pytest.raises(kind, match=words) as caught:
            mh.Graph.from_networkx(path, nodes=nodes)
        assert isinstance(caught.value, mh.Error)


def test_removed_nodes_of_networkit_are_skipped():
    nk = pytest.importorskip("networkit")
    path = nk.Graph(5)
    for u in range(4):
        path.addEdge(u, u + 1)
    path.removeNode(1)
    g = mh.Graph.from_networkit(path)
    assert g.to_dense().tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]


def test_dgl_of_two_node_types_is_a_rectangle():
    dgl = pytest.importorskip("dgl")
    pytest.importorskip("torch")
    both = dgl.heterograph({("u", "likes", "v"): ([0, 1, 2], [0, 1, 0])})
    assert mh.Graph.from_dgl(both).to_dense().tolist() == [[1, 0, 1], [0, 1, 0]]
    ring = dgl.graph(([0, 1, 2], [1, 2, 0]))
    assert mh.Graph.from_dgl(dgl.to_block(dgl.in_subgraph(ring, [1]), [1])).shape == (1, 2)
    with pytest.raises(ValueError, match="weight: 'w', the edges have none") as caught:
        mh.Graph.from_dgl(ring, weight="w")
    assert isinstance(caught.value, mh.Error)
    with pytest.raises(ValueError, match="2 edge types"):
        mh.Graph.from_dgl(dgl.heterograph({("u", "likes", "v"): ([0], [0]), ("v", "owns", "u"): ([0], [0])}))


@pytest.mark.parametrize("name", ["networkx", "dgl", "igraph", "networkit"])
def test_graphs_of_other_libraries_are_told_apart(name):
    pytest.importorskip(name)
    with pytest.raises(TypeError, match=f"from_{name}: int") as caught:
        getattr(mh.Graph, f"from_{name}")(3)
    assert isinstance(caught.value, mh.Error)


def test_weights_an_igraph_has():
    igraph = pytest.importorskip("igraph")
    ring = igraph.Graph.Ring(4)
    ring.es["w"] = [1, 2, 3, 4]
    assert mh.Graph.from_igraph(ring, weight="w").weights.sum() == 20
    with pytest.raises(ValueError, match="weight: 'x', the edges have 'w'"):
        mh.Graph.from_igraph(ring, weight="x")


def test_what_is_too_large_is_refused_before_it_is_made():
    g = mh.graph("full", 2**20)
    for make in (g.to_dense, g.to_scipy, g.to_edge_index):
        with pytest.raises(MemoryError, match="memory limit") as caught:
            make()
        assert isinstance(caught.value, mh.errors.LimitError)
    with mh.memory_limit(1000), pytest.raises(mh.errors.LimitError):
        mh.graph("self", 12).to_dense()


@pytest.mark.parametrize("make", [
    lambda n: mh.graph("full", n), lambda n: mh.graph("causal", n), lambda n: mh.graph("full - window(2)", n),
    lambda n: mh.graph("causal", n).rows(n // 2, n), lambda n: mh.graph("full", n, 2 * n),
    lambda n: mh.batch([mh.graph("full", n), mh.graph("causal - window(3)", n // 2)]),
])
def test_copies_of_implicit_graphs_stay_so(make):
    """As large as would take terabytes with their edges; and of small ones the edges."""
    for n in (2**18, 2**9):
        g = make(n)
        for again in (copy.copy(g), copy.deepcopy({"g": g})["g"], pickle.loads(pickle.dumps(g))):
            assert again._core.implicit and g._core.implicit and again.nbytes < 100 * n
            assert again == g and hash(again) == hash(g) and again.text == g.text and again.shape == g.shape
            assert again.row_offsets.tolist() == g.row_offsets.tolist()
    assert np.array_equal(pickle.loads(pickle.dumps(g)).indices, g.indices)
    later = pickle.loads(pickle.dumps(g))  # whose edges have been written
    assert later == g and np.array_equal(later.indices, g.indices)


def test_no_weights_are_none_of_edges():
    for weights in ([], np.zeros(0), [1.0, 2.0]):
        with pytest.raises(ValueError, match=f"weights: {len(weights)} entries for 3 edges"):
            mh.Graph.from_csr([0, 2, 3], [0, 1, 1], weights)
    assert mh.Graph.from_csr([0, 0], [], []).nnz == 0


def test_columns_are_written_within_the_memory_limit():
    g = mh.graph("full", 2**20)
    with pytest.raises(MemoryError, match="memory limit: an array of 1099511627776 columns"):
        g.indices
    small = mh.graph("full", 500)
    with mh.memory_limit(900_000), pytest.raises(mh.Error, match="takes 1000000 bytes, the limit is 900000"):
        small.indices
    with mh.memory_limit(1_000_000):
        assert len(small.indices) == 250_000
    with mh.memory_limit(1000):
        assert len(small.indices) == 250_000  # they are there


def test_files_and_pickles(tmp_path):
    g = mh.graph("window(2)|global(1)", 30)
    for name in ("g.npz", "g.mtx", "g.el"):
        g.save(tmp_path / name)
        assert mh.Graph.load(tmp_path / name, 30 if name == "g.el" else None) == g
        assert mh.graph(str(tmp_path / name), 30 if name == "g.el" else None) == g
    again = pickle.loads(pickle.dumps(g))
    assert again == g and again.text == g.text
    weighted = g.with_weights(np.linspace(0, 1, g.nnz))
    assert pickle.loads(pickle.dumps(weighted)) == weighted
    both = mh.batch([mh.graph("full", 2), mh.graph("causal", 3)])
    again = pickle.loads(pickle.dumps(both))
    assert again == both and again.row_offsets.tolist() == [0, 2, 5]
    for load in (mh.Graph.load, lambda path, n: mh.graph(str(path), n)):
        assert load(tmp_path / "g.npz", 30) == g and load(tmp_path / "g.el", 40).shape == (40, 40)
        for name in ("g.npz", "g.mtx"):
            with pytest.raises(mh.errors.BadValue, match="n: 5 x 5 does not fit .*, which is 30 x 30"):
                load(tmp_path / name, 5)
    with pytest.raises(mh.errors.FileError):
        mh.Graph.load(tmp_path / "none.npz")
    with pytest.raises(OSError):
        mh.Graph.load(tmp_path / "none.npz")


def test_rows_are_those_of_decoding():
    g = mh.graph("causal & window(3)", 10)
    assert np.array_equal(g.rows(4, 6).to_dense(), g.to_dense()[4:6])


@pytest.mark.parametrize("make, kind, words", [
    (lambda: mh.graph("windw(3)", 10), ValueError, "column 1"),
    (lambda: mh.graph("window(3)"), ValueError, "any number of tokens"),
    (lambda: mh.graph("window(3)", -1), ValueError, "-1"),
    (lambda: mh.graph("window(3)", 2.5), TypeError, "integer"),
    (lambda: mh.graph("window(3)", True), TypeError, "integer"),
    (lambda: mh.graph(3, 10), TypeError, "pattern text"),
    (lambda: mh.graph("fünf", 10), ValueError, "column"),
    (lambda: mh.graph("full", 2**40), ValueError, str(2**40)),
    (lambda: mh.Graph("full"), TypeError, "mh.graph"),
    (lambda: mh.Graph.from_csr([0, 1, 1], [5]), ValueError, "5"),
    (lambda: mh.Graph.from_csr([0, 2], [0.5, 1.5], shape=(1, 2)), TypeError, "integer"),
    (lambda: mh.Graph.from_csr([0, 1], [2**40], shape=(1, 2)), ValueError, "pass"),
    (lambda: mh.Graph.from_csr([0, 1], [0], [np.nan], shape=(1, 1)), ValueError, "weights"),
    (lambda: mh.Graph.from_edges([0], [0, 1], shape=(2, 2)), ValueError, "equal numbers"),
    (lambda: mh.Graph.from_edges([-1], [0], shape=(2, 2)), ValueError, "-1"),
    (lambda: mh.Graph.from_edge_index(np.zeros((3, 4), int)), ValueError, r"\[3, 4\]"),
    (lambda: mh.Graph.from_scipy(np.eye(3)), TypeError, "sparse"),
    (lambda: mh.batch([1]), TypeError, "batch"),
    (lambda: mh.graph("full", 4).rows(3, 9), ValueError, "3 .. 9"),
    (lambda: mh.set_threads(-1), ValueError, "-1"),
    (lambda: mh.set_threads("2"), TypeError, "threads: '2'"),
    (lambda: mh.set_memory_limit(2**70), ValueError, "memory limit"),
    (lambda: mh.graph("self", 2**70), ValueError, "n: 1180591620717411303424"),
    (lambda: mh.graph("self", 4, seed=2**64), ValueError, "seed"),
    (lambda: mh.graph("full", 4).rows(2**70, 3), ValueError, "rows"),
    (lambda: mh.graph("full", 4).spy("a"), TypeError, "columns: 'a'"),
    (lambda: mh.graph("self", 2).with_weights([[1.0], [1.0, 2.0]]), ValueError, "weights: parts of unequal length"),
    (lambda: mh.graph("self", 2).with_weights(["a", "b"]), TypeError, "weights: <U1"),
    (lambda: mh.Graph.from_csr([0, 1], [0], shape=3), TypeError, "shape: 3"),
    (lambda: mh.Graph.from_csr([0, 1], [0], shape=(3,)), ValueError, "shape: 1 numbers"),
    (lambda: mh.Graph.from_csr([0, 1], [0], shape=(1, 2**70)), ValueError, r"shape\[1\]"),
    (lambda: mh.Graph.from_csr([[0], [1, 2]], [0]), ValueError, "indptr"),
    (lambda: mh.Graph.from_edges([0], [0], shape=None), TypeError, "shape: NoneType"),
    (lambda: mh.Graph.from_edge_index([[0], [1]], (3,)), ValueError, "n: 1 numbers"),
    (lambda: mh.Graph.from_edge_index([[0], [1]], "a"), TypeError, "n: 'a'"),
    (lambda: mh.Graph.from_edge_index([[np.nan], [1]]), TypeError, "edge_index: float64"),
    (lambda: mh.Graph.from_edge_index([[2**40], [1]]), ValueError, "edge_index: .*pass"),
    (lambda: mh.Graph.from_edge_index([[0], [1]], edge_weight=[1j]), TypeError, "edge_weight: complex128"),
    (lambda: mh.Graph.from_scipy(sp.eye(3), weights="w"), TypeError, "weights: 'w'"),
    (lambda: mh.Graph.load("arcs.txt", base=2**70), ValueError, "base"),
    (lambda: mh.Graph.load("arcs.txt", undirected="no"), TypeError, "undirected: 'no'"),
    (lambda: mh.batch(None), TypeError, "graphs: NoneType"),
    (lambda: mh.batch(mh.graph("full", 2)), TypeError, "graphs: Graph"),
])
def test_mistakes_are_one_sentence(make, kind, words):
    with pytest.raises(kind, match=words) as caught:
        make()
    assert isinstance(caught.value, mh.Error)
    assert "\n" not in str(caught.value)


def test_the_memory_limit_counts_for_graphs_too():
    with mh.memory_limit(1 << 20), pytest.raises(mh.errors.LimitError, match="0.00105 GB"):
        mh.graph("random(64)", 300000)
    with pytest.raises(mh.errors.LimitError):
        mh.Graph.from_edge_index([[0, 2**31 - 2], [1, 0]])
    wide = mh.Graph.from_edges([0, 0], [2**31 - 2, 5], shape=(2, 2**31 - 1))
    assert wide.indices.tolist() == [5, 2**31 - 2]


def test_sums_of_duplicates_pass_what_narrow_types_hold():
    sparse = pytest.importorskip("scipy.sparse")
    twice = sparse.coo_array((np.array([100, 100], np.int8), ([0, 0], [1, 1])), shape=(2, 2))
    assert mh.Graph.from_scipy(twice).weights.tolist() == [200.0]
    torch = pytest.importorskip("torch")
    tensor = torch.sparse_coo_tensor([[0, 0], [1, 1]], torch.tensor([100, 100], dtype=torch.int8), (2, 2))
    assert mh.Graph.from_torch(tensor).weights.tolist() == [200.0]


def test_given_weights_do_not_count_where_they_are_not_asked_for():
    graph = mh.graph("window(1)", 4).with_weights(np.arange(1, 11.0))
    plain = mh.spectral.gap(mh.graph("window(1)", 4)).gap
    assert mh.spectral.gap(graph).gap == pytest.approx(plain) and mh.spectral.gap(graph, weighted=True).gap != pytest.approx(plain)


@pytest.mark.parametrize("name", ["networkx", "dgl", "igraph", "networkit"])
@pytest.mark.parametrize("n", [0, 1, 40])
def test_round_trips_through_other_libraries(name, n):
    pytest.importorskip(name)
    plain = mh.graph("random(3, 2)" if n > 3 else "self", n)
    back = getattr(mh.Graph, f"from_{name}")
    assert back(getattr(plain, f"to_{name}")()) == plain
    weighted = plain.with_weights(np.linspace(0.5, 2, plain.nnz))
    given = {} if name == "networkit" else {"weight": "weight"}
    assert n == 0 or back(getattr(weighted, f"to_{name}")(), **given) == weighted


def test_arcs_of_other_libraries_are_those_of_networkx():
    g = mh.graph("random(3, 2) - self", 20)
    want = sorted(g.to_networkx().edges)
    for name, arcs in (("igraph", lambda x: x.get_edgelist()), ("networkit", lambda x: list(x.iterEdges())),
                       ("dgl", lambda x: list(zip(*(ends.tolist() for ends in x.edges()))))):
        try:
            __import__(name)
        except ImportError:
            continue
        assert sorted(arcs(getattr(g, f"to_{name}")())) == want


def test_rectangles_go_to_dgl_alone():
    wide = mh.graph("random(2, 1)", 3, 7)
    for name in ("networkx", "igraph", "networkit"):
        try:
            __import__(name)
        except ImportError:
            continue
        with pytest.raises(mh.errors.BadValue, match=f"to_{name}: 3 x 7, a square graph"):
            getattr(wide, f"to_{name}")()
    pytest.importorskip("dgl")
    weighted = wide.with_weights(np.arange(1.0, 7))
    assert mh.Graph.from_dgl(wide.to_dgl()) == wide and mh.Graph.from_dgl(weighted.to_dgl(), weight="weight") == weighted

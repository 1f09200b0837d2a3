import numpy as np
import pytest
from oracle import normalised

import manyhop as mh


def exact(graph, kind, teleport):
    """Row or column `seed` of a sum (1-a)^k A^k, as rows of a matrix."""
    a = normalised(graph.to_dense(), kind)
    whole = teleport * np.linalg.inv(np.eye(len(a)) - (1 - teleport) * a)
    return whole.T if kind == "col" else whole


@pytest.mark.parametrize("kind", ["col", "row", "sym"])
def test_scores_are_within_their_bound(kind, odd_graph):
    graph = odd_graph.symmetrised() if kind == "sym" else odd_graph
    want = exact(graph, kind, 0.2)
    for tol in (1e-2, 1e-5, 1e-14):
        found = mh.ppr(graph, np.arange(24), tol, teleport=0.2, normalization=kind)
        error = np.linalg.norm(found.scores.to_dense() - want, ord=2 if kind == "sym" else 1, axis=1)
        assert (error <= found.bound + 1e-12).all()
    assert np.abs(found.scores.to_dense() - want).max() < 1e-11


def test_is_diffuse_of_a_seed(odd_graph):
    x = np.zeros(24)
    x[3] = 1
    want = mh.diffuse(odd_graph, x, teleport=0.1, hops=400, normalization="col").value
    found = mh.ppr(odd_graph, 3, 1e-13)
    assert np.abs(found.scores.to_dense()[0] - want).max() < 1e-11


def test_topk_and_shapes():
    graph = mh.graph("smallworld(6, 0.1, 1)", 300)
    found = mh.ppr(graph, [5, 5, 200], tol=1e-6, topk=7)
    assert found.scores.shape == (3, 300) and (found.scores.degrees() == 7).all()
    assert found.bound.shape == found.visited.shape == (3,)
    assert np.array_equal(found.scores.rows(0, 1).indices, found.scores.rows(1, 2).indices)
    whole = mh.ppr(graph, 5, tol=1e-6).scores.to_dense()[0]
    assert set(np.argsort(-whole, kind="stable")[:7]) == set(found.scores.rows(0, 1).indices)
    assert mh.ppr(graph, []).scores.shape == (0, 300)


def test_cost_does_not_grow_with_the_graph():
    visited = [int(mh.ppr(mh.graph("window(3)", n), 1000, tol=1e-5).visited[0]) for n in (2000, 200000)]
    assert visited[0] == visited[1] <= 7 + 10**6


@pytest.mark.parametrize("given, error, part", [
    (dict(seeds=[0, 24]), ValueError, "seeds[1]: vertex 24"), (dict(seeds=[0.5]), TypeError, "float64"),
    (dict(seeds=[[1]]), ValueError, "2 axes"), (dict(seeds=np.array([2**63], dtype=np.uint64)), ValueError, "no vertex"),
    (dict(tol=0), ValueError, "tol"), (dict(tol=float("nan")), ValueError, "tol"), (dict(tol="x"), TypeError, "tol"),
    (dict(topk=0), ValueError, "topk"), (dict(topk=1.5), TypeError, "topk"), (dict(teleport=0), ValueError, "teleport"),
    (dict(normalization="none"), ValueError, "col, row or sym"), (dict(normalization=None), TypeError, "normalization"),
    (dict(dangling="uniform"), ValueError, "restart"), (dict(normalization="sym"), ValueError, "symmetric"),
    (dict(seeds=[[0], [1, 2]]), ValueError, "seeds: parts of unequal length"), (dict(topk=2**70), ValueError, "topk"),
    (dict(teleport=1j), TypeError, "teleport: complex"),
    (dict(graph="window(1)"), TypeError, "Graph"), (dict(graph=mh.graph("full", 2, 3)), ValueError, "2 x 3")])
def test_bad_calls(given, error, part, odd_graph):
    call = dict(dict(graph=odd_graph, seeds=[0]), **given)
    with pytest.raises(error, match=None) as caught:
        mh.ppr(call.pop("graph"), call.pop("seeds"), **call)
    assert isinstance(caught.value, mh.Error) and part in str(caught.value)


@pytest.mark.parametrize("kind", ["sym", "row", "col"])
def test_gdc_keeps_the_largest_entries(kind):
    graph = mh.graph("smallworld(4, 0.2, 3)", 60)
    a = graph.to_dense() + np.eye(60)
    whole = 0.15 * np.linalg.inv(np.eye(60) - 0.85 * normalised(a, kind))
    found = mh.gdc(graph, topk=6, tol=1e-12, normalization=kind).to_dense()
    if kind == "col":
        whole, found = whole.T, found.T
    assert ((found > 0).sum(1) == 6).all()
    for row, kept in zip(whole, found):
        assert np.allclose(np.sort(kept[kept > 0]), np.sort(row)[-6:], atol=1e-9)
        assert np.allclose(row[kept > 0], kept[kept > 0], atol=1e-9)


def test_gdc_of_weights_and_rectangles():
    graph = mh.graph("window(1)", 6).with_weights(np.full(16, 2.0))
    a = graph.to_dense() + np.eye(6)
    whole = 0.15 * np.linalg.inv(np.eye(6) - 0.85 * normalised(a, "sym"))
    assert np.allclose(mh.gdc(graph, topk=6, tol=1e-13).to_dense(), whole, atol=1e-10)
    with pytest.raises(ValueError, match="2 x 3"):
        mh.gdc(mh.graph("full", 2, 3))
    with pytest.raises(mh.errors.BadType, match="self_loops: 'no'"):
        mh.gdc(graph, self_loops="no")


@pytest.mark.parametrize("kind", ["sym", "row", "col"])
@pytest.mark.parametrize("directed", [False, True])
def test_gdc_by_heat_keeps_the_largest_entries(kind, directed):
    graph = mh.graph("random(4, 1)" if directed else "smallworld(4, 0.2, 3)", 150)
    a = normalised(graph.to_dense() + np.eye(150), kind)
    values, vectors = np.linalg.eig(np.eye(150) - a)
    whole = (vectors * np.exp(-2.5 * values) @ np.linalg.inv(vectors)).real
    for given in (dict(topk=6), dict(topk=None, eps=0.02), dict(topk=6, eps=0.02), dict(topk=None)):
        found = mh.gdc(graph, tol=1e-12, kernel="heat", t=2.5, normalization=kind, **given).to_dense()
        rows, kept = (whole.T, found.T) if kind == "col" else (whole, found)
        least = max(given.get("eps", 1e-11), 1e-11)
        want = np.where(rows >= least, rows, 0)
        if given["topk"]:
            want[want < np.sort(want, 1)[:, -6:-5]] = 0
        assert np.allclose(kept, want, atol=1e-10)


@pytest.mark.parametrize("kind", ["sym", "row", "col"])
def test_gdc_keeps_what_is_large_enough(kind):
    graph = mh.graph("smallworld(4, 0.2, 3)", 60)
    whole = 0.15 * np.linalg.inv(np.eye(60) - 0.85 * normalised(graph.to_dense() + np.eye(60), kind))
    found = mh.gdc(graph, None, 1e-12, eps=0.01, normalization=kind).to_dense()
    assert np.allclose(found, np.where(whole >= 0.01, whole, 0), atol=1e-9)
    assert mh.gdc(graph, eps=2.0).nnz == mh.gdc(graph, kernel="heat", eps=2.0).nnz == 0


def test_gdc_of_equal_weights_takes_the_first():
    largest = mh._ppr._largest
    assert largest(np.array([0.5, 1, 0, 0.5, 0.5]), 3, None).tolist() == [0, 1, 3]
    assert largest(np.array([0.5, 1, 0, 0.5, 0.5]), 2, 0.7).tolist() == [1] and largest(np.zeros(3), 2, 0.0).tolist() == []
    assert mh.gdc(mh.graph("self", 0), kernel="heat").shape == (0, 0)


def test_gdc_as_a_transform_of_data():
    torch = pytest.importorskip("torch")
    from types import SimpleNamespace

    graph = mh.graph("smallworld(4, 0.2, 3)", 40)
    transform = mh.nn.GDC(topk=6, kernel="heat", t=2.0)
    want = mh.gdc(graph, 6, kernel="heat", t=2.0)
    assert transform(graph) == want and "topk=6" in repr(transform)
    data = SimpleNamespace(edge_index=torch.from_numpy(graph.to_edge_index()), num_nodes=40, edge_attr=None)
    found = transform(data)
    assert mh.Graph.from_edge_index(found.edge_index, 40) == want.with_weights(None)
    assert np.allclose(found.edge_attr.numpy(), want.weights) and data.edge_attr is None
    with pytest.raises(mh.errors.BadType, match="graph: int"):
        transform(3)
    for given, words in ((dict(kernel="x"), "kernel: 'x'"), (dict(t=1.0), "t: 1.0 with kernel ppr"), (dict(eps=-1), "eps"),
                         (dict(kernel="heat", teleport=0.1), "teleport: 0.1 with kernel heat"), (dict(tol=0), "tol: 0"),
                         (dict(normalization="none"), "normalization: 'none'")):
        for make in (mh.nn.GDC, lambda **given: mh.gdc(graph, **given)):
            with pytest.raises(mh.errors.BadValue, match=words):
                make(**given)

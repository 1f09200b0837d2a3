import numpy as np
import oracle
import pytest

import manyhop as mh

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def drawn(ax):
    ax.figure.canvas.draw()
    return np.asarray(ax.figure.canvas.buffer_rgba())


@pytest.mark.parametrize("graph", [mh.graph("window(2)|global(1)", 50), mh.graph("full", 3, 7), mh.graph("window(1)", 0),
                                   mh.graph("window(3)|random(2)", 3000), mh.graph("window(1)", 5) - mh.graph("full", 5)])
def test_spy_and_degree(graph):
    assert drawn(mh.plot.spy(graph)).std() > 0
    assert drawn(mh.plot.degree(graph)).std() > 0


def test_spy_counts_pairs():
    image = mh.plot.spy(mh.graph("block(4)", 16), cells=8).images[0].get_array()
    assert image.shape == (8, 8)
    want = np.kron(np.eye(4), np.ones((2, 2)))
    assert np.allclose(image, want)


def test_reach_and_spectrum():
    graphs = [mh.graph("window(2)", 200), mh.graph("regular(4)", 200)]
    ax = mh.plot.reach(graphs, hops=4)
    means = [line.get_ydata() for line in ax.lines]
    assert [r["mean"] for r in mh.spectral.reach(graphs[1], 4)] == list(means[1]) and means[1][-1] > means[0][-1]
    assert drawn(mh.plot.spectrum(graphs[1])).std() > 0
    assert drawn(mh.plot.spectrum(mh.graph("window(1)", 0))).std() > 0


def test_attention_over_text(rng):
    words = "who reaches whom in a few hops, and with what weight?".split()
    n = len(words)
    graph = mh.graph("window(1)", n)
    q, k = rng.standard_normal((2, n, 4))
    _, a, _ = oracle.attention(q, k, np.eye(n), graph.to_dense() > 0)
    whole = oracle.attention(q, k, np.eye(n), graph.to_dense() > 0, hops=3, teleport=0.2)[0]
    assert np.allclose(mh.plot.diffused_row(q, k, graph, 4, 3, 0.2), whole[4])
    assert np.allclose(mh.plot.diffused_row(q, k, graph, 4, 0, 0.2), np.eye(n)[4])
    assert drawn(mh.plot.attention_text(words, q, k, graph, 4, hops=3, teleport=0.2)).std() > 0
    with pytest.raises(mh.Error, match="token"):
        mh.plot.attention_text(words, q, k, graph, n)
    with pytest.raises(mh.Error, match="tokens"):
        mh.plot.attention_text(words[1:], q, k, graph, 0)
    for given, kind in ((dict(columns=0), ValueError), (dict(hops="a"), TypeError), (dict(teleport=2), ValueError),
                        (dict(scale="a"), TypeError)):
        with pytest.raises(kind, match=next(iter(given))) as caught:
            mh.plot.attention_text(words, q, k, graph, 4, **given)
        assert isinstance(caught.value, mh.Error)
    with pytest.raises(mh.errors.BadType, match="token: 1.5"):
        mh.plot.attention_text(words, q, k, graph, 1.5)
    with pytest.raises(mh.errors.BadType, match="q: complex128"):
        mh.plot.attention_text(words, q + 0j, k, graph, 4)
    with pytest.raises(TypeError, match="Graph"):
        mh.plot.spy("window(1)")
    with pytest.raises(mh.errors.BadType, match="cells: 2.5"):
        mh.plot.spy(graph, cells=2.5)
    with pytest.raises(mh.errors.BadType, match="hops: 'a'"):
        mh.plot.reach(graph, hops="a")
    with pytest.raises(mh.errors.BadType, match="Graph"):
        mh.plot.reach(3)


@pytest.mark.parametrize("text", ["full", "causal", "full - window(2)", "causal - window(3)"])
@pytest.mark.parametrize("shape", [(512, 512), (400, 700), (700, 400)])
def test_implicit_graphs_are_counted_by_their_runs(text, shape):
    g = mh.graph(text, *shape)
    assert g._core.implicit
    plain = mh.Graph.from_csr(g.indptr, g.indices, shape=shape)
    for cells in (8, 70, 700):
        images = [mh.plot.spy(x, cells=cells).images[0].get_array() for x in (g, plain)]
        assert np.array_equal(*images)
    assert np.array_equal(mh.plot._column_degrees(g), mh.plot._column_degrees(plain))


def test_large_implicit_graphs_are_drawn_without_their_edges():
    assert drawn(mh.plot.spy(mh.graph("full", 10**6))).std() > 0
    assert drawn(mh.plot.degree(mh.graph("causal", 10**5))).std() > 0

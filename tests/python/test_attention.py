import copy
import pickle
import signal
import threading
import time

import numpy as np
import pytest

import manyhop as mh
import oracle


def tensors(rng, b, h, s, d, *, h_kv=None, s_k=None, d_v=None, dtype=np.float32):
    h_kv, s_k, d_v = h_kv or h, s_k or s, d_v or d
    return [rng.standard_normal(shape).astype(dtype) for shape in ((b, h, s, d), (b, h_kv, s_k, d), (b, h_kv, s_k, d_v))]


def expected(q, k, v, graphs, *, bias=None, lengths=None, **given):
    b, h, s, _ = q.shape
    group = h // k.shape[1]
    out, lse = np.zeros((b, h, s, v.shape[3])), np.full((b, h, s), -np.inf)
    for i in range(b):
        for j in range(h):
            g = graphs[j] if isinstance(graphs, list) else graphs
            edges = g.to_dense() > 0
            rows, cols = edges.shape if lengths is None else (min(lengths[i], s), lengths[i])
            added = None
            if bias is not None:
                added = np.zeros(edges.shape)
                added[edges] = np.broadcast_to(bias, (b, h, g.nnz))[i, j]
                added = added[:rows, :cols]
            z, _, l = oracle.attention(q[i, j, :rows], k[i, j // group, :cols], v[i, j // group, :cols], edges[:rows, :cols],
                                       bias=added, **given)
            out[i, j, :rows], lse[i, j, :rows] = z, l
    return out, lse


@pytest.mark.parametrize("dtype, tol", [(np.float32, 2e-6), (np.float64, 1e-13)])
@pytest.mark.parametrize("hops, teleport", [(0, 0.0), (1, 0.0), (1, 0.3), (5, 0.1)])
def test_every_row_equals_the_formula(rng, odd_graph, dtype, tol, hops, teleport):
    q, k, v = tensors(rng, 2, 4, 24, 8, h_kv=2, d_v=5, dtype=dtype)
    out, lse = mh.attention(q, k, v, odd_graph, hops=hops, teleport=teleport, return_lse=True)
    want, want_lse = expected(q, k, v, odd_graph, hops=hops, teleport=teleport)
    assert out.dtype == dtype and lse.dtype == dtype
    assert np.abs(out - want).max() < tol
    assert np.array_equal(np.isinf(lse), np.isinf(want_lse))
    some = np.isfinite(want_lse)
    assert np.abs(lse[some] - want_lse[some]).max() < 10 * tol


@pytest.mark.parametrize("form", ["m", "hm", "bhm"])
def test_bias_and_scale(rng, odd_graph, form):
    q, k, v = tensors(rng, 2, 3, 24, 8, dtype=np.float64)
    shape = {"m": (odd_graph.nnz,), "hm": (3, odd_graph.nnz), "bhm": (2, 3, odd_graph.nnz)}[form]
    bias = rng.standard_normal(shape)
    out = mh.attention(q, k, v, odd_graph, hops=3, teleport=0.2, bias=bias, scale=0.7)
    want, _ = expected(q, k, v, odd_graph, bias=bias, hops=3, teleport=0.2, scale=0.7)
    assert np.abs(out - want).max() < 1e-13


def test_weights_are_the_softmax_in_edge_order(rng, odd_graph):
    q, k, v = tensors(rng, 1, 2, 24, 8, dtype=np.float64)
    out, weights = mh.attention(q, k, v, odd_graph, return_weights=True)
    assert weights.shape == (1, 2, odd_graph.nnz)
    a = odd_graph.with_weights(weights[0, 1]).to_dense()
    assert np.abs(a @ v[0, 1] - out[0, 1]).max() < 1e-13
    sums = a.sum(1)
    assert np.allclose(np.delete(sums, 5), 1) and sums[5] == 0


def test_a_graph_for_each_head(rng):
    graphs = [mh.graph("window(2)", 20), mh.graph("strided(3)|self", 20)]
    q, k, v = tensors(rng, 1, 2, 20, 4)
    want, _ = expected(q, k, v, graphs, hops=2, teleport=0.1)
    assert np.abs(mh.attention(q, k, v, graphs, hops=2, teleport=0.1) - want).max() < 1e-6
    _, weights = mh.attention(q, k, v, graphs, return_weights=True)
    assert weights.shape == (sum(g.nnz for g in graphs),)
    with pytest.raises(ValueError, match="list of 2 for 3 heads"):
        mh.attention(*tensors(rng, 1, 3, 20, 4), graphs)


def test_layouts_and_strides_agree(rng):
    g = mh.graph("window(3)", 16)
    q, k, v = tensors(rng, 2, 3, 16, 4)
    want = mh.attention(q, k, v, g, hops=2)
    swapped = [np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for x in (q, k, v)]
    assert np.array_equal(mh.attention(*swapped, g, hops=2, layout="bshd").transpose(0, 2, 1, 3), want)
    fortran = [np.asfortranarray(x) for x in (q, k, v)]
    assert np.array_equal(mh.attention(*fortran, g, hops=2), want)
    wide = np.zeros((2, 3, 16, 9), np.float32)
    wide[..., ::2][..., :4] = q
    wide.flags.writeable = False
    assert np.array_equal(mh.attention(wide[..., ::2][..., :4], k, v, g, hops=2), want)
    backwards = [np.ascontiguousarray(x[:, ::-1])[:, ::-1] for x in (q, k, v)]
    assert np.array_equal(mh.attention(*backwards, g, hops=2), want)
    swapped_bytes = [x.astype(">f4") for x in (q, k, v)]
    assert np.array_equal(mh.attention(*swapped_bytes, g, hops=2), want)


def test_batches_of_unequal_sequences(rng):
    sizes = [5, 0, 9]
    g = mh.batch([mh.graph("window(2)", n) for n in sizes])
    q, k, v = (rng.standard_normal((14, 2, 4)).astype(np.float32) for _ in range(3))
    out = mh.attention(q, k, v, g, hops=2, layout="thd")
    assert out.shape == (14, 2, 4)
    for low, high in ((0, 5), (5, 14)):
        part = [x[low:high].transpose(1, 0, 2)[None] for x in (q, k, v)]
        alone = mh.attention(*part, mh.graph("window(2)", high - low), hops=2)
        assert np.abs(out[low:high].transpose(1, 0, 2) - alone[0]).max() < 1e-6


def test_lengths_cut_sequences(rng, odd_graph):
    q, k, v = tensors(rng, 2, 2, 24, 4, dtype=np.float64)
    k[0, :, 7:] = np.nan
    v[0, :, 7:] = np.nan
    out = mh.attention(q, k, v, odd_graph, hops=3, teleport=0.1, lengths=[7, 24])
    want, _ = expected(q, k, v, odd_graph, hops=3, teleport=0.1, lengths=[7, 24])
    assert np.abs(out - want).max() < 1e-13 and not out[0, :, 7:].any()


def test_rectangles_decode(rng):
    g = mh.graph("causal", 12).rows(8, 12)
    q, k, v = tensors(rng, 1, 2, 4, 4, s_k=12, dtype=np.float64)
    want, _ = expected(q, k, v, g)
    assert np.abs(mh.attention(q, k, v, g) - want).max() < 1e-13
    with pytest.raises(ValueError, match="4 x 12"):
        mh.attention(q, k, v, g, hops=2)


def test_sixteen_bits(rng):
    g = mh.graph("window(4)", 32)
    q, k, v = tensors(rng, 1, 2, 32, 16)
    want = mh.attention(q, k, v, g, hops=3)
    half = mh.attention(*(x.astype(np.float16) for x in (q, k, v)), g, hops=3)
    assert half.dtype == np.float16 and np.abs(half - want).max() < 5e-3
    ml_dtypes = pytest.importorskip("ml_dtypes")
    brain = mh.attention(*(x.astype(ml_dtypes.bfloat16) for x in (q, k, v)), g, hops=3)
    assert brain.dtype == ml_dtypes.bfloat16 and np.abs(brain.astype(np.float32) - want).max() < 5e-2


def test_dropout_follows_from_the_seed(rng):
    g = mh.graph("full", 32)
    q, k, v = tensors(rng, 1, 2, 32, 8)
    kept = dict(dropout_p=0.3, hop_dropout_p=0.2, hops=2)
    one = mh.attention(q, k, v, g, seed=5, **kept)
    assert np.array_equal(one, mh.attention(q, k, v, g, seed=5, **kept))
    assert not np.array_equal(one, mh.attention(q, k, v, g, seed=6, **kept))
    assert np.array_equal(mh.attention(q, k, v, g, seed=-5, **kept), mh.attention(q, k, v, g, seed=2**64 - 5, **kept))
    assert not np.array_equal(mh.attention(q, k, v, g, **kept), mh.attention(q, k, v, g, **kept))
    _, weights = mh.attention(q, k, v, g, dropout_p=0.5, seed=1, return_weights=True)
    assert 0.4 < (weights == 0).mean() < 0.6


def test_same_bits_for_any_thread_count(rng):
    g = mh.graph("diffuser(16, 8, 8)", 300)
    q, k, v = tensors(rng, 1, 3, 300, 16)
    try:
        found = []
        for threads in (1, 2, 5):
            mh.set_threads(threads)
            assert mh.get_threads() == threads
            found.append(mh.attention(q, k, v, g, hops=4, teleport=0.1))
    finally:
        mh.set_threads(0)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_nothing_to_do(rng):
    for shape in ((1, 2, 0, 4), (0, 2, 6, 4)):
        x = np.zeros(shape, np.float32)
        assert mh.attention(x, x, x, mh.graph("full", shape[2])).shape == shape
    empty = mh.Graph.from_edges([], [], shape=(6, 6))
    q, k, v = tensors(rng, 1, 1, 6, 4)
    assert not mh.attention(q, k, v, empty).any()


def test_plans_run_and_explain(rng):
    g = mh.graph("diffuser(8, 8, 4)", 128)
    p = mh.plan(g, heads=2, head_dim=16, hops=3, dtype=np.float32)
    q, k, v = tensors(rng, 1, 2, 128, 16)
    assert np.array_equal(p.run(q, k, v, teleport=0.1), mh.attention(q, k, v, g, hops=3, teleport=0.1))
    assert "predicted" in p.explain() and p.memory()["total"] > 3 * q.nbytes
    assert p.predicted_seconds() > 0
    with pytest.raises(mh.errors.BadValue, match="batch=2, heads=2, .* where the plan has batch=1, heads=2"):
        p.run(*tensors(rng, 2, 2, 128, 16))
    with pytest.raises(mh.errors.BadValue, match="head_dim=8, .*head_dim=16"):
        p.run(q[..., :8], k[..., :8], v)
    with pytest.raises(mh.errors.BadType, match="k: float64 where the plan is f32"):
        p.run(q, k.astype(float), v)
    assert p.run(*(x.transpose(0, 2, 1, 3) for x in (q, k, v)), layout="bshd").shape == (1, 128, 2, 16)
    assert p.run(*(x.astype(np.float16) for x in (q, k, v))).dtype == np.float16  # computed in float32


def test_plans_pickle_by_what_was_asked_for(rng):
    g = [mh.graph("diffuser(8, 8, 4)", 128), mh.graph("full", 128)]
    p = mh.plan(g, heads=2, head_dim=16, hops=3, batch=2, value_dim=8, backward=True)
    q, k, v = tensors(rng, 2, 2, 128, 16, d_v=8)
    other = pickle.loads(pickle.dumps(p))
    assert repr(other) == repr(p) and other.memory() == p.memory()
    assert np.array_equal(other.run(q, k, v, teleport=0.1), p.run(q, k, v, teleport=0.1))
    assert copy.copy(p) is p and copy.deepcopy([p])[0] is p
    data = pickle.dumps(p)
    with mh.memory_limit(1000), pytest.raises(mh.errors.LimitError, match="memory limit"):
        pickle.loads(data)


@pytest.mark.parametrize("change, kind, words", [
    (dict(q=np.zeros((1, 2, 8, 4), int)), TypeError, "q: int64"),
    (dict(q=np.zeros((1, 2, 8, 4), object)), TypeError, "q: object"),
    (dict(k=np.zeros((1, 2, 8, 4), np.float64)), TypeError, "k: float64 where q is float32"),
    (dict(q=np.zeros((2, 8, 4), np.float32)), ValueError, "q: 3 axes"),
    (dict(k=np.zeros((1, 2, 8, 5), np.float32)), ValueError, "k: width 5 beside 4"),
    (dict(k=np.zeros((1, 3, 8, 4), np.float32)), ValueError, "3"),
    (dict(v=np.zeros((1, 2, 9, 4), np.float32)), ValueError, "v: 9 tokens beside 8"),
    (dict(v=np.zeros((2, 2, 8, 4), np.float32)), ValueError, "batches"),
    (dict(graph=mh.graph("full", 9)), ValueError, "9 x 9 for 8 tokens"),
    (dict(graph="full"), TypeError, "mh.graph"),
    (dict(graph=None), TypeError, "NoneType"),
    (dict(hops=-1), ValueError, "hops"),
    (dict(hops=1.5), TypeError, "hops"),
    (dict(hops=2**40), ValueError, "hops"),
    (dict(teleport=1.5), ValueError, "teleport: 1.5"),
    (dict(teleport=float("nan")), ValueError, "teleport"),
    (dict(teleport="a"), TypeError, "teleport"),
    (dict(scale=float("inf")), ValueError, "scale"),
    (dict(bias=np.zeros(3)), ValueError, "bias"),
    (dict(bias=np.array(["a"])), TypeError, "bias"),
    (dict(lengths=[9]), ValueError, "9"),
    (dict(lengths=[1, 2]), ValueError, "2 entries for a batch of 1"),
    (dict(dropout_p=1.0), ValueError, "dropout_p"),
    (dict(layout="sbhd"), ValueError, "bhsd"),
    (dict(reorder="best"), ValueError, "rcm"),
    (dict(backend="cuda"), ValueError, "available|cpu"),
    (dict(q="a"), TypeError, "q: <U1"),
    (dict(q=[[1.0], [1.0, 2.0]]), ValueError, "q: parts of unequal length"),
    (dict(v=np.zeros((1, 2, 8, 0), np.float32)), ValueError, "v: width 0"),
    (dict(hops=2**70), ValueError, "hops"),
    (dict(hops=np.array([1, 2])), TypeError, "hops"),
    (dict(teleport=np.complex64(1)), TypeError, "teleport: complex64"),
    (dict(teleport=10**400), ValueError, "teleport: inf"),
    (dict(scale="x"), TypeError, "scale: str"),
    (dict(bias=np.zeros(64, complex)), TypeError, "bias: complex128"),
    (dict(bias=[[1.0], [1.0, 2.0]]), ValueError, "bias: parts of unequal length"),
    (dict(bias=1.0), ValueError, "bias: 0 axes"),
    (dict(lengths=5), TypeError, "lengths: int"),
    (dict(lengths="a"), TypeError, "lengths: str"),
    (dict(lengths=[3.9]), TypeError, r"lengths\[0\]: 3.9"),
    (dict(lengths=np.array([3.9])), TypeError, r"lengths\[0\]: 3.9"),
    (dict(lengths=np.array([[3]])), ValueError, "lengths: 2 axes"),
    (dict(lengths=[2**70]), ValueError, r"lengths\[0\]: 1180591620717411303424"),
    (dict(dropout_p="a"), TypeError, "dropout_p: str"),
    (dict(hop_dropout_p=None), TypeError, "hop_dropout_p: NoneType"),
    (dict(seed="a"), TypeError, "seed: 'a'"),
    (dict(seed=1.5), TypeError, "seed: 1.5"),
    (dict(layout=None), TypeError, "layout"),
    (dict(return_lse="yes"), TypeError, "return_lse: 'yes'"),
    (dict(return_weights=2), TypeError, "return_weights: 2"),
    (dict(backward="x"), ValueError, "backward: 'x', expected stored, checkpointed or implicit"),
    (dict(reorder=1), TypeError, "reorder: 1"),
    (dict(backend=None), TypeError, "backend: NoneType"),
])
def test_mistakes_are_one_sentence(change, kind, words):
    x = np.zeros((1, 2, 8, 4), np.float32)
    given = dict(q=x, k=x, v=x, graph=mh.graph("full", 8))
    given.update(change)
    with pytest.raises(kind, match=words) as caught:
        mh.attention(given.pop("q"), given.pop("k"), given.pop("v"), given.pop("graph"), **given)
    assert isinstance(caught.value, mh.Error)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given, kind, words", [
    (dict(value_dim=0), ValueError, "value_dim: 0"), (dict(kv_heads=0), ValueError, "kv_heads: 0"),
    (dict(heads=0), ValueError, "heads: 0"), (dict(heads=2.0), TypeError, "heads: 2.0"),
    (dict(hops=2**70), ValueError, "hops"), (dict(dtype="int8"), TypeError, "dtype: int8"),
    (dict(dtype="f16"), TypeError, "dtype: float16, expected float64, float32 or bfloat16 \\(float16 is computed in float32"),
    (dict(dtype=None), TypeError, "dtype"), (dict(reorder=1), TypeError, "reorder: 1"),
    (dict(backend=None), TypeError, "backend"), (dict(backward="x"), TypeError, "backward"),
])
def test_mistakes_in_plans(given, kind, words):
    with pytest.raises(kind, match=words) as caught:
        mh.plan(mh.graph("full", 8), **{"heads": 2, "head_dim": 4, **given})
    assert isinstance(caught.value, mh.Error) and "\n" not in str(caught.value)


def test_plans_take_types_by_any_name():
    for dtype, name in ((np.float64, "f64"), (np.dtype("f4"), "f32"), (float, "f64"), ("bfloat16", "bf16"), ("f64", "f64")):
        assert f"dtype='{name}'" in repr(mh.plan(mh.graph("full", 8), heads=2, head_dim=4, dtype=dtype))


def test_memory_limit_refuses(rng):
    q, k, v = tensors(rng, 1, 2, 512, 16)
    with mh.memory_limit(4096), pytest.raises(MemoryError) as caught:
        mh.attention(q, k, v, mh.graph("full", 512), hops=2)
    assert isinstance(caught.value, mh.Error)
    assert mh.get_memory_limit() == 0


def test_threads_of_python_run_together(rng):
    g = mh.graph("window(8)", 256)
    q, k, v = tensors(rng, 1, 2, 256, 16)
    want = mh.attention(q, k, v, g, hops=3)
    found = []
    workers = [threading.Thread(target=lambda: found.append(mh.attention(q, k, v, g, hops=3))) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 8 and all(np.array_equal(out, want) for out in found)


def test_interrupt_stops_a_long_call(rng):
    q, k, v = tensors(rng, 1, 8, 4096, 64)
    g = mh.graph("full", 4096)
    sent = []

    def interrupt():
        sent.append(time.monotonic())
        signal.raise_signal(signal.SIGINT)

    timer = threading.Timer(0.3, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(200):
            mh.attention(q, k, v, g, hops=20)
    assert time.monotonic() - sent[0] < 2
    assert mh.attention(q[:, :1, :8], k[:, :1, :8], v[:, :1, :8], mh.graph("full", 8)).shape == (1, 1, 8, 64)

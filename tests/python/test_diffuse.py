import numpy as np
import pytest

import manyhop as mh
import oracle


@pytest.mark.parametrize("how", ["sym", "row", "col"])
@pytest.mark.parametrize("dtype, tol", [(np.float64, 1e-13), (np.float32, 1e-5)])
def test_pagerank_equals_the_recurrence(rng, how, dtype, tol):
    g = mh.graph("random(4)|self", 40).with_weights(rng.random(mh.graph("random(4)|self", 40).nnz) + 0.1)
    x = rng.standard_normal((40, 3)).astype(dtype)
    a = oracle.normalised(g.to_dense(), how)
    z = x.astype(np.float64)
    for _ in range(7):
        z = 0.85 * a @ z + 0.15 * x
    r = mh.diffuse(g, x, teleport=0.15, hops=7, normalization=how)
    assert r.hops == 7 and r.converged and r.value.dtype == dtype
    assert np.abs(r.value - z).max() < tol


def test_heat_equals_the_exponential(rng):
    linalg = pytest.importorskip("scipy.linalg")
    g = mh.graph("window(2)", 30)
    x = rng.standard_normal(30)
    a = oracle.normalised(g.to_dense(), "sym")
    r = mh.diffuse(g, x, "heat", t=2.5, tol=1e-12)
    assert r.value.shape == (30,)
    assert np.abs(r.value - linalg.expm(-2.5 * (np.eye(30) - a)) @ x).max() < 1e-11


def test_coefficients_are_a_polynomial(rng):
    g = mh.graph("window(1)", 12)
    x = rng.standard_normal((12, 2))
    a = g.to_dense()
    want = 0.5 * x - 2 * a @ x + 0.25 * a @ a @ x
    r = mh.diffuse(g, x, "coefficients", coefficients=[0.5, -2, 0.25], normalization="none")
    assert np.abs(r.value - want).max() < 1e-12


def test_tolerance_is_kept_and_told(rng):
    g = mh.graph("regular(4)", 200)
    x = rng.standard_normal((200, 2))
    exact = mh.diffuse(g, x, tol=1e-14).value
    r = mh.diffuse(g, x, tol=1e-4)
    error = np.linalg.norm(r.value - exact, axis=0) / np.linalg.norm(x, axis=0)
    assert r.converged and error.max() <= r.bound <= 1e-4


def test_strided_signals_and_other_weights(rng):
    g = mh.graph("window(2)", 20)
    wide = rng.standard_normal((20, 6))
    assert np.array_equal(mh.diffuse(g, wide[:, ::2], hops=3).value, mh.diffuse(g, wide[:, ::2].copy(), hops=3).value)
    w = rng.random(g.nnz)
    assert np.array_equal(mh.diffuse(g, wide, hops=2, weights=w).value, mh.diffuse(g.with_weights(w), wide, hops=2).value)


@pytest.mark.parametrize("change, kind, words", [
    (dict(x=np.zeros(5)), ValueError, "5"),
    (dict(x=np.zeros((6, 2, 2))), ValueError, "3 axes"),
    (dict(x=np.zeros(6, int)), TypeError, "int64"),
    (dict(kernel="warm"), ValueError, "ppr"),
    (dict(normalization="both"), ValueError, "sym"),
    (dict(teleport=2.0), ValueError, "teleport"),
    (dict(hops=3, tol=0.1), ValueError, "hops|tol"),
    (dict(tol=-1.0), ValueError, "tol"),
    (dict(hops="3"), TypeError, "hops"),
    (dict(weights=np.zeros(3)), ValueError, "3"),
    (dict(graph=3), TypeError, "graph"),
    (dict(x=[1.0, [2.0]]), ValueError, "x: parts of unequal length"),
    (dict(x="a"), TypeError, "x: <U1"),
    (dict(kernel=None), TypeError, "kernel"),
    (dict(normalization=None), TypeError, "normalization"),
    (dict(dangling=1), TypeError, "dangling: 1"),
    (dict(backend=None), TypeError, "backend"),
    (dict(backward="x"), ValueError, "backward: 'x'"),
    (dict(coefficients=None), TypeError, "coefficients: NoneType"),
    (dict(coefficients=1.0), TypeError, "coefficients: float"),
    (dict(coefficients=["a"]), TypeError, r"coefficients\[0\]: str"),
    (dict(coefficients=np.ones((2, 2))), TypeError, r"coefficients\[0\]: ndarray"),
    (dict(hops=2.0), TypeError, "hops: 2.0"),
    (dict(hops=2**70), ValueError, "hops"),
    (dict(tol="a"), TypeError, "tol: str"),
    (dict(teleport="a"), TypeError, "teleport: str"),
    (dict(teleport=None), TypeError, "teleport: NoneType"),
    (dict(weights=np.ones((16, 1))), ValueError, "weights: 2 axes"),
    (dict(weights=np.ones(16, complex)), TypeError, "weights: complex128"),
])
def test_mistakes_are_one_sentence(change, kind, words):
    given = dict(graph=mh.graph("window(1)", 6), x=np.zeros(6))
    given.update(change)
    with pytest.raises(kind, match=words) as caught:
        mh.diffuse(given.pop("graph"), given.pop("x"), **given)
    assert isinstance(caught.value, mh.Error) and "\n" not in str(caught.value)


def test_backends_agree_and_absent_ones_are_named():
    graph = mh.graph("window(2)|random(3, seed=1)", 60)
    x = np.random.default_rng(0).normal(size=(60, 3))
    want = mh.diffuse(graph, x, hops=4).value
    np.testing.assert_allclose(mh.diffuse(graph, x, hops=4, backend="reference").value, want, atol=1e-12)
    with pytest.raises(ValueError, match="reference"):
        mh.diffuse(graph, x, hops=4, backend="tpu")
    if "cuda" in mh._core.available_backends():
        np.testing.assert_allclose(mh.diffuse(graph, x, hops=4, backend="cuda").value, want, atol=1e-12)
    else:
        with pytest.raises(ValueError, match="cuda.*(cpu|device)"):
            mh.diffuse(graph, x, hops=4, backend="cuda")

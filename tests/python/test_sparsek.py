import copy
import pickle
import time

import numpy as np
import pytest

import manyhop as mh

INF = np.inf


def project(z, k):
    """The row's projection in double, by bisection on tau."""
    z = np.asarray(z, dtype=np.float64)
    finite = z > -INF
    if k >= finite.sum():
        return finite.astype(float)
    low, high = z[finite].min() - 1.0, z[finite].max()
    for _ in range(64):
        tau = (low + high) / 2
        low, high = (tau, high) if np.clip(z - tau, 0, 1).sum() > k else (low, tau)
    return np.clip(z - (low + high) / 2, 0, 1)


def attend(q, k, v, u, keys, cap, window, sinks, gate, hops=1, teleport=0.0):
    """Attention of one head by its definition, row by row."""
    n = len(q)
    weights = np.zeros((n, n))
    for i in range(n):
        order = sorted(range(i + 1), key=lambda j: (u[j], j), reverse=True)[:cap]
        p = np.zeros(n)
        p[order] = project(u[order], keys)
        always = np.array([j <= i and (j < sinks or j > i - window) for j in range(n)])
        gates = np.where(always, 1.0, p)
        row = gates > 1e-12  # a key at the threshold is out, and then out of the softmax too
        if not row.any():
            continue
        e = np.where(row, np.exp(np.where(row, k @ q[i] / np.sqrt(q.shape[1]), 0)), 0)
        weights[i] = e * gates / (e.sum() if gate == "values" else (e * gates).sum())
    z = v
    for _ in range(hops):
        z = (1 - teleport) * weights @ z + teleport * v
    return z


@pytest.mark.parametrize("dtype, most", [(np.float64, 1e-12), (np.float32, 1e-6), (np.float16, 1e-3)])
def test_rows_are_projections(rng, dtype, most):
    for n in (1, 2, 31, 64, 1000):
        z = np.clip(rng.standard_normal((6, n)) * 4, -16, 16).astype(dtype)
        for k in (0, 0.5, 1, n / 3, n - 0.5, n, n + 7):
            p, tau = mh.sparsek(z, k, return_tau=True)
            assert p.dtype == dtype and tau.shape == (6,)
            want = np.array([project(row, k) for row in z])
            assert np.abs(p.astype(float) - want).max() <= most
            assert np.allclose(p.astype(float).sum(1), min(k, n), rtol=most * 10, atol=1e-9)
            assert np.abs(mh.sparsek(z, k, method="sorted").astype(float) - want).max() <= most


def test_laws(rng):
    z = rng.standard_normal((4, 200))
    p = mh.sparsek(z, 9.5)
    assert p.min() >= 0 and p.max() <= 1
    assert np.allclose(mh.sparsek(z + 3, 9.5), p, atol=1e-12)
    assert np.allclose(mh.sparsek(3 * z, 9.5, temperature=3), p, atol=1e-12)
    order = rng.permutation(200)
    assert np.allclose(mh.sparsek(z[:, order], 9.5), p[:, order], atol=1e-13)
    assert (np.diff(np.take_along_axis(p, z.argsort(1), 1)) >= 0).all()
    taus = [mh.sparsek(z[0, :i], 9.5, return_tau=True)[1] for i in range(1, 200)]
    assert np.diff(taus[10:]).min() > -1e-14


def test_shapes_and_ragged_rows(rng):
    z = rng.standard_normal((2, 3, 4, 5))
    assert np.allclose(mh.sparsek(z, 2)[1, 2, 3], project(z[1, 2, 3], 2))
    each = rng.uniform(0, 5, 24)
    p = mh.sparsek(z, each)
    assert np.allclose(p.reshape(24, 5)[7], project(z.reshape(24, 5)[7], each[7]))
    assert np.allclose(mh.sparsek(z.T, 1)[0, 0, 0], project(z.T[0, 0, 0], 1))
    flat = z.ravel()
    p, tau = mh.sparsek(flat, 3, offsets=[0, 7, 7, 120], return_tau=True)
    assert np.allclose(p[:7], project(flat[:7], 3)) and np.allclose(p[7:], project(flat[7:], 3)) and tau[1] == -INF
    assert mh.sparsek(np.zeros((3, 0)), 2).shape == (3, 0) and mh.sparsek(np.zeros((0, 4)), 2).shape == (0, 4)


def test_special_scores():
    assert mh.sparsek(np.full((2, 3), -INF), 2).tolist() == [[0, 0, 0]] * 2
    assert mh.sparsek(np.array([INF, INF, 1]), 1).tolist() == [0.5, 0.5, 0]
    assert mh.sparsek(np.array([-INF, 1, 1, 1]), 2).tolist() == pytest.approx([0, 2 / 3, 2 / 3, 2 / 3])
    bad = mh.sparsek(np.array([[1, np.nan], [2, 1]]), 1)
    assert np.isnan(bad[0]).all() and bad[1].tolist() == [1, 0]


@pytest.mark.parametrize("call, kind, text", [
    (lambda z: mh.sparsek(z, -1), ValueError, "k: -1"),
    (lambda z: mh.sparsek(z, np.nan), ValueError, "k: nan"),
    (lambda z: mh.sparsek(z, "2"), TypeError, "k: str"),
    (lambda z: mh.sparsek(z, [1, 2]), ValueError, "2 numbers for 3 rows"),
    (lambda z: mh.sparsek(z, [1, np.nan, 1]), ValueError, "row_k"),
    (lambda z: mh.sparsek(z, 1, temperature=0), ValueError, "temperature"),
    (lambda z: mh.sparsek(z, 1, method="fast"), ValueError, "linear or sorted"),
    (lambda z: mh.sparsek(z.astype(int), 1), TypeError, "int64"),
    (lambda z: mh.sparsek(z[0, 0], 1), ValueError, "axis"),
    (lambda z: mh.sparsek(z.ravel(), 1, offsets=[0, 30]), ValueError, "offsets"),
    (lambda z: mh.sparsek(z.ravel(), 1, offsets=[0, 20, 10, 24]), ValueError, "offsets"),
    (lambda z: mh.sparsek(z.ravel(), 1, offsets=[0.0, 24.0]), TypeError, "offsets"),
    (lambda z: mh.select(z[0], -1), ValueError, "k: -1"),
    (lambda z: mh.select([1.0, np.nan], 1), ValueError, "token 1 is NaN"),
    (lambda z: mh.select(["a"], 1), TypeError, "scores"),
    (lambda z: mh.causal_sparsek(z[None], 1), ValueError, "3 axes"),
    (lambda z: mh.causal_sparsek([[0.0, 1.0], [np.nan, 0.0]], 1), ValueError, "head 1: the score of token 0 is NaN"),
    (lambda z: mh.causal_sparsek(z[0], -1), ValueError, "k: -1"),
    (lambda z: mh.causal_sparsek(z[0], 4, cap=2), ValueError, "cap is 2"),
    (lambda z: mh.causal_sparsek([0.0, np.nan], 1), ValueError, "token 1 is NaN"),
    (lambda z: mh.causal_sparsek(z[0], 1).to_graph(window=-1), ValueError, "window"),
    (lambda z: mh.sparsek(z, ["a", "b", "c"]), TypeError, "k: <U1"),
    (lambda z: mh.sparsek(z, np.array([1j, 1, 1])), TypeError, "k: complex128"),
    (lambda z: mh.sparsek(z, [[1], [1, 2]]), ValueError, "k: parts of unequal length"),
    (lambda z: mh.sparsek([[1.0], [1.0, 2.0]], 1), ValueError, "z: parts of unequal length"),
    (lambda z: mh.sparsek(z, 1, temperature=np.complex64(1)), TypeError, "temperature: complex64"),
    (lambda z: mh.sparsek(z, 1, method=None), TypeError, "method"),
    (lambda z: mh.sparsek(z, 1, return_tau="no"), TypeError, "return_tau: 'no'"),
    (lambda z: mh.select(z[0], 1, causal="no"), TypeError, "causal: 'no'"),
    (lambda z: mh.causal_sparsek([[1.0], [1.0, 2.0]], 1), ValueError, "scores: parts of unequal length"),
    (lambda z: mh.causal_sparsek(z[0] + 0j, 1), TypeError, "scores: complex128"),
    (lambda z: mh.SparseKCache(2, dtype=np.float16), TypeError, "dtype: float16"),
    (lambda z: mh.SparseKCache(2, dtype=None), TypeError, "dtype: None"),
])
def test_bad_values(rng, call, kind, text):
    with pytest.raises(kind, match=text) as caught:
        call(rng.standard_normal((3, 8)))
    assert isinstance(caught.value, mh.Error)


def test_select(rng):
    u = rng.standard_normal(40).astype(np.float32)
    dense = mh.select(u, 3, sinks=2, window=4).to_dense() > 0
    for i in range(40):
        best = np.argsort(-u[:i + 1], kind="stable")[:3]
        want = {*best.tolist(), *range(min(2, i + 1)), *range(max(0, i - 3), i + 1)}
        assert set(np.flatnonzero(dense[i])) == want
    every = mh.select(u, 3, causal=False).to_dense()
    assert (every > 0).sum() == 120 and set(np.flatnonzero(every[0])) == set(np.argsort(-u)[:3])
    assert mh.select([], 2).shape == (0, 0) and mh.select([-INF, -INF], 2).nnz == 0


def test_topk(rng):
    z = rng.standard_normal((3, 5, 30))
    z[1, 2, 4:] = -INF
    for k in (0, 1, 7, 30, 33):
        found = mh.topk(z, k)
        assert found.shape == (3, 5, k) and found.dtype == np.int32
        for row, got in zip(z.reshape(15, 30), found.reshape(15, k)):
            want = sorted(j for j in np.argsort(-row)[:k] if row[j] > -INF)
            assert got.tolist() == want + [-1] * (k - len(want))
    assert mh.topk(np.array([1.0, np.nan, 1.0, 1.0], np.float32), 2).tolist() == [2, 3]
    assert mh.topk(np.zeros((2, 0)), 3).tolist() == [[-1] * 3] * 2 and mh.topk(np.zeros((0, 4)), 3).shape == (0, 3)
    for k, kind in ((-1, ValueError), (2.0, TypeError), (2**31, ValueError), (2**31 - 1, ValueError)):
        with pytest.raises(kind, match="k"):
            mh.topk(z, k)


@pytest.mark.parametrize("cap", [-1, 12, None])
def test_causal_rows_are_projections_of_prefixes(rng, cap):
    u = rng.standard_normal(150) * 0.3
    found = mh.causal_sparsek(u, 6, cap=cap)
    dense = found.to_graph().to_dense()
    size = {-1: 150, None: 12}.get(cap, cap)
    for i in range(150):
        order = sorted(range(i + 1), key=lambda j: (u[j], j), reverse=True)[:size]
        want = np.zeros(150)
        want[order] = project(u[order], 6)
        assert np.abs(dense[i] - want).max() < 1e-6
    assert (np.diff(found.tau[7:]) >= 0).all() and found.edges == (dense > 0).sum()
    assert (found.capped_rows > 0) == (cap != -1)
    for j in range(150):  # a key that has left never comes back
        rows = np.flatnonzero(dense[:, j])
        assert len(rows) == 0 or rows.tolist() == list(range(j, min(int(found.until[j]), 150)))
    joined = found.to_graph(window=3, sinks=2)
    assert isinstance(joined, mh.Graph) and (joined.to_dense()[100, [0, 1, 98, 99, 100]] == 1).all()
    assert "150 rows" in repr(found)


@pytest.mark.parametrize("gate", ["values", "scores"])
@pytest.mark.parametrize("dtype, most", [(np.float64, 1e-12), (np.float32, 2e-6)])
def test_attention_is_its_definition(rng, gate, dtype, most):
    q, k, v = (rng.standard_normal((2, h, 45, d)).astype(dtype) for h, d in ((4, 8), (2, 8), (2, 5)))
    u = rng.standard_normal((2, 2, 45)).astype(dtype)
    for given in (dict(keys=5, cap=8, window=4, sinks=2), dict(keys=3.5, cap=7, window=0, sinks=0),
                  dict(keys=0, cap=0, window=3, sinks=1), dict(keys=5, cap=8, window=4, sinks=0, hops=3, teleport=0.2)):
        out = mh.sparsek_attention(q, k, v, u, gate=gate, **given)
        want = np.array([[attend(q[b, h], k[b, h // 2], v[b, h // 2], u[b, h // 2], gate=gate, **given) for h in range(4)]
                         for b in range(2)])
        assert out.dtype == dtype and np.linalg.norm(out - want) <= most * np.linalg.norm(want)


def test_attention_without_choice_is_a_window(rng):
    q, k, v = rng.standard_normal((3, 1, 2, 50, 8))
    out = mh.sparsek_attention(q, k, v, np.zeros((1, 1, 50)), keys=0, window=5, sinks=3)
    assert np.allclose(out, mh.attention(q, k, v, mh.graph("(window(4) | random(3, causal=true)) & causal", 50)
                                         & mh.graph("window(4)", 50) | _first(3, 50)), atol=1e-12)
    assert (mh.sparsek_attention(q, k, v, np.full((1, 1, 50), -INF), keys=4) == 0).all()
    assert mh.sparsek_attention(q[:, :, :0], k[:, :, :0], v[:, :, :0], np.zeros((1, 1, 0))).shape == (1, 2, 0, 8)


def _first(count, n):
    rows, cols = np.nonzero(np.tri(n)[:, :count])
    return mh.Graph.from_edges(rows, cols, shape=(n, n))


@pytest.mark.parametrize("given, text", [
    (dict(keys=-1), "keys: -1"), (dict(keys=np.nan), "keys: nan"), (dict(keys=4, cap=3), "cap is 3"), (dict(gate="both"), "gate"),
    (dict(window=-1), "window"), (dict(teleport=2), "teleport"), (dict(temperature=0), "temperature"), (dict(scale=np.nan), "scale"),
])
def test_bad_attention_options(rng, given, text):
    x = rng.standard_normal((1, 2, 9, 4))
    with pytest.raises(ValueError, match=text):
        mh.sparsek_attention(x, x, x, x[..., 0], **given)


@pytest.mark.parametrize("change, text", [
    (lambda q, k, v, u: (q, k, v, u[:, :, :5]), "scores"), (lambda q, k, v, u: (q, k, v, u[0]), "2 axes"),
    (lambda q, k, v, u: (q, k[:, :, :5], v, u), "5 and 9 tokens"), (lambda q, k, v, u: (q, k[..., :2], v, u), "k has shape"),
    (lambda q, k, v, u: (q, k, v, np.concatenate([u, u[:, :1]], 1)), "divisor of 2"),
    (lambda q, k, v, u: (q, k, v, u * np.nan), "token 0 is NaN"),
])
def test_bad_attention_shapes(rng, change, text):
    x = rng.standard_normal((1, 2, 9, 4))
    with pytest.raises(ValueError, match=text):
        mh.sparsek_attention(*change(x, x, x, x[..., 0]))


@pytest.mark.parametrize("heads, kv, s", [(4, 2, 2), (4, 2, 4), (4, 4, 2), (2, 1, 1)])
def test_cache_decodes_what_the_capped_form_gives(rng, heads, kv, s):
    n = 120
    q, k, v = (rng.standard_normal((h, n, d)) for h, d in ((heads, 8), (kv, 8), (kv, 6)))
    u = rng.standard_normal((s, n))
    for given in (dict(keys=5, cap=8, window=6, sinks=2, gate="scores"), dict(keys=4, window=0)):
        whole = mh.sparsek_attention(q[None], k[None], v[None], u[None], **given)[0]
        cache = mh.SparseKCache(heads, kv_heads=kv, score_heads=s, head_dim=8, value_dim=6, dtype="float64", **given)
        size, parts, first = cache.bytes, [], 0
        for count in (30, 1, 1, 0, 50, 1, 37):
            part = slice(first, first + count)
            parts.append(cache.step(q[:, part], k[:, part], v[:, part], u[:, part]))
            first += count
            if first == 32:
                copy.copy(cache).extend(k[:, :3], v[:, :3], u[:, :3])  # leaves the original as it is
        assert np.allclose(np.concatenate(parts, 1), whole, atol=1e-12)
        assert cache.tokens == n and cache.bytes == size
        last = mh.causal_sparsek(u[0], given["keys"], cap=given.get("cap")).to_graph().to_dense()[-1]
        positions, gates = cache.kept(0)
        assert positions.tolist() == np.flatnonzero(last).tolist() and np.allclose(gates, last[positions], atol=1e-6)


def again(x):
    return pickle.loads(pickle.dumps(x))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_pickled_caches_go_on_with_the_same_bits(rng, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    x = rng.standard_normal((4, 90, 8)).astype(dtype)
    u = rng.standard_normal((2, 90)).astype(np.float64 if dtype == "float64" else np.float32)
    u[:, 3] = -INF
    cache = mh.SparseKCache(4, kv_heads=2, score_heads=2, head_dim=8, keys=5, cap=8, window=6, sinks=2, gate="scores", dtype=dtype)
    for first in (0, 1, 7, 40, 41):
        last = {0: 1, 1: 7, 7: 40, 40: 41, 41: 90}[first]
        other = again(cache)
        assert other.bytes == cache.bytes and other.tokens == first and other.settings == cache.settings
        got, want = (c.step(x[:, first:last], x[:2, first:last], x[2:, first:last], u[:, first:last]) for c in (other, cache))
        assert got.tobytes() == want.tobytes()
        assert all(np.array_equal(a, b) for head in (0, 1) for a, b in zip(other.kept(head), cache.kept(head)))


def test_pickled_selections_are_the_same(rng):
    u = rng.standard_normal(300)
    u[[0, 17]] = -INF
    for given in (dict(k=4), dict(k=2.5, cap=3, temperature=0.3), dict(k=4, cap=-1), dict(k=0), dict(k=1000)):
        mine = mh.causal_sparsek(u, **given)
        for other in (again(mine), copy.deepcopy([mine])[0]):
            assert all(np.array_equal(getattr(mine, name), getattr(other, name)) for name in ("tau", "until", "score"))
            assert (other.edges, other.capped_rows) == (mine.edges, mine.capped_rows)
            assert other.to_graph(window=3) == mine.to_graph(window=3)
    assert repr(again(mh.causal_sparsek([], 2))) == "Selection(0 rows, 0 keys)"


def test_selections_and_plans_are_not_made_by_hand():
    for make, text in ((lambda: mh.Selection(3), r"made by mh.causal_sparsek\(\)"), (lambda: mh.Plan(None, None, {}), r"made by mh.plan\(\)")):
        with pytest.raises(mh.errors.BadType, match=text):
            make()


def test_pickles_that_hold_something_else():
    x, u = np.ones((1, 20, 4), np.float32), np.arange(20, dtype=np.float32)[None]
    cache = mh.SparseKCache(1, head_dim=4, keys=3, window=2)
    cache.extend(x, x, u)
    state = cache._core.state()
    tokens, fixed, kept, places, numbers, counts, scores, positions = range(8)
    nan, bad = np.float64([np.nan] * 4).tobytes(), [(tokens, 3), (tokens, -1), (counts, np.int64([99, 99]).tobytes())]
    bad += [(part, state[part][:-1]) for part in range(1, 8)] + [(part, state[part][4:]) for part in (fixed, kept, places, positions)]
    bad += [(numbers, nan), (scores, b"\xff" * len(state[scores])), (places, np.int32([-1] * 6).tobytes()),
            (places, np.int32([-7] * 6).tobytes()), (positions, b"\0" * len(state[positions])), (counts, np.int64([-1, 1]).tobytes())]
    for part, value in bad:
        with pytest.raises(mh.errors.BadValue):
            mh.SparseKCache(1, head_dim=4, keys=3, window=2)._core.restore(*(value if i == part else x for i, x in enumerate(state)))
    with pytest.raises(mh.errors.BadValue, match="other options"):
        mh.SparseKCache(1, head_dim=4, keys=3, window=3)._core.restore(*state)
    selection = mh.causal_sparsek([0.5, 2.0, 1.0], 1)
    state = selection._core.state()
    for part, value in ((0, -1.0), (1, 0.5), (2, 0.0), (3, b""), (3, nan[:24]), (4, nan[:24]), (4, state[4][:-3]), (6, 9),
                        (5, np.int32([-1, 2, 2]).tobytes()), (5, np.int32([1, 3, 2]).tobytes()), (5, np.int32([1, 0, 2]).tobytes())):
        with pytest.raises((ValueError, TypeError)):
            type(selection._core).from_state(*(value if i == part else x for i, x in enumerate(state)))


def test_cache_takes_types_by_any_name():
    for dtype in (np.float64, np.dtype("f8"), "f64", float, "double"):
        assert mh.SparseKCache(2, dtype=dtype).dtype == "float64"


def test_cache_time_and_memory_do_not_grow(rng):
    cache = mh.SparseKCache(2, head_dim=16, keys=32, window=32, sinks=2)
    q, k, v = rng.standard_normal((3, 2, 2000, 16), dtype=np.float32)
    u = rng.standard_normal((2, 2000), dtype=np.float32)

    def seconds(cache):
        started = time.perf_counter()
        cache.step(q, k, v, u)
        return time.perf_counter() - started

    size, ratios = cache.bytes, []
    for _ in range(10):
        fresh = mh.SparseKCache(2, head_dim=16, keys=32, window=32, sinks=2)
        ratios.append(seconds(cache) / seconds(fresh))  # side by side: the machine's speed changes
    assert cache.bytes == size and cache.tokens == 20000
    assert min(ratios[5:]) < 3  # a cache that grows would take five times as long from here on


@pytest.mark.parametrize("given, text", [
    (dict(heads=4, kv_heads=3), "divide"), (dict(heads=0), "heads"), (dict(heads=2, cap=-1), "cap"), (dict(heads=2, keys=-1), "keys"),
    (dict(heads=2, dtype="int8"), "dtype"), (dict(heads=2, head_dim=0), "head_dim"), (dict(heads=2, window=-3), "window"),
])
def test_bad_caches(given, text):
    with pytest.raises((ValueError, TypeError), match=text):
        mh.SparseKCache(**given)


def test_bad_steps(rng):
    with pytest.raises(MemoryError, match="memory limit"):
        mh.SparseKCache(2, window=2**30)
    cache = mh.SparseKCache(2, head_dim=4, keys=2)
    x, u = rng.standard_normal((2, 3, 4), dtype=np.float32), rng.standard_normal((2, 3), dtype=np.float32)
    for args, kind, text in (((x[:1], x, x, u), ValueError, "q: shape"), ((x, x, x[:, :2], u), ValueError, "v: shape"),
                             ((x, x, x, u[:1]), ValueError, "scores: shape"), ((x.astype(float), x, x, u), TypeError, "q: float64"),
                             ((x, x, x, u * np.nan), ValueError, "is NaN")):
        with pytest.raises(kind, match=text):
            cache.step(*args)
    late = u.copy()
    late[1, 2] = np.nan
    with pytest.raises(ValueError, match="score 1 of token 2 is NaN, no token was taken"):
        cache.step(x, x, x, late)
    assert cache.tokens == 0
    with mh.memory_limit(10**6), pytest.raises(MemoryError, match="1000000"):
        mh.SparseKCache(8, window=4096, head_dim=128)
    with pytest.raises(ValueError, match="score_head"):
        cache.kept(2)


def test_jvp_is_the_slope(rng):
    z, dz = rng.standard_normal((3, 40)), rng.standard_normal((3, 40))
    k, dk, t, step = np.array([2.0, 5.5, 0.0]), np.array([0.3, -1.0, 0.0]), 0.7, 1e-6
    p = mh.sparsek(z, k, temperature=t)
    want = (mh.sparsek(z + step * dz, k + step * dk, temperature=t) - mh.sparsek(z - step * dz, k - step * dk, temperature=t)) / (2 * step)
    assert np.abs(mh.sparsek_jvp(p, dz, dk=dk, temperature=t) - want)[:2].max() < 1e-7
    flat = mh.sparsek(z[0], 3, offsets=[0, 10, 40])
    whole = mh.sparsek_jvp(flat, dz[0], offsets=[0, 10, 40])
    assert np.array_equal(whole[10:], mh.sparsek_jvp(flat[10:], dz[0, 10:]))
    single = mh.sparsek_jvp(p.astype(np.float32), dz.astype(np.float32))
    assert single.dtype == np.float32 and np.abs(single - mh.sparsek_jvp(p, dz)).max() < 1e-6
    for bad in (dict(dz=dz[:2]), dict(dz=dz.astype(np.float32)), dict(dz=dz, dk=[1, 2]), dict(dz=dz, temperature=0)):
        with pytest.raises(mh.Error):
            mh.sparsek_jvp(p, **bad)


def test_heads_at_once(rng):
    u = rng.standard_normal((3, 200)).astype(np.float32)
    found = mh.causal_sparsek(u, 5, cap=8)
    assert len(found) == 3
    for row, selection in zip(u, found):
        one = mh.causal_sparsek(row, 5, cap=8)
        assert np.array_equal(one.tau, selection.tau) and np.array_equal(one.until, selection.until)
        assert selection.edges == one.edges and selection.to_graph(window=2) == one.to_graph(window=2)


def test_threads_take_turns_with_a_cache():
    import threading

    cache = mh.SparseKCache(2, head_dim=4, keys=2, window=2)
    x, u = np.ones((2, 50, 4), np.float32), np.zeros((2, 50), np.float32)
    threads = [threading.Thread(target=lambda: [cache.step(x, x, x, u) for _ in range(40)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.tokens == 4 * 40 * 50

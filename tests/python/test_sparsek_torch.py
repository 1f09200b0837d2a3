import itertools

import numpy as np
import pytest

import manyhop as mh

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors: threads that wait for each other would take ten times as long beside other programs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensors(dtype=torch.float64, n=18, grad=True, seed=3, b=2):
    g = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_(grad)  # noqa: E731
    return make(b, 4, n, 5), make(b, 2, n, 5), make(b, 2, n, 3), make(b, 2, n)


def test_operator_is_numpys():
    z = torch.randn(3, 4, 50, dtype=torch.float64)
    for given in (dict(k=3.5), dict(k=60), dict(k=2, temperature=0.5), dict(k=2, method="sorted")):
        assert np.array_equal(mh.sparsek(z, **given).numpy(), mh.sparsek(z.numpy(), **given))
    p, tau = mh.sparsek(z, 3, return_tau=True)
    assert tau.shape == (3, 4) and torch.equal(p, mh.sparsek(z, torch.full((3, 4), 3.0)))
    flat = z.flatten()
    assert torch.equal(mh.sparsek(flat, 3, offsets=[0, 40, 40, 600]), mh.sparsek(flat, 3, offsets=torch.tensor([0, 40, 40, 600])))
    assert mh.sparsek(z.bfloat16(), 3).dtype == torch.bfloat16
    assert mh.sparsek(z[:0], 3).shape == (0, 4, 50) and mh.sparsek(z[..., :0], 3).shape == (3, 4, 0)
    assert torch.equal(mh.sparsek(z.transpose(0, 2), 3)[0, 0], mh.sparsek(z[:, 0, 0].contiguous(), 3))


def test_topk():
    z = torch.randn(3, 50, dtype=torch.bfloat16)
    found = mh.topk(z, 4)
    assert found.dtype == torch.int64 and bool((found >= 0).all())
    assert torch.equal(z.gather(1, found).sort(1).values, z.topk(4).values.flip(1))


def test_operator_gradients():
    z = torch.randn(5, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    k = torch.full((5,), 3.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, k: mh.sparsek(z, k, temperature=0.7), (z, k))
    assert torch.autograd.gradcheck(lambda z: mh.sparsek(z.flatten(), 2.5, offsets=[0, 30, 31, 100]), (z,))
    p = mh.sparsek(z, 4)
    s = ((p > 0) & (p < 1)).double()
    g = torch.randn_like(p)
    got, = torch.autograd.grad(p, z, g)
    assert torch.allclose(got, s * (g - (s * g).sum(1, True) / s.sum(1, True)))
    assert torch.equal(torch.autograd.grad(mh.sparsek(z, 20).sum(), z)[0], torch.zeros_like(z))  # all ones: nothing moves


def test_float16_is_computed_in_float32():
    z = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)).half().requires_grad_()
    p = mh.sparsek(z, 4)
    assert p.dtype == torch.float16 and torch.equal(p, mh.sparsek(z.float(), 4).half())
    assert torch.equal(mh.topk(z, 4), mh.topk(z.float(), 4))
    g, = torch.autograd.grad(p.float().square().sum(), z)
    assert g.dtype == torch.float16 and g.abs().sum() > 0
    x = tensors(torch.float16)
    out = mh.sparsek_attention(*x, keys=4, window=3)
    wide = [t.detach().float().requires_grad_() for t in x]
    want = mh.sparsek_attention(*wide, keys=4, window=3)
    assert out.dtype == torch.float16 and torch.equal(out, want.half())
    for mine, theirs in zip(torch.autograd.grad(out.float().sum(), x), torch.autograd.grad(want.sum(), wide)):
        assert mine.dtype == torch.float16 and torch.allclose(mine.float(), theirs, rtol=2e-3, atol=2e-3)


def test_autocast_sets_the_type():
    q, k, v, u = tensors(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = mh.sparsek_attention(q, k.bfloat16(), v, u, keys=4, window=3)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, mh.sparsek_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), u, keys=4, window=3))
    assert torch.autograd.grad(out.float().sum(), q)[0].dtype == torch.float32


def test_select_takes_tensors():
    u = torch.tensor([0.5, 3.0, 0.25, 2.0], requires_grad=True)
    want = mh.select(u.detach().numpy(), 1)
    assert mh.select(u, 1) == want and mh.select(u.bfloat16(), 1) == want


@pytest.mark.parametrize("gate", ["values", "scores"])
def test_attention_gradients(gate):
    for given in (dict(keys=3, cap=6, window=2, sinks=1), dict(keys=2.5, cap=-1), dict(keys=3, cap=5, window=2, hops=2, teleport=0.3)):
        assert torch.autograd.gradcheck(lambda *x: mh.sparsek_attention(*x, gate=gate, **given), tensors(n=9, b=1), nondet_tol=0)


def test_only_wanted_gradients():
    q, k, v, u = tensors()
    want = torch.autograd.grad(mh.sparsek_attention(q, k, v, u, keys=3).square().sum(), (q, k, v, u))
    q, k, v = (x.detach() for x in (q, k, v))
    got, = torch.autograd.grad(mh.sparsek_attention(q, k, v, u, keys=3).square().sum(), u)
    assert torch.equal(got, want[3])


@pytest.mark.parametrize("dtype, most", [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_types(dtype, most):
    x = tensors(grad=False)
    want = mh.sparsek_attention(*x[:3], x[3].to(dtype), keys=4, window=3)
    got = mh.sparsek_attention(*(t.to(dtype) for t in x), keys=4, window=3)
    assert got.dtype == dtype and (got.double() - want).norm() <= most * want.norm()


def test_operators_are_well_made():
    z = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    k = torch.full((3,), 2.2, dtype=torch.float64)
    torch.library.opcheck(torch.ops.manyhop.sparsek.default, (z, k, None, 1.0, False))
    cuts = torch.tensor([0, 4, 4, 9, 27])
    for ordered in (False, True):
        torch.library.opcheck(torch.ops.manyhop.sparsek.default,
                              (z.detach().reshape(-1).requires_grad_(), torch.full((4,), 1.5, dtype=torch.float64), cuts, 1.0, ordered))
    for gate, hops, dtype in itertools.product(("values", "scores"), (1, 2), (torch.float32, torch.float64)):
        torch.library.opcheck(torch.ops.manyhop.sparsek_attention.default,
                              (*tensors(dtype, n=7), 2.0, None, 1.0, 2, 1, gate, hops, 0.0 if hops == 1 else 0.1, None))


def test_compiles_whole():
    q, k, v, u = tensors(torch.float32)

    def f(q, k, v, u):
        return mh.sparsek_attention(q, k, v, u, keys=3, window=2, gate="scores").square().sum() + mh.sparsek(u, 3.5)[..., 0].sum()

    want = torch.autograd.grad(f(q, k, v, u), (q, u))
    got = torch.autograd.grad(torch.compile(f, fullgraph=True, backend="aot_eager")(q, k, v, u), (q, u))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(got, want))


@pytest.mark.parametrize("call, kind, text", [
    (lambda q, k, v, u: mh.sparsek(u, -1.0), ValueError, "k: -1"),
    (lambda q, k, v, u: mh.sparsek(u, torch.tensor([1.0, 2.0])), ValueError, "2 numbers for 4 rows"),
    (lambda q, k, v, u: mh.sparsek(u, torch.tensor(float("nan"))), ValueError, "row_k"),
    (lambda q, k, v, u: mh.sparsek(u.int(), 1), TypeError, "int32"),
    (lambda q, k, v, u: mh.sparsek(u.flatten(), 1, offsets=[]), ValueError, "offsets"),
    (lambda q, k, v, u: mh.sparsek(u.flatten(), 1, offsets=torch.tensor([0, 5])), ValueError, "offsets"),
    (lambda q, k, v, u: mh.sparsek_attention(q, k, v, u.numpy()), TypeError, "scores"),
    (lambda q, k, v, u: mh.sparsek_attention(q, k.float(), v, u), TypeError, "k: torch.float32"),
    (lambda q, k, v, u: mh.sparsek_attention(q, k, v, u[0]), ValueError, "scores: 2 axes"),
    (lambda q, k, v, u: mh.sparsek_attention(q, k, v, u, gate=1), TypeError, "gate: 1"),
    (lambda q, k, v, u: mh.sparsek_attention(q, k, v, u, gate="both"), ValueError, "gate: 'both', expected values or scores"),
    (lambda q, k, v, u: mh.sparsek_attention(q, k, v, u, window=1.5), TypeError, "window"),
    (lambda q, k, v, u: mh.sparsek_attention(q, k, v, u + 0j), TypeError, "scores: torch.complex128"),
    (lambda q, k, v, u: mh.sparsek(u, torch.ones(2, 2) + 0j), TypeError, "k: torch.complex64"),
    (lambda q, k, v, u: mh.sparsek(u, ["a", "b", "c", "d"]), TypeError, "k: <U1"),
    (lambda q, k, v, u: mh.topk(u.to_sparse(), 1), TypeError, "z: layout"),
    (lambda q, k, v, u: mh.select(u[0, 0] + 0j, 1), TypeError, "scores: complex128"),
])
def test_bad_values(call, kind, text):
    with pytest.raises(kind, match=text) as caught:
        call(*tensors(grad=False))
    assert isinstance(caught.value, mh.Error)


def test_cache_takes_tensors():
    for dtype, most in ((torch.float32, 2e-6), (torch.bfloat16, 2e-2)):
        q, k, v, u = (x[0].to(dtype) for x in tensors(grad=False, n=30))
        cache = mh.SparseKCache(4, kv_heads=2, head_dim=5, value_dim=3, keys=4, window=3, dtype=dtype)
        got = cache.step(q, k, v, u.float())
        want = mh.sparsek_attention(q[None], k[None], v[None], u[None], keys=4, window=3)[0]
        assert got.dtype == dtype and (got.float() - want.float()).norm() <= most * want.float().norm()
        assert cache.dtype == str(dtype).removeprefix("torch.")
        with pytest.raises(TypeError, match="scores"):
            cache.extend(k, v, u.numpy() if dtype == torch.float32 else u)


def layer(**given):
    torch.manual_seed(0)
    return mh.nn.SparseKAttention(24, 4, kv_heads=2, keys=4, window=3, sinks=1, **given)


def test_module():
    x = torch.randn(2, 20, 24, generator=torch.Generator().manual_seed(1))
    for gate in ("values", "scores"):
        own = layer(gate=gate)
        out = own(x)
        out.square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in own.parameters() if p is not own.key.bias)
        caches = []
        with torch.no_grad():
            parts = [own(part, caches) for part in x.split([7, 1, 12], dim=1)]
        assert torch.allclose(torch.cat(parts, 1), out, atol=1e-5) and caches[0].tokens == 20
        again = layer(gate=gate)
        again.load_state_dict(own.state_dict())
        assert torch.equal(again(x), out)
    with pytest.raises(ValueError, match="batch of 1"):
        own(x[:1], caches)
    with pytest.raises(ValueError, match="axes"):
        own(x[0])
    for given in (dict(kv_heads=3), dict(score_heads=3)):
        with pytest.raises(ValueError, match="divisor of the 4 heads"):
            mh.nn.SparseKAttention(24, 4, **given)
    with pytest.raises(ValueError, match="no multiple"):
        mh.nn.SparseKAttention(22, 4)
    with pytest.raises(ValueError, match="keys"):
        mh.nn.SparseKAttention(24, 4, keys=-1)


def test_scores_learn_which_token_matters():
    """The output has to be the value of the one token that bears a mark: only the scores can find it."""
    torch.manual_seed(0)
    own = mh.nn.SparseKAttention(8, 1, keys=1, cap=-1, temperature=10, gate="scores", bias=False)
    for part in (own.query, own.key):
        torch.nn.init.zeros_(part.weight)
    for part in (own.value, own.output):
        torch.nn.init.eye_(part.weight)
    optimizer = torch.optim.Adam(own.scores.parameters(), 0.5)
    for _ in range(60):
        x = torch.randn(4, 24, 8)
        x[..., 0] = 0
        place = torch.randint(0, 20, (4,))
        x[torch.arange(4), place, 0] = 3
        loss = (own(x)[:, -1] - x[torch.arange(4), place]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02
    gates = mh.causal_sparsek(own.scores(x)[0, 0].detach().numpy(), 1, cap=-1, temperature=10).to_graph().to_dense()[-1]
    assert gates.argmax() == place[0] and gates.max() > 0.9


def test_jvp_and_selections_of_tensors():
    z = torch.randn(2, 30, dtype=torch.float64, requires_grad=True)
    p = mh.sparsek(z, 4)
    along = torch.randn_like(z)
    _, want = torch.autograd.functional.vjp(lambda x: mh.sparsek(x, 4), z, along)  # the Jacobian is symmetric
    assert torch.allclose(mh.sparsek_jvp(p, along), want, atol=1e-14)
    assert mh.sparsek_jvp(p.half(), along.half()).dtype == torch.float16
    found = mh.causal_sparsek(z, 3)
    assert len(found) == 2 and found[1].tau.tolist() == mh.causal_sparsek(z[1].detach().numpy(), 3).tau.tolist()


@torch.no_grad()
@pytest.mark.parametrize("dtype, most", [(torch.float16, 1e-2), (torch.bfloat16, 5e-2)])
def test_layers_decode_in_small_types(dtype, most):
    torch.manual_seed(0)
    layer, x = mh.nn.SparseKAttention(24, 4, keys=3, window=2), torch.randn(2, 20, 24)
    want = layer(x)
    with torch.autocast("cpu", dtype=dtype):
        caches = []
        got = torch.cat([layer(part, caches) for part in x.split([6, 1, 13], 1)], 1)
    assert got.dtype == dtype and (got - want).norm() < most * want.norm()
    wide = []
    layer(x[:, :6], wide)
    with torch.autocast("cpu", dtype=dtype):  # into a cache of float32
        assert (layer(x[:, 6:], wide) - want[:, 6:]).norm() < most * want.norm()
    layer.to(dtype)
    caches = []
    got = torch.cat([layer(part, caches) for part in x.to(dtype).split([6, 1, 13], 1)], 1)
    assert got.dtype == dtype and (got - layer(x.to(dtype))).norm() < most * want.norm()
    assert caches[0].dtype == ("float32" if dtype == torch.float16 else "bfloat16")


@torch.no_grad()
def test_caches_lie_between_programs():
    layer, x, caches = mh.nn.SparseKAttention(24, 4, keys=3, window=2), torch.randn(2, 9, 24), []
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="eager")
    got = torch.cat([compiled(part, caches) for part in x.split([5, 1, 1, 2], 1)], 1)
    assert torch.allclose(got, layer(x), atol=1e-5) and caches[1].tokens == 9
    whole = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.allclose(whole(x), layer(x), atol=1e-6)
    why = "disable" if torch.__version__.startswith("2.5.") else "SparseKAttention: caches are no part of a program: leave fullgraph=True away"
    with pytest.raises(RuntimeError, match=why):
        whole(x, [])


@torch.no_grad()
def test_settings_of_running_caches_are_kept():
    layer, x, caches = mh.nn.SparseKAttention(24, 4, keys=3, window=2), torch.randn(1, 9, 24), []
    want = layer(x)
    layer(x[:, :5], caches)
    layer.settings.window = 4
    with pytest.raises(ValueError, match="window: 4 where the running cache was made with 2"):
        layer(x[:, 5:], caches)
    layer.settings.window = 2
    assert torch.allclose(layer(x[:, 5:], caches), want[:, 5:], atol=1e-5)

import contextlib
import itertools

import numpy as np
import pytest

import manyhop as mh

torch = pytest.importorskip("torch")
import manyhop.torch_ops  # noqa: E402, F401: the operators by name


def dense(q, k, v, edges, hops, teleport, bias=None, lengths=None):
    """The formula in torch; rows without edges are 0."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + bias
    if lengths is not None:
        inside = torch.arange(q.shape[2])[None, :] < torch.as_tensor(lengths)[:, None]
        edges = edges & inside[:, None, :, None] & inside[:, None, None, :]
        v = v * inside[:, None, :, None]
    scores = scores.masked_fill(~edges, -torch.inf)
    empty = ~edges.any(-1, keepdim=True)
    a = torch.softmax(scores.masked_fill(empty, 0), -1).masked_fill(empty, 0).masked_fill(~edges, 0)
    lse = torch.logsumexp(scores.masked_fill(empty, 0), -1).masked_fill(empty[..., 0], 0)
    z = v
    for _ in range(hops):
        z = (1 - teleport) * a @ z + teleport * v
    return z, lse


def scattered(bias, g, shape):
    rows = np.repeat(np.arange(g.shape[0]), g.degrees())
    full = torch.zeros(*shape, *g.shape, dtype=bias.dtype)
    full[:, :, torch.from_numpy(rows), torch.from_numpy(g.indices.astype(np.int64))] = bias.expand(*shape, g.nnz)
    return full


def close(a, b, dtype):
    tol = {torch.float64: 1e-10, torch.float32: 1e-5}[dtype]
    assert torch.allclose(a.to(torch.float64), b.to(torch.float64), rtol=tol * 10, atol=tol * max(1.0, b.abs().max().item()))


CASES = ["plain", "grouped", "per head", "bias m", "bias hm", "bias bhm", "lse", "lengths", "bshd"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("mode, hops", [("stored", 4), ("checkpointed", 5), ("implicit", 150)])
@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_dense_torch(odd_graph, dtype, mode, hops, case):
    torch.manual_seed(1)
    g, n, b, h = odd_graph, 24, 2, 4
    kv = 2 if case == "grouped" else h
    q = torch.randn(b, h, n, 6, dtype=dtype, requires_grad=True)
    k = torch.randn(b, kv, n, 6, dtype=dtype, requires_grad=True)
    v = torch.randn(b, kv, n, 5, dtype=dtype, requires_grad=True)
    teleport = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    wanted = [q, k, v, teleport]
    graphs, edges = g, torch.from_numpy(g.to_dense() > 0)
    given, bias, spread, lengths = {}, None, None, None
    if case == "per head":
        graphs = [mh.graph(f"window({i + 1})", n) for i in range(h)]
        edges = torch.stack([torch.from_numpy(x.to_dense() > 0) for x in graphs])
    if case.startswith("bias"):
        shape = {"m": (g.nnz,), "hm": (h, g.nnz), "bhm": (b, h, g.nnz)}[case.split()[1]]
        bias = torch.randn(shape, dtype=dtype, requires_grad=True)
        wanted.append(bias)
        spread = scattered(bias, g, (b, h))
    if case == "lengths":
        lengths = [n, 11]
    if case == "bshd":
        out = mh.attention(*(x.transpose(1, 2) for x in (q, k, v)), graphs, hops=hops, teleport=teleport, backward=mode,
                           layout="bshd").transpose(1, 2)
        lse = None
    else:
        out, lse = mh.attention(q, k, v, graphs, hops=hops, teleport=teleport, backward=mode, bias=bias, lengths=lengths,
                                return_lse=True)
    want, want_lse = dense(q, k, v, edges, hops, teleport.to(dtype), spread, lengths)
    close(out, want, dtype)
    w = torch.randn_like(want)
    loss, other = (out * w).sum(), (want * w).sum()
    if case == "lse":
        u = torch.randn_like(want_lse)
        u[:, :, 5] = 0  # the row without edges
        loss = loss + (torch.where(lse.isinf(), 0, lse) * u).sum()
        other = other + (want_lse * u).sum()
    for mine, theirs in zip(torch.autograd.grad(loss, wanted), torch.autograd.grad(other, wanted)):
        assert mine.dtype == theirs.dtype
        close(mine, theirs, dtype)


@pytest.mark.parametrize("mode", ["stored", "checkpointed"])
def test_dropout_gradients_keep_their_masks(odd_graph, mode):
    """Finite differences with the seed held: what forward dropped, backward drops."""
    torch.manual_seed(2)
    q, k, v = (torch.randn(1, 2, 24, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    run = lambda q, k, v: mh.attention(q, k, v, odd_graph, hops=3, teleport=0.1, dropout_p=0.3, hop_dropout_p=0.2, seed=11,  # noqa: E731
                                       backward=mode)
    assert torch.autograd.gradcheck(run, (q, k, v), fast_mode=True)
    torch.manual_seed(3)
    x = mh.attention(q, k, v, odd_graph, dropout_p=0.5)
    torch.manual_seed(3)
    assert torch.equal(x, mh.attention(q, k, v, odd_graph, dropout_p=0.5))
    assert not torch.equal(x, mh.attention(q, k, v, odd_graph, dropout_p=0.5))


def test_gradients_of_lse_alone(odd_graph):
    q, k, v = (torch.randn(1, 2, 24, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    lse = mh.attention(q, k, v, odd_graph, hops=2, return_lse=True)[1]
    _, want = dense(q, k, v, torch.from_numpy(odd_graph.to_dense() > 0), 1, 0.0)
    keep = torch.ones_like(want)
    keep[:, :, 5] = 0
    mine = torch.autograd.grad((torch.where(lse.isinf(), 0, lse) * keep).sum(), (q, k, v), materialize_grads=True)
    theirs = torch.autograd.grad((want * keep).sum(), (q, k, v), materialize_grads=True, allow_unused=True)
    for a, b in zip(mine, theirs):
        close(a, b, torch.float64)


def test_gradcheck(odd_graph):
    torch.manual_seed(4)
    q, k, v = (torch.randn(1, 2, 24, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = torch.randn(2, odd_graph.nnz, dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *x: mh.attention(*x[:3], odd_graph, hops=3, bias=x[3], teleport=x[4]),
                                    (q, k, v, bias, rate), fast_mode=True)


@pytest.mark.parametrize("backward", ["stored", "checkpointed", "implicit"])
@pytest.mark.parametrize("lse, weights, keep", itertools.product([False, True], repeat=3))
def test_opcheck_of_attention(lse, weights, keep, backward):
    """What mh.attention calls, gradients wanted of all that has them."""
    g = mh.graph("window(3)|global(1)", 16)
    q, k, v = (torch.randn(1, 2, 16, 4, requires_grad=True) for _ in range(3))
    hops = 200 if backward == "implicit" else 3
    torch.library.opcheck(torch.ops.manyhop.attention.default, (
        q, k, v, None, None, None, None, [g._number], hops, 0.1, None, None, 0.0, 0.0, 0, "bhsd", lse, weights, keep, backward,
        "none", "cpu"))


@pytest.mark.parametrize("kernel, numbers", [("ppr", [0.2]), ("heat", [0.7]), ("coefficients", [0.5, 0.2, 0.1])])
@pytest.mark.parametrize("backward", ["stored", "implicit"])
def test_opcheck_of_diffusion(kernel, numbers, backward):
    if backward == "implicit" and kernel != "ppr":
        pytest.skip("only ppr has a fixed point")
    g = mh.graph("window(3)|global(1)", 16)
    x = torch.randn(16, 3, dtype=torch.float64, requires_grad=True)
    w = torch.rand(g.nnz, dtype=torch.float64, requires_grad=True)
    numbers = torch.tensor(numbers, dtype=torch.float64, requires_grad=True)
    for weights in (None, w):
        torch.library.opcheck(torch.ops.manyhop.diffuse.default, (
            x, weights, numbers, g._number, kernel, None if kernel == "coefficients" else 4, None, "sym", "zero", backward, "cpu"))


def test_equal_calls_keep_equal_bytes():
    """Whatever else the memory held: what other graphs of as many edges keep, or longer sequences."""
    graphs = [mh.graph(text, 60) for text in ("window(4)|random(3)", "window(3)|random(5)", "diffuser(8, 4, 4)")]
    q = torch.randn(2, 2, 60, 4, requires_grad=True)

    def kept(g, lengths):
        return torch.ops.manyhop.attention(q, q, q, None, None, None, None, [g._number], 3, 0.1, None, lengths, 0.0, 0.0, 0,
                                           "bhsd", False, False, True, "stored", "none", "cpu")[3].clone()

    cases = list(itertools.product(graphs, (None, [60, 31], [12, 45])))
    want = [kept(*case) for case in cases]
    assert all(len(state) for state in want)
    for _ in range(3):
        assert all(torch.equal(kept(*case), state) for case, state in zip(cases, want))


def test_second_derivatives_are_refused():
    g = mh.graph("window(2)", 8)
    q, k, v = (torch.randn(1, 1, 8, 4, requires_grad=True) for _ in range(3))
    x = torch.randn(8, requires_grad=True)
    z = torch.randn(8, requires_grad=True)
    for out, leaf in ((mh.attention(q, k, v, g), q), (mh.diffuse(g, x, hops=2).value, x), (mh.sparsek(z, 2), z),
                      (mh.sparsek_attention(q, k, v, z[None, None], keys=2), q)):
        first, = torch.autograd.grad(out.pow(2).sum(), leaf, create_graph=True)
        with pytest.raises(mh.Error, match="second derivatives"):
            first.pow(2).sum().backward()


@pytest.mark.parametrize("reorder", ["rcm", "cluster", "degree"])
def test_heads_that_share_keys_may_have_orders_of_their_own(reorder):
    graphs = [mh.graph("random(4)|self", 64, seed=1), mh.graph("random(6)|self", 64, seed=2), mh.graph("window(3)", 64)]
    q = torch.randn(2, 3, 64, 8, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 1, 64, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found = []
    for order in ("none", reorder):
        out = mh.attention(q, k, v, graphs, hops=2, teleport=0.1, reorder=order)
        found.append(torch.autograd.grad(out.sin().sum(), (q, k, v)))
    for plain, reordered in zip(*found):
        assert torch.allclose(plain, reordered, rtol=0, atol=1e-12)


def test_autocast_and_small_types():
    g = mh.graph("window(4)", 32)
    q, k, v = (torch.randn(1, 2, 32, 16, requires_grad=True) for _ in range(3))
    want = mh.attention(q, k, v, g, hops=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = mh.attention(q, k, v, g, hops=3)
    assert out.dtype == torch.bfloat16 and (out - want).abs().max() < 5e-2
    out.float().sum().backward()
    assert q.grad.dtype == torch.float32
    half = mh.attention(q.half(), k.half(), v.half(), g, hops=3)
    assert half.dtype == torch.float16 and (half - want).abs().max() < 5e-3


@pytest.mark.parametrize("width", [8, 32, 64])
@pytest.mark.parametrize("hops", [1, 2, 5])
@pytest.mark.parametrize("backward", ["stored", "checkpointed"])
def test_gradients_of_bf16(width, hops, backward):
    g = mh.graph("window(8)|random(4, seed=1)", 120)
    exact = [torch.randn(2, 2, 120, width).bfloat16().double().requires_grad_() for _ in range(3)]
    small = [x.detach().bfloat16().requires_grad_() for x in exact]
    for q, k, v in (exact, small):
        out = mh.attention(q, k, v, g, hops=hops, teleport=0.1, backward=backward)
        (out * torch.linspace(-1, 1, width, dtype=out.dtype)).sum().backward()
    for x, y in zip(exact, small):
        assert y.grad.dtype == torch.bfloat16
        assert (x.grad - y.grad.double()).norm() < 1e-2 * x.grad.norm()


def test_no_copy_of_inputs_and_the_same_numbers_as_numpy():
    g = mh.graph("window(4)", 64)
    q, k, v = (torch.randn(2, 2, 64, 8) for _ in range(3))
    assert np.array_equal(mh.attention(q, k, v, g, hops=2).numpy(), mh.attention(q.numpy(), k.numpy(), v.numpy(), g, hops=2))
    strided = [torch.randn(2, 64, 2, 8).transpose(1, 2) for _ in range(3)]
    assert torch.equal(mh.attention(*strided, g), mh.attention(*(x.contiguous() for x in strided), g))
    wide = q[:, :1].expand(-1, 2, -1, -1)
    assert torch.equal(mh.attention(wide, k, v, g), mh.attention(wide.contiguous(), k, v, g))


def test_threads_follow_torch():
    g = mh.graph("diffuser(8, 4, 4)", 200)
    q, k, v = (torch.randn(1, 3, 200, 16) for _ in range(3))
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            found.append(mh.attention(q, k, v, g, hops=3))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_graph_may_go_before_backward():
    q, k, v = (torch.randn(1, 1, 12, 4, requires_grad=True) for _ in range(3))
    out = mh.attention(q, k, v, mh.graph("window(2)", 12), hops=3)
    out.sum().backward()
    assert torch.isfinite(q.grad).all()


@pytest.mark.parametrize("kernel, given", [("ppr", "teleport"), ("heat", "t"), ("coefficients", "coefficients")])
@pytest.mark.parametrize("how", ["sym", "row", "col"])
def test_diffusion_gradients(kernel, given, how):
    torch.manual_seed(5)
    g = mh.graph("window(2)|random(2)", 14)
    x = torch.randn(14, 2, dtype=torch.float64, requires_grad=True)
    w = (torch.rand(g.nnz, dtype=torch.float64) + 0.2).requires_grad_()
    number = torch.tensor([0.3, 0.5, -0.2] if kernel == "coefficients" else 0.4, dtype=torch.float64, requires_grad=True)
    hops = {} if kernel == "coefficients" else {"hops": 4}

    def run(x, w, number):
        return mh.diffuse(g, x, kernel, weights=w, normalization=how, **{given: number}, **hops).value

    assert torch.autograd.gradcheck(run, (x, w, number))


def test_diffusion_tells_how_it_went():
    g = mh.graph("regular(4)", 60)
    x = torch.randn(60)
    r = mh.diffuse(g, x, tol=1e-5)
    assert r.converged and r.bound <= 1e-5 and isinstance(r.hops, int)
    assert np.allclose(r.value.numpy(), mh.diffuse(g, x.numpy(), tol=1e-5).value)


def test_diffusion_under_autocast_is_float32():
    g = mh.graph("window(2)", 12)
    x = torch.randn(12, 2).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = mh.diffuse(g, x, hops=3).value
    assert torch.equal(value, mh.diffuse(g, x.float(), hops=3).value) and value.dtype == torch.float32
    assert torch.autograd.grad(value.sum(), x)[0].dtype == torch.bfloat16
    with pytest.raises(TypeError, match="x: torch.bfloat16"):
        mh.diffuse(g, x)


def test_diffusion_takes_lists_of_tensors_and_small_weights():
    g = mh.graph("window(2)", 12)
    x = torch.randn(12, 2, dtype=torch.float64)
    c = [torch.tensor(0.5, dtype=torch.float64, requires_grad=True), 0.25, torch.tensor([-1.0], requires_grad=True)]
    for signal in (x, x.numpy()):
        value = mh.diffuse(g, signal, "coefficients", coefficients=c).value
        whole = torch.tensor([0.5, 0.25, -1.0], dtype=torch.float64, requires_grad=True)
        want = mh.diffuse(g, x, "coefficients", coefficients=whole).value
        assert torch.equal(value, want)
        first, last = torch.autograd.grad(value.square().sum(), (c[0], c[2]))
        both, = torch.autograd.grad(want.square().sum(), whole)
        assert torch.allclose(first, both[0]) and torch.allclose(last.double(), both[2:])
    w = (torch.arange(g.nnz) % 7 + 1).bfloat16().requires_grad_()
    value = mh.diffuse(g, x, weights=w, hops=3).value
    assert torch.equal(value, mh.diffuse(g, x, weights=w.double(), hops=3).value)
    assert torch.autograd.grad(value.square().sum(), w)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("seed", [0, 7, -1, -2**63, 2**63 - 1, 2**63, 2**64 - 3, 2**70 + 5])
def test_seeds_are_those_of_numpy(seed):
    q, k, v = (torch.randn(1, 2, 16, 4) for _ in range(3))
    g = mh.graph("full", 16)
    given = dict(dropout_p=0.5, hop_dropout_p=0.2, hops=2)
    want = mh.attention(q.numpy(), k.numpy(), v.numpy(), g, seed=seed, **given)
    assert np.array_equal(mh.attention(q, k, v, g, seed=seed, **given).numpy(), want)
    assert np.array_equal(mh.attention(q, k, v, g, seed=seed % 2**64, **given).numpy(), want)


def test_graphs_take_tensors():
    weights = torch.tensor([3.0, 4.0], requires_grad=True)
    for given in (weights, weights.bfloat16(), weights.half()):
        assert mh.graph("self", 2).with_weights(given).weights.tolist() == [3, 4]
    assert mh.Graph.from_csr(torch.tensor([0, 1]), torch.tensor([0]), weights[:1]).weights.tolist() == [3]
    assert mh.Graph.from_edge_index(torch.tensor([[0, 1], [1, 0]]), edge_weight=weights.bfloat16()).weights.tolist() == [4, 3]
    assert mh.Graph.from_torch(torch.eye(2, dtype=torch.bfloat16).to_sparse()) == mh.graph("self", 2).with_weights([1, 1])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("ahead", [False, True])
def test_plans_tell_of_runs_with_tensors(threads, grad, ahead):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        plan = mh.plan(mh.graph(f"window({5 + threads + 2 * grad + 4 * ahead})", 128), heads=2, head_dim=8, hops=3, backward=ahead)
        assert "not run yet" in plan.explain()
        x = torch.randn(1, 2, 128, 8, requires_grad=grad)
        plan.run(x, x, x)
        assert "by the last run" in plan.explain() and f"threads   {threads}" in plan.explain()
    finally:
        torch.set_num_threads(before)
    compiled = torch.compile(lambda x: plan.run(x, x, x), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), plan.run(x, x, x))


def test_tf32_is_torchs_own_switch():
    """On the CPU it changes nothing; which calls on a GPU take it is what `tf32_is_wanted` says."""
    switches, before = torch.backends.cuda.matmul, torch.get_float32_matmul_precision()
    x, g = torch.randn(1, 1, 64, 8), mh.graph("window(9)", 64)
    plain = mh.attention(x, x, x, g)
    try:
        for precision, wanted in (("high", True), ("highest", False)):
            torch.set_float32_matmul_precision(precision)
            assert mh.torch_attention.tf32_is_wanted() == wanted
            assert torch.equal(mh.attention(x, x, x, g), plain)
        if hasattr(switches, "fp32_precision"):
            switches.fp32_precision = "tf32"  # allow_tf32 raises from here on
            assert mh.torch_attention.tf32_is_wanted()
            switches.fp32_precision = "ieee"
    finally:
        torch.set_float32_matmul_precision(before)


def test_sparse_tensors_both_ways():
    g = mh.graph("random(3)", 10).with_weights(np.arange(1, 31))
    assert np.array_equal(g.to_torch().to_dense().numpy(), g.to_dense())
    for tensor in (g.to_torch(), g.to_torch().to_sparse_coo(), g.to_torch().to_sparse_csc()):
        assert mh.Graph.from_torch(tensor) == g


@pytest.mark.parametrize("make, kind, words", [
    (lambda q, g: mh.attention(q, q.double(), q, g), TypeError, "float64 where q is torch.float32"),
    (lambda q, g: mh.attention(q, q.numpy(), q, g), TypeError, "ndarray beside torch tensors"),
    (lambda q, g: mh.attention(q.int(), q.int(), q.int(), g), TypeError, "int32"),
    (lambda q, g: mh.attention(q[0], q, q, g), ValueError, "3 axes"),
    (lambda q, g: mh.attention(q, q, q, mh.graph("full", 9)), ValueError, "9 x 9 for 8 tokens"),
    (lambda q, g: mh.attention(q, q, q, [g]), ValueError, "list of 1 for 2 heads"),
    (lambda q, g: mh.attention(q, q, q, g, teleport=torch.zeros(2)), ValueError, "teleport: 2 values"),
    (lambda q, g: mh.attention(q.to_sparse(), q, q, g), TypeError, "layout"),
    (lambda q, g: mh.attention(*[torch.nested.nested_tensor(list(q))] * 3, g), TypeError, "q: a nested tensor"),
    (lambda q, g: mh.diffuse(g, q[0, 0].int()), TypeError, "int32"),
    (lambda q, g: mh.diffuse(g, q[0, 0], "cold"), ValueError, "ppr"),
    (lambda q, g: mh.attention(q, q, q, g, teleport=torch.tensor(1j)), TypeError, "teleport: torch.complex64"),
    (lambda q, g: mh.attention(q, q, q, g, bias=torch.ones(64) + 0j), TypeError, "bias: torch.complex64"),
    (lambda q, g: mh.attention(q, q, q, g, bias=torch.ones(64).to_sparse()), TypeError, "bias: .*sparse"),
    (lambda q, g: mh.attention(q, q, q, g, bias=["a"] * 64), TypeError, "bias: <U1"),
    (lambda q, g: mh.attention(q, q, q, g, bias=torch.tensor(1.0)), ValueError, "bias: 0 axes"),
    (lambda q, g: mh.attention(q, q, q, g, scale="x"), TypeError, "scale: str"),
    (lambda q, g: mh.attention(q, q, q, g, hops=2**70), ValueError, "hops"),
    (lambda q, g: mh.attention(q, q, q, g, lengths=[2**70]), ValueError, "lengths"),
    (lambda q, g: mh.attention(q, q, q, g, lengths=torch.tensor([3.5])), TypeError, r"lengths\[0\]: 3.5"),
    (lambda q, g: mh.attention(q, q, q, g, lengths=torch.tensor([[3]])), ValueError, "lengths: 2 axes"),
    (lambda q, g: mh.attention(q, q, q, g, dropout_p=None), TypeError, "dropout_p"),
    (lambda q, g: mh.attention(q, q, q, g, seed=1.5), TypeError, "seed: 1.5"),
    (lambda q, g: mh.attention(q, q, q, g, backward=None), TypeError, "backward"),
    (lambda q, g: mh.attention(q, q, q, g, reorder=1), TypeError, "reorder"),
    (lambda q, g: mh.attention(q, q, q, g, backend=None), TypeError, "backend"),
    (lambda q, g: mh.attention(q, q, q, g, return_lse="yes"), TypeError, "return_lse"),
    (lambda q, g: mh.diffuse(g, q[0, 0], normalization=None), TypeError, "normalization"),
    (lambda q, g: mh.diffuse(g, q[0, 0], backward="x"), ValueError, "backward: 'x'"),
    (lambda q, g: mh.diffuse(g, q[0, 0], hops=2.0), TypeError, "hops: 2.0"),
    (lambda q, g: mh.diffuse(g, q[0, 0], tol="a"), TypeError, "tol: str"),
    (lambda q, g: mh.diffuse(g, q[0, 0], teleport="a"), TypeError, "teleport: str"),
    (lambda q, g: mh.diffuse(g, q[0, 0], teleport=torch.ones(2)), ValueError, "teleport: 2 values"),
    (lambda q, g: mh.diffuse(g, q[0, 0], "coefficients", coefficients=1.0), TypeError, "coefficients: float"),
    (lambda q, g: mh.diffuse(g, q[0, 0], "coefficients", coefficients=["a"]), TypeError, r"coefficients\[0\]: str"),
    (lambda q, g: mh.diffuse(g, q[0, 0], weights=torch.ones(64, 1)), ValueError, "weights: 2 axes"),
    (lambda q, g: mh.diffuse(g, q[0, 0], weights=torch.ones(64) + 0j), TypeError, "weights: torch.complex64"),
    (lambda q, g: mh.diffuse(g, "a", weights=torch.ones(64)), TypeError, "x: <U1"),
    (lambda q, g: mh.Graph.from_torch((torch.eye(3) + 0j).to_sparse()), TypeError, "weights: complex64"),
    (lambda q, g: mh.Graph.from_torch(torch.ones(3).to_sparse()), ValueError, "1 axes"),
    (lambda q, g: mh.Graph.from_torch(torch.ones(3, 2).to_sparse(1)), ValueError, "1 of them dense"),
    (lambda q, g: mh.Graph.from_torch(3), TypeError, "from_torch: int"),
    (lambda q, g: g.to_torch("float32"), TypeError, "dtype"),
    (lambda q, g: mh.graph("full", 2**20).to_torch(), MemoryError, "memory limit"),
])
def test_mistakes_are_one_sentence(make, kind, words):
    with pytest.raises(kind, match=words) as caught:
        make(torch.zeros(1, 2, 8, 4), mh.graph("full", 8))
    assert isinstance(caught.value, mh.Error) and "\n" not in str(caught.value)


def test_a_state_may_come_back_anywhere(rng):
    graph = mh.graph("window(16)", 300)
    def gradients(pack, unpack):
        q, k, v = (torch.from_numpy(x).requires_grad_() for x in rng_values)
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            out = mh.attention(q, k, v, graph, hops=3, teleport=0.1)
        out.sum().backward()
        return q.grad, k.grad, v.grad
    rng_values = rng.standard_normal((3, 1, 2, 300, 16), dtype=np.float32)
    want = gradients(lambda x: x, lambda x: x)
    for offset in (1, 8, 32):
        def away(x):
            held = np.empty(x.numel() * x.element_size() + 128, np.uint8)
            place = held[(-held.ctypes.data) % 64 + offset * (x.dtype == torch.uint8):][:x.numel() * x.element_size()]
            place[:] = x.contiguous().view(torch.uint8).reshape(-1).numpy() if x.dtype == torch.uint8 else 0
            return torch.from_numpy(place) if x.dtype == torch.uint8 else x
        got = gradients(away, lambda x: x)
        assert all(torch.equal(a, b) for a, b in zip(want, got))


def test_backward_under_a_smaller_limit_makes_again_what_does_not_fit(rng):
    graph = mh.graph("window(16)", 512)
    values = rng.standard_normal((3, 1, 4, 512, 32), dtype=np.float32)
    total = mh.plan(graph, heads=4, head_dim=32, hops=5, backward=True).memory()["total"]
    found = []
    for limit in (None, total * 11 // 10):
        q, k, v = (torch.from_numpy(x.copy()).requires_grad_() for x in values)
        out = mh.attention(q, k, v, graph, hops=5)
        if limit is None:
            out.sum().backward()
        else:
            with mh.memory_limit(limit):
                out.sum().backward()
        found.append((q.grad, k.grad, v.grad))
    assert all(torch.equal(a, b) for a, b in zip(*found))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_fits_the_memory_does_not_show_in_the_bits(rng, dtype):
    graph = mh.graph("window(16) | random(3, seed=1)", 256)
    values = rng.standard_normal((3, 1, 16, 256, 32), dtype=np.float32)
    total = mh.plan(graph, heads=16, head_dim=32, hops=5, backward=True, dtype=str(dtype)[6:]).memory()["total"]
    found = []
    for limit in (None, total * 16 // 10):  # no room for A and Z
        q, k, v = (torch.from_numpy(x.copy()).to(dtype).requires_grad_() for x in values)
        with contextlib.nullcontext() if limit is None else mh.memory_limit(limit):
            out = mh.attention(q, k, v, graph, hops=5)
            kept = out.grad_fn is not None and any(x is not None and x.dtype == torch.uint8 and x.numel()
                                                   for x in out.grad_fn.saved_tensors)
            out.float().sum().backward()
        found.append((kept, out, q.grad, k.grad, v.grad))
    assert all(torch.equal(a, b) for a, b in zip(found[0][1:], found[1][1:]))
    assert (found[0][0], found[1][0]) == (True, False)


def test_the_gradient_to_t_is_that_of_the_kernel_near_zero_too():
    graph = mh.graph("window(1)", 4)
    x = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    w = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    a = torch.from_numpy(graph.to_dense())
    d = a.sum(1) ** -0.5
    away = torch.eye(4, dtype=torch.float64) - d[:, None] * a * d
    for start in (0.0, 1e-7, 1e-3, 0.5):
        t = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        (mh.diffuse(graph, x, "heat", t=t).value * w).sum().backward()
        s = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        ((torch.matrix_exp(-s * away) @ x) * w).sum().backward()
        assert abs(t.grad - s.grad) < 1e-5, start


def test_arguments_of_another_kernel_and_empty_lengths_are_refused():
    graph = mh.graph("window(1)", 4)
    with pytest.raises(ValueError, match="only kernel coefficients takes them"):
        mh.diffuse(graph, torch.ones(4), coefficients=[1.0, 2.0], hops=2)
    q = torch.ones(2, 1, 4, 8)
    for lengths in ([], torch.zeros(0, dtype=torch.int64)):
        with pytest.raises(ValueError, match="lengths: 0 entries for a batch of 2"):
            mh.attention(q, q, q, graph, lengths=lengths)
    with pytest.raises(ValueError, match="lengths: 0 entries for a batch of 2"):
        mh.attention(q.numpy(), q.numpy(), q.numpy(), graph, lengths=[])

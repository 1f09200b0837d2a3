"""torch.compile and torch.func around the operators."""
import functools
import gc

import pytest

import manyhop as mh

torch = pytest.importorskip("torch")
import torch._dynamo.testing  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402

import manyhop.torch_sparsek  # noqa: E402, F401: the operators by name


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_without_a_graph_break(backend):
    g = mh.graph("window(3)|global(1)", 16)
    q, k, v = (torch.randn(1, 2, 16, 4, requires_grad=True) for _ in range(3))

    def run(q, k, v):
        out = mh.attention(q * 2, k, v, g, hops=3, teleport=0.1, layout="bhsd")
        return mh.diffuse(g, out[0, 0], hops=2).value.sum() + out.sum()

    compiled = torch.compile(run, fullgraph=True, backend=backend)
    assert torch.allclose(compiled(q, k, v), run(q, k, v))
    mine = torch.autograd.grad(compiled(q, k, v), (q, k, v))
    for a, b in zip(mine, torch.autograd.grad(run(q, k, v), (q, k, v))):
        assert torch.allclose(a, b)
    dropped = torch.compile(lambda q: mh.attention(q, k, v, g, dropout_p=0.5), fullgraph=True, backend=backend)
    assert dropped(q).shape == q.shape


def test_compiles_with_numbers_as_inputs():
    g = mh.graph("window(3)|global(1)", 16)
    q, u = torch.randn(1, 2, 16, 4), torch.randn(1, 2, 16)

    def run(q, u, hops, rate, keys):
        return mh.attention(q, q, q, g, hops=hops, teleport=rate, lengths=[12]) + mh.sparsek_attention(q, q, q, u, keys=keys)

    compiled = torch.compile(run, fullgraph=True, backend="eager")
    for given in ((1, 0.1, 2.5), (2, 0.2, 3.5), (3, 0.3, 4.5)):
        assert torch.allclose(compiled(q, u, *given), run(q, u, *given), atol=1e-6)


def functions_of_one_tensor():
    g = mh.graph("window(2)", 5)
    lengths, m = torch.tensor([4, 3]), g.nnz  # torch 2.5 reads no attributes of an extension's objects in a program
    return [lambda x: mh.attention(x, x.sin(), x.cos(), g, hops=2, teleport=x.mean().sigmoid(), bias=x[0, 0, :, 0].repeat(4)[:m]),
            lambda x: mh.attention(x, x, x, g, hops=2, teleport=0.1, return_lse=True)[1],
            lambda x: mh.attention(x, x, x, g, hops=2, lengths=lengths[:len(x)], backward="checkpointed"),
            lambda x: mh.diffuse(g, x[0, 0], weights=x.abs().flatten().repeat(2)[:m], teleport=x.mean().sigmoid(), hops=3).value,
            lambda x: mh.sparsek(x, 2.5), lambda x: mh.sparsek_attention(x, x.sin(), x, x[..., 0], keys=2)]


@pytest.mark.parametrize("call", functions_of_one_tensor())
def test_transforms_of_torch_func(call):
    func = torch.func
    torch.manual_seed(6)
    xs = torch.randn(3, 1, 2, 5, 3, dtype=torch.float64)
    scalar = lambda x: call(x).square().sum()  # noqa: E731

    def gradient(x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(scalar(x), x)[0]

    want = torch.stack([gradient(x) for x in xs])
    for mine in (torch.stack([func.grad(scalar)(x) for x in xs]), func.vmap(func.grad(scalar))(xs),
                 func.grad(lambda xs: func.vmap(scalar)(xs).sum())(xs)):
        assert torch.allclose(mine, want, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(func.vmap(call)(xs), torch.stack([call(x) for x in xs]), rtol=1e-12)
        last = func.vmap(call, in_dims=-1, out_dims=1)(xs.movedim(0, -1))
        assert torch.allclose(last, torch.stack([call(x) for x in xs], 1), rtol=1e-12)
    leaf = xs.clone().requires_grad_()
    assert torch.allclose(torch.autograd.grad(func.vmap(scalar)(leaf).sum(), leaf)[0], want, rtol=1e-10, atol=1e-12)
    jacobian = torch.autograd.functional.jacobian(call, xs[0])
    assert torch.allclose(func.jacrev(call)(xs[0]), jacobian, rtol=1e-10, atol=1e-12)
    torch._dynamo.reset()
    assert torch.allclose(torch.compile(func.grad(scalar), backend="aot_eager")(xs[0]), want[0])
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(func.grad(scalar), backend="aot_eager", fullgraph=True)(xs[0])
    for twice in (func.jacrev(func.grad(scalar)), func.grad(lambda x: func.grad(scalar)(x).sum())):
        with pytest.raises(mh.Error, match="second derivatives"):
            twice(xs[0])
    for forward in (func.jacfwd(call), func.hessian(scalar), lambda x: func.jvp(func.vmap(call), (xs,), (xs,)),
                    lambda x: func.vmap(lambda x: func.jvp(call, (x,), (x,)))(xs)):
        with pytest.raises(mh.Error, match="forward-mode"):
            forward(xs[0])


def test_batches_of_what_is_no_tensor_of_theirs():
    """vmap over some arguments alone; draws follow torch's own switch."""
    g, func = mh.graph("window(2)", 5), torch.func
    x, lengths = torch.randn(2, 2, 5, 3, dtype=torch.float64), torch.tensor([[5, 4], [3, 2], [1, 0]])
    got = func.vmap(lambda l: mh.attention(x, x, x, g, lengths=l))(lengths)  # noqa: E741
    assert torch.equal(got, torch.stack([mh.attention(x, x, x, g, lengths=l) for l in lengths]))  # noqa: E741
    rates = torch.tensor([0.1, 0.5], dtype=torch.float64)
    told = func.vmap(lambda a: mh.diffuse(g, x[0, 0], teleport=a, tol=1e-6))(rates)
    for i, rate in enumerate(rates.tolist()):
        one = mh.diffuse(g, x[0, 0], teleport=rate, tol=1e-6)
        assert torch.allclose(told.value[i], one.value) and int(told.hops[i]) == one.hops and bool(told.converged[i])
    drop = lambda q: mh.attention(q, x[:1], x[:1], g, dropout_p=0.5)  # noqa: E731
    same, other = (func.vmap(drop, randomness=how)(x[:1].expand(4, *x[:1].shape)) for how in ("same", "different"))
    assert torch.equal(same[0], same[1]) and not torch.equal(other[0], other[1])
    assert torch.equal(func.functionalize(drop)(x[:1]).isfinite().all(), torch.tensor(True))
    with pytest.raises(mh.errors.BadValue, match="vmap over 0 items"):
        func.vmap(lambda x: mh.attention(x, x, x, g))(x[:, None][:0])


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_for_other_lengths(backend):
    """One program for each number of tokens: graphs are made while they are traced, and stay."""
    torch._dynamo.reset()
    layer = mh.nn.DiffuserSelfAttention(16, 2, "window(2)", hops=2, causal=True).eval()
    given = torch.tensor([5, 6])

    def run(x, lengths):
        flat = x.transpose(1, 2).flatten(2).repeat(1, 1, 2)
        out = mh.attention(x, x, x, mh.graph("window(3)", x.shape[2]), hops=2, teleport=0.1, lengths=lengths)
        return out.square().sum() + mh.attention(x, x, x, mh.nn.graph_of("window(2)", x.shape[2]))[:, 0].sum() + layer(flat).sum()

    compiled = torch.compile(run, fullgraph=True, backend=backend)
    for n in (8, 11, 8, 17):
        for lengths in (given, given - 2, [3, 4]):  # another tensor of lengths is no other program
            x = torch.randn(2, 2, n, 4, dtype=torch.float64, requires_grad=True)
            layer.double()
            mine, theirs = compiled(x, lengths), run(x, lengths)
            assert torch.allclose(mine, theirs)
            assert torch.allclose(torch.autograd.grad(mine, x)[0], torch.autograd.grad(theirs, x)[0])
            gc.collect()


def test_graphs_of_programs_stay():
    if torch.__version__.startswith("2.5."):
        pytest.skip("torch 2.5 takes no object for a program's constant")
    torch._dynamo.reset()
    own = mh.graph("window(4)", 12)
    layer = mh.nn.DiffuserSelfAttention(16, 2, own, causal=True).eval()  # whose causal part is nobody else's
    compiled, x = torch.compile(layer, fullgraph=True, backend="eager"), torch.randn(1, 12, 16)
    for _ in range(2):
        assert torch.allclose(compiled(x), layer(x), atol=1e-6)
        gc.collect()


def test_graphs_are_made_in_programs():
    """By operators, methods and mh.batch; each graph is made once, another one makes another program."""
    torch._dynamo.reset()
    x = torch.randn(1, 2, 16, 4)

    def run(x, g):
        made = (g | mh.graph("global(1)", x.shape[2])) & mh.graph("causal", x.shape[2]) - g.rows(0, 16).transpose()
        out = mh.attention(x, x, x, made | mh.graph("self", 16)) + mh.attention(x, x, x, g.symmetrised(), bias=torch.ones(g.nnz))
        flat = x[0].transpose(0, 1)
        return out, mh.attention(flat, flat, flat, mh.batch([mh.graph("full", 6), mh.graph("window(1)", 10)]), layout="thd"), g.shape

    for fullgraph in (False, True):
        compiled = torch.compile(run, backend="eager", fullgraph=fullgraph)
        for width in (2, 3, 2):
            g = mh.graph(f"window({width})", 16)
            for _ in range(2):
                *mine, shape = compiled(x, g)
                *theirs, _ = run(x, g)
                assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, theirs)) and shape == (16, 16)
                gc.collect()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("mode", ["stored", "checkpointed"])
def test_a_program_takes_any_graph(backend, mode):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)

    layer = mh.nn.DiffuserSelfAttention(8, 2, "full").double().eval()

    def run(x, g, others):
        out = mh.attention(x, x, x, g, hops=2, teleport=0.1, backward=mode) + mh.attention(x, x, x, others)
        out = out + layer(x.transpose(1, 2).flatten(2), g).unflatten(2, (2, 4)).transpose(1, 2)
        return out.square().sum() + mh.diffuse(g, x[0, 0], hops=2).value.sum()

    compiled = torch.compile(run, backend=counter, fullgraph=True)
    for width in range(1, 13):  # torch gives up after 8 programs
        g, others = mh.graph(f"window({width})", 16), [mh.graph(f"window({width + i})", 16) for i in (2, 3)]
        x = torch.randn(1, 2, 16, 4, dtype=torch.float64, requires_grad=True)
        mine, theirs = compiled(x, g, others), run(x, g, others)
        assert torch.allclose(mine, theirs)
        assert torch.allclose(torch.autograd.grad(mine, x)[0], torch.autograd.grad(theirs, x)[0])
    assert counter.frame_count == 2
    with pytest.raises(mh.Error, match="9 x 9 for 16 tokens"):
        compiled(x, mh.graph("window(1)", 9), others)


def test_bad_lengths_of_programs():
    g, x = mh.graph("window(2)", 8), torch.randn(2, 2, 8, 4)
    run = torch.compile(lambda x, lengths: mh.attention(x, x, x, g, lengths=lengths), backend="eager")
    for lengths, part in (([3.0, 4.0], "integer"), ([[3, 4]], "2 axes"), ([3], "lengths"), ([3, 9], "9"), ([3, -1], "-1")):
        torch._dynamo.reset()
        with pytest.raises(mh.Error, match=part):
            run(x, torch.tensor(lengths))


def test_forward_mode_is_refused():
    """torch would take the tangents of such operators for 0."""
    x, g = torch.randn(1, 2, 8, 4, dtype=torch.float64), mh.graph("window(2)", 8)
    calls = [lambda x: mh.attention(x, x, x, g), lambda x: mh.diffuse(g, x[0, 0]).value, lambda x: mh.sparsek(x, 2),
             lambda x: mh.sparsek_attention(x, x, x, x[..., 0], keys=2)]
    for call in calls:
        with pytest.raises(mh.Error, match="forward-mode"):
            torch.func.jvp(call, (x,), (torch.ones_like(x),))
        call(x)
    y = torch.randn_like(x).requires_grad_()
    for call in calls:  # backward() is linear in what it is given, whose tangents would be lost too
        out = call(y)
        with forward_ad.dual_level(), pytest.raises(mh.Error, match="forward-mode"):
            torch.autograd.grad(out, y, forward_ad.make_dual(torch.ones_like(out), torch.ones_like(out)))
    p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    for k in (0, 1):
        with pytest.raises(mh.Error, match="forward-mode"):
            torch.func.jvp(lambda x: mh.sparsek_jvp(*(x if i == k else p for i in range(2))), (p,), (p,))


def operators_by_name(x, g):
    ops = torch.ops.manyhop
    one = torch.tensor([0.1], dtype=torch.float64)
    out = ops.attention(x, x, x, None, None, None, None, [g._number], 2, 0.1, None, None, 0.0, 0.0, 0, "bhsd", True, False, False,
                        "stored", "none", "cpu")
    return [lambda x: ops.attention(x, x, x, None, None, None, None, [g._number], 2, 0.1, None, None, 0.0, 0.0, 0, "bhsd", False,
                                    False, False, "stored", "none", "cpu")[0],
            lambda x: ops.attention_backward(x, None, x, x, x, None, None, None, None, out[3], [g._number], 2, 0.1, None, None, 0.0,
                                             0.0, 0, "stored", "none", "cpu", [True] * 3 + [False] * 2)[0],
            lambda x: ops.diffuse(x[0, 0], None, one, g._number, "ppr", 2, None, "sym", "zero", "stored", "cpu")[0],
            lambda x: ops.sparsek(x.flatten(0, 2), torch.full((16,), 2.0, dtype=torch.float64), None, 1.0, False)[0],
            lambda x: ops.sparsek_attention(x, x, x, x[..., 0], 2.0, None, 1.0, 0, 0, "values", 1, 0.0, None)]


def test_operators_by_name_refuse_forward_mode():
    x, g = torch.randn(1, 2, 8, 4, dtype=torch.float64), mh.graph("window(2)", 8)
    for call in operators_by_name(x, g):
        with pytest.raises(mh.Error, match="forward-mode"):
            torch.func.jvp(call, (x,), (x,))
        for leaf in (x, x.clone().requires_grad_()):
            with forward_ad.dual_level(), pytest.raises(mh.Error, match="forward-mode"):
                call(forward_ad.make_dual(leaf, x))
            call(leaf)


def test_transforms_of_programs():
    """torch.func around a program of backend="eager", which names the operators themselves."""
    x, g = torch.randn(1, 2, 8, 4, dtype=torch.float64), mh.graph("window(2)", 8)
    for call in (lambda x: mh.attention(x, x, x, g), lambda x: mh.diffuse(g, x[0, 0]).value, lambda x: mh.sparsek(x, 2),
                 lambda x: mh.sparsek_attention(x, x, x, x[..., 0], keys=2)):
        torch._dynamo.reset()
        with pytest.raises(mh.Error, match="cannot differentiate it"):
            torch.func.grad(lambda x: torch.compile(call, backend="eager")(x).sum())(x)  # noqa: B023


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_forward_mode_is_refused_in_compiled_programs(backend, fullgraph):
    x, g = torch.randn(1, 2, 8, 4, dtype=torch.float64), mh.graph("window(2)", 8)
    compiled = functools.partial(torch.compile, backend=backend, fullgraph=fullgraph)

    def jvp(call):
        return lambda x: torch.func.jvp(call, (x,), (torch.ones_like(x),))[1]

    def dual(call):
        def run(x):
            with forward_ad.dual_level():
                return forward_ad.unpack_dual(call(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
        return run

    # Where a program must not break torch says it in its own words.
    error = torch._dynamo.exc.Unsupported if fullgraph else mh.Error
    for call in (lambda x: mh.attention(2 * x, x, x, g), lambda x: mh.diffuse(g, x[0, 0]).value, lambda x: mh.sparsek(x, 2),
                 lambda x: mh.sparsek_attention(x, x, x, x[..., 0], keys=2)):
        torch._dynamo.reset()
        warm = compiled(call)
        assert torch.equal(warm(x), call(x))
        for run in (compiled(jvp(call)), compiled(dual(call)), jvp(compiled(call)), dual(compiled(call)), jvp(warm), dual(warm)):
            with pytest.raises(error, match=None if fullgraph else "forward-mode"):
                run(x)

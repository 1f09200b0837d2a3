"""mh.attention and its kin on a GPU's tensors against dense torch in float64 and against the CPU backend: values, gradients,
layouts, streams, repeatability, errors; CUDA Graphs of hops against hops one by one; calls inside a graph that torch captures.

    PYTHONPATH=... python3 tests/gpu/check.py [--seconds 120] [--only attention] [--device cpu]

Prints a line for each comparison and ends with how many passed, failed and did not run. Without a GPU one line, 'skipped: no
GPU', and exit status 0; where MANYHOP_EXPECT_GPU says that there is one, 1. --device cpu tries the checks themselves.

An error is the largest difference over the largest entry of what is wanted: float64 1e-10, float32 1e-5, bfloat16 1e-2.
"""
import argparse
import hashlib
import os
import subprocess
import sys
import time
import traceback

import numpy as np
import torch

import manyhop as mh

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2}
DEVICE = "cuda"
CHECKS = []  # (name, function, whether it wants a GPU)
told = {"passed": 0, "failed": 0, "not run": 0}


def check(gpu=False):
    def add(function):
        CHECKS.append((function.__name__, function, gpu))
        return function
    return add


def tell(passed, text):
    told["passed" if passed else "failed"] += 1
    print(f"{'passed' if passed else 'FAILED'} {text}", flush=True)


def compare(name, dtype, pairs, tolerance=None):
    """pairs: {what: (got, wanted)}."""
    limit = TOLERANCE[dtype] if tolerance is None else tolerance
    errors = {what: error(*pair) for what, pair in pairs.items()}
    passed = all(e <= limit for e in errors.values())  # a NaN is none
    tell(passed, f"{name} {str(dtype).removeprefix('torch.')}: " + ", ".join(f"{what} {e:.1e}" for what, e in errors.items()))


def error(got, want):
    got, want = got.detach().double().cpu(), want.detach().double().cpu()
    if got.shape != want.shape:
        return float("inf")
    finite = torch.isfinite(want)
    if not torch.equal(torch.isfinite(got), finite) or not torch.equal(got[~finite], want[~finite]):
        return float("inf")
    got, want = got[finite], want[finite]
    return float((got - want).abs().max() / want.abs().max().clamp_min(1e-30)) if want.numel() else 0.0


def oracle(q, k, v, graphs, hops=1, teleport=0.0, bias=None, lengths=None, scale=None, kept=None):
    """The definition in float64 on the CPU: result, log of the softmax's sums, weights [b, h, m] in CSR order. `kept`: what
    dropout multiplies the weights with, [b, h, n, n]."""
    b, h, n, d = q.shape
    k, v = (x.repeat_interleave(h // x.shape[1], 1) for x in (k, v))
    graphs = graphs if isinstance(graphs, list) else [graphs] * h
    mask = torch.zeros(b, h, n, k.shape[2], dtype=torch.bool)
    places = []
    for head, graph in enumerate(graphs):
        rows = torch.repeat_interleave(torch.arange(n), torch.from_numpy(graph.indptr.copy()).diff())
        places.append((rows, torch.from_numpy(graph.indices.astype("int64"))))
        mask[:, head, places[-1][0], places[-1][1]] = True
    scores = q @ k.transpose(-1, -2) * (d**-0.5 if scale is None else scale)
    if bias is not None:
        bias = bias.expand(b, h, bias.shape[-1])
        added = []
        for head, place in enumerate(places):
            added.append(torch.stack([torch.zeros(n, k.shape[2], dtype=torch.float64).index_put(place, bias[item, head])
                                      for item in range(b)]))
        scores = scores + torch.stack(added, 1)
    for item, length in enumerate(lengths or []):
        mask[item, :, length:] = False
        mask[item, :, :, length:] = False
    most = scores.detach().masked_fill(~mask, -torch.inf).amax(-1, keepdim=True)
    most = torch.where(torch.isfinite(most), most, 0)
    exps = torch.where(mask, torch.where(mask, scores - most, 0).exp(), 0)
    sums = exps.sum(-1, keepdim=True)
    some = sums > 0
    weights = exps / torch.where(some, sums, 1)
    lse = torch.where(some, most + torch.where(some, sums, 1).log(), -torch.inf)[..., 0]
    spread = weights if kept is None else weights * kept
    z = v
    for _ in range(hops):
        z = (1 - teleport) * (spread @ z) + teleport * v if teleport else spread @ z
    for item, length in enumerate(lengths or []):
        z = torch.cat([z[:item], (z[item] * (torch.arange(n) < length)[:, None])[None], z[item + 1:]])
    by_edge = [weights[:, head][:, place[0], place[1]] for head, place in enumerate(places)]
    return z, lse, torch.stack(by_edge, 1) if len({x.shape for x in by_edge}) == 1 else None


def made(dtype, *shapes, seed=1):
    """Random tensors twice: on the device in `dtype`, on the CPU in float64 with the same values; both want gradients."""
    maker = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, dtype=torch.float64, generator=maker).to(dtype) for shape in shapes]
    return [x.to(DEVICE).clone().requires_grad_() for x in values], [x.double().clone().requires_grad_() for x in values]


def gradients(names, got, want):
    return {f"d{name}": (a.grad, b.grad) for name, a, b in zip(names, got, want)}


def odd_graph(n):
    """Rows without edges, a hub row and a hub column."""
    dense = mh.graph("window(2)|random(2,seed=3)", n).to_dense() > 0
    dense[:, 4] = True
    dense[9] = True
    dense[5] = dense[n - 1] = False
    return mh.Graph.from_edges(*np.nonzero(dense), shape=dense.shape)


@check()
def attention():
    for dtype in TOLERANCE:
        for text, n in (("diffuser(16,16,8,seed=1)", 300), ("overlap(32,16)|global(8)", 513), ("random(9,seed=2)", 200)):
            for hops, teleport, mode in ((1, 0.0, "stored"), (5, 0.1, "stored"), (5, 0.1, "checkpointed")):
                graph = mh.graph(text, n)
                got, want = made(dtype, (2, 4, n, 64), (2, 2, n, 64), (2, 2, n, 64))
                g = torch.randn(2, 4, n, 64, dtype=torch.float64).to(dtype)
                out = mh.attention(*got, graph, hops=hops, teleport=teleport, backward=mode)
                out.backward(g.to(DEVICE))
                full, _, _ = oracle(*want, graph, hops, teleport)
                full.backward(g.double())
                compare(f"{text} hops {hops} {mode}", dtype, {"out": (out, full), **gradients("qkv", got, want)})
                again = [x.detach().requires_grad_() for x in got]
                twice = mh.attention(*again, graph, hops=hops, teleport=teleport, backward=mode)
                twice.backward(g.to(DEVICE))
                same = torch.equal(out, twice) and all(torch.equal(a.grad, b.grad) for a, b in zip(got, again))
                tell(same, f"{text} hops {hops} {mode} {dtype}: the same bits again")


@check()
def bias_lse_weights_lengths():
    n = 150
    for dtype in TOLERANCE:
        for name, graph, axes, lengths in (
                ("odd rows, bias [m]", odd_graph(n), 1, None),
                ("odd rows, bias [h, m], lengths", odd_graph(n), 2, [150, 97]),
                ("panels, bias [b, h, m], lengths", mh.graph("overlap(32,16)|global(4)", n), 3, [64, 131]),
                ("a graph a head, bias [h, m]", [mh.graph(f"random(6,seed={head})", n) for head in range(4)], 2, None)):
            m = (graph[0] if isinstance(graph, list) else graph).nnz
            real = torch.float64 if dtype == torch.float64 else torch.float32
            got, want = made(dtype, (2, 4, n, 32), (2, 2, n, 32), (2, 2, n, 48))
            (bias,), (exact,) = made(real, (2, 4, m)[3 - axes:], seed=2)
            (g, g_lse), (g64, g_lse64) = made(dtype, (2, 4, n, 48), (2, 4, n), seed=3)
            out, lse, weights = mh.attention(*got, graph, hops=3, teleport=0.2, scale=0.3, bias=bias, lengths=lengths,
                                             return_lse=True, return_weights=True)
            full, sums, spread = oracle(*want, graph, 3, 0.2, exact, lengths, 0.3)
            live = torch.isfinite(sums)
            told_live = torch.isfinite(lse.detach()).cpu()
            for item, length in enumerate(lengths or []):  # what the sums of absent rows are is nobody's business
                live[item, :, length:] = told_live[item, :, length:] = False
            torch.autograd.backward([out, lse], [g.detach(), (g_lse.detach() * told_live.to(DEVICE)).to(lse.dtype)])
            torch.autograd.backward([full, torch.where(live, sums, 0)], [g64.detach(), g_lse64.detach() * live])
            pairs = {"out": (out, full), "lse": (torch.where(told_live.to(DEVICE), lse, 0), torch.where(live, sums, 0)),
                     "weights": (weights, spread), **gradients("qkv", got, want), "dbias": (bias.grad, exact.grad)}
            compare(name, dtype, pairs)


@check()
def layouts_and_strides():
    n, graph = 200, mh.graph("window(12)|global(2)", 200)
    for dtype in TOLERANCE:
        got, want = made(dtype, (2, n, 4, 96), (2, 4, n, 32))
        g = torch.randn(2, n, 4, 32, dtype=torch.float64).to(dtype)
        out = mh.attention(*got[0].split(32, -1), graph, hops=2, teleport=0.1, layout="bshd")  # one tensor of q, k and v
        out.backward(g.to(DEVICE))
        full, _, _ = oracle(*(x.transpose(1, 2) for x in want[0].split(32, -1)), graph, 2, 0.1)
        full.backward(g.double().transpose(1, 2))
        compare("bshd, q, k, v of one tensor", dtype, {"out": (out, full.transpose(1, 2)), "dqkv": (got[0].grad, want[0].grad)})
        got, want = made(dtype, (2, 4, n, 64), (2, 1, n, 32), (2, 4, 32, n))
        parts = [(x[0][..., ::2], x[1].expand(2, 4, n, 32), x[2].transpose(2, 3)) for x in (got, want)]
        out = mh.attention(*parts[0], graph, hops=2, teleport=0.1)
        out.sum().backward()  # a gradient of stride 0
        full, _, _ = oracle(*parts[1], graph, 2, 0.1)
        full.sum().backward()
        compare("every other column, expanded, transposed", dtype, {"out": (out, full), **gradients("qkv", got, want)})
        ragged = mh.batch([mh.graph("window(5)", 120), mh.graph("random(4,seed=1)", 80)])
        got, want = made(dtype, *[(n, 4, 32)] * 3)
        out = mh.attention(*got, ragged, hops=2, teleport=0.1, layout="thd")
        out.backward(g[0].to(DEVICE))
        full, _, _ = oracle(*(x.transpose(0, 1)[None] for x in want), ragged, 2, 0.1)
        full.backward(g[:1].double().transpose(1, 2))
        compare("thd", dtype, {"out": (out, full[0].transpose(0, 1)), **gradients("qkv", got, want)})


@check()
def grouped_queries_and_widths():
    for dtype in TOLERANCE:
        for heads, kv, d, d_v, n in ((6, 1, 24, 40, 130), (8, 2, 128, 128, 160), (3, 3, 256, 256, 96), (2, 2, 7, 5, 50)):
            graph = mh.graph("overlap(16,8)|random(3,seed=1)", n)
            got, want = made(dtype, (1, heads, n, d), (1, kv, n, d), (1, kv, n, d_v))
            g = torch.randn(1, heads, n, d_v, dtype=torch.float64).to(dtype)
            out = mh.attention(*got, graph, hops=3, teleport=0.1)
            out.backward(g.to(DEVICE))
            full, _, _ = oracle(*want, graph, 3, 0.1)
            full.backward(g.double())
            compare(f"{heads} heads over {kv}, d {d}, {d_v}", dtype, {"out": (out, full), **gradients("qkv", got, want)})


@check()
def rectangle():
    graph = mh.Graph.from_edges(*np.nonzero(np.random.default_rng(1).random((90, 140)) < 0.2), shape=(90, 140))
    for dtype in TOLERANCE:
        got, want = made(dtype, (2, 2, 90, 32), (2, 2, 140, 32), (2, 2, 140, 32))
        g = torch.randn(2, 2, 90, 32, dtype=torch.float64).to(dtype)
        out = mh.attention(*got, graph)
        out.backward(g.to(DEVICE))
        full, _, _ = oracle(*want, graph)
        full.backward(g.double())
        compare("90 x 140", dtype, {"out": (out, full), **gradients("qkv", got, want)})


@check()
def teleport_as_a_tensor():
    n, graph = 120, mh.graph("window(8)", 120)
    for dtype in TOLERANCE:
        got, want = made(dtype, *[(1, 2, n, 32)] * 3)
        rates = [torch.tensor(0.3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        g = torch.randn(1, 2, n, 32, dtype=torch.float64).to(dtype)
        mh.attention(*got, graph, hops=4, teleport=rates[0]).backward(g.to(DEVICE))
        oracle(*want, graph, 4, rates[1])[0].backward(g.double())
        compare("teleport", dtype, {"dteleport": (rates[0].grad, rates[1].grad), **gradients("qkv", got, want)})


@check()
def dropout():
    """Against the dense formula, whose mask is what a call gives for values that are an identity; that of hops against the
    CPU's, since masks follow from the seed alone."""
    n = 128
    for graph, name in ((mh.graph("overlap(32,16)", n), "panels"), (mh.graph("random(9,seed=2)|self", n), "edges")):
        for dtype in TOLERANCE:
            got, want = made(dtype, *[(2, 2, n, 64)] * 3)
            with torch.no_grad():
                eye = torch.eye(n, dtype=torch.float64, device=DEVICE).expand(2, 2, n, n)
                flat = torch.zeros(2, 2, n, 64, dtype=torch.float64, device=DEVICE)
                dropped = mh.attention(flat, flat, eye, graph, dropout_p=0.25, seed=5)
                kept = (dropped > 0).double().cpu() / 0.75
            share = float((dropped > 0).sum()) / (4 * graph.nnz)
            g = torch.randn(2, 2, n, 64, dtype=torch.float64).to(dtype)
            out = mh.attention(*got, graph, hops=3, teleport=0.1, dropout_p=0.25, seed=5)
            out.backward(g.to(DEVICE))
            full, _, _ = oracle(*want, graph, 3, 0.1, kept=kept)
            full.backward(g.double())
            compare(f"dropout, {name}", dtype, {"out": (out, full), **gradients("qkv", got, want)})
            tell(abs(share - 0.75) < 0.05, f"dropout, {name}: {share:.3f} of the weights are kept, 0.75 is wanted")
            found = []
            for device in ("cpu", DEVICE):
                x = [y.detach().to(device).clone().requires_grad_() for y in got]
                z = mh.attention(*x, graph, hops=3, teleport=0.1, dropout_p=0.1, hop_dropout_p=0.2, seed=7)
                z.backward(g.to(device))
                found.append([z, *(y.grad for y in x)])
            compare(f"dropout of hops against the CPU, {name}", dtype,
                    dict(zip(("out", "dq", "dk", "dv"), zip(found[1], found[0]))))


@check(gpu=True)
def side_stream():
    """What is queued before and after on the same stream, and nothing else, is waited for."""
    n, graph = 2048, mh.graph("window(30)|random(4,seed=1)", 2048)
    x = torch.randn(1, 4, n, 64, device="cuda", dtype=torch.bfloat16)
    slow = torch.randn(4096, 4096, device="cuda")
    plain = mh.attention(2 * x, x, x, graph, hops=3, teleport=0.1)
    stream = torch.cuda.Stream()
    same = True
    for _ in range(5):
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            q = torch.zeros_like(x)
            for _ in range(20):
                slow = slow @ slow * 1e-2
            q.copy_(2 * x + 0 * slow[0, 0].nan_to_num(0, 0, 0).to(x.dtype)).requires_grad_()
            out = mh.attention(q, x, x, graph, hops=3, teleport=0.1)
            got = out.detach().clone()
            out.sum().backward()
        stream.synchronize()
        same = same and torch.equal(got, plain) and bool(torch.isfinite(q.grad).all())
    tell(same, "a stream beside torch's own: the bits of a plain call")


@check()
def compiled():
    """torch.compile without a break, forward and backward."""
    n, graph = 200, mh.graph("window(10)|global(2)", 200)

    def layer(q, k, v):
        return mh.attention(2 * q, k, v, graph, hops=3, teleport=0.1).square() + 1

    fast = torch.compile(layer, fullgraph=True, backend="inductor" if DEVICE == "cuda" else "aot_eager")
    for dtype in (torch.float32, torch.bfloat16):
        got, _ = made(dtype, *[(1, 2, n, 32)] * 3)
        want = [x.detach().requires_grad_() for x in got]
        out, plain = fast(*got), layer(*want)
        out.sum().backward()
        plain.sum().backward()
        compare("torch.compile", dtype, {"out": (out, plain), **gradients("qkv", got, want)})


def bits():
    """Prints a digest of results and gradients of calls that come again, and how many graphs of hops were launched."""
    found = hashlib.sha256()
    graph = mh.graph("window(40)|random(4,seed=1)|global(2)", 700)
    launched = 0
    for dtype in TOLERANCE:
        plan = mh.plan(graph, heads=4, head_dim=64, dtype=dtype, hops=6, backend="cuda", batch=2, backward=True)
        for backward in ("stored", "checkpointed"):
            for call in range(5):
                torch.manual_seed(call)
                q, k, v = (torch.randn(2, 4, 700, 64, dtype=torch.float64).to(dtype).cuda().requires_grad_() for _ in range(3))
                out = plan.run(q, k, v, teleport=0.1, lengths=[700, 500], hop_dropout_p=0.1, seed=call, backward=backward)
                out.sum().backward()
                for x in (out, q.grad, k.grad, v.grad):
                    found.update(x.detach().double().cpu().numpy().tobytes())
        # After a run explain() tells of the plan that it took, which has torch's number of threads.
        line = next(line for line in plan.explain().splitlines() if line.startswith("captured"))
        print(f"  {dtype}: {line}", file=sys.stderr)
        launched += int(line.split()[-2]) if line.endswith(" launched") else 0
    print(found.hexdigest(), launched)


@check(gpu=True)
def captured():
    """A process with CUDA Graphs beside one without."""
    found = {}
    for asked in ("0", "1"):
        run = subprocess.run([sys.executable, __file__, "--bits"], env={**os.environ, "MANYHOP_CUDA_GRAPHS": asked},
                             stdout=subprocess.PIPE, text=True)
        if run.returncode != 0:
            tell(False, f"hops as CUDA Graphs: MANYHOP_CUDA_GRAPHS={asked} ended with {run.returncode}")
            return
        found[asked] = run.stdout.split()
    same = found["0"][0] == found["1"][0]
    tell(same and found["0"][1] == "0" and int(found["1"][1]) > 0,
         f"hops as CUDA Graphs: {found['1'][1]} launched, {found['0'][1]} where they are off, the bits of hops one by one: {same}")


@check(gpu=True)
def inside_capture():
    """torch.cuda.graph refuses whatever waits for the device; its replay must take what lies in the tensors then."""
    graph = mh.graph("window(20)|global(2)", 300)
    for dtype in (torch.bfloat16, torch.float32):
        q, k, v = (torch.randn(2, 4, 300, 32, device="cuda", dtype=dtype) for _ in range(3))

        def call():
            return mh.attention(q, k, v, graph, hops=4, teleport=0.1, lengths=[300, 200], dropout_p=0.1, seed=3)

        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.synchronize()
        captured_call = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured_call):
            out = call()
        worst = 0.0
        for seed in range(2):
            torch.manual_seed(seed)
            for x in (q, k, v):
                x.copy_(torch.randn(x.shape))
            captured_call.replay()
            torch.cuda.synchronize()
            worst = max(worst, error(out, call()))
        tell(worst <= (0 if dtype == torch.bfloat16 else 1e-5),  # hops of f32 by cuSPARSE go by own kernels there
             f"a call inside torch.cuda.graph, {dtype}: error {worst:.1e} against a plain call")


@check(gpu=True)
def tf32():
    """Torch's switch for products in float32 turns the tensor cores' on: a larger error, within 10 bits of mantissa."""
    graph = mh.graph("overlap(32,16)", 512)
    got, want = made(torch.float32, *[(1, 4, 512, 64)] * 3)
    full, _, _ = oracle(*want, graph, 3, 0.1)
    errors = []
    try:
        for precision in ("highest", "high", "highest"):
            torch.set_float32_matmul_precision(precision)
            errors.append(error(mh.attention(*got, graph, hops=3, teleport=0.1), full))
    finally:
        torch.set_float32_matmul_precision("highest")
    tell(errors[0] == errors[2] <= 1e-5 < errors[1] < 1e-2,
         f"TF32 where torch has it on: error {errors[1]:.1e}, {errors[0]:.1e} without")


def on_both(call, *tensors):
    """What a call and its gradients give on the CPU and on the device: [[cpu...], [device...]]."""
    found = []
    for device in ("cpu", DEVICE):
        x = [y.to(device).clone().requires_grad_() for y in tensors]
        out = call(device, *x)
        g = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9)).to(out.dtype)
        out.backward(g.to(device))
        found.append([out, *(y.grad for y in x)])
    return found


@check()
def sparsek():
    for dtype in TOLERANCE:
        maker = torch.Generator().manual_seed(2)
        z = torch.randn(50, 3000, dtype=torch.float64, generator=maker).to(dtype)
        for k in (1, 64, 2999.5):
            cpu, here = on_both(lambda _, scores: mh.sparsek(scores, k, temperature=0.7), z)
            compare(f"sparsek k {k}", dtype, {"gates": (here[0], cpu[0]), "gradient": (here[1], cpu[1])})


@check()
def causal_selection():
    for dtype in (torch.float64, torch.float32):
        scores = torch.randn(3, 4000, dtype=dtype, generator=torch.Generator().manual_seed(4))
        scores[1] = scores[1].round()  # equal ones
        for k, cap in ((1, None), (32, None), (64.5, 70), (16, -1)):
            cpu, here = (mh.causal_sparsek(scores.to(device), k, cap=cap) for device in ("cpu", DEVICE))
            same = all(np.array_equal(a.until, b.until) and a.edges == b.edges and a.capped_rows == b.capped_rows
                       for a, b in zip(cpu, here))
            far = max(error(torch.from_numpy(b.tau.copy()), torch.from_numpy(a.tau.copy())) for a, b in zip(cpu, here))
            tell(same and far <= 1e-12, f"causal selection {dtype} k {k} cap {cap}: the CPU's keys {same}, thresholds {far:.1e}")


@check()
def sparsek_attention():
    for dtype in TOLERANCE:
        real = torch.float64 if dtype == torch.float64 else torch.float32
        for settings in ({"keys": 8}, {"keys": 16, "window": 12, "sinks": 2, "gate": "scores"},
                         {"keys": 12, "cap": 16, "window": 4, "hops": 3, "teleport": 0.2, "scale": 0.4, "temperature": 0.5}):
            maker = torch.Generator().manual_seed(6)
            q, k, v, scores = (torch.randn(shape, dtype=torch.float64, generator=maker).to(kind) for shape, kind in (
                ((2, 4, 500, 32), dtype), ((2, 2, 500, 32), dtype), ((2, 2, 500, 48), dtype), ((2, 2, 500), real)))
            cpu, here = on_both(lambda _, *x: mh.sparsek_attention(*x, **settings), q, k, v, scores)
            compare(f"sparsek_attention {settings}", dtype, dict(zip(("out", "dq", "dk", "dv", "dscores"), zip(here, cpu))))


@check()
def diffuse():
    """Signals on the device beside the CPU's: value and gradients of x, weights and teleport, hubs included."""
    graph = mh.graph("window(3)|random(4,seed=1)|global(2)", 3000)
    maker = torch.Generator().manual_seed(8)
    weights = torch.rand(graph.nnz, dtype=torch.float64, generator=maker) + 0.5
    for dtype in (torch.float64, torch.float32):
        x = torch.randn(3000, 5, dtype=dtype, generator=maker)
        rates = []

        def call(device, y, w):
            rates.append(torch.tensor(0.2, dtype=torch.float64, requires_grad=True))
            return mh.diffuse(graph, y, teleport=rates[-1], weights=w, hops=6).value

        cpu, here = on_both(call, x, weights)
        compare("diffuse", dtype, {**dict(zip(("value", "dx", "dweights"), zip(here, cpu))),
                                   "dteleport": (rates[1].grad, rates[0].grad)})


def refused(name, call, words, kind=mh.Error):
    try:
        call()
    except Exception as found:  # any type: its kind and words count
        tell(isinstance(found, kind) and words in str(found), f"{name}: {type(found).__name__}: {found}")
        return
    tell(False, f"{name}: nothing was raised")


@check()
def memory_limit():
    """A limit splits calls, with the same bits, or is an error of ours; the process goes on."""
    graph = mh.graph("window(64)", 4096)
    q, k, v = (torch.randn(1, 8, 4096, 64, device=DEVICE) for _ in range(3))
    whole = mh.attention(q, k, v, graph, hops=3, teleport=0.1)
    with mh.memory_limit(1 << 20):
        refused("a limit of 1 MiB", lambda: mh.attention(q, k, v, graph, hops=3, teleport=0.1), "memory limit",
                mh.errors.LimitError)
    tell(torch.equal(mh.attention(q, k, v, graph, hops=3, teleport=0.1), whole), "after the limit: the bits of before")


@check(gpu=True)
def device_is_full():
    """Outputs have room, since torch keeps a block for them; what is wanted beside them has none."""
    graph = mh.graph("window(64)", 131072)  # a head of it wants more than what earlier calls have left in the pool
    mh.release_memory()
    q = torch.randn(1, 8, 131072, 64, device="cuda")
    for_out = torch.empty_like(q)
    torch.cuda.synchronize()
    free = torch.cuda.mem_get_info()[0]
    hold, size = [], free
    while size >= 1 << 21:  # down to what is less than one block of the driver's
        try:
            hold.append(torch.empty(size, device="cuda", dtype=torch.uint8))
        except torch.cuda.OutOfMemoryError:
            size //= 2
    del for_out  # torch keeps it, and gives it to the call
    refused("a device without room", lambda: mh.attention(q, q, q, graph, hops=3, teleport=0.1), "memory", mh.errors.LimitError)
    x = torch.randn(1, 2, 64, 32)
    small = mh.graph("window(4)", 64)
    tell(bool(torch.isfinite(mh.attention(x, x, x, small)).all()), "the CPU after that")
    hold.clear()
    torch.cuda.empty_cache()
    out = mh.attention(q, q, q, graph, hops=3, teleport=0.1)
    tell(bool(torch.isfinite(out).all()), "the device after that")


@check(gpu=True)
def another_device():
    q = torch.randn(1, 2, 64, 32, device="cuda")
    graph = mh.graph("window(4)", 64)
    refused("another device", lambda: mh.attention(q, q.cpu(), q, graph), "where q is on cuda")
    refused("too wide a head", lambda: mh.attention(*[torch.zeros(1, 1, 64, 300, device="cuda")] * 3, graph), "256 features")


def usable():
    """Why the device cannot be used; empty where it can."""
    if not torch.cuda.is_available():
        try:
            torch.zeros(1, device="cuda")
        except Exception as found:  # torch's own words
            return f"torch: {found}"
        return "torch sees no GPU"
    return "" if "cuda" in mh._core.available_backends() else "this manyhop has no 'cuda' backend"


def alive():
    try:
        torch.cuda.synchronize()
        return bool(torch.ones(1, device="cuda").item() == 1)
    except Exception:  # an error that stays with the process
        return False


def main():
    global DEVICE
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=1e9, help="no check begins after that")
    parser.add_argument("--only", default="", help="names, comma separated")
    parser.add_argument("--bits", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    DEVICE = options.device
    only = options.only.split(",") if options.only else [name for name, *_ in CHECKS]
    began = time.monotonic()
    if DEVICE == "cuda" and (reason := usable()):
        if os.environ.get("MANYHOP_EXPECT_GPU"):
            print(f"FAILED: a GPU is here and cannot be used: {reason}")
            return 1
        print(f"skipped: no GPU ({len(only)} checks)")
        return 0
    if options.bits:
        return bits()
    for place, (name, function, gpu) in enumerate(CHECKS):
        if name not in only:
            continue
        if gpu and DEVICE != "cuda" or time.monotonic() - began > options.seconds:
            told["not run"] += 1
            print(f"not run: {name}, {'it wants a GPU' if gpu and DEVICE != 'cuda' else 'out of time'}", flush=True)
            continue
        start = time.monotonic()
        try:
            function()
        except Exception as found:  # whatever it is, the other checks run
            traceback.print_exc()
            sys.stderr.flush()
            tell(False, f"{name}: {type(found).__name__}: {str(found).splitlines()[0] if str(found) else ''}")
        print(f"  {name}: {time.monotonic() - start:.1f} s", flush=True)
        if DEVICE == "cuda" and not alive():
            print(f"  {name} left the device unusable for this process; the rest in a new one", flush=True)
            rest = [later for later, *_ in CHECKS[place + 1:] if later in only]
            if rest:
                run = subprocess.run([sys.executable, __file__, "--only", ",".join(rest), "--seconds",
                                      str(options.seconds - (time.monotonic() - began))], stdout=subprocess.PIPE, text=True)
                print(run.stdout, end="")
                words = run.stdout.split("\n")[-2].replace(",", "").split() if run.stdout else []
                if len(words) == 7 and words[1] == "passed":
                    for kind, number in zip(told, words[::2]):
                        told[kind] += int(number)
                else:
                    told["failed"] += len(rest)
            break
    print(f"{told['passed']} passed, {told['failed']} failed, {told['not run']} not run")
    return 1 if told["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())

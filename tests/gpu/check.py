"""mh.attention on a GPU's tensors against dense torch in float64: values, gradients, layouts, repeatability, errors; CUDA
Graphs of hops against hops one by one; calls inside a graph that torch captures.

    PYTHONPATH=... python3 tests/gpu/check.py

Prints a line for each check; without a GPU one line, 'skipped: no GPU', and exit status 0.
"""
import hashlib
import os
import subprocess
import sys

import torch

import manyhop as mh

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def dense(q, k, v, graph, hops, teleport):
    """The definition, in float64 on the CPU."""
    q, k, v = (x.double().cpu() for x in (q, k, v))
    mask = torch.zeros(graph.shape, dtype=torch.bool)
    rows = torch.repeat_interleave(torch.arange(graph.shape[0]), torch.from_numpy(graph.indptr.copy()).diff())
    mask[rows, torch.from_numpy(graph.indices.astype("int64"))] = True
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    scores = (q @ k.transpose(-1, -2) / q.shape[-1]**0.5).masked_fill(~mask, -torch.inf)
    weights = torch.nan_to_num(scores.softmax(-1))
    z = v
    for _ in range(hops):
        z = (1 - teleport) * (weights @ z) + teleport * v
    return z


def error(got, want):
    return float((got.double().cpu() - want).norm() / want.norm().clamp_min(1e-30))


def check(name, dtype, text, n, heads, kv_heads, d, hops, teleport, backward="stored"):
    torch.manual_seed(1)
    graph = mh.graph(text, n)
    made = [torch.randn(2, h, n, d, dtype=torch.float64).to(dtype) for h in (heads, kv_heads, kv_heads)]
    on_gpu = [x.cuda().requires_grad_() for x in made]
    exact = [x.double().requires_grad_() for x in made]
    out = mh.attention(*on_gpu, graph, hops=hops, teleport=teleport, backward=backward)
    want = dense(*exact, graph, hops, teleport)
    g = torch.randn(want.shape, dtype=torch.float64).to(dtype)
    out.backward(g.cuda())
    want.backward(g.double())
    errors = [error(out.detach(), want.detach())] + [error(a.grad, b.grad) for a, b in zip(on_gpu, exact)]
    again = mh.attention(*on_gpu, graph, hops=hops, teleport=teleport, backward=backward)
    same = bool((again == out).all())
    passed = max(errors) < TOLERANCE[dtype] and same
    print(f"{'passed' if passed else 'FAILED'} {name}: out {errors[0]:.1e}, gradients {max(errors[1:]):.1e}, repeats {same}")
    return passed


def bits():
    """Prints a digest of results and gradients of calls that come again, and how many graphs of hops were launched."""
    found = hashlib.sha256()
    graph = mh.graph("window(40)|random(4,seed=1)|global(2)", 700)
    launched = 0
    for dtype in TOLERANCE:
        for backward in ("stored", "checkpointed"):
            for call in range(5):
                torch.manual_seed(call)
                q, k, v = (torch.randn(2, 4, 700, 64, dtype=torch.float64).to(dtype).cuda().requires_grad_() for _ in range(3))
                out = mh.attention(q, k, v, graph, hops=6, teleport=0.1, lengths=[700, 500], hop_dropout_p=0.1, seed=call,
                                   backward=backward)
                out.sum().backward()
                for x in (out, q.grad, k.grad, v.grad):
                    found.update(x.detach().double().cpu().numpy().tobytes())
        told = mh.plan(graph, heads=4, head_dim=64, dtype=dtype, hops=6, backend="cuda", batch=2, backward=True).explain()
        line = next(line for line in told.splitlines() if line.startswith("captured"))
        print(f"  {dtype}: {line}", file=sys.stderr)
        launched += int(line.split()[-2]) if line.endswith(" launched") else 0
    print(found.hexdigest(), launched)


def check_captured():
    """A process with CUDA Graphs beside one without."""
    found = {}
    for asked in ("0", "1"):
        run = subprocess.run([sys.executable, __file__, "--bits"], env={**os.environ, "MANYHOP_CUDA_GRAPHS": asked},
                             stdout=subprocess.PIPE, text=True)
        if run.returncode != 0:
            print(f"FAILED hops as CUDA Graphs: MANYHOP_CUDA_GRAPHS={asked} ended with {run.returncode}")
            return False
        found[asked] = run.stdout.split()
    passed = found["0"][0] == found["1"][0] and found["0"][1] == "0" and int(found["1"][1]) > 0
    print(f"{'passed' if passed else 'FAILED'} hops as CUDA Graphs: {found['1'][1]} launched, the bits of hops one by one: "
          f"{found['0'][0] == found['1'][0]}")
    return passed


def check_inside_capture(dtype):
    """torch.cuda.graph refuses whatever waits for the device; its replay must take what lies in the tensors then."""
    graph = mh.graph("window(20)|global(2)", 300)
    q, k, v = (torch.randn(2, 4, 300, 32, device="cuda", dtype=dtype) for _ in range(3))

    def call():
        return mh.attention(q, k, v, graph, hops=4, teleport=0.1, lengths=[300, 200], dropout_p=0.1, seed=3)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(captured):
            out = call()
    except Exception as found:  # what is not allowed there, whatever its type
        print(f"FAILED a call inside torch.cuda.graph, {dtype}: {type(found).__name__}: {found}")
        return False
    worst = 0.0
    for seed in range(2):
        torch.manual_seed(seed)
        for x in (q, k, v):
            x.copy_(torch.randn(x.shape))
        captured.replay()
        torch.cuda.synchronize()
        worst = max(worst, error(out, call().double().cpu()))
    passed = worst <= (0 if dtype == torch.bfloat16 else 1e-5)  # hops of f32 by cuSPARSE go by own kernels there
    print(f"{'passed' if passed else 'FAILED'} a call inside torch.cuda.graph, {dtype}: error {worst:.1e} against a plain call")
    return passed


def check_tf32():
    """Torch's switch for products in float32 turns the tensor cores' on: a larger error, within 10 bits of mantissa."""
    graph = mh.graph("overlap(32,16)", 512)
    q, k, v = (torch.randn(1, 4, 512, 64, device="cuda") for _ in range(3))
    want = dense(q, k, v, graph, 3, 0.1)
    errors = []
    for precision in ("highest", "high", "highest"):
        torch.set_float32_matmul_precision(precision)
        errors.append(error(mh.attention(q, k, v, graph, hops=3, teleport=0.1), want))
    passed = errors[0] == errors[2] < 1e-5 < errors[1] < 1e-2
    print(f"{'passed' if passed else 'FAILED'} TF32 where torch has it on: error {errors[1]:.1e}, {errors[0]:.1e} without")
    return passed


def check_sparsek(dtype, tolerance):
    torch.manual_seed(2)
    z = torch.randn(50, 3000, dtype=torch.float64).to(dtype)
    g = torch.randn(z.shape, dtype=torch.float64).to(dtype)
    found = []
    for device in ("cpu", "cuda"):
        scores = z.to(device).detach().requires_grad_()
        p = mh.sparsek(scores, 64)
        p.backward(g.to(device))
        found.append((p.detach().double().cpu(), scores.grad.double().cpu()))
    errors = [float((a - b).abs().max()) for a, b in zip(*found)]
    passed = max(errors) < tolerance
    print(f"{'passed' if passed else 'FAILED'} sparsek {dtype}: gates {errors[0]:.1e}, gradient {errors[1]:.1e}")
    return passed


def refused(name, call, words):
    try:
        call()
    except Exception as found:  # any type: the words count
        passed = words in str(found)
        print(f"{'passed' if passed else 'FAILED'} {name}: {type(found).__name__}: {found}")
        return passed
    print(f"FAILED {name}: nothing was raised")
    return False


def check_diffuse(dtype, tolerance):
    """Signals on the device beside the CPU's: value and gradients of x and teleport, weights and hubs included."""
    graph = mh.graph("window(3)|random(4,seed=1)|global(2)", 3000)
    weights = torch.rand(graph.nnz, dtype=torch.float64) + 0.5
    x = torch.randn(3000, 5, dtype=dtype)
    found = []
    for device in ("cpu", "cuda"):
        y = x.to(device).requires_grad_()
        rate = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
        z = mh.diffuse(graph, y, teleport=rate, weights=weights.to(device), hops=6).value
        z.square().sum().backward()
        found.append([z.detach().cpu(), y.grad.cpu(), rate.grad])
    error = max(float((a.double() - b.double()).abs().max() / b.double().abs().max()) for a, b in zip(found[1], found[0]))
    print(f"{'passed' if error <= tolerance else 'FAILED'} diffuse {dtype}: error {error:.1e}")
    return error <= tolerance


def main():
    if not torch.cuda.is_available() or "cuda" not in mh._core.available_backends():
        print("skipped: no GPU")
        return 0
    if "--bits" in sys.argv:
        return bits()
    passed = []
    for dtype in TOLERANCE:
        for text, n in (("diffuser(16,16,8,seed=1)", 300), ("overlap(32,16)|global(8)", 513), ("random(9,seed=2)", 200)):
            for hops, teleport, mode in ((1, 0.0, "stored"), (5, 0.1, "stored"), (5, 0.1, "checkpointed")):
                passed.append(check(f"{dtype} {text} hops {hops} {mode}", dtype, text, n, 4, 2, 64, hops, teleport, mode))
    passed += [check_captured(), check_tf32()]
    passed += [check_inside_capture(torch.bfloat16), check_inside_capture(torch.float32)]
    passed += [check_sparsek(torch.float64, 1e-11), check_sparsek(torch.float32, 1e-4)]
    passed += [check_diffuse(torch.float64, 1e-11), check_diffuse(torch.float32, 1e-5)]
    q = torch.randn(1, 2, 64, 32, device="cuda")
    graph = mh.graph("window(4)", 64)
    passed.append(refused("another device", lambda: mh.attention(q, q.cpu(), q, graph), "where q is on cuda"))
    huge = mh.graph("window(2)", 1 << 22)
    wide = torch.empty(1, 1, 1 << 22, 1, device="cuda").expand(1, 64, -1, 256)
    passed.append(refused("too little memory", lambda: mh.attention(wide, wide, wide, huge, hops=3), "memory"))
    after = mh.attention(q, q, q, graph)
    passed.append(bool(torch.isfinite(after).all()))
    print(f"{sum(passed)} passed, {len(passed) - sum(passed)} failed")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Sparse multi-hop attention on a GPU beside torch's flash attention over all pairs, FlexAttention and an unfused pipeline.

    PYTHONPATH=... python3 bench/gpu.py                    # every case
    PYTHONPATH=... python3 bench/gpu.py --cases n=16384 --rounds 9 --json bench.json

Every result of Manyhop is first compared with itself in float32; what differs by more than 1e-2 is reported and not timed.
Rounds are interleaved, times come from CUDA events around one call after two that warm up, and a ratio is the peer's time
over Manyhop's. Prints the device, and each case's least, median and most. Without a GPU: 'skipped: no GPU'.
"""
import argparse
import json
import statistics
import sys

import torch

import manyhop as mh

BLOCKS = "overlap(64,32)|lift(regular(1,seed=1),64)|global(64)"
PATTERNS = {"element": "diffuser(64,64,64)", "blocks": BLOCKS}


def milliseconds(call):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def measure(calls, rounds):
    for call in calls.values():
        call()
        call()
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(milliseconds(call))
    return times


def csr(graph, device):
    return (torch.from_numpy(graph.indptr.copy()).to(device), torch.from_numpy(graph.indices.astype("int64")).to(device))


def unfused(q, k, v, graph, hops, teleport):
    """SDDMM by gathers, softmax by rows, hops by torch's sparse product (cuSPARSE), head after head."""
    indptr, columns = csr(graph, q.device)
    rows = torch.repeat_interleave(torch.arange(len(indptr) - 1, device=q.device), indptr.diff())
    out = torch.empty_like(v)
    for h in range(q.shape[1]):
        scores = (q[0, h, rows].float() * k[0, h, columns].float()).sum(-1) / q.shape[-1]**0.5
        most = torch.full((len(indptr) - 1,), -torch.inf, device=q.device).scatter_reduce(0, rows, scores, "amax")
        weights = (scores - most[rows]).exp()
        total = torch.zeros(len(indptr) - 1, device=q.device).index_add_(0, rows, weights)
        matrix = torch.sparse_csr_tensor(indptr, columns, weights / total[rows], (len(indptr) - 1,) * 2)
        start = v[0, h].float()
        z = start
        for _ in range(hops):
            z = (1 - teleport) * (matrix @ z) + teleport * start
        out[0, h] = z
    return out


def case(kind, n, options):
    graph = mh.graph(PATTERNS[kind], n)
    torch.manual_seed(n)
    q, k, v = (torch.randn(1, options.heads, n, options.dim, device="cuda", dtype=torch.bfloat16) for _ in range(3))

    def ours():
        return mh.attention(q, k, v, graph, hops=options.hops, teleport=0.1)

    exact = mh.attention(q.float(), k.float(), v.float(), graph, hops=options.hops, teleport=0.1)
    wrong = float((ours().float() - exact).norm() / exact.norm())
    del exact
    if not wrong < 1e-2:
        print(f"{kind} n={n}: differs from float32 by {wrong:.1e}, not timed")
        return None
    calls = {"manyhop": ours, "flash": lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)}
    if kind == "element" and n <= 65536:
        calls["unfused"] = lambda: unfused(q, k, v, graph, options.hops, 0.1)
    times = measure(calls, options.rounds)
    torch.cuda.reset_peak_memory_stats()
    row = {"case": kind, "n": n, "edges": graph.nnz, "error": wrong}
    middle = {name: statistics.median(t) for name, t in times.items()}
    for name, t in times.items():
        row[name] = {"median_ms": middle[name], "least_ms": min(t), "most_ms": max(t), "ratio": middle[name] / middle["manyhop"]}
        print(f"{kind:8} n={n:<7} {name:8} {middle[name]:9.3f} ms ({min(t):.3f} .. {max(t):.3f})  "
              f"ratio {row[name]['ratio']:.2f}", flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="n=16384,n=65536,n=262144")
    parser.add_argument("--patterns", default="element,blocks")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--hops", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json")
    options = parser.parse_args()
    if not torch.cuda.is_available() or "cuda" not in mh._core.available_backends():
        print("skipped: no GPU")
        return 0
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    rows = [case(kind, int(text.split("=")[1]), options) for kind in options.patterns.split(",")
            for text in options.cases.split(",")]
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"device": torch.cuda.get_device_name(), "rows": [r for r in rows if r]}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""SparseK beside what torch offers: the projection, and attention against dense attention, causal and not.

    python bench/sparsek.py [--rounds 5] [--threads 2] [--program build/bench/bench/bench_sparsek] [--only rows|attention]

Needs torch. Every round takes each of them once, in turn, so that a busy machine is busy for all; printed are medians
and the ratio to the best of torch. Answers are compared before anything is timed; bench_sparsek checks its own.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import time

import torch


def by_sorting(z, k):
    """tau from the 2n sorted breakpoints and their running sums."""
    points, order = torch.sort(torch.cat([z, z - 1], -1), dim=-1, descending=True)
    n = z.shape[-1]
    sign = torch.where(order < n, 1.0, -1.0)
    count = torch.cumsum(sign, -1)
    total = torch.cumsum(sign * points, -1)
    reached = total - count * points  # the sum of the gates with tau at each breakpoint
    at = (reached <= k).sum(-1, keepdim=True) - 1
    tau = (total.gather(-1, at) - k) / count.gather(-1, at).clamp(min=1)
    return (z - tau).clamp(0, 1)


def by_bisection(z, k, steps=40):
    lo, hi = z.amin(-1, keepdim=True) - 1, z.amax(-1, keepdim=True)
    for _ in range(steps):
        middle = (lo + hi) / 2
        above = (z - middle).clamp(0, 1).sum(-1, keepdim=True) > k
        lo, hi = torch.where(above, middle, lo), torch.where(above, hi, middle)
    return (z - (lo + hi) / 2).clamp(0, 1)


def by_newton(z, k, steps=8):
    lo, hi = z.amin(-1, keepdim=True) - 1, z.amax(-1, keepdim=True)
    tau = z.mean(-1, keepdim=True)
    for _ in range(steps):
        p = (z - tau).clamp(0, 1)
        over = p.sum(-1, keepdim=True) - k
        lo, hi = torch.where(over > 0, tau, lo), torch.where(over > 0, hi, tau)
        slope = ((p > 0) & (p < 1)).sum(-1, keepdim=True)
        step = tau + over / slope.clamp(min=1)
        tau = torch.where((slope > 0) & (step >= lo) & (step <= hi), step, (lo + hi) / 2)
    return (z - tau).clamp(0, 1)


def by_topk(z, k):
    """Exact wherever the support has at most 4k scores."""
    values, places = torch.topk(z, min(4 * k, z.shape[-1]), dim=-1)
    return torch.zeros_like(z).scatter(-1, places, by_sorting(values, k))


def product(options, case):
    """Milliseconds of a case of bench_sparsek, and the machine's bandwidth beside it."""
    command = [options.program, f"--benchmark_filter=^{case}/process_time", "--benchmark_format=json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True,
                          env={**os.environ, "MANYHOP_THREADS": str(options.threads)})
    result = json.loads(done.stdout)["benchmarks"][0]
    if "error_message" in result:
        raise SystemExit(f"{case}: {result['error_message']}")
    return result["real_time"]


def timed(work):
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def report(title, times, ours, theirs):
    print(f"\n{title}")
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        low, high = min(times[name]), max(times[name])
        print(f"  {name:34s} {value:10.1f} ms   ({low:.1f} .. {high:.1f})")
    best = min(theirs, key=medians.get)
    print(f"  ratio to {best}: {medians[best] / medians[ours]:.1f}x")
    return medians


def rows(options):
    torch.manual_seed(0)
    z = torch.randn(4096, 4096)
    ways = {"torch sort + cumsum": by_sorting, "torch bisection": by_bisection, "torch bracketed Newton": by_newton,
            "torch topk(4k), then exact": by_topk}
    exact = by_bisection(z[:64].double(), 64, 60)
    for name, way in ways.items():
        wrong = (way(z[:64], 64).double() - exact).abs().max().item()
        assert wrong < 1e-4, (name, wrong)
    times = {name: [] for name in [*ways, "manyhop sparsek", "copy of z (read + write)"]}
    for _ in range(options.rounds):
        for name, way in ways.items():
            times[name].append(timed(lambda: way(z, 64)))
        times["manyhop sparsek"].append(product(options, "sparsek/4k/64"))
        times["copy of z (read + write)"].append(product(options, "copy/4k/64"))
    medians = report("4096 rows of 4096 floats N(0, 1), k = 64", times, "manyhop sparsek", list(ways))
    print(f"  times the copy: {medians['manyhop sparsek'] / medians['copy of z (read + write)']:.1f}")


def attention(options):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 12, 16384, 64) for _ in range(3))
    full = {"torch SDPA, every pair, fp32": False, "torch SDPA, causal (half the pairs), fp32": True}
    times = {name: [] for name in [*full, "manyhop sparsek attention"]}
    scale = 1 / math.sqrt(64)
    for _ in range(options.rounds):
        for name, causal in full.items():
            times[name].append(timed(lambda: torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=causal, scale=scale)))
        times["manyhop sparsek attention"].append(product(options, "attention/16k/256"))
    medians = report("16384 tokens, 12 heads of 64, window 256, k = 256, c = 512", times, "manyhop sparsek attention", list(full))
    every = next(iter(full))
    print(f"  ratio to {every}: {medians[every] / medians['manyhop sparsek attention']:.1f}x")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--program", default="build/bench/bench/bench_sparsek")
    parser.add_argument("--only", choices=["rows", "attention"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        if options.only != "attention":
            rows(options)
        if options.only != "rows":
            attention(options)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Manyhop's threads (oneTBB) beside torch's (OpenMP) in one process: what alternating costs over each alone.

    python bench/together.py --rounds 7

One operator of each, both well above 20 ms: attention with hops, and a matrix product. A round times each alone (a run of the
same several times), then the two in turn; the ratio is the time in turn over the sum of the two alone. Thread settings are
the defaults.
"""
import argparse
import statistics
import time

import torch

import manyhop as mh

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-n", type=int, default=2048)
parser.add_argument("--size", type=int, default=1536, help="of the matrix product")
parser.add_argument("--repeat", type=int, default=10)
parser.add_argument("--rounds", type=int, default=7)


def main():
    options = parser.parse_args()
    graph = mh.graph("diffuser(64,64,64)", options.n)
    q, k, v = (torch.randn(1, 12, options.n, 64) for _ in range(3))
    a, b = (torch.randn(options.size, options.size) for _ in range(2))
    ours = lambda: mh.attention(q, k, v, graph, hops=5, teleport=0.1)  # noqa: E731
    theirs = lambda: a @ b  # noqa: E731

    def seconds(*work):
        start = time.perf_counter()
        for _ in range(options.repeat):
            for f in work:
                f()
        return (time.perf_counter() - start) / options.repeat

    seconds(ours, theirs)
    rows = [(seconds(ours), seconds(theirs), seconds(ours, theirs)) for _ in range(options.rounds)]
    ratios = [both / (x + y) for x, y, both in rows]
    print(f"attention {statistics.median(r[0] for r in rows) * 1e3:.1f} ms, product {statistics.median(r[1] for r in rows) * 1e3:.1f} ms, "
          f"in turn {statistics.median(r[2] for r in rows) * 1e3:.1f} ms: ratio {statistics.median(ratios):.3f} "
          f"({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()

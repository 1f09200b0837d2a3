"""Decoding from token 1,000 to 100,000 with SparseKCache: do memory and time grow, is every output that of the whole sequence?

    python bench/decode.py [--tokens 100000] [--heads 12] [--kv-heads 4] [--keys 64] [--window 128]

Wants numpy and manyhop. Each block of 1,000 tokens is taken one token a step, in turn with a second cache that always goes from
token 1,000 to 2,000: the machine's speed moves by half within a run, and moves both. Printed are the regressions over the tokens
before a block of its time (median CPU time a token over that of the second cache, times the second's mean) and of the bytes held,
the largest relative error of the outputs against sparsek_attention() over all tokens (capped form), and whether the last gates
are equal. Exits with 1 when memory grows, the slope of time is beyond four standard errors and 5 % of the mean, or an output differs.
"""
import argparse
import sys
import time

import numpy as np

import manyhop as mh

BLOCK = 1000


def regress(x, y):
    """slope, its standard error."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    away = x - x.mean()
    slope = (away @ y) / (away @ away)
    left = y - y.mean() - slope * away
    return slope, np.sqrt(left @ left / (len(x) - 2) / (away @ away))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("tokens", 100000), ("heads", 12), ("kv-heads", 4), ("dim", 64), ("keys", 64), ("cap", 128), ("window", 128),
                        ("sinks", 4), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    o = parser.parse_args()
    n = o.tokens
    if n % BLOCK or n < 4 * BLOCK:
        parser.error(f"--tokens {n}: a multiple of {BLOCK} from {4 * BLOCK} is wanted")
    rng = np.random.default_rng(o.seed)
    q, k, v = (rng.standard_normal((h, n, o.dim), dtype=np.float32) for h in (o.heads, o.kv_heads, o.kv_heads))
    u = rng.standard_normal((o.kv_heads, n), dtype=np.float32)
    given = dict(keys=o.keys, cap=o.cap, window=o.window, sinks=o.sinks)
    whole = mh.sparsek_attention(q[None], k[None], v[None], u[None], **given)[0]
    cache = mh.SparseKCache(o.heads, kv_heads=o.kv_heads, head_dim=o.dim, **given)

    def step(taken_by, tokens):
        started = time.thread_time_ns()
        out = taken_by.step(q[:, tokens], k[:, tokens], v[:, tokens], u[:, tokens])
        return out, (time.thread_time_ns() - started) / 1e3

    at, ratios, early, held = [], [], [], []
    worst = 0.0
    for first in range(0, n, BLOCK):
        young = mh.SparseKCache(o.heads, kv_heads=o.kv_heads, head_dim=o.dim, **given)
        step(young, slice(0, BLOCK))
        took, beside = [], []
        for i in range(BLOCK):
            out, spent = step(cache, slice(first + i, first + i + 1))
            took.append(spent)
            _, spent = step(young, slice(BLOCK + i, BLOCK + i + 1))
            beside.append(spent)
            want = whole[:, first + i]
            worst = max(worst, float(np.linalg.norm(out[:, 0] - want) / np.linalg.norm(want)))
        if first >= BLOCK:
            at.append(first)
            ratios.append(np.median(np.divide(took, beside)))
            early.append(np.median(beside))
            held.append(cache.bytes)

    last = [mh.causal_sparsek(row, o.keys, cap=o.cap) for row in u]
    same = True
    for head, selection in enumerate(last):
        positions, gates = cache.kept(head)
        until = selection.until
        want = np.flatnonzero(until > n - 1)
        same &= positions.tolist() == want.tolist()
        same &= bool((gates == np.clip(selection.score[want] - selection.tau[-1], 0, 1)).all())
    seconds = np.array(ratios) * np.mean(early)
    slope, error = regress(at, seconds)
    growth, _ = regress(at, held)
    span, mean = at[-1] - at[0], float(np.mean(seconds))
    print(f"tokens {at[0]} to {n}, {o.heads} heads of {o.dim}, {o.kv_heads} key heads, window {o.window}, sinks {o.sinks}, "
          f"k {o.keys}, cap {o.cap}")
    print(f"time a token: {mean:.1f} us (the second cache {min(early):.1f} to {max(early):.1f}); slope {slope * 1e5:+.3f} us in "
          f"100,000 tokens, standard error {error * 1e5:.3f} ({slope * span / mean:+.2%} over the run)")
    print(f"memory: {held[0]} bytes; slope {growth:g} bytes a token")
    print(f"outputs: largest relative error of a token {worst:.1e}; last gates {'equal' if same else 'DIFFER'}")
    bad = growth != 0 or not same or worst > 1e-5 or (abs(slope) > 4 * error and abs(slope * span) > 0.05 * mean)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""One graph given three ways costs the same: as pattern text, as a file, and with its tokens shuffled and --reorder auto.

    python3 bench/same_graph.py --program build/default/manyhop
    python3 bench/same_graph.py --cases '1024:diffuser(64,64,64)' '4096:window(64)' --rounds 9 --dtype bf16

Rounds are interleaved; every round has new q, k, v. A line prints medians and the ratio of the median to that of the text.
A shuffled graph is the same graph with its vertices renumbered by a random permutation. Wants NumPy and SciPy.
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from scaling import write_qkv

BLOCKS = "overlap(64,32)|lift(regular(1,seed=1),64)|global(64)"
CASES = [f"{n}:{text}" for text, sizes in (("diffuser(64,64,64)", (1024, 4096, 16384)), (BLOCKS, (4096, 16384)),
                                           ("overlap(64,32)", (4096, 16384))) for n in sizes]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--program", default="build/default/manyhop")
parser.add_argument("--cases", nargs="+", default=CASES, metavar="N:PATTERN")
parser.add_argument("--heads", type=int, default=12)
parser.add_argument("--dim", type=int, default=64)
parser.add_argument("--hops", type=int, default=5)
parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=7)
parser.add_argument("--repeat", type=int, default=5, help="timed runs of a process, whose median counts (default 5)")


def attend(options, qkv, graph, *more):
    command = [options.program, "attend", "--qkv", qkv, "--pattern", graph, "--hops", str(options.hops), "--teleport", "0.1",
               "--threads", str(options.threads), "--repeat", str(options.repeat), "--json", *more]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return json.loads(done.stdout)["seconds"]


def main():
    options = parser.parse_args()
    print(f"{'tokens':>7s} {'given as':10s} {'ms':>9s} {'least':>9s} {'most':>9s} {'ratio':>6s}  pattern")
    for case in options.cases:
        n, text = int(case.split(":")[0]), case.split(":", 1)[1]
        with tempfile.TemporaryDirectory() as folder:
            plain, mixed = (str(Path(folder, name)) for name in ("plain.npz", "mixed.npz"))
            subprocess.run([options.program, "gen", text, "-n", str(n), "-o", plain], check=True, capture_output=True)
            order = np.random.default_rng(n).permutation(n)
            graph = sp.load_npz(plain).tocsr()
            shuffled = graph[order][:, order].tocsr()
            shuffled.sort_indices()
            sp.save_npz(mixed, shuffled)
            ways = {"text": (text,), "file": (plain,), "shuffled": (mixed, "--reorder", "auto")}
            seconds = {way: [] for way in ways}
            for _ in range(options.rounds):
                with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
                    write_qkv(file, n, options)
                    for way, given in ways.items():
                        seconds[way].append(attend(options, file.name, *given))
            base = statistics.median(seconds["text"])
            for way, values in seconds.items():
                middle = statistics.median(values)
                print(f"{n:7d} {way:10s} {middle * 1e3:9.2f} {min(values) * 1e3:9.2f} {max(values) * 1e3:9.2f} {middle / base:6.3f}  {text}",
                      flush=True)


if __name__ == "__main__":
    main()

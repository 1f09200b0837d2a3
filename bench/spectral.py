#!/usr/bin/env python3
"""Second and last eigenvalue of patterns, by manyhop and by SciPy (eigsh, 'BE', k = 4), interleaved in one run.

    python3 bench/spectral.py --program build/default/manyhop
    python3 bench/spectral.py --cases 'window(64)@16384' --rounds 3 --json rows.json

A case is PATTERN@N; `PATTERN@N!` is not given to SciPy. Both get the finished graph: manyhop's figure is `seconds` of its report
(symmetrising, degrees, factoring, solving), SciPy's is eigsh alone on the normalised matrix, already made. Both stop at --tol. The
values of both must agree to 1e-7 or the run ends with 1. Wants NumPy and SciPy.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--program", default="build/default/manyhop")
parser.add_argument("--cases", nargs="*", default=["diffuser(64,64,64)@16384", "regular(64)@16384", "window(64)@16384"])
parser.add_argument("--rounds", type=int, default=3, help="interleaved pairs, medians count (default 3)")
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--tol", type=float, default=1e-8)
parser.add_argument("--json", help="write the rows there")
options = parser.parse_args()
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = str(options.threads)

import numpy as np  # noqa: E402
import scipy.sparse as sparse  # noqa: E402
from scipy.sparse.linalg import eigsh  # noqa: E402


def normalised(text, n):
    """The matrix as SciPy's user would have it."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "graph.npz")
        subprocess.run([options.program, "gen", text, "-n", str(n), "-o", path], check=True, stdout=subprocess.DEVNULL)
        graph = sparse.load_npz(path).tocsr()
    graph.data = np.ones(graph.nnz)
    graph = graph.maximum(graph.T)
    root = np.sqrt(np.asarray(graph.sum(axis=1)).ravel())
    scale = sparse.diags(np.where(root > 0, 1 / np.maximum(root, 1e-300), 0))
    return (scale @ graph @ scale).tocsr()


def manyhop(text, n):
    command = [options.program, "spectral", text, "-n", str(n), "--json", "--threads", str(options.threads), "--tol", str(options.tol)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    told = json.load(process.stdout)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)}: status {status}")
    told["resident_bytes"] = usage.ru_maxrss * 1024
    return told


rows = []
for case in options.cases:
    text, _, size = case.rpartition("@")
    alone = size.endswith("!")
    n = int(size.rstrip("!"))
    matrix = None if alone else normalised(text, n)
    mine, theirs = [], []
    for _ in range(options.rounds):
        told = manyhop(text, n)
        mine.append(told["seconds"])
        if alone:
            continue
        begin = time.perf_counter()
        values = eigsh(matrix, k=4, which="BE", tol=options.tol)[0]
        theirs.append(time.perf_counter() - begin)
        error = max(abs(values[-2] - told["lambda2"]), abs(values[0] - told["lambda_n"]))
        if error > 1e-7:
            sys.exit(f"{case}: values differ by {error}: {values} against {told['lambda2']}, {told['lambda_n']}")
    row = {"case": case, "manyhop": statistics.median(mine), "scipy": statistics.median(theirs) if theirs else None,
           "method": told["method"], "residual": told["residual"], "steps": told["iterations"],
           "resident_bytes": told["resident_bytes"]}
    row["ratio"] = row["scipy"] / row["manyhop"] if theirs else None
    rows.append(row)
    peer = f"SciPy {row['scipy']:8.3f} s {row['ratio']:7.1f}x" if theirs else ""
    print(f"{case:32} manyhop {row['manyhop']:8.3f} s {peer}  {row['method']}, {row['steps']} steps, residual {row['residual']:.1e}, "
          f"{row['resident_bytes'] / 2**30:.2f} GiB", flush=True)
if options.json:
    with open(options.json, "w") as file:
        json.dump(rows, file, indent=1)

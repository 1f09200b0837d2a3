#!/usr/bin/env python3
"""What `manyhop spectral` says, against LAPACK, closed forms and published numbers.

    python3 bench/spectral_check.py --program build/default/manyhop
    python3 bench/spectral_check.py --data FOLDER --json rows.json

Eigenvalues are compared to 1e-8 with dense solvers (NumPy), residuals are recomputed from --vectors, closed forms and lifts are solved
again from a file with permuted vertices. --data names a folder with graphs/, mtx/ and spectral/expander_refs.json; without it only
patterns are checked. Ends with 1 when a row fails. Wants NumPy and SciPy.
"""
import argparse
import glob
import json
import math
import os
import subprocess
import sys
import tempfile

import numpy as np
import scipy.linalg
import scipy.sparse as sparse

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--program", default="build/default/manyhop")
parser.add_argument("--data", help="folder with graphs/, mtx/, spectral/")
parser.add_argument("--most", type=int, default=4096, help="vertices of a dense reference (default 4096)")
parser.add_argument("--json", help="write the rows there")
options = parser.parse_args()
folder = tempfile.mkdtemp(prefix="spectral_check_")
rows = []


def row(name, what, error, limit, note=""):
    good = bool(error <= limit)
    rows.append({"name": name, "what": what, "error": float(error), "limit": limit, "good": good, "note": note})
    print(f"{'ok  ' if good else 'FAIL'} {name:42} {what:34} {error:9.2e} (<= {limit:.0e}) {note}", flush=True)


def run(*arguments, code=0):
    done = subprocess.run([options.program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != code:
        sys.exit(f"{' '.join(map(str, arguments))}: status {done.returncode}, {done.stderr.strip()}")
    return done.stdout


def spectral(graph, *more, code=0):
    return json.loads(run("spectral", graph, *more, "--json", code=code))


def matrix(graph, *more, weighted=False):
    """The graph as SciPy reads it from the program's own .npz."""
    path = os.path.join(folder, "graph.npz")
    if more and more[0] == "-n":
        run("gen", graph, *more, "-o", path)
    else:
        run("convert", graph, path, *more)
    a = sparse.load_npz(path).tocsr().astype(float)
    if not weighted:
        a.data[:] = 1
    return a


def operators(a, weighted=False):
    s = (a + a.T) / 2 if weighted else a.maximum(a.T)
    d = np.asarray(s.sum(1)).ravel()
    r = np.where(d > 0, 1 / np.sqrt(np.where(d > 0, d, 1)), 0)
    return s, (sparse.diags(r) @ s @ sparse.diags(r)).tocsr(), d


SYMMETRIC = ("normalized", "laplacian", "adjacency")  # operators that have vectors


def against_dense(name, graph, *more, weighted=False, names=SYMMETRIC):
    a = matrix(graph, *more, weighted=weighted)
    n = a.shape[0]
    if n > options.most or n < 2:
        return
    flags = [*more, *(["--weighted"] if weighted else [])]
    s, normal, degree = operators(a, weighted)
    path = os.path.join(folder, "vectors.npy")
    for name_of in names:
        said = spectral(graph, *flags, "--operator", name_of, *(["--vectors", path] if name_of in SYMMETRIC else []))
        if name_of == "transition":
            sums = np.asarray(a.sum(1)).ravel()
            walk = sparse.diags(np.where(sums > 0, 1 / np.where(sums > 0, sums, 1), 0)) @ a
            want = np.sort(np.abs(np.linalg.eigvals(walk.toarray())))[-2]
            got = math.hypot(said["lambda2"]["re"], said["lambda2"]["im"])
            row(name, f"{name_of} n={n}", abs(want - got), 1e-8, said["method"])
            continue
        if name_of == "singular":
            sums = [np.asarray(a.sum(k)).ravel() for k in (1, 0)]
            left, right = [np.where(x > 0, 1 / np.sqrt(np.where(x > 0, x, 1)), 0) for x in sums]
            want = np.linalg.svd((sparse.diags(left) @ a @ sparse.diags(right)).toarray(), compute_uv=False)[1]
            row(name, f"{name_of} n={n}", abs(want - said["lambda2"]), 1e-8, said["method"])
            continue
        h = normal if name_of == "normalized" else s if name_of == "adjacency" else None
        if h is None:
            h = sparse.diags(np.where(degree > 0, 1.0, 0.0)) - normal
        values = scipy.linalg.eigvalsh(h.toarray())
        second, last = (values[1], values[-1]) if name_of == "laplacian" else (values[-2], values[0])
        size = max(1.0, abs(values).max())
        row(name, f"{name_of} n={n}", max(abs(second - said["lambda2"]), abs(last - said["lambda_n"])) / size, 1e-8, said["method"])
        vectors = np.load(path)
        worst = 0
        for k, value in enumerate((said["lambda2"], said["lambda_n"])):
            x = vectors[:, k]
            worst = max(worst, abs(np.linalg.norm(x) - 1), np.linalg.norm(h @ x - value * x))
        row(name, f"{name_of} residual", worst / size, 1e-8, f"said {said['residual']:.1e}")


def exact(name, graph, *more, second, last, operator="adjacency"):
    said = spectral(graph, *more, "--operator", operator)
    row(name, f"{operator} closed form", max(abs(said["lambda2"] - second), abs(said["lambda_n"] - last)), 1e-8, said["method"])
    return said


def permuted(name, graph, n):
    """The same graph from a file with its vertices in another order."""
    a = matrix(graph, "-n", n)
    order = np.random.default_rng(5).permutation(n)
    path = os.path.join(folder, "permuted.npz")
    sparse.save_npz(path, a[order][:, order].tocsr())
    text, file = spectral(graph, "-n", n), spectral(path)
    row(name, "permuted file", max(abs(text["lambda2"] - file["lambda2"]), abs(text["lambda_n"] - file["lambda_n"])), 1e-8,
        f"{text['method']} / {file['method']}")


def edges_file(edges, n=None):
    path = os.path.join(folder, "edges.el")
    with open(path, "w") as file:
        file.writelines(f"{u} {v}\n" for u, v in edges)
    return [path, "--undirected", *(["-n", str(n)] if n else [])]


# Closed forms.
exact("cycle of 1000", "window(1, ring=true) - self", "-n", 1000, second=2 * math.cos(2 * math.pi / 1000), last=-2)
exact("cycle of 999", "window(1, ring=true) - self", "-n", 999, second=2 * math.cos(2 * math.pi / 999), last=2 * math.cos(math.pi * 998 / 999))
exact("path of 3000", "window(1) - self", "-n", 3000, second=2 * math.cos(2 * math.pi / 3001), last=2 * math.cos(math.pi * 3000 / 3001))
exact("complete 700", "full - self", "-n", 700, second=-1, last=-1)
exact("star of 900", "global(1) - self", "-n", 900, second=0, last=-math.sqrt(899))
exact("hypercube 10", "hypercube", "-n", 1024, second=8, last=-10)
for q in (13, 101, 1009):
    exact(f"Paley {q}", "paley", "-n", q, second=(math.sqrt(q) - 1) / 2, last=-(math.sqrt(q) + 1) / 2)
outer = [(i, (i + 1) % 5) for i in range(5)]
petersen = outer + [(i, i + 5) for i in range(5)] + [(5 + i, 5 + (i + 2) % 5) for i in range(5)]
exact("Petersen", *edges_file(petersen), second=1, last=-2)
exact("rook's 20 x 50 (axial)", "axial(20, 50) - self", "-n", 1000, second=48, last=-2)
exact("grid 30 x 40", "grid(30, 40, 1)", "-n", 1200, operator="normalized",
      **dict(zip(("second", "last"), (lambda v: (v[-2], v[0]))(scipy.linalg.eigvalsh(operators(matrix("grid(30, 40, 1)", "-n", 1200))[1].toarray())))))
row_of = np.zeros(2000)
row_of[[*range(0, 33), *range(2000 - 32, 2000)]] = 1
circulant = np.fft.fft(row_of).real / 65
exact("ring window by FFT", "window(32, ring=true)", "-n", 2000, operator="normalized", second=np.sort(circulant)[-2], last=circulant.min())
base = spectral("regular(6, seed=3)", "-n", 256)
lifted = spectral("lift(regular(6, seed=3), 16)", "-n", 4096)
row("lift of regular(6)", "base's spectrum and zeros", max(abs(base["lambda2"] - lifted["lambda2"]), abs(base["lambda_n"] - lifted["lambda_n"])), 1e-8,
    lifted["method"])

# The same from files with permuted vertices.
for graph, n in (("window(32, ring=true)", 2000), ("paley", 1009), ("hypercube", 1024), ("full - self", 500), ("lift(regular(6), 16)", 4096),
                 ("global(1) - self", 900), ("axial(20, 50)", 1000), ("window(8)", 3000)):
    permuted(graph, graph, n)

# Against LAPACK: patterns and real graphs.
for graph, n in (("diffuser(64, 64, 64)", 1024), ("bigbird(16, 3, 1)", 1024), ("longformer(16, 4)", 2000), ("exphormer(6, 4, 1)", 1500), ("window(16)", 4096),
                 ("strided(31)", 1200), ("logsparse", 1500), ("axial(30, 40)", 1200), ("grid(30, 40, 2)", 1200), ("regular(8)", 4096),
                 ("smallworld(6, 0.1, 2)", 2000), ("random(5) | self", 1500), ("overlap(32, 16)", 1500),
                 # A hub over a path or ring: eigenvalues crowd far below 1. Copies: the largest eigenvalue many times.
                 ("longformer(1, 1)", 500), ("longformer(2, 1)", 600), ("exphormer(2, 1)", 512), ("overlap(4, 2)|global(1)", 1000),
                 ("smallworld(4, 0.01, 1)|global(1)", 1000), ("window(1, ring=true)|global(1)", 500), ("block(20)-self", 2000),
                 ("lift(block(20)-self, 2)", 2000)):
    against_dense(graph, graph, "-n", n)
for graph, n in (("chordal", 1009), ("margulis", 1024)):  # multigraphs: multiplicities count
    against_dense(graph, graph, "-n", n, weighted=True)
for graph, n in (("random(4)", 800), ("random(3) | self", 1200), ("causal & window(9)", 700), ("diffuser(16, 8, 4)", 600)):
    against_dense(graph, graph, "-n", n, names=("transition", "singular"))
said = spectral("debruijn(2)", "-n", 1024, "--operator", "transition")  # dense solvers find 1e-16 to the power of 1/10
row("debruijn(2)", "0 beside 1", math.hypot(said["lambda2"]["re"], said["lambda2"]["im"]), 1e-12, said["method"])
if options.data:
    for path in sorted(glob.glob(os.path.join(options.data, "graphs", "*.graph")) + glob.glob(os.path.join(options.data, "mtx", "*.mtx"))
                       + glob.glob(os.path.join(options.data, "graphs", "*.mtx"))):
        against_dense(os.path.basename(path), path)
    for name in ("USAir97.mtx", "lesmis.graph"):
        for path in glob.glob(os.path.join(options.data, "*", name)):
            against_dense(name + " weighted", path, weighted=True)
    for name in ("west0067.mtx", "chesapeake.mtx"):
        for path in glob.glob(os.path.join(options.data, "*", name)):
            against_dense(name, path, names=("transition", "singular"))
    for path in sorted(glob.glob(os.path.join(options.data, "graphs", "roads", "*.edges"))):
        copy = os.path.join(folder, "road.el")
        with open(path) as source, open(copy, "w") as target:
            target.writelines(" ".join(line.split()[:2]) + "\n" for line in source if line.strip() and line[0] not in "#%")
        against_dense(os.path.basename(path), copy, "--undirected")
    for name in ("ego-facebook.txt", "wiki-Vote.txt"):
        against_dense(name, os.path.join(options.data, "graphs", name), "--undirected", "--compact", names=("normalized",))

# Expanders.
if options.data:
    with open(os.path.join(options.data, "spectral", "expander_refs.json")) as file:
        refs = json.load(file)["graphs"]
    for name, ref in refs.items():
        if "Margulis" in name:
            said = spectral("margulis", "-n", ref["n"], "--operator", "adjacency")
            row(name, "against the reference", max(abs(said["lambda2"] - ref["lambda2"]), abs(said["lambda_n"] - ref["lambda_min"])), 1e-8, said["method"])
            row(name, "below 5 sqrt 2", said["lambda2"] - 5 * math.sqrt(2), 0)
        elif "LPS" in name:
            said = spectral("lps(13, 5)")
            row(name, "lambda", abs(14 * said["lambda2"] - ref["lambda2"]), 1e-8, said["method"])
            row(name, "verdict yes, bipartite", 0 if said["ramanujan"]["verdict"] is True and said["ramanujan"]["bipartite"] == ref["bipartite"] else 1, 0)
for p, q in ((5, 13), (13, 17), (17, 13), (5, 29)):
    said = spectral(f"lps({p}, {q})")
    row(f"lps({p}, {q})", "Ramanujan verdict", 0 if said["ramanujan"]["verdict"] is True else 1, 0,
        f"|lambda| {said['ramanujan']['lambda']:.6g} of {said['ramanujan']['bound']:.6g}")
for d in (3, 4, 8, 16, 32, 64):
    said = spectral(f"regular({d}, seed=1)", "-n", 4000)
    limit = 2 * math.sqrt(d - 1)
    row(f"regular({d}) of 4000", "within 3 % of 2 sqrt(d-1)", abs(max(said["lambda2"], -said["lambda_n"]) * d / limit - 1), 0.03)

# Awkward graphs.
two = spectral("block(50)", "-n", 100)
row("two blocks of 50", "lambda2 1, gap 0, 2 components", abs(two["lambda2"] - 1) + abs(two["gap"]) + abs(two["components"] - 2), 1e-12, two["method"])
said = spectral("window(1) - self", "-n", 5000)
row("path: bipartite", "lambda_n -1", abs(said["lambda_n"] + 1), 1e-12, said["method"])
said = spectral("full", "-n", 1)
row("one vertex", "lambda2 undefined", 0 if said["lambda2"] is None else 1, 0, said["method"])
said = spectral("self - self", "-n", 300)
row("no edges", "gap 0, all isolated", abs(said["gap"]) + abs(said["isolated"] - 300), 0, said["method"])
said = spectral("full", "-n", 0)
row("no vertices", "gap undefined", 0 if said["gap"] is None else 1, 0, said["method"])
many = edges_file([(c * 300 + i, c * 300 + (i + 1) % 300) for c in range(4) for i in range(300)])
said = spectral(*many)
row("four cycles of 300", "lambda2 1, lambda_n -1, 4 parts", abs(said["lambda2"] - 1) + abs(said["lambda_n"] + 1) + abs(said["components"] - 4), 1e-12, said["method"])
n = 400
bridged = [(c * n + i, c * n + (i + 1) % n) for c in range(3) for i in range(n)] + [(c * n, 3 * n) for c in range(3)]
against_dense("three rings on one vertex: equal seconds", *edges_file(bridged), names=("normalized",))
said = spectral("regular(8)", "-n", 2000, "--tol", 1e-300, code=3)
row("tolerance out of reach", "exit 3, value and bound", abs(said["lambda2"] - spectral("regular(8)", "-n", 2000)["lambda2"]) if not said["converged"] else 1, 1e-8,
    f"residual {said['residual']:.1e}")

bad = [r for r in rows if not r["good"]]
print(f"{len(rows)} checks, {len(bad)} failed")
if options.json:
    with open(options.json, "w") as file:
        json.dump(rows, file, indent=1)
sys.exit(1 if bad else 0)

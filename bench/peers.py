#!/usr/bin/env python3
"""The same attention on the same q, k, v and edges by Manyhop and by whatever else is importable here.

    python3 bench/peers.py --program build/default/manyhop --cases n=4096
    python3 bench/peers.py --cases n=1024,n=4096 --threads 2 --rounds 7 --only manyhop,torch-csr

Installs nothing; wants NumPy and SciPy, and uses torch (sparse CSR; dense attention), DGL and PyTorch Geometric where
they import. Every result is first compared with float64 SciPy; what differs is reported and not timed. Rounds are
interleaved (one run of each in turn) and a line gives the median. Manyhop's time is what `attend --json` prints for a run
after its warm-up: from q, k, v as given to `out` in their layout, like the peers'. `full` rows are one hop of dense
attention, which is other work: they tell what the sparse pattern saves.
"""
import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--program", default="build/default/manyhop")
parser.add_argument("--cases", default="n=4096", help="n=TOKENS, comma separated")
parser.add_argument("--pattern", default="diffuser(64, 64, 64)")
parser.add_argument("--heads", type=int, default=12)
parser.add_argument("--dim", type=int, default=64)
parser.add_argument("--hops", type=int, default=5)
parser.add_argument("--teleport", type=float, default=0.1)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--rounds", type=int, default=7)
parser.add_argument("--only", default="", help="names, comma separated")
parser.add_argument("--json", action="store_true")
options = parser.parse_args()

# Thread counts have to stand before the libraries load.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MANYHOP_THREADS"):
    os.environ[name] = str(options.threads)
os.environ.setdefault("DGLBACKEND", "pytorch")

import warnings  # noqa: E402

import numpy as np  # noqa: E402
import scipy.sparse as sp  # noqa: E402

RATE = options.teleport
warnings.filterwarnings("ignore", message="Sparse ")  # torch tells that its sparse tensors are in beta


def save_safetensors(path, tensors):
    header, at = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).tobytes())


def load_out(path):
    raw = Path(path).read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    entry = json.loads(raw[8:8 + size])["out"]
    begin, end = entry["data_offsets"]
    return np.frombuffer(raw[8 + size + begin:8 + size + end], np.float32).reshape(entry["shape"])


class Case:
    """q, k, v [n, h, d] in float32 and the edges as CSR (row receives)."""

    def __init__(self, n, folder):
        self.n, self.h, self.d = n, options.heads, options.dim
        rng = np.random.default_rng(n)
        self.q, self.k, self.v = (rng.standard_normal((n, self.h, self.d), dtype=np.float32) for _ in range(3))
        self.qkv = folder / "qkv.safetensors"
        save_safetensors(self.qkv, {"q": self.q, "k": self.k, "v": self.v})
        edges = folder / "edges.npz"
        subprocess.run([options.program, "gen", options.pattern, "-n", str(n), "-o", str(edges)], check=True,
                       capture_output=True)
        graph = sp.load_npz(edges)
        self.indptr, self.indices = graph.indptr.astype(np.int64), graph.indices.astype(np.int64)
        self.rows = np.repeat(np.arange(n), np.diff(self.indptr))
        self.m = len(self.indices)
        self.out = folder / "out.safetensors"

    def oracle(self, full=False):
        """float64; one head at a time."""
        out = np.empty((self.n, self.h, self.d))
        for head in range(self.h):
            q, k, v = (x[:, head].astype(np.float64) for x in (self.q, self.k, self.v))
            if full:
                s = q @ k.T / self.d ** 0.5
                s = np.exp(s - s.max(1, keepdims=True))
                out[:, head] = s @ v / s.sum(1, keepdims=True)
                continue
            score = np.einsum("ed,ed->e", q[self.rows], k[self.indices]) / self.d ** 0.5
            out[:, head] = hops_scipy(self, score, v)
        return out


def hops_scipy(case, score, v):
    score = np.exp(score - np.maximum.reduceat(score, case.indptr[:-1])[case.rows])
    score /= np.add.reduceat(score, case.indptr[:-1])[case.rows]
    a = sp.csr_matrix((score, case.indices, case.indptr), shape=(case.n, case.n))
    z = v
    for _ in range(options.hops):
        z = (1 - RATE) * (a @ z) + RATE * v
    return z


def manyhop(case, full=False):
    pattern, hops, rate = ("full", 1, 0) if full else (options.pattern, options.hops, RATE)
    command = [options.program, "attend", "--qkv", str(case.qkv), "--pattern", pattern, "--hops", str(hops), "--teleport",
               str(rate), "--threads", str(options.threads), "--json", "-o", str(case.out)]

    def run():
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(done.stdout)["seconds"]
    return run, lambda: load_out(case.out)


def scipy(case):
    result = np.empty((case.n, case.h, case.d), np.float32)

    def work():
        for head in range(case.h):
            q, k, v = (np.ascontiguousarray(x[:, head]) for x in (case.q, case.k, case.v))
            score = np.einsum("ed,ed->e", q[case.rows], k[case.indices]) * np.float32(case.d ** -0.5)
            result[:, head] = hops_scipy(case, score, v)
    return timed(work), lambda: result


def torch_csr(case):
    import torch

    torch.set_num_threads(options.threads)
    q, k, v = (torch.from_numpy(x) for x in (case.q, case.k, case.v))
    # 32-bit indices are what MKL takes as they are.
    crow, col = torch.from_numpy(case.indptr.astype(np.int32)), torch.from_numpy(case.indices.astype(np.int32))
    offsets = torch.from_numpy(case.indptr)
    degree = offsets.diff()
    pattern = torch.sparse_csr_tensor(crow, col, torch.zeros(case.m), (case.n, case.n))
    result = torch.empty(case.n, case.h, case.d)

    def work():
        with torch.no_grad():
            for head in range(case.h):
                value = v[:, head].contiguous()
                s = torch.sparse.sampled_addmm(pattern, q[:, head].contiguous(), k[:, head].t().contiguous(), beta=0,
                                               alpha=case.d ** -0.5).values()
                top = torch.segment_reduce(s, "max", offsets=offsets)
                s = torch.exp(s - top.repeat_interleave(degree))
                s = s / torch.segment_reduce(s, "sum", offsets=offsets).repeat_interleave(degree)
                a = torch.sparse_csr_tensor(crow, col, s, (case.n, case.n))
                z = value
                for _ in range(options.hops):
                    z = torch.add(RATE * value, a @ z, alpha=1 - RATE)
                result[:, head] = z
    return timed(work), lambda: result.numpy()


def torch_sdpa(case):
    import torch

    torch.set_num_threads(options.threads)
    q, k, v = (torch.from_numpy(x).transpose(0, 1)[None] for x in (case.q, case.k, case.v))
    held = []

    def work():
        with torch.no_grad():
            held[:] = [torch.nn.functional.scaled_dot_product_attention(q, k, v)]
    return timed(work), lambda: held[0][0].transpose(0, 1).numpy()


def dgl(case):
    import dgl as library
    import torch

    torch.set_num_threads(options.threads)
    graph = library.graph((torch.from_numpy(case.indices), torch.from_numpy(case.rows)), num_nodes=case.n)
    graph.create_formats_()
    q, k, v = (torch.from_numpy(x) for x in (case.q, case.k, case.v))
    held = []

    def work():
        with torch.no_grad():
            s = library.ops.u_dot_v(graph, k, q) * case.d ** -0.5
            a = library.ops.edge_softmax(graph, s)
            z = v
            for _ in range(options.hops):
                z = (1 - RATE) * library.ops.u_mul_e_sum(graph, z, a) + RATE * v
            held[:] = [z]
    return timed(work), lambda: held[0].numpy()


def pyg(case):
    import torch
    from torch_geometric.utils import scatter, softmax

    torch.set_num_threads(options.threads)
    need = 3 * case.m * case.h * case.d * 4
    if need > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // 2:
        raise MemoryError(f"would hold {need / 1e9:.0f} GB")
    row, col = torch.from_numpy(case.rows), torch.from_numpy(case.indices)
    q, k, v = (torch.from_numpy(x) for x in (case.q, case.k, case.v))
    held = []

    def work():
        with torch.no_grad():
            s = (q[row] * k[col]).sum(-1) * case.d ** -0.5
            a = softmax(s, row, num_nodes=case.n)[..., None]
            z = v
            for _ in range(options.hops):
                z = (1 - RATE) * scatter(a * z[col], row, 0, case.n, "sum") + RATE * v
            held[:] = [z]
    return timed(work), lambda: held[0].numpy()


def timed(work):
    def run():
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    return run


SPARSE = {"manyhop": manyhop, "torch-csr": torch_csr, "scipy": scipy, "dgl": dgl, "pyg": pyg}
FULL = {"manyhop full": lambda case: manyhop(case, full=True), "torch sdpa full": torch_sdpa}


def compare(case, makers, oracle):
    """name -> (seconds or None, note); whatever fails to import, to fit or to agree is not timed."""
    runs, rows = {}, {}
    for name, make in makers.items():
        try:
            run, result = make(case)
            run()
            error = np.linalg.norm(result() - oracle) / np.linalg.norm(oracle)
            if not error < 1e-5:
                rows[name] = (None, f"differs: relative error {error:.1e}")
                continue
            runs[name], rows[name] = run, (None, f"error {error:.1e}")
        except subprocess.CalledProcessError as problem:
            rows[name] = (None, (problem.stderr or str(problem)).strip().splitlines()[-1])
        except Exception as problem:  # an absent or broken peer is a line of the table, not an end
            rows[name] = (None, f"not run: {str(problem).strip().splitlines()[0] if str(problem) else type(problem).__name__}")
    times = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            times[name].append(run())
    for name, values in times.items():
        rows[name] = (statistics.median(values), rows[name][1])
    return rows


def main():
    only = [name.strip() for name in options.only.split(",") if name.strip()]
    chosen = lambda makers: {name: make for name, make in makers.items() if not only or name in only}
    report, agreed = [], True
    for text in options.cases.split(","):
        n = int(text.removeprefix("n="))
        with tempfile.TemporaryDirectory() as folder:
            case = Case(n, Path(folder))
            title = (f"n = {n}, {case.m} edges of {options.pattern}, {case.h} heads of {case.d}, {options.hops} hops, fp32, "
                     f"{options.threads} threads, median of {options.rounds}")
            if not options.json:
                print(title)
            for makers, full in ((chosen(SPARSE), False), (chosen(FULL), True)):
                if not makers:
                    continue
                rows = compare(case, makers, case.oracle(full))
                base = rows.get("manyhop full" if full else "manyhop", (None, ""))[0]
                for name, (seconds, note) in rows.items():
                    agreed &= "differs" not in note
                    ratio = seconds / base if seconds and base else None
                    report.append({"n": n, "name": name, "seconds": seconds, "to_manyhop": ratio, "note": note})
                    if not options.json:
                        print(f"  {name:16s} {f'{seconds * 1e3:10.1f} ms' if seconds else '            -'} "
                              f"{f'{ratio:7.2f}x' if ratio else '       -'}  {note}")
    if options.json:
        json.dump(report, sys.stdout, indent=1)
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The same attention on the same q, k, v and edges by Manyhop and by whatever else is importable here.

    python3 bench/peers.py --program build/default/manyhop --cases n=4096
    python3 bench/peers.py --cases n=1024,n=4096 --threads 2 --rounds 7 --only manyhop,torch-csr
    python3 bench/peers.py --cases n=16384 --dtype bf16 --pattern 'overlap(64,32)|lift(regular(1,seed=1),64)|global(64)'

Installs nothing; wants NumPy and SciPy, and uses torch (sparse CSR, dense attention, FlexAttention), MKL through
sparse_dot_mkl, DGL and PyTorch Geometric where they import. Every result is first compared with float64; what differs is
reported and not timed. Rounds are interleaved (one run of each in turn, after a probe of the machine), so a line's
median, least and most come from the same minutes as its neighbours'. A ratio is the line's time over that of `manyhop`.

Manyhop's time is what `attend --json` prints for a run after its warm-up, in a process of its own: from q, k, v as given
to `out` in their layout, like the peers'. Memory is what a run takes beyond q, k, v and the edges. `full` lines are one hop
of dense attention and `1 hop` lines are no diffusion: other work, shown because it is what people would run instead.
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
parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="bf16: Manyhop and dense attention")
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--rounds", type=int, default=7)
parser.add_argument("--only", default="", help="names, comma separated")
parser.add_argument("--json", action="store_true")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu",
                    help="cuda: bench/gpu.py, with its own patterns, peers and types, for these cases, heads, dim, hops and rounds")
options = parser.parse_args()
if options.device == "cuda":
    program = str(Path(__file__).with_name("gpu.py"))
    same = [f"--{name}={getattr(options, name)}" for name in ("cases", "heads", "dim", "hops", "rounds")]
    sys.exit(subprocess.run([sys.executable, program, *same]).returncode)

# Thread counts have to stand before the libraries load.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MANYHOP_THREADS"):
    os.environ[name] = str(options.threads)
os.environ.setdefault("DGLBACKEND", "pytorch")
for found in Path(sys.prefix, "lib").glob("libmkl_rt.so*"):  # where the wheel of MKL puts it
    os.environ.setdefault("MKL_RT", str(found))

import warnings  # noqa: E402

import numpy as np  # noqa: E402
import scipy.sparse as sp  # noqa: E402

RATE = options.teleport
HALF = options.dtype == "bf16"
warnings.filterwarnings("ignore", message="Sparse ")  # torch tells that its sparse tensors are in beta


def to_bf16(x):
    """float32 -> the upper 16 bits, to nearest even."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def save_safetensors(path, tensors):
    header, at = {}, 0
    for name, tensor in tensors.items():
        kind = {"uint16": "BF16", "float32": "F32"}[tensor.dtype.name]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
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
    data = raw[8 + size + begin:8 + size + end]
    flat = from_bf16(np.frombuffer(data, np.uint16)) if entry["dtype"] == "BF16" else np.frombuffer(data, np.float32)
    return flat.reshape(entry["shape"])


class Case:
    """q, k, v [n, h, d] in float32 and the edges as CSR (row receives)."""

    def __init__(self, n, folder):
        self.n, self.h, self.d = n, options.heads, options.dim
        rng = np.random.default_rng(n)
        self.q, self.k, self.v = (rng.standard_normal((n, self.h, self.d), dtype=np.float32) for _ in range(3))
        self.qkv = folder / "qkv.safetensors"
        given = {"q": self.q, "k": self.k, "v": self.v}
        if HALF:  # everybody, the oracle too, starts from the rounded values
            given = {name: to_bf16(x) for name, x in given.items()}
            self.q, self.k, self.v = (from_bf16(x) for x in given.values())
        save_safetensors(self.qkv, given)
        edges = folder / "edges.npz"
        subprocess.run([options.program, "gen", options.pattern, "-n", str(n), "-o", str(edges)], check=True,
                       capture_output=True)
        graph = sp.load_npz(edges)
        self.indptr, self.indices = graph.indptr.astype(np.int64), graph.indices.astype(np.int64)
        self.rows = np.repeat(np.arange(n), np.diff(self.indptr))
        self.m = len(self.indices)
        self.out = folder / "out.safetensors"

    def oracle(self, full=False, hops=None):
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
            out[:, head] = hops_scipy(self, score, v, hops)
        return out


def hops_scipy(case, score, v, hops=None, product=lambda a, z: a @ z):
    score = np.exp(score - np.maximum.reduceat(score, case.indptr[:-1])[case.rows])
    score /= np.add.reduceat(score, case.indptr[:-1])[case.rows]
    a = sp.csr_matrix((score, case.indices, case.indptr), shape=(case.n, case.n))
    z = v
    if hops == 1:  # without teleport: what attention alone gives
        return product(a, z)
    for _ in range(options.hops):
        z = (1 - RATE) * product(a, z) + RATE * v
    return z


def manyhop(case, full=False, one=False):
    pattern, hops, rate = ("full", 1, 0) if full else (options.pattern, options.hops, RATE)
    if one:
        hops, rate = 1, 0
    command = [options.program, "attend", "--qkv", str(case.qkv), "--pattern", pattern, "--hops", str(hops), "--teleport",
               str(rate), "--threads", str(options.threads), "--json", "-o", str(case.out)]
    memory = [0]

    def run():
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        told = json.loads(done.stdout)
        memory[0] = told["peak_bytes"] - sum(x.nbytes for x in (case.q, case.k, case.v)) // (2 if HALF else 1)
        return told["seconds"]
    run.memory = lambda: memory[0]
    return run, lambda: load_out(case.out)


def scipy(case):
    result = np.empty((case.n, case.h, case.d), np.float32)

    def work():
        for head in range(case.h):
            q, k, v = (np.ascontiguousarray(x[:, head]) for x in (case.q, case.k, case.v))
            score = np.einsum("ed,ed->e", q[case.rows], k[case.indices]) * np.float32(case.d ** -0.5)
            result[:, head] = hops_scipy(case, score, v)
    return timed(work), lambda: result


def mkl(case):
    """SciPy's scores and softmax; the hops by MKL."""
    from sparse_dot_mkl import dot_product_mkl

    result = np.empty((case.n, case.h, case.d), np.float32)

    def work():
        for head in range(case.h):
            q, k, v = (np.ascontiguousarray(x[:, head]) for x in (case.q, case.k, case.v))
            score = np.einsum("ed,ed->e", q[case.rows], k[case.indices]) * np.float32(case.d ** -0.5)
            result[:, head] = hops_scipy(case, score, v, product=dot_product_mkl)
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
    kind = torch.bfloat16 if HALF else torch.float32
    q, k, v = (torch.from_numpy(x).to(kind).transpose(0, 1)[None] for x in (case.q, case.k, case.v))
    held = []

    def work():
        with torch.no_grad():
            held[:] = [torch.nn.functional.scaled_dot_product_attention(q, k, v)]
    return timed(work), lambda: held[0][0].transpose(0, 1).float().numpy()


def torch_flex(case):
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch.set_num_threads(options.threads)
    edges = torch.zeros(case.n, case.n, dtype=torch.bool)
    edges[torch.from_numpy(case.rows), torch.from_numpy(case.indices)] = True
    mask = create_block_mask(lambda b, h, i, j: edges[i, j], None, None, case.n, case.n, device="cpu")
    compiled = torch.compile(flex_attention)
    q, k, v = (torch.from_numpy(x).transpose(0, 1)[None].contiguous() for x in (case.q, case.k, case.v))
    held = []

    def work():
        with torch.no_grad():
            held[:] = [compiled(q, k, v, block_mask=mask)]
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


def peak_kib():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def timed(work):
    def run():
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def memory():
        """What one more run takes at its peak, in bytes; 0 where the system does not tell."""
        try:
            Path("/proc/self/clear_refs").write_text("5")
            before = peak_kib()
            work()
            return (peak_kib() - before) * 1024
        except OSError:
            return 0
    run.memory = memory
    return run


def probe(state={}):
    """(fp32 GFLOP/s of a matrix product, GB/s of a copy) on this machine now."""
    if not state:
        state["a"] = np.ones((1024, 1024), np.float32)
        state["b"], state["c"] = np.ones(1 << 25, np.float32), np.zeros(1 << 25, np.float32)
        state["a"] @ state["a"]
    start = time.perf_counter()
    state["a"] @ state["a"]
    middle = time.perf_counter()
    np.copyto(state["c"], state["b"])
    end = time.perf_counter()
    return 2 * 1024 ** 3 / (middle - start) * 1e-9, 2 * state["b"].nbytes / (end - middle) * 1e-9


# name -> (makes the run, which oracle it is held against)
PEERS = {"manyhop": (manyhop, "hops")}
if not HALF:
    PEERS |= {"torch-csr": (torch_csr, "hops"), "mkl": (mkl, "hops"), "scipy": (scipy, "hops"), "dgl": (dgl, "hops"),
              "pyg": (pyg, "hops"), "flex 1 hop": (torch_flex, "one")}
PEERS |= {"manyhop 1 hop": (lambda case: manyhop(case, one=True), "one"),
          "manyhop full": (lambda case: manyhop(case, full=True), "full"), "torch sdpa full": (torch_sdpa, "full")}


def compare(case, makers):
    """name -> row of the table; whatever fails to import, to fit or to agree is not timed. And the probes."""
    runs, rows, oracles = {}, {}, {}
    makes = {"hops": case.oracle, "one": lambda: case.oracle(hops=1), "full": lambda: case.oracle(full=True)}
    for name, (make, kind) in makers.items():
        try:
            run, result = make(case)
            run()
            if kind not in oracles:
                oracles[kind] = makes[kind]()
            error = np.linalg.norm(result() - oracles[kind]) / np.linalg.norm(oracles[kind])
            if not error < (1e-2 if HALF else 1e-5):
                rows[name] = {"note": f"differs: relative error {error:.1e}"}
                continue
            runs[name], rows[name] = run, {"error": float(error), "memory": run.memory()}
        except subprocess.CalledProcessError as problem:
            rows[name] = {"note": (problem.stderr or str(problem)).strip().splitlines()[-1]}
        except Exception as problem:  # an absent or broken peer is a line of the table, not an end
            said = str(problem).strip().splitlines()
            rows[name] = {"note": f"not run: {said[0] if said else type(problem).__name__}"}
    times, probes = {name: [] for name in runs}, []
    for _ in range(options.rounds):
        for name, run in runs.items():
            probes.append(probe())
            times[name].append(run())
    for name, values in times.items():
        rows[name] |= {"seconds": statistics.median(values), "least": min(values), "most": max(values)}
    return rows, probes


def line(name, row):
    if "seconds" not in row:
        return f"  {name:16s} {'-':>10s}  {row['note']}"
    ratio = f"{row['to_manyhop']:8.2f}x" if row.get("to_manyhop") else "        -"
    return (f"  {name:16s} {row['seconds'] * 1e3:10.1f} {row['least'] * 1e3:10.1f} {row['most'] * 1e3:10.1f} {ratio} "
            f"{row['memory'] / 2 ** 20:9.0f}  {row['error']:.1e}")


def main():
    only = [name.strip() for name in options.only.split(",") if name.strip()]
    makers = {name: peer for name, peer in PEERS.items() if not only or name in only}
    report, agreed = [], True
    for text in options.cases.split(","):
        n = int(text.removeprefix("n="))
        with tempfile.TemporaryDirectory() as folder:
            case = Case(n, Path(folder))
            rows, probes = compare(case, makers)
        base = rows.get("manyhop", {}).get("seconds")
        for row in rows.values():
            agreed &= "differs" not in row.get("note", "")
            if base and "seconds" in row:
                row["to_manyhop"] = row["seconds"] / base
        flops, copies = ([p[i] for p in probes] or [0.0] for i in (0, 1))
        report.append({"n": n, "edges": case.m, "pattern": options.pattern, "dtype": options.dtype, "rows": rows,
                       "gflops": statistics.median(flops), "gbytes": statistics.median(copies)})
        if not options.json:
            print(f"n = {n}, {case.m} edges of {options.pattern}, {case.h} heads of {case.d}, {options.hops} hops, "
                  f"{options.dtype}, {options.threads} threads, {options.rounds} rounds")
            print(f"machine: matrix product {statistics.median(flops):.0f} ({min(flops):.0f} .. {max(flops):.0f}) GFLOP/s fp32, "
                  f"copy {statistics.median(copies):.0f} ({min(copies):.0f} .. {max(copies):.0f}) GB/s")
            print(f"  {'':16s} {'median ms':>10s} {'least':>10s} {'most':>10s} {'ratio':>9s} {'MiB':>9s}  error")
            for name, row in rows.items():
                print(line(name, row))
    if options.json:
        json.dump(report, sys.stdout, indent=1)
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())

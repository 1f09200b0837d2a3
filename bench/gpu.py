#!/usr/bin/env python3
"""Sparse multi-hop attention on a GPU beside torch's flash attention over all pairs, FlexAttention with the same blocks, and
unfused pipelines (cuSPARSE through torch, gathers, DGL and PyG where they import).

    PYTHONPATH=... python3 bench/gpu.py                    # every case
    PYTHONPATH=... python3 bench/gpu.py --cases n=16384 --rounds 9 --seconds 60 --json bench.json

`forward` and `train` (forward and backward) of K hops on single edges and on aligned blocks, and of one hop on blocks of 128
(`flex`), where FlexAttention has the same work; `flash` is dense attention of one hop, other work, shown because it is what
people would run instead, and compared with nothing. Every other result is compared with Manyhop's in float32, the largest
difference over the largest entry; what is off by more than 2e-2 is reported and not timed. Rounds are interleaved, times come
from CUDA events around one call after two that warm up, a method has had enough after 3 s, and a ratio is the peer's time over
Manyhop's. Memory is what a call takes at most beyond what is there before it, of torch's allocator and of the driver's pool,
which is Manyhop's.

A case or a peer that fails is told and the rest goes on; none begins after --seconds. The JSON is written after each case.
Ends with 1 where Manyhop failed. Without a GPU 'skipped: no GPU' and 0; where MANYHOP_EXPECT_GPU says that there is one, 1.
--device cpu tries the script (with --cases n=512, say); its times mean nothing.
"""
import argparse
import ctypes
import datetime
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import manyhop as mh

RATE = 0.1
PATTERNS = {"element": "diffuser(64,64,64)", "blocks": "overlap(64,32)|lift(regular(1,seed=1),64)|global(64)",
            "flex": "lift(regular(8,seed=1)|self,128)"}
# (pattern, tokens, direction, peer): what is wanted. Without tokens: at every size.
WANTED = {("element", 16384, "forward", "flash"): 0.8, ("element", 65536, "forward", "flash"): 3,
          ("element", 262144, "forward", "flash"): 10, ("blocks", 16384, "forward", "flash"): 3,
          ("blocks", 65536, "forward", "flash"): 12, ("blocks", 262144, "forward", "flash"): 50,
          ("flex", None, "forward", "flex"): 0.6, ("flex", None, "train", "flex"): 0.6,
          ("element", None, "forward", "cusparse"): 5, ("element", None, "forward", "cusparse f32"): 5,
          ("element", None, "forward", "gathers"): 5, ("element", None, "forward", "pyg"): 5}
UNFUSED = ("cusparse", "cusparse f32", "gathers", "pyg", "dgl")
DEVICE = "cuda"
warnings.filterwarnings("ignore", message="Sparse ")  # torch tells that its sparse tensors are in beta


class Skip(Exception):
    """Why a peer has no line here."""


class Pool:
    """The high-water mark of the driver's memory pool, which torch's allocator does not know of."""

    CURRENT, HIGH = 7, 8  # CU_MEMPOOL_ATTR_USED_MEM_*

    def __init__(self):
        self.driver, self.pool = None, ctypes.c_void_p()
        if DEVICE == "cuda":
            driver = ctypes.CDLL("libcuda.so.1")
            if driver.cuDeviceGetDefaultMemPool(ctypes.byref(self.pool), torch.cuda.current_device()) == 0:
                self.driver = driver

    def read(self, which):
        value = ctypes.c_uint64()
        if self.driver is None or self.driver.cuMemPoolGetAttribute(self.pool, which, ctypes.byref(value)) != 0:
            return 0
        return value.value

    def reset(self):
        if self.driver is not None:
            self.driver.cuMemPoolSetAttribute(self.pool, self.HIGH, ctypes.byref(ctypes.c_uint64(0)))


def peak_bytes(call):
    if DEVICE != "cuda":
        call()
        return None
    pool = Pool()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    pool.reset()
    before = torch.cuda.memory_allocated(), pool.read(Pool.CURRENT)
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before[0] + max(pool.read(Pool.HIGH) - before[1], 0)


def milliseconds(call):
    if DEVICE != "cuda":
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def first_words(found):
    return f"{type(found).__name__}: {(str(found).strip().splitlines() or [''])[0][:160]}"


graph_of = functools.cache(mh.graph)


class Edges:
    """The pattern as torch's tensors, and as the blocks of FlexAttention."""

    def __init__(self, text, n):
        self.n = n
        self.graph = graph_of(text, n)
        self.m = self.graph.nnz

    @functools.cached_property
    def indptr(self):
        return torch.from_numpy(self.graph.indptr.astype("int32")).to(DEVICE)  # what cuSPARSE takes as it is

    @functools.cached_property
    def columns(self):
        return torch.from_numpy(self.graph.indices.astype("int32")).to(DEVICE)

    @functools.cached_property
    def rows(self):
        return torch.repeat_interleave(torch.arange(self.n, device=DEVICE), self.indptr.diff())

    def softmax(self, scores):
        """By rows, of [m] in float32."""
        most = torch.full((self.n,), -torch.inf, device=DEVICE).scatter_reduce(0, self.rows, scores, "amax")
        weights = (scores - most[self.rows]).exp()
        return weights / torch.zeros(self.n, device=DEVICE).index_add_(0, self.rows, weights)[self.rows]

    def matrix(self, values):
        return torch.sparse_csr_tensor(self.indptr, self.columns, values, (self.n, self.n))

    def block_mask(self, size):
        from torch.nn.attention.flex_attention import BlockMask

        count = self.n // size
        starts = self.indptr[::size].long()
        table = torch.zeros(count, count, dtype=torch.bool, device=DEVICE)
        for block in range(count):
            table[block, self.columns[starts[block]:starts[block + 1]].long() // size] = True
        full = table.sum(1, dtype=torch.int32)[None, None]
        if int(full.sum()) * size * size != self.m:
            raise Skip("edges that fill no blocks")
        order = table.int().argsort(dim=1, descending=True, stable=True).int()[None, None].contiguous()
        return BlockMask.from_kv_blocks(torch.zeros_like(full), torch.zeros_like(order), full, order, BLOCK_SIZE=size)


def manyhop(q, k, v, edges, hops, rate):
    return lambda: mh.attention(q, k, v, edges.graph, hops=hops, teleport=rate)


def flash(q, k, v, edges, hops, rate):
    def call():
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return call


@functools.cache
def compiled_flex():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def flex(q, k, v, edges, hops, rate):
    if hops != 1 or rate != 0:
        raise Skip("one hop is what it does")
    mask = edges.block_mask(128)
    return lambda: compiled_flex()(q, k, v, block_mask=mask)


def hops_of(product, v, hops, rate):
    z = v
    for _ in range(hops):
        z = torch.add(rate * v, product(z), alpha=1 - rate)
    return z


def cusparse(q, k, v, edges, hops, rate, kind=torch.bfloat16):
    """Head after head. Scores by cuSPARSE's SDDMM, which has no bf16: float32; softmax by rows; hops by its SpMM in `kind`."""
    pattern = edges.matrix(torch.zeros(edges.m, device=DEVICE))

    def call():
        out = torch.empty_like(v)
        for h in range(q.shape[1]):
            scores = torch.sparse.sampled_addmm(pattern, q[0, h].float(), k[0, h].float().t(), beta=0,
                                                alpha=q.shape[-1]**-0.5).values()
            matrix = edges.matrix(edges.softmax(scores).to(kind))
            out[0, h] = hops_of(lambda z: matrix @ z, v[0, h].to(kind), hops, rate)
        return out
    return call


def gathers(q, k, v, edges, hops, rate):
    """Head after head, index_select and index_add in the type given."""
    rows, columns = edges.rows, edges.columns.long()

    def call():
        out = torch.empty_like(v)
        for h in range(q.shape[1]):
            scores = (q[0, h].index_select(0, rows) * k[0, h].index_select(0, columns)).sum(-1, dtype=torch.float32)
            weights = edges.softmax(scores * q.shape[-1]**-0.5).to(v.dtype)[:, None]
            out[0, h] = hops_of(lambda z: torch.zeros_like(z).index_add_(0, rows, weights * z.index_select(0, columns)),
                                v[0, h], hops, rate)
        return out
    return call


def pyg(q, k, v, edges, hops, rate):
    """All heads at once, as PyG's layers do."""
    from torch_geometric.utils import scatter, softmax

    need = 3 * edges.m * q.shape[1] * q.shape[-1] * q.element_size()
    if DEVICE == "cuda" and need > torch.cuda.mem_get_info()[0] * 0.8:
        raise Skip(f"would hold {need / 1e9:.0f} GB")
    rows, columns = edges.rows, edges.columns.long()

    def call():
        a, b, c = (x[0].transpose(0, 1) for x in (q, k, v))
        scores = (a[rows] * b[columns]).sum(-1) * q.shape[-1]**-0.5
        weights = softmax(scores, rows, num_nodes=edges.n)[..., None]
        z = hops_of(lambda z: scatter(weights * z[columns], rows, 0, edges.n, "sum"), c, hops, rate)
        return z.transpose(0, 1)[None]
    return call


def dgl(q, k, v, edges, hops, rate):
    os.environ.setdefault("DGLBACKEND", "pytorch")
    import dgl as library

    graph = library.graph((edges.columns.long(), edges.rows), num_nodes=edges.n, device=DEVICE)
    graph.create_formats_()

    def call():
        a, b, c = (x[0].transpose(0, 1).contiguous() for x in (q, k, v))
        weights = library.ops.edge_softmax(graph, library.ops.v_dot_u(graph, a, b) * q.shape[-1]**-0.5)
        z = hops_of(lambda z: library.ops.u_mul_e_sum(graph, z, weights), c, hops, rate)
        return z.transpose(0, 1)[None]
    return call


PEERS = {"manyhop": manyhop, "flash": flash, "flex": flex, "cusparse": cusparse,
         "cusparse f32": functools.partial(cusparse, kind=torch.float32), "gathers": gathers, "pyg": pyg, "dgl": dgl}


def error(got, want):
    """Of a tensor, or of the worst of several."""
    if isinstance(got, tuple):
        return max(error(*pair) for pair in zip(got, want))
    return float((got.float() - want).abs().max() / want.abs().max())


def trained(call, inputs, g):
    def both():
        for x in inputs:
            x.grad = None
        call().backward(g)
        return tuple(x.grad for x in inputs)
    return both


def peers_of(kind, n, train):
    if kind == "flex":
        return ("manyhop", "flex", "flash")
    if kind == "blocks" or train:
        return ("manyhop", "flash")
    return ("manyhop", "flash", *(UNFUSED if n <= 65536 else ("cusparse",)))


def run_case(kind, n, train, options):
    """Rows of one table; prints them."""
    edges = Edges(PATTERNS[kind], n)
    hops, rate = (1, 0.0) if kind == "flex" else (options.hops, RATE)
    torch.manual_seed(n)
    inputs = [torch.randn(1, options.heads, n, options.dim, device=DEVICE, dtype=torch.bfloat16) for _ in range(3)]
    g = torch.randn(1, options.heads, n, options.dim, device=DEVICE, dtype=torch.bfloat16)
    direction = "train" if train else "forward"
    name = f"{kind} n={n} {direction}"
    print(f"{name}: {edges.m} edges, {hops} hops", flush=True)

    def prepare(peer, tensors):
        tensors = [x.detach().requires_grad_(train) for x in tensors]
        call = PEERS[peer](*tensors, edges, hops, rate)
        return trained(call, tensors, g.to(tensors[0].dtype)) if train else call

    exact = prepare("manyhop", [x.float() for x in inputs])()
    rows, calls = {}, {}
    for peer in peers_of(kind, n, train):
        row = {"case": kind, "n": n, "edges": edges.m, "hops": hops, "direction": direction, "method": peer}
        try:
            call = prepare(peer, inputs)
            with torch.set_grad_enabled(train):
                got = call()
                row["error"] = None if peer == "flash" else error(got, exact)
                del got
                if row["error"] is not None and not row["error"] < 2e-2:
                    raise ArithmeticError(f"off by {row['error']:.1e} of the largest entry")
                row["bytes"] = peak_bytes(call)
            calls[peer] = call
        except Exception as found:  # a peer that is missing or fails loses its own line alone
            row["not_run"] = str(found) if isinstance(found, Skip) else first_words(found)
            print(f"  {peer:13} not run: {row['not_run']}", flush=True)
        rows[peer] = row
    del exact
    times = {peer: [] for peer in calls}
    for _ in range(options.rounds):
        for peer, call in list(calls.items()):
            if sum(times[peer]) > 3000:
                continue
            try:
                with torch.set_grad_enabled(train):
                    times[peer].append(milliseconds(call))
            except Exception as found:
                rows[peer]["not_run"] = first_words(found)
                print(f"  {peer:13} not run: {rows[peer]['not_run']}", flush=True)
                del calls[peer], times[peer]
    own = rows["manyhop"]
    for peer, taken in times.items():
        row = rows[peer]
        row.update(median_ms=statistics.median(taken), least_ms=min(taken), most_ms=max(taken))
        if "median_ms" in own:
            row["ratio"] = row["median_ms"] / own["median_ms"]
            row["wanted"] = WANTED.get((kind, n, direction, peer), WANTED.get((kind, None, direction, peer)))
            if row["bytes"] and own["bytes"]:
                row["bytes_ratio"] = row["bytes"] / own["bytes"]
        size = f"{row['bytes'] / 2**20:9.1f} MiB" if row["bytes"] is not None else ""
        print(f"  {peer:13}{row['median_ms']:10.3f} ms ({row['least_ms']:.3f} .. {row['most_ms']:.3f}) {size}"
              f"{'' if peer == 'manyhop' or 'ratio' not in row else '  ratio {:.2f}'.format(row['ratio'])}", flush=True)
    return list(rows.values())


def table(rows):
    """What is wanted beside what was measured."""
    lines = ["", "| case | against | ratio | wanted | memory ratio | wanted |", "|---|---|---|---|---|---|"]
    for row in rows:
        if row.get("wanted") is None:
            continue
        memory = f"{row['bytes_ratio']:.2f} | {'2' if row['method'] in UNFUSED else ''}" if "bytes_ratio" in row else " | "
        lines.append(f"| {row['case']} n = {row['n']}, {row['direction']} | {row['method']} | {row['ratio']:.2f} | "
                     f"{row['wanted']}{'' if row['ratio'] >= row['wanted'] else ' (missed)'} | {memory} |")
    return "\n".join(lines) if len(lines) > 3 else ""


def commit():
    if os.environ.get("MANYHOP_COMMIT"):
        return os.environ["MANYHOP_COMMIT"]
    try:
        told = subprocess.run(["git", "-C", os.path.dirname(os.path.abspath(__file__)), "describe", "--always", "--dirty"],
                              capture_output=True, text=True)
    except OSError:
        return "unknown"
    return told.stdout.strip() or "unknown"


def driver():
    try:
        told = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True)
    except OSError:
        return "unknown"
    return told.stdout.split("\n")[0] or "unknown"


def main():
    global DEVICE
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="n=16384,n=65536,n=262144")
    parser.add_argument("--patterns", default="element,blocks,flex")
    parser.add_argument("--directions", default="forward,train")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--hops", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1e9, help="no case begins after that")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json")
    options = parser.parse_args()
    DEVICE = options.device
    began = time.monotonic()
    cases = [(kind, int(text.split("=")[1]), direction == "train") for direction in options.directions.split(",")
             for text in options.cases.split(",") for kind in options.patterns.split(",")]
    if DEVICE == "cuda" and (not torch.cuda.is_available() or "cuda" not in mh._core.available_backends()):
        if os.environ.get("MANYHOP_EXPECT_GPU"):
            print("FAILED: a GPU is here and cannot be used by torch or by this manyhop")
            return 1
        print(f"skipped: no GPU ({len(cases)} cases)")
        return 0
    told = {"commit": commit(), "device": torch.cuda.get_device_name() if DEVICE == "cuda" else platform.processor() or "cpu",
            "driver": driver() if DEVICE == "cuda" else None, "torch": torch.__version__, "cuda": torch.version.cuda,
            "manyhop": mh.__version__, "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "heads": options.heads, "dim": options.dim, "dtype": "bf16", "rounds": options.rounds, "rows": [], "not_run": []}
    print(f"{told['device']}, driver {told['driver']}, torch {told['torch']}, commit {told['commit']}", flush=True)
    failed = 0
    for kind, n, train in cases:
        name = f"{kind} n={n} {'train' if train else 'forward'}"
        try:
            if time.monotonic() - began > options.seconds:
                raise Skip("out of time")
            rows = run_case(kind, n, train, options)
            told["rows"] += rows
            failed += "not_run" in rows[0]  # Manyhop's own
        except Skip as found:
            told["not_run"].append({"case": name, "why": str(found)})
            print(f"{name} not run: {found}", flush=True)
        except Exception as found:
            failed += 1
            told["not_run"].append({"case": name, "why": first_words(found)})
            print(f"{name} FAILED: {first_words(found)}", flush=True)
        if DEVICE == "cuda":
            try:
                torch.cuda.empty_cache()
            except Exception:  # the device is lost; each case says so itself
                pass
        if options.json:
            with open(options.json, "w") as file:
                json.dump(told, file, indent=1)
    print(table(told["rows"]))
    print(f"{len(cases) - len(told['not_run'])} of {len(cases)} cases ran, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

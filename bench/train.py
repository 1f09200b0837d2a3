#!/usr/bin/env python3
"""Forward and backward of one attention layer with hops, by Manyhop's torch operators, dense attention and DGL.

    python bench/train.py --rounds 5
    python bench/train.py --dtype bf16 --pattern 'overlap(64,32)|lift(regular(1,seed=1),64)|global(64)' --only manyhop,dense

Each contender is a process of its own that waits for its turn, so that rounds are interleaved and each has its own peak of
resident memory (of the first run, beyond what q, k, v, the graph and the libraries hold before it). Values are new in every run.
`dense` is one hop of full attention by scaled_dot_product_attention: other work, what people would run instead. Gradients of
Manyhop are first compared with those of DGL where both run. Wants torch and manyhop; DGL where it imports.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-n", type=int, default=4096)
parser.add_argument("--pattern", default="diffuser(64, 64, 64)")
parser.add_argument("--heads", type=int, default=12)
parser.add_argument("--dim", type=int, default=64)
parser.add_argument("--hops", type=int, default=5)
parser.add_argument("--teleport", type=float, default=0.1)
parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
parser.add_argument("--backward", choices=["stored", "checkpointed", "implicit"], default="stored")
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--only", default="manyhop,dense,dgl")
parser.add_argument("--json", action="store_true")
parser.add_argument("--serve", help=argparse.SUPPRESS)


def manyhop_layer(options):
    import manyhop as mh

    graph = mh.graph(options.pattern, options.n)
    return lambda q, k, v: mh.attention(q, k, v, graph, hops=options.hops, teleport=options.teleport,
                                        backward=options.backward)


def dense_layer(_):
    from torch.nn.functional import scaled_dot_product_attention

    return scaled_dot_product_attention


def dgl_layer(options):
    import dgl
    import manyhop as mh
    import torch

    senders, receivers = (torch.from_numpy(x) for x in mh.graph(options.pattern, options.n).to_edge_index())
    graph = dgl.graph((senders, receivers), num_nodes=options.n)
    graph.create_formats_()

    def layer(q, k, v):  # [1, h, n, d] -> DGL's [n, h, d]
        q, k, v = (x[0].transpose(0, 1).contiguous() for x in (q, k, v))
        scores = dgl.ops.v_dot_u(graph, q, k) / options.dim ** 0.5
        a = dgl.ops.edge_softmax(graph, scores)
        z = v
        for _ in range(options.hops):
            z = (1 - options.teleport) * dgl.ops.u_mul_e_sum(graph, z, a) + options.teleport * v
        return z.transpose(0, 1)[None]
    return layer


LAYERS = {"manyhop": manyhop_layer, "dense": dense_layer, "dgl": dgl_layer}


def serve(options):
    """Reads seeds from standard input; each line one run, answered by JSON."""
    import torch

    torch.set_num_threads(options.threads)
    layer = LAYERS[options.serve](options)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    shape = (1, options.heads, options.n, options.dim)
    print(json.dumps({"ready": True}), flush=True)
    before = None
    for line in sys.stdin:
        torch.manual_seed(int(line))
        q, k, v = (torch.randn(shape).to(dtype).requires_grad_() for _ in range(3))
        g = torch.randn(shape).to(dtype)
        if before is None:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        out = layer(q, k, v)
        middle = time.perf_counter()
        grads = torch.autograd.grad(out, (q, k, v), g)
        end = time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        digest = [float((x.double() * torch.linspace(-1, 1, x.numel()).reshape(x.shape)).sum()) for x in grads]
        size = [float(x.double().norm()) for x in grads]
        print(json.dumps({"forward": middle - start, "seconds": end - start, "digest": digest, "size": size,
                          "peak_mib": (peak - before) / 1024}), flush=True)


def main():
    options = parser.parse_args()
    if options.serve:
        return serve(options)
    os.environ.setdefault("DGLBACKEND", "pytorch")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    workers, rows = {}, {}
    for name in options.only.split(","):
        worker = subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--serve", name], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if not worker.stdout.readline():
            print(f"{name}: left out: {worker.stderr.read().strip().splitlines()[-1]}", file=sys.stderr)
            continue
        workers[name], rows[name] = worker, []
    for turn in range(options.rounds + 1):
        for name, worker in workers.items():
            print(turn, file=worker.stdin, flush=True)
            answer = worker.stdout.readline()
            if not answer:
                sys.exit(f"{name}: {worker.stderr.read()}")
            rows[name].append(json.loads(answer))
    if "dgl" in rows and "manyhop" in rows and options.dtype == "f32":
        for mine, theirs in zip(rows["manyhop"], rows["dgl"]):
            for a, b, size in zip(mine["digest"], theirs["digest"], theirs["size"]):
                if abs(a - b) > 1e-4 * size:
                    sys.exit(f"gradients differ: {a} and {b} of size {size}")
    table = {}
    for name, runs in rows.items():
        timed = runs[1:]  # the first warms up
        seconds = [run["seconds"] for run in timed]
        table[name] = {"forward_ms": 1e3 * statistics.median(run["forward"] for run in timed),
                       "ms": 1e3 * statistics.median(seconds), "least_ms": 1e3 * min(seconds), "most_ms": 1e3 * max(seconds),
                       "peak_mib": runs[0]["peak_mib"]}
    if options.json:
        print(json.dumps(table, indent=1))
        return None
    base = table.get("manyhop", next(iter(table.values())))["ms"]
    print(f"{'':10s} {'forward':>9s} {'both':>9s} {'least':>9s} {'most':>9s} {'ratio':>7s} {'peak MiB':>9s}")
    for name, row in table.items():
        print(f"{name:10s} {row['forward_ms']:9.1f} {row['ms']:9.1f} {row['least_ms']:9.1f} {row['most_ms']:9.1f} "
              f"{row['ms'] / base:7.2f} {row['peak_mib']:9.0f}")
    return None


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Time and memory of attention against the number of tokens, for a pattern of blocks and one of single edges.

    python3 bench/scaling.py --program build/default/manyhop --from 10 --to 16
    python3 bench/scaling.py --to 20 --repeat 1 --plot bench/scaling.svg --json bench/scaling.json
    python3 bench/scaling.py --from-json blocks.json edges.json --plot bench/scaling.svg

Tokens are powers of two; q, k, v are new for every size, [n, heads, dim] in --dtype. Each row is one process: seconds of a run
after its warm-up, nanoseconds a token and an edge, resident memory at most. Wants NumPy, and matplotlib for --plot.
"""
import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np

PATTERNS = {"blocks": "overlap(64,32)|lift(regular(1,seed=1),64)|global(64)", "single edges": "diffuser(64,64,64)"}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--program", default="build/default/manyhop")
parser.add_argument("--from", dest="first", type=int, default=10, help="least power of two (default 10)")
parser.add_argument("--to", dest="last", type=int, default=16, help="largest power of two (default 16)")
parser.add_argument("--heads", type=int, default=12)
parser.add_argument("--dim", type=int, default=64)
parser.add_argument("--hops", type=int, default=5)
parser.add_argument("--dtype", choices=["f32", "bf16"], default="bf16")
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--repeat", type=int, default=3, help="timed runs, the median counts (default 3)")
parser.add_argument("--only", choices=sorted(PATTERNS), help="one of the patterns")
parser.add_argument("--json", help="write the rows there")
parser.add_argument("--plot", help="draw them there (.svg, .png)")
parser.add_argument("--from-json", nargs="+", metavar="FILE", help="measure nothing, draw the rows of these files together")


def write_qkv(file, n, options):
    """Normal noise, a slice at a time: a million tokens are 1.6 GB a tensor."""
    size = {"f32": 4, "bf16": 2}[options.dtype]
    count = n * options.heads * options.dim
    header = {name: {"dtype": options.dtype.upper(), "shape": [n, options.heads, options.dim],
                     "data_offsets": [i * count * size, (i + 1) * count * size]} for i, name in enumerate("qkv")}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    rng = np.random.default_rng()
    for _ in "qkv":
        for start in range(0, count, 1 << 24):
            x = rng.standard_normal(min(1 << 24, count - start), dtype=np.float32)
            if options.dtype == "bf16":
                bits = x.view(np.uint32)
                x = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            file.write(x.tobytes())
    file.flush()


def measure(name, path, options):
    command = [options.program, "attend", "--qkv", path, "--pattern", PATTERNS[name], "--hops", str(options.hops), "--teleport",
               "0.1", "--threads", str(options.threads), "--repeat", str(options.repeat), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    told = json.load(process.stdout)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)}: status {status}")
    return {"pattern": name, "n": told["n"], "edges": told["edges"], "seconds": told["seconds"],
            "resident_bytes": usage.ru_maxrss * 1024}


def draw(rows, path, options):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plot

    figure, axes = plot.subplots(figsize=(6.4, 4.4))
    for name in dict.fromkeys(row["pattern"] for row in rows):
        mine = [row for row in rows if row["pattern"] == name]
        axes.loglog([row["n"] for row in mine], [row["seconds"] for row in mine], "o-", base=2, label=name)
    first = min(rows, key=lambda row: row["seconds"])
    sizes = sorted({row["n"] for row in rows})
    axes.loglog(sizes, [first["seconds"] * n / first["n"] for n in sizes], "--", color="gray", base=2, label="linear")
    axes.set_yscale("log", base=10)
    axes.set_xlabel("tokens")
    axes.set_ylabel("seconds")
    axes.set_title(f"{options.heads} heads of {options.dim}, {options.hops} hops, {options.dtype}, {options.threads} threads")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


def main():
    options = parser.parse_args()
    rows = []
    if options.from_json:
        for name in options.from_json:
            with open(name) as file:
                told = json.load(file)
            rows += told["rows"]
            for key in ("heads", "dim", "hops", "dtype", "threads"):
                setattr(options, key, told[key])
        if options.plot:
            draw(rows, options.plot, options)
        return
    print(f"{'tokens':>9s} {'pattern':14s} {'edges':>11s} {'seconds':>10s} {'us/token':>9s} {'ns/edge':>8s} {'resident MiB':>13s}")
    for power in range(options.first, options.last + 1):
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            write_qkv(file, 1 << power, options)
            for name in PATTERNS:
                if options.only and name != options.only:
                    continue
                row = measure(name, file.name, options)
                rows.append(row)
                print(f"{row['n']:9d} {name:14s} {row['edges']:11d} {row['seconds']:10.4f} {row['seconds'] / row['n'] * 1e6:9.2f} "
                      f"{row['seconds'] / row['edges'] * 1e9:8.2f} {row['resident_bytes'] / 2 ** 20:13.0f}", flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"heads": options.heads, "dim": options.dim, "hops": options.hops, "dtype": options.dtype,
                       "threads": options.threads, "rows": rows}, file, indent=1)
            file.write("\n")
    if options.plot:
        draw(rows, options.plot, options)


if __name__ == "__main__":
    main()

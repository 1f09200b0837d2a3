#!/usr/bin/env python3
"""Node classification by diffusion: accuracy over seeds, beside PyG's own APPNP and GDC where it is installed.

    python3 examples/nodes.py examples/cora                          # labels only: no features there
    python3 examples/nodes.py FOLDER [FOLDER ..] --seeds 10 --out nodes.json

A FOLDER holds `edges.txt` (`u v`, undirected), `labels.txt`, and maybe `features.mtx` and `masks.txt` (a column a split:
t train, v validation, s test). With ten splits or more, seed s takes split s; else it draws one (20 of each class to
train, 500 to choose the epoch, the rest to test). All methods of a seed see the same split, sizes, steps and initial numbers.

    labels        the classes of the training nodes, diffused (no features, nothing is learned)
    mlp           features alone
    sgc           A^2 X, then a linear model
    appnp         mlp, then ten hops with teleport 0.1
    pprgo         mlp, then the 32 largest scores of each node by forward push
    gdc           two layers over the graph of the 64 largest scores of each node
    pyg-appnp     as appnp, propagated by torch_geometric.nn.APPNP
    pyg-gdc       as gdc, over the graph of torch_geometric.transforms.GDC (n x n)

Finished runs are kept in --out and not run again.
"""

import argparse
import json
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import manyhop as mh

warnings.filterwarnings("ignore", message="Sparse")  # what torch says of every CSR tensor

HIDDEN, RATE, DECAY, DROPOUT = 64, 0.01, 5e-4, 0.5
METHODS = ["labels", "mlp", "sgc", "appnp", "pprgo", "gdc", "pyg-appnp", "pyg-gdc"]


def load(folder):
    folder = Path(folder)
    labels = np.loadtxt(folder / "labels.txt", dtype=np.int64, ndmin=1)
    graph = mh.Graph.load(folder / "edges.txt", len(labels), undirected=True)
    features = None
    if (folder / "features.mtx").exists():
        # A rectangle of nodes by features: the columns of a Graph are as good as any.
        features = mh.Graph.load(folder / "features.mtx").to_torch()
        # Rows of words sum to one, as is usual for these sets.
        sums = torch.sparse.sum(features.to_sparse_coo().abs(), 1).to_dense().clamp(min=1e-12)
        coo = features.to_sparse_coo().coalesce()
        features = torch.sparse_coo_tensor(coo.indices(), coo.values() / sums[coo.indices()[0]], coo.shape).to_sparse_csr()
    masks = (folder / "masks.txt").read_text().split("\n")[:len(labels)] if (folder / "masks.txt").exists() else None
    return graph, features, torch.from_numpy(labels), masks


def split(labels, masks, seed):
    """Indices of train, validation and test."""
    if masks is not None and len(masks[0]) >= 10:
        column = np.array([line[seed % len(line)] for line in masks])
        return [torch.from_numpy(np.flatnonzero(column == kind)) for kind in "tvs"]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order] >= 0]
    known = labels[order]
    train = torch.cat([order[known == c][:20] for c in range(int(labels.max()) + 1)])
    rest = order[~torch.isin(order, train)]
    return [train, rest[:500], rest[500:]]


class Mlp(torch.nn.Module):
    def __init__(self, inputs, classes, spread=lambda h: h):
        super().__init__()
        self.first = torch.nn.Linear(inputs, HIDDEN)
        self.last = torch.nn.Linear(HIDDEN, classes)
        self.spread = spread

    def forward(self, x):
        h = torch.sparse.mm(x, self.first.weight.T) + self.first.bias
        return self.spread(self.last(F.dropout(F.relu(h), DROPOUT, self.training)))


class TwoLayers(Mlp):
    """Spreads after each layer."""

    def forward(self, x):
        h = self.spread(torch.sparse.mm(x, self.first.weight.T) + self.first.bias)
        return self.spread(self.last(F.dropout(F.relu(h), DROPOUT, self.training)))


class Linear(torch.nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.last = torch.nn.Linear(inputs, classes)

    def forward(self, x):
        return self.last(x)


def once(graph, normalization):
    """h -> A h, differentiable."""
    return lambda h: mh.diffuse(graph, h, "coefficients", coefficients=(0.0, 1.0), normalization=normalization).value


def by_labels(graph, labels, parts, classes):
    train, _, test = parts
    x = torch.zeros(len(labels), classes)
    x[train, labels[train]] = 1
    found = mh.diffuse(graph, x, teleport=0.1, tol=1e-6, normalization="sym").value
    return float((found[test].argmax(1) == labels[test]).float().mean())


def fit(model, x, labels, parts, epochs):
    """Test accuracy at the epoch of the best validation accuracy, and seconds an epoch."""
    train, validation, test = parts
    optimizer = torch.optim.Adam(model.parameters(), RATE, weight_decay=DECAY)
    best, kept, began = -1.0, 0.0, time.perf_counter()
    for _ in range(epochs):
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(x)[train], labels[train]).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            right = model(x).argmax(1) == labels
        score = float(right[validation].float().mean())
        if score > best:
            best, kept = score, float(right[test].float().mean())
    return kept, (time.perf_counter() - began) / epochs


class Dataset:
    """What the seeds of a folder share: graphs that are made once."""

    def __init__(self, folder):
        self.name = Path(folder).resolve().name
        self.graph, self.x, self.labels, self.masks = load(folder)
        self.loops = self.graph | mh.graph("self", self.graph.shape[0])
        self.classes = int(self.labels.max()) + 1
        self.made, self.seconds = {}, {}

    def once(self, name, make):
        if name not in self.made:
            began = time.perf_counter()
            self.made[name] = make()
            self.seconds[name] = time.perf_counter() - began
        return self.made[name]

    def run(self, method, seed, epochs):
        parts = split(self.labels, self.masks, seed)
        if method == "labels":
            return by_labels(self.loops, self.labels, parts, self.classes), 0.0
        torch.manual_seed(seed)
        inputs = self.x.shape[1]
        x = self.x
        if method == "mlp":
            model = Mlp(inputs, self.classes)
        elif method == "sgc":
            x = self.once("sgc", lambda: mh.diffuse(self.loops, self.x.to_dense(), "coefficients",
                                                    coefficients=(0.0, 0.0, 1.0)).value)
            model = Linear(inputs, self.classes)
        elif method == "appnp":
            propagate = mh.nn.APPNP(10, 0.1)
            model = Mlp(inputs, self.classes, lambda h: propagate(h, self.loops))
        elif method == "pprgo":
            scores = self.once("pprgo", lambda: mh.gdc(self.graph, 32, teleport=0.1, normalization="row"))
            model = Mlp(inputs, self.classes, once(scores, "row"))
        elif method == "gdc":
            scores = self.once("gdc", lambda: mh.gdc(self.graph, 64, teleport=0.15))
            model = TwoLayers(inputs, self.classes, once(scores, "row"))
        else:
            model = self.pyg(method, inputs)
        return fit(model, x, self.labels, parts, epochs)

    def pyg(self, method, inputs):
        import torch_geometric as pyg

        edges = torch.from_numpy(self.graph.to_edge_index())
        n = self.graph.shape[0]
        if method == "pyg-appnp":
            layer = pyg.nn.APPNP(10, 0.1)
            return Mlp(inputs, self.classes, lambda h: layer(h, edges))
        gdc = pyg.transforms.GDC(self_loop_weight=1, normalization_in="sym", normalization_out="col",
                                 diffusion_kwargs=dict(method="ppr", alpha=0.15),
                                 sparsification_kwargs=dict(method="topk", k=64, dim=0), exact=True)
        data = self.once("pyg-gdc", lambda: gdc(pyg.data.Data(edge_index=edges, num_nodes=n)))
        spread = torch.sparse_coo_tensor(data.edge_index.flip(0), data.edge_attr, (n, n)).coalesce().to_sparse_csr()
        return TwoLayers(inputs, self.classes, lambda h: torch.sparse.mm(spread, h))


def table(results, seeds):
    print(f"\ntest accuracy in %, mean and spread over {seeds} seeds (seconds an epoch)")
    names = [m for m in METHODS if any(m in runs for runs in results.values())]
    print("".join(["set".ljust(20), *(name.rjust(22) for name in names)]))
    for folder, runs in results.items():
        cells = []
        for name in names:
            values = runs.get(name, {})
            scores = [100 * v[0] for s, v in values.items() if int(s) < seeds]
            text = "-" if not scores else f"{np.mean(scores):.1f} +- {np.std(scores):.1f}"
            pace = np.median([v[1] for v in values.values()]) if scores else 0
            cells.append((text + (f" ({pace:.3f})" if pace else "")).rjust(22))
        print(folder.ljust(20) + "".join(cells))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1, help="tensors of these sets are small: one thread is faster than two")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--out", default="")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    mh.set_threads(given.threads)
    methods = given.methods.split(",")
    unknown = [m for m in methods if m not in METHODS]
    if unknown:
        parser.error(f"--methods: {unknown[0]!r}, expected {', '.join(METHODS)}")
    datasets = [Dataset(folder) for folder in given.folders]
    try:
        import torch_geometric  # noqa: F401
    except ImportError:
        methods = [m for m in methods if not m.startswith("pyg")]
        print("torch_geometric is not installed: its columns are left out", file=sys.stderr)
    results = json.loads(Path(given.out).read_text()) if given.out and Path(given.out).exists() else {}
    for data in datasets:
        runs = results.setdefault(data.name, {})
        for method in methods:
            if data.x is None and method != "labels":
                continue
            for seed in range(given.seeds):
                if str(seed) in runs.setdefault(method, {}):
                    continue
                runs[method][str(seed)] = data.run(method, seed, given.epochs)
                print(f"\r{data.name} {method} {seed + 1}/{given.seeds}   ", end="", file=sys.stderr, flush=True)
                if given.out:
                    Path(given.out + ".part").write_text(json.dumps(results))
                    os.replace(given.out + ".part", given.out)
        for name, seconds in data.seconds.items():
            print(f"\r{data.name}: {name} made in {seconds:.2f} s", file=sys.stderr)
    table(results, given.seeds)


if __name__ == "__main__":
    try:
        main()
    except (OSError, mh.errors.Error) as problem:  # files that are not there, options that no engine takes
        raise SystemExit(f"nodes.py: {problem}") from None

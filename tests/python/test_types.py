"""What a type checker makes of programs that call the package: the types of results, and calls that it has to refuse."""

import importlib.util
import inspect
import re
import subprocess
import sys

import pytest

import manyhop as mh

pytest.importorskip("mypy")

NUMPY = """
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

import manyhop as mh

Array = npt.NDArray[Any]

g = mh.graph("window(2)|global(1)", 16)
assert_type(g, mh.Graph)
assert_type(g | g & g - g, mh.Graph)
assert_type(g.shape, tuple[int, int])
assert_type(g.indptr, npt.NDArray[np.int64])
assert_type(g.indices, npt.NDArray[np.int32])
assert_type(g.weights, npt.NDArray[np.float64] | None)
assert_type(g.rows(0, 2).with_weights([1.0, 2.0]).transpose().symmetrised(), mh.Graph)
assert_type(g.components(), tuple[int, int, npt.NDArray[np.int32]])
assert_type(g == g, bool)
assert_type(mh.Graph.from_edges([0], np.array([1]), shape=(2, 2)), mh.Graph)
assert_type(mh.Graph.from_csr([0, 1], [0]).to_edge_index(), npt.NDArray[np.int64])
assert_type(mh.Graph.from_edge_index([[0, 0], [1, 2]], 3).spy(), str)
assert_type(mh.batch([g, g]), mh.Graph)

x = np.ones((1, 2, 16, 8), dtype=np.float32)
assert_type(mh.attention(x, x, x, g, hops=np.int64(3), teleport=0.1, bias=[0.0] * g.nnz, layout="bhsd"), Array)
assert_type(mh.attention(x, x, x, [g, g], return_lse=True), tuple[Array, Array])
assert_type(mh.attention(x, x, x, g, return_weights=True), tuple[Array, Array])
assert_type(mh.attention(x, x, x, g, return_lse=True, return_weights=True), tuple[Array, Array, Array])
plan = mh.plan(g, heads=2, head_dim=8, dtype=np.float32)
assert_type(plan, mh.Plan)
assert_type(plan.run(x, x, x, teleport=0.1), Array)
assert_type(plan.run(x, x, x, return_lse=True), tuple[Array, Array])
assert_type(plan.explain(), str)
assert_type(plan.memory(), dict[str, int])

r = mh.diffuse(g, np.ones(16), "heat", t=2.0, tol=1e-6)
assert_type(r, mh.DiffuseResult[Array])
assert_type(r.value, Array)
class Foreign:  # an array of another library, on the CPU
    def __dlpack__(self, *, stream: int | None = None) -> Any: ...


assert_type(mh.diffuse(g, Foreign()).value, Array)
assert_type(g.with_weights(Foreign()), mh.Graph)
assert_type(r.converged, bool)
assert_type(mh.ppr(g, [0, 5], topk=3).scores, mh.Graph)
assert_type(mh.ppr(g, 0).bound, npt.NDArray[np.float64])
assert_type(mh.gdc(g), mh.Graph)
assert_type(mh.gdc(g, None, kernel="heat", t=np.float32(2), eps=0.01, normalization="row"), mh.Graph)

assert_type(mh.sparsek(x, 2), Array)
assert_type(mh.sparsek(x, [2.0], return_tau=True), tuple[Array, Array])
assert_type(mh.sparsek_jvp(x, x, dk=1.0), Array)
assert_type(mh.topk(x, 2), Array)
assert_type(mh.causal_sparsek([0.1, 3.0], 1), mh.Selection)
assert_type(mh.causal_sparsek([[0.1, 3.0]], 1), list[mh.Selection])
assert_type(mh.select([0.1, 3.0], 1), mh.Graph)
assert_type(mh.sparsek_attention(x, x, x, x, keys=4, gate="scores"), Array)
assert_type(mh.SparseKCache(2, keys=4).step(x, x, x, x), Array)

assert_type(mh.spectral.gap(g, operator="laplacian"), mh.spectral.Result)
assert_type(mh.spectral.reach(g, 3), list[dict[str, Any]])
with mh.memory_limit(2**20):
    mh.set_threads(1)
assert_type(mh.get_threads(), int)
error: ValueError = mh.errors.BadValue("x")
mh.plot.spy(g, cells=16).set_title("edges")
"""

TORCH = """
import torch
from typing_extensions import assert_type

import manyhop as mh

g = mh.graph("window(2)", 16)
t = torch.ones(1, 2, 16, 8)
assert_type(mh.attention(t, t, t, g, teleport=torch.tensor(0.1), lengths=[9]), torch.Tensor)
assert_type(mh.attention(t, t, torch.nn.Parameter(t), g, return_lse=True), tuple[torch.Tensor, torch.Tensor])
assert_type(mh.plan(g, heads=2, head_dim=8).run(t, t, t, return_lse=True), tuple[torch.Tensor, torch.Tensor])
assert_type(mh.diffuse(g, t[0, 0], "coefficients", coefficients=[1.0, torch.tensor(2.0)]).value, torch.Tensor)
assert_type(mh.sparsek(t, torch.tensor(2.0), return_tau=True), tuple[torch.Tensor, torch.Tensor])
assert_type(mh.SparseKCache(2, keys=4).step(t, t, t, t), torch.Tensor)
assert_type(mh.Graph.load("a.mtx").to_torch(torch.float64), torch.Tensor)

layer = mh.nn.DiffuserAttention(32, 4, "window(2)", hops=3)
assert_type(layer(torch.zeros(2, 10, 32), lengths=[10, 7]), torch.Tensor)
config = mh.nn.DiffuserConfig(num_hidden_layers=2, pattern=["window(64)", g])
out = mh.nn.DiffuserForSequenceClassification(config)(torch.zeros(2, 10), labels=None, lengths=[10, 7])
assert_type(out, mh.nn.DiffuserOutput)
assert_type(out.logits, torch.Tensor | None)
assert_type(mh.nn.APPNP(hops=3)(t[0, 0], g), torch.Tensor)
assert_type(mh.nn.GDC(topk=None, kernel="heat", t=1.0, eps=0.1)(g), mh.Graph)
mh.hf.register("window(2)", 2, 0.1)
with mh.hf.use(layer, pattern="window(2)", hops=2):
    pass
"""

# Each line after the empty one is wrong.
WRONG = """
import numpy as np
import manyhop as mh
g, x = mh.graph("window(2)", 16), np.ones((1, 2, 16, 8))

mh.attention('a', 1, None, 3, hops='x')
mh.attention(x, x, [1], g)
mh.attention(x, x, x, g, hop=3)
mh.attention(x, x, x, g, hops="3")
mh.attention(x, x, x, g, layout="sbhd")
mh.attention(x, x, x, "window(2)")
mh.graph("window(2)", 4.0)
mh.graph(["window(2)"], 4)
mh.attenton(x, x, x, g)
g.rows("a", 2)
g | 3
mh.Graph.from_edges([0], [1])
mh.plan(g, heads=2)
mh.plan(g, heads=2, head_dim=8).run(x, x, x, hop=2)
mh.diffuse(g, x, "pagerank")
mh.diffuse(g, x, tol="small")
mh.ppr(g, [0], topk=0.5)
mh.gdc(g, kernel="coefficients")
mh.gdc(g, eps="small")
mh.sparsek("z", 1)
mh.spectral.gap(g, operator="normalised")
mh.plot.spy("window(2)")
mh.set_threads("all")
"""

WRONG_TORCH = """
import numpy as np
import torch
import manyhop as mh
g, x, t = mh.graph("window(2)", 16), np.ones((1, 2, 16, 8)), torch.ones(1, 2, 16, 8)

mh.attention(x, x, t, g)
mh.nn.DiffuserAttention(32, 4, hops=0.5)
mh.nn.APPNP()(t, "window(2)")
mh.nn.GDC(topk=0.5)
mh.nn.DiffuserModel()(t, mask=t)
mh.hf.use(patern="window(2)")
mh.hf.register(hops="2")
"""


def check(folder, programs):
    """{file: {line: message}}; transformers, which takes long to read, is left out."""
    for name, text in programs.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "mypy.ini").write_text("[mypy]\nstrict = true\n[mypy-transformers.*]\nfollow_imports = skip\n")
    done = subprocess.run([sys.executable, "-m", "mypy", "--no-color-output", "--cache-dir", "cache",
                           *(f"{name}.py" for name in programs)], cwd=folder, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = {name: {} for name in programs}
    for name, line, message in re.findall(r"^(\w+)\.py:(\d+): error: (.*)$", done.stdout, re.M):
        found[name].setdefault(int(line), message)
    return found


def test_programs(tmp_path):
    """Those that are right pass, and each wrong line of the others is refused; in one run, most of which reads torch."""
    torch = importlib.util.find_spec("torch") is not None
    right, wrong = {"right": NUMPY}, {"wrong": WRONG}
    if torch:
        right["right_torch"], wrong["wrong_torch"] = TORCH, WRONG_TORCH
    found = check(tmp_path, {**right, **wrong})
    for name in right:
        assert found[name] == {}
    for name, text in wrong.items():
        lines = text.split("\n")
        first = lines.index("", 1) + 1
        assert set(found[name]) == {i + 1 for i in range(first, len(lines)) if lines[i]}
    if not torch:
        pytest.skip("no torch: the programs without it are as they should be")


def test_options_by_name_are_those_of_the_functions():
    """The overloads name them in one place, which has to follow the functions."""
    from manyhop import _types

    for function, options in ((mh.attention, _types.AttentionOptions), (mh.diffuse, _types.DiffuseOptions)):
        named = {name for name, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}
        assert named - {"return_lse", "return_weights"} == set(options.__annotations__)

"""Diffusion of signals over any square graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from . import _core, _settings
from ._attention import BACKWARD, readable
from ._check import choice, is_torch, number, numbers, string, to_numpy, whole
from ._graph import Graph
from .errors import BadType, BadValue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Unpack

    from ._types import (A, Array, ArrayLike, Backward, Dangling, DiffuseOptions, DiffuseResult as DiffuseResult, Float64, Int,
                         Kernel, Normalization, Real, SupportsDLPack, Tensor)
else:
    class DiffuseResult(NamedTuple):
        """What :func:`diffuse` returns.

        value : the diffused signal, in shape and type of x.
        hops : K, how many products with A it took.
        residual : ||Z_K - Z_{K-1}||, bound : one on ||Z_K - Z_inf||, both of the worst column relative to ||x|| (absolute where
            x is 0), in the norm of the normalization: "sym" 2, "row" and "none" max, "col" 1. Without a hop there is no
            residual: nan. The bound is that of exact arithmetic and may fall to 0; what rounding adds, about 1e-16 a hop
            (float32: 1e-7), is not in it.
        converged : whether bound <= tol; True for a fixed number of hops.

        While torch.compile traces and inside torch.func the last four are tensors.

        >>> import numpy as np, manyhop as mh
        >>> r = mh.diffuse(mh.graph("window(1)", 6), np.eye(6)[0], hops=4)
        >>> r.hops, r.converged, r.bound <= 2 * 0.9**4
        (4, True, True)
        """

        value: object
        hops: int
        residual: float
        bound: float
        converged: bool


def check_call(kernel, hops, tol, normalization, dangling, backward, backend):
    """hops and tol of the right kinds; the names are checked."""
    choice(kernel, "kernel", ("ppr", "heat", "coefficients"))
    choice(normalization, "normalization", ("sym", "row", "col", "none"))
    choice(dangling, "dangling", ("zero", "self", "uniform", "restart"))
    choice(backward, "backward", BACKWARD)
    string(backend, "backend")
    if backward == "implicit" and hops is not None:
        raise BadValue(f"backward: 'implicit' with hops={hops}, it differentiates the fixed point: give tol")
    return None if hops is None else whole(hops, "hops"), None if tol is None else number(tol, "tol")


def check_given(kernel, teleport, t):
    """What another kernel reads is a mistake; it was given where it is not the default."""
    for name, value, default, owner in (("teleport", teleport, 0.1, "ppr"), ("t", t, 1.0, "heat")):
        if kernel == owner:
            continue
        given = "a tensor" if is_torch(value) else number(value, name)
        if given != default:
            raise BadValue(f"{name}: {given} with kernel {kernel}, only kernel {owner} takes it")


def check_signal(shape, dtype, graph):
    if dtype.removeprefix("torch.") not in ("float64", "float32"):
        raise BadType(f"x: {dtype}, float64 or float32 is wanted")
    if len(shape) not in (1, 2):
        raise BadValue(f"x: {len(shape)} axes, [n] or [n, channels] is wanted")
    rows, cols = graph.shape
    if rows == cols != shape[0]:
        raise BadValue(f"x: {shape[0]} rows for a graph of {rows} x {cols}")


@overload
def diffuse(graph: Graph, x: A, kernel: Kernel = ..., **options: Unpack[DiffuseOptions]) -> DiffuseResult[A]: ...
@overload
def diffuse(graph: Graph, x: Sequence[float] | Sequence[Sequence[float]], kernel: Kernel = ...,
            **options: Unpack[DiffuseOptions]) -> DiffuseResult[Float64]: ...
@overload
def diffuse(graph: Graph, x: SupportsDLPack, kernel: Kernel = ..., **options: Unpack[DiffuseOptions]) -> DiffuseResult[Array]: ...
def diffuse(graph: Graph, x: Any, kernel: Kernel = "ppr", *, teleport: Real | Tensor = 0.1, t: Real | Tensor = 1.0,
            coefficients: Sequence[Real | Tensor] | Float64 | Tensor = (), hops: Int | None = None, tol: Real | None = None,
            normalization: Normalization = "sym", dangling: Dangling = "zero", weights: ArrayLike | None = None,
            backward: Backward = "stored", backend: str = "cpu") -> Any:
    """Spreads a signal x ([n] or [n, c], float64 or float32; NumPy, torch or DLPack on the CPU) over a square graph.

    kernel "ppr": Z_0 = X, Z_{t+1} = (1 - teleport) A Z_t + teleport X; "heat": exp(-t (I - A)) X; "coefficients":
    sum_k c_k A^k X.

    teleport : in [0, 1], for "ppr" alone.
    t : from 0, for "heat" alone.
    coefficients : c_0, c_1, ... for "coefficients" alone.
    hops, tol : a fixed number of hops, or as many as bring the error bound to tol; 1e-6 when neither is given, both is an error.
    normalization : A_ij of the weights W_ij with row sums r_i and column sums c_j: "sym" W_ij / sqrt(r_i c_j), "row" W_ij / r_i,
        "col" W_ij / c_j (keeps the sum of x), "none" W_ij.
    dangling : rows ("row") or columns ("col") without weight stay "zero", get a loop ("self"), spread evenly ("uniform") or go
        back to where x starts ("restart", with "col").
    weights : [nnz] in CSR edge order, instead of the graph's. Negative ones only with "none".
    backward : torch: "stored", "checkpointed" or "implicit" ("ppr" to a tol).
    backend : "cpu", "reference" (plain loops) or "cuda" where the build has it: products run on the device, signals travel there
        and back with each hop. torch tensors on a GPU take "cuda".

    torch: gradients reach x, weights, teleport, t and coefficients (give those as tensors, coefficients also as a list of
    them); under autocast x of 16 bits is taken in float32. Not reaching `tol` is data (``converged``), not an exception. Cost:
    2 nnz c flops a hop, memory linear in tokens and edges; a vertex without edges keeps teleport x ("ppr"). Errors: BadValue,
    naming the argument or the entry; BadType; LimitError.

    Returns a :class:`DiffuseResult`.
    Source: Gasteiger et al., Predict then propagate (2019) and Diffusion improves graph learning (2019).

    >>> import numpy as np, manyhop as mh
    >>> r = mh.diffuse(mh.graph("window(1)", 6), np.eye(6)[0], tol=1e-8, normalization="col")
    >>> r.converged, round(float(r.value.sum()), 6)
    (True, 1.0)
    """
    if not isinstance(graph, Graph):
        raise BadType(f"graph: {type(graph).__name__}, a Graph is wanted")
    some = coefficients if isinstance(coefficients, (list, tuple)) else [coefficients]
    if any(is_torch(value) for value in (x, weights, teleport, t, *some)):
        from . import torch_diffusion

        return torch_diffusion.diffuse(graph, x, kernel, teleport=teleport, t=t, coefficients=coefficients, hops=hops, tol=tol,
                                 normalization=normalization, dangling=dangling, weights=weights, backward=backward, backend=backend)
    hops, tol = check_call(kernel, hops, tol, normalization, dangling, backward, backend)
    check_given(kernel, teleport, t)
    options = _core.diffuse_options(kernel, number(teleport, "teleport"), number(t, "t"), numbers(coefficients, "coefficients"),
                                    hops, tol, normalization, dangling)
    array = to_numpy(x, "x")
    check_signal(array.shape, str(array.dtype.newbyteorder("=")), graph)
    if weights is not None:
        graph = graph.with_weights(weights)
    array = readable(array, "x")
    matrix = array if array.ndim == 2 else array[:, None]
    value = _settings.empty(matrix.shape, array.dtype, "the result")
    hops, residual, bound, converged = _core.diffuse(graph._core, matrix, value, options, 0, _settings._limit, backend)
    return DiffuseResult(value.reshape(array.shape), hops, residual, bound, converged)

"""Diffusion as a torch operator: autograd, torch.compile, fake tensors; :func:`manyhop.diffuse` calls it."""

from typing import List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from . import _core, _diffusion, _settings
from ._check import numbers as list_of_numbers, to_numpy
from ._diffusion import DiffuseResult
from ._graph import _by_number
from ._operator import in_transform, operator, refuse_tangents
from ._tensors import array_of, cast, cores_of, dense_tensor, on_device, one_number, real_tensor, room
from .errors import BadType, BadValue


def _diffuse_options(kernel, numbers, hops, tol, normalization, dangling):
    given = {"ppr": (numbers[0] if kernel == "ppr" else 0.1, 1.0, []),
             "heat": (0.1, numbers[0] if kernel == "heat" else 1.0, []),
             "coefficients": (0.1, 1.0, numbers)}.get(kernel, (0.1, 1.0, []))
    return _core.diffuse_options(kernel, *given, hops, tol, normalization, dangling)


def _weighted(number, weights):
    core = cores_of([number])[0]
    return core if weights is None else core.with_weights(np.ascontiguousarray(array_of(weights), dtype=np.float64))


@operator("manyhop::diffuse")
def _diffuse(x: Tensor, weights: Optional[Tensor], numbers: Tensor, graph: int, kernel: str, hops: Optional[int],
             tol: Optional[float], normalization: str, dangling: str, backward: str, backend: str) -> Tuple[Tensor, Tensor]:
    options = _diffuse_options(kernel, numbers.tolist(), hops, tol, normalization, dangling)
    with room(x, x.shape, x.dtype, "the result"):
        z = torch.empty(x.shape, dtype=x.dtype)
    told = _core.diffuse(_weighted(graph, weights), array_of(x), array_of(z), options, torch.get_num_threads(), _settings._limit,
                         backend)
    return z, torch.tensor([float(value) for value in told], dtype=torch.float64)


@_diffuse.register_fake
def _(x, weights, numbers, graph, kernel, hops, tol, normalization, dangling, backward, backend):
    return x.new_empty(x.shape), x.new_empty((4,), dtype=torch.float64)


@operator("manyhop::diffuse_backward")
def _diffuse_backward(g: Tensor, x: Tensor, weights: Optional[Tensor], numbers: Tensor, told: Tensor, graph: int, kernel: str,
                      hops: Optional[int], tol: Optional[float], normalization: str, dangling: str, backward: str,
                      backend: str, needed: List[bool]) -> Tuple[Tensor, Tensor, Tensor]:
    if backward != "implicit":
        # The derivative by t is one power of A ahead of the value: the hop that it wants comes on top of the tolerance's.
        ahead = 1 if kernel == "heat" and hops is None else 0
        hops, tol = int(told[0]) + ahead, None
    options = _diffuse_options(kernel, numbers.tolist(), hops, tol, normalization, dangling)
    dx = torch.empty(x.shape, dtype=x.dtype) if needed[0] else x.new_empty(0)
    core = _weighted(graph, weights)
    by_edge, rate, time, by_hop = _core.diffuse_backward(core, array_of(x), array_of(g), options, backward,
                                                         array_of(dx) if needed[0] else None, needed[1],
                                                         torch.get_num_threads(), _settings._limit, backend)
    by_edge = torch.from_numpy(np.array(by_edge)) if needed[1] else torch.empty(0, dtype=torch.float64)
    dnumbers = torch.tensor({"ppr": [rate], "heat": [time]}.get(kernel, list(by_hop)), dtype=torch.float64)
    return dx, by_edge, dnumbers


@_diffuse_backward.register_fake
def _(g, x, weights, numbers, told, graph, kernel, hops, tol, normalization, dangling, backward, backend, needed):
    return (x.new_empty(x.shape if needed[0] else (0,)),
            x.new_empty(weights.shape if needed[1] else (0,), dtype=torch.float64),
            numbers.new_empty(numbers.shape, dtype=torch.float64))


_diffuse_backward.refuse_autograd("diffuse")


def _setup_diffuse(ctx, inputs, output):
    x, weights, numbers, graph, *given = inputs
    ctx.save_for_backward(x, weights, numbers, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.given = (graph, *given)
    ctx.alive = _by_number.get(graph) if isinstance(graph, int) else None


def _backward_diffuse(ctx, g, _):
    refuse_tangents(g)
    x, weights, numbers, told = ctx.saved_tensors
    needed = [bool(ctx.needs_input_grad[0]), bool(ctx.needs_input_grad[1]) and weights is not None]
    dx, dweights, dnumbers = _diffuse_backward(g, x, weights, numbers, told, *ctx.given, needed)
    return (dx if needed[0] else None, dweights.to(weights.dtype) if needed[1] else None,
            dnumbers.to(numbers.dtype) if ctx.needs_input_grad[2] else None) + (None,) * 8


_diffuse.register_autograd(_backward_diffuse, setup_context=_setup_diffuse)


def _coefficients(values):
    """A tensor [k]; of a list that holds tensors too, so that gradients reach them."""
    if isinstance(values, (list, tuple)):
        parts = [one_number(value, f"coefficients[{i}]").to(torch.float64).reshape(()).cpu() for i, value in enumerate(values)]
        return torch.stack(parts) if parts else torch.zeros(0, dtype=torch.float64)
    if not isinstance(values, Tensor):
        return torch.tensor(list_of_numbers(values, "coefficients"), dtype=torch.float64)
    if values.is_complex() or values.dim() > 1:
        raise BadType(f"coefficients: {values.dtype} of shape {list(values.shape)}, real numbers [k] are wanted")
    return values


def diffuse(graph, x, kernel="ppr", *, teleport=0.1, t=1.0, coefficients=(), hops=None, tol=None, normalization="sym",
            dangling="zero", weights=None, backward="stored", backend="cpu"):
    """:func:`manyhop.diffuse` on torch tensors; gradients reach x, weights, and teleport, t or coefficients given as tensors.

    While torch.compile traces and inside torch.func, hops, residual, bound and converged are tensors.
    """
    hops, tol = _diffusion.check_call(kernel, hops, tol, normalization, dangling, backward, backend)
    _diffusion.check_given(kernel, teleport, t)
    numbers = {"ppr": one_number(teleport, "teleport"), "heat": one_number(t, "t"), "coefficients": _coefficients(coefficients)}
    if kernel != "coefficients" and numbers["coefficients"].numel():
        raise BadValue(f"coefficients: {numbers['coefficients'].numel()} are given, only kernel coefficients takes them")
    numbers = numbers[kernel].reshape(-1).cpu()
    if not isinstance(x, Tensor):
        array = to_numpy(x, "x")
        _diffusion.check_signal(array.shape, str(array.dtype.newbyteorder("=")), graph)
        with _settings.room(array.size * array.itemsize, "a copy of x"):
            x = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    x = dense_tensor(x, "x", cuda=True)
    lower = torch.is_autocast_enabled("cuda" if x.is_cuda else "cpu") and x.dtype in (torch.bfloat16, torch.float16)
    if torch.compiler.is_compiling():
        if x.dtype not in (torch.float64, torch.float32) and not lower:
            raise BadType(f"x: {x.dtype}, float64 or float32 is wanted")
        if x.dim() not in (1, 2):
            raise BadValue(f"x: {x.dim()} axes, [n] or [n, channels] is wanted")
    else:
        _diffusion.check_signal(tuple(x.shape), "float32" if lower else str(x.dtype), graph)
    if lower:
        x = cast(x, torch.float32, "x")
    refuse_tangents(x, weights, numbers)
    given = x
    if x.is_cuda:  # the device has the graph; signals travel
        backend, x = "cuda", x.cpu()
    if weights is not None:
        def check(shape):
            if len(shape) != 1:
                raise BadValue(f"weights: {len(shape)} axes, 1 is wanted")
            if not torch.compiler.is_compiling() and shape[0] != graph.nnz:
                raise BadValue(f"weights: {shape[0]} entries for {graph.nnz} edges")

        weights = cast(real_tensor(weights, "weights", x, check), torch.float64, "weights")
    shape = x.shape
    with on_device(given):
        z, told = _diffuse(x.reshape(-1, 1) if x.dim() == 1 else x, weights, numbers, graph._number, kernel, hops,
                           tol, normalization, dangling, backward, backend)
    z = z.reshape(shape).to(given.device)
    if torch.compiler.is_compiling() or in_transform():
        return DiffuseResult(z, told[0], told[1], told[2], told[3])
    hops, residual, bound, converged = told.tolist()
    return DiffuseResult(z, int(hops), residual, bound, bool(converged))

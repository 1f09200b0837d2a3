"""SparseK as torch operators: autograd, fake tensors, torch.compile."""

from typing import List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from . import _core, _settings
from ._operator import operator, refuse_tangents
from ._check import number, real
from ._sparsek import Selection, jvp_of_k, ragged
from ._sparsek_attention import attention_arguments, attention_options, check_shapes
from .errors import BadType, BadValue
from ._tensors import DTYPES, array_of, autocast, cast, dense_tensor, on_device, real_type, room, same_types, stream_of


@operator("manyhop::sparsek", waits=True)
def _sparsek(z: Tensor, k: Tensor, offsets: Optional[Tensor], temperature: float, ordered: bool) -> Tuple[Tensor, Tensor]:
    with room(z, z.shape, z.dtype, "the result"):
        p = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    tau = torch.empty(k.shape, dtype=torch.float64, device=z.device)
    cuts = None if offsets is None else ragged(offsets.cpu().numpy(), z.numel())
    with on_device(z):  # k of each row is read on the host
        _core.sparsek(array_of(z), 0.0, array_of(p), np.ascontiguousarray(array_of(k.cpu())), cuts, temperature, array_of(tau), ordered,
                      torch.get_num_threads(), stream_of(z))
    return p, tau


@_sparsek.register_fake
def _(z, k, offsets, temperature, ordered):
    return z.new_empty(z.shape), z.new_empty(k.shape, dtype=torch.float64)


@operator("manyhop::sparsek_backward")
def _sparsek_backward(p: Tensor, g: Tensor, k: Tensor, offsets: Optional[Tensor],
                      temperature: float) -> Tuple[Tensor, Tensor]:
    dz = torch.empty(p.shape, dtype=p.dtype, device=p.device)
    dk = torch.empty(k.shape, dtype=torch.float64, device=p.device)
    cuts = None if offsets is None else ragged(offsets.cpu().numpy(), p.numel())
    with on_device(p):
        _core.sparsek_vjp(array_of(p), array_of(g), array_of(dz), array_of(dk), cuts, temperature, torch.get_num_threads(), stream_of(p))
    return dz, dk.to(k.device)


@_sparsek_backward.register_fake
def _(p, g, k, offsets, temperature):
    return p.new_empty(p.shape), k.new_empty(k.shape)


_sparsek_backward.refuse_autograd("sparsek")


def _setup_sparsek(ctx, inputs, output):
    _, k, offsets, ctx.temperature, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[0], k, offsets)


def _backward_sparsek(ctx, g, _):
    refuse_tangents(g)
    p, k, offsets = ctx.saved_tensors
    dz, dk = _sparsek_backward(p, g, k, offsets, ctx.temperature)
    return dz, dk if ctx.needs_input_grad[1] else None, None, None, None


_sparsek.register_autograd(_backward_sparsek, setup_context=_setup_sparsek)


def sparsek_jvp(p, dz, dk, temperature, offsets):
    """:func:`manyhop.sparsek_jvp` on torch tensors."""
    refuse_tangents(p, dz, dk)
    gates, change = known(p, "p").detach(), known(dz, "dz").detach()
    if gates.shape != change.shape or p.dtype != dz.dtype or gates.device != change.device or gates.dim() < 1:
        raise BadValue(f"dz: {dz.dtype} {list(dz.shape)} on {dz.device} where p is {p.dtype} {list(p.shape)} on {p.device}")
    shape = gates.shape
    flat = (gates.numel(),) if offsets is not None else (shape[:-1].numel(), shape[-1])
    rows, change = rows_of(gates, flat, "p"), rows_of(change, flat, "dz")
    cuts = None if offsets is None else ragged(offsets, rows.numel())
    with room(rows, flat, rows.dtype, "the result"):
        out = torch.empty(flat, dtype=rows.dtype, device=rows.device)
    with on_device(rows):
        _core.sparsek_jvp(array_of(rows), array_of(change), array_of(out), jvp_of_k(dk, rows, cuts), cuts,
                          temperature, torch.get_num_threads(), stream_of(rows))
    return out.reshape(shape).to(p.dtype)


def known(z, name):
    """Of a type that is computed in; float16 as float32."""
    z = dense_tensor(z, name, cuda=True)
    if z.dtype == torch.float16:
        return cast(z, torch.float32, name)
    if z.dtype not in DTYPES:
        raise BadType(f"{name}: {z.dtype}, expected float64, float32, bfloat16 or float16")
    return z


def rows_of(z, shape, name):
    """z in that shape; what a copy takes, where the axes cannot be joined, is within the memory limit."""
    if torch.compiler.is_compiling() or z.is_contiguous():
        return z.reshape(shape)
    with room(z, z.shape, z.dtype, f"a copy of {name}"):
        return z.reshape(shape)


def check_real(x, name):
    if x.is_complex():
        raise BadType(f"{name}: {x.dtype}, real numbers are wanted")


def sparsek(z, k, *, temperature=1.0, offsets=None, method="linear", return_tau=False):
    """:func:`manyhop.sparsek` on torch tensors."""
    given, z = z, known(z, "z")
    if z.dim() < 1:
        raise BadValue("z: a single number, at least one axis is wanted")
    shape = z.shape
    if offsets is None:
        flat = rows_of(z, (shape[:-1].numel(), shape[-1]), "z")
        count = flat.shape[0]
    else:
        flat = rows_of(z, (z.numel(),), "z")
        if not isinstance(offsets, Tensor):
            offsets = torch.from_numpy(ragged(offsets, flat.shape[0]))
        elif offsets.dtype != torch.int64 or offsets.dim() != 1 or not offsets.numel():
            raise BadType(f"offsets: {offsets.dtype} of shape {list(offsets.shape)}, int64 [rows + 1] is wanted")
        count = offsets.numel() - 1
    if isinstance(k, np.ndarray) and k.ndim == 0:
        k = number(k, "k", 0)
    if isinstance(k, Tensor):
        check_real(k, "k")
        rows = k.to(torch.float64).reshape(-1)
        if rows.numel() not in (1, count):
            raise BadValue(f"k: {rows.numel()} numbers for {count} rows")
        rows = rows.expand(count)
    elif isinstance(k, (list, tuple, np.ndarray)):
        rows = torch.from_numpy(np.array(real(k, "k", np.float64))).reshape(-1)
        if rows.numel() != count:
            raise BadValue(f"k: {rows.numel()} numbers for {count} rows")
    else:
        rows = torch.full((count,), number(k, "k", 0), dtype=torch.float64)
    refuse_tangents(z, rows)
    p, tau = _sparsek(flat, rows, offsets, temperature, method == "sorted")
    p = p.reshape(shape).to(given.dtype)
    return (p, tau if offsets is not None else tau.reshape(shape[:-1])) if return_tau else p


def causal_sparsek(scores, k, cap, temperature):
    """:func:`manyhop.causal_sparsek` of a tensor; without gradients."""
    scores = dense_tensor(scores.detach(), "scores", cuda=True)
    check_real(scores, "scores")
    if scores.dim() not in (1, 2):
        raise BadValue(f"scores: {scores.dim()} axes, 1 or 2 are wanted")
    kind = real_type(scores.dtype) if scores.is_floating_point() else torch.float64
    rows = cast(scores, kind, "scores").reshape(scores.shape[0] if scores.dim() == 2 else 1, scores.shape[-1])
    with on_device(rows):
        found = _core.causal_selections(array_of(rows), k, cap, temperature, torch.get_num_threads(), stream_of(rows))
    found = [Selection(core) for core in found]
    return found if scores.dim() == 2 else found[0]


@operator("manyhop::sparsek_attention", waits=True)
def _attention(q: Tensor, k: Tensor, v: Tensor, scores: Tensor, keys: float, cap: Optional[int], temperature: float, window: int,
               sinks: int, gate: str, hops: int, teleport: float, scale: Optional[float]) -> Tensor:
    check_shapes(q.shape, k.shape, v.shape, scores.shape)
    options = attention_options(keys, cap, temperature, window, sinks, gate, hops, teleport, scale)
    shape = (*q.shape[:3], v.shape[3])
    with room(q, shape, q.dtype, "the result"):
        out = q.new_empty(shape)
    with on_device(q):
        _core.sparsek_attention(array_of(q), array_of(k), array_of(v), array_of(scores), array_of(out), options, torch.get_num_threads(),
                                _settings._limit, stream_of(q))
    return out


@_attention.register_fake
def _(q, k, v, scores, keys, cap, temperature, window, sinks, gate, hops, teleport, scale):
    check_shapes(q.shape, k.shape, v.shape, scores.shape)
    return q.new_empty((*q.shape[:3], v.shape[3]))


@operator("manyhop::sparsek_attention_backward", waits=True)
def _attention_backward(g: Tensor, q: Tensor, k: Tensor, v: Tensor, scores: Tensor, keys: float, cap: Optional[int],
                        temperature: float, window: int, sinks: int, gate: str, hops: int, teleport: float,
                        scale: Optional[float], needed: List[bool]) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    options = attention_options(keys, cap, temperature, window, sinks, gate, hops, teleport, scale)
    grads = [torch.empty_like(x) if want else x.new_empty(0) for x, want in zip((q, k, v, scores), needed)]
    with on_device(q):
        _core.sparsek_attention_backward(array_of(q), array_of(k), array_of(v), array_of(scores), array_of(g),
                                         *(array_of(x) if want else None for x, want in zip(grads, needed)), options,
                                         torch.get_num_threads(), _settings._limit, stream_of(q))
    return tuple(grads)


@_attention_backward.register_fake
def _(g, q, k, v, scores, keys, cap, temperature, window, sinks, gate, hops, teleport, scale, needed):
    return tuple(torch.empty_like(x) if want else x.new_empty(0) for x, want in zip((q, k, v, scores), needed))


_attention_backward.refuse_autograd("sparsek_attention")


def _setup_attention(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])
    ctx.given = inputs[4:]


def _backward_attention(ctx, g):
    refuse_tangents(g)
    needed = [bool(x) for x in ctx.needs_input_grad[:4]]
    grads = _attention_backward(g, *ctx.saved_tensors, *ctx.given, needed)
    return (*(x if want else None for x, want in zip(grads, needed)),) + (None,) * 9


_attention.register_autograd(_backward_attention, setup_context=_setup_attention)


def sparsek_attention(q, k, v, scores, *, keys=64, cap=None, window=0, sinks=0, gate="values", temperature=1.0, hops=1,
                      teleport=0.0, scale=None):
    """:func:`manyhop.sparsek_attention` on torch tensors."""
    q = dense_tensor(q, "q", cuda=True)
    k, v, scores = (dense_tensor(x, name, q, cuda=True) for name, x in (("k", k), ("v", v), ("scores", scores)))
    refuse_tangents(q, k, v, scores)
    check_real(scores, "scores")
    for name, x, axes in (("q", q, 4), ("k", k, 4), ("v", v, 4), ("scores", scores, 3)):
        if x.dim() != axes:
            raise BadValue(f"{name}: {x.dim()} axes, {axes} are wanted")
    check_shapes(q.shape, k.shape, v.shape, scores.shape)
    q, k, v, kind = same_types(*autocast(q, k, v))
    given = attention_arguments(keys, cap, temperature, window, sinks, gate, hops, teleport, scale)
    return _attention(q, k, v, cast(scores, real_type(q.dtype), "scores"), *given).to(kind)

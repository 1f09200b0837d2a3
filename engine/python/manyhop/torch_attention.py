"""Attention as a torch operator: autograd, autocast, torch.compile, fake tensors.

The operators ``torch.ops.manyhop.*`` name graphs by number, since operators take tensors and plain values only;
:func:`manyhop.attention` calls this one.
"""

from typing import List, Optional, Tuple

import torch
from torch import Tensor

from . import _core, _settings
from ._attention import (_graphs, as_bhsd, check_call, check_edge_axes, check_edge_shape, check_numbers, make_options, plan_shape,
                         weight_shape)
from ._graph import Graph, _by_number
from ._operator import in_transform, operator, refuse_tangents
from ._tensors import (DTYPES, array_of, autocast, cast, cores_of, dense_tensor, in_a_row, on_device, one_number, optional_array,
                       real_tensor, real_type, room, same_types, stream_of)
from .errors import BadType, BadValue


def _number(value, tensor):
    return value if tensor is None else float(tensor)


def _whole(values, tensor):
    return values if tensor is None else [int(x) for x in tensor.tolist()]


def tf32_is_wanted():
    """Torch's own switch for its products in float32, by whichever of its names was used."""
    switches = torch.backends.cuda.matmul
    precision = getattr(switches, "fp32_precision", None)  # the older name raises where this one was set
    return switches.allow_tf32 if precision is None else precision == "tf32"


# Whether whole programs (fullgraph=True) take an operator whose output's size follows from which graph it is.
_SIZES_MAY_BE_UNKNOWN = torch.__version__ >= (2, 10)

# What a block of the pool, by its address, held last: blocks come back of the same size.
_laid_out = {}


class _Call:
    """What forward, backward and their fake versions share."""

    def __init__(self, q, k, v, graphs, hops, teleport, scale, lengths, dropout_p, hop_dropout_p, seed, backward, reorder,
                 backend, train):
        self.cores = cores_of(graphs)
        if len(self.cores) > 1 and len(self.cores) != q.shape[1]:
            raise BadValue(f"graph: a list of {len(self.cores)} for {q.shape[1]} heads, one graph or one for each head is wanted")
        sizes = [tuple(int(s) for s in x.shape) for x in (q, k, v)]
        self.b, self.h, kv, d, self.dv = plan_shape(*sizes, self.cores)
        self.n = sizes[0][2]
        self.options = make_options(hops, teleport, scale, lengths, dropout_p, hop_dropout_p, seed, self.b, backward,
                                    torch.get_num_threads())
        self.options.stream = stream_of(q)
        self.laid_out = (tuple(graphs), *sizes, q.dtype, hops, tuple(self.options.lengths), backward, reorder, backend)
        with on_device(q):
            self.plan = self._plan(q, kv, d, hops, train, reorder, backend)

    def _plan(self, q, kv, d, hops, train, reorder, backend):
        tf32 = backend == "cuda" and q.dtype == torch.float32 and tf32_is_wanted()
        return _core.plan(self.cores, batch=self.b, heads=self.h, kv_heads=kv, head_dim=d, value_dim=self.dv,
                          dtype=DTYPES[q.dtype], hops=hops, backward=train, reorder=reorder, backend=backend, tf32=tf32,
                          deterministic=backend == "cuda" and torch.are_deterministic_algorithms_enabled(),
                          threads=self.options.threads, memory_limit=self.options.memory_limit)

    def outputs(self, q, layout, want_lse, want_weights, keep, pooled=False):
        out = _empty_like_layout(q, (self.b, self.h, self.n, self.dv), layout)
        real = real_type(q.dtype)
        lse = q.new_empty((self.b, self.h, self.n) if want_lse else (0,), dtype=real)
        shape = weight_shape(self.cores, self.b, self.h) if want_weights else (0,)
        with room(q, shape, real, "weights"):
            weights = q.new_empty(shape, dtype=real)
        size = self.plan.state_bytes(self.options) if keep else 0
        if size and pooled:
            state = torch.from_numpy(_core.pooled_array(size))
            # Between its parts are gaps that nothing writes. They hold zeros, so that equal calls keep equal bytes.
            if _laid_out.get(state.data_ptr()) != self.laid_out:
                state.zero_()
                if len(_laid_out) == 4096:  # blocks that the pool has given up are forgotten with the others
                    _laid_out.clear()
                _laid_out[state.data_ptr()] = self.laid_out
        else:
            state = q.new_empty((size,), dtype=torch.uint8)
        return out, lse, weights, state


def _empty_like_layout(q, shape, layout):
    b, h, s, d = shape
    return q.new_empty(shape) if layout == "bhsd" else q.new_empty((b, s, h, d)).transpose(1, 2)


@operator("manyhop::attention")
def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Optional[Tensor], teleport_tensor: Optional[Tensor],
               seed_tensor: Optional[Tensor], lengths_tensor: Optional[Tensor], graphs: List[int], hops: int, teleport: float,
               scale: Optional[float], lengths: Optional[List[int]], dropout_p: float, hop_dropout_p: float, seed: int,
               layout: str, want_lse: bool, want_weights: bool, keep: bool, backward: str, reorder: str,
               backend: str) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    call = _Call(q, k, v, graphs, hops, _number(teleport, teleport_tensor), scale, _whole(lengths, lengths_tensor), dropout_p,
                 hop_dropout_p, seed if seed_tensor is None else int(seed_tensor), backward, reorder, backend, keep)
    _settings.watch(call.plan)
    out, lse, weights, state = call.outputs(q, layout, want_lse, want_weights, keep, pooled=True)
    with on_device(q):
        _core.attention(call.plan, array_of(q), array_of(k), array_of(v), array_of(out), optional_array(bias),
                        array_of(lse) if want_lse else None, array_of(weights) if want_weights else None,
                        array_of(state) if keep and state.device.type == "cpu" else None, call.options)
    return out, lse, weights, state


@_attention.register_fake
def _(q, k, v, bias, teleport_tensor, seed_tensor, lengths_tensor, graphs, hops, teleport, scale, lengths, dropout_p,
      hop_dropout_p, seed, layout, want_lse, want_weights, keep, backward, reorder, backend):
    if not want_weights and any(isinstance(number, torch.SymInt) for number in graphs):  # a program for any graph
        out = _empty_like_layout(q, (*q.shape[:3], v.shape[3]), layout)
        lse = q.new_empty(q.shape[:3] if want_lse else (0,), dtype=real_type(q.dtype))
        kept = torch.library.get_ctx().new_dynamic_size() if keep and hops and backward == "stored" else 0
        return out, lse, q.new_empty((0,), dtype=lse.dtype), q.new_empty((kept,), dtype=torch.uint8)
    # The size of the state does not depend on the teleport or the seed; beside a tensor of lengths there is none.
    call = _Call(q, k, v, graphs, hops, teleport, scale, lengths, dropout_p, hop_dropout_p, seed, backward, reorder, backend,
                 keep)
    return call.outputs(q, layout, want_lse, want_weights, keep)


@operator("manyhop::attention_backward")
def _attention_backward(g: Tensor, g_lse: Optional[Tensor], q: Tensor, k: Tensor, v: Tensor, bias: Optional[Tensor],
                        teleport_tensor: Optional[Tensor], seed_tensor: Optional[Tensor], lengths_tensor: Optional[Tensor],
                        state: Tensor, graphs: List[int], hops: int, teleport: float, scale: Optional[float],
                        lengths: Optional[List[int]], dropout_p: float, hop_dropout_p: float, seed: int, backward: str,
                        reorder: str, backend: str, needed: List[bool]) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    call = _Call(q, k, v, graphs, hops, _number(teleport, teleport_tensor), scale, _whole(lengths, lengths_tensor), dropout_p,
                 hop_dropout_p, seed if seed_tensor is None else int(seed_tensor), backward, reorder, backend, True)
    grads = _gradients(q, k, v, bias, needed)
    arrays = [array_of(x) if want else None for x, want in zip(grads, needed)]
    call.options.wants_teleport = needed[4]
    with on_device(q):
        if q.is_cuda and g_lse is not None:
            g_lse = g_lse.contiguous()
        rate = _core.attention_backward(call.plan, array_of(q), array_of(k), array_of(v), array_of(g), optional_array(g_lse),
                                        optional_array(bias), *arrays, array_of(state) if state.numel() else None, call.options)
    return (*grads, q.new_full((), rate, dtype=torch.float64))


def _gradients(q, k, v, bias, needed):
    grads = [torch.empty_like(x) if want else x.new_empty(0) for x, want in zip((q, k, v), needed)]
    grads.append(torch.empty_like(bias) if needed[3] else q.new_empty(0, dtype=real_type(q.dtype)))
    return grads


@_attention_backward.register_fake
def _(g, g_lse, q, k, v, bias, teleport_tensor, seed_tensor, lengths_tensor, state, graphs, hops, teleport, scale, lengths,
      dropout_p, hop_dropout_p, seed, backward, reorder, backend, needed):
    return (*_gradients(q, k, v, bias, needed), q.new_empty((), dtype=torch.float64))


_attention_backward.refuse_autograd("attention")


def _setup(ctx, inputs, output):
    (q, k, v, bias, teleport_tensor, seed_tensor, lengths_tensor, graphs, hops, teleport, scale, lengths, dropout_p,
     hop_dropout_p, seed, _, ctx.has_lse, _, _, backward, reorder, backend) = inputs
    _, _, weights, state = output
    ctx.mark_non_differentiable(weights, state)
    ctx.set_materialize_grads(False)  # or autograd makes zeros as large as the state
    ctx.save_for_backward(q, k, v, bias, teleport_tensor, seed_tensor, lengths_tensor, state)
    ctx.given = (graphs, hops, teleport, scale, lengths, dropout_p, hop_dropout_p, seed, backward, reorder, backend)
    # The graphs live as long as something that may still run backward through them.
    ctx.alive = [_by_number.get(number) for number in graphs if isinstance(number, int)]  # else a symbol of a program


def _backward(ctx, g, g_lse, _weights, _state):
    refuse_tangents(g, g_lse)
    q, k, v, bias, teleport_tensor, seed_tensor, lengths_tensor, state = ctx.saved_tensors
    if not ctx.has_lse:
        g_lse = None  # of an empty lse, which AOTAutograd hands on
    if g is None and g_lse is None:
        return (None,) * 22
    if g is None:  # only lse was used
        g = q.new_zeros((*q.shape[:3], v.shape[3]))
    needed = [bool(x) for x in ctx.needs_input_grad[:5]]
    needed[3] = needed[3] and bias is not None
    dq, dk, dv, dbias, dteleport = _attention_backward(
        g, g_lse, q, k, v, bias, teleport_tensor, seed_tensor, lengths_tensor, state, *ctx.given, needed)
    found = [x if want else None for x, want in zip((dq, dk, dv, dbias), needed)]
    rate = dteleport.to(teleport_tensor.dtype).reshape(teleport_tensor.shape) if ctx.needs_input_grad[4] else None
    return (*found, rate) + (None,) * 17


_attention.register_autograd(_backward, setup_context=_setup)


def _lengths(lengths):
    """A tensor [batch] of integers, whose values are looked at when they are used."""
    if lengths.dim() != 1:
        raise BadValue(f"lengths: {lengths.dim()} axes, [batch] is wanted")
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise BadType(f"lengths: {lengths.dtype}, integers are wanted")
    return lengths


def _signed(seed):
    """An integer modulo 2^64 as operators take it, in 64 bits with a sign; make_options undoes it."""
    return seed if -2**63 <= seed < 2**63 else (seed + 2**63) % 2**64 - 2**63


def attention(q, k, v, graph, *, hops=1, teleport=0.0, scale=None, bias=None, lengths=None, dropout_p=0.0, hop_dropout_p=0.0,
              seed=None, layout="bhsd", return_lse=False, return_weights=False, backward="stored", reorder="none",
              backend="cpu"):
    """:func:`manyhop.attention` on torch tensors; gradients reach q, k, v, bias and a teleport given as a tensor."""
    q = dense_tensor(q, "q", cuda=True)
    k, v = dense_tensor(k, "k", q, cuda=True), dense_tensor(v, "v", q, cuda=True)
    check_call(layout, backward, reorder, backend, return_lse, return_weights)
    if q.is_cuda:
        backend = "cuda"
    teleport_tensor = None
    if isinstance(teleport, Tensor):
        teleport_tensor, teleport = one_number(teleport, "teleport"), 0.5
    lengths_tensor = None
    if isinstance(lengths, Tensor) and (torch.compiler.is_compiling() or in_transform()):  # it may have no numbers yet
        lengths_tensor, lengths = _lengths(lengths), None
    *settings, seed = check_numbers(hops, teleport, scale, lengths, dropout_p, hop_dropout_p, seed)
    refuse_tangents(q, k, v, bias, teleport_tensor)
    q_shape, k_shape, v_shape = (as_bhsd(x.shape, layout, name)[1] for name, x in (("q", q), ("k", k), ("v", v)))
    if not torch.compiler.is_compiling():
        plan_shape(q_shape, k_shape, v_shape, _graphs(graph, q_shape[1]))
    q, k, v, given = same_types(*autocast(q, k, v))
    if layout == "thd":
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    elif layout == "bshd":
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if isinstance(graph, Graph):
        graphs = [graph._number]
    elif isinstance(graph, (list, tuple)) and len(graph) > 0 and all(isinstance(g, Graph) for g in graph):
        graphs = [g._number for g in graph]
        if len(graphs) != q.shape[1]:
            raise BadValue(f"graph: a list of {len(graphs)} for {q.shape[1]} heads, one graph or one for each head is wanted")
    else:
        raise BadType(f"graph: {type(graph).__name__}, a Graph or a list of one for each head is wanted")
    if bias is not None:
        def check(shape):
            check_edge_axes(len(shape), "bias")
            if not torch.compiler.is_compiling():  # where the operator's own check has to do
                check_edge_shape(shape, _graphs(graph, q_shape[1]), q_shape[0], q_shape[1], "bias")

        bias = in_a_row(cast(real_tensor(bias, "bias", q, check), real_type(q.dtype), "bias"), "bias")
    seed_tensor = None
    if seed is None:
        seed = 0
        if dropout_p or hop_dropout_p:
            seed_tensor = torch.randint(0, 2**62, (1,), dtype=torch.int64)
    else:
        seed = _signed(seed)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, bias, teleport_tensor))
    if lengths_tensor is not None or (torch.compiler.is_compiling() and not _SIZES_MAY_BE_UNKNOWN):
        keep = False  # the size of what is kept follows from the lengths, or the graph; backward makes it again
    out, lse, weights, _ = _attention(
        q, k, v, bias, teleport_tensor, seed_tensor, lengths_tensor, graphs, *settings, seed, layout, bool(return_lse),
        bool(return_weights), keep, backward, reorder, backend)
    if layout == "thd":
        out, lse = out.squeeze(0).transpose(0, 1), lse.squeeze(0) if return_lse else lse
        weights = weights.squeeze(0) if weights.dim() == 3 else weights
    elif layout == "bshd":
        out = out.transpose(1, 2)
    if given == torch.float16:
        out = out.to(given)
    found = (out,) + ((lse,) if return_lse else ()) + ((weights,) if return_weights else ())
    return found[0] if len(found) == 1 else found

"""Attention and diffusion as torch operators: autograd, autocast, torch.compile, fake tensors.

The operators ``torch.ops.manyhop.*`` name graphs by number, since operators take tensors and plain values only;
:func:`manyhop.attention` and :func:`manyhop.diffuse` call them.
"""

import contextlib
import math
from typing import List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from . import _core, _diffusion, _settings
from ._attention import (_graphs, as_bhsd, check_call, check_edge_axes, check_edge_shape, check_numbers, make_options, plan_shape,
                         weight_shape)
from ._check import number, numbers as list_of_numbers, real, to_numpy
from ._diffusion import DiffuseResult
from ._graph import Graph, _by_number
from ._operator import in_transform, operator, refuse_tangents
from .errors import BadType, BadValue, Error

_DTYPES = {torch.float64: "f64", torch.float32: "f32", torch.bfloat16: "bf16"}


def _cores(numbers):
    graphs = [_by_number.get(int(number)) for number in numbers]  # while torch traces, numbers may be symbols
    if any(g is None for g in graphs):
        raise Error("graph: deleted while a compiled program or a backward pass still names it; keep a reference to it")
    return [g._core for g in graphs]


def _real(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def _array(tensor):
    """What the extension takes: no copy, no gradient. bfloat16 has no NumPy type and goes as its bits; what lies on a GPU
    goes as it is (DLPack)."""
    tensor = tensor.detach()
    if tensor.is_cuda:
        return tensor
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.numpy()


def on_device(tensor):
    """Where plans are made and calls run: the GPU that a tensor lies on, or nowhere in particular."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def stream_of(tensor):
    """What a call on a GPU's tensors is queued on; None on the CPU."""
    return torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else None


def room(like, shape, dtype, what):
    """As of _settings, for a tensor beside one on the CPU; a tracer's takes none."""
    if torch.compiler.is_compiling() or type(like) not in (Tensor, torch.nn.Parameter) or like.device.type != "cpu":
        return contextlib.nullcontext()
    return _settings.room(math.prod(shape) * dtype.itemsize, what)


def cast(x, dtype, name):
    """The tensor in that type, its copy within the memory limit."""
    if torch.compiler.is_compiling() or x.dtype == dtype:
        return x.to(dtype)
    with room(x, x.shape, dtype, f"a copy of {name}"):
        return x.to(dtype)


def in_a_row(x, name):
    """The tensor contiguous, its copy within the memory limit."""
    if torch.compiler.is_compiling() or x.is_contiguous():
        return x.contiguous()
    with room(x, x.shape, x.dtype, f"a copy of {name}"):
        return x.contiguous()


def _optional(tensor):
    return None if tensor is None else _array(tensor)


def _number(value, tensor):
    return value if tensor is None else float(tensor)


def _whole(values, tensor):
    return values if tensor is None else [int(x) for x in tensor.tolist()]


def tf32_is_wanted():
    """Torch's own switch for its products in float32, by whichever of its names was used."""
    switches = torch.backends.cuda.matmul
    precision = getattr(switches, "fp32_precision", None)  # the older name raises where this one was set
    return switches.allow_tf32 if precision is None else precision == "tf32"


# What a block of the pool, by its address, held last: blocks come back of the same size.
_laid_out = {}


class _Call:
    """What forward, backward and their fake versions share."""

    def __init__(self, q, k, v, graphs, hops, teleport, scale, lengths, dropout_p, hop_dropout_p, seed, backward, reorder,
                 backend, train):
        self.cores = _cores(graphs)
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
                          dtype=_DTYPES[q.dtype], hops=hops, backward=train, reorder=reorder, backend=backend, tf32=tf32,
                          deterministic=backend == "cuda" and torch.are_deterministic_algorithms_enabled(),
                          threads=self.options.threads, memory_limit=self.options.memory_limit)

    def outputs(self, q, layout, want_lse, want_weights, keep, pooled=False):
        out = _empty_like_layout(q, (self.b, self.h, self.n, self.dv), layout)
        real = _real(q.dtype)
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
        _core.attention(call.plan, _array(q), _array(k), _array(v), _array(out), _optional(bias),
                        _array(lse) if want_lse else None, _array(weights) if want_weights else None,
                        _array(state) if state.numel() else None, call.options)
    return out, lse, weights, state


@_attention.register_fake
def _(q, k, v, bias, teleport_tensor, seed_tensor, lengths_tensor, graphs, hops, teleport, scale, lengths, dropout_p,
      hop_dropout_p, seed, layout, want_lse, want_weights, keep, backward, reorder, backend):
    if not want_weights and any(isinstance(number, torch.SymInt) for number in graphs):  # a program for any graph
        out = _empty_like_layout(q, (*q.shape[:3], v.shape[3]), layout)
        lse = q.new_empty(q.shape[:3] if want_lse else (0,), dtype=_real(q.dtype))
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
    arrays = [_array(x) if want else None for x, want in zip(grads, needed)]
    call.options.wants_teleport = needed[4]
    with on_device(q):
        if q.is_cuda and g_lse is not None:
            g_lse = g_lse.contiguous()
        rate = _core.attention_backward(call.plan, _array(q), _array(k), _array(v), _array(g), _optional(g_lse),
                                        _optional(bias), *arrays, _array(state) if state.numel() else None, call.options)
    return (*grads, q.new_full((), rate, dtype=torch.float64))


def _gradients(q, k, v, bias, needed):
    grads = [torch.empty_like(x) if want else x.new_empty(0) for x, want in zip((q, k, v), needed)]
    grads.append(torch.empty_like(bias) if needed[3] else q.new_empty(0, dtype=_real(q.dtype)))
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


def _tensor(x, name, like=None, cuda=False):
    if not isinstance(x, Tensor):
        raise BadType(f"{name}: {type(x).__name__} beside torch tensors, a tensor is wanted")
    if x.device.type == "cuda" and not cuda:
        raise BadType(f"{name}: on {x.device}, this call runs on the CPU: move it with .cpu()")
    if x.device.type not in ("cpu", "meta", "cuda"):
        raise BadType(f"{name}: on {x.device}, this build runs on the CPU: move it with .cpu()")
    if x.device.type == "cuda" and "cuda" not in _core.available_backends():
        raise BadType(f"{name}: on {x.device}, this build runs on the CPU: move it with .cpu()")
    if like is not None and x.device != like.device:
        raise BadType(f"{name}: on {x.device} where q is on {like.device}")
    if x.layout != torch.strided or x.is_nested:
        raise BadType(f"{name}: {'a nested tensor' if x.is_nested else f'layout {x.layout}'}, a dense tensor is wanted")
    return x


def _reals(values, name, like, check):
    """A dense tensor of real numbers, moved to where `like` is; other kinds are copied after check(shape)."""
    if not isinstance(values, Tensor):
        found = real(values, name)
        check(found.shape)
        dtype = np.dtype(np.float32 if found.dtype == np.float32 else np.float64)
        with _settings.room(found.size * dtype.itemsize, f"a copy of {name}"):
            values = torch.from_numpy(np.array(found, dtype=dtype))
    if not values.is_nested:  # which has no shape
        check(values.shape)
    if values.layout != torch.strided or values.is_nested or values.is_complex():
        raise BadType(f"{name}: {values.dtype} of layout {values.layout}, a dense tensor of real numbers is wanted")
    return values.to(like.device)


def autocast(*tensors):
    """The tensors in the type of a surrounding torch.autocast; float64 stays."""
    kind = "cuda" if tensors[0].is_cuda else "cpu"
    if not torch.is_autocast_enabled(kind):
        return tensors
    lower = torch.get_autocast_dtype(kind)
    return tuple(cast(x, lower, "an input") if x.dtype != torch.float64 and x.is_floating_point() else x for x in tensors)


def same_types(q, k, v):
    """q, k, v of one type, float16 as float32; and the type they came in, which the result has."""
    for name, x in (("k", k), ("v", v)):
        if x.dtype != q.dtype:
            raise BadType(f"{name}: {x.dtype} where q is {q.dtype}")
    given = q.dtype
    if given == torch.float16:
        q, k, v = (cast(x, torch.float32, name) for x, name in ((q, "q"), (k, "k"), (v, "v")))
    if q.dtype not in _DTYPES:
        raise BadType(f"q: {q.dtype}, expected float64, float32, bfloat16 or float16")
    return q, k, v, given


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
    q = _tensor(q, "q", cuda=True)
    k, v = _tensor(k, "k", q, cuda=True), _tensor(v, "v", q, cuda=True)
    check_call(layout, backward, reorder, backend, return_lse, return_weights)
    if q.is_cuda:
        backend = "cuda"
    teleport_tensor = None
    if isinstance(teleport, Tensor):
        teleport_tensor, teleport = _one(teleport, "teleport"), 0.5
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

        bias = in_a_row(cast(_reals(bias, "bias", q, check), _real(q.dtype), "bias"), "bias")
    seed_tensor = None
    if seed is None:
        seed = 0
        if dropout_p or hop_dropout_p:
            seed_tensor = torch.randint(0, 2**62, (1,), dtype=torch.int64)
    else:
        seed = _signed(seed)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, bias, teleport_tensor))
    if lengths_tensor is not None:
        keep = False  # the size of what is kept follows from the lengths; backward makes it again
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


def _diffuse_options(kernel, numbers, hops, tol, normalization, dangling):
    given = {"ppr": (numbers[0] if kernel == "ppr" else 0.1, 1.0, []),
             "heat": (0.1, numbers[0] if kernel == "heat" else 1.0, []),
             "coefficients": (0.1, 1.0, numbers)}.get(kernel, (0.1, 1.0, []))
    return _core.diffuse_options(kernel, *given, hops, tol, normalization, dangling)


def _weighted(number, weights):
    core = _cores([number])[0]
    return core if weights is None else core.with_weights(np.ascontiguousarray(_array(weights), dtype=np.float64))


@operator("manyhop::diffuse")
def _diffuse(x: Tensor, weights: Optional[Tensor], numbers: Tensor, graph: int, kernel: str, hops: Optional[int],
             tol: Optional[float], normalization: str, dangling: str, backward: str, backend: str) -> Tuple[Tensor, Tensor]:
    options = _diffuse_options(kernel, numbers.tolist(), hops, tol, normalization, dangling)
    with room(x, x.shape, x.dtype, "the result"):
        z = torch.empty(x.shape, dtype=x.dtype)
    told = _core.diffuse(_weighted(graph, weights), _array(x), _array(z), options, torch.get_num_threads(), _settings._limit,
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
    by_edge, rate, time, by_hop = _core.diffuse_backward(core, _array(x), _array(g), options, backward,
                                                         _array(dx) if needed[0] else None, needed[1],
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


def _one(value, name):
    """A tensor of one number."""
    if not isinstance(value, Tensor):
        return torch.tensor(number(value, name), dtype=torch.float64)
    if value.is_complex():
        raise BadType(f"{name}: {value.dtype}, a real number is wanted")
    if value.numel() != 1:
        raise BadValue(f"{name}: {value.numel()} values, one is wanted")
    return value


def _coefficients(values):
    """A tensor [k]; of a list that holds tensors too, so that gradients reach them."""
    if isinstance(values, (list, tuple)):
        parts = [_one(value, f"coefficients[{i}]").to(torch.float64).reshape(()).cpu() for i, value in enumerate(values)]
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
    numbers = {"ppr": _one(teleport, "teleport"), "heat": _one(t, "t"), "coefficients": _coefficients(coefficients)}
    if kernel != "coefficients" and numbers["coefficients"].numel():
        raise BadValue(f"coefficients: {numbers['coefficients'].numel()} are given, only kernel coefficients takes them")
    numbers = numbers[kernel].reshape(-1).cpu()
    if not isinstance(x, Tensor):
        array = to_numpy(x, "x")
        _diffusion.check_signal(array.shape, str(array.dtype.newbyteorder("=")), graph)
        with _settings.room(array.size * array.itemsize, "a copy of x"):
            x = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    x = _tensor(x, "x", cuda=True)
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

        weights = cast(_reals(weights, "weights", x, check), torch.float64, "weights")
    shape = x.shape
    with on_device(given):
        z, told = _diffuse(x.reshape(-1, 1) if x.dim() == 1 else x, weights, numbers, graph._number, kernel, hops,
                           tol, normalization, dangling, backward, backend)
    z = z.reshape(shape).to(given.device)
    if torch.compiler.is_compiling() or in_transform():
        return DiffuseResult(z, told[0], told[1], told[2], told[3])
    hops, residual, bound, converged = told.tolist()
    return DiffuseResult(z, int(hops), residual, bound, bool(converged))

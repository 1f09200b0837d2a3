"""Sparse attention with K hops of diffusion, on NumPy arrays; torch tensors go to manyhop.torch_attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from . import _core, _settings
from ._check import choice, flag, integer, is_compiling, is_torch, laid_out, number, real, string, to_numpy, whole
from ._graph import Graph
from .errors import BadType, BadValue

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._types import A, ArrayLike, AttentionOptions, Backward, Graphs, Int, Layout, Lengths, Real, Tensor

BACKWARD = ("stored", "checkpointed", "implicit")
_DTYPES = {"float64": "f64", "float32": "f32", "bfloat16": "bf16"}


def dtype_name(dtype):
    """float64, float32 or bfloat16, from what NumPy, torch or this package calls it."""
    name = str(dtype).removeprefix("torch.")
    name = {"f16": "float16", **{short: long for long, short in _DTYPES.items()}}.get(name, name)  # NumPy's f16 has 16 bytes
    if name not in _DTYPES and name != "float16" and dtype is not None:
        try:
            name = np.dtype(dtype).name
        except (TypeError, ValueError):
            pass  # no type of NumPy
    if name not in _DTYPES:
        also = " (float16 is computed in float32: give that)" if name == "float16" else ""
        raise BadType(f"dtype: {name}, expected float64, float32 or bfloat16{also}")
    return name


def _graphs(graph, heads):
    """The cores of one graph, or of one for each head."""
    if isinstance(graph, Graph):
        return [graph._core]
    if isinstance(graph, (list, tuple)) and graph and all(isinstance(g, Graph) for g in graph):
        if len(graph) != heads:
            raise BadValue(f"graph: a list of {len(graph)} for {heads} heads, one graph or one for each head is wanted")
        return [g._core for g in graph]
    kind = type(graph).__name__
    raise BadType(f"graph: {kind}, a Graph or a list of one for each head is wanted (mh.graph(text, n) makes one)")


def as_bhsd(shape, layout, name):
    """(axes that bring an array of this layout to [b, h, s, d], shape so)."""
    rank = len(shape)
    if layout == "thd":
        if rank != 3:
            raise BadValue(f"{name}: {rank} axes, layout thd wants 3 (tokens, heads, width)")
        return (1, 0, 2), (1, shape[1], shape[0], shape[2])
    if rank != 4:
        wanted = "batch, heads, tokens, width" if layout == "bhsd" else "batch, tokens, heads, width"
        raise BadValue(f"{name}: {rank} axes, layout {layout} wants 4 ({wanted})")
    if layout == "bhsd":
        return (0, 1, 2, 3), tuple(shape)
    return (0, 2, 1, 3), (shape[0], shape[2], shape[1], shape[3])


def check_lengths(lengths):
    if hasattr(lengths, "tolist"):
        if lengths.ndim != 1:
            raise BadValue(f"lengths: {lengths.ndim} axes, [batch] is wanted")
        lengths = lengths.tolist()
    if not isinstance(lengths, (list, tuple, range)):
        raise BadType(f"lengths: {type(lengths).__name__}, an integer for each of the batch is wanted")
    return [whole(x, f"lengths[{i}]") for i, x in enumerate(lengths)]


def check_call(layout, backward, reorder, backend, return_lse, return_weights):
    """The names and flags of a call; which reorders and backends there are is the engine's to say."""
    choice(layout, "layout", ("bhsd", "bshd", "thd"))
    choice(backward, "backward", BACKWARD)
    string(reorder, "reorder")
    string(backend, "backend")
    flag(return_lse, "return_lse")
    flag(return_weights, "return_weights")


def check_numbers(hops, teleport, scale, lengths, dropout_p, hop_dropout_p, seed):
    """The numbers of a call, of the kinds that make_options takes; `seed` may be None."""
    dropout_p, hop_dropout_p = number(dropout_p, "dropout_p"), number(hop_dropout_p, "hop_dropout_p")
    for name, p in (("dropout_p", dropout_p), ("hop_dropout_p", hop_dropout_p)):
        if not 0 <= p < 1:
            raise BadValue(f"{name}: {p} is outside [0, 1)")
    return (whole(hops, "hops"), number(teleport, "teleport"), None if scale is None else number(scale, "scale"),
            None if lengths is None else check_lengths(lengths), dropout_p, hop_dropout_p,
            None if seed is None else integer(seed, "seed"))


def plan_shape(q_shape, k_shape, v_shape, graphs):
    """batch, heads, kv_heads, head_dim, value_dim of shapes [b, h, s, d]; raises BadValue with both sizes."""
    b, h, s, d = q_shape
    if k_shape[0] != b or v_shape[0] != b:
        raise BadValue(f"k, v: batches of {k_shape[0]} and {v_shape[0]} beside {b} of q")
    if k_shape[1] != v_shape[1]:
        raise BadValue(f"v: {v_shape[1]} heads beside {k_shape[1]} of k")
    if k_shape[1] == 0 or h % k_shape[1]:
        raise BadValue(f"k: {k_shape[1]} heads, a divisor of the {h} heads of q is wanted")
    if k_shape[3] != d:
        raise BadValue(f"k: width {k_shape[3]} beside {d} of q")
    if v_shape[3] == 0:
        raise BadValue("v: width 0, at least 1 is wanted")
    if k_shape[2] != v_shape[2]:
        raise BadValue(f"v: {v_shape[2]} tokens beside {k_shape[2]} of k")
    rows, cols = graphs[0].n_rows, graphs[0].n_cols
    if (s, k_shape[2]) != (rows, cols):
        raise BadValue(f"graph: {rows} x {cols} for {s} tokens of q and {k_shape[2]} of k")
    return b, h, k_shape[1], d, v_shape[3]


def make_options(hops, teleport, scale, lengths, dropout_p, hop_dropout_p, seed, batch, backward="stored", threads=0):
    options = _core.CallOptions()
    options.hops = whole(hops, "hops")
    options.teleport = float(teleport)
    options.scale = None if scale is None else float(scale)
    if lengths is not None:
        if len(lengths) == 0 and batch > 0:  # for the engine an empty list is none
            raise BadValue(f"lengths: 0 entries for a batch of {batch}")
        options.lengths = [int(x) for x in lengths]
    options.dropout_p = float(dropout_p)
    options.hop_dropout_p = float(hop_dropout_p)
    options.seed = int(seed) % 2**64
    options.backward = backward
    options.threads = threads
    options.memory_limit = _settings._limit
    return options


def weight_shape(graphs, b, h):
    """Of attention's weights in CSR edge order: [b, h, m]; [sum of m] for graphs with unequally many edges."""
    sizes = {g.nnz for g in graphs}
    if len(sizes) == 1:
        return (b, h, sizes.pop())
    if b > 1:
        raise BadValue(f"return_weights: graphs of {min(sizes)} to {max(sizes)} edges with a batch of {b}, equally many edges or "
                       "a batch of 1 is wanted")
    return (sum(g.nnz for g in graphs),)


def given_array(x, name):
    """A NumPy array as it is, whose shape can be looked at before :func:`readable` copies it; and its type's name."""
    array = to_numpy(x, name)
    kind = array.dtype.name
    if kind not in ("float64", "float32", "bfloat16", "float16"):
        raise BadType(f"{name}: {array.dtype}, expected float64, float32, bfloat16 or float16")
    return array, kind


def readable(array, name):
    """An array of f64, f32 or bf16 (as uint16) that the engine reads, copied only where it is no such; float16 becomes f32."""
    kind = array.dtype.name
    if kind == "bfloat16":
        return array.view(np.uint16)
    if kind == "float16":
        return laid_out(array, np.float32, name)
    if not array.dtype.isnative or any(step % array.itemsize for step in array.strides):
        return laid_out(array, array.dtype.newbyteorder("="), name)
    return array


def check_edge_axes(count, name):
    if not 1 <= count <= 3:
        raise BadValue(f"{name}: {count} axes, [m], [heads, m] or [batch, heads, m] is wanted")


def check_edge_shape(shape, graphs, b, h, name):
    """That values of this shape are one for each edge, of all heads and items or of each."""
    check_edge_axes(len(shape), name)
    sizes = {g.nnz for g in graphs}
    total, m = sum(g.nnz for g in graphs), graphs[0].nnz
    fits = [(total,)] + ([(h, m), (b, h, m)] if len(sizes) == 1 else [])
    if tuple(shape) not in fits:
        wanted = " or ".join(str(list(x)) for x in fits)
        raise BadValue(f"{name}: shape {list(shape)} where {wanted} (batch, heads, edges) is wanted")


def edge_values(values, dtype, graphs, b, h, name):
    """Bias [m], [h, m] or [b, h, m] as the arithmetic type; copied only where it has another type or layout."""
    array = real(values, name)
    check_edge_shape(array.shape, graphs, b, h, name)
    return laid_out(array, dtype, name)


@overload
def attention(q: A, k: A, v: A, graph: Graphs, *, return_lse: Literal[False] = ..., return_weights: Literal[False] = ...,
              **options: Unpack[AttentionOptions]) -> A: ...
@overload
def attention(q: A, k: A, v: A, graph: Graphs, *, return_lse: Literal[True], return_weights: Literal[False] = ...,
              **options: Unpack[AttentionOptions]) -> tuple[A, A]: ...
@overload
def attention(q: A, k: A, v: A, graph: Graphs, *, return_lse: Literal[False] = ..., return_weights: Literal[True],
              **options: Unpack[AttentionOptions]) -> tuple[A, A]: ...
@overload
def attention(q: A, k: A, v: A, graph: Graphs, *, return_lse: Literal[True], return_weights: Literal[True],
              **options: Unpack[AttentionOptions]) -> tuple[A, A, A]: ...
@overload
def attention(q: A, k: A, v: A, graph: Graphs, *, return_lse: bool = ..., return_weights: bool = ...,
              **options: Unpack[AttentionOptions]) -> A | tuple[A, ...]: ...
def attention(q: Any, k: Any, v: Any, graph: Graphs, *, hops: Int = 1, teleport: Real | Tensor = 0.0, scale: Real | None = None,
              bias: ArrayLike | None = None, lengths: Lengths | None = None, dropout_p: Real = 0.0, hop_dropout_p: Real = 0.0,
              seed: Int | None = None, layout: Layout = "bhsd", return_lse: bool = False, return_weights: bool = False,
              backward: Backward = "stored", reorder: str = "none", backend: str = "cpu") -> Any:
    """Attention over the edges of a graph, then K hops of diffusion.

    A = softmax over the edges of a row of (scale q.k + bias); Z_0 = V, Z_{t+1} = (1 - teleport) A Z_t + teleport V; the
    result is Z_hops. ``hops=1, teleport=0`` is plain sparse attention, ``hops=0`` returns v. Rows without edges give
    teleport V, 0 by default (and log-sum-exp -inf).

    q : [b, h, s, d]; k : [b, h_kv, s_k, d]; v : [b, h_kv, s_k, d_v], h_kv a divisor of h. ``layout="bshd"`` swaps heads
        and tokens; ``layout="thd"`` is [tokens, h, d] without a batch, for graphs of :func:`batch`. NumPy or torch (or what
        has DLPack and lies on the CPU: then NumPy comes back), float64, float32, bfloat16 (sums in float32) or float16 (computed
        in float32); any strides, nothing is copied.
    graph : one Graph (s rows, s_k columns), or a list of one for each head. Its own weights do not count: give what they are to
        change as `bias` (their log has them multiply the exponentials).
    hops : an integer from 0. Graphs that are not square take hops=1 and teleport=0 only.
    teleport : in [0, 1]; with torch it may be a tensor of one value.
    scale : of the scores; 1 / sqrt(d) by default.
    bias : added to the scaled scores in CSR edge order: [m], [h, m] or [b, h, m].
    lengths : [b]; positions at or past a length are not read, and are 0 in the result. While torch.compile traces and inside
        torch.func it may be a tensor, then backward makes again what else is kept for it.
    dropout_p, hop_dropout_p : in [0, 1), on A once, and on Z in every hop; masks follow from `seed` alone.
    seed : an integer, taken modulo 2^64; None draws one.
    return_lse, return_weights : also the log of the softmax sums [b, h, s], and A in CSR edge order [b, h, m] (no gradient
        goes through A); [h, s] and [h, m] with ``layout="thd"``. Of graphs for each head with unequally many edges A is one
        axis, head after head, and the batch is 1.
    backward : torch: "stored" keeps A and all Z of all heads, "checkpointed" keeps nothing and makes them again head by
        head (a third more time, a fraction of the memory), "implicit" differentiates the fixed point (wrong by what `hops`
        are short of it, (1 - teleport)^hops).
    reorder : "none", "degree", "rcm", "cluster" or "auto": tokens are renumbered inside so that edges fall into tiles; results
        keep your order.
    backend : "cpu", "reference" (plain loops) or "cuda". Tensors on a GPU go there; float32 takes TF32 products for dense parts
        where torch does for its own (``torch.set_float32_matmul_precision("high")``).

    torch: autograd, torch.func.grad, jacrev and vmap (a call for each item) go through; second derivatives and forward mode
    (jvp, jacfwd, hessian) raise.

    Cost: 2 m h (d + hops d_v) flops for m edges; memory linear in tokens and edges. The same bits for any number of threads.
    Errors: BadValue for shapes that do not fit, naming both sizes; BadType for other kinds or element types; LimitError.
    Source: Feng et al., Diffuser, 2022 (arXiv 2210.11794).

    >>> import numpy as np, manyhop as mh
    >>> x = np.eye(4, dtype=np.float32).reshape(1, 1, 4, 4)
    >>> mh.attention(x, x, x, mh.graph("window(1)", 4), hops=2).shape
    (1, 1, 4, 4)

    Equal scores make it a mean over whom a token hears:

    >>> v = np.array([0.0, 0, 0, 12]).reshape(1, 1, 4, 1)
    >>> mh.attention(0 * v, 0 * v, v, mh.graph("window(1)", 4)).reshape(4).tolist()
    [0.0, 0.0, 4.0, 6.0]
    """
    if is_torch(q) or is_torch(k) or is_torch(v):
        from . import torch_attention

        return torch_attention.attention(q, k, v, graph, hops=hops, teleport=teleport, scale=scale, bias=bias, lengths=lengths,
                                   dropout_p=dropout_p, hop_dropout_p=hop_dropout_p, seed=seed, layout=layout,
                                   return_lse=return_lse, return_weights=return_weights, backward=backward,
                                   reorder=reorder, backend=backend)
    check_call(layout, backward, reorder, backend, return_lse, return_weights)
    *given, seed = check_numbers(hops, teleport, scale, lengths, dropout_p, hop_dropout_p, seed)
    (q, kind), (k, k_kind), (v, v_kind) = given_array(q, "q"), given_array(k, "k"), given_array(v, "v")
    for name, other in (("k", k_kind), ("v", v_kind)):
        if other != kind:
            raise BadType(f"{name}: {other} where q is {kind}")
    axes, q_shape = as_bhsd(q.shape, layout, "q")
    _, k_shape = as_bhsd(k.shape, layout, "k")
    _, v_shape = as_bhsd(v.shape, layout, "v")
    graphs = _graphs(graph, q_shape[1])
    b, h, kv, d, dv = plan_shape(q_shape, k_shape, v_shape, graphs)
    real = np.float64 if kind == "float64" else np.float32
    bias = None if bias is None else edge_values(bias, real, graphs, b, h, "bias")
    q, k, v = readable(q, "q"), readable(k, "k"), readable(v, "v")
    if seed is None:
        seed = int(np.random.default_rng().integers(2**63)) if dropout_p or hop_dropout_p else 0
    options = make_options(*given, seed, b)
    plan = _core.plan(graphs, batch=b, heads=h, kv_heads=kv, head_dim=d, value_dim=dv,
                      dtype=_DTYPES.get(kind, "f32"), hops=options.hops, reorder=reorder, backend=backend,
                      memory_limit=options.memory_limit)
    _settings.watch(plan)
    out = _settings.empty(v.shape[:1] + (q.shape[1], h, dv) if layout == "bshd" else (q.shape[0], h, dv) if layout == "thd" else
                          (b, h, q.shape[2], dv), q.dtype, "the result")
    lse = _settings.empty((b, h, q_shape[2]), real, "lse") if return_lse else None
    weights = _settings.empty(weight_shape(graphs, b, h), real, "weights") if return_weights else None
    views = [x.transpose(axes) for x in (q, k, v, out)]
    _core.attention(plan, *views, bias, lse, weights, None, options)
    if kind == "bfloat16":
        import ml_dtypes

        out = out.view(ml_dtypes.bfloat16)
    elif kind == "float16":
        out = out.astype(np.float16)
    if layout == "thd":
        lse = lse if lse is None else lse[0]
        weights = weights if weights is None or weights.ndim == 1 else weights[0]
    found = (out,) + ((lse,) if return_lse else ()) + ((weights,) if return_weights else ())
    return found[0] if len(found) == 1 else found


class Plan:
    """Tiles, kernels and memory for a graph and a shape, chosen once. Made by :func:`plan`. A pickle holds the graph and what
    was asked for: the plan is made again on the machine that reads it.

    >>> import numpy as np, manyhop as mh
    >>> p = mh.plan(mh.graph("window(8)", 256), heads=2, head_dim=16, hops=3)
    >>> x = np.ones((1, 2, 256, 16), np.float32)
    >>> bool(np.allclose(p.run(x, x, x), 1)), sorted(p.memory())
    (True, ['graph', 'inputs', 'total', 'workspace'])
    """

    def __init__(self, core: _core.Plan, graph: Graphs, settings: dict[str, Any], backward: bool = False) -> None:
        if not isinstance(core, _core.Plan):
            raise BadType("Plan: made by mh.plan(), not by its constructor")
        self._core = core
        self._graph = graph
        self._settings = settings
        self._backward = backward
        self._ran = core

    @overload
    def run(self, q: A, k: A, v: A, *, return_lse: Literal[False] = ..., return_weights: Literal[False] = ...,
            **options: Unpack[AttentionOptions]) -> A: ...
    @overload
    def run(self, q: A, k: A, v: A, *, return_lse: Literal[True], return_weights: Literal[False] = ...,
            **options: Unpack[AttentionOptions]) -> tuple[A, A]: ...
    @overload
    def run(self, q: A, k: A, v: A, *, return_lse: Literal[False] = ..., return_weights: Literal[True],
            **options: Unpack[AttentionOptions]) -> tuple[A, A]: ...
    @overload
    def run(self, q: A, k: A, v: A, *, return_lse: Literal[True], return_weights: Literal[True],
            **options: Unpack[AttentionOptions]) -> tuple[A, A, A]: ...
    @overload
    def run(self, q: A, k: A, v: A, *, return_lse: bool = ..., return_weights: bool = ...,
            **options: Unpack[AttentionOptions]) -> A | tuple[A, ...]: ...
    def run(self, q: Any, k: Any, v: Any, **options: Any) -> Any:
        """:func:`attention` with this plan's graph and hops; q, k, v of its shape and type. Takes what attention takes.

        >>> import numpy as np, manyhop as mh
        >>> p = mh.plan(mh.graph("full", 4), heads=1, head_dim=2, dtype="f64")
        >>> out, lse = p.run(*np.zeros((3, 1, 1, 4, 2)), return_lse=True)
        >>> lse.round(4).tolist()
        [[[1.3863, 1.3863, 1.3863, 1.3863]]]
        """
        self._check(q, k, v, options.get("layout", "bhsd"))
        options.setdefault("hops", self._settings["hops"])
        options.setdefault("reorder", self._settings["reorder"])
        options.setdefault("backend", self._settings["backend"])
        if is_compiling():
            return attention(q, k, v, self._graph, **options)
        with _settings.watching() as plans:
            found = attention(q, k, v, self._graph, **options)
        self._ran = plans[0] if plans else self._ran
        return found

    def _check(self, q, k, v, layout):
        """BadValue and BadType for what was not planned for; other faults are for attention to find."""
        choice(layout, "layout", ("bhsd", "bshd", "thd"))
        if len({is_torch(x) for x in (q, k, v)}) > 1 or any(getattr(x, "is_nested", False) for x in (q, k, v)):
            return
        tensors = [x if is_torch(x) else to_numpy(x, name) for x, name in zip((q, k, v), "qkv")]
        (b, h, _, d), (_, kv, _, _), (_, _, _, dv) = (as_bhsd(x.shape, layout, name)[1] for x, name in zip(tensors, "qkv"))
        found = {"batch": b, "heads": h, "kv_heads": kv, "head_dim": d, "value_dim": dv}
        wanted = {name: self._settings[name] for name in found}
        if found != wanted:
            here, there = (", ".join(f"{name}={size}" for name, size in sizes.items()) for sizes in (found, wanted))
            raise BadValue(f"q, k, v: {here} where the plan has {there}")
        if is_torch(q):
            from ._tensors import autocast

            tensors = autocast(*tensors)
        kinds = [str(x.dtype).removeprefix("torch.") for x in tensors]
        for name, kind in zip("qkv", kinds):
            if _DTYPES.get("float32" if kind == "float16" else kind, kind) != self._settings["dtype"]:
                raise BadType(f"{name}: {kind} where the plan is {self._settings['dtype']}")

    def explain(self) -> str:
        """Lines of text: tiles, the kernel of each part, what was rejected and why, FLOPs, bytes, predicted and measured time.

        After a run they are of the plan that it took: tensors of torch take torch's number of threads, those with gradients
        the room to keep what backward wants.

        >>> import manyhop as mh
        >>> print(mh.plan(mh.graph("window(8)", 256), heads=2, head_dim=16).explain().splitlines()[0])
        graph     256 x 256, 4280 edges
        """
        return "\n".join(self._ran.explain())

    def memory(self) -> dict[str, int]:
        """Bytes: {"inputs", "graph", "workspace", "total"}; inputs are q, k, v and the result.

        >>> import manyhop as mh
        >>> mh.plan(mh.graph("window(8)", 256), heads=2, head_dim=16).memory()["inputs"] == 4 * 256 * 2 * 16 * 4
        True
        """
        return self._core.memory()

    def predicted_seconds(self) -> float:
        """Time of one run on the CPU by rates that are measured on first use.

        >>> import manyhop as mh
        >>> mh.plan(mh.graph("window(8)", 256), heads=2, head_dim=16).predicted_seconds() > 0
        True
        """
        return self._core.predicted_seconds()

    def __reduce__(self) -> tuple[Any, ...]:
        return _planned_again, (self._graph, {**self._settings, "backward": self._backward})

    def __copy__(self) -> Plan:
        return self

    def __deepcopy__(self, memo: Any) -> Plan:
        return self

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._settings.items())
        return f"Plan({given})"


def _planned_again(graph, settings):
    return plan(graph, **settings)


def plan(graph: Graphs, *, heads: Int, head_dim: Int, dtype: Any = "f32", hops: Int = 1, backend: str = "cpu", batch: Int = 1,
         kv_heads: Int | None = None, value_dim: Int | None = None, reorder: str = "none", backward: bool = False) -> Plan:
    """Plans attention for a graph (or one for each head) and a shape; :func:`attention` finds the same plan by itself.

    heads, kv_heads : of q, and of k and v (the same by default). head_dim, value_dim : widths of q and k, and of v.
    dtype : "f32", "f64", "bf16", or the type of NumPy or torch.
    backward : whether gradients will be asked for.

    Cost: linear in the edges, once; plans of the same graph and shape are kept. Errors: BadValue, BadType; LimitError where
    inputs, graph and the least workspace pass the memory limit.

    >>> import manyhop as mh
    >>> p = mh.plan(mh.graph("window(8)", 256), heads=2, head_dim=16, hops=3)
    >>> p.explain().splitlines()[0].split()[0], p.memory()["total"] > 0
    ('graph', True)
    """
    heads, head_dim = whole(heads, "heads", 1), whole(head_dim, "head_dim", 1)
    settings = {"heads": heads, "head_dim": head_dim, "dtype": _DTYPES[dtype_name(dtype)], "hops": whole(hops, "hops"),
                "backend": string(backend, "backend"), "batch": whole(batch, "batch"),
                "kv_heads": heads if kv_heads is None else whole(kv_heads, "kv_heads", 1),
                "value_dim": head_dim if value_dim is None else whole(value_dim, "value_dim", 1),
                "reorder": string(reorder, "reorder")}
    core = _core.plan(_graphs(graph, heads), backward=flag(backward, "backward"), memory_limit=_settings._limit, **settings)
    return Plan(core, graph, settings, backward)

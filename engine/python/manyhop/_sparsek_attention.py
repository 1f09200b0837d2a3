"""Attention over the keys that SparseK selects, of whole sequences and token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, _settings
from ._attention import _DTYPES, as_bhsd, dtype_name, given_array, readable
from ._check import choice, is_torch, laid_out, number, real, to_numpy, whole
from .errors import BadType, BadValue

if TYPE_CHECKING:
    from ._types import A, Float64, Gate, Int, Int32, Real


def attention_arguments(keys, cap, temperature, window, sinks, gate, hops, teleport, scale):
    """What the operator takes, of the right kinds; ranges are the engine's to check."""
    return (number(keys, "keys", 0), None if cap is None else whole(cap, "cap", -1), number(temperature, "temperature", 0),
            whole(window, "window"), whole(sinks, "sinks"), choice(gate, "gate", ("values", "scores")), whole(hops, "hops"),
            number(teleport, "teleport", 0), None if scale is None else number(scale, "scale"))


def attention_options(*given):
    keys, cap, *rest = attention_arguments(*given)
    return _core.sparsek_attention_options(keys, 0 if cap is None else cap, *rest)


def check_shapes(q, k, v, scores):
    """Shapes [b, h, n, d] and [b, h_s, n]."""
    b, h, n, _ = q
    if scores[0] != b or scores[2] != n or scores[1] == 0 or h % scores[1]:
        raise BadValue(f"scores: shape {list(scores)}, [{b}, a divisor of {h}, {n}] is wanted")
    if k[2] != n or v[2] != n:
        raise BadValue(f"k, v: {k[2]} and {v[2]} tokens beside {n} of q")


def sparsek_attention(q: A, k: A, v: A, scores: A, *, keys: Real = 64, cap: Int | None = None, window: Int = 0, sinks: Int = 0,
                      gate: Gate = "values", temperature: Real = 1.0, hops: Int = 1, teleport: Real = 0.0,
                      scale: Real | None = None) -> A:
    """Causal attention in which each query keeps the `keys` best tokens so far by SparseK, its window and the sinks.

    q [b, h, n, d], k [b, h_kv, n, d], v [b, h_kv, n, d_v]; scores [b, h_s, n] (h_s divides h) choose the keys: A is the
    softmax over a row's keys, and the gates p multiply it (gate="values") or the exponentials before they are normalised
    (gate="scores"). Memory of the selection: 20 bytes a token. torch: gradients reach q, k, v and scores; tensors
    on a GPU stay there where the build has CUDA.

    >>> import numpy as np, manyhop as mh
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 32, 8), dtype=np.float32)
    >>> mh.sparsek_attention(q, k, v, q[..., 0], keys=4, window=2).shape
    (1, 2, 32, 8)
    """
    if any(is_torch(x) for x in (q, k, v, scores)):
        from . import torch_sparsek

        return torch_sparsek.sparsek_attention(q, k, v, scores, keys=keys, cap=cap, window=window, sinks=sinks, gate=gate,
                                               temperature=temperature, hops=hops, teleport=teleport, scale=scale)
    (q, kind), (k, k_kind), (v, v_kind) = given_array(q, "q"), given_array(k, "k"), given_array(v, "v")
    for name, other in (("k", k_kind), ("v", v_kind)):
        if other != kind:
            raise BadType(f"{name}: {other} where q is {kind}")
    for name, x in (("q", q), ("k", k), ("v", v)):
        as_bhsd(x.shape, "bhsd", name)
    scores = real(scores, "scores")
    if scores.ndim != 3:
        raise BadValue(f"scores: {scores.ndim} axes, 3 (batch, heads, tokens) are wanted")
    check_shapes(q.shape, k.shape, v.shape, scores.shape)
    scores = laid_out(scores, np.float64 if kind == "float64" else np.float32, "scores")
    q, k, v = readable(q, "q"), readable(k, "k"), readable(v, "v")
    options = attention_options(keys, cap, temperature, window, sinks, gate, hops, teleport, scale)
    out = _settings.empty((*q.shape[:3], v.shape[3]), q.dtype, "the result")
    _core.sparsek_attention(q, k, v, scores, out, options, 0, _settings._limit)
    if kind == "bfloat16":
        import ml_dtypes

        out = out.view(ml_dtypes.bfloat16)
    return out.astype(np.float16) if kind == "float16" else out


class SparseKCache:
    """Keys and values for decoding token by token in constant memory: window, sinks, and at most `cap` kept keys a score head.

    A step gives the rows that :func:`sparsek_attention` gives the same tokens; copies (``copy.copy``, pickles) go their own ways.
    dtype : float32, float64 or bfloat16, by name or as a type of NumPy or torch. NumPy or torch in, the same kind out; nothing
        here has gradients. (:class:`manyhop.nn.SparseKAttention` and models hold float16 as float32.)

    ``settings`` is what it was made with, from `keys` to `scale`; a running cache has no others.

    >>> import numpy as np, manyhop as mh
    >>> cache = mh.SparseKCache(2, head_dim=8, keys=4, window=2)
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 1, 8), dtype=np.float32)
    >>> cache.step(q, k, v, np.float32([[0.5], [0.1]])).shape, cache.tokens
    ((2, 1, 8), 1)
    """

    def __init__(self, heads: Int, *, kv_heads: Int | None = None, score_heads: Int | None = None, head_dim: Int = 64,
                 value_dim: Int | None = None, keys: Real = 64, cap: Int | None = None, window: Int = 0, sinks: Int = 0,
                 gate: Gate = "values", temperature: Real = 1.0, scale: Real | None = None, dtype: Any = "float32") -> None:
        self.dtype: str = dtype_name(dtype)
        self.heads: int = whole(heads, "heads", 1)
        self.kv_heads: int = self.heads if kv_heads is None else whole(kv_heads, "kv_heads", 1)
        self.score_heads: int = self.kv_heads if score_heads is None else whole(score_heads, "score_heads", 1)
        self.head_dim: int = whole(head_dim, "head_dim", 1)
        self.value_dim: int = self.head_dim if value_dim is None else whole(value_dim, "value_dim", 1)
        self.settings: dict[str, Any] = {"keys": keys, "cap": cap, "window": window, "sinks": sinks, "gate": gate,
                                         "temperature": temperature, "scale": scale}
        self._core = self._empty()

    def _empty(self):
        keys, cap, temperature, window, sinks, gate, scale = (
            self.settings[name] for name in ("keys", "cap", "temperature", "window", "sinks", "gate", "scale"))
        options = _core.sparsek_cache_options(self.heads, self.kv_heads, self.score_heads, self.head_dim, self.value_dim,
                                              attention_options(keys, cap, temperature, window, sinks, gate, 1, 0.0, scale))
        return getattr(_core, f"SparsekCache_{_DTYPES[self.dtype]}")(options, _settings._limit)

    @property
    def tokens(self) -> int:
        """Tokens taken so far.

        >>> import manyhop as mh
        >>> mh.SparseKCache(2).tokens
        0
        """
        return self._core.tokens

    @property
    def bytes(self) -> int:
        """Memory held; does not grow with the tokens.

        >>> import manyhop as mh
        >>> mh.SparseKCache(2, keys=4).bytes < mh.SparseKCache(2, keys=8).bytes
        True
        """
        return self._core.bytes

    def __copy__(self) -> SparseKCache:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _core=self._core.__copy__())
        return other

    def __deepcopy__(self, memo: Any) -> SparseKCache:
        return self.__copy__()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_core": self._core.state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        held = dict(state)
        core = held.pop("_core")
        self.__dict__.update(held)
        self._core = self._empty()
        self._core.restore(*core)

    def kept(self, score_head: Int = 0) -> tuple[Int32, Float64]:
        """(positions, gates) of the keys that a score head holds, in order of position.

        >>> import numpy as np, manyhop as mh
        >>> cache, x = mh.SparseKCache(1, head_dim=2, keys=1), np.zeros((1, 4, 2), np.float32)
        >>> cache.extend(x, x, np.float32([[0.1, 3.0, 0.2, 2.5]]))
        >>> [part.tolist() for part in cache.kept()]
        [[1, 3], [0.75, 0.25]]
        """
        if not 0 <= whole(score_head, "score_head") < self.score_heads:
            raise BadValue(f"score_head: {score_head} of {self.score_heads}")
        positions, gates = self._core.kept(score_head)
        order = np.argsort(positions)
        return positions[order], gates[order]

    def extend(self, k: A, v: A, scores: A) -> None:
        """Takes tokens: k [h_kv, n, d], v [h_kv, n, d_v], scores [h_s, n].

        >>> import numpy as np, manyhop as mh
        >>> cache, x = mh.SparseKCache(1, head_dim=2, keys=1), np.zeros((1, 4, 2), np.float32)
        >>> cache.extend(x, x, x[..., 0])
        >>> cache.tokens
        4
        """
        self._step(None, k, v, scores)

    def step(self, q: A, k: A, v: A, scores: A) -> A:
        """Takes tokens one after another and attends from each: q [h, n, d] -> [h, n, d_v].

        >>> import numpy as np, manyhop as mh
        >>> cache, x = mh.SparseKCache(1, head_dim=2, keys=1), np.zeros((1, 4, 2), np.float32)
        >>> cache.step(x, x, x, x[..., 0]).shape
        (1, 4, 2)
        """
        return self._step(q, k, v, scores)

    def _step(self, q, k, v, scores):
        torch = is_torch(k)
        n = scores.shape[-1] if getattr(scores, "ndim", 0) == 2 else -1
        score_type = "float64" if self.dtype == "float64" else "float32"
        given = [("k", k, (self.kv_heads, n, self.head_dim), self.dtype), ("v", v, (self.kv_heads, n, self.value_dim), self.dtype),
                 ("scores", scores, (self.score_heads, n), score_type)]
        if q is not None:
            given.append(("q", q, (self.heads, n, self.head_dim), self.dtype))
        arrays = []
        for name, x, shape, dtype in given:
            if is_torch(x) != torch:
                raise BadType(f"{name}: k is {'a torch tensor' if torch else 'an array'}, {name} has to be one too")
            if not torch:
                x = to_numpy(x, name)
            if tuple(x.shape) != shape:
                raise BadValue(f"{name}: shape {list(x.shape)}, [{', '.join(str(s) if s >= 0 else 'n' for s in shape)}] is wanted")
            if str(x.dtype).removeprefix("torch.") != dtype:
                raise BadType(f"{name}: {x.dtype}, this cache wants {dtype}")
            if torch:
                from ._tensors import array_of as torch_array

                x = torch_array(x)
            arrays.append(x.view(np.uint16) if str(x.dtype) == "bfloat16" else x)
        out = None
        if q is not None:
            out = np.empty((self.heads, n, self.value_dim), dtype=arrays[0].dtype)
        self._core.step(*arrays[:3], arrays[3] if q is not None else None, out)
        if out is None:
            return None
        if torch:
            import torch as t

            out = t.from_numpy(out)
            return out.view(t.bfloat16) if self.dtype == "bfloat16" else out
        if self.dtype == "bfloat16":
            import ml_dtypes

            out = out.view(ml_dtypes.bfloat16)
        return out


__all__ = ["Selection", "SparseKCache", "causal_sparsek", "select", "sparsek", "sparsek_attention", "sparsek_jvp", "topk"]

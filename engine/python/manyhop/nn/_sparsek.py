"""SparseK as torch modules: scores of keys, and self-attention over the keys they choose."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._check import flag, whole
from .._operator import between_programs
from .._sparsek import causal_sparsek
from .._sparsek_attention import SparseKCache, attention_arguments
from ..errors import BadType, BadValue
from .._tensors import autocast, same_types
from ..torch_sparsek import sparsek_attention
from ._config import HIDDEN, check_tensor

if TYPE_CHECKING:
    from .._types import Gate, Int, Real, like


class SparseKScores(nn.Module):
    """Scores of keys, u = X w + slope * position / 1024: [b, n, hidden] -> [b, heads, n].

    Both start at 0: equal scores, of which the later ones are kept.

    >>> import torch, manyhop as mh
    >>> mh.nn.SparseKScores(16, heads=2)(torch.zeros(1, 5, 16)).shape
    torch.Size([1, 2, 5])
    """

    def __init__(self, hidden_size: Int, heads: Int) -> None:
        super().__init__()
        hidden_size, heads = whole(hidden_size, "hidden_size", 1), whole(heads, "heads", 1)
        self.weight = nn.Parameter(torch.zeros(heads, hidden_size))
        self.slope = nn.Parameter(torch.zeros(heads))

    def forward(self, hidden: Tensor, first: int = 0) -> Tensor:
        """`first` is the position of the first token.

        >>> import torch, manyhop as mh
        >>> scores, x = mh.nn.SparseKScores(16, heads=2), torch.zeros(1, 5, 16)
        >>> torch.equal(scores(x)[..., 3:], scores(x[:, 3:], first=3))
        True
        """
        check_tensor(hidden, "hidden", HIDDEN, self.weight.shape[1])
        first = whole(first, "first")
        kind = torch.float64 if self.weight.dtype == torch.float64 else torch.float32  # bfloat16 has too few places
        place = torch.arange(first, first + hidden.shape[1], device=hidden.device, dtype=kind) / 1024
        with torch.autocast("cuda" if hidden.is_cuda else "cpu", enabled=False):  # which would take the product in 16 bits
            return (hidden.to(kind) @ self.weight.T.to(kind)).transpose(1, 2) + self.slope.to(kind)[:, None] * place

    if TYPE_CHECKING:
        @like(forward)
        def __call__(self, *given: Any) -> Any: ...

    def extra_repr(self):
        return f"hidden_size={self.weight.shape[1]}, heads={self.weight.shape[0]}"


class SparseKSettings(nn.Module):
    """What SparseK attention is called with; ``settings.window = 128`` changes it. See :func:`manyhop.sparsek_attention`."""

    def __init__(self, keys: Real = 64, *, cap: Int | None = None, window: Int = 0, sinks: Int = 0, gate: Gate = "values",
                 temperature: Real = 1.0, scale: Real | None = None) -> None:
        super().__init__()
        self.keys, self.cap, self.window, self.sinks = keys, cap, window, sinks
        self.gate, self.temperature, self.scale = gate, temperature, scale
        attention_arguments(keys, cap, temperature, window, sinks, gate, 1, 0.0, scale)
        causal_sparsek([], keys, cap=cap, temperature=temperature)  # raises for what does not go together

    def given(self):
        return {name: getattr(self, name) for name in ("keys", "cap", "window", "sinks", "gate", "temperature", "scale")}

    def pairs(self):
        """Key/value pairs that a head holds at most while it decodes; without a cap math.inf."""
        cap = 2 * self.keys if self.cap is None else self.cap
        if cap < 0:
            return math.inf
        return self.window + self.sinks + int(-(-cap // 1))

    def attend(self, q, k, v, scores):
        return sparsek_attention(q, k, v, scores, **self.given())

    def caches(self, q, k, v, scores):
        """A cache for each item of a batch of such tokens; empty, of the type that :meth:`attend` computes them in."""
        dtype = same_types(*autocast(q, k, v))[0].dtype
        return [SparseKCache(q.shape[1], kv_heads=k.shape[1], score_heads=scores.shape[1], head_dim=k.shape[3],
                             value_dim=v.shape[3], dtype=dtype, **self.given()) for _ in range(len(q))]

    def step(self, caches, q, k, v, scores):
        """Tokens [b, h, n, d] into a cache for each item of the batch -> [b, h, n, d_v], of the type that :meth:`attend` gives
        them. Backward raises BadValue; so do caches that were made with other settings, and scores that are NaN, before any
        of the caches has taken a token.
        """
        if bool(scores.isnan().any()):
            first = caches[0].tokens if caches else 0
            raise BadValue(f"scores: NaN among those of tokens {first} to {first + q.shape[2] - 1}")
        given = self.given()
        wanted = _resolved(given, q.shape[3])
        for cache in caches:
            held = _resolved(cache.settings, q.shape[3])
            for name in (name for name in wanted if wanted[name] != held[name]):
                raise BadValue(f"{name}: {given[name]} where the running cache was made with {cache.settings[name]}; set it back, "
                               "or begin with a new cache")
        q, k, v, kind = same_types(*autocast(q, k, v))
        held = getattr(torch, caches[0].dtype) if caches else q.dtype
        if torch.promote_types(q.dtype, held) == held:
            q, k, v = q.to(held), k.to(held), v.to(held)
        return _Decoded.apply(caches, q, k, v, scores.to(torch.float64 if q.dtype == torch.float64 else torch.float32)).to(kind)

    def extra_repr(self):
        return ", ".join(f"{name}={value!r}" for name, value in self.given().items() if value is not None)


def _resolved(settings, width):
    """With what stands for None."""
    cap, scale = settings["cap"], settings["scale"]
    return {**settings, "cap": 2 * settings["keys"] if cap is None else cap, "scale": width**-0.5 if scale is None else scale}


def check_score_heads(score_heads, heads, kv_heads):
    """BadValue for what a cache cannot hold: its keys belong to score heads and to key heads."""
    if score_heads < 1 or heads % score_heads:
        raise BadValue(f"score_heads: {score_heads}, a divisor of the {heads} heads is wanted")
    if kv_heads % score_heads and score_heads % kv_heads:
        raise BadValue(f"score_heads: {score_heads} beside {kv_heads} key heads, one has to divide the other")


class _Decoded(torch.autograd.Function):
    """Tokens into caches; says so where a gradient is asked for, which otherwise would be 0."""

    @staticmethod
    def forward(ctx, caches, *tensors):
        return torch.stack([c.step(*item) for c, *item in zip(caches, *tensors)])

    @staticmethod
    def backward(ctx, g):
        raise BadValue("SparseKCache: no gradient goes through a cache; call without one (use_cache=False, caches=None)")


class SparseKAttention(nn.Module):
    """Causal self-attention over the keys that learned scores choose: [b, n, hidden_size] -> [b, n, hidden_size].

    Each query sees `keys` keys by SparseK, the last `window` tokens and the first `sinks`. `score_heads` (a divisor of
    `heads`; the key heads unless given) choose apart. With a list as `caches` tokens are decoded: it is filled by the first
    call and carried from call to call, in constant memory; no gradient goes through it.

    Source: Lou et al., Sparser is Faster and Less is More, 2024 (arXiv 2406.16747).

    >>> import torch, manyhop as mh
    >>> layer = mh.nn.SparseKAttention(32, 4, keys=4, window=4)
    >>> x, caches = torch.randn(2, 20, 32), []
    >>> parts = [layer(part, caches) for part in x.split(5, dim=1)]
    >>> torch.allclose(torch.cat(parts, 1), layer(x), atol=1e-5)
    True
    """

    def __init__(self, hidden_size: Int, heads: Int, *, kv_heads: Int | None = None, head_dim: Int | None = None,
                 score_heads: Int | None = None, keys: Real = 64, cap: Int | None = None, window: Int = 0, sinks: Int = 0,
                 gate: Gate = "values", temperature: Real = 1.0, bias: bool = True) -> None:
        super().__init__()
        hidden_size, heads, bias = whole(hidden_size, "hidden_size", 1), whole(heads, "heads", 1), flag(bias, "bias")
        self.heads, self.kv_heads = heads, heads if kv_heads is None else whole(kv_heads, "kv_heads", 1)
        score_heads = self.kv_heads if score_heads is None else whole(score_heads, "score_heads", 1)
        if heads % self.kv_heads:
            raise BadValue(f"kv_heads: {self.kv_heads}, a divisor of the {heads} heads is wanted")
        check_score_heads(score_heads, heads, self.kv_heads)
        if head_dim is None and hidden_size % heads:
            raise BadValue(f"hidden_size: {hidden_size} is no multiple of {heads} heads; give head_dim")
        self.head_dim = hidden_size // heads if head_dim is None else whole(head_dim, "head_dim", 1)
        self.query = nn.Linear(hidden_size, heads * self.head_dim, bias=bias)
        self.key = nn.Linear(hidden_size, self.kv_heads * self.head_dim, bias=bias)
        self.value = nn.Linear(hidden_size, self.kv_heads * self.head_dim, bias=bias)
        self.output = nn.Linear(heads * self.head_dim, hidden_size, bias=bias)
        self.scores = SparseKScores(hidden_size, score_heads)
        # Equal scores would choose by place alone, and each by the same gradient.
        nn.init.normal_(self.scores.weight, std=hidden_size**-0.5)
        self.settings = SparseKSettings(keys, cap=cap, window=window, sinks=sinks, gate=gate, temperature=temperature)

    def forward(self, hidden: Tensor, caches: list[SparseKCache] | None = None) -> Tensor:
        """`caches`, an empty list at first, is filled and carried on while tokens are decoded.

        >>> import torch, manyhop as mh
        >>> layer, caches = mh.nn.SparseKAttention(32, 4, keys=4, window=4), []
        >>> _ = layer(torch.zeros(2, 5, 32), caches)
        >>> layer(torch.zeros(2, 1, 32), caches).shape, caches[0].tokens
        (torch.Size([2, 1, 32]), 6)
        """
        check_tensor(hidden, "hidden", HIDDEN, self.scores.weight.shape[1], self.query)
        if caches is not None and not isinstance(caches, list):
            raise BadType(f"caches: {type(caches).__name__}, a list is wanted, empty before the first tokens")
        for cache in caches or ():
            if not isinstance(cache, SparseKCache):
                raise BadType(f"caches: a list with {type(cache).__name__}, that of an earlier call is wanted")
        q, k, v = (part(hidden).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
                   for part in (self.query, self.key, self.value))
        if caches is None:
            out = self.settings.attend(q, k, v, self.scores(hidden))
        else:
            out = self._decode(caches, q, k, v, hidden)
        return self.output(out.transpose(1, 2).flatten(2))

    @between_programs("SparseKAttention: caches are no part of a program: leave fullgraph=True away, or compile calls without them")
    def _decode(self, caches, q, k, v, hidden):
        scores = self.scores(hidden, caches[0].tokens if caches else 0)
        if not caches:
            caches.extend(self.settings.caches(q, k, v, scores))
        if len(caches) != len(hidden):
            raise BadValue(f"caches: {len(caches)} for a batch of {len(hidden)}")
        return self.settings.step(caches, q, k, v, scores)

    if TYPE_CHECKING:
        @like(forward)
        def __call__(self, *given: Any) -> Any: ...

"""What a Diffuser model is made of: sizes, options, the graph of a layer, the lengths of a batch."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from .. import _core
from .._attention import BACKWARD
from .._check import choice, is_compiling, number, shown, whole
from .._graph import Graph, graph as make_graph, of_program
from .._operator import in_transform, operator
from ..errors import BadType, BadValue, FileError

if TYPE_CHECKING:
    from os import PathLike

    from .._types import Backward, Int, Pattern, Patterns, Pooling

ACTIVATIONS = {"gelu": F.gelu, "gelu_new": functools.partial(F.gelu, approximate="tanh"), "relu": F.relu, "silu": F.silu}


def share(value, name, below=False):
    """A number in [0, 1], or in [0, 1)."""
    found = number(value, name)
    if not 0 <= found <= 1 or below and found == 1:
        raise BadValue(f"{name}: {found}, a number in {'[0, 1)' if below else '[0, 1]'} is wanted")
    return found


def check_teleport(value):
    """A number in [0, 1], or a tensor."""
    return value if isinstance(value, torch.Tensor) else share(value, "teleport")


def check_pattern(pattern):
    """A Graph, or a text that can be read; how many tokens it fits is for later."""
    if isinstance(pattern, str):
        if not _core.is_graph_path(pattern):
            _core.canonical_pattern(pattern)
    elif not isinstance(pattern, Graph):
        raise BadType(f"pattern: {shown(pattern)}, a pattern text or a Graph is wanted")
    return pattern


def check_heads(hidden_size, heads, name="num_heads"):
    """Both of them as they are wanted."""
    hidden_size, heads = whole(hidden_size, "hidden_size", 1), whole(heads, name, 1)
    if hidden_size % heads:
        raise BadValue(f"hidden_size: {hidden_size} is no multiple of {heads} heads")
    return hidden_size, heads


def check_dense(x, name):
    if not isinstance(x, torch.Tensor):
        raise BadType(f"{name}: {type(x).__name__}, a tensor is wanted")
    if x.is_nested or x.layout != torch.strided:
        raise BadType(f"{name}: {'a nested tensor' if x.is_nested else f'layout {x.layout}'}, a dense tensor is wanted")


def check_tensor(x, name, axes, width=None, module=None):
    """A tensor of real numbers with as many axes as are named, the last of them `width` wide, of the type that the weights of
    `module` have."""
    check_dense(x, name)
    if x.dim() != len(axes):
        raise BadValue(f"{name}: {x.dim()} axes, [{', '.join(axes)}] is wanted")
    if not x.is_floating_point():
        raise BadType(f"{name}: {x.dtype}, a floating-point type is wanted")
    if width is not None and x.shape[-1] != width:
        raise BadValue(f"{name}: width {x.shape[-1]}, the module has {width}")
    own = getattr(getattr(module, "weight", None), "dtype", x.dtype)
    if own != x.dtype and own in (torch.float64, torch.float32, torch.bfloat16, torch.float16) and not (
            torch.is_autocast_enabled("cuda" if x.is_cuda else "cpu")):
        raise BadType(f"{name}: {x.dtype}, the weights are {own}")


HIDDEN = ("batch", "tokens", "width")


def check_ids(ids, name, count, shape=None, ignored=None):
    """Integers [batch, tokens] from 0 to count - 1, or as `shape` says."""
    check_dense(ids, name)
    if shape is None and ids.dim() != 2:
        raise BadValue(f"{name}: {ids.dim()} axes, [batch, tokens] is wanted")
    if shape is not None and ids.shape != shape:
        raise BadValue(f"{name}: shape {list(ids.shape)}, {list(shape)} is wanted")
    if ids.dtype not in (torch.int64, torch.int32):
        raise BadType(f"{name}: {ids.dtype}, int64 or int32 is wanted")
    if torch.compiler.is_compiling() or ids.device.type != "cpu" or in_transform():
        return  # looking at numbers would cut a program in two, or wait for the device
    bad = (ids < 0) | (ids >= count)
    if ignored is not None:
        bad &= ids != ignored
    if bool(bad.any()):
        raise BadValue(f"{name}: {int(ids[bad][0])}, numbers from 0 to {count - 1} are wanted" +
                       (f" (or {ignored})" if ignored is not None else ""))


@functools.lru_cache(maxsize=64)
def _cached_graph(text, n):
    return make_graph(text, n)


def graph_of(pattern: Pattern, n: Int, causal: bool = False) -> Graph:
    """The graph on n tokens of a pattern text (made once and kept), or a Graph of n tokens as it is.

    `causal` keeps the edges to the token itself and to earlier ones. BadValue for a Graph of another size. Under torch.compile torch
    2.5 takes the causal part of a pattern text, but not of a Graph.

    >>> import manyhop as mh
    >>> mh.nn.graph_of("window(1)", 5, causal=True).nnz
    9
    """
    if is_compiling():
        # A program for any graph; attention looks at its size. (torch 2.5 takes no object for a constant of a program.)
        if isinstance(pattern, Graph) and not causal:
            return pattern
        return of_program(_graph_of, pattern, whole(n, "n"), causal)
    return _graph_of(pattern, whole(n, "n"), causal)


def _graph_of(pattern, n, causal):
    if isinstance(pattern, str):
        return _cached_graph(f"({pattern}) & causal" if causal else pattern, n)
    check_pattern(pattern)
    if pattern.shape != (n, n):
        raise BadValue(f"pattern: a graph of {pattern.shape[0]} x {pattern.shape[1]} for {n} tokens")
    return pattern & _cached_graph("causal", n) if causal else pattern


def lengths_of(attention_mask: torch.Tensor | None) -> list[int] | None:
    """Lengths [b] of a mask [b, n] (1: token, 0: padding) that pads on the right; None without padding.

    BadValue where padding comes before or between tokens, and for numbers that are neither. While torch.compile traces it is a
    tensor, also without padding; backward then makes again what else is kept for it.

    >>> import torch, manyhop as mh
    >>> mh.nn.lengths_of(torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]))
    [3, 2]
    """
    if attention_mask is None:
        return None
    check_dense(attention_mask, "attention_mask")
    if attention_mask.dim() != 2:
        raise BadValue(f"attention_mask: {attention_mask.dim()} axes, [batch, tokens] is wanted")
    if is_compiling():
        return _lengths_when_run(attention_mask.detach())
    return _lengths(attention_mask.detach())


def _lengths(mask):
    tokens = mask == 1
    if not bool((tokens | (mask == 0)).all()):
        raise BadValue("attention_mask: 1 (token) and 0 (padding) are wanted, it has other numbers")
    if bool(tokens.all()):
        return None
    lengths = tokens.sum(1)
    if not bool((tokens == (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None])).all()):
        raise BadValue("attention_mask: padding before or between tokens, it has to come after them: pad on the right")
    return lengths.tolist()


@operator("manyhop::lengths_of")
def _lengths_when_run(mask: torch.Tensor) -> torch.Tensor:
    found = _lengths(mask)
    return torch.tensor([mask.shape[1]] * mask.shape[0] if found is None else found, dtype=torch.int64, device=mask.device)


@_lengths_when_run.register_fake
def _(mask):
    return mask.new_empty(mask.shape[:1], dtype=torch.int64)


@dataclass
class DiffuserConfig:
    """Sizes and options of a Diffuser model; the defaults are those of the paper.

    pattern : pattern text (or Graph) of all layers, or a list of one for each. ``"full"`` with ``hops=1, teleport=0`` is a
        plain Transformer.
    pooling : what the classifier sees: the "first" token or the "mean" of all.
    backward : "stored", "checkpointed" or "implicit" (see :func:`manyhop.attention`).

    >>> import manyhop as mh
    >>> config = mh.nn.DiffuserConfig(num_hidden_layers=2, pattern=["window(64)", "regular(64)"])
    >>> config.hops, config.teleport, config.pattern_of(1)
    (5, 0.1, 'regular(64)')
    """

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 4098
    type_vocab_size: int = 1
    pad_token_id: int = 1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    num_labels: int = 2
    pattern: Patterns = "diffuser(64, 64, 64)"
    hops: int = 5
    teleport: float | torch.Tensor = 0.1
    pooling: Pooling = "first"
    backward: Backward = "stored"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "intermediate_size", "type_vocab_size", "num_labels"):
            setattr(self, name, whole(getattr(self, name), name, 1))
        self.hidden_size, self.num_attention_heads = check_heads(self.hidden_size, self.num_attention_heads,
                                                                 "num_attention_heads")
        self.num_hidden_layers = whole(self.num_hidden_layers, "num_hidden_layers")
        self.pad_token_id = whole(self.pad_token_id, "pad_token_id", 0, self.vocab_size - 1)
        # Positions count on from the padding's own.
        self.max_position_embeddings = whole(self.max_position_embeddings, "max_position_embeddings", self.pad_token_id + 2)
        choice(self.hidden_act, "hidden_act", tuple(ACTIVATIONS))
        choice(self.pooling, "pooling", ("first", "mean"))
        choice(self.backward, "backward", BACKWARD)
        self.hidden_dropout_prob = share(self.hidden_dropout_prob, "hidden_dropout_prob")
        self.attention_probs_dropout_prob = share(self.attention_probs_dropout_prob, "attention_probs_dropout_prob", below=True)
        self.layer_norm_eps = number(self.layer_norm_eps, "layer_norm_eps", 0)
        self.initializer_range = number(self.initializer_range, "initializer_range", 0)
        self.hops, self.teleport = whole(self.hops, "hops"), check_teleport(self.teleport)
        if isinstance(self.pattern, (list, tuple)) and len(self.pattern) != self.num_hidden_layers:
            raise BadValue(f"pattern: a list of {len(self.pattern)} for {self.num_hidden_layers} layers")
        for pattern in self.pattern if isinstance(self.pattern, (list, tuple)) else [self.pattern]:
            check_pattern(pattern)

    @classmethod
    def from_dict(cls, values: dict[str, Any], **changes: Any) -> DiffuserConfig:
        """From a dictionary such as the reference code's config.json; keys that mean nothing here are left out.

        A configuration of the reference code (``attention_mode`` "diffuser", or ``num_rand``, ``num_glob``) gets the pattern
        ``diffuser_ref``, which has blocks of 64 tokens, 64 random cells a row and 64 global tokens. BadValue for other numbers:
        give `pattern`.

        >>> import manyhop as mh
        >>> mh.nn.DiffuserConfig.from_dict({"attention_mode": "diffuser", "gradient_checkpointing": False}, hops=3).pattern
        'diffuser_ref(4096)'
        """
        if not isinstance(values, dict):
            raise BadType(f"config: {type(values).__name__}, a dictionary is wanted")
        known = {field.name for field in dataclasses.fields(cls)}
        found = {key: value for key, value in values.items() if key in known}
        if "pattern" not in {**values, **changes} and _is_reference(values):
            found["pattern"] = _reference_pattern(values)
        return cls(**{**found, **changes})

    @classmethod
    def from_json(cls, path: str | PathLike[str], **changes: Any) -> DiffuserConfig:
        """:meth:`from_dict` of a JSON file.

        >>> import manyhop as mh, os, tempfile
        >>> name = os.path.join(tempfile.mkdtemp(), "config.json")
        >>> _ = open(name, "w").write('{"hidden_size": 96}')
        >>> mh.nn.DiffuserConfig.from_json(name).hidden_size
        96
        """
        try:
            with open(path, encoding="utf-8") as file:
                values = json.load(file)
        except (OSError, ValueError) as error:  # json's own is a ValueError
            raise FileError(f"{path}: {error}") from error
        return cls.from_dict(values, **changes)

    def pattern_of(self, layer: Int) -> Pattern:
        """The pattern of a layer, counted from 0.

        >>> import manyhop as mh
        >>> mh.nn.DiffuserConfig(num_hidden_layers=2, pattern=["window(64)", "regular(64)"]).pattern_of(0)
        'window(64)'
        """
        if not isinstance(self.pattern, (list, tuple)):
            return self.pattern
        return self.pattern[whole(layer, "layer", 0, len(self.pattern) - 1)]


def _is_reference(values):
    return values.get("attention_mode") == "diffuser" or "num_rand" in values or "num_glob" in values


def _reference_pattern(values):
    """What the reference code draws: blocks of the largest attention_window, num_rand cells a row, num_glob tokens."""
    window = values.get("attention_window", 64)
    window = max(window, default=64) if isinstance(window, (list, tuple)) else window
    counts = window, values.get("num_rand", 64), values.get("num_glob", 64)
    if counts != (64, 64, 64):
        raise BadValue("config: attention_window {}, num_rand {}, num_glob {}, diffuser_ref has 64 of each; give a pattern, such "
                       "as pattern='diffuser({}, {}, {})'".format(*counts, *counts))
    return "diffuser_ref(4096)"


def config_of(config, fields=()):
    """A DiffuserConfig, or one of `fields`, or both."""
    known = [field.name for field in dataclasses.fields(DiffuserConfig)]
    for name in fields:
        if name not in known:
            raise BadType(f"config: no field {name!r}, expected one of {', '.join(known)}")
    if config is None:
        return DiffuserConfig(**dict(fields))
    if not isinstance(config, DiffuserConfig):
        raise BadType(f"config: {type(config).__name__}, a DiffuserConfig is wanted (from_dict, from_json make one)")
    return dataclasses.replace(config, **fields) if fields else config

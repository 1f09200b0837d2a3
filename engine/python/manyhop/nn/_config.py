"""What a Diffuser model is made of: sizes, options, the graph of a layer, the lengths of a batch."""

import dataclasses
import functools
import json
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .._graph import Graph, graph as make_graph
from ..errors import BadType, BadValue

ACTIVATIONS = {"gelu": F.gelu, "gelu_new": functools.partial(F.gelu, approximate="tanh"), "relu": F.relu, "silu": F.silu}


@functools.lru_cache(maxsize=64)
def _cached_graph(text, n):
    return make_graph(text, n)


def graph_of(pattern, n, causal=False):
    """The graph on n tokens of a pattern text (made once and kept), or a Graph of n tokens as it is.

    `causal` keeps the edges to the token itself and to earlier ones. BadValue for a Graph of another size.

    >>> import manyhop as mh
    >>> mh.nn.graph_of("window(1)", 5, causal=True).nnz
    9
    """
    if isinstance(pattern, str):
        return _cached_graph(f"({pattern}) & causal" if causal else pattern, n)
    if not isinstance(pattern, Graph):
        raise BadType(f"pattern: {type(pattern).__name__}, a pattern text or a Graph is wanted")
    if pattern.shape != (n, n):
        raise BadValue(f"pattern: a graph of {pattern.shape[0]} x {pattern.shape[1]} for {n} tokens")
    return pattern & _cached_graph("causal", n) if causal else pattern


# What torch.compiler.assume_constant_result sets, which would load the compiler to do so.
graph_of._dynamo_marked_constant = True


def lengths_of(attention_mask):
    """Lengths [b] of a mask [b, n] (1: token, 0: padding) that pads on the right; None without padding.

    BadValue where padding comes before or between tokens, and for numbers that are neither.

    >>> import torch, manyhop as mh
    >>> mh.nn.lengths_of(torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]))
    [3, 2]
    """
    if attention_mask is None:
        return None
    if attention_mask.dim() != 2:
        raise BadValue(f"attention_mask: {attention_mask.dim()} axes, [batch, tokens] is wanted")
    mask = attention_mask.detach()
    tokens = mask == 1
    if not bool((tokens | (mask == 0)).all()):
        raise BadValue("attention_mask: 1 (token) and 0 (padding) are wanted, it has other numbers")
    if bool(tokens.all()):
        return None
    lengths = tokens.sum(1)
    if not bool((tokens == (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None])).all()):
        raise BadValue("attention_mask: padding before or between tokens, it has to come after them: pad on the right")
    return lengths.tolist()


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
    pattern: object = "diffuser(64, 64, 64)"
    hops: int = 5
    teleport: float = 0.1
    pooling: str = "first"
    backward: str = "stored"

    def __post_init__(self):
        if self.hidden_size % self.num_attention_heads:
            raise BadValue(f"hidden_size: {self.hidden_size} is no multiple of {self.num_attention_heads} heads")
        if self.hidden_act not in ACTIVATIONS:
            raise BadValue(f"hidden_act: {self.hidden_act!r}, expected one of {', '.join(ACTIVATIONS)}")
        if self.pooling not in ("first", "mean"):
            raise BadValue(f"pooling: {self.pooling!r}, expected first or mean")
        if isinstance(self.pattern, (list, tuple)) and len(self.pattern) != self.num_hidden_layers:
            raise BadValue(f"pattern: a list of {len(self.pattern)} for {self.num_hidden_layers} layers")

    @classmethod
    def from_dict(cls, values, **changes):
        """From a dictionary such as the reference code's config.json; keys that mean nothing here are left out.

        A configuration of the reference code (``attention_mode`` "diffuser") gets the pattern ``diffuser_ref``.

        >>> import manyhop as mh
        >>> mh.nn.DiffuserConfig.from_dict({"attention_mode": "diffuser", "gradient_checkpointing": False}, hops=3).pattern
        'diffuser_ref(4096)'
        """
        known = {field.name for field in dataclasses.fields(cls)}
        found = {key: value for key, value in values.items() if key in known}
        if "pattern" not in values and values.get("attention_mode") == "diffuser":
            found["pattern"] = "diffuser_ref(4096)"
        return cls(**{**found, **changes})

    @classmethod
    def from_json(cls, path, **changes):
        """:meth:`from_dict` of a JSON file.

        >>> import manyhop as mh, os, tempfile
        >>> name = os.path.join(tempfile.mkdtemp(), "config.json")
        >>> _ = open(name, "w").write('{"hidden_size": 96}')
        >>> mh.nn.DiffuserConfig.from_json(name).hidden_size
        96
        """
        with open(path, encoding="utf-8") as file:
            return cls.from_dict(json.load(file), **changes)

    def pattern_of(self, layer):
        """The pattern of a layer, counted from 0."""
        return self.pattern[layer] if isinstance(self.pattern, (list, tuple)) else self.pattern


def config_of(config, fields):
    """A DiffuserConfig, or one of `fields`, or both."""
    if config is None:
        return DiffuserConfig(**fields)
    if not isinstance(config, DiffuserConfig):
        raise BadType(f"config: {type(config).__name__}, a DiffuserConfig is wanted (from_dict, from_json make one)")
    return dataclasses.replace(config, **fields) if fields else config

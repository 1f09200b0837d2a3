"""Diffuser models: attention with K hops of diffusion over a token graph as torch modules.

The modules and their parameters are named as in the reference code of Diffuser (Feng et al., 2022), so its checkpoints load
with ``load_state_dict``: ``DiffuserForSequenceClassification`` holds ``diffuser.embeddings.*``,
``diffuser.encoder.layer.0.attention.self.query.weight`` and so on.

>>> import torch, manyhop as mh
>>> config = mh.nn.DiffuserConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
...                               intermediate_size=64, max_position_embeddings=130, pattern="window(4)|global(1)")
>>> model = mh.nn.DiffuserForSequenceClassification(config).eval()
>>> model(torch.arange(2, 34).reshape(2, 16)).logits.shape
torch.Size([2, 2])
"""

import dataclasses
import functools
import json
from dataclasses import dataclass
from typing import NamedTuple, Optional

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
except ImportError as error:  # pragma: no cover
    from .errors import Error

    raise Error("manyhop.nn wants the package torch, which is not installed here: pip install torch") from error

from ._attention import attention
from ._diffusion import diffuse
from ._graph import Graph, graph as make_graph
from ._nn_sparsek import SparseKAttention, SparseKScores
from .errors import BadType, BadValue

__all__ = ["APPNP", "DiffuserAttention", "DiffuserConfig", "DiffuserEmbeddings", "DiffuserEncoder", "DiffuserForCausalLM",
           "DiffuserForMaskedLM", "DiffuserForSequenceClassification", "DiffuserLayer", "DiffuserModel", "DiffuserOutput",
           "DiffuserSelfAttention", "SparseKAttention", "SparseKScores", "graph_of", "lengths_of"]

_ACTIVATIONS = {"gelu": F.gelu, "gelu_new": functools.partial(F.gelu, approximate="tanh"), "relu": F.relu, "silu": F.silu}


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

    BadValue where padding comes before or between tokens.

    >>> import torch, manyhop as mh
    >>> mh.nn.lengths_of(torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]))
    [3, 2]
    """
    if attention_mask is None:
        return None
    if attention_mask.dim() != 2:
        raise BadValue(f"attention_mask: {attention_mask.dim()} axes, [batch, tokens] is wanted")
    tokens = attention_mask.detach() > 0
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
        if self.hidden_act not in _ACTIVATIONS:
            raise BadValue(f"hidden_act: {self.hidden_act!r}, expected one of {', '.join(_ACTIVATIONS)}")
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


class DiffuserOutput(NamedTuple):
    """What the models return: loss, logits (None where not asked for) and hidden [b, n, hidden_size] of the last layer.

    >>> import torch, manyhop as mh
    >>> mh.nn.DiffuserOutput(None, None, torch.zeros(1, 4, 8)).hidden.shape
    torch.Size([1, 4, 8])
    """

    loss: Optional[Tensor]
    logits: Optional[Tensor]
    hidden: Tensor  #: [b, n, hidden_size] of the last layer


class DiffuserSelfAttention(nn.Module):
    """query, key, value projections and attention with hops: [b, n, hidden_size] -> [b, n, hidden_size].

    A = softmax over the edges of (q.k / sqrt(d)); Z_0 = V, Z_{t+1} = (1 - teleport) A Z_t + teleport V. In training, dropout
    with probability `dropout` on A once and on Z in every hop. `causal` keeps edges to earlier tokens only.

    >>> import torch, manyhop as mh
    >>> mh.nn.DiffuserSelfAttention(32, 4, "window(2)|global(1)", hops=3)(torch.zeros(2, 10, 32)).shape
    torch.Size([2, 10, 32])
    """

    def __init__(self, hidden_size=768, num_heads=12, pattern="diffuser(64, 64, 64)", *, hops=5, teleport=0.1, dropout=0.1,
                 causal=False, backward="stored"):
        super().__init__()
        if hidden_size % num_heads:
            raise BadValue(f"hidden_size: {hidden_size} is no multiple of {num_heads} heads")
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.pattern, self.hops, self.teleport = pattern, hops, teleport
        self.dropout, self.causal, self.backward = dropout, causal, backward

    def forward(self, hidden, graph=None, lengths=None):
        """`graph` takes the place of the pattern; `lengths` [b] are those of a batch padded on the right."""
        b, n, width = hidden.shape
        graph = graph_of(self.pattern if graph is None else graph, n, self.causal)
        d = width // self.num_heads
        q, k, v = (project(hidden).view(b, n, self.num_heads, d) for project in (self.query, self.key, self.value))
        p = self.dropout if self.training else 0.0
        out = attention(q, k, v, graph, hops=self.hops, teleport=self.teleport, lengths=lengths, dropout_p=p,
                        hop_dropout_p=p, layout="bshd", backward=self.backward)
        return out.reshape(b, n, width)

    def extra_repr(self):
        return f"pattern={self.pattern!r}, heads={self.num_heads}, hops={self.hops}, teleport={self.teleport}"


class _Residual(nn.Module):
    """LayerNorm(dropout(dense(x)) + residual)"""

    def __init__(self, inner, hidden_size, dropout, eps):
        super().__init__()
        self.dense = nn.Linear(inner, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, residual):
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class DiffuserAttention(nn.Module):
    """The attention block of a layer: LayerNorm(dense(self(x)) + x), with `self` a :class:`DiffuserSelfAttention`.

    >>> import torch, manyhop as mh
    >>> block = mh.nn.DiffuserAttention(32, 4, "window(2)|global(1)", hops=3)
    >>> block(torch.zeros(2, 10, 32)).shape, sorted(block.state_dict())[0]
    (torch.Size([2, 10, 32]), 'output.LayerNorm.bias')
    """

    def __init__(self, hidden_size=768, num_heads=12, pattern="diffuser(64, 64, 64)", *, hops=5, teleport=0.1, dropout=0.1,
                 hidden_dropout=0.1, layer_norm_eps=1e-5, causal=False, backward="stored"):
        super().__init__()
        self.self = DiffuserSelfAttention(hidden_size, num_heads, pattern, hops=hops, teleport=teleport, dropout=dropout,
                                          causal=causal, backward=backward)
        self.output = _Residual(hidden_size, hidden_size, hidden_dropout, layer_norm_eps)

    def forward(self, hidden, graph=None, lengths=None):
        """`graph` takes the place of the pattern; `lengths` [b] are those of a batch padded on the right."""
        return self.output(self.self(hidden, graph, lengths), hidden)


class _Intermediate(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = _ACTIVATIONS[config.hidden_act]

    def forward(self, x):
        return self.act(self.dense(x))


class DiffuserLayer(nn.Module):
    """Attention block and feed-forward block, each with a residual and a norm after it; layer number `layer` of a config.

    >>> import torch, manyhop as mh
    >>> config = mh.nn.DiffuserConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...                               intermediate_size=64, max_position_embeddings=130, pattern="window(4)|global(1)")
    >>> mh.nn.DiffuserLayer(config)(torch.zeros(2, 10, 32)).shape
    torch.Size([2, 10, 32])
    """

    def __init__(self, config, layer=0, causal=False):
        super().__init__()
        self.attention = DiffuserAttention(config.hidden_size, config.num_attention_heads, config.pattern_of(layer),
                                           hops=config.hops, teleport=config.teleport,
                                           dropout=config.attention_probs_dropout_prob,
                                           hidden_dropout=config.hidden_dropout_prob, layer_norm_eps=config.layer_norm_eps,
                                           causal=causal, backward=config.backward)
        self.intermediate = _Intermediate(config)
        self.output = _Residual(config.intermediate_size, config.hidden_size, config.hidden_dropout_prob,
                                config.layer_norm_eps)

    def forward(self, hidden, graph=None, lengths=None):
        hidden = self.attention(hidden, graph, lengths)
        return self.output(self.intermediate(hidden), hidden)


class DiffuserEncoder(nn.Module):
    """The layers of a Diffuser: [b, n, hidden_size] -> [b, n, hidden_size]. :class:`DiffuserModel` puts embeddings before it.

    Takes a :class:`DiffuserConfig`, or its fields.

    >>> import torch, manyhop as mh
    >>> encoder = mh.nn.DiffuserEncoder(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
    ...                                 pattern="window(4)")
    >>> encoder(torch.zeros(2, 10, 32), lengths=[10, 7]).shape
    torch.Size([2, 10, 32])
    """

    def __init__(self, config=None, *, causal=False, **fields):
        super().__init__()
        config = _config(config, fields)
        self.config = config
        self.layer = nn.ModuleList([DiffuserLayer(config, i, causal) for i in range(config.num_hidden_layers)])
        self.apply(functools.partial(_initialise, std=config.initializer_range))

    def forward(self, hidden, graph=None, lengths=None):
        for layer in self.layer:
            hidden = layer(hidden, graph, lengths)
        return hidden


class DiffuserEmbeddings(nn.Module):
    """Words, positions and types, summed and normed: ids [b, n] -> [b, n, hidden_size].

    Positions count tokens from pad_token_id + 1; padding has none. BadValue for more tokens than positions.

    >>> import torch, manyhop as mh
    >>> config = mh.nn.DiffuserConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...                               intermediate_size=64, max_position_embeddings=130, pattern="window(4)|global(1)")
    >>> mh.nn.DiffuserEmbeddings(config)(torch.tensor([[2, 3, 4, 1]])).shape
    torch.Size([1, 4, 32])
    """

    def __init__(self, config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size,
                                                padding_idx=config.pad_token_id)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.padding_idx = config.pad_token_id

    def forward(self, input_ids, token_type_ids=None, position_ids=None):
        if position_ids is None:
            tokens = input_ids.ne(self.padding_idx).to(torch.int64)
            position_ids = tokens.cumsum(1) * tokens + self.padding_idx
            most = self.position_embeddings.num_embeddings - self.padding_idx - 1
            if input_ids.shape[1] > most:
                raise BadValue(f"input_ids: {input_ids.shape[1]} tokens, the model has {most} positions")
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        summed = (self.word_embeddings(input_ids) + self.position_embeddings(position_ids) +
                  self.token_type_embeddings(token_type_ids))
        return self.dropout(self.LayerNorm(summed))


class _Pooler(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden):
        return torch.tanh(self.dense(hidden[:, 0]))


class DiffuserModel(nn.Module):
    """Embeddings and encoder: ids [b, n] -> [b, n, hidden_size]. Takes a :class:`DiffuserConfig`, or its fields.

    Its state dictionary has the names of the reference code.

    >>> import torch, manyhop as mh
    >>> config = mh.nn.DiffuserConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...                               intermediate_size=64, max_position_embeddings=130, pattern="window(4)|global(1)")
    >>> model = mh.nn.DiffuserModel(config)
    >>> model(torch.tensor([[2, 3, 4, 5], [6, 7, 1, 1]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])).shape
    torch.Size([2, 4, 32])
    >>> next(name for name in model.state_dict() if "query" in name)
    'encoder.layer.0.attention.self.query.weight'
    """

    def __init__(self, config=None, *, add_pooling_layer=False, causal=False, **fields):
        super().__init__()
        config = _config(config, fields)
        self.config = config
        self.embeddings = DiffuserEmbeddings(config)
        self.encoder = DiffuserEncoder(config, causal=causal)
        self.pooler = _Pooler(config) if add_pooling_layer else None
        self.apply(functools.partial(_initialise, std=config.initializer_range))

    def forward(self, input_ids, attention_mask=None, *, lengths=None, token_type_ids=None, position_ids=None, graph=None):
        """`attention_mask` [b, n] (0: padding, on the right) or `lengths` [b]; `graph` takes the place of the pattern."""
        if lengths is None:
            lengths = lengths_of(attention_mask)
        return self.encoder(self.embeddings(input_ids, token_type_ids, position_ids), graph, lengths)


class _ClassificationHead(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, pooled):
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(pooled)))))


class _LMHead(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = self.decoder.bias  # the reference code's checkpoints hold it under both names

    def forward(self, hidden):
        return self.decoder(self.layer_norm(F.gelu(self.dense(hidden))))


class _WithHead(nn.Module):
    causal = False

    def __init__(self, config=None, **fields):
        super().__init__()
        self.config = _config(config, fields)
        self.diffuser = DiffuserModel(self.config, causal=self.causal)

    def _initialise_head(self, head):
        head.apply(functools.partial(_initialise, std=self.config.initializer_range))
        return head


class DiffuserForSequenceClassification(_WithHead):
    """A class for each sequence: ``model(ids, labels=...)`` gives loss, logits [b, num_labels] and hidden states.

    >>> import torch, manyhop as mh
    >>> config = mh.nn.DiffuserConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...                               intermediate_size=64, max_position_embeddings=130, pattern="window(4)|global(1)")
    >>> out = mh.nn.DiffuserForSequenceClassification(config)(torch.arange(2, 18).reshape(2, 8), labels=torch.tensor([0, 1]))
    >>> out.logits.shape, out.loss.ndim
    (torch.Size([2, 2]), 0)
    """

    def __init__(self, config=None, **fields):
        super().__init__(config, **fields)
        self.classifier = self._initialise_head(_ClassificationHead(self.config))

    def forward(self, input_ids, attention_mask=None, labels=None, **given):
        lengths = given.pop("lengths", None)
        if lengths is None:
            lengths = lengths_of(attention_mask)
        hidden = self.diffuser(input_ids, lengths=lengths, **given)
        if self.config.pooling == "first":
            pooled = hidden[:, 0]
        elif lengths is None:
            pooled = hidden.mean(1)
        else:
            counts = torch.as_tensor(lengths, device=hidden.device)[:, None]
            tokens = torch.arange(hidden.shape[1], device=hidden.device) < counts
            pooled = (hidden * tokens[:, :, None]).sum(1) / counts.clamp(min=1)
        logits = self.classifier(pooled)
        return DiffuserOutput(None if labels is None else F.cross_entropy(logits, labels), logits, hidden)


class DiffuserForMaskedLM(_WithHead):
    """Words at masked places: ``labels`` [b, n], -100 where nothing is asked; logits [b, n, vocab_size].

    >>> import torch, manyhop as mh
    >>> config = mh.nn.DiffuserConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...                               intermediate_size=64, max_position_embeddings=130, pattern="window(4)|global(1)")
    >>> ids = torch.arange(2, 18).reshape(2, 8)
    >>> mh.nn.DiffuserForMaskedLM(config)(ids, labels=ids).logits.shape
    torch.Size([2, 8, 50])
    """

    def __init__(self, config=None, **fields):
        super().__init__(config, **fields)
        self.lm_head = self._initialise_head(_LMHead(self.config))

    def forward(self, input_ids, attention_mask=None, labels=None, **given):
        hidden = self.diffuser(input_ids, attention_mask, **given)
        logits = self.lm_head(hidden)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return DiffuserOutput(loss, logits, hidden)


class DiffuserForCausalLM(_WithHead):
    """The next word: edges to the token itself and earlier ones only. ``labels`` are the ids; they are shifted here.

    >>> import torch, manyhop as mh
    >>> config = mh.nn.DiffuserConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...                               intermediate_size=64, max_position_embeddings=130, pattern="window(4)|global(1)")
    >>> model = mh.nn.DiffuserForCausalLM(config).eval()
    >>> ids = torch.arange(2, 10).reshape(1, 8)
    >>> before = model(ids).logits
    >>> ids[0, 5] = 30
    >>> torch.allclose(model(ids).logits[:, :5], before[:, :5], atol=1e-6)       # the past does not hear the future
    True
    """

    causal = True

    def __init__(self, config=None, **fields):
        super().__init__(config, **fields)
        self.lm_head = self._initialise_head(_LMHead(self.config))

    def forward(self, input_ids, attention_mask=None, labels=None, **given):
        hidden = self.diffuser(input_ids, attention_mask, **given)
        logits = self.lm_head(hidden)
        loss = None if labels is None else F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return DiffuserOutput(loss, logits, hidden)


class APPNP(nn.Module):
    """Predict, then propagate: personalised PageRank of x [n, c] over a graph, by ``hops`` or to ``tol``.

    Z_{t+1} = (1 - teleport) A Z_t + teleport X, dropout on X in training. `learn` makes the teleport a parameter (its logit);
    it starts inside (0, 1) then. A has no loops of its own: put ``| self`` into the graph where they are wanted.

    Source: Gasteiger, Bojchevski, Guennemann, Predict then propagate, ICLR 2019.

    >>> import torch, manyhop as mh
    >>> mh.nn.APPNP(hops=10)(torch.eye(6), mh.graph("window(1)", 6)).shape
    torch.Size([6, 6])
    """

    def __init__(self, hops=None, teleport=0.1, *, tol=None, dropout=0.0, normalization="sym", learn=False):
        super().__init__()
        self.hops, self.tol, self.dropout, self.normalization = hops, tol, dropout, normalization
        if learn:
            if not 0 < teleport < 1:
                raise BadValue(f"teleport: {teleport} cannot be learned from, a number inside (0, 1) is wanted")
            self.logit = nn.Parameter(torch.logit(torch.tensor(float(teleport), dtype=torch.float64)))
        else:
            self.logit = None
            self.fixed = teleport

    @property
    def teleport(self):
        """A number, or a tensor where it is learned."""
        return self.fixed if self.logit is None else torch.sigmoid(self.logit)

    def forward(self, x, graph):
        x = F.dropout(x, self.dropout, self.training)
        return diffuse(graph, x, "ppr", teleport=self.teleport, hops=self.hops, tol=self.tol,
                       normalization=self.normalization).value

    def extra_repr(self):
        return f"hops={self.hops}, tol={self.tol}, teleport={float(self.teleport):.4g}, normalization={self.normalization!r}"


def _config(config, fields):
    if config is None:
        return DiffuserConfig(**fields)
    if not isinstance(config, DiffuserConfig):
        raise BadType(f"config: {type(config).__name__}, a DiffuserConfig is wanted (from_dict, from_json make one)")
    return dataclasses.replace(config, **fields) if fields else config


def _initialise(module, std):
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=std)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
        if getattr(module, "padding_idx", None) is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)

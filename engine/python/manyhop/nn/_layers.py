"""Layers of a Diffuser: attention with hops, feed-forward, embeddings."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._attention import BACKWARD, attention
from .._check import choice, flag, number, whole
from ..errors import BadValue
from ._config import (ACTIVATIONS, HIDDEN, check_heads, check_ids, check_pattern, check_teleport, check_tensor, config_of, graph_of,
                      share)

if TYPE_CHECKING:
    from .._types import Backward, Int, Lengths, Pattern, Real, like
    from ._config import DiffuserConfig


def initialise(module: nn.Module, std: float) -> None:
    """Normal weights of deviation `std`, as the reference code draws them."""
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


class DiffuserSelfAttention(nn.Module):
    """query, key, value projections and attention with hops: [b, n, hidden_size] -> [b, n, hidden_size].

    A = softmax over the edges of (q.k / sqrt(d)); Z_0 = V, Z_{t+1} = (1 - teleport) A Z_t + teleport V. In training, dropout
    with probability `dropout` on A once and on Z in every hop. `causal` keeps edges to earlier tokens only.

    >>> import torch, manyhop as mh
    >>> mh.nn.DiffuserSelfAttention(32, 4, "window(2)|global(1)", hops=3)(torch.zeros(2, 10, 32)).shape
    torch.Size([2, 10, 32])
    """

    def __init__(self, hidden_size: Int = 768, num_heads: Int = 12, pattern: Pattern = "diffuser(64, 64, 64)", *, hops: Int = 5,
                 teleport: Real | Tensor = 0.1, dropout: Real = 0.1, causal: bool = False,
                 backward: Backward = "stored") -> None:
        super().__init__()
        self.hidden_size, self.num_heads = hidden_size, _ = check_heads(hidden_size, num_heads)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.pattern, self.hops, self.teleport = check_pattern(pattern), whole(hops, "hops"), check_teleport(teleport)
        self.dropout, self.causal = share(dropout, "dropout", below=True), flag(causal, "causal")
        self.backward = choice(backward, "backward", BACKWARD)

    def forward(self, hidden: Tensor, graph: Pattern | None = None, lengths: Lengths | None = None) -> Tensor:
        """`graph` takes the place of the pattern; `lengths` [b] are those of a batch padded on the right.

        >>> import torch, manyhop as mh
        >>> layer = mh.nn.DiffuserSelfAttention(32, 4, "window(2)").eval()
        >>> layer(torch.ones(2, 10, 32), lengths=[10, 7])[1, 7:].abs().sum().item()
        0.0
        """
        check_tensor(hidden, "hidden", HIDDEN, self.hidden_size, self.query)
        b, n, width = hidden.shape
        graph = graph_of(self.pattern if graph is None else graph, n, self.causal)
        d = width // self.num_heads
        q, k, v = (project(hidden).view(b, n, self.num_heads, d) for project in (self.query, self.key, self.value))
        p = self.dropout if self.training else 0.0
        out = attention(q, k, v, graph, hops=self.hops, teleport=self.teleport, lengths=lengths, dropout_p=p,
                        hop_dropout_p=p, layout="bshd", backward=self.backward)
        return out.reshape(b, n, width)

    if TYPE_CHECKING:
        @like(forward)
        def __call__(self, *given: Any) -> Any: ...

    def extra_repr(self) -> str:
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

    def __init__(self, hidden_size: Int = 768, num_heads: Int = 12, pattern: Pattern = "diffuser(64, 64, 64)", *, hops: Int = 5,
                 teleport: Real | Tensor = 0.1, dropout: Real = 0.1, hidden_dropout: Real = 0.1, layer_norm_eps: Real = 1e-5,
                 causal: bool = False, backward: Backward = "stored") -> None:
        super().__init__()
        self.self = DiffuserSelfAttention(hidden_size, num_heads, pattern, hops=hops, teleport=teleport, dropout=dropout,
                                          causal=causal, backward=backward)
        self.output = _Residual(hidden_size, hidden_size, share(hidden_dropout, "hidden_dropout"),
                                number(layer_norm_eps, "layer_norm_eps", 0))

    def forward(self, hidden: Tensor, graph: Pattern | None = None, lengths: Lengths | None = None) -> Tensor:
        """`graph` takes the place of the pattern; `lengths` [b] are those of a batch padded on the right.

        >>> import torch, manyhop as mh
        >>> block = mh.nn.DiffuserAttention(32, 4)
        >>> block(torch.zeros(2, 10, 32), mh.graph("window(2)", 10), lengths=[10, 7]).shape
        torch.Size([2, 10, 32])
        """
        return self.output(self.self(hidden, graph, lengths), hidden)

    if TYPE_CHECKING:
        @like(forward)
        def __call__(self, *given: Any) -> Any: ...


class _Intermediate(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACTIVATIONS[config.hidden_act]

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

    def __init__(self, config: DiffuserConfig, layer: Int = 0, causal: bool = False) -> None:
        super().__init__()
        config = config_of(config)
        self.attention = DiffuserAttention(config.hidden_size, config.num_attention_heads, config.pattern_of(layer),
                                           hops=config.hops, teleport=config.teleport,
                                           dropout=config.attention_probs_dropout_prob,
                                           hidden_dropout=config.hidden_dropout_prob, layer_norm_eps=config.layer_norm_eps,
                                           causal=causal, backward=config.backward)
        self.intermediate = _Intermediate(config)
        self.output = _Residual(config.intermediate_size, config.hidden_size, config.hidden_dropout_prob,
                                config.layer_norm_eps)

    def forward(self, hidden: Tensor, graph: Pattern | None = None, lengths: Lengths | None = None) -> Tensor:
        """`graph` and `lengths` as in :class:`DiffuserAttention`.

        >>> import torch, manyhop as mh
        >>> config = mh.nn.DiffuserConfig(hidden_size=32, num_attention_heads=4, intermediate_size=64, pattern="window(4)")
        >>> mh.nn.DiffuserLayer(config)(torch.zeros(2, 10, 32), lengths=[10, 7]).shape
        torch.Size([2, 10, 32])
        """
        hidden = self.attention(hidden, graph, lengths)
        return self.output(self.intermediate(hidden), hidden)

    if TYPE_CHECKING:
        @like(forward)
        def __call__(self, *given: Any) -> Any: ...


class DiffuserEncoder(nn.Module):
    """The layers of a Diffuser: [b, n, hidden_size] -> [b, n, hidden_size]. :class:`DiffuserModel` puts embeddings before it.

    Takes a :class:`DiffuserConfig`, or its fields.

    >>> import torch, manyhop as mh
    >>> encoder = mh.nn.DiffuserEncoder(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
    ...                                 pattern="window(4)")
    >>> encoder(torch.zeros(2, 10, 32), lengths=[10, 7]).shape
    torch.Size([2, 10, 32])
    """

    def __init__(self, config: DiffuserConfig | None = None, *, causal: bool = False, **fields: Any) -> None:
        super().__init__()
        config = config_of(config, fields)
        self.config = config
        self.layer = nn.ModuleList([DiffuserLayer(config, i, causal) for i in range(config.num_hidden_layers)])
        self.apply(functools.partial(initialise, std=config.initializer_range))

    def forward(self, hidden: Tensor, graph: Pattern | None = None, lengths: Lengths | None = None) -> Tensor:
        """`graph` and `lengths` as in :class:`DiffuserAttention`, for all layers.

        >>> import torch, manyhop as mh
        >>> encoder = mh.nn.DiffuserEncoder(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
        >>> encoder(torch.zeros(2, 10, 32), "window(4)", lengths=[10, 7]).shape
        torch.Size([2, 10, 32])
        """
        check_tensor(hidden, "hidden", HIDDEN)
        for layer in self.layer:
            hidden = layer(hidden, graph, lengths)
        return hidden

    if TYPE_CHECKING:
        @like(forward)
        def __call__(self, *given: Any) -> Any: ...


class DiffuserEmbeddings(nn.Module):
    """Words, positions and types, summed and normed: ids [b, n] -> [b, n, hidden_size].

    Positions count tokens from pad_token_id + 1; padding has none. BadValue for more tokens than positions.

    >>> import torch, manyhop as mh
    >>> config = mh.nn.DiffuserConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...                               intermediate_size=64, max_position_embeddings=130, pattern="window(4)|global(1)")
    >>> mh.nn.DiffuserEmbeddings(config)(torch.tensor([[2, 3, 4, 1]])).shape
    torch.Size([1, 4, 32])
    """

    def __init__(self, config: DiffuserConfig) -> None:
        super().__init__()
        config = config_of(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size,
                                                padding_idx=config.pad_token_id)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.padding_idx = config.pad_token_id

    def _load_from_state_dict(self, state_dict, prefix, *given):
        state_dict.pop(prefix + "position_ids", None)  # older checkpoints hold the numbers 0, 1, ...
        super()._load_from_state_dict(state_dict, prefix, *given)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None, position_ids: Tensor | None = None) -> Tensor:
        """All three [b, n]; without types they are 0, without positions tokens are counted.

        >>> import torch, manyhop as mh
        >>> embed = mh.nn.DiffuserEmbeddings(mh.nn.DiffuserConfig(vocab_size=50, hidden_size=32, num_attention_heads=4)).eval()
        >>> ids = torch.tensor([[2, 3, 4]])
        >>> torch.equal(embed(ids), embed(ids, torch.zeros_like(ids), torch.tensor([[2, 3, 4]])))
        True
        """
        check_ids(input_ids, "input_ids", self.word_embeddings.num_embeddings)
        if token_type_ids is not None:
            check_ids(token_type_ids, "token_type_ids", self.token_type_embeddings.num_embeddings, input_ids.shape)
        if position_ids is not None:
            check_ids(position_ids, "position_ids", self.position_embeddings.num_embeddings, input_ids.shape)
        else:
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

    if TYPE_CHECKING:
        @like(forward)
        def __call__(self, *given: Any) -> Any: ...

"""Diffuser models: ids to hidden states, classes or words."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadValue
from ._config import check_dense, check_ids, config_of, lengths_of
from ._layers import DiffuserEmbeddings, DiffuserEncoder, initialise

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._types import Lengths, ModelInputs, Pattern, like
    from ._config import DiffuserConfig


class DiffuserOutput(NamedTuple):
    """What the models return: loss, logits (None where not asked for) and hidden [b, n, hidden_size] of the last layer.

    >>> import torch, manyhop as mh
    >>> mh.nn.DiffuserOutput(None, None, torch.zeros(1, 4, 8)).hidden.shape
    torch.Size([1, 4, 8])
    """

    loss: Optional[Tensor]
    logits: Optional[Tensor]
    hidden: Tensor  #: [b, n, hidden_size] of the last layer


def _lengths(input_ids, attention_mask, lengths):
    check_dense(input_ids, "input_ids")
    if input_ids.dim() != 2:
        raise BadValue(f"input_ids: {input_ids.dim()} axes, [batch, tokens] is wanted")
    if attention_mask is None:
        return lengths
    if lengths is not None:
        raise BadValue("attention_mask and lengths both say where padding begins, give one")
    check_dense(attention_mask, "attention_mask")
    if attention_mask.shape != input_ids.shape:
        raise BadValue(f"attention_mask: shape {list(attention_mask.shape)} for input_ids of {list(input_ids.shape)}")
    return lengths_of(attention_mask)


class _Pooler(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden):
        return torch.tanh(self.dense(hidden[:, 0]))


class DiffuserModel(nn.Module):
    """Embeddings and encoder: ids [b, n] -> [b, n, hidden_size]. Takes a :class:`DiffuserConfig`, or its fields.

    Its state dictionary has the names of the reference code; ``pooler`` and ``position_ids`` of a checkpoint are left out where
    the model has none.

    >>> import torch, manyhop as mh
    >>> config = mh.nn.DiffuserConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...                               intermediate_size=64, max_position_embeddings=130, pattern="window(4)|global(1)")
    >>> model = mh.nn.DiffuserModel(config)
    >>> model(torch.tensor([[2, 3, 4, 5], [6, 7, 1, 1]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])).shape
    torch.Size([2, 4, 32])
    >>> next(name for name in model.state_dict() if "query" in name)
    'encoder.layer.0.attention.self.query.weight'
    """

    def __init__(self, config: DiffuserConfig | None = None, *, add_pooling_layer: bool = False, causal: bool = False,
                 **fields: Any) -> None:
        super().__init__()
        config = config_of(config, fields)
        self.config = config
        self.embeddings = DiffuserEmbeddings(config)
        self.encoder = DiffuserEncoder(config, causal=causal)
        self.pooler = _Pooler(config) if add_pooling_layer else None
        self.apply(functools.partial(initialise, std=config.initializer_range))

    def _load_from_state_dict(self, state_dict, prefix, *given):
        if self.pooler is None:  # as the reference code does: its heads use none
            for name in [name for name in state_dict if name.startswith(prefix + "pooler.")]:
                del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *given)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, lengths: Lengths | None = None,
                token_type_ids: Tensor | None = None, position_ids: Tensor | None = None,
                graph: Pattern | None = None) -> Tensor:
        """`attention_mask` [b, n] (0: padding, on the right) or `lengths` [b]; `graph` takes the place of the pattern.

        >>> import torch, manyhop as mh
        >>> config = mh.nn.DiffuserConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        ...                               intermediate_size=64, max_position_embeddings=130, pattern="window(4)|global(1)")
        >>> model = mh.nn.DiffuserModel(config).eval()
        >>> ids, mask = torch.tensor([[2, 3, 4, 5], [6, 7, 1, 1]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
        >>> torch.equal(model(ids, mask), model(ids, lengths=[4, 2]))
        True
        """
        lengths = _lengths(input_ids, attention_mask, lengths)
        return self.encoder(self.embeddings(input_ids, token_type_ids, position_ids), graph, lengths)

    if TYPE_CHECKING:
        @like(forward)
        def __call__(self, *given: Any) -> Any: ...


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

    def __init__(self, config: DiffuserConfig | None = None, **fields: Any) -> None:
        super().__init__()
        self.config = config_of(config, fields)
        self.diffuser = DiffuserModel(self.config, causal=self.causal)

    def _initialise_head(self, head):
        head.apply(functools.partial(initialise, std=self.config.initializer_range))
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

    def __init__(self, config: DiffuserConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        self.classifier = self._initialise_head(_ClassificationHead(self.config))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None,
                **given: Unpack[ModelInputs]) -> DiffuserOutput:
        """`labels` [b] of classes, or [b, num_labels] of their shares; the rest as in :class:`DiffuserModel`.

        >>> import torch, manyhop as mh
        >>> config = mh.nn.DiffuserConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        ...                               intermediate_size=64, max_position_embeddings=130, pattern="window(4)|global(1)")
        >>> model = mh.nn.DiffuserForSequenceClassification(config)
        >>> model(torch.arange(2, 18).reshape(2, 8), labels=torch.tensor([0, 1]), lengths=[8, 5]).loss.ndim
        0
        """
        lengths = _lengths(input_ids, attention_mask, given.pop("lengths", None))
        shares = isinstance(labels, Tensor) and labels.is_floating_point() and labels.dim() == 2  # of each class
        if labels is not None and not shares:
            check_ids(labels, "labels", self.config.num_labels, input_ids.shape[:1], -100)
        if self.config.pooling == "first" and input_ids.shape[1] == 0:
            raise BadValue("input_ids: 0 tokens, the class is read off the first one")
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
        return DiffuserOutput(None if labels is None else F.cross_entropy(logits, labels if shares else labels.long()),
                              logits, hidden)

    if TYPE_CHECKING:
        @like(forward)
        def __call__(self, *given: Any) -> Any: ...


class _WithLMHead(_WithHead):
    def __init__(self, config: DiffuserConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        self.lm_head = self._initialise_head(_LMHead(self.config))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None,
                **given: Unpack[ModelInputs]) -> DiffuserOutput:
        """`labels` [b, n], -100 where nothing is asked; the rest as in :class:`DiffuserModel`.

        >>> import torch, manyhop as mh
        >>> config = mh.nn.DiffuserConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        ...                               intermediate_size=64, max_position_embeddings=130, pattern="window(4)|global(1)")
        >>> ids = torch.arange(2, 18).reshape(2, 8)
        >>> mh.nn.DiffuserForCausalLM(config)(ids, labels=ids).loss.ndim
        0
        """
        if labels is not None:
            check_ids(labels, "labels", self.config.vocab_size, getattr(input_ids, "shape", None), -100)
        hidden = self.diffuser(input_ids, attention_mask, **given)
        logits = self.lm_head(hidden)
        return DiffuserOutput(None if labels is None else self._loss(logits, labels), logits, hidden)

    if TYPE_CHECKING:
        @like(forward)
        def __call__(self, *given: Any) -> Any: ...


class DiffuserForMaskedLM(_WithLMHead):
    """Words at masked places: ``labels`` [b, n], -100 where nothing is asked; logits [b, n, vocab_size].

    >>> import torch, manyhop as mh
    >>> config = mh.nn.DiffuserConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...                               intermediate_size=64, max_position_embeddings=130, pattern="window(4)|global(1)")
    >>> ids = torch.arange(2, 18).reshape(2, 8)
    >>> mh.nn.DiffuserForMaskedLM(config)(ids, labels=ids).logits.shape
    torch.Size([2, 8, 50])
    """

    def _loss(self, logits, labels):
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten().long())


class DiffuserForCausalLM(_WithLMHead):
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

    def _loss(self, logits, labels):
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten().long())

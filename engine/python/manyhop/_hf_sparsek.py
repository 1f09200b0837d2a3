"""SparseK attention in pretrained causal language models, and a cache of constant memory for generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from ._check import whole
from ._operator import between_programs
from .errors import BadType, BadValue
from .nn._sparsek import SparseKScores, SparseKSettings, check_score_heads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._types import Float64, Gate, Int, Int32, Real


class SparseK(nn.Module):
    """The scores and settings of one layer; lies in its attention module as ``sparsek``."""

    def __init__(self, hidden_size, heads, settings):
        super().__init__()
        self.scores = SparseKScores(hidden_size, heads)
        self.settings = settings


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """Decoder attention modules in order of their layers.

    >>> import transformers, manyhop as mh
    >>> config = transformers.LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    ...                                   vocab_size=32)
    >>> model = transformers.LlamaForCausalLM(config)
    >>> [module.layer_idx for module in mh.hf.attention_modules(model)]
    [0, 1]
    """
    found = [m for m in model.modules() if isinstance(getattr(m, "layer_idx", None), int) and
             getattr(m, "is_causal", False) and hasattr(m, "head_dim") and hasattr(m, "k_proj")]
    return sorted(found, key=lambda m: m.layer_idx)


def sparsek(model: nn.Module, keys: Real = 64, *, window: Int = 0, sinks: Int = 0, cap: Int | None = None,
            gate: Gate = "scores", temperature: Real = 1.0, layers: Iterable[Int] | None = None,
            score_heads: Int | None = None) -> nn.ModuleList:
    """Puts SparseK attention into a causal language model and returns the scores of its layers, a ModuleList to train.

    Each query then sees `keys` keys by SparseK (of at most `cap` that are held), the last `window` tokens and the first
    `sinks`; ``keys=0`` leaves sinks and window. Scores come from the layer's own input, one set for each key head
    (`score_heads`, a divisor of the heads that divides the key heads or is divided by them); they start at 0.
    layers : numbers of the layers, None for all. gate : "scores" (log p joins the attention's scores: a key fades out as p
    falls) or "values". Called again it changes the settings and keeps the scores. Generation wants
    ``past_key_values=mh.hf.SparseKCache(model)``, through which no gradient goes. :func:`unplug` takes it out. The model is one
    program under torch.compile (fullgraph=True too); with a SparseKCache one between each two layers.

    >>> import torch, transformers, manyhop as mh
    >>> config = transformers.LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    ...                                   vocab_size=32)
    >>> model = transformers.LlamaForCausalLM(config)
    >>> scores = mh.hf.sparsek(model, 8, cap=16, window=4, sinks=1)
    >>> optimiser = torch.optim.Adam(scores.parameters(), 1e-2)
    >>> model(torch.arange(12)[None]).logits.shape
    torch.Size([1, 12, 32])
    """
    from . import hf

    modules = attention_modules(model)
    if not modules:
        raise BadType(f"model: {type(model).__name__} has no causal attention with k_proj and layer_idx (Llama, Mistral, Qwen2, "
                      "SmolLM and their like have)")
    hf.want_interface(model)
    numbers = {m.layer_idx for m in modules}
    if isinstance(layers, int):
        raise BadType(f"layers: {layers}, a list of numbers is wanted")
    wanted = numbers if layers is None else {whole(x, "layers") for x in layers}
    if not wanted <= numbers:
        raise BadValue(f"layers: {min(wanted - numbers)}, the model has 0 to {max(numbers)}")
    given = dict(cap=cap, window=window, sinks=sinks, gate=gate, temperature=temperature)
    SparseKSettings(keys, **given)  # raises before anything has changed
    hf.register(**{name: hf._registered[name] for name in hf._DEFAULTS})
    model.set_attn_implementation(hf.NAME)
    chosen = nn.ModuleList()
    for module in modules:
        if module.layer_idx not in wanted:
            _unplug(module)
            continue
        settings = SparseKSettings(keys, scale=getattr(module, "scaling", None), **given)
        weight = module.k_proj.weight
        kv_heads = module.k_proj.out_features // module.head_dim
        count = kv_heads if score_heads is None else score_heads
        old = getattr(module, "sparsek", None)
        if old is not None and old.scores.weight.shape[0] == count:
            old.settings = settings
        else:
            _unplug(module)
            heads = kv_heads * getattr(module, "num_key_value_groups", 1)
            check_score_heads(count, heads, kv_heads)
            module.sparsek = SparseK(module.k_proj.in_features, count, settings).to(weight.device)
            module._sparsek_hook = module.register_forward_pre_hook(_hand_on, with_kwargs=True)
        chosen.append(module.sparsek.scores)
    return chosen


def _unplug(module):
    if getattr(module, "sparsek", None) is not None:
        module._sparsek_hook.remove()
        del module.sparsek, module._sparsek_hook


def unplug(model: nn.Module) -> None:
    """Takes SparseK attention out of a model; it attends as :func:`register` says again.

    >>> import transformers, manyhop as mh
    >>> config = transformers.LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    ...                                   vocab_size=32)
    >>> model = transformers.LlamaForCausalLM(config)
    >>> scores = mh.hf.sparsek(model, 8, window=4)
    >>> len(scores), hasattr(model.model.layers[0].self_attn, "sparsek")
    (2, True)
    >>> mh.hf.unplug(model)
    >>> hasattr(model.model.layers[0].self_attn, "sparsek")
    False
    """
    for module in attention_modules(model):
        _unplug(module)


# A keyword of the attention module's call; transformers gives those it does not know to the attention function.
HANDED_ON = "manyhop_sparsek"


def _hand_on(module, args, kwargs):
    """Before the attention runs: adds (what its scores are made of, layer of the cache), which transformers would not hand on."""
    hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    # Its keyword has had several names; it is known by its kind.
    cache = next((x for x in (*kwargs.values(), *args) if isinstance(x, SparseKCache)), None)
    layer = None
    if cache is not None:
        layer = cache.layers[module.layer_idx]
        if not isinstance(layer, SparseKCacheLayer):
            raise BadValue(f"past_key_values: layer {module.layer_idx} was made before SparseK came into it; make a new "
                           "SparseKCache")
    return args, {**kwargs, HANDED_ON: (hidden, layer)}


def sparsek_forward(module, query, key, value, attention_mask, dropout, scaling, sliding_window, handed_on):
    """Attention of a layer with SparseK: [b, h, s, d] in, [b, s, h, d] out."""
    if handed_on is None:
        raise BadType(f"manyhop: {type(module).__name__} keeps the keywords of its call to itself, so that SparseK in layer "
                      f"{module.layer_idx} cannot see what scores are made of; leave it out of layers=")
    if sliding_window is not None:
        raise BadValue(f"manyhop: SparseK in layer {module.layer_idx}, which has a sliding window of {sliding_window}; leave it "
                       "out of layers=")
    if dropout:
        raise BadValue(f"manyhop: SparseK attention has no dropout ({dropout} in the model's configuration)")
    own = module.sparsek
    hidden, layer = handed_on
    settings = own.settings
    if settings.scale != scaling:  # a program that sets it is traced once more
        settings.scale = scaling
    if layer is not None:
        layer.waiting = False  # the tokens have come through, whatever becomes of the call
        if attention_mask is not None:
            raise BadValue("manyhop: a padded batch cannot be decoded with a cache; use_cache=False, or texts of one length")
        out = layer.attend(own, query, key, value, hidden)
        return out.transpose(1, 2).contiguous(), None
    if query.shape[2] != key.shape[2]:
        raise BadValue(f"manyhop: {query.shape[2]} queries over {key.shape[2]} keys: SparseK decodes with "
                       "past_key_values=mh.hf.SparseKCache(model), or with use_cache=False")
    if attention_mask is not None:
        from .nn import lengths_of

        lengths = lengths_of(attention_mask)  # padding after the tokens is seen by none of them; other padding raises
        if torch.compiler.is_compiling():  # a program leaves out what nothing looks at
            torch._assert_async((lengths >= 0).all(), "attention_mask: negative lengths")
    out = settings.attend(query, key, value, own.scores(hidden))
    return out.transpose(1, 2).contiguous(), None


class SparseKCacheLayer(CacheLayerMixin):
    """One layer: a window ring, sinks and kept keys for each item of the batch."""

    is_sliding = False

    def __init__(self):
        super().__init__()
        self.caches = []
        self.tokens = 0
        self.waiting = False  # tokens have come that the attention has not taken

    def lazy_initialization(self, key_states, value_states=None):
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        """The new tokens as they are: the attention takes them in."""
        if not self.is_initialized:
            self.lazy_initialization(key_states)
        if self.waiting:
            raise BadValue("SparseKCache: the model's attention does not hand its cache on, so SparseK cannot see it; use_cache=False")
        self.waiting = True
        return key_states, value_states

    @between_programs("manyhop: a SparseKCache is no part of a program: leave fullgraph=True away, or compile calls with "
                      "use_cache=False")
    def attend(self, own, q, k, v, hidden):
        settings, scores = own.settings, own.scores(hidden, self.tokens)
        if not self.caches:
            out = settings.attend(q, k, v, scores)  # a prompt at once
            caches = settings.caches(q, k, v, scores)
            for cache, *item in zip(caches, k, v, scores):
                held = getattr(torch, cache.dtype)
                kinds = held, held, torch.float64 if held == torch.float64 else torch.float32
                cache.extend(*(x.detach().to(kind) for x, kind in zip(item, kinds)))
            self.caches = caches
        else:
            if len(self.caches) != len(q):
                raise BadValue(f"past_key_values: made for a batch of {len(self.caches)}, here {len(q)}")
            out = settings.step(self.caches, q, k, v, scores)
        self.tokens += q.shape[2]
        return out

    def get_mask_sizes(self, query_length):
        return self.tokens + query_length, 0

    def get_seq_length(self):
        return self.tokens

    def get_max_length(self):
        return -1

    def reset(self):
        self.caches, self.tokens, self.waiting = [], 0, False

    def offload(self):
        pass

    prefetch = offload

    def reorder_cache(self, beam_idx):
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices):
        if self.caches:
            self.caches = [self.caches[i].__copy__() for i in indices.tolist()]

    def batch_repeat_interleave(self, repeats):
        self.caches = [c.__copy__() for c in self.caches for _ in range(repeats)]

    def crop(self, tokens_to_remove):
        if tokens_to_remove:
            raise BadValue("SparseKCache: tokens cannot be taken back, keys that left are gone (no assisted decoding)")


class SparseKCache(Cache):
    """A transformers cache for a model with :func:`sparsek`: constant memory in its layers, the usual cache in others.

    >>> model.generate(ids, past_key_values=mh.hf.SparseKCache(model), max_new_tokens=100)       # doctest: +SKIP
    """

    def __init__(self, model: nn.Module) -> None:
        modules = attention_modules(model)
        if not any(getattr(m, "sparsek", None) is not None for m in modules):
            raise BadValue("SparseKCache: the model has no SparseK layer, mh.hf.sparsek(model, ...) comes first")
        super().__init__(layers=[SparseKCacheLayer() if getattr(m, "sparsek", None) is not None else DynamicLayer()
                                 for m in modules])

    @property
    def bytes(self) -> int:
        """Memory of keys and values (of the layers with SparseK: constant once they have begun).

        >>> import torch, transformers, manyhop as mh
        >>> config = transformers.LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        ...                                   vocab_size=32)
        >>> model = transformers.LlamaForCausalLM(config)
        >>> _ = mh.hf.sparsek(model, 2, window=2)
        >>> cache = mh.hf.SparseKCache(model)
        >>> _ = model(torch.arange(12)[None], past_key_values=cache)
        >>> before = cache.bytes
        >>> _ = model(torch.arange(12)[None], past_key_values=cache)
        >>> cache.bytes == before
        True
        """
        total = 0
        for layer in self.layers:
            if isinstance(layer, SparseKCacheLayer):
                total += sum(c.bytes for c in layer.caches)
            elif layer.is_initialized:
                total += sum(x.numel() * x.element_size() for x in (layer.keys, layer.values))
        return total

    def kept(self, layer: Int, item: Int = 0, score_head: Int = 0) -> tuple[Int32, Float64]:
        """(positions, gates) of the keys that a layer holds beside window and sinks. BadValue before the first token.

        >>> import torch, transformers, manyhop as mh
        >>> config = transformers.LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        ...                                   vocab_size=32)
        >>> model = transformers.LlamaForCausalLM(config)
        >>> _ = mh.hf.sparsek(model, 2, window=2)
        >>> cache = mh.hf.SparseKCache(model)
        >>> _ = model(torch.arange(12)[None], past_key_values=cache)
        >>> positions, gates = cache.kept(0)
        >>> len(positions) == len(gates), round(float(gates.sum()), 6)
        (True, 2.0)
        """
        if not 0 <= whole(layer, "layer") < len(self.layers):
            raise BadValue(f"layer: {layer} of {len(self.layers)}")
        caches = getattr(self.layers[layer], "caches", None)
        if caches is None:
            raise BadValue(f"layer: {layer} has no SparseK")
        if not 0 <= whole(item, "item") < len(caches):
            raise BadValue(f"item: {item} of {len(caches)} in the batch that has begun")
        return caches[item].kept(score_head)

"""Hugging Face models over token graphs: ``attn_implementation="manyhop"``.

:func:`register` adds "manyhop" to the attention functions and to the mask functions of transformers. A model then takes its
pattern and hops from, later ones winning: what register() was given, ``model.config.manyhop`` (a dictionary), a surrounding
:func:`use`, and ``manyhop={...}`` in the call where the model passes keywords on.

>>> import manyhop as mh
>>> mh.hf.register()                                                           # doctest: +SKIP
>>> model = AutoModel.from_pretrained(name, attn_implementation="manyhop")     # doctest: +SKIP
>>> model.config.manyhop = {"pattern": "window(64)|global(4)", "hops": 2}      # doctest: +SKIP

:func:`sparsek` puts SparseK attention into a causal language model, :class:`SparseKCache` decodes it in constant memory.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import re
import sys
from typing import TYPE_CHECKING, Any

try:
    import torch
    import torch.utils.checkpoint
    from transformers import AttentionInterface, AttentionMaskInterface, masking_utils
except ImportError as error:  # pragma: no cover
    from .errors import Error

    raise Error(f"manyhop.hf wants torch and transformers (4.57 or later, and a torch that it takes), which do not import here "
                f"({error}): pip install torch transformers") from error

from . import _core
from ._attention import BACKWARD, attention
from ._check import choice, whole
from ._graph import Graph, graph as make_graph, of_program
from ._hf_sparsek import HANDED_ON, SparseKCache, attention_modules, sparsek, sparsek_forward, unplug
from ._operator import operator
from .errors import BadType, BadValue, Error
from .nn import lengths_of
from .nn._config import check_pattern, check_teleport, share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Unpack

    from ._types import Backward, Int, Patterns, Real, Settings

__all__ = ["SparseKCache", "attention_modules", "register", "sparsek", "unplug", "use"]

NAME = "manyhop"
_DEFAULTS = {"pattern": "full", "hops": 1, "teleport": 0.0, "hop_dropout": 0.0, "backward": "stored"}
_registered: dict[str, Any] = dict(_DEFAULTS)
_used: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("manyhop_hf", default={})
_module = sys.modules[__name__]
_ever_used = False
# Patterns of which graph(n)[:m, :m] = graph(m): token by token they are what they are at once.
_PREFIX_STABLE = {"window", "strided", "logsparse", "block", "self", "full", "causal", "global", "random"}
_KINDS = ("full", "causal", "causal window", "full window")
_ODD_MASK = ("manyhop: the model's mask is neither full nor causal nor a sliding window (packed sequences or a prefix mask?); use "
             "attn_implementation='sdpa', or write the mask as a pattern")
_NO_OP = {"softcap": None, "s_aux": None, "position_bias": None, "head_mask": None, "cache": None, "output_attentions": False}


if not TYPE_CHECKING:  # which would allow any name
    def __getattr__(name):
        # torch.compile cannot trace a ContextVar; an attribute of a module it reads, and reads again before a program runs.
        if name == "_around":
            return _used.get()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _checked(settings, where):
    if isinstance(settings, (str, Graph)):
        settings = {"pattern": settings}
    if not isinstance(settings, dict):
        raise BadType(f"{where}: {type(settings).__name__}, a dictionary or a pattern is wanted")
    for key in settings:
        if key not in _DEFAULTS:
            raise BadValue(f"{where}: {key!r}, expected one of {', '.join(_DEFAULTS)}")
    return settings


def _check_values(pattern="full", hops=1, teleport=0.0, hop_dropout=0.0, backward="stored"):
    for one in pattern if isinstance(pattern, (list, tuple)) else [pattern]:
        check_pattern(one)
    whole(hops, "hops")
    check_teleport(teleport)
    share(hop_dropout, "hop_dropout", below=True)
    choice(backward, "backward", BACKWARD)


def want_interface(model):
    """BadType for a model none of whose layers asks transformers for its attention function: "manyhop" would change nothing."""
    if not isinstance(model, torch.nn.Module):
        raise BadType(f"model: {type(model).__name__}, a model of transformers is wanted")
    names = {"ALL_ATTENTION_FUNCTIONS", "AttentionInterface"}
    for module in model.modules():
        if getattr(module, "_supports_attention_backend", False):
            return
        for kind in type(module).__mro__:
            if kind.__module__ == "transformers.modeling_utils" or kind.__module__.startswith("torch."):
                continue  # all models descend from these
            code = getattr(vars(kind).get("forward"), "__code__", None)
            if names & {*vars(sys.modules.get(kind.__module__, sys)), *getattr(code, "co_names", ())}:
                return
    raise BadType(f"model: {type(model).__name__} computes its attention by itself and asks transformers for no other, so that "
                  "attn_implementation='manyhop' does nothing to it")


def register(pattern: Patterns = "full", hops: Int = 1, teleport: Real | torch.Tensor = 0.0, *, hop_dropout: Real = 0.0,
             backward: Backward = "stored") -> None:
    """Makes ``attn_implementation="manyhop"`` known to transformers; the arguments are what models fall back to.

    pattern : a pattern text, a Graph (for one length), or a list of one for each layer. Decoders keep its causal part.
        Defaults to plain full attention.
    hops, teleport : as in :func:`manyhop.attention`. With a cache of keys only hops=1 and teleport=0.
    hop_dropout : on Z in every hop, where the model drops attention weights too.
    backward : as in :func:`manyhop.attention`.

    Errors: BadValue and BadType for arguments, at once; from the model's call BadValue for a mask, a cache or an option of the
    model that cannot be followed (a program of torch.compile sees a packed batch when it runs). Models that compute attention by
    themselves (MPNet, DebertaV2) never call it and stay as they are: :func:`use` says so where it is given the model.

    >>> import torch, transformers, manyhop as mh
    >>> mh.hf.register()
    >>> config = transformers.BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...                                  intermediate_size=64, attn_implementation="manyhop")
    >>> model = transformers.BertModel(config).eval()
    >>> model.config.manyhop = {"pattern": "window(4)|global(1)", "hops": 2, "teleport": 0.1}
    >>> model(torch.arange(20)[None]).last_hidden_state.shape
    torch.Size([1, 20, 32])
    """
    _check_values(pattern, hops, teleport, hop_dropout, backward)
    _registered.update(pattern=pattern, hops=hops, teleport=teleport, hop_dropout=hop_dropout, backward=backward)
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, mask)


@contextlib.contextmanager
def use(model: torch.nn.Module | None = None, /, **settings: Unpack[Settings]) -> Iterator[None]:
    """Other settings for the calls of models inside a ``with``: pattern, hops, teleport, hop_dropout, backward.

    They win over ``model.config.manyhop`` and what :func:`register` was given. BadValue for other names and values. `model` is
    only looked at: BadType where it computes attention by itself, BadValue where its ``attn_implementation`` is another.

    Layers that torch.utils.checkpoint runs again in backward keep the settings of their forward pass, wherever backward() is called.
    They hold in this thread (and asyncio task) alone: ``threading.Thread(target=contextvars.copy_context().run, args=(work,))``
    takes them along. A model under torch.compile (fullgraph=True too) follows the settings that hold when it is called; a ``with``
    inside the compiled function cuts its program in two.

    >>> import torch, transformers, manyhop as mh
    >>> mh.hf.register()
    >>> config = transformers.BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...                                  intermediate_size=64, attn_implementation="manyhop")
    >>> model, ids = transformers.BertModel(config).eval(), torch.arange(20)[None]
    >>> with mh.hf.use(model, pattern="window(2)"):
    ...     sparse = model(ids).last_hidden_state
    >>> torch.equal(sparse, model(ids).last_hidden_state)
    False
    """
    global _ever_used
    _check_values(**_checked(settings, "use"))
    if model is not None:
        want_interface(model)
        kinds = [getattr(getattr(m, "config", None), "_attn_implementation", None) for m in model.modules()]
        if NAME not in kinds:
            raise BadValue(f"model: {type(model).__name__} has attn_implementation {kinds[0]!r}; "
                           f"model.set_attn_implementation({NAME!r}) comes first")
    token, _ever_used = _used.set({**_used.get(), **settings}), True
    try:
        yield
    finally:
        _used.reset(token)


def mask(batch_size, q_length=None, kv_length=None, q_offset=0, kv_offset=0, mask_function=None, attention_mask=None,
         local_size=None, device=None, cache_position=None, **_):
    """The padding of a batch [b, kv_length], or None; the rest of the mask is the model's kind (causal or not) and the pattern.

    Raises BadValue for masks that are neither full nor causal nor a sliding window: packed sequences, prefixes that see each
    other, caches of a fixed size.
    """
    if cache_position is not None:  # transformers before 5: positions of the queries, for their number and the first
        q_length, q_offset = cache_position.shape[0], cache_position[0] if cache_position.numel() else 0
    kind = "causal"
    if mask_function is not None:
        kind = _kind(mask_function, batch_size, q_length, kv_length, int(q_offset), local_size, device)
    if kind is None:
        raise BadValue(_ODD_MASK)
    if int(kv_offset) != 0 or kind == "causal" and int(q_offset) + q_length != kv_length:
        raise BadValue(f"manyhop: {q_length} queries from position {int(q_offset)} over {kv_length} keys from {int(kv_offset)}: a "
                       "cache of fixed size or a sliding one cannot be masked; use a dynamic cache, or use_cache=False")
    if attention_mask is None:
        return None
    tokens = attention_mask[:, :kv_length].to(torch.bool)
    if tokens.shape[1] < kv_length:
        raise BadValue(f"manyhop: a mask of {tokens.shape[1]} positions for {kv_length} keys")
    if tokens.shape[0] != batch_size:
        raise BadValue(f"manyhop: a mask of {tokens.shape[0]} texts for a batch of {batch_size}")
    if torch.compiler.is_compiling():  # whether there is padding is seen when the program runs
        return tokens
    return None if bool(tokens.all()) else tokens


@operator("manyhop::plain_mask", waits=True)
def _plain_when_run(holds: torch.Tensor) -> torch.Tensor:
    """BadValue from a program; an assertion of torch would raise RuntimeError, or end the process's work on a GPU."""
    if not bool(holds):
        raise BadValue(_ODD_MASK)
    return holds.clone()


@_plain_when_run.register_fake
def _(holds):
    return torch.empty_like(holds)


class _AnyHead:
    """The number of a head to a mask function: one that looks at it (or compares, indexes, adds) raises TypeError."""


def _kind(function, b, q, kv, offset, local_size, device):
    """"full" or "causal" (windows of either included) by the function's values, None for other masks."""
    if function is masking_utils.causal_mask_function:
        return "causal"
    if function is getattr(masking_utils, "bidirectional_mask_function", None):
        return "full"
    items = torch.arange(b, device=device)[:, None, None, None]
    cols = torch.arange(kv, device=device)[None, None, None, :]
    # Of a few tokens several may hold: what sees no more than "causal" is that.
    holds = {"full": True, "causal": True} if local_size is None else dict.fromkeys(_KINDS, True)
    tracing = torch.compiler.is_compiling()
    pieces = max(1, -(-b * q * kv // 2**22))  # a program fits every length that makes as many
    for i in range(pieces):
        rows = torch.arange(q * i // pieces, q * (i + 1) // pieces, device=device)[None, None, :, None] + offset
        try:
            seen = torch.as_tensor(function(items, _AnyHead(), rows, cols)).expand(b, 1, rows.shape[2], kv)
        except (RuntimeError, TypeError, IndexError, AttributeError):
            return None
        away = rows - cols
        plain = {"full": torch.ones_like(away, dtype=torch.bool), "causal": away >= 0}
        if local_size is not None:
            plain["causal window"] = (away >= 0) & (away < local_size)
            plain["full window"] = away.abs() <= local_size
        for kind in holds:
            if tracing:
                holds[kind] = (seen == plain[kind]).all() & holds[kind]
            elif holds[kind]:
                holds[kind] = bool((seen == plain[kind]).all())
    if tracing:  # values come when the program runs; a cache of fixed size is refused as that of a causal model
        if q:  # what nothing looks at a program leaves out, but for assertions
            torch._assert_async(_plain_when_run(torch.stack(list(holds.values())).any()), _ODD_MASK)
        return "causal"
    return next((kind.split()[0] for kind in _KINDS if holds.get(kind)), None)


def _stable(pattern):
    text = _core.canonical_pattern(pattern).replace(" ", "")  # seed, ring and causal by name
    names = set(re.findall(r"(?<![=\w])[a-z_]\w*(?![\w=])", text)) - {"true", "false", "none"}
    if not names <= _PREFIX_STABLE or "ring" in text or re.search(r"global\([^)]*seed", text):
        return False
    return all("causal=true" in args for args in re.findall(r"random\(([^)]*)\)", text))


@functools.lru_cache(maxsize=128)
def _text_graph(pattern, q, kv, causal, window):
    text = f"({pattern})"
    if window is not None:
        text += f" & window({window - 1})"
    if not causal:
        return make_graph(text, q, kv)
    text += " & causal"
    if q == kv:
        return make_graph(text, q)
    if not _stable(pattern):
        raise BadValue(f"manyhop: pattern '{pattern}' is another one for every length, so that tokens cannot be decoded with a "
                       "cache; use_cache=False, or window, strided, logsparse, block, global(first k), random(..., causal=true)")
    return make_graph(text, kv).rows(kv - q, kv)


def _graph(pattern, q, kv, causal, window):
    if torch.compiler.is_compiling():
        if isinstance(pattern, Graph) and not causal and window is None:  # a program for any graph; attention looks at its size
            return pattern
        return of_program(_graph_of, pattern, whole(q, "queries"), whole(kv, "keys"), causal, window)
    return _graph_of(pattern, q, kv, causal, window)


def _graph_of(pattern, q, kv, causal, window):
    if isinstance(pattern, str):
        return _text_graph(pattern, q, kv, causal, window)
    if not isinstance(pattern, Graph):
        raise BadType(f"manyhop: pattern of type {type(pattern).__name__}, a pattern text or a Graph is wanted")
    if pattern.shape != (q, kv):
        raise BadValue(f"manyhop: a graph of {pattern.shape[0]} x {pattern.shape[1]} for {q} queries and {kv} keys")
    if causal or window is not None:
        pattern = pattern & _text_graph("full", q, kv, causal, window)
    return pattern


# Since torch 2.8; older ones have every call look at its callers.
_saved_tensors_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


def _in_checkpoint():
    """Whether a torch.utils.checkpoint may be around this call: 0.2 microseconds, where callers take 3 to 10."""
    if _saved_tensors_hooks is None or torch._C._current_graph_task_id() != -1:  # a backward pass runs
        return True
    if _saved_tensors_hooks(True) is not None:  # use_reentrant=False saves through hooks of its own, in both passes
        return True
    # use_reentrant=True: where a Function's forward runs, forward-mode gradients are off. Inference turns them off as well.
    return not torch._C._is_fwd_grad_enabled() and not torch.is_inference_mode_enabled()


def _checkpoints():
    """[(mark, again)] of the torch.utils.checkpoint calls around this one, the innermost first: an object of torch's that is
    the same one when its function runs again in backward, and whether it does so now.

    Nothing of them reaches a layer by a public way, neither their number nor a context that :func:`use` could enter for
    them, so that they are looked for among the callers.
    """
    found, frame = [], sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            held, mark = frame.f_locals, None
            if "ctx" in held:  # CheckpointFunction: use_reentrant=True
                mark, again = held["ctx"], frame.f_code.co_name == "backward"
            elif "frame" in held:  # what unpacks a saved tensor
                mark, again = held["frame"], True
            elif "gen" in held:  # checkpoint() itself; without gradients there is no such frame
                mark, again = held["gen"].gi_frame.f_locals.get("new_frame"), False
            if mark is not None and all(mark is not other for other, _ in found):
                found.append((mark, again))
        frame = frame.f_back
    return found


def _same(a, b):
    return all(a[key] is b[key] or not isinstance(a[key], torch.Tensor) and a[key] == b[key] for key in _DEFAULTS)


def _of_forward(module, settings):
    """The settings that a layer had in its forward pass, where it runs again in backward: those around it may be others by
    then. Else `settings`."""
    if not _in_checkpoint():
        return settings
    around = _checkpoints()
    for mark, again in around:
        past = getattr(mark, "_manyhop", {}).get(module, []) if again else []
        if len(past) == 1 or past and not any(_same(settings, other) for other in past):
            if len(past) > 1:
                raise BadValue(f"manyhop: a checkpoint that called a layer with {len(past)} settings runs it again with others: "
                               "call backward() inside the same hf.use()")
            settings = past[0]
        if past:
            break
    else:
        if _ever_used and torch._C._current_graph_task_id() != -1:
            raise Error("manyhop: a layer runs again in backward, and not by torch.utils.checkpoint, so that the settings which "
                        "hf.use() gave it are not known; set model.config.manyhop instead")
    for mark, again in around:
        if not again:
            if not hasattr(mark, "_manyhop"):
                mark._manyhop = {}
            past = mark._manyhop.setdefault(module, [])
            if not any(_same(settings, other) for other in past):
                past.append(settings)
    return settings


def attention_forward(module, query, key, value, attention_mask, dropout=0.0, scaling=None, is_causal=None,
                      sliding_window=None, **kwargs):
    """What transformers calls in every layer: [b, h, s, d] in, [b, s, h, d] out. Raises BadValue for what it cannot do."""
    for name, nothing in _NO_OP.items():
        if kwargs.get(name, nothing) not in (nothing, None):
            raise BadValue(f"manyhop: the model wants {name}, which this attention has not; use attn_implementation='eager'")
    if getattr(module, "sparsek", None) is not None:
        return sparsek_forward(module, query, key, value, attention_mask, dropout, scaling, sliding_window,
                               kwargs.get(HANDED_ON))
    settings = {**_registered, **_checked(getattr(getattr(module, "config", None), NAME, None) or {}, "config.manyhop"),
                **_module._around, **_checked(kwargs.get(NAME) or {}, NAME)}
    if not torch.compiler.is_compiling():
        settings = _of_forward(module, settings)
    q, kv = query.shape[2], key.shape[2]
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    hops, teleport = settings["hops"], settings["teleport"]
    if q != kv and (hops != 1 or teleport != 0):
        raise BadValue(f"manyhop: {q} queries over {kv} keys want hops=1 and teleport=0, here {hops} and {teleport}: hops need "
                       "the rows of all tokens (use_cache=False)")
    pattern = settings["pattern"]
    if isinstance(pattern, (list, tuple)):
        layer = getattr(module, "layer_idx", None)
        if layer is None or not 0 <= layer < len(pattern):
            raise BadValue(f"manyhop: {len(pattern)} patterns for layer {layer}")
        pattern = pattern[layer]
    lengths = None
    if attention_mask is not None:
        if not isinstance(attention_mask, torch.Tensor):
            raise BadType(f"manyhop: a mask of type {type(attention_mask).__name__}, only padding [batch, tokens] can be masked; "
                          "write other masks as a pattern")
        if attention_mask.dim() != 2:
            raise BadValue(f"manyhop: a mask of {attention_mask.dim()} axes, only padding [batch, tokens] can be masked; write "
                           "other masks as a pattern")
        lengths = lengths_of(attention_mask)
        if lengths is not None and causal and q != kv:
            raise BadValue("manyhop: a padded batch cannot be decoded with a cache; use_cache=False")
    out = attention(query, key, value, _graph(pattern, q, kv, causal, sliding_window), hops=hops, teleport=teleport,
                    scale=scaling, lengths=lengths, dropout_p=dropout, hop_dropout_p=settings["hop_dropout"] if dropout else 0.0,
                    backward=settings["backward"])
    return out.transpose(1, 2).contiguous(), None

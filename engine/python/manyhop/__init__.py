"""Manyhop: token graphs, sparse attention with multi-hop diffusion, and how well a pattern mixes.

>>> import numpy as np, manyhop as mh
>>> g = mh.graph("window(2)|global(1)", 16)
>>> x = np.random.default_rng(0).standard_normal((1, 2, 16, 8), dtype=np.float32)
>>> mh.attention(x, x, x, g, hops=3, teleport=0.1).shape
(1, 2, 16, 8)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _core, errors, spectral
from ._attention import Plan, attention, plan
from ._diffusion import DiffuseResult, diffuse
from ._graph import Graph, batch, graph
from ._ppr import PprResult, gdc, ppr
from ._settings import get_memory_limit, get_threads, memory_limit, release_memory, set_memory_limit, set_threads
from ._sparsek import Selection, causal_sparsek, select, sparsek, sparsek_jvp, topk
from ._sparsek_attention import SparseKCache, sparsek_attention
from .errors import Error

if TYPE_CHECKING:
    from . import hf as hf, nn as nn, plot as plot

__version__: str = _core.version()

__all__ = ["DiffuseResult", "Error", "Graph", "Plan", "PprResult", "Selection", "SparseKCache", "attention", "batch",
           "causal_sparsek", "diffuse", "errors", "gdc", "get_memory_limit", "get_threads", "graph", "memory_limit",
           "plan", "ppr", "release_memory", "select", "set_memory_limit", "set_threads", "sparsek", "sparsek_attention",
           "sparsek_jvp", "spectral", "topk"]

_LAZY = ("hf", "nn", "plot")  # want torch, transformers or matplotlib


if not TYPE_CHECKING:  # which would allow any name
    def __getattr__(name):
        if name in _LAZY:
            import importlib

            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])

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

try:
    import torch  # noqa: F401
except ImportError as error:  # pragma: no cover
    from ..errors import Error

    raise Error("manyhop.nn wants the package torch, which is not installed here: pip install torch") from error

from ._config import DiffuserConfig, graph_of, lengths_of
from ._layers import DiffuserAttention, DiffuserEmbeddings, DiffuserEncoder, DiffuserLayer, DiffuserSelfAttention
from ._models import (DiffuserForCausalLM, DiffuserForMaskedLM, DiffuserForSequenceClassification, DiffuserModel,
                      DiffuserOutput)
from ._propagation import APPNP, GDC
from ._sparsek import SparseKAttention, SparseKScores

__all__ = ["APPNP", "DiffuserAttention", "DiffuserConfig", "DiffuserEmbeddings", "DiffuserEncoder", "DiffuserForCausalLM",
           "DiffuserForMaskedLM", "DiffuserForSequenceClassification", "DiffuserLayer", "DiffuserModel", "DiffuserOutput",
           "DiffuserSelfAttention", "GDC", "SparseKAttention", "SparseKScores", "graph_of", "lengths_of"]

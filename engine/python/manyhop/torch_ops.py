"""Importing this registers every operator, ``torch.ops.manyhop.*``: for exported programs, which name them."""

from . import torch_attention, torch_diffusion, torch_sparsek

__all__ = ["torch_attention", "torch_diffusion", "torch_sparsek"]

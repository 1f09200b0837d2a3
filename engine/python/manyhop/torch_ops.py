"""Importing this registers the operators ``torch.ops.manyhop.*`` of attention, diffusion and SparseK, which exported programs
name; those of Hugging Face models want ``manyhop.hf`` too."""

from . import torch_attention, torch_diffusion, torch_sparsek

__all__ = ["torch_attention", "torch_diffusion", "torch_sparsek"]

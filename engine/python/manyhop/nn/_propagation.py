"""Diffusion over a graph as a layer."""

import torch
import torch.nn.functional as F
from torch import nn

from .._diffusion import diffuse
from ..errors import BadValue


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

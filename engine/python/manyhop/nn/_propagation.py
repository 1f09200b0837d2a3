"""Diffusion over a graph as a layer, and as a transform of the graph."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from .._check import flag, number
from .._diffusion import check_call, diffuse
from .._graph import Graph
from .._ppr import check_gdc, gdc
from ..errors import BadType, BadValue
from ._config import check_teleport, share

if TYPE_CHECKING:
    from .._types import Int, Normalization, Real, like

    G = TypeVar("G")  # a Graph, or data


class APPNP(nn.Module):
    """Predict, then propagate: personalised PageRank of x [n, c] over a graph, by ``hops`` or to ``tol``.

    Z_{t+1} = (1 - teleport) A Z_t + teleport X, dropout on X in training. `learn` makes the teleport a parameter (its logit);
    it starts inside (0, 1) then. A has no loops of its own: put ``| self`` into the graph where they are wanted.

    Source: Gasteiger, Bojchevski, Guennemann, Predict then propagate, ICLR 2019.

    >>> import torch, manyhop as mh
    >>> mh.nn.APPNP(hops=10)(torch.eye(6), mh.graph("window(1)", 6)).shape
    torch.Size([6, 6])
    """

    def __init__(self, hops: Int | None = None, teleport: Real | torch.Tensor = 0.1, *, tol: Real | None = None,
                 dropout: Real = 0.0, normalization: Normalization = "sym", learn: bool = False) -> None:
        super().__init__()
        self.hops, self.tol = check_call("ppr", hops, tol, normalization, "zero", "stored", "cpu")
        if hops is not None and tol is not None:
            raise BadValue(f"hops, tol: {hops} and {tol}, one of them at most is wanted")
        self.dropout, self.normalization = share(dropout, "dropout"), normalization
        if flag(learn, "learn"):
            if not 0 < number(teleport, "teleport") < 1:
                raise BadValue(f"teleport: {teleport} cannot be learned from, a number inside (0, 1) is wanted")
            self.logit = nn.Parameter(torch.logit(torch.tensor(float(teleport), dtype=torch.float64)))
        else:
            self.logit = None
            self.fixed = check_teleport(teleport)

    @property
    def teleport(self) -> float | torch.Tensor:
        """A number, or a tensor where it is learned.

        >>> import manyhop as mh
        >>> mh.nn.APPNP(teleport=0.2).teleport, mh.nn.APPNP(teleport=0.2, learn=True).teleport.requires_grad
        (0.2, True)
        """
        return self.fixed if self.logit is None else torch.sigmoid(self.logit)

    def forward(self, x: torch.Tensor, graph: Graph) -> torch.Tensor:
        """x [n, c] over a graph of n vertices.

        >>> import torch, manyhop as mh
        >>> mh.nn.APPNP(hops=1, teleport=0.5)(torch.tensor([[4.0], [0.0]]), mh.graph("full", 2)).round(decimals=3)
        tensor([[3.],
                [1.]])
        """
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            raise BadType(f"x: {getattr(x, 'dtype', type(x).__name__)}, a tensor of a floating-point type is wanted")
        x = F.dropout(x, self.dropout, self.training)
        return diffuse(graph, x, "ppr", teleport=self.teleport, hops=self.hops, tol=self.tol,
                       normalization=self.normalization).value

    if TYPE_CHECKING:
        @like(forward)
        def __call__(self, *given: Any) -> Any: ...

    def extra_repr(self) -> str:
        return f"hops={self.hops}, tol={self.tol}, teleport={float(self.teleport):.4g}, normalization={self.normalization!r}"


class GDC:
    """:func:`manyhop.gdc` as a transform with its settings held: of a Graph, or of PyTorch Geometric's data, as its transforms are.

    Of data it makes a shallow copy whose ``edge_index`` and ``edge_weight`` (or ``edge_attr``, where the data has no edge_weight)
    are those of the diffused graph: [m] float32, u sends to v.

    >>> import manyhop as mh
    >>> mh.nn.GDC(topk=5)(mh.graph("window(1)", 50)).nnz
    250
    """

    def __init__(self, topk: Int | None = 64, tol: Real = 1e-4, *, kernel: Literal["ppr", "heat"] = "ppr", teleport: Real = 0.15,
                 t: Real = 5.0, eps: Real | None = None, normalization: Literal["col", "row", "sym"] = "sym",
                 self_loops: bool = True) -> None:
        self.settings: dict[str, Any] = {"topk": topk, "tol": tol, "kernel": kernel, "teleport": teleport, "t": t, "eps": eps,
                         "normalization": normalization, "self_loops": self_loops}
        check_gdc(**self.settings)

    def __call__(self, graph: G) -> G:
        if isinstance(graph, Graph):
            return gdc(graph, **self.settings)
        if not isinstance(getattr(graph, "edge_index", None), torch.Tensor):
            raise BadType(f"graph: {type(graph).__name__}, a Graph or data with an edge_index is wanted")
        data = copy.copy(graph)
        name = "edge_weight" if getattr(data, "edge_weight", None) is not None else "edge_attr"
        found = gdc(Graph.from_edge_index(data.edge_index, data.num_nodes, getattr(data, name, None)), **self.settings)
        device = data.edge_index.device
        data.edge_index = torch.from_numpy(found.to_edge_index()).to(device)
        setattr(data, name, torch.from_numpy(found.weights.copy()).to(device, torch.float32))
        return data

    def __repr__(self) -> str:
        return f"GDC({', '.join(f'{name}={value!r}' for name, value in self.settings.items())})"

"""Types of what callers give and get, for type checkers: no module imports this one when it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, SupportsIndex, TypedDict, TypeVar, Union

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

    from ._graph import Graph

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]

# NumPy in, NumPy out; torch in, torch out. In this order mypy finds the array where torch is not installed, and so Any.
A = TypeVar("A", "Tensor", npt.NDArray[Any])


F = TypeVar("F", bound=Callable[..., Any])


def like(function: F) -> Callable[[Callable[..., Any]], F]:
    """Gives a method the type of another: modules are called as their forward is."""
    raise NotImplementedError


class SupportsArray(Protocol):
    def __array__(self) -> npt.NDArray[Any]: ...


class SupportsDLPack(Protocol):
    def __dlpack__(self) -> Any: ...


Int = SupportsIndex
Real = Union[float, "np.floating[Any]", "np.integer[Any]"]
ArrayLike = Union[Array, "Tensor", SupportsArray, SupportsDLPack, Sequence[float], Sequence[Sequence[float]]]
Shape = Union[tuple[Int, Int], Sequence[int], Array]
Graphs = Union["Graph", Sequence["Graph"]]  # one, or one for each head
Pattern = Union[str, "Graph"]
Patterns = Union[Pattern, Sequence[Pattern]]  # one, or one for each layer
Lengths = Union[Sequence[Int], Array, "Tensor"]

Layout = Literal["bhsd", "bshd", "thd"]
Backward = Literal["stored", "checkpointed", "implicit"]
Kernel = Literal["ppr", "heat", "coefficients"]
Normalization = Literal["sym", "row", "col", "none"]
Dangling = Literal["zero", "self", "uniform", "restart"]
Gate = Literal["values", "scores"]
Pooling = Literal["first", "mean"]


class AttentionOptions(TypedDict, total=False):
    """What attention takes by name, without return_lse and return_weights, which the type of the result follows from."""

    hops: Int
    teleport: Union[Real, Tensor]
    scale: Union[Real, None]
    bias: Union[ArrayLike, None]
    lengths: Union[Lengths, None]
    dropout_p: Real
    hop_dropout_p: Real
    seed: Union[Int, None]
    layout: Layout
    backward: Backward
    reorder: str
    backend: str


class DiffuseOptions(TypedDict, total=False):
    """What diffuse takes by name."""

    teleport: Union[Real, Tensor]
    t: Union[Real, Tensor]
    coefficients: Union[Sequence[Union[Real, Tensor]], Float64, Tensor]
    hops: Union[Int, None]
    tol: Union[Real, None]
    normalization: Normalization
    dangling: Dangling
    weights: Union[ArrayLike, None]
    backward: Backward
    backend: str


class ModelInputs(TypedDict, total=False):
    """What the models of mh.nn with a head hand on to DiffuserModel."""

    lengths: Union[Lengths, None]
    token_type_ids: Union[Tensor, None]
    position_ids: Union[Tensor, None]
    graph: Union[Pattern, None]


class Settings(TypedDict, total=False):
    """What mh.hf.use takes by name."""

    pattern: Patterns
    hops: Int
    teleport: Union[Real, Tensor]
    hop_dropout: Real
    backward: Backward


if TYPE_CHECKING:
    class DiffuseResult(NamedTuple, Generic[A]):  # which Python 3.10 could not run
        value: A
        hops: int
        residual: float
        bound: float
        converged: bool

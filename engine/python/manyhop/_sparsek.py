"""SparseK: a differentiable top-k of rows, and of all prefixes of a row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from . import _core, _settings
from ._attention import given_array, readable
from ._check import choice, flag, is_torch, laid_out, number, real, to_numpy, vector, whole
from ._graph import Graph
from .errors import BadType, BadValue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._types import A, Array, ArrayLike, Float64, Int, Int32, Real, Tensor

    K = Real | Sequence[float] | Array | Tensor
    Method = Literal["linear", "sorted"]


def ragged(offsets, total):
    """int64 offsets that cut a flat z of `total` scores."""
    found = to_numpy(offsets, "offsets")
    if found.size and found.dtype.kind not in "iu":
        raise BadType(f"offsets: {found.dtype}, integers are wanted")
    found = np.ascontiguousarray(found, dtype=np.int64)
    if found.ndim != 1 or len(found) < 1 or found[0] != 0 or found[-1] != total or (np.diff(found) < 0).any():
        raise BadValue(f"offsets: they have to rise from 0 to the {total} scores of z")
    return found


def _rows(array, name, flat=False):
    """[rows, scores] as the engine reads it, or one axis of all; copied only where the axes cannot be joined."""
    if array.ndim < 1:
        raise BadValue(f"{name}: a single number, at least one axis is wanted")
    array = readable(array, name)
    shape = (array.size,) if flat else (math.prod(array.shape[:-1]), array.shape[-1])
    if array.ndim <= len(shape) and array.shape[-1] == shape[-1]:
        return array.reshape(shape)
    return laid_out(array, array.dtype, name).reshape(shape)


@overload
def sparsek(z: A, k: K, *, temperature: Real = ..., offsets: ArrayLike | None = ..., method: Method = ...,
            return_tau: Literal[False] = ...) -> A: ...
@overload
def sparsek(z: A, k: K, *, temperature: Real = ..., offsets: ArrayLike | None = ..., method: Method = ...,
            return_tau: Literal[True]) -> tuple[A, A]: ...
@overload
def sparsek(z: A, k: K, *, temperature: Real = ..., offsets: ArrayLike | None = ..., method: Method = ...,
            return_tau: bool) -> A | tuple[A, A]: ...
def sparsek(z: Any, k: K, *, temperature: Real = 1.0, offsets: ArrayLike | None = None, method: Method = "linear",
            return_tau: bool = False) -> Any:
    """The projection of scores onto the capped simplex: p = clip(z / temperature - tau, 0, 1), sum p = k, for each row.

    A top-k whose gradients reach the scores. z : [..., n], or flat with `offsets` of ragged rows; float64, float32, bfloat16
    or float16 (computed in float32); NumPy, torch or DLPack on the CPU. k : a number from 0 (need not be whole), or one for
    each row. Scores of -inf are absent; rows with fewer scores than k get ones. torch: gradients reach z, and k given as a
    tensor.

    Source: Lou et al., Sparser is Faster and Less is More, 2024 (arXiv 2406.16747).

    >>> import numpy as np, manyhop as mh
    >>> mh.sparsek(np.array([2.0, 1.5, 0.1, -1.0]), 1).tolist()
    [0.75, 0.25, 0.0, 0.0]
    """
    temperature = number(temperature, "temperature", 0)
    if temperature == 0:
        raise BadValue("temperature: 0, a number above 0 is wanted")
    choice(method, "method", ("linear", "sorted"))
    flag(return_tau, "return_tau")
    if is_torch(z) or is_torch(k):
        from . import torch_sparsek

        return torch_sparsek.sparsek(z, k, temperature=temperature, offsets=offsets, method=method, return_tau=return_tau)
    array, kind = given_array(z, "z")
    rows = _rows(array, "z", offsets is not None)
    offsets = None if offsets is None else ragged(offsets, rows.size)
    count = len(offsets) - 1 if offsets is not None else rows.shape[0]
    row_k, scalar = None, 0.0
    if isinstance(k, (list, tuple, np.ndarray)) and getattr(k, "ndim", 1):
        row_k = real(k, "k", np.float64).reshape(-1)
        if len(row_k) != count:
            raise BadValue(f"k: {len(row_k)} numbers for {count} rows")
    else:
        scalar = number(k, "k", 0)
    p = _settings.empty(rows.shape, rows.dtype, "the result")
    tau = np.empty(count)
    _core.sparsek(rows, scalar, p, row_k, offsets, temperature, tau, method == "sorted", 0)
    p = p.reshape(array.shape)
    if kind == "bfloat16":
        p = p.view(np.asarray(z).dtype)
    elif kind == "float16":
        p = p.astype(np.float16)
    tau = tau if offsets is not None else tau.reshape(array.shape[:-1])
    return (p, tau) if return_tau else p


def sparsek_jvp(p: A, dz: A, *, dk: Real | ArrayLike | None = None, temperature: Real = 1.0,
                offsets: ArrayLike | None = None) -> A:
    """How p = sparsek(z, k) changes along dz: s (dz / temperature - its mean over s), s where 0 < p < 1; 0 where s is empty.

    p, dz : of one shape and type, as :func:`sparsek` takes and gives them.
    dk : the change of k, one for each row; it is spread evenly over s.
    temperature, offsets : as in the call that gave p.

    The Jacobian is symmetric, so without dk this is the gradient too. No gradients pass through.

    >>> import numpy as np, manyhop as mh
    >>> p = mh.sparsek(np.array([2.0, 1.5, 0.1, -1.0]), 1)
    >>> mh.sparsek_jvp(p, np.array([1.0, 0.0, 5.0, 0.0])).tolist()
    [0.5, -0.5, 0.0, 0.0]
    """
    temperature = number(temperature, "temperature", 0)
    if temperature == 0:
        raise BadValue("temperature: 0, a number above 0 is wanted")
    if is_torch(p) or is_torch(dz):
        from . import torch_sparsek

        return torch_sparsek.sparsek_jvp(p, dz, dk, temperature, offsets)
    gates, kind = given_array(p, "p")
    change, other = given_array(dz, "dz")
    if gates.shape != change.shape or gates.dtype != change.dtype or kind != other or gates.ndim < 1:
        raise BadValue(f"dz: {change.dtype} {list(change.shape)} where p is {gates.dtype} {list(gates.shape)}")
    rows, change = _rows(gates, "p", offsets is not None), _rows(change, "dz", offsets is not None)
    offsets = None if offsets is None else ragged(offsets, rows.size)
    out = _settings.empty(rows.shape, rows.dtype, "the result")
    _core.sparsek_jvp(rows, change, out, jvp_of_k(dk, rows, offsets), offsets, temperature, 0)
    out = out.reshape(gates.shape)
    if kind == "bfloat16":
        return out.view(np.asarray(p).dtype)
    return out.astype(np.float16) if kind == "float16" else out


def jvp_of_k(dk, rows, offsets):
    """float64 [rows], or None."""
    if dk is None:
        return None
    count = len(offsets) - 1 if offsets is not None else rows.shape[0]
    found = real(dk, "dk", np.float64).reshape(-1)
    if len(found) not in (1, count):
        raise BadValue(f"dk: {len(found)} numbers for {count} rows")
    return np.ascontiguousarray(np.broadcast_to(found, count))


def topk(z: A, k: Int) -> A:
    """Hard top-k without gradients: positions of the k largest scores of each row, in order of position, then -1.

    z [..., n] -> [..., k], int32 (torch: int64). Of equal scores the later one wins; -inf and NaN are never taken.

    >>> import numpy as np, manyhop as mh
    >>> mh.topk(np.array([0.5, 2.0, -np.inf, 1.0]), 2).tolist(), mh.topk(np.array([[1.0, -np.inf]]), 2).tolist()
    ([1, 3], [[0, -1]])
    """
    count = whole(k, "k")
    if is_torch(z):
        import torch

        from ._tensors import array_of as torch_array
        from .torch_sparsek import known

        array = torch_array(known(z, "z").cpu())
    else:
        array, _ = given_array(z, "z")
    rows = _rows(array, "z")
    width = min(count, rows.shape[1])  # no row has more
    indices = _settings.empty((rows.shape[0], width), np.int32, "the result")
    _core.topk(rows, width, indices, 0)
    if count > width:
        if rows.shape[0] * count > 2**31:
            raise BadValue(f"k: {count} places for each of {rows.shape[0]} rows of {rows.shape[1]} scores")
        indices = np.pad(indices, ((0, 0), (0, count - width)), constant_values=-1)
    indices = indices.reshape(*array.shape[:-1], count)
    return torch.from_numpy(indices).to(z.device, torch.int64) if is_torch(z) else indices


def select(scores: ArrayLike, k: Int, *, sinks: Int = 0, window: Int = 0, causal: bool = True) -> Graph:
    """Hard top-k as a token graph: row i keeps the k best of tokens 0 .. i (causal; else of all), its window and the sinks.

    >>> import manyhop as mh
    >>> mh.select([0.1, 3.0, 0.2, 2.0], 1).to_dense().astype(int).tolist()
    [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]]
    """
    values = vector(scores, "scores", np.float64)
    return Graph(_core.select(values, whole(k, "k"), whole(sinks, "sinks"), whole(window, "window"), flag(causal, "causal")))


@overload
def causal_sparsek(scores: Sequence[float], k: Real, *, cap: Int | None = ..., temperature: Real = ...) -> Selection: ...
@overload
def causal_sparsek(scores: Sequence[Sequence[float]], k: Real, *, cap: Int | None = ...,
                   temperature: Real = ...) -> list[Selection]: ...
@overload
def causal_sparsek(scores: ArrayLike, k: Real, *, cap: Int | None = ..., temperature: Real = ...) -> Selection | Any: ...
def causal_sparsek(scores: ArrayLike, k: Real, *, cap: Int | None = None, temperature: Real = 1.0) -> Any:
    """SparseK over all prefixes of a sequence: row i is the projection of scores[: i + 1] (of the `cap` best of them).

    scores : [n], or [heads, n], then the result is a list with one for each head. On a GPU's tensor that runs there.
    k : the gates of a row add up to it.
    cap : None for twice k, -1 for no cap.

    The result holds ``tau`` [n], ``until`` [n] (key j is kept in rows j .. until[j] - 1), ``score`` [n], ``edges``,
    ``capped_rows``, and ``to_graph(window, sinks)``.

    >>> import manyhop as mh
    >>> mh.causal_sparsek([0.1, 3.0, 0.2, 2.5], 1).to_graph().to_dense().tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.75, 0.0, 0.25]]
    """
    given = number(k, "k", 0), 0 if cap is None else whole(cap, "cap", -1), number(temperature, "temperature", 0)
    if is_torch(scores):
        from . import torch_sparsek

        return torch_sparsek.causal_sparsek(scores, *given)
    values = real(scores, "scores", np.float64)
    if values.ndim == 2:
        return [Selection(core) for core in _core.causal_selections(values, *given, 0)]
    return Selection(_core.causal_selections(vector(values, "scores", np.float64)[None], *given, 0)[0])


class Selection:
    """What :func:`causal_sparsek` returns: the keys and gates of every prefix, held as when each key leaves. Selections pickle.

    >>> import manyhop as mh
    >>> selection = mh.causal_sparsek([0.1, 3.0, 0.2, 2.5], 1)
    >>> selection
    Selection(4 rows, 5 keys)
    >>> selection.tau.tolist()
    [-inf, 0.1, 0.2, 2.25]
    """

    def __init__(self, core: _core.CausalSelection) -> None:
        if not isinstance(core, _core.CausalSelection):
            raise BadType("Selection: made by mh.causal_sparsek(), not by its constructor")
        self._core = core

    def __reduce__(self) -> tuple[Any, ...]:
        return _selection_again, self._core.state()

    def __copy__(self) -> Selection:
        return self

    def __deepcopy__(self, memo: Any) -> Selection:
        return self

    @property
    def tau(self) -> Float64:
        """Threshold of each row [n].

        >>> import manyhop as mh
        >>> mh.causal_sparsek([0.1, 3.0, 0.2, 2.5], 1).tau.tolist()
        [-inf, 0.1, 0.2, 2.25]
        """
        return self._core.tau

    @property
    def until(self) -> Int32:
        """Key j is kept in rows j .. until[j] - 1 [n]; 2^31 - 1 where it has not left.

        >>> import manyhop as mh
        >>> mh.causal_sparsek([0.1, 3.0, 0.2, 2.5], 1).until.tolist()
        [1, 2147483647, 2, 2147483647]
        """
        return self._core.until

    @property
    def score(self) -> Float64:
        """Scores over the temperature [n].

        >>> import manyhop as mh
        >>> mh.causal_sparsek([0.1, 3.0, 0.2, 2.5], 1).score.tolist()
        [0.1, 3.0, 0.2, 2.5]
        """
        return self._core.score

    @property
    def edges(self) -> int:
        """Keys of all rows together.

        >>> import manyhop as mh
        >>> mh.causal_sparsek([0.1, 3.0, 0.2, 2.5], 1).edges
        5
        """
        return self._core.edges

    @property
    def capped_rows(self) -> int:
        """Rows that the cap has changed.

        >>> import manyhop as mh
        >>> mh.causal_sparsek([0.1, 3.0, 0.2, 2.5], 1).capped_rows
        0
        """
        return self._core.capped_rows

    def to_graph(self, window: Int = 0, sinks: Int = 0) -> Graph:
        """A Graph whose weights are the gates; 1 for the window and the sinks.

        >>> import manyhop as mh
        >>> mh.causal_sparsek([0.1, 3.0, 0.2, 2.5], 1).to_graph(window=1).nnz
        6
        """
        return Graph(self._core.to_graph(whole(window, "window"), whole(sinks, "sinks")))

    def __repr__(self) -> str:
        return f"Selection({len(self.tau)} rows, {self.edges} keys)"


def _selection_again(*state):
    return Selection(_core.CausalSelection.from_state(*state))

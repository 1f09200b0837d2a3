"""Threads and memory limit of this process."""

from __future__ import annotations

import contextvars
import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _check, _core
from .errors import LimitError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._types import Array, Int

_limit = 0
_watched: contextvars.ContextVar[list[Any] | None] = contextvars.ContextVar("manyhop_plans", default=None)


@contextmanager
def watching() -> Iterator[list[Any]]:
    """A list of the plans that forward calls inside the ``with`` have taken."""
    token = _watched.set([])
    try:
        yield _watched.get()
    finally:
        _watched.reset(token)


def watch(plan: Any) -> None:
    if (plans := _watched.get()) is not None:
        plans.append(plan)


def set_threads(count: Int) -> None:
    """Threads of calls on NumPy arrays; 0: MANYHOP_THREADS, else all cores. (torch tensors follow torch.get_num_threads.)

    Results have the same bits for any number. BadValue outside 0 .. 4096.

    >>> import manyhop as mh
    >>> mh.set_threads(1)
    >>> mh.get_threads()
    1
    >>> mh.set_threads(0)
    """
    _core.set_threads(_check.whole(count, "threads", 0, 4096))


def get_threads() -> int:
    """Threads that a call on NumPy arrays uses.

    >>> import manyhop as mh
    >>> mh.get_threads() >= 1
    True
    """
    return _core.thread_count()


def set_memory_limit(nbytes: Int) -> None:
    """Work that needs more than this many bytes is split or refused (LimitError); 0: half of the machine's memory.

    >>> import manyhop as mh
    >>> mh.set_memory_limit(2**30)
    >>> mh.get_memory_limit()
    1073741824
    >>> mh.set_memory_limit(0)
    """
    global _limit
    _limit = _check.whole(nbytes, "memory limit", 0, 2**63 - 1)
    _core.set_memory_limit(_limit)


def get_memory_limit() -> int:
    """What set_memory_limit() set, in bytes; 0: half of the machine's memory.

    >>> import manyhop as mh
    >>> mh.get_memory_limit()
    0
    """
    return _limit


@contextmanager
def memory_limit(nbytes: Int) -> Iterator[None]:
    """A memory limit in bytes for the calls inside a ``with``; the one before comes back after it.

    >>> import numpy as np, manyhop as mh
    >>> x, graph = np.ones((1, 1, 256, 16)), mh.graph("window(8)", 256)
    >>> with mh.memory_limit(1000):
    ...     mh.attention(x, x, x, graph)                                        # doctest: +ELLIPSIS
    Traceback (most recent call last):
    manyhop.errors.LimitError: memory limit: ...
    """
    before = _limit
    set_memory_limit(nbytes)
    try:
        yield
    finally:
        set_memory_limit(before)


def need_memory(nbytes: int, what: str) -> None:
    """LimitError where an array of Python's own would pass the limit; the system would grant it and end the process later."""
    limit = _limit or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if nbytes > limit:
        raise LimitError(f"memory limit: {what} takes {nbytes} bytes, the limit is {limit}")


@contextmanager
def room(nbytes: int, what: str) -> Iterator[None]:
    """LimitError where what the ``with`` makes passes the limit, or the system has no room for it."""
    need_memory(nbytes, what)
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "DefaultCPUAllocator" not in str(error):  # torch has no type of its own for it
            raise
        raise LimitError(f"out of memory: {what} takes {nbytes} bytes, which the system does not give") from None


def empty(shape: tuple[int, ...], dtype: Any, what: str) -> Array:
    """np.empty within the memory limit."""
    with room(math.prod(shape) * np.dtype(dtype).itemsize, what):
        return np.empty(shape, dtype)


def release_memory() -> None:
    """Gives scratch memory that idle calls keep warm back to the system and to GPUs, and forgets cached plans.

    >>> import manyhop as mh
    >>> mh.release_memory()
    """
    _core.release_memory()
    _core.clear_plans()

"""Exceptions of the package: each is an :class:`Error` and the built-in class that Python users would catch."""

__all__ = ["BadType", "BadValue", "Error", "FileError", "LimitError"]


class Error(Exception):
    """Base of all exceptions that manyhop raises.

    >>> import manyhop as mh
    >>> try:
    ...     mh.graph("random(9)", 4)
    ... except mh.Error as error:
    ...     print(type(error).__name__)
    BadValue
    """


class BadValue(Error, ValueError):
    """A value, shape or pattern text that cannot be; a ValueError.

    >>> import manyhop as mh
    >>> mh.graph("window(1)", -1)                                               # doctest: +ELLIPSIS
    Traceback (most recent call last):
    manyhop.errors.BadValue: ...
    """


class BadType(Error, TypeError):
    """An argument of the wrong kind, element type or device; a TypeError.

    >>> import manyhop as mh
    >>> mh.graph("window(1)", 4.0)
    Traceback (most recent call last):
    manyhop.errors.BadType: n: 4.0 of type float, an integer is wanted
    """


class LimitError(Error, MemoryError):
    """Work that would pass the memory limit; raised before anything is allocated; a MemoryError.

    >>> import numpy as np, manyhop as mh
    >>> x, graph = np.ones((1, 1, 256, 16)), mh.graph("window(8)", 256)
    >>> with mh.memory_limit(1000):
    ...     mh.attention(x, x, x, graph)                                        # doctest: +ELLIPSIS
    Traceback (most recent call last):
    manyhop.errors.LimitError: memory limit: ...
    """


class FileError(Error, OSError, ValueError):
    """A file that cannot be read, written or understood; names the line or byte; an OSError and a ValueError.

    >>> import manyhop as mh
    >>> mh.Graph.load("nowhere.mtx")                                            # doctest: +ELLIPSIS
    Traceback (most recent call last):
    manyhop.errors.FileError: ...nowhere.mtx...
    """

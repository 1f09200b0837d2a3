"""Exceptions of the package: each is an :class:`Error` and the built-in class that Python users would catch."""


class Error(Exception):
    """Base of all exceptions that manyhop raises."""


class BadValue(Error, ValueError):
    """A value, shape or pattern text that cannot be."""


class BadType(Error, TypeError):
    """An argument of the wrong kind, element type or device."""


class LimitError(Error, MemoryError):
    """Work that would pass the memory limit; raised before anything is allocated."""


class FileError(Error, OSError, ValueError):
    """A file that cannot be read, written or understood; names the line or byte."""

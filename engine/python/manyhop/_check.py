"""What callers give, checked: numbers, integers, flags, names and arrays."""

import math
import operator
import os
import sys

import numpy as np

from . import _settings
from .errors import BadType, BadValue


def is_torch(x):
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_compiling():
    """Whether torch.compile traces this call."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling()


def shown(value):
    """A value in a message: with its type where it is short, else the type alone."""
    text, kind = repr(value), type(value).__name__
    if value is None or len(text) > 40 or "\n" in text:
        return kind
    return f"{text} of type {kind}"


def number(value, name, least=None):
    """A float; with `least` a finite one from there, else ranges are the engine's to check."""
    if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iuf":
        value = value[()]
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise BadType(f"{name}: {type(value).__name__}, a number is wanted")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if least is not None and not least <= found < math.inf:
        raise BadValue(f"{name}: {found}, a finite number from {least:g} is wanted")
    return found


def numbers(values, name):
    """A list of floats."""
    if not isinstance(values, (list, tuple, np.ndarray)) or getattr(values, "ndim", 1) == 0:
        raise BadType(f"{name}: {type(values).__name__}, a list of numbers is wanted")
    return [number(value, f"{name}[{i}]") for i, value in enumerate(values)]


def integer(value, name):
    """An int of any size."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise BadType(f"{name}: {shown(value)}, an integer is wanted")


def whole(value, name, least=0, most=2**31 - 1):
    """An integer from `least` to `most`."""
    found = integer(value, name)
    if not least <= found <= most:
        raise BadValue(f"{name}: {found}, an integer from {least} to {most} is wanted")
    return found


def flag(value, name):
    if not isinstance(value, (bool, np.bool_)):
        raise BadType(f"{name}: {shown(value)}, True or False is wanted")
    return bool(value)


def string(value, name):
    if not isinstance(value, str):
        raise BadType(f"{name}: {shown(value)}, a text is wanted")
    return value


def choice(value, name, names):
    """One of the `names`."""
    if string(value, name) not in names:
        raise BadValue(f"{name}: {value!r}, expected {', '.join(names[:-1])} or {names[-1]}")
    return value


def to_numpy(values, name):
    """What is given as an array of NumPy. A tensor's gradient ends here, bfloat16 of torch becomes float32."""
    if hasattr(values, "__dlpack__") and not hasattr(values, "__array__"):
        return _from_dlpack(values, name)
    try:
        if is_torch(values):
            values = values.detach().cpu()
            if str(values.dtype) == "torch.bfloat16":
                with _settings.room(4 * values.numel(), f"a copy of {name}"):
                    values = values.float()
            return values.numpy()
        return np.asarray(values)
    except ValueError:
        raise BadValue(f"{name}: parts of unequal length, an array is wanted") from None
    except (TypeError, RuntimeError):  # sparse tensors, lists of tensors with gradients
        raise BadType(f"{name}: {type(values).__name__} that NumPy cannot read, an array is wanted") from None


def _from_dlpack(values, name):
    kind, number = (int(x) for x in values.__dlpack_device__())
    if kind != 1:  # kDLCPU
        raise BadType(f"{name}: {type(values).__name__} on device {number} of DLPack's kind {kind}, the CPU (kind 1) or a torch "
                      "tensor is wanted")
    try:
        return np.from_dlpack(values)
    except (BufferError, RuntimeError, TypeError) as error:
        raise BadType(f"{name}: {type(values).__name__} that NumPy cannot read ({error}), an array is wanted") from None


def laid_out(array, dtype, name):
    """The array in that type with its elements in a row; a copy, within the memory limit, only where it is not so."""
    dtype = np.dtype(dtype)
    if array.dtype == dtype and array.flags.c_contiguous:
        return array
    with _settings.room(array.size * dtype.itemsize, f"a copy of {name}"):
        return np.asarray(array, dtype=dtype, order="C")


def real(values, name, dtype=None):
    """An array of real numbers, of that type."""
    found = to_numpy(values, name)
    if found.dtype.kind not in "fiub" and found.dtype.name != "bfloat16":
        raise BadType(f"{name}: {found.dtype}, real numbers are wanted")
    return found if dtype is None else laid_out(found, dtype, name)


def vector(values, name, dtype, length=None, what="entries"):
    """One axis of `dtype`: floats are not rounded to integers, numbers that do not fit are refused. `length`: how many `what`."""
    found = to_numpy(values, name)
    if found.ndim != 1:
        raise BadValue(f"{name}: {found.ndim} axes, 1 is wanted")
    if length is not None and len(found) != length:
        raise BadValue(f"{name}: {len(found)} entries for {length} {what}")
    if found.size == 0:
        return np.zeros(0, dtype)
    if np.dtype(dtype).kind != "i":
        return real(found, name, dtype)
    if found.dtype.kind not in "iu":
        raise BadType(f"{name}: {found.dtype}, an integer type is wanted")
    if found.dtype.itemsize > np.dtype(dtype).itemsize or found.dtype.kind == "u":
        info = np.iinfo(dtype)
        _settings.need_memory(found.size * info.bits // 8, f"a copy of {name}")  # before each of them is looked at
        low, high = int(found.min()), int(found.max())
        if low < info.min or high > info.max:
            raise BadValue(f"{name}: values {low} .. {high} pass the {info.bits} bits of an index")
    return laid_out(found, dtype, name)


def path_name(path):
    """The text of a path, of whichever kind open() takes by name."""
    try:
        return os.fsdecode(path)
    except TypeError:
        raise BadType(f"path: {shown(path)}, a text or a path is wanted") from None

"""What operators on torch tensors share: types, copies within the memory limit, where a call runs."""

import contextlib
import math

import numpy as np
import torch
from torch import Tensor

from . import _core, _settings
from ._check import number, real
from ._graph import _by_number
from .errors import BadType, BadValue, Error

DTYPES = {torch.float64: "f64", torch.float32: "f32", torch.bfloat16: "bf16"}


def cores_of(numbers):
    graphs = [_by_number.get(int(number)) for number in numbers]  # while torch traces, numbers may be symbols
    if any(g is None for g in graphs):
        raise Error("graph: deleted while a compiled program or a backward pass still names it; keep a reference to it")
    return [g._core for g in graphs]


def real_type(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def array_of(tensor):
    """What the extension takes: no copy, no gradient. bfloat16 has no NumPy type and goes as its bits; what lies on a GPU
    goes as it is (DLPack)."""
    tensor = tensor.detach()
    if tensor.is_cuda:
        return tensor
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.numpy()


def on_device(tensor):
    """Where plans are made and calls run: the GPU that a tensor lies on, or nowhere in particular."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def stream_of(tensor):
    """What a call on a GPU's tensors is queued on; None on the CPU."""
    return torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else None


def room(like, shape, dtype, what):
    """As of _settings, for a tensor beside one on the CPU; a tracer's takes none."""
    if torch.compiler.is_compiling() or type(like) not in (Tensor, torch.nn.Parameter) or like.device.type != "cpu":
        return contextlib.nullcontext()
    return _settings.room(math.prod(shape) * dtype.itemsize, what)


def cast(x, dtype, name):
    """The tensor in that type, its copy within the memory limit."""
    if torch.compiler.is_compiling() or x.dtype == dtype:
        return x.to(dtype)
    with room(x, x.shape, dtype, f"a copy of {name}"):
        return x.to(dtype)


def in_a_row(x, name):
    """The tensor contiguous, its copy within the memory limit."""
    if torch.compiler.is_compiling() or x.is_contiguous():
        return x.contiguous()
    with room(x, x.shape, x.dtype, f"a copy of {name}"):
        return x.contiguous()


def optional_array(tensor):
    return None if tensor is None else array_of(tensor)


def dense_tensor(x, name, like=None, cuda=False):
    if not isinstance(x, Tensor):
        raise BadType(f"{name}: {type(x).__name__} beside torch tensors, a tensor is wanted")
    if x.device.type == "cuda" and not cuda:
        raise BadType(f"{name}: on {x.device}, this call runs on the CPU: move it with .cpu()")
    if x.device.type not in ("cpu", "meta", "cuda"):
        raise BadType(f"{name}: on {x.device}, this build runs on the CPU: move it with .cpu()")
    if x.device.type == "cuda" and "cuda" not in _core.available_backends():
        raise BadType(f"{name}: on {x.device}, this build runs on the CPU: move it with .cpu()")
    if like is not None and x.device != like.device:
        raise BadType(f"{name}: on {x.device} where q is on {like.device}")
    if x.layout != torch.strided or x.is_nested:
        raise BadType(f"{name}: {'a nested tensor' if x.is_nested else f'layout {x.layout}'}, a dense tensor is wanted")
    return x


def real_tensor(values, name, like, check):
    """A dense tensor of real numbers, moved to where `like` is; other kinds are copied after check(shape)."""
    if not isinstance(values, Tensor):
        found = real(values, name)
        check(found.shape)
        dtype = np.dtype(np.float32 if found.dtype == np.float32 else np.float64)
        with _settings.room(found.size * dtype.itemsize, f"a copy of {name}"):
            values = torch.from_numpy(np.array(found, dtype=dtype))
    if not values.is_nested:  # which has no shape
        check(values.shape)
    if values.layout != torch.strided or values.is_nested or values.is_complex():
        raise BadType(f"{name}: {values.dtype} of layout {values.layout}, a dense tensor of real numbers is wanted")
    return values.to(like.device)


def autocast(*tensors):
    """The tensors in the type of a surrounding torch.autocast; float64 stays."""
    kind = "cuda" if tensors[0].is_cuda else "cpu"
    if not torch.is_autocast_enabled(kind):
        return tensors
    lower = torch.get_autocast_dtype(kind)
    return tuple(cast(x, lower, "an input") if x.dtype != torch.float64 and x.is_floating_point() else x for x in tensors)


def same_types(q, k, v):
    """q, k, v of one type, float16 as float32; and the type they came in, which the result has."""
    for name, x in (("k", k), ("v", v)):
        if x.dtype != q.dtype:
            raise BadType(f"{name}: {x.dtype} where q is {q.dtype}")
    given = q.dtype
    if given == torch.float16:
        q, k, v = (cast(x, torch.float32, name) for x, name in ((q, "q"), (k, "k"), (v, "v")))
    if q.dtype not in DTYPES:
        raise BadType(f"q: {q.dtype}, expected float64, float32, bfloat16 or float16")
    return q, k, v, given


def one_number(value, name):
    """A tensor of one number."""
    if not isinstance(value, Tensor):
        return torch.tensor(number(value, name), dtype=torch.float64)
    if value.is_complex():
        raise BadType(f"{name}: {value.dtype}, a real number is wanted")
    if value.numel() != 1:
        raise BadValue(f"{name}: {value.numel()} values, one is wanted")
    return value

"""Registers operators with torch.

torch.library.custom_op does the same, but its first call imports the compiler (800 modules, 70 MB, two seconds) to keep
it away from the operator's Python; here that happens only where a program has loaded the compiler itself.
"""
import functools
import sys
import typing

import torch
from torch.autograd import forward_ad

from .errors import BadValue, Error

NO_TANGENTS = ("manyhop: forward-mode derivatives (jvp) are not there for torch tensors; backward() is, and mh.sparsek_jvp for the "
               "projection")


def _transforms():
    """Names of the transforms of torch.func around this call, also while torch.compile traces."""
    return [str(level.key()).rsplit(".", 1)[-1] for level in torch._C._functorch.get_interpreter_stack() or ()]


def _differentiated():
    return "Grad" in _transforms()


_differentiated._dynamo_marked_constant = True  # programs are traced again where the transforms around them are others


def in_transform():
    """Whether torch.func (grad, vmap, ...) runs this call, in eager mode; tensors may have no values of their own there."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def refuse_tangents(*tensors):
    """Operators of torch.library have no forward mode, and torch would take their tangents for 0."""
    if getattr(forward_ad, "_current_level", 0) < 0:  # a guard of compiled programs too: they are traced again inside jvp
        return
    # A tracer's stand-ins for tensors may have lost their tangents, so that there any surrounding jvp is refused.
    found = torch.compiler.is_compiling()
    for x in tensors:  # here and in no function of its own, which would be traced apart
        try:
            found = found or isinstance(x, torch.Tensor) and forward_ad.unpack_dual(x).tangent is not None
        except RuntimeError:
            pass  # inside vmap, where the operators refuse it by themselves
    if found:
        raise Error(NO_TANGENTS)


class _Library(torch.library.Library):
    """Has an operator's derivatives refuse what torch's own would get wrong: tangents, and torch.func around a program that
    was compiled without AOTAutograd, which both come to the operator itself."""

    def impl(self, name, kernel, key="", **given):
        def checked(keyset, *args):
            refuse_tangents(*args)
            if torch._C._are_functorch_transforms_active() and "Grad" in _transforms():
                raise Error(f"manyhop::{name}: torch.func cannot differentiate it inside a compiled program; take torch.autograd, or "
                            "compile the derivative")
            return kernel(keyset, *args)

        super().impl(name, checked, key, **given)


_library = _Library("manyhop", "FRAGMENT")


def _uncompiled(function):
    """What calls the function as torch.compiler.disable has it, which would load the compiler, once that is loaded."""
    kept = []

    @functools.wraps(function)
    def call(*args):
        if "torch._dynamo" not in sys.modules:
            return function(*args)
        if not kept:
            kept.append(torch.compiler.disable(function))
        return kept[0](*args)
    return call


def operator(name, waits=False):
    """Decorates a function of tensors and plain values, annotated, that changes none of its inputs; it becomes what calls the
    operator. `waits`: for a GPU, so that torch.compile leaves it out of CUDA graphs."""
    def register(function):
        function.__annotations__ = typing.get_type_hints(function)  # torch 2.5 takes no strings, which the future import leaves
        unsafe = getattr(torch.Tag, "cudagraph_unsafe", None) if waits else None
        torch.library.define(name, torch.library.infer_schema(function, mutates_args=()), tags=() if unsafe is None else (unsafe,))
        torch.library.impl(name, "default", _uncompiled(function))
        return Operator(name)
    return register


def between_programs(why):
    """Decorates a function for which torch.compile ends its program and begins another; fullgraph=True says `why` not."""
    def register(function):
        call = _uncompiled(function)
        # As torch.compiler.disable(reason=why) sets them, which would load the compiler; torch 2.5 has no such reasons.
        call._torchdynamo_disable, call._torchdynamo_disable_msg = True, why
        return call
    return register


class Operator:
    def __init__(self, name):
        self.name = name
        space, own = name.split("::")
        self.call = getattr(getattr(torch.ops, space), own)
        self.function = None

    def __call__(self, *args):
        if torch.compiler.is_compiling() and _differentiated():
            raise Error(f"{self.name}: a program of torch.compile cannot differentiate it by torch.func; take torch.autograd, or "
                        "leave fullgraph=True away")
        if in_transform() and "Functionalize" not in _transforms():
            return self.function.apply(*args)
        return self.call(*args)

    def refuse_autograd(self, what):
        """Gradients of a gradient raise, where torch would take them for zeros."""
        def refuse(ctx, *gradients):
            raise Error(f"{what}: second derivatives are not computed; detach() the first ones")

        self.register_autograd(refuse, setup_context=lambda ctx, inputs, output: None)

    def register_fake(self, function):
        return torch.library.register_fake(self.name, function)

    def register_autograd(self, backward, *, setup_context):
        torch.library.register_autograd(self.name, backward, setup_context=setup_context, lib=_library)

        def jvp(ctx, *tangents):
            raise Error(NO_TANGENTS)

        # What torch makes of these for the operator does not run inside torch.func; this does.
        self.function = type(self.name, (torch.autograd.Function,), {
            "forward": staticmethod(lambda *args: self.call(*args)), "setup_context": staticmethod(setup_context),
            "backward": staticmethod(backward), "jvp": staticmethod(jvp), "vmap": staticmethod(self._one_by_one)})

    def _one_by_one(self, info, in_dims, *args):
        """torch.func.vmap: a call for each item, and results along a first axis."""
        if info.batch_size == 0:
            raise BadValue(f"{self.name}: vmap over 0 items, at least 1 is wanted")
        found = [self(*(x if axis is None or isinstance(x, list) else x.select(axis, i) for x, axis in zip(args, in_dims)))
                 for i in range(info.batch_size)]
        if isinstance(found[0], torch.Tensor):
            return torch.stack(found), 0
        return tuple(torch.stack(parts) for parts in zip(*found)), (0,) * len(found[0])

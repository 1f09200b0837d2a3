"""Registers operators with torch.

torch.library.custom_op does the same, but its first call imports the compiler (800 modules, 70 MB, two seconds) to keep
it away from the operator's Python; here that happens only where a program has loaded the compiler itself.
"""
import functools
import sys

import torch

from .errors import Error


def operator(name):
    """Decorates a function of tensors and plain values, annotated, that changes none of its inputs."""
    def register(function):
        torch.library.define(name, torch.library.infer_schema(function, mutates_args=()))
        kept = []

        @functools.wraps(function)
        def call(*args):
            if "torch._dynamo" not in sys.modules:
                return function(*args)
            if not kept:
                kept.append(torch.compiler.disable(function))
            return kept[0](*args)

        torch.library.impl(name, "default", call)
        return Operator(name)
    return register


class Operator:
    def __init__(self, name):
        self.name = name

    def refuse_autograd(self, what):
        """Gradients of a gradient raise, where torch would take them for zeros."""
        def refuse(ctx, *gradients):
            raise Error(f"{what}: second derivatives are not computed; detach() the first ones")

        self.register_autograd(refuse, setup_context=lambda ctx, inputs, output: None)

    def register_fake(self, function):
        return torch.library.register_fake(self.name, function)

    def register_autograd(self, backward, *, setup_context):
        torch.library.register_autograd(self.name, backward, setup_context=setup_context)

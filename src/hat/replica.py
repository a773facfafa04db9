"""A network's modules once more, for one forward pass, with other tensors in the place of its own.

The network itself is not touched: several threads can run several tasks, and what activation checkpointing runs again
in the backward pass finds the tensors that it ran with. A module, or a parameter, with two names stays one.
"""

import copy
import functools
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

LEFT = vars(nn.Module()).keys()  # what every module has, and is the network's; but for these:
TENSORS, HOOKS = ('_parameters', '_buffers'), ('_forward_hooks', '_forward_pre_hooks')
UNREGISTERED = '?.'  # in the place of the name of a module that is no part of the network
ANEW = 'what is changed in it after conversion has no gates: convert it anew'
SIMPLE = {bool, int, float, str, type(None), torch.dtype, torch.device, torch.Size}  # what refers to nothing


class Replica:
    """The copy is `network`. `copies`: of each module, by its id; `buffers`: which tensor each of the copy's buffers
    was given, a list of (dict, key, tensor, name)."""

    def __init__(self, net: nn.Module, tensors: Mapping[str, Tensor], hooks: Mapping[str, Callable] | None = None,
                 training: bool | None = None):  # fmt: skip
        """
        Args:
            net: the network.
            tensors: what is to stand in the place of each parameter and buffer, by its name.
            hooks: a forward hook for modules, by name, called before those that they have.
            training: the mode; None: as each module of the network has it.
        """
        self.given, self.left, self.training = tensors, set(tensors), training
        self.tensors: dict[int, Tensor] = {}  # what stands in the place of each tensor, by its id
        self.copies: dict[int, nn.Module] = {}
        self.buffers: list[tuple[dict[str, Tensor | None], str, Tensor | None, str]] = []
        self.changing: list[tuple[dict[str, Any], str]] = []  # attributes that may refer to modules or tensors
        self.network = self.copy(net, '')
        if self.left:
            raise RuntimeError(f'the network has no {sorted(self.left)[0]} any more, as when it was converted; {ANEW}')
        for state, key in self.changing:  # when all modules have a copy
            state[key] = self.value(state[key])
        for name, hook in (hooks or {}).items():
            module = self.copies[id(net.get_submodule(name))]
            module._forward_hooks = OrderedDict([(-1, hook), *module._forward_hooks.items()])

    def copy(self, module: nn.Module, prefix: str) -> nn.Module:
        old = module.__dict__
        copied = self.copies[id(module)] = object.__new__(type(module))
        state = copied.__dict__
        state.update(old)
        for key in TENSORS:
            state[key] = {name: self.tensor(tensor, prefix, name) for name, tensor in old[key].items()}
        state['_modules'] = {name: self.value(child, f'{prefix}{name}.') for name, child in old['_modules'].items()}
        if self.training is not None:
            state['training'] = self.training
        self.buffers += [(state['_buffers'], name, tensor, prefix + name) for name, tensor in state['_buffers'].items()]
        self.changing += [(state, key) for key, value in old.items()
                          if key in HOOKS and value or key not in LEFT and type(value) not in SIMPLE]  # fmt: skip
        return copied

    def tensor(self, tensor: Tensor | None, prefix: str, name: str) -> Tensor | None:
        """What stands in its place; what has several names goes by the first."""
        if tensor is not None and id(tensor) not in self.tensors:
            if prefix != UNREGISTERED and prefix + name not in self.left:
                raise RuntimeError(f'the network has had no {prefix + name} when it was converted; {ANEW}')
            self.left.discard(prefix + name)
            self.tensors[id(tensor)] = self.given.get(prefix + name, tensor)
        return None if tensor is None else self.tensors[id(tensor)]

    def value(self, value: Any, prefix: str | None = None) -> Any:
        """Of an attribute: what refers to modules and tensors of the network refers to the copies. Containers are
        copied, so that what forward() writes to them does not stay."""
        if type(value) in SIMPLE:
            return value
        if isinstance(value, nn.Module):
            return self.copies[id(value)] if id(value) in self.copies else self.copy(value, prefix or UNREGISTERED)
        if isinstance(value, Tensor):
            if id(value) not in self.tensors:
                self.tensors[id(value)] = value.clone()
            return self.tensors[id(value)]
        if isinstance(value, tuple):
            return getattr(type(value), '_make', type(value))(self.value(item) for item in value)  # of a named tuple
        if isinstance(value, (dict, list, set, deque)):
            copied: Any = copy.copy(value)
            copied.clear()
            if isinstance(value, dict):
                copied.update({key: self.value(item) for key, item in value.items()})
            else:
                (copied.update if isinstance(value, set) else copied.extend)(self.value(item) for item in value)
            return copied
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, self.value(value.__self__))
        if type(value) is functools.partial:
            return functools.partial(self.value(value.func), *self.value(value.args), **self.value(value.keywords))
        return value

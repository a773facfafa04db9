"""A network's modules once more, for one forward pass, with other tensors in the place of its own.

The network itself is not touched: several threads can run several tasks, and what activation checkpointing runs again
in the backward pass finds the tensors that it ran with. A module, or a parameter, with two names stays one.
"""

import functools
import types
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

LEFT = vars(nn.Module()).keys()  # what every module has, and is the network's; but for these:
HELD, HOOKS = ('_parameters', '_buffers', '_modules'), ('_forward_hooks', '_forward_pre_hooks')
SIMPLE = {bool, int, float, str, type(None), torch.dtype, torch.device, torch.Size}  # what refers to nothing


class Replica:
    """The copy is `network`. `buffers` and `attributes` say which tensor was given to each buffer, and to each tensor
    that is none (a copy, so that what is written to it does not stay): lists of (dict, key, tensor, name)."""

    def __init__(self, net: nn.Module, tensors: dict[str, Tensor], hooks: dict[str, Callable] | None = None,
                 training: bool | None = None):  # fmt: skip
        """
        Args:
            net: the network.
            tensors: what is to stand in the place of each parameter and buffer, by its name.
            hooks: a forward hook for modules, by name, called before those that they have.
            training: the mode; None: as each module of the network has it.
        """
        self.given, self.tensors = tensors, {}  # by name; by the id of what they stand for
        self.copies, self.buffers, self.attributes, self.changing, self.training = {}, [], [], [], training
        self.network = self.copy(net, '')
        for state, key, name in self.changing:  # when all modules have a copy
            state[key] = self.value(state[key])
            if isinstance(state[key], Tensor):
                self.attributes.append((state, key, state[key], name))
        for name, hook in (hooks or {}).items():
            module = self.copies[id(net.get_submodule(name))]
            module._forward_hooks = OrderedDict([(-1, hook), *module._forward_hooks.items()])

    def copy(self, module, prefix):
        old = module.__dict__
        parameters, buffers, modules = (old[key] for key in HELD)
        changing = [key for key, value in old.items() if key not in LEFT and type(value) not in SIMPLE]
        changing += [key for key in HOOKS if old[key]]
        if not (changing or parameters or buffers or modules) and self.training in (None, old['training']):
            self.copies[id(module)] = module  # there is nothing to be changed in it
            return module
        copied = self.copies[id(module)] = object.__new__(type(module))
        state = copied.__dict__
        state.update(old)
        state['_parameters'] = {name: self.tensor(tensor, prefix + name) for name, tensor in parameters.items()}
        state['_buffers'] = {name: self.tensor(tensor, prefix + name) for name, tensor in buffers.items()}
        state['_modules'] = {name: self.value(child, f'{prefix}{name}.') for name, child in modules.items()}
        if self.training is not None:
            state['training'] = self.training
        self.buffers += [(state['_buffers'], name, tensor, prefix + name) for name, tensor in state['_buffers'].items()]
        self.changing += [(state, key, prefix + key) for key in changing]
        return copied

    def tensor(self, tensor, name):
        """What stands in its place; what has several names goes by the first."""
        if id(tensor) not in self.tensors:
            self.tensors[id(tensor)] = self.given.get(name, tensor)
        return self.tensors[id(tensor)]

    def value(self, value, prefix=None):
        """Of an attribute: what refers to modules and tensors of the network refers to the copies."""
        if type(value) in SIMPLE:
            return value
        if isinstance(value, nn.Module):
            return self.copies.get(id(value)) or self.copy(value, prefix or '?')
        if isinstance(value, Tensor):
            if id(value) not in self.tensors:
                self.tensors[id(value)] = value.clone()
            return self.tensors[id(value)]
        if isinstance(value, dict):
            return self.container(value, value.values(), lambda items: zip(value, items, strict=True))
        if isinstance(value, (list, tuple, set)):
            return self.container(value, value, iter)
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, self.value(value.__self__))
        if type(value) is functools.partial:
            return functools.partial(self.value(value.func), *self.value(value.args), **self.value(value.keywords))
        return value

    def container(self, old, items, content):
        new = [self.value(item) for item in items]
        if all(a is b for a, b in zip(new, items, strict=True)):
            return old
        make = getattr(type(old), '_make', type(old))  # of a named tuple
        return make(content(new))

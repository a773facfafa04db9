"""A copy of a network's modules for one forward pass, with other tensors in place of its parameters and buffers.

The network itself is not changed: several threads can run several tasks, and activation checkpointing, which repeats
parts of the forward pass in the backward pass, finds the same tensors. A module or parameter with two names stays one.
"""

import copy
import functools
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hat.names import FROZEN, frozen_again

STANDARD = vars(nn.Module()).keys()  # attributes of every module: used as they are, except for these:
TENSORS, HOOKS = ('_parameters', '_buffers'), ('_forward_hooks', '_forward_pre_hooks')
COMPILED = '_compiled_call_impl'  # attribute of a module after module.compile(): it calls the module itself, not a copy
UNREGISTERED = '?.'  # prefix for modules in attributes or containers that are not submodules
AGAIN = 'convert it again after changes'
CONTAINERS = dict, list, tuple, set, deque
SIMPLE = {bool, int, float, str, type(None), torch.dtype, torch.device, torch.Size}  # without references


class Replica:
    """A copy of a network's modules.

    Attributes:
        network: the copy.
        copies: the copy of each module, by id of the module.
        tensors: the replacement of each tensor, by id of the tensor.
        buffers: the buffers of the copy before the forward pass: (dict, key, tensor, name) each.
    """

    def __init__(self, net: nn.Module, tensors: Mapping[str, Tensor], hooks: Mapping[str, Callable] | None = None,
                 training: bool | None = None):  # fmt: skip
        """
        Args:
            net: the network.
            tensors: the replacement of each parameter and buffer, by name.
            hooks: a forward hook for modules, by name; it runs before the modules' own.
            training: the mode; None: that of each module of the network.
        """
        self.replacements, self.missing, self.training = tensors, set(tensors), training
        self.tensors: dict[int, Tensor] = {}
        self.copies: dict[int, nn.Module] = {}
        self.unregistered = False  # whether there are modules that are not submodules
        self.buffers: list[tuple[dict[str, Tensor | None], str, Tensor | None, str]] = []
        self.references: list[tuple[dict[str, Any], str]] = []  # attributes that may refer to modules or tensors
        self.hooked: list[tuple[dict[str, Any], str]] = []  # hooks that may
        if parametrize._cache:  # of parametrize.cached(): by id of the module, which may have been another replica's
            parametrize._cache.clear()
        self.network = self.copy(net, '')
        if self.missing:
            raise RuntimeError(f'the network has lost {min(self.missing)} since its conversion: {AGAIN}')
        for state, key in self.references:  # now that all modules have a copy
            state[key] = self.value(state[key])
        for state, key in self.hooked:
            state[key] = OrderedDict((number, self.hook(hook)) for number, hook in state[key].items())
        if training is not None and self.unregistered:
            self.network.train(training)  # the network's own train() may reach them
        for name, hook in (hooks or {}).items():
            module = self.copies[id(net.get_submodule(name))]
            module._forward_hooks = OrderedDict([(-1, hook), *module._forward_hooks.items()])

    def parameters(self, names: list[str]) -> list[tuple[dict[str, Any], str, Tensor, str]]:
        """Some parameters of the copy before the forward pass, as `buffers`."""
        paths = [name.rpartition('.') for name in names]
        return [(self.network.get_submodule(path)._parameters, key, self.replacements[name], name)
                for name, (path, _, key) in zip(names, paths, strict=True)]  # fmt: skip

    def copy(self, module: nn.Module, prefix: str) -> nn.Module:
        """The copy of a module and its submodules. prefix: of the names of its tensors."""
        old = module.__dict__
        copied = self.copies[id(module)] = object.__new__(type(module))
        state = copied.__dict__
        state.update(old)
        for key in TENSORS:
            state[key] = {name: self.tensor(t, prefix, name) for name, t in old[key].items()} if old[key] else {}
        if FROZEN in old:
            frozen_again(state)
        if COMPILED in old:
            del state[COMPILED]
        children = old['_modules'].items()
        state['_modules'] = (
            {name: self.value(child, f'{prefix}{name}.') for name, child in children} if children else {}
        )
        if prefix.startswith(UNREGISTERED):
            self.unregistered = True
        elif self.training is not None:
            state['training'] = self.training
        for name, tensor in state['_buffers'].items():
            self.buffers.append((state['_buffers'], name, tensor, prefix + name))
        for key in HOOKS:
            if old[key]:
                self.hooked.append((state, key))
        for key in old:
            if key not in STANDARD and key in state and not is_simple(old[key]):
                self.references.append((state, key))
        return copied

    def tensor(self, tensor: Tensor | None, prefix: str, name: str) -> Tensor | None:
        """The replacement of a tensor; one with several names is replaced by its first name."""
        if tensor is not None and id(tensor) not in self.tensors:
            if not prefix.startswith(UNREGISTERED) and prefix + name not in self.missing:
                raise RuntimeError(f'the network has gained {prefix + name} since its conversion: {AGAIN}')
            self.missing.discard(prefix + name)
            self.tensors[id(tensor)] = self.replacements.get(prefix + name, tensor)
        return None if tensor is None else self.tensors[id(tensor)]

    def value(self, value: Any, prefix: str | None = None) -> Any:
        """The value of an attribute, with references to copies in place of the network's modules and tensors.
        Containers are copied, so that forward() does not change the network's."""
        if isinstance(value, nn.Module):
            return self.copies[id(value)] if id(value) in self.copies else self.copy(value, prefix or UNREGISTERED)
        if is_simple(value):
            return value
        if isinstance(value, Tensor):
            if id(value) not in self.tensors:
                self.tensors[id(value)] = value.detach().clone().requires_grad_(value.requires_grad)
            return self.tensors[id(value)]
        if isinstance(value, tuple):
            return getattr(type(value), '_make', type(value))(self.value(item) for item in value)  # of a named tuple
        if isinstance(value, CONTAINERS):
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

    def hook(self, value: Any) -> Any:
        """A hook, with references to copies in place of the network's modules and tensors. All else that it refers to
        is the caller's, such as a dict for activations: it is not copied."""
        if isinstance(value, CONTAINERS) and self.refers(value):
            return self.value(value)
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, self.hook(value.__self__))
        if type(value) is functools.partial:
            named = {key: self.hook(item) for key, item in value.keywords.items()}
            return functools.partial(self.hook(value.func), *map(self.hook, value.args), **named)
        return self.copies.get(id(value), self.tensors.get(id(value), value))

    def refers(self, container: Any) -> bool:
        """Whether a container has modules or tensors of the network in it."""
        items = container.values() if isinstance(container, dict) else container
        return any(id(item) in self.copies or id(item) in self.tensors
                   or isinstance(item, CONTAINERS) and self.refers(item) for item in items)  # fmt: skip


def is_simple(value: Any) -> bool:
    """Whether a value refers to no module or tensor and cannot be changed."""
    return type(value) in SIMPLE or type(value) is tuple and SIMPLE.issuperset(map(type, value))

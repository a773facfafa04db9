"""Parameters and buffers of a network, by their names."""

from typing import Any

import torch
from torch import Tensor, nn


def named_tensors(net: nn.Module, remove_duplicate: bool = True) -> list[tuple[str, Tensor]]:
    """named_parameters() and named_buffers() in one pass. A tensor with several names is listed by the first only, or,
    without remove_duplicate, by each."""
    parameters: list[tuple[str, Tensor]] = []
    buffers: list[tuple[str, Tensor]] = []
    seen: set[int] = set()

    def visit(module: nn.Module, prefix: str) -> None:
        if remove_duplicate and id(module) in seen:
            return
        seen.add(id(module))
        state = module.__dict__
        for result, tensors in (parameters, state['_parameters']), (buffers, state['_buffers']):
            for name, tensor in tensors.items() if tensors else ():
                if tensor is not None and not (remove_duplicate and id(tensor) in seen):
                    seen.add(id(tensor))
                    result.append((prefix + name, tensor))
        for name, child in state['_modules'].items():
            if child is not None:
                visit(child, f'{prefix}{name}.')

    visit(net, '')
    return parameters + buffers


def is_wide(dtype: torch.dtype) -> bool:
    """Whether it is a type that networks compute in: not that of a frozen weight of integers, or of 8 bits."""
    return dtype.is_floating_point and dtype.itemsize > 1


def first_wide(net: nn.Module) -> Tensor:
    """The first parameter or buffer of a type that networks compute in: inputs get its type and device."""
    return next(tensor for _, tensor in named_tensors(net) if is_wide(tensor.dtype))


def get_tensor(net: nn.Module, name: str) -> Tensor:
    """The parameter or buffer with a dotted name."""
    path, _, leaf = name.rpartition('.')
    return getattr(net.get_submodule(path), leaf)


def register_tensor(root: nn.Module, name: str, tensor: Tensor, parameter: bool, trained: bool) -> None:
    """Register a tensor below `root` under a dotted name, as a parameter or a buffer; modules on the way are made.

    trained: whether the parameter requires a gradient.
    """
    *path, leaf = name.split('.')
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if parameter:
        root.register_parameter(leaf, nn.Parameter(tensor, requires_grad=trained))
    else:
        root.register_buffer(leaf, tensor)


FROZEN = 'hat_frozen'  # attribute of a module: keys of its buffers that were parameters


def as_buffer(net: nn.Module, name: str) -> None:
    """Make a parameter a buffer: the same tensor, under the same name, that no optimizer gets."""
    tensor = get_tensor(net, name)
    for module in net.modules():
        for key in [key for key, p in module._parameters.items() if p is tensor]:
            module._buffers[key] = module._parameters.pop(key)
            setattr(module, FROZEN, tuple(dict.fromkeys((*getattr(module, FROZEN, ()), key))))


def frozen_again(state: dict[str, Any]) -> None:
    """Make the buffers of a module that were parameters, parameters again. state: its attributes."""
    for key in state.pop(FROZEN, ()):
        state['_parameters'][key] = state['_buffers'].pop(key)


def set_tensor(net: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace the parameter or buffer with a dotted name; a parameter does not require a gradient then."""
    path, _, leaf = name.rpartition('.')
    module = net.get_submodule(path)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[leaf] = tensor


def fill(tensor: Tensor, value: Tensor) -> None:
    """Give a parameter or buffer another value, which may be of another shape: it stays the same tensor for lists and
    attributes that refer to it. A parameter does not require a gradient then."""
    tensor.requires_grad_(False).data = value

"""Tensors in nested values: inputs and outputs of networks may be tuples, dicts, dataclasses, and objects of
libraries."""

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def tensors_in(value: Any, seen: set[int] | None = None) -> list[Tensor]:
    """All tensors in a value, in order."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        return [value]
    if id(value) in seen or is_opaque(value):
        return []
    seen.add(id(value))
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    else:
        parts = list(attributes(value).values())
    return [tensor for part in parts for tensor in tensors_in(part, seen)]


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A copy of a value with function(tensor) in place of each tensor in it. Objects that cannot be copied stay, but
    for dataclasses, of which each field is copied, or stays."""
    if isinstance(value, Tensor):
        return function(value)
    if hasattr(value, '_fields'):  # a named tuple
        return value._replace(**{name: mapped(function, getattr(value, name)) for name in value._fields})
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(function, part) for part in value)
    if isinstance(value, Mapping):
        new: Any = copy.copy(value)
        for key, part in value.items():
            new[key] = mapped(function, part)
        return new
    if attributes(value) and not is_opaque(value):
        with contextlib.suppress(Exception):  # such as that of a lock
            return copy.deepcopy(value, {id(tensor): function(tensor) for tensor in tensors_in(value)})
        if dataclasses.is_dataclass(value):
            new = copy.copy(value)
            for name, part in attributes(value).items():
                object.__setattr__(new, name, mapped(function, part))
            return new
    return value


def is_opaque(value: Any) -> bool:
    """Whether nobody looks into a value for tensors."""
    return isinstance(value, (str, bytes, type, nn.Module)) or callable(value)


def attributes(value: Any) -> dict[str, Any]:
    """The attributes of an object, also those of a class with __slots__, such as a dataclass may be."""
    state: Any = object.__getstate__(value)  # with slots a pair
    return (state[0] or {}) | state[1] if isinstance(state, tuple) else state or {}


def distance(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of floating-point and complex tensors, in units of the largest finite value; infinite for
    other shapes. Infinities, and what is no number in both, are equal: they would hide all other values. Sparse
    tensors, and those without values, do not count."""
    if [a.shape for a in outputs] != [b.shape for b in expected]:
        return math.inf
    pairs = [(a, b) for a, b in zip(outputs, expected, strict=True) if (b.is_floating_point() or b.is_complex())
             and b.numel() and b.layout == torch.strided and not b.is_meta]  # fmt: skip
    each = [float((a - b).abs().masked_fill((a == b) | (a != a) & (b != b), 0).max()) / largest(b) for a, b in pairs]
    return math.nan if any(map(math.isnan, each)) else max(each, default=0.0)


def largest(x: Tensor) -> float:
    """The largest finite absolute value; 1, if this is 0."""
    return float(x.abs().nan_to_num(0, 0, 0).max()) or 1.0

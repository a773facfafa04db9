"""Kept values: the values that learned tasks compute with, stored apart from the parameters."""

from collections.abc import Callable, Iterable
from typing import Self, cast

import torch
from torch import Tensor, nn

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an element


class Kept(nn.Module):
    """Kept values for some tensors: a buffer of the same shape for each.

    As buffers they are copied with the network. They hold bit patterns, as integers, so that optimizers, noise and
    averages of floats do not change them. They are not saved: state_dict() has the values themselves, in parameters.

    Where a bit pattern is 0, no value is kept (a kept zero is stored as -0.0).
    """

    fingerprints: Tensor  # (tasks,), of the tasks whose values are kept; only for shared parameters (Network.refresh)

    def __init__(self, tensors: Iterable[tuple[str, Tensor]]):
        """tensors: by name; values of these can be kept."""
        super().__init__()
        self.keys: dict[str, str] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        for i, (name, tensor) in enumerate(tensors):
            self.keys[name], self.dtypes[name] = str(i), tensor.dtype
            bits = torch.zeros_like(tensor, dtype=bits_type(tensor.dtype))  # in its memory format, too
            self.register_buffer(str(i), bits, persistent=False)

    def bits(self, name: str) -> Tensor:
        return cast(Tensor, self._buffers[self.keys[name]])

    def value(self, name: str) -> Tensor:
        """The kept values, a view of the bits: zero where no value is kept."""
        return self.bits(name).view(self.dtypes[name])

    def has_zeros(self, name: str) -> bool:
        """Whether a kept value is 0, or not a normal number, so that the values do not tell where they are kept."""
        value = self.value(name)
        return bool((self.bits(name).bool() != (value.abs() >= torch.finfo(value.dtype).tiny)).any())

    @torch.no_grad()
    def write(self, name: str, value: Tensor, protected: Tensor | None = None) -> None:
        """Keep all of `value`, or only its elements where `protected`, a bool that broadcasts."""
        if protected is not None:
            value = marked(value, protected)
        self.bits(name).copy_(value.detach().view(self.bits(name).dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the values, as the parameters are."""
        for name, key in self.keys.items():
            bits, value = self.bits(name), self.value(name)
            new = fn(value)
            if new.dtype != value.dtype:
                new = marked(new, (bits != 0).to(new.device))
            self._buffers[key], self.dtypes[name] = new.view(bits_type(new.dtype)), new.dtype  # whole, or not at all
        return self


def marked(value: Tensor, protected: Tensor) -> Tensor:
    """The values that are kept where `protected`, a bool that broadcasts; 0 elsewhere."""
    return torch.where(protected, torch.where(value == 0, -0.0, value), 0)


def bits_type(dtype: torch.dtype) -> torch.dtype:
    """The integer type of the same size; an integer type itself, and complex128, for which there is none."""
    return BITS.get(dtype.itemsize, dtype) if dtype.is_floating_point or dtype.is_complex else dtype

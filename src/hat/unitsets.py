"""Sets of units: which closed units make a value of the network zero.

Each value has the id of a set:

  ALWAYS_USED  no unit makes it zero: input data, constants, and values of which nothing is known
  ZERO         it is always zero
  2 ...        one unit: the value is zero if this unit is closed; the units of all gates, one gate after the other
  then         a combination of two ids: the value is zero if both are (a sum), or if one of them is (a product)
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

ALWAYS_USED, ZERO = 0, 1
Pairwise = Callable[[Tensor, Tensor], Tensor]


class UnitSets:
    """The ids of a network and what they stand for.

    Attributes:
        sizes: number of units of each gate.
        of_gate: ids of the units of each gate, (N,).
        count: number of ids.
        combined: what the ids after the gates' stand for: (torch.maximum or torch.minimum, left ids, right ids).
    """

    def __init__(self, sizes: list[int]):
        self.sizes = sizes
        ends = torch.tensor([2, *sizes]).cumsum(0).tolist()
        self.of_gate = [torch.arange(a, b) for a, b in zip(ends, ends[1:], strict=False)]
        self.count = ends[-1]
        self.combined: list[tuple[Pairwise, Tensor, Tensor]] = []

    def union(self, left: Tensor, right: Tensor) -> Tensor:
        """Ids of the sums of two tensors, element by element: zero if both are."""
        return self._combine(torch.maximum, left, right, neutral=ZERO, strong=ALWAYS_USED)

    def intersection(self, left: Tensor, right: Tensor) -> Tensor:
        """Ids of the products of two tensors, element by element: zero if one of them is."""
        return self._combine(torch.minimum, left, right, neutral=ALWAYS_USED, strong=ZERO)

    def over(self, combine: Pairwise, ids: Tensor, dims: Iterable[int]) -> Tensor:
        """Ids of a reduction over dimensions `dims`, which keep one element each.

        combine: self.union, if the result is zero where all values are; self.intersection, if where one of them is.
        """
        dims = sorted({d % ids.ndim for d in dims}) if ids.ndim else []
        if not dims:
            return ids
        if 0 in ids.shape:  # of nothing: the product, 1
            return torch.full([1 if d in dims else n for d, n in enumerate(ids.shape)], ALWAYS_USED)
        rest = [d for d in range(ids.ndim) if d not in dims]
        rows = ids.permute(*dims, *rest).reshape(-1, *(ids.shape[d] for d in rest))
        if not (rows == rows[0]).all():
            rows = torch.unique(rows, dim=0)
            while len(rows) > 1:  # in pairs: log2(len) combinations instead of len
                half = len(rows) // 2
                rows = torch.cat([combine(rows[:half], rows[half : 2 * half]), rows[2 * half :]])
        result = rows[0]
        for d in dims:
            result = result.unsqueeze(d)
        return result

    def per_index(self, ids: Tensor, dim: int) -> Tensor:
        """Ids of a reduction over all dimensions but `dim`, (n,): zero if all values are."""
        return self.over(self.union, ids, set(range(ids.ndim)) - {dim % ids.ndim}).reshape(-1)

    def attention(self, masks: list[Tensor]) -> Tensor:
        """The attention to each id, (count,), from the masks (N,) of all gates: 1, 0, the masks, the combinations."""
        return self.combine(masks) if torch.compiler.is_compiling() else Attention.apply(self, *masks)

    def combine(self, masks: Sequence[Tensor]) -> Tensor:
        first = masks[0]
        values = torch.cat([first.new_ones(1), first.new_zeros(1), *masks])
        for function, left, right in self.combined:
            values = torch.cat([values, function(values[left], values[right])])
        return values

    def to(self, device: torch.device) -> None:
        self.combined = [(function, left.to(device), right.to(device)) for function, left, right in self.combined]

    def _combine(self, function: Pairwise, left: Tensor, right: Tensor, neutral: int, strong: int) -> Tensor:
        left, right = torch.broadcast_tensors(left, right)
        low, high = torch.minimum(left, right), torch.maximum(left, right)
        pairs, where = torch.unique(low * self.count + high, return_inverse=True)
        low, high = pairs // self.count, pairs % self.count
        result = torch.where(low == neutral, high, torch.where(high == neutral, low, -1))
        result = torch.where(low == high, low, result)
        result = torch.where((low == strong) | (high == strong), strong, result)
        new = result == -1
        if new.any():
            self.combined.append((function, low[new], high[new]))
            result[new] = torch.arange(self.count, self.count + int(new.sum()))
            self.count += int(new.sum())
        return result[where]


class Attention(Function):
    """UnitSets.attention(); the gradient of a maximum or minimum of equal values is half for each, as in PyTorch."""

    @staticmethod
    def forward(ctx: Any, units: UnitSets, *masks: Tensor) -> Tensor:
        values = units.combine(masks)
        ctx.units, ctx.values = units, values.detach()
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        units, values, grad = ctx.units, ctx.values, grad.clone()
        end = units.count
        for function, left, right in reversed(units.combined):
            part, end = grad[end - len(left) : end].clone(), end - len(left)
            ahead = values.index_select(0, left) - values.index_select(0, right)
            of_left = part * ((ahead if function is torch.maximum else -ahead).sign() + 1) / 2
            add_at(grad, left, of_left)
            add_at(grad, right, part - of_left)
        return None, *grad[2:end].split(units.sizes)


def pick(values: Tensor, units: Tensor) -> Tensor:
    """values[units]."""
    return values[units] if torch.compiler.is_compiling() else Picked.apply(values, units)


class Picked(Function):
    """values[units]. Its backward pass can run several times, as reentrant activation checkpointing does."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, units: Tensor) -> Tensor:
        ctx.units, ctx.size = units, len(values)
        return values.index_select(0, units.reshape(-1)).view(units.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return add_at(grad.new_zeros(ctx.size), ctx.units.reshape(-1), grad.reshape(-1)), None


def add_at(values: Tensor, ids: Tensor, others: Tensor) -> Tensor:
    """values[ids] += others, where an id may occur several times; on a GPU by the deterministic operation."""
    return values.scatter_add_(0, ids, others) if values.is_cpu else values.index_put_((ids,), others, accumulate=True)

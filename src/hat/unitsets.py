"""Which units make a value zero: an id for each set of units that matters in a network.

A value has the id of what it is zero with, if the gates of some units are closed:

  ALWAYS_USED  no gate makes it zero: input data, constants, and whatever nothing better is known of
  ZERO         it is zero whatever the gates are
  2 ...        that of a unit: zero if this unit is closed; the gates' units, one gate after the other
  then         combinations of two ids: zero if both are (a sum), or if one of them is (a product)
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from hat.functional import Replayed

ALWAYS_USED, ZERO = 0, 1
Pairwise = Callable[[Tensor, Tensor], Tensor]


class UnitSets:
    """`sizes`: the number of units of each gate."""

    def __init__(self, sizes: list[int]):
        ends = torch.tensor([2, *sizes]).cumsum(0).tolist()
        self.of_gate = [torch.arange(a, b) for a, b in zip(ends, ends[1:], strict=False)]
        self.count = ends[-1]
        # what the ids after the gates' stand for: (torch.maximum or torch.minimum, left ids, right ids)
        self.combined: list[tuple[Pairwise, Tensor, Tensor]] = []

    def union(self, left: Tensor, right: Tensor) -> Tensor:
        """Ids of the sums of two values, element by element: zero only if both are."""
        return self._combine(torch.maximum, left, right, neutral=ZERO, strong=ALWAYS_USED)

    def intersection(self, left: Tensor, right: Tensor) -> Tensor:
        """Ids of the products of two values, element by element: zero if one of them is."""
        return self._combine(torch.minimum, left, right, neutral=ALWAYS_USED, strong=ZERO)

    def over(self, combine: Pairwise, ids: Tensor, dims: Iterable[int]) -> Tensor:
        """Ids of what depends on all values along some dimensions, which stay, with one element each.

        combine: union, where it is zero if all values are; intersection, where it is if one of them is.
        """
        dims = sorted({d % ids.ndim for d in dims}) if ids.ndim else []
        if not dims or 0 in ids.shape:
            return ids[tuple(slice(0, 1) if d in dims else slice(None) for d in range(ids.ndim))]
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
        """Ids of what depends on all values at an index of `dim`, (n,)."""
        return self.over(self.union, ids, set(range(ids.ndim)) - {dim % ids.ndim}).reshape(-1)

    def attention(self, masks: list[Tensor]) -> Tensor:
        """Attention to all ids, (count,), from the masks (N,) of all gates: 1, 0, the gates', the combinations'."""
        return Replayed.apply(self._attention, *masks)

    def _attention(self, *masks: Tensor) -> Tensor:
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

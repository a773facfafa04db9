"""Numbers for units: which units of which gates a value in a network stands for, and what attention they get.

A value has the number of what it is zero with:

  ALWAYS     in use by every task: input data, constants, and whatever nothing better is known of
  NEVER      always zero: what a sum of nothing is
  2 ...      the units of the gates, one gate after the other
  then       combinations: zero if both of two units are (their sum), or if one of them is (their product)
"""

import torch

ALWAYS, NEVER = 0, 1


class Units:
    """`sizes`: the number of units of each gate."""

    def __init__(self, sizes):
        ends = torch.tensor([2, *sizes]).cumsum(0).tolist()
        self.of_gate = [torch.arange(a, b) for a, b in zip(ends, ends[1:], strict=False)]
        self.count = ends[-1]
        self.combined = []  # (function, left, right): what the numbers after the gates' are made of

    def either(self, left, right):
        """Numbers of the sums of two values, element by element: zero only if both are."""
        return self._combine(torch.maximum, left, right, neutral=NEVER, strong=ALWAYS)

    def both(self, left, right):
        """Numbers of the products of two values, element by element: zero if one of them is."""
        return self._combine(torch.minimum, left, right, neutral=ALWAYS, strong=NEVER)

    def any(self, units, dim):
        """Numbers of what hangs on all values along the other dimensions, for each index of `dim`: (n,)."""
        rows = units.movedim(dim, -1).reshape(-1, units.shape[dim])
        if (rows == rows[0]).all():
            return rows[0]
        rows = torch.unique(rows, dim=0)
        while len(rows) > 1:  # in pairs: log2(len) combinations instead of len
            half = len(rows) // 2
            rows = torch.cat([self.either(rows[:half], rows[half : 2 * half]), rows[2 * half :]])
        return rows[0]

    def attention(self, masks):
        """The attention to all numbers, (count,), from the masks (N,) of all gates: 1, 0, the gates', combinations'."""
        first = masks[0]
        values = torch.cat([first.new_ones(1), first.new_zeros(1), *masks])
        for function, left, right in self.combined:
            values = torch.cat([values, function(values[left], values[right])])
        return values

    def to(self, device):
        self.combined = [(function, left.to(device), right.to(device)) for function, left, right in self.combined]

    def _combine(self, function, left, right, neutral, strong):
        left, right = (u.contiguous() for u in torch.broadcast_tensors(left, right))
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

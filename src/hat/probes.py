"""What an operation without weights does to units, found out by running it."""

import itertools
from typing import NamedTuple

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from hat.units import ALWAYS, NEVER


class Constant(NamedTuple):
    """What hangs neither on the input nor on a parameter."""

    tensor: torch.Tensor


def runner(node):
    """Where an operation has other nodes among its arguments, {place: node}, and a function that runs it with values
    for them, {place: value}."""
    leaves, form = tree_flatten((node.args, node.kwargs))

    def run(values):
        args, kwargs = tree_unflatten([values.get(i, leaf) for i, leaf in enumerate(leaves)], form)
        return node.target(*args, **kwargs)

    return {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, torch.fx.Node)}, run


def try_zeros(run, given, shape, units):
    """Unit numbers of what works element by element: zeros of which arguments make it zero?

    given  place of an argument -> its unit numbers, or a Constant
    """
    generator = torch.Generator().manual_seed(0)
    trial, numbers = {}, {}
    for i, value in given.items():
        trial[i] = torch.randn(16, generator=generator, dtype=torch.float64)
        numbers[i] = value
        if isinstance(value, Constant):
            trial[i] = trial[i] > 0 if value.tensor.dtype == torch.bool else trial[i].to(value.tensor.dtype)
            numbers[i] = torch.full(value.tensor.shape, ALWAYS)
    result, enough = torch.full(shape, ALWAYS), []
    for some in itertools.chain(*(itertools.combinations(given, n + 1) for n in range(len(given)))):
        if any(less <= set(some) for less in enough):
            continue
        zeros = {i: torch.zeros_like(x) if i in some else x.clone() for i, x in trial.items()}
        if (run(zeros) == 0).all():
            enough.append(set(some))
            together = numbers[some[0]]
            for i in some[1:]:
                together = units.either(together, numbers[i])
            result = units.both(result, together)
    return result.expand(shape)


def try_numbers(run, given):
    """Unit numbers of the outputs of any operation: is an output a multiple of some unit's values, and of no others?

    Four runs, with other random numbers for the units each time, but the last, which has the first one's with a minus
    (that tells a maximum from a move). What every task uses has the same random numbers in all runs.

    given  place of an argument -> its unit numbers, or a Constant
    """
    generator = torch.Generator().manual_seed(0)
    values, units = {}, {}
    for i, value in given.items():
        if isinstance(value, Constant):
            values[i] = value.tensor.double() if value.tensor.is_floating_point() else value.tensor
        else:
            units[i] = value.contiguous()
            values[i] = torch.rand(value.shape, generator=generator, dtype=torch.float64) + 1
    present = torch.cat([u.unique() for u in units.values()]).unique()
    codes = torch.rand(3, len(present), generator=generator, dtype=torch.float64) + 1
    codes[:, present == NEVER] = 0
    codes = torch.cat([codes, -codes[:1]])
    outputs = []
    for code in codes:
        coded = {i: code[torch.searchsorted(present, u)] for i, u in units.items()}
        outputs.append(run(values | {i: torch.where(u == ALWAYS, values[i], coded[i]) for i, u in units.items()}))
    if isinstance(outputs[0], torch.Tensor):
        return recognize(outputs, codes, present)
    return [recognize(part, codes, present) for part in zip(*outputs, strict=True)]


def recognize(outputs, codes, present):
    """The unit whose codes, (4, units), the outputs of the four runs are in proportion to; else ALWAYS."""
    first, second, third, negated = outputs
    result = torch.full(first.shape, ALWAYS)
    if not first.is_floating_point():
        return result
    ratio, (ratios, order) = (first / second).contiguous(), (codes[0] / codes[1]).nan_to_num().sort()
    at = torch.searchsorted(ratios, ratio).clamp_max(len(ratios) - 1)
    for nearest in at, (at - 1).clamp_min(0):
        unit = order[nearest]
        same = torch.isclose(ratio, ratios[nearest], rtol=1e-9, atol=0) & (present[unit] > NEVER)
        same &= torch.isclose(first / third, codes[0][unit] / codes[2][unit], rtol=1e-9, atol=0)
        same &= torch.isclose(negated, -first, rtol=1e-9, atol=0)
        result = torch.where(same, present[unit], result)
    return torch.where(torch.stack([output == 0 for output in outputs]).all(0), NEVER, result)

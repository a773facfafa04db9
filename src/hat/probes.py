"""What an operation without weights does to units, found out by running it."""

import itertools
from typing import NamedTuple

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from hat.units import ALWAYS


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


def move(run, given):
    """Unit numbers of what only moves values: the numbers themselves are moved."""

    def numbers(value):
        if not isinstance(value, Constant):
            return value.contiguous()
        return torch.full(value.tensor.shape, ALWAYS) if value.tensor.is_floating_point() else value.tensor

    result = run({i: numbers(value) for i, value in given.items()})
    return list(result) if isinstance(result, (tuple, list)) else result


def try_numbers(run, given):
    """Unit numbers of the outputs of any operation: is an output a multiple of some unit's values, and of no others?

    Four runs, with other random numbers for the units in the first three and the first ones with a minus in the last,
    propose units; what every task uses has the same random numbers in all of them. Then some units are set to zero, and
    all other values to random numbers: where an output is not zero together with its unit, nothing is known of it.

    given  place of an argument -> its unit numbers, or a Constant
    """
    generator = torch.Generator().manual_seed(0)
    values, units = {}, {}
    for i, value in given.items():
        if isinstance(value, Constant):
            values[i] = value.tensor.double() if value.tensor.is_floating_point() else value.tensor
        else:
            units[i] = value.contiguous()
            values[i] = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    present = torch.cat([u.unique() for u in units.values()]).unique()
    places = {i: torch.searchsorted(present, u) for i, u in units.items()}

    def outputs(coded):
        result = run(values | coded)
        result = result if isinstance(result, (tuple, list)) else [result]
        if not all(isinstance(part, torch.Tensor) for part in result):
            raise TypeError('an operation that does not return tensors')
        return result

    def propose(codes):
        return outputs({i: torch.where(u == ALWAYS, values[i], codes[places[i]]) for i, u in units.items()})

    codes = torch.randn(3, len(present), generator=generator, dtype=torch.float64)
    found = [recognize(parts, codes, present) for parts in zip(*map(propose, [*codes, -codes[0]]), strict=True)]
    for _ in range(3):
        closed = (torch.rand(len(present), generator=generator) < 0.5) & (present != ALWAYS)
        for off in closed, ~closed & (present != ALWAYS):
            drawn = {i: torch.randn(u.shape, generator=generator, dtype=torch.float64) for i, u in units.items()}
            coded = {i: torch.where(off[places[i]], 0, x) for i, x in drawn.items()}
            for part, output in zip(found, outputs(coded), strict=True):
                part[torch.isin(part, present[off]) & (output != 0)] = ALWAYS
    return found


def recognize(outputs, codes, present):
    """The unit whose codes, (3, units), the outputs of the four runs are in proportion to; else ALWAYS."""
    first, second, third, negated = outputs
    result = torch.full(first.shape, ALWAYS)
    if not first.is_floating_point():
        return result
    ratio, (ratios, order) = (first / second).contiguous(), (codes[0] / codes[1]).sort()
    at = torch.searchsorted(ratios, ratio).clamp_max(len(ratios) - 1)
    for nearest in at, (at - 1).clamp_min(0):
        unit = order[nearest]
        same = torch.isclose(ratio, ratios[nearest], rtol=1e-9, atol=0) & (present[unit] != ALWAYS)
        same &= torch.isclose(first / third, codes[0][unit] / codes[2][unit], rtol=1e-9, atol=0)
        same &= torch.isclose(first, -negated, rtol=1e-9, atol=0)
        result = torch.where(same, present[unit], result)
    return result

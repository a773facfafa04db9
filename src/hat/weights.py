"""The tensors that a task computes with: they replace the parameters and buffers of the network in a forward pass."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hat.functional import Conditioned, Gate, Protected
from hat.plan import Gating

if TYPE_CHECKING:
    from hat.network import Network

SMALL = 2**14  # elements; smaller parameters are protected together, in one operation


def tensors(network: 'Network', task: int, masks: list[Tensor], outputs: bool = False) -> dict[str, Tensor]:
    """The tensors of a task, by the names of the parameters and buffers that they replace.

    h' = a * h (section 2.2): the mask of a layer multiplies its weight and bias, or those of the batch norm after it.
    An nn.Linear often has fewer outputs than weights: there the output is multiplied (Network.run).

    Args:
        network: a hat.Network.
        task: number of the task.
        masks: attention to the units, (N,) for each gate.
        outputs: multiply the weights of nn.Linear, too.
    """
    network.refresh()
    plan, kept_only = network.plan, network.hard and network.done[task]
    result = network.tasks[task].tensors(network.done[task])
    values = plan.units.attention(masks)
    if kept_only:
        result |= {name: kept_weight(network, name, values.detach() > 0.5) for name in plan.shared}
    else:
        result |= unlearned_weights(network)
    gating = plan.gating | output_gates(network) if outputs else plan.gating
    for name, (gate, units) in gating.items():
        if name in plan.shared and not kept_only:  # a kept weight is zero already where a unit is closed
            a = values[units] if gate is None else masks[gate].view(units.shape)
            result[name] = Gate.apply(result[name], a)
    norms = {name: units for name, (_, units) in plan.gating.items() if name not in plan.shared}
    return result | in_groups(lambda p, units: Gate.apply(p, values[units]), result, norms)


def kept_weight(network: 'Network', name: str, is_open: Tensor) -> Tensor:
    """The weight of a learned task: the kept values between open units, 0 elsewhere.

    Never -0, whose sign would depend on what another task has there. A product is several times as fast as torch.where.

    Args:
        network: a hat.Network.
        name: of a shared parameter.
        is_open: for each id of the plan's unit sets, (ids,) bool.
    """
    kept = network.kept.value(name)
    if name not in network.finite:
        return torch.where(network.between(name, is_open), kept, 0).add_(0.0)
    _, outs, ins = network.plan.shared[name]
    weight = kept * is_open[outs].to(kept.dtype)
    return (weight if ins is None else weight.mul_(is_open[ins].to(kept.dtype))).add_(0.0)


def unlearned_weights(network: 'Network') -> dict[str, Tensor]:
    """The shared parameters for a task that is not learned, by name: protected elements get no gradient."""
    shared, kept = network.shared, network.kept
    if network.factors:
        return {name: Conditioned.apply(p, network.factors[name]) for name, p in shared.items()}
    small = {name: kept.bits(name) for name in network.no_zeros if shared[name].numel() <= SMALL}
    large = {name: Protected.apply(shared[name], kept.bits(name), no_zero)
             for name, no_zero in network.no_zeros.items() if name not in small}  # fmt: skip
    return shared | large | in_groups(lambda p, bits: Protected.apply(p, bits, False), shared, small)


def output_gates(network: 'Network') -> dict[str, Gating]:
    """The gates of weights and biases of layers whose output is multiplied, by name."""
    names = {id(p): name for name, p in network.net.named_parameters()}
    return {names[id(p)]: Gating(gate, units.view(-1, *[1] * (p.ndim - 1)))
            for name, (gate, units) in network.plan.outputs.items()
            for p in network.net.get_submodule(name).parameters(recurse=False)}  # fmt: skip


def in_groups(function: Callable[[Tensor, Tensor], Tensor], tensors: Mapping[str, Tensor],
              others: Mapping[str, Tensor]) -> dict[str, Tensor]:  # fmt: skip
    """function(tensor, other), which works element by element, for each name of `others`.

    All tensors of a type are concatenated first: one call for many small tensors.
    """
    results: dict[str, Tensor] = {}
    types: dict[torch.dtype, list[str]] = {}
    for name in others:
        types.setdefault(tensors[name].dtype, []).append(name)
    for names in types.values():
        parts = [tensors[name] for name in names]
        flat = function(*(torch.cat([x.reshape(-1) for x in xs]) for xs in (parts, [others[name] for name in names])))
        pieces = flat.split([part.numel() for part in parts])
        results |= {name: piece.view(part.shape) for name, piece, part in zip(names, pieces, parts, strict=True)}
    return results

"""The tensors that a task computes with: they replace the parameters and buffers of the network in a forward pass."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hat import recurrent
from hat.functional import Conditioned, Gate, Protected, Replayed
from hat.names import get_tensor
from hat.plan import OutputGate, Plan

if TYPE_CHECKING:
    from hat.network import Network

SMALL = 2**14  # elements; smaller parameters are protected together, in one operation


def tensors(network: 'Network', task: int, masks: list[Tensor], outputs: bool = False) -> dict[str, Tensor]:
    """The tensors of a task, by the names of the parameters and buffers that they replace.

    h' = a * h (section 2.2): the mask of a layer multiplies its weight and bias, or those of the batch norm after it.
    An nn.Linear often has fewer outputs than weights: there the output is multiplied (output_masks).

    Args:
        network: a hat.Network.
        task: number of the task.
        masks: attention to the units, (N,) for each gate.
        outputs: multiply weights, too, where else the output of their module is multiplied.
    """
    network.refresh()
    plan, kept_only = network.plan, network.hard and network.done[task]
    result = network.tasks[task].tensors(network.done[task])
    values = plan.units.attention(masks)
    if kept_only:
        result |= {name: kept_weight(network, name, values.detach() > 0.5) for name in plan.shared}
    else:
        result |= unlearned_weights(network)
    result |= {name: get_tensor(network.net, name) for name in plan.frozen}
    gating = plan.gating | plan.folded if outputs else plan.gating
    large = plan.shared.keys() | plan.frozen
    for name, (gate, units) in gating.items():
        if name in large and not (kept_only and zero_if_closed(plan, name)):
            a = at(values, units) if gate is None else masks[gate].view(units.shape)
            result[name] = Gate.apply(result[name], a)
    norms = {name: units for name, (_, units) in plan.gating.items() if name not in large}
    result |= in_groups(lambda p, units: Gate.apply(p, at(values, units)), result, norms)
    return result | {name: result[name].clone() for name in plan.written}


def at(values: Tensor, units: Tensor) -> Tensor:
    """values[units]; its backward pass can run several times, as reentrant activation checkpointing does."""
    return values[units] if torch.compiler.is_compiling() else Replayed.apply(lambda v: v[units], values)


def zero_if_closed(plan: Plan, name: str) -> bool:
    """Whether the kept value of a parameter is zero where its gate is closed."""
    return name in plan.shared and name not in plan.tied


def output_masks(network: 'Network', masks: list[Tensor], learned: bool) -> dict[str, 'OutputMask']:
    """Forward hooks that multiply the output of modules with masks, by name. learned: the masks are 0 and 1."""
    return {name: OutputMask(gate, masks, learned) for name, gate in network.plan.outputs.items()}


class OutputMask:
    """A forward hook that multiplies the output of a module with masks. learned: they are 0 and 1."""

    def __init__(self, gate: OutputGate, masks: list[Tensor], learned: bool):
        self.gate, self.learned = gate, learned
        one = next(masks[g] for g in gate.gates if g is not None)
        self.masks = [torch.ones_like(one) if g is None else masks[g] for g in gate.gates]

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if self.gate.directions is not None:
            return recurrent.masked(output, self.masks, self.gate.directions, self.multiply)
        return self.multiply(output, self.masks[0].view(-1, *[1] * self.gate.n_dims))

    def multiply(self, x: Tensor, a: Tensor) -> Tensor:
        if self.learned:  # a computed weight may be NaN where its rows are zero
            return x.masked_fill(a.to(x.device) == 0, 0)
        return Gate.apply(x, a)


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
    if len(network.plan.shared[name].uses) > 1:
        return (kept * network.between(name, is_open).to(kept.dtype)).add_(0.0)
    ((outs, ins),) = network.plan.shared[name].uses
    weight = kept * is_open[outs].to(kept.dtype)
    return (weight if ins is None else weight.mul_(is_open[ins].to(kept.dtype))).add_(0.0)


def unlearned_weights(network: 'Network') -> dict[str, Tensor]:
    """The shared parameters for a task that is not learned, by name: protected elements get no gradient."""
    shared, kept, computed = network.shared, network.kept, network.plan.computed
    if network.factors:
        return {name: Conditioned.apply(p, network.factors[name], name in computed) for name, p in shared.items()}
    small = {name: kept.bits(name) for name in network.no_zeros if shared[name].numel() <= SMALL}
    large = {name: Protected.apply(shared[name], kept.bits(name), no_zero, name in computed)
             for name, no_zero in network.no_zeros.items() if name not in small}  # fmt: skip
    return shared | large | in_groups(lambda p, bits: Protected.apply(p, bits, False, False), shared, small)


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

"""The tensors that a task computes with: they replace the parameters and buffers of the network in a forward pass."""

from collections.abc import Container
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hat import bundles, recurrent
from hat.functional import HALF, Conditioned, Gate, Protected
from hat.names import get_tensor
from hat.plan import Gating, OutputGate, Plan
from hat.unitsets import pick

if TYPE_CHECKING:
    from hat.network import Network


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
    factors, values = factors_of(plan, kept_only, outputs), plan.units.attention(masks)
    packed = bundles.pack(network, kept_only, factors) if outputs else network.bundles[kept_only]
    result = network.tasks[task].tensors(network.done[task])
    if kept_only:
        result |= {name: kept_weight(network, name, values.detach() > 0.5) for name in plan.shared}
    else:
        result |= unlearned_weights(network, {name for bundle in packed for name in bundle.names})
    result |= {name: get_tensor(network.net, name) for name in plan.frozen}
    for bundle in packed:
        result |= bundle(result, values)
    for name, (gate, units) in factors.items():
        if units.numel() < result[name].numel():
            a = pick(values, units) if gate is None else masks[gate].view(units.shape)
            result[name] = Gate.apply(result[name], a)
    return result | {name: result[name].clone() for name in plan.written}


def factors_of(plan: Plan, kept_only: bool, outputs: bool = False) -> dict[str, Gating]:
    """The factors of parameters, by name; with kept values those that are not zero where their gate is closed."""
    factors = plan.gating | plan.folded if outputs else plan.gating
    return {name: factor for name, factor in factors.items()
            if not kept_only or name not in plan.shared or name in plan.tied}  # fmt: skip


def output_masks(network: 'Network', masks: list[Tensor], learned: bool) -> dict[str, 'OutputMask']:
    """Forward hooks that multiply the output of modules with masks, by name. learned: the masks are 0 and 1."""
    return {name: OutputMask(gate, masks, learned) for name, gate in network.plan.outputs.items()}


class OutputMask:
    """A forward hook that multiplies the output of a module with masks. learned: they are 0 and 1."""

    def __init__(self, gate: OutputGate, masks: list[Tensor], learned: bool):
        self.gate, self.learned = gate, learned
        one = next(masks[g] for g in gate.gates if g is not None)
        self.masks = [one.new_ones(len(one)) if g is None else masks[g] for g in gate.gates]

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if self.gate.directions is not None:
            return recurrent.masked(output, self.masks, self.gate.directions, self.multiply)
        return self.multiply(output, self.masks[0].view(-1, *[1] * self.gate.n_dims))

    def multiply(self, x: Tensor, a: Tensor) -> Tensor:
        if self.learned:  # a computed weight may be NaN where its rows are zero
            return x.masked_fill(a.to(x.device) == 0, 0)
        return Gate.apply(x, a) if x.dtype in HALF else x * a.to(x.dtype)


def kept_weight(network: 'Network', name: str, is_open: Tensor) -> Tensor:
    """The weight of a learned task: the kept values between open units, 0 elsewhere.

    Never -0, whose sign would depend on what another task has there. A product is several times as fast as torch.where.

    Args:
        network: a hat.Network.
        name: of a shared parameter.
        is_open: for each id of the plan's unit sets, (ids,) bool.
    """
    kept, finite, uses = network.kept.value(name), network.finite, network.plan.shared[name].uses
    if name in finite:
        if len(uses) > 1:
            weight = kept * network.between(name, is_open).to(kept.dtype)
        else:
            ((outs, ins),) = uses
            weight = kept * is_open[outs].to(kept.dtype)
            weight = weight if ins is None else weight.mul_(is_open[ins].to(kept.dtype))
        if network.finite is finite:  # else another thread may have kept NaN for a task in the meantime
            return weight.add_(0.0)
    return torch.where(network.between(name, is_open), kept, 0).add_(0.0)


def unlearned_weights(network: 'Network', bundled: Container[str]) -> dict[str, Tensor]:
    """The shared parameters for a task that is not learned, by name: protected elements get no gradient. bundled: names
    of those that a bundle protects."""
    shared, kept, aliased, writable = network.shared, network.kept, network.plan.aliased, network.writable
    if network.factors:
        return {name: Conditioned.apply(p, network.factors[name], name in aliased) for name, p in shared.items()}
    protected = {name: Protected.apply(p, kept.value(name), network.marks_of(name), name in aliased, id(p) in writable)
                 for name, p in shared.items() if name in network.marks and name not in bundled}  # fmt: skip
    return shared | protected

"""Units and weights that tasks use (section 4.4): a unit is used if its attention is above 1/2, a weight if the units
that it connects are."""

import itertools

import torch
from torch import Tensor

from hat.network import Network

Units = list[Tensor]  # (N,) bool for each gate


def active(masks: list[Tensor]) -> Units:
    """The used units of each gate, a list of (N,) bool on the CPU, from masks, a list of (N,)."""
    return [(a > 0.5).cpu() for a in masks]


def union(units: Units, others: Units) -> Units:
    """Units that at least one of two tasks uses."""
    return [u | v for u, v in zip(units, others, strict=True)]


def intersection(units: Units, others: Units) -> Units:
    """Units that both of two tasks use."""
    return [u & v for u, v in zip(units, others, strict=True)]


def count_weights(network: Network, units: Units) -> list[int]:
    """How many shared weights connect these units, a number for each of network.plan.layers.

    This is the sum of Eq. 2's min(a_out, a_in) for binary masks. The matrix is not made where a_out depends on rows
    alone and a_in on columns.
    """
    plan, sizes = network.plan, {name: p.shape for name, p in network.shared.items()}
    counts = [0] * len(plan.layers)
    is_used = plan.units.attention([u.float().to(network.fingerprints.device) for u in units])
    for name, (layer, uses) in plan.shared.items():
        if layer is None:
            continue
        if len(uses) > 1:
            counts[layer] += int(network.between(name, is_used > 0.5).expand(sizes[name]).sum())
            continue
        used = [is_used[u].cpu().double() for u in uses[0] if u is not None]
        if len(used) == 2 and all(1 in pair for pair in zip(used[0].shape, used[1].shape, strict=True)):
            share = used[0].mean() * used[1].mean()
        else:
            share = (used[0] if len(used) == 1 else used[0] * used[1]).mean()
        counts[layer] += round(float(share) * sizes[name].numel())
    return counts


def whole(network: Network) -> dict[str, int]:
    """Sizes, by name, of the shared parameters that belong to no layer, as those of an LSTM with projection, or that
    are ignored: every task uses all of them."""
    return {name: p.numel() for name, p in network.shared.items() if network.plan.shared[name].layer is None}


def usage(network: Network, tasks: list[Units]) -> dict[str, list]:
    """Weight counts per task and layer.

    Args:
        network: a hat.Network.
        tasks: the used units of each task (active()), in the order of learning.

    Returns:
        weights: of each layer, [layer].
        active: used by each task, [task][layer].
        capacity: between units that any of the tasks up to this one uses, [task][layer]: what Eq. 2 protects (Fig. 5).
        reuse: used by both of two tasks, [task][task], all layers together; by one task on the diagonal (Fig. 6).
    """
    so_far = list(itertools.accumulate(tasks, union))
    return {
        'weights': count_weights(network, [torch.ones_like(u) for u in tasks[0]]),
        'active': [count_weights(network, units) for units in tasks],
        'capacity': [count_weights(network, units) for units in so_far],
        'reuse': [[sum(count_weights(network, intersection(units, others))) for others in tasks] for units in tasks],
    }


def used(network: Network) -> dict[int, dict[str, dict[str, int]]]:
    """Units and weights that each learned task uses: {task: {layer: {'units': n, 'of': N, 'weights': n}}}; for a layer
    without a gate, and for a parameter that belongs to no layer, 'weights' alone. Frozen weights do not count."""
    report: dict[int, dict[str, dict[str, int]]] = {}
    for task, learned in enumerate(network.learned.tolist()):
        if learned:
            units = active(network.masks(task))
            gates = dict(zip(network.plan.gates, units, strict=True))
            report[task] = {
                layer: ({'units': int(gates[layer].sum()), 'of': len(gates[layer])} if layer in gates else {})
                | {'weights': n}
                for layer, n in zip(network.plan.layers, count_weights(network, units), strict=True)
            } | {name: {'weights': n} for name, n in whole(network).items()}
    return report

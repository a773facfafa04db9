"""What is added to the loss, so that a task leaves units free: functions regularizer(masks, cumulative, n_tasks).

masks: of the task, (N,) for each layer; cumulative: those of all learned tasks together, or None; the result: a scalar.
The paper's, and those of HAT-CL (Duan 2023, arXiv 2307.09653).
"""

import torch
from torch import Tensor

from hat.functional import regularization


def by_network(masks: list[Tensor], cumulative: list[Tensor] | None, n_tasks: int) -> Tensor:
    """Eq. 5, over all layers together (Serra et al. 2018)."""
    return regularization(masks, cumulative)


def by_layer(masks: list[Tensor], cumulative: list[Tensor] | None, n_tasks: int) -> Tensor:
    """Mean of each layer's own Eq. 5: a small layer counts as much as a large one (HAT-CL)."""
    return torch.stack(_each(masks, cumulative)).mean()


def quota(masks: list[Tensor], cumulative: list[Tensor] | None, n_tasks: int) -> Tensor:
    """As by_layer, but attention to N / n_tasks of each layer's N units is not penalized (HAT-CL)."""
    layers = _each(masks, cumulative)
    free = [torch.ones_like(a) if cumulative is None else 1 - cumulative[l] for l, a in enumerate(masks)]
    forgiven = [len(a) / n_tasks / f.sum().clamp_min(1e-9) for a, f in zip(masks, free, strict=True)]
    return torch.stack([(r - f).clamp_min(0) for r, f in zip(layers, forgiven, strict=True)]).mean()


def _each(masks: list[Tensor], cumulative: list[Tensor] | None) -> list[Tensor]:
    return [regularization([a], cumulative and [cumulative[l]]) for l, a in enumerate(masks)]


REGULARIZERS = {'network': by_network, 'layer': by_layer, 'quota': quota}

"""Annealing of the gates' scale s: functions schedule(progress, s_max) of the position in the epoch, 0 to 1.

`progress` is a number or a scalar tensor, and so is the result. From the paper and from HAT-CL (Duan 2023,
arXiv 2307.09653).
"""

import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor


def linear(progress: float | Tensor, s_max: float) -> float | Tensor:
    """Eq. 3: s at `progress` = (b - 1) / (B - 1) of an epoch: 1/s_max at 0, exactly s_max at 1."""
    return (1 - progress) / s_max + progress * s_max


def cosine(progress: float | Tensor, s_max: float) -> float | Tensor:
    """s falls from s_max to 1/s_max in the first half of an epoch and rises again in the second: weights learn first,
    then masks, then weights under almost binary masks. From HAT-CL, where s does not fall below 1."""
    angle = 2 * math.pi * progress
    cos = torch.cos(angle) if isinstance(angle, Tensor) else math.cos(angle)
    return (s_max + 1 / s_max) / 2 + (s_max - 1 / s_max) / 2 * cos


def exponential(progress: float | Tensor, s_max: float, above_one: float = 0.8) -> float | Tensor:
    """s grows by a constant factor with each batch, up to s_max; it is above 1 in the last part `above_one` of an epoch
    (HAT-CL)."""
    return s_max ** (1 - (1 - progress) / above_one)


def constant(progress: float | Tensor, s_max: float) -> float:
    """s_max throughout, without annealing: the comparison of section 2.5 (Serra et al. 2018)."""
    return s_max


SCHEDULES = {'linear': linear, 'cosine': cosine, 'exponential': exponential, 'constant': constant}


class Batches(Protocol):
    """The batches of an epoch, such as a DataLoader or a list: has a length and can be iterated."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator: ...


def annealed(batches: Batches) -> Iterator[tuple[Any, float]]:
    """Iterate over the batches of an epoch: (batch, progress), with progress = (b - 1) / (B - 1) for batch b of B.

    A single batch has progress 1.

    Args:
        batches: a DataLoader, a list, or anything else with a length.

    Example:
        for (x, y), progress in hat.annealed(loader):
            loss = F.cross_entropy(model(x, task=0, progress=progress), y) + 0.75 * model.regularization()
    """
    last = len(batches) - 1
    for b, batch in enumerate(batches):
        yield batch, min(b / last, 1.0) if last > 0 else 1.0

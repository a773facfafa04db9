"""How the scale s of the gates is annealed: functions schedule(progress, s_max), of the position in the epoch, 0 to 1.

`progress` is a number or a scalar tensor, and so is what they return. The paper's, and those of HAT-CL (Duan 2023,
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
    """s from s_max down to 1/s_max, at half of an epoch, and up again (HAT-CL): weights learn first, then masks, then
    weights under almost binary masks."""
    angle = 2 * math.pi * progress
    cos = torch.cos(angle) if isinstance(angle, Tensor) else math.cos(angle)
    return (s_max + 1 / s_max) / 2 + (s_max - 1 / s_max) / 2 * cos


def exponential(progress: float | Tensor, s_max: float, above_one: float = 0.8) -> float | Tensor:
    """s grows to s_max by a constant factor a batch; in the last `above_one` of an epoch it is above 1 (HAT-CL)."""
    return s_max ** (1 - (1 - progress) / above_one)


def constant(progress: float | Tensor, s_max: float) -> float:
    """s_max all the time: what annealing is compared with (Serra et al. 2018, section 2.4)."""
    return s_max


SCHEDULES = {'linear': linear, 'cosine': cosine, 'exponential': exponential, 'constant': constant}


class Batches(Protocol):
    """The batches of an epoch: they can be counted and gone through."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator: ...


def annealed(batches: Batches) -> Iterator[tuple[Any, float]]:
    """An epoch's batches, each with its `progress`, (b - 1) / (B - 1) for batch b of B; 1 for a single one.

    Args:
        batches: something with a length, such as a DataLoader.

    Example:
        for (x, y), progress in hat.annealed(loader):
            loss = F.cross_entropy(model(x, task=0, progress=progress), y) + 0.75 * model.regularization()
    """
    last = len(batches) - 1
    for b, batch in enumerate(batches):
        yield batch, min(b / last, 1.0) if last > 0 else 1.0

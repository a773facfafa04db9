"""What is to be known of a network to put gates into it; reader.py finds it out."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from hat.units import Units


class CannotConvert(ValueError):
    """HAT cannot be put into a network; the message names the operation."""


class Shared(NamedTuple):
    """A parameter that tasks share: its layer, and the numbers of the units that it connects, in shapes that broadcast
    to its own. `reads` is None for a bias."""

    layer: int
    writes: torch.Tensor
    reads: torch.Tensor | None


class Gating(NamedTuple):
    """What something is multiplied by: the mask of a gate, or, if that is None, the attention to unit numbers."""

    gate: int | None
    units: torch.Tensor  # in a shape that broadcasts


@dataclass
class Plan:
    """Parameters and buffers are known by their names."""

    inputs: tuple  # zeros of the form that the network takes
    layers: list = field(default_factory=list)  # names of the layers that tasks share, in the order of use
    gates: list = field(default_factory=list)  # names of those that have a gate
    units: Units = None
    shared: dict = field(default_factory=dict)  # parameter -> Shared
    gating: dict = field(default_factory=dict)  # parameter -> Gating
    outputs: dict = field(default_factory=dict)  # nn.Linear of which the output is gated, not the weight -> Gating
    own: list = field(default_factory=list)  # parameters and buffers of which each task has its own
    heads: list = field(default_factory=list)  # (weight, bias or None, dimension of its units) of the last layers, of
    # which each task has one
    unused: list = field(default_factory=list)  # trainable parameters on which the output does not depend

"""What is to be known of a network to put gates into it; hat.reader finds it out."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from hat.unitsets import UnitSets

Inputs = tuple[tuple, dict]  # what a network is run on, positional and by keyword


class Shared(NamedTuple):
    """A parameter that tasks share: its layer, and the ids of the units that it connects, in shapes that broadcast to
    its own. `in_units` is None for a bias."""

    layer: int
    out_units: Tensor
    in_units: Tensor | None


class Gating(NamedTuple):
    """What something is multiplied by: the mask of a gate, or, if that is None, the attention to the ids of units."""

    gate: int | None
    units: Tensor  # in a shape that broadcasts


class OutputGate(NamedTuple):
    """The gate that the output of a layer is multiplied with, and its units, (N,)."""

    gate: int
    units: Tensor


class Head(NamedTuple):
    """A last layer: names of its weight and bias, and the dimension of its units in the weight."""

    weight: str
    bias: str | None
    axis: int


@dataclass
class Plan:
    """Parameters and buffers are known by their names."""

    inputs: Inputs  # what the network was run on
    layers: list[str] = field(default_factory=list)  # names of the layers that tasks share, in the order of use
    gates: list[str] = field(default_factory=list)  # names of those that have a gate
    units: UnitSets = field(default_factory=lambda: UnitSets([]))
    shared: dict[str, Shared] = field(default_factory=dict)
    gating: dict[str, Gating] = field(default_factory=dict)  # parameters that are multiplied
    outputs: dict[str, OutputGate] = field(default_factory=dict)  # nn.Linear of which the output is, not the weight
    task_specific: list[str] = field(default_factory=list)  # parameters and buffers of which each task has its own
    heads: list[Head] = field(default_factory=list)  # of the last layers, of which each task has one
    unused: list[str] = field(default_factory=list)  # trainable parameters on which the output does not depend
    branches: list[str] = field(default_factory=list)  # where Python looks at values of the input
    operations: list[str] = field(default_factory=list)  # what the network does, in order

    def to(self, device: torch.device) -> None:
        """Move what is looked up for every batch."""
        self.units.to(device)
        self.shared = {name: Shared(layer, out.to(device), None if in_ is None else in_.to(device))
                       for name, (layer, out, in_) in self.shared.items()}  # fmt: skip
        self.gating = {name: Gating(gate, units.to(device)) for name, (gate, units) in self.gating.items()}
        self.outputs = {name: OutputGate(gate, units.to(device)) for name, (gate, units) in self.outputs.items()}

"""The plan of a converted network: where its gates are and which units each parameter connects. Made by hat.reader."""

import reprlib
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from hat.unitsets import UnitSets

Inputs = tuple[tuple, dict]  # what a network is run on, positional and by keyword


class Shared(NamedTuple):
    """A parameter that tasks share: the index of its layer, and the ids of the units that it connects, in shapes that
    broadcast to its own. in_units is None for a bias."""

    layer: int
    out_units: Tensor
    in_units: Tensor | None


class Gating(NamedTuple):
    """The factor of a parameter: the mask of a gate, or, if gate is None, the attention to the ids in `units`."""

    gate: int | None
    units: Tensor  # in a shape that broadcasts to the parameter's


class OutputGate(NamedTuple):
    """The gate whose mask multiplies the output of a layer, and the ids of its units, (N,)."""

    gate: int
    units: Tensor


class Head(NamedTuple):
    """An output layer: names of its weight and bias, and the dimension of the weight that counts its units."""

    weight: str
    bias: str | None
    axis: int


@dataclass
class Plan:
    """Parameters and buffers are identified by name."""

    inputs: Inputs  # example inputs, on which the network was run
    layers: list[str] = field(default_factory=list)  # names of the layers with shared weights, in the order of use
    gates: list[str] = field(default_factory=list)  # names of the layers that have a gate
    units: UnitSets = field(default_factory=lambda: UnitSets([]))
    shared: dict[str, Shared] = field(default_factory=dict)
    gating: dict[str, Gating] = field(default_factory=dict)  # parameters that a mask multiplies
    outputs: dict[str, OutputGate] = field(default_factory=dict)  # nn.Linear modules whose output a mask multiplies
    task_specific: list[str] = field(default_factory=list)  # parameters and buffers that each task has a copy of
    heads: list[Head] = field(default_factory=list)  # output layers; each task has its own
    unused: list[str] = field(default_factory=list)  # trainable parameters that do not affect the output
    branches: list[str] = field(default_factory=list)  # source lines where Python reads values of tensors
    operations: list[str] = field(default_factory=list)  # names of the operations that the network runs, in order

    def __repr__(self) -> str:
        short = reprlib.Repr()  # the first six names
        short.maxstring = 100
        gates, heads = short.repr(self.gates), short.repr([head.weight for head in self.heads])
        return f'Plan({len(self.gates)} gates: {gates}, {len(self.shared)} shared parameters, heads: {heads})'

    def to(self, device: torch.device) -> None:
        """Move the index tensors that every batch uses."""
        self.units.to(device)
        self.shared = {name: Shared(layer, out.to(device), None if in_ is None else in_.to(device))
                       for name, (layer, out, in_) in self.shared.items()}  # fmt: skip
        self.gating = {name: Gating(gate, units.to(device)) for name, (gate, units) in self.gating.items()}
        self.outputs = {name: OutputGate(gate, units.to(device)) for name, (gate, units) in self.outputs.items()}

"""The plan of a converted network: where its gates are and which units each parameter connects. Made by hat.reader."""

import reprlib
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from hat.unitsets import UnitSets

Inputs = tuple[tuple, dict]  # what a network is run on, positional and by keyword


class Use(NamedTuple):
    """A way in which layers use a parameter: the ids of the units that it connects, in shapes that broadcast to its
    own. ins is None for a bias."""

    outs: Tensor
    ins: Tensor | None


class Shared(NamedTuple):
    """A parameter that tasks share: the index of its layer, if it has one, and its uses."""

    layer: int | None
    uses: tuple[Use, ...]


class Gating(NamedTuple):
    """The factor of a parameter: the mask of a gate, or, if gate is None, the attention to the ids in `units`."""

    gate: int | None
    units: Tensor  # in a shape that broadcasts to the parameter's


class OutputGate(NamedTuple):
    """The gates whose masks multiply the output of a module.

    gates: of a recurrent module one for each layer and direction, or None; else one.
    folded: whether plan.folded has the same factors for the parameters of the module.
    n_dims: how many dimensions of the output follow that of the units.
    directions: of a recurrent module (hat.recurrent.masked); None for others.
    """

    gates: list[int | None]
    folded: bool = False
    n_dims: int = 0
    directions: int | None = None


class Head(NamedTuple):
    """An output layer: the name of its weight, and the dimension that counts its units (None: several do); the same of
    its other parameters."""

    weight: str
    axis: int | None
    others: tuple[tuple[str, int | None], ...] = ()

    @property
    def tensors(self) -> tuple[tuple[str, int | None], ...]:
        return (self.weight, self.axis), *self.others


@dataclass
class Plan:
    """Parameters and buffers are identified by name."""

    inputs: Inputs  # example inputs, on which the network was run
    layers: list[str] = field(default_factory=list)  # names of the layers with shared weights, in the order of use
    gates: list[str] = field(default_factory=list)  # names of the layers that have a gate
    ungated: list[str] = field(default_factory=list)  # those that should have one, but can have none
    units: UnitSets = field(default_factory=lambda: UnitSets([]))
    shared: dict[str, Shared] = field(default_factory=dict)
    gating: dict[str, Gating] = field(default_factory=dict)  # parameters that a mask multiplies
    outputs: dict[str, OutputGate] = field(default_factory=dict)  # modules whose output masks multiply
    folded: dict[str, Gating] = field(default_factory=dict)  # the same as factors of parameters, where there are such
    tied: set[str] = field(default_factory=set)  # shared parameters with several uses
    aliased: set[str] = field(default_factory=set)  # shared parameters whose gradient may be another tensor's, too
    written: set[str] = field(default_factory=set)  # parameters that forward() changes
    changed: list[str] = field(default_factory=list)  # parameters that forward() changes in training alone
    fixed: dict[str, str] = field(default_factory=dict)  # parameters that every task uses, and why
    frozen: list[str] = field(default_factory=list)  # parameters that are not trained: tasks share them
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

    def give_each_task(self, names: list[str]) -> None:
        """forward() changes these parameters in training, as it does buffers: each task has its own."""
        self.changed = names
        for name in names:
            self.fixed.pop(name, None)
            if self.shared.pop(name, None):
                self.task_specific.append(name)

    def freeze(self, names: set[str]) -> None:
        """These parameters are not trained: no task can change them."""
        own = {name for head in self.heads for name, _ in head.tensors} | {*self.changed}
        self.frozen = [name for name in (*self.shared, *self.task_specific) if name in names - own]
        self.shared = {name: shared for name, shared in self.shared.items() if name not in self.frozen}
        self.task_specific = [name for name in self.task_specific if name not in self.frozen]

    def to(self, device: torch.device) -> None:
        """Move the index tensors that every batch uses."""
        self.units.to(device)
        self.shared = {name: Shared(layer, tuple(
            Use(outs.to(device), None if ins is None else ins.to(device)) for outs, ins in uses))
            for name, (layer, uses) in self.shared.items()}  # fmt: skip
        for gating in self.gating, self.folded:
            gating |= {name: Gating(gate, units.to(device)) for name, (gate, units) in gating.items()}

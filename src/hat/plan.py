"""What is to be known of a network to put gates into it; hat.reader finds it out."""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from hat.unitsets import UnitSets


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


@dataclass
class Plan:
    """Parameters and buffers are known by their names."""

    inputs: tuple[tuple, dict]  # what the network was run on, positional and by keyword
    layers: list[str] = field(default_factory=list)  # names of the layers that tasks share, in the order of use
    gates: list[str] = field(default_factory=list)  # names of those that have a gate
    units: UnitSets = field(default_factory=lambda: UnitSets([]))
    shared: dict[str, Shared] = field(default_factory=dict)
    gating: dict[str, Gating] = field(default_factory=dict)  # parameters that are multiplied
    outputs: dict[str, Gating] = field(default_factory=dict)  # nn.Linear of which the output is, not the weight
    task_specific: list[str] = field(default_factory=list)  # parameters and buffers of which each task has its own
    heads: list[tuple] = field(
        default_factory=list
    )  # (weight, bias or None, dimension of its units) of last layers, of
    # which each task has one
    unused: list[str] = field(default_factory=list)  # trainable parameters on which the output does not depend
    branches: list[str] = field(default_factory=list)  # where Python looks at values of the input
    operations: list[str] = field(default_factory=list)  # what the network does, in order

    def to(self, device) -> None:
        """Move what is looked up for every batch."""
        self.units.to(device)
        self.shared = {name: Shared(layer, out.to(device), None if in_ is None else in_.to(device))
                       for name, (layer, out, in_) in self.shared.items()}  # fmt: skip
        for gating in self.gating, self.outputs:
            gating.update({name: Gating(gate, units.to(device)) for name, (gate, units) in gating.items()})

"""Which units of a network can only be removed together, and which are needed."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._pytree import tree_map_only

from hat import rules
from hat.graph import item, overwritten
from hat.layers import CONVOLUTIONS, along, arguments, aten
from hat.names import get_tensor
from hat.plan import Inputs
from hat.reader import Reader
from hat.unitsets import ALWAYS_USED
from hat.values import always_used

LAYERS = CONVOLUTIONS | {aten.linear.default}
PINNED = torch.tensor(ALWAYS_USED)  # units that are coupled with this id cannot be removed
BASE = 2**31  # a pair of ids is stored as one number, left * BASE + right


class Structure:
    """Coupled units of a network. Units have the ids of the plan; ALWAYS_USED stands for all that cannot be removed.

    Attributes:
        layers: name of a weight -> units that it reads, (N_in,); units of the layer, (N_out,); whether it is depthwise.
        vectors: name of a parameter or buffer with an element for each unit -> these units.
        pairs: coupled pairs of ids.
        values: for each node the units of its output, in its shape; None for parameters and constants.
    """

    def __init__(self, net: nn.Module, inputs: Inputs):
        reader = self.reader = Reader(net, inputs)
        self.net, self.plan = net, reader.plan
        self.layers: dict[str, tuple[Tensor, Tensor, bool]] = {}
        self.vectors: dict[str, Tensor] = {}
        self.pairs = [PINNED.view(1)]
        self.values: dict[Node, Any] = {}
        self.n_units = 2 + sum(map(len, self.plan.units.of_gate))
        for node in reader.nodes:
            self.values[node] = self.read(node)
        self.pin(*[self.values[node] for node in reader.outputs if self.values[node] is not None])

    def read(self, node: Node) -> Any:
        """The units of a node's output, in its shape; None for parameters and constants."""
        if node.op == 'placeholder':
            return always_used(node)
        inputs = [self.values[n] for n in node.all_input_nodes if self.values[n] is not None]
        if not inputs:
            return None
        if node.target is overwritten and not node.users:
            return always_used(node)
        if node.target is item:
            return inputs[0][node.args[1]]
        if node in self.reader.calls:
            return self.layer(node, inputs)
        if node.target in (aten.batch_norm.default, aten.instance_norm.default):
            return self.norm(node)
        if isinstance(node.target, torch._ops.OpOverload) and isinstance(node.meta.get('shape'), torch.Size):
            if rules.is_pointwise(node.target):
                return self.elementwise(node, inputs)
            if self.narrow(node, node.target, inputs):
                return self.moved(node, node.target, inputs)
        self.pin(*inputs)
        return always_used(node)

    def narrow(self, node: Node, operation: torch._ops.OpOverload, inputs: list[Tensor]) -> bool:
        """Whether an operation still works, with the same arguments, when some units are removed."""
        name = rules.name_of(operation)
        if name in ('view', 'reshape'):
            shape = node.args[1]
            return isinstance(shape, (list, tuple)) and [*shape][1:] == [-1]
        dims = [arguments(node)['dim']] if name == 'slice' else []
        if name in ('pad', 'constant_pad_nd'):
            dims = list(range(-len(arguments(node)['pad']) // 2, 0))
        if dims:  # cropped dimensions: their values all have the same units
            return all((inputs[0] == inputs[0].narrow(d, 0, 1)).all() for d in dims)
        rule = rules.rule_of(operation)
        return rule is not None and rule.narrow and operation is not aten.squeeze.default

    def layer(self, node: Node, inputs: list[Tensor]) -> Tensor:
        """The units of a layer can be removed if it is an nn.Linear or a convolution with a weight of its own."""
        named, call = arguments(node), self.reader.calls[node]
        if call is None or (gate := call[2].gate) is None:
            self.pin(*inputs)
            return always_used(node)
        outs, name, output = self.plan.units.of_gate[gate], call[2].kind.names[0], call[0].output
        if node.target not in LAYERS or named['weight'].target != name or name in self.plan.tied:
            self.pin(outs, *inputs)
            return always_used(node)
        (x,), bias = inputs, named['bias']
        if node.target is aten.linear.default:
            ins, depthwise = self.units_at(x, -1), False
        else:
            ins, groups = self.units_at(x, output.index('n')), named['groups']
            depthwise = groups > 1 and groups == len(ins) == len(outs)
            if depthwise:
                self.couple(ins, outs)
            elif groups > 1:
                self.pin(ins, outs)
                return always_used(node)
        if not isinstance(self.net.get_submodule(name.rpartition('.')[0]), (nn.Linear, nn.modules.conv._ConvNd)):
            self.pin(ins, outs)  # such a module may store its size in attributes of its own
        if name in self.layers:
            self.couple(ins, self.layers[name][0])
        self.layers[name] = ins, outs, depthwise
        if bias is not None and bias.target in self.plan.shared:
            self.vectors[bias.target] = outs
        elif bias is not None:
            self.pin(outs)
        shape = node.meta['shape']
        if 0 in shape:
            self.pin(outs)
        return along(output.index('n'), len(shape), outs).expand(shape)

    def norm(self, node: Node) -> Tensor:
        named = arguments(node)
        x = self.values[named['input']]
        units = self.units_at(x, 1)
        for part in (named[key] for key in ('weight', 'bias', 'running_mean', 'running_var')):
            if part is not None and part.op == 'get_attr' and part.target:
                self.couple(units, self.vectors.setdefault(part.target, units))
            elif part is not None:
                self.pin(units)
        return x

    def elementwise(self, node: Node, inputs: list[Tensor]) -> Tensor:
        units = torch.broadcast_tensors(*inputs)
        for others in units[1:]:
            self.couple(units[0], others)
        if any(self.values[n] is None and n.meta['shape'].numel() > 1 for n in node.all_input_nodes):
            self.pin(*inputs)
        return units[0].expand(node.meta['shape'])

    def moved(self, node: Node, operation: torch._ops.OpOverload, inputs: list[Tensor]) -> Tensor:
        if any(self.values[n] is None for n in node.all_input_nodes):
            self.pin(*inputs)
            return always_used(node)
        ids = tree_map_only(Node, self.values.get, arguments(node))
        units = rules.apply(operation, self.plan.units, ids, {}, [node.meta['shape']])[0]
        units = torch.where(units < self.n_units, units, ALWAYS_USED)
        left = torch.ones(self.n_units, dtype=torch.bool)
        left[units.reshape(-1)] = False
        for part in inputs:  # units that are not in the output
            self.pin(part[left[part]])
        return units

    def units_at(self, units: Tensor, dim: int) -> Tensor:
        """The units at each index of a dimension, (n,). Those at an index are coupled: a weight reads them all."""
        if 0 in units.shape:  # as of an empty batch, whose units layer() pins
            return PINNED.expand(units.shape[dim])
        rows = units.movedim(dim, -1).reshape(-1, units.shape[dim])
        self.couple(rows[0], rows)
        return rows[0]

    def pin(self, *units: Any) -> None:
        """These units cannot be removed."""
        for parts in units:
            for part in parts if isinstance(parts, list) else [parts]:
                self.couple(part, PINNED)

    def couple(self, units: Tensor, others: Tensor) -> None:
        """Units at the same place of two tensors can only be removed together."""
        units, others = torch.broadcast_tensors(units, others)
        self.pairs.append(torch.unique(units * BASE + others))

    @torch.no_grad()
    def kept_units(self) -> Tensor:
        """Which units must stay, (units,) bool: nonzero units that a layer reads, and units coupled with them."""
        plan, pairs = self.plan, torch.cat(self.pairs).unique()
        left, right = pairs // BASE, pairs % BASE
        group, last = torch.arange(self.n_units), torch.full((self.n_units,), -1)
        while not torch.equal(group, last):  # the smallest id of the coupled ones
            low, last = torch.minimum(group[left], group[right]), group
            group = group.scatter_reduce(0, left, low, 'amin').scatter_reduce(0, right, low, 'amin')
            group = group[group]
        attention = plan.units.attention([on.float() for on in self.open_units()])
        needed = torch.zeros(self.n_units, dtype=torch.bool)
        needed[group[ALWAYS_USED]] = True
        for name, (ins, _, depthwise) in self.layers.items():
            seen = (attention[plan.shared[name].uses[0].ins] > 0).flatten(1)
            seen = (seen.flatten() if depthwise else seen.any(0)).expand(len(ins))
            needed[group[ins[seen]]] = True
        for _, outs, _ in self.layers.values():
            if not needed[group[outs]].any():  # a layer needs at least one unit
                needed[group[outs[0]]] = True
        return needed[group]

    def open_units(self) -> list[Tensor]:
        """Which units of each gate are not always zero: a list of (N,) bool."""
        plan = self.plan
        on: list[list[Tensor]] = [[] for _ in plan.gates]
        scales = [(name, gate, units) for name, (gate, units) in plan.gating.items() if gate is not None]
        scales += [(name, gate, units) for name, (gate, units) in plan.folded.items() if gate is not None]
        for name, gate, units in scales:
            others = [d for d, n in enumerate(units.shape) if n == 1]
            nonzero = get_tensor(self.net, name) != 0
            on[gate].append((nonzero.any(dim=others) if others else nonzero).reshape(-1))
        return [
            torch.stack(parts).any(0).cpu() if parts else torch.ones(len(units), dtype=torch.bool)
            for parts, units in zip(on, plan.units.of_gate, strict=True)
        ]

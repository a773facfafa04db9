"""Makes the plan of a network: which weights tasks share, which units each connects, and what is task-specific.

The reader goes through the network's graph, operation by operation, after hat.finder has found the layers:

- A layer (linear, convolution, embedding, product) multiplies its inputs with a weight. Its outputs are the units of a
  gate.
- A norm does not map zero to zero. Its affine parameters and statistics are task-specific; the affine parameters are
  multiplied by the attention to the units that they normalize. A batch norm right after a layer takes over its gate.
- For all other operations hat.rules says which units make the output zero.
- A parameter that is used as data, and every buffer, is task-specific.
- A parameter that is used in another way is used by every task.

A closed unit is zero whatever the weights before it are, so no task can depend on them. A layer that reads a unit which
is zero for a task need not protect the weights from it: this is what the ids are for.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._pytree import tree_leaves, tree_map_only

from hat import layers, recurrent, rules
from hat.errors import CannotConvert
from hat.finder import Finder, Group
from hat.graph import SEEN, item, record
from hat.names import is_wide
from hat.plan import Gating, Head, Inputs, OutputGate, Plan, Shared, Use
from hat.recurrent import Recurrent
from hat.unitsets import ALWAYS_USED, ZERO, UnitSets
from hat.values import INDICES, Constant, Weight, always_used, fetched

ALWAYS = torch.tensor(ALWAYS_USED)
SAMPLES = 64  # a batch


class Reader(Finder):
    """Goes through the graph and fills `plan`.

    values: for each node what is known of its output: ids of unit sets (a LongTensor of its shape), a Weight, or a
    Constant; a list of them for several outputs.
    """

    def __init__(self, net: nn.Module, inputs: Inputs, heads: bool = False,
                 gated: Callable[[str, bool, int], bool] = lambda layer, last, n_units: True,
                 ignored: Callable[[str], bool] = lambda name: False):  # fmt: skip
        """Make the plan of a network from one forward pass.

        Args:
            net: the network.
            inputs: example inputs, positional and by keyword.
            heads: whether the output layers, which no other layer follows, are task-specific.
            gated: whether a layer has a gate: a function of its name, whether it is an output layer, and its size.
            ignored: whether a parameter is left alone, and used by every task: a function of its name.

        Raises:
            CannotConvert: the network cannot be read.
        """
        recorder = record(net, inputs)
        parameters = dict(net.named_parameters())
        super().__init__(list(recorder.graph.nodes), parameters, dict(net.named_buffers()),
                         {name for name in parameters if ignored(name)})  # fmt: skip
        self.plan = Plan(inputs, operations=recorder.operations())
        self.reads: dict[str, list[Tensor]] = {}  # of the weights of recurrent layers, as Group.reads
        self.outputs = set(recorder.outputs)
        if any(node.op == 'get_attr' and not node.target and node.meta['constant'] and node.meta['trainable']
               for node in self.outputs):  # fmt: skip
            raise CannotConvert('an output is a trainable tensor that is not a parameter of the network: register it')
        self.find_heads(heads)
        self.choose_gates(gated)
        for node in self.nodes:
            if node not in self.values:
                self.values[node] = self.read(node)
        for node in recorder.outputs:
            self.ids(node)
        self.fill_plan()

    # First: which layers have gates

    def find_heads(self, heads: bool) -> None:
        last = layers.last_layers(self.nodes, [*self.calls, *self.recurrent])
        self.last = [group for group in self.groups.values() if all(layer.node in last for layer, _ in group.calls)]
        for group in self.last if heads else ():
            names, axes = group.kind.names, group.kind.axes
            if any(self.ways[name] > 1 or name in self.ignored for name in names):
                continue  # tasks share a weight that is used in two ways
            axis = axes[0] if len(axes) == group.kind.groups == 1 else None
            tensors = [(name, axis if self.size(name, axis) == group.size else None) for name in names]
            tensors += [(name, 0 if self.size(name, 0) == group.size else None) for name in self.biases_of(group)]
            self.plan.heads.append(Head(*tensors[0], tuple(tensors[1:])))
            for name, _ in tensors:
                self.mark_task_specific(name)

    def size(self, name: str, axis: int | None) -> int:
        """The size of a parameter along a dimension; 0 if it has no such dimension."""
        shape = self.parameters[name].shape
        return shape[axis] if axis is not None and axis < len(shape) else 0

    def biases_of(self, group: Group) -> list[str]:
        return [name for name, owner in self.biases.items() if owner is group]

    def choose_gates(self, gated: Callable[[str, bool, int], bool]) -> None:
        plan, sizes = self.plan, []
        self.gate_of_norm: dict[Node, int] = {}  # node of a batch norm that takes over a gate -> the gate
        self.gate_of: dict[str, int] = {}  # name of a recurrent layer -> the gate
        making_weights = self.making_weights()

        def add(name: str, last: bool, size: int) -> int | None:
            if name in plan.layers:
                return self.gate_of.get(name)
            plan.layers.append(name)
            if not gated(name, last, size):
                return None
            plan.gates.append(name)
            sizes.append(size)
            return len(plan.gates) - 1

        for node in self.nodes:
            for one in self.recurrent.get(node, ()):
                if (gate := add(one.name, False, one.size)) is not None:
                    self.gate_of[one.name] = gate
            layer, _, group = self.calls.get(node) or (None, None, None)
            if group is None or layer is not group.calls[0][0] or group.kind.names[0] in plan.task_specific:
                continue
            group.place = self.place_of(group)
            if making_weights.isdisjoint(call.node for call, _ in group.calls) and group.place:
                group.gate = add(group.name, group in self.last, group.size)
            else:
                plan.layers.append(group.name)
                if gated(group.name, group in self.last, group.size) and group.kind.axes:
                    plan.ungated.append(group.name)
            if group.gate is not None and group.place == 'norm':
                norms = [layers.norm_after(call.node, self.is_parameter) for call, _ in group.calls]
                self.gate_of_norm |= dict.fromkeys(filter(None, norms), group.gate)
        plan.units = UnitSets(sizes)

    def place_of(self, group: Group) -> str:
        """Where a layer can have a gate: see Group."""
        kind, calls = group.kind, [layer.node for layer, _ in group.calls]
        every = torch.arange(group.size)
        in_order = all(torch.equal(numbers.reshape(-1), every) for _, numbers in group.calls)
        norms = [norm for node in calls if (norm := layers.norm_after(node, self.is_parameter))]
        scales = [layers.arguments(norm)['weight'] for norm in norms]
        if (kind.exact and in_order and len(norms) == len(calls) and self.outputs.isdisjoint(calls)
                and all(layer.is_channel for layer, _ in group.calls)
                and all(user in norms for scale in scales for user in scale.users)):  # fmt: skip
            return 'norm'
        is_output = in_order and all('module' in node.meta for node in calls)
        convolves = calls[0].target in layers.CONVOLUTIONS | layers.TRANSPOSED
        if is_output and not (convolves and self.is_alone(group) and not self.has_small_outputs(group)):
            return 'output'
        return 'weight' if kind.exact and is_wide(self.parameters[kind.names[0]].dtype) else ''

    def is_alone(self, group: Group) -> bool:
        """Whether the weight is a parameter that nothing else uses."""
        return group.kind.exact and all(self.ways[name] == 1 and name not in self.fixed for name in group.kind.names)

    def has_own_biases(self, group: Group) -> bool:
        """Whether the biases of all calls, if there are any, are parameters that nothing else uses."""
        names = [self.bias_of(layer, numbers, group.size) for layer, numbers in group.calls if layer.bias is not None]
        return all(self.biases.get(name or '') is group and name not in self.ways and name not in self.fixed
                   for name in names)  # fmt: skip

    def has_small_outputs(self, group: Group) -> bool:
        """Whether the outputs of a convolution, for SAMPLES inputs, are smaller than its weight, or single values, as
        after global pooling (squeeze and excitation): then it is faster to multiply them than weight and bias."""
        outputs = sum(layer.node.meta['shape'][1:].numel() for layer, _ in group.calls)
        weights = sum(self.parameters[name].numel() for name in group.kind.names)
        return (outputs == group.size or SAMPLES * outputs <= weights) and self.has_own_biases(group)

    def making_weights(self) -> set[Node]:
        """Nodes whose output becomes, without another layer in between, the weight of a layer."""
        made: set[Node] = set()
        for node in reversed(self.nodes):
            for user in node.users:
                weight = layers.arguments(user).get('weight') if layers.is_layer(user) else None
                if node is weight or user in made and user not in self.calls:
                    made.add(node)
        return made

    # Last: node by node

    def read(self, node: Node) -> Any:
        """What is known of a node's output."""
        if node in self.sums:
            return rules.expanded(self.values[self.sums[node]], node.meta['shape'])
        if node in self.calls:
            return self.layer(node)
        if node in self.recurrent:
            return self.recurrent_layers(node)
        if node.target is item:
            return self.values[node.all_input_nodes[0]][node.args[1]]
        if node.target in layers.NORMS:
            return self.norm(node)
        return self.other(node) if isinstance(node.target, torch._ops.OpOverload) else always_used(node)

    def layer(self, node: Node) -> Any:
        call = self.calls[node]
        if call is None:
            for n in node.all_input_nodes:
                self.ids(n)
            return always_used(node)
        (layer, numbers, group), sets = call, self.plan.units
        weight, ids = self.values[layer.weight], [self.ids(n) for n, _ in layer.inputs]
        for n in node.all_input_nodes:  # such as the weights of the rows of a bag
            if n not in (layer.weight, layer.bias):
                self.ids(n)
        if weight.names[0] in self.plan.task_specific:
            if layer.bias is not None:
                self.ids(layer.bias)
            return always_used(node)
        if weight.exact:
            shape = layer.weight.meta['shape']
            reads = layers.onto_parameter(weight, layers.inputs_of(layer, shape, ids, sets),
                                          self.parameters[weight.names[0]].shape, sets)  # fmt: skip
            group.reads.append(reads)
        shape = node.meta['shape']
        units = layers.output_units(layer, self.units(group)[numbers])
        units = units.expand(shape[0] if isinstance(shape, list) else shape)
        if layer.bias is not None and self.biases.get(self.bias_of(layer, numbers, group.size) or '') is not group:
            self.ids(layer.bias)  # another vector: the output is zero in no task, unless the gate is behind it
            units = units if group.place == 'output' else torch.full_like(units, ALWAYS_USED)
        return [units, *always_used(node)[1:]] if isinstance(shape, list) else units

    def recurrent_layers(self, node: Node) -> Any:
        """Each layer reads the one before it, and its own units, whose columns are gated; a cell reads its states."""
        if not self.recurrent[node]:
            for n in node.all_input_nodes:
                self.ids(n)
            return always_used(node)
        x, states = recurrent.inputs_and_states(node)
        sets, ids = self.plan.units, [self.ids(state) for state in states]
        cell, directions = recurrent.is_cell(node), recurrent.directions(node)
        below, outputs = sets.per_index(self.ids(x), -1), []
        for i, one in enumerate(self.recurrent[node]):
            units = self.recurrent_units(one)
            own = sets.per_index(ids[0], -1) if cell and ids else torch.full((one.size,), ZERO) if cell else units
            for weight, read in zip(one.weights, (below, own), strict=True):
                self.reads.setdefault(str(weight.target), []).append(read.view(1, -1))
            outputs.append(units)
            if not cell and i % directions == directions - 1:
                below = torch.cat(outputs[-directions:])
        if cell:
            shape = node.meta['shape']
            return [units.expand(s) for s in shape] if isinstance(shape, list) else units.expand(shape)
        every = torch.stack(outputs)
        states_ids = [every.view(len(every), *[1] * (len(s) - 2), -1).expand(s) for s in node.meta['shape'][1:]]
        return [below.expand(node.meta['shape'][0]), *states_ids]

    def norm(self, node: Node) -> Any:
        named, plan = layers.arguments(node), self.plan
        affine = [named[key] for key in ('weight', 'bias') if named.get(key) is not None]
        names = [str(part.target) for part in affine if self.is_parameter(part)]
        if not affine or all(part in self.values and not self.is_weight(part) for part in affine):
            return self.other(node)
        if named['weight'] is None:  # nothing multiplies what is normalized: it is zero in no task
            for n in node.all_input_nodes:
                self.ids(n)
            return always_used(node)
        x, gate = self.ids(named['input']), self.gate_of_norm.get(node)
        for part in affine:
            self.ids(part)
        if len(names) < len(affine):
            return always_used(node)
        by_channel = node.target in layers.CHANNEL_NORMS
        if gate is not None:
            units = plan.units.of_gate[gate]
        elif by_channel:
            units = plan.units.per_index(x, 1)
        else:
            shape = named['normalized_shape']
            units = plan.units.per_index(x.flatten(-len(shape)), -1).view(shape)
        known = next((plan.gating[name].units for name in names if name in plan.gating), units)  # of an earlier call
        units = known if known.shape == units.shape else torch.full_like(units, ALWAYS_USED)
        if not bool((units != ALWAYS_USED).any()):
            return always_used(node)
        for name in names:
            plan.gating.setdefault(name, Gating(gate, units))
        return along_channels(units, node) if by_channel else units.expand(node.meta['shape'])

    def other(self, node: Node) -> Any:
        """An operation without weights: a parameter in its arguments is data."""
        operation, named = layers.operation(node), layers.arguments(node)
        name, rule = rules.name_of(operation), rules.rule_of(operation)
        if name in SEEN:
            self.plan.branches.append(node.meta['place'])
        if rule is None:
            for n in node.all_input_nodes:
                if self.is_weight(n):
                    self.fix(self.values[n], node, 'no rule for a parameter in this operation')
        index: dict[str, Any] = {}
        for key in INDICES:
            if key in named:
                parts = [self.values[n] for n in tree_leaves(named[key]) if isinstance(n, Node)]
                if not all(isinstance(part, Constant) for part in parts):
                    rule = None  # the indices depend on the inputs
                index[key] = fetched(named.pop(key), self.values)
        ids_of_arguments = tree_map_only(Node, self.ids, named)
        if rule is None or 'shape' not in node.meta:
            return always_used(node)
        shape = node.meta['shape']
        shapes = shape if isinstance(shape, list) else [shape]
        ids = rules.apply(operation, self.plan.units, ids_of_arguments, index, shapes)
        return ids if isinstance(shape, list) else ids[0]

    # The plan, when all calls are known

    def fill_plan(self) -> None:
        plan = self.plan
        for name in self.data:
            if name in plan.task_specific:
                continue
            if name in self.ways or name in self.biases:
                self.fixed.setdefault(name, 'it is a weight and is also used as data')
            elif name not in self.fixed:
                self.mark_task_specific(name)
        uses: dict[str, list[Use]] = {}
        layer_of: dict[str, int] = {}

        def add(name: str, layer: str, outs: Tensor, ins: Tensor | None) -> None:
            if ins is not None:  # what reads nothing but zeros in the example may read more, as of a longer input
                ins = torch.where(ins == ZERO, ALWAYS, ins)
            uses.setdefault(name, []).append(Use(outs, ins))
            layer_of.setdefault(name, plan.layers.index(layer))

        for group in self.groups.values():
            if group.name in plan.layers:
                self.share(group, add)
        modules = {found[0].name: node for node, found in reversed(self.recurrent.items()) if found}
        for node in modules.values():  # the first call of each
            self.share_recurrent(node, self.recurrent[node], add)
        plan.fixed = {name: why for name, why in self.fixed.items() if name not in plan.task_specific}
        for name in plan.fixed:
            one = ALWAYS.view([1] * self.parameters[name].ndim)
            uses.setdefault(name, []).append(Use(one, one))
        plan.written = self.written
        kinds = [group.kind for group in self.groups.values()]
        exact, others = ({name for kind in kinds if kind.exact == is_exact for name in kind.names}
                         for is_exact in (True, False))  # fmt: skip
        plan.aliased = uses.keys() - exact | others | plan.fixed.keys()
        plan.tied = {name for name, several in uses.items() if len(several) > 1}
        plan.shared = {name: Shared(layer_of.get(name), tuple(several)) for name, several in uses.items()}
        for name in plan.tied & plan.gating.keys():  # a factor of the weight is one in all of its uses
            _, units = plan.gating[name]
            several = [Use(outs, plan.units.intersection(ALWAYS if ins is None else ins, units))
                       for outs, ins in uses[name]]  # fmt: skip
            plan.shared[name] = Shared(plan.shared[name].layer, tuple(several))
        plan.unused = [name for name, p in self.parameters.items() if p.requires_grad
                       and name not in plan.shared and name not in plan.task_specific]  # fmt: skip
        for name in (*self.buffers, *self.parameters):
            if name not in plan.shared:
                self.mark_task_specific(name)

    def share(self, group: Group, add: Callable) -> None:
        """Add a layer's weight and biases to the plan."""
        plan, kind, units = self.plan, group.kind, self.units(group)
        outs = {}
        for name in kind.names:
            shape = self.parameters[name].shape
            ins = ALWAYS.view([1] * len(shape))
            outs[name] = units[kind.units(shape)] if kind.axes else ins
            if kind.exact:
                ins = narrowed(functools.reduce(plan.units.union, group.reads, torch.full_like(ins, ZERO)))
            add(name, group.name, outs[name], ins)
        for name in self.biases_of(group):
            outs[name] = units.view(self.parameters[name].shape)
            add(name, group.name, outs[name], None)
        if group.gate is None or group.place == 'norm':
            return
        gating = {name: Gating(group.gate if ids.numel() == len(units) else None, ids) for name, ids in outs.items()}
        if group.place == 'output':
            folded = self.is_alone(group) and self.has_own_biases(group)
            gate = OutputGate([group.gate], folded, group.calls[0][0].dims_after_units)
            plan.outputs |= {call.node.meta['module']: gate for call, _ in group.calls}
            plan.folded |= gating if folded else {}
        for name, factor in gating.items() if group.place == 'weight' else ():
            self.multiply(name, factor)

    def multiply(self, name: str, factor: Gating) -> None:
        """Add a factor of a parameter to the plan; it may have one already."""
        if before := self.plan.gating.get(name):
            factor = Gating(None, self.plan.units.intersection(factor.units, before.units))
        self.plan.gating[name] = factor

    def share_recurrent(self, node: Node, found: list[Recurrent], add: Callable) -> None:
        """Add the weights and biases of recurrent layers to the plan."""
        plan, cell, directions = self.plan, recurrent.is_cell(node), recurrent.directions(node)
        units = [self.recurrent_units(one) for one in found]
        for i, one in enumerate(found):
            for part in (*one.weights, *one.biases):
                name = str(part.target)
                rows = units[i].repeat(self.parameters[name].shape[0] // one.size)
                if part in one.weights:
                    add(name, one.name, rows.view(-1, 1), functools.reduce(plan.units.union, self.reads[name]))
                else:
                    add(name, one.name, rows, None)
            below = range(i // directions * directions - directions, i // directions * directions)
            columns = [torch.cat([units[j] for j in below]) if i >= directions else ALWAYS, units[i]]
            for weight, ids in zip(one.weights, columns, strict=True):
                if not cell and bool((ids != ALWAYS_USED).any()):
                    self.multiply(str(weight.target), Gating(None, ids.view(1, -1)))
        gates = [self.gate_of.get(one.name) for one in found]
        if any(gate is not None for gate in gates):
            plan.outputs[node.meta['recurrent']] = OutputGate(gates, directions=0 if cell else directions)

    # Helpers

    def ids(self, node: Node) -> Any:
        """The ids of a node's output that is used as data."""
        value = self.values[node]
        if isinstance(value, Weight):
            self.use_as_data(value)
            return always_used(node)
        if isinstance(value, Constant):
            known = value.fixed and value.tensor.layout is torch.strided
            return torch.where(value.tensor == 0, ZERO, ALWAYS_USED) if known else always_used(node)
        return value if isinstance(value, Tensor) else always_used(node)

    def mark_task_specific(self, name: str | None) -> None:
        """Add a parameter or buffer to those that each task has a copy of."""
        if name is not None and name not in self.plan.task_specific:
            self.plan.task_specific.append(name)

    def units(self, group: Group) -> Tensor:
        """Ids of the units of a layer, (N,)."""
        if group.gate is not None:
            return self.plan.units.of_gate[group.gate]
        return ALWAYS.expand(group.size)

    def recurrent_units(self, one: Recurrent) -> Tensor:
        gate = self.gate_of.get(one.name)
        return ALWAYS.expand(one.size) if gate is None else self.plan.units.of_gate[gate]


def along_channels(units: Tensor, node: Node) -> Tensor:
    """The ids of a norm's output, in its shape, from those of its channels, (N,)."""
    shape = node.meta['shape']
    return layers.along(1, len(shape), units).expand(shape)


def narrowed(ids: Tensor) -> Tensor:
    """Ids with size 1 where they are the same along a dimension."""
    for d in range(ids.ndim):
        if not layers.varies(ids) & {d}:
            ids = ids.narrow(d, 0, 1)
    return ids

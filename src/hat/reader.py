"""Makes the plan of a network: which weights tasks share, which units each connects, and what is task-specific.

The reader goes through the network's graph, operation by operation, first what depends on parameters alone, then the rest:

- A layer (linear, convolution, embedding, product) multiplies its inputs with a weight. Its outputs are the units of a gate.
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
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._pytree import tree_leaves, tree_map_only

from hat import layers, recurrent, rules
from hat.computed import computed
from hat.graph import SEEN, item, overwritten, record
from hat.layers import Kind, Layer
from hat.plan import Gating, Head, Inputs, OutputGate, Plan, Shared, Use
from hat.recurrent import Recurrent
from hat.unitsets import ALWAYS_USED, ZERO, UnitSets
from hat.values import INDICES, MIXED, Constant, Weight, always_used, fetched, filled, whole, wrap

ALWAYS = torch.tensor(ALWAYS_USED)


@dataclass
class Group:
    """The calls of layers with the same parameters, used in the same way: they have one gate.

    Attributes:
        kind: how they use the parameters.
        size: number of units.
        name: of the layer.
        calls: the node of each, and the unit of each element of its output, in the dimensions of its weight.
        gate: number of its gate; None: its units are used by every task.
        place: where the gate is: 'norm', the batch norm after it; 'weight'; 'output', of modules; '': there is no place.
        reads: for each call, the ids that the elements of the parameter read, in a shape that broadcasts to its own.
    """

    kind: Kind
    size: int
    name: str = ''
    calls: list[tuple[Layer, Tensor]] = field(default_factory=list)
    gate: int | None = None
    place: str = ''
    reads: list[Tensor] = field(default_factory=list)


class Reader:
    """Goes through the graph and fills `plan`.

    values: for each node what is known of its output: ids of unit sets (a LongTensor of its shape), a Weight, or a
    Constant; a list of them for several outputs.
    """

    def __init__(self, net: nn.Module, inputs: Inputs, heads: bool = False,
                 gated: Callable[[str, bool], bool] = lambda layer, last: True,
                 ignored: Callable[[str], bool] = lambda name: False):  # fmt: skip
        """Make the plan of a network from one forward pass.

        Args:
            net: the network.
            inputs: example inputs, positional and by keyword.
            heads: whether the output layers, which no other layer follows, are task-specific.
            gated: whether a layer has a gate: a function of its name, and of whether it is an output layer.
            ignored: whether a parameter is left alone, and used by every task: a function of its name.

        Raises:
            CannotConvert: the network cannot be read.
        """
        self.parameters, self.buffers = dict(net.named_parameters()), dict(net.named_buffers())
        self.plan = Plan(inputs)
        self.values: dict[Node, Any] = {}
        self.ignored = {name for name in self.parameters if ignored(name)}
        self.fixed = dict.fromkeys(self.ignored, '')  # parameters that every task uses -> why
        self.data: dict[str, None] = {}  # parameters that are used as data, in order
        self.reads: dict[str, list[Tensor]] = {}  # of the weights of recurrent layers, as Group.reads
        self.shared_recurrent: set[str] = set()  # parameters of recurrent layers in the plan
        recorder = record(net, inputs)
        nodes = self.nodes = list(recorder.graph.nodes)
        self.outputs, self.plan.operations = recorder.outputs, recorder.operations()
        for node in nodes:
            if (value := self.static(node)) is not None:
                self.values[node] = value
        self.find_layers()
        self.find_heads(heads)
        self.choose_gates(gated)
        for node in nodes:
            if node not in self.values:
                self.values[node] = self.read(node)
        for node in self.outputs:
            self.ids(node)
        self.fill_plan()

    # First: what depends on parameters, buffers and constants alone

    def static(self, node: Node) -> Any:
        """What is known of a node's output if it depends on no input: a Weight, a Constant, a list of them; else None."""
        if node.op == 'get_attr':
            return self.stored(node)
        if node.target is overwritten:
            before = self.values.get(node.args[1])
            names = before.names if isinstance(before, Weight) else ()
            self.plan.written.update(names)
            return Weight(names, (filled(node, MIXED),)) if names else None
        if node.op != 'call_function' or any(n not in self.values for n in node.all_input_nodes):
            return None
        inputs = {n: self.values[n] for n in node.all_input_nodes}
        if node.target is item:
            return inputs[node.args[0]][node.args[1]]
        if not isinstance(node.target, torch._ops.OpOverload):
            return None
        if 'weight' in layers.arguments(node) and layers.find_layer(node, self.is_weight):
            return None  # as for learned queries
        if all(isinstance(value, Constant) for value in inputs.values()):
            if torch.Tag.nondeterministic_seeded in node.target.tags:
                return None
            constant = node.target(*fetched(node.args, inputs), **fetched(node.kwargs, inputs))
            return wrap(lambda part: Constant(part, all(value.fixed for value in inputs.values())), constant)
        for n, value in inputs.items():  # a number that scales a weight is data
            if len(inputs) > 1 and isinstance(value, Weight) and value.names and self.is_number(value):
                self.use_as_data(value)
                inputs[n] = Weight()
        return computed(node, inputs)

    def stored(self, node: Node) -> Any:
        """What is known of a parameter, a buffer, or another tensor of the network."""
        if node.target in self.parameters:
            return whole(str(node.target), node.meta['shape'])
        buffer = node.target in self.buffers
        if node.meta['trainable'] and not buffer:
            raise layers.refused(next(iter(node.users)), 'it uses a tensor that can be trained and is not a parameter of the '
                                 'network: register it, e.g. with nn.ModuleList')  # fmt: skip
        if not buffer and not node.meta['constant']:
            return None
        if (
            buffer and node.meta['dtype'].is_floating_point
        ):  # training may change its floats; integers are mostly indices
            return Weight()
        return Constant(node.meta['value'], fixed=not buffer)

    def is_weight(self, node: Node) -> bool:
        value = self.values.get(node)
        return isinstance(value, Weight) and bool(value.names)

    def is_parameter(self, node: Node | None) -> bool:
        """Whether a node gets a parameter that tasks may share."""
        return node is not None and node.op == 'get_attr' and node.target in self.parameters and (
            node.target not in self.ignored)  # fmt: skip

    def is_number(self, weight: Weight) -> bool:
        return all(self.parameters[name].numel() == 1 for name in weight.names)

    # Then: layers, and which of them have gates

    def find_layers(self) -> None:
        self.groups: dict[Kind, Group] = {}
        self.calls: dict[Node, tuple[Layer, Tensor, Group] | None] = {}  # None: a layer that is used by every task
        self.sums: dict[Node, Node] = {}  # the sum of a layer's output and its bias -> the layer
        self.recurrent: dict[Node, list[Recurrent]] = {}
        biases: dict[str, list[Group]] = {}
        for node in self.nodes:
            if node in self.values:
                continue
            if recurrent.is_recurrent(node):
                self.find_recurrent(node)
            elif layer := layers.find_layer(node, self.is_weight):
                self.find_call(layer, biases)
        self.biases = {
            name: groups[0] for name, groups in biases.items() if all(group is groups[0] for group in groups)
        }
        self.ways: dict[str, list[Group | Recurrent]] = {}  # name of a parameter -> how it is used
        for group in self.groups.values():
            for name in group.kind.names:
                self.ways.setdefault(name, []).append(group)
        self.name_groups()

    def find_call(self, layer: Layer, biases: dict[str, list[Group]]) -> None:
        weight = self.values[layer.weight]
        kind, numbers = layers.kind_of(layer, weight, self.parameters[weight.names[0]].shape)
        size = kind.n_units(self.parameters) if kind.axes else numbers.numel()
        group = self.groups.get(kind, Group(kind, size))
        if group.size != size or any(name in self.ignored for name in weight.names):
            self.calls[layer.node] = None
            self.fix(weight, layer.node, 'different units in different calls')
            return
        if 'weight' not in layers.arguments(layer.node):
            if size == 1:  # such as the weights of a sum over positions: data
                return
            if not layer.bias and (pair := layers.sum_after(layer.node, self.is_parameter)):
                self.sums[pair[0]], layer = layer.node, layer._replace(bias=pair[1])
        if not kind.axes:
            self.fix(weight, layer.node, 'each unit needs all of it')
        self.groups[kind] = group
        group.calls.append((layer, numbers))
        self.calls[layer.node] = layer, numbers, group
        if name := self.bias_of(layer, numbers, size):
            biases.setdefault(name, []).append(group)

    def bias_of(self, layer: Layer, numbers: Tensor, size: int) -> str | None:
        """The name of the parameter that is a layer's bias: it has an element for each unit. None: there is none."""
        bias = None if layer.bias is None else self.values.get(layer.bias)
        if not isinstance(bias, Weight) or not bias.exact or bias.names[0] in self.ignored:
            return None
        p = self.parameters[bias.names[0]]
        mine = torch.zeros([], dtype=torch.int64)
        for n, index in zip(p.shape, bias.index, strict=True):
            mine = mine * n + index
        units = layers.output_units(layer, numbers)
        for d, letter in enumerate(layer.output):
            units = units if letter in layer.letters else units.narrow(d, 0, 1)
        if layer.node.target in layers.CONVOLUTIONS | layers.TRANSPOSED:
            mine = layers.along(layer.output.index('n'), units.ndim, mine)
        same = p.numel() == size and mine.numel() == units.numel()
        aligned = [*units.shape[units.ndim - mine.ndim :]] == [*mine.shape]
        return bias.names[0] if same and aligned and torch.equal(mine.reshape(-1), units.reshape(-1)) else None

    def find_recurrent(self, node: Node) -> None:
        self.recurrent[node] = []
        found = recurrent.layers_of(node)
        weights = [n for n in node.all_input_nodes if self.is_weight(n)]
        if found and all(self.is_parameter(n) for one in found for n in (*one.weights, *one.biases)):
            self.recurrent[node] = found
        else:
            for n in weights:
                self.fix(self.values[n], node, 'not the call of a recurrent module without projection')

    def name_groups(self) -> None:
        """A name for each layer: that of its weight, without '.weight' where that is unique; for a further use of a weight
        that of the module that calls it."""
        short = {name: layers.short_name(name) for name in {group.kind.names[0] for group in self.groups.values()}}
        every = list(short.values())
        taken: set[str] = set()
        for group in self.groups.values():
            name = group.kind.names[0]
            path = group.calls[0][0].node.meta['path']
            names = short[name] if every.count(short[name]) == 1 else name, path, f'{name} {group.kind.axes}'
            group.name = next(name for name in names if name and name not in taken)
            taken.add(group.name)

    def find_heads(self, heads: bool) -> None:
        last = layers.last_layers(self.nodes, [*self.calls, *self.recurrent])
        self.last = [group for group in self.groups.values() if all(layer.node in last for layer, _ in group.calls)]
        for group in self.last if heads else ():
            names, axis = (
                group.kind.names,
                group.kind.axes[0] if len(group.kind.axes) == group.kind.groups == 1 else None,
            )
            if any(len(self.ways[name]) > 1 or name in self.ignored for name in names):
                continue  # tasks share a weight that is used in two ways
            sizes = [
                (name, axis if axis is not None and self.parameters[name].shape[axis:][:1] == (group.size,) else None)
                for name in names
            ]
            biases = [
                (name, 0 if self.parameters[name].ndim == 1 else None)
                for name, owner in self.biases.items()
                if owner is group
            ]
            self.plan.heads.append(Head(*sizes[0], (*sizes[1:], *biases)))
            for name, _ in self.plan.heads[-1].tensors:
                self.mark_task_specific(name)

    def choose_gates(self, gated: Callable[[str, bool], bool]) -> None:
        plan, sizes = self.plan, []
        self.gate_of_norm: dict[Node, int] = {}  # node of a batch norm that takes over a gate -> the gate
        self.gate_of: dict[str, int] = {}  # name of a recurrent layer -> the gate
        making_weights = self.making_weights()

        def add(name: str, last: bool, size: int) -> int | None:
            if name in plan.layers:
                return self.gate_of.get(name)
            plan.layers.append(name)
            if not gated(name, last):
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
            if group.gate is not None and group.place == 'norm':
                self.gate_of_norm |= {
                    layers.norm_after(call.node, self.is_parameter): group.gate for call, _ in group.calls
                }
        plan.units = UnitSets(sizes)

    def place_of(self, group: Group) -> str:
        """Where a layer can have a gate: see Group."""
        kind, calls = group.kind, [layer.node for layer, _ in group.calls]
        norms = [norm for node in calls if (norm := layers.norm_after(node, self.is_parameter))]
        if len(norms) == len(calls) and all(user in norms for norm in norms for user in norm.args[1].users):
            return 'norm'
        every = torch.arange(group.size)
        modules = all(
            'module' in layer.node.meta and torch.equal(numbers.reshape(-1), every) for layer, numbers in group.calls
        )
        alone = kind.exact and all(len(self.ways[name]) == 1 and name not in self.fixed for name in kind.names)
        if modules and not (alone and calls[0].target in layers.CONVOLUTIONS | layers.TRANSPOSED):
            return 'output'
        return 'weight' if kind.exact else ''

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
        if weight.names[0] in self.plan.task_specific:
            if layer.bias is not None:
                self.ids(layer.bias)
            return always_used(node)
        if weight.exact:
            shape = layer.weight.meta['shape']
            reads = layers.onto_parameter(weight, layers.inputs_of(layer, shape, ids, sets),
                                          self.parameters[weight.names[0]].shape, sets)  # fmt: skip
            group.reads.append(reads)
        units = layers.output_units(layer, self.units(group)[numbers])
        if layer.bias is not None and self.biases.get(self.bias_of(layer, numbers, group.size) or '') is not group:
            self.ids(layer.bias)  # another vector: the output is zero in no task, unless the gate is behind it
            units = units if group.place == 'output' else torch.full_like(units, ALWAYS_USED)
        if isinstance(node.meta['shape'], list):
            return [units, *always_used(node)[1:]]
        return units

    def recurrent_layers(self, node: Node) -> Any:
        """Each layer reads the one before it, and its own units, whose columns are gated; those of a cell read the states."""
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
            if name in self.ways or name in self.biases or name in self.reads:
                self.fixed.setdefault(name, 'it is a weight and is also used as data')
            elif name not in self.fixed:
                self.mark_task_specific(name)
        uses: dict[str, list[Use]] = {}
        layer_of: dict[str, int] = {}

        def add(name: str, layer: str, outs: Tensor, ins: Tensor | None) -> None:
            uses.setdefault(name, []).append(Use(outs, ins))
            layer_of.setdefault(name, plan.layers.index(layer))

        for group in self.groups.values():
            if group.name in plan.layers:
                self.share(group, add)
        for node, layers_of_node in self.recurrent.items():
            self.share_recurrent(node, layers_of_node, add)
        for name in self.fixed:
            one = ALWAYS.view([1] * self.parameters[name].ndim)
            uses.setdefault(name, []).append(Use(one, one))
        plan.fixed = self.fixed
        plan.tied = {name for name, several in uses.items() if len(several) > 1}
        plan.shared = {name: Shared(layer_of.get(name), tuple(several)) for name, several in uses.items()}
        for name in plan.tied & plan.gating.keys():  # a factor of the weight is one in all of its uses
            _, units = plan.gating[name]
            several = [
                Use(outs, None if ins is None else plan.units.intersection(ins, units)) for outs, ins in uses[name]
            ]
            plan.shared[name] = Shared(plan.shared[name].layer, tuple(several))
        plan.unused = [name for name, p in self.parameters.items() if p.requires_grad
                       and name not in plan.shared and name not in plan.task_specific]  # fmt: skip
        for name in (*self.buffers, *self.parameters):
            if name not in plan.shared:
                self.mark_task_specific(name)

    def share(self, group: Group, add: Callable) -> None:
        """Add a layer's weight and biases to the plan."""
        plan, kind, units = self.plan, group.kind, self.units(group)
        gate = group.gate
        for name in kind.names:
            shape = self.parameters[name].shape
            outs = units[kind.units(shape)] if kind.axes else ALWAYS.view([1] * len(shape))
            reads = functools.reduce(plan.units.union, group.reads) if kind.exact else ALWAYS
            add(name, group.name, outs, narrowed(reads.expand([1] * len(shape)) if reads.ndim == 0 else reads))
        biases = {
            name: units.view(self.parameters[name].shape) for name, owner in self.biases.items() if owner is group
        }
        for name, outs in biases.items():
            add(name, group.name, outs, None)
        if gate is None or group.place == 'norm':
            return
        factors = {name: units[kind.units(self.parameters[name].shape)] for name in kind.names if kind.exact} | biases
        gating = {name: Gating(gate if outs.numel() == len(units) else None, outs) for name, outs in factors.items()}
        if group.place == 'output':
            layer = group.calls[0][0]
            n_dims = len(layer.output) - 1 - max(layer.output.index(x) for x in layer.letters if x in layer.output)
            folded = kind.exact and all(len(self.ways[name]) == 1 and name not in self.fixed for name in kind.names)
            plan.outputs |= {
                call.node.meta['module']: OutputGate([gate], folded, not folded, n_dims) for call, _ in group.calls
            }
            plan.folded |= gating if folded else {}
        for name, factor in gating.items() if group.place == 'weight' else ():
            if name in plan.gating:
                factor = Gating(None, plan.units.intersection(factor.units, plan.gating[name].units))
            plan.gating[name] = factor

    def share_recurrent(self, node: Node, found: list[Recurrent], add: Callable) -> None:
        """Add the weights and biases of recurrent layers to the plan."""
        plan, cell, directions = self.plan, recurrent.is_cell(node), recurrent.directions(node)
        units = [self.recurrent_units(one) for one in found]
        for i, one in enumerate(found):
            if str(one.weights[0].target) in self.shared_recurrent:
                continue  # a cell that is called again
            for part in (*one.weights, *one.biases):
                name = str(part.target)
                self.shared_recurrent.add(name)
                blocks = self.parameters[name].shape[0] // one.size
                rows = units[i].repeat(blocks)
                if part in one.weights:
                    add(name, one.name, rows.view(-1, 1), functools.reduce(plan.units.union, self.reads[name]))
                else:
                    add(name, one.name, rows, None)
            if cell:
                continue
            below = (
                torch.cat(units[(i // directions - 1) * directions : i // directions * directions])
                if i >= directions
                else None
            )
            for weight, columns in zip(one.weights, (below, units[i]), strict=True):
                if columns is not None and bool((columns != ALWAYS_USED).any()):
                    plan.gating[str(weight.target)] = Gating(None, columns.view(1, -1))
        gates = [self.gate_of.get(one.name) for one in found]
        if found and any(gate is not None for gate in gates):
            plan.outputs[node.meta['recurrent']] = OutputGate(gates, directions=0 if cell else directions)

    # Helpers

    def ids(self, node: Node) -> Any:
        """The ids of a node's output that is used as data."""
        value = self.values[node]
        if isinstance(value, Weight):
            self.use_as_data(value)
            return always_used(node)
        if isinstance(value, Constant):
            return torch.where(value.tensor == 0, ZERO, ALWAYS_USED) if value.fixed else always_used(node)
        return value if isinstance(value, Tensor) else always_used(node)

    def use_as_data(self, weight: Weight) -> None:
        """Each task has its own copy of parameters that are used as data, unless a layer uses them, too."""
        self.data |= dict.fromkeys(weight.names)

    def fix(self, weight: Weight, node: Node, why: str) -> None:
        """Every task uses these parameters: the first one fixes them."""
        for name in weight.names:
            self.fixed.setdefault(name, f'{node.target} {node.meta["place"]}: {why}')

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

"""First pass over a network's graph: what depends on parameters alone, and which operations are layers.

A layer multiplies its inputs with a weight. The weight may be a parameter, a part of one, or computed from some. Calls
with the same parameters, used in the same way, form a group: they have one gate.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from hat import layers, recurrent
from hat.computed import computed
from hat.graph import item, overwritten
from hat.layers import Kind, Layer
from hat.recurrent import Recurrent
from hat.values import MIXED, Constant, Weight, fetched, filled, whole, wrap


@dataclass
class Group:
    """The calls of layers with the same parameters, used in the same way: they have one gate.

    Attributes:
        kind: how they use the parameters.
        size: number of units.
        name: of the layer.
        calls: the node of each, and the unit of each element of its output, in the dimensions of its weight.
        gate: number of its gate; None: its units are used by every task.
        place: where the gate is: 'norm', the batch norm after it; 'weight'; 'output', of modules; '': it can have none.
        reads: for each call, the ids that the elements of the parameter read, in a shape that broadcasts to its own.
    """

    kind: Kind
    size: int
    name: str = ''
    calls: list[tuple[Layer, Tensor]] = field(default_factory=list)
    gate: int | None = None
    place: str = ''
    reads: list[Tensor] = field(default_factory=list)


class Finder:
    """Finds the layers of a graph.

    Attributes:
        values: for each node that depends on no input a Weight or a Constant; a list of them for several outputs.
        groups: of calls, by how they use parameters.
        calls: for each node of a layer the call, the unit of each element of its output, in the dimensions of its
            weight, and its group; None for a layer that is left alone.
        sums: node of the sum of a layer's output and its bias -> node of the layer.
        recurrent: for each node of a recurrent operation its layers; none of them, if it is used by every task.
        biases: name of a parameter that is the bias of a group -> the group.
        ways: name of a parameter -> in how many groups it is a weight, and in how many recurrent modules.
        fixed: name of a parameter that every task uses -> why; '' if it is ignored.
        data: names of parameters that are used as data, in order.
        written: names of parameters that forward() changes.
    """

    def __init__(self, nodes: list[Node], parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor],
                 ignored: set[str]):  # fmt: skip
        self.nodes, self.parameters, self.buffers, self.ignored = nodes, parameters, buffers, ignored
        self.values: dict[Node, Any] = {}
        self.fixed = dict.fromkeys(ignored, '')
        self.data: dict[str, None] = {}
        self.written: set[str] = set()
        for node in nodes:
            if (value := self.static(node)) is not None:
                self.values[node] = value
        self.find_layers()

    def static(self, node: Node) -> Any:
        """What is known of a node's output if it depends on no input: a Weight, a Constant, a list of them; else
        None."""
        if node.op == 'get_attr':
            return self.stored(node)
        if node.target is overwritten:
            before = self.values.get(node.all_input_nodes[-1])
            names = before.names if isinstance(before, Weight) else ()
            self.written.update(names)
            return Weight(names, (filled(node, MIXED),)) if names else None
        if node.op != 'call_function' or any(n not in self.values for n in node.all_input_nodes):
            return None
        inputs = {n: self.values[n] for n in node.all_input_nodes}
        if node.target is item:
            return self.values[node.all_input_nodes[0]][node.args[1]]
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
        reading = [user for user in node.users if user.target is not layers.aten.detach.default]
        if node.meta['trainable'] and not buffer and reading:
            why = 'it uses a trainable tensor that is not a parameter of the network'
            raise layers.refused(reading[0], f'{why}: register it (nn.ModuleList), or detach it')
        if not buffer and not node.meta['constant']:
            return None
        if buffer and node.meta['dtype'].is_floating_point:  # training may change it; integers are mostly indices
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
        self.biases = {name: owners[0] for name, owners in biases.items() if all(one is owners[0] for one in owners)}
        every = [group.kind.names for group in self.groups.values()]
        modules = {found[0].name: found for found in self.recurrent.values() if found}
        every += [tuple(str(part.target) for one in found for part in (*one.weights, *one.biases))
                  for found in modules.values()]  # fmt: skip
        self.ways = Counter(name for names in every for name in names)
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
        bare = 'weight' not in layers.arguments(layer.node) and not layer.bias and 'module' not in layer.node.meta
        if bare and (pair := layers.sum_after(layer.node, self.is_parameter)):
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
        for n, index in zip(p.shape, bias.indices, strict=True):
            mine = mine * n + index
        units = layers.output_units(layer, numbers)
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
        """A name for each layer: that of its weight, without '.weight' where that is unique; for a further use of a
        weight that of the module that calls it."""
        short = {name: layers.short_name(name) for name in {group.kind.names[0] for group in self.groups.values()}}
        every = list(short.values())
        taken: set[str] = set()
        for group in self.groups.values():
            name = group.kind.names[0]
            path = group.calls[0][0].node.meta['path']
            names = short[name] if every.count(short[name]) == 1 else name, path, f'{name} {group.kind.axes}'
            group.name = next(name for name in names if name and name not in taken)
            taken.add(group.name)

    def use_as_data(self, weight: Weight) -> None:
        """Each task has its own copy of parameters that are used as data, unless a layer uses them, too."""
        self.data |= dict.fromkeys(weight.names)

    def fix(self, weight: Weight, node: Node, why: str) -> None:
        """Every task uses these parameters: the first one fixes them."""
        for name in weight.names:
            self.fixed.setdefault(name, f'{node.target} {node.meta["place"]}: {why}')

"""Makes the plan of a network: which weights tasks share, which units each connects, and what is task-specific.

The reader goes through the network's graph, operation by operation:

- A layer (linear, convolution, embedding) multiplies its input with a weight. Its outputs are the units of a gate.
- A norm does not map zero to zero. Its affine parameters and statistics are task-specific; the affine parameters are
  multiplied by the attention to the units that they normalize. A batch norm right after a layer takes over its gate.
- For all other operations hat.rules says which units make the output zero.
- A parameter that is used as data, and every buffer, is task-specific.

A closed unit is zero whatever the weights before it are, so no task can depend on them. A layer that reads a unit which
is zero for a task need not protect the weights from it: this is what the ids are for.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._pytree import tree_leaves, tree_map_only

from hat import layers, rules
from hat.errors import CannotConvert
from hat.graph import SEEN, item, record
from hat.plan import Gating, Inputs, OutputGate, Plan, Shared
from hat.unitsets import ALWAYS_USED, ZERO, UnitSets
from hat.values import Constant, Weight, always_used, fetched, numbered, wrap

INDICES = 'index', 'indices'  # arguments that are indices, not values
PRODUCTS = 'matmul', 'mm', 'bmm', 'addmm', 'baddbmm', 'einsum'  # a parameter in one of these acts as a layer's weight


class Reader:
    """Goes through the graph once and fills `plan`.

    values: for each node what is known of its output: ids of unit sets (a LongTensor of its shape), a Weight, or a
    Constant; a list of them for several outputs.
    """

    def __init__(self, net: nn.Module, inputs: Inputs, heads: bool = False,
                 gated: Callable[[str, bool], bool] = lambda layer, last: True):  # fmt: skip
        """Make the plan of a network from one forward pass.

        Args:
            net: the network.
            inputs: example inputs, positional and by keyword.
            heads: whether the output layers, which no other layer follows, are task-specific.
            gated: whether a layer has a gate: a function of its name, and of whether it is an output layer.

        Raises:
            CannotConvert: there is no gating rule for a weight.
        """
        self.parameters, self.buffers = dict(net.named_parameters()), dict(net.named_buffers())
        self.plan = Plan(inputs)
        self.values: dict[Node, Any] = {}
        # name of a weight -> for each call: the rows that it uses, the ids that these read
        self.reads: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.biases: dict[str, str] = {}  # name of a bias -> name of its weight
        recorder = record(net, inputs)
        nodes = self.nodes = list(recorder.graph.nodes)
        self.plan.operations = recorder.operations()
        self.calls = layers.find_layers(nodes, self.parameters)
        self.names, last = layers.layer_names(self.calls), layers.last_layers(nodes, self.calls)
        if heads and self.calls and not last:
            raise CannotConvert('the last layer shares its weight with another layer: use heads=False')
        self.plan.heads = [layers.head(name, self.calls[name][0], self.parameters) for name in last if heads]
        for weight, bias, _ in self.plan.heads:
            self.mark_task_specific(weight)
            self.mark_task_specific(bias)
        self.choose_gates(lambda name: gated(self.names[name], name in last))
        for node in nodes:
            self.values[node] = self.read(node)
        self.outputs = recorder.outputs
        for node in self.outputs:
            self.ids(node)
        for name in self.reads:
            self.share(name)
        if conflict := [name for name in self.plan.shared if name in self.plan.task_specific]:
            raise CannotConvert(f'{conflict[0]} is the weight of a layer and is also used in another way')
        self.plan.unused = [name for name, p in self.parameters.items() if p.requires_grad
                            and name not in self.plan.shared and name not in self.plan.task_specific]  # fmt: skip
        for name in (*self.buffers, *self.parameters):
            if name not in self.plan.shared:
                self.mark_task_specific(name)

    # First: which layers have gates

    def choose_gates(self, gated: Callable[[str], bool]) -> None:
        plan, sizes = self.plan, []
        self.gate_of_norm: dict[Node, int] = {}  # node of a batch norm that takes over a gate -> the gate
        for name, nodes in self.calls.items():
            if name in plan.task_specific:
                continue
            plan.layers.append(self.names[name])
            if gated(name):
                norms = [norm for node in nodes if (norm := layers.norm_after(node, self.parameters))]
                if len(norms) == len(nodes):
                    self.gate_of_norm |= dict.fromkeys(norms, len(plan.gates))
                plan.gates.append(plan.layers[-1])
                sizes.append(layers.n_units(self.calls[name][0], self.parameters[name]))
        plan.units = UnitSets(sizes)

    # Then: node by node

    def read(self, node: Node) -> Any:
        """What is known of a node's output."""
        if node.op == 'get_attr':
            if node.target in self.parameters:
                return Weight(str(node.target))
            buffer = node.target in self.buffers  # training may change its floats; integers are mostly indices
            if buffer and node.meta['dtype'].is_floating_point or not (buffer or node.meta['constant']):
                return always_used(node)
            return Constant(node.meta['value'], fixed=not buffer)
        if node.target in layers.LAYERS:
            return self.layer(node)
        if node.target in layers.NORMS:
            return self.norm(node)
        if node.target is item:
            return self.values[node.all_input_nodes[0]][node.args[1]]
        return self.other(node) if isinstance(node.target, torch._ops.OpOverload) else always_used(node)

    def layer(self, node: Node) -> Tensor:
        named, plan = layers.arguments(node), self.plan
        weight = self.values[named['weight']]
        bias = None if named.get('bias') is None else self.values[named['bias']]
        if not isinstance(weight, Weight):
            raise layers.refused(node, 'its weight is computed, or changed in place')
        if weight.name in plan.task_specific:
            return always_used(node)
        p = self.parameters[weight.name]
        rows = torch.arange(len(p))
        if weight.elements is not None:
            rows = weight.elements.flatten(1)[:, 0] // p[0].numel()
            if not torch.equal(weight.elements, numbered(p)[rows]):
                raise layers.refused(node, f'it uses a part of {weight.name} that is not whole rows')
        self.reads.setdefault(weight.name, []).append((rows, self.inputs(node, named, p, len(rows))))
        units = self.units(weight.name)
        outputs = rows if layers.output_axis(node) == (0, 1) else torch.arange(len(units))
        units = units[outputs]
        if (isinstance(bias, Weight) and self.parameters[bias.name].numel() == layers.n_units(node, p)
                and torch.equal(self.elements(bias), outputs)):  # fmt: skip
            if self.biases.setdefault(bias.name, weight.name) != weight.name:
                raise layers.refused(node, f'{bias.name} is the bias of two layers')
        elif bias is not None:  # another vector: the output is zero in no task
            units = torch.full_like(units, ALWAYS_USED)
            self.ids(named['bias'])
        return layers.broadcast_units(units, node)

    def inputs(self, node: Node, named: dict[str, Any], weight: Tensor, n_rows: int) -> Tensor:
        """Ids of the units that a weight's elements read, in a shape that broadcasts to its first two dimensions."""
        if node.target is layers.aten.embedding.default:
            return torch.full((1, 1), ALWAYS_USED)
        x = self.ids(named['input'])
        if node.target is layers.aten.linear.default:
            return self.plan.units.per_index(x, -1).view(1, -1)
        units, groups = self.plan.units.per_index(x, 1 if x.ndim > weight.ndim - 1 else 0), named['groups']
        if node.target in layers.TRANSPOSED:
            return units.view(-1, 1)
        return units.view(groups, -1).repeat_interleave(n_rows // groups if groups > 1 else 1, 0)

    def norm(self, node: Node) -> Any:
        named, plan = layers.arguments(node), self.plan
        affine = [named[key] for key in ('weight', 'bias') if named.get(key) is not None]
        names = [name for part in affine if (name := layers.parameter(part, self.parameters))]
        if not names or len(names) < len(affine):
            return self.other(node)
        gate, x = self.gate_of_norm.get(node), self.ids(named['input'])
        if gate is not None:
            units = plan.units.of_gate[gate]
        elif node.target in layers.CHANNEL_NORMS:
            units = plan.units.per_index(x, 1)
        else:
            shape = named['normalized_shape']
            units = plan.units.per_index(x.flatten(-len(shape)), -1).view(shape)
        gated = bool((units != ALWAYS_USED).any())
        for name in names:
            self.mark_task_specific(name)
            if gated and not torch.equal(plan.gating.setdefault(name, Gating(gate, units)).units, units):
                raise layers.refused(node, f'{name} normalizes different units in different calls')
        if not gated:
            return always_used(node)
        by_channel = node.target in layers.CHANNEL_NORMS
        return layers.broadcast_units(units, node) if by_channel else units.expand(node.meta['shape'])

    def other(self, node: Node) -> Any:
        """An operation without weights: a parameter in its arguments is data."""
        operation, named = layers.operation(node), layers.arguments(node)
        name, rule = rules.name_of(operation), rules.rule_of(operation)
        values = [self.values[n] for n in node.all_input_nodes]
        weights = [v for v in values if isinstance(v, Weight)]
        if all(isinstance(v, Constant) for v in values) and torch.Tag.nondeterministic_seeded not in operation.tags:
            constant = operation(*fetched(node.args, self.values), **fetched(node.kwargs, self.values))
            return wrap(lambda part: Constant(part, all(v.fixed for v in values)), constant)
        if name in SEEN:
            self.plan.branches.append(node.meta['place'])
        without_data = all(isinstance(v, (Weight, Constant)) for v in values)
        if weights and (name in PRODUCTS or rule is None and not without_data):
            raise layers.refused(node, f'no gating rule for a parameter ({weights[0].name}) in this operation')
        if len(values) == 1 and weights and rule and rule.ids is rules.move:
            elements = {node.all_input_nodes[0]: Constant(self.elements(weights[0]))}
            moved = operation(*fetched(node.args, elements), **fetched(node.kwargs, elements))
            return wrap(lambda part: Weight(weights[0].name, part), moved)
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

    # Last: weights, when all their calls are known

    def share(self, name: str) -> None:
        """Add a layer's weight and biases to the plan."""
        plan, weight, nodes, units = self.plan, self.parameters[name], self.calls[name], self.units(name)
        layer, biases = self.names[name], [b for b, w in self.biases.items() if w == name]
        outs, ins = layers.connections(weight, nodes[0], units, self.reads[name], plan.units)
        plan.shared[name] = Shared(plan.layers.index(layer), outs, ins)
        plan.shared |= {bias: Shared(plan.layers.index(layer), units, None) for bias in biases}
        gate = plan.gates.index(layer) if layer in plan.gates else None
        if gate is None or gate in self.gate_of_norm.values():
            return
        if all('module' in node.meta for node in nodes):
            plan.outputs |= dict.fromkeys((node.meta['module'] for node in nodes), OutputGate(gate, units))
        else:
            plan.gating[name] = Gating(gate if outs.numel() == len(units) else None, outs)
            plan.gating |= {bias: Gating(gate, units) for bias in biases}

    # Helpers

    def ids(self, node: Node) -> Any:
        """The ids of a node's output that is used as data. A parameter becomes task-specific by this."""
        value = self.values[node]
        if isinstance(value, Weight):
            self.mark_task_specific(value.name)
            return always_used(node)
        if isinstance(value, Constant):
            return torch.where(value.tensor == 0, ZERO, ALWAYS_USED) if value.fixed else always_used(node)
        return value if isinstance(value, Tensor) else always_used(node)

    def elements(self, weight: Weight) -> Tensor:
        """The indices of its elements in the parameter."""
        return numbered(self.parameters[weight.name]) if weight.elements is None else weight.elements

    def mark_task_specific(self, name: str | None) -> None:
        """Add a parameter or buffer to those that each task has a copy of."""
        if name is not None and name not in self.plan.task_specific:
            self.plan.task_specific.append(name)

    def units(self, name: str) -> Tensor:
        """Ids of the units of the layer with that weight, (N,)."""
        if self.names[name] in self.plan.gates:
            return self.plan.units.of_gate[self.plan.gates.index(self.names[name])]
        return torch.full((layers.n_units(self.calls[name][0], self.parameters[name]),), ALWAYS_USED)

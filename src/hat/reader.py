"""Which weights a network's tasks share, which units each of them connects, and what each task has of its own.

All of it is read off the network's graph, operation by operation. There are five kinds:

- a layer (linear, convolution, embedding) multiplies its input with a weight. Its outputs are the units of a gate;
- a norm makes something else of zeros. Its affine parameters and statistics are each task's own, and are multiplied by
  the attention to what it normalizes; a batch norm right after a layer takes over that layer's gate;
- what only moves values is done to the numbers of the units;
- what works element by element is tried with zeros;
- everything else is tried with random numbers, the same for all values of one unit: what comes out as a multiple of a
  unit's numbers is that unit's (pooled, averaged, attended to), all other outputs count as in use by every task.

To count as in use is always safe. A masked unit is zero whatever becomes of the weights before it, so that no operation
can let a task see them; only what reads the unit has to know that it is zero, to leave its own weights free.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.utils._pytree import tree_map_only

from hat.graph import item, record
from hat.operations import (
    CASTS,
    CHANNEL_NORMS,
    LAYERS,
    NORMS,
    RESIZES,
    TRANSPOSED,
    along,
    always,
    arguments,
    aten,
    is_move,
    is_operation,
    is_pointwise,
    name_of,
    output_axis,
)
from hat.plan import CannotConvert, Gating, Plan, Shared
from hat.probes import Constant, move, runner, try_numbers, try_zeros
from hat.units import ALWAYS, NEVER, Units


class Weight(NamedTuple):
    """A parameter, or what was moved out of it: `elements` says which of its elements; None: the whole."""

    name: str
    elements: torch.Tensor | None = None


def make_plan(net, inputs, heads=False, gated: Callable[[str, bool], bool] = lambda layer, last: True):
    """The Plan for a network, from one run of it on `inputs`, a tuple. Raises CannotConvert.

    heads  whether each task has the last layers, after which no other one comes, for itself
    gated  whether a layer has a gate, by its name, and whether it is one of the last
    """
    return _Reader(net, inputs, heads, gated).plan


class _Reader:
    """Goes through the graph once. `values` has what is known of each node's output: unit numbers, a LongTensor of its
    shape, or a Weight, or a Constant; a list of them where there are several outputs."""

    def __init__(self, net, inputs, heads, gated):
        self.parameters, self.buffers = dict(net.named_parameters()), dict(net.named_buffers())
        self.plan, self.values = Plan(tree_map_only(torch.Tensor, torch.zeros_like, inputs)), {}
        self.reads = {}  # name of a weight -> of each call the rows that it uses, and the numbers that these read
        self.biases = {}  # name of a bias -> that of its weight
        graph = record(net, inputs)
        self.calls = self.find_layers(graph)
        last = self.last_layers(graph)
        if heads:
            if self.calls and not last:
                raise CannotConvert('the last layer shares its weight with another one: it can only be left alone')
            for name in last:
                node = self.calls[name][0]
                self.plan.heads.append((name, self.parameter(arguments(node).get('bias')), output_axis(node)[0]))
            self.plan.own += [name for weight, bias, _ in self.plan.heads for name in (weight, bias) if name]
        self.choose_gates(lambda name: gated(layer_name(name), name in last))
        for node in graph.nodes:
            if node.op != 'output':
                self.values[node] = self.read(node)
        for name in self.reads:
            self.share(name)
        if conflict := set(self.plan.shared).intersection(self.plan.own):
            raise CannotConvert(f'{conflict.pop()} is the weight of a layer, and is used in another way, too')
        known = {*self.plan.shared, *self.plan.own}
        self.plan.unused = [name for name, p in self.parameters.items() if p.requires_grad and name not in known]

    # First: where layers, heads and gates are

    def find_layers(self, graph):
        """Name of a weight -> the nodes of the layers that use it, or a part of it."""
        calls, names = {}, {}
        for node in graph.nodes:
            if self.parameter(node):
                names[node] = node.target
            elif node.target in LAYERS:
                weight = arguments(node)['weight']
                if weight not in names:
                    raise CannotConvert(f'{node.target}: its weight is computed, and is not a parameter')
                calls.setdefault(names[weight], []).append(node)
                if output_axis(node) != output_axis(calls[names[weight]][0]):
                    raise CannotConvert(f'{node.target}: {names[weight]} is the weight of another kind of layer, too')
            elif len(node.all_input_nodes) == 1 and node.all_input_nodes[0] in names:
                names[node] = names[node.all_input_nodes[0]]
        return calls

    def last_layers(self, graph):
        """Names of the weights of those after which no other layer comes."""
        layers, before = set(itertools.chain(*self.calls.values())), set()
        for node in reversed(graph.nodes):
            if any(user in layers or user in before for user in node.users):
                before.add(node)
        return [name for name, nodes in self.calls.items() if before.isdisjoint(nodes)]

    def choose_gates(self, gated):
        plan, sizes = self.plan, []
        self.gate_of_norm = {}  # node of a batch norm that takes over a gate -> which
        for name, nodes in self.calls.items():
            if name in plan.own:
                continue
            plan.layers.append(layer_name(name))
            if gated(name):
                norms = [self.norm_after(node) for node in nodes]
                if all(norms):
                    self.gate_of_norm |= dict.fromkeys(norms, len(plan.gates))
                plan.gates.append(plan.layers[-1])
                sizes.append(self.size(name))
        plan.units = Units(sizes)

    def norm_after(self, node):
        """The batch norm with affine parameters that alone uses the output of a whole layer, if there is one."""
        for norm in node.users if self.parameter(arguments(node)['weight']) else ():
            if len(node.users) == 1 and norm.target is aten.batch_norm.default:
                given = arguments(norm)
                if given['input'] is node and self.parameter(given['weight']) and self.parameter(given['bias']):
                    return norm
        return None

    # Then node by node

    def read(self, node):
        if node.op == 'get_attr':
            if node.target in self.parameters:
                return Weight(node.target)
            if node.target in self.buffers:
                self.owned(node.target)  # training may change it
                if node.meta['dtype'].is_floating_point:
                    return always(node)
            return Constant(node.meta['value'])
        if node.target in LAYERS:
            return self.layer(node)
        if node.target in NORMS:
            return self.norm(node)
        if node.target is item:
            outputs, i = node.args
            return self.values[outputs][i]
        return self.other(node) if is_operation(node) else always(node)

    def layer(self, node):
        given, plan = arguments(node), self.plan
        weight, bias = self.values[given['weight']], self.values.get(given.get('bias'))
        if not isinstance(weight, Weight):
            raise CannotConvert(f'{node.target}: its weight is computed, and is not a parameter')
        if weight.name in plan.own:
            return always(node)
        p = self.parameters[weight.name]
        rows = torch.arange(len(p))
        if weight.elements is not None:
            rows = weight.elements.flatten(1)[:, 0] // p[0].numel()
            if not torch.equal(weight.elements, numbered(p)[rows]):
                raise CannotConvert(f'{node.target}: it uses a part of {weight.name} that is not whole rows')
        self.reads.setdefault(weight.name, []).append((rows, self.inputs(node, given, p)))
        units = self.units(weight.name)
        outputs = rows if output_axis(node) == (0, 1) else torch.arange(len(units))
        units = units[outputs]
        of_layer = isinstance(bias, Weight) and self.parameters[bias.name].numel() == self.size(weight.name)
        if of_layer and torch.equal(self.elements(bias), outputs):
            if self.biases.setdefault(bias.name, weight.name) != weight.name:
                raise CannotConvert(f'{node.target}: {bias.name} is the bias of two layers')
        elif bias is not None:  # some other vector: what comes out is zero in no task
            units = torch.full_like(units, ALWAYS)
            if isinstance(bias, Weight):
                self.owned(bias.name)
        return along(units, node)

    def inputs(self, node, given, weight):
        """Numbers of the units that a weight's elements read; broadcasts to its first two dimensions."""
        if node.target is aten.embedding.default:
            return torch.full((1, 1), ALWAYS)
        x = self.known(given['input'])
        if node.target is aten.linear.default:
            return self.plan.units.any(x, -1).view(1, -1)
        units, groups = self.plan.units.any(x, 1), given['groups']
        if node.target in TRANSPOSED:
            return units.view(-1, 1)
        return units.view(groups, -1).repeat_interleave(len(weight) // groups if groups > 1 else 1, 0)

    def norm(self, node):
        given, plan = arguments(node), self.plan
        affine = [given[key] for key in ('weight', 'bias') if given.get(key) is not None]
        names = [self.parameter(part) for part in affine]
        if not all(names):
            return self.other(node)
        gate, x = self.gate_of_norm.get(node), self.known(given['input'])
        if gate is not None:
            units = plan.units.of_gate[gate]
        elif node.target in CHANNEL_NORMS:
            units = plan.units.any(x, 1)
        else:
            units = plan.units.any(x.flatten(-len(given['normalized_shape'])), -1).view(given['normalized_shape'])
        gated = bool(names) and bool((units != ALWAYS).any())
        for name in names:
            self.owned(name)
            if gated and not torch.equal(plan.gating.setdefault(name, Gating(gate, units)).units, units):
                raise CannotConvert(f'{node.target}: {name} is used for different units')
        if (mean := given.get('running_mean')) is not None and mean.target in self.buffers:
            counter = mean.target.replace('running_mean', 'num_batches_tracked')
            if counter in self.buffers:
                self.owned(counter)
        if not gated:
            return always(node)
        return along(units, node) if node.target in CHANNEL_NORMS else units.expand(node.meta['shape'])

    def other(self, node):
        """An operation that has no weights, but may have parameters that are the task's own."""
        places, run = runner(node)
        given = {i: self.values[other] for i, other in places.items()}
        if all(isinstance(value, Constant) for value in given.values()):
            return wrap(Constant, run({i: value.tensor for i, value in given.items()}))
        pointwise, moves, name = is_pointwise(node.target), is_move(node.target), name_of(node.target)
        for i, value in given.items():
            if isinstance(value, Weight):
                if not (pointwise or moves or name in CASTS | RESIZES):
                    raise CannotConvert(f'{node.target} with the parameter {value.name}: HAT knows no gate for it')
                if moves and len(given) == 1:
                    return wrap(lambda part, of=value.name: Weight(of, part), run({i: self.elements(value)}))
                self.owned(value.name)
        given = {i: v if isinstance(v, Constant) else self.known(places[i]) for i, v in given.items()}
        if not all(isinstance(v, Constant) or places[i].meta['dtype'].is_floating_point for i, v in given.items()):
            return always(node)
        if name in CASTS and len(given) == 1:
            return self.known(places.popitem()[1])
        if moves:
            return move(run, given)
        try:
            if pointwise:
                return try_zeros(run, given, node.meta['shape'], self.plan.units)
            found = try_numbers(run, given)
        except (RuntimeError, TypeError, IndexError, NotImplementedError):  # not made for such numbers
            return always(node)
        return found if isinstance(node.meta['shape'], list) else found[0]

    # Last: what is known of a weight after all its calls

    def share(self, name):
        plan, weight, nodes = self.plan, self.parameters[name], self.calls[name]
        layer, units, biases = layer_name(name), self.units(name), [b for b, w in self.biases.items() if w == name]
        axis, groups = output_axis(nodes[0])
        if axis:  # the groups' weights are one below the other, their units side by side
            rows = len(weight) // groups if groups > 1 else 1
            writes = units.view(groups, 1, -1).expand(groups, rows, -1).flatten(0, 1)
        else:
            writes = units.view(-1, 1)
        reads = torch.full((1, 1), NEVER)
        for rows, numbers in self.reads[name]:
            if len(rows) == len(weight):
                reads = plan.units.either(reads, numbers)
            else:
                reads = reads.expand(len(weight), numbers.shape[1]).clone()
                reads[rows] = plan.units.either(reads[rows], numbers)
        if (reads == reads[0]).all():
            reads = reads[:1]
        writes, reads = (u.view(*u.shape, *[1] * (weight.ndim - 2)) for u in (writes, reads))
        plan.shared[name] = Shared(plan.layers.index(layer), writes, reads)
        plan.shared |= {bias: Shared(plan.layers.index(layer), units, None) for bias in biases}
        gate = plan.gates.index(layer) if layer in plan.gates else None
        if gate is None or gate in self.gate_of_norm.values():
            return
        modules = {node.meta.get('module') for node in nodes}
        if None not in modules:
            plan.outputs |= dict.fromkeys(modules, Gating(gate, units))
        else:
            plan.gating[name] = Gating(gate if writes.numel() == len(units) else None, writes)
            plan.gating |= {bias: Gating(gate, units) for bias in biases}

    # Helpers

    def parameter(self, node):
        """The name of the parameter that a node is, or None."""
        return node.target if node is not None and node.op == 'get_attr' and node.target in self.parameters else None

    def elements(self, weight):
        return numbered(self.parameters[weight.name]) if weight.elements is None else weight.elements

    def owned(self, name):
        if name not in self.plan.own:
            self.plan.own.append(name)

    def size(self, name):
        """Number of units of the layer whose weight is `name`."""
        axis, groups = output_axis(self.calls[name][0])
        return self.parameters[name].shape[axis] * groups

    def units(self, name):
        """Their numbers, (N,)."""
        if layer_name(name) in self.plan.gates:
            return self.plan.units.of_gate[self.plan.gates.index(layer_name(name))]
        return torch.full((self.size(name),), ALWAYS)

    def known(self, node):
        """The unit numbers of a node's output."""
        value = self.values[node]
        return value if isinstance(value, torch.Tensor) else always(node)


def layer_name(weight):
    return weight.removesuffix('.weight').removesuffix('_weight')


def numbered(p):
    return torch.arange(p.numel()).view(p.shape)


def wrap(kind, outputs):
    return [kind(o) for o in outputs] if isinstance(outputs, (tuple, list)) else kind(outputs)

"""Which weights a network's tasks share, which units each of them connects, and what each task has of its own.

All of it is read off the network's graph, operation by operation. There are four kinds:

- a layer (linear, convolution, embedding) multiplies its input with a weight. Its outputs are the units of a gate;
- a norm makes something else of zeros. Its affine parameters and statistics are each task's own, and are multiplied by
  the attention to what it normalizes; a batch norm right after a layer takes over that layer's gate;
- what works element by element is tried with zeros;
- everything else is tried with random numbers, the same for all values of one unit: what comes out as a multiple of a
  unit's numbers is that unit's (moved, pooled, averaged, attended to), all other outputs count as in use by every task.

To count as in use is always safe. A masked unit is zero, whatever becomes of the weights before it, so that no operation
can let a task see them; only what reads the unit has to know that it is zero, to leave its own weights free.
"""

import itertools
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from hat.graph import item, record
from hat.units import ALWAYS, NEVER, Units

aten = torch.ops.aten
CONVOLUTIONS = {op for n in '123' for op in (getattr(aten, f'conv{n}d').default, getattr(aten, f'conv{n}d').padding)}
TRANSPOSED = {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
LAYERS = {aten.linear.default, aten.embedding.default} | CONVOLUTIONS | TRANSPOSED
CHANNEL_NORMS = {aten.batch_norm.default, aten.instance_norm.default, aten.group_norm.default}  # affine along dim 1
NORMS = {aten.layer_norm.default, aten.rms_norm.default} | CHANNEL_NORMS  # else: affine along the last dimensions
POINTWISE = {aten.hardswish.default, aten.hardswish_.default, aten.prelu.default}  # and what torch itself calls so
MOVES = {  # what a task's own parameter may go through before it meets the task's data
    'alias', 'cat', 'chunk', 'clone', 'contiguous', 'detach', 'expand', 'expand_as', 'flatten', 'flip', 'index', 'index_select', 'movedim', 'narrow', 'permute', 'repeat', 'reshape', 'roll', 'select', 'slice', 'split', 'split_with_sizes', 'squeeze', 'stack', 't', 'to', 'transpose', 'unbind', 'unflatten', 'unsqueeze', 'upsample_bicubic2d', 'upsample_bilinear2d', 'view',
}


class CannotConvert(ValueError):
    """HAT cannot be put into a network; the message names the operation."""


class Constant(NamedTuple):
    tensor: torch.Tensor


class Weight(NamedTuple):
    """A parameter, or what was moved out of it: `elements` says which of its elements; None: the whole."""

    name: str
    elements: torch.Tensor | None = None


class Shared(NamedTuple):
    """A parameter that tasks share: the layer it belongs to, and the numbers of the units that it connects, in shapes
    that broadcast to its own. `reads` is None for a bias."""

    layer: int
    writes: torch.Tensor
    reads: torch.Tensor | None


class Gating(NamedTuple):
    """What something is multiplied by: the mask of gate `gate`, or, if that is None, the attention to `units`."""

    gate: int | None
    units: torch.Tensor  # in a shape that broadcasts


@dataclass
class Plan:
    """Parameters and buffers by name."""

    inputs: tuple  # zeros of the form that the network takes
    layers: list = field(default_factory=list)  # names of the layers that tasks share, in the order of use
    gates: list = field(default_factory=list)  # names of those that have a gate
    units: Units = None
    shared: dict = field(default_factory=dict)  # parameter -> Shared
    gating: dict = field(default_factory=dict)  # parameter -> Gating
    outputs: dict = field(default_factory=dict)  # nn.Linear whose output is gated, not its weight -> Gating
    own: list = field(default_factory=list)  # parameters and buffers of which each task has its own
    heads: list = field(default_factory=list)  # (weight, bias or None) of the layers that become one for each task


def make_plan(net, inputs, gated=None, heads=True):
    """The Plan for a network, from one run of it on `inputs`, a tuple. Raises CannotConvert.

    gated  says of a layer's name whether it has a gate; None: all have
    heads  whether the last layer becomes one for each task
    """
    return _Reader(net, inputs, gated, heads).plan


class _Reader:
    """Goes through the graph once. `values` has what is known of each node's output: unit numbers, a LongTensor of its
    shape, or a Weight, or a Constant; a list of them where there are several outputs."""

    def __init__(self, net, inputs, gated, heads):
        self.parameters, self.buffers = dict(net.named_parameters()), dict(net.named_buffers())
        self.plan, self.values = Plan(tree_map_only(torch.Tensor, torch.zeros_like, inputs)), {}
        graph = record(net, inputs)
        self.reads = {}  # name of a weight -> of each call the rows that it uses, and the numbers that these read
        self.biases = {}  # name of a bias -> that of its weight
        self.calls = self.find_layers(graph)
        if heads:
            self.choose_heads(graph)
        self.choose_gates(gated)
        for node in graph.nodes:
            if node.op != 'output':
                self.values[node] = self.read(node)
        for name in self.reads:
            self.share(name)
        if conflict := set(self.plan.shared).intersection(self.plan.own):
            raise CannotConvert(f'{conflict.pop()} is the weight of a layer and is used in another way, too')

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
            elif len(node.all_input_nodes) == 1 and node.all_input_nodes[0] in names:
                names[node] = names[node.all_input_nodes[0]]
        return calls

    def choose_heads(self, graph):
        """The layers after which no other layer comes."""
        layers, before = set(itertools.chain(*self.calls.values())), set()
        for node in reversed(graph.nodes):
            if any(user in layers or user in before for user in node.users):
                before.add(node)
        for name, nodes in self.calls.items():
            if before.isdisjoint(nodes):
                self.plan.heads.append((name, self.parameter(arguments(nodes[0]).get('bias'))))
        self.plan.own += [name for name in itertools.chain(*self.plan.heads) if name]

    def choose_gates(self, gated):
        plan, sizes = self.plan, []
        self.gate_of_norm = {}  # node of a batch norm that takes over a gate -> which
        for name, nodes in self.calls.items():
            if name in plan.own:
                continue
            plan.layers.append(layer_name(name))
            if gated and not gated(plan.layers[-1]):
                continue
            norms = [self.norm_after(node) for node in nodes]
            if all(norms):
                self.gate_of_norm |= dict.fromkeys(norms, len(plan.gates))
            axis, groups = output_axis(nodes[0])
            sizes.append(self.parameters[name].shape[axis] * groups)
            plan.gates.append(plan.layers[-1])
        plan.units = Units(sizes)

    def norm_after(self, node):
        """The batch norm with affine parameters that alone uses a layer's output, if there is one."""
        for norm in node.users:
            if len(node.users) == 1 and norm.target is aten.batch_norm.default:
                given = arguments(norm)
                if given['input'] is node and self.parameter(given['weight']) and self.parameter(given['bias']):
                    return norm
        return None

    # Then node by node

    def read(self, node):
        if node.op == 'get_attr':
            p = self.parameters.get(node.target)
            return Constant(node.meta['value'].cpu()) if p is None else Weight(node.target)
        if node.target in LAYERS:
            return self.layer(node)
        if node.target in NORMS:
            return self.norm(node)
        if node.target is item:
            outputs, i = node.args
            return self.values[outputs][i]
        return self.other(node) if isinstance(node.target, torch._ops.OpOverload) else always(node)

    def layer(self, node):
        given, plan = arguments(node), self.plan
        weight, bias = self.values[given['weight']], self.values.get(given.get('bias'))
        if not isinstance(weight, Weight):
            raise CannotConvert(f'{node.target}: its weight is computed, and is not a parameter')
        name, elements = weight
        if name in plan.own:
            return always(node)
        rows = torch.arange(len(self.parameters[name]))
        if elements is not None:
            every = numbered(self.parameters[name])
            rows = elements.flatten(1)[:, 0] // every[0].numel()
            if not torch.equal(elements, every[rows]):
                raise CannotConvert(f'{node.target}: it uses a part of {name} that is not whole rows')
        self.reads.setdefault(name, []).append((rows, self.inputs(node, given, self.parameters[name])))
        units = self.units(name)
        outputs = rows if output_axis(node) == (0, 1) else torch.arange(len(units))
        units = units[outputs]
        if isinstance(bias, Weight) and torch.equal(self.elements(bias), outputs):
            self.biases[bias.name] = name
        elif bias is not None:  # some other vector: what comes out is zero in no task
            units = torch.full_like(units, ALWAYS)
            if isinstance(bias, Weight):
                self.owned(bias.name)
        return along(units, 1 if node.target in CONVOLUTIONS | TRANSPOSED else -1, node)

    def inputs(self, node, given, weight):
        """Numbers of the units that a weight's elements read, in a shape that broadcasts to its first two."""
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
        names = [self.parameter(given.get(key)) for key in ('weight', 'bias')]
        if any(given.get(key) and not name for key, name in zip(('weight', 'bias'), names, strict=True)):
            return self.other(node)
        x = self.known(given['input'])
        gate = self.gate_of_norm.get(node)
        if gate is not None:
            units = plan.units.of_gate[gate]
        elif node.target in CHANNEL_NORMS:
            units = plan.units.any(x, 1)
        else:
            shape = given['normalized_shape']
            units = plan.units.any(x.reshape(*x.shape[: -len(shape)], -1), -1).view(shape)
        in_use = gate is None and bool((units == ALWAYS).all())
        for name in filter(None, names):
            self.owned(name)
            if not in_use and not torch.equal(plan.gating.setdefault(name, Gating(gate, units)).units, units):
                raise CannotConvert(f'{node.target}: {name} is used for different units')
        for key in 'running_mean', 'running_var':
            if given.get(key) is not None and given[key].target in self.buffers:
                self.owned(given[key].target)
                counter = given[key].target.replace(key, 'num_batches_tracked')
                if counter in self.buffers:
                    self.owned(counter)
        if in_use or not any(names):
            return always(node)
        return along(units, 1, node) if node.target in CHANNEL_NORMS else units.expand(node.meta['shape'])

    def other(self, node):
        """An operation that has no weights."""
        leaves, form = tree_flatten((node.args, node.kwargs))
        given = {i: self.values[leaf] for i, leaf in enumerate(leaves) if isinstance(leaf, torch.fx.Node)}
        weights = {i: value for i, value in given.items() if isinstance(value, Weight)}

        def run(values):
            args, kwargs = tree_unflatten([values.get(i, leaf) for i, leaf in enumerate(leaves)], form)
            return node.target(*args, **kwargs)

        if all(isinstance(value, Constant) for value in given.values()):
            return wrap(Constant, run({i: value.tensor for i, value in given.items()}))
        pointwise = is_pointwise(node.target)
        moves = node.target._overloadpacket.__name__ in MOVES
        for name, _ in weights.values():
            if not pointwise and not moves:
                raise CannotConvert(f'{node.target} with the parameter {name}')
            if not moves or len(given) > 1:
                self.owned(name)
        if weights and moves and len(given) == 1:
            ((i, weight),) = weights.items()
            return wrap(lambda part: Weight(weight.name, part), run({i: self.elements(weight)}))
        given = {i: self.known(leaves[i]) if not isinstance(v, Constant) else v for i, v in given.items()}
        if any(leaves[i].meta['dtype'].is_floating_point is False for i, v in given.items() if not isinstance(v, Constant)):
            return always(node)
        try:
            return try_zeros(run, given, node.meta['shape'], self.plan.units) if pointwise else try_numbers(run, given)
        except (RuntimeError, TypeError, IndexError, NotImplementedError):  # not made for such numbers
            return always(node)

    # Last: what is known of a weight after all its calls

    def share(self, name):
        plan, weight, nodes = self.plan, self.parameters[name], self.calls[name]
        layer, units = plan.layers.index(layer_name(name)), self.units(name)
        axis, groups = output_axis(nodes[0])
        if axis:  # the groups' weights are one below the other, their units side by side
            writes = units.view(groups, 1, -1).expand(groups, len(weight) // groups, -1).flatten(0, 1)
            writes = writes[:1] if groups == 1 else writes
        else:
            writes = units.view(-1, 1)
        reads = None
        for rows, numbers in self.reads[name]:
            if len(rows) < len(weight) or reads is not None and not torch.equal(reads, numbers):
                full = torch.full((len(weight), numbers.shape[1]), NEVER) if reads is None else reads
                full = full.expand(len(weight), -1).clone()
                full[rows] = plan.units.either(full[rows], numbers)
                reads = full
            else:
                reads = numbers
        if len(reads) > 1 and (reads == reads[0]).all():
            reads = reads[:1]
        writes, reads = (u.view(*u.shape, *[1] * (weight.ndim - 2)) for u in (writes, reads))
        plan.shared[name] = Shared(layer, writes, reads)
        biases = [bias for bias, of in self.biases.items() if of == name]
        plan.shared |= {bias: Shared(layer, units, None) for bias in biases}
        if plan.layers[layer] not in plan.gates:
            return
        gate = plan.gates.index(plan.layers[layer])
        modules = {node.meta.get('module') for node in nodes}
        if gate in self.gate_of_norm.values():
            return
        if None not in modules:
            plan.outputs |= dict.fromkeys(modules, Gating(gate, units))
        else:
            plan.gating[name] = Gating(gate if writes.numel() == len(units) else None, writes)
            plan.gating |= {bias: Gating(gate, units) for bias in biases}

    # Little helpers

    def parameter(self, node):
        """The name of the parameter that a node is, or None."""
        return node.target if node is not None and node.op == 'get_attr' and node.target in self.parameters else None

    def elements(self, weight):
        return numbered(self.parameters[weight.name]) if weight.elements is None else weight.elements

    def owned(self, name):
        if name not in self.plan.own:
            self.plan.own.append(name)

    def units(self, name):
        """Numbers of the units of the layer whose weight is `name`, (N,)."""
        plan, (axis, groups) = self.plan, output_axis(self.calls[name][0])
        if layer_name(name) in plan.gates:
            return plan.units.of_gate[plan.gates.index(layer_name(name))]
        return torch.full((self.parameters[name].shape[axis] * groups,), ALWAYS)

    def known(self, node):
        """The unit numbers of a node's output."""
        value = self.values[node]
        return value if isinstance(value, torch.Tensor) else always(node)


def is_pointwise(operation):
    return torch.Tag.pointwise in operation.tags or operation in POINTWISE


def try_zeros(run, given, shape, units):
    """Unit numbers of what works element by element: whose zeros make a zero?"""
    generator = torch.Generator().manual_seed(0)
    trial, numbers = {}, {}
    for i, value in given.items():
        trial[i] = torch.randn(16, generator=generator, dtype=torch.float64)
        numbers[i] = value
        if isinstance(value, Constant):
            trial[i] = trial[i] > 0 if value.tensor.dtype == torch.bool else trial[i].to(value.tensor.dtype)
            numbers[i] = torch.full(value.tensor.shape, ALWAYS)
    result, enough = torch.full(shape, ALWAYS), []
    for n in range(1, len(given) + 1):
        for some in itertools.combinations(given, n):
            if any(less <= set(some) for less in enough):
                continue
            zeros = {i: torch.zeros_like(x) if i in some else x.clone() for i, x in trial.items()}
            if (run(zeros) == 0).all():
                enough.append(set(some))
                sum_of = numbers[some[0]]
                for i in some[1:]:
                    sum_of = units.either(sum_of, numbers[i])
                result = units.both(result, sum_of)
    return result.expand(shape)


def try_numbers(run, given):
    """Unit numbers of an operation's output: of which units' values is it a multiple?

    Four runs, with numbers of its own for each unit in the first three, and the negated ones of the first in the last
    (which tells a maximum from a move).
    """
    generator = torch.Generator().manual_seed(0)
    present = torch.cat([v.flatten().unique() for v in given.values() if isinstance(v, torch.Tensor)]).unique()
    codes = torch.rand(3, len(present), generator=generator, dtype=torch.float64) + 1
    codes = torch.cat([codes, -codes[:1]])
    codes[:, present == NEVER] = 0
    constant = {i: v.tensor.double() if v.tensor.is_floating_point() else v.tensor for i, v in given.items() if isinstance(v, Constant)}
    varied = {i: torch.rand(v.shape, generator=generator, dtype=torch.float64) + 1 for i, v in given.items() if i not in constant}
    outputs = []
    for code in codes:
        values = {i: torch.where(given[i] == ALWAYS, x, code[torch.searchsorted(present, given[i].contiguous())]) for i, x in varied.items()}
        outputs.append(run(constant | values))
    if isinstance(outputs[0], torch.Tensor):
        return recognize(outputs, codes, present)
    return [recognize(part, codes, present) for part in zip(*outputs, strict=True)]


def recognize(outputs, codes, present):
    first, second, third, negated = outputs
    result = torch.full(first.shape, ALWAYS)
    if not first.is_floating_point():
        return result
    ratios, order = (codes[0] / codes[1]).nan_to_num().sort()
    ratio = first / second
    at = torch.searchsorted(ratios, ratio.contiguous()).clamp(0, len(ratios) - 1)
    for candidate in (at - 1).clamp_min(0), at:
        unit = order[candidate]
        same = torch.isclose(ratio, ratios[candidate], rtol=1e-9, atol=0)
        same &= torch.isclose(first / third, codes[0][unit] / codes[2][unit], rtol=1e-9, atol=0)
        same &= torch.isclose(negated, -first, rtol=1e-9, atol=0) & (present[unit] > NEVER)
        result = torch.where(same, present[unit], result)
    zero = (first == 0) & (second == 0) & (third == 0) & (negated == 0)
    return torch.where(zero, NEVER, result)


def arguments(node):
    """The arguments of an operation by name; those that are not given have their defaults."""
    named = {a.name: a.default_value for a in node.target._schema.arguments if a.has_default_value()}
    return named | dict(zip((a.name for a in node.target._schema.arguments), node.args, strict=False)) | node.kwargs


def output_axis(node):
    """Which dimension of a layer's weight its units are, and how many groups divide them."""
    if node.target is aten.embedding.default:
        return 1, 1
    return (1, arguments(node)['groups']) if node.target in TRANSPOSED else (0, 1)


def layer_name(weight):
    return weight.removesuffix('.weight').removesuffix('_weight')


def numbered(p):
    return torch.arange(p.numel()).view(p.shape)


def along(units, dim, node):
    """A layer's units, (N,), as numbers of its output."""
    shape = [1] * len(node.meta['shape'])
    shape[dim] = -1
    return units.view(shape).expand(node.meta['shape'])


def always(node):
    shape = node.meta.get('shape', ())
    if isinstance(shape, list):
        return [torch.full(s, ALWAYS) for s in shape]
    return torch.full(shape, ALWAYS)


def wrap(kind, outputs):
    return [kind(o) for o in outputs] if isinstance(outputs, (tuple, list)) else kind(outputs)

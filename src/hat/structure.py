"""Which units of a network can only be cut out together, and which are needed."""

import torch
from torch import nn

from hat.graph import item, overwritten, record
from hat.operations import (
    CONVOLUTIONS,
    LAYERS,
    NARROWER,
    along,
    always,
    arguments,
    aten,
    cropped,
    is_move,
    is_operation,
    is_pointwise,
    name_of,
)
from hat.probes import move, runner, try_numbers
from hat.reader import make_plan
from hat.task import find
from hat.units import ALWAYS

FIXED = torch.tensor(ALWAYS)


class Structure:
    """Which units of a network can only go together. They have the numbers of the plan; ALWAYS are those that stay.

    layers   name of a weight -> units that it reads, (N_in,); its own, (N_out,); whether it is depthwise
    vectors  name of another parameter or buffer, with an element for each unit -> these units
    """

    def __init__(self, net, inputs):
        self.net, self.plan = net, make_plan(net, inputs)
        self.layers, self.vectors, self.ties, self.values = {}, {}, [], {}
        for node in record(net, inputs).nodes:
            self.values[node] = self.read(node)

    def read(self, node):
        """The units of a node's output, of its shape; None for parameters and constants."""
        if node.op == 'placeholder':
            return always(node)
        given = [self.values[n] for n in node.all_input_nodes if self.values[n] is not None]
        if not given:
            return None
        if node.target is overwritten and not node.users:
            return always(node)
        if node.target is item:
            return given[0][node.args[1]]
        if node.target in LAYERS and arguments(node)['weight'].target in self.plan.shared:
            return self.layer(node, given)
        if node.target in (aten.batch_norm.default, aten.instance_norm.default):
            return self.norm(node)
        if is_operation(node) and isinstance(node.meta['shape'], torch.Size):
            name = name_of(node.target)
            if is_pointwise(node.target):
                return self.elementwise(node, given)
            crops = [(given[0] == given[0].narrow(d, 0, 1)).all() for d in cropped(node)]  # what holds no units
            flattens = name in ('view', 'reshape') and list(node.args[1])[1:] == [-1]
            if flattens or crops and all(crops) or name in NARROWER and node.target is not aten.squeeze.default:
                return self.moved(node, given)
        self.fix(*given)
        return always(node)

    def layer(self, node, given):
        named = arguments(node)
        (x,), name, bias = given, named['weight'].target, named.get('bias')
        writes = self.plan.units.of_gate[self.plan.shared[name].layer]
        if node.target is aten.linear.default:
            reads, depthwise = self.one(x, -1), False
        elif node.target in CONVOLUTIONS:
            reads, groups = self.one(x, 1), named['groups']
            depthwise = groups > 1 and groups == len(reads) == len(writes)
            if depthwise:
                self.tie(reads, writes)
            elif groups > 1:
                self.fix(reads, writes)
                return always(node)
        else:
            self.fix(x, writes)
            return always(node)
        if not isinstance(self.net.get_submodule(name.rpartition('.')[0]), (nn.Linear, nn.modules.conv._ConvNd)):
            self.fix(reads, writes)  # a module that may know its size otherwise
        if name in self.layers:
            self.tie(reads, self.layers[name][0])
        self.layers[name] = reads, writes, depthwise
        if bias is not None and bias.target in self.plan.shared:
            self.vectors[bias.target] = writes
        elif bias is not None:
            self.fix(writes)
        return along(writes, node)

    def norm(self, node):
        given = arguments(node)
        x = self.values[given['input']]
        units = self.one(x, 1)
        for part in (given[key] for key in ('weight', 'bias', 'running_mean', 'running_var')):
            if part is not None and part.op == 'get_attr' and part.target:
                self.tie(units, self.vectors.setdefault(part.target, units))
            elif part is not None:
                self.fix(units)
        return x

    def elementwise(self, node, given):
        units = torch.broadcast_tensors(*given)
        for others in units[1:]:
            self.tie(units[0], others)
        if any(self.values[n] is None and n.meta['shape'].numel() > 1 for n in node.all_input_nodes):
            self.fix(*given)
        return units[0].expand(node.meta['shape'])

    def moved(self, node, given):
        places, run = runner(node)
        places = {i: self.values[other] for i, other in places.items()}
        if any(units is None for units in places.values()):
            self.fix(*given)
            return always(node)
        units = move(run, places) if is_move(node.target) else try_numbers(run, places)[0]
        there = torch.cat([u.unique() for u in given])
        self.fix(there[~torch.isin(there, units)])
        return units

    def one(self, units, dim):
        """The units at each index of a dimension, (n,): a weight there reads all of them."""
        rows = units.movedim(dim, -1).reshape(-1, units.shape[dim])
        self.tie(rows[0], rows)
        return rows[0]

    def fix(self, *units):
        for some in units:
            for each in some if isinstance(some, list) else [some]:
                self.tie(each, FIXED)

    def tie(self, units, others):
        units, others = torch.broadcast_tensors(units, others)
        self.ties.append(torch.unique(units * self.plan.units.count + others))

    @torch.no_grad()
    def keep(self):
        """Which units are to stay, (units,) bool: what is not zero where it is read, and all that is tied to it."""
        plan, ties = self.plan, torch.cat(self.ties).unique()
        left, right = ties // plan.units.count, ties % plan.units.count
        group, before = torch.arange(plan.units.count), None
        while before is None or not torch.equal(group, before):  # the smallest number of those tied together
            low, before = torch.minimum(group[left], group[right]), group
            group = group.scatter_reduce(0, left, low, 'amin').scatter_reduce(0, right, low, 'amin')
            group = group[group]
        attention = plan.units.attention([on.float() for on in self.open_units()])
        needed = torch.zeros(len(group), dtype=torch.bool)
        needed[group[ALWAYS]] = True
        for name, (reads, _, depthwise) in self.layers.items():
            seen = (attention[plan.shared[name].reads] > 0).flatten(1)
            seen = seen.flatten().expand(len(reads)) if depthwise else seen.any(0)
            needed[group[reads[seen]]] = True
        for _, writes, _ in self.layers.values():
            if not needed[group[writes]].any():  # no layer can be empty
                needed[group[writes[0]]] = True
        return needed[group]

    def open_units(self):
        """Which units of each gate are not zero whatever the input is: a list of (N,) bool."""
        plan = self.plan
        on = [[] for _ in plan.gates]
        scales = [(name, gating) for name, gating in plan.gating.items() if gating.gate is not None]
        for name, (gate, units) in plan.outputs.items():
            for leaf, p in self.net.get_submodule(name).named_parameters():
                scales.append((f'{name}.{leaf}', (gate, units.view(-1, *[1] * (p.ndim - 1)))))
        for name, (gate, units) in scales:
            others = [d for d, n in enumerate(units.shape) if n == 1]
            nonzero = find(self.net, name) != 0
            on[gate].append(nonzero.any(dim=others).view(-1) if others else nonzero)
        return [
            torch.stack(parts).any(0) if parts else torch.ones(len(units), dtype=torch.bool)
            for parts, units in zip(on, plan.units.of_gate, strict=True)
        ]

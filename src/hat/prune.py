"""The small plain network that a task needs (section 4.4): what its masks close is cut out.

A unit can go if everything that reads it reads a zero, and if what lies between can become narrower there. A sum, or a
product, ties units of several layers together: they go together or not at all.
"""

import copy

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from hat.graph import item, record
from hat.network import find
from hat.plan import (
    CONVOLUTIONS,
    LAYERS,
    along,
    always,
    arguments,
    aten,
    is_pointwise,
    make_plan,
    try_numbers,
)
from hat.units import ALWAYS

UNUSED = 1e-8  # attention up to this changes nothing that float32 can hold beside a unit in use
FIXED = torch.tensor(ALWAYS)
NARROWER = {  # what, besides element by element, does the same to fewer units
    'adaptive_avg_pool1d', 'adaptive_avg_pool2d', 'adaptive_avg_pool3d', 'adaptive_max_pool2d', 'alias', 'avg_pool1d', 'avg_pool2d', 'avg_pool3d', 'cat', 'clone', 'contiguous', 'detach', 'dropout', 'dropout_', 'feature_dropout', 'flatten', 'max_pool1d', 'max_pool2d', 'max_pool3d', 'mean', 'movedim', 'permute', 'squeeze', 't', 'transpose', 'unsqueeze', 'upsample_bilinear2d', 'upsample_nearest2d',
}


@torch.no_grad()
def prune(network, task):
    """A plain network, without gates, that has the task's outputs in evaluation, cut down to what the task needs."""
    return cut(plain(network, task), network.plan.inputs)


@torch.no_grad()
def plain(network, task):
    """A copy of the network that was converted, with what is the task's in it: no gates, the same outputs in evaluation."""
    masks = [torch.where(a > UNUSED, a, 0) for a in network.masks(task)]
    net, tensors = copy.deepcopy(network.net), network.tensors(task, masks)
    for name, (gate, _) in network.plan.outputs.items():
        layer = net.get_submodule(name)
        layer._forward_hooks.clear()
        del layer.attention, tensors[f'{name}.attention']
        for leaf, p in layer.named_parameters():
            tensors[f'{name}.{leaf}'] = p * masks[gate].view(-1, *[1] * (p.ndim - 1))
    for name, tensor in tensors.items():
        put(net, name, tensor.clone())
    return net.eval()


@torch.no_grad()
def cut(net, inputs):
    """A copy of a network without the units that are zero whatever its input is: whose weights and bias, or scale and
    shift of the batch norm that follows, are zero.

    inputs  a tuple of what it takes; it is run on them
    """
    net = copy.deepcopy(net).eval()
    structure = _Structure(net, inputs)
    keep = structure.keep()
    for name, (reads, writes, depthwise) in structure.layers.items():
        weight = find(net, name)[keep[writes]]
        weight = weight if depthwise else weight[:, keep[reads]]
        put(net, name, weight)
        n_out, n_in = len(weight), len(weight) if depthwise else weight.shape[1]
        sizes = {'out_channels': n_out, 'out_features': n_out, 'in_channels': n_in, 'in_features': n_in}
        describe(net, name, sizes | ({'groups': n_out} if depthwise else {}))
    for name, units in structure.vectors.items():
        put(net, name, find(net, name)[keep[units]])
        describe(net, name, {'num_features': int(keep[units].sum())})
    return net


class _Structure:
    """Which units of a network can only go together. They have the numbers of the plan; ALWAYS are those that stay.

    layers   name of a weight -> units that it reads, (N_in,); its own, (N_out,); whether it is depthwise
    vectors  name of another parameter or buffer, with an element for each unit -> these units
    """

    def __init__(self, net, inputs):
        self.net, self.plan = net, make_plan(net, inputs, heads=False)
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
        if node.target is item:
            return given[0][node.args[1]]
        if node.target in LAYERS and arguments(node)['weight'].target in self.plan.shared:
            return self.layer(node, given)
        if node.target in (aten.batch_norm.default, aten.instance_norm.default):
            return self.norm(node)
        if isinstance(node.target, torch._ops.OpOverload) and isinstance(node.meta['shape'], torch.Size):
            name = node.target._overloadpacket.__name__
            if is_pointwise(node.target):
                return self.elementwise(node, given)
            if name in NARROWER or name in ('view', 'reshape') and list(node.args[1])[1:] == [-1]:
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
        if name in self.layers:
            self.tie(reads, self.layers[name][0])
        self.layers[name] = reads, writes, depthwise
        if bias is not None and bias.target in self.plan.shared:
            self.vectors[bias.target] = writes
        elif bias is not None:
            self.fix(writes)
        return along(writes, 1 if node.target in CONVOLUTIONS else -1, node)

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
        leaves, form = tree_flatten((node.args, node.kwargs))
        places = {i: self.values[leaf] for i, leaf in enumerate(leaves) if isinstance(leaf, torch.fx.Node)}
        if any(units is None for units in places.values()):
            self.fix(*given)
            return always(node)

        def run(values):
            args, kwargs = tree_unflatten([values.get(i, leaf) for i, leaf in enumerate(leaves)], form)
            return node.target(*args, **kwargs)

        units = try_numbers(run, places)
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
        """Which units are to stay, (units,) bool: all that are tied together if something reads one that is not zero."""
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
            seen = seen.flatten() if depthwise else seen.any(0)
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
            layer = self.net.get_submodule(name)
            scales += [(f'{name}.{leaf}', (gate, units.view(-1, *[1] * (p.ndim - 1)))) for leaf, p in layer.named_parameters()]
        for name, (gate, units) in scales:
            others = [d for d, n in enumerate(units.shape) if n == 1]
            nonzero = find(self.net, name) != 0
            on[gate].append(nonzero.any(dim=others).view(-1) if others else nonzero)
        return [
            torch.stack(parts).any(0) if parts else torch.ones(len(units), dtype=torch.bool)
            for parts, units in zip(on, plan.units.of_gate, strict=True)
        ]


def put(net, name, tensor):
    """Make a tensor the parameter or buffer of that name."""
    path, _, leaf = name.rpartition('.')
    module = net.get_submodule(path)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[leaf] = tensor


def describe(net, name, sizes):
    """Set what the module that has the parameter `name` says of its size."""
    module = net.get_submodule(name.rpartition('.')[0])
    for attribute in sizes.keys() & vars(module).keys():
        setattr(module, attribute, sizes[attribute])

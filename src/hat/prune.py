"""The small plain network that a task needs (section 4.4): what its masks close is cut out.

A unit can go if everything that reads it reads a zero, and if what lies between can become narrower there. A sum, or a
product, ties units of several layers together: they go together or not at all.
"""

import copy

import torch
from torch import nn

from hat.network import gate_output
from hat.structure import Structure
from hat.task import find

UNUSED = 1e-8  # attention up to this changes nothing that float32 can hold beside a unit in use


@torch.no_grad()
def prune(network, task):
    """A plain network, without gates, that has the task's outputs in evaluation, cut down to what the task needs."""
    return cut(plain(network, task), network.plan.inputs)


@torch.no_grad()
def plain(network, task):
    """A copy of the network as it was before conversion, with the task in it: no gates, its outputs in evaluation."""
    network.settle()
    masks = [torch.where(a > UNUSED, a, 0) for a in network.masks(task)]
    net, tensors = copy.deepcopy(network.net), network.tensors(task, masks)
    for name, (gate, _) in network.plan.outputs.items():
        layer = net.get_submodule(name)
        for key in [key for key, hook in layer._forward_hooks.items() if hook is gate_output]:
            del layer._forward_hooks[key]
        del layer.attention, tensors[f'{name}.attention']
        for leaf, p in layer.named_parameters():
            tensors[f'{name}.{leaf}'] = p * masks[gate].view(-1, *[1] * (p.ndim - 1))
    aliases = {}  # of parameters that have several names
    for name, p in network.net.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(p), []).append(name)
    for name, tensor in tensors.items():
        for alias in aliases.get(id(find(network.net, name)), [name]):
            put(net, alias, tensor.clone())
    return net.eval()


@torch.no_grad()
def cut(net, inputs):
    """A copy of a network without the units that are zero whatever its input is: whose weights and bias, or scale and
    shift of the batch norm that follows, are zero.

    inputs  a tuple of what it takes; it is run on them
    """
    net = copy.deepcopy(net).eval()
    structure = Structure(net, inputs)
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

"""The small plain network that a task needs (section 4.4): what its masks close is cut out.

A unit can go if everything that reads it reads a zero, and if what lies between can become narrower there. A sum, or a
product, couples units of several layers: they go together or not at all.
"""

import copy

import torch
from torch import nn

from hat.names import get_tensor, named_tensors, set_tensor
from hat.network import Network
from hat.structure import Structure

UNUSED = 1e-8  # attention up to this changes nothing that float32 can hold beside a unit in use


@torch.no_grad()
def prune(network: Network, task: int) -> nn.Module:
    """A plain network, without gates, that has the task's outputs in evaluation, cut down to what the task needs.

    It has the modules of the network that was converted, on the same device and of the same type, and needs nothing of
    this library. Raises IndexError for a task that is none.
    """
    return remove_zero_channels(plain(network, task), network.plan.inputs)


@torch.no_grad()
def plain(network: Network, task: int) -> nn.Module:
    """A copy of the network as it was before conversion, with the task in it: no gates, its outputs in evaluation."""
    masks = [torch.where(a > UNUSED, a, 0) for a in network.masks(task)]
    tensors = network.tensors(task, masks, outputs=True)
    net = copy.deepcopy(network.net, {id(network): network})
    net._load_state_dict_post_hooks.clear()
    names = {id(get_tensor(net, name)): name for name in tensors}
    for name, tensor in named_tensors(net, remove_duplicate=False):
        set_tensor(net, name, tensors[names[id(tensor)]].clone())
    for weight, _, axis in network.plan.heads:
        n = get_tensor(net, weight).shape[axis]
        set_sizes(net, weight, {'out_features': n, 'out_channels': n})
    for module in net.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # it would put zeros at padded positions
    return net.eval()


@torch.no_grad()
def remove_zero_channels(net: nn.Module, inputs: tuple[tuple, dict]) -> nn.Module:
    """A copy of a network without the units that are zero whatever its input is: whose weights and bias, or scale and
    shift of the batch norm that follows, are zero.

    inputs: what it is run on, positional and by keyword.
    """
    net = copy.deepcopy(net).eval()
    structure = Structure(net, inputs)
    keep = structure.kept_units()
    for name, (ins, outs, depthwise) in structure.layers.items():
        weight = get_tensor(net, name)[keep[outs]]
        weight = weight if depthwise else weight[:, keep[ins]]
        set_tensor(net, name, weight)
        n_out, n_in = len(weight), len(weight) if depthwise else weight.shape[1]
        sizes = {'out_channels': n_out, 'out_features': n_out, 'in_channels': n_in, 'in_features': n_in}
        set_sizes(net, name, sizes | ({'groups': n_out} if depthwise else {}))
    for name, units in structure.vectors.items():
        set_tensor(net, name, get_tensor(net, name)[keep[units]])
        set_sizes(net, name, {'num_features': int(keep[units].sum())})
    return net


def set_sizes(net: nn.Module, name: str, sizes: dict[str, int]) -> None:
    """Set what the module that has the parameter `name` says of its size."""
    module = net.get_submodule(name.rpartition('.')[0])
    for attribute in sizes.keys() & vars(module).keys():
        setattr(module, attribute, sizes[attribute])

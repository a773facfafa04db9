"""The small plain network that a task needs (section 4.4): what its masks close is cut out.

A unit can go if everything that reads it reads a zero, and if what lies between can become narrower there. A sum, or a
product, couples units of several layers: they go together or not at all.
"""

import copy

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from hat.errors import warn
from hat.names import get_tensor, named_tensors, set_tensor
from hat.network import Network
from hat.plan import Inputs
from hat.structure import Structure

UNUSED = 1e-8  # attention up to this changes nothing that float32 can hold beside a unit in use


@torch.no_grad()
def prune(network: Network, task: int) -> nn.Module:
    """A plain network, without gates, that has the task's outputs in evaluation, cut down to what the task needs.

    It has the modules of the network that was converted, on the same device and of the same type, and needs nothing of
    this library. Both are run on the example that the network was converted with; where the small one does not do the
    same, as forward() goes by the size of something that is cut, the plain one is returned, with a warning.

    Raises IndexError for a task that is none.
    """
    net = plain(network, task)
    small = remove_zero_channels(net, network.plan.inputs)
    if why := difference(net, small, network.plan.inputs):
        warn(f'task {task} cannot be cut down, and stays as large as the network was: {why}')
    return net if why else small


def difference(net: nn.Module, small: nn.Module, inputs: Inputs) -> str:
    """What tells a network from a smaller one, in words, or ''."""
    like = next(net.parameters())
    args, kwargs = tree_map_only(torch.Tensor, lambda x: x.to(like if x.is_floating_point() else like.device), inputs)
    net, small = copy.deepcopy(net), copy.deepcopy(small)  # forward() may change them
    expected = tree_leaves(net(*args, **kwargs))
    try:
        pairs = [p for p in zip(tree_leaves(small(*args, **kwargs)), expected, strict=True) if torch.is_tensor(p[0])]
    except Exception as error:
        return f'{type(error).__name__}: {str(error).splitlines()[0]}'
    tolerance = 1e-5 if torch.finfo(like.dtype).bits > 16 else 1e-2
    largest = [float((a - b).abs().max()) / (float(b.abs().max()) or 1) for a, b in pairs if b.is_floating_point()]
    return '' if all(each <= tolerance for each in largest) else f'its outputs would differ by {max(largest):.1g}'


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
def remove_zero_channels(net: nn.Module, inputs: Inputs) -> nn.Module:
    """A copy of a network without the units that are zero whatever its input is: whose weights and bias, or scale and
    shift of the batch norm that follows, are zero.

    inputs: what it is run on, positional and by keyword.
    """
    net = copy.deepcopy(net).eval()
    with torch.device('cpu'):  # whatever the default device is
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

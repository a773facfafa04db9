"""Pruning (section 4.4): the small network without gates that a task needs. Units that its masks close are removed.

A unit can be removed if it is zero for all layers that read it, and if the operations in between still work without it.
A sum or a product couples units of several layers: they are removed together or not at all.
"""

import copy

import torch
from torch import Tensor, nn

from hat.errors import warn
from hat.names import fill, first_wide, frozen_again, get_tensor, named_tensors
from hat.nested import distance, tensors_in
from hat.network import Network
from hat.plan import Inputs
from hat.states import sizes_of_heads
from hat.structure import Structure
from hat.trial import as_it_runs
from hat.weights import OutputMask

UNUSED = 1e-8  # attention up to this is lost to rounding in float32 beside a used unit


@torch.inference_mode(False)
@torch.no_grad()
def prune(network: Network, task: int) -> nn.Module:
    """A small network without gates that has the outputs of a task in evaluation.

    It consists of the modules of the original network, on the same device and of the same type, and does not need this
    library. It is compared with plain(network, task) on the example inputs of convert(). If the outputs differ, because
    forward() depends on a size that has changed, the result is plain(network, task), with a warning. For a task that is
    not learned, its present masks and weights are taken, with a warning.

    Raises:
        IndexError: there is no such task.
    """
    task = network.index(task)
    net = plain(network, task)
    if not network.learned[task]:
        warn(f'task {task} is not learned: the network is that of its present masks')
    small = remove_zero_channels(net, network.plan.inputs)
    if why := difference(net, small, network.plan.inputs):
        warn(f'task {task} cannot be pruned and keeps the size of the network: {why}')
    return net if why else small


def difference(net: nn.Module, small: nn.Module, inputs: Inputs) -> str:
    """Why a smaller network does not replace a network, in words; '' if it does."""
    like = first_wide(net)
    devices, kind = [like.device] if like.is_cuda else [], like.device.type

    def outputs(net: nn.Module) -> list[Tensor]:  # always with the same random numbers
        failed: list[Exception] = []
        for cast in True, False:
            args, kwargs = as_it_runs(inputs, like, cast)
            with torch.random.fork_rng(devices), torch.autocast(kind, enabled=False):
                try:
                    return tensors_in(copy.deepcopy(net)(*args, **kwargs))  # forward() may change it
                except Exception as error:
                    failed.append(error)
        raise failed[0]

    expected = outputs(net)
    try:
        found = outputs(small)
    except Exception as error:
        return f'{type(error).__name__}: {str(error).splitlines()[0]}'
    tolerance = 1e-5 if torch.finfo(like.dtype).bits > 16 else 1e-2
    if [x.shape for x in found] != [x.shape for x in expected]:
        return 'its outputs would have another shape'
    d = distance(found, expected)
    return '' if d <= tolerance else f'its outputs would differ by {d:.1g}'


@torch.inference_mode(False)
@torch.no_grad()
def plain(network: Network, task: int) -> nn.Module:
    """A copy of the original network, without gates, that has the outputs of a task in evaluation."""
    masks = [torch.where(a > UNUSED, a, 0) for a in network.masks(task)]
    tensors = network.tensors(task, masks, outputs=True)
    net = copy.deepcopy(network.net, {id(network): network})
    net._load_state_dict_post_hooks.clear()
    names = {id(get_tensor(net, name)): name for name in tensors}
    for module in net.modules():
        frozen_again(vars(module))
    for _, tensor in named_tensors(net):
        fill(tensor, tensors[names[id(tensor)]].clone())
    for head, n in zip(network.plan.heads, sizes_of_heads(network, net), strict=True):
        set_sizes(net, head.weight, {'out_features': n, 'out_channels': n})
    for name, gate in network.plan.outputs.items():
        if not gate.folded:
            net.get_submodule(name).register_forward_hook(OutputMask(gate, masks, network.hard))
    for module in net.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # it would set padded positions to zero
    return net.eval()


@torch.no_grad()
def remove_zero_channels(net: nn.Module, inputs: Inputs) -> nn.Module:
    """A copy of a network without the units that are always zero: those whose weights and bias are zero, or the scale
    and shift of the batch norm after them.

    inputs: example inputs, positional and by keyword.
    """
    net = copy.deepcopy(net).eval()
    with torch.device('cpu'), torch.autocast('cpu', enabled=False):  # whatever the caller has chosen
        structure = Structure(net, inputs)
        if not structure.plan.gates:
            return net
        keep = structure.kept_units()
    for name, (ins, outs, depthwise) in structure.layers.items():
        weight = get_tensor(net, name)[keep[outs]]
        weight = weight if depthwise else weight[:, keep[ins]]
        fill(get_tensor(net, name), weight)
        n_out, n_in = len(weight), len(weight) if depthwise else weight.shape[1]
        sizes = {'out_channels': n_out, 'out_features': n_out, 'in_channels': n_in, 'in_features': n_in}
        set_sizes(net, name, sizes | ({'groups': n_out} if depthwise else {}))
    for name, units in structure.vectors.items():
        fill(vector := get_tensor(net, name), vector[keep[units]])
        set_sizes(net, name, {'num_features': int(keep[units].sum())})
    return net


def set_sizes(net: nn.Module, name: str, sizes: dict[str, int]) -> None:
    """Set the size attributes, such as out_features, of the module that has the parameter `name`."""
    module = net.get_submodule(name.rpartition('.')[0])
    for attribute in sizes.keys() & vars(module).keys():
        setattr(module, attribute, sizes[attribute])

"""Trial runs of a network: its outputs for the example inputs, and which operations a batch runs."""

import contextlib
import functools
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hat import weights
from hat.graph import ParameterChanged, Recorder, addresses, copied, no_attention_fast_path, whole_operations
from hat.names import first_wide
from hat.nested import mapped, tensors_in
from hat.plan import Inputs
from hat.replica import Replica

if TYPE_CHECKING:
    from hat.network import Network


def operations(network: 'Network', task: int, inputs: tuple, named: dict[str, Any]) -> list[str]:
    """Names of the operations that a task runs in evaluation for a batch, as Recorder.operations(). As the example ran,
    without autocast, in which recurrent operations fail below autograd."""
    like, copies = first_wide(network.net), (inputs, named)
    cast = torch.is_autocast_enabled(like.device.type)
    with contextlib.suppress(Exception):  # forward() may change lists and dicts; of some kinds there are no copies
        copies = mapped(lambda x: x.to(like.dtype) if cast and x.is_floating_point() else x, copies)
    with contextlib.suppress(ParameterChanged):  # it changes an input: it runs on copies of the tensors, too
        return operations_on(network, task, *copies, addresses(tensors_in(copies)))
    return operations_on(network, task, *mapped(Tensor.clone, copies))


def operations_on(network: 'Network', task: int, inputs: tuple, named: dict[str, Any],
                  read_only: Collection[int] = ()) -> list[str]:  # fmt: skip
    """As operations(). read_only: as in Recorder."""
    tensors = network.tensors(task, network.masks(task), outputs=True)
    buffers = {name for name, _ in network.net.named_buffers()} & tensors.keys()
    tensors |= {name: tensors[name].clone() for name in buffers}  # forward() may change them
    replica, recorder = Replica(network.net, tensors, training=False), Recorder({}, tensors_in((inputs, named)))
    recorder.read_only, kind = read_only, first_wide(network.net).device.type
    with (torch.random.fork_rng(devices=[]), whole_operations(), no_attention_fast_path(),
          torch.autocast(kind, enabled=False), recorder):  # fmt: skip
        replica.network(*inputs, **named)
    torch.clear_autocast_cache()  # of weights that were cast here, without gradients
    return recorder.operations()


def example_outputs(network: 'Network', task: int) -> list[Tensor]:
    """The outputs of a task for the example inputs, in evaluation and without autocast; none, if the network fails on
    them."""
    masks = network.masks(task)
    return evaluated(network, task, masks, network.tensors(task, masks), network.plan.inputs)


@torch.no_grad()
def evaluated(network: 'Network', task: int, masks: list[Tensor], tensors: dict[str, Tensor],
              inputs: Inputs) -> list[Tensor]:  # fmt: skip
    """As example_outputs(), with any masks, tensors in place of the network's, and inputs."""
    tensors = {name: tensor.detach() for name, tensor in tensors.items()}
    buffers = {name for name, _ in network.net.named_buffers()} & tensors.keys()
    hooks, like = weights.output_masks(network, masks, network.hard and network.done[task]), first_wide(network.net)
    devices, kind = [like.device] if like.is_cuda else [], like.device.type
    for cast in True, False:
        present = tensors | {name: tensors[name].clone() for name in buffers}  # forward() may change them
        replica = Replica(network.net, present, hooks, training=False)
        with (torch.random.fork_rng(devices), no_attention_fast_path(), torch.autocast(kind, enabled=False),
              contextlib.suppress(Exception)):  # fmt: skip
            args, kwargs = as_it_runs(inputs, like, cast)
            return tensors_in(replica.network(*args, **kwargs))
    return []


@torch.no_grad()
def with_kept_alone(network: 'Network', task: int, inputs: Inputs) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs of a task in which a random half of the gates is open, and the same with zeros in place of all that
    would not be kept if it were learned."""
    cpu = torch.Generator().manual_seed(0)
    masks = [(torch.randperm(len(a), generator=cpu, device='cpu') % 2 == 0).to(a) for a in network.masks(task)]
    tensors, is_open = network.tensors(task, masks), network.plan.units.attention(masks) > 0.5
    kept = {name: torch.where(network.between(name, is_open), tensors[name], 0) for name in network.plan.shared}
    return evaluated(network, task, masks, tensors, inputs), evaluated(network, task, masks, tensors | kept, inputs)


def with_other_noise(network: 'Network', task: int) -> list[Tensor]:
    """As example_outputs(), with other random numbers, so that what differs is random."""
    like = first_wide(network.net)
    with torch.random.fork_rng([like.device] if like.is_cuda else []):
        torch.rand(1), torch.rand(1, device=like.device)
        return example_outputs(network, task)


def fast_path_differs(net: nn.Module, inputs: Inputs) -> bool:
    """Whether PyTorch's fast path for attention changes the outputs of the network, or would with padding, where the
    inputs have a mask for it and no padding."""
    replica, _, (args, kwargs) = copied(net, inputs)
    again, named_again = mapped(Tensor.clone, (args, kwargs))
    unpadded = []

    def watched(forward: Callable, *args: Any, **named: Any) -> Any:
        mask = named.get('src_key_padding_mask', args[2] if len(args) > 2 else None)
        unpadded.append(isinstance(mask, Tensor) and not mask.any())
        return forward(*args, **named)

    for module in replica.network.modules():
        if isinstance(module, nn.TransformerEncoder) and module.use_nested_tensor:
            vars(module)['forward'] = functools.partial(watched, module.forward)
    with torch.no_grad():
        fast = replica.network(*args, **kwargs)
        with no_attention_fast_path():
            output = replica.network(*again, **named_again)
    pairs = zip(tensors_in(fast), tensors_in(output), strict=True)
    return any(unpadded) or not all(torch.allclose(a, b, 1e-3, 1e-4, equal_nan=True) for a, b in pairs)


@torch.no_grad()
def outputs(net: nn.Module, inputs: Inputs, copies: bool) -> list[Tensor]:
    """The outputs of the network in evaluation, always with the same random numbers of the CPU; none, if it fails.
    copies: as for copied()."""
    replica, _, (args, kwargs) = copied(net, inputs, copies=copies)
    with torch.random.fork_rng(devices=[]), no_attention_fast_path(), contextlib.suppress(Exception):
        torch.default_generator.manual_seed(0)
        return tensors_in(replica.network(*args, **kwargs))
    return []


def as_it_runs(inputs: Inputs, like: Tensor, cast: bool) -> Inputs:
    """Copies of example inputs, which forward() may change, of the device of a tensor of the network. cast: and of its
    type; a network of several types may fail then."""
    return mapped(lambda x: x.to(like if cast and x.is_floating_point() else like.device).clone(), inputs)

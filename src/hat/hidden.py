"""Hidden state of a network: what forward() changes besides its outputs and its buffers."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from hat.graph import ParameterChanged, Recorder, addresses, copied
from hat.names import named_tensors
from hat.nested import distance, mapped
from hat.plan import Inputs
from hat.replica import CONTAINERS, STANDARD, Replica, is_simple

ROUNDING = 1e-5  # difference of tensors, in units of the largest value, up to which it is rounding


def changed_in_training(net: nn.Module, inputs: Inputs) -> tuple[list[str], list[str]]:
    """Names of the parameters that forward() writes to or replaces in training, and of other module attributes that it
    changes: tensors, numbers, lists, dicts and sets of both, and buffers that are None before. Of those that it makes,
    of private ones, which nobody else reads, and of lists, dicts and sets that it replaces, those whose values depend
    on the batch before."""
    try:
        return run_in_training(net, inputs, copies=False)
    except ParameterChanged:
        return run_in_training(net, inputs, copies=True)


def run_in_training(net: nn.Module, inputs: Inputs, copies: bool) -> tuple[list[str], list[str]]:
    """As changed_in_training(). copies: of the parameters."""
    replica, tensors, batch = copied(net, inputs, training=True, copies=copies)
    guard = Recorder({}, [])
    guard.read_only = () if copies else addresses(net.parameters())
    parameters = {id(module): dict(module._parameters) for module in replica.copies.values()}
    before, buffers = attributes(replica.network), buffers_of(replica.network)
    contents = {id(value): content(value) for value in before.values() if isinstance(value, CONTAINERS)}

    def changed(old: Any, new: Any) -> bool:
        if isinstance(old, Tensor):
            return new is not old or bool(old._version)
        if isinstance(old, CONTAINERS):
            return content(old) != contents[id(old)]
        return type(old) in (int, float, bool) and (type(new) is not type(old) or new != old)

    finished = run(replica, batch, guard)
    replaced = {id(old) for module in replica.copies.values() for key, old in parameters[id(module)].items()
                if module._parameters.get(key) is not old}  # fmt: skip
    written = [name for name, _ in net.named_parameters()
               if id(tensors[name]) in replaced or addresses([tensors[name]]) & guard.written]  # fmt: skip
    after, new = attributes(replica.network), buffers_of(replica.network)
    different = [name for name, old in before.items() if changed(old, after.get(name))]
    by_value = {name for name in different if name.rpartition('.')[2].startswith('_')}
    by_value |= {name for name, old in before.items() if isinstance(old, CONTAINERS) and after.get(name) is not old}
    others = [name for name in different if name not in by_value]
    others += [name for name, old in buffers.items() if old is None and new.get(name) is not None]
    known = {name for name, value in (before | buffers).items() if value is not None} - by_value | {*others}
    if any(value is not None and name not in known for name, value in (after | new).items()):
        others += [name for name in remembered(net, replica, tensors, batch, guard, finished) if name not in known]
    return written, others


def remembered(net: nn.Module, replica: Replica, tensors: dict[str, Tensor], batch: Inputs, guard: Recorder,
               finished: bool) -> list[str]:  # fmt: skip
    """Names of the attributes and buffers of a replica, which has run a batch, whose values depend on that batch.

    After another batch they differ from those of a new replica, which starts with the same parameters and buffers. What
    differs between two of these is a time, or a random number that is not PyTorch's.

    tensors: what the replica had in place of parameters and buffers at first. finished: whether it came to its end.
    """
    state = tensors | {name: x for name, x in named_tensors(replica.network) if name in tensors}
    first, second = (Replica(net, {name: x if addresses([x]) & {*guard.read_only} else x.detach().clone()
                                   for name, x in state.items()}, training=True) for _ in range(2))  # fmt: skip
    if not run(replica, other(batch), guard) == run(first, other(batch), guard) == finished:
        return []
    values, expected = (attributes(one.network) | buffers_of(one.network) for one in (replica, first))
    names = [name for name in values | expected if differ(values.get(name), expected.get(name))]
    if names:
        run(second, other(batch), guard)
        values = attributes(second.network) | buffers_of(second.network)
    return [name for name in names if not differ(values.get(name), expected.get(name))]


def run(replica: Replica, inputs: Inputs, guard: Recorder) -> bool:
    """Run a batch. Returns whether the network did not fail, as batch norm does on 1 image."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), guard:
            replica.network(*inputs[0], **inputs[1])
    except ParameterChanged:
        raise
    except Exception:
        return False
    finally:
        guard.known.clear()  # the activations
    return True


def other(inputs: Inputs) -> Inputs:
    """Inputs with other values of floating-point numbers, between zero and those of these inputs."""
    generator = torch.Generator().manual_seed(0)

    def smaller(x: Tensor) -> Tensor:
        return x * torch.rand(x.shape, generator=generator).to(x.dtype) if x.is_floating_point() else x.clone()

    return mapped(smaller, inputs)


def attributes(network: nn.Module) -> dict[str, Any]:
    """The attributes of modules that are neither parameters nor buffers, by name."""
    return {f'{path}.{key}'.lstrip('.'): value
            for path, module in network.named_modules() for key, value in vars(module).items()
            if not (key in STANDARD or is_computed(module, key))}  # fmt: skip


def buffers_of(network: nn.Module) -> dict[str, Tensor | None]:
    """The buffers by name, with those that are None."""
    return {f'{path}.{key}'.lstrip('.'): tensor for path, module in network.named_modules()
            for key, tensor in module._buffers.items()}  # fmt: skip


def is_computed(module: nn.Module, name: str) -> bool:
    """Whether an attribute is computed from parameters, as torch.nn.utils.weight_norm, spectral_norm and prune do."""
    return any(f'{name}_{suffix}' in module._parameters for suffix in ('v', 'orig'))


def content(container: Any) -> list[Any]:
    """What is in a list, dict or set, to be compared: its length; of what tree_leaves finds in it, versions of tensors,
    values of numbers, ids of all else."""
    parts = tree_leaves(container)
    tensors = [(id(part), version(part)) for part in parts if isinstance(part, Tensor)]
    return [len(container), *tensors, *(part if is_simple(part) else id(part) for part in parts)]


def version(tensor: Tensor) -> int:
    """How often a tensor has been changed in place; of inference mode, where this is not known, 1."""
    return 1 if tensor.is_inference() else tensor._version


def differ(a: Any, b: Any) -> bool:
    """Whether two values differ in their tensors and numbers by more than rounding, as far as these can be compared."""
    with contextlib.suppress(Exception):  # such as of quantized tensors, or of a list that contains itself
        return distance(numbers(a), numbers(b)) > ROUNDING
    return False


def numbers(value: Any) -> list[Tensor]:
    """The tensors and numbers in a value."""
    parts = [part for part in tree_leaves(value) if isinstance(part, (Tensor, int, float))]
    tensors = [part.detach() if isinstance(part, Tensor) else torch.tensor(float(part), dtype=torch.float64)
               for part in parts]  # fmt: skip
    return [(torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).double() for x in tensors if not x.is_meta]

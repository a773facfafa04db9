"""convert(): hard attention in any network."""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import nn

from hat import init as inits
from hat import regularizers, schedules
from hat.errors import CannotConvert, warn
from hat.functional import GRADIENTS
from hat.hidden import ROUNDING, changed_in_training
from hat.names import named_tensors
from hat.nested import distance, mapped, tensors_in
from hat.network import Network
from hat.plan import Inputs, Plan
from hat.reader import Reader
from hat.task import size_of_head
from hat.trial import fast_path_differs, outputs
from hat.view import View
from hat.watch import listed

Names = Callable[[str], bool] | Iterable[str]
HOMES = {'init': 'init', 'schedule': 'schedules', 'regularizer': 'regularizers'}  # modules of these arguments


@torch.inference_mode(False)
def convert(net: nn.Module, n_tasks: int, example_input: Any, n_classes: int | list[int] | None = None, *,
            gates: Names | None = None, ignore: Names | None = None, heads: bool = True, s_max: float = 400.0,
            hard: bool = True, gradient: str = 'released', init: Callable = inits.normal,
            schedule: Callable = schedules.linear, regularizer: Callable = regularizers.by_network,
            check: bool | int = 2, copy: bool = True, generator: torch.Generator | None = None) -> Network:  # fmt: skip
    """Put gates into a network, so that it learns tasks one after the other without forgetting (Serra et al. 2018).

    Args:
        net: the network. It is copied and not changed (`copy`). Its weights are the initial weights: with all gates
            open each task has the outputs of `net`.
        n_tasks: number of tasks; add_task() adds more.
        example_input: inputs of the network, (B, ...): a tensor, a tuple for several inputs, a dict for inputs by
            keyword, or a pair of both. The network runs on it once, which shows how units are connected; prune() uses
            it again.
        n_classes: size of each task's head, a number or a list; None: as in `net`.
        gates: the layers with gates: a function of a layer's name, or a list of names; None: all but the last layer
            and layers with a single unit.
        ignore: modules, layers or parameters that are left alone: a function of a name, or a list of names. They have
            no gates, every task uses them, and the first task that is learned fixes them.
        heads: True: each task has an output layer of its own. False: tasks share the last layer, which has no gate:
            each learned task fixes its weights from the units that the task uses, and the first one its bias.
        s_max: largest scale of the gates (Eq. 3).
        hard: masks in evaluation, and those of learned tasks, are rounded to {0, 1}: outputs of learned tasks then stay
            bit-identical, whatever happens to the parameters. False: they are sigmoids at s_max, as in the paper, and
            the gradients of Eq. 2 are the only protection: outputs of learned tasks drift a little with plain SGD, and
            more with momentum, Adam or weight decay.
        gradient: of the embeddings (section 2.5). 'released': rounded as in the paper's code, in float32, where open
            gates close more slowly; 'exact': the formula.
        init, schedule, regularizer: initial embeddings, annealing and regularization: functions of hat.init,
            hat.schedules and hat.regularizers, or your own.
        check: number of training batches of each task in which the operations of forward() are compared with those for
            example_input, and the gates are tried, at the cost of three evaluations each; True: all batches.
        copy: False: convert `net` itself, without a second copy of its weights in memory: it belongs to the converted
            network then.
        generator: for initial values.

    Returns:
        The converted network.

    Raises:
        CannotConvert: the network cannot be read, or has no layer that could have a gate; the message names the
            operation, its module and source line.
        ValueError, TypeError: arguments are invalid.

    Example:
        model = hat.convert(torchvision.models.resnet18(), n_tasks=5, example_input=torch.zeros(2, 3, 32, 32))
    """
    check_network(net)
    check_settings(n_tasks, s_max, check, gradient, {'init': init, 'schedule': schedule, 'regularizer': regularizer})
    classes, chosen, left_alone = sizes(n_tasks, n_classes), names('gates', gates), names('ignore', ignore)

    def gated(layer: str, last: bool, n_units: int) -> bool:
        if chosen is None:
            return not last and n_units > 1  # one that is closed would cut the network
        return chosen(layer) if callable(chosen) else layer in chosen

    def ignored(parameter: str) -> bool:
        if left_alone is None:
            return False
        parts = parameter.split('.')
        prefixes = ['.'.join(parts[:n]) for n in range(1, len(parts) + 1)]
        return any(left_alone(name) if callable(left_alone) else name in left_alone for name in prefixes)

    net, inputs = copied(net) if copy else net, example(example_input)
    found = look(net, inputs, heads, gated, ignored)
    plan = found.plan
    if isinstance(chosen, list) and (unknown := [name for name in chosen if name not in plan.layers]):
        raise ValueError(f'gates: {unknown[0]!r} is none of the layers that tasks share: {", ".join(plan.layers)}')
    known = dict(net.named_modules()).keys() | dict(net.named_parameters()).keys()
    if isinstance(left_alone, list) and (unknown := [name for name in left_alone if name not in known]):
        raise ValueError(f'ignore: {unknown[0]!r} is neither a module nor a parameter of the network')
    warn_of(found, net, inputs)
    if not plan.gates:
        raise CannotConvert(
            'the network has no layer that could have a gate: it needs one before the last, and gates= to allow it'
        )
    if n_classes is not None and len(plan.heads) != 1:
        raise ValueError(f'n_classes requires exactly one output layer; this network has {len(plan.heads)}')
    check = int(1e18 if check is True else check)
    model = Network(net, plan, classes, s_max, hard, gradient, init, schedule, regularizer, check, generator)
    for task in {n: t for t, n in enumerate(classes)}.values() if found.runs else ():
        model.try_head(task)
    return model


def check_settings(n_tasks: int, s_max: float, check: Any, gradient: Any, functions: dict[str, Any]) -> None:
    """Raises ValueError. functions: init, schedule and regularizer, by these names."""
    if not isinstance(n_tasks, Integral) or not isinstance(s_max, (Real, torch.Tensor)) or not 0 < s_max < math.inf:
        raise ValueError(f'n_tasks must be a whole number and s_max above 0 and finite, not {n_tasks!r} and {s_max!r}')
    if not isinstance(check, Real):
        raise ValueError(f'check must be a number of batches, True or False, not {check!r}')
    if gradient not in GRADIENTS:
        raise ValueError(f'gradient must be one of {", ".join(GRADIENTS)}, not {gradient!r}')
    for name, function in functions.items():
        if not callable(function):
            raise ValueError(f'{name} must be a function, such as those of hat.{HOMES[name]}, not {function!r}')


def sizes(n_tasks: int, n_classes: Any) -> list[int] | list[None]:
    """The size of each task's head, or None. Raises ValueError."""
    several = isinstance(n_classes, Iterable) and not isinstance(n_classes, (str, Mapping)) and (
        getattr(n_classes, 'ndim', 1) > 0)  # fmt: skip
    classes: Any = [*map(size_of_head, n_classes)] if several else [size_of_head(n_classes)] * n_tasks
    if n_tasks < 1 or any(n is not None and n < 1 for n in classes):
        raise ValueError(f'n_tasks and n_classes must be at least 1, not {n_tasks} and {n_classes}')
    if len(classes) != n_tasks:
        raise ValueError(f'n_classes: {len(classes)} numbers for {n_tasks} tasks')
    return classes


class Look(NamedTuple):
    """What is known of a network once it has run on the example inputs.

    plan: made from its graph.
    runs: whether it gives outputs in evaluation.
    changed: names of attributes that forward() changes.
    caching: names of functions in functools.lru_cache that it calls.
    remembers: whether a batch changes its outputs in evaluation.
    """

    plan: Plan
    runs: bool
    changed: list[str]
    caching: list[str]
    remembers: bool


def look(net: nn.Module, inputs: Inputs, heads: bool, gated: Callable, ignored: Callable) -> Look:
    """Read a network. heads, gated, ignored: of Reader."""
    with torch.device('cpu'), torch.autocast('cpu', enabled=False):  # whatever the caller has chosen
        plan = Reader(net, inputs, heads, gated, ignored).plan
        before = outputs(net, inputs, bool(plan.written))
        noisy = not all(x.is_cpu for x in before) and distance(outputs(net, inputs, bool(plan.written)), before) > 0
        misses = cache_misses(net)
        written, changed = changed_in_training(net, inputs)
        if written := [name for name in written if name not in plan.written]:
            plan = Reader(net, inputs, heads, gated, lambda name: ignored(name) or name in written).plan
            plan.give_each_task(written)
        after = outputs(net, inputs, bool(plan.written))
        caching = [name for name, n in cache_misses(net).items() if n > misses[name]]  # for known inputs
        remembers = not noisy and distance(after, before) > ROUNDING
    return Look(plan, bool(before), changed, caching, remembers)


def warn_of(found: Look, net: nn.Module, inputs: Inputs) -> None:
    """Warn of what costs capacity, and of what learned tasks could change with."""
    plan, trained = found.plan, {name for name, p in net.named_parameters() if p.requires_grad}
    if by_itself := {name: why for name, why in plan.fixed.items() if why and name in trained}:
        warn('these parameters are used by every task, and the first task that is learned fixes them (ignore= silences '
             f'this): {"; ".join(f"{name}: {why}" for name, why in by_itself.items())}')  # fmt: skip
    if plan.ungated:
        warn(f'{listed(plan.ungated)} can have no gate, so that every task uses all units: the weight is computed and '
             'no subclass of nn.Linear or the like returns the output, or the output is a weight')  # fmt: skip
    if plan.unused:
        warn(
            'these parameters do not affect the output for example_input; each task has its own: '
            + ', '.join(plan.unused)
        )
    if any(isinstance(module, nn.TransformerEncoder) for module in net.modules()) and fast_path_differs(net, inputs):
        warn('nn.TransformerEncoder sets padded positions to zero in evaluation, but not after conversion: ignore them')
    if found.changed:
        warn(f'forward() changes attributes that are not buffers: {", ".join(found.changed)}; the changes are dropped '
             'after each batch (use register_buffer in __init__(), with a tensor)')  # fmt: skip
    if own := [name for name in ('task', 'progress') if name in {*keywords(net.forward), *inputs[1]}]:
        warn(f'forward() has an argument {" and ".join(own)} of its own: model(..., {own[0]}=) is that of the '
             'converted network, and does not reach it; pass it by position, or call a view')  # fmt: skip
    if found.caching:
        warn(f'{", ".join(found.caching)}: a cache of functools holds on to the copy of the modules that each batch '
             'has, so that memory grows; compute it in __init__(), or without a cache')  # fmt: skip
    if found.remembers:
        warn('outputs in evaluation change after a batch, and those of learned tasks will: forward() has a state that '
             'is neither parameter nor buffer, as in an object or a global (use register_buffer, with a tensor), or '
             "random numbers that are not of PyTorch's default generator")  # fmt: skip
    if plan.branches:
        warn(f'forward() branches on values of its input {plan.branches[0]}: gates follow the branch of example_input')


def keywords(function: Callable) -> tuple[str, ...]:
    """Names of the arguments of a function that can be passed by keyword, as far as they are known."""
    code = getattr(inspect.unwrap(function), '__code__', None)  # inspect.signature() may evaluate annotations, and fail
    return code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount] if code else ()


def cache_misses(net: nn.Module) -> dict[str, int]:
    """How often functions in functools.lru_cache have run, by name, of the classes of a network's modules."""
    classes = {kind: None for module in net.modules() for kind in type(module).__mro__}
    return {f'{kind.__name__}.{name}': value.cache_info().misses for kind in classes
            for name, value in vars(kind).items() if isinstance(value, functools._lru_cache_wrapper)}  # fmt: skip


def names(argument: str, value: Names | None) -> Callable[[str], bool] | list[str] | None:
    """The value of `gates` or `ignore`, checked."""
    if isinstance(value, str):
        raise ValueError(f'{argument} must be a function or a list of names, not {value!r}')
    return value if value is None or callable(value) else list(value)


def copied(net: nn.Module) -> nn.Module:
    """A copy of a network; of computed tensors in its attributes, which cannot be copied, the values. What is trainable
    stays so, for forward() may not read it."""
    values = [value for module in net.modules() for value in vars(module).values()]
    values += [part for value in values if isinstance(value, (list, tuple, dict))
               for part in (value.values() if isinstance(value, dict) else value)]  # fmt: skip
    tensors = [value for value in values if isinstance(value, torch.Tensor) and not value.is_leaf]
    try:
        return deepcopy(net, {id(x): x.detach().clone().requires_grad_() for x in tensors})
    except (TypeError, NotImplementedError) as error:  # such as that of a lock, or of a sparse tensor
        raise TypeError(f'the network cannot be copied: {error} (copy=False converts the network itself)') from error


def check_network(net: Any) -> None:
    """Raises an error for a network that cannot run or cannot be copied."""
    if not isinstance(net, nn.Module):
        raise TypeError(f'net must be an nn.Module, not {type(net).__name__}')
    for name, module in net.named_modules():
        if isinstance(module, (Network, View)):
            raise TypeError('the network is already converted: model.add_task() adds tasks')
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise TypeError(f'{name or "the network"} is DistributedDataParallel: convert its module, and wrap a view')
        if isinstance(module, torch.jit.ScriptModule):
            raise CannotConvert(f'{name or "the network"} is TorchScript: convert the module that it was compiled from')
        if '_orig_mod' in module._modules:
            raise CannotConvert(f'{name or "the network"} is compiled: convert the module that it was compiled from')
    buffers = set(map(id, net.buffers()))
    for name, p in net.named_parameters():
        if id(p) in buffers:
            raise CannotConvert(f'{name} is a parameter and a buffer: register a copy of it as the buffer')
        if p.is_meta:
            raise ValueError(f'{name} has no values, as it is on the device meta: load the network first')
        if nn.parameter.is_lazy(p):
            raise ValueError(f'{name} has no shape yet: run the network once before you convert it')
        if p.is_complex():
            raise CannotConvert(f'{name} is complex: only real parameters are supported')
    for name, tensor in named_tensors(net):
        if tensor.layout is not torch.strided:
            raise CannotConvert(f'{name} is sparse: make it dense, or an input of the network')


def example(value: Any) -> Inputs:
    """The example_input of convert() as positional and keyword inputs, detached, on the CPU."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], tuple) and isinstance(value[1], dict):
        args, kwargs = value
    elif isinstance(value, Mapping):  # such as what a tokenizer returns
        args, kwargs = (), value
    else:
        args, kwargs = value if isinstance(value, tuple) else (value,), {}
    if not (tensors := tensors_in((args, kwargs))):
        raise ValueError(f'example_input must be a tensor, or a tuple or dict with tensors, not {type(value).__name__}')
    if not any(x.numel() for x in tensors if not x.is_meta):
        raise ValueError('example_input has no values: it is empty, or on the device meta')
    return mapped(lambda x: x.detach().cpu().clone(), (args, dict(kwargs)))

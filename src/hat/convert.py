"""Hard attention for any network, in one line."""

import copy
from collections.abc import Callable, Iterable
from numbers import Integral
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from hat import init as inits
from hat import regularizers, schedules
from hat.errors import CannotConvert, warn
from hat.functional import GRADIENTS
from hat.graph import changed_attributes, fast_path_differs
from hat.network import Network
from hat.plan import Inputs
from hat.reader import Reader

Gates = Callable[[str], bool] | Iterable[str]


def convert(net: nn.Module, n_tasks: int, example_input: Any, n_classes: int | list[int] | None = None, *,
            gates: Gates | None = None, heads: bool = True, s_max: float = 400.0, hard: bool = True,
            gradient: str = 'released', init: Callable = inits.normal, schedule: Callable = schedules.linear,
            regularizer: Callable = regularizers.by_network, check: bool | int = 2,
            generator: torch.Generator | None = None) -> Network:  # fmt: skip
    """Make a network that learns tasks one after the other without forgetting (Serra et al. 2018).

    Args:
        net: any network; it is copied, and left as it is. Its weights are kept: with all gates open, the outputs of
            each task are those of `net`.
        n_tasks: number of tasks; more can be added later.
        example_input: what net takes, (B, ...): a tensor, a tuple for several inputs, a dict for inputs by keyword, or
            a pair of both. It is run once, to see how the units are connected, and kept for prune().
        n_classes: of each task, a number or a list; None: as many as the last layer has.
        gates: which layers have gates: a function of a layer's name, or names; None: all but the last.
        heads: True: the last layer becomes one for each task. False: it is left alone, a layer without a gate whose
            outputs every task uses: what the first task needs of it is fixed then, its bias entirely.
        s_max: of the gates (Eq. 3).
        hard: masks of learned tasks, and all in evaluation, are rounded to {0, 1}: then outputs of learned tasks stay
            bit-identical, whatever happens to the parameters. False: they are sigmoids at s_max, as in the paper, and
            Eq. 2 conditions gradients and nothing else: learned tasks drift a little under plain SGD, and more with
            momentum, Adam or weight decay.
        gradient: of the embeddings (section 2.5). 'released': as float32 rounds it in the paper's code, where open
            gates close more slowly; 'exact': the formula.
        init, schedule, regularizer: how masks start, are annealed and regularized: functions of hat.init, hat.schedules
            and hat.regularizers, or of your own.
        check: in how many training batches of each task it is seen whether forward() does what it did for
            example_input, at the cost of an evaluation each; True: in all of them.
        generator: for what is random.

    Returns:
        A hat.Network.

    Raises:
        CannotConvert: the network has weights that are used in a way that is not known here (recurrent layers, weights
            that are computed from others); the message names the operation and where it is.
        ValueError, TypeError: arguments that do not fit.

    Example:
        model = hat.convert(torchvision.models.resnet18(), n_tasks=5, example_input=torch.zeros(2, 3, 32, 32))
    """
    check_network(net)
    if not isinstance(n_tasks, Integral) or not s_max > 0:
        raise ValueError(f'n_tasks must be a whole number and s_max above 0, not {n_tasks!r} and {s_max!r}')
    classes = [n_classes] * n_tasks if n_classes is None or isinstance(n_classes, Integral) else list(n_classes)
    if gradient not in GRADIENTS:
        raise ValueError(f'gradient must be one of {", ".join(GRADIENTS)}, not {gradient!r}')
    for name, function in ('init', init), ('schedule', schedule), ('regularizer', regularizer):
        if not callable(function):
            raise ValueError(f'{name} must be a function, such as those of hat.{HOMES[name]}, not {function!r}')
    if n_tasks < 1 or any(n is not None and n < 1 for n in classes):
        raise ValueError(f'n_tasks and n_classes must be at least 1, not {n_tasks} and {n_classes}')
    if len(classes) != n_tasks:
        raise ValueError(f'n_classes: {len(classes)} numbers for {n_tasks} tasks')
    if isinstance(gates, str):
        raise ValueError(f'gates must be a function or a list of names, not {gates!r}')
    chosen = gates if gates is None or callable(gates) else list(gates)

    def gated(layer: str, last: bool) -> bool:
        if chosen is None:
            return not last
        return chosen(layer) if callable(chosen) else layer in chosen

    net, inputs = copy.deepcopy(net), example(example_input)
    with torch.device('cpu'):  # whatever the default device is
        plan = Reader(net, inputs, heads, gated).plan
        changed = changed_attributes(net, inputs)
    if isinstance(chosen, list) and (unknown := [name for name in chosen if name not in plan.layers]):
        raise ValueError(f'gates: {unknown[0]!r} is none of the layers that tasks share: {", ".join(plan.layers)}')
    if plan.unused:
        warn(
            'these parameters do not affect the output for example_input; each task has its own: '
            + ', '.join(plan.unused)
        )
    if any(isinstance(module, nn.TransformerEncoder) for module in net.modules()) and fast_path_differs(net, inputs):
        warn('nn.TransformerEncoder puts zeros at padded positions in evaluation; here, as in training, it does not')
    if changed:
        warn(f'forward() changes {", ".join(changed)}, which is no buffer: each batch starts with what it is now')
    if plan.branches:
        warn(f'forward() branches on values of its input {plan.branches[0]}: it is read as it is for example_input')
    if not plan.gates:
        raise CannotConvert('the network has no layer that could have a gate; the last one has none')
    if n_classes is not None and len(plan.heads) != 1:
        raise ValueError(f'n_classes requires exactly one output layer; this network has {len(plan.heads)}')
    check = int(1e18 if check is True else check)
    return Network(net, plan, classes, s_max, hard, gradient, init, schedule, regularizer, check, generator)


def check_network(net: Any) -> None:
    """Raises an error for what cannot be read at all."""
    if not isinstance(net, nn.Module):
        raise TypeError(f'net must be an nn.Module, not {type(net).__name__}')
    for name, module in net.named_modules():
        if isinstance(module, Network):
            raise TypeError('the network is converted already: model.add_task() gives it more tasks')
        if isinstance(module, torch.jit.ScriptModule):
            raise CannotConvert(f'{name or "the network"} is TorchScript: convert what it was made from')
    for name, p in net.named_parameters():
        if nn.parameter.is_lazy(p):
            raise ValueError(f'{name} has no shape yet: run the network once before')
        if p.is_complex():
            raise CannotConvert(f'{name} holds complex numbers')


HOMES = {'init': 'init', 'schedule': 'schedules', 'regularizer': 'regularizers'}


def example(given: Any) -> Inputs:
    """Positional and keyword inputs, detached, on the CPU, of what a user gives as an example."""
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], tuple) and isinstance(given[1], dict):
        args, kwargs = given
    elif isinstance(given, dict):
        args, kwargs = (), given
    else:
        args, kwargs = given if isinstance(given, tuple) else (given,), {}
    if not any(isinstance(x, torch.Tensor) for x in tree_leaves((args, kwargs))):
        raise ValueError(f'example_input must be a tensor, or a tuple or dict with tensors, not {given!r}')
    return tree_map_only(torch.Tensor, lambda x: x.detach().cpu().clone(), (args, dict(kwargs)))

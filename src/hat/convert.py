"""Hard attention for any network, in one line."""

import copy
import warnings
from numbers import Integral

import torch
from torch.utils._pytree import tree_leaves

from hat import techniques
from hat.functional import linear
from hat.network import Network
from hat.plan import CannotConvert
from hat.reader import make_plan


def convert(net, n_tasks, example_input, n_classes=None, *, gates=None, heads=True, s_max=400.0, hard=True,
            init=techniques.normal, schedule=linear, regularizer=techniques.by_network, generator=None):  # fmt: skip
    """A Network that learns tasks one after the other without forgetting (Serra et al. 2018), from any network.

    net            an nn.Module; it is copied, and left as it is. Its weights are kept: with all gates open, the outputs
                   of each task are those of `net`
    n_tasks        number of tasks; more can be added later
    example_input  what net takes, (B, ...), or a tuple of that; it is run once, to see how the units are connected
    n_classes      of each task, a number or a list; None: as many as the last layer has
    gates          which layers have gates: a function of a layer's name, or names; None: all but the last
    heads          True: the last layer becomes one for each task. False: it is left alone, a layer without a gate whose
                   outputs every task uses: what the first task needs of it is fixed then, its bias entirely
    s_max          of the gates (Eq. 3)
    hard           masks of learned tasks, and all in evaluation, are rounded to {0, 1}: then outputs of learned tasks
                   stay bit-identical, under any optimizer. False: they are sigmoids at s_max, as in the paper; then
                   learned tasks drift a little under plain SGD, and more with Adam or weight decay
    init, schedule, regularizer   functions: how masks start, are annealed and regularized, see hat.techniques
    generator      torch.Generator for what is random

    Raises CannotConvert, with the name of the operation, for a network with weights that are used in a way that is not
    known here (recurrent layers, weights that are computed from others), and ValueError for n_classes that do not fit.
    """
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    classes = [n_classes] * n_tasks if n_classes is None or isinstance(n_classes, Integral) else list(n_classes)
    for name, function in ('init', init), ('schedule', schedule), ('regularizer', regularizer):
        if not callable(function):
            raise ValueError(f'{name} must be a function, such as those of hat.techniques, not {function!r}')
    if n_tasks < 1 or any(n is not None and n < 1 for n in classes):
        raise ValueError(f'n_tasks and n_classes must be at least 1, not {n_tasks} and {n_classes}')
    if len(classes) != n_tasks:
        raise ValueError(f'n_classes: {len(classes)} numbers for {n_tasks} tasks')
    if not any(isinstance(x, torch.Tensor) for x in tree_leaves(inputs)):
        raise ValueError(f'example_input must be a tensor, or a tuple with tensors, not {example_input!r}')
    if isinstance(gates, str):
        raise ValueError(f'gates must be a function or a list of names, not {gates!r}')

    def gated(layer, last):
        if gates is None:
            return not last
        return gates(layer) if callable(gates) else layer in gates

    net = copy.deepcopy(net)
    plan = make_plan(net, inputs, heads, gated)
    if unknown := [] if gates is None or callable(gates) else [name for name in gates if name not in plan.layers]:
        raise ValueError(f'gates: {unknown[0]!r} is none of the layers that tasks share: {", ".join(plan.layers)}')
    if plan.unused:
        warnings.warn(f'the output does not depend on {", ".join(plan.unused)}, which are not protected', stacklevel=2)
    if not plan.gates:
        raise CannotConvert('the network has no layer that could have a gate; the last one has none')
    if n_classes is not None and len(plan.heads) != 1:
        raise ValueError(f'n_classes: the network has {len(plan.heads)} heads, which cannot be given a size')
    return Network(net, plan, classes, s_max, hard, init, schedule, regularizer, generator)

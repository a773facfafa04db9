"""A network in a file: settings travel with the weights."""

import functools
import json
import os
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hat import schedules
from hat.errors import warn
from hat.names import get_tensor, named_tensors

if TYPE_CHECKING:
    from hat.network import Network

File = str | os.PathLike[str] | IO[bytes]


def settings(network: 'Network') -> bytes:
    """What has to be the same where a state is loaded, as JSON."""
    head = [name for name, _, _ in network.plan.heads][:1]
    sizes = [len(get_tensor(task.own, head[0])) if head else None for task in network.tasks]
    names = {
        's_max': network.s_max,
        'hard': network.hard,
        'gradient': network.gradient,
        'schedule': name_of(network.schedule),
    }
    return json.dumps(names | {'gates': network.plan.gates, 'classes': sizes}).encode()


def name_of(function: Callable) -> str:
    if isinstance(function, functools.partial):
        given = [*map(repr, function.args), *(f'{key}={value!r}' for key, value in function.keywords.items())]
        return f'{name_of(function.func)}({", ".join(given)})'
    return getattr(function, '__name__', type(function).__name__)


def before_loading(network: 'Network', state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Compare the settings, and make the tasks the same: a state of more tasks adds them, and one of fewer leaves the
    others as they are. Raises ValueError."""
    if f'{prefix}_extra_state' not in state:
        if f'{prefix}fingerprints' in state:
            raise ValueError('the state says which tasks are learned, and not with which settings: it is not whole')
        return
    ours, theirs = json.loads(settings(network)), json.loads(bytes(state[f'{prefix}_extra_state'].tolist()))
    classes, fingerprints = theirs.pop('classes'), state[f'{prefix}fingerprints']
    ours = ours | {f'classes of task {t}': n for t, n in enumerate(ours.pop('classes'))}
    theirs = theirs | {f'classes of task {t}': n for t, n in enumerate(classes[: len(network.tasks)])}
    for name, value in theirs.items():
        if value != ours[name]:
            raise ValueError(f'the state was made with {name} {value!r}; here it is {ours[name]!r}')
    if surplus := [t for t in range(len(classes), len(network.tasks)) if network.done[t]]:
        raise ValueError(f'task {surplus[0]} is learned here, and is not in the state, which has {len(classes)} tasks')
    for n in classes[len(network.tasks) :]:
        network.add_task(n)
    for t in range(len(classes), len(network.tasks)):
        for part in network.tasks[t].kept:
            for name, tensor in named_tensors(getattr(network.tasks[t], part)):
                state[f'{prefix}tasks.{t}.{part}.{name}'] = tensor.detach()
    state[f'{prefix}fingerprints'] = torch.cat(
        [fingerprints, network.fingerprints[len(fingerprints) :].to(fingerprints)]
    )
    state[f'{prefix}_extra_state'] = network.get_extra_state()
    stay = [t for t in range(len(classes)) if network.done[t] and fingerprints[t] == network.fingerprints[t]]
    if stay and not same(network, stay, state, prefix):
        warn(f'task {", ".join(map(str, stay))} is learned here already, and stays as it is: what the state has for it '
             'is not loaded (hat.forget first)')  # fmt: skip


def same(network: 'Network', tasks: list[int], state: dict[str, Tensor], prefix: str) -> bool:
    """Whether a state has for learned tasks what is kept here."""
    pairs = [(state[f'{prefix}tasks.{t}.{part}.{name}'], kept.value(name))
             for t in tasks for part, kept in network.tasks[t].kept.items() for name in kept.keys]  # fmt: skip
    if network.hard:
        is_open = network.open_units(tasks)
        for name in network.plan.shared:
            held = network.kept.value(name)
            here = network.between(name, is_open).expand(held.shape)
            pairs.append((state[f'{prefix}net.{name}'].to(held.device)[here], held[here]))
    return all(torch.equal(a.to(b.device), b) for a, b in pairs)


def after_loading(network: 'Network', keys: Any) -> None:
    network.refresh()


def save(network: 'Network', file: File) -> None:
    """Write a network that convert() made to a file: weights, what is protected, settings. load() reads it.

    Args:
        network: a hat.Network.
        file: a path, or a file that is open for writing bytes.
    """
    content = {'settings': settings(network).decode(), 'heads': bool(network.plan.heads), 'inputs': network.plan.inputs}
    torch.save(content | {'state': network.state_dict()}, file)


def load(file: File, net: nn.Module, schedule: Callable | None = None, **functions: Any) -> 'Network':
    """The network that save() wrote.

    Args:
        file: a path, or a file that is open for reading bytes.
        net: a network as it was before conversion; its weights do not matter.
        schedule: the function, where it is none of hat.schedules.
        functions: `init` and `regularizer`, as for convert(), for tasks to come.

    Returns:
        A hat.Network, on the device and of the type of `net`.

    Raises:
        ValueError: the file is none of save()'s, or net is another network.

    Example:
        hat.save(model, 'model.pt')
        model = hat.load('model.pt', torchvision.models.resnet18(num_classes=10))
    """
    from hat.convert import convert

    content = torch.load(file, map_location=next(net.parameters()).device, weights_only=True)
    if not isinstance(content, dict) or 'settings' not in content:
        raise ValueError(f'{file}: hat.save() has not made it')
    given = json.loads(content['settings'])
    schedule = schedule or getattr(schedules, given['schedule'], None)
    if schedule is None:
        raise ValueError(f'{file}: its schedule is {given["schedule"]}; give it as schedule=')
    args, kwargs = content['inputs']
    classes = given['classes']
    network = convert(
        net,
        len(classes),
        args,
        classes if content['heads'] and classes[0] is not None else None,
        heads=content['heads'],
        gates=given['gates'],
        s_max=given['s_max'],
        hard=given['hard'],
        gradient=given.get('gradient', 'released'),
        schedule=schedule,
        **functions,
    )
    network.load_state_dict(content['state'])
    return network

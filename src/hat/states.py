"""The state of a network: the settings that it has beside its weights, and what happens when one is loaded."""

import functools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hat.errors import warn
from hat.names import get_tensor, named_tensors

if TYPE_CHECKING:
    from hat.network import Network


def settings(network: 'Network') -> bytes:
    """Settings that must be equal where a state is loaded, as JSON."""
    sizes = [sizes_of_heads(network, task.own)[0] if network.plan.heads else None for task in network.tasks]
    names = {
        's_max': network.s_max,
        'hard': network.hard,
        'gradient': network.gradient,
        'schedule': name_of(network.schedule),
    }
    names |= {'ignore': [name for name, why in network.plan.fixed.items() if not why]}
    return json.dumps(names | {'gates': network.plan.gates, 'classes': sizes}).encode()


def sizes_of_heads(network: 'Network', own: nn.Module) -> list[int]:
    """Number of units of each output layer. own: the task-specific parameters of a task, or the network."""
    return [get_tensor(own, head.weight).shape[head.axis or 0] for head in network.plan.heads]


def name_of(function: Callable) -> str:
    """The name of a function; with its arguments for functools.partial."""
    if isinstance(function, functools.partial):
        bound = [*map(repr, function.args), *(f'{key}={value!r}' for key, value in function.keywords.items())]
        return f'{name_of(function.func)}({", ".join(bound)})'
    return getattr(function, '__name__', type(function).__name__)


def before_loading(network: 'Network', state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Hook: compare settings and match the number of tasks. A state with more tasks adds them; one with fewer does not
    change the others. Raises ValueError."""
    for t, task in enumerate(network.tasks):  # a state may be of these tensors; loading `net` writes to them
        for key in (f'{prefix}tasks.{t}.own.{name}' for name, _ in named_tensors(task.own)):
            if key in state and not network.done[t]:
                state[key] = state[key].clone()
    if f'{prefix}_extra_state' not in state:
        if f'{prefix}fingerprints' in state:
            raise ValueError('the state is incomplete: it has fingerprints of tasks, but no settings (_extra_state)')
        return
    if f'{prefix}fingerprints' not in state:
        raise ValueError('the state is incomplete: it has settings (_extra_state), but no fingerprints of tasks')
    here, there = json.loads(settings(network)), json.loads(bytes(state[f'{prefix}_extra_state'].tolist()))
    classes, fingerprints = there.pop('classes'), state[f'{prefix}fingerprints']
    here |= {f'classes of task {t}': n for t, n in enumerate(here.pop('classes'))}
    there |= {f'classes of task {t}': n for t, n in enumerate(classes[: len(network.tasks)])}
    for name, value in there.items():
        if value != here[name]:
            raise ValueError(f'the state was made with {name} {value!r}; here it is {here[name]!r}')
    if surplus := [t for t in range(len(classes), len(network.tasks)) if network.done[t]]:
        t, n = surplus[0], len(classes)
        raise ValueError(f'task {t} is learned here, but not in the state, which has {n} tasks (hat.forget first)')
    for n in classes[len(network.tasks) :]:
        network.add_task(n if len(network.plan.heads) == 1 else None)
    for t in range(len(classes), len(network.tasks)):
        for part in network.tasks[t].kept:
            for name, tensor in named_tensors(getattr(network.tasks[t], part)):
                state[f'{prefix}tasks.{t}.{part}.{name}'] = tensor.detach()
    state[f'{prefix}fingerprints'] = torch.cat(
        [fingerprints, network.fingerprints[len(fingerprints) :].to(fingerprints)]
    )
    state[f'{prefix}_extra_state'] = network.get_extra_state()
    if fingerprints.any() and (missing := [name for name in network.state_dict() if f'{prefix}{name}' not in state]):
        raise ValueError(f'the state is incomplete: tasks are learned in it, but it has no {missing[0]}')
    if lost := [t for t, done in enumerate(network.done) if done and not state[f'{prefix}fingerprints'][t]]:
        names = ', '.join(map(str, lost))
        warn(f'task {names} is learned here, but not in the state: it is not learned any more, and not protected')
    stay = [t for t in range(len(classes)) if network.done[t] and fingerprints[t] == network.fingerprints[t]]
    if stay and not same(network, stay, state, prefix):
        names = ', '.join(map(str, stay))
        warn(f'task {names} is already learned and is not overwritten by the state (hat.forget first)')


def same(network: 'Network', tasks: list[int], state: dict[str, Tensor], prefix: str) -> bool:
    """Whether a state has the kept values of some learned tasks; parameters that modules rename are not compared."""
    pairs = [(state[f'{prefix}tasks.{t}.{part}.{name}'], kept.value(name))
             for t in tasks for part, kept in network.tasks[t].kept.items() for name in kept.keys]  # fmt: skip
    if network.hard:
        is_open = network.open_units(tasks)
        for name in network.plan.shared:
            kept = network.kept.value(name)
            used = network.between(name, is_open).expand(kept.shape)
            if (tensor := state.get(f'{prefix}net.{name}')) is not None:
                pairs.append((tensor.to(kept.device)[used], kept[used]))
    return all(torch.equal(a.to(b.device), b) for a, b in pairs)


def after_loading(network: 'Network', keys: Any) -> None:
    """Hook: keep the values of tasks that are learned in the state."""
    network.refresh()
    network.watch.check_learned(network)
    network.watch.follow(network)

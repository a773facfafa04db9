"""Saving and loading: a state has the settings of a network beside its weights."""

import contextlib
import functools
import io
import json
import os
import shutil
import tempfile
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hat import init, regularizers, schedules
from hat.errors import warn
from hat.functional import HALF
from hat.names import first_wide, get_tensor, is_wide, named_tensors
from hat.nested import distance, mapped
from hat.plan import Inputs
from hat.trial import example_outputs, with_other_noise

if TYPE_CHECKING:
    from hat.network import Network

FUNCTIONS = {'schedule': schedules, 'init': init, 'regularizer': regularizers}  # arguments of convert(): their modules

ELEMENTS = 64  # of an output, in a file, to compare

File = str | os.PathLike[str] | IO[bytes]


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


def save(network: 'Network', file: File) -> None:
    """Write a converted network to a file: weights, learned tasks, settings. load() reads it.

    Args:
        network: a converted network.
        file: a path, or a binary file open for writing. A file that is at the path stays until the new one is whole,
            if its folder can be written to.
    """
    from hat.network import Network

    network = getattr(network, '_orig_mod', network)  # what torch.compile() has made has other names of tensors
    if not isinstance(network, Network):
        raise TypeError(f'save() takes a converted network (of a view: view.network), not {type(network).__name__}')
    chosen = {key: getattr(network, key) for key in FUNCTIONS}
    known = {key: name_of(f) for key, f in chosen.items() if getattr(FUNCTIONS[key], name_of(f), None) is chosen[key]}
    learned = [t for t, done in enumerate(network.done) if done]
    more = {'functions': known, 'answer': [(t, answer(network, t)) for t in learned[:1]]}
    content: dict[str, Any] = {'settings': json.dumps(json.loads(settings(network)) | more)}
    content['heads'] = len(network.plan.heads)
    content['inputs'] = network.plan.inputs if is_safe(network.plan.inputs) else None
    content['state'] = network.state_dict()
    path = os.path.realpath(file) if isinstance(file, (str, os.PathLike)) else ''
    if os.path.isfile(path) and os.access(path, os.W_OK):
        with contextlib.suppress(PermissionError), tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
            part = os.path.join(folder, os.path.basename(path))
            torch.save(content, part)
            shutil.copymode(path, part)
            os.replace(part, path)
            return
    torch.save(content, file)  # also where the folder of a file does not permit another


@torch.no_grad()
def answer(network: 'Network', task: int, outputs_of: Callable = example_outputs) -> list[list[float]]:
    """The first elements of a task's outputs for the example inputs. load() compares them: a network with another
    activation has the same parameters."""
    outputs = [x for x in outputs_of(network, task) if x.is_floating_point() and x.layout == torch.strided]
    return [x.flatten()[:ELEMENTS].tolist() for x in outputs]


def compare(network: 'Network', task: int, expected: list[list[float]], is_half: bool, file: File) -> None:
    """Warn if a task has other outputs for the example inputs than as it was saved. is_half: then in half precision."""
    like = first_wide(network.net)
    far, answers = 0.1 if is_half or like.dtype in HALF else 0.01, [expected, answer(network, task)]
    answers.append(answer(network, task, with_other_noise))
    saved, outputs, again = ([torch.tensor(x, device='cpu') for x in part] for part in answers)
    if outputs and saved and (d := distance(outputs, saved)) > far >= distance(outputs, again):  # else they are noise
        warn(f'{file}: task {task} has other outputs than as it was saved, by up to {d:.1g} of the largest: is the '
             'network as it was given to hat.convert?')  # fmt: skip


def is_safe(inputs: Inputs) -> bool:
    """Whether torch.load(weights_only=True) reads the example inputs: no dataclasses, for example."""
    with io.BytesIO() as file, contextlib.suppress(Exception):
        torch.save(inputs, file)
        file.seek(0)
        torch.load(file, weights_only=True)
        return True
    return False


@torch.inference_mode(False)
def load(file: File, net: nn.Module, schedule: Callable | None = None, example_input: Any = None,
         **functions: Any) -> 'Network':  # fmt: skip
    """Read a network that save() wrote.

    Args:
        file: a path, or a binary file open for reading, which can seek.
        net: the network before conversion; its weights do not matter.
        schedule: the schedule of convert(), if it is not one of hat.schedules.
        example_input: as for convert(); None: that of the file, which has none if it is of a class other than tensors,
            numbers, strings, tuples, lists and dicts.
        functions: `init` and `regularizer` of convert(), for tasks that are not learned, if they are not of
            hat.init and hat.regularizers.

    Returns:
        The converted network, on the device and of the type of `net`.

    Raises:
        ValueError: the file is not of save(), or damaged; `net` is another network; an argument is missing.
        TypeError: an argument is none of these.
        OSError: there is no such file, or it cannot be opened.

    Example:
        hat.save(model, 'model.pt')
        model = hat.load('model.pt', torchvision.models.resnet18(num_classes=10))
    """
    from hat.convert import check_network, convert

    if unknown := sorted(set(functions) - {'init', 'regularizer'}):
        raise TypeError(f'load() got an unexpected argument {unknown[0]!r}')
    check_network(net)
    device = next((p.device for p in net.parameters()), torch.device('cpu'))
    with open(file, 'rb') if isinstance(file, (str, os.PathLike)) else contextlib.nullcontext(file) as source:
        start = source.tell()
        with errors_are(lambda error: f'{file} was not written by hat.save(), or is damaged'):
            check_sums(source)
            source.seek(start)
            content = dict(torch.load(source, map_location=device, weights_only=True))
            saved, state = json.loads(content['settings']), content['state']
            classes, heads, inputs, name = saved['classes'], content['heads'], content['inputs'], str(saved['schedule'])
            chosen = {key: saved[key] for key in ('gates', 's_max', 'hard')}
            before = {'schedule': name, 'init': 'normal', 'regularizer': 'by_network'}  # in files of earlier versions
            known = dict(saved.get('functions', before))
    given = functions | {'schedule': schedule}
    functions = {key: given.get(key) or getattr(FUNCTIONS[key], str(known.get(key)), None) for key in FUNCTIONS}
    unknown = [key for key in FUNCTIONS if functions[key] is None]
    if 'schedule' in unknown:
        raise ValueError(f'{file}: its schedule {name} is not one of hat.schedules: pass schedule=')
    is_saved = example_input is None
    if example_input is None and (example_input := inputs) is None:
        raise ValueError(f'{file} has no example input, as it is of a class of its own: pass example_input=')
    types = [x.dtype for _, x in named_tensors(net) if is_wide(x.dtype)] if isinstance(net, nn.Module) else []
    if is_saved and types:  # the saved one is of the type that the network had, in which this one may not run
        example_input = mapped(lambda x: x if x.dtype in types or not is_wide(x.dtype) else x.to(types[0]), inputs)
    other = f'{file} does not fit this network, which must be as it was given to hat.convert: '
    with errors_are(lambda error: other + described(error)):
        network = convert(
            net,
            len(classes),
            example_input,
            classes if heads == 1 else None,
            heads=bool(heads),
            ignore=saved.get('ignore'),
            gradient=saved.get('gradient', 'released'),
            **chosen,
            **{key: function for key, function in functions.items() if function is not None},
        )
        network.load_state_dict(state)
    for task, expected in saved.get('answer', ()) if is_saved else ():
        compare(network, task, expected, any(getattr(x, 'dtype', None) in HALF for x in state.values()), file)
    if unknown and not all(network.done):
        names = ', '.join(f'{key}=' for key in unknown)
        warn(f'{file} was made with functions of your own: pass {names} or tasks to come are learned with the defaults')
    return network


@contextlib.contextmanager
def errors_are(message: Callable[[Exception], str]) -> Iterator[None]:
    """Errors inside are ValueErrors with this message, but for those of a machine without memory."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or 'DefaultCPUAllocator' in str(error):
            raise
        raise ValueError(message(error)) from error


def check_sums(file: IO[bytes]) -> None:
    """Compare the checksums of the parts of a file of torch.save(), which torch.load() does not. Raises errors of many
    kinds for other files."""
    with zipfile.ZipFile(file) as archive:
        has_sums = any(part.CRC for part in archive.infolist())  # not with set_crc32_options(False)
        if has_sums and (part := archive.testzip()):
            raise ValueError(f'{part} is damaged')


def described(error: Exception) -> str:
    """An error in one line that is not too long."""
    text = str(error).partition('Error(s) in loading state_dict for Network:')[-1] or str(error)
    kind = '' if isinstance(error, (ValueError, RuntimeError)) else f'{type(error).__name__}: '
    return textwrap.shorten(kind + text, 300, placeholder=' ...')

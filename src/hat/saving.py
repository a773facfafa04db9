"""Networks in files."""

import contextlib
import io
import json
import os
import shutil
import tempfile
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any

import torch
from torch import nn

from hat import init, regularizers, schedules
from hat.convert import check_network, convert
from hat.errors import warn
from hat.functional import HALF
from hat.names import first_wide, is_wide, named_tensors
from hat.nested import distance, mapped
from hat.network import Network
from hat.plan import Inputs
from hat.states import name_of, settings
from hat.trial import example_outputs, with_other_noise

FUNCTIONS = {'schedule': schedules, 'init': init, 'regularizer': regularizers}  # arguments of convert(): their modules

ELEMENTS = 64  # of an output, in a file, to compare

File = str | os.PathLike[str] | IO[bytes]


def save(network: Network, file: File) -> None:
    """Write a converted network to a file: weights, learned tasks, settings. load() reads it.

    Args:
        network: a converted network.
        file: a path, or a binary file open for writing. A file that is at the path stays until the new one is whole,
            if its folder can be written to.
    """
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
def answer(network: Network, task: int, outputs_of: Callable = example_outputs) -> list[list[float]]:
    """The first elements of a task's outputs for the example inputs. load() compares them: a network with another
    activation has the same parameters."""
    outputs = [torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
               for x in outputs_of(network, task) if x.layout == torch.strided]  # fmt: skip
    outputs = [x for x in outputs if x.is_floating_point()]
    return [x.flatten()[:ELEMENTS].tolist() for x in outputs]


def compare(network: Network, task: int, expected: list[list[float]], is_half: bool, file: File) -> None:
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
         **functions: Any) -> Network:  # fmt: skip
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

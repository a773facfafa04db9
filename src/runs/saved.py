"""The network of a finished run, from the files of run.py --save: .json says what to build, .pt has its state."""

import io
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import torch

import dataloaders
from approaches import APPROACHES, build
from approaches.common.training import DEPARTURES, Protocol
from core import results
from core.errors import UserError, one_line, out_of_memory
from core.files import ROOT, digest
from core.shapes import IDENTITY, check, record_shape
from dataloaders import options
from dataloaders.task import Images, Task
from runs.identity import differences

ACCURACY_TOLERANCE = 0.005  # from that of the run, which may have used another device


def read(path, approach=None):
    """The record `path` of a finished run (of this approach). Raises UserError."""
    if not path.exists():
        raise UserError(f'{path}: no such file')
    if path.suffix in ('.txt', '.pt'):
        raise UserError(f'{path}: give the record, {path.stem}.json')
    record = results.load_record(path) if path.is_file() else {}
    check(record, IDENTITY, path)
    name = record.get('arguments', {}).get('approach')
    if not name or approach not in (None, name):
        raise UserError(f'{path}: not the record of a finished run{f" of {approach}" if approach else ""}')
    n = len(record.get('tasks', []))
    if not n or [len(row) for row in record.get('accuracy', [])] != [n] * n:
        raise UserError(f'{path}: not the record of a run of this version: its accuracy matrix is missing')
    parameters = APPROACHES[name].parameters if name in APPROACHES else {}
    check(record, record_shape(record, n, None, parameters), path)
    return record


def with_data(path, record, data, device):
    """The approach of the run after its last task. data: folder of its images; None: that of the run. Raises UserError;
    nothing is downloaded."""
    check_network(path, record)
    with of_this_version(path):
        args = SimpleNamespace(**record['arguments'])
        args.data, names = data or ROOT / record['folder'], [task['name'] for task in record['tasks']]
        options.apply(args)
        found = dataloaders.fingerprints(args.experiment, args.data, names)
        if missing := [name for name in names if found[name] is None]:
            raise UserError(f'{path}: the data of {missing[0]} are not in {args.data}')
        tasks = dataloaders.load(args.experiment, args.data, args.seed, args.tasks, args.ntasks, args.ntrain)
    if differing := differences(record, record | {'tasks': [task.sizes() for task in tasks]}):
        raise UserError(f'{path}: {args.data} does not hold the data of the run: {"; ".join(differing)}')
    return restored(path, record, tasks, device)


def without_data(path, record, device):
    """As with_data(), with tasks that have no images. Raises UserError."""
    check_network(path, record)
    if 'inputs' not in record:
        advice = 'repeat the run: run.py --save --fresh'
        raise UserError(f'{path}: does not say how its pictures were normalized, as earlier versions did not; {advice}')
    with of_this_version(path):
        module = dataloaders.EXPERIMENTS[record['arguments']['experiment']]
        permutation = getattr(module, 'pixels', lambda name: None)
        tasks = [empty(task, record['inputs'][task['name']], permutation(task['name'])) for task in record['tasks']]
    return restored(path, record, tasks, device)


def check_network(path, record):
    """Raises UserError if none can have been saved."""
    if record.get('epochs') == [[]] * len(record['tasks']):
        raise UserError(f'{path}: {record["arguments"]["approach"]} trains no network')
    if 'model' not in record:
        raise UserError(f'{path}: the network of this run is not saved; run.py --save writes it')


def restored(path, record, tasks, device):
    """The approach of the run, with these tasks and its saved state. Raises UserError."""
    with of_this_version(path):
        args = SimpleNamespace(**dict.fromkeys(['network', *DEPARTURES]) | record['arguments'])
        tasks, protocol = [task.to(device) for task in tasks], Protocol.of(args)
        approach = build(args.approach, args.experiment, tasks, protocol, args.width, args.parameter, args.network)
    model = path.with_suffix('.pt')
    try:
        content = model.read_bytes()
        if digest(content).hex() != record.get('model'):
            raise ValueError('saved by another run')
        approach.load_state(torch.load(io.BytesIO(content), map_location=device, weights_only=True))
    except FileNotFoundError:
        raise UserError(f'{model}: no such file; run.py --save writes it') from None
    except Exception as error:  # whatever a damaged or hostile file may raise
        if out_of_memory(error):
            raise
        raise UserError(f'{model}: not the network of {path.name}: {one_line(error)}') from error
    return approach


@contextmanager
def of_this_version(path):
    """A record of another version may lack anything: errors in the block are UserErrors that say so."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f'{path}: not the record of a run of this version: {one_line(error)}') from error


def describe_input(task):
    """For the record: how an image of the task becomes the network's input.

    image  height, width, channels of the images, as Task.batch() takes them
    shape  of the input (channels, height, width)
    mean, std  by channel, or one for all, in grey levels 0..255
    """
    mean, std = (values.flatten().tolist() for values in (task.mean, task.std))
    return {'image': list(task.test.x.shape[1:]), 'shape': list(task.shape), 'mean': mean, 'std': std}


def empty(sizes, described, pixels):
    """A Task without images, from Task.sizes() and describe_input()."""
    height, width, channels = described['image']
    none = torch.zeros(0, dtype=torch.int64)
    images = Images(torch.zeros(0, height, width, channels, dtype=torch.uint8), none, none)
    mean, std = (torch.tensor(described[key], dtype=torch.float32).view(1, -1, 1, 1) for key in ('mean', 'std'))
    fits = height == width and channels in (1, 3) and {mean.numel(), std.numel()} <= {1, channels}
    if not fits or pixels is not None and len(pixels) != height * width:
        raise ValueError(f'the input of {sizes["name"]} does not fit its images')
    pixels = None if pixels is None else torch.from_numpy(pixels)
    shape = tuple(described['shape'])
    return Task(sizes['name'], sizes['n_classes'], shape, mean, std, images, images, images, pixels=pixels)


def class_names(record, task):
    """As the record has them, else numbers."""
    names = record.get('classes', {}).get(task.name, [])
    return names if len(names) == task.n_classes else [str(c) for c in range(task.n_classes)]


@torch.inference_mode()
def logits(approach, t, images):
    """Those of task t for the images of a split, (N, classes), on the CPU; computed as Approach.evaluate() does."""
    approach.net.eval()
    batches = approach.tasks[t].batches(images)
    return torch.cat([approach.loss(x, y, t, 1.0)[1].cpu() for x, y in batches])


def images_of(x, device):
    """A split of the images x, (N,H,W,C) uint8, whose classes are unknown."""
    n = len(x)
    return Images(*(torch.as_tensor(v, device=device) for v in (x, np.arange(n), np.zeros(n, np.int64))))


def check_accuracy(name, accuracy, run_accuracy):
    """Raises UserError if the accuracy on a task is not that of the run."""
    if abs(accuracy - run_accuracy) > ACCURACY_TOLERANCE:
        here, there = f'{100 * accuracy:.1f} % here', f'{100 * run_accuracy:.1f} % in its run'
        raise UserError(f'{name}: {here}, {there}: use the code that computed the run, or repeat the run')

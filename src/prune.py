"""Cut the network of a finished run of HAT down to a small plain network for each task, without masks (section 4.4).

For each RESULT.json, made with run.py --save, writes to RESULT_pruned/:

  <task>.pt2   the exported network, loaded with torch alone: torch.export.load('<task>.pt2').module()(x)
  <task>.pt    its weights
  <task>.json  a report: accuracy, weights kept, the normalization of the input; sizes and times before and after, of
               the network without masks and of the pruned one
"""

import functools
import io
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch

import hat
from core import results
from core.arguments import Parser, few, words
from core.device import describe, setup_device, versions
from core.errors import UserError, complain, exit_code, require
from core.files import atomic, serialize, write
from core.text_tables import text
from hat.capacity import active, count_weights, whole
from reports.tables import PRUNED, pruned_row
from runs import saved

BATCHES = 1, 256  # images at a time, when times are measured
TOLERANCE = 1e-5  # of outputs: absolute, or relative to the largest one of an image if that is above 1
WARM_UP = 3  # rounds before times are measured
SUFFIXES = 'pt2', 'pt', 'json', 'onnx'  # of the files of a task, whose name may have dots
SHAPES = ({0: torch.export.Dim('images')},)  # of the input of the exported network: any number of images
EXAMPLES = """\
example:
  python src/run.py --approach hat --experiment demo --save
  python src/prune.py res/demo_hat_0.json
"""


def parse(argv):
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument('results', nargs='+', type=Path, metavar='RESULT.json')
    parser.add_argument('--tasks', type=words, metavar='NAME,...', help='these only (default: all of the run)')
    parser.add_argument('--data', type=Path, metavar='DIR', help='folder of the images (default: that of the run)')
    parser.add_argument('--device', default='cpu', help='to measure on: cpu, cuda, cuda:N or mps (default cpu)')
    parser.add_argument('--rounds', type=few, default=30, metavar='N', help='measurements of each time; the report has '
                        'their median (default 30)')  # fmt: skip
    parser.add_argument('--onnx', action='store_true', help='also <task>.onnx (needs: pip install onnx onnxscript)')
    args = parser.parse_args(argv)
    if args.onnx:
        require('--onnx needs ONNX', 'onnx', 'onnxscript')
    return args


def main(argv=None):
    args = parse(argv)
    device, lines, code = setup_device(args.device), [], 0
    for path in args.results:
        try:
            for report in prune_all(path, device, args):
                lines.append([path.stem, *pruned_row(report)])
        except UserError as error:
            complain('prune.py', f'error: {error}')
            code = error.code
    if lines:
        print(text(['result', *PRUNED], lines))
    return code


def prune_all(path, device, args):
    """Yield the reports of the tasks of one run, whose record `path` is. Raises UserError, after the last one, if some
    could not be pruned."""
    record = saved.read(path, 'hat')
    approach = saved.with_data(path, record, args.data, device)
    origin = {'run': record['arguments'], 'model': record['model']}
    if precision := record['arguments'].get('precision'):
        what = f'a run with --precision {precision}: the small networks compute in float32, and so do all numbers here'
        warnings.warn(f'{path}: {what}', stacklevel=2)
    names = [task.name for task in approach.tasks]
    chosen = args.tasks or names
    if unknown := [name for name in chosen if name not in names]:
        raise UserError(f'--tasks: {unknown[0]!r} is none of {", ".join(names)}')
    folder = results.pruned_folder(path)
    results.make_folder(folder)
    failed = []
    for name in chosen:
        for suffix in SUFFIXES:
            (folder / f'{name}.{suffix}').unlink(missing_ok=True)
        t = names.index(name)
        try:
            yield prune(approach, t, record['accuracy'][-1][t], folder / name, origin, args)
        except UserError as error:
            failed.append(str(error))
    if failed:
        raise UserError('; '.join(failed))


@torch.no_grad()
def prune(approach, t, run_accuracy, base, origin, args):
    """Check and write the files of task t, base.pt2 and so on. Returns the report of base.json: `origin` and more."""
    task, masks = approach.tasks[t], approach.hidden.masks(t)
    net = approach.net.eval().requires_grad_(False)
    small = net.pruned(t)
    answers = saved.logits(approach, t, task.test).argmax(1)  # in the precision of the run
    saved.check_accuracy(task.name, float((answers == task.test.y.cpu()).double().mean()), run_accuracy)

    masked = functools.partial(net, t=t, masks=masks)
    difference, accuracy = compare(task, masked, small)
    kept = sum(count_weights(net.hidden, active(masks))) + sum(whole(net.hidden).values())
    plain = torch.nn.Sequential(hat.plain(net.hidden, t), net.heads[t]).eval()
    report = origin | {
        'task': task.name,
        'classes': task.n_classes,
        'input': saved.describe_input(task) | ({} if task.pixels is None else {'pixels': task.pixels.tolist()}),
        'accuracy': accuracy,
        'images': len(task.test.y),
        'largest_difference': difference,
        'weights': [sum(p.numel() for p in net.hidden.shared.values()), kept],
        'parameters': [sum(p.numel() for p in each.parameters()) for each in (plain, small)],
        'bytes': [len(serialize(each.state_dict())) for each in (plain, small)],
        'milliseconds': {n: milliseconds((plain, small), task, n, args.rounds) for n in BATCHES},
        'device': describe(task.test.y.device),
        'versions': versions(),
    }
    x = next(task.batches(task.test))[0]
    expected, x, small = masked(x).cpu(), x.cpu(), small.cpu()
    program = exported(small, x)
    check(f'{task.name}, exported', expected, torch.export.load(io.BytesIO(program)).module()(x))
    files = {'pt': serialize(small.state_dict()), 'pt2': program, 'json': results.json_text(report).encode()}
    for suffix, content in files.items():
        write(f'{base}.{suffix}', content)
    if args.onnx:
        with atomic(f'{base}.onnx') as part:
            torch.onnx.export(
                small, (x[:2].clone(),), part, dynamo=True, dynamic_shapes=SHAPES, external_data=False, verbose=False
            )
    return report


def compare(task, masked, small):
    """Check the outputs of the small network on all test images. Returns their largest difference, and its accuracy."""
    difference, n_correct = 0.0, 0
    for x, y in task.batches(task.test):
        before, after = masked(x), small(x)
        check(task.name, before, after)
        difference = max(difference, float((after - before).abs().max()))
        n_correct += int((after.argmax(1) == y).sum())
    return difference, n_correct / len(task.test.y)


def check(name, before, after):
    """Raises UserError unless the outputs, (B, classes), agree within TOLERANCE and in every prediction."""
    difference = (after - before).abs()
    if not (difference <= TOLERANCE * before.abs().amax(1, keepdim=True).clamp_min(1)).all():  # nor is a nan
        raise UserError(f'{name}: outputs of the pruned network differ by {difference.max():.2g}; nothing was written')
    if (before.argmax(1) != after.argmax(1)).any():
        raise UserError(f'{name}: a prediction of the pruned network differs, at a tie; nothing was written')


def milliseconds(networks, task, n, rounds):
    """Median time per image of each network, n images at a time; measurements of the networks are interleaved."""
    x = task.batch(task.test, torch.arange(n) % len(task.test.y))[0].contiguous()
    times = [[] for _ in networks]
    for _ in range(rounds + WARM_UP):
        for network, measured in zip(networks, times, strict=True):
            start = time.perf_counter()
            network(x).cpu()  # waits for a GPU
            measured.append(time.perf_counter() - start)
    return [1000 * statistics.median(measured[WARM_UP:]) / n for measured in times]


def exported(small, x):
    """The bytes of a .pt2 that takes any number of images."""
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(small, (x[:2].clone(),), dynamic_shapes=SHAPES), buffer)
    return buffer.getvalue()


if __name__ == '__main__':
    sys.exit(exit_code('prune.py', main, None))

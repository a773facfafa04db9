"""Classify pictures with the network of a finished run. RESULT.json is of run.py --save; no data are needed.

Pictures of any size and mode are read as those of --experiment folder are. The network has to be told the task: --task.
Without it every task answers, and the most confident one is marked as a guess: a task knows only its own classes, and
may be confident of a picture of something else.
"""

import functools
import os
import sys
import warnings
from pathlib import Path

import numpy as np

from core import results
from core.arguments import Parser, few
from core.device import setup_device
from core.errors import UserError, complain, exit_code
from core.text_tables import text
from dataloaders.own import pictures
from runs import identity, saved

EXAMPLES = """\
example:
  python src/run.py --approach hat --experiment folder --data DIR --save --output res/mine.txt
  python src/predict.py res/mine.json picture.jpg --task birds --top 3
"""


def parse(argv):
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument('result', type=Path, metavar='RESULT.json')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='files, not folders')
    parser.add_argument('--task', metavar='NAME', help='the task of the pictures (default: every task answers)')
    parser.add_argument('--top', type=few, default=1, metavar='K', help='the K most probable classes (default 1)')
    parser.add_argument('--json', action='store_true', help='a line of JSON for each picture')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, cuda:N or mps (default cpu)')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    record = saved.read(args.result)
    approach = saved.without_data(args.result, record, setup_device(args.device))
    ran = record['arguments']
    if record.get('code') != identity.code(ran['approach'], ran['experiment'], ran.get('network')):
        what = "a run by other code than today's: its network may answer otherwise"
        warnings.warn(f'{args.result}: {what}', stacklevel=2)
    names = [task.name for task in approach.tasks]
    if args.task not in (None, *names):
        raise UserError(f'--task: {args.task!r} is none of {", ".join(names)}')
    chosen = [names.index(args.task)] if args.task else range(len(names))
    sides = [approach.tasks[t].test.x.shape[1] for t in chosen]
    read, code = functools.cache(read_picture), 0
    paths, found = [], []  # found: of each path its picture, in the size of each task
    for path in args.images:
        try:
            found.append([read(path, side) for side in sides])
            paths.append(path)
        except UserError as error:
            complain('predict.py', f'error: {error}')
            code = error.code
    if paths:
        answers = [answer(approach, record, t, each, args.top)
                   for t, each in zip(chosen, zip(*found, strict=True), strict=True)]  # fmt: skip
        show(paths, [names[t] for t in chosen], list(zip(*answers, strict=True)), args.json)
    return code


def read_picture(path, side):
    """(side, side, 1 or 3) uint8. Raises UserError."""
    if os.path.isdir(path):
        raise UserError(f'{path}: a folder; name the files in it')
    with pictures.quiet():
        picture, reason = pictures.attempt(functools.partial(pictures.read, side=side), path)
    if picture is None:
        raise UserError(f'{path}: {reason}')
    return picture


def answer(approach, record, t, found, k):
    """For each picture the k most probable classes of task t, a list of (name, probability)."""
    task = approach.tasks[t]
    names, channels = saved.class_names(record, task), task.test.x.shape[3]
    x = np.stack([pictures.with_channels(picture, channels) for picture in found])
    logits = saved.logits(approach, t, saved.images_of(x, task.test.y.device))
    order = logits.argsort(dim=1, descending=True, stable=True)[:, :k]  # the first one is argmax(1), ties included
    probabilities = logits.double().softmax(1).gather(1, order)
    return [[(names[c], p) for c, p in zip(*row, strict=True)]
            for row in zip(order.tolist(), probabilities.tolist(), strict=True)]  # fmt: skip


def show(paths, tasks, answers, as_json):
    """Print the answers, for each path and task a list of (class, probability)."""
    lines = []
    for path, each in zip(paths, answers, strict=True):
        best = max(range(len(tasks)), key=lambda t: np.nan_to_num(each[t][0][1]))
        if as_json:
            found = [
                {'task': task, 'classes': [{'class': name, 'probability': p} for name, p in classes]}
                for task, classes in zip(tasks, each, strict=True)
            ]
            guess = {'guess': tasks[best]} if len(tasks) > 1 else {}
            print(results.json_text({'picture': path, 'answers': found} | guess, indent=None), end='')
            continue
        for t, (task, classes) in enumerate(zip(tasks, each, strict=True)):
            shown = ', '.join(f'{name} {100 * p:.1f} %' for name, p in classes)
            lines.append([path if t == 0 else '', task, shown, 'guess' if len(tasks) > 1 and t == best else ''])
    if lines:
        print(text(['picture', 'task', 'class', ''], lines))
        if len(tasks) > 1:
            print('\nguess: the most confident task; name the task of the pictures with --task to be sure')


if __name__ == '__main__':
    sys.exit(exit_code('predict.py', main, None))

"""Invented runs: their result files, as run.py writes them."""

import json
from pathlib import Path

import numpy as np

from approaches import APPROACHES
from runs import identity

JOINT, RANDOM = np.array([[0.9, 0], [0.8, 0.9]]), np.array([[0.1, 0], [0.1, 0.2]])
TIMES = {'total': 1, 'epochs': [[1]]}


class Runs:
    """Writes invented runs of two tasks, with records: runs('hat', 0, accuracy, {'c': 1}, width=0.5, tasks=...)."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, approach, seed, accuracy, parameter=None, name=None, **changes):
        """changes: of the arguments, or of the record."""
        parameter = APPROACHES[approach].defaults() | (parameter or {})
        arguments = {'approach': approach, 'experiment': 'mixture', 'seed': seed, 'parameter': parameter, 'tasks': None,
                     'ntasks': None, 'ntrain': None, 'nepochs': 200, 'lr': 0.05, 'batch_size': 64,
                     'width': 1}  # fmt: skip
        arguments |= {key: changes.pop(key) for key in list(changes) if key in arguments and key != 'tasks'}
        epochs = [[{'valid_accuracy': 0.1 * e + 0.5, 'active': [10 * e, 30], 'capacity': [10 * e + 50 * t, 60 * e]}
                   for e in (1, 2)] for t in (0, 1)]  # fmt: skip
        monitor = {'weights': [100, 300], 'active': [[20, 30], [20, 60]], 'reuse': [[50, 25], [25, 80]]}
        accuracy = np.tril(accuracy)
        record = {'arguments': arguments, 'tasks': [task('mnist'), task('svhn')][: len(accuracy)],
                  'code': identity.code(approach, 'mixture'), 'versions': {'python': '3.11', 'torch': '<9.9>'},
                  'accuracy': accuracy.tolist(), 'initial': [0.1, 0.1], 'before': [0.1, 0.3], 'epochs': epochs,
                  'valid_accuracy': [[0.8, 0], [0.8, 0.9]], 'monitor': monitor if approach == 'hat' else {},
                  'devices': ['cpu (x86_64, 1 threads)'], 'folder': 'dat', 'diverged': [],
                  'times': {'total': 90, 'epochs': [[1, 2], [3, 4]], 'testing': [1, 2]}}  # fmt: skip
        base = self.folder / (name or f'mixture_{approach}_{seed}')
        np.savetxt(f'{base}.txt', accuracy, '%.4f')
        record = {key: value for key, value in (record | changes).items() if value is not None}
        Path(f'{base}.json').write_text(json.dumps(record))


def task(name, data='0a1b', **changes):
    return {'name': name, 'n_classes': 10, 'train': 51, 'valid': 9, 'test': 40, 'data': data} | changes

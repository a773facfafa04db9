"""folder: tasks of your own, in a folder, without code (own/layouts.py says how, own/pictures.py how they are read).

Not in the paper. Names, input size, mean and deviation come from the folder: use() says which one.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from core import seeds
from dataloaders.own import cache, layouts
from dataloaders.task import Dataset, stratified

FAMILY = 'alexnet'
DEFAULTS = {}
OPTIONS = 'size', 'skip_bad'
DARK = 32  # pictures without a pixel of this value or more may have lost most of their levels
TEST_SHARE = 5  # where there is no test set, one picture in TEST_SHARE is for testing


@dataclass
class Used:
    folder: Path | None = None
    size: int | None = None  # --size
    skip_bad: bool | None = None  # --skip-bad

    @property
    def sources(self):
        return layouts.find(self.folder) if self.folder else {}

    @cached_property
    def side(self):
        return self.size or cache.common_side(self.sources.values())


_used = Used()


def use(folder, size=None, skip_bad=None):
    """Choose the folder that NAMES, SHAPE and all functions here are about. Nothing is read yet."""
    global _used
    _used = Used(Path(os.path.realpath(folder)), size, skip_bad)


def __getattr__(name):
    """NAMES, the tasks that are in the folder now, and SHAPE."""
    if name == 'NAMES':
        return tuple(_used.sources)
    if name == 'SHAPE':
        return 3, _used.side, _used.side
    raise AttributeError(name)


def source(name):
    """The npz of the task, which is made if it is missing and the pictures are there."""
    sources = _used.sources if _used.folder.is_dir() else {}
    if name not in sources:
        return str(_used.folder / f'{name} is not there')
    return str(_made(name, sources[name])).removesuffix('.npz')


def read(names, folder, seed):
    """Only the division of a task without a test set depends on the seed."""
    sources = _used.sources
    if not _used.size:
        print(f'pictures are made {_used.side}x{_used.side} (--size)', flush=True)
    return [_dataset(name, cache.load(_made(name, sources[name])), seed) for name in names]


def notes(names):
    """For the record of a run: names of the classes and, with --skip-bad, the pictures that are left out, by task."""
    sources = _used.sources
    found = {name: cache.load(_made(name, sources[name])) for name in names}
    notes = {'classes': {name: cached.classes for name, cached in found.items()}}
    skipped = {name: cached.skipped for name, cached in found.items() if cached.skipped}
    return notes | ({'skipped': skipped} if skipped else {})


def _made(name, path):
    return cache.ensure(name, path, _used.side, _used.skip_bad)


def _dataset(name, cached, seed):
    train_x, train_y, test_x, test_y, fingerprint = cached.content
    moments = cached.moments
    if (level := train_x.max()) < DARK:
        why = 'of 16-bit pictures the upper 8 bits are used, of 12 bits in 16 just 4'
        print(f'{name}: no pixel of a training picture is above {level} of 255 ({why})', flush=True)
    if cached.skipped:
        n = len(cached.skipped)
        print(f'{name}: {n} damaged picture{"s" if n > 1 else ""} left out, such as {cached.skipped[0]}', flush=True)
    if not len(test_y):
        print(f'{name}: no test set; the seed draws a fifth of the pictures for it', flush=True)
        index = stratified(train_y, len(train_y) // TEST_SHARE, seeds.derive(seed, 'test', name))
        rest = np.delete(np.arange(len(train_y)), index)
        test_x, test_y, train_x, train_y = train_x[index], train_y[index], train_x[rest], train_y[rest]
        moments = moments[rest]
    if n := repeated(train_x, test_x):
        print(f'{name}: {n} of {len(test_x)} test pictures are training pictures, too', flush=True)
    mean, std = normalization(moments, train_x[0, :, :, 0].size)
    return Dataset(name, len(cached.classes), mean, std, train_x, train_y, test_x, test_y, fingerprint)


def repeated(train_x, test_x):
    """How many test pictures are, pixel by pixel, also for training."""
    known = {hash(x.tobytes()) for x in train_x}
    return sum(hash(x.tobytes()) in known for x in test_x)


def normalization(moments, size):
    """Mean and deviation by channel, 0..1, from the sums and sums of squares of pictures of `size` pixels; exact."""
    n, (sums, squares) = len(moments) * size, moments.sum(0).tolist()
    mean = tuple(s / n / 255 for s in sums)
    std = tuple(max((n * q - s * s) ** 0.5 / n, 1) / 255 for s, q in zip(sums, squares, strict=True))  # 1: all equal
    return mean, std

"""A task of your own as an npz, made once from what layouts.py finds and pictures.py reads.

It is in the folder .cache of $HAT_TMP, else of dat/, or of tmp/ if dat/ is read-only. A digest of the names, sizes and
times of the sources is in its name: where these change, it is made again. What a result records is the fingerprint of
its arrays. The test set is empty where the task has none: the seed then draws one from the training pictures.
"""

import glob
import hashlib
import json
import os
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from core.errors import UserError, one_line
from core.files import ROOT, lock
from dataloaders import npz
from dataloaders.own import layouts, pictures

FORMAT = 2  # of the npz and of how pictures are read: another one makes all caches again
PLACES = ROOT / 'dat', ROOT / 'tmp'
SIDES = range(8, 513)  # of the images in an npz
SAMPLE = 1000  # pictures of a task whose sizes are looked at
DEFAULT_SIDES = 32, 64  # smallest and largest default of --size
ADVICE = '; delete it to have it made again'


class Cached(NamedTuple):
    content: npz.Content
    moments: np.ndarray  # (N, 2, C) int64: sum and sum of squares of each training picture, by channel
    classes: list  # names, in the order of the labels
    skipped: list  # paths, from the folder of all tasks, of pictures that are left out


class Split(NamedTuple):
    x: np.ndarray  # (n, side, side, 3) uint8
    moments: np.ndarray  # (n, 2, 3), as in Cached
    labels: list
    colour: bool  # is any picture in colour?


def ensure(name, source, side, skip_bad):
    """The path of the npz of a task, whose source is an npz, a csv or a folder. Raises UserError."""
    place = digest(os.fsencode(source), side, bool(skip_bad))
    stem = f'{name[:40]}-{place}'
    file = f'{stem}-{digest(FORMAT, state(source))}.npz'
    places = [Path(tmp)] if (tmp := os.environ.get('HAT_TMP')) else PLACES
    folders = [place / '.cache' for place in places]
    if found := next((folder / file for folder in folders if (folder / file).exists()), None):
        return found
    folder = next((f for f in folders if os.access(f if f.exists() else f.parent, os.W_OK)), folders[-1])
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / f'.{stem}.lock'):  # one of several runs makes it, the others wait
        if not (folder / file).exists():
            for part in folder.glob(f'.{glob.escape(stem)}-*.part'):
                part.unlink(missing_ok=True)
            arrays, moments, about = read(name, source, side, skip_bad)
            about = np.frombuffer(json.dumps(about).encode(), np.uint8)
            npz.write(folder / file, arrays, moments=moments, about=about)
            for old in set(folder.glob(f'{glob.escape(stem)}-*.npz')) - {folder / file}:
                with suppress(OSError):  # on Windows, while a run uses it
                    old.unlink()
    return folder / file


def load(path):
    """The Cached in an npz. Raises UserError."""
    content = npz.load(path, ADVICE)
    try:
        with np.load(path) as file:
            return Cached(content, file['moments'], **json.loads(file['about'].tobytes()))
    except Exception as error:  # a damaged file may raise anything
        raise UserError(f'{path}: cannot be read: {one_line(error)}{ADVICE}') from error


def common_side(sources):
    """The default of --size: the most common longer side of pictures in all sources, but from 32 to 64."""
    sides = Counter()
    for source in sources:
        with suppress(Exception):  # whatever a damaged task may raise, it is reported when it is read
            if is_npz(source):
                n, *size = npz.shape(source, 'train_x')[:3]
                sides[max(size)] += min(n, SAMPLE)
                continue
            paths = [path for found in layouts.pictures(source).values() for path, _ in found]
            some = np.random.default_rng(0).permutation(len(paths))[:SAMPLE]
            for path in (paths[i] for i in some):
                with suppress(Exception):
                    sides[pictures.longer_side(path)] += 1
    side = max(sides, key=lambda side: (sides[side], side), default=0)
    low, high = DEFAULT_SIDES
    return min(max(side, low), high)


def read(name, source, side, skip_bad):
    """Four arrays, moments, and what else Cached holds, a dict. Raises UserError."""
    if is_npz(source):
        train_x, train_y, test_x, test_y = npz_arrays(source)
        splits = {'train': (train_x, train_y.tolist()), 'test': (test_x, test_y.tolist())}
        read_one = partial(_from_array, side=side)
    else:
        splits = {split: tuple(zip(*found, strict=True)) for split, found in layouts.pictures(source).items()}
        read_one = partial(pictures.read, side=side)
    check_classes(source, {split: labels for split, (_, labels) in splits.items()})
    print(f'{name}: reading {sum(len(items) for items, _ in splits.values()):,} pictures', flush=True)
    found, skipped = {}, []
    for split, (items, labels) in splits.items():
        x, moments, colour, failed = pictures.collect(name, items, read_one, skip_bad)
        skipped += [os.path.relpath(items[i], source.parent) for i in sorted(failed)]
        kept = [i for i in range(len(items)) if i not in failed]
        if failed and kept:
            x, moments = x[kept], moments[kept]
        found[split] = Split(x, moments, [labels[i] for i in kept], colour)
    classes = check_classes(source, {split: each.labels for split, each in found.items()})
    if not found['train'].moments.any():
        why = 'of pictures with 16 bits the upper 8 count, which are 0 up to the value 255'
        raise UserError(f'{source}: all pictures for training are black ({why}); save them with 8 bits')
    channels = 3 if any(each.colour for each in found.values()) else 1
    arrays = []
    for split in layouts.SPLITS:
        if each := found.get(split):
            arrays += [np.ascontiguousarray(each.x[..., :channels]), np.array([classes[c] for c in each.labels])]
        else:
            arrays += [arrays[0][:0], arrays[1][:0]]
    about = {'classes': [str(c) for c in classes], 'skipped': skipped}
    return arrays, found['train'].moments[..., :channels], about


def check_classes(source, splits):
    """label -> number, of the labels in each split. Raises UserError unless all have the same, two or more."""
    classes = sorted(set(splits['train']))
    for split, labels in splits.items():
        if other := sorted(set(classes) ^ set(labels)):
            only, lacking = (split, 'train') if other[0] in labels else ('train', split)
            raise UserError(f'{source}: class {other[0]} is in {only} only; {lacking} needs pictures of it, too')
    if len(classes) < 2:
        raise UserError(f'{source}: a task needs two classes or more, not {len(classes)}')
    return {label: number for number, label in enumerate(classes)}


def is_npz(source):
    return source.suffix == '.npz' and not os.path.isdir(source)


def npz_arrays(path):
    """The four arrays of an npz of your own. Raises UserError."""
    arrays = npz.load(path)[:4]
    for split, x, y in ('train', *arrays[:2]), ('test', *arrays[2:]):
        fits = x.ndim in (3, 4) and set(x.shape[1:3]) <= set(SIDES) and x.shape[3:] in ((), (1,), (3,))
        if x.dtype != np.uint8 or not fits:
            wanted = f'uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3) with H and W from {SIDES[0]} to {SIDES[-1]}'
            raise UserError(f'{path}: {split}_x is {x.dtype} {x.shape}, not {wanted}')
        if y.dtype.kind not in 'iu' or y.shape != (len(x),) or not len(y):
            raise UserError(f'{path}: {split}_y is {y.dtype} {y.shape}, not {len(x)} whole numbers, one or more')
    return arrays


def _from_array(x, side):
    return pictures.fit(Image.fromarray(x[..., 0] if x.ndim == 3 and x.shape[2] == 1 else x), side)


def state(source):
    """Names, sizes and times of all files of a task."""
    splits = {} if is_npz(source) else layouts.pictures(source)
    paths = [(split, label, path) for split, found in splits.items() for path, label in found]
    own = [] if os.path.isdir(source) else [('', '', source)]
    return [(split, label, os.fsencode(path), *_size_and_time(path)) for split, label, path in own + paths]


def _size_and_time(path):
    with suppress(OSError, ValueError):  # a path may hold a zero byte
        status = os.stat(path)
        # ctime, too: cp -p and archives keep the size and set mtime
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return ()


def digest(*content):
    return hashlib.blake2b(repr(content).encode(), digest_size=6).hexdigest()

"""Tasks of your own in a folder: what becomes of the pictures, what is refused, that nothing is left half-written."""

import copy
import csv
import io
import json
import os
import random
import re
import shlex
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import test_pages
import torch
from PIL import Image
from test_sources import listing

import dataloaders
import networks
import plot_results
import prune
import run
import run_multi
import work
from core import results
from core.errors import UserError, exit_code
from dataloaders import folder
from dataloaders.own import cache, pictures
from reports import records
from runs import identity
from runs.checkpoints import Checkpoint

FAST = ['--approach', 'random', '--experiment', 'folder', '--width', '0.02', '--nepochs', '1', '--device', 'cpu']
CLASSES = 'cat', 'dog', 'eel'
CORNERS = np.zeros((20, 30, 3), np.uint8)  # four areas of one colour each: which way up a picture is can be seen
CORNERS[:10, :15], CORNERS[:10, 15:], CORNERS[10:, :15] = (250, 0, 0), (0, 240, 0), (0, 0, 230)
CORNERS[10:, 15:] = 100, 110, 120


def noise(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def encoded(x, kind='PNG', **options):
    file = io.BytesIO()
    Image.fromarray(x).save(file, kind, **options)
    return file.getvalue()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def put_classes(path, n=4, size=(12, 12, 3), seed=0):
    """n pictures of each of CLASSES in the folder."""
    for k, name in enumerate(CLASSES):
        for i, x in enumerate(noise(n, *size, seed=seed + k)):
            put(path / name / f'{i}.png', encoded(x))


def put_splits(path, seed=0):
    put_classes(path / 'train', 4, seed=seed)
    put_classes(path / 'test', 2, seed=seed + 10)


def put_table(path, rows):
    with open(path, 'w', encoding='utf-8', newline='') as file:
        csv.writer(file).writerows(rows)


def all_arrays(n=12, size=(12, 12, 3)):
    return {
        'train_x': noise(n, *size),
        'train_y': np.arange(n) % 3,
        'test_x': noise(6, *size),
        'test_y': np.arange(6) % 3,
    }


@pytest.fixture
def data(tmp_path):
    """A folder with a task of each form."""
    data = tmp_path / 'data'
    put_splits(data / 'pets')
    put_classes(data / 'wild', 7)
    np.savez(data / 'drawn.npz', **all_arrays())
    rows = [
        (f'shots/{split}{i}.png', CLASSES[i % 3], split) for split, n in (('train', 12), ('test', 6)) for i in range(n)
    ]
    for k, (name, _, _) in enumerate(rows):
        put(data / name, encoded(noise(1, 12, 12, 3, seed=k)[0]))
    put_table(data / 'taken.csv', [('path', 'label', 'split'), *rows])
    return data


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Where the caches of this test are."""
    place = tmp_path / 'cached'
    place.mkdir()
    monkeypatch.setattr(cache, 'PLACES', [place])
    return place / '.cache'


@pytest.fixture
def start(data, kept, tmp_path, capfd):
    """start(...): run.py on the folder; its exit code, output and error."""

    def start(*more):
        code = run.cli([*FAST, '--data', str(data), '--output', str(tmp_path / 'out.txt'), *more])
        return code, *capfd.readouterr()

    return start


def load(data, *names, seed=0, **options):
    folder.use(data, **options)
    return dataloaders.load('folder', data, seed, list(names) or None)


def whole(path):
    """All in a folder of caches are complete."""
    for name in os.listdir(path) if path.exists() else ():
        assert name.endswith('.npz') and cache.load(path / name)


# What is read


def test_the_three_forms_of_the_same_pictures_are_the_same_data(tmp_path, kept):
    """Arrays, labels and fingerprint."""
    data, x, labels = tmp_path / 'data', noise(18, 32, 20, 3), np.repeat([7, 8, 9], 6)
    is_test, rows = np.arange(18) % 6 > 3, [('label', 'split', 'path', 'more')]
    for i, (image, label) in enumerate(zip(x, labels, strict=True)):
        split = 'test' if is_test[i] else 'train'
        put(data / 'folder' / split / str(label) / f'{i:02}.png', encoded(image))
        rows.append((label, split, f'folder/{split}/{label}/{i:02}.png', '-'))
    np.savez(data / 'array.npz', train_x=x[~is_test], train_y=labels[~is_test].astype(np.uint8), test_x=x[is_test],
             test_y=labels[is_test])  # fmt: skip
    shutil.move(data / 'folder', tmp_path / 'folder')
    put_table(data / 'table.csv', [(*row[:2], str(tmp_path / row[2])) if row[2] != 'path' else row for row in rows])
    shutil.copytree(tmp_path / 'folder', data / 'folder')
    tasks = load(data)
    assert sorted(task.name for task in tasks) == ['array', 'folder', 'table']
    assert len({task.fingerprint for task in tasks}) == 1
    expected = np.pad(x[~is_test], [(0, 0), (0, 0), (6, 6), (0, 0)])
    for task in tasks:
        assert torch.equal(task.train.x, torch.from_numpy(expected))
        assert sorted(torch.cat([task.train.y, task.valid.y]).tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert set(map(tuple, folder.notes(['array', 'table', 'folder'])['classes'].values())) == {('7', '8', '9')}


def test_a_run_records_classes_and_options_and_a_second_one_reads_no_picture(start, data, tmp_path, monkeypatch):
    before = listing(data)
    code, out, _ = start('--seed', '3')
    record = json.loads((tmp_path / 'out.json').read_text())
    assert code == 0 and out.count('wild: no test set; the seed draws a fifth of the pictures for it') == 1
    assert record['classes'] == {'drawn': ['0', '1', '2']} | dict.fromkeys(('pets', 'wild', 'taken'), list(CLASSES))
    assert list(record['classes']) != sorted(record['classes'])  # in the order of the tasks, which the seed shuffles
    assert [record['arguments'][name] for name in ('size', 'skip_bad')] == [None, None] and 'skipped' not in record
    monkeypatch.setattr(pictures, 'collect', None)
    assert 'already finished' in start('--seed', '3')[1]
    assert start('--seed', '3', '--fresh')[0] == 0
    assert listing(data) == before  # it may be read-only


def test_a_task_may_be_called_as_an_argument_is(start, data, tmp_path):
    for old, new in ('pets', 'lr'), ('wild', 'width'):
        (data / old).rename(data / new)
    assert start()[0] == 0
    assert 'already finished' in start()[1]
    _, out, _ = start('--lr', '0.01')
    assert 'lr is 0.01, not 0.05' in out or 'lr is 0.05, not 0.01' in out
    record = json.loads((tmp_path / 'out.json').read_text())
    other = copy.deepcopy(record)
    next(task for task in other['tasks'] if task['name'] == 'width')['data'] = 'ffff'
    one, same, other = (
        records.Result('sgd', tmp_path / 'out.txt', np.eye(4), each) for each in (record, record, other)
    )
    assert one.like(same) and not one.like(other)


def test_a_changed_picture_is_another_run_and_one_that_was_only_touched_is_not(start, data, kept, tmp_path):
    assert start()[0] == 0
    names = sorted(os.listdir(kept))
    path = data / 'pets' / 'train' / 'cat' / '0.png'
    os.utime(path, ns=(0, 0))
    assert 'already finished' in start()[1]
    assert len(os.listdir(kept)) == len(names) == 4  # the old one is gone
    for k in 98, 99:  # the second time with the size and the time of the first
        path.write_bytes(encoded(noise(1, 12, 12, 3, seed=k)[0], 'BMP'))
        os.utime(path, ns=(0, 0))
        _, out, _ = start()
        assert 'pets: data is' in out and f'out.json renamed to out.old-{k - 97}.json' in out
    shutil.move(data, tmp_path / 'gone')
    assert 'already finished' in start()[1]  # without its data, too
    code, _, err = start('--fresh')
    assert code == 2 and 'is not a folder' in err and err.count('\n') == 1


@pytest.mark.parametrize('name', ['pets', 'wild', 'drawn'])
@pytest.mark.parametrize('seed', [0, 5])
def test_normalized_training_images_have_mean_0_and_deviation_1(data, kept, name, seed):
    (task,) = load(data, name, seed=seed)
    x = task.train.x.double() / 255
    assert task.mean.flatten().tolist() == pytest.approx((255 * x.mean((0, 1, 2))).tolist(), rel=1e-6)
    assert task.std.flatten().tolist() == pytest.approx((255 * x.std((0, 1, 2), correction=0)).tolist(), rel=1e-6)
    batch = torch.cat([task.batch(images, slice(None))[0] for images in (task.train, task.valid)])
    assert batch.mean((0, 2, 3)).abs().max() < 1e-4 and batch.std((0, 2, 3)).sub(1).abs().max() < 1e-2


def test_without_a_test_set_the_seed_draws_a_stratified_fifth(data, kept):
    splits = []
    for seed in 0, 0, 1:
        (task,) = load(data, 'wild', seed=seed)
        assert (len(task.test.y), len(task.train.x)) == (4, 17)
        assert np.bincount(task.test.y).tolist() in ([1, 1, 2], [1, 2, 1], [2, 1, 1])
        assert len({x.tobytes() for x in [*task.train.x.numpy(), *task.test.x.numpy()]}) == 21  # none is in both
        splits.append((task.fingerprint, task.test.x.numpy().tobytes()))
    assert splits[0] == splits[1] and splits[0][0] == splits[2][0] and splits[0][1] != splits[2][1]


def test_a_class_too_small_for_the_test_set_that_is_drawn_is_said(start, data):
    put(data / 'wild' / 'fox' / '0.png', encoded(noise(1, 12, 12, 3)[0]))
    _, out, _ = start('--tasks', 'wild,pets')
    assert 'wild: 1 of its 4 classes have no test image\n' in out and out.count('test image') == 1


def test_test_pictures_that_are_training_pictures_are_said(data, kept, capsys):
    load(data, 'pets', 'wild')
    assert 'too' not in capsys.readouterr().out
    for k, path in enumerate(['pets/test/cat', 'pets/test/eel', 'wild/dog']):  # which has the same pictures
        shutil.copy(data / 'pets' / 'train' / 'dog' / f'{k}.png', data / path / 'again.png')
    load(data, 'pets', 'wild')
    found = re.findall(r'(\w+): (\d+) of (\d+) .* too$', capsys.readouterr().out, re.M)
    assert found == [('pets', '2', '8'), ('wild', '1', '4')]  # the latter's were drawn


def test_pictures_that_are_nearly_black_are_said(data, kept, capsys):
    for path in (data / 'wild').glob('*/*.png'):
        put(path, encoded((noise(1, 12, 12)[0] * 16.0).astype(np.uint16)))  # 12 bits in 16
    load(data, 'pets', 'wild')
    found = re.findall('(.*): no pixel of a training picture is above (.*) of 255', capsys.readouterr().out)
    assert found == [('wild', '15')]


def test_order_of_tasks_as_in_other_experiments(data, kept):
    names = [task.name for task in load(data, seed=1)]
    assert names == dataloaders.task.choose(['drawn', 'pets', 'taken', 'wild'], 1)
    assert [task.name for task in load(data, 'wild', 'drawn')] == ['wild', 'drawn']


# Pictures


def read(content, side, tmp_path, name='x.png'):
    (tmp_path / name).write_bytes(content)
    with pictures.quiet():
        return pictures.read(tmp_path / name, side)


def padded(x, side):
    margin = [((side - n) // 2, side - n - (side - n) // 2) for n in x.shape[:2]]
    return np.pad(x, [*margin, (0, 0)])


GREY = np.asarray(Image.fromarray(CORNERS).convert('L'))
ALPHA = np.linspace(0, 255, 600).astype(np.uint8).reshape(20, 30)
DEEP = GREY.astype(np.uint16) * 256 + 77
MODES = {  # a file, and what it has to be
    'colour': (lambda: encoded(CORNERS), CORNERS),
    'grey': (lambda: encoded(GREY), GREY),
    'palette': (lambda: saved(Image.fromarray(CORNERS).quantize(4)), CORNERS),
    '1 bit': (lambda: encoded(GREY > 99), 255 * (GREY > 99)),
    '16 bit PNG': (lambda: encoded(DEEP), GREY),
    '16 bit TIFF': (lambda: encoded(DEEP, 'TIFF'), GREY),
    '16 bit PGM': (lambda: b'P5 30 20 65535\n' + DEEP.astype('>u2').tobytes(), GREY),
    'CMYK': (lambda: saved(Image.fromarray(CORNERS).convert('CMYK'), 'TIFF'), CORNERS),
    'RGBA': (lambda: encoded(np.dstack([CORNERS, ALPHA])), CORNERS * (ALPHA[..., None] / 255)),
    'LA': (lambda: encoded(np.dstack([GREY, ALPHA])), GREY * (ALPHA / 255)),
    'a transparent colour': (lambda: encoded(CORNERS, transparency=(250, 0, 0)), CORNERS * (CORNERS[..., :1] != 250)),
    'animated': (lambda: encoded(CORNERS, save_all=True, append_images=[Image.new('RGB', (30, 20))]), CORNERS),
    'GIF': (lambda: saved(Image.fromarray(CORNERS).quantize(4), 'GIF'), CORNERS),
    'WebP': (lambda: encoded(CORNERS, 'WEBP', lossless=True), CORNERS),
    'BMP': (lambda: encoded(CORNERS, 'BMP'), CORNERS),
}


def saved(image, kind='PNG', **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize('mode', MODES)
def test_a_picture_of_any_mode_is_read(mode, tmp_path):
    content, expected = MODES[mode]
    expected = padded(np.atleast_3d(expected), 32)
    found = read(content(), 32, tmp_path)
    assert found.shape == expected.shape and found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1


TURNS = {2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1], 5: lambda x: x.swapaxes(0, 1),
         6: lambda x: np.rot90(x), 7: lambda x: x[::-1, ::-1].swapaxes(0, 1), 8: lambda x: np.rot90(x, -1)}  # fmt: skip

FINE = {'JPEG': {'quality': 95, 'subsampling': 0}}


@pytest.mark.parametrize('kind, picture', [('PNG', CORNERS), ('JPEG', CORNERS), ('TIFF', CORNERS), ('TIFF', GREY),
                                           ('PNG', DEEP), ('TIFF', DEEP)])  # fmt: skip
@pytest.mark.parametrize('orientation', TURNS)
@pytest.mark.parametrize('scale', [1, 4])
def test_a_picture_that_its_camera_turned_is_upright(kind, picture, orientation, scale, tmp_path):
    x = picture.repeat(scale, 0).repeat(scale, 1)
    exif = Image.Exif()
    exif[0x112] = orientation
    content = encoded(np.ascontiguousarray(TURNS[orientation](x)), kind, exif=exif, **FINE.get(kind, {}))
    side = 36 if scale == 1 else 30
    expected = padded(CORNERS if picture is CORNERS else GREY[..., None], side)
    found = read(content, side, tmp_path)
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).mean() < 3


def test_large_pictures_are_reduced_and_small_ones_are_not_enlarged(tmp_path):
    large = read(encoded(CORNERS.repeat(8, 0).repeat(8, 1)), 30, tmp_path).astype(int)
    same = np.abs(large - padded(CORNERS, 30)).max(2) <= 1
    assert same[:14].sum() + same[16:].sum() >= 26 * 30 - 26 * 2  # all but the edges of the four areas
    assert np.array_equal(read(encoded(CORNERS), 64, tmp_path), padded(CORNERS, 64))
    assert read(encoded(np.full((1, 5000, 3), 9, np.uint8)), 32, tmp_path).sum() == 32 * 3 * 9


def test_fine_patterns_are_averaged(tmp_path):
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 200
    found = read(encoded(stripes), 32, tmp_path)[2:-2, 2:-2]
    assert abs(found.astype(int) - 100).max() <= 2


@pytest.mark.parametrize(
    'sizes, side', [([(28, 28)], 32), ([(40, 50)], 50), ([(500, 375)], 64), ([(9, 9), (48, 20)], 48)]
)
def test_the_default_size_is_the_most_common_longer_side_from_32_to_64(tmp_path, kept, sizes, side, capsys):
    for k, size in enumerate(sizes):
        put_classes(tmp_path / 'data' / f'task{k}', 4 + k, (*size, 3))
    (task, *_) = load(tmp_path / 'data')
    assert task.shape == folder.SHAPE == (3, side, side) and task.train.x.shape[1:] == (side, side, 3)
    assert f'pictures are made {side}x{side} (--size)' in capsys.readouterr().out


def test_for_the_default_size_arrays_count_as_many_pictures_as_they_hold(tmp_path, kept):
    put_classes(tmp_path / 'data' / 'many', 20, (40, 40, 3))
    np.savez(tmp_path / 'data' / 'few.npz', **all_arrays(12, (60, 60, 3)))
    assert load(tmp_path / 'data')[0].shape == (3, 40, 40)


@pytest.mark.parametrize('side', [20, 37])
@pytest.mark.parametrize('variant', networks.NETWORKS['alexnet'])
def test_every_network_takes_every_size(variant, side):
    net = networks.build('alexnet', variant, (3, side, side), [3, 2], 0.05, 0)
    assert sum(p.numel() for p in net.parameters()) > 0
    if variant == '':
        assert net(torch.zeros(2, 3, side, side), 1).shape == (2, 2)


def test_grey_tasks_have_one_channel_and_one_coloured_picture_makes_three(data, kept):
    put_classes(data / 'grey', 4, (12, 12))
    assert load(data, 'grey')[0].train.x.shape[3] == 1
    put(data / 'grey' / 'eel' / 'x.png', encoded(CORNERS))
    assert load(data, 'grey')[0].train.x.shape[3] == 3


def test_what_a_network_drive_adds_to_a_class_is_ignored(data, kept):
    before = load(data, 'wild')[0].sizes()
    for inner in '@eaDir', '__MACOSX', '.hidden':
        written(f'wild/cat/{inner}/9.png/thumb.png', encoded(CORNERS))(data)
    assert load(data, 'wild')[0].sizes() == before


def test_pictures_of_a_csv_may_be_links_into_one_store(data, kept, tmp_path):
    """By relative and by whole paths alike: their folder is no task, and two links to one picture are two."""
    put_classes(tmp_path / 'store', 7)
    rows = []
    for c in CLASSES:
        (data / 'inside' / c).mkdir(parents=True)
        for i in range(7):
            (data / 'inside' / c / f'{i}.png').symlink_to(tmp_path / 'store' / c / f'{max(i, 1)}.png')
            rows.append((data / 'inside' / c / f'{i}.png' if i % 2 else f'inside/{c}/{i}.png', c))
    put_table(data / 'linked.csv', [('path', 'label', 'split', 'SPLIT'), *((*row, 'train', 'x') for row in rows)])
    tasks = {task.name: task for task in load(data)}
    assert set(tasks) == {'pets', 'wild', 'drawn', 'taken', 'linked'}
    assert sum(len(split.y) for split in (tasks['linked'].train, tasks['linked'].valid, tasks['linked'].test)) == 21


@pytest.mark.parametrize('place', ['data', 'link'])
def test_a_folder_whose_pictures_a_csv_names_by_whole_paths_is_no_task(data, kept, tmp_path, place):
    put_classes(data / 'inside', 7)
    (tmp_path / 'link').symlink_to(data)
    rows = [(tmp_path / place / 'inside' / c / f'{i}.png', c) for c in CLASSES for i in range(7)]
    put_table(data / 'whole.csv', [('path', 'label'), *rows])
    assert {task.name for task in load(data)} == {'pets', 'wild', 'drawn', 'taken', 'whole'}


# What is refused


def edited(**changes):
    def edit(data):
        np.savez(data / 'drawn.npz', **{k: v for k, v in (all_arrays() | changes).items() if v is not None})

    return edit


def removed(*path):
    return lambda data: [(shutil.rmtree if p.is_dir() else os.remove)(p) for p in data.glob(os.path.join(*path))]


def written(path, content):
    return lambda data: put(data / path, content)


def looped(path):
    def loop(data):
        (data / path).symlink_to(data / path)

    return loop


ROWS = b'path,label,split\n'
FAULTS = {  # what happens to the folder; words of the one line
    'a cut picture': (written('pets/train/cat/0.png', encoded(CORNERS)[:-90]), 'pets/train/cat/0.png', '--skip-bad'),
    'an empty picture': (written('wild/cat/0.png', b''), 'wild/cat/0.png: not a picture'),
    'a text': (written('wild/cat/é.JPG', b'hello'), 'wild/cat/é.JPG: not a picture'),
    'a huge picture': (
        written('wild/cat/0.png', saved(Image.new('1', (10_000, 9_000)))),
        'more than 89,478,485 pixels',
    ),
    'floats': (lambda data: put(data / 'wild/cat/0.tif', encoded(GREY.astype(np.float32), 'TIFF')), 'floats'),
    'a picture in a loop': (looped('wild/cat/7.png'), 'wild/cat/7.png: Too many levels of symbolic links'),
    'a picture that is a folder': (lambda data: (data / 'wild/cat/7.png').mkdir(), 'wild/cat/7.png: not a file'),
    'a pipe': (lambda data: os.mkfifo(data / 'wild/cat/7.png'), 'wild/cat/7.png: not a file'),
    'levels from 0 to 255 in 16 bits': (
        lambda data: [put(path, encoded(GREY.astype(np.uint16))) for path in data.glob('wild/*/*.png')],
        'wild: all pictures for training are black (of pictures with 16 bits',
    ),
    'an empty class': (removed('wild/cat/*'), 'wild/cat: a class without pictures'),
    'a class in test only': (removed('pets/train/cat'), 'pets: class cat is in test only'),
    'a class in train only': (removed('pets/test/cat'), 'pets: class cat is in train only'),
    'a folder within a class': (written('wild/cat/m/o/9.PNG', encoded(CORNERS)), 'wild/cat/m/o: pictures in a folder'),
    'a picture beside classes': (written('wild/9.PNG', encoded(CORNERS)), 'wild/9.PNG: a picture beside folders'),
    'a picture beside splits': (written('pets/9.jpg', encoded(CORNERS)), 'pets/9.jpg: a picture beside folders'),
    'one class': (removed('wild/[!c]*'), 'wild: a task needs two classes or more, not 1'),
    'one picture': (removed('wild/*/[!0].png'), 'wild: 3 training images leave none'),
    'no classes': (removed('wild/*'), 'wild: no classes'),
    'a third split': (lambda data: put_classes(data / 'pets' / 'val'), 'pets/val: stands beside train and test'),
    'two tasks of a name': (written('pets.npz', b''), 'pets.npz: pets is the same task'),
    'a name that is not UTF-8': (lambda data: os.mkdir(os.fsencode(data) + b'/\xff'), r'\xff: the name'),
    'a damaged npz': (written('drawn.npz', b'PK'), 'drawn.npz: cannot be read'),
    'an npz without labels': (edited(test_y=None), 'drawn.npz: an array is missing'),
    'an npz of floats': (edited(train_x=np.zeros((12, 12, 12, 3))), 'drawn.npz: train_x is float64'),
    'an npz of small images': (edited(train_x=np.zeros((12, 7, 12), np.uint8)), 'train_x is uint8 (12, 7, 12)'),
    'an npz, channels first': (edited(test_x=np.zeros((6, 3, 12, 12), np.uint8)), 'test_x is uint8 (6, 3, 12, 12)'),
    'too few labels': (edited(train_y=np.arange(11) % 3), 'drawn.npz: train_y is int64 (11,), not 12'),
    'labels that are texts': (edited(train_y=np.array(['a'] * 12)), 'drawn.npz: train_y is <U1'),
    'an npz with pickles': (edited(train_y=np.array([{}] * 12)), 'drawn.npz: cannot be read'),
    'an unknown label': (edited(test_y=np.arange(6)), 'drawn.npz: class 3 is in test only'),
    'an empty table': (written('taken.csv', b''), 'taken.csv: no column path'),
    'a table without rows': (written('taken.csv', ROWS), 'taken.csv: no rows'),
    'another column': (written('taken.csv', b'file,label\na.png,b\n'), 'taken.csv: no column path'),
    'another split': (written('taken.csv', b'path,label, Split\na.png,b,test\n'), "taken.csv: column ' Split': write"),
    'an unknown split': (written('taken.csv', ROWS + b'a.png,b,val\n'), 'taken.csv, line 2: a path, a label and'),
    'a long row': (written('taken.csv', b'path,label\na.png,dog, black\n'), 'taken.csv, line 2: more cells than'),
    'a short row': (written('taken.csv', ROWS + b'a.png\n'), 'taken.csv, line 2: a path, a label and'),
    'a label and the same with a space': (
        written('taken.csv', ROWS + b'shots/test0.png,b,train\nshots/test1.png,b ,train\n'),
        "taken.csv, line 3: spaces around the label 'b '",
    ),
    'a picture twice': (
        written('taken.csv', ROWS + b'a,b,test\na,c,train\n'),
        'taken.csv, line 3: a stands there twice',
    ),
    'a picture twice, written in two ways': (
        written('taken.csv', ROWS + b'shots/test0.png,b,test\n./x/../shots/test0.png,c,train\n'),
        'taken.csv, line 3: ./x/../shots/test0.png stands there twice',
    ),
    'no training rows': (written('taken.csv', ROWS + b'shots/a.png,b,test\n'), 'taken.csv: no pictures for training'),
    'a table in Latin 1': (written('taken.csv', ROWS + b'\xe9.png,b,train\n'), 'taken.csv: cannot be read as a table'),
    'a zero byte': (written('taken.csv', ROWS + b'\0.png,b,train\nshots/test0.png,c,train\n'), 'null byte'),
    'a zero byte in a whole path': (written('taken.csv', ROWS + b'/\0.png,b,train\n'), 'taken.csv: cannot be read'),
    'a picture that is not there': (removed('shots/test3.png'), 'shots/test3.png: No such file'),
    'a task given as the folder': (lambda data: put_splits(data), 'is a task itself'),
    'no tasks': (removed('*'), 'has no tasks'),
}


@pytest.mark.slow
@pytest.mark.parametrize('fault', FAULTS)
def test_what_cannot_be_used_is_one_line_with_its_name(fault, start, data, kept):
    damage, *words = FAULTS[fault]
    damage(data)
    code, _, err = start()
    assert code == 2 and err.count('\n') == 1 and all(word in err for word in words), err
    whole(kept)


@pytest.mark.parametrize('file', ['.DS_Store', 'Thumbs.db', '._0.png', 'notes.txt', '.git/config'])
def test_hidden_files_and_files_of_other_kinds_are_ignored(file, data, kept):
    before = [task.fingerprint for task in load(data)]
    for place in '', 'wild/', 'wild/cat/', 'pets/', 'pets/test/':
        if not (file.endswith('.txt') and place == ''):
            put(data / place / file, b'x')
    assert [task.fingerprint for task in load(data)] == before


def test_the_command_of_a_run_is_one_that_runs():
    arguments = {'approach': 'sgd', 'experiment': 'folder', 'tasks': ['-birds', 'my fish'], 'skip_bad': True}
    words = shlex.split(results.command({'arguments': arguments, 'folder': '-data'}))
    args = run.parse(words[2:])
    assert (args.tasks, args.skip_bad, args.data) == (arguments['tasks'], True, Path('-data'))


def test_skip_bad_leaves_out_damaged_pictures_and_says_and_records_which(start, data, kept, tmp_path):
    bad = [data / 'wild' / 'cat' / '3.png', data / 'pets' / 'test' / 'dog' / '1.png', data / 'wild' / 'eel' / '0.png']
    for path in bad:
        path.write_bytes(b'')
    code, out, _ = start('--skip-bad')
    assert code == 0
    assert (
        'wild: 2 damaged pictures left out, such as wild/cat/3.png' in out and 'pets: 1 damaged picture left out' in out
    )
    record = json.loads((tmp_path / 'out.json').read_text())
    assert record['skipped'] == {'wild': ['wild/cat/3.png', 'wild/eel/0.png'], 'pets': ['pets/test/dog/1.png']}
    assert {task['name']: task['train'] + task['valid'] for task in record['tasks']}['wild'] == 19 - 19 // 5
    assert results.command(record).count(' --skip-bad --nepochs 1 ') == 1
    code, _, err = start()
    assert code == 2 and 'pets/test/dog/1.png: not a picture' in err or 'wild/cat/3.png: not a picture' in err
    (task,) = load(data, 'wild', skip_bad=True)
    (tmp_path / 'wild').mkdir()
    shutil.move(data / 'wild', tmp_path / 'clean' / 'wild')
    for path in bad[::2]:
        os.remove(tmp_path / 'clean' / path.relative_to(data))
    assert load(tmp_path / 'clean', 'wild')[0].fingerprint == task.fingerprint
    for path in (data / 'pets' / 'test' / 'dog').iterdir():
        path.write_bytes(b'')
    code, _, err = start('--skip-bad')
    assert code == 2 and 'pets: class dog is in train only' in err and err.count('\n') == 1


@pytest.mark.parametrize('size', ['19', '257', 'x'])
def test_a_size_out_of_bounds_is_one_line(size, start):
    code, out, err = start('--size', size)
    assert (code, out, err.count('\n')) == (2, '', 1) and '--size' in err


# The cache


def test_an_interrupted_reading_leaves_nothing(start, data, kept, monkeypatch):
    for module, name in (pictures, 'fit'), (np, 'savez'):
        with monkeypatch.context() as patch:

            def interrupt(*args, **more):
                raise KeyboardInterrupt

            patch.setattr(module, name, interrupt)
            assert start()[0] == 130
        assert not list(kept.iterdir())
    assert start()[0] == 0


def test_the_first_damaged_picture_stops_the_reading():
    read = []

    def note(item):
        read.append(item)
        time.sleep(0.002)
        raise ValueError('damaged')

    with pytest.raises(UserError, match='0: damaged; repair or remove it, or leave out such pictures with --skip-bad'):
        pictures.collect('task', range(500), note, None)
    assert len(read) < 300


def test_what_killed_processes_left_is_removed(data, kept):
    load(data, 'wild')
    (name,) = os.listdir(kept)
    os.rename(kept / name, kept / f'.{name}.0123.part')
    load(data, 'wild')
    assert os.listdir(kept) == [name]


def test_several_processes_at_once_make_one_cache(data, kept):
    """Threads stand for processes: the lock is between open files."""
    made, collect, paths = [], pictures.collect, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, 'collect', lambda *args: made.append(args) or collect(*args))
        threads = [threading.Thread(target=lambda: paths.append(cache.ensure('wild', data / 'wild', 32, None)))
                   for _ in range(8)]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(made) == 1 and len(set(paths)) == 1 and os.listdir(kept) == [paths[0].name]


def test_a_damaged_cache_is_one_line_that_says_to_delete_it(start, kept):
    assert start()[0] == 0
    for path in kept.iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    code, _, err = start('--fresh')
    assert code == 2 and err.count('\n') == 1 and str(kept) in err and 'delete it' in err


def test_the_cache_is_where_checkpoints_are_if_that_is_set(data, kept, tmp_path, monkeypatch):
    monkeypatch.setenv('HAT_TMP', str(tmp_path / 'scratch'))
    load(data, 'wild')
    assert not kept.exists() and len(os.listdir(tmp_path / 'scratch' / '.cache')) == 1


# Damage of all kinds

LOOPS = 'loop', 'loop.png', 'loop.csv', 'loop.npz'
NAMES = 'été', 'train', 'test', '.hidden', 'a b', 'val', 'x.npz', 'y.csv'


def damages(rng, data):
    """Do one of many things to a file or folder of the data."""
    files = sorted(p for p in data.rglob('*') if p.is_file() and not p.is_symlink())
    folders = sorted(p for p in data.rglob('*') if p.is_dir() and not p.is_symlink())
    file, place = rng.choice(files or [data / 'x.npz']), rng.choice(folders or [data])
    content = file.read_bytes() if file.exists() else b''
    cut = rng.randrange(len(content) + 1)
    odd = rng.choice(['ü ñ.png', '图.jpg', '-rf.png', ' .png', 'a,b.png', 'x' * 200 + '.png', 'CON.bmp'])
    name, (make, _) = rng.choice(list(MODES.items()))
    shape = rng.choice([(0,), (6,), (6, 12), (6, 12, 12), (6, 3, 12, 12), (6, 600, 12), (6, 12, 12, 4), (0, 12, 12, 3)])
    kinds = rng.choice(['u1', 'i8', 'f4', 'b1', 'U3', 'O', 'c8'])
    table = rng.choice(
        [b'', ROWS, b'\xff\xfe', b'path,label\n' + 9 * b'no.png,a\n', ROWS + b'"a', ROWS + 20 * b'x,', b'\0']
    )
    return rng.choice([
        lambda: file.write_bytes(content[:cut]),
        lambda: file.write_bytes(content[:cut] + rng.randbytes(9) + content[cut + 9 :]),
        lambda: file.write_bytes(b''),
        lambda: file.unlink(),
        lambda: file.rename(file.with_suffix(rng.choice(['.csv', '.npz', '.png', '.TIFF', '.txt', '.gif', '']))),
        lambda: put(place / odd, make()),
        lambda: put(place / f'{name}.png', make()[: rng.choice([None, -20])]),
        lambda: put(place / 'huge.png', saved(Image.new('1', (20_000, 5_000)))[: rng.choice([None, 60])]),
        lambda: (place / rng.choice(LOOPS)).symlink_to(rng.choice(['loop', '..', '.', 'no'])),
        lambda: shutil.rmtree(place),
        lambda: [shutil.rmtree(p) for p in sorted(place.iterdir())[1:] if p.is_dir()],
        lambda: [p.unlink() for p in sorted(place.iterdir())[1:] if p.is_file()],
        lambda: place.rename(place.with_name(rng.choice(NAMES))),
        lambda: put(data / f'{rng.choice(["drawn", "new", "wild"])}.npz', npz_of(rng, shape, kinds)),
        lambda: put(data / f'{rng.choice(["taken", "new", "wild"])}.csv', table),
        lambda: os.mkfifo(place / 'pipe.png'),
        lambda: os.mkdir(os.fsencode(place) + b'/\xe9\xff'),
        lambda: (place / 'folder.png').mkdir(),
        lambda: put(place / '.DS_Store', b'x'),
    ])  # fmt: skip


def npz_of(rng, shape, kind):
    arrays = all_arrays()
    for name in rng.sample(sorted(arrays), rng.choice([1, 2])):
        arrays[name] = np.zeros(shape, kind)
    file = io.BytesIO()
    rng.choice([np.savez, np.savez_compressed])(file, **arrays)
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize('first', range(0, 300, 20))
def test_a_damaged_folder_is_used_or_refused_in_one_line_and_leaves_nothing_behind(
    first, data, tmp_path, kept, capfd, monkeypatch
):
    monkeypatch.setattr(os, 'fsync', lambda descriptor: None)  # no power is lost here
    for number in range(first, first + 20):
        rng, folder = random.Random(number), tmp_path / f'{number}'
        shutil.copytree(data, folder)
        for _ in range(rng.choice([1, 1, 2, 4])):
            try:
                damages(rng, folder)()
            except OSError:  # it is there already, or no longer
                continue
        before, out = tree(folder), tmp_path / f'{number}.txt'
        options = rng.choice([[], ['--skip-bad'], ['--skip-bad', '--size', '20']])
        code = run.cli([*FAST, '--data', str(folder), '--output', str(out), *options])
        err = capfd.readouterr().err
        assert (code, err.count('\n'), bool(err)) in ((0, 0, False), (2, 1, True)), (number, code, err)
        assert out.with_suffix('.json').exists() == (code == 0) and tree(folder) == before
        whole(kept)
        shutil.rmtree(kept, ignore_errors=True)


def tree(folder):
    return sorted((os.fsencode(p), p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob('*'))


# Other experiments and commands


def test_other_experiments_neither_take_nor_record_its_options(capsys):
    for experiment in dataloaders.EXPERIMENTS:
        command = ['--approach', 'sgd', '--experiment', experiment, '--data', 'DIR']
        args = run.parse(command)
        assert ({'size', 'skip_bad'} & set(identity.Identity(args).arguments) != set()) == (experiment == 'folder')
        for option in ['--size', '32'], ['--skip-bad']:
            if experiment == 'folder':
                run.parse([*command, *option])
            else:
                with pytest.raises(UserError, match=f'{option[0]}: --experiment {experiment} does not take it'):
                    run.parse([*command, *option])


def test_data_sets_of_other_experiments_are_not_taken_for_your_own_tasks(data, monkeypatch, capsys):
    monkeypatch.setattr(run, 'ROOT', data.parent)
    (data.parent / 'dat').symlink_to(data)  # its tasks would be found there
    assert run.cli(FAST) == 2
    expected = 'run.py: error: --data: give the folder of your tasks: --experiment folder has no default\n'
    assert capsys.readouterr().err == expected
    batch = ['--experiments', 'folder', '--approaches', 'random', '--devices', 'cpu', '--dry-run']
    assert exit_code('run_multi.py', run_multi.main, batch) == 2
    assert '--data: give the folder' in capsys.readouterr().err


@pytest.mark.parametrize('script', [run_multi, work])
def test_batches_pass_the_folder_on(script, data, kept, tmp_path, capsys):
    what = ['--experiments', 'folder', '--approaches', 'hat', '--seeds', '0,1'] if script is run_multi else [
        '--experiment', 'folder', '--approach', 'hat', '--vary', 'c']  # fmt: skip
    options = ['--res', str(tmp_path), '--devices', 'cpu', '--dry-run']
    assert script.main([*what, *options, '--', '--data', str(data), '--size', '32', '--skip-bad']) in (0, None)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2
    for line in lines:
        args = run.parse(shlex.split(line)[2:])
        assert (args.data, args.size, args.skip_bad) == (data, 32, True)


@pytest.mark.slow
def test_a_batch_runs_tables_show_it_and_prune_cuts_it(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('HAT_TMP', str(tmp_path / 'scratch'))
    shutil.copytree(data / 'wild', data / 'wild.2')
    names = 'wild.2,wild,drawn'
    rest = ['--data', str(data), '--size', '24', '--width', '0.1', '--nepochs', '2', '--save', '--tasks', names]
    command = ['--experiments', 'folder', '--approaches', 'hat,sgd', '--seeds', '0,1', '--res', str(tmp_path / 'res')]
    assert run_multi.main([*command, '--devices', 'cpu', '--nproc', '2', '--', *rest]) == 0
    capsys.readouterr()
    plot_results.main(['--experiment', 'folder', '--res', str(tmp_path / 'res'), '--output', str(tmp_path / 'figures')])
    out = capsys.readouterr().out
    assert 'left out' not in out and re.search(r'^hat\b', out, re.M) and re.search(r'^sgd\b', out, re.M)
    assert prune.main([str(tmp_path / 'res' / 'folder_hat_1.json'), '--rounds', '1']) == 0
    pruned = tmp_path / 'res' / 'folder_hat_1_pruned'
    assert {path.name.removesuffix('.pt2') for path in pruned.glob('*.pt2')} == set(names.split(','))
    report = json.loads((pruned / 'wild.json').read_text())
    assert report['input']['shape'] == [3, 24, 24]


def test_the_commands_of_the_page_run(data, kept, tmp_path, monkeypatch):
    section = re.split(r'^## ', test_pages.page('dataloaders'), flags=re.M)
    (section,) = (text for text in section if text.startswith('Your own pictures'))
    commands = re.findall(r'^python src/(\w+)\.py (.*)$', section, re.M)
    assert len(commands) >= 2
    monkeypatch.chdir(tmp_path)
    for script, words in commands:
        argv = shlex.split(words.replace('DIR', str(data)).replace('birds,fish', 'wild,drawn'))
        small = ['--nepochs', '1', '--width', '0.05', '--device', 'cpu', '--output', 'out.txt']
        assert script == 'run' and run.cli([*argv, *small]) == 0
    assert (tmp_path / 'out.json').exists()


def test_other_tasks_or_classes_in_the_folder_are_another_run(start, data):
    assert start()[0] == 0 and 'already finished' in start()[1]
    put_classes(data / 'more', 7)
    code, out, _ = start()
    assert code == 0 and 'the result of another run: the tasks are' in out and 'not' in out
    first = sorted(path for path in (data / 'more').iterdir())[0]
    first.rename(first.with_name('renamed'))
    code, out, _ = start()
    assert code == 0 and 'the names of the classes of more were others' in out
    (data / 'drawn.npz').unlink()
    assert 'the result of another run: the tasks are' in start()[1]


@pytest.mark.parametrize('classes', [{}, [], {'drawn': None}])
def test_a_record_whose_names_of_classes_are_damaged_is_of_no_finished_run(start, data, tmp_path, classes):
    removed('*')(data)
    put_classes(data / 'more', 7)
    assert start()[0] == 0 and 'already finished' in start()[1]
    record = json.loads((tmp_path / 'out.json').read_text())
    (tmp_path / 'out.json').write_text(json.dumps(record | {'classes': classes}))
    code, out, _ = start()
    assert code == 0 and 'already finished' not in out


def test_a_checkpoint_does_not_resume_where_a_new_task_in_the_folder_has_changed_the_order(
    start, data, tmp_path, monkeypatch
):
    removed('*')(data)
    for k, name in enumerate('ab'):
        put_classes(data / name, 7, seed=k)
    command = ['--approach', 'sgd', '--seed', '6', '--ntasks', '2', '--tmp', str(tmp_path)]  # b,a of two, a,b of three
    save, saved = Checkpoint.save, []

    def interrupted(self, *args):
        saved.append(save(self, *args))
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, 'save', interrupted)
    assert start(*command)[0] == 130 and saved
    monkeypatch.setattr(Checkpoint, 'save', save)
    put_classes(data / 'c', 7, seed=2)
    code, _, err = start(*command)
    assert code == 2 and 'checkpoint of another run: order of tasks is b,a, not a,b;' in err

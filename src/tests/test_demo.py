"""The demo's pictures: drawn from the seed, without any file."""

import inspect

import numpy as np
import PIL

import dataloaders
from core import seeds
from dataloaders import demo


def test_eight_tasks_of_ten_to_twenty_six_classes_evenly_filled(monkeypatch):
    monkeypatch.setattr(demo, 'N_TRAIN', 60)
    monkeypatch.setattr(demo, 'N_TEST', 30)
    datasets = demo.read(demo.NAMES, None, 0)
    assert [data.name for data in datasets] == list(demo.NAMES) and len(datasets) == 8
    for data in datasets:
        assert 10 <= data.n_classes <= 26
        for x, y in (data.train_x, data.train_y), (data.test_x, data.test_y):
            assert x.dtype == np.uint8 and x.shape == (len(y), 32, 32, 3) and y.dtype == np.int64
            assert len(set(np.bincount(y, minlength=data.n_classes))) == 1
        assert not (data.train_x[: len(data.test_x)] == data.test_x).all(axis=(1, 2, 3)).any()


def test_same_seed_same_pictures():
    draw = inspect.unwrap(demo.pictures)  # tests keep what it has drawn
    for name in demo.NAMES:
        (first, y), (again, _), (other, _) = (draw(name, 30, seed) for seed in (1, 1, 2))
        assert first.tobytes() == again.tobytes()
        assert first.tobytes() != other.tobytes()
    assert seeds.derive(0, 'demo', 'digits', 'train') != seeds.derive(0, 'demo', 'digits', 'test')


def test_classes_look_different():
    """The mean pictures of two classes differ by far more than noise would make them."""
    for name in demo.NAMES:
        x, y = demo.pictures(name, 480, 3)
        grey = x.mean(axis=3) - x.mean(axis=(1, 2, 3))[:, None, None]
        flags = name == 'flags'  # some differ in colour only
        means = np.stack([(x if flags else grey)[y == c].mean(axis=0) for c in range(y.max() + 1)])
        for a in range(len(means)):
            for b in range(a):
                assert np.abs(means[a] - means[b]).max() > 12, (name, a, b)


def test_a_result_of_the_demo_says_what_has_drawn_it():
    (task,) = dataloaders.load('demo', None, 0, ['digits'], ntrain=40)
    assert task.sizes()['data'] == f'Pillow {PIL.__version__}'

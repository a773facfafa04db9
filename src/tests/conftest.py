"""Small data, small networks and invented results for all tests."""

import functools
import json
import os

import numpy as np
import pytest
import torch
from invented import JOINT, RANDOM, Runs

from approaches import build
from approaches.common.training import Protocol
from core import results
from core.files import ROOT
from dataloaders import EXPERIMENTS, demo, folder, mixture, npz, task
from dataloaders.archives import sources
from dataloaders.own import cache
from runs.checkpoints import Checkpoint

os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # read once, at the first product on a GPU
torch.set_num_threads(1)  # the networks are tiny: more threads only wait for each other


def pictures(n, n_classes, shape, seed):
    """Images that a small network can learn: the class sets where a bright square lies, and how bright it is."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    x = rng.integers(0, 60, (n, *shape), dtype=np.uint8)
    for image, label in zip(x, y, strict=True):
        row, column = divmod(label % 9, 3)
        image[row * 9 : row * 9 + 8, column * 9 : column * 9 + 8] += np.uint8(80 + 90 * (label // 9 % 2))
    return x, y


def data_sets():
    """Every data set that an experiment reads from a file: name -> number of classes, shape of an image."""
    grey = 'mnist', 'fashion-mnist', 'notmnist'
    found = {k: (s.n_classes, (28, 28, 1) if k in grey else (32, 32, 3)) for k, s in sources.SOURCES.items()}
    for module in EXPERIMENTS.values():
        channels, *size = module.SHAPE
        found |= {name: (n, (*size, channels)) for name, n in getattr(module, 'SETS', {}).items()}
    return found


def dataset(name, n_train=200, n_test=40, seed=0):
    n_classes, shape = data_sets()[name]
    return *pictures(n_train, n_classes, shape, seed), *pictures(n_test, n_classes, shape, seed + 1)


def without(usual, given):
    """The usual arguments, pairs of an option and its value, but for the options that are given."""
    pairs = zip(usual[::2], usual[1::2], strict=True)
    return [word for option, value in pairs if option not in given for word in (option, value)]


@pytest.fixture(scope='session')
def small_data(tmp_path_factory):
    """A folder with <name>.npz of every data set, 200 training and 40 test pictures each."""
    folder = tmp_path_factory.mktemp('dat')
    for seed, name in enumerate(data_sets()):
        npz.write(folder / f'{name}.npz', dataset(name, seed=10 * seed))
    return folder


@pytest.fixture(autouse=True, scope='session')
def caches(tmp_path_factory):
    """Those of tasks of your own are not in dat/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, 'PLACES', [tmp_path_factory.mktemp('caches')])
        yield


@pytest.fixture(autouse=True, scope='session')
def drawn_once():
    """The same pictures of the demo for all tests: drawing them takes longer than most of the runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, 'pictures', functools.cache(demo.pictures))
        yield


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    """Each test uses a folder of its own, or none."""
    monkeypatch.setattr(folder, '_used', folder.Used())


@pytest.fixture
def make_approach(small_data):
    """make_approach('hat', ('mnist', 'cifar10'), hard=1): an approach, ready to learn; Protocol fields by name too."""

    def make(name, tasks=('mnist', 'cifar10'), width=0.05, device='cpu', **settings):
        protocol = Protocol(**{k: settings.pop(k) for k in list(settings) if k in Protocol.__dataclass_fields__})
        data = mixture.read(tasks, small_data, protocol.seed)
        data = [task.make(d, mixture.SHAPE, protocol.seed).to(device) for d in data]
        return build(name, 'mixture', data, protocol, width, settings)

    return make


@pytest.fixture
def res(tmp_path):
    """Invented results of three seeds, as the original code leaves them: no .json. One run of ewc is not finished."""
    for seed in 0, 1, 2:
        for name, accuracy in ('joint', JOINT), ('random', RANDOM), ('hat', JOINT - 0.01 * seed), ('sgd', JOINT / 2):
            np.savetxt(tmp_path / f'mixture_{name}_{seed}.txt', np.tril(accuracy), '%.4f')
    np.savetxt(tmp_path / 'mixture_ewc_0.txt', [[0.9, 0], [0, 0]], '%.4f')
    return tmp_path


@pytest.fixture
def runs(tmp_path):
    """Invented runs of three seeds, and a function that writes more of them."""
    runs = Runs(tmp_path)
    for seed in 0, 1, 2:
        for name, accuracy in ('joint', JOINT), ('random', RANDOM), ('hat', JOINT - 0.01 * seed), ('sgd', JOINT / 2):
            runs(name, seed, accuracy)
    return runs


@pytest.fixture
def full(runs):
    """The folder of these runs, and of sweeps of c and smax."""
    for c, drop in (0.1, 0.2), (0.75, 0), (4, 0.4):
        runs('hat', 0, JOINT - drop * 0.7, {'c': c}, name=f'mixture_hat_0_c={c:g}')
    runs('hat', 0, JOINT / 3, {'c': 4}, name='mixture_hat_0_c=4.old-1')  # replaced since
    for smax in 25, 400:
        runs('hat', 0, JOINT, {'smax': smax}, name=f'mixture_hat_0_smax={smax}')
    runs('hat', 0, JOINT, {'smax': 25, 'c': 1}, name='mixture_hat_0_c=1_smax=25')  # two values differ: in no panel
    return runs.folder


def same(a, b):
    """Bit for bit, for tensors or dicts of them."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b)


@torch.no_grad()
def outputs(approach, t):
    """Logits of task t's test images."""
    approach.net.eval()
    x, y = approach.tasks[t].batch(approach.tasks[t].test, slice(None))
    return approach.loss(x, y, t, 1.0)[1]


def left_behind(folder):
    """What is in tmp/ for outputs in `folder`, and temporary files in it."""
    own = [Checkpoint(results.Output(txt)).path.stem for txt in folder.glob('*.txt')]
    return [p.name for p in (ROOT / 'tmp').iterdir() if p.stem in own] + [p.name for p in folder.glob('.*')]


def record(path):
    """A .json without what may differ between two runs of one command."""
    content = json.loads(path.read_text())
    assert content.pop('times')['total'] > 0
    return content


def assert_equal(folder, first, second):
    assert (folder / f'{first}.txt').read_bytes() == (folder / f'{second}.txt').read_bytes()
    assert record(folder / f'{first}.json') == record(folder / f'{second}.json')

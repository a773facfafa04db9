"""What holds for every entry of the tables of approaches, networks and experiments, a new one included.

Each is a fault that a run would not show: it ends, with other numbers.
"""

import difflib
import inspect
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import same
from torch import nn

import networks
from approaches import APPROACHES
from approaches.base import Approach
from core.errors import UserError
from core.files import ROOT
from core.hyperparameters import Parameter
from dataloaders import EXPERIMENTS, fingerprints, load
from networks import NETWORKS
from networks.alexnet import AlexNet
from networks.plain import Plain

SHAPES = {module.FAMILY: module.SHAPE for module in EXPERIMENTS.values()}
VARIANTS = [pytest.param(f, v, id=f'{f}-{v or "plain"}') for f, variants in NETWORKS.items() for v in variants]
HOOKS = [name for name in vars(Approach) if not name.startswith('_')]


def make(family, variant, width=0.2, seed=0):
    return networks.build(family, variant, SHAPES.get(family, (3, 32, 32)), [3, 5], width, seed)


# Networks


@pytest.mark.parametrize('family, variant', VARIANTS)
def test_a_wider_network_has_more_parameters(family, variant):
    sizes = [sum(p.numel() for p in make(family, variant, width).parameters()) for width in (0.1, 0.2)]
    assert sizes[1] > 1.5 * sizes[0]


def check_drawn_by_seed(make):
    """make(seed): a network. Embeddings of gates are the approach's to set."""
    found = []
    for seed, disturbance in (0, 1), (0, 2), (1, 1):
        torch.manual_seed(disturbance)
        found.append({name: p.detach() for name, p in make(seed).named_parameters() if 'embeddings' not in name})
    assert same(*found[:2]), 'the seed does not set all weights'
    for name, p in found[0].items():
        assert not p.any() or (p == 1).all() or not same(p, found[2][name]), f'{name} is the same for two seeds'


@pytest.mark.parametrize('family, variant', VARIANTS)
def test_the_seed_draws_the_initial_weights(family, variant):
    check_drawn_by_seed(lambda seed: make(family, variant, seed=seed))


@pytest.mark.parametrize('family', NETWORKS)
def test_the_layers_with_gates_start_as_the_plain_ones(family):
    """Where the two are of one size: HAT's MLP has wider layers, and fewer."""
    plain, gated = ({n.removeprefix('hidden.net.'): m.weight for n, m in make(family, v).named_modules()
                     if isinstance(m, (nn.Conv2d, nn.Linear))} for v in ('', 'hat'))  # fmt: skip
    assert gated.keys() <= plain.keys()
    for name, weight in gated.items():
        assert weight.shape != plain[name].shape or same(weight, plain[name]), name


def check_buffers(net):
    """Checkpoints and the best model lack one that is not persistent."""
    assert {name for name, _ in net.named_buffers()} <= net.state_dict().keys()


@pytest.mark.parametrize('family', NETWORKS)
def test_all_buffers_are_saved(family):
    check_buffers(make(family, ''))


class Stem(AlexNet):
    def __init__(self, *args):
        super().__init__(*args)
        self.stem = nn.BatchNorm2d(3, affine=False)


class Buffer(AlexNet):
    def __init__(self, *args):
        super().__init__(*args)
        self.blocks.register_buffer('mean', torch.zeros(3), persistent=False)


class Unseeded(AlexNet):
    def __init__(self, *args):
        super().__init__(*args)
        self.blocks.register_parameter('place', nn.Parameter(torch.randn(3)))


def test_a_planted_buffer_that_is_not_saved_is_found():
    with pytest.raises(AssertionError):
        check_buffers(Buffer((3, 32, 32), [3], 0.1))


@pytest.mark.parametrize('variant, message', [
    ('', r'networks: Stem.stem\.\w+ is not in blocks, where approaches protect it'),
    ('hat', "networks: new has no variant 'hat' in NETWORKS, which this approach needs"),
])  # fmt: skip
def test_a_network_that_no_approach_would_protect_or_that_is_missing_is_refused(monkeypatch, variant, message):
    """What an approach does not find in net.blocks it does not protect: even sgd-frozen forgot."""
    monkeypatch.setitem(NETWORKS, 'new', {'': Stem})
    with pytest.raises(UserError, match=message):
        make('new', variant)


def test_a_planted_weight_that_the_seed_does_not_set_is_found():
    with pytest.raises(AssertionError, match='seed'):
        check_drawn_by_seed(lambda seed: Unseeded((3, 32, 32), [3], 0.1))


@pytest.mark.parametrize('family', NETWORKS)
def test_a_network_that_is_tested_draws_no_random_number(family):
    net = make(family, '').eval()
    x = torch.randn(4, *SHAPES.get(family, (3, 32, 32)), generator=torch.Generator().manual_seed(0))
    assert isinstance(net, Plain) or hasattr(net, 'features')
    with torch.no_grad():
        assert same(net(x, 1), net(x, 1)) and net(x, 1).shape == (4, 5)
        assert same(net.heads[1](net.features(x)), net(x, 1))


# Approaches


def check_hyperparameters(approach):
    sources = ''.join(inspect.getsource(sys.modules[c.__module__]) for c in approach.__mro__[:-1] if c is not Approach)
    for name, parameter in approach.parameters.items():
        assert type(parameter.default) in (int, float, str), f'{name}: a {type(parameter.default).__name__}'
        assert name not in HOOKS, f'{name} would replace what base.py calls so'
        for value in (parameter.default, *parameter.grid):
            assert parameter.check(name, str(value)) == value
        assert re.search(rf'\b{name}\b', sources.replace(f"'{name}'", '')), f'{name} is never read'


@pytest.mark.parametrize('approach', APPROACHES)
def test_hyper_parameters_are_valid_with_their_defaults_and_grids_and_are_read(approach):
    check_hyperparameters(APPROACHES[approach])


def almost_hooks(approach):
    """The methods of its own whose names are nearly those of a hook."""
    own = {name for c in approach.__mro__[: approach.__mro__.index(Approach)] for name in vars(c)}
    return [n for n in own - {*dir(Approach)} if difflib.get_close_matches(n, HOOKS, 1, 0.85)]


@pytest.mark.parametrize('approach', APPROACHES)
def test_no_hook_is_misspelled(approach):
    assert not almost_hooks(APPROACHES[approach])


@pytest.mark.parametrize('name', ['after_taks', 'after_tasks', 'before_tasks', 'afterstep', 'after_steps', 'snapshots'])
def test_a_misspelled_hook_is_found(name):
    assert almost_hooks(type('Misspelled', (APPROACHES['ewc'],), {name: lambda self, t: None})) == [name]


@pytest.mark.parametrize('parameter, message', [
    (Parameter(True), 'bool'),  # --parameter lamb=False would be True
    (Parameter('sum', choices=('mean', 'max')), 'must be one of'),
    (Parameter(1, grid=(0.5, 1)), 'must be a whole number'),
    (Parameter(1.0, grid=(0.0, 1), low=0.1), 'must be a number from'),
    (Parameter(1.0), 'never read'),
])  # fmt: skip
def test_a_hyper_parameter_that_is_not_valid_or_not_read_is_found(parameter, message):
    with pytest.raises(BaseException, match=message):
        check_hyperparameters(type('Faulty', (APPROACHES['sgd'],), {'parameters': {'notread': parameter}}))


def images_of(approach):
    return {f'{task.name} {split} {part}': getattr(getattr(task, split), part).clone() for task in approach.tasks
            for split in ('train', 'valid', 'test') for part in ('x', 'index', 'y')}  # fmt: skip


def check_data_stay(approach):
    before = images_of(approach)
    for t in range(2):
        approach.learn(t)
        approach.evaluate(t, approach.tasks[t].test)
    assert same(images_of(approach), before)


@pytest.mark.parametrize(
    'approach', [pytest.param(a, marks=() if a in ('hat', 'sgd') else pytest.mark.slow) for a in APPROACHES]
)
def test_learning_and_testing_change_no_image_and_no_label(make_approach, approach):
    check_data_stay(make_approach(approach, nepochs=1))


def test_a_loss_that_writes_into_the_labels_of_a_batch_changes_no_accuracy(make_approach):
    class Faulty(Approach):
        def loss(self, x, y, t, progress):
            y.clamp_(max=0)
            return super().loss(x, y, t, progress)

    sgd = make_approach('sgd', nepochs=1)
    faulty = Faulty(sgd.net, sgd.tasks, sgd.protocol)
    check_data_stay(faulty)
    found = [each.evaluate(0, sgd.tasks[0].test) for each in (faulty, sgd)]
    assert found[0][1] == found[1][1] < 1 and found[0][0] < found[1][0]


def untrained(approach):
    """The names of its attributes with parameters that require a gradient and are not of the network."""
    trained = {id(p) for p in approach.net.parameters()}

    def has(value):
        if isinstance(value, nn.Module):
            return any(map(has, value.parameters()))
        if isinstance(value, (list, tuple, dict)):
            return any(map(has, value.values() if isinstance(value, dict) else value))
        return isinstance(value, nn.Parameter) and value.requires_grad and id(value) not in trained

    return [name for name, value in vars(approach).items() if has(value)]


@pytest.mark.parametrize(
    'approach', [pytest.param(a, marks=() if a in ('hat', 'sgd') else pytest.mark.slow) for a in APPROACHES]
)
def test_all_that_requires_a_gradient_is_in_the_network_from_the_beginning(make_approach, approach):
    """Else it is not trained, or not in a record's number of parameters."""
    approach = make_approach(approach, nepochs=1)
    size = sum(p.numel() for p in approach.net.parameters())
    approach.learn(0)
    approach.before_task(1)
    assert not untrained(approach) and sum(p.numel() for p in approach.net.parameters()) == size


def test_a_layer_that_no_step_moves_is_found(make_approach):
    approach = make_approach('lwf')
    approach.projections = [nn.Linear(2, 2)]
    assert untrained(approach) == ['projections']


# Experiments

READ = """
import hashlib, json, sys
from pathlib import Path
import numpy
sys.path.insert(0, sys.argv[1])
import dataloaders
found = {}
for name, module in dataloaders.EXPERIMENTS.items():
    if not hasattr(module, 'use'):
        for data in module.read([module.NAMES[0], module.NAMES[-1]], Path(sys.argv[2]), 0):
            arrays = [x for x in data if isinstance(x, numpy.ndarray)]
            found[f'{name} {data.name}'] = hashlib.blake2b(b''.join(x.tobytes() for x in arrays)).hexdigest()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_every_process_reads_the_same_data(small_data):
    """A pixel permutation by hash(name), or by a generator without a seed, is another one after a run has resumed."""
    found = []
    for seed in '1', '2':  # of hash()
        command = [sys.executable, '-c', READ, ROOT / 'src', small_data]
        done = subprocess.run(command, capture_output=True, env=os.environ | {'PYTHONHASHSEED': seed})
        assert done.returncode == 0, done.stderr.decode()
        found.append(json.loads(done.stdout))
    assert len(found[0]) >= len(EXPERIMENTS) and found[0] == found[1]


@pytest.mark.parametrize('experiment', [name for name, module in EXPERIMENTS.items() if not hasattr(module, 'use')])
def test_tasks_come_in_the_order_that_is_asked_for_with_the_fingerprints_of_their_sources(small_data, experiment):
    names = [*EXPERIMENTS[experiment].NAMES[:3]][::-1]
    known = fingerprints(experiment, small_data, names)
    tasks = load(experiment, small_data, 0, names, ntrain=40)
    assert [(task.name, task.fingerprint) for task in tasks] == list(known.items())
    assert all(known.values())
    for task in tasks:
        assert task.train.x.dtype == task.test.x.dtype == torch.uint8
        for values in task.mean, task.std:
            assert values.min() > 0 and values.max() < 255  # in grey levels
        for images in task.train, task.valid, task.test:
            assert images.y.min() >= 0 and images.y.max() < task.n_classes

"""The metrics that a run of HAT records: capacity, reuse, and the log of each epoch (section 4.4)."""

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import dataloaders
import hat
import run
from approaches import build
from approaches.common.training import Protocol
from networks.gated import GatedAlexNet
from runs.tensorboard import TensorBoardLogger

SMALL = ['--approach', 'hat', '--experiment', 'mixture', '--tasks', 'mnist,cifar10,svhn', '--width', '0.05',
         '--nepochs', '3', '--ntrain', '60', '--device', 'cpu']  # fmt: skip


@pytest.fixture
def net():
    return GatedAlexNet((3, 32, 32), [4, 4], 0.03)


def masks(net, seed):
    """Attention values: on, off, just above and just below 1/2."""
    values = torch.tensor([0, 1e-3, 0.49, 0.51, 0.9, 1])
    generator = torch.Generator().manual_seed(seed)
    return [values[torch.randint(len(values), (n,), generator=generator)] for n in net.units]


def by_loop(net, *tasks):
    """Numbers of weights of each layer that lie between units which all the tasks (lists of attention) attend to."""
    counts = [0] * len(net.units)
    for name, weight in net.hidden.net.named_parameters():
        l = int(name.split('.')[1])
        for index in itertools.product(*map(range, weight.shape)):
            ends = [(l, index[0])]
            if l and weight.ndim > 1:  # a flattened channel has several inputs
                ends.append((l - 1, index[1] * net.units[l - 1] // weight.shape[1]))
            counts[l] += all(a[layer][i] > 0.5 for a in tasks for layer, i in ends)
    return counts


@pytest.mark.slow
def test_capacity_and_reuse_equal_a_loop_over_the_weights(net):
    a, b, c = (masks(net, seed) for seed in range(3))
    usage = hat.capacity.usage(net.hidden, [hat.capacity.active(a) for a in (a, b, c)])
    assert usage['weights'] == by_loop(net, [torch.ones(n) for n in net.units])
    assert usage['active'] == [by_loop(net, a), by_loop(net, b), by_loop(net, c)]
    together = [torch.maximum(*pair) for pair in zip(a, b, strict=True)]
    assert usage['capacity'][1] == by_loop(net, together) and usage['capacity'][0] == by_loop(net, a)
    expected = [[sum(by_loop(net, x, y)) for y in (a, b, c)] for x in (a, b, c)]
    assert usage['reuse'] == expected


def test_capacity_counts_the_weights_that_equation_2_protects(net):
    """With hard masks."""
    net.hidden.hard = True
    net.hidden.end_task(0)
    active = hat.capacity.active(net.hidden.masks(0))
    protected = [0] * len(active)
    for name, part in net.hidden.protected().items():
        protected[int(name.split('.')[1])] += int(part.sum())
    assert protected[0] == int(active[0].sum()) * (3 * 16 + 1)  # its inputs are images: protected by its own mask only
    assert hat.capacity.count_weights(net.hidden, active) == protected


@pytest.mark.slow
@pytest.mark.parametrize('batch_size, s', [(64, [50, 50]), (17, [0.02, 50])], ids=['one batch', 'three batches'])
def test_the_record_holds_metrics_of_each_epoch_and_of_the_run(small_data, tmp_path, batch_size, s):
    out, more = tmp_path / 'out.txt', ['--parameter', 'c=2,smax=50', '--batch-size', str(batch_size)]
    assert run.cli([*SMALL, '--data', str(small_data), '--output', str(out), *more]) == 0
    record = json.loads(out.with_suffix('.json').read_text())
    monitor, layers = record['monitor'], 5
    assert monitor.keys() == {'units', 'closed', 'weights', 'active', 'capacity', 'reuse'}
    for t, epochs in enumerate(record['epochs']):
        for epoch in epochs:
            assert epoch.keys() - {'diverged'} == {
                'lr', 'train_loss', 'valid_loss', 'valid_accuracy', 's', 'regularization', 'active_units', 'active',
                'capacity', 'reuse'}  # fmt: skip
            assert epoch['s'] == s and 0 <= epoch['regularization'] <= 1
            assert all(epoch['active_units'][l] <= monitor['units'][l] for l in range(layers))
        kept = [epoch for epoch in epochs if epoch['active'] == monitor['active'][t]]  # the best is among them
        assert monitor['reuse'][t][:t] in [epoch['reuse'] for epoch in kept]
        assert monitor['capacity'][t] in [epoch['capacity'] for epoch in kept]
    assert np.array(monitor['reuse']).diagonal().tolist() == [sum(active) for active in monitor['active']]
    heads_and_embeddings = 3 * (monitor['units'][-1] * 10 + 10 + sum(monitor['units']))
    assert sum(monitor['weights']) + heads_and_embeddings == record['n_parameters']


def test_the_accuracy_of_a_task_before_it_is_learned_is_recorded(small_data, tmp_path):
    """R[i - 1, i] and b[i] of forward transfer."""
    out = tmp_path / 'out.txt'
    command = [*SMALL, '--data', str(small_data), '--output', str(out), '--approach', 'sgd']
    assert run.cli(command) == 0
    record, args = json.loads(out.with_suffix('.json').read_text()), run.parse(command)
    tasks = dataloaders.load(args.experiment, args.data, args.seed, args.tasks, args.ntasks, args.ntrain)
    approach = build('sgd', args.experiment, tasks, Protocol.of(args), args.width)
    assert record['initial'] == [approach.evaluate(u, task.test)[1] for u, task in enumerate(tasks)]
    for t, task in enumerate(tasks):
        assert record['before'][t] == approach.evaluate(t, task.test)[1]
        approach.learn(t)
    assert record['monitor'] == {}


def test_tensorboard_gets_the_same_numbers_once_each(small_data, tmp_path, monkeypatch):
    """Also for a run that was interrupted and resumed."""
    pytest.importorskip('tensorboard', reason='TensorBoard is not installed')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from approaches.base import Approach

    epoch, out = Approach.train_epoch, tmp_path / 'out.txt'
    command = [*SMALL, '--data', str(small_data), '--output', str(out), '--tensorboard', '--tmp', str(tmp_path / 'tmp')]

    def until(self, t, number, lr):
        if (t, number) == (1, 2):
            raise KeyboardInterrupt
        return epoch(self, t, number, lr)

    monkeypatch.setattr(Approach, 'train_epoch', until)
    assert run.cli(command) == 130
    monkeypatch.setattr(Approach, 'train_epoch', epoch)
    assert run.cli(command) == 0
    (folder,) = (tmp_path / 'tmp' / 'tensorboard').iterdir()
    written = EventAccumulator(str(folder)).Reload()
    record = json.loads(out.with_suffix('.json').read_text())
    epochs = sum(record['epochs'], [])
    expected = {
        'valid_loss': [e['valid_loss'] for e in epochs],
        's/last': [400] * 9,
        'capacity/layer 4': [e['capacity'][3] for e in epochs],
        'capacity/all': [sum(e['capacity']) for e in epochs],
    }
    for tag, values in expected.items():
        scalars = written.Scalars(tag)
        assert [s.step for s in scalars] == list(range(9))
        assert [s.value for s in scalars] == pytest.approx(values)
    assert [s.value for s in written.Scalars('reuse/cifar10')] == [e['reuse'][1] for e in epochs[6:]]
    tests = written.Scalars('accuracy/cifar10')
    assert [s.step for s in tests] == [5, 8]
    assert [s.value for s in tests] == pytest.approx([row[1] for row in record['accuracy'][1:]])
    tags = set(written.Tags()['scalars']) - {'seconds'}  # which are elsewhere in the record
    assert run.cli(command) == 0  # finished already
    (folder,) = (tmp_path / 'tmp' / 'tensorboard').iterdir()
    assert set(EventAccumulator(str(folder)).Reload().Tags()['scalars']) == tags


def test_tensorboard_gets_a_finished_run_that_has_diverged(tmp_path):
    """In its record, a number that is not finite is null."""
    pytest.importorskip('tensorboard', reason='TensorBoard is not installed')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(SimpleNamespace(path=tmp_path / 'run.checkpoint'), ['mnist'])
    logger.write([[{'train_loss': None, 'diverged': 'training loss', 'valid_accuracy': 0.25}]], [[0.5]])
    written = EventAccumulator(str(tmp_path / 'tensorboard' / 'run')).Reload()
    assert [s.value for s in written.Scalars('valid_accuracy')] == [0.25]
    assert [math.isnan(s.value) for s in written.Scalars('train_loss')] == [True]

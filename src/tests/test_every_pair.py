"""Every approach runs on every experiment, end to end through run.py, and learns; evaluation never leaks."""

import json

import numpy as np
import pytest
from conftest import dataset

import run
from approaches import APPROACHES
from approaches.base import Approach
from dataloaders import EXPERIMENTS, npz, task

TASKS = {
    'mixture': 'mnist,cifar10',
    'cifar': 'cifar10-0,cifar10-3',
    'pmnist': 'pmnist-0,pmnist-1',
    'mnist2': 'mnist-0-4,mnist-5-9',
    'demo': 'shapes,digits',
}
MORE = {  # what does not learn on every machine's last bits otherwise, with batches of 8
    'hat': ['--nepochs', 14],
    'pnn': ['--width', 0.4, '--lr', 0.03, '--nepochs', 5],
    'pathnet': ['--width', 0.5, '--lr', 0.02, '--parameter', 'generations=2', '--nepochs', 4],
}


@pytest.fixture(scope='module')
def pair_data(tmp_path_factory):
    """mnist.npz and cifar10.npz of 1,000 training pictures each: 200 a task of every experiment."""
    folder = tmp_path_factory.mktemp('dat')
    for name in 'mnist', 'cifar10':
        npz.write(folder / f'{name}.npz', dataset(name, 1000))
    return folder


@pytest.mark.parametrize('approach', APPROACHES)
@pytest.mark.parametrize('experiment', EXPERIMENTS)
def test_every_approach_runs_on_every_experiment_and_learns(pair_data, tmp_path, approach, experiment):
    out = tmp_path / 'out.txt'
    arguments = ['--approach', approach, '--experiment', experiment, '--tasks', TASKS[experiment], '--ntrain', 200,
                 '--width', 0.2, '--nepochs', 8, '--batch-size', 8, '--device', 'cpu', '--data', pair_data,
                 '--output', out, *MORE.get(approach, [])]  # fmt: skip
    if (approach, experiment) == ('pathnet', 'demo'):  # harder to learn
        arguments += ['--nepochs', 8]
    assert run.cli(map(str, arguments)) == 0
    accuracy = np.loadtxt(out)
    assert accuracy.shape == (2, 2) and accuracy[0, 1] == 0
    classes = [t['n_classes'] for t in json.loads(out.with_suffix('.json').read_text())['tasks']]
    if approach == 'random':
        assert accuracy[1] == pytest.approx([1 / n for n in classes], abs=0.01)
    else:
        assert accuracy[0, 0] > 1 / classes[0] + 0.2


@pytest.mark.parametrize('approach', APPROACHES)
def test_no_test_image_is_seen_in_training_and_no_foreign_head_is_used(small_data, tmp_path, monkeypatch, approach):
    """Notes which images are asked for while which task is learned, and which head answers for them.

    The tests: all tasks with the initial network, then each before it is learned, and all so far after.
    """
    events, now, batch, learn, build = [], {}, task.Task.batch, Approach.learn, run.build

    def note_batch(self, images, index):
        split = next(s for s in ('train', 'valid', 'test') if getattr(self, s) is images)
        events.append((now.get('learns'), self.name, split))
        return batch(self, images, index)

    def note_learn(self, t, *rest):
        now['learns'] = t
        log = learn(self, t, *rest)
        del now['learns']
        return log

    def build_and_note(args, tasks, device):
        made = build(args, tasks, device)
        evaluate, heads = made.evaluate, getattr(made.net, 'heads', None) or [c.classifier for c in made.net.columns]
        used = []
        for u, head in enumerate(heads):
            head.register_forward_hook(lambda *_, u=u: used.append(u))

        def note_evaluate(t, images):
            used.clear()
            result = evaluate(t, images)
            if 'learns' not in now and approach != 'random':  # a test: its logits are those of head t
                assert used[0] == t
                assert set(used) == {t} or approach == 'lwf'  # whose loss asks the old heads too
            return result

        made.evaluate = note_evaluate
        return made

    monkeypatch.setattr(task.Task, 'batch', note_batch)
    monkeypatch.setattr(Approach, 'learn', note_learn)
    monkeypatch.setattr(run, 'build', build_and_note)
    arguments = ['--approach', approach, '--experiment', 'mixture', '--tasks', 'mnist,cifar10,svhn', '--ntrain', 60,
                 '--width', 0.1, '--nepochs', 1, '--data', small_data, '--output', tmp_path / 'out.txt',
                 '--device', 'cpu']  # fmt: skip
    assert run.cli(map(str, arguments)) == 0
    names = ['mnist', 'cifar10', 'svhn']
    for learns, name, split in events:
        if learns is None:
            assert split in ('valid', 'test')
        else:
            allowed = names[: learns + 1] if approach == 'joint' else [names[learns]]
            assert split in ('train', 'valid') and name in allowed
    tests = [name for _, name, split in events if split == 'test']
    before_and_after = [name for t in range(3) for name in [names[t], *names[: t + 1]]]
    assert tests == names + before_and_after or approach == 'random'

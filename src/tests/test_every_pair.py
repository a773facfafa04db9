"""Every approach runs on every experiment, end to end through run.py; every approach learns; evaluation never leaks.

All names come from the tables of approaches and experiments: a new one is tested without a line here.
"""

import json

import numpy as np
import pytest
from conftest import data_sets, dataset

import run
from approaches import APPROACHES
from approaches.base import Approach
from dataloaders import EXPERIMENTS, npz, task

FAST = 'hat'  # runs on every experiment in the fast tests, too; the others in the slow ones
LEARNER = 'sgd'  # learns an experiment of each family of networks in the fast tests, and every one in the slow ones
MORE = {  # what does not learn on every machine's last bits otherwise, with batches of 8
    'hat': ['--nepochs', 16],
    'pnn': ['--width', 0.4, '--lr', 0.03],
    'wsn': ['--lr', 0.1, '--nepochs', 20],  # half of the weights: the signal is weaker
    'pathnet': ['--width', 0.5, '--lr', 0.02, '--parameter', 'generations=2', '--nepochs', 12],
}
ONE_OF_EACH_FAMILY = list({module.FAMILY: name for name, module in reversed(EXPERIMENTS.items())}.values())


def pairs(approaches, experiments, fast):
    """A parameter for each pair; the slow ones are marked."""
    marks = {name: () if name == fast else pytest.mark.slow for name in approaches}
    return [pytest.param(a, e, marks=marks[a], id=f'{e}-{a}') for e in experiments for a in approaches]


@pytest.fixture(scope='module')
def pair_data(tmp_path_factory):
    """<name>.npz of every data set, 1,000 training pictures each: 200 a task where it is divided among five."""
    folder = tmp_path_factory.mktemp('dat')
    for name, (n_classes, _) in data_sets().items():
        npz.write(folder / f'{name}.npz', dataset(name, 1000, max(40, n_classes)))
    return folder


def learn(approach, experiment, data, out, *more, n_tasks=2):
    """Run it on the first and the last task of the experiment; returns accuracy matrix and record."""
    module = EXPERIMENTS[experiment]
    if hasattr(module, 'use'):
        module.use(data)
    first, *_, last = module.NAMES
    tasks = ','.join([first, last][:n_tasks])
    arguments = ['--approach', approach, '--experiment', experiment, '--tasks', tasks, '--width', 0.2,
                 '--device', 'cpu', '--data', data, '--output', out, *more]  # fmt: skip
    assert run.cli(map(str, arguments)) == 0
    return np.loadtxt(out, ndmin=2), json.loads(out.with_suffix('.json').read_text())


@pytest.mark.slow
@pytest.mark.parametrize('approach, experiment', pairs(APPROACHES, EXPERIMENTS, FAST))
def test_every_approach_runs_on_every_experiment(pair_data, tmp_path, approach, experiment):
    accuracy, record = learn(approach, experiment, pair_data, tmp_path / 'out.txt', '--ntrain', 60, '--nepochs', 2)
    classes = [t['n_classes'] for t in record['tasks']]
    assert accuracy.shape == (len(classes),) * 2 and not np.triu(accuracy, 1).any()
    assert all(each['what'] == 'no progress' for each in record['diverged'])
    assert all(np.isfinite(epoch['train_loss']) for log in record['epochs'] for epoch in log)
    if approach == 'random':
        assert accuracy[-1] == pytest.approx([1 / n for n in classes], abs=0.05)
    else:
        assert [len(log) for log in record['epochs']] == [2] * len(classes)


@pytest.mark.slow
@pytest.mark.parametrize(
    'approach, experiment',
    pairs([LEARNER], [name for name in EXPERIMENTS if name not in ONE_OF_EACH_FAMILY], None)
    + pairs([name for name in APPROACHES if name != 'random'], ONE_OF_EACH_FAMILY, LEARNER),
)
def test_every_approach_learns_and_every_experiment_can_be_learned(pair_data, tmp_path, approach, experiment):
    """Every approach on an experiment of each family of networks, one approach on all experiments."""
    settings = ['--ntrain', 200, '--batch-size', 8, '--nepochs', 10, *MORE.get(approach, [])]
    accuracy, record = learn(approach, experiment, pair_data, tmp_path / 'out.txt', *settings, n_tasks=1)
    assert accuracy[0, 0] > 1 / record['tasks'][0]['n_classes'] + 0.2


@pytest.mark.slow
@pytest.mark.parametrize('approach', APPROACHES)
def test_no_test_image_is_seen_in_training_and_no_foreign_head_is_used(small_data, tmp_path, monkeypatch, approach):
    """Notes which images are asked for while which task is learned, and which head answers for them.

    The tests: all tasks with the initial network, then each before it is learned, and all so far after.
    """
    events, now, batch, learn, build = [], {}, task.Task.batch, Approach.learn, run.build

    def note_batch(self, images, index):
        split = next((s for s in ('train', 'valid', 'test') if getattr(self, s) is images), 'stored')
        assert split != 'stored' or images.x.data_ptr() != self.train.x.data_ptr()
        events.append((now.get('learns'), self.name, split))
        return batch(self, images, index)

    def note_learn(self, t, *rest):
        now['learns'] = t
        log = learn(self, t, *rest)
        del now['learns']
        return log

    def build_and_note(*arguments):
        made = build(*arguments)
        evaluate, heads = made.evaluate, getattr(made.net, 'heads', None) or [c.classifier for c in made.net.columns]
        used = []
        for u, head in enumerate(heads):
            head.register_forward_hook(lambda *_, u=u: used.append(u))

        def note_evaluate(t, images):
            used.clear()
            result = evaluate(t, images)
            if 'learns' not in now and approach != 'random':  # a test: its logits are those of head t
                assert used[0] == t
                assert set(used) <= set(range(t + 1))  # a loss may ask the old heads, too, as that of lwf does
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
            allowed = names[: learns + 1] if approach == 'joint' or split == 'stored' else [names[learns]]
            assert split in ('train', 'valid', 'stored') and name in allowed
    tests = [name for _, name, split in events if split == 'test']
    before_and_after = [name for t in range(3) for name in [names[t], *names[: t + 1]]]
    assert tests == names + before_and_after or approach == 'random'

"""The identity of a run: arguments, data and code. A result of another run is not mistaken for it."""

import io
import json
import math
import os
import shutil

import numpy as np
import pytest
import torch
from conftest import assert_equal, dataset

import dataloaders
import run
from approaches.base import Approach
from approaches.common import steps
from approaches.common.penalty import squared_distance
from approaches.sgd import SGD
from core import files, results
from core.errors import UserError
from core.files import ROOT
from dataloaders import npz
from networks import NETWORKS, mlp
from runs import identity
from runs.checkpoints import Checkpoint

SMALL = ['--experiment', 'mixture', '--tasks', 'mnist,cifar10', '--width', '0.05', '--nepochs', '2', '--ntrain', '60',
         '--device', 'cpu']  # fmt: skip


@pytest.fixture
def folder(small_data, tmp_path):
    """A data folder of its own."""
    folder = tmp_path / 'dat'
    folder.mkdir()
    for name in 'mnist', 'cifar10', 'fashion-mnist':
        shutil.copy2(small_data / f'{name}.npz', folder)
    return folder


@pytest.fixture
def command(folder, tmp_path):
    """command('sgd', 'out.txt', ...): arguments of run.py."""

    def command(approach, name='out.txt', *more):
        where = ['--data', str(folder), '--output', str(tmp_path / name), '--tmp', str(tmp_path / 'tmp')]
        return ['--approach', approach, *SMALL, *where, *more]

    return command


@pytest.fixture
def trains(monkeypatch):
    """trains(arguments): does this command of run.py train, or is its result finished already?"""
    calls, learn = [], run.learn
    monkeypatch.setattr(run, 'learn', lambda *args: calls.append(args) or learn(*args))

    def trains(argv):
        calls.clear()
        assert run.cli(argv) == 0
        return bool(calls)

    return trains


@pytest.fixture
def stopped(command, tmp_path, monkeypatch):
    """A run of sgd that was interrupted in its second task: its checkpoint."""
    epoch = Approach.train_epoch

    def until(self, t, number, lr):
        if (t, number) == (1, 1):
            raise KeyboardInterrupt
        return epoch(self, t, number, lr)

    monkeypatch.setattr(Approach, 'train_epoch', until)
    assert run.cli(command('sgd')) == 130
    monkeypatch.setattr(Approach, 'train_epoch', epoch)
    return Checkpoint(results.Output(tmp_path / 'out.txt'), tmp_path / 'tmp')


def a_pixel(path):
    x, *others = npz.read(path, 10)[:4]
    x = np.array(x)
    x[0, 0, 0, 0] ^= 1
    npz.write(path, (x, *others))


def a_label(path):
    x, y, *others = npz.read(path, 10)[:4]
    npz.write(path, (x, np.roll(y, 1), *others))


def fewer(path):
    npz.write(path, dataset('mnist', n_train=100))


def renamed(path):
    shutil.copy2(path.with_name('fashion-mnist.npz'), path)


def record(path):
    def refuse(name):
        raise ValueError(f'{name} is no JSON')

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize('change', [a_pixel, a_label, fewer, renamed])
def test_a_result_of_other_data_is_renamed_and_the_run_repeated(command, trains, folder, tmp_path, capsys, change):
    """Even if the file has the size and the time of the one before."""
    assert run.cli(command('sgd')) == 0
    before, times = (tmp_path / 'out.json').read_bytes(), os.stat(folder / 'mnist.npz')
    change(folder / 'mnist.npz')
    os.utime(folder / 'mnist.npz', ns=(times.st_atime_ns, times.st_mtime_ns))
    assert trains(command('sgd'))
    out = capsys.readouterr().out
    assert 'mnist: data is ' in out and 'out.json renamed to out.old-1.json' in out
    assert (tmp_path / 'out.old-1.json').read_bytes() == before
    assert record(tmp_path / 'out.json')['tasks'][0]['data'] == npz.fingerprint(folder / 'mnist.npz')
    assert not trains(command('sgd'))


@pytest.mark.parametrize('change', [a_pixel, fewer, renamed])
def test_a_checkpoint_of_other_data_is_rejected(command, folder, capsys, stopped, change):
    kept = (folder / 'mnist.npz').read_bytes()
    change(folder / 'mnist.npz')
    assert run.cli(command('sgd')) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert str(stopped.path) in line and 'mnist: data' in line
    (folder / 'mnist.npz').write_bytes(kept)
    assert run.cli(command('sgd')) == 0


def test_data_that_change_during_a_run_give_no_result(command, folder, tmp_path, capsys, monkeypatch):
    after, kept = Approach.after_task, (folder / 'mnist.npz').read_bytes()
    monkeypatch.setattr(Approach, 'after_task', lambda self, t: a_pixel(folder / 'mnist.npz') if t else None)
    assert run.cli(command('sgd')) == 2
    assert ': task mnist: data is ' in capsys.readouterr().err
    assert not (tmp_path / 'out.json').exists()
    monkeypatch.setattr(Approach, 'after_task', after)
    (folder / 'mnist.npz').write_bytes(kept)
    assert run.cli(command('sgd')) == run.cli(command('sgd', 'b.txt')) == 0
    assert_equal(tmp_path, 'out', 'b')


def test_where_the_data_are_and_how_they_are_packed_does_not_count(command, trains, folder, tmp_path):
    assert run.cli(command('sgd')) == 0
    moved = tmp_path / 'elsewhere'
    folder.rename(moved)
    content = npz.read(moved / 'mnist.npz', 10)
    np.savez_compressed(tmp_path / 'packed.npz', **dict(zip(npz.ARRAYS, content[:4], strict=True)))
    (tmp_path / 'packed.npz').rename(moved / 'mnist.npz')
    before = sorted(moved.iterdir())
    assert not trains(command('sgd', 'out.txt', '--data', str(moved)))
    assert sorted(moved.iterdir()) == before  # nothing is written there: it may be read-only
    shutil.rmtree(moved)
    assert not trains(command('sgd'))  # without its data a result is still finished


def test_the_data_of_each_experiment_have_a_fingerprint(small_data):
    for name, module in dataloaders.EXPERIMENTS.items():
        fingerprints = dataloaders.fingerprints(name, small_data, module.NAMES)
        assert list(fingerprints) == list(module.NAMES)
        assert all(fingerprints.values())
    tasks = dataloaders.load('cifar', small_data, 0, tasks=['cifar10-0', 'cifar100-0'])
    assert [task.fingerprint for task in tasks] == [
        npz.fingerprint(small_data / f'{n}.npz') for n in ('cifar10', 'cifar100')
    ]


def edit(monkeypatch, path, old, new):
    """As if the file had been edited before the process began."""
    text = identity.SOURCES[ROOT / 'src' / path]
    assert old.encode() in text
    monkeypatch.setitem(identity.SOURCES, ROOT / 'src' / path, text.replace(old.encode(), new.encode()))
    identity.code.cache_clear()


@pytest.fixture(autouse=True)
def nothing_edited():
    yield
    identity.code.cache_clear()


@pytest.fixture(scope='module')
def fingerprints():
    """approach -> fingerprint of the code, unedited."""
    return {name: identity.code(name, 'mixture') for name in run.APPROACHES}


@pytest.mark.parametrize('path, old, new, hit', [
    ('approaches/ewc.py', 'lamb / 2', 'lamb / 3', 'ewc'),
    ('approaches/common/fisher.py', 'torch.square', 'torch.abs', 'ewc imm-mean imm-mode'),
    ('approaches/ewc.py', 'clip = 100', 'clip = 101', 'ewc'),
    ('hat/functional.py', 'SE_MAX = 50.0', 'SE_MAX = 40.0', 'hat adahat hat-cl'),
    ('networks/pnn.py', 'uniform_(self.alpha, 0, 0.1', 'uniform_(self.alpha, 0, 0.2', 'pnn'),
    ('networks/plain.py', 'self.drop(x)', 'self.drop(self.drop(x))', 'not'),
    ('approaches/common/training.py', 'lr_factor: float = 3', 'lr_factor: float = 4', 'not'),
    ('approaches/common/optimizers.py', '-self.lr * factor', '-2 * self.lr * factor', 'not'),
    ('dataloaders/task.py', 'VALID_PERCENT = 15', 'VALID_PERCENT = 10', 'not'),
    ('dataloaders/archives/normalization.py', '0.2752', '0.2753', 'not'),
    ('networks/__init__.py', 'nn.init.zeros_(module.bias)', 'nn.init.ones_(module.bias)', 'not'),
    ('run.py', 'range(t + 1)', 'range(t + 2)', 'not'),
    ('core/device.py', "precision == 'tf32'\n    torch.set_flush", "precision != 'tf32'\n    torch.set_flush", 'not'),
    ('dataloaders/cifar.py', 'range(5)', 'range(4)', ''),
])  # fmt: skip
def test_the_code_that_computes_an_approach_counts_and_no_other(monkeypatch, fingerprints, path, old, new, hit):
    edit(monkeypatch, path, old, new)
    changed = {name for name in fingerprints if identity.code(name, 'mixture') != fingerprints[name]}
    words = set(hit.split())
    assert changed == (set(fingerprints) - words if 'not' in words else words)


def test_which_class_of_a_file_it_is_counts(monkeypatch):
    before = [identity.code('imm-mean', 'mixture'), identity.code('sgd', 'mnist2')]
    monkeypatch.setitem(run.APPROACHES, 'imm-mean', run.APPROACHES['imm-mode'])
    monkeypatch.setitem(NETWORKS['mlp'], '', mlp.WideMLP)
    identity.code.cache_clear()
    assert not set(before) & {identity.code('imm-mean', 'mixture'), identity.code('sgd', 'mnist2')}


def test_a_class_in_a_registry_counts_and_so_do_its_bases(monkeypatch):
    """As one that only sets another clip, beside its entry."""
    small = type('Small', (run.APPROACHES['ewc'],), {'clip': 1, '__module__': 'approaches'})
    monkeypatch.setitem(run.APPROACHES, 'small', small)
    edit(monkeypatch, 'approaches/__init__.py', 'ALIASES = {', 'class Small(EWC):\n    clip = 1\n\n\nALIASES = {')
    found = [identity.code('small', 'mixture')]
    edit(monkeypatch, 'approaches/__init__.py', '    clip = 1\n', '    clip = 2\n')
    found.append(identity.code('small', 'mixture'))
    edit(monkeypatch, 'approaches/ewc.py', 'lamb / 2', 'lamb / 3')
    found.append(identity.code('small', 'mixture'))
    assert len(set(found)) == 3


@pytest.mark.parametrize('path, old, new', [
    ('approaches/ewc.py', 'class EWC', '# a comment\n\n\nclass EWC'),
    ('approaches/ewc.py', '"""EWC:', '"""Another docstring:'),
    ('approaches/ewc.py', 'def after_task(self, t):', 'def after_task(self, t: int) -> None:\n        """More."""'),
    ('approaches/ewc.py', 'squared_distance(self.shared, self.old, self.fisher)',
     'squared_distance(\n            self.shared,\n            self.old,\n            self.fisher\n        )'),
    ('dataloaders/task.py', 'leave none for validation', 'leave nothing for validation'),
    ('run.py', ': test accuracy {', ': accuracy on the test images {'),
])  # fmt: skip
def test_comments_types_formatting_and_texts_do_not_count(monkeypatch, path, old, new):
    before = identity.code('ewc', 'mixture')
    edit(monkeypatch, path, old, new)
    assert identity.code('ewc', 'mixture') == before


def test_a_file_that_moved_does_not_count(monkeypatch):
    before = identity.code('ewc', 'mixture')
    old, new = (ROOT / 'src' / 'approaches' / 'common' / name for name in ('penalty.py', 'quadratic.py'))
    monkeypatch.setitem(identity.SOURCES, new, identity.SOURCES[old])
    monkeypatch.delitem(identity.SOURCES, old)
    edit(monkeypatch, 'approaches/ewc.py', 'approaches.common.penalty', 'approaches.common.quadratic')
    assert identity.code('ewc', 'mixture') == before
    edit(monkeypatch, 'approaches/common/quadratic.py', '** 2', '** 3')
    assert identity.code('ewc', 'mixture') != before


def test_a_result_of_other_code_stays_finished_with_a_note_unless_stale_is_redo(
    command, trains, tmp_path, capsys, monkeypatch
):
    assert run.cli(command('sgd')) == 0
    before = (tmp_path / 'out.json').read_bytes()
    edit(monkeypatch, 'approaches/common/training.py', 'lr_factor: float = 3', 'lr_factor: float = 4')
    for more in [], ['--stale', 'keep']:
        capsys.readouterr()
        assert not trains(command('sgd', 'out.txt', *more))
        assert '--stale redo' in capsys.readouterr().out
        assert (tmp_path / 'out.json').read_bytes() == before
    assert trains(command('sgd', 'out.txt', '--stale', 'redo'))
    assert (tmp_path / 'out.old-1.json').read_bytes() == before
    assert record(tmp_path / 'out.json')['code'] == identity.code('sgd', 'mixture')
    capsys.readouterr()
    assert not trains(command('sgd', 'out.txt', '--stale', 'redo'))
    assert '--stale' not in capsys.readouterr().out


def test_a_checkpoint_of_other_code_resumes_only_if_asked(command, tmp_path, capsys, monkeypatch, stopped):
    before = identity.code('sgd', 'mixture')
    edit(monkeypatch, 'approaches/common/training.py', 'lr_factor: float = 3', 'lr_factor: float = 4')
    assert run.cli(command('sgd')) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert 'checkpoint of other code' in line and '--stale keep' in line and '--stale redo' in line
    kept = stopped.path.read_bytes()
    assert run.cli(command('sgd', 'out.txt', '--stale', 'keep')) == 0
    now = identity.code('sgd', 'mixture')
    assert record(tmp_path / 'out.json')['code'] == f'{before}+{now}'
    capsys.readouterr()
    assert run.cli(command('sgd')) == 0
    assert '--stale redo' in capsys.readouterr().out  # it is a result of neither code alone
    (tmp_path / 'out.json').unlink()
    stopped.path.write_bytes(kept)
    assert run.cli(command('sgd', 'out.txt', '--stale', 'redo')) == run.cli(command('sgd', 'b.txt')) == 0
    assert_equal(tmp_path, 'out', 'b')


def test_a_result_of_an_earlier_version_stays_finished(command, trains, tmp_path, capsys):
    """Its record has neither data nor code, and the folder of the data is one of its arguments."""
    assert run.cli(command('hat')) == 0
    old = record(tmp_path / 'out.json')
    del old['code']
    old['arguments'] |= {'data': 'dat'}
    del old['arguments']['parameter']['reg']  # a hyper-parameter that came later: its default is as it was before
    for task in old['tasks']:
        del task['data']
    (tmp_path / 'out.json').write_text(json.dumps(old))
    capsys.readouterr()
    assert not trains(command('hat'))
    assert '--stale redo' in capsys.readouterr().out


@pytest.mark.parametrize('approach, more', [('sgd', ['--lr', '1e30']), ('ewc', ['--parameter', 'lamb=1e30'])])
def test_divergence_is_warned_of_once_a_task_and_recorded(command, tmp_path, recwarn, approach, more):
    assert run.cli(command(approach, 'out.txt', *more)) == 0
    messages = [str(w.message) for w in recwarn if 'not finite' in str(w.message)]
    result = record(tmp_path / 'out.json')  # strict JSON
    diverged = [each for each in result['diverged'] if each['what'] != 'no progress']
    assert len(messages) == len(diverged) > 0
    for line, where in zip(messages, diverged, strict=True):
        task = [task['name'] for task in result['tasks']].index(where['task'])
        assert f'{where["task"]} (task {task + 1}), epoch {where["epoch"]}' in line and where['what'] in line
        assert ('lamb' in line) == (approach == 'ewc') and '--lr' in line
    epochs = [epoch for log in result['epochs'] for epoch in log if 'diverged' in epoch]
    assert approach == 'ewc' or all(epoch['valid_loss'] is None for epoch in epochs)


@pytest.mark.slow
def test_a_task_without_progress_is_warned_of_and_recorded(command, tmp_path, make_approach):
    """A penalty so stiff that the weights oscillate, and all losses are finite."""

    class Stiff(SGD):
        def after_task(self, t):
            self.old = [p.detach().clone() for p in self.net.blocks.parameters()]

        def loss(self, x, y, t, progress):
            loss, logits = super().loss(x, y, t, progress)
            return loss + (30 * squared_distance(self.net.blocks.parameters(), self.old) if t else 0), logits

    approach = make_approach('sgd', nepochs=3, batch_size=4)
    approach.__class__ = Stiff
    assert not any('diverged' in epoch for epoch in approach.learn(0))
    with pytest.warns(UserWarning, match=r'cifar10 \(task 2\) is not learned: validation accuracy'):
        log = approach.learn(1)
    assert [epoch.get('diverged') for epoch in log] == [None, None, 'no progress']
    assert all(math.isfinite(epoch['valid_loss']) for epoch in log)


def test_a_task_whose_loss_falls_by_the_regularization_alone_is_not_learned(make_approach):
    approach = make_approach('hat', nepochs=4, c=100)
    start, _ = approach.validate(0)
    with pytest.warns(UserWarning, match='not learned') as caught:
        log = approach.learn(0)
    assert log[-1]['valid_loss'] < start / 2 and log[-1]['diverged'] == 'no progress'
    y = approach.tasks[0].valid.y
    chance = f'the most frequent class alone gives {100 * max(y.bincount()) / len(y):.1f} %'
    assert any(chance in str(warning.message) for warning in caught)


@pytest.mark.slow
@pytest.mark.parametrize('nepochs', [1, 6])
def test_whether_packnet_has_learned_is_judged_by_the_network_that_is_left(make_approach, nepochs):
    """Its best epoch may be one before the pruning, which no task is tested with."""
    approach = make_approach('packnet', nepochs=nepochs, batch_size=4, prune=1.0)
    with pytest.warns(UserWarning, match='not learned') as caught:
        log = approach.learn(0)
    assert log[-1]['diverged'] == 'no progress' and not any(p.any() for p in approach.weights)
    assert f'validation accuracy {100 * approach.validate(0)[1]:.1f} %' in str(caught[-1].message)


def test_an_approach_may_learn_without_an_epoch(make_approach, monkeypatch):
    """Such as one of class means, all of it in after_task."""
    monkeypatch.setattr(SGD, 'n_rounds', lambda self: 0)
    assert make_approach('sgd').learn(0) == []


def test_whether_joint_has_learned_is_judged_by_all_its_tasks(make_approach):
    approach = make_approach('joint')
    right = sum(int(task.valid.y.bincount().max()) for task in approach.tasks)
    assert approach.chance(1) == pytest.approx(right / sum(len(task.valid.y) for task in approach.tasks))


def test_a_gradient_that_is_not_finite_is_warned_of_though_the_loss_is_finite(make_approach):
    class Steep(SGD):
        def after_backward(self, t, progress):
            for p in self.net.parameters():
                if p.grad is not None:
                    p.grad.fill_(1e38)  # each is finite, their norm is not: the step is none

    approach = make_approach('sgd', nepochs=2)
    approach.__class__ = Steep
    with pytest.warns(UserWarning, match='mnist .*epoch 1: the gradient is not finite'):
        log = approach.learn(0)
    assert all(epoch['diverged'] == 'gradient' and math.isfinite(epoch['train_loss']) for epoch in log)


@pytest.mark.parametrize('parameter', ['c=1000', 'init=uniform,low=-6,high=-5'])
def test_a_layer_without_an_open_gate_is_warned_of(command, recwarn, parameter):
    assert run.cli(command('hat', 'out.txt', '--parameter', parameter, '--batch-size', '8')) == 0
    first, second = [str(w.message) for w in recwarn if 'all gates of' in str(w.message)]
    assert "'blocks.0.0'" in first and 'mnist (task 1), epoch ' in first and 'cifar10 (task 2), epoch ' in second


class Memory(SGD):
    """Its memory is emptied in place before a task and filled while it is trained."""

    kept = ('memory',)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.memory = {'steps': [torch.zeros(3)]}

    def before_task(self, t):
        self.memory['steps'][0].zero_()

    def after_step(self, t):
        self.memory['steps'][0] += 1


def test_what_is_kept_survives_a_before_task_that_writes_into_it(make_approach):
    approach = make_approach('sgd', nepochs=3)
    approach.__class__, approach.memory = Memory, {'steps': [torch.zeros(3)]}
    states = []
    approach.learn(0, lambda log: states.append(files.serialize(approach.state())))
    again = make_approach('sgd', nepochs=3)
    again.__class__, again.memory = Memory, {'steps': [torch.zeros(3)]}
    again.load_state(torch.load(io.BytesIO(states[0]), weights_only=True))
    again.learn(0)
    assert torch.equal(again.memory['steps'][0], approach.memory['steps'][0])


@pytest.mark.parametrize('where', ['self.memory', 'layer'])
def test_a_tensor_that_a_step_replaces_is_found(make_approach, where):
    approach = make_approach('sgd')
    approach.memory = {'a': [torch.zeros(3)]}
    before = steps.held(approach)
    approach.memory['a'][0] += 1
    approach.memory['new'] = torch.ones(2)
    steps.check_held(before, steps.held(approach))
    if where == 'layer':
        approach.net.heads[0].weight = torch.nn.Parameter(approach.net.heads[0].weight.detach().clone())
        where = 'heads.0.weight'
    else:
        approach.memory['a'][0] = approach.memory['a'][0] + 1
    with pytest.raises(RuntimeError, match=where):
        steps.check_held(before, steps.held(approach))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_a_captured_step_that_replaces_a_tensor_is_an_error(make_approach):
    class Replacing(SGD):
        def after_step(self, t):
            self.total = self.total + 1

    approach = make_approach('sgd', device='cuda', batch_size=16)
    approach.__class__, approach.total = Replacing, torch.zeros((), device='cuda')
    with pytest.raises(RuntimeError, match='self.total'):
        approach.learn(0)


def test_checkpoints_go_where_they_are_told_or_can(command, tmp_path, monkeypatch):
    out = results.Output(tmp_path / 'out.txt')
    assert Checkpoint(out).path.parent == ROOT / 'tmp'
    monkeypatch.setenv('HAT_TMP', str(tmp_path / 'b'))
    assert Checkpoint(out).path.parent == tmp_path / 'b'
    assert Checkpoint(out, tmp_path / 'a').path.parent == tmp_path / 'a'
    monkeypatch.delenv('HAT_TMP')
    access = os.access
    monkeypatch.setattr(os, 'access', lambda path, mode: access(path, mode) and ROOT not in (path, path.parent))
    assert Checkpoint(out).path.parent == tmp_path  # a checkout that the user cannot write


@pytest.mark.parametrize('path', ['x.json', 'x.pt', '.', 'pipe', '.txt'])
def test_an_output_that_cannot_hold_a_matrix_is_rejected(command, tmp_path, capsys, path):
    os.mkfifo(tmp_path / 'pipe')
    assert run.cli(command('sgd', path)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert '--output' in line and str(tmp_path / path) in line


@pytest.mark.parametrize('path, old, new, hit', [
    ('approaches/lfl.py', 'from torch.nn.functional import cross_entropy',
     'from torch.nn.functional import multi_margin_loss as cross_entropy', 'lfl'),
    ('approaches/base.py', 'import torch.nn.functional as F', 'import mylosses as F', 'not'),
    ('approaches/hat.py', 'from hat import capacity', 'from hat import regularizers as capacity',
     'hat adahat hat-cl'),
    ('core/metrics.py', 'accuracy[t, : t + 1] = row', 'accuracy[t, : t + 1] = 1', 'not'),
    ('run.py', 'device = setup_device(args.device, args.precision)', 'device = setup_device("cpu")', 'not'),
    ('approaches/common/gradients.py', 'in_dims=(None, 0, 0)', 'in_dims=(0, None, 0)', 'ewc mas imm-mean imm-mode'),
])  # fmt: skip
def test_what_a_name_refers_to_counts(monkeypatch, fingerprints, path, old, new, hit):
    test_the_code_that_computes_an_approach_counts_and_no_other(monkeypatch, fingerprints, path, old, new, hit)


def test_relative_imports_and_new_folders_are_followed(monkeypatch):
    src = ROOT / 'src'
    before = identity.code('ewc', 'mixture')
    edit(monkeypatch, 'approaches/ewc.py', 'from approaches.common', 'from .common')
    assert identity.code('ewc', 'mixture') == before
    edit(monkeypatch, 'approaches/common/fisher.py', 'torch.square', 'torch.abs')
    assert identity.code('ewc', 'mixture') != before
    monkeypatch.setitem(identity.SOURCES, src / 'losses' / 'mine.py', b'SCALE = 1')
    edit(monkeypatch, 'approaches/ewc.py', 'from .common.fisher', 'from losses.mine import SCALE\nfrom .common.fisher')
    before = identity.code('ewc', 'mixture')
    edit(monkeypatch, 'losses/mine.py', 'SCALE = 1', 'SCALE = 2')
    assert identity.code('ewc', 'mixture') != before


def test_a_result_of_another_approach_is_not_said_to_have_this_ones_hyper_parameters(command, capsys):
    assert run.cli(command('random')) == 0
    assert run.cli(command('random', 'out.txt', '--approach', 'ewc', '--parameter', 'lamb=1')) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if 'of another run' in line)
    assert line.endswith('out.json is the result of another run: approach is random, not ewc')


def test_a_result_of_another_experiment_is_renamed(command, tmp_path, capsys):
    """Its tasks are none of this one's."""
    assert run.cli(command('random')) == 0
    arguments = command('random', 'out.txt', '--experiment', 'cifar')
    arguments[arguments.index('--tasks') + 1] = 'cifar10-0'
    assert run.cli(arguments) == 0 and (tmp_path / 'out.old-1.json').exists()
    (line,) = (line for line in capsys.readouterr().out.splitlines() if 'of another run' in line)
    assert line.endswith('out.json is the result of another run: experiment is mixture, not cifar')


def test_a_run_is_repeated_if_the_network_beside_it_is_another(command, trains, tmp_path):
    """Such as that of a run which a full disk stopped before its record, and that was then resumed without --save."""
    assert trains(command('random'))
    (tmp_path / 'out.pt').write_bytes(b'another')
    assert not trains(command('random'))
    assert trains(command('random', 'out.txt', '--save'))
    assert (tmp_path / 'out.old-1.pt').read_bytes() == b'another'
    assert not trains(command('random', 'out.txt', '--save'))


@pytest.mark.parametrize('content', ['0.5 0\n0.5 0.5\n', '0.5\n', ''])
def test_a_run_is_repeated_if_the_matrix_beside_its_record_is_another(content, command, trains, tmp_path, capsys):
    """Such as that of another machine, or half of a copy: tables leave such a run out."""
    assert trains(command('random'))
    matrix = (tmp_path / 'out.txt').read_text()
    (tmp_path / 'out.txt').write_text(content)
    assert trains(command('random'))
    assert 'out.txt is missing, or not the accuracy matrix that is in out.json\n' in capsys.readouterr().out
    assert (tmp_path / 'out.old-1.txt').read_text() == content and (tmp_path / 'out.txt').read_text() == matrix
    assert not trains(command('random'))


def test_a_width_of_1_is_that_of_the_paper(command, trains):
    assert run.cli(command('random', 'out.txt', '--width', '1')) == 0
    arguments = command('random')
    at = arguments.index('--width')
    assert not trains([*arguments[:at], *arguments[at + 2 :]])


def test_the_lock_is_beside_the_output_wherever_checkpoints_are(command, tmp_path):
    with Checkpoint(results.Output(tmp_path / 'out.txt'), tmp_path / 'a').lock():
        assert run.cli(command('sgd', 'out.txt', '--tmp', str(tmp_path / 'b'))) == 75


@pytest.mark.parametrize('damage', [{'accuracy': [[0.5]]}, {'times': 3}, {'tasks': []}, {'accuracy': 'none'}])
def test_a_run_with_a_damaged_record_is_not_finished(command, tmp_path, damage):
    assert run.cli(command('sgd')) == 0
    (tmp_path / 'out.json').write_text(json.dumps(record(tmp_path / 'out.json') | damage))
    assert run.cli(command('sgd')) == 0
    assert (tmp_path / 'out.old-1.json').exists() and record(tmp_path / 'out.json')['times']['total'] > 0


def test_large_values_are_valid(command):
    assert run.cli(command('sgd', 'out.txt', '--lr', '1e305')) == 0
    assert run.cli(command('hat', 'b.txt', '--parameter', 'c=1e300')) == 2


def test_closed_layers_are_in_the_record(command, tmp_path):
    assert run.cli(command('hat', 'out.txt', '--parameter', 'init=uniform,low=-6,high=-5')) == 0
    closed = record(tmp_path / 'out.json')['monitor']['closed']
    assert len(closed) == 2 and 'blocks.0.0' in closed[0]


def test_a_path_that_is_not_a_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(UserError, match='not a file'), files.atomic(tmp_path / 'pipe'):
        pass
    (tmp_path / 'target').write_text('old')
    (tmp_path / 'link').symlink_to(tmp_path / 'target')
    with files.atomic(tmp_path / 'link') as part:
        part.write_text('new')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'target').read_text() == 'new'

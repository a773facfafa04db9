"""A run that was interrupted anywhere resumes with the same command and ends with the same files, bit for bit."""

import errno
import functools
import io
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import assert_equal, dataset, left_behind

import run
from approaches import APPROACHES
from approaches.base import Approach
from core import files, results
from core.errors import UserError
from core.files import ROOT
from dataloaders import npz
from dataloaders.archives import sources
from runs import checkpoints
from runs.checkpoints import Checkpoint

SLOW = pytest.mark.slow
SMALL = ['--tasks', 'mnist,cifar10,svhn', '--width', '0.05', '--nepochs', '4', '--ntrain', '60', '--device', 'cpu']


@pytest.fixture
def command(small_data, tmp_path):
    """command('hat', 'a.txt', ...): arguments of run.py."""

    def command(approach, name='out.txt', *more):
        output = ['--output', str(tmp_path / name)]
        return ['--approach', approach, '--experiment', 'mixture', '--data', str(small_data), *output, *SMALL, *more]

    return command


def test_a_tensor_that_an_approach_reports_is_in_the_record(command, tmp_path, monkeypatch):
    """As a number; the run would else end in a traceback, after its last task."""
    monkeypatch.setattr(Approach, 'observe', lambda self, t: {'norm': torch.tensor(0.5)})
    monkeypatch.setattr(Approach, 'report', lambda self: {'counts': np.arange(2), 'worst': torch.tensor(torch.inf)})
    assert run.cli(command('sgd', 'a.txt', '--nepochs', '1')) == 0
    record = results.load_record(tmp_path / 'a.json')
    assert record['monitor'] == {'counts': [0, 1], 'worst': None} and record['epochs'][0][0]['norm'] == 0.5


@pytest.mark.parametrize(
    'value', [np.float64(0.5), np.zeros(2), {np.int64(3)}, {np.int64(3): 0.5}, [1, (None, Path('a'))]]
)
def test_what_a_checkpoint_could_not_be_read_with_is_refused_when_it_is_saved(tmp_path, value):
    """As an approach of your own may keep it: torch.load would call it unsafe, and the file seem damaged."""
    checkpoint = Checkpoint(results.Output(tmp_path / 'a.txt'), tmp_path)
    kept = {'old': [torch.zeros(2)], 'weights': (1, 0.5, True, 'a', None), 'more': {1j}, 'raw': b'a'}
    kept |= {'size': torch.Size([2]), 'where': torch.device('cpu'), 'type': torch.half, 'counts': Counter('aab')}
    checkpoint.save({'code': 'x'}, {'approach': {'kept': kept}})
    state, code = checkpoint.load({'code': 'x'}, 'cpu')
    assert (str(state), code) == (str({'approach': {'kept': kept}}), 'x')
    with pytest.raises(UserError, match=r'a checkpoint cannot hold approach: kept: scale.*, of the type \w+'):
        checkpoint.save({'code': 'x'}, {'approach': {'kept': kept | {'scale': value}}})


def test_what_is_saved_does_not_depend_on_which_equal_texts_are_one_object():
    """As in a list with a dict for each task, that is partly loaded and then gets another: the names are equal, and one
    object only in a run without a stop. Lists and dicts stay what they were, in one place or in two."""
    one, weights = {'name': 'a task', 'size': (1, 2)}, [torch.ones(2)]
    alone = [one | {'weights': weights}, one | {'weights': weights}]
    other = {''.join(list(key)): value for key, value in alone[1].items()} | {'name': 'a ' + ''.join(list('task'))}
    resumed = [alone[0], other | {'size': tuple([1, 2])}]
    assert bytes(files.serialize(alone)) == bytes(files.serialize(resumed))
    loaded = torch.load(io.BytesIO(files.serialize(alone)), weights_only=True)
    assert loaded[0]['weights'] is loaded[1]['weights'] and str(loaded) == str(alone)
    assert bytes(files.serialize([[1], [1]])) != bytes(files.serialize([[1]] * 2))


@pytest.mark.slow
def test_a_run_that_keeps_a_dict_for_each_task_ends_with_the_same_network(command, tmp_path, monkeypatch):
    def after_task(self, t):
        self.history = [*getattr(self, 'history', []), {'mean': 0.5 * t, 'name': 'a task', 'old': torch.zeros(2)}]
        if t in stops:
            stops.remove(t)
            raise KeyboardInterrupt

    monkeypatch.setattr(Approach, 'after_task', after_task)
    monkeypatch.setattr(Approach, 'history', [], raising=False)
    monkeypatch.setattr(Approach, 'kept', ('history',))
    stops = []
    assert run.cli(command('sgd', 'a.txt', '--save')) == 0
    stops = [1, 2]
    assert [run.cli(command('sgd', 'b.txt', '--save')) for _ in range(3)] == [130, 130, 0]
    assert_equal(tmp_path, 'a', 'b')
    assert (tmp_path / 'a.pt').read_bytes() == (tmp_path / 'b.pt').read_bytes()


def test_a_run_goes_on_when_the_folder_of_its_checkpoint_is_removed(command, tmp_path, monkeypatch):
    assert run.cli(command('sgd', 'a.txt')) == 0
    epoch = Approach.train_epoch

    def train_epoch(self, *args):
        shutil.rmtree(tmp_path / 'deep')
        return epoch(self, *args)

    monkeypatch.setattr(Approach, 'train_epoch', train_epoch)
    monkeypatch.setattr(Checkpoint, 'due', lambda self: True)
    (tmp_path / 'deep').mkdir()
    assert run.cli(command('sgd', 'b.txt', '--tmp', str(tmp_path / 'deep' / 'tmp'))) == 0
    assert_equal(tmp_path, 'a', 'b')


@pytest.mark.slow
@pytest.mark.parametrize('approach', ['sgd', *(pytest.param(name, marks=SLOW) for name in APPROACHES if name != 'sgd')])
def test_a_run_interrupted_again_and_again_ends_as_if_undisturbed(command, tmp_path, monkeypatch, approach):
    """Interrupted after the training of an epoch or an evaluation: before validation, consolidation, tests."""
    assert run.cli(command(approach, 'a.txt', '--save')) == 0
    rng, left = random.Random(approach), [0]

    def limited(method):
        def call(*args):
            result = method(*args)
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return result

        return call

    monkeypatch.setattr(Approach, 'train_epoch', limited(Approach.train_epoch))
    evaluates = APPROACHES[approach] if approach == 'random' else Approach
    monkeypatch.setattr(evaluates, 'evaluate', limited(evaluates.evaluate))
    stops = 0
    while True:
        left[0] = rng.randint(2 if approach != 'joint' else 4, 10)
        code = run.cli(command(approach, 'b.txt', '--save'))
        if code == 0:
            break
        assert code == 130
        stops += 1
        assert stops < 100
    assert stops >= 3 or approach == 'random'
    assert_equal(tmp_path, 'a', 'b')
    assert (tmp_path / 'a.pt').read_bytes() == (tmp_path / 'b.pt').read_bytes()
    assert not left_behind(tmp_path)


@pytest.fixture
def stopped(command, tmp_path, monkeypatch):
    """A run of hat that was interrupted in its second task: its checkpoint."""
    epoch = Approach.train_epoch

    def until(self, t, number, lr):
        if (t, number) == (1, 2):
            raise KeyboardInterrupt
        return epoch(self, t, number, lr)

    monkeypatch.setattr(Approach, 'train_epoch', until)
    assert run.cli(command('hat')) == 130
    monkeypatch.setattr(Approach, 'train_epoch', epoch)
    checkpoint = Checkpoint(results.Output(tmp_path / 'out.txt'))
    assert checkpoint.path.exists()
    yield checkpoint
    checkpoint.remove()


def flip(content):
    return content[:-2000] + bytes([content[-2000] ^ 1]) + content[-1999:]


@pytest.mark.slow
@pytest.mark.parametrize('damage', [flip, lambda c: c[: len(c) // 2], lambda c: b'', lambda c: b'other' * 999])
def test_a_damaged_checkpoint_is_rejected_and_fresh_starts_from_scratch(command, tmp_path, capsys, stopped, damage):
    stopped.path.write_bytes(damage(stopped.path.read_bytes()))
    before = (tmp_path / 'out.txt').read_bytes()
    assert run.cli(command('hat')) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert str(stopped.path) in err and 'damaged' in err and '--fresh' in err
    assert (tmp_path / 'out.txt').read_bytes() == before
    assert run.cli(command('hat', 'out.txt', '--fresh')) == run.cli(command('hat', 'b.txt')) == 0
    assert_equal(tmp_path, 'out', 'b')


def test_a_checkpoint_of_another_run_is_rejected(command, tmp_path, capsys, stopped):
    before = stopped.path.read_bytes()
    assert run.cli(command('hat', 'out.txt', '--lr', '0.1')) == 2
    err = capsys.readouterr().err
    assert str(stopped.path) in err and 'lr is 0.05, not 0.1' in err and '--fresh' in err
    assert stopped.path.read_bytes() == before
    assert run.cli(command('hat')) == 0
    assert not left_behind(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('damaged', [False, True])
def test_a_result_that_was_put_in_the_place_of_a_stopped_run_is_renamed(command, tmp_path, capsys, stopped, damaged):
    """As that of another machine, with other arguments: the run that resumes would else overwrite it."""
    assert run.cli(command('hat', 'other/out.txt', '--nepochs', '1', '--save')) == 0
    others = {path.name: path.read_bytes()[: -9 if damaged else None] for path in (tmp_path / 'other').iterdir()}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    assert run.cli(command('hat')) == 0
    assert 'resuming' in capsys.readouterr().out
    assert {path.name.replace('.old-1', ''): path.read_bytes() for path in tmp_path.glob('*.old-1.*')} == others
    assert run.cli(command('hat', 'a.txt')) == 0
    assert_equal(tmp_path, 'a', 'out')


def test_a_finished_run_has_its_matrix_whoever_removed_it_meanwhile(command, tmp_path, monkeypatch):
    """Else it would not count as finished, and be repeated."""
    report = run.report
    monkeypatch.setattr(run, 'report', lambda *args: (tmp_path / 'out.txt').unlink() or report(*args))
    assert run.cli(command('sgd', 'out.txt', '--nepochs', '1')) == 0
    exact = results.load_record(tmp_path / 'out.json')['accuracy']
    assert results.read_matrix(tmp_path / 'out.txt') == pytest.approx(np.array(exact), abs=1e-4)


def test_nothing_in_a_checkpoint_is_executed(command, capsys, stopped, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f'touch {tmp_path}/executed',)

    torch.save(Hostile(), tmp_path / 'x')
    content = (tmp_path / 'x').read_bytes()
    stopped.path.write_bytes(checkpoints.digest(content) + content)
    assert run.cli(command('hat')) == 2
    assert 'damaged' in capsys.readouterr().err and not (tmp_path / 'executed').exists()


def test_one_process_at_a_time_writes_an_output(command, capsys, stopped):
    with stopped.lock():
        assert run.cli(command('hat')) == 75
    assert 'locked by another process' in capsys.readouterr().err
    assert run.cli(command('hat')) == 0


def test_the_lock_of_a_killed_process_is_released(tmp_path):
    def hold():
        with files.lock(path):
            os.kill(os.getpid(), signal.SIGKILL)

    path = tmp_path / 'x.lock'
    process = multiprocessing.get_context('fork').Process(target=hold)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert path.exists()
    with files.lock(path, 'taken'):
        pass
    assert not path.exists()


def test_a_finished_run_is_not_repeated(command, tmp_path, capsys):
    assert run.cli(command('sgd')) == 0
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()}
    table = capsys.readouterr().out.partition('\n\n')[2]
    assert run.cli(command('sgd')) == 0
    message, _, again = capsys.readouterr().out.partition('\n\n')
    assert message.count('\n') == 0 and '--fresh' in message and again == table
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()} == before
    assert run.cli(command('sgd', 'out.txt', '--fresh')) == 0
    assert_equal(tmp_path, 'out', 'out.old-1')


@pytest.mark.slow
def test_a_full_disk_destroys_no_file(command, tmp_path, monkeypatch, capsys):
    """Each write in turn fails once; then there is space again."""
    assert run.cli(command('sgd', 'a.txt')) == 0
    earlier = (tmp_path / 'a.txt').read_bytes(), (tmp_path / 'a.json').read_bytes()
    fsync, writes = os.fsync, [0]

    def full(descriptor):
        writes[0] += 1
        if writes[0] == allowed + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(files.os, 'fsync', full)
    for allowed in range(100):  # noqa: B007  (full() asks for it)
        writes[0] = 0
        before = {p.name: p.read_bytes() for p in tmp_path.glob('out.*')}
        code = run.cli(command('sgd'))
        if code == 0:
            break
        err = capsys.readouterr().err
        assert code == 2 and err.count('\n') == 1 and 'No space left on device' in err and 'cannot write' in err
        after = {p.name: p.read_bytes() for p in tmp_path.glob('out.*')}
        assert before.keys() <= after.keys() and b'' not in after.values()
        assert ((tmp_path / 'a.txt').read_bytes(), (tmp_path / 'a.json').read_bytes()) == earlier
    assert allowed > 3
    assert_equal(tmp_path, 'a', 'out')
    assert not left_behind(tmp_path)


@pytest.mark.slow
def test_ctrl_c_from_a_shell(command, tmp_path):
    arguments = [
        sys.executable,
        ROOT / 'src' / 'run.py',
        *command('hat', 'out.txt', '--width', '1', '--nepochs', '1000'),
    ]  # it takes minutes, and is interrupted after the first epochs
    heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell ignores in the background
    with subprocess.Popen(arguments, stdout=-1, stderr=-1, text=True, preexec_fn=heeds) as process:
        checkpoint = Checkpoint(results.Output(tmp_path / 'out.txt'))
        while not checkpoint.path.exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == 'run.py: interrupted; repeat the command without --fresh to resume\n'
    assert not checkpoint.path.with_suffix('.lock').exists()
    checkpoint.remove()


def test_data_are_prepared_by_one_process_while_the_others_wait(tmp_path, monkeypatch):
    """The first of three prepares the data only when all three have asked for the lock; the others find them done."""
    fork = multiprocessing.get_context('fork')
    asked, hold = fork.Semaphore(0), files._hold

    def prepare(name, folder):
        with open(folder / 'read', 'a') as file:
            file.write('once ')
        for _ in range(3):
            assert asked.acquire(timeout=60)
        npz.write(folder / 'mnist.npz', dataset(name, 90, 10))
        return []

    def ask_and_hold(*args, **kwargs):
        asked.release()
        hold(*args, **kwargs)

    monkeypatch.setattr(sources, 'prepare', prepare)
    monkeypatch.setattr(files, '_hold', ask_and_hold)
    processes = [fork.Process(target=sources.load, args=(['mnist'], tmp_path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / 'read').read_text() == 'once '
    assert sorted(p.name for p in tmp_path.iterdir()) == ['mnist.npz', 'read']


def test_a_checkpoint_is_due_when_ten_times_as_long_as_the_last_one_took_has_passed(tmp_path, monkeypatch):
    now = iter([0, 0, 100, 102, 121, 122])  # created; due(); save() from .. to; due(); due()
    monkeypatch.setattr(checkpoints, 'time', SimpleNamespace(perf_counter=lambda: next(now)))
    checkpoint = Checkpoint(results.Output(tmp_path / 'out.txt'), tmp_path)
    assert checkpoint.due()
    checkpoint.save({'arguments': {}}, {})
    assert not checkpoint.due()
    assert checkpoint.due()

"""Robustness: other systems, terminals, paths and pipes; arguments out of bounds; a machine without memory or cores."""

import ast
import contextlib
import ctypes
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import left_behind
from test_batch import arguments, children, processes, shell  # noqa: F401  (arguments is a fixture)
from test_speed import marks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import batches
import dataloaders
import run
import run_multi
from approaches import APPROACHES
from approaches.common import steps
from batches import local, progress
from batches.progress import ProgressDisplay
from benchmarks import workers
from core import device, files, results
from core.errors import Busy, UserError, exit_code
from core.files import ROOT
from dataloaders import task
from runs.checkpoints import Checkpoint

SRC = ROOT / 'src'
SCRIPTS = ['run', 'run_multi', 'work', 'plot_results', 'prune', 'predict', 'benchmark', 'example', 'example_lora']
ABSENT = """\
import ctypes, errno, fcntl, multiprocessing, os, signal, sys, types
import torch
sys.path.insert(0, {src!r})

class Windows:
    LK_NBLCK = 2
    def locking(self, descriptor, mode, n):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError from None

def no_library(name):
    raise TypeError

for module, names in (os, 'sched_getaffinity getloadavg uname wait4'), (errno, 'EDQUOT'):
    for name in names.split():
        delattr(module, name)
multiprocessing.get_all_start_methods = lambda: ['spawn']
ctypes.CDLL = no_library
sys.modules |= {{'fcntl': None, 'resource': None, 'msvcrt': Windows()}}
from core.errors import exit_code
import run_multi
import batches
from batches import local
local.signal = types.SimpleNamespace(**{{name: getattr(signal, name) for name in dir(signal) if name != {no!r}}})
if __name__ == '__main__':
    sys.exit(exit_code('run_multi.py', run_multi.main, None))
"""


@pytest.fixture
def one(small_data):
    """Arguments of run.py for a run of seconds."""
    return ['--approach', 'sgd', '--experiment', 'mixture', '--data', str(small_data), '--tasks', 'mnist,cifar10',
            '--width', '0.05', '--ntrain', '60', '--nepochs', '1', '--device', 'cpu']  # fmt: skip


def python(*command, **more):
    """A finished Python process: its exit code and its output, as bytes."""
    environment = os.environ | {'OMP_NUM_THREADS': '1'} | more.pop('env', {})
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, **more)


# Systems


@pytest.mark.slow
def test_a_batch_on_a_system_without_optional_features(arguments, tmp_path):  # noqa: F811
    """No fork server, affinity, load, uname, fcntl, signal masks, quota; every run starts a new interpreter."""
    script = tmp_path / 'absent.py'
    script.write_text(ABSENT.format(src=str(SRC), no='pthread_sigmask'))
    command = arguments('sgd', '0,1', '--tasks', 'mnist')
    done = python(script, *command)
    assert (done.returncode, done.stderr) == (0, b''), done
    assert b'2 runs: 2 finished, 0 failed' in done.stdout
    assert b'2 of 2 runs already finished' in python(script, *command).stdout
    assert not left_behind(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_runs_in_new_interpreters_are_interrupted_too(arguments, tmp_path, number):  # noqa: F811
    script = tmp_path / 'spawn.py'
    script.write_text(ABSENT.format(src=str(SRC), no=''))
    command = arguments('sgd', '0', '--nepochs', '1000', '--batch-size', '2', '--tasks', 'mnist,cifar10')
    process = subprocess.Popen([sys.executable, script, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not set(children(process.pid)) & set(processes('--multiprocessing-fork')):  # it imports
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and b'Traceback' not in output
    assert 'Traceback' not in (tmp_path / 'mixture_sgd_0.log').read_text()
    Checkpoint(results.Output(tmp_path / 'mixture_sgd_0.txt')).remove()


@pytest.mark.slow
def test_a_batch_where_the_folder_for_temporary_files_has_a_long_name(arguments, tmp_path):  # noqa: F811
    folder = tmp_path / ('t' * max(1, 111 - len(str(tmp_path))))
    folder.mkdir()
    done = python(SRC / 'run_multi.py', *arguments('sgd', '0'), env={'TMPDIR': str(folder)})
    assert (done.returncode, done.stderr) == (0, b'')
    assert not list(folder.iterdir())


def test_without_a_folder_for_its_socket_there_is_no_fork_server(monkeypatch):
    monkeypatch.setattr(local, 'MAX_SOCKET_FOLDER', 0)
    assert local.process_context().get_start_method() == 'spawn'


def test_cores_load_and_memory_are_those_that_the_system_reports_or_none(monkeypatch, tmp_path):
    assert device.cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, 'sched_getaffinity')
    assert device.cores() == os.cpu_count()
    monkeypatch.delattr(os, 'getloadavg')
    assert device.crowded(torch.device('cpu')) == '' or torch.get_num_threads() > os.cpu_count()
    for error in OSError, TypeError:
        monkeypatch.setattr(ctypes, 'CDLL', lambda name, error=error: (_ for _ in ()).throw(error()))
        device.keep_freed_memory()
    assert workers.process_peak() > 1e7
    monkeypatch.setattr(workers, 'PROC', tmp_path / 'status')
    assert workers.process_peak() > 1e7
    monkeypatch.setitem(sys.modules, 'resource', None)
    assert workers.process_peak() is None


def test_versions_are_those_of_installed_packages(monkeypatch):
    def absent(name):
        raise device.metadata.PackageNotFoundError(name)

    assert set(device.versions()) == {'python', 'torch', 'numpy', 'torchvision', 'scipy'}
    monkeypatch.setattr(device.metadata, 'version', absent)
    assert set(device.versions()) == {'python', 'torch', 'numpy'}


class Windows:
    """How Windows differs for files.py: an open file is locked as a range of bytes and cannot be removed; a folder
    cannot be opened; only a file that is open for writing can be synced."""

    LK_NBLCK = 2

    def __init__(self, monkeypatch):
        self.fcntl, self.open, self.unlink = files.fcntl, os.open, Path.unlink
        monkeypatch.setattr(files, 'fcntl', None)
        monkeypatch.setattr(files, 'msvcrt', self, raising=False)
        monkeypatch.setattr(os, 'open', self.open_file)
        monkeypatch.setattr(os, 'fsync', self.fsync)
        monkeypatch.setattr(Path, 'unlink', lambda path, missing_ok=False: self.remove(path, missing_ok))

    def locking(self, descriptor, mode, n):
        try:
            self.fcntl.flock(descriptor, self.fcntl.LOCK_EX | self.fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(13, 'Permission denied') from error

    def open_file(self, path, flags, *more, **named):
        if os.path.isdir(path):
            raise PermissionError(13, 'Permission denied', str(path))
        return self.open(path, flags, *more, **named)

    def fsync(self, descriptor):
        assert self.fcntl.fcntl(descriptor, self.fcntl.F_GETFL) & (os.O_RDWR | os.O_WRONLY)

    def remove(self, path, missing_ok):
        for descriptor in Path('/proc/self/fd').iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(descriptor) == str(path):
                    raise InUse(13, 'used by another process')
        self.unlink(path, missing_ok)


class InUse(PermissionError):
    pass


@pytest.mark.parametrize('system', [None, Windows])
def test_files_are_whole_and_locks_hold(system, monkeypatch, tmp_path):
    if system:
        system(monkeypatch)
    with files.atomic(tmp_path / 'a') as part:
        part.write_text('whole')
    assert (tmp_path / 'a').read_text() == 'whole'
    lock = tmp_path / 'b.lock'
    for _ in range(2):
        with files.lock(lock, 'taken'):
            with pytest.raises(Busy, match='taken'), files.lock(lock, 'taken'):
                pass
            assert lock.exists()
    assert [p.name for p in tmp_path.iterdir()] == ['a']


# mps: float32 only


def test_mps_is_used_only_if_asked_for_and_available(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: False)
    with pytest.raises(UserError, match='mps is not available'):
        device.parse_device('mps')
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: True)
    assert device.parse_device('mps') == torch.device('mps')
    assert device.describe(torch.device('mps')).startswith('mps (')
    assert device.parse_device('auto').type in ('cpu', 'cuda')
    assert task.LAYOUT.keys() == task.EVAL_BATCH.keys() == steps.EXACT.keys() == {'cpu', 'cuda', 'mps'}


class NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        assert not [x for x in tree_leaves(out) if isinstance(x, torch.Tensor) and x.dtype == torch.float64], function
        return out


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=marks(name)) for name in APPROACHES if name not in ('joint', 'random')]
)
def test_training_and_testing_do_without_float64(name, make_approach, monkeypatch):
    """As on mps; two of the approaches use it on the CPU. The log is that of float64, within rounding."""
    settings = {'nepochs': 2, 'generations': 2} if name == 'pathnet' else {'nepochs': 2}
    expected = make_approach(name, **settings).learn(0)
    monkeypatch.setitem(steps.EXACT, 'cpu', torch.float32)
    approach = make_approach(name, **settings)
    approach.observe = lambda t: {}  # HAT counts weights, on the CPU
    with NoFloat64():
        log = approach.learn(0)
        approach.learn(1)
        approach.evaluate(0, approach.tasks[0].test)
    for ours, theirs in zip(log, expected, strict=True):
        assert ours['train_loss'] == pytest.approx(theirs['train_loss'], rel=1e-3)


# Terminals


@pytest.mark.parametrize('encoding, expected', [
    ('ascii', b'-> +- rho <= tau \\xe9 \\xff\n'),
    ('cp1252', b'-> \xb1 rho <= tau \xe9 \\xff\n'),
    ('utf-8', '→ ± ρ ≤ τ é \\xff\n'.encode()),
])  # fmt: skip
@pytest.mark.slow
def test_characters_that_a_terminal_lacks_are_substituted(encoding, expected):
    code = ("import sys; from core.errors import exit_code\n"
            "sys.exit(exit_code('x.py', lambda _: print('→ ± ρ ≤ τ é \\udcff'), None))")  # fmt: skip
    done = python('-c', code, cwd=SRC, env={'PYTHONIOENCODING': encoding, 'PYTHONPATH': str(SRC)})
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, b'')


@pytest.mark.slow
def test_paths_that_are_not_utf_8_work_from_end_to_end(small_data, one, tmp_path):
    folder, data = (tmp_path / os.fsdecode(name) for name in (b'res\xff', b'dat\xfe'))
    data.symlink_to(small_data)
    hat = ['hat' if word == 'sgd' else str(data) if word == str(small_data) else word for word in one]
    folder.mkdir()
    done = python(SRC / 'run.py', *hat, '--save', '--output', folder / os.fsdecode(b'a\xff.txt'))
    assert done.returncode == 0, done
    assert b'res\\xff/a\\xff.txt, a\\xff.json' in done.stdout
    done = python(SRC / 'run.py', *hat, '--output', os.fsdecode(b'/dev/null/none\xff/a.txt'))
    assert (done.returncode, done.stderr.count(b'\n')) == (2, 1) and b'none\\xff' in done.stderr
    rest = ['--tasks', 'mnist,cifar10', '--data', data, '--width', '0.05', '--ntrain', '60', '--nepochs', '1', '--save']
    which = ['--experiments', 'mixture', '--approaches', 'hat', '--devices', 'cpu']
    done = python(SRC / 'run_multi.py', *which, '--res', folder, '--', *rest)
    assert (done.returncode, done.stderr) == (0, b''), done
    assert (folder / 'mixture_hat_0.log').read_bytes().startswith(b'$ ')
    done = python(SRC / 'prune.py', folder / 'mixture_hat_0.json', '--rounds', '1')
    assert done.returncode == 0 and (folder / 'mixture_hat_0_pruned' / 'mnist.pt2').exists(), done
    done = python(SRC / 'plot_results.py', '--experiment', 'mixture', '--res', folder, '--output', folder / 'figures',
                  '--html', folder / 'page.html')  # fmt: skip
    assert (done.returncode, done.stderr.count(b'\n')) == (0, 1) and b'res\\xff/page.html' in done.stderr, done
    assert 'dat\\xfe' in (folder / 'page.html').read_text(encoding='utf-8')


@pytest.mark.parametrize('error, text', [(KeyboardInterrupt(), 'interrupted; repeat the command'),
                                         (MemoryError(), 'error: out of memory')])  # fmt: skip
def test_only_a_command_that_trains_advises_to_resume_or_to_train_less(error, text, capsys):
    def main(argv):
        raise error

    for trains in False, True:
        assert exit_code('x.py', main, [], trains) > 0
        shown = capsys.readouterr().err
        assert shown.startswith(f'x.py: {text}') and ('--' in shown) == trains


def test_an_error_and_a_warning_are_one_printable_line(one, capsys):
    assert run.cli([*one, '--output', '/dev/null/a\nb\x1b[31m/c.txt']) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and err[:-1].isprintable() and '/dev/null/a\\nb\\x1b[31m' in err

    def warn(argv):
        warnings.warn('a\nb\x07', stacklevel=1)
        print(warnings.formatwarning(UserWarning('a\nb\x07'), UserWarning, '', 1), end='')

    with pytest.warns(UserWarning):
        exit_code('x.py', warn, None)
    assert capsys.readouterr().out == 'x.py: warning: a b\\x07\n'


# Pipes


@pytest.mark.slow
@pytest.mark.parametrize('script', SCRIPTS)
def test_a_closed_pipe_ends_a_command_quietly(script):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, SRC / f'{script}.py', '--help']
    environment = os.environ | {'PYTHONUNBUFFERED': ''}
    done = subprocess.run(command, env=environment, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b'')


def test_another_broken_pipe_is_an_error(capfd):
    def main(argv):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        exit_code('x.py', main, None)


@pytest.mark.slow
def test_a_closed_pipe_ends_the_runs_of_a_batch(arguments, tmp_path):  # noqa: F811
    """When the end of a short run cannot be printed, the long one is interrupted; it can be resumed."""
    command = arguments('sgd,random', '0,1', '--nepochs', '1000', '--batch-size', '2')
    process = subprocess.Popen([sys.executable, SRC / 'run_multi.py', *command], stdout=-1, stderr=-1)
    assert b'runs at a time: 2, on cpu' in process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b'' and process.wait() == 141
    assert not processes(str(tmp_path))
    assert 'run.py: interrupted' in (tmp_path / 'mixture_sgd_0.log').read_text().splitlines()[-1]
    Checkpoint(results.Output(tmp_path / 'mixture_sgd_0.txt')).remove()


# Arguments

BATCH = ['--experiments', 'demo', '--approaches', 'hat', '--res', '/dev/null/x']
ONE = ['--approach', 'hat', '--experiment', 'demo']
BOUNDS = [
    ('run', [*ONE, '--width', '101'], '--width: 101 is not a number of at most 100'),
    ('run', [*ONE, '--width', 'nan'], '--width: nan is not a number above 0'),
    ('run', [*ONE, '--batch-size', '1000001'], '--batch-size: 1000001 is not a number of at most 1000000'),
    ('run', [*ONE, '--ntasks', '1001'], '--ntasks: 1001 is not a number of at most 1000'),
    ('run', [*ONE, '--nepochs', '9' * 100], f'--nepochs: {"9" * 40}... is not a number of at most 1000000'),
    ('run', [*ONE, '--nepochs', '9' * 5000], 'is not a whole number'),
    ('run', [*ONE, '--threads', '1025'], '--threads: 1025 is not a number of at most 1024'),
    ('run', [*ONE, '--tasks', ''], "--tasks: '': empty name"),
    ('run', [*ONE, '--tasks', 'digits,'], "--tasks: 'digits,': empty name"),
    ('run_multi', [*BATCH, '--seeds', '0-4294967295'], '--seeds: 0-4294967295 are more than 1000 seeds'),
    ('run_multi', [*BATCH, '--seeds', '0-999,5,1000'], '--seeds: 0-999,5,1000 are more than 1000 seeds'),
    ('run_multi', [*BATCH, '--nruns', '1001'], '--nruns: 1001 is not a number of at most 1000'),
    ('run_multi', [*BATCH, '--nruns', '1e20'], "--nruns: '1e20' is not a whole number"),
    ('run_multi', [*BATCH, '--nproc', '1025'], '--nproc: 1025 is not a number of at most 1024'),
    ('plot_results', ['--experiment', 'demo', '--seeds', '0-1000'], '0-1000 are more than 1000 seeds'),
    ('benchmark', ['--rounds', '1001'], '--rounds: 1001 is not a number of at most 1000'),
    ('benchmark', ['scaling', '--processes', '1,2000'], '--processes: 2000 is not a number of at most 1024'),
    ('benchmark', ['zoo', '--size', '1001'], '--size: 1001 is not a number of at most 1000'),
    ('prune', ['x.json', '--tasks', ''], "--tasks: '': empty name"),
]


@pytest.mark.parametrize('script, argv, message', BOUNDS, ids=[f'{s} {a[-2]} {a[-1][:12]}' for s, a, _ in BOUNDS])
def test_an_argument_out_of_bounds_is_one_line(script, argv, message, capsys):
    assert exit_code(f'{script}.py', importlib.import_module(script).main, argv) == 2
    out, err = capsys.readouterr()
    assert (out, err.count('\n')) == ('', 1) and message in err and len(err) < 200


@pytest.mark.parametrize('script', SCRIPTS)
def test_help_is_all_that_help_does_and_an_unknown_argument_is_one_line(script, capsys, monkeypatch):
    main = importlib.import_module(script).main
    monkeypatch.setattr(dataloaders, 'load', None)
    with pytest.raises(SystemExit, match='^0$'):
        exit_code(f'{script}.py', main, ['--help'])
    assert capsys.readouterr().out.startswith('usage: ')
    needed = {'run': ONE, 'run_multi': BATCH, 'work': ONE, 'plot_results': ONE[2:], 'prune': ['x.json']}
    needed['predict'] = ['x.json', 'x.png']
    assert exit_code(f'{script}.py', main, [*needed.get(script, []), '--speed=9']) == 2
    out, err = capsys.readouterr()
    assert out == '' and err == f'{script}.py: error: unrecognized arguments: --speed=9 (--help lists all arguments)\n'


@pytest.mark.slow
def test_the_shell_script_has_help_and_one_line_errors(tmp_path):
    def call(*words):
        environment = os.environ | {'PYTHON': sys.executable}
        return subprocess.run([SRC / 'run_compression.sh', *words], env=environment, capture_output=True, text=True)

    for words in ['--help'], ['cpu', '1.5', '400', tmp_path / 'out', '-h']:
        done = call(*words)
        assert (done.returncode, done.stderr) == (0, '') and 'DEVICE C SMAX OUT' in done.stdout
    complete = ['cpu', '1', '9', tmp_path / 'out']
    others = ['--res', 'other'], ['--seeds=3'], ['--', '--ntasks', '3']  # tables would be of other runs
    for more in ['--speed', '9'], *others:
        done = call(*complete, *more)
        assert (done.returncode, done.stdout, done.stderr.count('\n')) == (2, '', 1) and 'error: ' in done.stderr
    for words in [], ['cpu', '1.5'], ['--speed', '9', 'x', 'y']:
        done = call(*words)
        assert (done.returncode, done.stdout, done.stderr.count('\n')) == (2, '', 1)
    assert call(*complete, '--dry-run', '--fresh').returncode == 0
    assert not (tmp_path / 'out').exists()


NO_MEMORY = {
    'PyTorch': lambda: torch.empty(2**50),
    'numpy': lambda: np.empty(2**50),
    'Python': lambda: bytearray(2**60),
    'CUDA': lambda: (_ for _ in ()).throw(torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')),
    'Windows': lambda: (_ for _ in ()).throw(RuntimeError('DefaultCPUAllocator: not enough memory: you tried to ...')),
}


@pytest.mark.parametrize('who', NO_MEMORY)
def test_out_of_memory_is_one_line_with_advice(who, one, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, 'build', lambda *args: next(NO_MEMORY[who]()) if who in ('CUDA', '') else NO_MEMORY[who]())
    assert run.cli([*one, '--output', str(tmp_path / 'a.txt')]) == 1
    err = capsys.readouterr().err
    assert err.startswith('run.py: error: out of memory; ') and '--batch-size' in err and err.count('\n') == 1


def test_any_other_error_keeps_its_traceback():
    with pytest.raises(RuntimeError, match='shape'):
        exit_code('x.py', lambda argv: torch.ones(2).view(3), None)


MISSING = {
    'tensorboard': ('run', [*ONE, '--tensorboard'], '--tensorboard needs TensorBoard: pip install tensorboard'),
    'ray': ('run_multi', [*BATCH, '--engine', 'ray'], '--engine ray needs Ray: pip install ray'),
    'onnxscript': ('prune', ['x.json', '--onnx'], '--onnx needs ONNX: pip install onnx onnxscript'),
    'timm': ('benchmark', ['zoo'], 'efficientnet_b0 needs timm: pip install timm'),
    'torchvision': ('example', [], 'example.py needs torchvision: pip install torchvision'),
    'peft': ('example_lora', ['--peft'], '--peft needs PEFT: pip install peft'),
}


@pytest.mark.parametrize('package', MISSING)
def test_a_missing_package_is_reported_before_anything_is_loaded(package, monkeypatch, capsys):
    def load(*args):
        raise AssertionError

    script, argv, message = MISSING[package]
    main = importlib.import_module(script).main
    monkeypatch.setattr(dataloaders, 'load', load)
    monkeypatch.setitem(sys.modules, package, None)
    assert exit_code(f'{script}.py', main, argv) == 2
    assert capsys.readouterr() == ('', f'{script}.py: error: {message}\n')


# Batches


@pytest.mark.slow
def test_the_folder_of_the_results_is_made_but_not_for_a_dry_run(arguments, tmp_path):  # noqa: F811
    command = arguments('random', '0')
    command[command.index('--res') + 1] = str(tmp_path / 'new' / 'res')
    assert exit_code('run_multi.py', run_multi.main, ['--dry-run', *command]) == 0
    assert not list(tmp_path.iterdir())
    assert exit_code('run_multi.py', run_multi.main, command) == 0
    assert (tmp_path / 'new' / 'res' / 'mixture_random_0.json').exists()


@pytest.mark.slow
def test_a_batch_says_which_results_its_runs_replace(arguments, tmp_path, capsys):  # noqa: F811
    for lr, said in ('0.1', False), ('0.2', True), ('0.2', False):
        assert exit_code('run_multi.py', run_multi.main, arguments('random', '0,1', '--lr', lr)) == 0
        found = re.findall('will be renamed to .old-1, ..., and computed anew: (.*)', capsys.readouterr().out)
        assert found == ['mixture_random_0 and 1 more'] * said
    assert len(list(tmp_path.glob('*.old-1.json'))) == 2


@pytest.mark.slow
def test_fresh_repeats_all_runs_and_a_killed_one_resumes(arguments, tmp_path):  # noqa: F811
    command = arguments('sgd', '0', '--nepochs', '15', '--batch-size', '2')
    assert exit_code('run_multi.py', run_multi.main, command) == 0
    first = (tmp_path / 'mixture_sgd_0.json').read_text()
    (tmp_path / 'mixture_sgd_0.log').unlink()
    process = shell(['--fresh', *command])
    while not Checkpoint(results.Output(tmp_path / 'mixture_sgd_0.txt')).path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    for server in children(process.pid):
        for pid in children(server):
            os.kill(pid, signal.SIGKILL)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    log = (tmp_path / 'mixture_sgd_0.log').read_text()
    assert log.count('.checkpoint') == 1 and '--fresh' not in log.split('\n')[0]
    assert (tmp_path / 'mixture_sgd_0.old-1.json').read_text() == first
    second = json.loads((tmp_path / 'mixture_sgd_0.json').read_text())
    assert second['accuracy'] == json.loads(first)['accuracy'] and second['times'] != json.loads(first)['times']
    assert exit_code('run_multi.py', run_multi.main, command) == 0
    assert len(list(tmp_path.glob('*.json'))) == 2


def test_runs_of_another_batch_are_counted_without_a_time(capsys, monkeypatch):
    clock = iter([10, 12.5])  # start and end of b
    monkeypatch.setattr(progress, 'time', types.SimpleNamespace(monotonic=lambda: next(clock)))
    display, r = ProgressDisplay(2, 0), types.SimpleNamespace(name='a', log=Path('a.log'))
    display.finish(r, 0)
    r.name = 'b'
    display.start(r)
    display.finish(r, 0)
    out = capsys.readouterr().out.splitlines()
    assert out == ['1/2 a finished by another batch', '2/2 b finished, 2.5 s']


@pytest.mark.slow
def test_a_run_has_the_threads_it_is_given(one, arguments, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    before = torch.get_num_threads()
    try:
        assert run.cli([*one, '--output', str(tmp_path / 'a.txt'), '--threads', '3']) == 0
        assert torch.get_num_threads() == 3
        monkeypatch.setenv('OMP_NUM_THREADS', '1')
        assert run.cli([*one, '--output', str(tmp_path / 'a.txt'), '--threads', '2']) == 0  # the same run: finished
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    record = results.read_record(tmp_path / 'a.json')
    assert record['devices'][0].endswith(' 3 threads)') and 'threads' not in record['arguments']
    assert run.parse([*ONE]).threads == 1 and run.parse([*one]).threads is None

    monkeypatch.delenv('OMP_NUM_THREADS')
    monkeypatch.setattr(batches, 'cores', lambda: 8)
    capsys.readouterr()
    assert exit_code('run_multi.py', run_multi.main, arguments('random', '0')) == 0
    assert capsys.readouterr().out.startswith('runs at a time: 2, on cpu; CPU threads of each: 4\n')
    assert ' --threads 4 --device cpu\n' in (tmp_path / 'mixture_random_0.log').read_text()
    assert exit_code('run_multi.py', run_multi.main, [*arguments('random', '1'), '--threads', '3']) == 0
    assert ' --threads 3 --device cpu\n' in (tmp_path / 'mixture_random_1.log').read_text()


def test_a_busy_machine_is_reported(monkeypatch, one, tmp_path, capsys):
    monkeypatch.setattr(device, 'cores', lambda: 4)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    cpu = torch.device('cpu')
    for load, busy in (0.3, False), (2.4, False), (2.6, True):
        monkeypatch.setattr(os, 'getloadavg', lambda load=load: (load, 0, 0), raising=False)
        assert bool(device.crowded(cpu)) == busy
    assert run.cli([*one, '--output', str(tmp_path / 'a.txt')]) == 0
    line = 'the machine is busy: load 2.6 on 4 cores; threads of this run: 2 (--threads 1 may be faster)'
    assert line in capsys.readouterr().out.splitlines()
    assert device.crowded(torch.device('cuda')) == ''


# The source


def test_every_text_file_is_opened_with_an_encoding():
    wrong = []
    for path in [p for p in SRC.rglob('*.py') if 'tests' not in p.parts]:
        for call in (node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, 'id', '')
            named = {keyword.arg for keyword in call.keywords}
            binary = any(isinstance(a, ast.Constant) and 'b' in str(a.value) for a in call.args[1:])
            opens = name == 'open' and isinstance(call.func, ast.Name) and not binary
            paths = isinstance(call.func, ast.Attribute) and name in ('read_text', 'write_text')
            if (opens or paths) and 'encoding' not in named:
                wrong.append(f'{path}:{call.lineno}')
    assert not wrong

"""Batches of runs: run_multi.py, work.py, run_compression.sh and the Ray engine, killed, run twice and failing."""

import contextlib
import itertools
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import assert_equal, left_behind, record, without

import batches
import run
import run_multi
import work
from approaches import APPROACHES
from batches import progress, ray_cluster
from core import results
from core.errors import UserError, exit_code
from core.files import ROOT
from dataloaders import EXPERIMENTS, mixture, task
from runs.checkpoints import Checkpoint

KILLS = 24


@pytest.fixture
def arguments(small_data, tmp_path):
    """arguments('hat,ewc', '0,1', ...): of run_multi.py, two small runs at a time; more arguments of run.py."""

    def arguments(approaches, seeds, *more):
        usual = ['--tasks', 'mnist,cifar10', '--data', str(small_data), '--width', '0.05', '--ntrain', '60',
                 '--nepochs', '1']  # fmt: skip
        return ['--experiments', 'mixture', '--approaches', approaches, '--seeds', seeds, '--res', str(tmp_path),
                '--devices', 'cpu', '--nproc', '2', '--', *without(usual, more), *more]  # fmt: skip

    return arguments


def shell(arguments, **kwargs):
    command = [sys.executable, str(ROOT / 'src' / 'run_multi.py'), *arguments]
    environment = os.environ | {'OMP_NUM_THREADS': '1'}
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
    return subprocess.Popen(command, env=environment, **pipes, **kwargs)


def compare_with_undisturbed(arguments, folder):
    """Do the same runs one after the other in this process, and compare the files."""
    folder.mkdir()
    options, rest = batches.split_arguments(arguments)
    options = run_multi.parse([*options, '--res', str(folder)])
    for r in run_multi.create_runs(options, rest):
        assert run.cli([*r.argv, '--device', 'cpu']) == 0
        assert_equal(folder.parent, r.name, f'{folder.name}/{r.name}')
    assert not left_behind(folder.parent)


def test_runs_get_places_that_do_not_depend_on_where_a_worker_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'weights.pt').write_bytes(b'')
    more = ['--', '--data', 'data', '--network', 'resnet18', '--pretrained', 'weights.pt']
    options, rest = batches.split_arguments(['--experiments', 'cifar', '--approaches', 'sgd', *more])
    (one,) = run_multi.create_runs(run_multi.parse(options), rest)
    assert one.argv[-4:] == ['--data', str(tmp_path / 'data'), '--pretrained', str(tmp_path / 'weights.pt')]


@pytest.mark.slow
def test_a_batch_killed_at_random_moments_ends_as_if_undisturbed(arguments, tmp_path):
    """SIGKILL, at seeded random moments, to one of the runs, or to all processes of the batch at once (every sixth)."""
    rng, kills, process, starts = random.Random(0), 0, None, 0
    seeds, long = 2, ('--tasks', ','.join(mixture.NAMES[:5]), '--nepochs', '25')
    command = arguments('hat,ewc', f'0-{seeds - 1}', *long)
    while kills < KILLS:
        if process is None or process.poll() is not None:
            if process is not None and process.returncode == 0:  # on a fast machine more runs are needed
                seeds += 1
                command = arguments('hat,ewc', f'0-{seeds - 1}', *long)
            assert process is None or process.returncode in (0, 1), process.communicate()
            process, starts = shell(command, start_new_session=True), starts + 1
        size = size_of_logs(tmp_path)
        while size_of_logs(tmp_path) < size + 200 and process.poll() is None and (kills % 6 or rng.random() > 0.005):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        if kills % 6 == 0:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            process = None
        elif runs := [run for child in children(process.pid) for run in children(child)]:  # of the fork server
            os.kill(rng.choice(runs), signal.SIGKILL)
        else:
            continue
        kills += 1
    while process is None or process.wait() == 1:
        process, starts = shell(command), starts + 1
        assert starts < KILLS
    assert process.returncode == 0, process.communicate()
    compare_with_undisturbed(command, tmp_path / 'whole')
    assert sum(map(has_resumed, tmp_path.glob('*.log'))) >= 2


def has_resumed(log):
    """A resumed run prints the path of its checkpoint, and nothing else does."""
    return '.checkpoint' in log.read_text()


def size_of_logs(folder):
    return sum(path.stat().st_size for path in folder.glob('*.log'))


def children(pid):
    try:
        return [int(child) for child in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]
    except FileNotFoundError:  # it has just ended
        return []


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_batch_that_is_interrupted_interrupts_its_runs(arguments, tmp_path, number):
    """Only run_multi.py gets the signal; the same command resumes."""
    command = arguments('sgd', '0', '--nepochs', '10', '--batch-size', '2', '--tasks', 'mnist,cifar10,svhn,notmnist')
    process = shell(command)
    while not Checkpoint(results.Output(tmp_path / 'mixture_sgd_0.txt')).path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    output = process.communicate()[0]
    assert process.returncode == 130 and 'run_multi.py: interrupted' in output and 'Traceback' not in output, output
    assert 'run.py: interrupted' in (tmp_path / 'mixture_sgd_0.log').read_text().splitlines()[-1]
    assert not processes(str(tmp_path / 'mixture_sgd_0.txt'))
    assert exit_code('run_multi.py', run_multi.main, command) == 0
    compare_with_undisturbed(command, tmp_path / 'whole')


@pytest.mark.slow
def test_two_batches_at_once_do_each_run_once(arguments, tmp_path):
    both = [shell(arguments('hat,sgd', '0,1', '--nepochs', '20')) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert all('4 runs: 4 finished, 0 failed' in output for output in outputs)
    for approach in 'hat', 'sgd':
        for seed in 0, 1:
            log = (tmp_path / f'mixture_{approach}_{seed}.log').read_text()
            assert len(re.findall(rf'^{approach} on mixture, seed {seed}\b', log, re.M)) == 1
    assert len(list(tmp_path.iterdir())) == 4 * 3 and not left_behind(tmp_path)


@pytest.mark.slow
def test_a_failed_run_does_not_stop_the_others_and_is_named(arguments, tmp_path, capsys, monkeypatch):
    """One run has a damaged checkpoint. The runs share the cores; a second try does the failed one."""
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    checkpoint = Checkpoint(results.Output(tmp_path / 'mixture_sgd_1.txt'))
    checkpoint.path.write_bytes(b'damaged')
    assert exit_code('run_multi.py', run_multi.main, arguments('sgd', '0-2')) == 1
    out = capsys.readouterr().out
    assert '3 runs: 2 finished, 1 failed' in out
    assert f'mixture_sgd_1: exit code 2: run.py: error: {checkpoint.path}: damaged' in out
    assert f'(see {tmp_path}/mixture_sgd_1.log)' in out
    assert 'mixture_sgd_1 FAILED' in out and 'mixture_sgd_2 finished' in out
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert record(tmp_path / 'mixture_sgd_0.json')['devices'][0].endswith(f' {threads} threads)')
    checkpoint.remove()
    before = (tmp_path / 'mixture_sgd_0.json').stat().st_mtime_ns
    assert exit_code('run_multi.py', run_multi.main, arguments('sgd', '0-2')) == 0
    assert '2 of 3 runs already finished' in capsys.readouterr().out
    assert (tmp_path / 'mixture_sgd_0.json').stat().st_mtime_ns == before


def test_dry_run_prints_the_commands_of_runs_that_are_not_finished(arguments, tmp_path, capsys):
    assert exit_code('run_multi.py', run_multi.main, ['--dry-run', *arguments('progressive,random', '3,5-6')]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and not list(tmp_path.iterdir())
    _, script, *argv = lines[0].split()
    assert script == str(ROOT / 'src' / 'run.py')
    args = run.parse(argv)
    assert (args.approach, args.seed, args.output.name, args.nepochs) == ('pnn', 3, 'mixture_pnn_3.txt', 1)


def test_all_experiments_are_all_but_that_of_own_tasks(capsys):
    argv = ['--dry-run', '--experiments', 'all', '--approaches', 'random', '--devices', 'cpu', '--fresh']
    assert run_multi.main(argv) == 0
    commands = capsys.readouterr().out
    found = [name for name in EXPERIMENTS if f'--experiment {name} ' in commands]
    assert found == ['mixture', 'cifar', 'pmnist', 'mnist2', 'demo']


def test_the_process_that_starts_the_runs_does_not_touch_cuda(tmp_path, arguments, capsys, monkeypatch):
    """It only parses --devices: no CUDA context, no setting of PyTorch."""

    def refuse(*args):
        raise AssertionError

    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    for name in 'init', '_lazy_init', 'set_device', 'get_device_name':
        monkeypatch.setattr(torch.cuda, name, refuse)
    monkeypatch.setattr(torch, 'set_deterministic_debug_mode', refuse)
    assert batches.parse_devices('auto') == batches.parse_devices('cuda,cuda:1') == ['cuda:0', 'cuda:1']
    command = ['--dry-run', '--devices', 'cuda:1', '--experiments', 'mixture', '--approaches', 'sgd', '--seeds', '0,1',
               '--res', str(tmp_path)]  # fmt: skip
    assert exit_code('run_multi.py', run_multi.main, command) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2 and all(line.endswith(' --device cuda:1') for line in shown)
    with pytest.raises(UserError, match='cuda:2 is not available: 2 CUDA devices found'):
        batches.parse_devices('cuda:0,cuda:2')


BAD = {
    'approach': (['--approaches', 'hat,magic'], "'magic' is none of hat, sgd"),
    'experiment': (['--experiments', 'magic'], "'magic' is none of mixture"),
    'seeds': (['--seeds', '0-x'], "--seeds: '0-x' is not like 0-9"),
    'folder': (['--res', '/dev/null/none'], 'cannot write in /dev/null/none'),
    'device': (['--devices', 'cuda:99'], 'cuda:99 is not available'),
    'parameter': (['--parameter', 'c=-1'], 'c must be a number from 0 to 1e+30'),
    'parameters of which one has a name': (
        ['--approaches', 'hat,ewc,packnet', '--parameter', 'lamb=1,5'],
        '5 would set smax of hat, and share of packnet; write name=value',
    ),
    'parameter without a name': (
        ['--approaches', 'hat,ewc,adahat', '--parameter', '0.5'],
        '0.5 would set c of adahat, and lamb of ewc; write name=value',
    ),
    'parameter of one of them': (
        ['--approaches', 'hat,ewc,sgd', '--parameter', 'c=1'],
        "ewc: --parameter: unknown: 'c'; it takes lamb",
    ),
    'address': (['--address', 'host:6379'], '--address: --engine local does not take it; add --engine ray'),
    'reserved': (['--', '--seed', '3'], '--seed is not allowed after --'),
    'for a run': (['--', '--lr', 'fast'], "'fast' is not a number"),
}


@pytest.mark.parametrize('more, message', BAD.values(), ids=BAD.keys())
def test_bad_input_of_a_batch_is_one_line_and_no_run_is_started(tmp_path, capsys, more, message):
    usual = ['--experiments', 'mixture', '--approaches', 'hat', '--devices', 'cpu', '--res', str(tmp_path)]
    assert exit_code('run_multi.py', run_multi.main, [*without(usual, more), *more]) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1 and message in err and err.startswith('run_multi.py: error: ')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('text, device', [('cpu', 'cpu'), ('cuda:0,cuda:1', 'cuda'), ('gpu', None), ('cpu,cuda', None)])
def test_a_device_that_a_cluster_does_not_have_is_not_taken_for_the_cpu(text, device, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(batches, 'require', lambda *_: None)
    command = ['--experiments', 'demo', '--approaches', 'hat', '--engine', 'ray', '--devices', text, '--dry-run',
               '--res', str(tmp_path)]  # fmt: skip
    assert exit_code('run_multi.py', run_multi.main, command) == (0 if device else 2)
    out, err = capsys.readouterr()
    assert out.endswith(f' --device {device}\n') if device else f'--devices: {text!r} is none of auto, cpu, cuda' in err


def test_work_runs_the_declared_grid_and_chooses_by_validation(tmp_path, capsys, monkeypatch):
    """With invented runs: the best by test accuracy is not the best by validation accuracy."""

    def write_results(runs, args):
        for r in runs:
            lamb, T = r.identity.arguments['parameter'].values()
            r.output.save_matrix(np.eye(2))
            valid = [[0.9, 0], [0.5 if (lamb, T) == (4, 2) else 0.4, 0.3]]
            record = {
                'arguments': r.identity.arguments,
                'accuracy': [[0, 0], [lamb / 10, T / 10]],
                'times': {'total': 1},
            }
            r.output.save_record(record | {'tasks': [{'name': 'mnist'}, {'name': 'svhn'}], 'valid_accuracy': valid})
        return 0

    monkeypatch.setattr(batches, 'execute', write_results)
    command = ['--approach', 'lwf', '--experiment', 'mixture', '--res', str(tmp_path)]
    assert exit_code('work.py', work.main, command) == 0
    grids = [APPROACHES['lwf'].parameters[name].grid for name in ('lamb', 'T')]
    expected = {f'mixture_lwf_0_lamb={lamb:g}_T={T:g}.txt' for lamb, T in itertools.product(*grids)}
    assert {p.name for p in tmp_path.glob('*.txt')} == expected and len(expected) == 28
    out = capsys.readouterr().out
    assert '  40.00 %  lamb=4,T=2\nbest: --parameter lamb=4,T=2; for the tables:\npython' in out
    place = shlex.split(out.splitlines()[-1])[-2:]
    assert place[0] == '--output' and (ROOT / place[1]).resolve() == (tmp_path / 'mixture_lwf_0.txt').resolve()


@pytest.mark.slow
def test_work_varies_the_chosen_hyper_parameter(arguments, tmp_path, capsys):
    rest = batches.split_arguments(arguments('', ''))[1]
    command = ['--approach', 'lwf', '--experiment', 'mixture', '--res', str(tmp_path), '--devices', 'cpu']
    assert exit_code('work.py', work.main, [*command, '--vary', 'magic']) == 2
    assert "--vary: 'magic' is none of lamb, T" in capsys.readouterr().err
    assert exit_code('work.py', work.main, [*command, '--vary', 'T', '--nproc', '2', '--', *rest]) == 0
    assert {p.name for p in tmp_path.glob('*.txt')} == {f'mixture_lwf_0_T={T}.txt' for T in ('0.5', '1', '2', '4')}
    best = r'\nbest: --parameter lamb=2,T=[0-9.]+; for the tables:\npython src/run.py .*lamb=2,T=.*\n$'
    assert re.search(best, capsys.readouterr().out)


@pytest.mark.slow
def test_the_compression_experiment_learns_each_of_the_eight_sets_alone(tmp_path):
    script, options = ROOT / 'src' / 'run_compression.sh', ['--dry-run', '--', '--width', '0.1']
    command = [script, 'cpu', '1.5', '400', tmp_path / 'out', *options]
    environment = os.environ | {'PYTHON': sys.executable}
    lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    first = {'hat': [], 'sgd': []}
    for args in (run.parse(line.split()[2:]) for line in lines):
        assert args.approach == 'sgd' or args.save
        parameter = {'c': 1.5, 'smax': 400, 'hard': 1, 'init': 'uniform'} if args.approach == 'hat' else {}
        assert parameter.items() <= args.parameter.items()
        assert (args.ntasks, args.width, args.output.parent) == (1, 0.1, tmp_path / 'out')
        first[args.approach] += task.choose(mixture.NAMES, args.seed, args.tasks, args.ntasks)
    assert sorted(first['hat']) == sorted(first['sgd']) == sorted(mixture.NAMES)


@pytest.mark.slow
def test_the_compression_experiment_ends_with_its_table(small_data, tmp_path):
    script, rest = ROOT / 'src' / 'run_compression.sh', ['--width', '0.05', '--nepochs', '1', '--data', small_data]
    environment = os.environ | {'PYTHON': sys.executable}
    done = subprocess.run([script, 'cpu', '1.5', '400', tmp_path, '--', *rest], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.decode().splitlines()[-8:]]
    assert sorted(row[1].rstrip('!') for row in rows) == sorted(mixture.NAMES)  # one epoch teaches little
    assert {p.name for p in (tmp_path / 'figures').iterdir()} >= {'fig7.png', 'pruned.md'}


@pytest.mark.parametrize(('code', 'drawn'), [(0, True), (2, True), (130, False)])
def test_a_network_that_cannot_be_pruned_does_not_take_the_tables_of_the_others(tmp_path, code, drawn):
    """But Ctrl-C does. The Python here prints what it is called with."""
    python = tmp_path / 'python'
    python.write_text(
        f'#!/bin/sh\necho "$@"\necho "$@" >> {tmp_path}/calls\ncase $1 in *prune.py) exit {code};; esac\n'
    )
    python.chmod(0o755)
    command = [ROOT / 'src' / 'run_compression.sh', 'cpu', '1.5', '400', tmp_path]
    assert subprocess.run(command, env=os.environ | {'PYTHON': str(python)}, capture_output=True).returncode == code
    *_, last = (tmp_path / 'calls').read_text().splitlines()
    assert ('plot_results.py' in last) == drawn


def test_embeddings_for_compression_lie_between_0_and_2(make_approach):
    for init, low, high in ('normal', -6, 6), ('uniform', 0, 2), ('dense', 1, 1):
        approach = make_approach('hat', init=init, width=0.5)
        e = np.concatenate([e.detach().numpy() for e in approach.hidden.tasks[0].embeddings])
        assert low <= e.min() and e.max() <= high and e.mean() == pytest.approx((low + high) / 2, abs=0.1)


@pytest.fixture
def two_nodes():
    """A Ray cluster on this machine: its address, and the process numbers of the two raylets, the head's first."""
    pytest.importorskip('ray', reason='ray is not installed')
    start = [sys.executable, '-m', 'ray.scripts.scripts', 'start', '--disable-usage-stats', '--object-store-memory',
             '100000000']  # fmt: skip
    with tempfile.TemporaryDirectory(prefix='ray', dir='/tmp') as folder:  # a short path, for sockets
        head = ['--head', '--num-cpus', '2', '--port', '0', '--include-dashboard', 'false', '--temp-dir', folder]
        raylets, agents = [], []
        try:
            output = subprocess.run([*start, *head], check=True, capture_output=True, text=True).stdout
            address = re.search(r"--address='([\d.]+:\d+)'", output)[1]  # with the free port that Ray has chosen
            raylets += processes('raylet/raylet', folder)
            subprocess.run([*start, '--num-cpus', '1', '--address', address], check=True, capture_output=True)
            raylets += [pid for pid in processes('raylet/raylet', folder) if pid not in raylets]
            assert len(raylets) == 2
            agents = [pid for raylet in raylets for pid in children(raylet)]  # their command lines have no folder
            yield address, raylets
        finally:
            for pid in {*agents, *processes(folder)}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def has_run(raylet):
    """Is a run running on this node?"""
    return bool(set(children(raylet)) & set(processes(f'ray::{ray_cluster.run_on_node.__name__}')))


def processes(*words):
    """The numbers of the processes whose command line has these words."""
    numbers = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        with contextlib.suppress(OSError):  # it has just ended
            if all(word in path.read_text(errors='replace') for word in words):
                numbers.append(int(path.parent.name))
    return numbers


@pytest.mark.slow
def test_a_ray_cluster_that_loses_a_node_returns_all_results(arguments, tmp_path, two_nodes):
    address, (first, second) = two_nodes
    command = arguments('hat,sgd,ewc', '0,1', '--nepochs', '15', '--batch-size', '2')  # so that they take a while
    process = shell(['--engine', 'ray', '--address', address, *command])
    while not (has_run(first) and has_run(second)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(second, signal.SIGKILL)
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output
    assert '6 runs: 6 finished, 0 failed' in output
    compare_with_undisturbed(command, tmp_path / 'whole')


@pytest.mark.slow
@pytest.mark.parametrize('together', [True, False])
def test_an_interrupted_run_is_no_failure(arguments, tmp_path, together):
    """Ctrl-C in a terminal reaches the batch and its run, which may end first. A run alone is started again."""
    command = arguments('sgd', '0', '--nepochs', '15', '--batch-size', '2')
    process = shell(command, start_new_session=True)
    while not Checkpoint(results.Output(tmp_path / 'mixture_sgd_0.txt')).path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    (run_itself,) = [p for server in children(process.pid) for p in children(server)]
    os.kill(run_itself, signal.SIGINT)
    if together:
        os.kill(process.pid, signal.SIGINT)
    output = process.communicate()[0]
    assert process.returncode == (130 if together else 0), output
    assert f'1 runs: {0 if together else 1} finished, 0 failed' in output


def test_a_long_last_line_of_a_log_is_shown_from_its_start(tmp_path):
    """As that of a run without its data, which names each archive."""
    (tmp_path / 'log').write_text(f'first\nrun.py: error: {"x" * 3000}\n')
    assert progress.last_line(tmp_path / 'log').startswith('run.py: error: x')


def test_a_failed_run_with_an_empty_log_says_so(tmp_path, capsys):
    """On a full disk nothing can be written to it."""
    (tmp_path / 'log').touch()
    display = progress.ProgressDisplay(1, 0)
    display.finish(SimpleNamespace(name='demo_sgd_0', log=tmp_path / 'log'), 1)
    display.close()
    assert 'demo_sgd_0: exit code 1: no message: is the disk full? (see' in capsys.readouterr().out

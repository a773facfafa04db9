"""run.py as a user meets it: files, screen, bad input."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import pictures, record, without
from invented import Runs

import run
from core import results
from core.files import ROOT
from dataloaders import mixture, npz

SMALL = ['--tasks', 'mnist,cifar10,svhn', '--width', '0.05', '--nepochs', '2', '--ntrain', '120', '--device', 'cpu']

PAPER = {'c': 0.75, 'smax': 400, 'hard': 0, 'init': 'normal', 'low': 0, 'high': 2, 'anneal': 'linear', 'reg': 'network',
         'gradient': 'released'}  # fmt: skip


@pytest.fixture
def start(small_data, tmp_path):
    """start('hat', ...): run it in the small setting; the two files it wrote."""

    def start(approach, *more, name='out.txt'):
        out = tmp_path / name
        arguments = ['--approach', approach, '--experiment', 'mixture', '--data', str(small_data)]
        assert run.cli([*arguments, '--output', str(out), *SMALL, *more]) == 0
        return out, out.with_suffix('.json')

    return start


@pytest.mark.slow
@pytest.mark.parametrize('approach', ['hat', 'sgd'])
def test_two_runs_with_one_seed_are_identical_bit_for_bit(start, approach):
    first, second = (start(approach, '--seed', '5', name=name) for name in ('a.txt', 'b.txt'))
    assert first[0].read_bytes() == second[0].read_bytes()
    assert record(first[1]) == record(second[1])
    assert start(approach, '--seed', '6', name='c.txt')[0].read_bytes() != first[0].read_bytes()


def test_the_matrix_and_the_record_say_what_was_done(start, small_data, capsys):
    txt, record = start('hat', '--parameter', '0.5,smax=200', '--verbose')
    accuracy = np.loadtxt(txt)
    assert accuracy.shape == (3, 3)
    assert not np.triu(accuracy, 1).any() and np.diagonal(accuracy).all()
    assert all(len(cell) == 6 for line in txt.read_text().split('\n') for cell in line.split())
    record = json.loads(record.read_text())
    assert record['arguments']['parameter'] == PAPER | {'c': 0.5, 'smax': 200}
    assert record['arguments'].items() >= {'lr': 0.05, 'nepochs': 2, 'batch_size': 64, 'width': 0.05, 'seed': 0}.items()
    assert record['tasks'][0] == {'name': 'mnist', 'n_classes': 10, 'train': 102, 'valid': 18, 'test': 40,
                                  'data': npz.fingerprint(small_data / 'mnist.npz')}  # fmt: skip
    np.testing.assert_allclose(record['accuracy'], accuracy, atol=5e-5)
    assert [len(epochs) for epochs in record['epochs']] == [2, 2, 2]
    assert record['epochs'][0][0].keys() >= {'lr', 'train_loss', 'valid_loss', 'valid_accuracy'}
    assert record['versions']['torch'] == torch.__version__
    screen = capsys.readouterr().out
    for text in 'after mnist', 'average accuracy', 'average forgetting', 'time', 'epoch   2/2', str(txt):
        assert text in screen


def test_a_class_without_a_training_image_is_said(start, capsys):
    start('random', '--ntrain', '8')
    out = capsys.readouterr().out
    assert 'mnist: no training image of 3 of its 10 classes is left' in out and 'svhn: no training image of 3' in out
    start('random', '--ntrain', '120', '--fresh')
    out = capsys.readouterr().out
    assert 'no training image' not in out and 'no test image' not in out


def test_average_forgetting_is_the_mean_drop_since_a_task_was_learned():
    from core import metrics

    accuracy = np.array([[0.9, 0, 0], [0.7, 0.8, 0], [0.6, 0.9, 0.5]])
    assert metrics.average_forgetting(accuracy) == pytest.approx((0.3 - 0.1) / 2)
    assert metrics.average_accuracies(accuracy)[-1] == pytest.approx(2 / 3)
    assert metrics.average_forgetting(accuracy[:1, :1]) == 0


def test_a_forgetting_that_rounds_to_zero_has_no_sign(tmp_path):
    Runs(tmp_path)('sgd', 0, np.array([[0.5, 0], [0.50001, 0.5]]))
    assert 'average forgetting   0.00 points' in run.summary(results.Output(tmp_path / 'mixture_sgd_0.txt', False))


def test_a_finished_result_of_other_arguments_is_kept(start, tmp_path):
    txt, _ = start('sgd', '--ntasks', '1')
    first = txt.read_bytes()
    start('sgd', '--ntasks', '1')
    assert {p.name for p in tmp_path.iterdir()} == {'out.txt', 'out.json'}
    start('sgd', '--ntasks', '1', '--lr', '0.2')
    start('sgd', '--ntasks', '1', '--lr', '0.3')
    assert {p.name for p in tmp_path.iterdir()} == {
        'out.txt', 'out.json', 'out.old-1.txt', 'out.old-1.json', 'out.old-2.txt', 'out.old-2.json',
    }  # fmt: skip
    assert (tmp_path / 'out.old-1.txt').read_bytes() == first
    assert json.loads((tmp_path / 'out.old-2.json').read_text())['arguments']['lr'] == 0.2


def test_default_paths_hang_on_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    args = run.parse(['--approach', 'hat', '--experiment', 'mixture', '--seed', '7'])
    assert (args.data, args.output) == (ROOT / 'dat', ROOT / 'res' / 'mixture_hat_7.txt')
    assert (args.nepochs, args.lr, args.batch_size, args.width) == (200, 0.05, 64, 1)
    assert args.parameter == PAPER


BAD = {
    'an unknown approach': (['--approach', 'magic'], "invalid choice: 'magic'"),
    'an unknown experiment': (['--experiment', 'magic'], "invalid choice: 'magic'"),
    'no number': (['--parameter', 'much'], "c must be a number, not 'much'"),
    'not finite': (['--parameter', 'nan'], 'c must be a number from 0 to 1e+30'),
    'too small': (['--parameter', 'smax=0.5'], 'smax must be a number from 1 to 1e+30'),
    'not one of the choices': (['--parameter', 'hard=2'], 'hard must be one of 0, 1'),
    'too many': (['--parameter', '1,2,0,normal,0,2,linear,layer,exact,9'], '10 values are too many'),
    'unknown parameter': (
        ['--parameter', 'd=1'],
        "unknown: 'd'; it takes c (0.75), smax (400.0), hard (0), init (normal)",
    ),
    'twice': (['--parameter', '1,c=2'], "twice: 'c'"),
    'a parameter too many': (['--approach', 'sgd', '--parameter', '1'], 'it takes none'),
    'negative epochs': (['--nepochs', '-1'], '-1 is not a number of at least 1'),
    'no epochs': (['--nepochs', 'few'], "'few' is not a whole number"),
    'negative rate': (['--lr', '-0.1'], '-0.1 is not a number above 0'),
    'a rate at which a task ends': (['--lr', '9e-5'], 'below 0.0001, so 9e-05 trains nothing'),
    'negative seed': (['--seed', '-1'], '-1 is not a number of at least 0'),
    'large seed': (['--seed', str(2**32)], 'at most 4294967295'),
    'no CUDA': (['--device', 'cuda:99'], 'cuda:99 is not available'),
    'unknown device': (['--device', 'abacus'], "'abacus' is none of auto, cpu, cuda, cuda:N"),
    'unknown task': (['--tasks', 'mnist,moon'], "unknown task 'moon'"),
    'two lists': (['--parameter', 'c=1', '--parameter', 'smax=100'], '--parameter is given twice'),
    'two lists of tasks': (['--tasks', 'mnist', '--tasks', 'svhn'], '--tasks is given twice; give one list NAME,NAME'),
    'a task twice': (['--tasks', 'mnist,mnist'], 'a task stands twice'),
    'too many tasks': (['--ntasks', '4'], '4 asked for, there are 3'),
    'no validation images': (['--ntrain', '3'], 'leave none for validation'),
    'no such folder': (['--output', '/dev/null/x.txt'], 'cannot write in /dev/null'),
    'output is a folder': (['--output', '{tmp}'], 'is a folder'),
    'no value': (['--network=--'], '--network: expected a value, not --'),
    'unknown argument': (['--speed', '9'], 'unrecognized arguments: --speed 9'),
}


@pytest.mark.parametrize('arguments, message', BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_exit_code_2(small_data, tmp_path, capsys, arguments, message):
    usual = ['--approach', 'hat', '--experiment', 'mixture', '--data', str(small_data)]
    usual += ['--output', str(tmp_path / 'out.txt'), *SMALL]
    data = sorted(small_data.iterdir())
    assert run.cli([*without(usual, arguments), *(a.format(tmp=tmp_path) for a in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ''
    assert err.startswith('run.py: error: ') and err.count('\n') == 1 and message in err
    assert sorted(small_data.iterdir()) == data and not list(tmp_path.iterdir())


@pytest.mark.parametrize('experiment', ['mnist2', 'pmnist'])
@pytest.mark.parametrize('split', ['train', 'test'])
@pytest.mark.parametrize('shape', [(32, 32, 1), (32, 32, 3)])
def test_images_larger_than_the_input_of_the_network_are_not_cut(experiment, split, shape, tmp_path, capsys):
    """The file of a set may be that of the mixture, which is 32x32."""
    shapes = {'train': (28, 28, 1), 'test': (28, 28, 1)} | {split: shape}
    arrays = [pictures(60, 10, shapes[name], seed=0) for name in ('train', 'test')]
    npz.write(tmp_path / 'mnist.npz', [*arrays[0], *arrays[1]])
    arguments = ['--approach', 'sgd', '--experiment', experiment, '--ntasks', '1', *SMALL[2:]]
    assert run.cli([*arguments, '--data', str(tmp_path), '--output', str(tmp_path / 'out.txt')]) == 2
    found = 'x'.join(map(str, shape))
    what = f'the images of {"mnist-0-4" if experiment == "mnist2" else "pmnist-"}'
    err = capsys.readouterr().err
    assert what in err and f'are {found}, and the input of the network is 28x28x1' in err and err.count('\n') == 1
    assert not list(tmp_path.glob('out.*'))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='asks for a machine without CUDA')
def test_cuda_where_there_is_none_from_a_shell_in_another_folder(tmp_path):
    arguments = ['--approach', 'hat', '--experiment', 'demo', '--device', 'cuda']
    done = subprocess.run(
        [sys.executable, ROOT / 'src' / 'run.py', *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr == ('run.py: error: --device: cuda is not available: 0 CUDA devices found; use --device cpu\n')
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('approach', ['hat', 'sgd'])
def test_cuda_runs_are_identical_too(start, approach):
    first, second = (start(approach, '--device', 'cuda', '--batch-size', '8', name=name) for name in ('a.txt', 'b.txt'))
    assert first[0].read_bytes() == second[0].read_bytes()
    assert record(first[1]) == record(second[1])


def test_a_warning_of_hat_numbers_tasks_as_the_log_does(start, capsys):
    with pytest.warns(UserWarning, match=r'are free for cifar10 \(task 2\)'):
        start('hat', '--parameter', 'init=dense,c=0')
    assert '2/3 cifar10: test accuracy' in capsys.readouterr().out


@pytest.mark.parametrize('change, message', [
    (lambda d: {'n_classes': d.n_classes - 1}, 'the labels of mnist go from 0 to 9, not within 0..8'),
    (lambda d: {'test_y': d.test_y + 1}, 'the labels of mnist go from 1 to 10, not within 0..9'),
    (lambda d: {'train_x': (d.train_x / 255).astype(np.float32)}, 'the images of mnist are torch.float32, not torch.u'),
])  # fmt: skip
def test_arrays_that_an_experiment_computes_are_checked(small_data, tmp_path, monkeypatch, capsys, change, message):
    """Those of a file are checked when it is read."""
    read = mixture.read
    monkeypatch.setattr(mixture, 'read', lambda *args: [d._replace(**change(d)) for d in read(*args)])
    arguments = ['--approach', 'sgd', '--experiment', 'mixture', '--data', str(small_data), '--tasks', 'mnist']
    assert run.cli([*arguments, '--output', str(tmp_path / 'a.txt'), '--nepochs', '1', '--device', 'cpu']) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1 and not (tmp_path / 'a.txt').exists()

"""Metrics, tables, figures and the page that plot_results.py makes from res/."""

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import without
from matplotlib.figure import Figure
from scipy import stats

import plot_results
import work
from approaches import APPROACHES
from core import metrics, results, text_tables
from core.arguments import MAX_FEW
from core.comparison import explain
from core.errors import exit_code
from reports import charts, records, single, tables
from reports.collection import Collection, seeds_of
from reports.figures import compression_curves, draw, sweeps
from runs import identity

JOINT, RANDOM = np.array([[0.9, 0], [0.8, 0.9]]), np.array([[0.1, 0], [0.1, 0.2]])
TIMES = {'total': 1, 'epochs': [[1]]}


def test_forgetting_ratio_equals_a_computation_by_hand(tmp_path):
    """Eq. 6, of matrices read from the files of res/."""
    accuracy, joint, random_ = np.zeros((3, 2, 2))
    accuracy[0, 0], accuracy[1] = 0.9, [0.5, 0.8]
    joint[0, 0], joint[1] = 0.9, [0.8, 0.9]
    random_[0, 0], random_[1] = 0.1, [0.1, 0.2]
    np.savetxt(tmp_path / 'a.txt', accuracy, '%.4f')
    rho = metrics.forgetting_ratio(results.read_matrix(tmp_path / 'a.txt'), joint, random_)
    first, second = (0.5 - 0.1) / (0.8 - 0.1) - 1, (0.8 - 0.2) / (0.9 - 0.2) - 1
    assert rho == pytest.approx([0, (first + second) / 2])
    assert metrics.forgetting_ratio(random_, joint, random_) == pytest.approx([-1, -1])


@pytest.fixture
def res(tmp_path):
    """Matrices of three seeds, as the original code leaves them: no .json. One run of ewc is not finished."""
    for seed in 0, 1, 2:
        for name, accuracy in ('joint', JOINT), ('random', RANDOM), ('hat', JOINT - 0.01 * seed), ('sgd', JOINT / 2):
            np.savetxt(tmp_path / f'mixture_{name}_{seed}.txt', np.tril(accuracy), '%.4f')
    np.savetxt(tmp_path / 'mixture_ewc_0.txt', [[0.9, 0], [0, 0]], '%.4f')
    return tmp_path


class Runs:
    """Writes invented runs of two tasks, with records: runs('hat', 0, accuracy, {'c': 1}, width=0.5, tasks=...)."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, approach, seed, accuracy, parameter=None, name=None, **changes):
        """changes: of the arguments, or of the record."""
        parameter = APPROACHES[approach].defaults() | (parameter or {})
        arguments = {'approach': approach, 'experiment': 'mixture', 'seed': seed, 'parameter': parameter, 'tasks': None,
                     'ntasks': None, 'ntrain': None, 'nepochs': 200, 'lr': 0.05, 'batch_size': 64,
                     'width': 1}  # fmt: skip
        arguments |= {key: changes.pop(key) for key in list(changes) if key in arguments and key != 'tasks'}
        epochs = [[{'valid_accuracy': 0.1 * e + 0.5, 'active': [10 * e, 30], 'capacity': [10 * e + 50 * t, 60 * e]}
                   for e in (1, 2)] for t in (0, 1)]  # fmt: skip
        monitor = {'weights': [100, 300], 'active': [[20, 30], [20, 60]], 'reuse': [[50, 25], [25, 80]]}
        accuracy = np.tril(accuracy)
        record = {'arguments': arguments, 'tasks': [task('mnist'), task('svhn')][: len(accuracy)],
                  'code': identity.code(approach, 'mixture'), 'versions': {'python': '3.11', 'torch': '<9.9>'},
                  'accuracy': accuracy.tolist(), 'initial': [0.1, 0.1], 'before': [0.1, 0.3], 'epochs': epochs,
                  'valid_accuracy': [[0.8, 0], [0.8, 0.9]], 'monitor': monitor if approach == 'hat' else {},
                  'devices': ['cpu (x86_64, 1 threads)'], 'folder': 'dat', 'diverged': [],
                  'times': {'total': 90, 'epochs': [[1, 2], [3, 4]], 'testing': [1, 2]}}  # fmt: skip
        base = self.folder / (name or f'mixture_{approach}_{seed}')
        np.savetxt(f'{base}.txt', accuracy, '%.4f')
        record = {key: value for key, value in (record | changes).items() if value is not None}
        Path(f'{base}.json').write_text(json.dumps(record))


def task(name, data='0a1b', **changes):
    return {'name': name, 'n_classes': 10, 'train': 51, 'valid': 9, 'test': 40, 'data': data} | changes


@pytest.fixture
def runs(tmp_path):
    """Runs of three seeds, and a function that writes more of them."""
    runs = Runs(tmp_path)
    for seed in 0, 1, 2:
        for name, accuracy in ('joint', JOINT), ('random', RANDOM), ('hat', JOINT - 0.01 * seed), ('sgd', JOINT / 2):
            runs(name, seed, accuracy)
    return runs


def plot(res, *more):
    usual = ['--experiment', 'mixture', '--res', getattr(res, 'folder', res), '--seeds', '0-2']
    return exit_code('plot_results.py', plot_results.main, list(map(str, [*without(usual, more), *more])))


def test_table_1_is_the_mean_the_deviation_and_students_interval(res, capsys):
    assert plot(res, '--approaches', 'sgd,hat,ewc') == 0
    out = capsys.readouterr().out
    assert out.startswith('missing or not finished: mixture_ewc_{0,1,2}\n\n')
    drops = np.array([0, 0.01, 0.02]) * (1 / 0.7 + 1 / 0.7) / 2
    rho = f'{-drops.mean():.2f} ({drops.std(ddof=1):.2f}) ±{tables.interval(drops):.2f}'
    hat, sgd = out.splitlines()[-2:]
    assert hat.split()[:2] == ['hat', '3'] and rho in hat and sgd.split()[:2] == ['sgd', '3']
    assert '84.0 (1.0) ±2.5' in hat and '-10.0 (0.0) ±0.0' in hat and hat.endswith(' -')  # A<=2, BWT, no FWT


def test_without_seeds_all_that_are_there_count_whatever_the_name_of_an_approach(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(APPROACHES, 'my_sgd', APPROACHES['sgd'])
    runs = Runs(tmp_path)
    for approach, seed in ('my_sgd', 0), ('my_sgd', 12), ('progressive', 3), ('joint', 1):
        (tmp_path / f'mixture_{approach}_{seed}.txt').touch()
    runs('my_sgd', 12, JOINT)
    for other in 'unknown_7', 'hat_2.old-1', 'hat_4 (1)', 'x_hat_5':
        (tmp_path / f'mixture_{other}.txt').touch()
    assert seeds_of('mixture', tmp_path) == [0, 1, 3, 12]
    assert exit_code('plot_results.py', plot_results.main, ['--experiment', 'mixture', '--res', str(tmp_path)]) == 0
    assert re.search(r'^my_sgd +1 ', capsys.readouterr().out, re.MULTILINE)


def test_missing_is_what_was_asked_for_or_makes_a_row_incomplete(runs, tmp_path, capsys):
    (tmp_path / 'mixture_hat_2.txt').unlink()
    (tmp_path / 'mixture_hat_2.json').unlink()
    (tmp_path / 'mixture_ewc_1.log').touch()  # of a run that failed before its first task ended
    runs('lwf', 0, JOINT, name='mixture_lwf_0_lamb=2')  # of a sweep: it is in no row
    assert plot(runs) == 0
    assert capsys.readouterr().out.startswith('missing or not finished: mixture_hat_{2} mixture_ewc_{0,1,2}\n\n')
    for name in 'joint', 'random':
        for path in tmp_path.glob(f'mixture_{name}_*'):
            path.unlink()
    assert plot(runs) == 0  # without them there is no ratio
    missing = 'mixture_hat_{2} mixture_ewc_{0,1,2} mixture_joint_{0,1,2} mixture_random_{0,1,2}'
    assert capsys.readouterr().out.startswith(f'missing or not finished: {missing}\n\n')
    assert plot(runs, '--approaches', 'all') == 0
    assert ' mixture_pathnet_{0,1,2} ' in capsys.readouterr().out


def test_a_mean_is_rounded_as_in_the_published_tables():
    assert f'{63.55:.1f}' == '63.5'
    assert tables.spread(np.array([63.55]), 1, 1) == tables.mean_cell(np.array([63.55]), 1) == '63.6'
    assert tables.spread(np.array([-0.001, 0.001, -0.003]), 2, 3).startswith('0.00 (0.00)')


def test_interval_is_scipys():
    values = np.random.default_rng(0).normal(size=7)
    low, high = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert tables.interval(values) == pytest.approx((high - low) / 2)
    assert np.isnan(tables.interval(values[:1]))


def test_transfer_and_average_accuracy_equal_a_computation_by_hand():
    accuracy = np.array([[0.9, 0, 0], [0.7, 0.8, 0], [0.6, 0.9, 0.5]])
    assert metrics.average_accuracies(accuracy) == pytest.approx([0.9, 0.75, 2 / 3])
    assert metrics.backward_transfer(accuracy) == pytest.approx((-0.3 + 0.1) / 2)
    assert metrics.forward_transfer([0.3, 0.2, 0.4], [0.1, 0.1, 0.2]) == pytest.approx((0.1 + 0.2) / 2)
    assert metrics.backward_transfer(accuracy[:1, :1]) == metrics.forward_transfer([0.1], [0.1]) == 0


@pytest.mark.slow
def test_files_are_made(res, tmp_path):
    assert plot(res, '--output', tmp_path / 'fig') == 0
    names = {path.name for path in (tmp_path / 'fig').iterdir() if path.stat().st_size}
    figures = {f'{name}.{suffix}' for name in ('fig3', 'accuracy', 'matrices') for suffix in ('png', 'pdf')}
    assert names == {'notes.txt', 'table1.txt', 'table1.md', 'table1.tex', *figures}
    latex = (tmp_path / 'fig' / 'table1.tex').read_text()
    assert r'$\rho^{\leq 2}$' in latex and r'$A^{\leq 2}$, \%' in latex
    assert (tmp_path / 'fig' / 'table1.md').read_text().splitlines()[3].startswith('| hat | 3 | ')  # after joint
    (tmp_path / 'fig' / 'pruned.txt').touch()  # of an earlier call
    assert plot(res, '--output', tmp_path / 'fig') == 0
    assert names == {path.name for path in (tmp_path / 'fig').iterdir()}


def test_tables_hold_any_name_of_a_task():
    """Those of a folder of your own: no cell more, and nothing that LaTeX takes for a command."""
    header, lines = ['task', 'A<=2, %'], [['a|b & c', '50.0 ±1.0'], ['x^2$_{3}~\\%#', '1 → 2']]
    rows = text_tables.markdown(header, lines).splitlines()
    assert rows[2] == r'| a\|b & c | 50.0 ±1.0 |' and rows[0] == '| task | A<=2, % |'
    begin, head, _, first, second, end = text_tables.latex(header, lines).splitlines()
    assert head == r'task & $A^{\leq 2}$, \% \\' and first == r'a|b \& c & 50.0 $\pm$1.0 \\'
    assert second == r'x\textasciicircum{}2\$\_\{3\}\textasciitilde{}\textbackslash{}\%\# & 1 $\to$ 2 \\'


def test_a_list_given_twice_is_an_error(res, capsys):
    assert plot(res, '--approaches', 'hat', '--approaches', 'sgd') == 2
    assert '--approaches is given twice' in capsys.readouterr().err


def test_the_original_codes_name_of_pnn_is_known(res, capsys):
    (res / 'mixture_hat_0.txt').rename(res / 'mixture_progressive_0.txt')
    assert plot(res, '--approaches', 'pnn') == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:3] == ['pnn', '1', '0.00']


def test_two_names_of_a_run_are_said(res, capsys):
    for name in 'pnn', 'progressive':
        (res / f'mixture_{name}_0.txt').write_bytes((res / 'mixture_hat_0.txt').read_bytes())
    assert plot(res, '--approaches', 'pnn') == 0
    assert 'left out: mixture_progressive_0.txt, beside mixture_pnn_0.txt' in capsys.readouterr().out


def test_without_the_references_there_is_no_ratio(res, capsys):
    (res / 'mixture_joint_1.txt').unlink()
    assert plot(res, '--approaches', 'hat', '--seeds', '1') == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == 'missing or not finished: mixture_joint_{1}'
    assert out[-1].split()[:4] == ['hat', '1', '-', '84.0']


def test_a_ratio_of_some_of_the_runs_says_of_how_many(res, capsys):
    (res / 'mixture_joint_1.txt').unlink()
    (res / 'mixture_joint_2.txt').unlink()
    assert plot(res, '--approaches', 'hat') == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:5] == ['hat', '3', '0.00', '[n=1]', '84.0']


@pytest.mark.filterwarnings('error')
def test_joint_training_at_chance_gives_nan_and_no_warning(res, capsys):
    for seed in 0, 1, 2:
        np.savetxt(res / f'mixture_joint_{seed}.txt', np.tril(RANDOM), '%.4f')
    assert plot(res, '--approaches', 'random,hat') == 0
    out, err = capsys.readouterr()
    assert err == '' and 'nan' in out


def test_accuracies_are_those_of_the_record_not_its_four_digits(runs, capsys):
    for seed in 0, 1, 2:
        runs('sgd', seed, np.full((2, 2), 0.65354))
    assert plot(runs, '--approaches', 'sgd') == 0
    assert '65.4' in printed(capsys)[1]['sgd']


def test_joint_training_below_chance_is_said(runs, capsys):
    runs('joint', 1, np.array([[0.9, 0], [0.8, 0.19]]))
    assert plot(runs, '--approaches', 'hat') == 0
    assert printed(capsys)[0] == [
        'joint training of seed 1 is no better than chance on svhn: forgetting ratios mean nothing there'
    ]


@pytest.mark.parametrize('gain', [0.0, 1e-17, -1e-17])
def test_joint_training_at_chance_is_said(gain, runs, capsys):
    """A network that answers one class of ten has 0.1, and chance 0.1 but for rounding: the ratio may be 1e16."""
    runs('joint', 1, np.array([[0.9, 0], [0.8, 0.1 + gain]]))
    runs('random', 1, np.array([[0.1, 0], [0.1, 0.1]]))
    assert plot(runs, '--approaches', 'hat') == 0
    assert 'joint training of seed 1 is no better than chance on svhn' in printed(capsys)[0][0]


def test_no_results_at_all_is_one_line(tmp_path, capsys):
    assert plot(tmp_path) == 2
    assert f'--res: no finished run of mixture in {tmp_path}' in capsys.readouterr().err


def printed(capsys):
    """Notes, and of each table the lines, name of the row -> the rest."""
    parts = capsys.readouterr().out.rstrip().split('\n\n')
    notes = [] if parts[0].startswith('approach') else parts.pop(0).splitlines()
    tables = [[line.split('  ', 1) for line in part.splitlines()] for part in parts]
    return notes, *({name: rest.split() for name, rest in table} for table in tables)


def foreign(runs):
    """Runs that differ from the others in one way each."""
    runs('hat', 3, JOINT / 4, tasks=[task('svhn'), task('mnist', data='ffff')])
    runs('hat', 4, JOINT / 4, {'c': 2.5, 'smax': 50})
    runs('hat', 5, JOINT / 4, tasks=[task('mnist'), task('cifar10')])
    runs('hat', 6, JOINT / 4, width=0.5)
    runs('hat', 7, JOINT / 4, versions={'python': '3.11', 'torch': '1.0'})


WHY = [
    'mixture_hat_3.txt: task mnist: data is ffff, not 0a1b',
    'mixture_hat_4.txt: c is 2.5, not 0.75; smax is 50, not 400',
    'mixture_hat_5.txt: set of tasks is cifar10,mnist, not mnist,svhn',
    'mixture_hat_6.txt: width is 0.5, not 1',
    'mixture_hat_7.txt: versions: torch is 1.0, not <9.9>',
]


def test_a_table_never_mixes(runs, capsys):
    """Foreign runs are left out and named; the numbers are those of the folder without them."""
    assert plot(runs, '--approaches', 'hat,sgd') == 0
    notes, *clean = printed(capsys)
    assert notes == []
    foreign(runs)
    assert plot(runs, '--approaches', 'hat,sgd', '--seeds', '0-7') == 0
    (missing, *notes), *tables = printed(capsys)
    assert tables == clean and missing.startswith('missing or not finished: mixture_sgd_{3,4,5,6,7}')
    assert notes == [f'left out: {line}' for line in WHY]


def test_settings_in_which_all_runs_differ_from_the_defaults_are_said(runs, capsys):
    for seed in 0, 1, 2:
        for name in 'hat', 'sgd':
            runs(name, seed, JOINT, {'c': 4} if name == 'hat' else {}, width=0.5, ntrain=60)
    assert plot(runs, '--approaches', 'hat,sgd') == 0
    assert printed(capsys)[0][:2] == [
        'all runs: width is 0.5, not 1; ntrain is 60, not none (the default)',
        'hat: c is 4, not 0.75 (the default)',
    ]


def test_mixed_keeps_runs_that_differ_and_marks_their_row(runs, capsys):
    foreign(runs)
    (runs.folder / 'mixture_sgd_2.json').unlink()
    np.savetxt(runs.folder / 'mixture_sgd_1.txt', np.eye(3), '%.4f')  # other tasks: no mean with the others
    (runs.folder / 'mixture_sgd_1.json').unlink()
    assert plot(runs, '--approaches', 'hat,sgd', '--seeds', '0-7', '--mixed') == 0
    (_, *notes), table, _ = printed(capsys)
    sgd = [f'mixture_sgd_{seed}.txt: no .json beside it, so its settings are unknown' for seed in (1, 2)]
    assert notes == [*(f'mixed: {line}' for line in WHY), f'left out: {sgd[0]}', f'mixed: {sgd[1]}']
    assert table['hat (mixed)'][:1] == ['8'] and '[n=3]' in table['hat (mixed)'] and table['sgd (mixed)'][0] == '2'


def test_results_without_a_record_are_left_out_where_others_have_one(runs, capsys):
    (runs.folder / 'mixture_hat_1.json').unlink()
    assert plot(runs, '--approaches', 'hat') == 0
    notes, table, _ = printed(capsys)
    assert notes == ['left out: mixture_hat_1.txt: no .json beside it, so its settings are unknown']
    assert table['hat'][0] == '2'


def test_one_run_of_more_tasks_does_not_displace_the_others(res, runs, capsys):
    three = [task(name) for name in ('mnist', 'svhn', 'cifar10')]
    more = {key: [0.1] * 3 for key in ('initial', 'before')} | {'epochs': [[]] * 3, 'monitor': {}}
    more |= {'valid_accuracy': np.eye(3).tolist(), 'times': {'total': 1, 'epochs': [[]] * 3}}
    runs('sgd', 0, np.eye(3), tasks=three, **more)
    assert plot(runs, '--approaches', 'hat,sgd') == 0
    notes, table, _ = printed(capsys)
    assert 'left out: mixture_sgd_0.txt: number of tasks is 3, not 2; set of tasks is' in notes[-1]
    assert table['hat'][0] == '3' and table['sgd'][0] == '2'


def test_a_tie_is_decided_by_the_defaults_then_by_the_first_run(tmp_path, capsys):
    runs = Runs(tmp_path)
    for seed, c, width in (0, 0.1, 0.5), (1, 0.75, 1), (2, 4, 1):
        runs('hat', seed, JOINT, {'c': c}, width=width)
    assert plot(runs, '--approaches', 'hat', '--seeds', '0-1') == 0
    assert printed(capsys)[0][1:] == ['left out: mixture_hat_0.txt: width is 0.5, not 1']
    assert plot(runs, '--approaches', 'hat', '--seeds', '0-2') == 0
    assert 'left out: mixture_hat_2.txt: c is 4, not 0.75' in printed(capsys)[0]
    runs('hat', 1, JOINT, {'c': 0.5})
    assert plot(runs, '--approaches', 'hat', '--seeds', '1-2') == 0
    assert 'left out: mixture_hat_2.txt: c is 4, not 0.5' in printed(capsys)[0]


def test_references_are_of_the_same_data_and_protocol(runs, capsys):
    """`random` has no protocol, only data."""
    runs('random', 0, RANDOM, nepochs=9, lr=1, versions={})
    runs('random', 1, RANDOM, tasks=[task('mnist'), task('svhn', test=9)])
    runs('joint', 2, JOINT, tasks=[task('svhn'), task('mnist')])  # the same tasks in another order
    assert plot(runs, '--approaches', 'hat') == 0
    notes, table, _ = printed(capsys)
    assert notes == ['left out: mixture_random_1.txt: task svhn: test is 9, not 40']
    assert table['hat'][:3] == ['3', '0.00', '[n=1]']
    runs('joint', 0, JOINT, nepochs=9)
    assert plot(runs, '--approaches', 'hat', '--mixed') == 0
    assert printed(capsys)[1]['hat'][:2] == ['3', '-']


def test_tasks_that_depend_on_the_seed_are_compared_where_they_are_the_same(tmp_path, capsys):
    """As in the compression experiment: each seed has its own first task."""
    runs = Runs(tmp_path)
    one = {'initial': [0.1], 'before': [0.1], 'valid_accuracy': [[0.5]], 'epochs': [[]], 'monitor': {}, 'times': TIMES}
    for seed, name, hat, sgd in (0, 'facescrub', 0.25, 0.5), (1, 'notmnist', 0.75, 0.875):
        for approach, accuracy in ('hat', hat), ('sgd', sgd):
            runs(approach, seed, [[accuracy]], ntasks=1, tasks=[task(name)], **one)
    assert plot(runs, '--approaches', 'hat,sgd', '--seeds', '0,1') == 0
    note, _, *lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ' '.join(note) == 'all runs: ntasks is 1, not none (the default)'
    assert lines[1:3] == [['0', 'facescrub', '25.0', '50.0'], ['1', 'notmnist', '75.0', '87.5']]
    runs('ewc', 1, [[0.5]], ntasks=1, tasks=[task('notmnist', data='ffff')], **one)
    assert plot(runs, '--approaches', 'ewc,hat,sgd', '--seeds', '0,1') == 0
    assert printed(capsys)[0][2] == 'left out: mixture_ewc_1.txt: task notmnist: data is ffff, not 0a1b'
    runs('ewc', 1, [[0.5]], ntasks=1, tasks=[task('svhn')], **one)  # a folder has got another task since
    assert plot(runs, '--approaches', 'ewc,hat,sgd', '--seeds', '0,1') == 0
    reason = 'set of tasks of seed 1 is svhn, not notmnist'
    assert printed(capsys)[0][2] == f'left out: mixture_ewc_1.txt: {reason}'


def test_neither_the_folder_of_the_data_nor_a_new_hyper_parameter_matters(runs, capsys):
    record = json.loads((runs.folder / 'mixture_hat_1.json').read_text())
    record['arguments']['data'] = '../elsewhere'  # as in older records
    del record['arguments']['parameter']['init']
    (runs.folder / 'mixture_hat_1.json').write_text(json.dumps(record))
    assert plot(runs, '--approaches', 'hat') == 0
    assert printed(capsys)[0] == []


def test_other_code_and_divergence_are_marked(runs, capsys, tmp_path):
    runs('hat', 1, JOINT, code='other')
    where = [{'task': 'svhn', 'epoch': 2, 'what': 'training loss'}]
    epochs = [[{'valid_accuracy': None}], [{'valid_accuracy': None}]]
    runs('sgd', 2, JOINT / 2, diverged=where, epochs=epochs, valid_accuracy=[[0.5, 0], [None, 0.1]])
    old = json.loads((runs.folder / 'mixture_joint_0.json').read_text())
    del old['code'], old['diverged']
    (runs.folder / 'mixture_joint_0.json').write_text(json.dumps(old))
    page = tmp_path / 'page.html'
    assert plot(runs, '--approaches', 'hat,sgd,joint', '--html', page) == 0
    notes, table, times = printed(capsys)
    assert notes == [
        "* computed by other code than today's: mixture_hat_1.txt, mixture_joint_0.txt",
        '! diverged (a loss or gradient is not finite): mixture_sgd_2.txt: task svhn, epoch 2',
    ]
    assert list(table) == ['approach', 'joint*', 'hat*', 'sgd!'] and times.keys() == table.keys()
    text = page.read_text()
    assert all(f'<a href="#{name}">{name}{mark}</a>' in text for name, mark in (('hat', '*'), ('sgd', '!')))
    assert all(f'<h3 id="{name}">{name}</h3>' in text for name in ('hat', 'sgd', 'joint'))


def test_runs_of_a_sweep_agree_in_all_but_what_is_varied(full, runs):
    runs('hat', 0, JOINT / 9, {'c': 1.5}, name='mixture_hat_0_c=1.5', nepochs=9)
    collection = Collection('mixture', full, ['hat'], [0])
    assert collection.notes == ['left out: mixture_hat_0_c=1.5.txt: nepochs is 9, not 200']
    assert 1.5 not in collection.sweep_curves('hat', 0)['c'][0]


DEEP = '[' * 100_000 + ']' * 100_000
BAD = {  # the content of a file of HAT's run with seed 1, or a change of its record; the message
    'text': ('.txt', b'0.1 much', 'cannot be read as an accuracy matrix'),
    'row': ('.txt', b'0.1 0.2', '1 rows of 2 are not an accuracy matrix'),
    'ragged': ('.txt', b'0.1 0.2\n0.3', 'cannot be read as an accuracy matrix'),
    'empty': ('.txt', b'', 'are not an accuracy matrix'),
    'nan': ('.txt', b'nan 0\n0.5 0.5', 'nan is not an accuracy, a number from 0 to 1'),
    'inf': ('.txt', b'0.5 0\n0.5 inf', 'inf is not an accuracy'),
    'percent': ('.txt', b'50 0\n0.5 0.5', '50 is not an accuracy'),
    'bytes': ('.txt', b'\xff\xfe0.1', 'cannot be read as text'),
    'many': ('.txt', b'\n'.join([b' '.join([b'0.5'] * 300)] * 300), '300 tasks, and mixture has 8'),
    'other': ('.txt', b'0.5 0\n0.5 0.5', 'not the accuracy matrix that is in mixture_hat_1.json'),
    'torn': ('.json', b'{"arguments": {', 'cannot be read as JSON'),
    'deep': ('.json', DEEP.encode(), 'cannot be read as JSON: maximum recursion depth'),
    'list': ('.json', b'[1]', 'not the record of a run'),
    'latin': ('.json', b'{"caf\xe9": 1}', 'cannot be read as text'),
    'no arguments': ('.json', b'{"tasks": []}', 'arguments is missing'),
    'arguments': ('arguments', 3, 'arguments is 3, not an object'),
    'argument': ('arguments', {'nepochs': {}}, 'arguments: nepochs is an object, not a plain value'),
    'another run': ('arguments', {'approach': 'sgd'}, 'the record of a run of approach sgd'),
    'parameter': ('arguments', {'parameter': {'c': 'x'}}, 'arguments: parameter: c is "x", not a number'),
    'tasks': ('tasks', 'mnist', 'tasks is "mnist", not a list of 2'),
    'task': ('tasks', [{'name': 'mnist'}, {'name': 'moon'}], 'tasks 2: name is "moon", not the name of one of the 8 t'),
    'nameless': ('tasks', [{'name': 'mnist'}, {}], 'tasks 2: name is missing'),
    'versions': ('versions', ['2.14'], 'versions is a list of 1, not an object'),
    'accuracy': ('accuracy', [[1, 0], [1, 'x']], 'accuracy 2 2 is "x", not a number from 0 to 1'),
    'validation': ('valid_accuracy', [[1, 0]], 'valid_accuracy is a list of 1, not a list of 2'),
    'before': ('before', [0.1, None], 'before 2 is null, not a number from 0 to 1'),
    'epochs': ('epochs', [[], [7]], 'epochs 2 1 is 7, not an object'),
    'epoch': ('epochs', [[], [{'valid_accuracy': 0.5}]], 'epochs 2 1: active is missing'),
    'monitor': ('monitor', {'weights': [0, 1]}, 'monitor: active is missing'),
    'weights': ('monitor', {'weights': [0, 1], 'active': [[1, 1]] * 2, 'reuse': [[1, 1]] * 2}, 'weights 1 is 0, not a'),
    'devices': ('devices', {}, 'devices is an object, not a list of texts'),
    'times': ('times', {'total': -1, 'epochs': [[], []]}, 'times: total is -1, not a number of at least 0'),
    'diverged': ('diverged', [{'task': 'mnist'}], 'diverged 1: epoch is missing'),
}


@pytest.mark.parametrize('where, content, message', BAD.values(), ids=BAD.keys())
def test_a_damaged_file_is_left_out_and_named(runs, capsys, where, content, message):
    base = runs.folder / 'mixture_hat_1'
    if where.startswith('.'):
        base.with_suffix(where).write_bytes(content)
    else:
        record = json.loads(base.with_suffix('.json').read_text())
        both = record[where] | content if where == 'arguments' and isinstance(content, dict) else content
        base.with_suffix('.json').write_text(json.dumps(record | {where: both}))
    assert plot(runs, '--approaches', 'hat,sgd') == 0
    notes, table, _ = printed(capsys)
    assert len(notes) == 1 and notes[0].startswith(f'left out: {base}') and message in notes[0]
    assert table['hat'][0] == '2' and table['sgd'][0] == '3'


@pytest.mark.parametrize('content', [DEEP, '[1]', '{"tasks": 3}', '{"tasks": [{}]}', '{"arguments": {"parameter": 1}}'])
def test_a_record_damaged_in_its_identity_counts_as_absent(tmp_path, content):
    (tmp_path / 'a.json').write_text(content)
    assert results.read_record(tmp_path / 'a.json') == {}


def test_the_record_of_the_longest_run_can_be_read():
    """HAT on permuted MNIST: the log of an epoch grows with the number of earlier tasks."""

    def epoch(t):
        loss, layers = 0.12345678901234567, [1_000_000] * 2
        numbers = dict.fromkeys(['lr', 'train_loss', 'valid_loss', 'valid_accuracy', 'regularization'], loss)
        lists = dict.fromkeys(['s', 'active_units', 'active', 'capacity'], layers)
        return len(results.json_text(numbers | lists | {'reuse': [1_000_000] * t}))

    epochs = 100  # about as many as the paper's protocol takes for a task
    assert epochs * MAX_FEW * (epoch(0) + epoch(MAX_FEW)) / 2 < results.MAX_SIZE


def test_a_huge_file_is_not_read(runs, capsys):
    for name in 'mixture_hat_1.txt', 'mixture_sgd_1.json':
        with open(runs.folder / name, 'wb') as file:
            file.truncate(10**12)
    assert plot(runs, '--approaches', 'hat,sgd') == 0
    notes = printed(capsys)[0]
    assert len(notes) == 2 and all('1000000 MB: too large for a result, not read' in note for note in notes)


def test_a_matrix_may_not_be_as_large_as_a_record(runs, capsys):
    """To say what is wrong with one of 400 MB, NumPy takes 4 GB of memory."""
    widest = len(f'{1:.4f} ') * MAX_FEW**2
    with open(runs.folder / 'mixture_hat_1.txt', 'wb') as file:
        file.truncate(10 * widest)
    assert widest < results.MAX_MATRIX < 10 * widest < results.MAX_SIZE
    assert plot(runs, '--approaches', 'hat') == 0
    assert 'mixture_hat_1.txt: 70 MB: too large for a result, not read' in printed(capsys)[0][0]


def test_where_no_run_is_left_there_is_one_line(runs, capsys):
    for seed in 0, 1, 2:
        (runs.folder / f'mixture_hat_{seed}.txt').write_text('much')
    assert plot(runs, '--approaches', 'hat') == 2
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1
    assert 'mixture_hat_0.txt: cannot be read as an accuracy matrix' in err and err.endswith('; and 2 more\n')


@pytest.mark.slow
@pytest.mark.parametrize('option, name', [('--output', 'file'), ('--output', 'file/x'), ('--html', 'file/x.html'),
                                          ('--html', 'folder'), ('--html', '/proc/x.html')])  # fmt: skip
def test_a_path_that_cannot_be_written_is_one_line(runs, capsys, tmp_path, option, name):
    (tmp_path / 'file').touch()
    (tmp_path / 'folder').mkdir()
    assert plot(runs, '--approaches', 'sgd', option, tmp_path / name) == 2
    err = capsys.readouterr().err
    assert err.startswith('plot_results.py: error: cannot write') and err.count('\n') == 1


def test_tables_and_figures_appear_whole_or_not_at_all(runs, tmp_path, monkeypatch, capsys):
    def full(self, path, **how):
        Path(path).write_bytes(b'half of it')
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(Figure, 'savefig', full)
    assert plot(runs, '--approaches', 'sgd', '--output', tmp_path / 'fig') == 2
    assert capsys.readouterr().err.endswith('fig3.png: No space left on device\n')
    assert {path.stem for path in (tmp_path / 'fig').iterdir()} == {'notes', 'table1', 'times'}


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['module://matplotlib_inline.backend_inline', 'nonsense'])
def test_the_backend_in_the_environment_does_not_matter(runs, tmp_path, backend):
    command = [sys.executable, plot_results.__file__, '--experiment', 'mixture', '--res', runs.folder, '--seeds', '0',
               '--approaches', 'sgd', '--output', tmp_path / 'fig']  # fmt: skip
    subprocess.run(command, env=os.environ | {'MPLBACKEND': backend}, check=True, capture_output=True)
    assert (tmp_path / 'fig' / 'fig3.png').exists()


@pytest.mark.slow
def test_without_figures_matplotlib_is_not_imported(runs):
    command = ['--experiment', 'mixture', '--res', str(runs.folder), '--approaches', 'sgd']
    code = f'import sys, plot_results; plot_results.main({command}); assert "matplotlib" not in sys.modules'
    subprocess.run(
        [sys.executable, '-c', code], cwd=Path(plot_results.__file__).parent, check=True, capture_output=True
    )


@pytest.mark.slow
def test_the_table_of_times_equals_a_computation_by_hand(runs, capsys, tmp_path):
    times = {'total': 150, 'epochs': [[1, 2, 3], [4, 5]], 'testing': [1, 1]}
    runs('hat', 1, JOINT, times=times, devices=['cuda:0 (H_100)'])
    (runs.folder / 'mixture_hat_2.txt').unlink()
    assert plot(runs, '--approaches', 'hat', '--output', tmp_path / 'fig') == 0
    *_, table = printed(capsys)
    assert ' '.join(table['approach']) == 'n run, min training, min an epoch, s epochs device'
    pairs = [('.2f', 90 / 60, 150 / 60), ('.2f', 10 / 60, 15 / 60), ('.3f', 10 / 4, 15 / 5), ('.0f', 4, 5)]
    cells = [f'{np.mean(pair):{form}} ({np.std(pair, ddof=1):{form}})' for form, *pair in pairs]
    assert ' '.join(table['hat']) == ' '.join(['2', *cells, 'cpu (x86_64, 1 threads); cuda:0 (H_100)'])
    assert r'cuda:0 (H\_100)' in (tmp_path / 'fig' / 'times.tex').read_text()


@pytest.mark.parametrize('shown, more, message', [
    (['--run', 'a.json'], ['--seeds', '0'], '--seeds: --run does not take it'),
    (['--fig2'], ['--html'], '--html: --fig2 does not take it'),
    (['--reproduction'], ['--approaches', 'hat'], '--approaches: --reproduction does not take it'),
    (['--experiment', 'mixture'], ['--check'], '--check: --experiment does not take it'),
    (['--reproduction'], ['--commit', 'abc'], '--add, --setup and --commit go together'),
    (['--reproduction'], ['--check', '--verify', '.'],
     '--check changes nothing: leave it out with --add and --verify'),
    (['--reproduction'], ['--data', '.'], '--data: only --verify, and --run with --html, take it'),
    (['--run', 'a.json'], ['--data', '.'], '--data: only --verify, and --run with --html, take it'),
])  # fmt: skip
def test_an_option_that_has_no_effect_is_refused(shown, more, message, capsys):
    assert exit_code('plot_results.py', plot_results.main, [*shown, *more]) == 2
    assert capsys.readouterr().err == f'plot_results.py: error: {message}\n'


def test_the_name_of_a_task_is_shown_as_it_is_and_in_the_legend():
    """With two $ it would be a formula, or an error; a legend leaves out what starts with _."""
    names = [r'US$_and \A$', '_b']
    figures = [
        charts.heat_maps({'hat': (np.full((2, 2), 50.0), names, names)}, 'accuracy', 1, 'on', 'after'),
        charts.capacity(names, [[[1]], [[2]]], [2]),
        charts.compression({name: ([10], [60], None) for name in names}),
    ]
    for figure in figures:
        figure.savefig(file := io.BytesIO(), format='svg')
        shown = file.getvalue().decode()
        assert all(f' {name} -->' in shown for name in names)


@pytest.mark.slow
def test_many_tasks_are_drawn_without_numbers(tmp_path):
    tasks, names = 300, [f'pmnist-{k}' for k in range(300)]
    accuracy, each = np.tril(np.full((tasks, tasks), 0.5)), [0.1] * tasks
    arguments = {'approach': 'hat', 'experiment': 'pmnist', 'seed': 0, 'ntasks': tasks}
    monitor = {'weights': [9], 'active': [[1]] * tasks, 'reuse': np.eye(tasks, dtype=int).tolist()}
    epochs = [[{'valid_accuracy': 0.5, 'active': [1], 'capacity': [1]}]] * tasks
    record = {'arguments': arguments, 'tasks': [{'name': name} for name in names], 'before': each, 'initial': each}
    record |= {'epochs': epochs, 'monitor': monitor}
    np.savetxt(tmp_path / 'pmnist_hat_0.txt', accuracy, '%.4f')
    (tmp_path / 'pmnist_hat_0.json').write_text(json.dumps(record))
    assert plot(tmp_path, '--experiment', 'pmnist', '--approaches', 'hat', '--output', tmp_path / 'fig') == 0
    figures = {name: figure for name, (_, figure) in draw(Collection('pmnist', tmp_path, ['hat'], [0]))}
    for figure in figures.values():
        axes = figure.axes[0]
        assert len(axes.texts) <= charts.MAX_LABELS and max(figure.get_size_inches()) < 20
        assert len(axes.get_xticks()) <= charts.MAX_LABELS and len(axes.get_yticks()) <= charts.MAX_LABELS
    assert not figures['matrices'].axes[0].texts


@pytest.fixture
def full(runs):
    """Runs with records, and sweeps of c and smax."""
    for c, drop in (0.1, 0.2), (0.75, 0), (4, 0.4):
        runs('hat', 0, JOINT - drop * 0.7, {'c': c}, name=f'mixture_hat_0_c={c:g}')
    runs('hat', 0, JOINT / 3, {'c': 4}, name='mixture_hat_0_c=4.old-1')  # replaced since
    for smax in 25, 400:
        runs('hat', 0, JOINT, {'smax': smax}, name=f'mixture_hat_0_smax={smax}')
    runs('hat', 0, JOINT, {'smax': 25, 'c': 1}, name='mixture_hat_0_c=1_smax=25')  # two values differ: in no panel
    return runs.folder


def finished(txt):
    """A finished run, as an argument of work.report()."""
    return SimpleNamespace(output=results.Output(txt))


def test_the_best_value_is_chosen_among_undamaged_runs(runs, capsys):
    for c, valid in (1, 0.5), (2, None), (4, 0.6), (6, 'x'):
        runs('hat', 0, JOINT, {'c': c}, name=f'mixture_hat_0_c={c}', valid_accuracy=[[0.9, 0], [0.4, valid]])
    work.report([finished(runs.folder / f'mixture_hat_0_c={c}.txt') for c in (1, 2, 4, 6)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('left out: ') and lines[0].endswith('2 2 is "x", not a number from 0 to 1 or null')
    assert [line.split('=')[1].split(',')[0] for line in lines[3:6]] == ['2', '1', '4']
    assert lines[6] == 'at the end of its grid: c=4; a value beyond it may be better'
    assert lines[3].startswith('  diverged  c=2,') and lines[-2].startswith('best: --parameter c=4,smax=400')
    work.report([finished(runs.folder / 'mixture_hat_0_c=2.txt')])
    assert 'best' not in capsys.readouterr().out


@pytest.mark.parametrize('flag', [{'diverged': [{'task': 'svhn', 'epoch': 1, 'what': 'no progress'}]}, {}])
def test_of_equal_values_that_with_most_defaults_is_chosen_and_diverged_runs_are_marked(runs, capsys, flag):
    """By the command and by the tables alike; and a sweep that is not complete says so."""
    found = [(0.1, 0.5, {}), (0.75, 0.5, {}), (4, 0.5, flag), (2.5, 0.4, {})]
    for c, valid, more in found:
        runs('hat', 0, JOINT, {'c': c}, f'mixture_hat_0_c={c:g}', valid_accuracy=[[0.9, 0], [valid, valid]], **more)
    work.report([finished(runs.folder / f'mixture_hat_0_c={c:g}.txt') for c, *_ in found], 3, Path('a b', 'x.txt'))
    *_, unfinished, equal, best, command = lines = capsys.readouterr().out.splitlines()
    assert unfinished.startswith('not finished: 3 of 7 values') and equal.startswith('the best 3 are equal')
    assert best.startswith('best: --parameter c=0.75,') and command.endswith("a b/x.txt'")
    assert [line.split()[2].split(',')[0] for line in lines if line.endswith(' !')] == ['c=4'] * bool(flag)
    assert any(line.startswith('! a task diverged') for line in lines) == bool(flag)
    runs('hat', 0, JOINT, {'c': 1}, valid_accuracy=[[0.9, 0], [0.1, 0.1]])
    ((_, best, _),) = Collection('mixture', runs.folder, ['hat'], [0]).tuned()
    assert best['c'] == 0.75


def test_settings_of_the_references_are_no_reason_that_a_run_is_missing(runs, capsys):
    for name, accuracy in ('joint', JOINT), ('random', RANDOM):
        runs(name, 0, accuracy, width=0.5)
    assert plot(runs, '--approaches', 'ewc', '--seeds', '0') == 2
    assert capsys.readouterr().err.endswith(f' no finished run of mixture in {runs.folder} of ewc, seed 0\n')


@pytest.mark.parametrize('losses', [(2.6, 4.6), (3.1, 3.9), (5.5, 9.5), (0.01, 3), (2.45, 2.46)])
def test_the_axis_of_losses_has_numbers(losses):
    """As those of 100 classes, which may all be between 2.5 and 5."""
    epochs = [{'valid_accuracy': 0.1, 'train_loss': loss, 'valid_loss': loss} for loss in losses]
    figure = charts.learning(['cifar100'], [epochs])
    figure.draw_without_rendering()
    axis, (low, high) = figure.axes[1].yaxis, figure.axes[1].get_ylim()
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    assert sum(bool(tick.label1.get_text()) for tick in ticks if low <= tick.get_loc() <= high) >= 2


def test_a_sweep_says_why_equal_values_lose(runs, capsys):
    """The default value does not count where it has diverged."""
    diverged = [{'task': 'svhn', 'epoch': 1, 'what': 'no progress'}]
    for c, found in (0.75, diverged), (4, []):
        runs('hat', 0, JOINT, {'c': c}, f'mixture_hat_0_c={c:g}', valid_accuracy=[[0.9, 0], [0.5, 0.5]], diverged=found)
    work.report([finished(runs.folder / f'mixture_hat_0_c={c}.txt') for c in (0.75, 4)])
    equal, _, best, _ = capsys.readouterr().out.splitlines()[-4:]
    assert equal.startswith('the best 2 are equal: of these one without ! counts, then that with the most default')
    assert best.startswith('best: --parameter c=4,')
    runs('hat', 0, JOINT, {'c': 4}, 'mixture_hat_0_c=4', valid_accuracy=[[0.9, 0], [0.5, 0.5]], diverged=diverged)
    work.report([finished(runs.folder / f'mixture_hat_0_c={c}.txt') for c in (0.75, 4)])  # now both have
    assert 'the best 2 are equal: of these that with the most default values' in capsys.readouterr().out


def test_of_equal_values_a_diverged_one_is_not_chosen_and_then_the_smallest_is():
    default, diverged = {'c': 0.75, 'smax': 400.0}, {'diverged': [{'task': 'svhn'}]}
    points = [(4, {}), (0.75, diverged), (0.5, {}), (0.1, diverged)]
    sweep = [({'c': c, 'smax': 400.0}, {'valid_accuracy': [[0.5]]} | more) for c, more in points]
    order = sorted(sweep, key=lambda point: records.preference(*point, default))
    assert [parameter['c'] for parameter, _ in order] == [0.1, 0.75, 4, 0.5]
    older = {'c': 4}, {'valid_accuracy': [[0.5]]}  # than smax, which had what is the default now
    assert records.preference(*older, default) == records.preference(*sweep[0], default)


@pytest.mark.slow
def test_one_command_does_the_runs_of_fig_4_and_draws_it(small_data, tmp_path, capsys):
    """With the references of the forgetting ratio, and beside unrelated results."""
    res, fig = tmp_path / 'res', tmp_path / 'fig'
    res.mkdir()
    np.savetxt(res / 'mixture_hat_0.txt', np.eye(2), '%.4f')
    command = ['--approach', 'hat', '--experiment', 'mixture', '--vary', 'c', '--figure', fig, '--res', res,
               '--devices', 'cpu', '--nproc', '2']  # fmt: skip
    rest = ['--', '--tasks', 'mnist,svhn', '--nepochs', '1', '--ntrain', '40', '--width', '0.05', '--data', small_data]
    assert exit_code('work.py', work.main, list(map(str, [*command, '--dry-run', *rest]))) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == len(APPROACHES['hat'].parameters['c'].grid) + 2 and not fig.exists()
    assert exit_code('work.py', work.main, list(map(str, [*command, *rest]))) == 0
    assert {path.name for path in fig.iterdir()} == {'fig4-hat-0.png', 'fig4-hat-0.pdf'}
    assert {path.name for path in res.glob('mixture_[jr]*.txt')} == {'mixture_joint_0.txt', 'mixture_random_0.txt'}
    assert 'left out' not in capsys.readouterr().out
    collection = Collection('mixture', res, [], [0], sweeps=['hat'])
    expected = '! not learned', 'all runs: ', 'joint training of seed 0'  # one epoch teaches little
    assert all(note.startswith(expected) for note in collection.notes)
    assert collection.sweep_curves('hat', 0).keys() == {'c'}
    joint, random = (collection.get(name, 0).accuracy for name in ('joint', 'random'))
    for c, rho in zip(*collection.sweep_curves('hat', 0)['c'], strict=True):
        accuracy = results.read_matrix(res / f'mixture_hat_0_c={c:g}.txt')
        assert rho == pytest.approx(metrics.forgetting_ratio(accuracy, joint, random)[-1], nan_ok=True)


def test_a_folder_that_cannot_be_written_is_reported_before_the_runs(tmp_path, capsys):
    (tmp_path / 'file').touch()
    command = ['--approach', 'hat', '--experiment', 'demo', '--figure', tmp_path / 'file' / 'x', '--res', tmp_path]
    assert exit_code('work.py', work.main, list(map(str, command))) == 2
    assert capsys.readouterr().err.startswith('work.py: error: cannot write in ')
    assert [path.name for path in tmp_path.iterdir()] == ['file']


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=1e-3)


def test_the_figures_show_the_numbers_of_the_records(full):
    collection = Collection('mixture', full, ['hat', 'sgd', 'joint'], [0, 1, 2])
    figures = {name: figure for name, (caption, figure) in draw(collection)}
    assert figures.keys() == {'fig3', 'accuracy', 'fig4-hat-0', 'fig5', 'fig6', 'active', 'matrices'}
    lines = {line.get_label(): line.get_ydata() for line in figures['fig3'].axes[0].lines}
    assert lines.keys() == {'hat', 'sgd'}
    close(lines['hat'], collection.metrics['hat']['rho'].mean(0))
    c, smax = (axes.lines[0].get_xydata() for axes in figures['fig4-hat-0'].axes)
    close(c, [[0.1, -0.2], [0.75, 0], [4, -0.4]])
    close(smax, [[25, 0], [400, 0]])
    first, second, total = (line.get_ydata() for line in figures['fig5'].axes[0].lines[:3])
    close(first, [10, 20, 60, 70])
    close(second, [20, 40, 20, 40])
    close(total, [70 / 4, 140 / 4, 120 / 4, 190 / 4])
    switches = [line.get_xdata()[0] for line in figures['fig5'].axes[0].lines[3:]]
    assert switches == [0.5, 2.5]
    reuse = figures['fig6'].axes[0].images[0].get_array()
    assert reuse[0, 1] == 50 and reuse.mask.sum() == 3  # 25 of the 50 weights of the first task, in the second
    active = figures['active'].axes[0].images[0].get_array()
    close(active, [[20, 10], [20, 20]])
    curves = compression_curves(collection, collection.selected['hat'])
    dots, sgd = charts.compression(curves).axes[0].lines[:2]
    close(dots.get_xydata(), [[10, 60], [12.5, 70]])
    assert (sgd.get_xdata()[0], sgd.get_ydata()[0]) == (100, 80)
    for name, figure in figures.items():
        axes = figure.axes[0]
        assert axes.get_ylabel() and (axes.get_xlabel() or name == 'active')


def test_fig_7_has_each_run_of_a_task_that_several_have_learned(runs):
    runs('hat', 2, JOINT, tasks=[task('svhn'), task('mnist')])
    collection = Collection('mixture', runs.folder, ['hat'], [0, 1, 2])
    series = compression_curves(collection, collection.selected['hat'])
    assert list(series) == ['mnist, seed 0', 'mnist, seed 1', 'svhn']


@pytest.mark.slow
def test_an_approach_has_one_marker_and_colour_whatever_else_is_in_the_figure(runs):
    for name in APPROACHES:
        runs(name, 0, JOINT)

    def styles(*approaches):
        figures = dict(draw(Collection('mixture', runs.folder, approaches, [0])))
        lines = [line for name in ('fig3', 'accuracy') for line in figures[name][1].axes[0].lines]
        return {(line.get_label(), line.get_marker(), tuple(line.get_color())) for line in lines}

    everything = styles(*APPROACHES)
    assert len(everything) == len({marker for _, marker, _ in everything}) == len(APPROACHES)
    assert len({colour for _, _, colour in everything}) == len(APPROACHES)
    assert styles('pnn', 'ewc', 'hat') < everything


BROWSER = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')


@pytest.fixture
def browser():
    api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    if not BROWSER:
        pytest.skip('there is no Chromium')
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=['--no-sandbox'] if os.getuid() == 0 else [])
        yield browser
        browser.close()


@pytest.mark.slow
def test_the_page_opens_from_disk_sorts_and_shows_its_figures(full, runs, tmp_path, browser):
    for name, accuracy in ('joint', JOINT), ('random', RANDOM):
        for seed in 0, 1, 2:
            runs(name, seed, accuracy, before=[0.1, 0.1], initial=None)
    runs('hat', 1, JOINT, code='other')
    page_path = tmp_path / 'page.html'
    assert plot(full, '--html', page_path) == 0
    page, messages, requests = browser.new_page(), [], []
    page.on('console', lambda message: messages.append(message.text))
    page.on('pageerror', lambda error: messages.append(str(error)))
    page.on('request', lambda request: requests.append(request.url))
    page.goto(page_path.as_uri())
    images = page.locator('figure img')
    sizes = images.evaluate_all('all => all.map(i => [i.complete, i.naturalWidth, i.clientHeight])')
    assert len(sizes) == 7 and all(complete and width > 300 and height > 100 for complete, width, height in sizes)

    def column(n):
        return page.locator(f'h2:first-of-type + table tbody tr td:nth-child({n})').all_inner_texts()

    def sort(n):
        page.click(f'h2:first-of-type + table th:nth-child({n}) button')

    assert column(1) == ['joint', 'hat*', 'sgd', 'random']
    sort(4)  # accuracy
    values = [float(text.split()[0]) for text in column(4)]
    assert values == sorted(values) and column(1)[0] == 'random'
    sort(4)
    assert [float(text.split()[0]) for text in column(4)] == values[::-1]
    sort(1)
    assert column(1) == sorted(column(1))
    sort(6)  # FWT: those that have none come last
    assert sorted(column(1)[:2]) == ['hat*', 'sgd'] and column(6)[2:] == ['-', '-']
    page.click('#hat + details summary')
    assert '"torch": "<9.9>"' in page.locator('#hat + details pre').inner_text()
    page.click('text="hat*"')
    assert page.url.endswith('#hat') and page.locator('#hat').inner_text() == 'hat'
    assert not messages
    assert [url for url in requests if not url.startswith('data:')] == [page_path.as_uri()]


@pytest.mark.slow
def test_figure_2_shows_that_open_gates_close_more_slowly_than_closed_ones_open(tmp_path, capsys):
    assert plot_results.main(['--fig2', '--output', str(tmp_path / 'new' / 'figures')]) is None
    out = capsys.readouterr().out
    assert 'released  sum over an epoch at e = -1: 8019, at e = 1: 27' in out
    assert 'exact     sum over an epoch at e = -1: 8019, at e = 1: 8019' in out
    assert {p.name for p in (tmp_path / 'new' / 'figures').iterdir()} == {'fig2.png', 'fig2.pdf'}
    plot_results.main(['--fig2', '--smax', '1e-3', '--output', str(tmp_path)])
    assert 'exact     sum over an epoch at e = -1: 0.008' in capsys.readouterr().out  # not 0


def test_results_that_were_not_asked_for_are_not_denied(runs, capsys):
    assert plot(runs, '--approaches', 'lwf', '--seeds', '77') == 2
    assert 'no finished run of mixture in ' in (err := capsys.readouterr().err) and ' of lwf, seed 77\n' in err


def test_a_damaged_record_of_run_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / 'demo_hat_0.json').write_text('{"arguments": {')
    assert exit_code('plot_results.py', plot_results.main, ['--run', str(tmp_path / 'demo_hat_0.json')]) == 2
    assert 'demo_hat_0.json: cannot be read as JSON' in capsys.readouterr().err


def test_a_record_without_the_logs_of_its_epochs_has_their_number(runs):
    """As those in .results/, whose times say it."""
    for keep in {}, {'epochs': None, 'monitor': None}:
        runs('hat', 0, JOINT, **keep)
        header, lines = single.tasks(single.load(runs.folder / 'mixture_hat_0.json'))
        assert [line[header.index('epochs')] for line in lines] == ['2', '2']


def test_figure_4_has_the_marks_of_all_its_runs(runs):
    """Of a row without a name of its values, too."""
    diverged = [{'task': 'svhn', 'epoch': 1, 'what': 'no progress'}]
    runs('hat', 0, JOINT, {'c': 4}, 'mixture_hat_0_c=4')
    runs('hat', 0, JOINT, diverged=diverged)
    (_, (caption, _)), *_ = sweeps(Collection('mixture', runs.folder, ['hat'], [0]))
    assert caption.startswith('Hyper-parameters of hat! (Fig. 4)')


def test_a_damaged_entry_of_a_record_of_run_is_named(runs, capsys):
    runs('hat', 0, JOINT, times={'total': 'x'})
    assert exit_code('plot_results.py', plot_results.main, ['--run', str(runs.folder / 'mixture_hat_0.json')]) == 2
    assert 'mixture_hat_0.json: times: total is "x", not a number of at least 0' in capsys.readouterr().err


def test_values_that_differ_little_do_not_look_the_same():
    assert explain([('lr', 0.05, 0.05000001), ('width', 1.0, 0.5), ('seed', 1234567, None)]) == [
        'lr is 0.05, not 0.05000001', 'width is 1, not 0.5', 'seed is 1234567, not none']  # fmt: skip


def test_the_learning_curves_of_a_run_that_diverged_at_once_are_drawn():
    """Without a loss that is finite, its logarithmic axis has no limits of its own."""
    epoch = {'train_loss': None, 'valid_loss': None, 'valid_accuracy': 0.1}
    charts.learning(['svhn', 'mnist'], [[epoch, epoch], [epoch]]).savefig(io.BytesIO())

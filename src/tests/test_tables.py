"""The tables that plot_results.py makes from res/: metrics, which runs are compared, marks and notes."""

import json
import re

import numpy as np
import pytest
from conftest import without
from invented import JOINT, RANDOM, TIMES, Runs, task
from scipy import stats

import plot_results
from approaches import APPROACHES
from core import metrics, results, text_tables
from core.comparison import explain
from core.errors import exit_code
from reports import single, tables
from reports.collection import seeds_of


def plot(res, *more):
    usual = ['--experiment', 'mixture', '--res', getattr(res, 'folder', res), '--seeds', '0-2']
    return exit_code('plot_results.py', plot_results.main, list(map(str, [*without(usual, more), *more])))


def printed(capsys):
    """Notes, and of each table the lines, name of the row -> the rest."""
    parts = capsys.readouterr().out.rstrip().split('\n\n')
    notes = [] if parts[0].startswith('approach') else parts.pop(0).splitlines()
    tables = [[line.split('  ', 1) for line in part.splitlines()] for part in parts]
    return notes, *({name: rest.split() for name, rest in table} for table in tables)


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


def test_tables_hold_any_name_of_a_task():
    """Those of a folder of your own: no cell more, and nothing that LaTeX takes for a command."""
    header, lines = ['task', 'A<=2, %'], [['a|b & c', '50.0 ±1.0'], ['x^2$_{3}~\\%#', '1 → 2']]
    rows = text_tables.markdown(header, lines).splitlines()
    assert rows[2] == r'| a\|b & c | 50.0 ±1.0 |' and rows[0] == '| task | A<=2, % |'
    begin, head, _, first, second, end = text_tables.latex(header, lines).splitlines()
    assert head == r'task & $A^{\leq 2}$, \% \\' and first == r'a|b \& c & 50.0 $\pm$1.0 \\'
    assert second == r'x\textasciicircum{}2\$\_\{3\}\textasciitilde{}\textbackslash{}\%\# & 1 $\to$ 2 \\'
    lines = [['a\nb', '50.0']]
    assert text_tables.markdown(header, lines).splitlines()[2:] == [r'| a\nb | 50.0 |']
    assert text_tables.text(header, lines).splitlines()[1:] == [r'a\nb  50.0']
    assert r'a\textbackslash{}nb & 50.0 \\' in text_tables.latex(header, lines).splitlines()


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


def test_random_is_of_the_tasks_that_the_others_have_learned(runs, capsys):
    runs('random', 0, RANDOM, tasks=[task('notmnist'), task('cifar10')])
    for path in runs.folder.glob('*_0.json'):
        record = json.loads(path.read_text())
        chosen = {'tasks': ['notmnist', 'cifar10']} if 'random' in path.name else {'ntasks': 2}
        path.write_text(json.dumps(record | {'arguments': record['arguments'] | chosen}))
    assert plot(runs, '--approaches', 'hat,random', '--seeds', '0') == 0
    notes, table, _ = printed(capsys)
    assert 'left out: mixture_random_0.txt: tasks is notmnist,cifar10, not none; ntasks is none, not 2' in notes
    assert 'random' not in table


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
    (['--experiment', 'mixture'], ['--html', 'a.json'],
     '--html: a.json: the name of a result; give that of the page, FILE.html'),
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


def test_settings_of_the_references_are_no_reason_that_a_run_is_missing(runs, capsys):
    for name, accuracy in ('joint', JOINT), ('random', RANDOM):
        runs(name, 0, accuracy, width=0.5)
    assert plot(runs, '--approaches', 'ewc', '--seeds', '0') == 2
    assert capsys.readouterr().err.endswith(f' no finished run of mixture in {runs.folder} of ewc, seed 0\n')


def test_results_that_were_not_asked_for_are_not_denied(runs, capsys):
    assert plot(runs, '--approaches', 'lwf', '--seeds', '77') == 2
    assert 'no finished run of mixture in ' in (err := capsys.readouterr().err) and ' of lwf, seed 77\n' in err


def test_a_record_without_the_logs_of_its_epochs_has_their_number(runs):
    """As those in .results/, whose times say it."""
    for keep in {}, {'epochs': None, 'monitor': None}:
        runs('hat', 0, JOINT, **keep)
        header, lines = single.tasks(single.load(runs.folder / 'mixture_hat_0.json'))
        assert [line[header.index('epochs')] for line in lines] == ['2', '2']


def test_values_that_differ_little_do_not_look_the_same():
    assert explain([('lr', 0.05, 0.05000001), ('width', 1.0, 0.5), ('seed', 1234567, None)]) == [
        'lr is 0.05, not 0.05000001', 'width is 1, not 0.5', 'seed is 1234567, not none']  # fmt: skip

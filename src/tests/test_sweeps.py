"""Which value of a sweep is the best, and Fig. 4."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from invented import JOINT

import work
from approaches import APPROACHES
from core import metrics, results
from core.errors import exit_code
from reports import records
from reports.collection import Collection
from reports.figures import sweeps


def test_runs_of_a_sweep_agree_in_all_but_what_is_varied(full, runs):
    runs('hat', 0, JOINT / 9, {'c': 1.5}, name='mixture_hat_0_c=1.5', nepochs=9)
    collection = Collection('mixture', full, ['hat'], [0])
    assert collection.notes == ['left out: mixture_hat_0_c=1.5.txt: nepochs is 9, not 200']
    assert 1.5 not in collection.sweep_curves('hat', 0)['c'][0]


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


def test_nothing_is_preferred_to_a_row_that_does_not_say_how_it_validates(runs):
    runs('hat', 0, JOINT / 3, {'c': 4}, 'mixture_hat_0_c=4', valid_accuracy=[[0.1, 0], [0.1, 0.1]])
    for valid, preferred in (None, []), ([[0.05, 0], [0.05, 0.05]], [4]):
        runs('hat', 0, JOINT, valid_accuracy=valid)
        assert [best['c'] for _, best, _ in Collection('mixture', runs.folder, ['hat'], [0]).tuned()] == preferred


def test_a_sweep_says_which_values_other_versions_of_packages_have_computed(runs, capsys):
    for c in 1, 4:
        more = {'versions': {'torch': '1.0'}} if c == 1 else {}
        runs('hat', 0, JOINT, {'c': c}, f'mixture_hat_0_c={c}', valid_accuracy=[[c / 4, 0], [c / 4] * 2], **more)
    work.report([finished(runs.folder / f'mixture_hat_0_c={c}.txt') for c in (1, 4)])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if 'versions of packages' in line]
    assert ': c=1,' in line and 'c=4' not in line
    work.report([finished(runs.folder / 'mixture_hat_0_c=4.txt')])
    assert 'versions' not in capsys.readouterr().out


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


def test_a_sweep_says_which_hyper_parameter_changes_nothing(runs, capsys):
    """As one that is declared and never read. One that matters in some runs is not named."""
    found = [{'c': 1, 'smax': 25}, {'c': 1, 'smax': 400}, {'c': 4, 'smax': 25}, {'c': 4, 'smax': 400}]
    paths = [runs.folder / f'mixture_hat_0_c={each["c"]}_smax={each["smax"]}.txt' for each in found]
    for matters in False, True:
        for each, path in zip(found, paths, strict=True):
            accuracy = JOINT * (1 - each['c'] / 100 - matters * (each == found[0]) / 100)
            runs('hat', 0, accuracy, each, path.stem, valid_accuracy=accuracy.tolist())
        work.report(list(map(finished, paths)))
        lines = [line for line in capsys.readouterr().out.splitlines() if 'changes nothing' in line]
        expected = 'smax changes nothing: runs that differ in it alone have the same losses and accuracies'
        assert lines == ([] if matters else [expected])
    work.report([finished(paths[0])])
    assert 'nothing' not in capsys.readouterr().out


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


def test_figure_4_has_the_marks_of_all_its_runs(runs):
    """Of a row without a name of its values, too."""
    diverged = [{'task': 'svhn', 'epoch': 1, 'what': 'no progress'}]
    runs('hat', 0, JOINT, {'c': 4}, 'mixture_hat_0_c=4')
    runs('hat', 0, JOINT, diverged=diverged)
    (_, (caption, _)), *_ = sweeps(Collection('mixture', runs.folder, ['hat'], [0]))
    assert caption.startswith('Hyper-parameters of hat! (Fig. 4)')


def test_figure_4_shows_a_value_of_zero(runs):
    """HAT without its regularization. On an axis of logarithms 0 is infinitely far, and the others are one point."""
    for c in 0.1, 1:
        runs('hat', 0, JOINT, {'c': c}, f'mixture_hat_0_c={c}')
    runs('hat', 0, JOINT, {'c': 0})
    (_, (_, figure)), *_ = sweeps(Collection('mixture', runs.folder, ['hat'], [0]))
    (axes,) = figure.axes
    figure.draw_without_rendering()
    places = axes.transAxes.inverted().transform(axes.transData.transform(axes.lines[0].get_xydata()))[:, 0]
    assert axes.lines[0].get_xdata().tolist() == [0, 0.1, 1]
    assert (np.diff(places) > 0.2).all()

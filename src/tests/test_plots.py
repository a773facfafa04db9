"""The numbers and files that plot_results.py makes from res/."""

import numpy as np
import pytest
from scipy import stats

import plot_results
import results
from errors import exit_code

JOINT, RANDOM = np.array([[0.9, 0], [0.8, 0.9]]), np.array([[0.1, 0], [0.1, 0.2]])


def test_forgetting_ratio_equals_a_computation_by_hand(tmp_path):
    """Eq. 6, of matrices as they stand in the files of res/."""
    accuracy, joint, random_ = np.zeros((3, 2, 2))
    accuracy[0, 0], accuracy[1] = 0.9, [0.5, 0.8]
    joint[0, 0], joint[1] = 0.9, [0.8, 0.9]
    random_[0, 0], random_[1] = 0.1, [0.1, 0.2]
    np.savetxt(tmp_path / 'a.txt', accuracy, '%.4f')
    rho = results.forgetting_ratio(results.read_matrix(tmp_path / 'a.txt'), joint, random_)
    first, second = (0.5 - 0.1) / (0.8 - 0.1) - 1, (0.8 - 0.2) / (0.9 - 0.2) - 1
    assert rho == pytest.approx([0, (first + second) / 2])
    assert results.forgetting_ratio(random_, joint, random_) == pytest.approx([-1, -1])


@pytest.fixture
def res(tmp_path):
    """Matrices of three seeds, as the original code leaves them: no .json. One run of ewc is not finished."""
    for seed in 0, 1, 2:
        for name, accuracy in ('joint', JOINT), ('random', RANDOM), ('hat', JOINT - 0.01 * seed), ('sgd', JOINT / 2):
            np.savetxt(tmp_path / f'mixture_{name}_{seed}.txt', np.tril(accuracy), '%.4f')
    np.savetxt(tmp_path / 'mixture_ewc_0.txt', [[0.9, 0], [0, 0]], '%.4f')
    return tmp_path


def test_table_1_is_the_mean_the_deviation_and_students_interval(res, capsys):
    command = ['--experiment', 'mixture', '--res', str(res), '--seeds', '0-2', '--approaches', 'sgd,hat,ewc']
    assert exit_code('plot_results.py', plot_results.main, command) == 0
    out = capsys.readouterr().out
    assert out.startswith('missing or not finished: mixture_ewc_0 mixture_ewc_1 mixture_ewc_2\n\n')
    drops = np.array([0, 0.01, 0.02]) * (1 / 0.7 + 1 / 0.7) / 2
    rho = f'{-drops.mean():.2f} ({drops.std(ddof=1):.2f}) ±{plot_results.interval(drops):.2f}'
    hat, sgd = out.splitlines()[-2:]
    assert hat.split()[:2] == ['hat', '3'] and rho in hat and sgd.split()[:2] == ['sgd', '3']


def test_interval_is_scipys():
    values = np.random.default_rng(0).normal(size=7)
    low, high = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert plot_results.interval(values) == pytest.approx((high - low) / 2)
    assert np.isnan(plot_results.interval(values[:1]))


def test_files_are_made(res, tmp_path):
    command = ['--experiment', 'mixture', '--res', str(res), '--seeds', '0-2', '--output', str(tmp_path / 'fig')]
    assert exit_code('plot_results.py', plot_results.main, command) == 0
    names = {path.name for path in (tmp_path / 'fig').iterdir() if path.stat().st_size}
    assert names == {'table1.txt', 'table1.md', 'table1.tex', 'fig3.png', 'fig3.pdf'}
    assert r'$\rho^{\leq 2}$' in (tmp_path / 'fig' / 'table1.tex').read_text()
    assert (tmp_path / 'fig' / 'table1.md').read_text().splitlines()[2].startswith('| hat | 3 | ')


@pytest.mark.parametrize(
    'content, message',
    [('0.1 much', 'cannot be read'), ('0.1 0.2', '1 rows of 2 are not an accuracy matrix')],
)
def test_a_file_that_is_no_matrix_is_named(res, capsys, content, message):
    (res / 'mixture_hat_1.txt').write_text(content)
    assert exit_code('plot_results.py', plot_results.main, ['--experiment', 'mixture', '--res', str(res)]) == 2
    err = capsys.readouterr().err
    assert message in err and 'mixture_hat_1.txt' in err


def test_without_the_references_there_is_nothing_to_show(tmp_path, capsys):
    np.savetxt(tmp_path / 'mixture_hat_0.txt', JOINT)
    assert exit_code('plot_results.py', plot_results.main, ['--experiment', 'mixture', '--res', str(tmp_path)]) == 2
    assert 'needs joint and random of the same seed' in capsys.readouterr().err

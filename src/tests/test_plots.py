"""The numbers, tables, figures and the page that plot_results.py makes from res/."""

import json
import os
import shutil

import numpy as np
import pytest
from scipy import stats

import plot_results
import results
import tables
from approaches import APPROACHES
from collection import Collection
from errors import exit_code
from figures import draw

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


def plot(res, *more):
    command = ['--experiment', 'mixture', '--res', res, '--seeds', '0-2', *more]
    return exit_code('plot_results.py', plot_results.main, list(map(str, command)))


def test_table_1_is_the_mean_the_deviation_and_students_interval(res, capsys):
    assert plot(res, '--approaches', 'sgd,hat,ewc') == 0
    out = capsys.readouterr().out
    assert out.startswith('missing or not finished: mixture_ewc_{0,1,2}\n\n')
    drops = np.array([0, 0.01, 0.02]) * (1 / 0.7 + 1 / 0.7) / 2
    rho = f'{-drops.mean():.2f} ({drops.std(ddof=1):.2f}) ±{tables.interval(drops):.2f}'
    hat, sgd = out.splitlines()[-2:]
    assert hat.split()[:2] == ['hat', '3'] and rho in hat and sgd.split()[:2] == ['sgd', '3']
    assert '84.0 (1.0) ±2.5' in hat and '-10.0 (0.0) ±0.0' in hat and hat.endswith(' -')  # A<=2, BWT, no FWT


def test_interval_is_scipys():
    values = np.random.default_rng(0).normal(size=7)
    low, high = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert tables.interval(values) == pytest.approx((high - low) / 2)
    assert np.isnan(tables.interval(values[:1]))


def test_transfer_and_average_accuracy_equal_a_computation_by_hand():
    accuracy = np.array([[0.9, 0, 0], [0.7, 0.8, 0], [0.6, 0.9, 0.5]])
    assert results.average_accuracies(accuracy) == pytest.approx([0.9, 0.75, 2 / 3])
    assert results.backward_transfer(accuracy) == pytest.approx((-0.3 + 0.1) / 2)
    assert results.forward_transfer([0.3, 0.2, 0.4], [0.1, 0.1, 0.2]) == pytest.approx((0.1 + 0.2) / 2)
    assert results.backward_transfer(accuracy[:1, :1]) == results.forward_transfer([0.1], [0.1]) == 0


def test_files_are_made(res, tmp_path):
    assert plot(res, '--output', tmp_path / 'fig') == 0
    names = {path.name for path in (tmp_path / 'fig').iterdir() if path.stat().st_size}
    figures = {f'{name}.{suffix}' for name in ('fig3', 'accuracy', 'matrices') for suffix in ('png', 'pdf')}
    assert names == {'table1.txt', 'table1.md', 'table1.tex', *figures}
    latex = (tmp_path / 'fig' / 'table1.tex').read_text()
    assert r'$\rho^{\leq 2}$' in latex and r'$A^{\leq 2}$, \%' in latex
    assert (tmp_path / 'fig' / 'table1.md').read_text().splitlines()[3].startswith('| hat | 3 | ')  # after joint


def test_the_original_codes_name_of_pnn_is_known(res, capsys):
    (res / 'mixture_hat_0.txt').rename(res / 'mixture_progressive_0.txt')
    assert plot(res, '--approaches', 'pnn') == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:3] == ['pnn', '1', '0.00']


@pytest.mark.parametrize(
    'content, message',
    [('0.1 much', 'cannot be read'), ('0.1 0.2', '1 rows of 2 are not an accuracy matrix')],
)
def test_a_file_that_is_no_matrix_is_named(res, capsys, content, message):
    (res / 'mixture_hat_1.txt').write_text(content)
    assert plot(res) == 2
    err = capsys.readouterr().err
    assert message in err and 'mixture_hat_1.txt' in err


def test_without_the_references_there_is_no_ratio(res, capsys):
    (res / 'mixture_joint_1.txt').unlink()
    assert plot(res, '--approaches', 'hat', '--seeds', '1') == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == 'missing or not finished: mixture_joint_{1}'
    assert out[-1].split()[:4] == ['hat', '1', '-', '84.0']


def record(folder, name, **content):
    (folder / f'{name}.json').write_text(json.dumps({'arguments': {'approach': 'hat'}} | content))


def test_a_run_whose_last_row_is_zero_is_finished_if_its_record_is_there(res, capsys):
    record(res, 'mixture_ewc_0')
    assert plot(res, '--approaches', 'ewc') == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == 'missing or not finished: mixture_ewc_{1,2}' and out[-1].split()[:3] == ['ewc', '1', '-1.21']


def test_a_ratio_of_some_of_the_runs_says_of_how_many(res, capsys):
    (res / 'mixture_joint_1.txt').unlink()
    (res / 'mixture_joint_2.txt').unlink()
    assert plot(res, '--approaches', 'hat') == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:5] == ['hat', '3', '0.00', '[n=1]', '84.0']


def test_runs_of_other_tasks_or_another_protocol_are_told(res, capsys):
    tasks = [{'name': 'mnist'}, {'name': 'svhn'}]
    record(res, 'mixture_hat_0', arguments={'nepochs': 9}, tasks=tasks)
    record(res, 'mixture_joint_0', arguments={'nepochs': 30}, tasks=tasks[::-1])
    np.savetxt(res / 'mixture_sgd_1.txt', [[0.5]], '%.4f')
    assert plot(res, '--approaches', 'hat,sgd', '--seeds', '0,1') == 0
    out = capsys.readouterr().out.splitlines()
    assert 'not one protocol: nepochs is 9: hat; 30: joint' in out
    assert 'left out: mixture_sgd_1.txt: 1 of 2 tasks' in out
    hat = next(line.split() for line in out if line.startswith('hat'))
    assert hat[:4] == ['hat', '2', '-0.01', '[n=1]']  # of seed 1 alone: joint has learned other tasks with seed 0


@pytest.mark.filterwarnings('error')
def test_joint_training_at_chance_gives_no_number_but_no_fall(res, capsys):
    for seed in 0, 1, 2:
        np.savetxt(res / f'mixture_joint_{seed}.txt', np.tril(RANDOM), '%.4f')
    assert plot(res, '--approaches', 'random,hat') == 0
    out, err = capsys.readouterr()
    assert err == '' and 'nan' in out


def test_of_single_tasks_each_has_its_line(tmp_path, capsys):
    for seed, name, hat, sgd in (0, 'facescrub', 0.25, 0.5), (1, 'notmnist', 0.75, 0.875):
        for approach, accuracy in ('hat', hat), ('sgd', sgd):
            np.savetxt(tmp_path / f'mixture_{approach}_{seed}.txt', [[accuracy]], '%.4f')
            record(tmp_path, f'mixture_{approach}_{seed}', tasks=[{'name': name}])
    assert plot(tmp_path, '--approaches', 'hat,sgd', '--seeds', '0,1') == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [['0', 'facescrub', '25.0', '50.0'], ['1', 'notmnist', '75.0', '87.5']]


def test_no_results_at_all_is_one_line(tmp_path, capsys):
    assert plot(tmp_path) == 2
    assert f'--res: no finished run of mixture in {tmp_path}' in capsys.readouterr().err


WEIGHTS = [100, 300]


def watched(tmp_path, name, parameter, accuracy):
    """A made-up run of hat: two tasks, two layers, two epochs each."""
    epochs = [[{'valid_accuracy': 0.1 * e + 0.5, 'active': [10 * e, 30], 'capacity': [10 * e + 50 * t, 60 * e]}
               for e in (1, 2)] for t in (0, 1)]  # fmt: skip
    monitor = {'weights': WEIGHTS, 'active': [[20, 30], [20, 60]], 'reuse': [[50, 25], [25, 80]]}
    record = {'arguments': {'approach': 'hat', 'parameter': parameter}, 'versions': {'torch': '<9.9>'},
              'tasks': [{'name': 'mnist'}, {'name': 'svhn'}], 'before': [0.1, 0.3], 'initial': [0.1, 0.1],
              'valid_accuracy': [[0.8, 0], [0.8, 0.9]], 'epochs': epochs, 'monitor': monitor}  # fmt: skip
    np.savetxt(tmp_path / f'{name}.txt', np.tril(accuracy), '%.4f')
    (tmp_path / f'{name}.json').write_text(json.dumps(record))


@pytest.fixture
def full(res):
    """Runs with records, and work.py's sweeps of c and smax."""
    default = {name: p.default for name, p in APPROACHES['hat'].parameters.items()}
    watched(res, 'mixture_hat_0', default, JOINT)
    watched(res, 'mixture_sgd_0', {}, JOINT / 2)
    for c, drop in (0.1, 0.2), (0.75, 0), (4, 0.4):
        watched(res, f'mixture_hat_0_c={c:g}', default | {'c': c}, JOINT - drop * 0.7)
    watched(res, 'mixture_hat_0_c=4.old-1', default | {'c': 4}, JOINT / 3)  # replaced since
    for smax in 25, 400:
        watched(res, f'mixture_hat_0_smax={smax}', default | {'smax': smax}, JOINT)
    watched(res, 'mixture_hat_0_c=1_smax=25', default | {'smax': 25, 'c': 1}, JOINT)  # two values differ: in no panel
    return res


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_figures_show_the_numbers_of_the_records(full):
    runs = Collection('mixture', full, ['hat', 'sgd', 'joint'], [0, 1, 2])
    figures = {name: figure for name, (caption, figure) in draw(runs)}
    assert figures.keys() == {'fig3', 'accuracy', 'fig4-hat-0', 'fig5', 'fig6', 'active', 'fig7', 'matrices'}
    lines = {line.get_label(): line.get_ydata() for line in figures['fig3'].axes[0].lines}
    assert lines.keys() == {'hat', 'sgd'}
    close(lines['hat'], runs.merits['hat']['rho'].mean(0))
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
    dots, sgd = figures['fig7'].axes[0].lines[:2]
    close(dots.get_xydata(), [[10, 60], [12.5, 70]])
    assert (sgd.get_xdata()[0], sgd.get_ydata()[0]) == (100, 80)
    for name, figure in figures.items():
        axes = figure.axes[0]
        assert axes.get_ylabel() and (axes.get_xlabel() or name == 'active')


BROWSER = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')


@pytest.fixture
def browser():
    api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    if not BROWSER:
        pytest.skip('there is no Chromium')
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=['--no-sandbox'] if os.getuid() == 0 else [])
        yield browser
        browser.close()


def test_the_page_opens_from_disk_sorts_and_shows_its_figures(full, tmp_path, browser):
    page_path = tmp_path / 'page.html'
    assert plot(full, '--html', page_path) == 0
    page, said, asked = browser.new_page(), [], []
    page.on('console', lambda message: said.append(message.text))
    page.on('pageerror', lambda error: said.append(str(error)))
    page.on('request', lambda request: asked.append(request.url))
    page.goto(page_path.as_uri())
    images = page.locator('figure img')
    sizes = images.evaluate_all('all => all.map(i => [i.complete, i.naturalWidth, i.clientHeight])')
    assert len(sizes) == 8 and all(complete and width > 300 and height > 100 for complete, width, height in sizes)

    def column(n):
        return page.locator(f'tbody tr td:nth-child({n})').all_inner_texts()

    assert column(1) == ['joint', 'hat', 'sgd', 'random']
    page.click('th:nth-child(4) button')  # accuracy
    values = [float(text.split()[0]) for text in column(4)]
    assert values == sorted(values) and column(1)[0] == 'random'
    page.click('th:nth-child(4) button')
    assert [float(text.split()[0]) for text in column(4)] == values[::-1]
    page.click('th:nth-child(1) button')
    assert column(1) == sorted(column(1))
    page.click('th:nth-child(6) button')  # FWT: those that have none come last
    assert sorted(column(1)[:2]) == ['hat', 'sgd'] and column(6)[2:] == ['-', '-']
    page.click('#hat + details summary')
    assert '"torch": "<9.9>"' in page.locator('#hat + details pre').inner_text()
    assert page.locator('td a').first.get_attribute('href') in ('#hat', '#sgd')
    assert not said
    assert [url for url in asked if not url.startswith('data:')] == [page_path.as_uri()]

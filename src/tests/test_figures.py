"""The figures and pages that plot_results.py makes from res/."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from invented import JOINT, RANDOM, task
from matplotlib.figure import Figure
from test_tables import plot

import plot_results
from approaches import APPROACHES
from reports import charts
from reports.collection import Collection
from reports.figures import compression_curves, draw


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


@pytest.mark.parametrize('losses', [(2.6, 4.6), (3.1, 3.9), (5.5, 9.5), (0.01, 3), (2.45, 2.46)])
def test_the_axis_of_losses_has_numbers(losses):
    """As those of 100 classes, which may all be between 2.5 and 5."""
    epochs = [{'valid_accuracy': 0.1, 'train_loss': loss, 'valid_loss': loss} for loss in losses]
    figure = charts.learning(['cifar100'], [epochs])
    figure.draw_without_rendering()
    axis, (low, high) = figure.axes[1].yaxis, figure.axes[1].get_ylim()
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    assert sum(bool(tick.label1.get_text()) for tick in ticks if low <= tick.get_loc() <= high) >= 2


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


def test_the_learning_curves_of_a_run_that_diverged_at_once_are_drawn():
    """Without a loss that is finite, its logarithmic axis has no limits of its own."""
    epoch = {'train_loss': None, 'valid_loss': None, 'valid_accuracy': 0.1}
    charts.learning(['svhn', 'mnist'], [[epoch, epoch], [epoch]]).savefig(io.BytesIO())


@pytest.mark.slow
def test_figure_2_shows_that_open_gates_close_more_slowly_than_closed_ones_open(tmp_path, capsys):
    assert plot_results.main(['--fig2', '--output', str(tmp_path / 'new' / 'figures')]) is None
    out = capsys.readouterr().out
    assert 'released  sum over an epoch at e = -1: 8019, at e = 1: 27' in out
    assert 'exact     sum over an epoch at e = -1: 8019, at e = 1: 8019' in out
    assert {p.name for p in (tmp_path / 'new' / 'figures').iterdir()} == {'fig2.png', 'fig2.pdf'}
    plot_results.main(['--fig2', '--smax', '1e-3', '--output', str(tmp_path)])
    assert 'exact     sum over an epoch at e = -1: 0.008' in capsys.readouterr().out  # not 0


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

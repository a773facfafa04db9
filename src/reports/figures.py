"""Which figures a Collection of runs gives: Figs. 3 to 7 of the paper, and heat maps."""

import numpy as np

from core.files import atomic
from reports import charts
from reports.collection import REFERENCES
from reports.tables import best_first


def draw(runs):
    """Yield (name, (caption, matplotlib Figure)) for all that there is something to draw of."""
    methods = [name for name in runs.shown if name not in REFERENCES]
    if runs.n_tasks > 1 and runs.shown:
        if rho := {name: runs.merits[name]['rho'] for name in methods if len(runs.merits[name]['rho'])}:
            caption = 'Forgetting ratio (Eq. 6, Fig. 3), mean over the runs.'
            yield 'fig3', (caption, charts.curves(means(runs, rho), charts.RATIO.format('t')))
        average = {name: 100 * merit['accuracy'] for name, merit in runs.merits.items()}
        caption = 'Average accuracy A≤t on the tasks learned so far, mean over the runs.'
        yield 'accuracy', (caption, charts.curves(means(runs, average), 'average accuracy A≤t, %'))
        yield 'matrices', matrices(runs)
    yield from sweeps(runs)
    watched = {seed: r for seed, r in runs.shown.get('hat', {}).items() if r.record.get('monitor')}
    watched = {seed: r for seed, r in watched.items() if all(r.record['epochs'])}
    if watched:
        yield from monitor(*next(iter(watched.items())))
        caption = 'Accuracy and compression while the first task is learned (Fig. 7).'
        yield 'fig7', (caption, charts.compression(compressed(runs, watched)))


def sweeps(runs):
    """As draw(), of work.py's results: Fig. 4."""
    for name, swept in runs.swept.items():
        for seed in runs.seeds:
            if panels := runs.sweeps(name, seed):
                label = name + runs.marks(swept[seed])
                caption = f'Hyper-parameters of {label} (Fig. 4), each with the others at their defaults, seed {seed}.'
                yield f'fig4-{name}-{seed}', (caption, charts.sweep(panels, runs.n_tasks))


NAMES = 'fig3', 'accuracy', 'matrices', 'fig5', 'fig6', 'fig7', 'active'  # of what draw() may give


def remove_old(folder):
    """Figures of an earlier time: there may be none of them now."""
    for path in [folder / f'{name}.{suffix}' for name in NAMES for suffix in ('png', 'pdf')]:
        path.unlink(missing_ok=True)


def save(figures, folder):
    """Each of what draw() gives as .png and .pdf."""
    for name, (_, figure) in figures.items():
        for suffix in 'png', 'pdf':
            with atomic(folder / f'{name}.{suffix}') as part:
                figure.savefig(part, format=suffix, dpi=120)


def means(runs, series):
    return {runs.label(name): series[name].mean(0) for name in best_first(series)}


def matrices(runs):
    """Of the first seed, and of runs of the same tasks in the same order."""
    seed = min(seed for results in runs.shown.values() for seed in results)
    first = next(results[seed] for results in runs.shown.values() if seed in results)
    panels = {}
    for name, results in runs.shown.items():
        if seed in results and results[seed].tasks == first.tasks:
            lower = np.where(np.tri(runs.n_tasks), results[seed].accuracy, np.nan)
            panels[name + runs.marks([results[seed]])] = 100 * lower, first.tasks, first.tasks
    caption = f'Accuracy matrices: tests on each task so far, after learning each; seed {seed}.'
    return caption, charts.heat_maps(panels, 'test accuracy, %', 3, 'on task', 'after task')


def monitor(seed, result):
    """Section 4.4, of one run of hat."""
    facts = result.record['monitor']
    weights, reuse = np.array(facts['weights']), np.array(facts['reuse'], float)
    tasks, title = [f'{t} {name}' for t, name in enumerate(result.tasks, 1)], f'seed {seed}'
    used = [[epoch['capacity'] for epoch in epochs] for epochs in result.record['epochs']]
    caption = f'Share of the weights that HAT uses, for the tasks so far, while it learns (Fig. 5), {title}.'
    yield 'fig5', (caption, charts.capacity(result.tasks, used, weights))
    if len(tasks) > 1:
        share = 100 * reuse / np.maximum(reuse.diagonal(), 1)[:, None]
        share[np.tril_indices(len(share))] = np.nan
        figure = charts.heat_maps({title: (share, tasks, tasks)}, 'weights used again, %', 1, 'in task', 'of task')
        yield 'fig6', (f'How many of the weights of a task later tasks use again (Fig. 6), {title}.', figure)
    layers = [f'layer {l + 1}' for l in range(len(weights))]
    panel = {title: (100 * np.array(facts['active']) / weights, tasks, layers)}
    figure = charts.heat_maps(panel, 'weights in use, %', 1, '', 'task')
    yield 'active', (f'Weights in use by each task, {title}.', figure)


def compressed(runs, watched):
    """Of each run's first task, by its name: what charts.compression wants."""
    series = {}
    for seed, r in watched.items():
        whole = sum(r.record['monitor']['weights'])
        kept = [100 * sum(epoch['active']) / whole for epoch in r.record['epochs'][0]]
        accuracy = 100 * np.array([epoch['valid_accuracy'] for epoch in r.record['epochs'][0]], float)  # None is nan
        sgd, plain = runs.get('sgd', seed), None
        if sgd and sgd.like(r) and 'valid_accuracy' in sgd.record:
            plain = 100 * np.array(sgd.record['valid_accuracy'][0][0], float)
        series.setdefault(r.tasks[0], (kept, accuracy, plain))
    return series

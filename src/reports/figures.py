"""The figures of a Collection of runs: Figs. 3 to 7 of the paper, and heat maps."""

import json
from collections import Counter

import numpy as np

from core.files import atomic, digest
from reports import charts
from reports.collection import REFERENCES
from reports.tables import best_first


def draw(collection):
    """Yield (name, (caption, matplotlib Figure)) for each figure that the runs have data for."""
    methods = [name for name in collection.selected if name not in REFERENCES]
    if collection.n_tasks > 1 and collection.selected:
        metrics = collection.metrics
        if rho := {name: metrics[name]['rho'] for name in methods if len(metrics[name]['rho'])}:
            caption = 'Forgetting ratio (Eq. 6, Fig. 3), mean over the runs.'
            yield 'fig3', (caption, charts.curves(means(collection, rho), charts.RATIO.format('t')))
        average = {name: 100 * values['accuracy'] for name, values in metrics.items()}
        caption = 'Average accuracy A≤t on the tasks learned so far, mean over the runs.'
        yield 'accuracy', (caption, charts.curves(means(collection, average), 'average accuracy A≤t, %'))
        yield 'matrices', matrices(collection)
    yield from sweeps(collection)
    if runs := monitored(collection):
        yield from monitor(*next(iter(runs.items())))
    yield from compression(collection)


def monitored(collection):
    """The runs of HAT whose records say which weights are in use: seed -> Result."""
    runs = collection.selected.get('hat', {}).items()
    return {seed: r for seed, r in runs if r.record.get('monitor') and all(r.record['epochs'])}


def compression(collection):
    """As draw(), from runs of one task each: Fig. 7."""
    if collection.n_tasks == 1 and (runs := monitored(collection)):
        caption = 'Accuracy and compression while a task is learned alone (Fig. 7).'
        yield 'fig7', (caption, charts.compression(compression_curves(collection, runs)))


def sweeps(collection):
    """As draw(), from the runs of work.py: Fig. 4."""
    for name in collection.sweep_runs:
        for seed in collection.seeds:
            if panels := collection.sweep_curves(name, seed):
                label = name + collection.marks(collection.sweep(name, seed))
                caption = f'Hyper-parameters of {label} (Fig. 4), each with the others at their defaults, seed {seed}.'
                yield f'fig4-{name}-{seed}', (caption, charts.sweep(panels, collection.n_tasks))


def published(setups):
    """As draw(), from the setups of .results/: Fig. 3 of each with a ratio, Fig. 4 of each with a sweep, Fig. 7
    of each compression experiment, and the ratio against the width."""
    points = {}  # experiment, number of its tasks, all else in which runs must agree -> approach -> width -> ratio
    for setup in setups:
        collection = setup.collection
        rho = {name: m['rho'] for name, m in collection.metrics.items() if len(m['rho']) and name not in REFERENCES}
        if rho:
            caption = f'Forgetting ratio (Eq. 6, Fig. 3), mean over the runs: {setup.about["title"]}.'
            figure = charts.curves(means(collection, rho), charts.RATIO.format('t'))
            yield f'{setup.name}-fig3', (caption, figure)
        more = *sweeps(collection), *compression(collection)
        yield from ((f'{setup.name}-{name}', figure) for name, figure in more)
        for name, ratios in rho.items():
            first = next(iter(collection.selected[name].values()))
            if first.chosen != 'defaults':  # a setup of their own, beside which there may be one of the defaults
                continue
            facts = first.facts.copy()
            width, which = facts.pop('width'), (collection.experiment, collection.n_tasks)
            which += (json.dumps(facts, sort_keys=True),)
            points.setdefault(which, {}).setdefault(name, {})[width] = ratios[:, -1].mean()
    for (experiment, n_tasks, _), approaches in points.items():
        series = {name: (name, *zip(*sorted(ratios.items()), strict=True)) for name, ratios in approaches.items()}
        widths = sorted({width for ratios in approaches.values() for width in ratios})
        if len(widths) > 1:
            figure = charts.lines(series, ylabel=charts.RATIO.format(n_tasks), xlabel='width of the hidden layers',
                                  xticks=widths)  # fmt: skip
            yield f'{experiment}-width', (f'Forgetting ratio on {experiment} against the width of the network.', figure)


NAMES = 'fig3', 'accuracy', 'matrices', 'learning', 'fig5', 'fig6', 'fig7', 'active'  # all but those of work.py


def remove_old(folder):
    """Remove the figures NAMES of an earlier call: this one may not make them again."""
    for path in [folder / f'{name}.{suffix}' for name in NAMES for suffix in ('png', 'pdf')]:
        path.unlink(missing_ok=True)


def save(figures, folder):
    """Write each figure of draw() as .png and .pdf, with a digest of its numbers."""
    for name, (_, figure) in figures.items():
        for suffix in 'png', 'pdf':
            with atomic(folder / f'{name}.{suffix}') as part:
                figure.savefig(part, format=suffix, dpi=120, metadata={'Subject': numbers(figure)})


def numbers(figure):
    """A digest of the points of its lines: does a file still show what the results say?"""
    lines = [line for axes in figure.axes for line in axes.lines]
    points = [(line.get_label(), (line.get_xydata().round(4) + 0.0).tolist()) for line in lines]  # never -0.0
    return digest(repr(points).encode()).hex()


def means(collection, series):
    """The series of charts.curves: name -> (label, mean over the runs)."""
    return {name: (collection.label(name), series[name].mean(0)) for name in best_first(series)}


def matrices(collection):
    """The accuracy matrices of the first seed, of runs of the same tasks in the same order."""
    selected = collection.selected
    seed = min(seed for runs in selected.values() for seed in runs)
    first = next(runs[seed] for runs in selected.values() if seed in runs)
    panels = {}
    for name, runs in selected.items():
        if seed in runs and runs[seed].tasks == first.tasks:
            panels[name + collection.marks([runs[seed]])] = runs[seed]
    return accuracy_matrices(panels, f'seed {seed}')


def accuracy_matrices(panels, title):
    """panels: title -> Result, of the same tasks."""
    panels = {name: (100 * np.where(np.tri(len(r.tasks)), r.accuracy, np.nan), r.tasks, r.tasks)
              for name, r in panels.items()}  # fmt: skip
    caption = (
        f'Accuracy matri{"ces" if len(panels) > 1 else "x"}: tests on each task so far, after learning each; {title}.'
    )
    return caption, charts.heat_maps(panels, 'test accuracy, %', 3, 'on task', 'after task')


def monitor(seed, result):
    """As draw(), from one run of HAT: capacity and reuse (section 4.4)."""
    record = result.record['monitor']
    weights, reuse = np.array(record['weights']), np.array(record['reuse'], float)
    tasks, title = [f'{t} {name}' for t, name in enumerate(result.tasks, 1)], f'seed {seed}'
    used = [[epoch['capacity'] for epoch in epochs] for epochs in result.record['epochs']]
    caption = f'Share of the weights in use by the tasks so far, while HAT learns (Fig. 5), {title}.'
    yield 'fig5', (caption, charts.capacity(result.tasks, used, weights))
    if len(tasks) > 1:
        share = 100 * reuse / np.maximum(reuse.diagonal(), 1)[:, None]
        share[np.tril_indices(len(share))] = np.nan
        figure = charts.heat_maps({title: (share, tasks, tasks)}, 'weights reused, %', 1, 'in task', 'of task')
        yield 'fig6', (f'Share of the weights of a task that later tasks reuse (Fig. 6), {title}.', figure)
    layers = [f'layer {l + 1}' for l in range(len(weights))]
    panel = {title: (100 * np.array(record['active']) / weights, tasks, layers)}
    figure = charts.heat_maps(panel, 'weights in use, %', 1, '', 'task')
    yield 'active', (f'Weights in use by each task, {title}.', figure)


def compression_curves(collection, runs):
    """The series of charts.compression: the first task of each run of HAT, by its name, of several also by the seed."""
    series, n_runs = {}, Counter(r.tasks[0] for r in runs.values())
    for seed, r in runs.items():
        whole = sum(r.record['monitor']['weights'])
        kept = [100 * sum(epoch['active']) / whole for epoch in r.record['epochs'][0]]
        accuracy = 100 * np.array([epoch['valid_accuracy'] for epoch in r.record['epochs'][0]], float)  # None is nan
        sgd, sgd_accuracy = collection.get('sgd', seed), None
        if sgd and sgd.like(r) and 'valid_accuracy' in sgd.record:
            sgd_accuracy = 100 * np.array(sgd.record['valid_accuracy'][0][0], float)
        name = r.tasks[0] if n_runs[r.tasks[0]] == 1 else f'{r.tasks[0]}, seed {seed}'
        series[name] = kept, accuracy, sgd_accuracy
    return series

"""The tables, each a header and lines of cells, from a Collection of runs."""

import numpy as np
from scipy import stats

from core.comparison import agree

LEVEL = 0.95  # of the confidence interval
PRUNED = ['task', 'accuracy, %', 'weights kept, %', 'file, MB', 'ms an image, one at a time', '256 at a time']


def table_1(collection):
    """Mean, standard deviation and 95 % interval over the runs of each approach, by descending forgetting ratio; None
    of single tasks, which are not forgotten."""
    lines, t = [], collection.n_tasks
    for name in best_first({name: values['rho'] for name, values in collection.metrics.items()}):
        values, n = collection.metrics[name], len(collection.selected[name])
        columns = {f'rho<={u}': spread(values['rho'][:, u - 1 : u].ravel(), 2, n) for u in (min(2, t), t)}
        columns[f'A<={t}, %'] = spread(100 * values['accuracy'][:, -1], 1, n)
        columns |= {f'{key}, points': spread(100 * values[key], 1, n) for key in ('BWT', 'FWT')}
        lines.append([collection.label(name), str(n), *columns.values()])
    return (['approach', 'n', *columns], lines) if lines and t > 1 else None


def best_first(series):
    """Names by descending mean of the last column, then those without values. series: name -> (n, T)."""
    last = {name: values[:, -1].mean() if len(values) else np.nan for name, values in series.items()}
    return sorted(series, key=lambda name: -np.nan_to_num(last[name], nan=-np.inf, neginf=-np.inf))


def single_tasks(collection):
    """The accuracy of each approach on the single task that each run has learned; None of several tasks."""
    accuracy = {}
    for name, runs in collection.selected.items():
        for seed, result in runs.items():
            accuracy.setdefault((str(seed), result.tasks[0]), {})[name] = number(100 * result.accuracy[0, 0], 1)
    lines = [[*key, *(row.get(name, '-') for name in collection.selected)] for key, row in accuracy.items()]
    header = ['seed', 'task', *(f'{collection.label(name)}: accuracy, %' for name in collection.selected)]
    return (header, lines) if lines and collection.n_tasks == 1 else None


def pruned(collection):
    """The networks that prune.py has cut from these runs, beside plain SGD of the same seed right after it has learned
    the task; None without any."""
    lines = []
    for seed, result, report in collection.pruned:
        sgd, (name, *row) = collection.get('sgd', seed), pruned_row(report)
        accuracy = '-'
        if sgd and name in sgd.tasks and agree(sgd.facts, result.facts):
            t = sgd.tasks.index(name)
            accuracy = f'{number(100 * sgd.accuracy[t, t], 1)}{collection.marks([sgd])}'
        lines.append([str(seed), name + collection.marks([result]), accuracy, *row])
    return (['seed', PRUNED[0], 'SGD: accuracy, %', *PRUNED[1:]], lines) if lines else None


def times(collection):
    """Mean and standard deviation of times over the runs of each approach, and the devices they ran on."""
    lines = []
    for name, runs in collection.selected.items():
        records = [r.record for r in runs.values() if 'times' in r.record]
        times = [record['times'] | {'epochs': sum(record['times']['epochs'], [])} for record in records]
        columns = {
            ('run, min', 2): [time['total'] / 60 for time in times],
            ('training, min', 2): [sum(time['epochs']) / 60 for time in times],
            ('an epoch, s', 3): [np.mean(time['epochs']) for time in times if time['epochs']],
            ('epochs', 0): [len(time['epochs']) for time in times],
        }
        devices = dict.fromkeys(device for record in records for device in record.get('devices', []))
        cells = [mean_cell(v, digits) if v else '-' for (_, digits), v in columns.items()]
        if records:
            lines.append([collection.label(name), str(len(records)), *cells, '; '.join(devices) or '-'])
    return (['approach', 'n', *(name for name, _ in columns), 'device'], lines) if lines else None


def interval(values):
    """Half the width of Student's confidence interval of the mean; nan for a single value."""
    n = len(values)
    return stats.t.ppf((1 + LEVEL) / 2, n - 1) * stats.sem(values) if n > 1 else np.nan


def spread(values, digits, n):
    """'mean (standard deviation) ±interval'; with the number of values if it is not that of the runs, n."""
    if not len(values):
        return '-'
    if not np.isfinite(values).all():
        return 'nan'
    around = f' ±{interval(values):.{digits}f}' if len(values) > 1 else ''
    of = f' [n={len(values)}]' if len(values) != n else ''
    return f'{mean_cell(values, digits)}{around}{of}'


def mean_cell(values, digits):
    """'mean (standard deviation)'; the mean alone of a single value."""
    deviation = f' ({np.std(values, ddof=1):.{digits}f})' if len(values) > 1 else ''
    return f'{number(np.mean(values), digits)}{deviation}'


def number(value, digits):
    """As text; never -0.0. Of a tie such as 63.55 float64 has a little less: NumPy's round() takes it as the decimal
    number, and ties to the even digit."""
    return f'{np.round(value, digits) + 0.0:.{digits}f}'


def pruned_row(report):
    """The cells under PRUNED of a report of prune.py: before → after, and the speed-up."""
    whole, kept = report['weights']
    size = ' → '.join(f'{n / 1e6:.2f}' for n in report['bytes'])
    times = [f'{a:.3g} → {b:.3g} ({a / b:.1f}x)' for a, b in report['milliseconds'].values()]
    return [report['task'], number(100 * report['accuracy'], 1), number(100 * kept / whole, 1), size, *times]

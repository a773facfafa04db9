"""Tables, each a header and lines of cells, from a Collection of runs; and how they are written."""

import numpy as np
from scipy import stats

from reports.comparison import agree

LEVEL = 0.95  # of the confidence interval
PRUNED = ['task', 'accuracy, %', 'weights kept, %', 'file, MB', 'ms an image, one at a time', '256 at a time']


def table_1(runs):
    """Mean, standard deviation and 95 % interval over the runs of each approach. The best forgetting ratio first."""
    lines, t = [], runs.n_tasks
    for name in best_first({name: merit['rho'] for name, merit in runs.merits.items()}):
        merit, n = runs.merits[name], len(runs.shown[name])
        columns = {f'rho<={u}': spread(merit['rho'][:, u - 1 : u].ravel(), 2, n) for u in (min(2, t), t)}
        columns[f'A<={t}, %'] = spread(100 * merit['accuracy'][:, -1], 1, n)
        columns |= {f'{key}, points': spread(100 * merit[key], 1, n) for key in ('BWT', 'FWT')}
        lines.append([runs.label(name), str(n), *columns.values()])
    return (['approach', 'n', *columns], lines) if lines else None


def best_first(series):
    """Names by the last column's mean, highest first; those of no numbers in the end. series: name -> (n, T)."""
    last = {name: values[:, -1].mean() if len(values) else np.nan for name, values in series.items()}
    return sorted(series, key=lambda name: -np.nan_to_num(last[name], nan=-np.inf, neginf=-np.inf))


def single_tasks(runs):
    """Where each run has learned one task only: its accuracy with each approach."""
    accuracy = {}
    for name, results_ in runs.shown.items():
        for seed, result in results_.items():
            accuracy.setdefault((str(seed), result.tasks[0]), {})[name] = f'{100 * result.accuracy[0, 0]:.1f}'
    lines = [[*key, *(row.get(name, '-') for name in runs.shown)] for key, row in accuracy.items()]
    return (['seed', 'task', *(f'{runs.label(name)}: accuracy, %' for name in runs.shown)], lines) if lines else None


def compression(runs):
    """The networks that prune.py has made of these very runs, beside plain SGD of the same seed; None without any."""
    lines = []
    for seed, result, report in runs.pruned:
        sgd, (name, *row) = runs.get('sgd', seed), pruned_row(report)
        plain = '-'
        if sgd and name in sgd.tasks and agree(sgd.facts, result.facts):
            t = sgd.tasks.index(name)
            plain = f'{100 * sgd.accuracy[t, t]:.1f}{runs.marks([sgd])}'
        lines.append([str(seed), name + runs.marks([result]), plain, *row])
    return (['seed', PRUNED[0], 'SGD: accuracy, %', *PRUNED[1:]], lines) if lines else None


def times(runs):
    """Mean and standard deviation over the runs of each approach, and on what they ran."""
    lines = []
    for name, found in runs.shown.items():
        records = [r.record for r in found.values() if 'times' in r.record]
        each = [record['times'] | {'epochs': sum(record['times']['epochs'], [])} for record in records]
        columns = {
            ('run, min', 2): [time['total'] / 60 for time in each],
            ('training, min', 2): [sum(time['epochs']) / 60 for time in each],
            ('an epoch, s', 3): [np.mean(time['epochs']) for time in each if time['epochs']],
            ('epochs', 0): [len(time['epochs']) for time in each],
        }
        devices = dict.fromkeys(device for record in records for device in record.get('devices', []))
        cells = [f'{np.mean(v):.{digits}f}{deviation(v, digits)}' if v else '-' for (_, digits), v in columns.items()]
        if records:
            lines.append([runs.label(name), str(len(records)), *cells, '; '.join(devices) or '-'])
    return (['approach', 'n', *(name for name, _ in columns), 'device'], lines) if lines else None


def interval(values):
    """Half the width of Student's confidence interval of the mean; nan for a single value."""
    n = len(values)
    if n < 2:
        return np.nan
    return stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n)


def spread(values, digits, n):
    """Mean, standard deviation in parentheses, and confidence interval; how many values, if not of all n runs."""
    if not len(values):
        return '-'
    if not np.isfinite(values).all():
        return 'nan'
    around = f'{deviation(values, digits)} ±{interval(values):.{digits}f}' if len(values) > 1 else ''
    number = f' [n={len(values)}]' if len(values) != n else ''
    return f'{np.mean(values):.{digits}f}{around}{number}'


def deviation(values, digits):
    """The standard deviation, in parentheses; nothing where there is none."""
    return f' ({np.std(values, ddof=1):.{digits}f})' if len(values) > 1 else ''


def pruned_row(report):
    """The cells under PRUNED: a report of prune.py, with before -> after, and how many times as fast."""
    kept, whole = report['weights'][1], report['weights'][0]
    size = ' → '.join(f'{n / 1e6:.2f}' for n in report['bytes'])
    times = [f'{a:.3g} → {b:.3g} ({a / b:.1f}x)' for a, b in report['milliseconds'].values()]
    return [report['task'], f'{100 * report["accuracy"]:.1f}', f'{100 * kept / whole:.1f}', size, *times]

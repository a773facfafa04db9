"""Tables, each a header and lines of cells, from a Collection of runs; and how they are written."""

import re

import numpy as np
from scipy import stats

import results

LEVEL = 0.95  # of the confidence interval
PRUNED = ['task', 'accuracy, %', 'weights kept, %', 'file, MB', 'ms an image, one at a time', '256 at a time']


def table_1(runs):
    """Mean, standard deviation and 95 % interval over the runs of each approach. The best forgetting ratio first."""
    lines, n_tasks = [], runs.n_tasks
    for name, merit in sorted(runs.merits.items(), key=lambda item: -_last(item[1])):
        columns = {f'rho<={t}': spread(merit['rho'][:, t - 1 : t].ravel(), 2) for t in (min(2, n_tasks), n_tasks)}
        columns[f'A<={n_tasks}, %'] = spread(100 * merit['accuracy'][:, -1], 1)
        columns |= {f'{key}, points': spread(100 * merit[key], 1) for key in ('BWT', 'FWT')}
        lines.append([name, str(len(merit['accuracy'])), *columns.values()])
    return ['approach', 'n', *columns], lines


def _last(merit):
    return merit['rho'][:, -1].mean() if len(merit['rho']) else merit['accuracy'][:, -1].mean() - 9  # below all ratios


def compression(runs):
    """The networks that prune.py has made, beside plain SGD of the same seed. None where there are none."""
    lines = []
    for seed, result in runs.found.get('hat', {}).items():
        for t, name in enumerate(result.tasks):
            report = results.read_record(results.pruned_folder(result.txt) / f'{name}.json')
            if report:
                sgd, row = runs.get('sgd', seed), pruned_row(report)
                lines.append([str(seed), row[0], f'{100 * sgd.accuracy[t, t]:.1f}' if sgd else '-', *row[1:]])
    return (['seed', PRUNED[0], 'SGD: accuracy, %', *PRUNED[1:]], lines) if lines else None


def interval(values):
    """Half the width of Student's confidence interval of the mean; nan for a single value."""
    n = len(values)
    if n < 2:
        return np.nan
    return stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n)


def spread(values, digits):
    """Mean, standard deviation in parentheses, and confidence interval; the value, if it is the only one."""
    if not len(values):
        return '-'
    deviation = f' ({np.std(values, ddof=1):.{digits}f}) ±{interval(values):.{digits}f}' if len(values) > 1 else ''
    return f'{np.mean(values):.{digits}f}{deviation}'


def pruned_row(report):
    """The cells under PRUNED: a report of prune.py, with before -> after, and how many times as fast."""
    kept, whole = report['weights'][1], report['weights'][0]
    size = ' → '.join(f'{n / 1e6:.2f}' for n in report['bytes'])
    times = [f'{a:.3g} → {b:.3g} ({a / b:.1f}x)' for a, b in report['milliseconds'].values()]
    return [report['task'], f'{100 * report["accuracy"]:.1f}', f'{100 * kept / whole:.1f}', size, *times]


def text(header, lines):
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    padded = ([cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in [header, *lines])
    return '\n'.join('  '.join(line).rstrip() for line in padded)


def markdown(header, lines):
    return '\n'.join(f'| {" | ".join(line)} |' for line in [header, ['---'] * len(header), *lines])


def latex(header, lines):
    body = [' & '.join(line) + r' \\' for line in [header, *lines]]
    body = [re.sub(r'(rho|A)<=(\d+)', r'$\\\1^{\\leq \2}$', line).replace(r'$\A', '$A') for line in body]
    body = [line.replace('%', r'\%').replace('±', r'$\pm$') for line in body]
    begin, end = rf'\begin{{tabular}}{{l{"r" * (len(header) - 1)}}}', r'\end{tabular}'
    return '\n'.join([begin, body[0], r'\hline', *body[1:], end])

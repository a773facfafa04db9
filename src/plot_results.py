"""Tables and figures from the accuracy matrices in res/: Table 1 and Fig. 3 of the paper.

Only <experiment>_<approach>_<seed>.txt are read, so the original code's results serve, too. Missing runs are named and
left out.
"""

import re
import sys
from pathlib import Path

import numpy as np
from scipy import stats

import results
from approaches import APPROACHES
from arguments import Parser, names, seeds
from dataloaders import EXPERIMENTS
from errors import UserError, exit_code
from files import ROOT

REFERENCES = ('joint', 'random')  # A_J and A_R of Eq. 6
LEVEL = 0.95  # of the confidence interval
MARKERS = 'osv^D<>pXP*h'


def parse(argv):
    parser = Parser(__doc__)
    parser.add_argument('--experiment', required=True, choices=EXPERIMENTS)
    parser.add_argument('--approaches', type=names(APPROACHES), default='all', metavar='X,Y,...', help='(default all)')
    parser.add_argument(
        '--seeds', type=seeds, default='0-9', metavar='N,N-N', help='such as 0-9 or 0,2,5-7 (default 0-9)'
    )
    parser.add_argument('--res', type=Path, default=ROOT / 'res', metavar='DIR', help='the results (default res)')
    parser.add_argument('--output', type=Path, metavar='DIR', help='for table1.txt .md .tex and fig3.png .pdf '
                        '(default: the table is printed, and that is all)')  # fmt: skip
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    matrices = read(args.res, args.experiment, [*args.approaches, *REFERENCES], args.seeds)
    rows = {name: figures(matrices, name) for name in args.approaches if name not in REFERENCES and matrices[name]}
    rows = {name: row for name, row in rows.items() if row}
    if not rows:
        raise UserError(f'--res: nothing to show in {args.res}; each approach needs joint and random of the same seed')
    rows = dict(sorted(rows.items(), key=lambda item: -item[1]['rho'][:, -1].mean()))
    header, lines = table(rows)
    print(text(header, lines))
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        for suffix, form in ('txt', text), ('md', markdown), ('tex', latex):
            (args.output / f'table1.{suffix}').write_text(form(header, lines) + '\n')
        plot_ratios(rows, args.output / 'fig3')


def read(folder, experiment, approaches, seeds):
    """Matrices of the finished runs, approach -> seed -> (T, T). What is missing is printed."""
    matrices, missing = {name: {} for name in approaches}, []
    for name in matrices:
        for seed in seeds:
            path = folder / f'{experiment}_{name}_{seed}.txt'
            accuracy = results.read_matrix(path) if path.exists() else np.zeros((1, 1))
            if accuracy[-1].any():
                matrices[name][seed] = accuracy
            else:
                missing.append(path.stem)
    if missing:
        print(f'missing or not finished: {" ".join(missing)}\n')
    return matrices


def figures(matrices, name):
    """One row for each seed that the references have, too: rho<=t (n, T), final accuracy and forgetting (n,)."""
    joint, random = (matrices[reference] for reference in REFERENCES)
    found = [(a, joint[s], random[s]) for s, a in matrices[name].items() if s in joint and s in random]
    if len({a.shape for group in found for a in group}) > 1:
        raise UserError(f'{name}: runs of different numbers of tasks cannot be compared')
    return found and {
        'rho': np.array([results.forgetting_ratio(*group) for group in found]),
        'accuracy': np.array([results.average_accuracy(a) for a, _, _ in found]),
        'forgetting': np.array([results.average_forgetting(a) for a, _, _ in found]),
    }


def interval(values):
    """Half the width of Student's confidence interval of the mean; nan for a single value."""
    n = len(values)
    if n < 2:
        return np.nan
    return stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n)


def table(rows):
    """Header and lines of Table 1: mean, standard deviation (in parentheses) and confidence interval."""
    lines = []
    for name, row in rows.items():
        n, n_tasks = row['rho'].shape
        columns = {f'rho<={t}': spread(row['rho'][:, t - 1], 2) for t in (min(2, n_tasks), n_tasks)}
        columns['accuracy, %'] = spread(100 * row['accuracy'], 1)
        columns['forgetting, points'] = spread(100 * row['forgetting'], 1)
        lines.append([name, str(n), *columns.values()])
    return ['approach', 'n', *columns], lines


def spread(values, digits):
    deviation = f' ({np.std(values, ddof=1):.{digits}f}) ±{interval(values):.{digits}f}' if len(values) > 1 else ''
    return f'{values.mean():.{digits}f}{deviation}'


def text(header, lines):
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    padded = ([cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in [header, *lines])
    return '\n'.join('  '.join(line).rstrip() for line in padded)


def markdown(header, lines):
    return '\n'.join(f'| {" | ".join(line)} |' for line in [header, ['---'] * len(header), *lines])


def latex(header, lines):
    body = [' & '.join(line) + r' \\' for line in [header, *lines]]
    body = [re.sub(r'rho<=(\d+)', r'$\\rho^{\\leq \1}$', line) for line in body]
    body = [line.replace('%', r'\%').replace('±', r'$\pm$') for line in body]
    begin, end = rf'\begin{{tabular}}{{l{"r" * (len(header) - 1)}}}', r'\end{tabular}'
    return '\n'.join([begin, body[0], r'\hline', *body[1:], end])


def plot_ratios(rows, path):
    """Fig. 3: rho<=t over the number of tasks t, mean over the seeds, as path.png and path.pdf."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout='constrained')
    shades = matplotlib.colormaps['viridis'](np.linspace(0, 0.9, len(rows)))  # of rising lightness: greyscale serves
    for (name, row), colour, marker in zip(rows.items(), shades, MARKERS * 2, strict=False):
        mean = row['rho'].mean(0)
        axes.plot(range(1, len(mean) + 1), mean, marker=marker, color=colour, label=name)
    axes.set(xlabel='tasks learned, t', ylabel='forgetting ratio ρ≤t (0: joint training, -1: chance)')
    axes.set_xticks(range(1, len(mean) + 1))
    axes.grid(alpha=0.3)
    axes.legend(loc='center left', bbox_to_anchor=(1, 0.5), fontsize='small')
    for suffix in 'png', 'pdf':
        figure.savefig(f'{path}.{suffix}', dpi=120)
    pyplot.close(figure)


if __name__ == '__main__':
    sys.exit(exit_code('plot_results.py', main, None))

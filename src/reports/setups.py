"""The setups of .results/: the published runs of each, and their tables.

.results/<setup>/ holds the runs of a setup, without the logs of their epochs, and about.json: what was run, how it
differs from the paper, on what machine, by which command.

A setup whose runs have learned one task each is a compression experiment (section 4.4): its table is that of the pruned
networks, and its records keep the logs of epochs, for Fig. 7.
"""

import json
from typing import NamedTuple

import numpy as np
from scipy import stats

from approaches import APPROACHES
from core import results
from core.errors import UserError
from core.files import ROOT
from core.text_tables import markdown
from reports.collection import Collection, seeds_of
from reports.paper import KEPT, PAPER, Metric
from reports.records import validation
from reports.tables import best_first, mean_cell, number, pruned

FOLDER = ROOT / '.results'
ABOUT = 'experiment', 'title', 'what', 'differs', 'machine', 'command'  # keys of about.json
ROUNDED = (
    "In short runs on a CPU today's code differs in rounding only, for {}: a run that is repeated may end elsewhere."
)


def load_all():
    return [Setup(path.parent) for path in sorted(FOLDER.glob('*/about.json'))]


class Row(NamedTuple):
    """A line of a table: an approach with some hyper-parameters."""

    approach: str
    runs: dict  # seed -> Result
    measured: dict  # Collection.measure of them


class Setup:
    """The runs of one folder of .results."""

    def __init__(self, folder):
        self.name, self.about = folder.name, results.load_record(folder / 'about.json')
        if absent := [key for key in ABOUT if key not in self.about]:
            raise UserError(f'{folder.name}/about.json: {absent[0]} is missing')
        if self.about['experiment'] not in PAPER:
            raise UserError(f'{folder.name}/about.json: the paper has no values for {self.about["experiment"]!r}')
        experiment = self.about['experiment']
        self.collection = Collection(
            experiment, folder, list(APPROACHES), seeds_of(experiment, folder), may_differ=('versions',)
        )
        self.alone = self.collection.n_tasks == 1  # has each run learned one task only?
        tasks = [report['task'] for _, _, report in self.collection.pruned]
        if self.alone and (not tasks or len({*tasks}) < len(tasks)):
            raise UserError(f'{folder.name}: a compression experiment needs one network from prune.py for each task')
        paper, n_tasks = PAPER[experiment], self.collection.n_tasks
        known = paper[-1].t <= n_tasks and any(len(self.values(paper[-1], name)) for name in self.collection.metrics)
        self.metrics = paper if known else [Metric('A', n_tasks, {})]  # no ratio without joint
        self.main = self.metrics[-1]

    def values(self, metric, name):
        """The metric of each run of an approach, an array."""
        return column(metric, self.collection.metrics[name])

    def rows(self):
        """Label -> Row: of each approach and, where a sweep prefers other hyper-parameters, of these. Best first."""
        collection, measure = self.collection, self.collection.measure
        rows = {collection.label(name): Row(name, runs, measure(runs)) for name, runs in collection.selected.items()}
        for name, _, runs in collection.tuned():
            chosen = next(iter(runs.values())).chosen
            rows[f'{name}, {chosen}{collection.marks(runs.values())}'] = Row(name, runs, measure(runs))
        key = 'rho' if self.main.name == 'rho' else 'accuracy'
        order = best_first({label: row.measured[key] for label, row in rows.items()})
        return {label: rows[label] for label in order}

    def table(self):
        if self.alone:
            return '\n\n'.join([self.about['what'], markdown(*pruned(self.collection)), *self.notes()])
        rows = self.rows()
        known = any('stored' in r.record for row in rows.values() for r in row.runs.values())
        header = ['approach', 'n']
        for metric in self.metrics:
            header += [metric.label, 'paper']
        header += [] if self.main.name == 'A' else [f'A<={self.collection.n_tasks}, %']
        header += ['BWT, points', 'hours a run', 'epochs']
        header += ['network, M', 'kept besides, MB'] if known else []
        lines = [[label, *self.cells(row, known)] for label, row in rows.items()]
        return '\n\n'.join([self.about['what'], markdown(header, lines), *self.rank_correlation(), *self.notes()])

    def cells(self, row, known):
        """Those of a row of table(), after its label. known: is it known what approaches keep?"""
        approach, runs, measured = row
        cells = [str(len(runs))]
        for metric in self.metrics:
            cells += [our_cell(column(metric, measured), metric, len(runs)), paper_cell(metric, approach)]
        if self.main.name != 'A':
            cells.append(mean_cell(100 * measured['accuracy'][:, -1], 1))
        times = [r.record['times'] for r in runs.values()]
        hours, epochs = [t['total'] / 3600 for t in times], [sum(map(len, t['epochs'])) for t in times]
        cells += [mean_cell(100 * measured['BWT'], 1), f'{np.mean(hours):.2f}', f'{np.mean(epochs):.0f}']
        return cells + ([parameters_cell(runs), stored_cell(runs)] if known else [])

    def table_by_task(self):
        """Of the first seed: accuracy on each task after the last one, and right after the task where that differs."""
        rows, lines = self.rows(), []
        seed = min(seed for row in rows.values() for seed in row.runs)
        for label, row in rows.items():
            if result := row.runs.get(seed):
                tasks, final, learned = result.tasks, result.accuracy[-1], result.accuracy.diagonal()
                cells = zip(*([number(100 * a, 1) for a in each] for each in (final, learned)), strict=True)
                lines.append([label, *(now if now == then else f'{now} ({then})' for now, then in cells)])
        return markdown(['%', *tasks], lines)

    def table_of_sweeps(self):
        """Of each run of a sweep, by approach and hyper-parameters: accuracies after the last task, ratio."""
        collection, lines = self.collection, []
        for name in collection.sweep_runs:
            for seed in collection.seeds:
                each = {json.dumps(r.parameter): r for r in collection.sweep(name, seed)}  # two may have the defaults
                # Numbers before texts, with which they cannot be compared
                for r in sorted(each.values(), key=lambda r: [(isinstance(v, str), v) for v in r.parameter.values()]):
                    rho = collection.ratios(r, seed)
                    lines.append([
                        f'{name}{collection.marks([r])}', r.chosen, str(seed),
                        number(100 * validation(r.record), 1) if 'valid_accuracy' in r.record else '-',
                        number(100 * r.accuracy[-1].mean(), 1),
                        '-' if rho is None else mean_cell(rho[-1:], 2),
                    ])  # fmt: skip
        t = collection.n_tasks
        head = ['approach', 'hyper-parameters', 'seed', 'validation A<={}, %', 'A<={}, %', 'rho<={}']
        return markdown([cell.format(t) for cell in head], lines) if lines else None

    def rank_correlation(self):
        """A line that compares the order of the methods with the paper's, for at least four of them."""
        names = [n for n in self.main.paper if n in self.collection.metrics and len(self.values(self.main, n))]
        if len(names) < 4:
            return []
        ours, paper = [self.values(self.main, n).mean() for n in names], [self.main.paper[n][0] for n in names]
        rank = stats.spearmanr(ours, paper).statistic
        return [f"Order of the {len(names)} methods against the paper's, by {self.main.label}: Spearman's rank "
                f'correlation {rank:.2f}.']  # fmt: skip

    def notes(self):
        everything = self.collection.all()
        commits = sorted({r.record.get('commit', '?')[:10] for r in everything})
        rounded = dict.fromkeys(r.approach for r in everything if self.collection.rounded(r))
        devices = sorted({d for r in everything for d in r.record.get('devices', [])})
        origin = f'Commit {", ".join(commits)}; {self.about["machine"]} ({"; ".join(devices)}):'
        return [
            f'{origin}\n\n```\n{self.about["command"]}\n```',
            *([ROUNDED.format(', '.join(rounded))] if rounded else []),
            *(note for note in self.collection.notes if not note.startswith('missing')),
        ]

    def summary_row(self):
        """The line of this setup in the table `summary`; None without a title or runs of HAT."""
        if not self.about['title'] or 'hat' not in self.collection.metrics:
            return None
        marks = self.collection.marks(self.collection.selected['hat'].values())
        if self.alone:
            ours = [100 * report['weights'][1] / report['weights'][0] for _, _, report in self.collection.pruned]
            paper, ours = (f'{min(kept):.0f} to {max(kept):.0f} %' for kept in (KEPT.values(), ours))
            return [self.about['title'], f'weights kept: {paper}', ours + marks, '1', self.about['differs']]
        values, (name, *unit) = self.values(self.main, 'hat'), self.main.label.split(', ')
        paper, ours = paper_cell(self.main, 'hat'), ' '.join([our_cell(values, self.main, len(values)), *unit]) + marks
        paper = ' '.join([f'{name} = {paper}', *unit]) if paper else f'{name}: no value'
        return [self.about['title'], paper, ours, str(len(values)), self.about['differs']]


def column(metric, measured):
    """The metric of each run, an array, from Collection.measure."""
    values = measured['rho'] if metric.name == 'rho' else 100 * measured['accuracy']
    return values[:, metric.t - 1] if len(values) else np.array([])


def our_cell(values, metric, n):
    """values: of those of the n runs that have the metric."""
    cell = mean_cell(values, metric.digits) if len(values) else '-'
    return f'{cell} [n={len(values)}]' if 0 < len(values) < n else cell


def parameters_cell(runs):
    """Millions of parameters of the network; empty for one that is not trained."""
    records = [r.record for r in runs.values() if any(r.record['times']['epochs'])]
    return f'{np.mean([record["n_parameters"] for record in records]) / 1e6:.1f}' if records else ''


def stored_cell(runs):
    """What an approach keeps of learned tasks besides its network: mean of the megabytes, and names; ? if a run of
    an earlier version does not say."""
    stored = [r.record.get('stored') for r in runs.values()]
    if None in stored:
        return '?' if parameters_cell(runs) else ''
    names = ', '.join(dict.fromkeys(name for sizes in stored for name in sizes))
    return f'{number(np.mean([sum(sizes.values()) for sizes in stored]) / 1e6, 1)} ({names})' if names else ''


def paper_cell(metric, name):
    """The value in the paper, as mean_cell; empty if there is none."""
    if name not in metric.paper:
        return ''
    mean, sd = metric.paper[name]
    return f'{mean:.{metric.digits}f}' + (f' ({sd:.{metric.digits}f})' if sd else '')

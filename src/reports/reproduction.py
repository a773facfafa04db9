"""The reproduction tables of the pages, made from the result files in .results/.

.results/<setup>/ holds the runs of a setup, without the logs of their epochs, and about.json: what was run, how it
differs from the paper, on what machine, by which command. In a page, a table is between the comments
<!-- reproduction: <setup> --> and <!-- end -->; `summary` is the table of all setups, `<setup>, by task` that of
the accuracies on each task, `<setup>, sweeps` that of the runs with other hyper-parameters (work.py).

A setup whose runs have learned one task each is a compression experiment (section 4.4): its table is that of the pruned
networks, `compression` compares all of these setups, and their records keep the logs of epochs, for Fig. 7.
"""

import json
import os
from typing import NamedTuple

import numpy as np
from scipy import stats

from approaches import APPROACHES
from core import results
from core.errors import UserError
from core.files import ROOT, write
from core.shapes import IDENTITY, check
from core.text_tables import markdown
from reports.collection import Collection, seeds_of
from reports.records import closed, validation
from reports.tables import best_first, compression, mean_cell, number

FOLDER = ROOT / '.results'
PAGES = ROOT / 'README.md', ROOT / 'src' / 'README.md', FOLDER / 'README.md'
BEGIN, NAMED, END = '<!-- reproduction: ', ' -->\n', '<!-- end -->'  # the name of a table is between the first two
ABOUT = 'experiment', 'title', 'what', 'differs', 'machine', 'command'  # keys of about.json
DROPPED = 'folder', 'inputs'  # entries of a record that .results/ does not keep
LOGS = 'epochs', 'monitor'  # that it keeps of compression experiments only
ROUNDED = (
    "In short runs on a CPU today's code differs in rounding only, for {}: a run that is repeated may end elsewhere."
)


class Metric(NamedTuple):
    """A metric, with its values in the paper."""

    name: str  # rho or A
    t: int  # of the first t tasks
    paper: dict  # approach -> (mean, standard deviation or None)

    @property
    def label(self):
        return f'{self.name}<={self.t}' + (', %' if self.name == 'A' else '')

    @property
    def digits(self):
        return 2 if self.name == 'rho' else 1


PAPER = {  # experiment -> its metrics, the main one last: Table 1, section 4.2
    'mixture': [
        Metric('rho', 2, {
            'lfl': (-0.73, 0.29), 'lwf': (-0.14, 0.13), 'sgd': (-0.20, 0.08), 'imm-mode': (-0.11, 0.08),
            'sgd-frozen': (-0.20, 0.15), 'imm-mean': (-0.12, 0.10), 'ewc': (-0.08, 0.06), 'pathnet': (-0.09, 0.16),
            'pnn': (-0.11, 0.10), 'hat': (-0.02, 0.03),
        }),
        Metric('rho', 8, {
            'lfl': (-0.92, 0.08), 'lwf': (-0.80, 0.06), 'sgd': (-0.66, 0.03), 'imm-mode': (-0.49, 0.05),
            'sgd-frozen': (-0.44, 0.06), 'imm-mean': (-0.42, 0.04), 'ewc': (-0.25, 0.03), 'pathnet': (-0.17, 0.23),
            'pnn': (-0.11, 0.01), 'hat': (-0.06, 0.01),
        }),
    ],
    'cifar': [Metric('rho', 10, {'hat': (-0.09, None), 'ewc': (-0.18, None)})],
    'pmnist': [Metric('A', 10, {'hat': (98.6, None), 'si': (97.1, None)})],  # si: from the literature
    'mnist2': [Metric('A', 2, {'hat': (99.0, None)})],
}  # fmt: skip
KEPT = {'mnist': 1, 'cifar100': 21}  # % of the weights; "between 1 and 21 %" in all (section 4.4)


class Row(NamedTuple):
    """A line of a table: an approach with some hyper-parameters."""

    approach: str
    runs: dict  # seed -> Result
    measured: dict  # Collection.measure of them


class Setup:
    """The runs of one folder of .results."""

    def __init__(self, folder):
        self.name, self.about = folder.name, json.loads((folder / 'about.json').read_text(encoding='utf-8'))
        if absent := [key for key in ABOUT if key not in self.about]:
            raise UserError(f'{folder.name}/about.json: {absent[0]} is missing')
        if self.about['experiment'] not in PAPER:
            raise UserError(f'{folder.name}/about.json: the paper has no values for {self.about["experiment"]!r}')
        experiment = self.about['experiment']
        self.collection = Collection(
            experiment, folder, list(APPROACHES), seeds_of(experiment, folder), but=('versions',)
        )
        tasks = [report['task'] for _, _, report in self.collection.pruned]
        if self.alone and (not tasks or len({*tasks}) < len(tasks)):
            raise UserError(f'{folder.name}: a compression experiment needs one network from prune.py for each task')
        paper, n_tasks = PAPER[experiment], self.collection.n_tasks
        known = paper[-1].t <= n_tasks and any(len(self.values(paper[-1], name)) for name in self.collection.metrics)
        self.metrics = paper if known else [Metric('A', n_tasks, {})]  # no ratio without joint

    @property
    def alone(self):
        """Has each run learned one task only?"""
        return self.collection.n_tasks == 1

    @property
    def main(self):
        return self.metrics[-1]

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
            return '\n\n'.join([self.about['what'], markdown(*compression(self.collection)), *self.notes()])
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
                for r in sorted(each.values(), key=lambda r: list(map(sortable, r.parameter.values()))):
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


def sortable(value):
    """A key that sorts numbers and texts."""
    return isinstance(value, str), value


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


def tables():
    """name -> Markdown."""
    everything = setups()
    lines = [row for setup in everything if (row := setup.summary_row())]
    summary = markdown(['setup', 'paper: HAT', 'here: HAT', 'n', 'what differs'], lines)
    more = {f'{setup.name}, {what}': table for setup in everything for what, table in (
        ('by task', setup.table_by_task()), ('sweeps', setup.table_of_sweeps())) if table}  # fmt: skip
    if alone := [setup.collection for setup in everything if setup.alone]:
        more['compression'] = table_of_compression(alone)
    return {'summary': summary} | {setup.name: setup.table() for setup in everything} | more


def table_of_compression(collections):
    """By task: the share of the weights that the paper keeps, the test accuracy of SGD and, for each c and gradient,
    that of HAT and the share of the weights it keeps."""
    header, rows = ['task', 'paper: weights kept, %', 'SGD: accuracy, %'], {}
    for collection in collections:
        chosen, before = next(iter(collection.selected['hat'].values())).parameter, len(header)
        label = f'c={chosen["c"]:g}' + (', exact gradient' if chosen['gradient'] == 'exact' else '')
        header += [f'{label}: accuracy, %', 'weights kept, %']
        _, lines = compression(collection)
        for (_, result, report), (_, _, sgd, accuracy, kept, *_) in zip(collection.pruned, lines, strict=True):
            row = rows.setdefault(report['task'], [report['task'], str(KEPT.get(report['task'], '')), sgd])
            row += ['-'] * (before - len(row)) + [accuracy + collection.marks([result]), kept]
    return markdown(header, [row + ['-'] * (len(header) - len(row)) for row in rows.values()])


def setups():
    return [Setup(path.parent) for path in sorted(FOLDER.glob('*/about.json'))]


def insert(tables, text, page):
    """The text of a page with its tables replaced. Raises UserError."""
    before, *parts = text.split(BEGIN)
    after = []
    for part in parts:
        name, _, rest = part.partition(NAMED)
        if name not in tables:
            raise UserError(f'{page}: .results/ has no results of {name}')
        if END not in rest:
            raise UserError(f'{page}: {END} is missing after the table {name}')
        after.append(f'{name}{NAMED}{tables[name]}\n{rest[rest.index(END) :]}')
    return BEGIN.join([before, *after])


def add(folder, setup, commit):
    """Copy the finished runs of a folder to .results, without DROPPED. Raises UserError."""
    target = FOLDER / setup
    if not (target / 'about.json').exists():
        raise UserError(f'--setup: {os.path.relpath(target, ROOT)}/about.json is missing; write it first, with '
                        f'{", ".join(ABOUT)}')  # fmt: skip
    experiment, finished = results.load_record(target / 'about.json').get('experiment'), []
    for path in sorted(path for path in folder.glob('*.json') if '.old-' not in path.name):
        try:
            check(record := results.load_record(path), IDENTITY, path)
        except UserError as error:
            print(f'left out: {error}')
            continue
        if not {'arguments', 'accuracy', 'times'} <= record.keys():
            continue
        if record['arguments'].get('experiment') != experiment:
            print(f'left out: {path}: not a run of {experiment}')
            continue
        finished.append((path, record))
    if not finished:
        raise UserError(f'--add: no finished run of {experiment} in {folder}')
    for path, record in finished:
        dropped = DROPPED + (LOGS if len(record['accuracy']) > 1 else ())
        short = {key: value for key, value in record.items() if key not in dropped} | {'commit': commit}
        short |= {'closed': layers} if any(layers := closed(record)) else {}
        short['times'] = record['times'] | {
            'epochs': [[round(second, 2) for second in log] for log in record['times']['epochs']],
            'testing': [round(second, 2) for second in record['times']['testing']],
        }
        write_record(target / path.name, short)
        write(target / f'{path.stem}.txt', path.with_suffix('.txt').read_bytes())
        for report in results.pruned_folder(path).glob('*.json'):
            copy = results.pruned_folder(target / path.name) / report.name
            results.make_folder(copy.parent)
            write_record(copy, results.load_record(report))


def write_record(path, record):
    write(path, json.dumps(record) + '\n')


def rewrite(check=False):
    """Update the tables of all pages; with `check`, change nothing. Returns the pages that differ."""
    current, changed = tables(), []
    for page in PAGES:
        before = page.read_text(encoding='utf-8')
        after = insert(current, before, os.path.relpath(page, ROOT))
        if after != before:
            changed.append(os.path.relpath(page, ROOT))
            if not check:
                write(page, after)
    print(f'changed: {", ".join(changed) or "nothing"}')
    return changed

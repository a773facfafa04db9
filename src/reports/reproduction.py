"""What was reproduced: the tables of README.md and .results/README.md, made anew from the result files in .results/.

.results/<setup>/ holds the runs of a setup, without the records of their epochs, and about.json: what is run, what
differs from the paper, on what machine, by which commands. A table stands in a page between two comments, as
<!-- reproduction: <setup> --> and <!-- end -->, and `summary` is that of all setups.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from approaches import APPROACHES
from core import results
from core.errors import UserError
from core.files import ROOT, atomic
from core.text_tables import markdown
from reports.collection import Collection
from reports.tables import best_first, deviation

FOLDER = ROOT / '.results'
PAGES = ROOT / 'README.md', FOLDER / 'README.md'
BEGIN, END = '<!-- reproduction: {} -->\n', '<!-- end -->'
SEEDS = range(100)
SHORT = ['--seed', '0', '--ntasks', '2', '--ntrain', '300', '--nepochs', '12', '--device', 'cpu', '--threads', '1']
DROPPED = 'epochs', 'monitor', 'folder', 'model'  # of a record that is taken in


class Figure(NamedTuple):
    """A figure of merit that the paper gives."""

    name: str  # rho or A
    t: int  # of the first t tasks
    values: dict  # approach -> (mean, standard deviation or None)


PAPER = {  # experiment -> its figures, the main one last: Table 1, section 4.2
    'mixture': [
        Figure('rho', 2, {
            'lfl': (-0.73, 0.29), 'lwf': (-0.14, 0.13), 'sgd': (-0.20, 0.08), 'imm-mode': (-0.11, 0.08),
            'sgd-frozen': (-0.20, 0.15), 'imm-mean': (-0.12, 0.10), 'ewc': (-0.08, 0.06), 'pathnet': (-0.09, 0.16),
            'pnn': (-0.11, 0.10), 'hat': (-0.02, 0.03),
        }),
        Figure('rho', 8, {
            'lfl': (-0.92, 0.08), 'lwf': (-0.80, 0.06), 'sgd': (-0.66, 0.03), 'imm-mode': (-0.49, 0.05),
            'sgd-frozen': (-0.44, 0.06), 'imm-mean': (-0.42, 0.04), 'ewc': (-0.25, 0.03), 'pathnet': (-0.17, 0.23),
            'pnn': (-0.11, 0.01), 'hat': (-0.06, 0.01),
        }),
    ],
    'cifar': [Figure('rho', 10, {'hat': (-0.09, None), 'ewc': (-0.18, None)})],
    'pmnist': [Figure('A', 10, {'hat': (98.6, None)})],
    'mnist2': [Figure('A', 2, {'hat': (99.0, None)})],
}  # fmt: skip


class Setup:
    """The runs of one folder of .results."""

    def __init__(self, folder):
        self.name, self.about = folder.name, json.loads((folder / 'about.json').read_text(encoding='utf-8'))
        self.runs = Collection(self.about['experiment'], folder, list(APPROACHES), SEEDS)
        self.paper = PAPER[self.about['experiment']]

    def ours(self, figure, name):
        """The figure of each run of an approach, an array."""
        merit = self.runs.merits[name]
        values = merit['rho'] if figure.name == 'rho' else 100 * merit['accuracy']
        return values[:, figure.t - 1] if len(values) else np.array([])

    def table(self):
        merits, key = self.runs.merits, 'rho' if self.main.name == 'rho' else 'accuracy'
        header, lines = ['approach', 'n'], []
        for figure in self.paper:
            header += [label(figure), 'paper']
        average = [] if self.main.name == 'A' else [f'A<={self.runs.n_tasks}, %']
        header += [*average, 'BWT, points', 'hours a run', 'epochs']
        for name in best_first({name: merit[key] for name, merit in merits.items()}):
            n, merit = len(self.runs.shown[name]), merits[name]
            line = [self.runs.label(name), str(n)]
            for figure in self.paper:
                line += [shown(self.ours(figure, name), figure), said(figure.values.get(name), figure)]
            times = [r.record['times'] for r in self.runs.shown[name].values()]
            hours, epochs = [t['total'] / 3600 for t in times], [sum(map(len, t['epochs'])) for t in times]
            line += [spread_of(100 * merit['accuracy'][:, -1], 1)] * len(average) + [spread_of(100 * merit['BWT'], 1)]
            lines.append([*line, f'{np.mean(hours):.2f}', f'{np.mean(epochs):.0f}'])
        return '\n\n'.join([self.about['what'], markdown(header, lines), *self.order(), *self.notes()])

    @property
    def main(self):
        return self.paper[-1]

    def order(self):
        """How the order of the methods goes with the paper's, one line, where there are enough of them."""
        both = [name for name in self.main.values if name in self.runs.merits and len(self.ours(self.main, name))]
        if len(both) < 4:
            return []
        ours, paper = [self.ours(self.main, name).mean() for name in both], [self.main.values[name][0] for name in both]
        rank = stats.spearmanr(ours, paper).statistic
        return [f"Order of the {len(both)} methods against the paper's, by {label(self.main)}: Spearman's rank "
                f'correlation {rank:.2f}.']  # fmt: skip

    def notes(self):
        commits = sorted({r.record.get('commit', '?')[:10] for runs in self.runs.shown.values() for r in runs.values()})
        devices = sorted({d for r in self.runs.all() for d in r.record.get('devices', [])})
        made = f'Commit {", ".join(commits)}; {self.about["machine"]} ({"; ".join(devices)}):'
        return [
            f'{made}\n\n```\n{self.about["command"]}\n```',
            *(note for note in self.runs.notes if not note.startswith('missing')),
        ]

    def row(self):
        """Of the table `summary`."""
        figure, name = self.main, 'hat'
        if name not in self.runs.merits:
            return None
        values = self.ours(figure, name)
        return [self.about['title'], f'{label(figure)} = {said(figure.values[name], figure)}', shown(values, figure),
                str(len(values)), self.about['differs']]  # fmt: skip


def label(figure):
    return f'{figure.name}<={figure.t}' + (', %' if figure.name == 'A' else '')


def digits(figure):
    return 2 if figure.name == 'rho' else 1


def shown(values, figure):
    return spread_of(values, digits(figure)) if len(values) else '-'


def spread_of(values, places):
    """Mean and, in parentheses, standard deviation."""
    return f'{round(np.mean(values), places) + 0.0:.{places}f}{deviation(values, places)}'  # never -0.0


def said(value, figure):
    """A value of the paper."""
    if value is None:
        return ''
    mean, sd = value
    return f'{mean:.{digits(figure)}f}' + (f' ({sd:.{digits(figure)}f})' if sd else '')


def tables():
    """name -> Markdown."""
    everything = setups()
    lines = [row for setup in everything if (row := setup.row())]
    summary = markdown(['setup', 'paper: HAT', 'here: HAT', 'n', 'what differs'], lines)
    return {'summary': summary} | {setup.name: setup.table() for setup in everything}


def setups():
    return [Setup(path.parent) for path in sorted(FOLDER.glob('*/about.json'))]


def rewritten(text, made, page):
    """A page's text with its tables made anew. Raises UserError."""
    for name in {part.split(' -->')[0] for part in text.split(BEGIN.split('{')[0])[1:]}:
        if name not in made:
            raise UserError(f'{page}: there are no results of {name}')
        head, rest = text.split(BEGIN.format(name), 1)
        if END not in rest:
            raise UserError(f'{page}: {END} is missing behind the table {name}')
        text = f'{head}{BEGIN.format(name)}{made[name]}\n{rest[rest.index(END) :]}'
    return text


def add(folder, setup, commit):
    """Copy the finished runs of a folder into .results, in short."""
    place = FOLDER / setup
    place.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob('*.json')):
        record = results.read_record(path)
        if '.old-' in path.name or 'accuracy' not in record:
            continue
        short = {key: value for key, value in record.items() if key not in DROPPED} | {'commit': commit}
        short['times'] = record['times'] | {
            'epochs': [[round(second, 2) for second in log] for log in record['times']['epochs']],
            'testing': [round(second, 2) for second in record['times']['testing']],
        }
        write(place / path.name, short)
        with atomic(place / f'{path.stem}.txt') as part:
            part.write_bytes(path.with_suffix('.txt').read_bytes())


def verify(checkout, data):
    """Accept results of other code that computes the same: a short run of each approach, experiment and width, by the
    code of another checkout and by today's, must give the same files, byte for byte. Prints a line for each.

    The records of that code then list today's code under `verified`; `commit` stays that of the code that ran.
    """
    stale = {}
    for setup in setups():
        for result in setup.runs.all():
            if setup.runs.stale(result):
                what = result.approach, setup.about['experiment'], result.record['arguments']['width']
                stale.setdefault(what, []).append(result.txt.with_suffix('.json'))
    for (approach, experiment, width), paths in stale.items():
        then, now = (short_run(tree, approach, experiment, width, data) for tree in (checkout, ROOT))
        there, here = then.pop('code'), now.pop('code')
        records = {path: results.load_record(path) for path in paths}
        records = {path: record for path, record in records.items() if there in (record['code'], *verified(record))}
        if then == now:
            for path, record in records.items():
                write(path, record | {'verified': [*verified(record), here]})
        verdict = 'the same' if then == now else 'not the same'
        print(f'{approach} on {experiment}, width {width:g}, {len(records)} results: {verdict}', flush=True)


def short_run(tree, approach, experiment, width, data):
    """The record and the matrix of a run by the code in a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, 'run.txt')
        which = ['--approach', approach, '--experiment', experiment, '--width', str(width), *SHORT]
        places = ['--data', data.resolve(), '--output', output, '--tmp', folder]
        done = subprocess.run(
            [sys.executable, tree / 'src' / 'run.py', *which, *places], capture_output=True, text=True
        )
        if done.returncode:
            raise UserError(f'{tree}: {done.stderr.strip().splitlines()[-1]}')
        record = results.load_record(output.with_suffix('.json'))
        return record | {'matrix': output.read_text(encoding='utf-8'), 'times': None, 'folder': None}


def verified(record):
    """Fingerprints of later code that computes the same."""
    return record.get('verified', [])


def write(path, record):
    with atomic(path) as part:
        part.write_text(json.dumps(record) + '\n', encoding='utf-8')


def rewrite(check=False):
    """Bring the tables of all pages up to date; with `check`, change nothing. Returns the pages that differ."""
    made, changed = tables(), []
    for page in PAGES:
        before = page.read_text(encoding='utf-8')
        after = rewritten(before, made, os.path.relpath(page, ROOT))
        if after != before:
            changed.append(os.path.relpath(page, ROOT))
            if not check:
                with atomic(page) as part:
                    part.write_text(after, encoding='utf-8')
    print(f'{len(made) - 1} setups; changed: {", ".join(changed) or "nothing"}')
    return changed

"""The finished runs of one experiment that a folder holds, and what is computed from several of them."""

import os

import numpy as np

import dataloaders
from approaches import ALIASES, APPROACHES
from approaches.base import Protocol
from core import results
from core.errors import UserError
from core.shapes import REPORT, check
from reports.comparison import differences, majority
from reports.records import PROTOCOL, defaults, load
from runs import identity

REFERENCES = ('joint', 'random')  # A_J and A_R of Eq. 6
UNKNOWN = 'no record beside it: nothing is known of it'
SAID = 4  # differences that a note has room for


class Collection:
    """Results that are alike: of the same tasks, data, protocol and versions and, for each approach, hyper-parameters.

    found    approach -> seed -> Result, of the approaches asked for and the references
    swept    approach -> seed -> list of Result, those of work.py, whose hyper-parameters vary
    shown    what is found of the approaches asked for
    merits   approach -> what is computed of its runs, see _merits
    pruned   (seed, Result of hat, report of prune.py on one of its tasks), a list
    n_tasks  T
    notes    lines: what is missing, what is left out, what the marks in the tables mean
    """

    def __init__(self, experiment, folder, approaches, seeds, mixed=False, swept=None):
        """mixed: what is not like the others stays, and is marked. swept: of which approaches (default: the same)."""
        self.experiment, self.folder, self.seeds, self.notes = experiment, folder, seeds, []
        self.found = {name: {} for name in dict.fromkeys([*approaches, *REFERENCES])}
        self.swept = {name: {} for name in (self.found if swept is None else swept)}
        missing = self._find()
        if self.all():
            self._compare(mixed)
        if not any(r.approach in (approaches or self.swept) for r in self.all()):
            reasons = self.notes if len(self.notes) < 2 else [self.notes[0], f'and {len(self.notes) - 1} more']
            raise UserError('; '.join([f'--res: no finished run of {experiment} in {folder} to show', *reasons]))
        if self.n_tasks == 1:  # nothing to forget, no ratio
            missing = {name: seeds for name, seeds in missing.items() if name in approaches}
        if missing:
            names = (f'{experiment}_{name}_{{{",".join(seeds)}}}' for name, seeds in missing.items())
            self.notes.insert(0, f'missing or not finished: {" ".join(names)}')
        self._explain()
        self.shown = {name: self.found[name] for name in approaches if self.found[name]}
        self.merits = {name: self._merits(name) for name in self.shown}
        self.pruned = list(self._pruned())

    def _find(self):
        """Fill `found` and `swept`. Returns what is missing: approach -> seeds, as text."""
        missing = {}
        for name in self.found:
            others = [alias for alias, its in ALIASES.items() if its == name]  # names that the original code has
            for seed in self.seeds:
                paths = [self.folder / f'{self.experiment}_{each}_{seed}.txt' for each in [name, *others]]
                path, said = next(filter(os.path.exists, paths), None), len(self.notes)
                if result := path and self._load(path, name, seed):
                    self.found[name][seed] = result
                elif len(self.notes) == said:
                    missing.setdefault(name, []).append(str(seed))
        for name in self.swept:
            for seed in self.seeds:
                paths = sorted(self.folder.glob(f'{self.experiment}_{name}_{seed}_*=*.txt'))
                swept = [self._load(path, name, seed) for path in paths if '.old-' not in path.name]
                self.swept[name][seed] = [result for result in swept if result and result.record]
        return missing

    def _load(self, path, name, seed):
        """The Result in a file. None where it is not finished or, which a note says, not what it should be."""
        try:
            return load(path, self.experiment, name, seed)
        except UserError as error:
            self.notes.append(f'left out: {error}')

    def all(self):
        """All Results, those of an approach together."""
        return [
            result
            for name in dict.fromkeys([*self.found, *self.swept])
            for seed in self.seeds
            for result in [self.get(name, seed), *self.swept.get(name, {}).get(seed, [])]
            if result
        ]

    def get(self, name, seed):
        """The Result, or None."""
        return self.found.get(name, {}).get(seed)

    def _compare(self, mixed):
        """Leave out what is not like most: like the table's results or, where there are none, the swept ones."""
        every, table = self.all(), {r.txt for runs in self.found.values() for r in runs.values()}
        known = any(r.record for r in every)
        reasons = {r.txt: [UNKNOWN] for r in every if known and not r.record}
        rest = [r for r in every if r.txt not in reasons]
        learned = [r for r in rest if r.approach != 'random']  # it hangs on the data alone, and has no protocol
        standard = dict.fromkeys(PROTOCOL) | dataloaders.defaults(self.experiment)
        standard |= {'lr': Protocol.lr, 'batch_size': Protocol.batch_size}
        common = majority([r.facts for r in ([r for r in learned if r.txt in table] or learned or rest)], standard)
        self.n_tasks = common['number of tasks']
        reasons |= {r.txt: differences(r.facts, common) for r in rest}
        for name, runs in self.found.items():
            alike = [r for r in runs.values() if not reasons[r.txt]]
            parameter = majority([r.parameter for r in alike], defaults(name))
            reasons |= {r.txt: differences(r.parameter, parameter) for r in alike}

        self.mixed = {
            r.txt for r in every if mixed and reasons[r.txt] and r.txt in table and len(r.accuracy) == self.n_tasks
        }
        for r in every:
            if why := reasons[r.txt]:
                more = [f'and {len(why) - SAID} more'] if len(why) > SAID else []
                verb = 'mixed' if r.txt in self.mixed else 'left out'
                self.notes.append(f'{verb}: {r.txt.name}: {"; ".join(why[:SAID] + more)}')
        kept = {r.txt for r in every if not reasons[r.txt]} | self.mixed
        for name, runs in self.found.items():
            self.found[name] = {seed: r for seed, r in runs.items() if r.txt in kept}
        for runs in self.swept.values():
            runs |= {seed: [r for r in swept if r.txt in kept] for seed, swept in runs.items()}

    def _explain(self):
        """Notes of the marks that marks() gives."""
        if stale := [r.txt.name for r in self.all() if self.stale(r)]:
            self.notes.append(f"* computed by other code than today's: {', '.join(stale)}")
        where = [f'{r.txt.name}: task {d["task"]}, epoch {d["epoch"]}' for r in self.all() for d in r.diverged]
        if where:
            self.notes.append(f'! diverged, something was not finite: {"; ".join(where)}')
        where = [f'{r.txt.name}: task {task}, {", ".join(layers)}' for r in self.all() for task, layers in r.closed]
        if where:
            self.notes.append(f'! all gates of a layer closed: {"; ".join(where)}')

    def stale(self, result):
        """Has other code than today's computed it, or, as far as its record says, may it have?"""
        codes = result.record.get('code'), *result.record.get('verified', [])
        return result.record and identity.code(result.approach, self.experiment) not in codes

    def marks(self, results):
        """What there is to say of Results, behind the name of their row: the notes explain it."""
        said = {
            '*': any(self.stale(r) for r in results),
            '!': any(r.diverged or r.closed for r in results),
            ' (mixed)': any(r.txt in self.mixed for r in results),
        }
        return ''.join(mark for mark, is_so in said.items() if is_so)

    def label(self, name):
        """The name of an approach's row."""
        return name + self.marks(self.found[name].values())

    def ratios(self, result, seed):
        """rho<=t (T,) of Eq. 6; None without the references of the same seed, tasks, data and protocol."""
        joint, random = (self.get(name, seed) for name in REFERENCES)
        if not (joint and random and result.like(joint) and result.like(random)):
            return None
        return results.forgetting_ratio(result.accuracy, joint.accuracy, random.accuracy)

    def _merits(self, name):
        """Of each run of an approach: A<=t (n, T); BWT (n,); rho<=t and FWT of those of which there are such."""
        runs = self.shown[name]
        rho = [ratio for seed, r in runs.items() if (ratio := self.ratios(r, seed)) is not None]
        forward = [r.record for r in runs.values() if {'before', 'initial'} <= r.record.keys()]
        return {
            'rho': np.array(rho).reshape(len(rho), self.n_tasks),
            'accuracy': np.array([results.average_accuracies(r.accuracy) for r in runs.values()]),
            'BWT': np.array([results.backward_transfer(r.accuracy) for r in runs.values()]),
            'FWT': np.array([results.forward_transfer(r['before'], r['initial']) for r in forward]),
        }

    def sweeps(self, name, seed):
        """Fig. 4, from work.py's results: hyper-parameter -> (values, rho<=T of each), the others at their defaults."""
        default = defaults(name)
        points = {key: {} for key, p in APPROACHES[name].parameters.items() if p.grid}
        for result in self.swept[name][seed]:
            values, rho = result.parameter, self.ratios(result, seed)
            if rho is not None:
                for key in points:
                    if values | {key: default[key]} == default:
                        points[key][values[key]] = rho[-1]
        return {key: tuple(zip(*sorted(pairs.items()), strict=True)) for key, pairs in points.items() if len(pairs) > 1}

    def _pruned(self):
        """The reports of prune.py; not on a run that has been replaced since."""
        for seed, result in self.found.get('hat', {}).items():
            for name in result.tasks:
                path = results.pruned_folder(result.txt) / f'{name}.json'
                try:
                    if report := results.load_record(path):
                        check(report, REPORT, path)
                except UserError as error:
                    self.notes.append(f'left out: {error}')
                    continue
                if report and report['task'] == name and of_run(report, result.record):
                    yield seed, result, report


def of_run(report, record):
    """Is a report of prune.py on the very run of a record? Where its data were does not matter."""
    mine, its = (arguments | {'data': None} for arguments in (report['run'], record.get('arguments', {})))
    return mine == its and report.get('model') == record.get('model')

"""The finished runs of one experiment in a folder, those that can be compared, and metrics over several of them."""

import os
import re

import numpy as np

import dataloaders
from approaches import ALIASES, APPROACHES
from approaches.common.training import Protocol
from core import metrics, results
from core.comparison import differences, explain, majority
from core.errors import UserError
from core.shapes import PRUNING_REPORT, check
from reports.records import PROTOCOL, load, preference
from runs import identity

REFERENCES = ('joint', 'random')  # A_J and A_R of Eq. 6
UNKNOWN = 'no .json beside it, so its settings are unknown'
MAX_DIFFERENCES = 4  # in a note
ROUND = 1e-9  # accuracies that differ by less are equal: a count over a count, and a sum of products


def seeds_of(experiment, folder):
    """The seeds of the results in a folder, sorted; [0] if there is none."""
    names = '|'.join(re.escape(each) for approach in APPROACHES for each in spellings(approach))
    form = re.compile(rf'{re.escape(experiment)}_(?:{names})_([0-9]+)(?:_.*=.*)?', re.DOTALL)
    found = (form.fullmatch(path.stem) for path in folder.glob(f'{experiment}_*.txt'))
    return sorted({int(match[1]) for match in found if match}) or [0]


def spellings(approach):
    """Its names in those of files."""
    return [approach, *(alias for alias, canonical in ALIASES.items() if canonical == approach)]


class Collection:
    """Runs with the same tasks, data, protocol and versions and, for each approach, the same hyper-parameters.

    runs        approach -> seed -> Result, of the approaches asked for and the references
    sweep_runs  approach -> seed -> list of Result, the runs of work.py, whose hyper-parameters vary
    selected    those of `runs` that were asked for and exist
    metrics     approach -> arrays over its runs, see measure
    pruned      (seed, Result of hat, report of prune.py on one of its tasks), a list
    n_tasks     T
    notes       lines: which runs are missing or left out, what the marks in the tables mean
    """

    def __init__(self, experiment, folder, approaches, seeds, mixed=False, sweeps=None, may_differ=()):
        """
        approaches  those asked for; None: all, of which only those with a file in the folder can be missing
        mixed       keep and mark runs that differ from the others
        sweeps      approaches to look for sweeps of; None: all of the above
        may_differ  facts in which runs may differ, such as 'versions'
        """
        self.experiment, self.folder, self.seeds, self.may_differ = experiment, folder, seeds, may_differ
        self.notes = []
        asked, approaches = approaches, list(APPROACHES) if approaches is None else approaches
        self.runs = {name: {} for name in dict.fromkeys([*approaches, *REFERENCES])}
        self.sweep_runs = {name: {} for name in (self.runs if sweeps is None else sweeps)}
        missing = self._find()
        if self.all():
            self._leave_out(mixed)
        if not any(r.approach in (approaches or self.sweep_runs) for r in self.all()):
            raise UserError(self._nothing(asked))
        wanted = {*(filter(self._is_there, approaches) if asked is None else asked)}
        wanted |= set(REFERENCES) if self.n_tasks > 1 else set()  # of one task there is no forgetting, so no ratio
        if missing := {name: seeds for name, seeds in missing.items() if name in wanted}:
            names = (f'{experiment}_{name}_{{{",".join(seeds)}}}' for name, seeds in missing.items())
            self.notes.insert(0, f'missing or not finished: {" ".join(names)}')
        self._explain_marks()
        self._explain_ratios()
        self.selected = {name: self.runs[name] for name in approaches if self.runs[name]}
        self.metrics = {name: self.measure(runs) for name, runs in self.selected.items()}
        self.pruned = list(self._pruned())

    def _nothing(self, asked):
        """The message if no run is left of the approaches asked for (None: of any): what was left out, and why."""
        others = any(self.folder.glob(f'{self.experiment}_*.txt'))  # which were not asked for
        seeds = ', '.join(map(str, self.seeds))
        which = f' of {", ".join(asked or ["any approach"])}, seed {seeds}' if others else ''
        first, *more = [note for note in self.notes if note.startswith('left out')] or ['']
        parts = [first, f'and {len(more)} more' if more else '']
        return '; '.join(filter(None, [f'--res: no finished run of {self.experiment} in {self.folder}{which}', *parts]))

    def _is_there(self, name):
        """Is there any file of a run of an approach, such as the log of one that failed?"""
        names = [f'{self.experiment}_{each}_{seed}.*' for each in spellings(name) for seed in self.seeds]
        return any(path for pattern in names for path in self.folder.glob(pattern))

    def _find(self):
        """Fill `runs` and `sweep_runs`. Returns what is missing: approach -> seeds, as text."""
        missing = {}
        for name in self.runs:
            for seed in self.seeds:
                paths = [self.folder / f'{self.experiment}_{each}_{seed}.txt' for each in spellings(name)]
                found = list(filter(os.path.exists, paths))
                self.notes += [f'left out: {other.name}, beside {found[0].name}' for other in found[1:]]
                n_notes = len(self.notes)
                if result := found and self._load(found[0], name, seed):
                    self.runs[name][seed] = result
                elif len(self.notes) == n_notes:
                    missing.setdefault(name, []).append(str(seed))
        for name in self.sweep_runs:
            for seed in self.seeds:
                paths = sorted(self.folder.glob(f'{self.experiment}_{name}_{seed}_*=*.txt'))
                loaded = [self._load(path, name, seed) for path in paths if '.old-' not in path.name]
                self.sweep_runs[name][seed] = [result for result in loaded if result and result.record]
        return missing

    def _load(self, path, name, seed):
        """The Result in a file; None if it is not finished, or, with a note, damaged."""
        try:
            return load(path, self.experiment, name, seed, self.may_differ)
        except UserError as error:
            self.notes.append(f'left out: {error}')

    def all(self):
        """All Results, those of an approach together."""
        return [
            result
            for name in dict.fromkeys([*self.runs, *self.sweep_runs])
            for seed in self.seeds
            for result in [self.get(name, seed), *self.sweep_runs.get(name, {}).get(seed, [])]
            if result
        ]

    def get(self, name, seed):
        """The Result, or None."""
        return self.runs.get(name, {}).get(seed)

    def _leave_out(self, mixed):
        """Leave out runs that differ from most others, with a note each; mixed: keep and mark those in tables."""
        every = self.all()
        in_tables = {r.txt for runs in self.runs.values() for r in runs.values()}
        reasons = self._reasons(every, in_tables)
        self.mixed = {
            r.txt for r in every if mixed and reasons[r.txt] and r.txt in in_tables and len(r.accuracy) == self.n_tasks
        }
        for r in every:
            if why := reasons[r.txt]:
                more = [f'and {len(why) - MAX_DIFFERENCES} more'] if len(why) > MAX_DIFFERENCES else []
                verb = 'mixed' if r.txt in self.mixed else 'left out'
                self.notes.append(f'{verb}: {r.txt.name}: {"; ".join(why[:MAX_DIFFERENCES] + more)}')
        kept = {r.txt for r in every if not reasons[r.txt]} | self.mixed
        for name, runs in self.runs.items():
            self.runs[name] = {seed: r for seed, r in runs.items() if r.txt in kept}
        for runs in self.sweep_runs.values():
            runs |= {seed: [r for r in results if r.txt in kept] for seed, results in runs.items()}

    def _reasons(self, every, in_tables):
        """Why not to compare each of the Results `every` with the others: file -> texts, none if it agrees with most.

        in_tables  files of those in tables, the others are of sweeps
        Sets n_tasks, and adds notes of the settings in which the runs agree, where these are not the defaults.
        """
        any_record = any(r.record for r in every)
        reasons = {r.txt: [UNKNOWN] for r in every if any_record and not r.record}
        rest = [r for r in every if r.txt not in reasons]

        # All runs have to agree with what most of those in tables have; without any, of those in sweeps
        learned = [r for r in rest if r.approach != 'random']  # which depends on the data only, and has no protocol
        deciding = [r for r in learned if r.txt in in_tables] or learned or rest
        standard = dict.fromkeys(PROTOCOL) | dataloaders.defaults(self.experiment)
        standard |= {'lr': Protocol.lr, 'batch_size': Protocol.batch_size}
        common = majority([r.facts for r in deciding], standard)
        self.n_tasks = common['number of tasks']
        self._say_what_differs('all runs', common, standard)
        reasons |= {r.txt: explain(differences(r.facts, common)) for r in rest}

        # Of these, the runs in a row have to agree in hyper-parameters
        for name, runs in self.runs.items():
            alike, default = [r for r in runs.values() if not reasons[r.txt]], APPROACHES[name].defaults()
            common = majority([r.parameter for r in alike], default)
            self._say_what_differs(name, common, default)
            reasons |= {r.txt: explain(differences(r.parameter, common)) for r in alike}
        return reasons

    def _say_what_differs(self, which, facts, defaults):
        """Add a note: a table does not show with which settings its runs agree."""
        if differing := explain(differences(facts, defaults)):
            self.notes.append(f'{which}: {"; ".join(differing)} (the default)')

    def _explain_marks(self):
        """Add notes on the marks that marks() gives."""
        if stale := [r.txt.name for r in self.all() if self.stale(r)]:
            self.notes.append(f"* computed by other code than today's: {', '.join(stale)}")
        mixed = {}  # devices -> approaches
        for name, runs in self.runs.items():
            devices = sorted({device for r in runs.values() for device in r.record.get('devices', [])})
            if len(devices) > 1:
                mixed.setdefault('; '.join(devices), []).append(name)
        for devices, names in mixed.items():
            self.notes.append(f'{", ".join(names)}: on {devices}, which differ in the last bits')
        found = {
            'diverged (a loss or gradient is not finite)': {},
            'not learned': {},
            'all gates of a layer closed': {},
        }
        diverged, lost, closed = found.values()
        for r in self.all():
            for each in r.diverged:
                where = lost if each.get('what') == 'no progress' else diverged
                where.setdefault(r.txt.name, []).append(f'task {each["task"]}, epoch {each["epoch"]}')
            for task, layers in r.closed:
                closed.setdefault(r.txt.name, []).append(f'task {task}, {", ".join(layers)}')
        for what, files in found.items():
            if files:
                places = [f'{name}: {"; ".join(tasks)}' for name, tasks in files.items()]
                self.notes.append(f'! {what}: {"; ".join(places)}')

    def _explain_ratios(self):
        """Add a note where joint training is no better than chance: the ratio divides by what it gains."""
        for seed in self.seeds:
            joint, random = (self.get(name, seed) for name in REFERENCES)
            if joint and random and joint.like(random):
                gain = np.where(np.tri(self.n_tasks), joint.accuracy - random.accuracy, 1)
                if without := [name for name, gains in zip(joint.tasks, gain.T, strict=True) if (gains < ROUND).any()]:
                    what = f'joint training of seed {seed} is no better than chance on {", ".join(without)}'
                    self.notes.append(f'{what}: forgetting ratios mean nothing there')

    def stale(self, result):
        """Was a result with a record computed by other, or unknown, code?"""
        codes = result.record.get('code'), *result.record.get('verified', [])
        return result.record and self.code(result) not in codes and not self.rounded(result)

    def rounded(self, result):
        """Is today's code known to compute a result but for rounding?"""
        return self.code(result) in result.record.get('rounded', [])

    def code(self, result):
        """The fingerprint of today's code."""
        network = result.record.get('arguments', {}).get('network')
        return identity.code(result.approach, self.experiment, network)

    def marks(self, results):
        """The marks of Results, after the name of their row; the notes explain them."""
        marks = {
            '*': any(self.stale(r) for r in results),
            '!': any(r.diverged or r.closed for r in results),
            ' (mixed)': any(r.txt in self.mixed for r in results),
        }
        return ''.join(mark for mark, applies in marks.items() if applies)

    def label(self, name):
        """The name of an approach's row, with marks."""
        return name + self.marks(self.runs[name].values())

    def ratios(self, result, seed):
        """rho<=t (T,) of Eq. 6; None without references of the same seed, tasks, data and protocol."""
        joint, random = (self.get(name, seed) for name in REFERENCES)
        if not (joint and random and result.like(joint) and result.like(random)):
            return None
        return metrics.forgetting_ratio(result.accuracy, joint.accuracy, random.accuracy)

    def measure(self, runs):
        """Over n runs, seed -> Result: A<=t (n, T); BWT (n,); rho<=t and FWT of those runs that have them."""
        rho = [ratio for seed, r in runs.items() if (ratio := self.ratios(r, seed)) is not None]
        with_forward = [r.record for r in runs.values() if {'before', 'initial'} <= r.record.keys()]
        return {
            'rho': np.array(rho).reshape(len(rho), self.n_tasks),
            'accuracy': np.array([metrics.average_accuracies(r.accuracy) for r in runs.values()]),
            'BWT': np.array([metrics.backward_transfer(r.accuracy) for r in runs.values()]),
            'FWT': np.array([metrics.forward_transfer(r['before'], r['initial']) for r in with_forward]),
        }

    def tuned(self):
        """Yield (approach, hyper-parameters, its runs with them: seed -> Result) for each sweep that validates better
        than the row of the approach; test images are not used. The first seed with a sweep chooses, of those all of
        whose runs say how they validate."""
        for name in self.sweep_runs:
            runs = {seed: self.sweep(name, seed) for seed in self.seeds}
            runs = {seed: found for seed, found in runs.items() if all('valid_accuracy' in r.record for r in found)}
            if first := next(filter(None, runs.values()), None):
                default = APPROACHES[name].defaults()
                best = max(first, key=lambda r: preference(r.parameter, r.record, default)).parameter
                runs = {seed: r for seed, results in runs.items() for r in results if r.parameter == best}
                if best not in [r.parameter for r in self.runs.get(name, {}).values()]:
                    yield name, best, runs

    def sweep(self, name, seed):
        """The runs of a sweep, and that of the approach's row if the sweep lacks its values; [] without a sweep."""
        runs, row = self.sweep_runs[name].get(seed, []), self.get(name, seed)
        lacks = runs and row and row.record and row.parameter not in [r.parameter for r in runs]
        return [*runs, row] if lacks else runs

    def sweep_curves(self, name, seed):
        """Fig. 4: hyper-parameter -> (its values, rho<=T of each), the other hyper-parameters at their defaults."""
        default = APPROACHES[name].defaults()
        points = {key: {} for key, p in APPROACHES[name].parameters.items() if p.grid}
        for result in self.sweep(name, seed):
            values, rho = result.parameter, self.ratios(result, seed)
            if rho is not None:
                for key in points:
                    if values | {key: default[key]} == default:
                        points[key][values[key]] = rho[-1]
        return {key: tuple(zip(*sorted(pairs.items()), strict=True)) for key, pairs in points.items() if len(pairs) > 1}

    def _pruned(self):
        """The reports of prune.py on runs that have not been replaced since."""
        for seed, result in self.runs.get('hat', {}).items():
            for name in result.tasks:
                path = results.pruned_folder(result.txt) / f'{name}.json'
                try:
                    if report := results.load_record(path):
                        check(report, PRUNING_REPORT, path)
                except UserError as error:
                    self.notes.append(f'left out: {error}')
                    continue
                if report and report['task'] == name and is_of_run(report, result.record):
                    yield seed, result, report


def is_of_run(report, record):
    """Is a report of prune.py on the run of a record? The folder of the data does not matter."""
    a, b = (arguments | {'data': None} for arguments in (report['run'], record.get('arguments', {})))
    return a == b and report.get('model') == record.get('model')

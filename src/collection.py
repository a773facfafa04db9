"""The finished runs of one experiment that a folder holds, and what is computed from several of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import results
from approaches import ALIASES, APPROACHES
from errors import UserError

REFERENCES = ('joint', 'random')  # A_J and A_R of Eq. 6
PROTOCOL = 'nepochs', 'lr', 'batch_size', 'width', 'ntrain'  # arguments in which runs to be compared should agree


@dataclass(frozen=True)
class Result:
    txt: Path
    accuracy: np.ndarray  # (T, T)
    record: dict  # of the .json; {} where there is none

    @property
    def tasks(self):
        """Names, or numbers where no record says them."""
        numbers = [str(t + 1) for t in range(len(self.accuracy))]
        return [task['name'] for task in self.record.get('tasks', [])] or numbers

    def like(self, other):
        """Are these the same tasks, as far as one can know?"""
        known = self.record and other.record
        return self.tasks == other.tasks if known else self.accuracy.shape == other.accuracy.shape


class Collection:
    """found    approach -> seed -> Result, of the approaches asked for and the references
    swept    approach -> seed -> list of Result, those of work.py
    shown    what is found of the approaches asked for
    merits   approach -> what is computed of its runs, see _merits
    n_tasks  T; runs of fewer tasks are left out
    notes    lines: what is missing, left out or not under one protocol
    """

    def __init__(self, experiment, folder, approaches, seeds):
        self.experiment, self.folder, self.seeds, self.notes = experiment, folder, seeds, []
        self.found = {name: {} for name in dict.fromkeys([*approaches, *REFERENCES])}
        self.swept = {name: {} for name in self.found}
        missing = {}
        for name in self.found:
            others = [alias for alias, its in ALIASES.items() if its == name]  # names that the original code has
            for seed in seeds:
                paths = [folder / f'{experiment}_{each}_{seed}.txt' for each in [name, *others]]
                path = next(filter(Path.exists, paths), None)
                if result := path and load(path):
                    self.found[name][seed] = result
                else:
                    missing.setdefault(name, []).append(str(seed))
                swept = sorted(folder.glob(f'{experiment}_{name}_{seed}_*=*.txt'))
                swept = [load(path) for path in swept if '.old-' not in path.name]
                self.swept[name][seed] = [result for result in swept if result and result.record]
        if not any(True for _ in self.all()):
            raise UserError(f'--res: no finished run of {experiment} in {folder}')
        self.n_tasks = max(len(result.accuracy) for _, result in self.all())
        if self.n_tasks == 1:  # nothing to forget, no ratio
            missing = {name: seeds for name, seeds in missing.items() if name in approaches}
        if missing:
            names = (f'{experiment}_{name}_{{{",".join(seeds)}}}' for name, seeds in missing.items())
            self.notes.append(f'missing or not finished: {" ".join(names)}')
        for runs in self.found.values():
            for seed, result in list(runs.items()):
                if len(result.accuracy) < self.n_tasks:
                    self.notes.append(f'left out: {result.txt.name}: {len(result.accuracy)} of {self.n_tasks} tasks')
                    del runs[seed]
        self._compare_protocols()
        self.shown = {name: self.found[name] for name in approaches if self.found[name]}
        self.merits = {name: self._merits(name) for name in self.shown}

    def all(self):
        """Yield (approach, Result)."""
        for name in self.found:
            for seed in self.seeds:
                yield from ((name, result) for result in [self.get(name, seed), *self.swept[name][seed]] if result)

    def get(self, name, seed):
        """The Result, or None."""
        return self.found.get(name, {}).get(seed)

    def _compare_protocols(self):
        for key in PROTOCOL:
            values = {}
            for name, result in self.all():
                if name != 'random' and key in result.record.get('arguments', {}):
                    values.setdefault(result.record['arguments'][key], {})[name] = None
            if len(values) > 1:
                said = '; '.join(f'{value}: {", ".join(names)}' for value, names in values.items())
                self.notes.append(f'not one protocol: {key} is {said}')

    def ratios(self, result, seed):
        """rho<=t (T,) of Eq. 6; None without the references of the same seed and tasks."""
        joint, random = (self.get(name, seed) for name in REFERENCES)
        if not (joint and random and result.like(joint) and result.like(random)):
            return None
        return results.forgetting_ratio(result.accuracy, joint.accuracy, random.accuracy)

    def _merits(self, name):
        """Of each run of an approach: A<=t (n, T); BWT (n,); rho<=t and FWT of those of which there are such."""
        runs = self.shown[name]
        rho = [ratio for seed, r in runs.items() if (ratio := self.ratios(r, seed)) is not None]
        forward = [(r.record['before'], r.record['initial']) for r in runs.values() if 'before' in r.record]
        return {
            'rho': np.array(rho).reshape(len(rho), self.n_tasks),
            'accuracy': np.array([results.average_accuracies(r.accuracy) for r in runs.values()]),
            'BWT': np.array([results.backward_transfer(r.accuracy) for r in runs.values()]),
            'FWT': np.array([results.forward_transfer(*pair) for pair in forward]),
        }

    def sweeps(self, name, seed):
        """Fig. 4, from work.py's results: hyper-parameter -> (values, rho<=T of each), the others at their defaults."""
        default = {key: p.default for key, p in APPROACHES[name].parameters.items()}
        points = {key: {} for key, p in APPROACHES[name].parameters.items() if p.grid}
        for result in self.swept[name][seed]:
            values, rho = result.record['arguments']['parameter'], self.ratios(result, seed)
            if rho is not None:
                for key in points:
                    if values | {key: default[key]} == default:
                        points[key][values[key]] = rho[-1]
        return {key: tuple(zip(*sorted(pairs.items()), strict=True)) for key, pairs in points.items() if len(pairs) > 1}


def load(txt):
    """The Result in a .txt, None if it is not finished: it has no record, and its last row is empty."""
    accuracy, record = results.read_matrix(txt), results.read_record(txt.with_suffix('.json'))
    return Result(txt, accuracy, record) if record or accuracy[-1].any() else None

"""The finished runs of one experiment that a folder holds, and what is computed from several of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import results
from approaches import ALIASES, APPROACHES
from errors import UserError

REFERENCES = ('joint', 'random')  # A_J and A_R of Eq. 6


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


class Collection:
    """shown    approach -> seed -> Result, of the approaches asked for of which there is any
    missing  names of what is not there
    """

    def __init__(self, experiment, folder, approaches, seeds):
        self.experiment, self.folder, self.seeds = experiment, folder, seeds
        self.found = {name: {} for name in [*approaches, *REFERENCES]}
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
        self.shown = {name: self.found[name] for name in approaches if self.found[name]}
        if not self.shown:
            raise UserError(f'--res: no finished run of {experiment} in {folder}')
        self.merits = {name: self._merits(name) for name in self.shown}
        self.n_tasks = max(merit['accuracy'].shape[1] for merit in self.merits.values())
        if self.n_tasks == 1:  # nothing to forget, no ratio
            missing = {name: seeds for name, seeds in missing.items() if name in approaches}
        self.missing = [f'{experiment}_{name}_{{{",".join(seeds)}}}' for name, seeds in missing.items()]

    def get(self, name, seed):
        """The Result, or None."""
        return self.found.get(name, {}).get(seed)

    def ratios(self, result, seed):
        """rho<=t (T,) of Eq. 6, None without the references of the same seed."""
        references = [self.get(name, seed) for name in REFERENCES]
        if not all(references):
            return None
        matrices = [each.accuracy for each in (result, *references)]
        if len({a.shape for a in matrices}) > 1:
            raise UserError(f'{result.txt}: {len(result.accuracy)} tasks, unlike joint or random of the same seed')
        return results.forgetting_ratio(*matrices)

    def _merits(self, name):
        """Of each run of an approach: rho<=t (n, T), where there are references; A<=t (n, T); BWT and FWT (n,)."""
        runs = self.shown[name]
        if len({r.accuracy.shape for r in runs.values()}) > 1:
            raise UserError(f'{name}: runs of different numbers of tasks cannot be compared')
        rho = [ratio for seed, r in runs.items() if (ratio := self.ratios(r, seed)) is not None]
        accuracy = np.array([results.average_accuracies(r.accuracy) for r in runs.values()])
        forward = [(r.record['before'], r.record['initial']) for r in runs.values() if 'before' in r.record]
        return {
            'rho': np.array(rho).reshape(len(rho), accuracy.shape[1]),
            'accuracy': accuracy,
            'BWT': np.array([results.backward_transfer(r.accuracy) for r in runs.values()]),
            'FWT': np.array([results.forward_transfer(*pair) for pair in forward]),
        }

    def sweeps(self, name, seed):
        """Fig. 4, from work.py's results: hyper-parameter -> (values, rho<=T of each), the others at their defaults."""
        default = {key: p.default for key, p in APPROACHES[name].parameters.items()}
        points = {key: {} for key, p in APPROACHES[name].parameters.items() if p.grid}
        for path in self.folder.glob(f'{self.experiment}_{name}_{seed}_*=*.txt'):
            result = load(path)
            values = result and result.record.get('arguments', {}).get('parameter')
            rho = values and self.ratios(result, seed)
            if rho is not None:
                for key in points:
                    if values | {key: default[key]} == default:
                        points[key][values[key]] = rho[-1]
        return {key: tuple(zip(*sorted(pairs.items()), strict=True)) for key, pairs in points.items() if len(pairs) > 1}


def load(txt):
    """The Result in a .txt, None if it is not finished."""
    accuracy = results.read_matrix(txt)
    return Result(txt, accuracy, results.read_record(txt.with_suffix('.json'))) if accuracy[-1].any() else None

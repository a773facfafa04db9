"""The values of the paper that results are compared with: Table 1, sections 4.2 and 4.4."""

from typing import NamedTuple


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

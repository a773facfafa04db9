"""PNN: progressive neural networks (Rusu et al. 2016). Each task trains its own column; earlier columns are frozen.

Original: earlier columns are evaluated without their own lateral connections where they feed a later column.
"""

from approaches.base import Approach


class PNN(Approach):
    variant = 'pnn'

    def before_task(self, t):
        for u, column in enumerate(self.net.columns):
            column.requires_grad_(u == t)

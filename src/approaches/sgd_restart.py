"""SGD-R: each task starts again from the initial weights, of its head too. What one task reaches alone."""

from approaches.base import Approach


class SGDRestart(Approach):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.initial = self.snapshot()

    def before_task(self, t):
        self.restore(self.initial)

"""SGD-R: each task starts from the initial weights, including its head: the accuracy of single-task training."""

from approaches.base import Approach


class SGDRestart(Approach):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.initial = self.snapshot()

    def before_task(self, t):
        self.restore(self.initial)

"""The network as it was before the task at hand, kept to be compared with: for LFL and LWF."""

import copy

from approaches.base import Approach


class Taught(Approach):
    kept = ('old',)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.old = None  # its weights
        self.teacher = None  # and the network itself; None in the first task

    def before_task(self, t):
        if self.old is not None:
            self.teacher = copy.deepcopy(self.net).eval().requires_grad_(False)
            self.teacher.load_state_dict(self.old)

    def after_task(self, t):
        self.old = self.snapshot()

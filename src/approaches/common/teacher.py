"""A frozen copy of the network from before the current task, for LFL and LWF."""

import copy

from approaches.base import Approach


class Taught(Approach):
    kept = ('old',)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.old = None  # state of the network after the last task
        self.teacher = None  # a network with this state; None in the first task

    def before_task(self, t):
        if self.old is not None:
            self.teacher = copy.deepcopy(self.net).eval().requires_grad_(False)
            self.teacher.load_state_dict(self.old)

    def after_task(self, t):
        self.old = self.snapshot()

"""SGD-F: after the first task all layers except the new head are frozen (HAT, section 4, "Baselines")."""

from approaches.base import Approach


class SGDFrozen(Approach):
    def before_task(self, t):
        self.net.blocks.requires_grad_(t == 0)

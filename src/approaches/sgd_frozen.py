"""SGD-F: after the first task all layers are frozen but the new head (HAT, section 4, "Baselines")."""

from approaches.base import Approach


class SGDFrozen(Approach):
    def before_task(self, t):
        self.net.blocks.requires_grad_(t == 0)

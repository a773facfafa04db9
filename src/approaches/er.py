"""ER: experience replay (Chaudhry et al. 2019, "On tiny episodic memories in continual learning").

Each step is on the mean loss of a batch of the new task and as many stored images of earlier tasks (their Algorithm 1,
with reservoir sampling). The two halves pass through the network one after the other.
"""

from approaches.common.replay import BUFFER, Replay


class ER(Replay):
    parameters = {'buffer': BUFFER}

    def batch_loss(self, index, t, progress):
        loss = super().batch_loss(index, t, progress)
        if self.drawn is not None:
            loss = (loss + self.replay(0, index, self.cross_entropy)) / 2
        return loss

"""LFL: less-forgetting learning (Jung et al. 2016).

    loss = cross-entropy + lamb / 2 * sum over the batch of ||h - h_old||^2                      (their Eqs. 1 to 3)

h is the last hidden layer's output; h_old that of the network before this task. Old heads do not change. The sum is
that of the original code, and lamb and its grid are for its batches of 64; with a mean lamb would be 64 times weaker.

Original: in the network of LFL no dropout follows the last hidden layer. Here: 0.5, as for all approaches. In training
the distance is that of h after this dropout, on average ||h - h_old||^2 + ||h||^2 with h before it. That is smallest at
h = h_old / 2: each task pulls the features towards zero.
"""

import torch
from torch.nn.functional import cross_entropy

from approaches.common.teacher import Taught
from core.hyperparameters import Parameter


class LFL(Taught):
    parameters = {'lamb': Parameter(0.05, grid=(1e-1, 5e-2, 1e-2, 5e-3, 1e-3, 5e-4, 1e-4, 5e-5), low=0)}
    clip = 200

    def loss(self, x, y, t, progress):
        features = self.net.features(x)
        logits = self.net.heads[t](features)
        loss = cross_entropy(logits, y)
        if self.teacher is not None:
            with torch.no_grad():
                old = self.teacher.features(x)
            share = min(1, self.protocol.batch_size / len(y))  # evaluation batches are larger, but count the same
            loss = loss + self.lamb / 2 * share * feature_distance(features, old)
        return loss, logits


def feature_distance(features, old):
    """Squared Euclidean distance between two (N, units), summed over N."""
    return ((features - old) ** 2).sum()

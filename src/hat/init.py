"""How embeddings start: functions init(e, generator=None) that fill an embedding e, (N,), in place."""

import torch
from torch import Tensor, nn


def normal(e: Tensor, generator: torch.Generator | None = None) -> None:
    """Embeddings from N(0, 1): about half of the gates are open (Serra et al. 2018, section 4, "Training")."""
    nn.init.normal_(e, generator=generator)


def uniform(e: Tensor, generator: torch.Generator | None = None, low: float = 0.0, high: float = 2.0) -> None:
    """Embeddings from U(low, high). With 0 and 2 all gates are rather open, to be compressed (section 4.4). Other ends:
    functools.partial(uniform, low=-1, high=1)."""
    nn.init.uniform_(e, low, high, generator=generator)


def dense(e: Tensor, generator: torch.Generator | None = None) -> None:
    """Embeddings of 1: all gates are open (HAT-CL)."""
    nn.init.ones_(e)


INITS = {'normal': normal, 'uniform': uniform, 'dense': dense}

"""Initial embeddings: functions init(e, generator=None) that fill an embedding e, (N,), in place.

The generator may be on another device than e: with a CPU generator the initial values are the same on all devices.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def normal(e: Tensor, generator: torch.Generator | None = None) -> None:
    """Embeddings from N(0, 1): about half of the gates are open (Serra et al. 2018, section 4, "Network")."""
    _fill(e, generator, lambda x: x.normal_(generator=generator))


def uniform(e: Tensor, generator: torch.Generator | None = None, low: float = 0.0, high: float = 2.0) -> None:
    """Embeddings from U(low, high). With 0 and 2 all gates start open, for compression (section 4.4). For other
    bounds: functools.partial(uniform, low=-1, high=1)."""
    _fill(e, generator, lambda x: x.uniform_(low, high, generator=generator))


def dense(e: Tensor, generator: torch.Generator | None = None) -> None:
    """Embeddings of 1: all gates are open (HAT-CL)."""
    nn.init.ones_(e)


@torch.no_grad()
def _fill(e: Tensor, generator: torch.Generator | None, sample: Callable[[Tensor], Tensor]) -> None:
    device = generator.device if generator else e.device
    e.copy_(sample(torch.empty(e.shape, dtype=e.dtype, device=device)))


INITS = {'normal': normal, 'uniform': uniform, 'dense': dense}

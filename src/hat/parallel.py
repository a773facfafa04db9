"""Several threads, processes and devices: locks; what does not work with kept values is refused, as TorchScript."""

import os
import threading
from typing import Any, Self

from torch import nn

TORCHSCRIPT = 'TorchScript has no masks: trace or script hat.prune(model, task) or hat.plain(model, task)'
INSTEAD = 'hat needs whole parameters in every process: DistributedDataParallel'


def lock() -> threading.RLock:
    """A lock that a forked process does not inherit from another thread, which does not exist there."""
    made = threading.RLock()
    if hasattr(os, 'register_at_fork'):  # not on Windows
        os.register_at_fork(before=made.acquire, after_in_parent=made.release, after_in_child=made.release)
    return made


class Whole:
    """For modules whose parameters cannot be cut up, or copied to other devices in each batch."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if any(base.__name__ == 'FSDPModule' for base in cls.__mro__):  # fully_shard() makes such a class
            raise TypeError(f'fully_shard() cuts up parameters: {INSTEAD}')

    def _replicate_for_data_parallel(self) -> Self:
        raise TypeError(f'DataParallel trains copies that forget what they count: {INSTEAD}')

    def __prepare_scriptable__(self) -> Self:  # torch.jit.script() calls it
        raise TypeError(TORCHSCRIPT)


def check(module: nn.Module) -> None:
    """Raises TypeError: a parameter is sharded, a DTensor."""
    for name, p in module.named_parameters():
        if hasattr(p, 'placements'):
            raise TypeError(f'{name} is sharded: {INSTEAD}')

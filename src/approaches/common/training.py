"""The numbers of the training protocol (paper, section 4, "Training"), and the state of a task between two epochs."""

import math
from dataclasses import dataclass, field

import torch

from approaches.common.optimizers import OPTIMIZERS
from dataloaders.augment import AUGMENTATIONS

LR_RANGE = 500  # from the first learning rate of a task to the last: 0.05 to 1e-4
DEPARTURES = {  # from the paper's protocol: argument of run.py -> its values, the paper's first
    'optimizer': tuple(OPTIMIZERS),
    'schedule': ('paper', 'cosine'),
    'augment': tuple(AUGMENTATIONS),
    'precision': ('float32', 'bf16', 'tf32'),
}


@dataclass(frozen=True)
class Protocol:
    """By default plain SGD, without momentum or weight decay; learning rate, patience and optimizer start afresh for
    each task. optimizer, schedule, augment and precision are departures from the paper."""

    seed: int = 0
    nepochs: int = 200  # at most
    lr: float = 0.05
    batch_size: int = 64
    optimizer: str = 'sgd'
    schedule: str = 'paper'  # or cosine: from lr to 0 in nepochs epochs, a cosine
    augment: str = 'none'
    precision: str = 'float32'  # bf16: of products and what follows from them; tf32: of products on a CUDA device
    lr_factor: float = 3  # the learning rate is divided by it
    patience: int = 5  # after so many epochs without a better validation loss
    lr_min: float = 1e-4  # training stops below

    @classmethod
    def of(cls, args):
        """From the arguments of run.py."""
        chosen = {name: getattr(args, name) or choices[0] for name, choices in DEPARTURES.items()}
        lr_min = 0.0 if args.schedule == 'cosine' else args.lr / LR_RANGE if args.optimizer else cls.lr_min
        return cls(args.seed, args.nepochs, args.lr, args.batch_size, **chosen, lr_min=lr_min)

    def cosine(self, part):
        """The learning rate after that part of the epochs, 0 to 1."""
        return self.lr * (1 + math.cos(math.pi * part)) / 2


@dataclass
class Training:
    """The state of a task's training between two epochs."""

    lr: float
    patience: int  # epochs left without a better validation loss
    best: object  # a snapshot of the model with the best validation loss
    start_loss: float  # validation loss before the first epoch
    best_loss: float = math.inf
    log: list = field(default_factory=list)  # a record for each epoch
    optimizer: list = field(default_factory=list)  # its state, tensors; [] before the first step

    def diverged(self):
        return any('diverged' in record for record in self.log)

    def not_learned(self, accuracy, chance):
        """Why the task is not learned, or None. accuracy: of the model that is kept, in validation; chance: that of the
        most frequent class alone. Above that it is learned, but if it is near (below twice that, and less than half-way
        from it to 1) only if the validation loss has fallen.

        The loss alone does not tell: a penalty may keep it high, and that of HAT falls with the regularization alone.
        """
        stuck = self.best_loss >= self.start_loss and accuracy < min(2 * chance, (1 + chance) / 2)
        if self.diverged() or not (stuck or accuracy <= chance < 1):
            return None
        return f'validation accuracy {100 * accuracy:.1f} %; the most frequent class alone gives {100 * chance:.1f} %'


def first_not_finite(values):
    """The name of the first of the values, name -> number, that is not finite, or None."""
    return next((name for name, value in values.items() if not math.isfinite(value)), None)


def n_bytes(value):
    """How many bytes the tensors in a value need; a bool counts as a bit, though in memory it takes a byte."""
    if isinstance(value, torch.Tensor):
        return -(-value.numel() // 8) if value.dtype == torch.bool else value.nbytes
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(n_bytes, inner))

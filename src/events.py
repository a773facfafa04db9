"""A run for TensorBoard, an optional dependency: what the records of its epochs hold, in tmp/tensorboard/<its name>."""

import shutil

from errors import UserError
from files import ROOT

FOLDER = ROOT / 'tmp' / 'tensorboard'


class Events:
    """Starts over with the folder: the epochs of a run that goes on are written again."""

    def __init__(self, name):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError('--tensorboard needs TensorBoard: pip install tensorboard') from None
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        self.writer, self.written = SummaryWriter(FOLDER / name), 0

    def write(self, epochs):
        """epochs: the records of all epochs so far, task after task; a list in a record has a number for each layer."""
        for step in range(self.written, len(epochs)):
            for name, value in epochs[step].items():
                for k, number in enumerate(value) if isinstance(value, list) else [(None, value)]:
                    self.writer.add_scalar(name if k is None else f'{name}/{k}', number, step)
        self.written = len(epochs)
        self.writer.flush()

"""A run for TensorBoard, an optional dependency: what its record holds, in tmp/tensorboard/<its name>."""

import shutil

from core.errors import UserError


class Events:
    """Starts over with the folder: the epochs of a run that goes on are written again."""

    def __init__(self, checkpoint, tasks):
        """checkpoint: of the run; tasks: their names."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError('--tensorboard needs TensorBoard: pip install tensorboard') from None
        folder = checkpoint.path.parent / 'tensorboard' / checkpoint.path.stem
        shutil.rmtree(folder, ignore_errors=True)
        self.writer, self.tasks, self.written, self.tested = SummaryWriter(folder), tasks, 0, 0

    def write(self, epochs, accuracy):
        """What is new. epochs: for each task so far the records of its epochs; accuracy: a row after each task."""
        flat = [record for records in epochs for record in records]
        for step in range(self.written, len(flat)):
            for name, value in flat[step].items():
                for part, number in self.parts(name, value):
                    self.writer.add_scalar(f'{name}/{part}' if part else name, number, step)
        for t in range(self.tested, len(accuracy)):
            end = sum(map(len, epochs[: t + 1])) - 1
            for name, value in zip(self.tasks, accuracy[t][: t + 1], strict=False):
                self.writer.add_scalar(f'accuracy/{name}', value, end)
        self.written, self.tested = len(flat), len(accuracy)
        self.writer.flush()

    def parts(self, name, value):
        """A list is of the earlier tasks (reuse), of the first and the last batch (s), or of the layers."""
        if not isinstance(value, list):
            return [('', value)]
        names = {'reuse': self.tasks, 's': ['first', 'last']}.get(name, [f'layer {l + 1}' for l in range(len(value))])
        total = [('all', sum(value))] if name in ('active', 'capacity', 'active_units') else []
        return [*zip(names, value, strict=False), *total]

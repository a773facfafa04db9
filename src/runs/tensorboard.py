"""A run for TensorBoard, an optional dependency: the metrics of its record, in tensorboard/ beside its checkpoint."""

import math
import shutil


class TensorBoardLogger:
    """Starts with an empty folder: the epochs of a resumed run are written again."""

    def __init__(self, checkpoint, tasks):
        """checkpoint: of the run; tasks: their names."""
        from torch.utils.tensorboard import SummaryWriter  # here, because it needs TensorBoard

        folder = checkpoint.path.parent / 'tensorboard' / checkpoint.path.stem
        shutil.rmtree(folder, ignore_errors=True)
        self.writer, self.tasks, self.n_epochs, self.n_tests = SummaryWriter(folder), tasks, 0, 0  # written so far

    def write(self, epochs, accuracy):
        """Write what is new. epochs: for each task so far, the metrics of its epochs; accuracy: a row for each task."""
        flat = [metrics for log in epochs for metrics in log]
        for step in range(self.n_epochs, len(flat)):
            for name, value in flat[step].items():
                for part, number in self.parts(name, value):
                    self.writer.add_scalar(f'{name}/{part}' if part else name, number, step)
        for t in range(self.n_tests, len(accuracy)):
            end = sum(map(len, epochs[: t + 1])) - 1
            for name, value in zip(self.tasks, accuracy[t][: t + 1], strict=False):
                self.writer.add_scalar(f'accuracy/{name}', value, end)
        self.n_epochs, self.n_tests = len(flat), len(accuracy)
        self.writer.flush()

    def parts(self, name, value):
        """(name, number) for each value of a list: by earlier task (reuse), first and last batch (s), or layer."""
        if isinstance(value, str):  # diverged
            return []
        if not isinstance(value, list):
            return [('', math.nan if value is None else value)]  # of a record: not finite
        names = {'reuse': self.tasks, 's': ['first', 'last']}.get(name, [f'layer {l + 1}' for l in range(len(value))])
        total = [('all', sum(value))] if name in ('active', 'capacity', 'active_units') else []
        return [*zip(names, value, strict=False), *total]

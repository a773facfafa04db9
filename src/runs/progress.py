"""What a run shows while it learns a task: a bar in a terminal, lines elsewhere."""

import time

from tqdm import tqdm

PAUSE = 10  # seconds between two lines of epochs, unless every epoch is wanted


class TaskProgress:
    """Of one task: used as a context, update() after each epoch."""

    def __init__(self, name, n_epochs, verbose, resumed):
        """n_epochs: at most. verbose: a line for every epoch. resumed: how many epochs a checkpoint has brought."""
        self.name, self.n_epochs, self.verbose, self.last = name, n_epochs, verbose, time.monotonic()
        self.bar = tqdm(total=n_epochs, initial=resumed, desc=f'{name:14}', unit='epoch', disable=None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def update(self, log):
        """log: the records of the task's epochs so far."""
        epoch = log[-1]
        metrics = (
            f'loss {epoch["train_loss"]:.3f}, valid loss {epoch["valid_loss"]:.3f}, '
            f'valid acc {100 * epoch["valid_accuracy"]:.1f} %, lr {epoch["lr"]:.2g}'
        )
        self.bar.set_postfix_str(metrics, refresh=False)
        self.bar.update()
        if self.verbose or self.bar.disable and time.monotonic() - self.last >= PAUSE:
            line = f'{self.name:14} epoch {len(log):3}/{self.n_epochs}  {metrics}, {epoch["seconds"]:.1f} s'
            tqdm.write(line) if not self.bar.disable else print(line, flush=True)
            self.last = time.monotonic()

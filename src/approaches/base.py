"""The training protocol, once (paper, section 4, "Training"), with the hooks that an approach may override.

An approach says only what differs: most override before_task, loss, after_backward, after_step or after_task.
"""

import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tqdm import tqdm

import seeds

EVAL_BATCH = 512


@dataclass(frozen=True)
class Protocol:
    """Plain SGD, without momentum or weight decay; learning rate, patience and optimizer start afresh for each task."""

    seed: int = 0
    nepochs: int = 200  # at most
    lr: float = 0.05
    batch_size: int = 64
    lr_factor: float = 3  # the learning rate is divided by it
    patience: int = 5  # after so many epochs without a better validation loss
    lr_min: float = 1e-4  # training stops below


class Approach:
    variant = ''  # of the experiment's network: '' is the plain one
    parameters = {}  # name -> parameters.Parameter, in the order of --parameter
    clip = 10_000  # maximum norm of the gradient

    def __init__(self, net, tasks, protocol, **parameters):
        """net, tasks (list of Task) are on one device; `parameters` become attributes."""
        self.net, self.tasks, self.protocol = net, tasks, protocol
        for name, value in parameters.items():
            setattr(self, name, value)

    # Hooks, in calling order

    def before_task(self, t):
        """Make ready."""

    def n_rounds(self):
        """How often, at most, a task's images are passed through: training and validation each time."""
        return self.protocol.nepochs

    def n_train(self, t):
        """Number of images that train task t."""
        return len(self.tasks[t].train.y)

    def batch_loss(self, index, t, progress):
        """Loss of the training images `index` (LongTensor), out of n_train(t); a scalar."""
        return self.loss(*self.tasks[t].batch(self.tasks[t].train, index), t, progress)[0]

    def loss(self, x, y, t, progress):
        """Loss of a batch, a scalar, and the logits of task t, (B, classes). The same in training and evaluation.

        progress  position in the epoch, (b - 1) / (B - 1) from 0 to 1; 1 in evaluation
        """
        logits = self.net(x, t)
        return F.cross_entropy(logits, y), logits

    def after_backward(self, t, progress):
        """Edit gradients."""

    def after_step(self, t):
        """Edit parameters."""

    def validate(self, t):
        """Loss and accuracy by which the best model is chosen."""
        return self.evaluate(t, self.tasks[t].valid)

    def snapshot(self):
        """All that makes up the model at hand, for restore()."""
        return {name: value.clone() for name, value in self.net.state_dict().items()}

    def restore(self, snapshot):
        self.net.load_state_dict(snapshot)

    def after_task(self, t):
        """Consolidate; the best model is restored."""

    # Protocol

    def learn(self, t):
        """Train task t; at the end the model is the one of the best validation loss. Returns a record an epoch."""
        self.before_task(t)
        p, name, rounds = self.protocol, self.tasks[t].name, self.n_rounds()
        lr, patience, best_loss, best = p.lr, p.patience, math.inf, self.snapshot()
        log = []
        with tqdm(total=rounds, desc=f'{name:14}', unit='epoch', disable=None) as bar:
            for epoch in range(rounds):
                start = time.perf_counter()
                train_loss = self.train_epoch(t, epoch, lr)
                valid_loss, valid_accuracy = self.validate(t)
                seconds = time.perf_counter() - start
                log.append({'lr': lr, 'train_loss': train_loss, 'valid_loss': valid_loss,
                            'valid_accuracy': valid_accuracy, 'seconds': seconds})  # fmt: skip
                said = (f'loss {train_loss:.3f}, valid loss {valid_loss:.3f}, acc {100 * valid_accuracy:.1f} %, '
                        f'lr {lr:.2g}')  # fmt: skip
                bar.set_postfix_str(said, refresh=False)
                bar.update()
                if bar.disable:
                    print(f'{name:14} epoch {epoch + 1:3}/{rounds}  {said}, {seconds:.1f} s', flush=True)
                if valid_loss < best_loss:
                    best_loss, best, patience = valid_loss, self.snapshot(), p.patience
                    continue
                patience -= 1
                if patience == 0:
                    lr, patience = lr / p.lr_factor, p.patience
                    if lr < p.lr_min:
                        break
        self.restore(best)
        self.after_task(t)
        return log

    def train_epoch(self, t, epoch, lr):
        """One pass over the training images of task t; returns the mean loss. Order and dropout are set by the seed."""
        p, device = self.protocol, self.tasks[t].train.y.device
        self.net.train()
        torch.manual_seed(seeds.derive(p.seed, 'dropout', t, epoch))
        order = torch.randperm(self.n_train(t), generator=seeds.generator(p.seed, 'batches', t, epoch))
        batches = order.to(device).split(p.batch_size)
        optimizer = torch.optim.SGD(self.net.parameters(), lr)
        total = 0
        for b, index in enumerate(tqdm(batches, desc=f'  epoch {epoch + 1}', leave=False, disable=None)):
            progress = b / (len(batches) - 1) if len(batches) > 1 else 1.0
            loss = self.batch_loss(index, t, progress)
            self.net.zero_grad()
            loss.backward()
            self.after_backward(t, progress)
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
            optimizer.step()
            self.after_step(t)
            total += loss.detach() * len(index)
        return float(total) / len(order)

    @torch.no_grad()
    def evaluate(self, t, images):
        """Mean loss and accuracy (0..1) of task t on `images` (a split of its data)."""
        self.net.eval()
        loss = correct = 0
        for start in range(0, len(images.y), EVAL_BATCH):
            x, y = self.tasks[t].batch(images, slice(start, start + EVAL_BATCH))
            batch_loss, logits = self.loss(x, y, t, 1.0)
            loss += batch_loss * len(y)
            correct += (logits.argmax(1) == y).sum()
        return float(loss) / len(images.y), float(correct) / len(images.y)

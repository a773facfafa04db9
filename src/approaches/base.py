"""The training protocol, once (paper, section 4, "Training"), with the hooks that an approach may override.

An approach says only what differs. Its hooks, in calling order:
    before_task(t)               -> per batch: loss(x, y, t, progress), after_backward(t, progress), after_step(t)
                                 -> after_task(t), once the best model of task t is restored
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

    # Hooks

    def before_task(self, t):
        pass

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

    def after_task(self, t):
        """Consolidate."""

    # Protocol

    def learn(self, t):
        """Train task t; at the end the network is the one of the best validation loss. Returns a record an epoch."""
        self.before_task(t)
        p, name = self.protocol, self.tasks[t].name
        lr, patience, best_loss, best = p.lr, p.patience, math.inf, self._copy()
        log = []
        with tqdm(total=p.nepochs, desc=f'{name:14}', unit='epoch', disable=None) as bar:
            for epoch in range(p.nepochs):
                start = time.perf_counter()
                train_loss = self.train_epoch(t, epoch, lr)
                valid_loss, valid_accuracy = self.evaluate(t, self.tasks[t].valid)
                seconds = time.perf_counter() - start
                log.append({'lr': lr, 'train_loss': train_loss, 'valid_loss': valid_loss,
                            'valid_accuracy': valid_accuracy, 'seconds': seconds})  # fmt: skip
                said = (f'loss {train_loss:.3f}, valid loss {valid_loss:.3f}, acc {100 * valid_accuracy:.1f} %, '
                        f'lr {lr:.2g}')  # fmt: skip
                bar.set_postfix_str(said, refresh=False)
                bar.update()
                if bar.disable:
                    print(f'{name:14} epoch {epoch + 1:3}/{p.nepochs}  {said}, {seconds:.1f} s', flush=True)
                if valid_loss < best_loss:
                    best_loss, best, patience = valid_loss, self._copy(), p.patience
                    continue
                patience -= 1
                if patience == 0:
                    lr, patience = lr / p.lr_factor, p.patience
                    if lr < p.lr_min:
                        break
        self.net.load_state_dict(best)
        self.after_task(t)
        return log

    def train_epoch(self, t, epoch, lr):
        """One pass over the training images of task t; returns the mean loss. Order and dropout are set by the seed."""
        p, task = self.protocol, self.tasks[t]
        self.net.train()
        torch.manual_seed(seeds.derive(p.seed, 'dropout', t, epoch))
        order = torch.randperm(len(task.train.y), generator=seeds.generator(p.seed, 'batches', t, epoch))
        batches = order.to(task.train.y.device).split(p.batch_size)
        optimizer = torch.optim.SGD(self.net.parameters(), lr)
        total = 0
        for b, index in enumerate(tqdm(batches, desc=f'  epoch {epoch + 1}', leave=False, disable=None)):
            progress = b / (len(batches) - 1) if len(batches) > 1 else 1.0
            x, y = task.batch(task.train, index)
            loss, _ = self.loss(x, y, t, progress)
            self.net.zero_grad()
            loss.backward()
            self.after_backward(t, progress)
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
            optimizer.step()
            self.after_step(t)
            total += loss.detach() * len(y)
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

    def _copy(self):
        return {name: value.clone() for name, value in self.net.state_dict().items()}

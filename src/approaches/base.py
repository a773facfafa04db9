"""The training protocol, once (paper, section 4, "Training"), with the hooks that an approach may override.

An approach contains only what differs: most override before_task, loss, after_backward, after_step or after_task.
"""

import copy
import time
import warnings

import torch
import torch.nn.functional as F

from approaches.common.steps import Steps
from approaches.common.training import Training, first_not_finite, n_bytes
from core import seeds
from dataloaders.augment import AUGMENTATIONS


class Approach:
    variant = ''  # of the experiment's network: '' is the plain one
    parameters = {}  # name -> hyperparameters.Parameter, in the order of --parameter
    clip = 10_000  # maximum norm of the gradient
    # Names of the attributes that a checkpoint saves: what is known of earlier tasks, and what changes between epochs;
    # tensors, numbers, strings, None, lists, dicts. __init__ and before_task make everything else
    kept = ()

    def __init__(self, net, tasks, protocol, **parameters):
        """net and tasks (a list of Task) are on one device; `parameters` become attributes."""
        self.net, self.tasks, self.protocol = net, tasks, protocol
        self.training = self.steps = None  # within a task
        for name, value in parameters.items():
            setattr(self, name, value)

    @classmethod
    def defaults(cls):
        """Its hyper-parameters, name -> value."""
        return {name: parameter.default for name, parameter in cls.parameters.items()}

    # Hooks, in calling order

    def before_task(self, t):
        """Prepare task t from the attributes in `kept`. When a run resumes within the task it is called again; what it
        does to these attributes and to the network is then replaced by the checkpoint."""

    def n_rounds(self):
        """The maximum number of epochs, each a pass over the training and the validation images."""
        return self.protocol.nepochs

    def n_train(self, t):
        """Number of images that train task t."""
        return len(self.tasks[t].train.y)

    def batch_loss(self, index, t, progress):
        """Loss of the training images `index` (LongTensor), out of n_train(t); a scalar."""
        return self.loss(*self.training_batch(index, t), t, progress)[0]

    def training_batch(self, index, t):
        """The training images `index` of task t, augmented if the protocol says so, and their labels."""
        task = self.tasks[t]
        x, y = task.batch(task.train, index)
        return AUGMENTATIONS[self.protocol.augment](x, -task.mean / task.std), y

    def loss(self, x, y, t, progress):
        """Loss of a batch, a scalar, and the logits of task t, (B, classes). The same in training and evaluation.

        progress  position in the epoch, (b - 1) / (B - 1) from 0 to 1, a scalar tensor; the number 1 in evaluation

        On a CUDA device one training step of a task is captured and replayed: no value may travel to the host, and no
        shape may depend on the images.
        """
        logits = self.net(x, t)
        return F.cross_entropy(logits, y), logits

    def after_backward(self, t, progress):
        """Edit the gradients, p.grad, before clipping; None for parameters that the loss does not depend on."""

    def after_step(self, t):
        """Edit the parameters, in place. p.grad is not clipped: a step of plain SGD was -lr * min(1, clip / norm) *
        p.grad. For any optimizer, compare with a copy that after_backward has made (si.py).

        Write into tensors that the approach holds (self.x.copy_(...), not self.x = ...): on a CUDA device the captured
        step is replayed with these very tensors, and replacing one raises an error.
        """

    def validate(self, t):
        """The loss and accuracy that choose the best model."""
        return self.evaluate(t, self.tasks[t].valid)

    def chance(self, t):
        """The accuracy in validate() of always answering the most frequent class."""
        return self.tasks[t].valid.most_frequent()

    def observe(self, t):
        """Extra metrics for the record of the epoch: a dict of numbers and lists of numbers."""
        return {}

    def snapshot(self):
        """The current model, for restore()."""
        return {name: value.clone() for name, value in self.net.state_dict().items()}

    def restore(self, snapshot):
        self.net.load_state_dict(snapshot)

    def after_task(self, t):
        """Consolidate. The best model has been restored."""

    def report(self):
        """Extra metrics for the record of the run, after all tasks: what JSON can hold."""
        return {}

    def stored(self):
        """What is kept of learned tasks besides the network, name -> bytes."""
        return {name: size for name in self.kept if (size := n_bytes(getattr(self, name)))}

    # Protocol

    def state(self):
        """Everything that load_state() needs to resume in another process."""
        kept = {name: getattr(self, name) for name in self.kept}
        return {'model': self.snapshot(), 'kept': kept, 'training': self.training and vars(self.training)}

    def load_state(self, state):
        self.restore(state['model'])
        for name, value in state['kept'].items():
            setattr(self, name, value)
        self.training = state['training'] and Training(**state['training'])

    def learn(self, t, after_epoch=lambda log: None):
        """Train task t; at the end the model is the one of the best validation loss. Returns a record for each epoch.

        after_epoch: called with the records so far
        """
        p = self.protocol
        begun = copy.deepcopy(self.state()) if self.training else None  # resumed within the task
        self.before_task(t)
        if begun:
            self.load_state(begun)
        else:
            self.training = Training(p.lr, p.patience, self.snapshot(), self.validate(t)[0])
        now = self.training
        while len(now.log) < self.n_rounds() and now.lr >= p.lr_min:
            start = time.perf_counter()
            train_loss = self.train_epoch(t, len(now.log), now.lr)
            valid_loss, valid_accuracy = self.validate(t)
            now.log.append({'lr': now.lr, 'train_loss': train_loss, 'valid_loss': valid_loss,
                            **self.not_finite(t, train_loss, valid_loss), 'valid_accuracy': valid_accuracy,
                            'seconds': time.perf_counter() - start, **self.observe(t)})  # fmt: skip
            self.decide(t, valid_loss)
            after_epoch(now.log)
        self.restore(now.best)
        if now.log and (why := now.not_learned(self.validate(t)[1], self.chance(t))):
            now.log[-1]['diverged'] = 'no progress'
            self.warn(t, f' is not learned: {why}; more epochs,')
        self.training = self.steps = None
        self.after_task(t)
        return now.log

    def decide(self, t, valid_loss):
        """Keep the best model so far; lower the learning rate after `patience` epochs without a better one."""
        now, p = self.training, self.protocol
        now.patience -= 1
        if valid_loss < now.best_loss:
            now.best_loss, now.best, now.patience = valid_loss, self.snapshot(), p.patience
        if p.schedule == 'cosine':
            now.lr = p.cosine(len(now.log) / self.n_rounds())
        elif now.patience == 0:
            now.lr, now.patience = now.lr / p.lr_factor, p.patience

    def not_finite(self, t, train_loss, valid_loss):
        """For the record of the epoch: {'diverged': what was not finite}; warns once a task."""
        now, gradient = self.training, float('inf') if self.steps and self.steps.n_not_finite else 0
        what = first_not_finite({'training loss': train_loss, 'validation loss': valid_loss, 'gradient': gradient})
        if what and not now.diverged():
            self.warn(t, f', epoch {len(now.log) + 1}: the {what} is not finite, and the best model so far is kept;')
        return {'diverged': what} if what else {}

    def warn(self, t, what):
        tuned = [name for name, parameter in self.parameters.items() if parameter.grid]
        others = f' or other hyper-parameters ({", ".join(tuned)})' if tuned else ''
        warnings.warn(f'{self.tasks[t].name} (task {t + 1}){what} a lower --lr{others} may help', stacklevel=3)

    def train_epoch(self, t, epoch, lr):
        """One pass over the training images of task t; returns the mean loss. Order and dropout depend on the seed."""
        seed, device = self.protocol.seed, self.tasks[t].train.y.device
        self.net.train()
        torch.manual_seed(seeds.derive(seed, 'dropout', t, epoch))
        order = torch.randperm(self.n_train(t), generator=seeds.generator(seed, 'batches', t, epoch))
        self.steps = self.steps or Steps(self, t)
        return self.steps.epoch(order.to(device), lr, f'  epoch {epoch + 1}')

    @torch.inference_mode()
    def evaluate(self, t, images):
        """Mean loss and accuracy (0..1) of task t on `images` (a split of its data)."""
        self.net.eval()
        loss = correct = 0
        for x, y in self.tasks[t].batches(images):
            batch_loss, logits = self.loss(x, y.clone(), t, 1.0)  # y is of the images themselves
            loss += batch_loss * len(y)
            correct += (logits.argmax(1) == y).sum()
        return float(loss) / len(images.y), float(correct) / len(images.y)

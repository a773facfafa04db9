"""Training as in the paper and the original code: an eager loop without optimizations.

Every head is computed for every batch; after each epoch there is a further pass over the training images; evaluation is
in batches of 64; HAT's masks are applied, and gradients conditioned, layer by layer. It is a baseline for speed.py, and
the reference in a test that compares 50 steps of each approach.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from approaches.base import Approach
from dataloaders.task import Images
from networks.dropout import Activation
from networks.layers import Convolution, Linear

E_MAX, SE_MAX = 6, 50  # HAT, section 2.5


class EagerTrainer:
    """Trains a task with the loss and the hooks of an approach.

    approach  before_task(t) was called; before that, use_stock_layers() on its network
    """

    def __init__(self, approach, t):
        self.approach, self.t, self.protocol = approach, t, approach.protocol
        self.net = approach.net
        task, self.images = approach.tasks[t], {}  # by split: all its images, as floats, and their labels
        for split in 'train', 'valid':
            x, y = task.batch(getattr(task, split), slice(None))
            self.images[split] = x.contiguous(), y

    def train(self):
        """Train for an epoch."""
        self.net.train()
        batches = torch.randperm(self.approach.n_train(self.t)).to(self.images['train'][1].device)
        batches = batches.split(self.protocol.batch_size)
        for b, index in enumerate(batches):
            self.step(index, b / (len(batches) - 1) if len(batches) > 1 else 1.0)

    def step(self, index, progress):
        """A training step on the images `index`. Returns the loss, a number."""
        loss = self.batch_loss(index, progress)
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        for p in parameters:
            p.grad = None
        loss.backward()
        self.edit_gradients(progress)
        nn.utils.clip_grad_norm_(parameters, self.approach.clip)
        with torch.no_grad():
            for p in parameters:
                if p.grad is not None:
                    p.add_(p.grad, alpha=-self.protocol.lr)
        self.edit_parameters()
        return loss.item()

    def batch_loss(self, index, progress):
        x, y = self.images['train']
        return self.loss(x[index], y[index], progress)[0]

    def loss(self, x, y, progress):
        """Loss, and the logits of the task. All other heads are computed, too, if the network has a list of them."""
        heads, features = getattr(self.net, 'heads', []), []
        if heads:
            hook = heads[self.t].register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
        loss, logits = self.approach.loss(x, y, self.t, progress)
        if heads:
            hook.remove()
        for u, head in enumerate(heads):
            if u != self.t:
                head(features[0])
        return loss, logits

    def edit_gradients(self, progress):
        self.approach.after_backward(self.t, progress)

    def edit_parameters(self):
        self.approach.after_step(self.t)

    @torch.no_grad()
    def evaluate(self, split):
        """Mean loss and accuracy."""
        self.net.eval()
        total, hits, n = 0, 0, len(self.images[split][1])
        for x, y in zip(*(part.split(self.protocol.batch_size) for part in self.images[split]), strict=True):
            loss, logits = self.loss(x, y, 1.0)
            total += loss.item() * len(y)
            hits += (logits.argmax(1) == y).sum().item()
        return total / n, hits / n


class EagerBatchTrainer(EagerTrainer):
    """Of an approach with a batch_loss of its own, such as joint, whose batches mix the images of several tasks."""

    def batch_loss(self, index, progress):
        return self.approach.batch_loss(index, self.t, progress)


class EagerHATTrainer(EagerTrainer):
    """HAT, formula by formula (sections 2.2 to 2.5); it shares only copies of the parameters with the approach."""

    def __init__(self, approach, t):
        super().__init__(approach, t)
        hidden = copy.deepcopy(approach.hidden.net)
        embeddings = nn.ParameterList(e.detach().clone() for e in approach.hidden.tasks[t].embeddings)
        self.net = nn.ModuleDict({'hidden': hidden, 'heads': copy.deepcopy(approach.net.heads), 'e': embeddings})
        self.linear = [next(m for m in b if isinstance(m, (nn.Conv2d, nn.Linear))) for b in hidden.blocks]
        learned = [[a.detach() for a in approach.hidden.masks(u)] for u in range(t)]
        layers = [torch.stack(layer) for layer in zip(*learned, strict=True)]
        self.before, self.uses = [a.amax(0) for a in layers], [a.sum(0) for a in layers]  # a^{<t}; number of tasks
        self.gradient_factors = [self.gradient_factor(l, self.before) for l in range(len(self.before))]

    def gradient_factor(self, l, before):
        """Eq. 2, for the weight and the bias of a layer. before: a^{<t}, by layer."""
        weight, out = self.linear[l].weight, before[l]
        ones = [1] * (weight.ndim - 2)
        factor = 1 - out.view(-1, 1, *ones).expand_as(weight)
        if l:
            inputs = before[l - 1].repeat_interleave(weight.shape[1] // len(before[l - 1]))
            factor = torch.max(factor, 1 - inputs.view(1, -1, *ones).expand_as(weight))
        return factor, 1 - out

    def loss(self, x, y, progress):
        self.s = s = self.scale(progress)
        h, masks = self.net['hidden'].drop(x), []
        for block, e in zip(self.net['hidden'].blocks, self.net['e'], strict=True):
            masks.append(torch.sigmoid(s * e))  # Eq. 1
            if masks[-1].requires_grad:
                masks[-1].retain_grad()
            h = block(h)
            h = h * masks[-1].view(1, -1, *[1] * (h.ndim - 2)).expand_as(h)
        logits = [head(h) for head in self.net['heads']]
        self.masks = masks
        free = [1 - before for before in self.before] or [torch.ones_like(a) for a in masks]
        return F.cross_entropy(logits[self.t], y) + self.approach.c * self.regularization(free), logits[self.t]  # Eq. 4

    def scale(self, progress):
        """Eq. 3."""
        s_max = self.approach.smax
        return 1 / s_max + (s_max - 1 / s_max) * progress

    def regularization(self, free):
        """Eq. 5. free: 1 - a^{<t}, by layer."""
        return sum((a * f).sum() for a, f in zip(self.masks, free, strict=True)) / sum(f.sum() for f in free)

    @torch.no_grad()
    def edit_gradients(self, progress):
        for layer, (weight, bias) in zip(self.linear, self.gradient_factors, strict=False):
            layer.weight.grad *= weight
            layer.bias.grad *= bias
        self.compensate()

    def compensate(self):
        for e, mask in zip(self.net['e'], self.masks, strict=True):  # section 2.5
            if self.approach.gradient == 'exact':
                slope = torch.sigmoid(e) * (1 - torch.sigmoid(e))
                e.grad = mask.grad * self.approach.smax * slope * torch.exp(-F.relu(torch.abs(self.s * e) - SE_MAX))
            else:
                a = torch.sigmoid(self.s * e.float()).to(e.dtype)
                numerator = torch.cosh(torch.clamp(self.s * e, -SE_MAX, SE_MAX)) + 1
                e.grad = mask.grad * a * (1 - a) * self.approach.smax * numerator / (torch.cosh(e) + 1)

    @torch.no_grad()
    def edit_parameters(self):
        for e in self.net['e']:
            e.clamp_(-E_MAX, E_MAX)


class EagerWSNTrainer(EagerTrainer):
    """WSN, formula by formula: each forward pass sorts the scores; the gradient of w m is taken apart by hand."""

    def loss(self, x, y, progress):
        self.masks, self.products = [], {}
        for name, w, s in zip(self.approach.names, self.approach.weights, self.net.scores, strict=True):
            best = s.detach().abs().flatten().sort(descending=True).indices[: round(self.approach.c * s.numel())]
            self.masks.append(torch.zeros_like(s).view(-1).index_fill(0, best, 1).view(s.shape))
            self.products[name] = (w.detach() * self.masks[-1]).requires_grad_()
        features = functional_call(self.net, self.products, (x,))
        logits = [head(features) for head in self.net.heads]
        return F.cross_entropy(logits[self.t], y), logits[self.t]

    @torch.no_grad()
    def edit_gradients(self, progress):
        for l, (product, mask) in enumerate(zip(self.products.values(), self.masks, strict=True)):
            w, s, g = self.approach.weights[l], self.net.scores[l], product.grad
            w.grad, s.grad = g * mask, g * w * s.sign()
            for earlier in self.approach.masks:
                w.grad[earlier[l]] = 0


class EagerHATCLTrainer(EagerHATTrainer):
    """With the schedule and the regularization of HAT-CL."""

    def scale(self, progress):
        s_max = self.approach.smax
        return 1 / s_max + (s_max - 1 / s_max) * (1 + math.cos(2 * math.pi * progress)) / 2

    def regularization(self, free):
        """What each layer uses beyond its share, over what is free of it; the mean of the layers."""
        share = 1 / len(self.approach.tasks)
        beyond = ((a * f).sum() - share * len(a) for a, f in zip(self.masks, free, strict=True))
        return sum(F.relu(b) / f.sum() for b, f in zip(beyond, free, strict=True)) / len(free)


class EagerAdaHATTrainer(EagerHATTrainer):
    """Of the gradient that Eq. 2 of HAT blocks, r / (n + r) is let through."""

    @torch.no_grad()
    def edit_gradients(self, progress):
        for l, (layer, factors) in enumerate(zip(self.linear, self.gradient_factors, strict=False)):
            free = 1 - self.before[l]
            r = self.approach.alpha / (self.approach.epsilon + (self.masks[l] * free).sum() / free.sum())
            counts = (1 - factor for factor in self.gradient_factor(l, self.uses))  # the smaller of the two units'
            for p, factor, n in zip((layer.weight, layer.bias), factors, counts, strict=True):
                p.grad *= factor + (1 - factor) * r / (n.clamp_min(1) + r)
        self.compensate()


class EagerReplayTrainer(EagerTrainer):
    """The stored images pass through the network task by task, as they are drawn."""

    def replay(self, draw, index, loss):
        """loss: loss(logits, what is kept of the images, by name), the sum over the images."""
        approach, places, total = self.approach, self.approach.drawn[draw][index], 0
        for u, labels in enumerate(approach.labels):
            chosen = places[(places >= 0) & (places < len(labels))]
            x, _ = approach.tasks[u].batch(Images(approach.images[u], chosen, labels), slice(None))
            drawn = {name: getattr(approach, name)[u][chosen] for name in approach.kept}
            total = total + loss(self.net.heads[u](self.net.features(x)), drawn)
            places = places - len(labels)
        return total / len(index)

    def cross_entropy(self, logits, drawn):
        return F.cross_entropy(logits, drawn['labels'], reduction='sum')


class EagerERTrainer(EagerReplayTrainer):
    def batch_loss(self, index, progress):
        return (super().batch_loss(index, progress) + self.replay(0, index, self.cross_entropy)) / 2


class EagerDERTrainer(EagerReplayTrainer):
    def batch_loss(self, index, progress):
        old = self.replay(0, index, lambda logits, drawn: ((logits - drawn['logits']) ** 2).mean(1).sum())
        again = self.replay(1, index, self.cross_entropy)
        return super().batch_loss(index, progress) + self.approach.alpha * old + self.approach.beta * again


EAGER_TRAINERS = {
    'hat': EagerHATTrainer,
    'hat-cl': EagerHATCLTrainer,
    'adahat': EagerAdaHATTrainer,
    'er': EagerERTrainer,
    'der': EagerDERTrainer,
    'wsn': EagerWSNTrainer,
}


def eager_trainer(approach, name, t):
    """The trainer of task t for the approach of that name."""
    own = type(approach).batch_loss is not Approach.batch_loss
    return EAGER_TRAINERS.get(name, EagerBatchTrainer if own else EagerTrainer)(approach, t)


def use_stock_layers(net):
    """Replace this project's layers by those of PyTorch; parameters stay as they are."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, Activation):
                pool = [nn.MaxPool2d(2)] if child.pool else []
                setattr(module, name, nn.Sequential(nn.ReLU(), nn.Dropout(child.p), *pool))
            elif isinstance(child, (Convolution, Linear)):
                child.__class__ = nn.Conv2d if isinstance(child, Convolution) else nn.Linear

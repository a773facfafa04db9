"""HAT: hard attention to the task (Serra et al. 2018, sections 2.2 to 2.6). The formulas stand in src/hat."""

import functools

import torch
import torch.nn.functional as F

import hat
import seeds
from approaches.base import Approach
from approaches.parameters import Parameter


class HAT(Approach):
    variant = 'hat'
    kept = ('cumulative', 'learned')
    parameters = {
        'c': Parameter(0.75, grid=(0.1, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 4), low=0),  # compressibility (Eq. 4)
        'smax': Parameter(400.0, grid=(25, 50, 100, 200, 400, 800), low=1),  # stability (Eq. 3)
        'hard': Parameter(0, choices=(0, 1)),  # 1: the masks of learned tasks are rounded to {0,1}. Paper: 0
        'init': Parameter('normal', choices=tuple(hat.INITS)),  # of the embeddings; section 4.4 compresses with uniform
    }

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for l, gate in enumerate(self.net.gates):
            gate.reset_parameters(seeds.generator(self.protocol.seed, 'weights', f'gates.{l}'), self.init)
        self.cumulative = None  # attention of all learned tasks, a list of (units,), one a layer
        self.learned = 0  # number of tasks

    def masks(self, t, s):
        masks = self.net.masks(t, s)
        return [a.round() for a in masks] if self.hard and t < self.learned else masks

    def before_task(self, t):
        """Eq. 2's factors and the units of the earlier tasks, once for the whole task."""
        self.earlier = [hat.active(self.masks(u, self.smax)) for u in range(t)]
        self.shares = []
        if self.cumulative is not None:
            for parameter, l, l_in in self.net.shared_weights():
                a_in = None if l_in is None else self.cumulative[l_in]
                self.shares.append((parameter, hat.free_share(parameter.shape, self.cumulative[l], a_in)))

    def loss(self, x, y, t, progress):
        masks = self.masks(t, hat.anneal(progress, self.smax))
        logits = self.net(x, t, masks)
        regularization = hat.regularization(masks, self.cumulative)
        return F.cross_entropy(logits, y) + self.c * regularization, logits  # Eq. 4

    def after_backward(self, t, progress):
        for parameter, share in self.shares:
            parameter.grad *= share  # Eq. 2
        s = hat.anneal(progress, self.smax)
        for gate in self.net.gates:
            e = gate.embeddings[t]
            e.grad = hat.compensate(e.grad, e.detach(), s, self.smax)

    def after_step(self, t):
        for gate in self.net.gates:
            gate.clamp(t)

    @torch.no_grad()
    def observe(self, t):
        """What the masks at s_max use (section 4.4): by layer, and in `reuse` of each earlier task."""
        masks, weights = self.masks(t, self.smax), list(self.net.shared_weights())
        active = hat.active(masks)
        first = 0.0 if self.n_train(t) > self.protocol.batch_size else 1.0
        return {
            's': [hat.anneal(progress, self.smax) for progress in (first, 1.0)],  # in the first and the last batch
            'regularization': float(hat.regularization(masks, self.cumulative)),
            'active_units': [int(u.sum()) for u in active],
            'active': hat.count_weights(weights, active),
            'capacity': hat.count_weights(weights, functools.reduce(hat.either, self.earlier, active)),
            'reuse': [sum(hat.count_weights(weights, hat.both(active, units))) for units in self.earlier],
        }

    @torch.no_grad()
    def after_task(self, t):
        self.learned = t + 1
        masks = self.masks(t, self.smax)
        previous = self.cumulative or [None] * len(masks)
        self.cumulative = [hat.cumulate(a, p) for a, p in zip(masks, previous, strict=True)]

    @torch.no_grad()
    def report(self):
        """Who uses what in the end (section 4.4)."""
        tasks = [hat.active(self.masks(t, self.smax)) for t in range(self.learned)]
        return {'units': [len(u) for u in tasks[0]], **hat.usage(self.net.shared_weights(), tasks)}

"""HAT: hard attention to the task (Serra et al. 2018, sections 2.2 to 2.6), by the library in src/hat."""

import functools
import warnings

import torch
import torch.nn.functional as F

import hat
from approaches.base import Approach
from core import seeds
from core.errors import UserError
from core.hyperparameters import Parameter
from hat import capacity
from hat.watch import closed, closed_warning


class HAT(Approach):
    variant = 'hat'
    parameters = {
        'c': Parameter(0.75, grid=(0.1, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 4), low=0),  # compressibility (Eq. 4)
        'smax': Parameter(400.0, grid=(25, 50, 100, 200, 400, 800), low=1),  # stability (Eq. 3)
        'hard': Parameter(0, choices=(0, 1)),  # 1: the masks of learned tasks are rounded to {0,1}. Paper: 0
        'init': Parameter('normal', choices=tuple(hat.init.INITS)),  # of embeddings; section 4.4: uniform
        'low': Parameter(0.0),  # bounds of init=uniform
        'high': Parameter(2.0),
        'anneal': Parameter('linear', choices=tuple(hat.schedules.SCHEDULES)),  # schedule of s over an epoch (Eq. 3)
        'reg': Parameter('network', choices=tuple(hat.regularizers.REGULARIZERS)),  # form of the regularization (Eq. 5)
        'gradient': Parameter('released', choices=tuple(hat.functional.GRADIENTS)),  # of embeddings (section 2.5)
    }

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.hidden = self.net.hidden
        self.hidden.s_max, self.hidden.hard, self.hidden.gradient = self.smax, bool(self.hard), self.gradient
        self.hidden.watch.names = [f'{task.name} (task {t})' for t, task in enumerate(self.tasks, 1)]
        self.regularizer = hat.regularizers.REGULARIZERS[self.reg]
        schedule = hat.schedules.SCHEDULES[self.anneal]
        self.scale = functools.partial(schedule, s_max=self.smax)
        ends = {'low': self.low, 'high': self.high} if self.init == 'uniform' else {}
        if self.low > self.high:
            raise UserError(f'--parameter: low={self.low:g} is above high={self.high:g}')
        if not ends and (self.low, self.high) != tuple(self.parameters[name].default for name in ('low', 'high')):
            raise UserError(f'--parameter: low and high are bounds of init=uniform, not of init={self.init}')
        for l in range(len(self.net.units)):
            generator = seeds.generator(self.protocol.seed, 'weights', f'gates.{l}')
            for task in self.hidden.tasks:
                hat.init.INITS[self.init](task.embeddings[l], generator=generator, **ends)

    def before_task(self, t):
        if t == 0 and self.protocol.optimizer == 'adamw' and not self.hard:
            what = "AdamW's steps hardly depend on the size of a gradient: masks between 0 and 1 hold little"
            warnings.warn(f'{what}; use --parameter hard=1', stacklevel=2)
        self.earlier = [capacity.active(self.hidden.masks(u)) for u in range(t)]
        self.hidden.begin_task(t)

    def loss(self, x, y, t, progress):
        masks = self.hidden.masks(t, self.scale(progress))
        logits = self.net(x, t, masks)
        regularization = self.regularizer(masks, self.hidden.cumulative, len(self.tasks))
        return hat.objective(F.cross_entropy(logits, y), regularization, self.c), logits

    def after_backward(self, t, progress):
        self.net.condition()

    def after_step(self, t):
        self.hidden.clamp(t)

    @torch.no_grad()
    def observe(self, t):
        """Units and weights that the masks at s_max use (section 4.4), by layer; `capacity`: weights between units that
        this task or an earlier one uses; `reuse`: weights shared with each earlier task."""
        if (layers := closed(self.hidden, t)) and self.hidden.watch.warned != t:
            self.hidden.watch.warned = t
            where = f'{self.hidden.watch.name(t)}, epoch {len(self.training.log) + 1}'
            warnings.warn(f'{where}: {closed_warning(layers)}', stacklevel=2)
        masks = self.hidden.masks(t, self.smax)
        active, count = capacity.active(masks), functools.partial(capacity.count_weights, self.hidden)
        first = 0.0 if self.n_train(t) > self.protocol.batch_size else 1.0
        return {
            's': [self.scale(progress) for progress in (first, 1.0)],  # in the first and the last batch
            'regularization': float(self.regularizer(masks, self.hidden.cumulative, len(self.tasks))),
            'active_units': [int(u.sum()) for u in active],
            'active': count(active),
            'capacity': count(functools.reduce(capacity.union, self.earlier, active)),
            'reuse': [sum(count(capacity.intersection(active, units))) for units in self.earlier],
        }

    def after_task(self, t):
        self.hidden.end_task(t)

    @torch.no_grad()
    def report(self):
        """Units and weights that each task uses after the last one (section 4.4)."""
        tasks = [capacity.active(self.hidden.masks(t)) for t in range(len(self.tasks))]
        layers = [closed(self.hidden, t) for t in range(len(self.tasks))]
        return {'units': self.net.units, 'closed': layers, **capacity.usage(self.hidden, tasks)}

"""PathNet (Fernando et al. 2017): a tournament finds the path of each task through the modules of the network.

In each generation the two paths of the population are trained one after the other, each with its own learning rate and
patience. Then the weights of the best validation loss so far are restored, and the other path is replaced by a mutated
copy of the one that reached it. After a task the modules of its path are frozen and all others are reinitialized.

There are at most nepochs passes over the images, as in all approaches: a path is trained for nepochs // generations
// 2 epochs in a generation. Original: nepochs // generations each, twice as many passes as the other approaches.

Initial weights are Xavier's divided by ACTIVE: the outputs of so many modules are added; with plain Xavier the units
die in the first steps of SGD.
"""

import copy
import math

import numpy as np
from torch.nn.functional import cross_entropy

import networks
from approaches.base import Approach
from core import seeds
from core.errors import UserError
from core.hyperparameters import Parameter
from networks.pathnet import MODULES

ACTIVE = 3  # N, modules that a path may name in a layer
STEP = 2  # a mutation adds -2 to 2 to the number of a module


class PathNet(Approach):
    variant = 'pathnet'
    parameters = {'generations': Parameter(20, grid=(5, 10, 20, 50, 100, 200), low=1)}
    clip = 1_000
    kept = ('population', 'rates', 'patience', 'losses', 'winner', 'turn')

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.protocol.schedule != 'paper':
            raise UserError('--schedule: pathnet sets the learning rates of its paths itself; leave it out')
        # task -> its path, the numbers of its modules, a list of ACTIVE for each layer
        self.paths = {t: self.draw(t)[0] for t in range(len(self.tasks))}

    def before_task(self, t):
        for l, modules in enumerate(self.net.module_layers):
            frozen = {m for u in range(t) for m in self.paths[u][l]}
            for m, module in enumerate(modules):
                module.requires_grad_(m not in frozen)
                if m not in frozen:
                    networks.initialize(module, self.protocol.seed, 'modules', t, l, m, gain=1 / ACTIVE)
        self.population = self.draw(t)
        self.rates, self.patience, self.losses = ([x] * 2 for x in (self.protocol.lr, self.protocol.patience, math.inf))
        self.winner = 0  # which of the two has the best validation loss so far
        self.turn = [0, 0, 0]  # generation, which of the two paths, its epoch in the generation

    def draw(self, t):
        """The two paths that task t starts with; no module occurs twice in a layer."""
        rng = self.rng(t, 'population')
        return [[rng.permutation(MODULES)[:ACTIVE].tolist() for _ in self.net.module_layers] for _ in range(2)]

    def n_generations(self):
        return max(1, min(self.generations, self.protocol.nepochs // 2))

    def n_epochs(self):
        """Of a path in a generation."""
        return max(1, self.protocol.nepochs // (2 * self.n_generations()))

    def n_rounds(self):
        return min(2 * self.n_generations() * self.n_epochs(), self.protocol.nepochs)

    def train_epoch(self, t, round, lr):
        """An epoch of the path whose turn it is."""
        generation, which, epoch = self.turn
        if self.paths[t] != self.population[which]:
            self.paths[t], self.steps, self.training.optimizer = self.population[which], None, []
        return super().train_epoch(t, generation * self.n_epochs() + epoch, lr)

    def loss(self, x, y, t, progress):
        logits = self.net(x, t, self.paths[t])
        return cross_entropy(logits, y), logits

    def decide(self, t, valid_loss):
        """Which path is trained next, and with which learning rate? 0 ends the task."""
        now, protocol = self.training, self.protocol
        generation, which, epoch = self.turn
        if valid_loss < now.best_loss:
            now.best_loss, now.best, self.winner = valid_loss, self.snapshot(), which
        if valid_loss < self.losses[which]:
            self.losses[which], self.patience[which] = valid_loss, protocol.patience
        else:
            self.patience[which] -= 1
            if self.patience[which] == 0:
                self.rates[which] /= protocol.lr_factor
                self.patience[which] = protocol.patience
        epoch += 1
        if epoch == self.n_epochs() or self.rates[which] < protocol.lr_min:
            which, epoch = which + 1, 0
        if which == 2:
            self.mutate_loser(t, generation)
            generation, which = generation + 1, 0
        self.turn = [generation, which, epoch]
        now.lr = self.rates[which] if generation < self.n_generations() else 0.0

    def mutate_loser(self, t, generation):
        """The loser starts from the winner's weights, mutated path and learning rate."""
        self.restore(self.training.best)
        self.steps, self.training.optimizer = None, []  # restore() may have set the path without them
        loser = 1 - self.winner
        self.population[loser] = mutate(self.population[self.winner], self.rng(t, generation))
        self.rates[loser] = self.rates[self.winner]
        self.patience[loser], self.losses[loser] = self.protocol.patience, math.inf

    def snapshot(self):
        return super().snapshot(), copy.copy(self.paths)

    def restore(self, snapshot):
        weights, paths = snapshot
        self.paths = copy.copy(paths)
        super().restore(weights)

    def rng(self, t, purpose):
        return np.random.default_rng(seeds.derive(self.protocol.seed, 'paths', t, purpose))


def mutate(path, rng):
    """Each of the n numbers of a path (layers, ACTIVE) changes with probability 1 / n, by -2 to 2, modulo MODULES."""
    path = np.array(path)
    changed = rng.random(path.shape) < 1 / path.size
    step = rng.integers(-STEP, STEP + 1, size=path.shape)
    return ((path + changed * step) % MODULES).tolist()

"""PathNet (Fernando et al. 2017): a tournament finds the path of each task through the modules of the network.

In each generation the two paths of the population are trained one after the other; the loser becomes a mutated copy of
the winner. After a task the modules of its path are frozen and all others start afresh.

A generation is what the protocol counts as an epoch: learning rate, patience and best model go by the validation loss
of its winner. It trains each path for nepochs // generations epochs.

Weights start as Xavier's over ACTIVE: the outputs of so many modules add up, and with Xavier's own the first steps of
SGD end in a network of dead units.
"""

import copy

import numpy as np
from torch.nn.functional import cross_entropy

import networks
import seeds
from approaches.base import Approach
from approaches.parameters import Parameter
from networks.pathnet import MODULES

ACTIVE = 3  # N, modules that a path may name in a layer
STEP = 2  # a mutation adds -2 to 2 to the number of a module


class PathNet(Approach):
    variant = 'pathnet'
    parameters = {'generations': Parameter(20, grid=(5, 10, 20, 50, 100, 200), low=1)}
    clip = 1_000
    kept = ('population',)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
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
        self.paths[t] = self.population[0]

    def draw(self, t):
        """The two paths that task t starts with."""
        rng, shape = self.rng(t, 'population'), (len(self.net.module_layers), ACTIVE)
        return [rng.integers(MODULES, size=shape).tolist() for _ in range(2)]

    def n_rounds(self):
        return min(self.generations, self.protocol.nepochs)

    def train_epoch(self, t, generation, lr):
        """A generation: both paths are trained; the winner is the path of task t."""
        epochs = self.protocol.nepochs // self.n_rounds()
        fitness, losses = [], []
        for path in self.population:
            self.paths[t], self.steps = path, None
            for epoch in range(generation * epochs, (generation + 1) * epochs):
                loss = super().train_epoch(t, epoch, lr)
            losses.append(loss)
            fitness.append(self.validate(t)[0])
        winner = int(np.argmin(fitness))
        self.paths[t] = self.population[winner]
        self.population = [self.paths[t], mutate(self.paths[t], self.rng(t, generation))]
        return losses[winner]

    def loss(self, x, y, t, progress):
        logits = self.net(x, t, self.paths[t])
        return cross_entropy(logits, y), logits

    def snapshot(self):
        return super().snapshot(), copy.copy(self.paths)

    def restore(self, snapshot):
        weights, self.paths = snapshot
        super().restore(weights)

    def rng(self, t, purpose):
        return np.random.default_rng(seeds.derive(self.protocol.seed, 'paths', t, purpose))


def mutate(path, rng):
    """Each of the n numbers of a path (layers, ACTIVE) changes with probability 1 / n, by -2 to 2, in a circle."""
    path = np.array(path)
    changed = rng.random(path.shape) < 1 / path.size
    step = rng.integers(-STEP, STEP + 1, size=path.shape)
    return ((path + changed * step) % MODULES).tolist()

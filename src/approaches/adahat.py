"""AdaHAT: adaptive hard attention to the task (Wang et al. 2024, section 3.1). HAT, whose protected weights still move.

The gradient of a weight between unit j and unit i of layer l, which Eq. 2 of HAT multiplies with 1 - u, is multiplied
with

    1 - u + u r / (n + r),  u = min(a_i, a_j)    cumulative attention of earlier tasks to the units
    n = min(n_i, n_j)                            number of earlier tasks that use a unit              (their Eqs. 7, 8)
    r = alpha / (epsilon + R_l)                  R_l: Eq. 5 of HAT for layer l and the masks at hand  (their Eq. 9)

With masks of 0 and 1 this is their Eq. 8: 1 for a weight that no earlier task uses, else r / (n + r). A weight moves
less the more tasks use it, and more while the new task takes little of what is free. Masks between 0 and 1, the default
of `hat`, count with their values, and n is at least 1; with alpha = 0 this is HAT, bit for bit.

alpha and epsilon are those of the authors' code, for Adam, whose steps hardly depend on the scale of the gradients.
Plain SGD moves a protected weight by at most alpha / epsilon of what its gradient asks for. Their grid ends at 1e-5;
here it extends to 0.1.
"""

import functools

import torch

from approaches.hat import HAT
from core.hyperparameters import Parameter
from hat.functional import regularization


class AdaHAT(HAT):
    parameters = {name: parameter for name, parameter in HAT.parameters.items() if name != 'hard'} | {
        'alpha': Parameter(1e-6, grid=(1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1), low=0),
        'epsilon': Parameter(0.1, low=1e-9),
    }
    hard = 0  # with 1 the library keeps the weights of learned tasks as they are

    def before_task(self, t):
        super().before_task(t)
        self.used, self.count = {}, {}  # u and n of each shared parameter, by name
        if t > 0:
            units, earlier = self.hidden.plan.units, zip(*map(self.hidden.masks, range(t)), strict=True)
            attention = units.attention(self.hidden.cumulative)
            count = t * units.attention([torch.stack(masks).mean(0) for masks in earlier])
            for name in self.hidden.factors:
                self.used[name] = self.of_weights(name, attention)
                self.count[name] = self.of_weights(name, count).clamp_min(1)

    def of_weights(self, name, values):
        """The smaller value of the two units that a weight connects; if layers share it, the largest of those."""
        uses = self.hidden.plan.shared[name].uses
        least = (values[outs] if ins is None else torch.minimum(values[outs], values[ins]) for outs, ins in uses)
        return functools.reduce(torch.maximum, least)

    def batch_loss(self, index, t, progress):
        self.adapt(t, progress)
        return super().batch_loss(index, t, progress)

    @torch.no_grad()
    def adapt(self, t, progress):
        """Write the factors of the gradients, in place of those of Eq. 2."""
        if not self.used:
            return
        units, shared = self.hidden.plan.units, self.hidden.plan.shared
        layers = zip(self.hidden.masks(t, self.scale(progress)), self.hidden.cumulative, strict=True)
        sparsity = units.attention([regularization([a], [c]).expand_as(a) for a, c in layers])
        for name, used in self.used.items():
            r = self.alpha / (self.epsilon + sparsity[shared[name].uses[0].outs])
            torch.addcmul(1 - used, used, r / (self.count[name] + r), out=self.hidden.factors[name])

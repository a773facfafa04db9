"""How a training step moves the weights. All state is in tensors that are changed in place, for the captured step.

torch.optim has these, too, but loads the compiler, which takes seconds, and reads a learning rate that is a tensor on
the host.
"""

import torch


class SGD:
    """Plain SGD with the norm of the whole gradient clipped, as clip_grad_norm_ and torch.optim.SGD, in one pass less.

    parameters  trainable ones; those without a gradient stay as they are
    lr          learning rate, a scalar tensor
    state       tensors that change from step to step, a list
    """

    def __init__(self, parameters, lr):
        self.parameters, self.lr, self.state = parameters, lr, []

    @torch.no_grad()
    def step(self, clip):
        """Move the weights; returns the norm of the gradient."""
        moving = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([self.parameters[i].grad for i in moving])
        self.move(moving, (clip / (norm + 1e-6)).clamp_max(1))
        return norm

    def move(self, moving, factor):
        """moving: positions of the parameters that have a gradient. factor: of the gradient, for clipping."""
        step = (-self.lr * factor).to(factor.dtype)
        for p in (self.parameters[i] for i in moving):
            p.addcmul_(p.grad, step)


class Momentum(SGD):
    """v = 0.9 v + gradient; p = p - lr v."""

    momentum = 0.9

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr)
        self.state = [torch.zeros_like(p) for p in parameters]

    def move(self, moving, factor):
        for i in moving:
            p, v = self.parameters[i], self.state[i]
            v.mul_(self.momentum).addcmul_(p.grad, factor.to(p.dtype))
            p.addcmul_(v, -self.lr.to(p.dtype))


class AdamW(SGD):
    """Adam with decoupled weight decay of 0.01 (Loshchilov & Hutter 2019, Algorithm 2), of weights of more than one
    dimension: not of biases, norms and the embeddings of gates."""

    betas, decay, eps = (0.9, 0.999), 0.01, 1e-8

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr)
        self.mean, self.square = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
        self.n_steps = torch.zeros((), device=lr.device)
        self.state = [*self.mean, *self.square, self.n_steps]

    def move(self, moving, factor):
        self.n_steps += 1
        first, second = (1 - beta**self.n_steps for beta in self.betas)
        lr = self.lr.to(first.dtype)
        for i in moving:
            p, mean, square = self.parameters[i], self.mean[i], self.square[i]
            gradient = p.grad * factor.to(p.dtype)
            mean.lerp_(gradient, 1 - self.betas[0])
            square.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
            if p.ndim > 1:
                p.mul_(1 - lr * self.decay)
            p.addcmul_(mean / ((square / second).sqrt_() + self.eps), -lr / first)


OPTIMIZERS = {'sgd': SGD, 'momentum': Momentum, 'adamw': AdamW}
LR = {'sgd': 0.05, 'momentum': 0.005, 'adamw': 0.001}  # the default learning rates

"""The diagonal of the Fisher information, for EWC and IMM-mode."""

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap

CHUNK = 32  # images whose gradients are in memory at once


@torch.no_grad()  # torch.func.grad differentiates nevertheless
def fisher(net, task, t):
    """Mean over the training images of task t of the squared gradient of log p(label | image), of each shared weight.

    Of single images, in evaluation mode, of the cross-entropy alone. Returns a list, as net.blocks.parameters().
    The label is the given one; with labels drawn from p(. | image), as in Lee et al. 2017, IMM-mode ends a point lower
    (README.md, Differences).
    Original: squares of the gradients of batches of 20 (10 for IMM), dropout on, the L2-transfer term included.
    """
    net.eval()
    weights = {name: p.detach() for name, p in net.named_parameters() if name.startswith('blocks.')}

    def loss(weights, x, y):
        return F.cross_entropy(functional_call(net, weights, (x[None], t)), y[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    total = [torch.zeros_like(w) for w in weights.values()]
    for start in range(0, len(task.train.y), CHUNK):
        x, y = task.batch(task.train, slice(start, start + CHUNK))
        for s, g in zip(total, gradients(weights, x, y).values(), strict=True):
            s += (g**2).sum(0)
    return [s / len(task.train.y) for s in total]

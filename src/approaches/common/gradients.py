"""Gradients of single images, for EWC, IMM-mode (fisher.py) and MAS."""

import torch
from torch.func import functional_call, grad, vmap

CHUNK = 32  # images whose gradients are in memory at once


@torch.no_grad()  # torch.func.grad differentiates nevertheless
def mean_over_images(measure, function, net, task, t):
    """Mean over the training images of task t of measure(gradient of function(logits, label)), of each shared weight.

    Of single images, in evaluation mode. Returns a list, as net.blocks.parameters().
    measure   a function of single elements, such as their square
    function  of the logits (1, classes) and the label (1,) of an image; a scalar
    """
    net.eval()
    weights = {name: p.detach() for name, p in net.named_parameters() if name.startswith('blocks.')}

    def value(weights, x, y):
        return function(functional_call(net, weights, (x[None], t)), y[None])

    gradients = vmap(grad(value), in_dims=(None, 0, 0))
    total = [torch.zeros_like(w) for w in weights.values()]
    for start in range(0, len(task.train.y), CHUNK):
        x, y = task.batch(task.train, slice(start, start + CHUNK))
        for s, g in zip(total, gradients(weights, x, y).values(), strict=True):
            s += measure(g).sum(0)
    return [s / len(task.train.y) for s in total]

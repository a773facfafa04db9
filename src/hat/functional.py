"""The formulas of HAT, each once, in the paper's order and symbols. Pure functions of tensors.

a    attention (mask) of a layer, one value in [0, 1] for each of its N units, shape (N,)
e    task embedding of a layer, shape (N,)
s    scale of the gate, from 1/s_max to s_max
"""

import torch

E_MAX = 6.0  # embeddings stay within [-6, 6], the active range of a sigmoid (section 2.5)
SE_MAX = 50.0  # s * e is clamped to [-50, 50] inside cosh (section 2.5)


def attention(e, s):
    """Eq. 1: a = sigmoid(s e), shape (N,)."""
    return torch.sigmoid(s * e)


def cumulate(a, previous=None):
    """Section 2.3: cumulative attention of all tasks so far, the element-wise maximum; 0 before the first task."""
    return a if previous is None else torch.maximum(a, previous)


def free_share(a_out, a_in=None):
    """Eq. 2: the factor 1 - min(a_out, a_in) of each weight's gradient.

    a_out   cumulative attention to the units that the weights lead to, e.g. (N_out, 1)
    a_in    to those that they come from, in a shape that broadcasts with it, e.g. (1, N_in); None for a bias, and where
            they come from the input data: then 1 - a_out
    """
    return 1 - (a_out if a_in is None else torch.minimum(a_out, a_in))


def linear(progress, s_max):
    """Eq. 3: s at `progress` = (b - 1) / (B - 1) of an epoch: 1/s_max at 0, exactly s_max at 1."""
    return (1 - progress) / s_max + progress * s_max


def objective(loss, regularization, c):
    """Eq. 4: what is minimized, with the compressibility c >= 0."""
    return loss + c * regularization


def regularization(masks, cumulative=None):
    """Eq. 5: attention paid to units that no earlier task uses, over the number of such units; a scalar in [0, 1].

    masks       list of a, one for each layer, of the current task
    cumulative  list of cumulative attention before it; None for the first task
    """
    a = torch.cat(masks)
    free = torch.ones_like(a) if cumulative is None else 1 - torch.cat(cumulative)
    return (a * free).sum() / free.sum().clamp_min(torch.finfo(a.dtype).tiny)


def compensate(q, e, s, s_max):
    """Section 2.5: the embedding's gradient q without the annealed sigmoid's slope, with that of s_max sigmoid(e)."""
    return q * (s_max / s * (torch.cosh((s * e).clamp(-SE_MAX, SE_MAX)) + 1) / (torch.cosh(e) + 1))


class Compensated(torch.autograd.Function):
    """Eq. 1 forward; backward the gradient of an embedding is compensated, as section 2.5 has it."""

    @staticmethod
    def forward(ctx, e, s, s_max):
        a = attention(e, s)
        ctx.save_for_backward(e, a)
        ctx.s, ctx.s_max = s, s_max
        return a

    @staticmethod
    def backward(ctx, grad):
        e, a = ctx.saved_tensors
        return compensate(grad * a * (1 - a) * ctx.s, e, ctx.s, ctx.s_max), None, None


class Conditioned(torch.autograd.Function):
    """A layer's weight as it is; backward, its gradient times the share that is free (Eq. 2).

    In place: what a layer's backward pass gives for its weight is a tensor of its own."""

    @staticmethod
    def forward(ctx, weight, share):
        ctx.save_for_backward(share)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx, grad):
        (share,) = ctx.saved_tensors
        return grad.mul_(share), None

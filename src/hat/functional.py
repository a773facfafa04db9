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


def free_share(shape, a_out, a_in=None):
    """Eq. 2: the factor 1 - min(a_out[i], a_in[j]) of each weight's gradient, in a shape that broadcasts to `shape`.

    shape   of the weight (N_out, N_in, ...) or of the bias (N_out,)
    a_out   cumulative attention of the layer's own units, (N_out,)
    a_in    cumulative attention of the units it reads; None for the input data and for a bias: then 1 - a_out.
            After a flatten one unit feeds several inputs: N_in may be a multiple of len(a_in), channel by channel.
    """
    a = a_out.view(-1, *[1] * (len(shape) - 1))
    if a_in is not None:
        if shape[1] % len(a_in):
            raise ValueError(f'a weight with {shape[1]} inputs does not fit a layer of {len(a_in)} units')
        a_in = a_in.repeat_interleave(shape[1] // len(a_in))
        a = torch.minimum(a, a_in.view(1, -1, *[1] * (len(shape) - 2)))
    return 1 - a


def anneal(progress, s_max):
    """Eq. 3: s at `progress` = (b - 1) / (B - 1) of an epoch: 1/s_max at 0, exactly s_max at 1."""
    return (1 - progress) / s_max + progress * s_max


def compensate(q, e, s, s_max):
    """Section 2.5: the embedding's gradient q without the annealed sigmoid's slope, with that of s_max sigmoid(e)."""
    return q * (s_max / s * (torch.cosh((s * e).clamp(-SE_MAX, SE_MAX)) + 1) / (torch.cosh(e) + 1))


def regularization(masks, cumulative=None):
    """Eq. 5: attention paid to units that no earlier task uses, over the number of such units; a scalar in [0, 1].

    masks       list of a, one for each layer, of the current task
    cumulative  list of cumulative attention before it; None for the first task
    """
    if cumulative is None:
        cumulative = [torch.zeros_like(a) for a in masks]
    free = [1 - a for a in cumulative]
    attended = sum((a * f).sum() for a, f in zip(masks, free, strict=True))
    return attended / sum(f.sum() for f in free).clamp_min(torch.finfo(attended.dtype).tiny)

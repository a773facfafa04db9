"""The formulas of HAT, each once, in the paper's order and symbols, and their backward passes.

a    attention (mask) of a layer, one value in [0, 1] for each of its N units, shape (N,)
e    task embedding of a layer, shape (N,)
s    scale of the gate, from 1/s_max to s_max

Autograd functions store tensors as attributes of ctx, not by save_for_backward, which frees them after the first
backward pass: reentrant activation checkpointing runs the backward pass of a gate several times.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from hat.errors import warn

E_MAX = 6.0  # embeddings stay within [-6, 6], the active range of a sigmoid (section 2.5)
SE_MAX = 50.0  # s * e is clamped to [-50, 50] inside cosh (section 2.5)
HALF = (torch.float16, torch.bfloat16)
PART = 2**18  # elements of a parameter that are written at a time


def attention(e: Tensor, s: float | Tensor) -> Tensor:
    """Eq. 1: a = sigmoid(s e), shape (N,)."""
    return torch.sigmoid(s * e)


def cumulate(a: Tensor, previous: Tensor | None = None) -> Tensor:
    """Section 2.3: cumulative attention of all tasks so far, the element-wise maximum; 0 before the first task."""
    return a if previous is None else torch.maximum(a, previous)


def gradient_factor(a_out: Tensor, a_in: Tensor | None = None) -> Tensor:
    """Eq. 2: the factor 1 - min(a_out, a_in) of each weight's gradient.

    Args:
        a_out: cumulative attention to the units that the weights lead to, e.g. (N_out, 1).
        a_in: cumulative attention to the units that they come from, in a shape that broadcasts with a_out, e.g.
            (1, N_in); None for a bias and for weights from the input data: then 1 - a_out.
    """
    return 1 - (a_out if a_in is None else torch.minimum(a_out, a_in))


def objective(loss: Tensor, regularization: Tensor, c: float) -> Tensor:
    """Eq. 4: the objective, with the compressibility c >= 0."""
    return loss + c * regularization


def regularization(masks: Sequence[Tensor], cumulative: Sequence[Tensor] | None = None) -> Tensor:
    """Eq. 5: attention paid to units that no earlier task uses, over the number of such units; a scalar in [0, 1], 0 if
    there is no such unit.

    Args:
        masks: a of each layer, of the current task, (N,) each.
        cumulative: cumulative attention before it, (N,) each; None for the first task.
    """
    a = torch.cat(list(masks))
    if cumulative is None:
        return a.mean()
    free = 1 - torch.cat(list(cumulative))
    return torch.dot(a, free / free.sum().clamp_min(torch.finfo(free.dtype).tiny))


def compensate(q: Tensor, e: Tensor, s: float | Tensor, s_max: float) -> Tensor:
    """Section 2.5: the embedding's gradient q without the annealed sigmoid's slope, with that of s_max sigmoid(e)."""
    return q * (s_max / s * (torch.cosh((s * e).clamp(-SE_MAX, SE_MAX)) + 1) / (torch.cosh(e) + 1))


def exact(grad: Tensor, e: Tensor, s: float | Tensor, s_max: float) -> Tensor:
    """Section 2.5 for the gradient of a: grad s_max sigmoid(e) (1 - sigmoid(e)) exp(-max(|s e| - 50, 0)).

    As a (1 - a) = 1 / (2 + 2 cosh(s e)), it is compensate(grad a (1 - a) s, e, s, s_max), and rounds to 0 nowhere.
    """
    return grad * s_max * torch.sigmoid(e) * torch.sigmoid(-e) * torch.exp(-((s * e).abs() - SE_MAX).clamp_min(0))


def released(grad: Tensor, e: Tensor, s: float | Tensor, s_max: float) -> Tensor:
    """Section 2.5 as the paper's own code computes it, in float32, where 1 - a is 0 from about s e = 16.6: an open gate
    gets no gradient there. Other types use the same factor, so that all train the same way."""
    a = attention(e.float(), s).to(grad.dtype)
    return compensate(grad * a * (1 - a) * s, e, s, s_max)


GRADIENTS = {'released': released, 'exact': exact}


class CompensatedGate(Function):
    """Forward: Eq. 1. Backward: the compensated gradient of the embedding (section 2.5).

    gradient: one of GRADIENTS.
    """

    @staticmethod
    def forward(ctx: Any, e: Tensor, s: float | Tensor, s_max: float, gradient: str = 'released') -> Tensor:
        ctx.e, ctx.s, ctx.s_max, ctx.gradient = e, s, s_max, GRADIENTS[gradient]
        return attention(e, s)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wide = torch.float32 if grad.dtype in HALF else grad.dtype  # cosh(50) is too large for half of it
        return ctx.gradient(grad.to(wide), ctx.e.to(wide), ctx.s, ctx.s_max).to(grad.dtype), None, None, None


class RoundedGate(Function):
    """Eq. 1 rounded to {0, 1}, for evaluation. It has no gradient: backward() warns."""

    @staticmethod
    def forward(ctx: Any, e: Tensor, s: float) -> Tensor:
        return attention(e, s).round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        warn('backward() in evaluation mode: the masks are rounded and get no gradient; call model.train()')
        return None, None


def rounded(e: Tensor, s: float) -> Tensor:
    """Eq. 1 rounded to {0, 1}, for evaluation."""
    return attention(e.detach(), s).round() if torch.compiler.is_compiling() else RoundedGate.apply(e, s)


class Gate(Function):
    """h' = a * h (section 2.2), for a layer's output or its weight.

    A closed unit is zero even where h is not finite: in float16 a unit that a task does not use may overflow.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, a: Tensor) -> Tensor:
        ctx.h, ctx.a = h, a
        if not (torch.compiler.is_compiling() or h.is_inference()):
            ctx.version = h._version
        return gated(h, a)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, a = ctx.h, ctx.a
        if not torch.compiler.is_compiling() and h._version != ctx.version:
            raise RuntimeError('a tensor that a gate multiplies was modified in place between forward and backward')
        grad_h = grad * a.to(grad.dtype) if ctx.needs_input_grad[0] else None
        return grad_h, gradient_of_mask(grad, h, a) if ctx.needs_input_grad[1] else None


def gated(h: Tensor, a: Tensor) -> Tensor:
    """a * h; 0 where a is."""
    a = a.to(h.dtype)
    return (h * a).masked_fill_(a == 0, 0) if h.dtype in HALF else h * a


def gradient_of_mask(grad: Tensor, h: Tensor, a: Tensor) -> Tensor:
    """The gradient of a, from that of a * h."""
    if h.dtype in HALF:
        return torch.nan_to_num((grad.float() * h.float()).sum_to_size(a.shape), 0, 0, 0).to(a.dtype)
    return (grad * h).sum_to_size(a.shape).to(a.dtype)


class Protected(Function):
    """A parameter in training: the kept value where it is protected, else the parameter itself. The gradient is 0 where
    it is protected: Eq. 2 for masks of 0 and 1.

    kept: the kept values, 0 where it is free.
    marks: 0 where it is free, and only there.
    aliased: the gradient may also be that of another tensor, so it must not be changed in place.
    write: write the kept values into the parameter and use it as it is, which is faster than a copy.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, kept: Tensor, marks: Tensor, aliased: bool, write: bool = False) -> Tensor:
        ctx.marks, ctx.aliased = marks, aliased
        if not write or p.is_inference():
            return where_free(p, marks).add_(kept)
        write_kept(p, kept, marks)
        return p.view_as(p)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.to_dense() if grad.is_sparse else grad
        if ctx.aliased or torch.is_grad_enabled() or 0 in grad.stride():
            return where_free(grad, ctx.marks), None, None, None, None
        return where_free(grad, ctx.marks, grad), None, None, None, None


def where_free(x: Tensor, marks: Tensor, out: Tensor | None = None) -> Tensor:
    """x where marks are 0, and 0 elsewhere; written to `out`, which may be x.

    The backward pass of hardtanh keeps x where a value is near 0: several times as fast as masked_fill.
    """
    tiny = torch.finfo(x.dtype).tiny
    if out is None:
        return torch.ops.aten.hardtanh_backward(x, marks, -tiny, tiny)
    return torch.ops.aten.hardtanh_backward.grad_input(x, marks, -tiny, tiny, grad_input=out)


def write_kept(p: Tensor, kept: Tensor, marks: Tensor) -> None:
    """Write the kept values into a parameter, where it is protected.

    The parameter keeps its version, so that this may happen between the forward and backward pass of a batch: if nobody
    else has written to the parameter, it has the kept values already. Large ones are written in parts that fit into a
    cache. An element has no third value for a moment: other threads and signal handlers may read it.
    """
    for part, value, mark in zip(*map(parts, (p.data, kept, marks)), strict=True):
        part.copy_(where_free(part, mark).add_(value))


def write_protected(p: Tensor, kept: Tensor, marks: Tensor) -> None:
    """As write_kept(), more slowly, for another thread than the one that trains: no other element is written, not even
    with its own value, as an optimizer may be writing it."""
    protected = marks != 0
    p.data.masked_scatter_(protected, kept[protected])


def parts(x: Tensor) -> Sequence[Tensor]:
    """A tensor in parts of about PART elements, views."""
    return x.split(max(1, PART * len(x) // x.numel())) if x.numel() > PART else (x,)


class Conditioned(Function):
    """Forward: the weight. Backward: its gradient times its factor (Eq. 2), for masks between 0 and 1. aliased: as for
    Protected."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, factor: Tensor, aliased: bool) -> Tensor:
        ctx.factor, ctx.aliased = factor, aliased
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.aliased or torch.is_grad_enabled() or 0 in grad.stride():
            return grad * ctx.factor, None, None
        return grad.mul_(ctx.factor), None, None

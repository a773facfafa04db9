"""Small parameters in bundles: concatenated, so that masks and protection are one operation for all of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from hat.functional import gated, gradient_of_mask, where_free
from hat.names import get_tensor
from hat.plan import Gating
from hat.unitsets import add_at, pick

if TYPE_CHECKING:
    from hat.protection import Protection

SMALL = 2**14  # elements; larger parameters are protected one by one


class Bundle(NamedTuple):
    """Small parameters of one type: first those with masks, last those that are protected; some are both.

    names, shapes, sizes: of the parameters; a size is a number of elements.
    n_masked: how many of them have masks.
    units: ids whose attention multiplies the elements, (elements of these,).
    kept, marks: of the protected elements, as for hat.functional.Protected, (elements of the protected ones,).
    """

    names: list[str]
    shapes: list[torch.Size]
    sizes: list[int]
    n_masked: int
    units: Tensor
    kept: Tensor
    marks: Tensor

    def __call__(self, tensors: dict[str, Tensor], values: Tensor) -> dict[str, Tensor]:
        """The parameters of a task, by name.

        Args:
            tensors: the parameters by name, without masks and protection.
            values: attention to the ids.
        """
        given = [tensors[name] for name in self.names]
        parts = self.split(*self.joined(values, *given)) if torch.compiler.is_compiling() else (
            Bundled.apply(self, values, *given))  # fmt: skip
        return dict(zip(self.names, parts, strict=True))

    def joined(self, values: Tensor, *given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The elements of the parameters with masks, their masks, and all other elements."""
        flat, n = joined(given), len(self.kept)
        if n:
            flat = torch.cat([flat[:-n], where_free(flat[-n:], self.marks) + self.kept])
        return flat[: len(self.units)], pick(values, self.units), flat[len(self.units) :]

    def split(self, h: Tensor, a: Tensor, others: Tensor) -> list[Tensor]:
        """The parameters, from what joined() returns."""
        n = self.n_masked
        return self.shaped([*gated(h, a).split(self.sizes[:n]), *others.split(self.sizes[n:])])

    def shaped(self, parts: Sequence[Tensor]) -> list[Tensor]:
        return [part if len(shape) == 1 else part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]


class Bundled(Function):
    """A bundle of parameters."""

    @staticmethod
    def forward(ctx: Any, bundle: Bundle, values: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.bundle, ctx.values, ctx.given = bundle, values, given
        ctx.versions = [None if x.is_inference() else x._version for x in (values, *given)]
        ctx.h, ctx.a, others = bundle.joined(values, *given)
        return tuple(bundle.split(ctx.h, ctx.a, others))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        bundle, inputs = ctx.bundle, (ctx.values, *ctx.given)
        if torch.is_grad_enabled():  # the gradients are to have gradients
            if ctx.versions != [x._version for x in inputs]:
                raise RuntimeError('a parameter was modified in place between forward and backward')
            parts, trained = bundle.split(*bundle.joined(*inputs)), [x for x in inputs if x.requires_grad]
            found = iter(torch.autograd.grad(parts, trained, grads, create_graph=True, allow_unused=True))
            return None, *(next(found) if x.requires_grad else None for x in inputs)
        grad, n = joined([x.to_dense() if x.is_sparse else x for x in grads]), len(bundle.kept)
        of_masks = gradient_of_mask(grad[: len(ctx.a)], ctx.h, ctx.a)
        grad[: len(ctx.a)].mul_(ctx.a)
        if n:
            where_free(grad[-n:], bundle.marks, grad[-n:])
        of_values = add_at(torch.zeros_like(ctx.values), bundle.units, of_masks)
        return None, of_values, *bundle.shaped(grad.split(bundle.sizes))


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """The elements of tensors, one after the other."""
    return torch.cat([x if x.ndim == 1 else x.reshape(-1) for x in tensors])


def pack(network: 'Protection', kept_only: bool, factors: dict[str, Gating]) -> list[Bundle]:
    """Bundles of the parameters that have a mask for each element, or are small and protected; one for each type.

    Args:
        network: a hat.Network.
        kept_only: for tasks that compute with kept values: there is nothing to protect.
        factors: the factors of parameters, by name.
    """
    protected = [] if kept_only else list(network.marks)
    given = {name: get_tensor(network.net, name) for name in (*factors, *protected)}
    masked = {name for name, (_, units) in factors.items() if units.numel() == given[name].numel()}
    apart = {name for name in protected if given[name].shape[-1:] == (2,)  # complex views need an even offset
             or name in network.plan.fixed and given[name].ndim and given[name].shape[-1] % 2 == 0}  # fmt: skip
    small = {name for name in protected if name in masked or given[name].numel() <= SMALL and name not in apart}
    types: dict[torch.dtype, list[str]] = {}
    for part in (masked - small, masked & small, small - masked):
        for name in (name for name in given if name in part):
            types.setdefault(given[name].dtype, []).append(name)
    result = []
    for dtype, names in types.items():
        ids = [factors[name].units.reshape(-1) for name in names if name in masked]
        kept = [network.kept.value(name).reshape(-1) for name in names if name in small]
        marks = [network.marks_of(name).reshape(-1) for name in names if name in small]
        none = network.fingerprints.new_zeros(0)
        shapes = [given[name].shape for name in names]
        result.append(Bundle(names, shapes, [shape.numel() for shape in shapes], len(ids), torch.cat([none, *ids]),
                             *(torch.cat([none.to(dtype), *parts]) for parts in (kept, marks))))  # fmt: skip
    return result

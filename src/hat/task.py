"""The task-specific parameters and buffers of one task."""

import operator
from collections.abc import Callable, Collection
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from hat.functional import HALF
from hat.kept import Kept
from hat.names import first_wide, get_tensor, named_tensors, register_tensor
from hat.plan import Plan


def size_of_head(n_classes: Any) -> int | None:
    """A value of n_classes, checked. Raises ValueError."""
    try:
        return None if n_classes is None else int(operator.index(n_classes))
    except TypeError:
        raise ValueError(f'n_classes must be a whole number, or one for each task, not {n_classes!r}') from None


class TaskParameters(nn.Module):
    """The task-specific parameters and buffers of one task.

    Attributes:
        embeddings: of each gate, (N,); in float32 or wider, whatever the network's type.
        own: the head, norms with their statistics, and parameters that are used as data (positions, tokens, scales), by
            their names in the network.
        kept: the values of both since the task was learned.
    """

    kept: dict[str, Kept]  # an nn.ModuleDict

    @torch.no_grad()
    def __init__(self, net: nn.Module, plan: Plan, n_classes: int | None, init: Callable,
                 frozen: Collection[str] = (), generator: torch.Generator | None = None):  # fmt: skip
        """Initial values are the network's; a head of another size is initialized as PyTorch does.

        Args:
            net: the network.
            plan: its plan.
            n_classes: size of the head; None: as in the network.
            init: a function of hat.init.
            frozen: names of parameters that are not trained.
            generator: for the initial values.
        """
        super().__init__()
        like = first_wide(net)
        self.n_classes, self.own = n_classes, nn.Module()
        self.embeddings = nn.ParameterList(torch.empty(len(units), device='cpu') for units in plan.units.of_gate)
        for e in self.embeddings:
            init(e, generator=generator)
        for name in plan.task_specific:
            tensor = get_tensor(net, name)
            register_tensor(
                self.own, name, tensor.detach().clone(), isinstance(tensor, nn.Parameter), name not in frozen
            )
        for head in plan.heads:
            w = get_tensor(net, head.weight)
            if n_classes not in (None, w.shape[head.axis or 0]):
                if head.axis is None:
                    raise ValueError(f'n_classes: the output layer {head.weight} cannot have another size')
                bound = (w.numel() / w.shape[head.axis]) ** -0.5
                for name, axis in head.tensors:
                    if axis is None:
                        continue
                    shape = list(get_tensor(net, name).shape)
                    shape[axis] = n_classes
                    values = torch.empty(shape, device='cpu').uniform_(-bound, bound, generator=generator)
                    register_tensor(self.own, name, values.to(get_tensor(net, name)), True, name not in frozen)
        self.embeddings.to(torch.promote_types(like.dtype, torch.float32))
        self.to(like.device)
        kept = {part: Kept(named_tensors(getattr(self, part))) for part in ('embeddings', 'own')}
        self.kept = cast('dict[str, Kept]', nn.ModuleDict(kept))

    def keep(self) -> None:
        """Keep the present values."""
        for part, kept in self.kept.items():
            for name, tensor in named_tensors(getattr(self, part)):
                kept.write(name, tensor)

    @torch.no_grad()
    def restore(self) -> None:
        """Write the kept values to the parameters and buffers."""
        for part, kept in self.kept.items():
            for name, tensor in named_tensors(getattr(self, part)):
                tensor.copy_(kept.value(name))

    def tensors(self, learned: bool) -> dict[str, Tensor]:
        """The tensors that replace the network's, by name; for a learned task copies of the kept values."""
        if learned:
            return {name: self.kept['own'].value(name).clone() for name in self.kept['own'].keys}
        return dict(named_tensors(self.own))

    def embedding(self, learned: bool) -> Tensor:
        """The embeddings of all gates, concatenated; for a learned task the kept ones."""
        kept = self.kept['embeddings']
        return torch.cat([kept.value(name) for name in kept.keys] if learned else list(self.embeddings.parameters()))

    def train(self, mode: bool = True) -> Self:
        """Sets the mode here alone: no module inside depends on it."""
        self.training = mode
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def at_least_float32(x: Tensor) -> Tensor:
            changed = fn(x)
            return x.to(changed.device) if changed.dtype in HALF else changed

        self.own._apply(fn)
        self.embeddings._apply(at_least_float32)
        if 'kept' in self._modules:
            self.kept['own']._apply(fn)
            self.kept['embeddings']._apply(at_least_float32)
        return self

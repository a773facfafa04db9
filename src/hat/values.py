"""What the reader knows of a node's output: ids of unit sets (hat.unitsets), a Weight, or a Constant."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_map_only

from hat.unitsets import ALWAYS_USED


class Weight(NamedTuple):
    """A parameter, or a part of it. elements: the indices of its elements in the flat parameter; None: all of it."""

    name: str
    elements: Tensor | None = None


class Constant(NamedTuple):
    """A value that depends on neither inputs nor parameters. fixed: it does not change; a buffer may, in training."""

    tensor: Tensor
    fixed: bool = True


def always_used(node: Node) -> Any:
    """Ids of the output of a node of which nothing is known; a list of them for several outputs."""
    shape = node.meta.get('shape', ())
    if isinstance(shape, list):
        return [torch.full(s or (), ALWAYS_USED) for s in shape]
    return torch.full(shape, ALWAYS_USED)


def numbered(p: Tensor) -> Tensor:
    """The indices of a parameter's elements, in its shape."""
    return torch.arange(p.numel()).view(p.shape)


def fetched(arguments: Any, values: Mapping[Node, Any]) -> Any:
    """The arguments of a node with the tensors of constants in place of nodes."""
    return tree_map_only(Node, lambda node: getattr(values[node], 'tensor', None), arguments)


def wrap(kind: Callable[[Tensor], Weight | Constant], outputs: Any) -> Any:
    """A Weight or a Constant for the output of a node; a list of them for several outputs."""
    return [kind(o) for o in outputs] if isinstance(outputs, (tuple, list)) else kind(outputs)

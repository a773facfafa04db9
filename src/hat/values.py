"""What is known of the output of a node in a network's graph: ids of unit sets (hat.unitsets), or one of these."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_map_only

from hat.unitsets import ALWAYS_USED


class Weight(NamedTuple):
    """A parameter, or what was moved out of it: `elements` says which of its elements; None: the whole."""

    name: str
    elements: Tensor | None = None


class Constant(NamedTuple):
    """A value that depends on neither inputs nor parameters. `kept`: it will not change; a buffer may, in training."""

    tensor: Tensor
    kept: bool = True


def always_used(node: Node) -> Any:
    """Ids of an output, or of several, of which nothing is known."""
    shape = node.meta.get('shape', ())
    if isinstance(shape, list):
        return [torch.full(s or (), ALWAYS_USED) for s in shape]
    return torch.full(shape, ALWAYS_USED)


def numbered(p: Tensor) -> Tensor:
    """The numbers of a parameter's elements, in its shape."""
    return torch.arange(p.numel()).view(p.shape)


def fetched(arguments: Any, values: Mapping[Node, Any]) -> Any:
    """Arguments of a node with the tensors of constants in the place of nodes."""
    return tree_map_only(Node, lambda node: getattr(values[node], 'tensor', None), arguments)


def wrap(kind: Callable[[Tensor], Weight | Constant], outputs: Any) -> Any:
    """A Weight or a Constant of an output, or of each of several."""
    return [kind(o) for o in outputs] if isinstance(outputs, (tuple, list)) else kind(outputs)

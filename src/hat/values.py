"""What the reader knows of a node's output: ids of unit sets (hat.unitsets), a Weight, or a Constant."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_map_only

from hat.unitsets import ALWAYS_USED

INDICES = 'index', 'indices'  # arguments that are indices, not values
MIXED, NOTHING = -1, -2  # in a Weight's index: several indices of the parameters; none of them


class Weight(NamedTuple):
    """A value that depends on parameters and buffers alone.

    names: of the parameters; none, if it depends on buffers alone.
    indices: for each dimension of the parameters the index there of what an element depends on, a LongTensor of the
        value's shape.
    exact: whether the elements are elements of one parameter, at these indices.
    """

    names: tuple[str, ...] = ()
    indices: tuple[Tensor, ...] = ()
    exact: bool = False


class Constant(NamedTuple):
    """A value that depends on neither inputs nor parameters. fixed: it does not change; a buffer may, in training."""

    tensor: Tensor
    fixed: bool = True


def whole(name: str, shape: torch.Size) -> Weight:
    """A parameter."""
    index = (torch.arange(n).view(-1, *[1] * (len(shape) - d - 1)).expand(shape) for d, n in enumerate(shape))
    return Weight((name,), tuple(index), exact=True)


def always_used(node: Node) -> Any:
    """Ids of the output of a node of which nothing is known; a list of them for several outputs."""
    return filled(node, ALWAYS_USED)


def filled(node: Node, value: int) -> Any:
    """A LongTensor of one value in the shape of a node's output, without memory; a list for several outputs."""
    shape = node.meta.get('shape', ())
    tensor = torch.tensor(value)
    return [tensor.expand(s or ()) for s in shape] if isinstance(shape, list) else tensor.expand(shape)


def fetched(arguments: Any, values: Mapping[Node, Any]) -> Any:
    """The arguments of a node with the tensors of constants in place of nodes."""
    return tree_map_only(Node, lambda node: getattr(values[node], 'tensor', None), arguments)


def wrap(kind: Callable[[Tensor], Constant], outputs: Any) -> Any:
    """A Constant for the output of a node; a list of them for several outputs."""
    return [kind(o) for o in outputs] if isinstance(outputs, (tuple, list)) else kind(outputs)

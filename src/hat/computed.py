"""Computed weights: which rows of the parameters a value depends on that is computed from parameters alone.

Weight norm and weight standardization work row by row: row n of the weight depends on row n of its parameters. Unit n
of the layer then needs these rows, and a closed unit leaves them free. Where rows are mixed, as by spectral norm, a
unit needs them all.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_map_only

from hat import rules
from hat.layers import arguments, operation
from hat.unitsets import UnitSets
from hat.values import INDICES, MIXED, NOTHING, Weight, fetched, filled

COPIES = {'alias', 'clone', 'contiguous', 'detach', 'to', '_to_copy', 'type_as', 'lift_fresh'}
ALONG_DIM = {'softmax', '_softmax', 'log_softmax', 'logsumexp'} | rules.REDUCTIONS
NORMS = {'batch_norm', 'layer_norm', '_weight_norm', '_weight_norm_interface', 'norm_except_dim'}


class Indices(UnitSets):
    """Indices in place of ids: what depends on two values has their index, if both have the same one."""

    def __init__(self) -> None:
        super().__init__([])

    def union(self, left: Tensor, right: Tensor) -> Tensor:
        left, right = torch.broadcast_tensors(left, right)
        if torch.equal(left, right):
            return left
        one = torch.where(left == NOTHING, right, left)
        return torch.where((right == NOTHING) | (right == one), one, MIXED)

    intersection = union


def computed(node: Node, values: Mapping[Node, Any]) -> Any:
    """What an operation on parameters, buffers and constants gives: a Weight, or a list of them for several outputs."""
    weights = [value for n in node.all_input_nodes if isinstance(value := values[n], Weight)]
    names = tuple(dict.fromkeys(name for weight in weights for name in weight.names))
    moved = rules.name_of(operation(node)) in COPIES or is_move(node)
    exact = moved and len(node.all_input_nodes) == 1 and weights[0].exact
    shape = node.meta.get('shape', torch.Size())
    shapes = [s or torch.Size() for s in shape] if isinstance(shape, list) else [shape]
    index = [index_of(node, values, d, shapes) for d in range(max(len(weight.indices) for weight in weights))]
    made = [Weight(names, tuple(of_output), exact) for of_output in zip(*index, strict=True)]
    made = made or [Weight(names)] * len(shapes)
    return made if isinstance(shape, list) else made[0]


def index_of(node: Node, values: Mapping[Node, Any], d: int, shapes: list[torch.Size]) -> list[Tensor]:
    """The index of each output of an operation along dimension d of the parameters."""

    def index(part: Node) -> Tensor:
        value = values[part]
        if not isinstance(value, Weight) or not value.names:
            return filled(part, NOTHING)
        return value.indices[d] if d < len(value.indices) else filled(part, MIXED)

    target, name, sets = operation(node), rules.name_of(operation(node)), Indices()
    named = arguments(node)
    indices = {key: fetched(named.pop(key), values) for key in INDICES if key in named}
    named = tree_map_only(Node, index, named)
    call = rules.Call(target, sets, named, indices, shapes[0])
    result: Any = None
    if name in COPIES:
        result = call.tensors[0]
    elif is_move(node):
        result = rules.move(call)
    elif rules.is_pointwise(target):
        result = functools.reduce(sets.union, call.tensors)
    elif name in ALONG_DIM:
        result = rules.over('union')(call)
    elif name in NORMS:
        result = normalized(name, sets, named)
    parts = [*result] if isinstance(result, (list, tuple)) else [result]
    parts += [None] * (len(shapes) - len(parts))
    return [rules.expanded(part, s, MIXED) for part, s in zip(parts, shapes, strict=True)]


def is_move(node: Node) -> bool:
    """Whether the elements of an operation's output are elements of its first argument."""
    rule = rules.rule_of(operation(node))
    return rule is not None and rule.ids is rules.move and rules.name_of(operation(node)) != 'im2col'  # which pads


def normalized(name: str, sets: Indices, named: dict[str, Any]) -> Tensor:
    """The index of a norm's output: all that is normalized together depends on all of it."""
    x = named['v'] if 'v' in named else named['input']
    if name == 'layer_norm':
        dims = list(range(-len(named['normalized_shape']), 0))
        over = [x, *(part for key in ('weight', 'bias') if (part := named[key]) is not None)]
    else:
        channel = named.get('dim', 1)
        dims = [d for d in range(x.ndim) if channel == -1 or d != channel % x.ndim]
        over = [x, *(named[key].view([-1 if d == 1 else 1 for d in range(x.ndim)])
                     for key in ('weight', 'bias') if named.get(key) is not None)]  # fmt: skip
        over += [named['g']] if 'g' in named else []
    return sets.over(sets.union, functools.reduce(sets.union, over), dims)

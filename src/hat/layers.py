"""Operations with weights: layers, their units, and the weights between units."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from hat.errors import CannotConvert
from hat.plan import Head
from hat.unitsets import ZERO, UnitSets

aten = torch.ops.aten
CONVOLUTIONS = {op for n in '123' for op in (getattr(aten, f'conv{n}d').default, getattr(aten, f'conv{n}d').padding)}
TRANSPOSED = {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
LAYERS = {aten.linear.default, aten.embedding.default} | CONVOLUTIONS | TRANSPOSED
CHANNEL_NORMS = {aten.batch_norm.default, aten.instance_norm.default, aten.group_norm.default}  # affine along dim 1
NORMS = {aten.layer_norm.default, aten.rms_norm.default} | CHANNEL_NORMS  # the others: along the last dimensions


def operation(node: Node) -> torch._ops.OpOverload:
    """The operation that a node calls."""
    if not isinstance(node.target, torch._ops.OpOverload):
        raise TypeError(f'{node} calls no operation')
    return node.target


def arguments(node: Node) -> dict[str, Any]:
    """The arguments of a node's operation by name, with defaults."""
    declared = operation(node)._schema.arguments
    named = {a.name: a.default_value for a in declared if a.has_default_value()}
    return named | dict(zip((a.name for a in declared), node.args, strict=False)) | node.kwargs


def parameter(node: Node | None, parameters: Mapping[str, Tensor]) -> str | None:
    """The name of the parameter that a node gets; None for any other node."""
    return str(node.target) if node is not None and node.op == 'get_attr' and node.target in parameters else None


def refused(node: Node, why: str) -> CannotConvert:
    """The error for an operation that cannot be converted."""
    return CannotConvert(f'{node.target} {node.meta["place"]}: {why}')


def find_layers(nodes: list[Node], parameters: Mapping[str, Tensor]) -> dict[str, list[Node]]:
    """The layers of a network: name of a weight -> the nodes that use it, or a part of it, as a layer's weight."""
    calls: dict[str, list[Node]] = {}
    names: dict[Node, str] = {}
    for node in nodes:
        if name := parameter(node, parameters):
            names[node] = name
        elif node.target in LAYERS:
            weight = arguments(node)['weight']
            if weight not in names:
                kind = 'not a parameter of the network' if weight.op == 'get_attr' else 'computed, or changed in place'
                raise refused(node, f'its weight is {kind}')
            calls.setdefault(names[weight], []).append(node)
            if output_axis(node) != output_axis(calls[names[weight]][0]):
                raise refused(node, f'{names[weight]} is also the weight of another kind of layer')
        elif len(node.all_input_nodes) == 1 and node.all_input_nodes[0] in names:
            names[node] = names[node.all_input_nodes[0]]
    return calls


def last_layers(nodes: list[Node], calls: dict[str, list[Node]]) -> list[str]:
    """Output layers: names of the weights of layers that no other layer follows."""
    layers: set[Node] = set(itertools.chain(*calls.values()))
    followed: set[Node] = set()
    for node in reversed(nodes):
        if any(user in layers or user in followed for user in node.users):
            followed.add(node)
    return [name for name, nodes in calls.items() if followed.isdisjoint(nodes)]


def head(name: str, node: Node, parameters: Mapping[str, Tensor]) -> Head:
    """The output layer with that weight; node: one of its calls."""
    return Head(name, parameter(arguments(node).get('bias'), parameters), output_axis(node)[0])


def norm_after(node: Node, parameters: Mapping[str, Tensor]) -> Node | None:
    """The batch norm with affine parameters that is the only user of a layer's output; None: there is none."""
    for norm in node.users if parameter(arguments(node)['weight'], parameters) else ():
        if len(node.users) == 1 and norm.target is aten.batch_norm.default:
            named = arguments(norm)
            if named['input'] is node and all(parameter(named[key], parameters) for key in ('weight', 'bias')):
                return norm
    return None


def n_units(node: Node, weight: Tensor) -> int:
    """How many units a layer has."""
    axis, groups = output_axis(node)
    return weight.shape[axis] * groups


def connections(weight: Tensor, node: Node, units: Tensor, reads: list[tuple[Tensor, Tensor]],
                sets: UnitSets) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Ids of the output units and of the input units of a weight's elements, in shapes that broadcast to the weight.

    Args:
        weight: of the layer.
        node: one of its calls.
        units: ids of the layer's units, (N,).
        reads: for each call, the rows of the weight that it uses, and the ids that these read.
        sets: what the ids stand for.
    """
    axis, groups = output_axis(node)
    if axis:  # the weights of groups are stacked along dim 0, each with its units along dim 1
        n_rows = len(weight) // groups if groups > 1 else 1
        outs = units.view(groups, 1, -1).expand(groups, n_rows, -1).flatten(0, 1)
    else:
        outs = units.view(-1, 1)
    ins = torch.full((1, 1), ZERO)
    for rows, ids in reads:
        if torch.equal(rows, torch.arange(len(weight))):
            ins = sets.union(ins, ids)
        else:
            ins = ins.expand(len(weight), ids.shape[1]).clone()
            ins[rows] = sets.union(ins[rows], ids)
    if (ins == ins[0]).all():
        ins = ins[:1]
    further = [1] * (weight.ndim - 2)
    return outs.reshape(*outs.shape, *further), ins.reshape(*ins.shape, *further)


def output_axis(node: Node) -> tuple[int, int]:
    """The dimension of a layer's weight that counts its units, and the number of groups that divide them."""
    if node.target is aten.embedding.default:
        return 1, 1
    return (1, arguments(node)['groups']) if node.target in TRANSPOSED else (0, 1)


def broadcast_units(units: Tensor, node: Node) -> Tensor:
    """The ids of a layer's output, in its shape, from those of its units, (N,)."""
    shape = [1] * len(node.meta['shape'])
    shape[1 if node.target in CONVOLUTIONS | TRANSPOSED | CHANNEL_NORMS else -1] = -1
    return units.view(shape).expand(node.meta['shape'])


def layer_names(weights: Iterable[str]) -> dict[str, str]:
    """A name for each layer, by the name of its weight: the same without '.weight', where that is unique."""
    names = {weight: weight.removesuffix('.weight').removesuffix('_weight') for weight in weights}
    every = list(names.values())
    return {weight: name if every.count(name) == 1 else weight for weight, name in names.items()}

"""Recurrent layers: nn.RNN, nn.LSTM, nn.GRU and their cells.

A hidden unit owns a row in each of the blocks of W_ih, W_hh and the biases, and feeds back through its column of W_hh.
Its mask multiplies what leaves the unit: the output, the final states, its column of W_hh, and its columns of W_ih in
the layer above. So a closed unit is zero for all that reads it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Node

from hat.layers import arguments, operation
from hat.nested import mapped
from hat.rules import name_of

STACKS = {'lstm', 'gru', 'rnn_tanh', 'rnn_relu'}
CELLS = {f'{name}_cell' for name in STACKS}
MODULES = nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell


class Recurrent(NamedTuple):
    """One direction of one layer of a recurrent module.

    name: of the layer.
    weights: W_ih, (blocks * units, inputs), and W_hh, (blocks * units, units).
    biases: those of both, (blocks * units,); none, if it has no bias.
    size: number of units.
    """

    name: str
    weights: tuple[Node, Node]
    biases: tuple[Node, ...]
    size: int


def is_recurrent(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and name_of(node.target) in STACKS | CELLS


def is_cell(node: Node) -> bool:
    return name_of(operation(node)) in CELLS


def directions(node: Node) -> int:
    """1, or 2 if it runs in both directions."""
    return 1 + int(bool(arguments(node).get('bidirectional')))


def layers_of(node: Node) -> list[Recurrent]:
    """The layers of a recurrent operation, both directions of a layer one after the other. None of them, if it has a
    projection, or is not the call of a module."""
    module, named = node.meta.get('recurrent'), arguments(node)
    if module is None:
        return []
    if is_cell(node):
        biases = tuple(b for b in (named['b_ih'], named['b_hh']) if b is not None)
        return [Recurrent(module, (named['w_ih'], named['w_hh']), biases, named['w_hh'].meta['shape'][1])]
    each = 4 if named['has_biases'] else 2
    each_way = directions(node)
    if len(named['params']) != each * named['num_layers'] * each_way:
        return []
    result = []
    for i in range(named['num_layers'] * each_way):
        w_ih, w_hh, *biases = named['params'][each * i : each * (i + 1)]
        name = f'{module}.l{i // each_way}{"_reverse" if i % each_way else ""}'
        result.append(Recurrent(name, (w_ih, w_hh), tuple(biases), w_hh.meta['shape'][1]))
    return result


def inputs_and_states(node: Node) -> tuple[Node, list[Node]]:
    """The input of a recurrent operation, and its initial states."""
    named = arguments(node)
    states = named['hx'] if isinstance(named['hx'], (list, tuple)) else [named['hx']]
    x = named['data'] if 'data' in named else named['input']
    return x, [state for state in states if state is not None]


def masked(output: Any, masks: list[Tensor], directions: int, multiply: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """The output of a recurrent module with the masks of its layers.

    Args:
        output: of a cell: states, (B, N). Else the outputs, (B, T, D * N), which get the masks of the last layer, and
            the final states, (layers * D, B, N), which get those of all.
        masks: of each layer and direction, (N,).
        directions: D; 0 for a cell.
        multiply: a function of a tensor and a mask that broadcasts to it.
    """
    if not directions:
        return mapped(lambda x: multiply(x, masks[0]), output)
    sequence, states = output
    if isinstance(sequence, nn.utils.rnn.PackedSequence):
        sequence = sequence._replace(data=multiply(sequence.data, torch.cat(masks[-directions:])))
    else:
        sequence = multiply(sequence, torch.cat(masks[-directions:]))
    every = torch.stack(masks)
    return sequence, mapped(lambda x: multiply(x, every.view(len(masks), *[1] * (x.ndim - 2), -1)), states)

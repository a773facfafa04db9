"""Operations with weights: layers, their units, and the weights between units.

A layer multiplies inputs with a weight and sums over what both have in common. As in einsum each dimension of a tensor
has a letter: a linear layer is `..k,nk->..n`. The letters of the weight that are in the output, here n, count the
layer's units; an element of the weight reads the inputs at its other letters, here k.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node

from hat.errors import CannotConvert
from hat.rules import name_of
from hat.unitsets import ALWAYS_USED, ZERO, UnitSets
from hat.values import Weight

aten = torch.ops.aten
CONVOLUTIONS = {op for n in '123' for op in (getattr(aten, f'conv{n}d').default, getattr(aten, f'conv{n}d').padding)}
TRANSPOSED = {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
CHANNEL_NORMS = {aten.batch_norm.default, aten.instance_norm.default, aten.group_norm.default}  # affine along dim 1
NORMS = {aten.layer_norm.default, aten.rms_norm.default} | CHANNEL_NORMS  # the others: along the last dimensions
PRODUCTS = {  # of two matrices: names of the factors, and of what is added
    'matmul': ('self', 'other', None),
    'mm': ('self', 'mat2', None),
    'bmm': ('self', 'mat2', None),
    'mv': ('self', 'vec', None),
    'addmm': ('mat1', 'mat2', 'self'),
    'addmv': ('mat', 'vec', 'self'),
    'baddbmm': ('batch1', 'batch2', 'self'),
}
BATCH = 'ABCDEFGH'  # letters of dimensions that are not summed over
Factor = tuple[Node, str]  # a tensor and its letters


class Layer(NamedTuple):
    """A call of a layer.

    node: of the operation.
    weight, letters: what it multiplies its inputs with, and a letter for each of its dimensions.
    inputs: each with its letters.
    output: letters of the (first) output.
    bias: what is added, in a shape that broadcasts to the output's; None: nothing.
    groups: of a convolution; 1 for all other layers.
    """

    node: Node
    weight: Node
    letters: str
    inputs: list[Factor]
    output: str
    bias: Node | None = None
    groups: int = 1

    @property
    def is_channel(self) -> bool:
        """Whether the second dimension of the output counts the units, and no other."""
        return [d for d, letter in enumerate(self.output) if letter in self.letters] == [1]

    @property
    def dims_after_units(self) -> int:
        """How many dimensions of the output follow the last one that counts units."""
        return len(self.output) - 1 - max(d for d, letter in enumerate(self.output) if letter in self.letters)

    @property
    def unit_dims(self) -> set[int]:
        """Dimensions of the weight that count units."""
        if self.groups > 1 and self.node.target in TRANSPOSED:
            return {0, 1}
        return {d for d, letter in enumerate(self.letters) if letter in self.output}


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


def refused(node: Node, why: str) -> CannotConvert:
    """The error for an operation that cannot be converted."""
    return CannotConvert(f'{node.target} {node.meta["place"]}: {why}')


# Which operations are layers


def is_layer(node: Node) -> bool:
    """Whether an operation has a weight, be it a parameter or not."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return node.target in CONVOLUTIONS | TRANSPOSED or name_of(node.target) in ('linear', 'bilinear', 'embedding')


def find_layer(node: Node, is_weight: Callable[[Node], bool]) -> Layer | None:
    """The layer that a node calls; None for any other operation.

    is_weight: whether a node's output depends on parameters, but not on inputs of the network.
    """
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    named, name = arguments(node), name_of(node.target)
    if node.target in CONVOLUTIONS | TRANSPOSED:
        return convolution(node, named) if is_weight(named['weight']) else None
    if name in ('embedding', 'embedding_bag'):
        shape = node.meta['shape'] if name == 'embedding' else node.meta['shape'][0]
        layer = Layer(node, named['weight'], 'vd', [], BATCH[: len(shape) - 1] + 'd')
        return layer if is_weight(layer.weight) else None
    factors, output, bias = product(name, named)
    candidates = factors[-1:] if 'weight' in named else factors
    weights = [factor for factor in candidates if is_weight(factor[0])]
    units = set(weights[0][1]) & set(output) if len(weights) == 1 else set()
    if not units or units == set(weights[0][1]):  # a sum over all of a weight has no units, a scale reads nothing
        return None
    return Layer(node, *weights[0], [factor for factor in factors if factor is not weights[0]], output, bias)


def convolution(node: Node, named: dict[str, Any]) -> Layer:
    n_dims = ndim(named['weight']) - 2
    kernel, image, result = 'pqr'[:n_dims], 'xyz'[:n_dims], 'uvw'[:n_dims]
    batch = BATCH[: ndim(named['input']) - n_dims - 1]
    letters = ('cn' if node.target in TRANSPOSED else 'nc') + kernel
    inputs = [(named['input'], f'{batch}c{image}')]
    return Layer(node, named['weight'], letters, inputs, f'{batch}n{result}', named['bias'], named['groups'])


def product(name: str, named: dict[str, Any]) -> tuple[list[Factor], str, Node | None]:
    """The factors of a product with their letters, the letters of its output, and what is added; no factors for any
    other operation."""
    if name == 'linear':
        weight, batch = named['weight'], BATCH[: ndim(named['input']) - 1]
        n = 'n' if ndim(weight) == 2 else ''
        return [(named['input'], f'{batch}k'), (weight, f'{n}k')], batch + n, named['bias']
    if name == 'bilinear':
        left, right, batch = named['input1'], named['input2'], BATCH[: ndim(named['input1']) - 1]
        return [(left, f'{batch}i'), (right, f'{batch}j'), (named['weight'], 'nij')], f'{batch}n', named['bias']
    if name in PRODUCTS:
        left, right, added = PRODUCTS[name]
        return *matrix_product(named[left], named[right]), named[added] if added else None
    if name == '_grouped_mm' and ndim(named['self']) == 2 and ndim(named['mat2']) == 3:  # rows of experts, (E, in, out)
        return [(named['self'], 'Ak'), (named['mat2'], 'ekn')], 'An', named['bias']
    if name == 'einsum':
        return *einsum_letters(named['equation'], named['tensors']), None
    if name == 'inner':
        return *tensor_product(named['self'], named['other'], [-1], [-1]), None
    if name == 'tensordot':
        return *tensor_product(named['self'], named['other'], named['dims_self'], named['dims_other']), None
    return [], '', None


def matrix_product(left: Node, right: Node) -> tuple[list[Factor], str]:
    """The factors of left @ right with their letters, and the letters of the product."""
    shapes = [list(x.meta['shape'][:-2]) for x in (left, right)]
    n_batch = max(map(len, shapes))
    batches = []
    for shape, ones in zip(shapes, ('abcdefgh', 'opqrstuv'), strict=True):  # letters for dimensions of size 1
        offset = n_batch - len(shape)
        batches.append(''.join(BATCH[offset + d] if n > 1 else ones[d] for d, n in enumerate(shape)))
    rows, columns = 'm' if ndim(left) > 1 else '', 'n' if ndim(right) > 1 else ''
    letters = [batches[0] + rows + 'k', batches[1] + 'k' + columns]
    return list(zip((left, right), letters, strict=True)), BATCH[:n_batch] + rows + columns


def tensor_product(left: Node, right: Node, *dims: list[int]) -> tuple[list[Factor], str]:
    """The factors of a sum of products over some dimensions of both, with their letters, and those of the rest."""
    factors: list[Factor] = []
    for x, summed, rest in zip((left, right), dims, (BATCH, 'opqrstuv'), strict=True):
        places = [d % ndim(x) for d in summed]
        letters = ['abcdefgh'[places.index(d)] if d in places else rest[d] for d in range(ndim(x))]
        factors.append((x, ''.join(letters)))
    return factors, ''.join(x for _, letters in factors for x in letters if x not in 'abcdefgh')


def einsum_letters(equation: str, tensors: list[Node]) -> tuple[list[Factor], str]:
    """The factors of an einsum and the letters of its output; no factors where a letter is twice in one factor."""
    inputs, arrow, output = equation.replace(' ', '').partition('->')
    letters = [part.replace('...', '?') for part in inputs.split(',')]
    numbers = [ndim(x) - len(part.replace('?', '')) for x, part in zip(tensors, letters, strict=True)]
    most = max((n for n, part in zip(numbers, letters, strict=True) if '?' in part), default=0)
    free = [chr(code) for code in range(0x3B1, 0x3B1 + most)]  # Greek: no letter of an equation
    letters = [part.replace('?', ''.join(free[most - n :])) for n, part in zip(numbers, letters, strict=True)]
    if not arrow:
        every = ''.join(letters)
        output = '...' + ''.join(sorted(x for x in set(every) if every.count(x) == 1 and x not in free))
    output = output.replace('...', ''.join(free))
    if any(len(set(part)) < len(part) for part in letters):
        return [], ''
    return list(zip(tensors, letters, strict=True)), output


def ndim(node: Node) -> int:
    return len(node.meta['shape'])


# Units


class Kind(NamedTuple):
    """How layers use parameters; a parameter that is embedding and output layer is used in two ways.

    names: of the parameters that the weight is computed from.
    axes: their dimensions that count units; none, if each unit needs all of them.
    groups: of a transposed convolution, whose groups have the same columns; else 1.
    exact: whether the weight is the parameter, or a part of it; else row n of it is computed from row n of each.
    """

    names: tuple[str, ...]
    axes: tuple[int, ...]
    groups: int
    exact: bool

    def n_units(self, parameters: Mapping[str, Tensor]) -> int:
        shapes = [parameters[name].shape for name in self.names]
        if self.exact:
            return math.prod(shapes[0][a] for a in self.axes) * self.groups
        return max(shape[self.axes[0]] for shape in shapes if len(shape) > self.axes[0])

    def units(self, shape: torch.Size) -> Tensor:
        """The unit of each element of one of the parameters, in a shape that broadcasts to its own."""
        result = torch.zeros([1] * len(shape), dtype=torch.int64)
        for a in self.axes:
            result = result * shape[a] + along(a, len(shape), torch.arange(shape[a]))
        if self.groups > 1:
            rows = torch.arange(shape[0]) // (shape[0] // self.groups)
            result = result + along(0, len(shape), rows) * shape[self.axes[0]]
        return result


def squeezed(x: Tensor, dims: list[int]) -> Tensor:
    """These dimensions of a tensor, in this order; all others have size 1."""
    return x.permute(*dims, *(d for d in range(x.ndim) if d not in dims)).reshape([x.shape[d] for d in dims])


def along(dim: int, ndim: int, values: Tensor) -> Tensor:
    """(n,) values along one of several dimensions; the others have size 1."""
    return values.view([-1 if d == dim else 1 for d in range(ndim)])


def kind_of(layer: Layer, weight: Weight, shape: torch.Size) -> tuple[Kind, Tensor]:
    """The kind of a layer's call and the unit of each element of its output, in the dimensions of the weight that count
    units, the others with size 1.

    shape: of the first parameter.
    """
    dims = layer.unit_dims
    sizes = [n if d in dims else 1 for d, n in enumerate(layer.weight.meta['shape'])]
    mixed = Kind(weight.names, (), 1, False), torch.arange(math.prod(sizes)).view(sizes)
    known = [a for a, index in enumerate(weight.indices) if bool((compact(index) >= 0).all())]
    axes = [a for a in known if varies(weight.indices[a]) and varies(weight.indices[a]) <= dims]
    if weight.exact:
        rest = set(range(len(weight.indices))) - set(axes)
        if any(varies(weight.indices[a]) & dims for a in rest):
            return mixed
        if layer.groups > 1 and layer.node.target in TRANSPOSED:
            if layer.weight.op != 'get_attr':
                return mixed
            return (kind := Kind(weight.names, (1,), layer.groups, True)), kind.units(shape)
    else:
        axes = axes[:1]
    if weight.exact and not axes and math.prod(sizes) == 1 and len(shape) == len(sizes):
        axes = [a for a in range(len(shape)) if not varies(weight.indices[a])][:1]  # a single unit
    if not axes:
        return mixed
    kind = Kind(weight.names, tuple(axes), 1, weight.exact)
    numbers = torch.zeros([], dtype=torch.int64)
    for a in axes:
        numbers = numbers * shape[a] + compact(weight.indices[a])
    for d in set(range(numbers.ndim)) - dims:
        numbers = numbers.narrow(d, 0, 1)
    return kind, numbers.expand(sizes)


def compact(x: Tensor) -> Tensor:
    """A tensor with size 1 where it is expanded."""
    return x[tuple(slice(None) if stride else slice(0, 1) for stride in x.stride())]


def varies(index: Tensor) -> set[int]:
    """Dimensions along which an index is not constant."""
    x = compact(index)
    return {d for d, n in enumerate(x.shape) if n > 1 and not torch.equal(x, x.narrow(d, 0, 1).expand_as(x))}


def output_units(layer: Layer, units: Tensor) -> Tensor:
    """The ids of a layer's output, in a shape that broadcasts to its own, from those of its units, in the dimensions of
    the weight."""
    if layer.groups > 1 and layer.node.target in TRANSPOSED:  # (rows, columns): a row of each group
        units = units[:: len(units) // layer.groups].reshape(-1)
        return along(layer.output.index('n'), len(layer.output), units)
    dims = [layer.letters.index(letter) for letter in layer.output if letter in layer.letters]
    units = squeezed(units, dims)
    return units[tuple(slice(None) if letter in layer.letters else None for letter in layer.output)]


# What an element of a weight reads


def inputs_of(layer: Layer, shape: torch.Size, ids: list[Tensor], sets: UnitSets) -> Tensor:
    """Ids of what the elements of a layer's weight read, in a shape that broadcasts to the weight's.

    Args:
        layer: the layer.
        shape: of its weight.
        ids: of each input, in its shape.
        sets: what the ids stand for.
    """
    if layer.groups > 1:
        channels = sets.per_index(ids[0], layer.inputs[0][1].index('c'))
        if layer.node.target in TRANSPOSED:
            return along(0, len(shape), channels)
        rows = channels.view(layer.groups, -1).repeat_interleave(shape[0] // layer.groups, 0)
        return rows.view(*rows.shape, *[1] * (len(shape) - 2))
    result = torch.full([1] * len(shape), ALWAYS_USED)
    for (_, letters), x in zip(layer.inputs, ids, strict=True):
        common = [letter for letter in layer.letters if letter in letters]
        x = sets.over(sets.union, x, {d for d, letter in enumerate(letters) if letter not in layer.letters})
        dims = [letters.index(letter) for letter in common]
        x = squeezed(x, dims)[tuple(slice(None) if letter in common else None for letter in layer.letters)]
        result = sets.intersection(result, x)
    return result


def onto_parameter(weight: Weight, ids: Tensor, shape: torch.Size, sets: UnitSets) -> Tensor:
    """Ids for the elements of a weight, in a shape that broadcasts to its own, as ids for those of the parameter that
    it is a part of; ZERO for the others."""
    places = [varies(index) for index in weight.indices]
    used: set[int] = set().union(*places)
    ids = sets.over(sets.union, ids, set(range(ids.ndim)) - used)
    if any(len(dims) > 1 for dims in places) or sum(map(len, places)) > len(used):  # dimensions are merged or divided
        numbers = torch.zeros([], dtype=torch.int64)
        for n, index in zip(shape, weight.indices, strict=True):
            numbers = numbers * n + index
        result = torch.full((shape.numel(),), ZERO)
        result[numbers.reshape(-1)] = ids.expand_as(numbers).reshape(-1)
        return result.view(shape) if len(numbers.unique()) == numbers.numel() else torch.tensor(ALWAYS_USED)
    dims = [min(place, default=None) for place in places]
    lying = [d for d in dims if d is not None]
    ids = squeezed(ids, lying)[tuple(None if d is None else slice(None) for d in dims)]
    rows, sizes = [], []
    for a, (d, index) in enumerate(zip(dims, weight.indices, strict=True)):
        row = index.reshape(-1)[:1] if d is None else index.movedim(d, 0).reshape(index.shape[d], -1)[:, 0]
        if len(row.unique()) < len(row):
            return torch.tensor(ALWAYS_USED)
        all_the_same = ids.shape[a] == 1 and len(row) == shape[a]
        rows.append(torch.zeros(1, dtype=torch.int64) if all_the_same else row)
        sizes.append(1 if all_the_same else shape[a])
    result = torch.full(sizes, ZERO)
    result[tuple(along(a, len(shape), row) for a, row in enumerate(rows))] = ids.expand([len(row) for row in rows])
    return result


# Heads, norms, names


def last_layers(nodes: list[Node], layers: Iterable[Node]) -> set[Node]:
    """The nodes of layers that no other layer follows."""
    calls, followed = set(layers), set()
    for node in reversed(nodes):
        if any(user in calls or user in followed for user in node.users):
            followed.add(node)
    return calls - followed


def norm_after(node: Node, is_parameter: Callable[[Node | None], bool]) -> Node | None:
    """The batch norm with affine parameters that is the only user of a layer's output; None: there is none."""
    for norm in node.users:
        if len(node.users) == 1 and norm.target is aten.batch_norm.default:
            named = arguments(norm)
            if named['input'] is node and is_parameter(named['weight']) and is_parameter(named['bias']):
                return norm
    return None


def sum_after(node: Node, is_parameter: Callable[[Node | None], bool]) -> tuple[Node, Node] | None:
    """The sum of a layer's output and a parameter, if nothing else uses the output: both nodes; None: there is none."""
    for user in node.users:
        if len(node.users) == 1 and user.target is aten.add.Tensor:
            named = arguments(user)
            others = [x for x in (named['self'], named['other']) if x is not node]
            if len(others) == 1 and is_parameter(others[0]) and named['alpha'] == 1:
                return user, others[0]
    return None


def short_name(name: str) -> str:
    """The name of a layer from that of its weight: 'conv' for 'conv.weight', and for the parameters of weight norms."""
    name = name.partition('.parametrizations.')[0]
    return name.removesuffix('_v').removesuffix('.weight').removesuffix('_weight')

"""Rules: which units make the output of an operation zero, for each known operation.

The output of an operation without a rule counts as used by every task. This is safe and costs capacity: weights that
read it are protected though they may be free. Layers and norms, which have weights, are in hat.reader.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from hat.unitsets import ALWAYS_USED, ZERO, UnitSets


@dataclass
class Call:
    """The call of an operation that a rule is applied to.

    Attributes:
        operation: what is called.
        units: what ids stand for.
        arguments: by name; in place of each tensor its ids (hat.unitsets), a LongTensor of its shape.
        index: arguments that are constant indices, by name, with their values.
        shape: of the (first) output.
    """

    operation: torch._ops.OpOverload
    units: UnitSets
    arguments: dict[str, Any]
    index: dict[str, Any]
    shape: torch.Size

    @property
    def tensors(self) -> list[Tensor]:
        """The ids of all arguments that are tensors."""
        return [x for x in tree_leaves(self.arguments) if isinstance(x, Tensor)]

    def run(self, change: Callable[[Tensor], Tensor]) -> Any:
        """Run the operation itself, on change(ids) for each tensor."""
        arguments = tree_map_only(Tensor, change, self.arguments) | self.index
        declared = [a for a in self.operation._schema.arguments if a.name in arguments]
        named = {a.name: arguments[a.name] for a in declared if a.kwarg_only}
        return self.operation(*[arguments[a.name] for a in declared if not a.kwarg_only], **named)


Ids = Tensor | list[Tensor] | None  # of an operation's output, or outputs; None: nothing is known


class Rule(NamedTuple):
    """A rule for an operation.

    ids: a function of a Call that gives the ids of the output, a list for several outputs; None, or a shorter list,
        where nothing is known.
    narrow: whether the operation still works when some units are removed (hat.structure).
    """

    ids: Callable[[Call], Ids]
    narrow: bool = False


def union(call: Call) -> Ids:
    """Zero if all arguments are zero."""
    return functools.reduce(call.units.union, call.tensors)


def product(call: Call) -> Ids:
    """Zero if one factor is zero."""
    return functools.reduce(call.units.intersection, call.tensors)


def first(call: Call) -> Ids:
    """Zero where the first argument is zero, element by element."""
    return call.tensors[0]


def move(call: Call) -> Ids:
    """Values are moved, and ids with them; new elements are filled with 0, which is ALWAYS_USED."""
    copies: list[Callable[[Tensor], Tensor]] = [
        lambda ids: ids.view_as(ids),  # transpose_() may not change call.arguments
        lambda ids: ids.contiguous().view_as(ids),  # for view()
        lambda ids: ids.double(),  # not implemented for integers
    ]
    for copy in copies:
        try:
            moved = call.run(copy)
        except RuntimeError:
            continue
        return [part.long() for part in moved] if isinstance(moved, (list, tuple)) else moved.long()
    return None  # it has other tensor arguments


def pad(call: Call) -> Ids:
    """A move; zeros that are filled in are always zero."""
    if call.arguments.get('mode', 'constant') != 'constant':
        return move(call)
    return F.pad(call.tensors[0], call.arguments['pad'], value=int(ids_of(call.arguments.get('value') or 0)))


def choice(*names: str) -> Callable[[Call], Ids]:
    """One of several arguments, element by element: zero if all of them are zero."""

    def ids(call: Call) -> Ids:
        if not all(name in call.arguments for name in names):
            return None
        return functools.reduce(call.units.union, [ids_of(call.arguments[name]) for name in names])

    return ids


def per_channel(n: int) -> Callable[[Call], Ids]:
    """Zero if the whole channel is zero: all values along the last n dimensions."""

    def ids(call: Call) -> Ids:
        return call.units.over(call.units.union, call.tensors[0], range(-n, 0))

    return ids


def sampled(call: Call) -> Ids:
    """Zero if the whole channel is zero, of images or volumes."""
    return per_channel(call.tensors[0].ndim - 2)(call)


def over(combine: str) -> Callable[[Call], Ids]:
    """Zero if all values along `dim` are zero ('union'), or if one of them is ('intersection')."""

    def ids(call: Call) -> Ids:
        x, dim = call.tensors[0], call.arguments.get('dim')
        if len(call.tensors) > 1:  # max and min of two tensors
            return union(call)
        dims = range(x.ndim) if dim in (None, []) else [dim] if isinstance(dim, int) else dim
        return call.units.over(getattr(call.units, combine), x, dims)

    return ids


SUM, PRODUCT = over('union'), over('intersection')


def attention(call: Call) -> Ids:
    """A weighted mean of the values over the positions."""
    value = call.arguments['value']
    value = value[(None,) * (len(call.shape) - value.ndim)]
    if value.shape[:-2] != call.shape[:-2]:
        value = value.repeat_interleave(call.shape[-3] // value.shape[-3], -3)  # grouped queries
    return call.units.over(call.units.union, value, [-2])


def matrix_product(call: Call) -> Ids:
    """Zero if the whole row of the first factor is zero, or the whole column of the second."""
    left, right = call.tensors[-2:]
    left, right = left[None] if left.ndim == 1 else left, right[:, None] if right.ndim == 1 else right
    over = functools.partial(call.units.over, call.units.union)
    ids = call.units.intersection(over(left, [-1]), over(right, [-2]))
    return call.units.union(ids, call.tensors[0]) if len(call.tensors) == 3 else ids  # addmm, baddbmm add a tensor


def linear(call: Call) -> Ids:
    """A weight that is no parameter: zero if all is that its row reads, where it is not zero itself."""
    x, weight, bias = call.arguments['input'], call.arguments['weight'], call.arguments.get('bias')
    rows = call.units.intersection(call.units.per_index(x, -1), weight)
    ids = call.units.over(call.units.union, rows, [-1]).reshape(weight.shape[:-1])
    return ids if bias is None else call.units.union(ids, bias)


def convolution(call: Call) -> Ids:
    """A weight that is no parameter, such as the kernel of a blur: zero if all channels are that a channel reads."""
    x, weight, bias = call.arguments['input'], call.arguments['weight'], call.arguments.get('bias')
    channel, groups = x.ndim - weight.ndim + 1, call.arguments['groups']
    read = call.units.per_index(x, channel).view(groups, 1, -1).expand(-1, len(weight) // groups, -1).flatten(0, 1)
    kernels = call.units.over(call.units.union, weight, range(2, weight.ndim)).reshape(weight.shape[:2])
    ids = call.units.over(call.units.union, call.units.intersection(read, kernels), [1]).reshape(-1)
    ids = ids if bias is None else call.units.union(ids, bias)
    return ids.view(-1, *[1] * (weight.ndim - 2))


def einsum(call: Call) -> Ids:
    """A sum of products: zero if one factor is zero along all letters that are summed over."""
    inputs, _, output = call.arguments['equation'].replace(' ', '').partition('->')
    if not output or '.' in inputs or any(len({*letters}) < len(letters) for letters in inputs.split(',')):
        return None
    result = torch.tensor(ALWAYS_USED)
    for letters, ids in zip(inputs.split(','), call.tensors, strict=True):
        summed = [d for d, letter in enumerate(letters) if letter not in output]
        ids = call.units.over(call.units.union, ids, summed).permute(
            *(letters.index(letter) for letter in output if letter in letters), *summed)  # fmt: skip
        ids = ids.reshape(ids.shape[: ids.ndim - len(summed)])
        ids = ids[tuple(slice(None) if letter in letters else None for letter in output)]
        result = call.units.intersection(result, ids)
    return result


def gated_linear(call: Call) -> Ids:
    """The first half times the sigmoid of the second."""
    x, dim = call.tensors[0], call.arguments['dim']
    return x.narrow(dim, 0, x.shape[dim] // 2)


def evaluated(call: Call) -> Ids:
    """Element by element: zero if all arguments are zero and f(0, ..., 0) is exactly 0, which is evaluated."""
    for signs in itertools.product((0.0, -0.0), repeat=min(len(call.tensors), 4)):  # a closed unit may also be -0
        try:
            zero = call.run(zeros(signs))
        except (RuntimeError, TypeError):  # not implemented for such numbers
            return None
        if not isinstance(zero, Tensor) or bool((zero != 0).any()):
            return None
    return union(call)


def zeros(signs: Iterable[float]) -> Callable[[Tensor], Tensor]:
    """A function for Call.run: a zero for each tensor, with these signs in turn."""
    values = itertools.cycle(signs)
    return lambda ids: torch.full((1,), next(values))


def ids_of(value: Any) -> Tensor:
    """Ids of an argument that is a tensor (of ids) or a number."""
    return value if isinstance(value, Tensor) else torch.tensor(ZERO if value == 0 else ALWAYS_USED)


def table(*rows: tuple[str, Rule]) -> dict[str, Rule]:
    """Rules by name, from rows (names, rule)."""
    return {name: rule for names, rule in rows for name in names.split()}


RULES: dict[str, Rule] = table(
    ('mul multiply', Rule(product, narrow=True)),
    ('div divide true_divide prelu dropout feature_dropout', Rule(first, narrow=True)),
    ('alias clone contiguous detach to _to_copy type_as lift_fresh', Rule(first, narrow=True)),
    ('tril triu rms_norm', Rule(first)),
    ('cat concat flatten movedim permute squeeze t transpose unsqueeze', Rule(move, narrow=True)),
    ('adjoint broadcast_to channel_shuffle chunk diagonal expand expand_as flip gather im2col index index_select mT '
     'narrow numpy_T pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d repeat repeat_interleave '
     'replication_pad1d replication_pad2d reshape reshape_as roll rot90 select slice split split_with_sizes stack '
     'swapaxes take_along_dim tensor_split tile unbind unflatten unfold unsafe_chunk unsafe_split view view_as '
     '_unsafe_view', Rule(move)),
    ('pad constant_pad_nd', Rule(pad)),
    ('where', Rule(choice('self', 'other'))),
    ('masked_fill', Rule(choice('self', 'value'))),
    ('adaptive_avg_pool1d adaptive_max_pool1d avg_pool1d max_pool1d max_pool1d_with_indices upsample_linear1d '
     'upsample_nearest1d', Rule(per_channel(1), narrow=True)),
    ('adaptive_avg_pool2d adaptive_max_pool2d avg_pool2d max_pool2d max_pool2d_with_indices upsample_bicubic2d '
     'upsample_bilinear2d upsample_nearest2d _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact2d',
     Rule(per_channel(2), narrow=True)),
    ('adaptive_avg_pool3d adaptive_max_pool3d avg_pool3d max_pool3d max_pool3d_with_indices upsample_nearest3d '
     'upsample_trilinear3d', Rule(per_channel(3), narrow=True)),
    ('grid_sampler', Rule(sampled)),
    ('mean sum', Rule(SUM, narrow=True)),
    ('amax amin cumsum linalg_vector_norm max median min nanmean nansum norm sort std topk var', Rule(SUM)),
    ('prod', Rule(PRODUCT)),
    ('scaled_dot_product_attention', Rule(attention)),
    ('addmm baddbmm bmm matmul mm', Rule(matrix_product)),
    ('einsum', Rule(einsum)),
    ('linear', Rule(linear)),
    ('conv1d conv2d conv3d', Rule(convolution)),
    ('glu', Rule(gated_linear)),
)  # fmt: skip
REDUCTIONS = {name for name, rule in RULES.items() if rule.ids in (SUM, PRODUCT)}  # over `dim`
ELEMENT_BY_ELEMENT = Rule(evaluated, narrow=True)
POINTWISE = {'hardswish', 'prelu'}  # pointwise operations without PyTorch's tag


def apply(
    operation: torch._ops.OpOverload, units: UnitSets, arguments: dict[str, Any], index: dict[str, Any],
    shapes: list[torch.Size],
) -> list[Tensor]:  # fmt: skip
    """Ids of all outputs of an operation, in their shapes.

    arguments, index: as in Call. shapes: of the outputs.
    """
    if not shapes:
        return []
    rule = rule_of(operation)
    ids = rule.ids(Call(operation, units, arguments, index, shapes[0])) if rule else None
    parts: list[Tensor | None] = [*ids] if isinstance(ids, (list, tuple)) else [ids]
    parts += [None] * (len(shapes) - len(parts))
    return [expanded(part, shape) for part, shape in zip(parts, shapes, strict=True)]


def expanded(ids: Tensor | None, shape: torch.Size, unknown: int = ALWAYS_USED) -> Tensor:
    """Ids in the shape of an output; `unknown` if they do not fit."""
    if ids is not None and ids.numel() == shape.numel():
        return ids.reshape(shape)
    if ids is not None and ids.ndim <= len(shape):
        with contextlib.suppress(RuntimeError):  # they do not broadcast: the rule does not fit
            return ids.expand(shape)
    return torch.tensor(unknown).expand(shape)


def name_of(operation: torch._ops.OpOverload) -> str:
    """'add' for aten.add.Tensor and aten.add_.Tensor; 'library::name' for operations that are not PyTorch's."""
    return operation._overloadpacket._qualified_op_name.removeprefix('aten::').rstrip('_')


def rule_of(operation: torch._ops.OpOverload) -> Rule | None:
    """The rule for an operation; None: there is none."""
    if operation is torch.ops.aten.view.dtype:
        return None
    if rule := RULES.get(name_of(operation)):
        return rule
    return ELEMENT_BY_ELEMENT if is_pointwise(operation) else None


def is_pointwise(operation: torch._ops.OpOverload) -> bool:
    """Whether an operation works element by element, without random numbers."""
    random = torch.Tag.nondeterministic_seeded in operation.tags
    return not random and (torch.Tag.pointwise in operation.tags or name_of(operation) in POINTWISE)


def register(name: str, ids: Callable[[Call], Ids]) -> None:
    """Add a rule for an operation.

    Args:
        name: 'add' for an operation of PyTorch, 'library::name' for one of torch.library.
        ids: see Rule; e.g. hat.rules.union, hat.rules.first or hat.rules.per_channel(2).
    """
    RULES[name] = Rule(ids)

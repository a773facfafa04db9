"""ATen operations, as far as HAT has to tell them apart, and how to read a recorded one."""

import torch

from hat.units import ALWAYS

aten = torch.ops.aten
CONVOLUTIONS = {op for n in '123' for op in (getattr(aten, f'conv{n}d').default, getattr(aten, f'conv{n}d').padding)}
TRANSPOSED = {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
LAYERS = {aten.linear.default, aten.embedding.default} | CONVOLUTIONS | TRANSPOSED
CHANNEL_NORMS = {aten.batch_norm.default, aten.instance_norm.default, aten.group_norm.default}  # affine along dim 1
NORMS = {aten.layer_norm.default, aten.rms_norm.default} | CHANNEL_NORMS  # else: affine along the last dimensions
POINTWISE = {aten.hardswish.default, aten.hardswish_.default, aten.prelu.default}  # and what torch itself calls so
MOVES = {  # operations that only move values
    'alias', 'cat', 'chunk', 'clone', 'contiguous', 'detach', 'expand', 'expand_as', 'flatten', 'flip', 'index',
    'index_select', 'movedim', 'narrow', 'permute', 'repeat', 'reshape', 'roll', 'select', 'slice', 'split',
    'split_with_sizes', 'squeeze', 'stack', 't', 'transpose', 'unbind', 'unflatten', 'unsqueeze', 'view',
}  # fmt: skip
CASTS = {'to', '_to_copy', 'type_as'}
RESIZES = {'upsample_bicubic2d', 'upsample_bilinear2d'}  # what else may be done to a task's own parameter
NARROWER = {  # what, besides element by element, does the same to fewer units
    'adaptive_avg_pool1d', 'adaptive_avg_pool2d', 'adaptive_avg_pool3d', 'adaptive_max_pool2d', 'alias', 'avg_pool1d',
    'avg_pool2d', 'avg_pool3d', 'cat', 'clone', 'contiguous', 'detach', 'dropout', 'dropout_', 'feature_dropout',
    'flatten', 'max_pool1d', 'max_pool2d', 'max_pool3d', 'mean', 'movedim', 'permute', 'squeeze', 't', 'transpose',
    'unsqueeze', 'upsample_bilinear2d', 'upsample_nearest2d',
}  # fmt: skip


def is_operation(node):
    return isinstance(node.target, torch._ops.OpOverload)


def name_of(operation):
    """Without the overload: 'add' of aten.add.Tensor."""
    return operation._overloadpacket.__name__


def is_move(operation):
    return name_of(operation) in MOVES and operation is not aten.view.dtype


def is_pointwise(operation):
    return torch.Tag.pointwise in operation.tags or operation in POINTWISE


def cropped(node):
    """The dimensions along which a slice or a padding cuts something off, or adds it."""
    if node.target is aten.slice.Tensor:
        return [arguments(node)['dim']]
    return range(-len(node.args[1]) // 2, 0) if name_of(node.target) in ('pad', 'constant_pad_nd') else []


def arguments(node):
    """The arguments of an operation by name; those that are not given have their defaults."""
    declared = node.target._schema.arguments
    named = {a.name: a.default_value for a in declared if a.has_default_value()}
    return named | dict(zip((a.name for a in declared), node.args, strict=False)) | node.kwargs


def output_axis(node):
    """Which dimension of a layer's weight its units are, and how many groups divide them."""
    if node.target is aten.embedding.default:
        return 1, 1
    return (1, arguments(node)['groups']) if node.target in TRANSPOSED else (0, 1)


def along(units, node):
    """A layer's units, (N,), as numbers of its output."""
    shape = [1] * len(node.meta['shape'])
    shape[1 if node.target in CONVOLUTIONS | TRANSPOSED | CHANNEL_NORMS else -1] = -1
    return units.view(shape).expand(node.meta['shape'])


def always(node):
    """For the output of an operation of which nothing is known: in use by every task."""
    shape = node.meta.get('shape', ())
    if isinstance(shape, list):
        return [torch.full(s, ALWAYS) for s in shape]
    return torch.full(shape, ALWAYS)

"""Every rule against the operation itself: where it says that the output is zero, it is, whatever the values are."""

import pytest
import torch
from torch.utils._pytree import tree_map_only

import hat
from hat import rules
from hat.unitsets import ALWAYS_USED, ZERO, UnitSets

aten = torch.ops.aten
R = torch.randn
UNITS, TRIALS = 6, 20


def square(d):
    return R(2, d.channels, d.side, d.side)


class Draw:
    """Random sizes for a trial."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.channels, self.side, self.dim = self(1, 8), 2 * self(2, 4), self(0, 4)

    def __call__(self, low, high):
        return int(torch.randint(low, high, (), generator=self.generator))


def matrices(d):
    return R(2, d.channels, 5), R(2, 5, d.side)


HALF = torch.arange(2)
CALLS = {  # name of a rule -> calls of it: what operation, and its arguments for a Draw
    'mul': [(aten.mul.Tensor, lambda d: (square(d), square(d))), (aten.mul.Tensor, lambda d: (square(d), R(1, 1, 1, d.side)))],
    'multiply': [(aten.multiply.Tensor, lambda d: (square(d), square(d)))],
    'div': [(aten.div.Tensor, lambda d: (square(d), R(d.side).exp())), (aten.div.Scalar, lambda d: (square(d), 3.0))],
    'divide': [(aten.divide.Tensor, lambda d: (square(d), R(d.side).exp()))],
    'true_divide': [(aten.true_divide.Tensor, lambda d: (square(d), R(d.side).exp()))],
    'prelu': [(aten.prelu.default, lambda d: (square(d), R(d.channels))), (aten.prelu.default, lambda d: (square(d), R(1)))],
    'dropout': [(aten.dropout.default, lambda d: (square(d), 0.5, True))],
    'feature_dropout': [(aten.feature_dropout.default, lambda d: (square(d), 0.5, True))],
    'alias': [(aten.alias.default, lambda d: (square(d),))],
    'clone': [(aten.clone.default, lambda d: (square(d),))],
    'contiguous': [(aten.contiguous.default, lambda d: (square(d).transpose(1, 2),))],
    'detach': [(aten.detach.default, lambda d: (square(d),))],
    'to': [(aten.to.dtype, lambda d: (square(d), torch.float64))],
    '_to_copy': [(aten._to_copy.default, lambda d: (square(d),))],
    'type_as': [(aten.type_as.default, lambda d: (square(d), R(1)))],
    'lift_fresh': [(aten.lift_fresh.default, lambda d: (square(d),))],
    'tril': [(aten.tril.default, lambda d: (square(d),))],
    'triu': [(aten.triu.default, lambda d: (square(d), 1))],
    'rms_norm': [(aten.rms_norm.default, lambda d: (square(d), [d.side], None, 1e-5))],
    'cat': [(aten.cat.default, lambda d: ([square(d), square(d)], d.dim))],
    'concat': [(aten.concat.default, lambda d: ([square(d), square(d)], 1))],
    'flatten': [(aten.flatten.using_ints, lambda d: (square(d), 1))],
    'movedim': [(aten.movedim.int, lambda d: (square(d), 1, d.dim))],
    'permute': [(aten.permute.default, lambda d: (square(d), [0, 2, 3, 1]))],
    'squeeze': [(aten.squeeze.dim, lambda d: (square(d)[:, :1], 1)), (aten.squeeze_.dim, lambda d: (square(d)[:, :1], 1))],
    't': [(aten.t.default, lambda d: (R(d.channels, 5),))],
    'transpose': [(aten.transpose.int, lambda d: (square(d), 1, d.dim)), (aten.transpose_.default, lambda d: (square(d), 1, 2))],
    'unsqueeze': [(aten.unsqueeze.default, lambda d: (square(d), d.dim)), (aten.unsqueeze_.default, lambda d: (square(d), 1))],
    'adjoint': [(aten.adjoint.default, lambda d: (square(d),))],
    'broadcast_to': [(aten.broadcast_to.default, lambda d: (R(d.channels, 1), [2, d.channels, 3]))],
    'channel_shuffle': [(aten.channel_shuffle.default, lambda d: (R(2, 2 * d.channels, 3, 3), 2))],
    'chunk': [(aten.chunk.default, lambda d: (square(d), 2, d.dim))],
    'diagonal': [(aten.diagonal.default, lambda d: (square(d), 0, 2, 3))],
    'expand': [(aten.expand.default, lambda d: (R(d.channels, 1), [2, d.channels, 3]))],
    'expand_as': [(aten.expand_as.default, lambda d: (R(d.channels, 1), R(2, d.channels, 3)))],
    'flip': [(aten.flip.default, lambda d: (square(d), [d.dim]))],
    'gather': [(aten.gather.default, lambda d: (square(d), 1, torch.zeros(2, 1, d.side, d.side, dtype=torch.long)))],
    'im2col': [(aten.im2col.default, lambda d: (square(d), [2, 2], [1, 1], [1, 1], [2, 2]))],
    'index': [(aten.index.Tensor, lambda d: (square(d), [None, torch.arange(d.channels).flip(0)]))],
    'index_select': [(aten.index_select.default, lambda d: (square(d), 2, HALF))],
    'mT': [(aten.mT.default, lambda d: (square(d),))],
    'narrow': [(aten.narrow.default, lambda d: (square(d), 2, 1, 2))],
    'numpy_T': [(aten.numpy_T.default, lambda d: (R(d.channels, 5),))],
    'pixel_shuffle': [(aten.pixel_shuffle.default, lambda d: (R(2, 4 * d.channels, 3, 3), 2))],
    'pixel_unshuffle': [(aten.pixel_unshuffle.default, lambda d: (square(d), 2))],
    'reflection_pad1d': [(aten.reflection_pad1d.default, lambda d: (R(2, d.channels, 5), [1, 2]))],
    'reflection_pad2d': [(aten.reflection_pad2d.default, lambda d: (square(d), [1, 1, 1, 1]))],
    'replication_pad1d': [(aten.replication_pad1d.default, lambda d: (R(2, d.channels, 5), [1, 2]))],
    'replication_pad2d': [(aten.replication_pad2d.default, lambda d: (square(d), [1, 1, 1, 1]))],
    'repeat': [(aten.repeat.default, lambda d: (R(d.channels, 2), [2, 3, 1]))],
    'repeat_interleave': [(aten.repeat_interleave.self_int, lambda d: (square(d), 3, d.dim))],
    'reshape': [(aten.reshape.default, lambda d: (square(d), [2, -1]))],
    'roll': [(aten.roll.default, lambda d: (square(d), [1, 2], [1, 2]))],
    'rot90': [(aten.rot90.default, lambda d: (square(d), 1, [2, 3]))],
    'select': [(aten.select.int, lambda d: (square(d), d.dim, 0))],
    'slice': [(aten.slice.Tensor, lambda d: (square(d), d.dim, 0, 1))],
    'split': [(aten.split.Tensor, lambda d: (square(d), 2, d.dim))],
    'split_with_sizes': [(aten.split_with_sizes.default, lambda d: (square(d), [1, d.side - 1], 2))],
    'stack': [(aten.stack.default, lambda d: ([square(d), square(d)], d.dim))],
    'swapaxes': [(aten.swapaxes.default, lambda d: (square(d), 1, d.dim))],
    'take_along_dim': [(aten.take_along_dim.default, lambda d: (square(d), torch.zeros(2, 1, 1, 1, dtype=torch.long), 1))],
    'tensor_split': [(aten.tensor_split.sections, lambda d: (square(d), 2, d.dim))],
    'tile': [(aten.tile.default, lambda d: (square(d), [2, 1]))],
    'unbind': [(aten.unbind.int, lambda d: (square(d), d.dim))],
    'unflatten': [(aten.unflatten.int, lambda d: (square(d), 2, [2, -1]))],
    'unfold': [(aten.unfold.default, lambda d: (square(d), 2, 2, 1))],
    'unsafe_chunk': [(aten.unsafe_chunk.default, lambda d: (square(d), 2, d.dim))],
    'unsafe_split': [(aten.unsafe_split.Tensor, lambda d: (square(d), 2, d.dim))],
    'view': [(aten.view.default, lambda d: (square(d), [2, -1]))],
    'view_as': [(aten.view_as.default, lambda d: (square(d), R(2 * d.channels, d.side, d.side)))],
    '_unsafe_view': [(aten._unsafe_view.default, lambda d: (square(d), [2, -1]))],
    'pad': [(aten.pad.default, lambda d: (square(d), [1, -1, 0, 2])), (aten.pad.default, lambda d: (square(d), [1, 1], 'constant', 2.0)),
            (aten.pad.default, lambda d: (square(d), [1, 1, 1, 1], 'reflect'))],
    'constant_pad_nd': [(aten.constant_pad_nd.default, lambda d, v=v: (square(d), [1, 1], v)) for v in (0, 1.5)],
    'where': [(aten.where.self, lambda d: (square(d) > 0, square(d), square(d))),
              (aten.where.ScalarOther, lambda d: (square(d) > 0, square(d), 0.0)),
              (aten.where.ScalarOther, lambda d: (square(d) > 0, square(d), 1.0))],
    'masked_fill': [(aten.masked_fill.Scalar, lambda d, v=v: (square(d), square(d) > 0, v)) for v in (0.0, -1.0)]
                   + [(aten.masked_fill.Tensor, lambda d: (square(d), square(d) > 0, torch.tensor(2.0)))],
    'adaptive_avg_pool1d': [(aten.adaptive_avg_pool1d.default, lambda d: (R(2, d.channels, 7), [3]))],
    'adaptive_max_pool1d': [(aten.adaptive_max_pool1d.default, lambda d: (R(2, d.channels, 7), [3]))],
    'avg_pool1d': [(aten.avg_pool1d.default, lambda d: (R(2, d.channels, 7), [3], [2], [1]))],
    'max_pool1d': [(aten.max_pool1d.default, lambda d: (R(2, d.channels, 7), [3], [2], [1]))],
    'max_pool1d_with_indices': [(aten.max_pool1d_with_indices.default, lambda d: (R(2, d.channels, 7), [3]))],
    'upsample_linear1d': [(aten.upsample_linear1d.default, lambda d: (R(2, d.channels, 7), [9], False))],
    'upsample_nearest1d': [(aten.upsample_nearest1d.default, lambda d: (R(2, d.channels, 7), [9]))],
    'adaptive_avg_pool2d': [(aten.adaptive_avg_pool2d.default, lambda d: (square(d), [d.side // 2, 1]))],
    'adaptive_max_pool2d': [(aten.adaptive_max_pool2d.default, lambda d: (square(d), [2, 1]))],
    'avg_pool2d': [(aten.avg_pool2d.default, lambda d: (square(d), [3, 3], [1, 1], [1, 1]))],
    'max_pool2d': [(aten.max_pool2d.default, lambda d: (square(d), [3, 3], [2, 2], [1, 1]))],
    'max_pool2d_with_indices': [(aten.max_pool2d_with_indices.default, lambda d: (square(d), [2, 2]))],
    'upsample_bicubic2d': [(aten.upsample_bicubic2d.default, lambda d: (square(d), [7, 9], False))],
    'upsample_bilinear2d': [(aten.upsample_bilinear2d.default, lambda d: (square(d), [7, 9], False))],
    'upsample_nearest2d': [(aten.upsample_nearest2d.default, lambda d: (square(d), [7, 9]))],
    '_upsample_bicubic2d_aa': [(aten._upsample_bicubic2d_aa.default, lambda d: (square(d), [3, 3], False))],
    '_upsample_bilinear2d_aa': [(aten._upsample_bilinear2d_aa.default, lambda d: (square(d), [3, 3], False))],
    '_upsample_nearest_exact2d': [(aten._upsample_nearest_exact2d.default, lambda d: (square(d), [7, 9]))],
    'adaptive_avg_pool3d': [(aten.adaptive_avg_pool3d.default, lambda d: (R(1, d.channels, 4, 4, 4), [2, 2, 1]))],
    'adaptive_max_pool3d': [(aten.adaptive_max_pool3d.default, lambda d: (R(1, d.channels, 4, 4, 4), [2, 2, 1]))],
    'avg_pool3d': [(aten.avg_pool3d.default, lambda d: (R(1, d.channels, 4, 4, 4), [2, 2, 2]))],
    'max_pool3d': [(aten.max_pool3d.default, lambda d: (R(1, d.channels, 4, 4, 4), [2, 2, 2]))],
    'max_pool3d_with_indices': [(aten.max_pool3d_with_indices.default, lambda d: (R(1, d.channels, 4, 4, 4), [2, 2, 2]))],
    'upsample_nearest3d': [(aten.upsample_nearest3d.default, lambda d: (R(1, d.channels, 4, 4, 4), [5, 5, 5]))],
    'upsample_trilinear3d': [(aten.upsample_trilinear3d.default, lambda d: (R(1, d.channels, 4, 4, 4), [5, 5, 5], False))],
    'grid_sampler': [(aten.grid_sampler.default, lambda d: (square(d), R(2, 3, 4, 2), 0, 0, False)),
                     (aten.grid_sampler.default, lambda d: (R(1, d.channels, 3, 1, 1), R(1, 3, 1, 1, 3), 0, 0, False))],
    'mean': [(aten.mean.default, lambda d: (square(d),)), (aten.mean.dim, lambda d: (square(d), [2, 3])),
             (aten.mean.dim, lambda d: (square(d), [d.dim], True))],
    'sum': [(aten.sum.default, lambda d: (square(d),)), (aten.sum.dim_IntList, lambda d: (square(d), [d.dim]))],
    'amax': [(aten.amax.default, lambda d: (square(d), [d.dim]))],
    'amin': [(aten.amin.default, lambda d: (square(d), [d.dim], True))],
    'cumsum': [(aten.cumsum.default, lambda d: (square(d), d.dim))],
    'linalg_vector_norm': [(aten.linalg_vector_norm.default, lambda d: (square(d), 2, [d.dim], True))],
    'max': [(aten.max.default, lambda d: (square(d),)), (aten.max.dim, lambda d: (square(d), d.dim)),
            (aten.max.other, lambda d: (square(d), R(d.side)))],
    'median': [(aten.median.dim, lambda d: (square(d), 1)), (aten.median.default, lambda d: (square(d),))],
    'min': [(aten.min.dim, lambda d: (square(d), d.dim)), (aten.min.other, lambda d: (square(d), R(d.side)))],
    'nanmean': [(aten.nanmean.default, lambda d: (square(d), [d.dim]))],
    'nansum': [(aten.nansum.default, lambda d: (square(d), [d.dim]))],
    'norm': [(aten.norm.ScalarOpt_dim, lambda d: (square(d), 2, [d.dim]))],
    'sort': [(aten.sort.default, lambda d: (square(d), d.dim))],
    'std': [(aten.std.dim, lambda d: (square(d), [2, 3]))],
    'topk': [(aten.topk.default, lambda d: (square(d), 2, 2))],
    'var': [(aten.var.dim, lambda d: (square(d), [2, 3]))],
    'prod': [(aten.prod.dim_int, lambda d: (square(d), d.dim))],
    'scaled_dot_product_attention': [
        (aten.scaled_dot_product_attention.default, lambda d: (R(2, 2, 3, 4), R(2, 2, 5, 4), R(2, 2, 5, d.side))),
        (aten.scaled_dot_product_attention.default, lambda d: (R(2, 2, 3, 4), R(5, 4), R(5, d.side)))],
    'addmm': [(aten.addmm.default, lambda d: (R(d.side), R(d.channels, 5), R(5, d.side)))],
    'baddbmm': [(aten.baddbmm.default, lambda d: (R(2, 1, d.side), *matrices(d)))],
    'bmm': [(aten.bmm.default, matrices)],
    'matmul': [(aten.matmul.default, matrices), (aten.matmul.default, lambda d: (R(5), R(5, d.side))),
               (aten.matmul.default, lambda d: (R(2, d.channels, 5), R(5)))],
    'mm': [(aten.mm.default, lambda d: (R(d.channels, 5), R(5, d.side)))],
    'einsum': [(aten.einsum.default, lambda d, e=e: (e, list(matrices(d)))) for e in ('bij,bjk->bik', 'bij,bjk->ki', 'bij,bjk->b')]
              + [(aten.einsum.default, lambda d: ('ij->ji', [R(d.channels, 5)]))],
    'linear': [(aten.linear.default, lambda d: (square(d), R(7, d.side), R(7))), (aten.linear.default, lambda d: (square(d), R(7, d.side)))],
    **{f'conv{n}d': [(getattr(aten, f'conv{n}d').default, lambda d, n=n: (R(2, 2 * d.channels, *[6] * n), R(4, d.channels, *[3] * n), None,
                                                                         [1] * n, [0] * n, [1] * n, 2))] for n in (1, 2, 3)},
    'reshape_as': [(aten.reshape_as.default, lambda d: (square(d), R(2, square(d)[0].numel())))],
    'glu': [(aten.glu.default, lambda d: (square(d), 2))],
}  # fmt: skip
ELEMENTWISE = ('relu', 'gelu', 'silu', 'tanh', 'hardswish', 'leaky_relu', 'elu', 'mish', 'hardtanh', 'abs', 'neg', 'sin',
               'log1p', 'expm1', 'sqrt', 'sign', 'sigmoid', 'exp', 'cos', 'softplus', 'reciprocal', 'log_sigmoid')  # fmt: skip
for each in ELEMENTWISE:
    CALLS[each] = [(getattr(aten, each).default, lambda d: (square(d),))]
CALLS |= {
    'add': [(aten.add.Tensor, lambda d: (square(d), square(d))), (aten.add.Tensor, lambda d: (square(d), R(d.side)))],
    'sub': [(aten.sub.Tensor, lambda d: (square(d), square(d)))],
    'maximum': [(aten.maximum.default, lambda d: (square(d), square(d)))],
    'pow': [(aten.pow.Tensor_Scalar, lambda d, p=p: (square(d), p)) for p in (2, 3)],
    'clamp': [(aten.clamp.default, lambda d, low=low: (square(d), low)) for low in (0, 1)],
    'softmax': [(aten.softmax.int, lambda d: (square(d), d.dim))],
    'roll of a product': [(aten.roll.default, lambda d: (square(d) * square(d), [1], [1]))],
}


def drawn(tensor, kind, generator):
    """Ids for the elements of a tensor: at random, or the same all along but for one dimension."""
    if (tensor > 0).all():
        return torch.full(tensor.shape, ALWAYS_USED)  # a divisor
    shape = list(tensor.shape)
    if kind == 'channels' and tensor.ndim > 1:
        shape = [n if d == 1 else 1 for d, n in enumerate(shape)]
    ids = torch.randint(2, 2 + UNITS, shape, generator=generator)
    ids[torch.rand(shape, generator=generator) < 0.1] = ALWAYS_USED
    return ids.expand(tensor.shape)


@pytest.mark.slow
@pytest.mark.parametrize('name', CALLS)
def test_what_a_rule_says_is_zero_is_zero(name):
    claimed = 0
    for operation, arguments in CALLS[name]:
        for trial in range(TRIALS):
            torch.manual_seed(trial)
            args = arguments(Draw(trial))
            claimed += check(operation, args, ('channels', 'all')[trial % 2], trial)
    useless = {'sigmoid', 'exp', 'cos', 'softplus', 'reciprocal', 'log_sigmoid', 'softmax'}
    assert (claimed > 0) == (name not in useless)


def check(operation, args, kind, seed):
    """Close random units, and see. Returns how many elements are zero for that reason."""
    units, generator = UnitSets([UNITS]), torch.Generator().manual_seed(seed)
    named = dict(zip((a.name for a in operation._schema.arguments), args, strict=False))
    index = {key: named.pop(key) for key in ('index', 'indices') if key in named}
    ids = tree_map_only(torch.Tensor, lambda x: drawn(x, kind, generator), named)
    outputs = run(operation, named | index)
    found = rules.apply(operation, units, ids, index, [o.shape for o in outputs])
    assert [f.shape for f in found] == [o.shape for o in outputs]
    zeros = 0
    for _ in range(4):
        attention = units.attention([(torch.rand(UNITS, generator=generator) < 0.5).float()])
        values = {key: closed(value, ids[key], attention) for key, value in named.items()}
        torch.manual_seed(seed)
        for output, said in zip(run(operation, values | index), found, strict=True):
            zero = attention[said] == 0
            assert (output[zero] == 0).all(), (operation, kind, seed)
            zeros += int(zero.sum())
    return zeros


def closed(value, ids, attention):
    """Floating-point values times the attention to their ids."""
    if isinstance(value, list):
        return [closed(*pair, attention) for pair in zip(value, ids, strict=True)]
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value * attention[ids] if floating else value


def run(operation, arguments):
    arguments = tree_map_only(torch.Tensor, lambda x: x.clone(), arguments)
    names = [a.name for a in operation._schema.arguments if a.name in arguments]
    outputs = operation(*[arguments[name] for name in names])
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


def test_every_rule_is_tried():
    assert not rules.RULES.keys() - CALLS.keys()


def test_an_unknown_operation_is_in_use_by_every_task():
    found = rules.apply(aten.cdist.default, UnitSets([4]), {'x1': torch.full((3, 2), 3), 'x2': torch.full((5, 2), 3)}, {},
                        [torch.Size([3, 5])])  # fmt: skip
    assert (found[0] == ALWAYS_USED).all()


def test_a_rule_can_be_added(monkeypatch):
    monkeypatch.setattr(rules, 'RULES', dict(rules.RULES))
    torch.library.define('hat_tests::halved', '(Tensor x) -> Tensor')
    torch.library.impl('hat_tests::halved', 'CompositeExplicitAutograd', lambda x: x / 2)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.head = torch.nn.Linear(6, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.two(torch.ops.hat_tests.halved(self.one(x))))

    def free():
        plan = hat.convert(Net(), 1, R(2, 6)).plan
        return bool((plan.shared['two.weight'].uses[0].ins > ZERO).any())

    assert not free()
    rules.register('hat_tests::halved', rules.first)
    assert free()

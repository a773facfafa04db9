"""What a network does that the library cannot follow is said or refused: none of it is silent."""

import dataclasses
import functools
import random
import threading
import time
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from conftest import same
from test_convert import OPTIMIZERS
from test_training import small
from torch import nn
from torch.nn.utils import prune

import hat
from hat.nested import tensors_in


class Small(nn.Module):
    """Two layers, something between them that a subclass says, and a head."""

    def __init__(self, **more):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        for name, value in more.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.head(self.b(self.between(F.relu(self.a(x)), x)).relu())


class BiasCache(Small):
    """As timm's LeViT has it: computed from a parameter, in evaluation once for all batches."""

    def train(self, mode=True):
        self.cache = {}
        return super().train(mode)

    def between(self, h, x):
        if self.training:
            return h + self.bias.repeat(2)
        if 'bias' not in self.cache:
            self.cache['bias'] = self.bias.repeat(2)
        return h + self.cache['bias']


class Counting(Small):
    def between(self, h, x):
        if self.training:
            self.count += 1
        return torch.where(self.count > 0, h + 1, h * self.count)


class Listed(Small):
    def between(self, h, x):
        return h * torch.tensor(x.sum(1).tolist())[:, None] + torch.tensor(x.abs().sum(1).tolist())[:, None]


class Lazy(Small):
    def between(self, h, x):
        if self.mask is None:
            self.mask = torch.ones(8)
        return h * self.mask


def between(function):
    """A Small network with a function of two arguments between its layers."""
    return type('Between', (Small,), {'between': lambda self, h, x: function(h, x)})


class Rewriting(Small):
    def between(self, h, x):
        if self.training:
            with torch.no_grad():
                self.scale.mul_(0.9)
        return F.dropout(h * self.scale, 0.5, training=True)


class Collecting(Small):
    def forward(self, x):
        h = F.relu(self.a(x))
        with torch.inference_mode():
            self.seen['x'] = torch.ones(8)
        return self.head(h), h.to_sparse(), torch.empty(3, device='meta')


QUIET = {
    'random numbers in evaluation, and a parameter that training writes': lambda: Rewriting(
        scale=nn.Parameter(torch.ones(8))
    ),
    'outputs without values to compare': lambda: Collecting(seen={'x': None}),
}


@pytest.mark.parametrize('kind', QUIET)
def test_what_is_no_state_is_not_warned_of(kind):
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        hat.convert(QUIET[kind](), 2, torch.randn(5, 6))
    assert not any('outputs in evaluation change' in str(each.message) for each in caught)


def buffered(cls, **buffers):
    def make():
        net = cls()
        for name, value in buffers.items():
            net.register_buffer(name, value)
        return net

    return make


SILENT = {
    'a cache of what a parameter gives': lambda: BiasCache(bias=nn.Parameter(torch.zeros(4)), cache={}),
    'a buffer that counts': buffered(Counting, count=torch.zeros((), dtype=torch.long)),
    'values by way of Python': Listed,
    'the sign of zero': between(lambda h, x: torch.atan2(h, -h) + torch.signbit(h) * 1.0),
    'a buffer that is None at first': buffered(Lazy, mask=None),
    'copied rows': between(lambda h, x: h[:, torch.tensor([0, 1, 1, 3, 3, 5, 6, 7])]),
    'a matrix turned around': between(lambda h, x: (h.mT.mT[:, None].expand(-1, 3, -1).mT).sum(2)),
}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', SILENT)
def test_outputs_are_the_same_before_and_after_the_task_ends_and_ever_after(name):
    torch.manual_seed(0)
    x = torch.randn(5, 6)
    model = hat.convert(SILENT[name](), 2, torch.zeros(4, 6), check=0)
    one = OPTIMIZERS['momentum'](model.parameters())
    train_small(model, one, 0)
    with torch.no_grad():
        before = model.eval()(x, task=0)
        model.end_task(0)
        assert same(model(x, task=0), before)
        model.train().eval()(x + 1, task=1)
        assert same(model(x, task=0), before)
    train_small(model, one, 1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
        model.eval()(x, task=1)
        assert same(model(x, task=0), before)


def train_small(model, optimizer, task):
    for b in range(3):
        model.train()(torch.randn(5, 6), task=task, progress=b / 2).square().mean().backward()
        optimizer.step()


class Permuted(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.w, self.head = nn.Conv1d(2, 8, 1), nn.Parameter(torch.randn(6, 4, 1)), nn.Conv1d(6, 3, 1)

    def forward(self, x):
        return self.head(F.conv1d(F.relu(self.a(x)), self.w.flip(0), groups=2))


def test_rows_of_a_grouped_weight_in_another_order():
    torch.manual_seed(0)
    model = hat.convert(Permuted(), 1, torch.randn(2, 2, 5)).eval()
    x = torch.randn(3, 2, 5)
    before = model(x, task=0).detach()
    model.end_task(0)
    assert same(model(x, task=0).detach(), before)


@pytest.mark.parametrize('change', [
    lambda net: setattr(net, 'a', nn.Sequential(net.a)),
    lambda net: nn.utils.parametrizations.weight_norm(net.a),
    lambda net: prune.random_unstructured(net.a, 'weight', 0.5),
    lambda net: setattr(net, 'more', nn.Linear(2, 2)),
], ids=['wrapped', 'weight norm', 'pruned', 'added to'])  # fmt: skip
def test_a_network_that_is_changed_after_conversion_is_refused(change):
    model = hat.convert(between(lambda h, x: h)(), 2, torch.randn(4, 6))
    model.end_task(0)
    change(model.net)
    for mode, task in (False, 0), (True, 1):
        with pytest.raises(RuntimeError, match='since its conversion: convert it again'):
            model.train(mode)(torch.randn(4, 6), task=task, progress=0.0)


def test_what_forward_changes_in_python_is_dropped_and_said():
    class Warming(Small):
        def between(self, h, x):
            self.step += 1
            self.seen.append(h)
            self.later = h.mean(0)
            return h if self.step > 3 else 0.1 * h

    net = Warming(step=0, seen=[])
    net.register_buffer('later', None)
    with pytest.warns(
        UserWarning, match=r'forward\(\) changes attributes that are not buffers: step, seen, later; the'
    ):
        model = hat.convert(net, 2, torch.randn(4, 6))
    model.train()(torch.randn(4, 6), task=0, progress=0)
    assert model.net.step == 0 and model.net.seen == [] and hat.plain(model, 0).seen == []


class MultiTask(Small):
    def forward(self, x, task=0):
        return super().forward(x) + task

    def between(self, h, x):
        return h


def test_an_argument_of_the_network_that_has_the_name_of_one_of_the_model_is_warned_of():
    x = torch.randn(4, 6)
    with pytest.warns(UserWarning, match=r'forward\(\) has an argument task of its own: model\(..., task=\) is that'):
        model = hat.convert(MultiTask(), 2, x).eval()
    assert same(model.view(1)(x, task=3), model(x, 3, task=1)) and not same(model(x, 3, task=1), model(x, task=1))


class OfAnyArguments(Small):
    def forward(self, x, *task, **named):
        return super().forward(x) + named.get('progress', 0)

    def between(self, h, x):
        return h


def test_an_argument_that_a_keyword_of_the_model_does_not_hide_is_not_warned_of():
    x = torch.randn(4, 6)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        hat.convert(OfAnyArguments(), 2, x)
    with pytest.warns(UserWarning, match=r'forward\(\) has an argument progress of its own'):
        hat.convert(OfAnyArguments(), 2, ((x,), {'progress': torch.ones(3)}))


class Caching(Small):
    @functools.lru_cache  # noqa: B019
    def mask(self, n):
        return torch.ones(n)

    @functools.lru_cache  # noqa: B019
    def unused(self):
        return 0

    largest = functools.lru_cache(max)

    def between(self, h, x):
        return h * self.mask(8) if self.masked else h * Caching.largest(1, 0)


def test_a_cache_of_modules_is_warned_of():
    with pytest.warns(UserWarning, match='^Caching.mask: a cache of functools holds on to the copy of the modules'):
        hat.convert(Caching(masked=True), 2, torch.randn(4, 6))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        hat.convert(Caching(masked=False), 2, torch.randn(4, 6))


class Registering(Small):
    def between(self, h, x):
        if not hasattr(self, 'mask'):
            self.register_buffer('mask', torch.ones(8))
            self.register_buffer('mean', torch.zeros(8))
        if self.training and self.counts:
            self.mean = 0.9 * self.mean + 0.1 * h.mean(0).detach()
        return h * self.mask - self.mean


def test_a_statistic_that_forward_registers_is_said_to_be_dropped_a_mask_is_not():
    with pytest.warns(UserWarning, match=r'changes attributes that are not buffers: mean; the changes are dropped'):
        hat.convert(Registering(counts=True), 2, torch.randn(4, 6))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        hat.convert(Registering(counts=False), 2, torch.randn(4, 6))


class Remembering(Small):
    """Attributes that are None at first, or that forward() makes."""

    mean = None

    def between(self, h, x):
        last, self.last, self.size, self.parts = getattr(self, 'last', None), h.detach(), len(x), [h.sum()]
        if self.mask is None:
            self.mask = torch.ones(8)
        if self.keeps == 'a private number':
            self._n = getattr(self, '_n', 0) + 1
        if self.keeps == 'a mean' and self.training:
            self.mean = h.mean(0) if self.mean is None else 0.9 * self.mean + 0.1 * h.mean(0)
        if self.keeps == 'the first mean' and self.mean is None:
            self.mean = h.mean(0)
        if self.keeps == 'a number' and self.training:
            self.mean = 0.9 * (self.mean or 0.0) + 0.1 * float(h.mean())
        if self.keeps == 'the batch before' and last is not None:
            self.mean = last.mean(0)
        if self.keeps == 'a list':
            self.mean = self.mean or []
            self.mean.append(h.mean(0))
        return h * self.mask


KEPT = ['a private number', 'a mean', 'the first mean', 'a number', 'the batch before', 'a list']


@pytest.mark.parametrize('kept', KEPT)
def test_a_statistic_that_forward_makes_is_said_to_be_dropped(kept):
    with pytest.warns(UserWarning, match='changes attributes that are not buffers: (mean|_n); the changes are dropped'):
        hat.convert(Remembering(keeps=kept, mask=None), 2, torch.randn(4, 6))


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('mask', [None, torch.ones(8)])
def test_what_forward_makes_of_each_batch_or_once_is_no_statistic(mask):
    hat.convert(Remembering(keeps=None, mask=mask), 2, torch.randn(4, 6))


def quantized(h):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # deprecated
        return torch.quantize_per_tensor(h, 0.1, 0, torch.qint8)


def of_itself(h):
    values = [h]
    values.append(values)
    return values


def with_gradients(h):
    with torch.enable_grad():
        return 2 * h.detach().requires_grad_()


class Keeping(Small):
    """A value of each batch in an attribute that forward() makes."""

    def between(self, h, x):
        self.kept = self.value(h)
        return h


VALUES = {
    'a seed': lambda h: 2**64 - 1,
    'no values': lambda h: torch.empty(2, device='meta'),
    'quantized': quantized,
    'itself': of_itself,
    'complex': torch.fft.fft,
    'gradients': with_gradients,
    'a time': lambda h: time.perf_counter() % 1e-4,
    'other random numbers': lambda h: random.random(),
}


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('value', VALUES.values(), ids=VALUES)
def test_what_forward_keeps_of_each_batch_may_be_of_any_kind(value):
    hat.convert(Keeping(value=value), 2, torch.randn(4, 6))


class Averaging(Small):
    """What it keeps of each batch depends on the one before by a buffer, or a parameter, that it changes."""

    def __init__(self, of):
        super().__init__()
        if of == 'buffer':
            self.register_buffer('mean', torch.zeros(8))
        else:
            self.mean = nn.Parameter(torch.zeros(8), requires_grad=False)

    def between(self, h, x):
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(h.mean(0), 0.5)
        self.centred = (h - self.mean).detach()
        return self.centred + 0 * h


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('of', ['buffer', 'parameter'])
def test_what_forward_keeps_of_each_batch_may_depend_on_a_buffer(of):
    hat.convert(Averaging(of), 2, torch.randn(4, 6))


class Tables(Small):
    """Private attributes of a rotary embedding, a table by shape, and a note that is given once."""

    def between(self, h, x):
        if len(x) > self._size:
            self._size, self._angles, self._said = len(x), torch.arange(len(x)).cos(), True
        if h.shape not in self._masks:
            self._masks[h.shape] = torch.ones(h.shape)
        return h * self._angles[:, None] * self._masks[h.shape]


@pytest.mark.filterwarnings('error')
def test_a_private_cache_is_no_statistic():
    hat.convert(Tables(_size=0, _angles=None, _masks={}, _said=False), 2, torch.randn(4, 6))


class Tallying(Small):
    """A number, or one in a list, which is a new list for each batch."""

    def between(self, h, x):
        self._n, self.parts = self._n + 1, [self.parts[0] + self.step]
        return h


def test_a_private_number_and_one_in_a_new_list_are_said_to_be_dropped():
    for step, names in (0, '_n'), (1, '_n, parts'):
        with pytest.warns(UserWarning, match=f'changes attributes that are not buffers: {names}; the changes'):
            hat.convert(Tallying(_n=0, parts=[0], step=step), 2, torch.randn(4, 6))


class Deleting(Small):
    def between(self, h, x):
        if hasattr(self, 'mask'):
            del self.mask
        else:
            self.register_buffer('mask', torch.ones(8))
        return h


def test_a_buffer_that_forward_registers_and_deletes_is_said_to_change():
    with pytest.warns(UserWarning, match=r': mask; the changes are .* \(use register_buffer in __i'):
        hat.convert(Deleting(), 2, torch.randn(4, 6))


@pytest.mark.filterwarnings('ignore')
def test_checking_and_pruning_leave_no_traces():
    torch.manual_seed(0)
    model = hat.convert(SILENT['a buffer that counts'](), 1, torch.randn(4, 6), check=True)
    train_small(model, OPTIMIZERS['sgd'](model.parameters()), 0)
    assert model.tasks[0].own.count == 3
    model.end_task(0)
    assert hat.prune(model, 0).count == hat.plain(model, 0).count == 3


class Normalizing(Small):
    def forward(self, x):
        return super().forward(x.sub_(0.5).mul_(2))

    def between(self, h, x):
        return h


@pytest.mark.filterwarnings('error')
def test_a_network_that_normalizes_its_inputs_in_place_does_so_once(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    model = hat.convert(Normalizing(), 1, x, init=hat.init.dense)
    batch = x.clone()
    model.train()(batch, task=0, progress=1).sum().backward()
    assert same(batch, (x - 0.5) * 2)
    model.end_task(0)
    learned, small = model.eval()(x.clone(), task=0), hat.prune(model, 0)
    torch.testing.assert_close(small(x.clone()), learned)
    hat.save(model, tmp_path / 'file')
    loaded = hat.load(tmp_path / 'file', Normalizing()).eval()
    assert same(loaded(x.clone(), task=0), learned) and same(loaded.plan.inputs[0][0], x)


class OfAMapping(Small):
    def forward(self, batch):
        if self.normalizes:
            batch['x'].sub_(0.5)
        return super().forward(batch.pop('x') if self.takes else batch['x'])

    def between(self, h, x):
        return h


@pytest.mark.parametrize('normalizes', [False, True])
def test_a_batch_in_a_dict_that_forward_takes_apart(normalizes):
    x = torch.randn(4, 6)
    batch = {'x': x.clone(), 'labels': None}
    model = hat.convert(OfAMapping(takes=True, normalizes=normalizes), 2, ({'x': x},)).train()
    model(batch, task=0, progress=1)
    assert batch.keys() == {'labels'}


class OfAnObject(Small):
    """As graph networks that write to the batch."""

    def forward(self, batch):
        batch.x = batch.x - 0.5
        batch.seen.append(batch.x)
        return super().forward(batch.x)

    def between(self, h, x):
        return h + len(x)


@pytest.mark.filterwarnings('error')
def test_a_batch_in_an_object_that_forward_changes_is_changed_once():
    x = torch.randn(4, 6)
    example, batch = (types.SimpleNamespace(x=x.clone(), seen=[]) for _ in range(2))
    model = hat.convert(OfAnObject(), 2, example).train()
    assert same(example.x, x) and not example.seen
    model(batch, task=0, progress=1)
    assert same(batch.x, x - 0.5) and len(batch.seen) == 1


@dataclasses.dataclass(slots=True)
class Slots:
    x: torch.Tensor


class InSlots(nn.Module):
    """What a norm reads is an output, too: the gate of the layer cannot be in the norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(6, 8, 1), nn.BatchNorm1d(8), nn.Conv1d(8, 3, 1)

    def forward(self, batch):
        h = self.conv(batch.x)
        return Slots(h), self.head(self.norm(h).relu())


@dataclasses.dataclass
class Locked:
    x: torch.Tensor
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


class InPlace(Small):
    def forward(self, batch):
        batch.x.sub_(0.5)
        return super().forward(batch.x)

    def between(self, h, x):
        return h


def test_a_batch_in_a_dataclass_with_a_field_that_cannot_be_copied_is_changed_once():
    x = torch.randn(4, 6)
    example, batch = Locked(x.clone()), Locked(x.clone())
    model = hat.convert(InPlace(), 2, example).train()
    assert same(example.x, x)
    model(batch, task=0, progress=1)
    assert same(batch.x, x - 0.5)


class OneSlot:
    __slots__ = 'tensor'


class PrivateSlot:
    __slots__ = ('__tensor',)

    def __init__(self, tensor):
        self.__tensor = tensor


class SlotAndMore:
    __slots__ = ('x', '__dict__')


def test_tensors_are_found_once_in_any_slots():
    one, more = OneSlot(), SlotAndMore()
    one.tensor, more.x, more.y = torch.zeros(1), torch.ones(1), torch.ones(2)
    assert [len(tensors_in(value)) for value in (one, PrivateSlot(torch.zeros(1)), more)] == [1, 1, 2]


@pytest.mark.filterwarnings('ignore:.*has not been trained')
def test_inputs_and_outputs_may_be_in_slots():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 4)
    model = hat.convert(InSlots(), 2, Slots(x)).eval()
    before = model(Slots(x), task=0)[0].x
    model.end_task(0)
    assert same(model(Slots(x), task=0)[0].x, before)


class Shifted(nn.Module):
    """A path in which a sequence moves on by four steps: in a shorter one nothing of it is left."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        moved = F.pad(self.b(x).relu(), (0, 0, 4, -4))
        return self.head(self.c(self.a(x).relu() + moved).relu())


@pytest.mark.parametrize(('steps', 'said'), [(4, ['the gates do not fit this batch']), (5, [])])
def test_an_example_that_does_not_show_all_of_forward_is_warned_of_in_the_first_batch(steps, said):
    torch.manual_seed(0)
    model = hat.convert(Shifted(), 2, torch.randn(2, steps, 6), init=hat.init.dense)
    for length in steps, 9:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            model.train()(torch.randn(2, length, 6), task=0, progress=0)
        assert [str(warning.message)[:31] for warning in caught] == (said if length == 9 else [])


class Noisy(Small):
    """Random numbers that are not PyTorch's, in evaluation, too."""

    def between(self, h, x):
        return h * (1 + random.random())


@pytest.mark.filterwarnings('ignore:outputs in evaluation change')
def test_random_numbers_of_another_library_do_not_say_that_gates_do_not_fit():
    model = hat.convert(Noisy(), 2, torch.randn(4, 6)).train()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model(torch.randn(4, 6), task=0, progress=0)


def test_a_batch_that_cannot_be_copied_trains_as_it_is():
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    model = hat.convert(OfAMapping(takes=False, normalizes=False), 2, ({'x': x},)).train()
    of_dict = model({'x': x}, task=0, progress=1)
    assert same(model(types.MappingProxyType({'x': x}), task=0, progress=1), of_dict)


def test_a_nested_tensor_is_refused():
    def mean(h, x):
        parts = torch.nested.nested_tensor([h[:1], h[1:]], layout=torch.jagged)
        return h + torch.stack([part.mean(0) for part in parts.unbind()]).mean(0)

    with pytest.raises(hat.CannotConvert, match='^a nested tensor in the top module .test_silent.py:'):
        hat.convert(between(mean)(), 2, torch.randn(4, 6))


def test_a_network_that_cannot_be_copied_is_refused_with_the_remedy():
    net = between(lambda h, x: h)(lock=threading.Lock())
    with pytest.raises(
        TypeError, match='^the network cannot be copied: .*lock.* .copy=False converts the network itself'
    ):
        hat.convert(net, 2, torch.randn(4, 6))
    assert hat.convert(net, 2, torch.randn(4, 6), copy=False).net is net


class Graph(Small):
    def between(self, h, x):
        return torch.sparse.mm(self.edges, h)


def test_a_sparse_tensor_may_be_an_attribute():
    net, x = Graph(edges=torch.eye(4).to_sparse()), torch.randn(4, 6)
    torch.testing.assert_close(hat.convert(net, 2, x, init=hat.init.dense).eval()(x, task=0), net(x))


class SparseInput(Small):
    """An adjacency matrix as an input, and an operation that writes in place."""

    def forward(self, x, edges):
        return self.head(self.b((edges @ self.a(x)).relu_()))


def test_a_sparse_tensor_may_be_an_input_where_operations_write_in_place():
    net, batch = SparseInput(), (torch.randn(4, 6), torch.eye(4).roll(1, 0).to_sparse())
    model = hat.convert(net, 2, batch, init=hat.init.dense)
    torch.testing.assert_close(model.eval()(*batch, task=0), net(*batch))


class Distributed(nn.parallel.DistributedDataParallel):
    """Without the processes that it needs."""

    def __init__(self):
        nn.Module.__init__(self)
        self.module = nn.Linear(6, 3)


class Branching(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))


def twice_registered():
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    net.register_buffer('other', net[0].weight)
    return net


def test_what_cannot_be_read_at_all_is_said_in_one_line():
    x = torch.randn(4, 6)
    for net, kind, message in (
        (torch.jit.script(nn.Linear(6, 3)), hat.CannotConvert, 'the network is TorchScript'),
        (nn.Sequential(torch.compile(nn.Linear(6, 3), backend='eager')), hat.CannotConvert, '^0 is compiled: convert'),
        (nn.Linear(6, 3, device='meta'), ValueError, 'weight has no values, as it is on the device meta'),
        (nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 3)), ValueError, '0.weight has no shape yet'),
        (nn.Sequential(nn.Linear(6, 3, dtype=torch.complex64)), hat.CannotConvert, '0.weight is complex: only real'),
        (Graph(edges=nn.Buffer(torch.eye(4).to_sparse())), hat.CannotConvert, '^edges is sparse: make it dense, or an'),
        (nn.Sequential(small()), TypeError, 'already converted'),
        (small().view(0), TypeError, 'already converted'),
        (nn.Sequential(Distributed()), TypeError, '^0 is DistributedDataParallel: convert its module, and wrap a view'),
        (twice_registered(), hat.CannotConvert, '^0.weight is a parameter and a buffer: register a copy'),
        (nn.Sequential(Branching(), nn.Linear(6, 3)), hat.CannotConvert, '^cond in the top module: operators'),
        (torch.relu, TypeError, 'net must be an nn.Module'),
    ):
        with pytest.raises(kind, match=message):
            hat.convert(net, 2, x)
    for settings in {'n_tasks': 'a'}, {'s_max': 0}, {'s_max': float('inf')}:
        with pytest.raises(ValueError, match='n_tasks must be a whole number and s_max above 0'):
            hat.convert(**{'net': nn.Linear(6, 3), 'n_tasks': 2, 'example_input': x} | settings)


class Scaled(nn.Module):
    """A linear layer with a computed weight, which is no subclass of nn.Linear."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return F.linear(x, 0.3 * self.weight)


def test_a_layer_that_can_have_no_gate_is_warned_of():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Scaled(), nn.ReLU(), nn.Linear(8, 3))
    with pytest.warns(UserWarning, match="^layer '2' can have no gate, so that every task uses all units"):
        assert hat.convert(net, 1, torch.randn(4, 6)).plan.gates == ['0']


def test_layers_whose_names_differ_in_weight_alone():
    class Named(Small):
        def between(self, h, x):
            return h + F.linear(x, self.a_weight)

    model = hat.convert(Named(a_weight=nn.Parameter(torch.randn(8, 6))), 1, torch.randn(4, 6))
    assert model.plan.gates == ['a.weight', 'a_weight', 'b']

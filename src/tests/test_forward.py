"""What forward() does is of its task alone: in threads and processes, with checkpointing, hooks, aliases and state."""

import copy
import functools
import io
import os
import pickle
import random
import sys
import threading
import types
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import same
from nets import NETS
from test_convert import OPTIMIZERS, answers, build, learn
from test_silent import Small
from test_training import small
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

import hat


def test_two_threads_do_not_disturb_each_other():
    _, model = build('attention')
    for task in 0, 1:
        learn(model, task, OPTIMIZERS['adamw'](model.parameters()))
    model.eval()
    expected, wrong = [answers(model, t) for t in range(2)], [0, 0]

    def serve(task):
        for _ in range(60):
            wrong[task] += not same(answers(model, task), expected[task])

    before = {n: v.clone() for n, v in model.state_dict().items()}
    threads = [threading.Thread(target=serve, args=(task,)) for task in (0, 1)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert wrong == [0, 0] and same(dict(model.state_dict()), before) and torch.backends.mha.get_fastpath_enabled()


@pytest.mark.filterwarnings('ignore')
def test_a_task_that_ends_with_nan_does_not_reach_another_thread():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 3))
    model, x = hat.convert(net, 2, torch.randn(4, 6)), torch.randn(4, 6)
    model.end_task(0)
    learned, answered, wrong, stop = model.eval()(x, task=0).detach(), [], [], threading.Event()

    def serve():
        while not stop.is_set():
            (answered if same(model(x, task=0).detach(), learned) else wrong).append(1)

    threads, before = [threading.Thread(target=serve) for _ in range(2)], sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        [thread.start() for thread in threads]
        for i in range(30):
            with torch.no_grad():
                for p in model.net.parameters():
                    p.fill_(torch.nan if i % 2 else 1)
            model.end_task(1)
            hat.forget(model, 1)
    finally:
        stop.set()
        sys.setswitchinterval(before)
        [thread.join() for thread in threads]
    assert answered and not wrong


@pytest.mark.filterwarnings('ignore:.*has not been trained')
def test_a_cache_of_computed_weights_is_not_that_of_another_task():
    torch.manual_seed(0)
    norm, x = parametrizations.weight_norm, torch.randn(4, 6)
    model = hat.convert(nn.Sequential(norm(nn.Linear(6, 12)), nn.ReLU(), nn.Linear(12, 3)), 2, x).eval()
    for task in 0, 1:
        model.end_task(task)
    expected = [model(x, task=t) for t in range(2)]
    with parametrize.cached(), torch.no_grad():  # modules of one forward pass are where those of another were
        assert all(same(model(x, task=t), expected[t]) for t in (0, 1) * 10)


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.one = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1)
        self.two, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
        self.reentrant = None

    def block(self, h):
        return F.relu(self.two((h + F.relu(self.norm(self.one(h)))).mean((2, 3))))

    def again(self, h):
        return h + self.one(F.relu(h))  # the same layer in another part

    def forward(self, x):
        h = F.relu(self.stem(x))
        for part in self.again, self.block:
            h = part(h) if self.reentrant is None else checkpoint(part, h, use_reentrant=self.reentrant)
        return self.head(h)


@pytest.mark.parametrize('reentrant', [True, False])
def test_activation_checkpointing_has_the_same_gradients(reentrant):
    torch.manual_seed(0)
    x, y = torch.randn(6, 3, 6, 6), torch.randint(4, (6,))
    model = hat.convert(Checkpointed(), 2, x)
    model.end_task(0)
    gradients = []
    for model.net.reentrant in None, reentrant:
        model.zero_grad()
        F.cross_entropy(model.train()(x, task=1, progress=0.5), y).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and 'tasks.1.embeddings.0' in gradients[0]
    for name, grad in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], grad, rtol=1e-4, atol=1e-6)


class Aliases(nn.Module):
    """One module under two names, in a list and a dict, and a method that is kept as an attribute."""

    def __init__(self):
        super().__init__()
        self.stem, self.shared, self.head = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.again, self.listed, self.named = self.shared, [self.shared, self.stem], {'head': self.head}
        self.function = self.first

    def first(self, x):
        return F.relu(self.listed[1](x))

    def forward(self, x):
        return self.named['head'](F.relu(self.again(F.relu(self.listed[0](self.function(x))))))


def test_modules_are_found_by_whatever_name():
    torch.manual_seed(0)
    net, x = Aliases(), torch.randn(5, 12)
    model = hat.convert(net, 2, x)
    assert model.plan.gates == ['stem', 'shared'] and not model.plan.unused
    with torch.no_grad():
        opened = model.eval().run((x,), 0, [torch.ones_like(a) for a in model.masks(0)])
        assert same(opened, net(x))
        weights = {n: v.clone() for n, v in model.state_dict().items()}
        model(x, task=0)
    assert same(dict(model.state_dict()), weights) and isinstance(model.net.shared.weight, nn.Parameter)
    copy.deepcopy(model)
    model.end_task(0)
    with torch.no_grad():
        learned = model(x, task=0)
        torch.testing.assert_close(hat.prune(model, 0)(x), learned)
        for p in model.parameters():
            p.add_(1)
        assert same(model(x, task=0), learned)


class Cached(nn.Module):
    """What it works out in its first run, which is the one that is recorded, it keeps."""

    def __init__(self):
        super().__init__()
        self.layer, self.head, self.cache = nn.Linear(12, 8), nn.Linear(8, 4), {}

    def forward(self, x):
        if 'scale' not in self.cache:
            self.cache['scale'] = torch.linspace(0.5, 1, 8) * torch.ones(8)
        return self.head(F.relu(self.layer(x)) * self.cache['scale'])


def test_a_cache_that_is_filled_while_the_network_is_read_can_be_trained_with():
    torch.manual_seed(0)
    model = hat.convert(Cached(), 2, torch.randn(5, 12))
    learn_vectors(model, 0)
    learned = model.eval()(torch.ones(2, 12), task=0).detach()
    learn_vectors(model, 1)
    assert same(model.eval()(torch.ones(2, 12), task=0).detach(), learned)


class Closure(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(12, 8), nn.Linear(8, 4)
        layer = self.layer
        self.function = lambda x: F.relu(layer(x))

    def forward(self, x):
        return self.head(self.function(x) + self.layer(x))


def test_a_function_that_holds_on_to_a_module_is_refused():
    """It would go on with the weights of the network that was given, and past all gates."""
    with pytest.raises(
        hat.CannotConvert, match='aten.linear.default .*: it uses a trainable tensor that is not a parameter'
    ):
        hat.convert(Closure(), 2, torch.randn(5, 12))


class Remembering(nn.Module):
    """A tensor that is no buffer, a buffer that is assigned, and one that is changed in place; all matter."""

    def __init__(self):
        super().__init__()
        self.layer, self.head, self.memory = nn.Linear(12, 8), nn.Linear(8, 4), torch.ones(8)
        self.register_buffer('assigned', torch.ones(8))
        self.register_buffer('changed', torch.ones(8))

    def forward(self, x):
        h = F.relu(self.layer(x))
        if self.training:
            self.memory.mul_(0.9).add_(h.detach().mean(0))
            self.assigned = 0.9 * self.assigned + h.detach().mean(0)
            self.changed += h.detach().mean(0)
        return self.head(h * self.memory * self.assigned * self.changed)


@pytest.mark.parametrize('part', ['', '4'])
@pytest.mark.parametrize('before', [False, True])
def test_a_part_that_is_compiled_in_place_computes_with_the_tensors_of_the_task(part, before):
    """module.compile() stores a function that calls the module itself: outputs were those of the parameters."""
    net = NETS['flatten']()
    if before:
        net.get_submodule(part).compile(backend='eager')
    model = hat.convert(net, 3, torch.randn(2, 3, 8, 8), copy=False)
    learn(model, 0, OPTIMIZERS['adamw'](model.parameters()))
    learned = answers(model, 0)
    if not before:
        model.net.get_submodule(part).compile(backend='eager')
    assert same(answers(model, 0), learned)
    learn(model, 1, OPTIMIZERS['adamw'](model.parameters()))
    assert same(answers(model, 0), learned)


class Extractor(nn.Module):
    """Stores what a module of a network gives, by a hook that is a method of this module."""

    def __init__(self, model):
        super().__init__()
        self.model, self.stored = model, []
        model.net[4].register_forward_hook(self.store)

    def store(self, module, inputs, output):
        self.stored.append(output)


def test_what_hooks_of_the_caller_store_reaches_the_caller():
    _, model = build('flatten')
    stored, extractor = {}, Extractor(model)

    def store(into, module, inputs, output, name):
        into[name] = output

    model.net[4].register_forward_hook(functools.partial(store, stored, name='4'))
    outputs = answers(model, 0), answers(model, 1)
    assert len(extractor.stored) == 2 and stored['4'] is extractor.stored[1]
    _, without = build('flatten')
    assert same(outputs[0], answers(without, 0)) and same(outputs[1], answers(without, 1))


@pytest.mark.parametrize('hold', [lambda m: [m], lambda m: {'a': (m,)}])
def test_a_hook_that_finds_a_module_in_a_container_reads_the_tensors_of_the_task(hold):
    _, model = build('flatten')

    def shift(held, module, inputs, output):
        (found,) = held.values() if isinstance(held, dict) else [held]
        return output + found[0].bias.sum()

    model.net[4].register_forward_hook(functools.partial(shift, hold(model.net[0])))
    learn(model, 0, OPTIMIZERS['sgd'](model.parameters()))
    learned = answers(model, 0)
    with torch.no_grad():
        model.net[0].bias += 9
    assert same(answers(model, 0), learned)


def test_networks_and_copies_that_are_made_in_inference_mode():
    with torch.inference_mode():
        model = hat.convert(NETS['concatenated'](), 3, torch.randn(2, 3, 8, 8))
    learn(model, 0, OPTIMIZERS['adamw'](model.parameters()))
    learned = answers(model, 0)
    hat.save(model, file := io.BytesIO())
    file.seek(0)
    with torch.inference_mode():
        for other in copy.deepcopy(model), pickle.loads(pickle.dumps(model)), hat.load(file, NETS['concatenated']()):
            assert same(answers(other, 0), learned)
        hat.forget(other, 1)
        assert other.add_task() == 3
        networks = hat.prune(other, 0), hat.plain(other, 0)
    for net in networks:
        net.requires_grad_().train()(torch.randn(4, 3, 8, 8)).sum().backward()
    for task in 1, 3:
        learn(other, task, OPTIMIZERS['adamw'](other.parameters()))
        assert same(answers(other, 0), learned)


def test_what_forward_remembers_is_the_tasks_own_or_a_constant_and_that_is_said():
    torch.manual_seed(0)
    x = torch.randn(5, 12)
    with pytest.warns(
        UserWarning, match='forward.. changes attributes that are not buffers: memory; the changes are dropped'
    ):
        model = hat.convert(Remembering(), 2, x)
    learn_vectors(model, 0)
    learned = model.eval()(x, task=0).detach()
    own = model.tasks[0].own
    assert not same(own.assigned, torch.ones(8)) and not same(own.changed, torch.ones(8))
    assert same(model.net.memory, torch.ones(8)) and same(model.tasks[1].own.assigned, torch.ones(8))
    learn_vectors(model, 1)
    assert same(model.eval()(x, task=0).detach(), learned)


class Hiding(nn.Module):
    """A frozen backbone that is no submodule, so that no state_dict() has it."""

    def __init__(self):
        super().__init__()
        backbone = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.backbone = [backbone.requires_grad_(False).eval()]
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(F.relu(self.layer(self.backbone[0](x))))


def test_a_network_may_hide_a_frozen_backbone_which_stays_in_its_mode():
    torch.manual_seed(0)
    net, x = Hiding(), torch.randn(5, 12)
    with warnings.catch_warnings(action='error'):
        opened = hat.convert(net, 2, x, init=hat.init.dense)
        torch.testing.assert_close(opened.eval()(x, task=0), net(x))
        model = hat.convert(net, 2, x)
        learn_vectors(model, 0)
        learned = model.eval()(x, task=0).detach()
        learn_vectors(model, 1)
    assert same(model.eval()(x, task=0).detach(), learned)
    assert not model.net.backbone[0][1].running_mean.any()
    torch.testing.assert_close(hat.prune(model, 0)(x), learned)


class Reaching(Hiding):
    """Its train() reaches the backbone, whose running statistics change in training."""

    def train(self, mode=True):
        self.backbone[0].train(mode)
        return super().train(mode)


def test_a_backbone_that_train_reaches_is_compared_in_evaluation_and_its_statistics_are_not_kept():
    torch.manual_seed(0)
    net, x = Reaching().train(), torch.randn(5, 12)
    with pytest.warns(UserWarning, match='outputs in evaluation change after a batch'):
        model = hat.convert(net, 2, x)
    learn_vectors(model, 0)
    learned = model.eval()(x, task=0).detach()
    with pytest.warns(UserWarning, match='task 0 is learned, but its outputs have changed'):
        learn_vectors(model, 1)
    assert not same(model.eval()(x, task=0).detach(), learned)


class Recalling(nn.Module):
    """State that is neither parameter nor buffer, and that training changes, slowly."""

    shared = {'v': torch.ones(8)}

    def __init__(self, kind):
        super().__init__()
        self.layer, self.head, self.kind = nn.Linear(12, 8), nn.Linear(8, 4), kind
        self.of = types.SimpleNamespace(v=torch.ones(8))
        self.array, self.listed = np.ones(8), [nn.BatchNorm1d(8, affine=False).eval()]

    def forward(self, x):
        h = F.relu(self.layer(x))
        more = 1e-3 * h.detach().mean(0)
        if self.kind == 'object':
            self.of.v = self.of.v + more if self.training else self.of.v
            return self.head(h + self.of.v)
        if self.kind == 'object, always':
            self.of.v = self.of.v + more
            return self.head(h + self.of.v)
        if self.kind == 'array':
            self.array += more.numpy() if self.training else 0
            return self.head(h + torch.from_numpy(self.array).float())
        if self.kind == 'global':
            self.shared['v'] += more if self.training else 0
            return self.head(h + self.shared['v'])
        if self.kind == 'unregistered':
            return self.head(self.listed[0].train(self.training)(h))
        return self.head(h * (1 + 0.001 * random.random()) if self.kind == 'random' else h)


@pytest.mark.parametrize('kind', ['object', 'object, always', 'array', 'global', 'unregistered', 'random', 'none'])
@pytest.mark.filterwarnings('ignore:forward.. changes attributes')
def test_state_that_training_changes_outside_of_parameters_and_buffers_is_warned_of(kind):
    torch.manual_seed(0), random.seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        hat.convert(Recalling(kind), 2, torch.randn(5, 12))
    assert any('outputs in evaluation change' in str(each.message) for each in caught) == (kind != 'none')


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system has no fork')
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_a_process_forked_while_another_thread_has_the_lock_has_it_not():
    lock, taken = hat.parallel.lock(), threading.Event()

    def hold():
        with lock:
            taken.set()
            sum(range(10_000_000))

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    child = os.fork()
    if not child:
        os._exit(0 if lock.acquire(timeout=5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join()


@pytest.mark.parametrize('replaced', [False, True])
def test_a_part_of_a_container_that_forward_changes_is_said(replaced):
    class Holding(Small):
        def between(self, h, x):
            self.state['v'] = self.state['v'] + 1 if replaced else self.state['v'].add_(1)
            return h + self.state['v']

    with pytest.warns(UserWarning, match='changes attributes that are not buffers: state; the changes are dropped'):
        hat.convert(Holding(state={'v': torch.ones(8)}), 2, torch.randn(4, 6))


class Ordered(nn.Module):
    """Hidden units in an order that a buffer says, and a temperature that the caller may change."""

    def __init__(self):
        super().__init__()
        self.temperature = 1.0
        self.layer, self.head = nn.Linear(12, 8), nn.Linear(8, 4)
        self.register_buffer('order', torch.arange(8))

    def forward(self, x):
        return self.head(F.relu(self.layer(x))[:, self.order]) / self.temperature


@pytest.mark.parametrize('change', [False, True])
def test_outputs_that_end_task_changes_are_warned_of(change):
    torch.manual_seed(0)
    model = hat.convert(Ordered(), 2, torch.randn(4, 12), heads=False)
    model.tasks[0].own.order.copy_(torch.arange(8).roll(3 * change))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        learn_vectors(model, 0)
    assert any('end_task(0) has changed outputs' in str(each.message) for each in caught) == change


@pytest.mark.parametrize('change', [0, 0.002, 1])
def test_an_attribute_that_reaches_a_learned_task_is_warned_of(change):
    torch.manual_seed(0)
    model = hat.convert(Ordered(), 2, torch.randn(4, 12))
    with torch.autocast('cpu', torch.bfloat16):
        learn_vectors(model, 0)
    model.net.temperature += change
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        learn_vectors(model, 1)
    assert any('task 0 is learned, but its outputs have changed' in str(each.message) for each in caught) == bool(
        change
    )


class Several(Ordered):
    """The first parameter is of another type than the input and the layers."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, dtype=torch.bfloat16))

    def forward(self, x):
        return self.head(F.relu(self.layer(x)) * self.scale) / self.temperature


@pytest.mark.filterwarnings('ignore:.*has not been trained')
def test_a_network_of_several_types_takes_the_example_as_it_is():
    """In the type of the first parameter it fails: nothing was warned of, and prune() failed."""
    torch.manual_seed(0)
    model, x = hat.convert(Several(), 2, torch.randn(4, 12)), torch.randn(5, 12)
    model.end_task(0)
    torch.testing.assert_close(hat.prune(model, 0)(x), model.eval()(x, task=0))
    model.net.temperature = 2.0
    with pytest.warns(UserWarning, match='task 0 is learned, but its outputs have changed, by up to 0.5 of the'):
        model.begin_task(1)


class DoubleFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.layer, self.head = nn.Linear(12, 8).double(), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(F.relu(self.layer(F.relu(self.first(x)).float())))


def test_a_mask_of_another_type_than_a_layer_does_not_change_the_type_of_its_output():
    torch.manual_seed(0)
    net, x = DoubleFirst(), torch.randn(5, 12).double()
    model = hat.convert(net, 1, x, init=hat.init.dense)
    torch.testing.assert_close(model.eval()(x, task=0), net(x))
    model.train()(x, task=0, progress=1.0).sum().backward()
    assert all(e.grad.isfinite().all() for e in model.tasks[0].embeddings.parameters())


class Excluding(Ordered):
    """A class is excluded."""

    def forward(self, x):
        return super().forward(x).masked_fill(torch.arange(4) == 1, -torch.inf)


class Complex(Ordered):
    def forward(self, x):
        return torch.view_as_complex(super().forward(x).view(-1, 2, 2))


@pytest.mark.parametrize('kind', [Excluding, Complex])
def test_outputs_that_are_infinite_or_complex_are_compared_too(kind):
    """One infinite value hid all others: nothing was warned of, and no task could be pruned."""
    torch.manual_seed(0)
    model = hat.convert(kind(), 2, torch.randn(4, 12))
    with torch.no_grad():
        for e in model.tasks[0].embeddings:
            e.copy_(torch.linspace(-1, 1, len(e)))
    model.begin_task(0)
    with warnings.catch_warnings(action='error'):
        model.end_task(0)
        small = hat.prune(model, 0)
    assert small.layer.out_features == 8  # an index couples its units, so they stay
    x = torch.randn(4, 12)
    torch.testing.assert_close(small(x), model.eval()(x, task=0))
    file = io.BytesIO()
    hat.save(model, file)
    file.seek(0)
    model.net.temperature = other = 2.0
    with pytest.warns(UserWarning, match='task 0 is learned, but its outputs have changed, by up to 0.5 of the'):
        model.begin_task(1)
    net = kind()
    net.temperature = other
    with pytest.warns(UserWarning, match='task 0 has other outputs than as it was saved, by up to 0.5 of the largest'):
        hat.load(file, net)


class Teacher(nn.Module):
    """Parameters that forward() changes itself, in training: a momentum encoder, and two codebooks."""

    def __init__(self):
        super().__init__()
        self.student, self.head = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 4)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.frozen, self.codes = nn.Parameter(torch.ones(8), requires_grad=False), nn.Parameter(torch.ones(3, 8))

    def forward(self, x):
        h = self.student(x)
        nearest = torch.cdist(h, self.codes).argmin(1)
        if self.training:
            for p, q in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                p.data.lerp_(q.detach(), 0.5)
            self.frozen.mul_(0.9)
            self.codes = nn.Parameter(0.9 * self.codes.detach() + h.detach().mean(0))
        return self.head(h + self.teacher(x) * self.frozen + self.codes[nearest].detach())


def test_parameters_that_forward_changes_in_training_are_the_tasks_own():
    torch.manual_seed(0)
    x = torch.randn(5, 12)
    model = hat.convert(Teacher(), 2, x)
    learn_vectors(model, 0)
    learned, own = model.eval()(x, task=0).detach(), model.tasks[0].own
    for name in 'teacher.0.weight', 'frozen', 'codes':
        assert not same(own.get_parameter(name), model.tasks[1].own.get_parameter(name))
    learn_vectors(model, 1)
    assert same(model.eval()(x, task=0).detach(), learned)


def train_with_frozen(model, task):
    one = OPTIMIZERS['momentum']([*model.parameters(), model.net[0].weight.requires_grad_()])
    for b in range(2):
        model.train()(torch.randn(4, 6), task=task, progress=b).square().mean().backward()
        one.step()


@pytest.mark.filterwarnings('ignore:.*has not been trained', 'ignore:less than', 'ignore:all gates')
@pytest.mark.parametrize(
    'change',
    (
        lambda model: (model.net.load_state_dict(frozen_first().state_dict()), model.begin_task(1)),
        lambda model: model.load_state_dict(model.state_dict() | {'net.0.weight': torch.zeros(8, 6)}),
        lambda model: (train_with_frozen(model, 1), model.end_task(1)),
        lambda model: (model.net[0].weight.data.mul_(2), model.begin_task(1)),
    ),
)
def test_a_frozen_parameter_that_changes_after_a_task_is_learned_is_warned_of(change):
    model = hat.convert(frozen_first(), 2, torch.randn(4, 6))
    model.end_task(0)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='.*frozen')
        copy.deepcopy(model).double().begin_task(1)
        model.load_state_dict(model.state_dict())
    with pytest.warns(UserWarning, match='^0.weight.*: frozen, but changed since a task was learned'):
        change(model)


@pytest.mark.filterwarnings('ignore:.*has not been trained')
def test_a_state_may_be_assigned_to_a_network_with_frozen_parameters():
    model, x = hat.convert(frozen_first(), 2, torch.randn(4, 6)), torch.randn(4, 6)
    model.end_task(0)
    learned = model.eval()(x, task=0).detach()
    for module in model, model.net, model:
        module.load_state_dict({n: v.clone() for n, v in module.state_dict().items()}, assign=True)
        assert same(model(x, task=0).detach(), learned)
        assert not {'net.0.weight', '0.weight'} & dict(model.named_parameters()).keys()
        model.end_task(1)


def frozen_first():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 2))
    net[0].requires_grad_(False)
    return net


@pytest.mark.filterwarnings('ignore:.*has not been trained')
def test_what_is_switched_off_stays_switched_off():
    model = small(2).requires_grad_(False)
    state = copy.deepcopy(model.state_dict())
    model.double().end_task(0)
    assert not any(p.requires_grad for p in model.parameters())
    model.load_state_dict(state)  # task 0 is not learned any more
    assert [all(p.requires_grad for p in task.parameters()) for task in model.tasks] == [True, False]


def learn_vectors(model, task):
    one = OPTIMIZERS['momentum'](model.parameters())
    for b in range(3):
        model.train()(torch.randn(8, 12), task=task, progress=b / 2).square().mean().backward()
        one.step()
    model.end_task(task)


class Queries(nn.Module):
    """Learned queries, as they are and normalized; a parameter that is returned; one that only some inputs reach."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(12, 8), nn.LayerNorm(8), nn.Linear(8, 4)
        self.queries, self.offset, self.rare = (nn.Parameter(torch.randn(2, 8)) for _ in range(3))

    def forward(self, x):
        if bool((x > 9).any()):
            x = x + self.rare.mean()
        h = F.relu(self.layer(x))[:, None].expand(-1, 3, -1)
        queries = self.norm(self.queries.expand(len(x), -1, -1))
        out = F.scaled_dot_product_attention(queries, h, h) + F.scaled_dot_product_attention(self.queries[None], h, h)
        return self.head(out.mean(1)), self.offset[:, :4]


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_every_parameter_is_shared_or_task_specific():
    torch.manual_seed(0)
    x = torch.randn(5, 12)
    model = hat.convert(Queries(), 2, x)
    assert set(dict(model.net.named_parameters())) == {*model.plan.shared, *model.plan.task_specific}
    model.end_task(0)
    rare = torch.full((5, 12), 10.0)
    learned = [torch.cat(model.eval()(each, task=0)).detach() for each in (x, rare)]
    for p in model.parameters():
        p.data.add_(torch.randn_like(p))
    assert all(same(torch.cat(model(each, task=0)).detach(), out) for each, out in zip((x, rare), learned, strict=True))


def test_what_is_not_read_as_it_runs_is_warned_of():
    torch.manual_seed(0)
    x = torch.randn(5, 12)
    with pytest.warns(UserWarning) as caught:
        model = hat.convert(Queries(), 2, x, check=1)
    said = ' '.join(str(warning.message) for warning in caught)
    assert 'own: rare' in said and 'branches on values of its input in the top module (test_forward.py:' in said
    with pytest.warns(UserWarning, match='other operations for this batch than for example_input'):
        model.train()(torch.full((5, 12), 10.0), task=0, progress=0)
    model = hat.convert(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), 1, torch.randn(2, 4), check=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for b in range(4):
            model.train()(torch.randn(3, 4), task=0, progress=b / 3)


def test_gradients_of_gradients():
    """Against the plain network that computes the same: a gradient penalty's gradient."""
    torch.manual_seed(0)
    net, x = (
        nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 3)),
        torch.randn(4, 8),
    )
    model = hat.convert(net, 2, x)
    model.end_task(0)
    model.eval()
    model.tasks[1].requires_grad_(False)
    plain = hat.plain(model, 1).requires_grad_()

    def penalty(outputs, parameters):
        inputs = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(outputs(inputs).square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), parameters)

    weights = [model.shared[f'{i}.weight'] for i in (0, 2)]
    actual = penalty(lambda inputs: model(inputs, task=1), weights)
    expected = penalty(plain, [plain[0].weight, plain[2].weight])
    masks, protected = model.masks(1), model.protected()
    for i, a, e in zip((0, 2), actual, expected, strict=True):
        e = e * masks[i // 2][:, None]
        torch.testing.assert_close(a, e.masked_fill(protected[f'{i}.weight'], 0))
        assert a.abs().sum() > 0


def test_gradients_of_gradients_of_protected_weights():
    """The same for gradients of the parameters themselves, which are changed where they are protected."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 3))
    x = torch.randn(4, 8)
    model = hat.convert(net, 2, x)
    model.end_task(0)
    model.eval()
    plain = hat.plain(model, 1).requires_grad_()
    masks, protected = model.masks(1), model.protected()
    free = {f'{i}.weight': ~protected[f'{i}.weight'] * masks[i // 2][:, None] for i in (0, 2)}

    def curvature(outputs, parameters, factors):
        slopes = torch.autograd.grad(outputs(x).square().sum(), parameters, create_graph=True)
        total = sum((slope * factor).square().sum() for slope, factor in zip(slopes, factors, strict=True))
        return torch.autograd.grad(total, parameters)

    actual = curvature(lambda inputs: model(inputs, task=1), [model.shared[name] for name in free], [1, 1])
    expected = curvature(plain, [plain.get_parameter(name) for name in free], free.values())
    for a, e, factor in zip(actual, expected, free.values(), strict=True):
        torch.testing.assert_close(a, e * factor)
        assert a.abs().sum() > 0

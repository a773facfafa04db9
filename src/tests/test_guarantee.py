"""Nothing reaches a learned task: no write of any kind, no copy of any kind, no thread and no process."""

import copy
import functools
import io
import multiprocessing
import os
import pickle
import random
import re
import sys
import tempfile
import threading
import types
import warnings
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import same
from nets import NETS
from test_convert import OPTIMIZERS, answers, build, learn
from test_properties import FLAT, STEPS, Random
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import hat


def random_network(seed):
    """A network of test_properties, without hypothesis: many of them, and fast."""
    draw = random.Random(seed)

    def steps(names, n):
        return [(draw.choice(names), draw.choice((-1, -1, draw.randrange(20))), draw.randrange(20), draw.randint(1, 6))
                for _ in range(draw.randrange(n))]  # fmt: skip

    torch.manual_seed(seed)
    net = Random([('conv', 0, 0, 4), *steps(STEPS, 8)], [('linear', 0, 0, 5), *steps(FLAT, 4)])
    return hat.convert(net, 2, torch.randn(2, 2, 4, 4), check=0), draw


@torch.no_grad()
def outputs(model, task=0):
    return model.eval()(torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(1)), task=task)


def train(model, optimizer, steps=2):
    for _ in range(steps):
        model.train()(torch.randn(4, 2, 4, 4), task=1, progress=1.0).square().mean().backward()
        optimizer.step()


def with_optimizer(make):
    return lambda model: train(model, make(model.parameters()))


def others(model):
    """All floating-point parameters and buffers that are not task 0's own."""
    own = {id(t) for t in (*model.tasks[0].parameters(), *model.tasks[0].buffers())}
    return [t for t in (*model.parameters(), *model.buffers()) if id(t) not in own and t.is_floating_point()]


def new_data(model):
    for p in model.parameters():
        p.data = torch.randn_like(p)


def each(write):
    @torch.no_grad()
    def to_all(model):
        for tensor in others(model):
            write(tensor)

    return to_all


def garbage(state):
    return {name: torch.randn_like(v) if v.is_floating_point() else v for name, v in state.items()}


@torch.no_grad()
def in_place(model):
    for value in model.state_dict().values():  # as timm's ModelEmaV3
        if value.is_floating_point():
            value.lerp_(torch.randn_like(value), 0.5)


WRITES = {
    'foreach AdamW': with_optimizer(lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.5, foreach=True)),
    'fused AdamW': with_optimizer(lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.5, fused=True)),
    'fused SGD': with_optimizer(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.5, fused=True)),
    'RMSprop': with_optimizer(lambda p: torch.optim.RMSprop(p, 0.1, weight_decay=0.5)),
    'noise': each(lambda t: t.add_(torch.randn_like(t))),
    'noise by .data': each(lambda t: t.data.add_(torch.randn_like(t))),
    'copy_': each(lambda t: t.copy_(torch.randn_like(t))),
    'nan': each(lambda t: t.fill_(torch.nan)),
    'infinity': each(lambda t: t.fill_(torch.inf)),
    'new data': new_data,
    'vector_to_parameters': lambda m: nn.utils.vector_to_parameters(
        torch.randn(sum(p.numel() for p in m.parameters())), m.parameters()),
    'into the network': lambda m: m.net.load_state_dict(garbage(m.net.state_dict())),
    'into all': lambda m: m.load_state_dict(garbage(m.state_dict())),
    'into parameters': lambda m: m.load_state_dict(garbage(dict(m.named_parameters())), strict=False),
    'into what state_dict() gives': in_place,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_no_write_of_any_kind_changes_a_learned_task_in_1000_random_networks():
    done = different = 0
    for seed in range(1100):
        try:
            model, draw = random_network(seed)
        except hat.CannotConvert as error:
            assert 'no layer that could have a gate' in str(error)
            continue
        one = torch.optim.AdamW(model.parameters(), 0.05, weight_decay=0.1)
        model.train()(torch.randn(4, 2, 4, 4), task=0, progress=1.0).square().mean().backward()
        one.step()  # which knows task 0, and goes on to move it
        before = outputs(model)
        model.end_task(0)
        learned = outputs(model)
        assert same(before, learned) or before.isnan().any()
        for name in draw.sample(sorted(WRITES), 3):
            WRITES[name](model)
            different += not same(outputs(model), learned)
        train(model, one, 1)
        different += not same(outputs(model), learned)
        done += 1
    assert different == 0 and done >= 1000


@pytest.mark.parametrize('name', WRITES)
@pytest.mark.filterwarnings('ignore')
def test_and_each_kind_of_write_does_change_a_task_that_is_not_learned(name):
    """The control: without end_task() the same writes are seen."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
    model = hat.convert(net, 2, torch.randn(2, 2, 4, 4), init=hat.init.dense)
    before = outputs(model)
    WRITES[name](model)
    assert not same(outputs(model), before)


def bits(tensors):
    return {n: t.view(torch.int32).clone() for n, t in tensors.items()}


@pytest.mark.parametrize('diverged', [False, True])
def test_what_a_learned_task_computes_with_stays_the_same_to_the_sign_of_a_zero(diverged):
    """Also where a later task has kept values, which in the second case are not all finite."""
    _, model = build('flatten')
    model.end_task(0)
    learned = bits(model.tensors(0, model.masks(0)))
    with torch.no_grad():
        for p in model.shared.values():
            p.copy_(torch.full_like(p, torch.inf) if diverged else -p.abs())
    model.end_task(1)
    assert (model.protected()['4.weight'].sum() > 0) and same(bits(model.tensors(0, model.masks(0))), learned)


# Copies of all kinds


def tensor_by_tensor(model):
    other = build('concatenated')[1]
    with torch.no_grad():
        for to, of in zip(
            [*other.parameters(), *other.buffers()], [*model.parameters(), *model.buffers()], strict=True
        ):
            to.copy_(of)
    return other


def through_state_dict(model):
    other = build('concatenated', init=hat.init.dense)[1]
    other.load_state_dict({n: v.clone() for n, v in model.state_dict().items()})
    return other


def value_by_value(model):
    other = build('concatenated')[1]
    theirs = model.state_dict()
    with torch.no_grad():
        for name, value in other.state_dict().items():
            value.copy_(theirs[name])
    return other


def saved(model):
    file = io.BytesIO()
    hat.save(model, file)
    file.seek(0)
    torch.manual_seed(5)
    return hat.load(file, NETS['concatenated']())


COPIES = {
    'deepcopy': copy.deepcopy,
    'pickle': lambda model: pickle.loads(pickle.dumps(model)),
    'state_dict': through_state_dict,
    'state_dict, value by value': value_by_value,
    'tensor by tensor': tensor_by_tensor,
    'hat.save and hat.load': saved,
}


@pytest.mark.parametrize('name', COPIES)
def test_a_copy_made_in_the_middle_of_a_task_has_all_protection(name):
    """Where the optimizer has just moved the parameters of the learned task, too."""
    _, model = build('concatenated')
    one = OPTIMIZERS['adamw'](model.parameters())
    learn(model, 0, one)
    learned = answers(model, 0)
    F.cross_entropy(model.train()(torch.randn(4, 3, 8, 8), task=1, progress=1), torch.tensor([0, 1, 2, 3])).backward()
    one.step()
    other = COPIES[name](model)
    assert other.learned.tolist() == [True, False, False]
    assert same(answers(other, 0), learned) and same(answers(other, 1), answers(model, 1))
    learn(other, 1, OPTIMIZERS['momentum'](other.parameters()))
    assert same(answers(other, 0), learned) and same(answers(model, 0), learned)
    assert not same(answers(other, 1), answers(model, 1))


def averaged(model):
    return (
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
        lambda ema: ema.module,
        AveragedModel.update_parameters,
    )


def timm_ema(model, **settings):
    timm = pytest.importorskip('timm', reason='timm is not installed')
    return timm.utils.ModelEmaV3(model, decay=0.9, **settings), lambda ema: ema.module, timm.utils.ModelEmaV3.update


EMAS = {
    'AveragedModel': averaged,
    'ModelEmaV3': timm_ema,
    'ModelEmaV3, one by one': lambda model: timm_ema(model, foreach=False),
    'ModelEmaV3, buffers copied': lambda model: timm_ema(model, exclude_buffers=True),
}


@pytest.mark.parametrize('name', EMAS)
def test_an_average_of_the_network_does_not_forget(name):
    _, model = build('concatenated')
    ema, network, update = EMAS[name](model)
    one, learned = OPTIMIZERS['adamw'](model.parameters()), None
    for task in range(3):
        for b in range(4):
            loss = F.cross_entropy(
                model.train()(torch.randn(8, 3, 8, 8), task=task, progress=b / 3), torch.arange(8) % 4
            )
            one.zero_grad()
            (loss + 0.1 * model.regularization()).backward()
            one.step()
            update(ema, model)
            if task:
                assert same(answers(network(ema), 0), learned)
        model.end_task(task)
        update(ema, model)
        if task == 0:
            learned = answers(network(ema), 0)
    assert not same(answers(network(ema), 2), answers(model, 1))


def test_an_average_of_what_is_kept_is_refused_in_one_sentence():
    _, model = build('concatenated')
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    ema.update_parameters(model)
    learn(model, 0, OPTIMIZERS['sgd'](model.parameters()))
    ema.update_parameters(model)
    with pytest.raises(RuntimeError, match='can be copied, not averaged'):
        answers(ema.module, 0)


@pytest.mark.parametrize(
    'change', [nn.Module.half, nn.Module.bfloat16, nn.Module.double], ids=['half', 'bfloat16', 'double']
)
def test_another_type_takes_protection_along(change):
    _, model = build('flatten')
    learn(model, 0, OPTIMIZERS['momentum'](model.parameters()))
    model = change(model)
    x = torch.randn(9, 3, 8, 8).to(next(model.net.parameters()).dtype)
    with torch.no_grad():
        learned = model.eval()(x, task=0)
    assert learned.isfinite().all() and {e.dtype for e in model.tasks[1].embeddings} <= {torch.float32, torch.float64}
    one = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=0.1)
    for b in range(3):
        loss = model.train()(x, task=1, progress=b / 2).float().square().mean() + model.regularization()
        loss.backward()
        one.step()
        assert all(e.grad.isfinite().all() for e in model.tasks[1].embeddings)
    with torch.no_grad():
        assert same(model.eval()(x, task=0), learned)


class OutOfMemory(TorchDispatchMode):
    """The n-th operation raises an error."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.left -= 1
        if not self.left:
            raise torch.OutOfMemoryError('simulated')
        return func(*args, **(kwargs or {}))


def test_a_frozen_parameter_that_is_tied_stays_so_in_another_type():
    """It is a buffer of both modules, of which .to() makes two."""
    words = torch.arange(8).view(2, 4)
    net = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 9, bias=False))
    net[3].weight = net[0].weight.requires_grad_(False)
    model = hat.convert(net, 2, words)
    model.end_task(0)
    before = model.eval()(words, task=0)
    assert torch.equal(model.double().float()(words, task=0), before)
    assert model.net[3].weight is model.net[0].weight


def test_a_change_of_type_that_runs_out_of_memory_loses_nothing():
    _, model = build('flatten')
    model.end_task(0)
    learned, n, failed = answers(model, 0), 0, True
    while failed:
        n, failed, one = n + 3, False, copy.deepcopy(model)
        try:
            with OutOfMemory(n):
                one.double()
        except torch.OutOfMemoryError:
            failed = True
        assert same(answers(one.float(), 0), learned)
    assert n > 50


def test_another_memory_format_changes_no_bit_where_the_network_has_it_already():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.Flatten(), nn.Linear(1024, 4))
    model = hat.convert(net.to(memory_format=torch.channels_last), 1, torch.randn(2, 3, 8, 8))
    x = torch.randn(4, 3, 8, 8)
    model.end_task(0)
    with torch.no_grad():
        learned = model.eval()(x, task=0)
        assert same(model.to(memory_format=torch.channels_last)(x, task=0), learned)
    assert model.kept.bits('2.weight').stride() == model.net[2].weight.stride()


def test_a_closed_unit_stays_closed_when_it_overflows():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    model = hat.convert(net, 1, torch.randn(2, 4)).half().eval()
    with torch.no_grad():
        model.tasks[0].embeddings[0][:3] = -1
        model.net[0].weight[:3] = 6e4
        assert model(torch.full((2, 4), 100.0).half(), task=0).isfinite().all()


# Threads, checkpointing, aliases, processes


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
    assert 'own: rare' in said and 'branches on values of its input in the top module (test_guarantee.py:' in said
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


# Weights into which kept values are written


def large():
    """Its weights are too large for a bundle; task 0 is learned, and all parameters are noise then."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 1000), nn.ReLU(), nn.Linear(1000, 3))
    model = hat.convert(net, 2, torch.randn(4, 64))
    model.end_task(0)
    model.begin_task(1)
    with torch.no_grad():
        for p in model.shared.values():
            p.copy_(torch.randn_like(p) / p.shape[-1] ** 0.5)
    return model, torch.randn(2, 4, 64)


def test_batches_may_overlap():
    (model, x), (other, _) = large(), large()
    for each in x:
        other(each, task=1, progress=0.5).square().sum().backward()
    losses = [model(each, task=1, progress=0.5).square().sum() for each in x]
    model.state_dict()
    sum(losses).backward()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert (p.grad is None and q.grad is None) or torch.allclose(p.grad, q.grad, atol=1e-5)


def test_only_the_thread_that_trains_writes():
    (model, x), protected = large(), large()[0].protected()
    before = copy.deepcopy(dict(model.shared))
    model.share_memory()
    thread = threading.Thread(target=lambda: model(x[0], task=1, progress=0.5))
    # An operation of PyTorch in a forked process may hang, so it only says whether it would write
    process = multiprocessing.get_context('fork').Process(target=lambda: sys.exit(bool(model.writable)))
    for other in thread, process:
        other.start()
        other.join()
    assert model.writable and process.exitcode == 0
    evaluated = model.eval()(x[0], task=1)
    assert all(same(p, before[name]) for name, p in model.shared.items())
    model.train()(x[0], task=1, progress=0.5)
    for name, p in model.shared.items():
        written = p != before[name]
        assert not (written & ~protected[name]).any() and (p.numel() < 2**14 or (written == protected[name]).all())
    assert same(model.eval()(x[0], task=1), evaluated)


@pytest.mark.parametrize('write', [False, True])
def test_kept_zeros(write):
    """Zeros among the kept values, which do not tell where they are."""
    model, x = large()
    with torch.no_grad():
        hat.forget(model, 0)
        for p in model.shared.values():
            p[::2] = 0
    model.end_task(0)
    learned, protected = model.eval()(x[0], task=0), model.protected()
    with torch.no_grad():
        for p in model.shared.values():
            p.fill_(1.0)
    model.train(write)
    model.begin_task(1)
    model(x[0], task=1, progress=0.5).sum().backward()
    for name, p in model.shared.items():
        assert protected[name].any() and not p.grad[protected[name]].any() and p.grad.any()
    if write:
        weight = model.shared['2.weight']
        assert (weight[protected['2.weight']] == 0).any() and (weight[~protected['2.weight']] == 1).all()
    assert same(model.eval()(x[0], task=0), learned)


class Values(TorchDispatchMode):
    """After each operation all elements of a tensor have the value of before or that of after."""

    def __init__(self, p, after):
        super().__init__()
        self.p, self.before, self.after = p.data, p.detach().clone(), after

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **kwargs or {})
        with torch._C._DisableTorchDispatch():
            assert ((self.p == self.before) | (self.p == self.after)).all(), func
        return outputs


@pytest.mark.parametrize('read', ['forward', 'state_dict'])
def test_what_is_written_is_never_seen_half_done(read):
    """Another thread, or a signal handler, may read parameters at any time."""
    (model, x), (twin, _) = large(), large()
    p, after = model.shared['2.weight'], twin.state_dict()[key(twin)]
    with Values(p, after):
        model.state_dict() if read == 'state_dict' else model(x[0], task=1, progress=0.5)
    assert same(p.detach(), after)


class Stepping(TorchDispatchMode):
    """An optimizer's step in another thread, just before an operation writes to a parameter."""

    def __init__(self, p):
        super().__init__()
        self.p = p.data

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.is_mutable and args[0].untyped_storage().data_ptr() == self.p.untyped_storage().data_ptr():
            with torch._C._DisableTorchDispatch():
                self.p.add_(1)
        return func(*args, **kwargs or {})


def test_state_dict_in_another_thread_undoes_no_step():
    model, _ = large()
    p, protected = model.shared['2.weight'], model.protected()['2.weight']
    before, kept = p.detach().clone(), copy.deepcopy(model).state_dict()[key(model)]

    def save():
        with Stepping(p):
            model.state_dict()

    thread = threading.Thread(target=save)
    thread.start()
    thread.join()
    assert same(p[~protected].detach(), before[~protected] + 1) and same(p[protected].detach(), kept[protected])


def key(model):
    """Of the second weight in the state dict."""
    (name,) = (name for name, p in model.named_parameters() if p is model.shared['2.weight'])
    return name


@pytest.mark.parametrize('kind', [torch.Tensor.clone, nn.Parameter])
def test_tensors_of_the_caller_are_not_written_to(kind):
    model, x = large()
    given = {name: kind(p.detach() * 0.9) for name, p in model.named_parameters()}
    before = copy.deepcopy(given)
    torch.func.functional_call(model, given, (x[0],), {'task': 1, 'progress': 0.5})
    assert same(given, before)


class Added(nn.Module):
    """One vector after the other, and a bias that is added to each as it is: all have one gradient."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 8)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 20000)), nn.Parameter(torch.randn(20000))

    def forward(self, x):
        return F.relu(self.layer(x)) @ self.weight + self.bias


@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('hard', [False, True])
def test_gradients_of_the_caller_are_not_written_to(hard):
    model = hat.convert(Added(), 2, torch.randn(6), heads=False, hard=hard)
    model.end_task(0)
    given = torch.ones(20000)
    model.train()(torch.randn(6), task=1, progress=0.5).backward(given)
    assert same(given, torch.ones(20000)) and same(model.net.bias.grad, torch.zeros(20000))


def test_a_small_parameter_that_changes_before_second_derivatives_is_an_error():
    model, x = large()
    loss = model(x[0], task=1, progress=0.5).square().sum()
    with torch.no_grad():
        model.shared['0.bias'].mul_(0.5)
    with pytest.raises(RuntimeError, match='modified in place'):
        torch.autograd.grad(loss, list(model.shared.values()), create_graph=True)


# Training that would not train


def small(n_tasks=1):
    torch.manual_seed(0)
    return hat.convert(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)), n_tasks, torch.randn(4, 8))


def steps(model, optimizer, task, progress):
    for each in progress:
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(4, 8), task=task, progress=each), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()


def test_an_optimizer_that_is_older_than_the_task_is_warned_of():
    model = small()
    one = torch.optim.Adam(model.parameters(), 1e-2)
    steps(model.train(), one, 0, (0, 1))
    model.end_task(0)
    task = model.add_task()
    with pytest.warns(UserWarning, match='masks of task 1 do not change: make a new optimizer after add_task'):
        steps(model, one, task, (0, 0.2, 0.4, 0.6, 0.8, 1))
    model, one = small(2), None
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # nothing moves while the learning rate is 0: that is no fault
        steps(model.train(), torch.optim.SGD(model.parameters(), 0), 0, (0, 0.2, 0.4, 0.6, 0.8, 1))


def test_a_task_that_has_changed_nothing_is_warned_of_when_it_ends():
    """As with a new schedule on an optimizer whose learning rate has fallen to 0."""
    model = small(2).train()
    one = torch.optim.Adam(model.parameters(), 1e-2)
    for task in 0, 1:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(one, 4)
        for _ in range(4):
            steps(model, one, task, (0, 1))
            schedule.step()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            model.end_task(task)
        said = [str(w.message) for w in caught]
        assert len(said) == task
    assert said[0].startswith('the training of task 1 has not changed anything: is the learning rate 0')


def assigned(part):
    def replace(model):
        part(model).load_state_dict(copy.deepcopy(part(model).state_dict()), assign=True)

    return replace


def moved(model):
    """As .to() does with PyTorch's setting for it."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        model.double().float()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.mark.parametrize('task', [0, 1])
def test_a_task_whose_first_batch_runs_out_of_memory_begins_with_the_next(task):
    base, failed, n = small(2), True, 0
    for t in range(task):
        steps(base, torch.optim.SGD(base.parameters(), 0.1), t, [0, 1])
        base.end_task(t)
    while failed:
        model, failed, n = copy.deepcopy(base), False, n + 3
        try:
            with OutOfMemory(n):
                model(torch.randn(4, 8), task=task, progress=0)
        except torch.OutOfMemoryError:
            failed = True
        with pytest.warns(UserWarning, match=f'the training of task {task} has not changed anything'):
            steps(model, torch.optim.SGD(model.parameters(), 0.0), task, [b / 5 for b in range(6)])
            model.end_task(task)
    assert n > 20


@pytest.mark.parametrize('replace, message', [
    (assigned(lambda model: model), 'has not changed anything: .* or than a load_state_dict.assign=True.'),
    (moved, 'has not changed anything'),
    (assigned(lambda model: model.net), 'task 0 has trained its masks, but not the weights that tasks share'),
])  # fmt: skip
@pytest.mark.parametrize('trained', [False, True])
@pytest.mark.parametrize('new', [False, True])
def test_an_optimizer_that_is_older_than_the_parameters_is_warned_of_when_the_task_ends(replace, message, trained, new):
    model = small().train()
    one = torch.optim.Adam(model.parameters(), 0.1)
    steps(model, one, 0, (0, 0.5, 1) if trained else ())
    replace(model)
    one = torch.optim.Adam(model.parameters(), 0.1) if new else one
    steps(model, one, 0, (0, 0.5, 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        model.end_task(0)
    assert bool(caught) != new and (new or re.search(message, str(caught[0].message)))


def test_counts_of_batches_start_anew_with_other_parameters():
    """Parts of a batch have one progress; those before and after were counted together."""
    model = small().train()
    for _ in range(2):
        one = torch.optim.Adam(model.parameters(), 0.1)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            steps(model, one, 0, [b // 2 / 4 for b in range(10)])
        model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)


def test_masks_that_are_trained_alone_are_not_warned_of_where_weights_are_frozen():
    """Gradients of the task before may still be there."""
    model = small(2).train()
    steps(model, torch.optim.Adam(model.parameters(), 0.1), 0, (0, 0.5, 1))
    model.end_task(0)
    for p in model.shared.values():
        p.requires_grad_(False)
    steps(model, torch.optim.Adam(model.tasks[1].parameters(), 0.1), 1, (0, 0.5, 1))
    assert any(p.grad is not None and p.grad.any() for p in model.shared.values())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model.end_task(1)


@pytest.mark.parametrize('detached, trained, message', [
    (False, ('net', 'tasks.0.embeddings'), 'task 0 has trained its masks, but not its own, such as a head'),
    (False, ('tasks',), 'task 0 has trained its masks, but not the weights that tasks share'),
    (False, ('net',), 'masks of task 0 do not change: make .* of all parameters of the model'),
    (True, ('',), 'task 0 has trained its masks, but nothing else, .*: is the loss that of a detached output'),
])  # fmt: skip
def test_what_an_optimizer_does_not_train_is_said(detached, trained, message):
    """model.net has weights of every layer, but the head there is not that of a task."""
    model = small(2).train()
    one = torch.optim.Adam([p for name, p in model.named_parameters() if name.startswith(trained)], 0.1)
    for progress in 0, 0.5, 1:
        y = model(torch.randn(4, 8), task=0, progress=progress)
        one.zero_grad()
        ((y.detach() if detached else y).square().mean() + model.regularization()).backward()
        one.step()
    with pytest.warns(UserWarning, match=message):
        model.end_task(0)


def test_a_schedule_may_take_tensors_alone():
    """As the caller passes them; end_task() passed a number."""
    schedule = lambda progress, s_max: s_max * torch.sqrt(progress) + 1 / s_max  # noqa: E731
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    model = hat.convert(net, 1, torch.randn(4, 8), schedule=schedule).train()
    steps(model, torch.optim.Adam(model.parameters(), 0.1), 0, torch.tensor([0, 0.5, 1]))
    model.end_task(0)
    assert model.done == [True]


def test_small_steps_in_half_precision_train_the_weights_that_tasks_share():
    """Sums of weights in half precision do not change with them."""
    torch.manual_seed(0)
    layers = (layer for n in (64, 256) for layer in (nn.Linear(n, 256, bias=False), nn.ReLU()))
    net, x = nn.Sequential(*layers, nn.Linear(256, 3)).bfloat16(), torch.randn(4, 64, dtype=torch.bfloat16)
    model = hat.convert(net, 1, x).train()
    before = copy.deepcopy(model.shared)
    optimizer = torch.optim.SGD(hat.param_groups(model, embeddings=dict(lr=0.1)), 1e-4)
    for progress in range(6):
        optimizer.zero_grad()
        F.cross_entropy(model(x, task=0, progress=progress / 5), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    assert not all(torch.equal(p, before[name]) for name, p in model.shared.items())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model.end_task(0)


@pytest.mark.parametrize('last, warned', [(0.25, True), (0.75, False), (1.0, False)])
def test_a_task_that_ends_in_the_middle_of_an_epoch_is_warned_of(last, warned):
    """As where a loop breaks early, or a trainer goes on with other batches than it stopped before."""
    model = small().train()
    steps(model, torch.optim.Adam(model.parameters(), 0.1), 0, (0, 1, 0, last))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        model.end_task(0)
    expected = f'the last batch of task 0 had progress {last:g}: its masks are still soft there'
    assert [str(w.message).startswith(expected) for w in caught] == [True] * warned


def test_tasks_that_were_trained_in_turns_may_end_in_turn():
    model = small(2).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match='was not called'):
        steps(model, optimizer, 0, [0.0, 1.0])
        steps(model, optimizer, 1, [0.0, 1.0])
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='.*has not been trained')
        model.end_task(0)
        model.end_task(1)


def test_a_task_that_trains_nothing_but_its_head_has_changed_something():
    model = small().train()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        steps(model, torch.optim.SGD(model.tasks[0].own.parameters(), 0.1), 0, (0, 1))
        with pytest.raises(UserWarning, match='the masks of task 0 do not change'):
            model.end_task(0)


def test_training_in_evaluation_mode_and_without_annealing_is_warned_of():
    model = small().eval()
    with pytest.warns(UserWarning, match='in evaluation mode: the masks are rounded and get no gradient'):
        model(torch.randn(4, 8), task=0).sum().backward()
    with pytest.warns(UserWarning, match='progress is 1 in 8 batches of task 0: the gates are not annealed'):
        steps(model.train(), torch.optim.SGD(model.parameters(), 0.1), 0, [1.0] * 8)
    model.add_task()
    with pytest.warns(UserWarning, match=r'end_task\(1\): task 1 has not been trained'):
        model.end_task(1)


def test_the_regularization_goes_by_the_last_batch():
    model = small(2).train()
    with pytest.raises(ValueError, match=r'needs a task: no batch was trained since the last end_task\(\)'):
        model.regularization()
    model(torch.randn(4, 8), task=1, progress=0.25)
    assert model.regularization().item() == model.regularization(1, 0.25).item() != model.regularization(1, 1.0).item()


@pytest.mark.parametrize('n, expected', [(1, [1.0]), (3, [0.0, 0.5, 1.0])])
def test_annealed_batches_go_from_0_to_1(n, expected):
    assert list(hat.annealed(list('abc'[:n]))) == list(zip('abc', expected, strict=False))


# Settings travel with the weights


def test_a_state_of_other_settings_is_refused_with_their_names():
    state = build('mlp')[1].state_dict()
    for settings, name in (
        ({'s_max': 50.0}, 's_max 400.0; here it is 50.0'),
        ({'hard': False}, 'hard True; here it is False'),
        ({'schedule': hat.schedules.cosine}, "schedule 'linear'; here it is 'cosine'"),
        ({'gates': ['1']}, "gates ['1', '3']; here it is ['1']"),
        ({'n_classes': [4, 9, 4]}, 'classes of task 1 4; here it is 9'),
    ):
        with pytest.raises(ValueError, match=re.escape(f'the state was made with {name}')):
            build('mlp', **settings)[1].load_state_dict(state)


def test_a_network_that_renames_its_keys_loads_its_own_state():
    net = nn.Sequential(checkpoint_wrapper(nn.Linear(5, 4)), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    model = hat.convert(net, 2, torch.randn(2, 5))
    model.train()(torch.randn(6, 5), task=0, progress=1.0).sum().backward()
    model.end_task(0)
    state = model.state_dict()
    model.load_state_dict(state)
    del state['tasks.0.own.1.running_mean']
    with pytest.raises(ValueError, match='it has no tasks.0.own.1.running_mean'):
        model.load_state_dict(state, strict=False)
    del state['fingerprints']
    with pytest.raises(ValueError, match='but no fingerprints of tasks'):
        model.load_state_dict(state, strict=False)


@pytest.mark.parametrize('part', ['net.stem.weight', 'tasks.0.own.fc.weight', 'tasks.0.embeddings.1'])
def test_a_part_of_a_state_with_learned_tasks_is_refused(part):
    """Even with strict=False: the task would count as learned, with initial values."""
    _, model = build('concatenated')
    learn(model, 0, OPTIMIZERS['sgd'](model.parameters()))
    state = model.state_dict()
    del state[part]
    for other in build('concatenated')[1], model:
        with pytest.raises(ValueError, match=f'the state is incomplete: tasks are learned in it, but it has no {part}'):
            other.load_state_dict(state, strict=False)


def test_a_state_of_more_or_fewer_tasks_can_be_loaded():
    _, three = build('concatenated')
    one = OPTIMIZERS['momentum'](three.parameters())
    learn(three, 0, one)
    learn(three, 1, one)
    learned = [answers(three, t) for t in range(2)]
    for n in 1, 5:
        _, other = build('concatenated', n_tasks=n)
        other.load_state_dict(three.state_dict())
        assert len(other.tasks) == max(n, 3) and other.learned.tolist() == [
            True,
            True,
            *[False] * (len(other.tasks) - 2),
        ]
        assert all(same(answers(other, t), learned[t]) for t in range(2))
        learn(other, 2, OPTIMIZERS['adamw'](other.parameters()))
        assert all(same(answers(other, t), learned[t]) for t in range(2))
    _, one = build('concatenated', n_tasks=1)
    _, other = build('concatenated', n_tasks=2)
    other.end_task(1)
    with pytest.raises(ValueError, match='task 1 is learned here, but not in the state, which has 1 tasks'):
        other.load_state_dict(one.state_dict())


def test_a_learned_task_is_not_overwritten_by_a_state_and_that_is_said():
    _, model = build('concatenated')
    learn(model, 0, OPTIMIZERS['momentum'](model.parameters()))
    learned = answers(model, 0)
    with pytest.warns(UserWarning, match='task 0 is already learned and is not overwritten by the state'):
        model.load_state_dict(garbage(model.state_dict()))
    assert same(answers(model, 0), learned)
    _, other = build('concatenated')
    learn(other, 0, OPTIMIZERS['adamw'](other.parameters()))
    model.load_state_dict(other.state_dict())  # but one of another run is what it has been there
    assert same(answers(model, 0), answers(other, 0)) and not same(answers(model, 0), learned)


@pytest.mark.parametrize('part', ['state', 'parameters', 'checkpoint'])
def test_a_state_that_is_loaded_where_it_comes_from_changes_nothing(part, tmp_path):
    """As with torch.distributed.checkpoint, which reads into the tensors of a state: a task in training lost its head
    and norms."""
    _, model = build('concatenated')
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    before = copy.deepcopy(model.state_dict())
    if part == 'parameters':
        model.load_state_dict(dict(model.named_parameters()), strict=False)
    elif part == 'state':
        model.load_state_dict(model.state_dict())
    else:
        checkpoint = pytest.importorskip('torch.distributed.checkpoint')
        checkpoint.save({'model': model.state_dict()}, checkpoint_id=tmp_path, no_dist=True)
        _, model = build('concatenated')
        checkpoint.load(state := {'model': model.state_dict()}, checkpoint_id=tmp_path, no_dist=True)
        model.load_state_dict(state['model'])
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_state_from_before_a_task_was_learned_takes_it_back_and_that_is_said():
    """As where the best epoch of an earlier task is loaded: the learned task was forgotten in silence."""
    _, model = build('mlp')
    before = copy.deepcopy(model.state_dict())
    learn(model, 0, OPTIMIZERS['adam'](model.parameters()))
    with pytest.warns(UserWarning, match='task 0 is learned here, but not in the state: it is not learned any more'):
        model.load_state_dict(before)
    assert not model.learned.any()


def test_a_state_that_is_refused_takes_nothing_back_and_is_not_said_to():
    _, model = build('mlp')
    learn(model, 1, OPTIMIZERS['adam'](model.parameters()))
    incomplete = copy.deepcopy(model.state_dict())
    del incomplete[next(name for name in incomplete if name.startswith('net.'))]
    learn(model, 0, OPTIMIZERS['adam'](model.parameters()))
    with warnings.catch_warnings(), pytest.raises(ValueError, match='incomplete: tasks are learned in it, but it has'):
        warnings.simplefilter('error')
        model.load_state_dict(incomplete)
    assert model.learned[:2].all()


def loaded(model, **more):
    file = io.BytesIO()
    hat.save(model, file)
    file.seek(0)
    return hat.load(file, NETS['mlp'](), **more)


def test_a_file_has_the_names_of_the_functions_that_further_tasks_need():
    """They were those by default after load(), in silence."""
    other = loaded(build('mlp', regularizer=hat.regularizers.quota, init=hat.init.dense)[1])
    assert (other.regularizer, other.init) == (hat.regularizers.quota, hat.init.dense)
    assert all(e.eq(1).all() for e in other.tasks[other.add_task()].embeddings)

    def linear(*inputs):
        return hat.schedules.constant(*inputs)

    def mine(*inputs):
        return hat.regularizers.quota(*inputs)

    _, model = build('mlp', regularizer=mine)
    with pytest.warns(UserWarning, match='was made with functions of your own: pass regularizer= or tasks to come are'):
        loaded(model)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert loaded(model, regularizer=mine).regularizer is mine
    with pytest.raises(ValueError, match='its schedule linear is not one of hat.schedules: pass schedule='):
        loaded(build('mlp', schedule=linear)[1])


def test_a_file_that_is_loaded_into_a_network_of_the_same_parameters_with_other_outputs_is_warned_of():
    """As with another activation: learned tasks had other outputs, in silence."""
    _, model = build('flatten')
    learn(model, 0, OPTIMIZERS['adam'](model.parameters()))
    for cast in nn.Module.float, nn.Module.bfloat16:
        hat.save(model, file := io.BytesIO())
        for activation, more in (nn.ReLU(), ()), (nn.SiLU(), ()), (nn.SiLU(), [torch.zeros(2, 3, 8, 8)]):
            file.seek(0)
            net = cast(NETS['flatten']())
            net[1] = net[5] = activation
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter('always')
                hat.load(file, net, None, *more)
            said = ['task 0 has other outputs than as it was saved' in str(w.message) for w in caught]
            assert said == [True] * (isinstance(activation, nn.SiLU) and not more)


class Noisy(nn.Module):
    """Outputs in evaluation are random, as of Monte Carlo dropout."""

    fails = False

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        if self.fails:
            raise NotImplementedError
        return self.b(F.dropout(F.relu(self.a(x)), 0.5, True))


class Residual(nn.Module):
    """Outputs of another precision differ by more than 1 %."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(20))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        for block in self.blocks:
            x = x + 3 * block(x)
        return self.head(x)


@pytest.mark.filterwarnings('ignore:end_task')
@pytest.mark.parametrize('make, cast, fails', [
    (Noisy, nn.Module.float, False), (Noisy, nn.Module.float, True), (Residual, nn.Module.bfloat16, False)
])  # fmt: skip
def test_a_file_that_is_loaded_into_its_own_network_is_not_warned_of(make, cast, fails):
    """Where outputs are random, are not known, or were saved in half precision."""
    torch.manual_seed(3)
    model = hat.convert(make(), 1, torch.randn(4, 8), init=hat.init.dense)
    model.end_task(0)
    model.net.fails = fails
    hat.save(cast(model), file := io.BytesIO())
    file.seek(0)
    net = make()
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        hat.load(file, net)


def test_random_numbers_are_no_change_of_an_attribute():
    torch.manual_seed(0)
    model = hat.convert(Noisy(), 2, torch.randn(4, 8))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        model.end_task(0)
        torch.manual_seed(1)
        model.begin_task(1)
    assert [str(each.message) for each in caught] == ['end_task(0): task 0 has not been trained']


def test_what_is_saved_is_the_network_of_a_compiled_one_and_nothing_else():
    """The file of a compiled network could not be loaded."""
    _, model = build('mlp')
    learn(model, 0, OPTIMIZERS['adam'](model.parameters()))
    assert same(answers(loaded(torch.compile(model, backend='eager')), 0), answers(model, 0))
    with pytest.raises(TypeError, match='takes a converted network .of a view: view.network., not View'):
        loaded(model.view(0))


def test_pretrained_weights_can_come_after_conversion():
    net, model = build('concatenated')
    torch.manual_seed(7)
    other = NETS['concatenated']()
    nn.init.normal_(other.norm.weight)
    model.end_task(0)
    learned = answers(model, 0)
    model.net.load_state_dict(other.state_dict())
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        opened = model.eval().run((x,), 1, [torch.ones_like(a) for a in model.masks(1)])
    protected = model.protected()
    assert same(answers(model, 0), learned) and any(p.any() for p in protected.values())
    assert same(model.tasks[1].own.norm.weight, other.norm.weight) and same(model.tasks[1].own.fc.bias, other.fc.bias)
    _, fresh = build('concatenated')
    fresh.net.load_state_dict(other.state_dict())
    with torch.no_grad():
        opened = fresh.eval().run((x,), 1, [torch.ones_like(a) for a in fresh.masks(1)])
        torch.testing.assert_close(opened, other.eval()(x))


def test_load_says_what_it_cannot_read(tmp_path):
    _, model = build('mlp', schedule=functools.partial(hat.schedules.exponential, above_one=0.5))
    hat.save(model, tmp_path / 'it.pt')
    with pytest.raises(ValueError, match=r'its schedule exponential\(above_one=0.5\) is not one of .*: pass schedule='):
        hat.load(tmp_path / 'it.pt', NETS['mlp']())
    other = hat.load(tmp_path / 'it.pt', NETS['mlp'](), schedule=model.schedule)
    assert same(answers(other, 2), answers(model, 2))
    torch.save({}, tmp_path / 'else.pt')
    with pytest.raises(ValueError, match='else.pt was not written by hat.save'):
        hat.load(tmp_path / 'else.pt', NETS['mlp']())
    for content in b'', b'weights', (tmp_path / 'it.pt').read_bytes()[:500]:
        (tmp_path / 'else.pt').write_bytes(content)
        with pytest.raises(ValueError, match='else.pt was not written by hat.save.., or is damaged$'):
            hat.load(tmp_path / 'else.pt', NETS['mlp']())


def refused_or_the_same(content, model):
    """Load a damaged file. True: it was refused in one line; False: it has all values."""
    try:
        other = hat.load(io.BytesIO(content), NETS['concatenated']())
    except ValueError as error:
        assert '\n' not in str(error) and 'was not written by hat.save(), or is damaged' in str(error)
        return True
    assert same(dict(other.state_dict()), dict(model.state_dict()))  # the damage is to nothing that is read
    return False


@pytest.mark.slow
def test_a_damaged_file_is_refused_and_never_loaded_with_other_values():
    _, model = build('concatenated')
    model.end_task(0)
    hat.save(model, file := io.BytesIO())
    whole, draw = file.getvalue(), random.Random(0)
    assert not refused_or_the_same(whole, model)
    assert all(refused_or_the_same(whole[:n], model) for n in range(0, len(whole), len(whole) // 40))
    weight = whole.find(model.net.stem.weight.detach().numpy().tobytes())
    checked = set()  # places in the parts of the archive, each of which has a checksum
    for part in zipfile.ZipFile(io.BytesIO(whole)).infolist():
        name, more = (int.from_bytes(whole[part.header_offset + n :][:2], 'little') for n in (26, 28))
        start = part.header_offset + 30 + name + more
        checked |= set(range(start, start + part.file_size))
    assert weight in checked
    for place in (weight + 3, *(draw.randrange(len(whole)) for _ in range(200))):
        content = bytearray(whole)
        content[place] ^= 1 << draw.randrange(8)
        assert refused_or_the_same(bytes(content), model) or place not in checked
    torch.serialization.set_crc32_options(False)
    try:
        hat.save(model, file := io.BytesIO())
    finally:
        torch.serialization.set_crc32_options(True)
    assert not refused_or_the_same(file.getvalue(), model)  # it has no checksums


def test_a_file_of_something_else_is_refused(tmp_path):
    _, model = build('mlp')
    hat.save(model, path := tmp_path / 'it.pt')
    content = torch.load(path, weights_only=True)
    others = [model.net.state_dict(), model.state_dict(), [1], 'settings', torch.zeros(2), content | {'settings': '[]'}]
    others += [{k: v for k, v in content.items() if k != key} for key in content]
    for other in others:
        torch.save(other, path)
        with pytest.raises(ValueError, match='it.pt was not written by hat.save.., or is damaged$'):
            hat.load(path, NETS['mlp']())
    for bytes_of in (
        pickle.dumps(content['settings']),
        b'\x89PNG\r\n\x1a\n',
        b'GIF89a',
        b'PK\x03\x04',
        b'{"settings": 1}',
    ):
        path.write_bytes(bytes_of)
        with pytest.raises(ValueError, match='it.pt was not written by hat.save.., or is damaged$'):
            hat.load(path, NETS['mlp']())
    torch.save(content | {'state': {}}, path)
    with pytest.raises(ValueError, match='it.pt does not fit this network, .*: Missing key'):
        hat.load(path, NETS['mlp']())


def test_saving_over_a_file_that_is_interrupted_leaves_it_as_it_was(tmp_path, monkeypatch):
    def stopped(content, path):
        with open(path, 'wb') as file:
            file.write(b'half')
        raise KeyboardInterrupt

    _, model = build('mlp')
    hat.save(model, path := tmp_path / 'it.pt')
    before = path.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, 'save', stopped)
        hat.save(model, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ['it.pt']
    (tmp_path / 'link.pt').symlink_to(path)
    model.end_task(0)
    hat.save(model, tmp_path / 'link.pt')
    assert path.read_bytes() != before and (tmp_path / 'link.pt').is_symlink()
    assert same(answers(hat.load(path, NETS['mlp']()), 0), answers(model, 0))


def test_saving_over_a_file_keeps_its_permissions(tmp_path, monkeypatch):
    """A file for its owner alone was readable by all, a write-protected one was replaced, and a folder that is
    read-only, or in which the file is of another user, was an error."""
    _, model = build('mlp')
    hat.save(model, path := tmp_path / 'it.pt')
    path.chmod(0o600)
    hat.save(model, path)
    assert path.stat().st_mode & 0o777 == 0o600

    def refused(*args, **kwargs):
        raise PermissionError

    model.end_task(0)
    for module, name in (tempfile, 'mkdtemp'), (os, 'replace'):
        path.write_bytes(b'')
        with monkeypatch.context() as patch:
            patch.setattr(module, name, refused)
            hat.save(model, path)
        assert same(answers(hat.load(path, NETS['mlp']()), 0), answers(model, 0)) and os.listdir(tmp_path) == ['it.pt']
    with monkeypatch.context() as patch:  # a write-protected file, which others than root cannot write, is not replaced
        patch.setattr(os, 'access', lambda *_: False)
        patch.setattr(tempfile, 'mkdtemp', None)
        hat.save(model, path)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_a_network_of_another_type_is_loaded_into_one_in_float32(dtype, tmp_path):
    """The example input in the file is of the other type."""
    net = NETS['mlp']()
    model = hat.convert(copy.deepcopy(net).to(dtype), 1, torch.randn(2, 3, 8, 8, dtype=dtype))
    model.end_task(0)
    hat.save(model, path := tmp_path / 'it.pt')
    assert same(answers(hat.load(path, net), 0), answers(model.float(), 0))


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_what_forward_changes_in_training_is_found_in_a_file_of_another_type(dtype, tmp_path):
    class Shrinking(nn.Sequential):
        def forward(self, x):
            output = super().forward(x)
            if self.training:
                with torch.no_grad():
                    self[0].weight.mul_(0.9)
            return output

    net = Shrinking(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model = hat.convert(copy.deepcopy(net).to(dtype), 2, torch.randn(4, 6, dtype=dtype))
    hat.save(model, path := tmp_path / 'it.pt')
    assert hat.load(path, net).plan.changed == model.plan.changed == ['0.weight']


def test_an_example_input_of_another_type_than_the_network_is_refused():
    """The network would not run on it in training, where convert() looks for what forward() changes."""
    with pytest.raises(ValueError, match='fails on example_input .*same dtype'):
        hat.convert(NETS['mlp'](), 1, torch.randn(2, 3, 8, 8, dtype=torch.float64))


def test_loading_into_another_network_is_one_line(tmp_path):
    _, model = build('flatten')
    hat.save(model, path := tmp_path / 'it.pt')
    wide = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 6),
                         nn.ReLU(), nn.Linear(6, 4))  # fmt: skip
    others = {
        'size mismatch for net.0.weight': wide,
        "gates: '0' is none of the layers that tasks share: 1": NETS['mlp'](),
        "gates: '0' is none": nn.Flatten(),
        'the network fails on example_input': nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 4)),
        'size mismatch for net.6': nn.Sequential(*NETS['flatten']()[:-1], nn.Linear(6, 5)),
        'Unexpected key.*bias': nn.Sequential(*NETS['flatten']()[:-1], nn.Linear(6, 4, bias=False)),
    }
    for message, other in others.items():
        with pytest.raises(ValueError, match=f'it.pt does not fit this network, .*{message}') as caught:
            hat.load(path, other)
        assert '\n' not in str(caught.value) and len(str(caught.value)) < 500
    with pytest.raises(TypeError, match='net must be an nn.Module, not NoneType'):
        hat.load(path, None)
    with pytest.raises(TypeError, match="unexpected argument 'gates'"):
        hat.load(path, NETS['flatten'](), gates=None)


@pytest.mark.parametrize('error', [MemoryError(), torch.OutOfMemoryError('CUDA out of memory.')])
def test_a_machine_without_memory_and_a_missing_file_are_not_a_damaged_file(error, tmp_path, monkeypatch):
    _, model = build('mlp')
    hat.save(model, path := tmp_path / 'it.pt')
    with pytest.raises(FileNotFoundError):
        hat.load(tmp_path / 'missing.pt', NETS['mlp']())
    with pytest.raises((IsADirectoryError, PermissionError)):
        hat.load(tmp_path, NETS['mlp']())

    def fails(*_, **__):
        raise error

    for owner, name in (torch, 'load'), (hat.Network, 'load_state_dict'):
        with monkeypatch.context() as patch, pytest.raises(type(error)):
            patch.setattr(owner, name, fails)
            hat.load(path, NETS['mlp']())


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x, scale=1.0):
        return self.head(F.relu(self.one(x * scale)))


def test_inputs_by_keyword():
    x = torch.randn(4, 8)
    for example in {'x': x}, (x,), x, ((x,), {'scale': 1.0}):
        model = hat.convert(Keywords(), 1, example).eval()
        model.end_task(0)
        assert same(model(x=x, scale=1.0, task=torch.tensor(0)), model(x, task=0))
        torch.testing.assert_close(hat.prune(model, 0)(x=x), model(x, task=0))


# What a review found: each was silent


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

    with pytest.raises(hat.CannotConvert, match='^a nested tensor in the top module .test_guarantee.py:'):
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

"""The GPU path, rehearsed on any machine.

On a tape, in place of a CUDA graph, a step is recorded, undone and replayed: what Python does is not repeated, nothing
may wait for a value, and no operation may be one that has no deterministic form on CUDA. Whole runs of taped steps end
as eager ones. On the device `meta`, whose tensors have no values, a tensor on the CPU by mistake does not mix with the
others. What this cannot see: time, memory, faults of kernels and of streams.
"""

import contextlib
import copy
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import test_speed
import torch
from conftest import same
from test_speed import TRAINED, marks, of, without_dropout
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hat
from approaches import APPROACHES
from approaches.common import steps as module
from approaches.common.optimizers import OPTIMIZERS
from approaches.common.steps import Graph, Steps, held
from approaches.sgd import SGD
from dataloaders import task
from hat.network import Network
from networks.layers import Linear

pair = test_speed.pair  # a fixture
WAITS = 'the step waits for a value'
WAITING = '_local_scalar_dense', 'nonzero', 'masked_select', '_unique2', 'unique_consecutive', 'unique_dim', 'equal'
COPIES = 'the step copies from the host'
# torch.use_deterministic_algorithms: on CUDA these raise an error
NONDETERMINISTIC = (
    'avg_pool3d_backward', '_adaptive_avg_pool2d_backward', '_adaptive_avg_pool3d_backward',
    'max_pool3d_with_indices_backward', 'adaptive_max_pool2d_backward', 'fractional_max_pool2d_backward',
    'fractional_max_pool3d_backward', 'max_unpool2d', 'max_unpool3d', 'upsample_linear1d_backward',
    'upsample_bilinear2d_backward', 'upsample_bicubic2d_backward', 'upsample_trilinear3d_backward',
    'reflection_pad1d_backward', 'reflection_pad2d_backward', 'reflection_pad3d_backward', 'replication_pad1d_backward',
    'replication_pad2d_backward', 'replication_pad3d_backward', 'nll_loss2d_forward', '_ctc_loss_backward', 'put_',
    'histc', 'bincount', 'kthvalue', 'median', 'grid_sampler_2d_backward', 'grid_sampler_3d_backward', 'cumsum',
    'scatter_reduce', 'resize_',
)  # fmt: skip


class Tape(TorchDispatchMode):
    """In place of torch.cuda.CUDAGraph, without a GPU: records the operations of a step with their tensors, undoes the
    step, and replays it. As in a CUDA graph, Python code does not run again."""

    def __init__(self):
        super().__init__()
        self.operations, self.before = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__
        assert name not in WAITING, f'{WAITS}: {name}'
        assert name not in ('lift_fresh', 'lift_fresh_copy'), f'{COPIES}: torch.tensor()'
        assert name not in NONDETERMINISTIC, f'not deterministic on CUDA: {name}'
        masks = [x for x in tree_leaves(args[1:]) if isinstance(x, torch.Tensor) and x.dtype == torch.bool]
        assert name != 'index' or not masks, f'{WAITS}: a shape depends on it'
        if func._schema.is_mutable:
            self.before += [(x, x.clone()) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        outputs = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, tree_leaves(outputs)))
        return outputs

    def __exit__(self, *exception):
        super().__exit__(*exception)
        with torch.no_grad():
            for x, value in reversed(self.before):
                x.copy_(value)

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, outputs in self.operations:
            for old, new in zip(outputs, tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture
def taped(monkeypatch):
    """torch.cuda, as far as Graph uses it, with a Tape as the graph; layers as on a GPU."""
    monkeypatch.setattr(Linear, 'forward', torch.nn.Linear.forward)
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(module, 'side_stream', lambda: stream)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda: stream)
    monkeypatch.setattr(torch.cuda, 'stream', lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, 'CUDAGraph', Tape)
    monkeypatch.setattr(torch.cuda, 'graph', lambda graph, stream: graph)


@pytest.mark.parametrize('name', [pytest.param(name, marks=marks(name)) for name in TRAINED])
def test_a_captured_step_replays_to_the_same_bits(pair, taped, name):
    ends = []
    for captured in False, True:
        approach, _ = pair(name, torch.float32)
        approach.net.train()
        steps = Steps(approach, 1)
        if captured:
            steps.run, steps.run_rest = Graph(), Graph()
        losses = []
        for epoch, lr in enumerate((0.05, 0.02)):
            order = torch.randperm(approach.n_train(1), generator=torch.Generator().manual_seed(epoch))
            losses.append(steps.epoch(order, lr, ''))
        assert not captured or len(steps.run.graph.operations) > 50
        ends.append((losses, of(approach)))
    assert ends[0][0] == ends[1][0]
    assert same(ends[0][1], ends[1][1])


@pytest.mark.slow
@pytest.mark.parametrize('optimizer', ['sgd', 'adamw'])
@pytest.mark.parametrize('name', [pytest.param(name, marks=marks(name)) for name in TRAINED])
def test_a_run_of_captured_steps_ends_with_the_same_bits(make_approach, monkeypatch, taped, name, optimizer):
    """All of learn(): what changes between epochs is seen by the replays, too."""
    more, ends = {'generations': 4} if 'generations' in APPROACHES[name].parameters else {}, []
    for captured in False, True:
        if captured:
            monkeypatch.setattr(module, 'runner', lambda approach, device: Graph(lambda: held(approach)))
        approach = make_approach(name, width=0.05, batch_size=16, nepochs=4, seed=1, optimizer=optimizer, **more)
        without_dropout(approach.net)
        losses = [[(e['train_loss'], e['valid_loss']) for e in approach.learn(t)] for t in range(2)]
        ends.append((losses, approach.net.state_dict()))
    assert ends[0][0] == ends[1][0]
    assert same(ends[0][1], ends[1][1])


@pytest.mark.slow
@pytest.mark.parametrize('schedule', hat.schedules.SCHEDULES)
@pytest.mark.parametrize('regularizer', hat.regularizers.REGULARIZERS)
def test_no_technique_of_hat_waits_for_the_device(pair, taped, schedule, regularizer):
    approach, _ = pair('hat', torch.float32, anneal=schedule, reg=regularizer, init='dense')
    approach.net.train()
    steps = Steps(approach, 1)
    steps.run, steps.run_rest = Graph(), Graph()
    steps.epoch(torch.arange(approach.n_train(1)), 0.05, '')
    assert steps.run.graph.operations


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_no_optimizer_and_no_augmentation_waits_for_the_device(pair, taped, optimizer):
    approach, _ = pair('hat', torch.float32)
    approach.protocol = replace(approach.protocol, optimizer=optimizer, augment='flip-crop')
    approach.net.train()
    ends = []
    for captured in False, True:
        torch.manual_seed(0)
        steps = Steps(approach, 1)
        if captured:
            steps.run, steps.run_rest = Graph(), Graph()
        before = {k: p.detach().clone() for k, p in of(approach).items()}
        steps.epoch(torch.arange(approach.n_train(1)), 0.001, '')
        ends.append({k: p.detach().clone() for k, p in of(approach).items()})
        assert not captured or len(steps.run.graph.operations) > 50
        with torch.no_grad():
            for k, p in of(approach).items():
                p.copy_(before[k])
    assert ends[0].keys() == ends[1].keys() and not same(ends[0], before)


@pytest.fixture
def step_on_meta(monkeypatch):
    """step_on_meta(approach): a step of a copy of the approach whose tensors are all on `meta`, the images' too."""
    for table in module.EXACT, task.LAYOUT, task.EVAL_BATCH:  # chosen by the device
        monkeypatch.setitem(table, 'meta', table['cuda'])

    def moved(tensor, memo):
        new = tensor.detach().to('meta')
        memo[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
        return memo[id(tensor)]

    def step(approach):
        with monkeypatch.context() as patch:
            for kind in torch.Tensor, nn.Parameter:
                patch.setattr(kind, '__deepcopy__', moved)
            approach = copy.deepcopy(approach)
        with monkeypatch.context() as patch:
            patch.setattr(Network, 'refresh', lambda self: None)  # looks at values, before a capture only
            Steps(approach, 1).full_batch()

    return step


@pytest.mark.parametrize('name', [pytest.param(name, marks=marks(name)) for name in TRAINED])
def test_a_step_makes_no_tensor_on_the_cpu(pair, step_on_meta, name):
    approach, _ = pair(name, torch.float32)
    approach.net.train()
    step_on_meta(approach)


# Planted faults


class Item(SGD):
    def after_step(self, t):
        self.net.heads[t].bias.data.mul_(self.net.heads[t].bias.sum().item() * 0 + 1)


class Number(SGD):
    def loss(self, x, y, t, progress):
        loss, logits = super().loss(x, y, t, progress)
        self.last = float(loss)
        return loss, logits


class Condition(SGD):
    def after_backward(self, t, progress):
        if self.net.heads[t].bias.grad.norm() > 1:
            self.net.heads[t].bias.grad.zero_()


class Selection(SGD):
    def loss(self, x, y, t, progress):
        return super().loss(x[y > 0], y[y > 0], t, progress)


class Places(SGD):
    def loss(self, x, y, t, progress):
        first = y.nonzero().squeeze(1)
        return super().loss(x.index_select(0, first), y.index_select(0, first), t, progress)


class Rebinding(SGD):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sum = torch.zeros(())

    def after_step(self, t):
        self.sum = self.sum + 1


class Constant(SGD):
    def after_step(self, t):
        self.net.heads[t].bias.data += torch.tensor(0.01, device=self.net.heads[t].bias.device)


class Frozen(SGD):
    n = 0

    def after_step(self, t):
        self.n += 1
        self.net.heads[t].bias.data.add_(self.n / 1000)


class HostRandom(SGD):
    def after_step(self, t):
        self.net.heads[t].bias.data.add_(random.random() / 1000)


class Kth(SGD):
    def after_step(self, t):
        bias = self.net.heads[t].bias.data
        bias.sub_(bias.kthvalue(2).values)


class OtherDevice(SGD):
    def loss(self, x, y, t, progress):
        loss, logits = super().loss(x, y, t, progress)
        return loss + (torch.ones(len(y)) * logits[:, 0]).mean(), logits


PLANTED = {
    Item: WAITS,
    Number: WAITS,
    Condition: WAITS,
    Selection: WAITS,
    Places: WAITS,
    Constant: COPIES,
    Rebinding: 'replaces the tensor self.sum',
    Frozen: 'differ',
    HostRandom: 'differ',
    Kth: 'not deterministic',
    OtherDevice: 'meta',
}


@pytest.mark.parametrize('fault', PLANTED, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(pair, taped, step_on_meta, fault):
    """By the rehearsals, in their order: on the tape, against eager steps, on `meta`."""

    def planted():
        approach, _ = pair('sgd', torch.float32)
        faulty = fault(approach.net, approach.tasks, approach.protocol)
        faulty.net.train()
        return faulty

    def rehearse():
        random.seed(0)
        ends = []
        for captured in False, True:
            steps = Steps(approach := planted(), 1)
            if captured:
                steps.run = Graph(lambda: held(approach))  # noqa: B023  used at once
            steps.epoch(torch.arange(approach.n_train(1)), 0.05, '')
            ends.append(of(approach))
        assert same(*ends), 'taped and eager steps differ'
        step_on_meta(planted())

    with pytest.raises((AssertionError, RuntimeError), match=PLANTED[fault]):
        rehearse()

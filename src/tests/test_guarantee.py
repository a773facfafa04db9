"""Nothing reaches a learned task: no write of any kind, no copy of any kind, no step of another thread."""

import copy
import io
import multiprocessing
import pickle
import random
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from conftest import same
from nets import NETS
from test_convert import OPTIMIZERS, answers, build, learn
from test_properties import FLAT, STEPS, Random
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

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

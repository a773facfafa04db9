"""Speed changes no result: training steps against those of the eager loop, and what a CUDA graph requires of a step."""

import copy
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import same
from torch.utils.flop_counter import FlopCounterMode

import dataloaders
import hat
import networks
from approaches import APPROACHES, build
from approaches.common.steps import Graph, Steps, eagerly
from approaches.common.training import Protocol
from benchmarks import eager_loop, scaling, speed, workers
from core import seeds
from core.device import setup_device
from core.errors import UserError, exit_code
from dataloaders import mixture, task
from dataloaders.archives import sources
from networks.dropout import Activation, Dropout, keep
from networks.layers import ImageConvolution, Linear

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
TRAINED = [name for name in APPROACHES if name != 'random']
STEPS, BATCH = 51, 10  # 170 images of training and 30 of validation make whole batches


def marks(approach):
    """All approaches together take long: without the slow tests, two of them."""
    return () if approach in ('hat', 'sgd') else pytest.mark.slow


def without_dropout(net):
    for module in net.modules():
        if isinstance(module, (Activation, Dropout)):
            module.p = 0


def in_float64(task):
    """The task, its batches in float64."""
    batch = task.batch

    def batch64(images, index):
        x, y = batch(images, index)
        return x.double(), y

    object.__setattr__(task, 'batch', batch64)
    return task


@pytest.fixture
def pair(small_data):
    """pair('hat', ...): the approach, ready for its second task, and an eager trainer in the same state."""

    def make(name, dtype=torch.float64, device='cpu', width=0.05, **settings):
        both = []
        for eager in False, True:
            data = mixture.read(('mnist', 'svhn'), small_data, 0)
            data = [task.make(d, mixture.SHAPE, 0).to(device) for d in data]
            data = [in_float64(d) for d in data] if dtype == torch.float64 else data
            approach = build(name, 'mixture', data, Protocol(batch_size=BATCH), width, settings)
            without_dropout(approach.net.to(dtype))
            net, weights = approach.net, copy.deepcopy(approach.net.state_dict())
            values = approach.defaults() | settings  # made again: what it makes of the network is of this dtype, too
            approach = type(approach)(net, data, approach.protocol, **values)
            net.load_state_dict(weights)
            if eager:
                eager_loop.use_stock_layers(approach.net)
            approach.before_task(0)
            if hasattr(approach, 'hidden'):
                with torch.no_grad():
                    for l, e in enumerate(approach.hidden.tasks[0].embeddings):  # masks between 0 and 1
                        e.copy_(0.02 * torch.randn(e.shape, generator=seeds.generator(l), dtype=torch.float64))
            approach.after_task(0)
            approach.before_task(1)
            both.append(approach)
        return both[0], eager_loop.eager_trainer(both[1], name, 1)

    return make


def of(approach):
    """The weights that a step may change, by their names in the eager trainer."""
    net = approach.net
    if not hasattr(net, 'hidden'):
        return dict(net.named_parameters())
    embeddings = {f'e.{l}': e for l, e in enumerate(net.hidden.tasks[1].embeddings)}
    heads = {f'heads.{name}': p for name, p in net.heads.named_parameters()}
    return {f'hidden.{name}': p for name, p in net.hidden.net.named_parameters()} | heads | embeddings


# As released, section 2.5 takes gates of float32 in float64, too: a difference of 1e-16 in s e may become one of 6e-8
# in the gate, which is multiplied by up to exp(50).
CASES = [('hat', {'gradient': 'released'}, 1e-5), ('adahat', {'gradient': 'exact', 'alpha': 0.01}, 1e-10)]
CASES += [
    pytest.param(name, {'gradient': 'exact'} if APPROACHES[name].variant == 'hat' else {}, 1e-10, marks=marks(name))
    for name in TRAINED
]


@pytest.mark.slow
@pytest.mark.parametrize('name, settings, tolerance', CASES)
def test_fifty_steps_end_where_eager_ones_do(pair, name, settings, tolerance):
    approach, trainer = pair(name, **settings)
    approach.net.train()
    trainer.net.train()
    n, steps, before = approach.n_train(1), Steps(approach, 1), {k: p.detach().clone() for k, p in of(approach).items()}
    for epoch in range(STEPS * BATCH // n):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(epoch))
        batches = order.split(BATCH)
        losses = [trainer.step(index, b / (len(batches) - 1)) for b, index in enumerate(batches)]
        assert steps.epoch(order, trainer.protocol.lr, '') == pytest.approx(sum(losses) / len(losses), rel=tolerance)
    expected = dict(trainer.net.named_parameters())
    for k, p in of(approach).items():
        torch.testing.assert_close(p, expected[k], rtol=tolerance, atol=tolerance)
    assert sum(not same(p, before[k]) for k, p in of(approach).items()) >= 2
    assert approach.evaluate(1, approach.tasks[1].valid) == pytest.approx(trainer.evaluate('valid'), rel=tolerance)


def test_a_large_fully_connected_layer_computes_the_same_by_onednn():
    """oneDNN is used in float32 only, the steps above are in float64: in training, and in inference mode, which does
    not record a graph of the network. Its FLOPs are counted."""
    torch.manual_seed(0)
    fast, plain = Linear(1100, 1000), torch.nn.Linear(1100, 1000)
    plain.load_state_dict(fast.state_dict())
    x, slopes = torch.randn(17, 1100), torch.randn(17, 1000)
    results, flops = [], []
    for layer in fast, plain:
        with FlopCounterMode(display=False, custom_mapping=workers.ONEDNN) as counter:
            images = x.clone().requires_grad_()
            y = layer(images)
            y.backward(slopes)
        results.append([y, images.grad, layer.weight.grad, layer.bias.grad])
        flops.append(counter.get_flop_counts()['Global'])
    assert (torch.ops.mkldnn._linear_pointwise in flops[0]) == torch.backends.mkldnn.is_available()
    assert [sum(counts.values()) for counts in flops] == [3 * 2 * 17 * 1100 * 1000] * 2
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5)
    assert same(fast.eval()(x), plain(x))
    with torch.inference_mode():
        assert same(fast(x), results[0][0])


@pytest.mark.parametrize('layout', [torch.channels_last, torch.contiguous_format])
def test_the_first_convolution_has_the_gradients_of_pytorchs(layout):
    torch.manual_seed(0)
    x, w, b = (torch.randn(shape, dtype=torch.float64) for shape in ((5, 3, 9, 9), (7, 3, 4, 4), 7))
    x, weights = x.contiguous(memory_format=layout), (w.requires_grad_(), b.requires_grad_())
    y, expected = ImageConvolution.apply(x, w, b), F.conv2d(x, w, b)
    assert same(y, expected)
    slopes = torch.randn_like(y)
    for ours, theirs in zip(*(torch.autograd.grad(each, weights, slopes) for each in (y, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_convolutions_leave_out_only_what_no_feature_depends_on():
    for size, side in (32, 27), (45, 43), (64, 59):
        net = networks.build('alexnet', '', (3, size, size), [10], 0.1, 0).eval()
        assert net.blocks[0][0].side == side
        x = torch.rand(8, 3, size, size, requires_grad=True)
        few = net.features(x)
        eager_loop.use_stock_layers(net)
        every = net.eval().features(x)
        torch.testing.assert_close(few, every)
        (slopes,) = torch.autograd.grad(every.sum(), x)
        read = slopes.abs().sum((0, 1)).nonzero()
        assert read.max(0).values.tolist() == [side - 1] * 2


@pytest.mark.parametrize('layout', [torch.channels_last, torch.contiguous_format])
def test_a_seed_drops_the_same_values_of_a_part_of_an_output(layout):
    masks = []
    for side in 28, 24:
        torch.manual_seed(0)
        masks.append(keep(torch.empty(3, 5, side, side).contiguous(memory_format=layout), 0.2, 28))
    assert same(masks[0][..., :24, :24], masks[1]) and 0.7 < masks[1].float().mean() < 0.9


def test_a_schedule_of_tensors_is_that_of_numbers():
    for name, schedule in hat.schedules.SCHEDULES.items():
        for progress in 0.0, 0.3, 1.0:
            given = schedule(torch.tensor(progress, dtype=torch.float64), 400.0)
            assert float(given) == pytest.approx(schedule(progress, 400.0), rel=1e-12), name


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize('name', TRAINED)
def test_a_graph_ends_where_eager_steps_do_on_a_gpu(pair, name):
    ends = []
    for captured in False, True:
        approach, _ = pair(name, torch.float32, setup_device('cuda'))
        approach.net.train()
        steps = Steps(approach, 1)
        assert isinstance(steps.run, Graph)
        if not captured:
            steps.run = steps.run_rest = eagerly
        losses = [steps.epoch(torch.arange(approach.n_train(1)).cuda(), 0.05, '') for _ in range(3)]
        ends.append((losses, of(approach)))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-4)
    for k, p in ends[0][1].items():
        torch.testing.assert_close(p, ends[1][1][k], rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@needs_cuda
def test_replays_draw_new_dropout_and_follow_the_seed_on_a_gpu():
    net, x = Activation(0.5, pool=False).cuda(), torch.ones(100, 100, device='cuda')
    out = torch.empty_like(x)
    graph = Graph()
    drawn = []

    def step():
        out.copy_(net(x.clone()))

    for _ in range(2):
        torch.manual_seed(3)
        drawn.append([])
        for _ in range(6):
            graph(step)
            drawn[-1].append(out.clone())
    assert not same(drawn[1][4], drawn[1][5])
    torch.manual_seed(3)
    for value in drawn[1]:
        graph(step)
        assert same(out, value)


@pytest.mark.slow
def test_the_benchmark_measures_all_setups_in_each_round(small_data, tmp_path, capsys):
    output = tmp_path / 'speed.json'
    arguments = ['--approaches', 'hat,sgd', '--experiment', 'mixture', '--data', str(small_data), '--ntrain', '150',
                 '--width', '0.02', '--rounds', '2', '--device', 'cpu', '--output', str(output)]  # fmt: skip
    assert exit_code('speed.py', speed.main, arguments) == 0
    record = json.loads(output.read_text())
    assert [row['approach'] for row in record['table']] == ['hat', 'sgd']
    assert {(each['approach'], each['way']) for each in record['seconds']} == {
        (name, setup) for name in ('hat', 'sgd') for setup in speed.SETUPS
    }
    for each in record['seconds']:
        rounds = each['train, train again, valid']
        assert len(rounds) == 2 and all(train > 0 and valid > 0 for train, _, valid in rounds)
        assert each['way'] == 'ours' or all(again > 0 for _, again, _ in rounds)
    facts = record['facts']['hat']
    assert facts['images'] == 128 and facts['valid'] == 22 and facts['flops'] > 0 and facts['peak'] > 50e6
    screen = capsys.readouterr().out
    assert screen.count('\n| hat |') == 1 and 'GFLOP/s' in screen


def test_ratios_are_medians_of_the_ratios_within_a_round():
    """Not the ratio of the medians, 4 / 2 of a step."""
    args = SimpleNamespace(batch_size=50, approaches=['hat', 'sgd'])
    ours, eager = [[1, 0, 1], [2, 0, 2], [3, 0, 3]], [[3, 1, 1], [4, 1, 3], [12, 1, 8]]
    times = {(n, s): t for n in ('hat', 'sgd') for s, t in zip(speed.SETUPS, (ours, eager, eager), strict=True)}
    profile = {'images': 100, 'valid': 100, 'flops': 10, 'bytes': 20, 'peak': 5e6}
    row = speed.row('hat', args, times, profile, 20, 100)
    assert row['step, ms'] == '1000.0' and row['images/s'] == '50' and row['epoch, s'] == '4.00'
    assert row['lower bound, ms'] == '500.0' and row['step, x lower bound'] == '2.00'
    assert row['speed-up: step'] == '3.00' and row['speed-up: epoch'] == '2.50'
    assert row['step, x sgd'] == '1.00' and row['memory, MB'] == '5'


def test_a_smaller_last_batch_counts_with_its_images():
    args = SimpleNamespace(batch_size=50, approaches=['sgd'])
    times = {('sgd', setup): [[1.5, 0, 0.5]] for setup in speed.SETUPS}
    profile = {'images': 75, 'valid': 40, 'flops': 10, 'bytes': 20, 'peak': 5e6}
    row = speed.row('sgd', args, times, profile, 20, 100)
    assert row['images/s'] == '50' and row['step, ms'] == '1000.0'  # 75 images in 1.5 s
    assert row['evaluation of 64, ms'] == '800.0'  # 40 in 0.5 s, whatever the size of the batches


@pytest.mark.slow
def test_flops_of_a_step_are_those_of_the_layers(small_data):
    """Of each layer, 2 for each weight, position and image, forward, and twice that backward; not to the images."""
    args = SimpleNamespace(device='cpu', experiment='mixture', data=small_data, ntrain=150, width=0.02, batch_size=16)
    profile = workers.TrainingSetup(args, 'sgd', False).profile()
    net = networks.build('alexnet', '', (3, 32, 32), [10], 0.02, 0)
    sides = 24, 10, 4, 1, 1
    weights = [block[-2].weight.numel() * side**2 for block, side in zip(net.blocks, sides, strict=True)]
    head = net.units[-1] * dataloaders.load('mixture', small_data, 0)[workers.TASK].n_classes
    assert profile['flops'] == 2 * 16 * (2 * weights[0] + 3 * sum(weights[1:]) + 3 * head)


def test_bad_arguments_of_the_benchmark_are_one_line(tmp_path, capsys):
    for arguments in ['--approaches', 'random'], ['--output', str(tmp_path / 'none' / 'x.json')], ['--rounds', '0']:
        assert exit_code('speed.py', speed.main, arguments) == 2
        assert capsys.readouterr().err.count('\n') == 1
    for arguments in ['--measure', 'speed'], ['--processes', '1,x']:
        assert exit_code('benchmark.py', scaling.main, arguments) == 2
        printed = capsys.readouterr()
        assert printed.err.count('\n') == 1 and not printed.out


@pytest.mark.slow
def test_scaling_measures_more_tasks_than_ten(small_data, capsys):
    arguments = ['--measure', 'tasks', '--data', str(small_data), '--ntasks', '12', '--ntrain', '100', '--nepochs', '1',
                 '--width', '0.01']  # fmt: skip
    assert exit_code('benchmark.py', scaling.main, arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(' | ')[0] for line in lines if line.startswith('| 1')] == ['| 1', '| 10', '| 12']
    assert re.fullmatch(r'network [\d.]+ MB, record [\d.]+ MB, peak of memory \d+ MB, \d+ s in all', lines[-2])


@pytest.mark.slow
def test_scaling_measures_a_batch_of_tiny_runs(small_data, capsys):
    assert (
        exit_code('benchmark.py', scaling.main, ['--measure', 'batch', '--data', str(small_data), '--runs', '3']) == 0
    )
    runs, *seconds = capsys.readouterr().out.splitlines()[2].strip('| ').split(' | ')
    whole, work, rest = map(float, seconds)
    assert runs == '3' and 0 < rest < whole and whole == pytest.approx(work + rest, abs=0.011)


def test_times_to_start_are_medians_of_numbers(monkeypatch, tmp_path):
    """Not of texts, of which '10' is before '9'."""
    printed = iter(['1.5', '10', '9', '2', '12', '', '9.5 400', '10.5 400', '8.25 400', '11 400', '9.75 400'])
    monkeypatch.setattr(scaling, 'python', lambda *command: next(printed))
    assert scaling.start(None, tmp_path).splitlines()[-1] == '| 9.00 | 9.75 | 400 |'


def test_random_data_for_the_benchmark_load_as_the_mixture(tmp_path, monkeypatch, capsys):
    small = {name: source._replace(n_train=200, n_test=20) for name, source in sources.SOURCES.items()}
    monkeypatch.setattr(sources, 'SOURCES', small)
    scaling.write_random_data(tmp_path)
    scaling.time_loading(tmp_path)
    assert capsys.readouterr().out.split()[1] == str(8 * 220)


def test_permuted_tasks_share_their_images(small_data):
    tasks = dataloaders.load('pmnist', small_data, 0, None, 12)
    assert sorted(int(t.name.removeprefix('pmnist-')) for t in tasks) == list(range(12))
    x, y, *_ = np.load(small_data / 'mnist.npz').values()
    for each in tasks[:3]:
        permutation = np.random.RandomState(int(each.name.removeprefix('pmnist-'))).permutation(28 * 28)
        images, labels = each.batch(each.train, torch.arange(20))
        chosen = each.train.index[:20].numpy()
        expected = (x[chosen].reshape(20, -1)[:, permutation] / 255 - 0.1307) / 0.3081
        np.testing.assert_allclose(images.numpy().reshape(20, -1), expected, atol=1e-5)
        assert labels.tolist() == y[chosen].tolist()
    with pytest.raises(UserError, match='there are 8 tasks'):
        dataloaders.load('mixture', small_data, 0, None, 12)

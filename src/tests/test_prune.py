"""Networks pruned to one task: small, plain, with the outputs of the masked network (section 4.4)."""

import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import hat
import plot_results
import prune
import run
from core.errors import UserError, exit_code
from dataloaders import npz
from hat import pruning
from networks import gated
from runs import saved as saved_run

NETWORKS = {
    'alexnet': lambda: gated.GatedAlexNet((3, 32, 32), [5, 3], 0.1),
    'mlp': lambda: gated.GatedMLP((1, 28, 28), [5, 3], 0.02),
}


@torch.no_grad()
def attention(net, task, kind):
    """Masks as after training: hard, soft at both ends and between, or with an empty layer."""
    generator, hidden = torch.Generator().manual_seed(3), net.hidden
    for e in hidden.tasks[task].embeddings:
        e.uniform_(-0.7, 1, generator=generator)
    if kind == 'empty':
        hidden.tasks[task].embeddings[1].fill_(-1)
    hidden.hard, hidden.s_max = kind != 'soft', 50
    return hidden.masks(task)


@pytest.mark.parametrize('kind', ['hard', 'soft', 'empty'])
@pytest.mark.parametrize('family', NETWORKS)
@torch.no_grad()
def test_the_small_network_is_plain_and_has_the_masked_outputs(family, kind):
    torch.manual_seed(0)
    net = NETWORKS[family]().eval()
    masks = attention(net, 1, kind)
    small = net.pruned(1)
    x = torch.randn(40, *((3, 32, 32) if family == 'alexnet' else (1, 28, 28)))
    torch.testing.assert_close(small(x), net(x, 1, masks), rtol=1e-5, atol=1e-5)
    assert not any(module._forward_hooks or type(module).__module__.startswith('hat.') for module in small.modules())
    units = [m.weight.shape[0] for m in small.modules() if hasattr(m, 'weight')]
    kept = [int((a > 1e-8).sum()) or 1 for a in masks]
    assert units == [*kept, 3]
    if kind == 'hard':  # the paper's count of weights
        weights = sum(p.numel() for p in small[0].parameters())
        assert weights == sum(hat.capacity.count_weights(net.hidden, hat.capacity.active(masks)))


def test_pruning_does_not_change_the_original_network():
    net = NETWORKS['mlp']().eval()
    attention(net, 0, 'hard')
    before = {name: value.clone() for name, value in net.state_dict().items()}
    small = net.pruned(0)
    for p in small.parameters():
        p.data.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


RUN = ['--approach', 'hat', '--experiment', 'mixture', '--tasks', 'mnist,svhn', '--width', '0.1', '--nepochs', '6',
       '--batch-size', '16', '--device', 'cpu', '--parameter', 'c=2,init=uniform']  # fmt: skip


@pytest.fixture(scope='module')
def finished_run(small_data, tmp_path_factory):
    """The folder of a finished run of two tasks, with its network."""
    folder = tmp_path_factory.mktemp('run')
    assert run.cli([*RUN, '--data', str(small_data), '--output', str(folder / 'mixture_hat_0.txt'), '--save']) == 0
    return folder


@pytest.fixture
def saved(finished_run, tmp_path):
    """The record of a copy of it."""
    shutil.copytree(finished_run, tmp_path, dirs_exist_ok=True)
    return tmp_path / 'mixture_hat_0.json'


def prune_cli(*arguments):
    return exit_code('prune.py', prune.main, [*map(str, arguments), '--rounds', '2'])


WITHOUT_US = """
import json, sys, torch
x, name = torch.load('x.pt'), sys.argv[1]
torch.save(torch.export.load(f'{name}.pt2').module()(x), 'y.pt')
assert not any('src' in path for path in sys.path) and 'hat' not in sys.modules
"""


@pytest.mark.slow
def test_times_are_of_the_network_without_masks_and_of_the_pruned_one(saved, monkeypatch):
    """Masks take time of their own: the gain by pruning is not theirs."""
    timed = []

    def milliseconds(networks, task, *_):
        timed.append((networks, next(task.batches(task.test))[0]))
        return [2, 1]

    monkeypatch.setattr(prune, 'milliseconds', milliseconds)
    assert prune_cli(saved, '--tasks', 'mnist') == 0
    for (plain, small), x in timed:
        assert not any(isinstance(module, hat.Network) for module in plain.modules())
        sizes = [sum(p.numel() for p in network.parameters()) for network in (plain, small)]
        assert sizes[0] > sizes[1] and torch.allclose(plain(x), small(x), atol=1e-5)


@pytest.mark.slow
def test_each_task_of_a_run_is_exported_and_works_without_this_repository(saved, small_data, capsys):
    assert prune_cli(saved) == 0
    folder = saved.with_name('mixture_hat_0_pruned')
    assert {p.name for p in folder.iterdir()} == {f'{t}.{s}' for t in ('mnist', 'svhn') for s in ('pt', 'pt2', 'json')}
    screen, accuracy = capsys.readouterr().out, np.loadtxt(saved.with_suffix('.txt'))[1]
    device = torch.device('cpu')
    approach = saved_run.with_data(saved, saved_run.read(saved), None, device)
    for t, name in enumerate(('mnist', 'svhn')):
        report = json.loads((folder / f'{name}.json').read_text())
        assert report['accuracy'] == pytest.approx(accuracy[t], abs=5e-5) and report['images'] == 40
        sizes = [(folder / f'{name}.{suffix}').stat().st_size for suffix in ('pt', 'pt2')]
        assert sizes[1] < sizes[0] + 150_000  # and not the 480 kB of all test images
        assert report['largest_difference'] < 1e-5
        active = json.loads(saved.read_text())['monitor']['active'][t]
        assert report['weights'][1] == sum(active) < report['weights'][0]
        weights = torch.load(folder / f'{name}.pt')
        assert report['parameters'][1] == sum(p.numel() for p in weights.values()) < report['parameters'][0]
        assert report['bytes'][1] == (folder / f'{name}.pt').stat().st_size < report['bytes'][0]
        assert all(time > 0 for pair in report['milliseconds'].values() for time in pair)
        assert f'{100 * sum(active) / report["weights"][0]:.1f}' in screen
        task = approach.tasks[t]
        x, _ = task.batch(task.test, slice(None))
        grey = report['input']
        pixels = torch.full((1, *grey['shape']), 100.0)
        mean, std = (torch.tensor(grey[key]).view(1, -1, 1, 1) for key in ('mean', 'std'))
        assert ((pixels - mean) / std).shape == x[:1].shape
        assert torch.equal(mean, task.mean) and torch.equal(std, task.std)
    torch.save(x.contiguous(), folder / 'x.pt')
    subprocess.run([sys.executable, '-I', '-c', WITHOUT_US, name], cwd=folder, check=True)
    with torch.no_grad():
        masked = approach.net.eval()(x, t, approach.hidden.masks(t))
    torch.testing.assert_close(torch.load(folder / 'y.pt'), masked, rtol=1e-5, atol=1e-5)


def test_the_report_says_what_a_permuted_task_takes_as_input(small_data, tmp_path):
    output = tmp_path / 'out.txt'
    command = ['--approach', 'hat', '--experiment', 'pmnist', '--tasks', 'pmnist-3', '--data', str(small_data)]
    small = ['--width', '0.1', '--nepochs', '8', '--batch-size', '16', '--output', str(output), '--save']
    assert run.cli([*command, *small, '--device', 'cpu']) == 0 and prune_cli(output.with_suffix('.json')) == 0
    folder = tmp_path / 'out_pruned'
    report = json.loads((folder / 'pmnist-3.json').read_text())
    _, _, x, y, _ = npz.load(small_data / 'mnist.npz')
    x = torch.tensor(x).flatten(1)[:, report['input']['pixels']].view(-1, *report['input']['shape'])
    small = torch.export.load(folder / 'pmnist-3.pt2').module()
    logits = small((x - report['input']['mean'][0]) / report['input']['std'][0])
    assert float((logits.argmax(1) == torch.tensor(y)).double().mean()) == report['accuracy'] > 0.5


@pytest.mark.slow
def test_onnx_has_the_same_outputs(saved):
    pytest.importorskip('onnx', reason='ONNX is not installed')
    runtime = pytest.importorskip('onnxruntime', reason='ONNX Runtime is not installed')
    assert prune_cli(saved, '--onnx', '--tasks', 'svhn') == 0
    folder = saved.with_name('mixture_hat_0_pruned')
    assert {p.name for p in folder.iterdir()} == {f'svhn.{s}' for s in ('pt', 'pt2', 'json', 'onnx')}
    session, x = runtime.InferenceSession(folder / 'svhn.onnx'), torch.randn(7, 3, 32, 32)
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(
        torch.from_numpy(y), torch.export.load(folder / 'svhn.pt2').module()(x), rtol=1e-4, atol=1e-4
    )


def test_outputs_agree_within_1e_5_of_the_largest_and_in_every_prediction():
    """Rounding of a small output is that of the large terms that it sums."""
    before = torch.tensor([[0.5, 0.2], [100.0, 3.0]])
    prune.check('it', before, before + torch.tensor([[9e-6, 0], [9e-4, 9e-4]]))
    nan = torch.tensor([[0, 0], [torch.nan, 0]])  # PyTorch takes it for the largest number
    for wrong in (
        before + torch.tensor([[1.1e-5, 0], [0, 0]]),
        before + torch.tensor([[0, 0], [0, 1.1e-3]]),
        before + nan,
    ):
        with pytest.raises(UserError, match='differ by'):
            prune.check('it', before, wrong)
    tie = torch.tensor([[1.0, 1.0 - 5e-7]])
    with pytest.raises(UserError, match='a prediction of the pruned network differs'):
        prune.check('it', tie, tie.flip(1))


@pytest.mark.slow
def test_an_exported_network_that_differs_is_not_written(saved, monkeypatch, capsys):
    right = prune.exported

    def wrong(small, x):
        small[-1].bias.data[0] += 1e-3
        return right(small, x)

    monkeypatch.setattr(prune, 'exported', wrong)
    assert prune_cli(saved, '--tasks', 'mnist') == 2
    assert 'mnist, exported: outputs of the pruned network differ by 0.001' in capsys.readouterr().err
    assert not list(saved.with_name('mixture_hat_0_pruned').iterdir())


def test_times_are_interleaved_medians_per_image_after_a_warm_up(make_approach, monkeypatch):
    """By a clock that only the networks advance."""
    calls, clock, warm_up = [], [0.0], [9.0] * prune.WARM_UP
    seconds = {'before': [*warm_up, 0.04, 5.0, 0.02], 'after': [*warm_up, 0.01, 0.03, 0.02]}

    def network(name):
        remaining = iter(seconds[name])

        def forward(x):
            assert len(x) == 4
            calls.append(name)
            clock[0] += next(remaining)
            return x

        return forward

    monkeypatch.setattr(prune, 'time', SimpleNamespace(perf_counter=lambda: clock[0]))
    times = prune.milliseconds(list(map(network, seconds)), make_approach('hat').tasks[0], 4, 3)
    expected = [1000 * statistics.median(s[prune.WARM_UP :]) / 4 for s in seconds.values()]
    assert times == pytest.approx(expected) and expected == [10, 5]
    assert calls == ['before', 'after'] * 6


def test_the_accuracy_of_a_run_is_checked_in_its_own_precision(make_approach, tmp_path):
    """In bf16 two logits are equal, and the first one counts; in float32 they are not."""
    approach = make_approach('hat', precision='bf16', hard=1, nepochs=1)
    approach.learn(0)
    head, task = approach.net.heads[0], approach.tasks[0]
    with torch.no_grad():
        head.weight.zero_()
        head.bias[:2] = torch.tensor([100.0, 100.1])
    approach.tasks[0] = replace(task, test=task.test._replace(y=torch.zeros_like(task.test.y)))
    report = prune.prune(approach, 0, 1.0, tmp_path / 'mnist', {}, SimpleNamespace(rounds=1, onnx=False))
    assert report['accuracy'] == 0
    with pytest.raises(UserError, match='100.0 % here, 0.0 % in its run'):
        prune.prune(approach, 0, 0.0, tmp_path / 'mnist', {}, SimpleNamespace(rounds=1, onnx=False))


def test_prune_says_that_it_computes_in_float32(saved, monkeypatch):
    record = json.loads(saved.read_text())
    record['arguments']['precision'] = 'bf16'
    saved.write_text(json.dumps(record))
    monkeypatch.setattr(saved_run, 'check_accuracy', lambda *accuracies: None)
    with pytest.warns(UserWarning, match='with --precision bf16: the small networks compute in float32'):
        assert prune_cli(saved, '--tasks', 'mnist') == 0


@pytest.mark.slow
def test_a_network_that_differs_is_not_written(saved, monkeypatch, capsys):
    assert prune_cli(saved, '--tasks', 'mnist') == 0
    right = gated.Gated.pruned

    def wrong(self, t):
        small = right(self, t)
        small[-1].bias.data[0] += 1e-3
        return small

    monkeypatch.setattr(gated.Gated, 'pruned', wrong)
    assert prune_cli(saved, saved, '--tasks', 'mnist') == 2  # and continues with the next result
    assert capsys.readouterr().err.count('mnist: outputs of the pruned network differ by 0.001') == 2
    assert prune_cli(saved) == 2
    assert 'mnist: outputs of the pruned network differ by 0.001' in capsys.readouterr().err
    assert not list(saved.with_name('mixture_hat_0_pruned').iterdir())


def test_bad_input_is_one_line(saved, tmp_path, monkeypatch, capsys):
    (tmp_path / 'sgd.json').write_text(json.dumps({'arguments': {'approach': 'sgd'}}))
    (tmp_path / 'less.json').write_text(json.dumps({'arguments': {'approach': 'hat'}}))
    (tmp_path / 'other.json').write_bytes(saved.read_bytes())
    (tmp_path / 'torn.json').write_bytes(saved.read_bytes())
    (tmp_path / 'torn.pt').write_bytes(saved.with_suffix('.pt').read_bytes()[:999])
    for arguments, message in (
        ([tmp_path / 'none.json'], 'no such file'),
        ([tmp_path / 'sgd.json'], 'not the record of a finished run of hat'),
        ([tmp_path], 'not the record of a finished run of hat'),
        ([tmp_path / 'less.json'], 'not the record of a run of this version'),
        ([tmp_path / 'other.json'], 'run.py --save writes it'),
        ([tmp_path / 'torn.json'], 'not the network of torn.json'),
        ([saved, '--tasks', 'moon'], "'moon' is none of mnist, svhn"),
        ([saved, '--data', tmp_path], 'mnist'),
    ):
        assert prune_cli(*arguments) == 2
        err = capsys.readouterr().err
        assert err.startswith('prune.py: error: ') and err.count('\n') == 1 and message in err
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert prune_cli(saved, '--onnx') == 2
    assert capsys.readouterr().err == 'prune.py: error: --onnx needs ONNX: pip install onnx onnxscript\n'


@pytest.mark.slow
def test_the_table_of_pruned_networks_has_sgd_beside_them(saved, tmp_path, capsys):
    """SGD has learned the tasks in another order here."""
    assert prune_cli(saved, '--tasks', 'svhn') == 0
    np.savetxt(tmp_path / 'mixture_sgd_0.txt', [[0.876, 0], [0.2, 0.9]], '%.4f')
    hat, page = json.loads(saved.read_text()), tmp_path / 'page.html'
    command = ['--experiment', 'mixture', '--seeds', '0', '--approaches', 'hat,sgd', '--res', str(tmp_path)]

    def plot(*more, **changes):
        """With the record of HAT, but for changes, as the record of SGD."""
        parts = {key: hat[key] for key in ('arguments', 'tasks', 'versions')} | changes
        parts['arguments'] = parts['arguments'] | {'approach': 'sgd', 'parameter': {}}
        (tmp_path / 'mixture_sgd_0.json').write_text(json.dumps(parts))
        capsys.readouterr()
        assert exit_code('plot_results.py', plot_results.main, [*command, '--html', str(page), *more]) == 0
        return capsys.readouterr().out.replace('svhn!', 'svhn')  # two epochs teach little

    line = plot(tasks=hat['tasks'][::-1]).splitlines()[-1].split()
    assert line[:3] == ['0', 'svhn', '87.6*'] and line[3] == f'{100 * np.loadtxt(saved.with_suffix(".txt"))[1, 1]:.1f}'
    assert 'largest_difference' in page.read_text()
    line = plot('--mixed', arguments=hat['arguments'] | {'nepochs': 1}).splitlines()[-1].split()
    assert line[:3] == ['0', 'svhn', '-'] or line[:4] == ['0', 'svhn', '(mixed)', '-']
    report = tmp_path / 'mixture_hat_0_pruned' / 'svhn.json'
    good = report.read_text()
    for text in '{', json.dumps(json.loads(good) | {'bytes': [1, 0]}):
        report.write_text(text)
        out = plot()
        assert f'left out: {report}: ' in out and '→' not in out
    report.write_text(good)
    for changes in {'model': 'f' * 32}, {'arguments': hat['arguments'] | {'lr': 0.1}}:
        saved.write_text(json.dumps(hat | changes))  # the run has been replaced since it was pruned
        assert '→' not in plot('--mixed')


@pytest.mark.slow
def test_a_run_without_its_network_is_repeated_if_it_is_to_be_saved(saved, small_data):
    arguments = json.loads(saved.read_text())['arguments']
    assert 'save' not in arguments
    command = [*RUN, '--data', str(small_data), '--output', str(saved.with_suffix('.txt'))]
    model, written = saved.with_suffix('.pt'), saved.stat().st_mtime_ns
    before = model.read_bytes()
    assert run.cli([*command, '--save']) == 0 and saved.stat().st_mtime_ns == written
    model.unlink()
    assert run.cli(command) == 0 and saved.stat().st_mtime_ns == written
    assert run.cli([*command, '--save']) == 0 and saved.stat().st_mtime_ns != written
    assert model.read_bytes() == before


class Cropped(torch.nn.Module):
    """Two convolutions; what the second one reads is cut by `crop`."""

    def __init__(self, crop, channels):
        super().__init__()
        self.crop = crop
        self.first, self.second = torch.nn.Conv2d(3, 12, 3), torch.nn.Conv2d(channels, 8, 2)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, x):
        h = self.crop(torch.relu(self.first(x)))
        return self.head(torch.relu(self.second(h)).mean((2, 3)))


CROPS = {
    'sides': (lambda h: h[:, :, 1:, :4], 12, True),
    'padding': (lambda h: torch.nn.functional.pad(h, (0, -1, 0, -2)), 12, True),
    'channels': (lambda h: h[:, 2:8], 6, False),  # code that names units by their numbers keeps them all
}


@pytest.mark.parametrize('name', CROPS)
@torch.no_grad()
def test_what_is_cropped_along_its_sides_can_be_cut(name):
    crop, channels, cut = CROPS[name]
    torch.manual_seed(0)
    model = hat.convert(Cropped(crop, channels), 1, torch.zeros(2, 3, 9, 9)).eval()
    model.tasks[0].embeddings[0][::2] = -1
    small, x = hat.prune(model, 0), torch.randn(5, 3, 9, 9)
    torch.testing.assert_close(small(x), model(x, task=0), rtol=1e-5, atol=1e-5)
    assert (len(small.first.weight) < 12) == cut


class Looks(torch.nn.Module):
    """Operations that return no tensor, and a product of halves that are cut by the same sizes as the input."""

    def __init__(self, by_size):
        super().__init__()
        self.first, self.second, self.head = torch.nn.Linear(6, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 3)
        self.by_size = by_size

    def forward(self, x, mask):
        if not bool(mask.all()) or mask.sum().item() > 100:
            x = x * mask[:, None]
        h = torch.relu(self.first(x))
        if self.by_size:  # what is reshaped is not what is cut
            return self.head(torch.relu(self.second(h)).reshape(len(x), h.shape[1]))
        return self.head(torch.relu(self.second(h)))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('by_size', [False, True])
@torch.no_grad()
def test_a_network_that_looks_at_values_and_sizes_is_cut_or_left_as_it_is(by_size):
    torch.manual_seed(0)
    mask = torch.tensor([1.0, 1, 1, 0, 1])
    model = hat.convert(Looks(by_size), 1, (torch.randn(5, 6), mask)).eval()
    model.end_task(0)
    x, small = torch.randn(5, 6), hat.prune(model, 0)
    torch.testing.assert_close(small(x, mask), model(x, mask, task=0), rtol=1e-5, atol=1e-5)
    assert (small.second.weight.numel() < 64) != by_size


def test_a_network_that_cannot_be_cut_stays_whole_with_a_warning(monkeypatch):
    torch.manual_seed(0)
    model = hat.convert(
        torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)), 1, torch.randn(5, 6)
    )
    model.end_task(0)

    def wrong(net, inputs):
        small = pruning_cut(net, inputs)
        small[2].bias.data += 1
        return small

    pruning_cut = pruning.remove_zero_channels
    monkeypatch.setattr(pruning, 'remove_zero_channels', wrong)
    with pytest.warns(UserWarning, match='task 0 cannot be pruned and keeps the size of the network: its outputs'):
        net = hat.prune(model, 0)
    assert net[0].weight.shape == (8, 6)


class Constant(torch.nn.Module):
    def __init__(self, *values):
        super().__init__()
        self.register_buffer('values', torch.tensor(values))

    def forward(self, x):
        return self.values * x


@pytest.mark.parametrize('values, why', [((1.0, 2.0), ''), ((1.0, float('inf')), 'its outputs would differ by inf'),
                                         ((1.0, 2.0, 3.0), 'its outputs would have another shape')])  # fmt: skip
def test_why_a_smaller_network_does_not_replace_a_network_is_said(values, why):
    x = torch.ones(1)
    assert pruning.difference(Constant(1.0, 2.0), Constant(*values), ((x,), {})) == why


@pytest.mark.parametrize('padded', [True, False])
def test_padding_in_a_transformer_encoder_is_the_same_when_pruned(padded):
    """It is warned of, too, where the example has a mask and no padding, but later inputs may have some."""
    torch.manual_seed(0)

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
            self.encoder, self.head = torch.nn.TransformerEncoder(layer, 2), torch.nn.Linear(16, 3)

        def forward(self, x, padding):
            return self.head(self.encoder(x, src_key_padding_mask=padding).mean(1))

    x, padding = torch.randn(4, 6, 16), torch.arange(6).expand(4, 6) > torch.tensor([[5], [4], [3], [5]])
    with pytest.warns(UserWarning, match='TransformerEncoder sets padded positions to zero'):
        model = hat.convert(Encoder(), 1, (x, padding & padded)).eval()
    model.end_task(0)
    with torch.no_grad():
        torch.testing.assert_close(hat.prune(model, 0)(x, padding), model(x, padding, task=0), rtol=1e-5, atol=1e-5)


def test_a_network_with_another_accuracy_than_its_run_is_not_written(saved, capsys):
    """As when the code has changed since, such as the normalization of images."""
    record = json.loads(saved.read_text())
    record['accuracy'][-1] = [a / 2 for a in record['accuracy'][-1]]
    saved.write_text(json.dumps(record))
    assert prune_cli(saved) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and '% here' in err and '% in its run' in err
    del record['accuracy']
    saved.write_text(json.dumps(record))
    assert prune_cli(saved) == 2 and capsys.readouterr().err.count('\n') == 1


@pytest.mark.slow
@pytest.mark.parametrize(('failing', 'pruned'), [(0, 'svhn'), (1, 'mnist')])
def test_a_task_that_fails_takes_no_other_out_of_the_table(failing, pruned, saved, monkeypatch, capsys):
    right = gated.Gated.pruned

    def wrong(self, t):
        small = right(self, t)
        small[-1].bias.data[0] += t == failing
        return small

    monkeypatch.setattr(gated.Gated, 'pruned', wrong)
    assert prune_cli(saved) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith(f'mixture_hat_0  {pruned} ') and err.count('\n') == 1
    assert f'{["mnist", "svhn"][failing]}: outputs of the pruned network' in err and f'{pruned}: ' not in err

"""Departures from the paper's protocol, by choice: optimizer, schedule, augmentation, precision."""

import json
import math

import pytest
import torch
from conftest import assert_equal, outputs, same

import run
from approaches.base import Approach
from approaches.common.optimizers import OPTIMIZERS, AdamW, Momentum
from approaches.common.training import DEPARTURES
from dataloaders.augment import flip_crop
from reports.records import load

ALL = ['--optimizer', 'adamw', '--schedule', 'cosine', '--augment', 'flip-crop', '--precision', 'bf16', '--lr', '0.002']


@pytest.fixture
def start(small_data, tmp_path):
    """start('a.txt', ...): run.py on two small tasks; returns its exit code."""

    def start(name, *more, approach='hat'):
        arguments = ['--approach', approach, '--experiment', 'mixture', '--tasks', 'mnist,svhn', '--width', '0.05',
                     '--ntrain', '60', '--nepochs', '4', '--device', 'cpu', '--data', str(small_data)]  # fmt: skip
        return run.cli([*arguments, '--output', str(tmp_path / name), *more])

    return start


def problem():
    """Parameters of one and of two dimensions, and a function that sets their gradients anew."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    parameters = [torch.nn.Parameter(draw(3, 4)), torch.nn.Parameter(draw(5)), torch.nn.Parameter(draw(2))]

    def backward():
        for p in parameters[:2]:  # the third has none, as the heads of other tasks
            p.grad = draw(*p.shape)

    return parameters, backward


@pytest.mark.parametrize('clip', [1e9, 0.5])
@pytest.mark.parametrize('name', ['momentum', 'adamw'])
def test_optimizers_are_those_of_pytorch(name, clip):
    ends = []
    for ours in True, False:
        parameters, backward = problem()
        if ours:
            optimizer = OPTIMIZERS[name](parameters, torch.tensor(0.01, dtype=torch.float64))
        elif name == 'momentum':
            optimizer = torch.optim.SGD(parameters, 0.01, momentum=Momentum.momentum)
        else:
            groups = [
                {'params': parameters[:1], 'weight_decay': AdamW.decay},
                {'params': parameters[1:], 'weight_decay': 0},
            ]
            optimizer = torch.optim.AdamW(groups, 0.01)
        for _ in range(7):
            backward()
            if ours:
                optimizer.step(clip)
            else:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
                optimizer.step()
        ends.append([p.detach() for p in parameters])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # AdamW counts its steps in float32


def test_flip_crop_mirrors_and_shifts_each_image_on_its_own():
    torch.manual_seed(0)
    x = torch.randn(40, 3, 16, 24)
    black = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    found = flip_crop(x, black)
    padded = black.expand(40, 3, 20, 30).clone()
    padded[:, :, 2:-2, 3:-3] = x
    chosen = []
    for i, image in enumerate(found):
        candidates = {
            (dy, dx, mirrored): padded[i, :, dy : dy + 16, dx : dx + 24]
            for dy in range(5) for dx in range(7) for mirrored in (False, True)
        }  # fmt: skip
        fits = [
            key for key, crop in candidates.items()
            if same(image, crop.flip(2) if key[2] else crop)
        ]  # fmt: skip
        assert len(fits) == 1
        chosen += fits
    assert len({key[:2] for key in chosen}) > 10 and 8 < sum(key[2] for key in chosen) < 32


@pytest.mark.slow
def test_a_run_with_all_departures_learns_says_so_and_resumes_to_the_same_bits(start, tmp_path, monkeypatch):
    assert start('a.txt', *ALL) == 0
    record = json.loads((tmp_path / 'a.json').read_text())
    assert [record['arguments'][name] for name in DEPARTURES] == ['adamw', 'cosine', 'flip-crop', 'bf16']
    for log in record['epochs']:
        assert [e['lr'] for e in log] == pytest.approx([0.001 * (1 + math.cos(math.pi * i / 4)) for i in range(4)])
    epoch, left = Approach.train_epoch, [0]

    def limited(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return epoch(*args)

    monkeypatch.setattr(Approach, 'train_epoch', limited)
    codes = []
    while not codes or codes[-1]:
        left[0] = 2
        codes.append(start('b.txt', *ALL))
    assert codes[-1] == 0 and set(codes[:-1]) == {130} and len(codes) >= 4  # eight epochs, at most two at a time
    assert_equal(tmp_path, 'a', 'b')


@pytest.mark.slow
@pytest.mark.parametrize('name', DEPARTURES)
def test_each_departure_changes_the_result_and_the_papers_choice_does_not(start, tmp_path, name):
    paper, other, *_ = DEPARTURES[name]
    assert start('plain.txt') == start('named.txt', f'--{name}', paper) == start('other.txt', f'--{name}', other) == 0
    assert_equal(tmp_path, 'plain', 'named')
    records = [json.loads((tmp_path / f'{each}.json').read_text()) for each in ('plain', 'other')]
    assert records[0]['epochs'] != records[1]['epochs']
    facts = [load(tmp_path / f'{each}.txt', 'mixture', 'hat', 0).facts for each in ('plain', 'other')]
    assert (facts[0][name], facts[1][name]) == (None, other)


def test_permuted_pixels_are_not_shifted(start, capsys):
    assert start('a.txt', '--experiment', 'pmnist', '--augment', 'flip-crop') == 2
    assert 'the pixels of pmnist are permuted' in capsys.readouterr().err


def test_pathnet_has_no_other_schedule(start, capsys):
    assert start('a.txt', '--schedule', 'cosine', approach='pathnet') == 2
    assert '--schedule' in capsys.readouterr().err


@pytest.mark.parametrize('departure', [{'optimizer': 'momentum'}, {'optimizer': 'adamw'}, {'precision': 'bf16'}])
def test_hat_forgets_nothing_whatever_the_departure(make_approach, departure):
    approach = make_approach('hat', hard=1, nepochs=3, **departure, lr=0.005)
    approach.learn(0)
    learned = outputs(approach, 0)
    approach.learn(1)
    assert same(outputs(approach, 0), learned)


@pytest.mark.parametrize('name', ['hat', 'joint', 'er', 'pnn'])  # that compute their losses in ways of their own
def test_bf16_is_of_products_and_not_of_weights(make_approach, name):
    approach, kinds = make_approach(name, nepochs=1, precision='bf16'), {True: set(), False: set()}

    def watch(module, inputs, output):
        if torch.is_autocast_enabled('cpu'):  # it is not where end_task() of the library compares outputs
            kinds[module.training].add(output.dtype)

    for m in approach.net.modules():
        if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d)):
            m.register_forward_hook(watch)
    approach.learn(0)
    assert kinds == {True: {torch.bfloat16}, False: {torch.bfloat16}}
    assert {p.dtype for p in approach.net.parameters()} == {torch.float32}
    assert not torch.is_autocast_enabled('cpu')
    assert {p.grad.dtype for p in approach.net.parameters() if p.grad is not None} == {torch.float32}


def test_tf32_needs_cuda(start, capsys):
    assert start('a.txt', '--precision', 'tf32') == 2
    assert capsys.readouterr().err == 'run.py: error: --precision: tf32 is for CUDA devices, not for cpu\n'

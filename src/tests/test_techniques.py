"""Ways to start, anneal and regularize masks, each against its definition."""

import math

import numpy as np
import pytest
import torch

import hat
import run
from core.hyperparameters import show


def test_initializations():
    e, generator = torch.empty(20000), torch.Generator().manual_seed(0)
    hat.init.normal(e, generator)
    assert e.mean().item() == pytest.approx(0, abs=0.03) and e.std().item() == pytest.approx(1, abs=0.03)
    hat.init.uniform(e, generator)
    assert e.min() >= 0 and e.max() <= 2 and e.mean().item() == pytest.approx(1, abs=0.03)
    hat.init.uniform(e, generator, low=-3, high=-1)
    assert e.min() >= -3 and e.max() <= -1 and e.mean().item() == pytest.approx(-2, abs=0.03)
    hat.init.dense(e)
    assert (e == 1).all()


@pytest.mark.parametrize('s_max', [25, 400])
def test_schedules(s_max):
    p = np.linspace(0, 1, 11)
    cosine = [hat.schedules.cosine(x, s_max) for x in p]
    assert cosine[0] == cosine[-1] == s_max and cosine[5] == pytest.approx(1 / s_max)
    assert cosine == pytest.approx([1 / s_max + (s_max - 1 / s_max) * (1 + math.cos(2 * math.pi * x)) / 2 for x in p])
    exponential = [hat.schedules.exponential(x, s_max) for x in p]
    assert exponential[-1] == s_max and exponential[2] == pytest.approx(1)  # above 1 in the last 80 %
    factors = [b / a for a, b in zip(exponential, exponential[1:], strict=False)]
    assert factors == pytest.approx([factors[0]] * 10) and factors[0] > 1
    assert {hat.schedules.constant(x, s_max) for x in p} == {s_max}
    for schedule in hat.schedules.SCHEDULES.values():
        assert schedule(1.0, s_max) == s_max


def test_regularizers():
    generator = torch.Generator().manual_seed(1)
    sizes, n_tasks = (3, 50, 4), 5
    a, c = ([torch.rand(n, generator=generator, dtype=torch.float64) for n in sizes] for _ in range(2))
    a[0][:], c[0][:] = 0.9, 0.1  # of the first layer much is free, and more in use than its quota
    a[1] *= 0.1  # of the second, less
    by_layer, quota = [], []
    for l, n in enumerate(sizes):
        attended = sum(x * (1 - y) for x, y in zip(a[l].tolist(), c[l].tolist(), strict=True))
        free = sum(1 - y for y in c[l].tolist())
        by_layer.append(attended / free)
        quota.append(max(0, attended - n / n_tasks) / free)
    assert 0 in quota and max(quota) > 0
    assert hat.regularizers.by_layer(a, c, n_tasks).item() == pytest.approx(sum(by_layer) / 3)
    assert hat.regularizers.quota(a, c, n_tasks).item() == pytest.approx(sum(quota) / 3)
    assert hat.regularizers.by_network(a, c, n_tasks).item() == hat.functional.regularization(a, c).item()
    assert hat.regularizers.by_layer(a, None, n_tasks).item() == pytest.approx(sum(x.mean().item() for x in a) / 3)
    first = [max(0.0, x.mean().item() - 1 / n_tasks) for x in a]
    assert hat.regularizers.quota(a, None, n_tasks).item() == pytest.approx(sum(first) / 3)
    full = [torch.ones_like(x) for x in c]
    assert [regularizer(a, full, n_tasks).item() for regularizer in hat.regularizers.REGULARIZERS.values()] == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize('parameter', ['init=dense,anneal=cosine', 'init=uniform,low=-1,high=1,reg=quota',
                                       'anneal=exponential,reg=layer', 'anneal=constant'])  # fmt: skip
def test_run_py_can_choose_them(small_data, tmp_path, parameter):
    arguments = ['--approach', 'hat', '--experiment', 'mixture', '--tasks', 'mnist,svhn', '--width', '0.05',
                 '--nepochs', '2', '--device', 'cpu', '--data', small_data, '--output', tmp_path / 'out.txt',
                 '--parameter', parameter]  # fmt: skip
    assert run.cli(map(str, arguments)) == 0
    accuracy = np.loadtxt(tmp_path / 'out.txt')
    assert accuracy[1, 0] == pytest.approx(accuracy[0, 0], abs=0.05)


def test_the_approach_uses_what_was_chosen(make_approach):
    approach = make_approach('hat', init='dense', anneal='cosine', reg='layer', smax=100.0)
    assert (torch.cat(list(approach.hidden.tasks[1].embeddings)) == 1).all()
    x, y = approach.tasks[0].batch(approach.tasks[0].train, slice(0, 9))
    approach.net.eval()
    loss, logits = approach.loss(x, y, 0, 0.5)
    a = torch.sigmoid(torch.ones(1) * 0.01).item()  # of each unit, at half of an epoch
    expected = torch.nn.functional.cross_entropy(logits, y) + 0.75 * a
    assert loss.item() == pytest.approx(expected.item())


@pytest.mark.parametrize('parameter, message', [
    ('init=uniform,low=3', 'low=3 is above high=2'),
    ('low=-1', 'low and high are bounds of init=uniform, not of init=normal'),
])  # fmt: skip
def test_bounds_of_the_uniform_initialization_are_checked(small_data, tmp_path, capsys, parameter, message):
    out = tmp_path / 'out.txt'
    arguments = ['--approach', 'hat', '--experiment', 'mixture', '--device', 'cpu', '--data', small_data]
    assert run.cli(map(str, [*arguments, '--output', out, '--parameter', parameter])) == 2
    assert capsys.readouterr().err == f'run.py: error: --parameter: {message}\n'


def test_the_text_of_hyperparameters_gives_the_same_values():
    values = {'lamb': 0.12345678, 'c': 0.75, 'buffer': 12345678, 'share': 'equal'}
    assert show(values) == 'lamb=0.12345678,c=0.75,buffer=12345678,share=equal'

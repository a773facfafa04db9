"""SI and MAS: the importance of a weight is what their papers say, by loops over weights and images."""

import copy

import pytest
import test_resume
import torch
import torch.nn.functional as F
from conftest import record, same
from test_approaches import TASKS, extra_loss, shake
from torch import nn

import run
from approaches import APPROACHES
from approaches.common import steps
from core import seeds
from networks.dropout import Activation, Dropout

command = test_resume.command  # a fixture
WEIGHT = {'si': 'c', 'mas': 'lamb'}  # of the penalty
OWN = 'arguments', 'code', 'model', 'stored', 'times'  # entries of a record in which two approaches differ


@pytest.mark.slow
@pytest.mark.parametrize('name', WEIGHT)
def test_without_its_penalty_it_is_sgd_bit_for_bit(command, tmp_path, name):
    for approach, more in (name, ['--parameter', f'{WEIGHT[name]}=0']), ('sgd', []):
        run.main(command(approach, f'{approach}.txt', '--save', *more))
    assert (tmp_path / f'{name}.txt').read_bytes() == (tmp_path / 'sgd.txt').read_bytes()
    saved, expected = (torch.load(tmp_path / f'{approach}.pt')['model'] for approach in (name, 'sgd'))
    assert same(dict(saved[0] if name == 'si' else saved), dict(expected))
    records = [record(tmp_path / f'{approach}.json') for approach in (name, 'sgd')]
    ours, theirs = ({key: value for key, value in each.items() if key not in OWN} for each in records)
    assert ours == theirs and len(ours['epochs']) == 3


@pytest.mark.parametrize('name', WEIGHT)
def test_the_penalty_changes_what_is_learned_after_the_first_task(make_approach, name):
    free, held = (make_approach(name, nepochs=1, **{WEIGHT[name]: weight}) for weight in (0.0, 0.1))
    for approach in free, held:
        approach.learn(0)
    assert same(free.net.state_dict(), held.net.state_dict())
    assert all(importance.any() for importance in held.importance)
    for approach in free, held:
        approach.learn(1)
    assert not same(free.net.state_dict(), held.net.state_dict())


@pytest.mark.parametrize('name', WEIGHT)
def test_the_penalty_is_zero_at_the_old_weights_and_quadratic_elsewhere_in_evaluation_too(make_approach, name):
    approach = make_approach(name, nepochs=1, **{WEIGHT[name]: 3.0})
    assert extra_loss(approach, 0) == 0  # nothing is old yet
    approach.learn(0)
    assert extra_loss(approach, 1) == 0
    for value, importance in enumerate(approach.importance, 1):
        importance.fill_(value)
    distances = [(step**2).sum().item() for step in shake(approach.shared)]
    expected = 3 * sum(value * distance for value, distance in enumerate(distances, 1))
    assert extra_loss(approach, 1) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize('name', WEIGHT)
def test_a_parameter_that_the_network_does_not_use_stays(make_approach, name):
    made = make_approach(name, nepochs=1)
    unused = nn.Parameter(torch.ones(2))
    made.net.blocks[0].register_parameter('unused', unused)
    approach = APPROACHES[name](made.net, made.tasks, made.protocol, **made.defaults())
    for t in range(2):
        approach.learn(t)
    assert unused.tolist() == [1, 1]
    (place,) = (i for i, p in enumerate(approach.shared) if p is unused)
    assert not approach.importance[place].any()


# SI


def by_hand(net, task, t, c, xi, old, importance, orders, lr):
    """Train the network on these batches, a list for each epoch; returns the new importance, a list of numbers."""
    omega = [0.0] * len(old)
    for order in orders:
        for index in order:
            x, y = task.batch(task.train, index)
            shared, head = list(net.blocks.parameters()), list(net.heads[t].parameters())
            gradient = torch.autograd.grad(F.cross_entropy(net(x, t), y), shared + head)
            with torch.no_grad():
                for p, g in zip(head, gradient[len(shared) :], strict=True):
                    p -= lr * g
                start, slopes = numbers(shared), numbers(gradient[: len(shared)])
                values = []
                for i, (p, g) in enumerate(zip(start, slopes, strict=True)):
                    step = -lr * (g + 2 * c * importance[i] * (p - old[i]))
                    omega[i] -= g * step
                    values.append(p + step)
                nn.utils.vector_to_parameters(torch.tensor(values), shared)
    new = numbers(net.blocks.parameters())
    return [max(I + w / ((p - q) ** 2 + xi), 0) for I, w, p, q in zip(importance, omega, new, old, strict=True)]


def numbers(tensors):
    return [value for tensor in tensors for value in tensor.flatten().tolist()]


def test_si_against_a_loop_over_single_weights(make_approach, monkeypatch):
    """Three epochs a task, of which the second is the best: weights and omega are those of the second."""
    c, xi, lr = 2.0, 0.01, 0.05
    approach = make_approach('si', width=0.02, nepochs=3, batch_size=60, c=c, xi=xi)
    for module in approach.net.modules():
        if isinstance(module, (Activation, Dropout)):
            module.p = 0
    net = copy.deepcopy(approach.net)
    old, importance = numbers(net.blocks.parameters()), [0.0] * len(numbers(net.blocks.parameters()))
    for t, task in enumerate(approach.tasks):
        losses = iter([4.0, 3.0, 1.0, 2.0, 1.0])  # the first: before the task; the last: of the model that is kept
        monkeypatch.setattr(approach, 'evaluate', lambda t, images, losses=losses: (next(losses), 0.0))
        approach.learn(t)
        n = len(task.train.y)
        orders = [torch.randperm(n, generator=seeds.generator(0, 'batches', t, epoch)).split(60) for epoch in range(2)]
        before, importance = importance, by_hand(net, task, t, c, xi, old, importance, orders, lr)
        old = numbers(net.blocks.parameters())
        assert numbers(approach.shared) == pytest.approx(old, rel=1e-4, abs=1e-6)
        assert numbers(approach.old) == numbers(approach.shared)
        assert numbers(approach.importance) == pytest.approx(importance, rel=1e-2, abs=1e-5 * max(importance))
        assert sum(importance) > sum(before) and max(importance) > 1e-3


@pytest.mark.parametrize('omega, expected', [(1.0, 4.0), (-0.5, 1.0), (-2.0, 0.0)])
def test_si_takes_a_negative_omega_off_the_importance_but_not_below_zero(make_approach, omega, expected):
    approach = make_approach('si', xi=0.25)
    for p, old, importance, path in zip(approach.shared, approach.old, approach.importance, approach.path, strict=True):
        old.copy_(p.detach() - 0.5)
        importance.fill_(2)
        path.fill_(omega)
    approach.after_task(1)
    for importance in approach.importance:  # 2 + omega / (0.5^2 + 0.25)
        torch.testing.assert_close(importance, torch.full_like(importance, expected))


def test_a_step_of_si_replaces_no_tensor(make_approach):
    """Or its replays on a GPU would not see the new one."""
    approach = make_approach('si')
    approach.before_task(0)
    before = steps.held(approach)
    approach.train_epoch(0, 0, 0.05)
    now = steps.held(approach)
    steps.check_held({name: address for name, address in before.items() if name in now}, now)
    assert approach.path[0].any()


# MAS


@pytest.mark.slow
def test_mas_sums_over_tasks_the_mean_sensitivity_of_the_squared_output_of_single_images(make_approach):
    approach = make_approach('mas', TASKS, nepochs=1)
    net, shared = approach.net, approach.shared
    expected = [torch.zeros_like(p) for p in shared]
    for t, task in enumerate(approach.tasks):
        approach.learn(t)
        net.eval()
        for i in range(len(task.train.y)):
            x, _ = task.batch(task.train, slice(i, i + 1))
            output = sum(logit**2 for logit in net(x, t)[0])
            for total, gradient in zip(expected, torch.autograd.grad(output, shared), strict=True):
                total += gradient.abs() / len(task.train.y)
        for omega, e in zip(approach.importance, expected, strict=True):
            torch.testing.assert_close(omega, e, rtol=1e-3, atol=1e-6)
            assert not omega.requires_grad and e.sum() > 0

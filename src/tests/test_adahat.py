"""AdaHAT and the settings of HAT-CL: HAT, but for what they claim."""

import pytest
import torch
from conftest import outputs, same

from approaches import APPROACHES

TASKS = ('mnist', 'cifar10', 'svhn')


def learned(approach):
    """The state after all tasks, and what the epochs have measured."""
    logs = [approach.learn(t) for t in range(len(approach.tasks))]
    measured = [[epoch | {'seconds': 0} for epoch in log] for log in logs]
    return {name: value.clone() for name, value in approach.net.state_dict().items()}, measured


@pytest.mark.slow
@pytest.mark.parametrize('more', [{}, {'smax': 25.0, 'reg': 'quota'}])
def test_adahat_without_its_adaptivity_is_hat_bit_for_bit(make_approach, more):
    settings = {'nepochs': 2, 'lr': 0.2, 'batch_size': 16, **more}
    expected, log = learned(make_approach('hat', TASKS, **settings))
    found, its_log = learned(make_approach('adahat', TASKS, alpha=0.0, **settings))
    assert same(found, expected) and its_log == log
    other, _ = learned(make_approach('adahat', TASKS, alpha=0.1, **settings))
    assert not same(other, expected)


@pytest.mark.parametrize('smax', [400.0, 5.0])  # almost binary masks, and others
def test_each_gradient_is_multiplied_with_the_rate_of_the_formulas(make_approach, smax):
    """Weight by weight, in a fully connected and the first convolutional layer; what is blocked is not zero."""
    approach = make_approach('adahat', TASKS, alpha=0.05, epsilon=0.2, smax=smax, width=0.06, nepochs=1)
    for t in range(2):
        approach.learn(t)
    approach.before_task(2)
    approach.adapt(2, torch.tensor(0.5))
    hidden = approach.hidden
    earlier = [[a.tolist() for a in hidden.masks(u)] for u in range(2)]
    now = [a.tolist() for a in hidden.masks(2, approach.scale(0.5))]
    rates = dict(hidden.factors)
    for name, l in {'blocks.0.0.weight': 0, 'blocks.0.0.bias': 0, 'blocks.4.1.weight': 4}.items():
        free = [1 - max(e[l][i] for e in earlier) for i in range(len(now[l]))]
        sparsity = sum(a * f for a, f in zip(now[l], free, strict=True)) / (sum(free) or 1)
        r = 0.05 / (0.2 + sparsity)
        rate = rates[name].flatten(1)[:, : len(earlier[0][3])] if rates[name].ndim > 1 else rates[name][:, None]
        for i, row in enumerate(rate.tolist()):
            for j, found in enumerate(row):
                units = [(l, i)] if l == 0 else [(l, i), (l - 1, j)]
                used = min(max(e[k][m] for e in earlier) for k, m in units)
                n = max(1, min(sum(e[k][m] for e in earlier) for k, m in units))
                assert found == pytest.approx(1 - used + used * r / (n + r), rel=1e-4)
    assert min(rate.min() for rate in rates.values()) > 0.01


@pytest.mark.slow
def test_weights_that_more_tasks_use_move_less_and_earlier_outputs_change_little(make_approach):
    settings = {'nepochs': 2, 'lr': 0.2, 'batch_size': 16, 'init': 'dense', 'c': 0.0}  # all tasks use all units
    moved = {}
    for alpha in 0.0, 0.01, 0.1:
        approach = make_approach('adahat', TASKS, alpha=alpha, **settings)
        approach.learn(0)
        before, logits = approach.hidden.net.state_dict(), outputs(approach, 0)
        before = {name: value.clone() for name, value in before.items()}
        approach.learn(1)
        after = approach.hidden.net.state_dict()
        moved[alpha] = sum((after[name] - value).abs().sum().item() for name, value in before.items())
        assert same(outputs(approach, 0), logits) == (alpha == 0)
        approach.before_task(2)
        approach.adapt(2, 1.0)
        r = alpha / approach.epsilon  # nothing is free
        for name, factor in approach.hidden.factors.items():
            torch.testing.assert_close(factor, torch.full_like(factor, r / (2 + r)), msg=name)
    assert 0 == moved[0.0] < moved[0.01] < moved[0.1]


def test_adahat_has_no_hard_masks():
    """With these the library keeps the weights of learned tasks as they are."""
    assert set(APPROACHES['hat'].parameters) - set(APPROACHES['adahat'].parameters) == {'hard'}


@pytest.mark.slow
def test_hat_cl_is_hat_with_its_settings_bit_for_bit(make_approach):
    settings = {'c': 1.0, 'smax': 100.0, 'hard': 1, 'init': 'dense', 'anneal': 'cosine', 'reg': 'quota'}
    common = {'nepochs': 2, 'batch_size': 16}
    expected = learned(make_approach('hat', TASKS[:2], **common, **settings))
    found = learned(make_approach('hat-cl', TASKS[:2], **common))
    assert same(found[0], expected[0]) and found[1] == expected[1]
    assert list(APPROACHES['hat-cl'].parameters) == list(APPROACHES['hat'].parameters)

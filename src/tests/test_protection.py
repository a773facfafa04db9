"""What HAT promises: what a task uses, later tasks do not change."""

import pytest
import torch
from conftest import outputs, same

TASKS = ('mnist', 'cifar10', 'svhn')


def learn(approach, t):
    """Train task t; how much of each weight's use is cumulated before it, name -> min(a_out, a_in)."""
    learned, use = approach.hidden.cumulative, {}
    approach.learn(t)
    for name, p in approach.hidden.net.named_parameters() if learned else ():
        l = int(name.split('.')[1])
        a = learned[l].view(-1, *[1] * (p.ndim - 1))
        if l and p.ndim > 1:
            inputs = learned[l - 1].repeat_interleave(p.shape[1] // len(learned[l - 1]))
            a = torch.minimum(a, inputs.view(1, -1, *[1] * (p.ndim - 2)))
        use[f'hidden.net.{name}'] = a.expand_as(p)
    return use


@pytest.mark.slow
@pytest.mark.parametrize('hard', [0, 1])
def test_weights_whose_two_masks_are_one_do_not_move_by_one_bit(make_approach, hard):
    approach = make_approach('hat', TASKS, hard=hard, nepochs=2, lr=0.5, batch_size=16)
    learn(approach, 0)
    for t in 1, 2:
        before = {name: p.detach().clone() for name, p in approach.net.named_parameters()}
        use = learn(approach, t)
        protected = moved = 0
        for name, p in approach.net.named_parameters():
            if name in use:
                full = use[name] == 1
                assert same(p[full], before[name][full])
                protected += int(full.sum())
                moved += int((p[~full] != before[name][~full]).sum())
        assert protected > 1000 and moved > 1000  # the test says something only where both kinds exist


def test_embeddings_and_heads_of_other_tasks_do_not_move(make_approach):
    approach = make_approach('hat', TASKS, nepochs=1, batch_size=16)
    own = ('hidden.tasks', 'heads')
    before = {n: p.detach().clone() for n, p in approach.net.named_parameters() if n.startswith(own)}
    approach.learn(1)
    for name, p in approach.net.named_parameters():
        if name in before:
            own = name.startswith(('hidden.tasks.1', 'heads.1'))
            assert same(p, before[name]) != own, name


def test_with_hard_masks_all_outputs_of_earlier_tasks_are_bit_identical(make_approach):
    approach = make_approach('hat', TASKS, hard=1, nepochs=2, lr=0.5, batch_size=16)
    learned = []
    for t in range(len(TASKS)):
        approach.learn(t)
        learned.append(outputs(approach, t))
        for u in range(t + 1):
            assert same(outputs(approach, u), learned[u])
    assert set(torch.cat(approach.hidden.cumulative).tolist()) == {0, 1}


def test_with_soft_masks_and_a_low_smax_outputs_do_move(make_approach):
    """The control of the test above: it is not that nothing changes anyway."""
    approach = make_approach('hat', TASKS[:2], smax=25.0, nepochs=2, lr=0.5, batch_size=16)
    approach.learn(0)
    learned = outputs(approach, 0)
    approach.learn(1)
    assert not same(outputs(approach, 0), learned)


def test_sgd_protects_nothing(make_approach):
    approach = make_approach('sgd', TASKS[:2], nepochs=1, batch_size=16)
    approach.learn(0)
    before = [p.detach().clone() for p in approach.net.blocks.parameters()]
    approach.learn(1)
    assert not any(same(p, b) for p, b in zip(approach.net.blocks.parameters(), before, strict=True))

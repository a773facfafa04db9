"""Hard attention in any network: what a learned task uses does not change, and everything else is free."""

import copy
import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import same
from nets import NETS, conv
from torch import nn

import hat

OPTIMIZERS = {
    'sgd': lambda p: torch.optim.SGD(p, 0.1),
    'momentum': lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    'adam': lambda p: torch.optim.Adam(p, 0.01),
    'adamw': lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
}


def build(name, n_tasks=3, **settings):
    torch.manual_seed(0)
    net = NETS[name]()
    return net, hat.convert(net, n_tasks, torch.randn(2, 3, 8, 8), **settings)


def learn(model, task, optimizer, steps=4):
    model.train()
    for b in range(steps):
        x, y = torch.randn(16, 3, 8, 8), torch.randint(4, (16,))
        loss = F.cross_entropy(model(x, task=task, progress=b / (steps - 1)), y)
        loss = hat.objective(loss, model.regularization(task, b / (steps - 1)), 0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.end_task(task)


@torch.no_grad()
def answers(model, task):
    x = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(task))
    return model.eval()(x, task=task)


@pytest.mark.parametrize('name', NETS)
@torch.no_grad()
def test_with_open_gates_the_network_is_what_it_was(name):
    net, model = build(name)
    x = torch.randn(5, 3, 8, 8)
    for training in False, True:
        expected = copy.deepcopy(net).train(training)(x)
        actual = model.train(training).run((x,), 1, [torch.ones_like(a) for a in model.masks(1)])
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert all(p.requires_grad for p in net.parameters())  # the network given is left alone


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
@pytest.mark.parametrize('name', NETS)
def test_outputs_of_learned_tasks_are_bit_identical_under_any_optimizer(name, optimizer):
    """With one optimizer for all tasks, which carries over what it knows of the tasks before."""
    _, model = build(name)
    one = OPTIMIZERS[optimizer](model.parameters())
    learned, protected, moved = [], 0, 0
    for task in range(3):
        before = {n: p.clone() for n, p in model.state_dict().items()}
        protected_then = {f'net.{n}': p for n, p in model.protected().items()}
        learn(model, task, one)
        learned.append(answers(model, task))
        for u in range(task + 1):
            assert same(answers(model, u), learned[u])
        for n, p in model.named_parameters():
            if n in protected_then:
                p = model.state_dict()[n]  # which has what is kept
                assert same(p[protected_then[n]], before[n][protected_then[n]])
                protected += int(protected_then[n].sum())
                moved += int((p != before[n]).sum())
    assert protected > 30 and moved > 30


@pytest.mark.parametrize('name', NETS)
@torch.no_grad()
def test_what_a_task_computes_is_the_same_before_and_after_it_ends(name):
    """Before, with all weights; after, with those that are protected, and zeros: no other one has mattered."""
    _, model = build(name)
    before = answers(model, 0)
    model.end_task(0)
    assert same(answers(model, 0), before)
    protected = model.protected()
    assert 20 < sum(int(p.sum()) for p in protected.values()) < sum(p.numel() for p in protected.values()) - 20
    model.restore()
    for n, p in model.shared.items():  # on these it does depend
        p[protected[n]] += 0.1
    _, other = build(name)
    state = {n: v.clone() for n, v in model.net.state_dict().items()}
    other.net.load_state_dict(state)
    for e, own in zip(other.tasks[0].embeddings, model.tasks[0].embeddings, strict=True):
        e.copy_(own)
    assert not same(answers(other, 0), before)


def in_loops(model, expected):
    """Compare what is protected of each weight with expected(name, i, j), for output i and input j."""
    for name, protected in model.protected().items():
        if protected.ndim > 1:
            for i, j in np.ndindex(*protected.shape[:2]):
                assert (protected[i, j] == bool(expected(name, i, j))).all(), (name, i, j)


def use(model):
    """Whether task 0 uses a unit: layer -> list."""
    return {name: a.tolist() for name, a in zip(model.plan.gates, model.masks(0), strict=True)}


def test_eq_2_after_a_flatten():
    _, model = build('flatten')
    model.end_task(0)
    a = use(model)
    in_loops(model, lambda n, i, j: a['0'][i] if n == '0.weight' else min(a['4'][i], a['0'][j // 16]))


def test_eq_2_after_a_sum_a_unit_is_in_use_if_one_of_its_terms_is():
    _, model = build('residual')
    model.end_task(0)
    a = use(model)
    expected = {
        'stem.weight': lambda i, j: a['stem'][i],
        'one.weight': lambda i, j: min(a['one'][i], a['stem'][j]),
        'two.weight': lambda i, j: min(a['two'][i], a['one'][j]),
    }
    in_loops(model, lambda n, i, j: expected[n](i, j))
    stream = model.plan.units.attention(model.masks(0))
    combined = [max(x, y) for x, y in zip(a['stem'], a['two'], strict=True)]
    assert stream[-8:].tolist() == combined and combined not in (a['stem'], a['two'])


def test_eq_2_after_a_concatenation_and_through_norms():
    _, model = build('concatenated')
    model.end_task(0)
    a = use(model)
    in_loops(model, lambda n, i, j: a['stem'][i] if n == 'stem.weight' else min(a['grow'][i], a['stem'][j]))


def test_eq_2_in_groups():
    _, model = build('grouped')
    model.end_task(0)
    a = use(model)
    in_loops(model, lambda n, i, j: a['0'][i] if n == '0.weight' else min(a['2'][i], a['0'][4 * (i // 3) + j]))


def test_eq_2_depthwise():
    _, model = build('depthwise')
    model.end_task(0)
    a = use(model)
    expected = {
        '0.weight': lambda i, j: a['0'][i],
        '3.weight': lambda i, j: min(a['3'][i], a['0'][i]),
        '6.weight': lambda i, j: min(a['6'][i], a['3'][j]),
    }
    in_loops(model, lambda n, i, j: expected[n](i, j))


def test_eq_2_of_a_layer_that_is_used_twice_is_the_larger_of_both():
    _, model = build('twice')
    model.end_task(0)
    a = use(model)
    expected = {
        'stem.weight': lambda i, j: a['stem'][i],
        'other.weight': lambda i, j: min(a['other'][i], a['again'][j]),
        'again.weight': lambda i, j: min(a['again'][i], max(a['stem'][j], a['other'][j])),
    }
    in_loops(model, lambda n, i, j: expected[n](i, j))


def test_eq_2_of_a_product_a_unit_is_in_use_if_both_its_factors_are():
    """The sigmoid of a masked unit is 1/2: the scale is in use by every task, the product as the other factor is."""
    _, model = build('squeezed')
    head = model.plan.units.attention(model.masks(0))
    model.end_task(0)
    a = use(model)
    expected = {
        'stem.weight': lambda i, j: a['stem'][i],
        'down.weight': lambda i, j: min(a['down'][i], a['stem'][j]),
        'up.weight': lambda i, j: min(a['up'][i], a['down'][j]),
    }
    in_loops(model, lambda n, i, j: expected[n](i, j))
    assert len(head) == 2 + 8 + 4 + 8  # no combination is needed


def test_eq_2_of_attention():
    """Query, key and value are each 8 rows of one weight, in cross-attention with different inputs."""
    _, model = build('attention')
    model.end_task(0)
    a = use(model)
    one = 1.0  # the class token and the positions are each task's own, and added to all units
    expected = {
        'patch.weight': lambda i, j: a['patch'][i],
        'mixed.in_proj_weight': lambda i, j: a['mixed.in_proj'][i],
        'mixed.out_proj.weight': lambda i, j: min(a['mixed.out_proj'][i], a['mixed.in_proj'][16 + j]),
        'crossed.in_proj_weight': lambda i, j: min(a['crossed.in_proj'][i], one if i < 8 else a['patch'][j]),
        'crossed.out_proj.weight': lambda i, j: min(a['crossed.out_proj'][i], a['crossed.in_proj'][16 + j]),
        'one.weight': lambda i, j: a['one'][i],
        'two.weight': lambda i, j: min(a['two'][i], a['one'][j]),
    }
    in_loops(model, lambda n, i, j: expected[n](i, j))


def test_soft_masks_give_soft_factors():
    _, model = build('flatten', hard=False, s_max=1.0)
    model.end_task(0)
    a = use(model)
    assert all(0.01 < x < 0.99 for layer in a.values() for x in layer)
    for i, j in np.ndindex(6, 80):
        assert model.factors['4.weight'][i, j].item() == pytest.approx(1 - min(a['4'][i], a['0'][j // 16]), rel=1e-6)


def test_norms_heads_and_what_is_no_layers_is_each_tasks_own():
    _, model = build('concatenated')
    own = dict(model.tasks[0].own.named_parameters()) | dict(model.tasks[0].own.named_buffers())
    assert set(own) == {f'{norm}.{part}' for norm in ('norm', 'last') for part in (
        'weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')} | {'fc.weight', 'fc.bias'}  # fmt: skip
    learn(model, 0, OPTIMIZERS['momentum'](model.parameters()))
    assert own['norm.num_batches_tracked'] == 4 and model.tasks[1].own.norm.num_batches_tracked == 0
    assert not same(own['norm.running_mean'], model.tasks[1].own.norm.running_mean)
    statistics = own['norm.running_mean'].clone()
    model.train()(torch.randn(4, 3, 8, 8), task=0, progress=0)  # a learned task's do not change even now
    assert same(model.tasks[0].own.norm.running_mean, statistics)
    _, model = build('attention')
    own = {n for n, _ in model.tasks[0].own.named_parameters()}
    assert own == {'token', 'position', 'scale', 'before.weight', 'before.bias', 'after.weight', 'after.bias',
                   'fc.weight', 'fc.bias'}  # fmt: skip


def test_progress_anneals_in_training_and_masks_are_hard_in_evaluation():
    _, model = build('mlp', s_max=50.0)
    seen, run = [], model.run
    model.run = lambda inputs, task, masks, named, net: seen.append(masks) or run(inputs, task, masks, named)
    x = torch.randn(2, 3, 8, 8)
    model.train()(x, task=1, progress=0.25)
    s = 0.75 / 50 + 0.25 * 50
    for a, e in zip(seen[0], model.tasks[1].embeddings, strict=True):
        torch.testing.assert_close(a, torch.sigmoid(s * e))
    model.eval()(x, task=1, progress=0.25)
    for a, e in zip(seen[1], model.tasks[1].embeddings, strict=True):
        assert same(a, (e > 0).float())


def test_sizes_of_heads_and_which_layers_have_gates():
    _, model = build('flatten', n_classes=[2, 3, 5])
    x = torch.randn(6, 3, 8, 8)
    assert [model.eval()(x, task=t).shape[1] for t in range(3)] == [2, 3, 5] and model.plan.gates == ['0', '4']
    assert build('flatten', n_classes=7)[1].eval()(x, task=2).shape == (6, 7)
    assert build('flatten', gates=['4'])[1].plan.gates == ['4']
    assert build('flatten', gates=lambda layer: layer != '4')[1].plan.gates == ['0']
    _, model = build('flatten', heads=False)
    assert model.plan.layers == ['0', '4', '6'] and model.plan.gates == ['0', '4'] and not model.plan.heads
    model.end_task(0)
    learned = answers(model, 0)
    learn(model, 1, OPTIMIZERS['adamw'](model.parameters()))
    assert same(answers(model, 0), learned)
    assert model.protected()['6.weight'].any() and not model.protected()['6.weight'].all()
    with pytest.raises(ValueError, match='2 numbers for 3 tasks'):
        build('flatten', n_classes=[2, 3])
    with pytest.raises(ValueError, match='exactly one output layer; this network has 0'):
        build('flatten', n_classes=2, heads=False)


def test_a_head_of_a_size_that_the_rest_of_the_network_cannot_take_is_warned_of():
    net, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.BatchNorm1d(4)), torch.randn(5, 6)
    with pytest.warns(UserWarning, match='with an output layer of 3 units, as of task 1, the network fails on example'):
        hat.convert(net, 2, x, n_classes=[4, 3])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model = hat.convert(net, 2, x, n_classes=4)
        hat.convert(net[:-1], 2, x, n_classes=[4, 3]).add_task(5)
        model.net.register_forward_hook(lambda *_: pytest.fail('a head of the size of the network needs no try'))
        model.add_task(4)
        model.net._forward_hooks.clear()
    with pytest.warns(UserWarning, match='with an output layer of 5 units, as of task 3, the network fails on example'):
        model.add_task(5)


class InAList(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.others = nn.Linear(192, 192), [nn.Linear(192, 4)]

    def forward(self, x):
        return self.others[0](self.one(x.flatten(1)))


class Transposed(nn.Module):
    """The weight of a layer, transposed once and for all; `held` says in what."""

    def __init__(self, held, detached=False):
        super().__init__()
        self.one, self.two, self.detached = nn.Linear(192, 8), nn.Linear(192, 4), detached
        self.back = held(self.one.weight.t())

    def forward(self, x):
        back = self.back
        while not isinstance(back, torch.Tensor):
            back = next(iter(back.values() if isinstance(back, dict) else back))
        h = F.relu(self.one(x.flatten(1)))
        return self.two(F.linear(h, back.detach() if self.detached else back))


class Returned(nn.Module):
    """A scale that is trained and returned, and not registered."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.scale = nn.Linear(192, 8), nn.Linear(8, 4), torch.ones(4, requires_grad=True)

    def forward(self, x):
        return self.two(F.relu(self.one(x.flatten(1)))), self.scale


@pytest.mark.parametrize('net, message', [
    (Returned(), 'an output is a trainable tensor that is not a parameter of the network'),
    (InAList(), r'aten.linear.default in the top module \(test_convert.py:\d+\): it uses a trainable .* or detach it'),
    *((Transposed(held), 'it uses a trainable tensor that is not a parameter of the network')
      for held in (lambda x: x, lambda x: [x], lambda x: {'back': x})),
    (nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), 'no layer that could have a gate'),
])  # fmt: skip
def test_what_cannot_be_handled_is_refused_with_the_name_of_the_operation(net, message):
    with pytest.raises(hat.CannotConvert, match=message):
        hat.convert(net, 2, torch.randn(2, 3, 8, 8))


def test_what_was_computed_before_is_a_constant_where_it_is_detached():
    """As a state of the batch before, which is not trained through."""
    net, x = Transposed(lambda x: x, detached=True), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(hat.convert(net, 1, x, init=hat.init.dense).eval()(x, task=0), net(x))


def test_a_saved_network_comes_back_with_its_protection():
    _, model = build('attention')
    learn(model, 0, OPTIMIZERS['momentum'](model.parameters()))
    learned = answers(model, 0)
    _, other = build('attention', init=hat.init.dense)
    assert not same(answers(other, 0), learned)
    other.load_state_dict(model.state_dict())
    twin = copy.deepcopy(model)
    for restored in other, twin:
        assert same(answers(restored, 0), learned)
        assert restored.learned.tolist() == [True, False, False]
        assert same(restored.protected(), model.protected())
        learn(restored, 1, OPTIMIZERS['adamw'](restored.parameters()))
        assert same(answers(restored, 0), learned)
        assert not any(p is q for p, q in zip(restored.parameters(), model.parameters(), strict=True))


def test_what_is_saved_right_after_a_step_is_protected_already():
    _, model = build('mlp')
    optimizer = OPTIMIZERS['momentum'](model.parameters())
    learn(model, 0, optimizer)
    learned = answers(model, 0)
    F.cross_entropy(model.train()(torch.randn(4, 3, 8, 8), task=1, progress=1), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    state = {n: v.clone() for n, v in model.state_dict().items()}
    _, other = build('mlp')
    other.load_state_dict(state)
    assert same(answers(other, 0), learned)


def test_a_task_can_be_added():
    _, model = build('concatenated', n_tasks=1)
    learn(model, 0, OPTIMIZERS['momentum'](model.parameters()))
    learned = answers(model, 0)
    assert model.add_task(n_classes=9) == 1 and model.learned.tolist() == [True, False]
    model.end_task(1)
    assert answers(model, 1).shape == (20, 9) and same(answers(model, 0), learned)
    assert model.add_task() == 2 and answers(model, 2).shape == (20, 4)


def test_a_forgotten_task_frees_what_it_alone_used_and_nothing_else_changes():
    _, model = build('residual')
    optimizer = OPTIMIZERS['adam'](model.parameters())
    for task in range(3):
        learn(model, task, optimizer)
    learned, used = [answers(model, t) for t in range(3)], hat.used(model)
    protected = model.protected()
    hat.forget(model, 1)
    assert same(answers(model, 0), learned[0]) and same(answers(model, 2), learned[2])
    assert not same(answers(model, 1), learned[1])
    assert hat.used(model) == {t: layers for t, layers in used.items() if t != 1}
    _, without = build('residual')  # in which it has never been
    without.load_state_dict(model.state_dict())
    assert any((protected[n] & ~p).any() for n, p in model.protected().items())
    assert all((protected[n] | ~p).all() for n, p in model.protected().items())
    learn(model, 1, OPTIMIZERS['adamw'](model.parameters()))  # again
    assert same(answers(model, 0), learned[0]) and same(answers(model, 2), learned[2])


def test_what_each_task_uses():
    _, model = build('flatten')
    for task in 0, 2:
        model.end_task(task)
    used = hat.used(model)
    assert used.keys() == {0, 2} and used[0].keys() == {'0', '4'}
    a = [int(m.sum()) for m in model.masks(2)]
    assert used[2]['0'] == {'units': a[0], 'of': 5, 'weights': a[0] * (3 * 9 + 1)}
    assert used[2]['4'] == {'units': a[1], 'of': 6, 'weights': a[1] * (a[0] * 16 + 1)}


FULL = (
    'less than 5 % of the units of {} are free for task 1: learn earlier tasks with a larger c '
    '(hat.forget() them first), or use a wider network'
)


@pytest.mark.parametrize('one, layers', [(True, "layer '1'"), (False, "the layers '1', '3'")])
def test_a_task_that_finds_little_free_is_warned_of_once_with_the_layers_and_the_remedy(one, layers):
    _, model = build('mlp', init=hat.init.dense)
    x = torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings(record=True) as none:
        warnings.simplefilter('always')
        model.train()(x, task=0, progress=0)
    assert not none
    if one:
        with torch.no_grad():
            model.tasks[0].embeddings[1][3] = -1  # one of six units is free there
    model.end_task(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        model.train()(x, task=1, progress=0)
        model(x, task=1, progress=1)
    assert [str(w.message) for w in caught] == [FULL.format(layers)]
    assert caught[0].filename == __file__


def test_pruning_a_task_that_is_not_learned_is_warned_of():
    _, model = build('mlp')
    with pytest.warns(UserWarning, match='task 1 is not learned: the network is that of its present masks'):
        hat.prune(model, 1)
    model.end_task(1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        hat.prune(model, 1)


def test_a_plan_is_printed_in_one_line():
    _, model = build('mlp')
    assert repr(model.plan) == "Plan(2 gates: ['1', '3'], 4 shared parameters, heads: ['5.weight'])"
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(40)))
    assert len(repr(hat.convert(net, 1, torch.randn(2, 4)).plan)) < 120


def test_gradients_accumulate_over_the_parts_of_a_batch():
    _, model = build('mlp')
    model.end_task(0)
    x, y = torch.randn(8, 3, 8, 8), torch.randint(4, (8,))
    whole = model.train()(x, task=1, progress=0.5)
    F.cross_entropy(whole, y, reduction='sum').backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for part in slice(0, 3), slice(3, 8):
        F.cross_entropy(model(x[part], task=1, progress=0.5), y[part], reduction='sum').backward()
    for n, p in model.named_parameters():
        if n in expected:
            torch.testing.assert_close(p.grad, expected[n], rtol=1e-4, atol=1e-5)
    assert not any(p.grad is not None for p in model.tasks[0].parameters())


def test_nothing_between_backward_and_step_makes_a_difference():
    """Whatever else happens between backward and step, and after it."""
    _, model = build('mlp')
    optimizer = OPTIMIZERS['adam'](model.parameters())
    learn(model, 0, optimizer)
    learned, x, y = answers(model, 0), torch.randn(8, 3, 8, 8), torch.randint(4, (8,))
    for between in lambda: answers(model, 1), model.state_dict, optimizer.step, lambda: model.end_task(1):
        loss = sum(
            F.cross_entropy(model.train()(part, task=2, progress=1), y[:4]) for part in x.split(4)
        )  # two at once
        optimizer.zero_grad()
        loss.backward()
        between()
        optimizer.step()
        assert same(answers(model, 0), learned)


def test_what_is_a_learned_tasks_own_does_not_change_either():
    _, model = build('attention')
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = model.train()(x, task=task, progress=0.5).square().mean()
        loss.backward()
        return loss

    learned = []
    for task in 0, 1:
        x = torch.randn(4, 3, 8, 8)
        optimizer.step(closure)
        model.end_task(task)
        learned.append(answers(model, 0))
    assert same(*learned)


def test_a_task_that_diverges_does_not_spoil_learned_ones():
    _, model = build('flatten')
    model.end_task(0)
    learned = answers(model, 0)
    with torch.no_grad():
        for p in [*model.shared.values(), *model.tasks[1].parameters()]:
            p.fill_(torch.nan)
    assert same(answers(model, 0), learned)
    with pytest.warns(UserWarning, match='task 1 has diverged: its embeddings are not finite'):
        model.end_task(1)
    assert same(answers(model, 0), learned)
    learn(model, 2, OPTIMIZERS['sgd'](model.parameters()))
    assert same(answers(model, 0), learned)


def test_a_task_whose_weights_alone_diverge_is_warned_of():
    """As in float16, where Adam divides by zero: masks get no gradient from what is not finite."""
    _, model = build('flatten')
    model.half()
    x = torch.randn(4, 3, 8, 8).half()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for b in range(3):
        optimizer.zero_grad()
        model.train()(x, task=0, progress=b / 2).square().mean().backward()
        optimizer.step()
    assert all(e.isfinite().all() for e in model.tasks[0].embeddings)
    with pytest.warns(UserWarning, match='task 0 has diverged: its weights are not finite'):
        model.end_task(0)


def test_a_parameter_that_is_infinite_from_the_start_has_not_diverged():
    """As the bias of a class that a network may never answer."""
    net = NETS['mlp']()
    nn.init.constant_(net[-1].bias[:1], -torch.inf)
    model = hat.convert(net, 1, torch.zeros(2, 3, 8, 8))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for b in range(3):
        optimizer.zero_grad()
        x, y = torch.randn(4, 3, 8, 8), torch.randint(1, 4, (4,))
        F.cross_entropy(model.train()(x, task=0, progress=b / 2), y).backward()
        optimizer.step()
    with warnings.catch_warnings(action='error'):
        model.end_task(0)


class Through(nn.Module):
    """A layer, some operation, and a layer that reads what comes out."""

    def __init__(self, operation):
        super().__init__()
        self.stem, self.operation, self.read, self.fc = conv(3, 6), operation, nn.LazyLinear(5), nn.Linear(5, 4)

    def forward(self, x):
        return self.fc(torch.relu(self.read(self.operation(self.stem(x), x))))


MATRIX = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
OPERATIONS = {
    'mean': (lambda h, x: h.mean((2, 3)), True),
    'pool': (lambda h, x: F.max_pool2d(h, 3, 2).mean((2, 3)), True),
    'padded average': (lambda h, x: F.avg_pool2d(h, 3, 2, 1).flatten(1), True),
    'softmax over positions': (lambda h, x: (h.flatten(2).softmax(2) * h.flatten(2)).sum(2), True),
    'attended': (lambda h, x: F.scaled_dot_product_attention(*[h.flatten(2).transpose(1, 2)] * 3).mean(1), True),
    'normalized': (lambda h, x: F.normalize(h.flatten(2), dim=1).mean(2), True),
    'to another type': (lambda h, x: h.mean((2, 3)).double().float(), True),
    'grid': (lambda h, x: F.grid_sample(h, x[:, :2].permute(0, 2, 3, 1), align_corners=False).mean((2, 3)), True),
    'variance': (lambda h, x: h.var((2, 3)), True),
    'difference': (lambda h, x: h.diff(dim=3).flatten(1), False),
    'distances': (lambda h, x: torch.cdist(h.flatten(2), h.flatten(2)).flatten(1), False),
    'log softmax of one': (lambda h, x: h.mean((2, 3))[..., None].log_softmax(2)[..., 0] * h.mean((2, 3)), True),
    'sigmoid': (lambda h, x: h.mean((2, 3)).sigmoid(), False),
    'softmax over units': (lambda h, x: h.mean((2, 3)).softmax(1), False),
    'largest unit': (lambda h, x: h.amax(1).flatten(1), True),
    'smallest with the input': (lambda h, x: torch.cat([h, x], 1).amin(1).flatten(1), False),
    'sorted': (lambda h, x: h.mean((2, 3)).sort(1)[0], True),
    'cumulated': (lambda h, x: h.mean((2, 3)).cumsum(1), True),
    'mixed': (lambda h, x: h.mean((2, 3))[:, :4] @ MATRIX, True),
    'in place': (lambda h, x: h.mean((2, 3)).mul_(2).clamp_(min=0).add_(1), False),
    'a view in place': (lambda h, x: (lambda v: (v.view(-1, 3).add_(1), v)[1])(h.mean((2, 3))), False),
    'a list in place': (lambda h, x: (lambda v: (torch._foreach_add_([v], 1.0), v)[1])(h.mean((2, 3))), False),
}


@pytest.mark.parametrize('operation, known', OPERATIONS.values(), ids=OPERATIONS)
@torch.no_grad()
def test_operations_of_all_kinds(operation, known):
    """known: whether what comes out is still some unit's, so that what reads it can be free."""
    torch.manual_seed(1)
    net, x = Through(operation), torch.randn(3, 3, 8, 8)
    net(x)
    model = hat.convert(net, 2, x)
    before = answers(model, 0)
    model.end_task(0)
    learned = answers(model, 0)
    assert same(before, learned)  # what is taken for free has not mattered
    for p in model.shared.values():
        p += 3 * torch.randn_like(p)
    assert same(answers(model, 0), learned)
    assert bool((model.plan.shared['read.weight'].uses[0].ins > 0).any()) == known


class Buffered(nn.Module):
    """Training changes a buffer."""

    def __init__(self):
        super().__init__()
        self.stem, self.fc = nn.Linear(192, 6), nn.Linear(6, 4)
        self.register_buffer('mix', torch.eye(6))
        self.register_buffer('count', torch.zeros((), dtype=torch.long))

    def forward(self, x):
        h = self.stem(x.flatten(1))
        if self.training:
            self.mix += 0.01 * (h.T @ h).detach()
            self.count += 1
        return self.fc(h @ self.mix) / (1 + self.count)


def test_buffers_are_each_tasks_own():
    model = hat.convert(Buffered(), 2, torch.randn(2, 3, 8, 8))
    learn(model, 0, OPTIMIZERS['sgd'](model.parameters()))
    learned = answers(model, 0)
    learn(model, 1, OPTIMIZERS['sgd'](model.parameters()))
    assert same(answers(model, 0), learned) and model.tasks[1].own.count == 4


def test_pruning_follows_the_type_and_what_is_frozen_stays_frozen():
    torch.manual_seed(0)
    net = NETS['residual']()
    net.fc.bias.requires_grad_(False)
    model = hat.convert(net, 1, torch.randn(2, 3, 8, 8)).double()
    assert not model.tasks[0].own.fc.bias.requires_grad and model.tasks[0].own.fc.weight.requires_grad
    model.end_task(0)
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(hat.prune(model, 0)(x), model.eval()(x, task=0))


def test_hooks_of_a_network_stay_when_it_is_pruned():
    torch.manual_seed(0)
    net, seen = NETS['mlp'](), []
    net[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    model = hat.convert(net, 1, torch.randn(2, 3, 8, 8))
    model.end_task(0)
    small, x = hat.prune(model, 0), torch.randn(5, 3, 8, 8)
    seen.clear()
    torch.testing.assert_close(small(x), model.eval()(x, task=0))
    assert len(seen) == 2


class Noisy(nn.Module):
    """Draws random numbers in evaluation, too."""

    def forward(self, h):
        return h + torch.randn(len(h), 1)


def test_a_network_with_random_numbers_is_pruned():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4), Noisy())
    model, x = hat.convert(net, 1, torch.randn(3, 6)), torch.randn(5, 6)
    model.begin_task(0)
    with warnings.catch_warnings(action='error'):
        model.end_task(0)
        small = hat.prune(model, 0)
    assert small[0].out_features < 16
    outputs = []
    for answer in small, lambda x: model.eval()(x, task=0):
        torch.manual_seed(1)
        outputs.append(answer(x))
    torch.testing.assert_close(*outputs)


class Listed(nn.Module):
    """Finds its parameters in a list, two of which are one."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third, self.head = (nn.Linear(n, 8) for n in (6, 8, 8, 8))
        self.third.weight = self.second.weight
        self.every = [(layer.weight, layer.bias) for layer in self.children()]

    def forward(self, x):
        for weight, bias in self.every[:-1]:
            x = F.relu(F.linear(x, weight, bias))
        return F.linear(x, *self.every[-1])


def test_the_network_of_a_task_may_find_its_parameters_in_a_list():
    torch.manual_seed(0)
    model, x = hat.convert(Listed(), 2, torch.randn(3, 6), n_classes=[4, 8]), torch.randn(5, 6)
    for task in 0, 1:
        model.begin_task(task)
        model.end_task(task)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        for small in hat.plain(model, task), hat.prune(model, task):
            torch.testing.assert_close(small(x), model.eval()(x, task=task))
            assert small.second.weight is small.third.weight and not any(p.requires_grad for p in small.parameters())


def test_what_the_output_does_not_hang_on_is_told():
    net = NETS['residual']()
    net.aside = nn.Linear(2, 2)
    with pytest.warns(
        UserWarning, match='do not affect the output for example_input; .* own: aside.weight, aside.bias'
    ):
        hat.convert(net, 2, torch.randn(2, 3, 8, 8))


def test_bad_arguments_are_told():
    _, model = build('mlp')
    x = torch.randn(2, 3, 8, 8)
    for call in lambda: model(x, task=3), lambda: model.end_task(-1), lambda: hat.forget(model, 9):
        with pytest.raises(IndexError, match='there is no task -?[0-9]+: tasks are numbered from 0 to 2'):
            call()
    for settings, message in ({'gates': ['1', 'no']}, "gates: 'no' is none of"), ({'gates': '1'}, 'a list of names'):
        with pytest.raises(ValueError, match=message):
            build('mlp', **settings)
    for value in 28, np.zeros((8, 8)):
        with pytest.raises(ValueError, match=f'example_input must be a tensor, .*, not {type(value).__name__}$'):
            hat.convert(NETS['mlp'](), 2, value)
    with pytest.raises(ValueError, match='init must be a function'):
        build('mlp', init='dense')
    with pytest.raises(ValueError, match='at least 1, not 3 and 0'):
        build('mlp', n_classes=0)
    with pytest.raises(ValueError, match='n_classes must be at least 1, not 0'):
        model.add_task(0)
    with pytest.raises(ValueError, match='this network has 0'):
        build('mlp', heads=False)[1].add_task(7)
    with pytest.raises(ValueError, match='between 0 and 1, not 5'):
        model.train()(x, task=0, progress=5)
    with pytest.raises(ValueError, match='progress is missing'):
        model(x, task=0)
    for task in None, 'a', 1.5, [0], torch.tensor([0, 1]), torch.tensor(0.0):
        with pytest.raises(TypeError, match=f'task must be a number, as in .* not {re.escape(repr(task))}'):
            model(x, task=task, progress=0)
    with pytest.raises(
        ValueError, match=r'fails on example_input .pass several inputs as a tuple.: AttributeError: .list'
    ):
        hat.convert(NETS['mlp'](), 2, [x])
    for n_classes in '3', 2.0, [2.0, 3, 4], {0: 2, 1: 3, 2: 4}:
        with pytest.raises(ValueError, match='^n_classes must be a whole number, or one for each task, not'):
            build('mlp', n_classes=n_classes)
    with pytest.raises(ValueError, match='^n_classes must be a whole number'):
        model.add_task('3')
    assert build('mlp', n_classes=torch.tensor(3))[1].tasks[2].n_classes == 3
    for settings, message in ({'check': None}, 'check must be a number'), ({'s_max': '400'}, 's_max above 0 and'):
        with pytest.raises(ValueError, match=message):
            build('mlp', **settings)
    for progress in '0.5', [0.5], torch.tensor([0.1, 0.2]):
        with pytest.raises(TypeError, match='^progress must be one number between 0 and 1, not'):
            model(x, task=0, progress=progress)
    for value in x[:0], x.to('meta'):
        with pytest.raises(ValueError, match='^example_input has no values'):
            hat.convert(NETS['mlp'](), 2, value)
    with pytest.raises(TypeError, match='already converted'):
        hat.convert(model, 2, x)
    for progress in 0, torch.tensor([0.0]), torch.tensor(0.0).numpy():
        model(x, task=0, progress=progress)
    with pytest.warns(UserWarning, match=r'task 0 was trained, but end_task\(0\) was not called'):
        model(x, task=1, progress=0)
    model.end_task(1)
    with pytest.warns(UserWarning, match='task 1 is learned and is not trained further'):
        model(x, task=1, progress=0)


@pytest.mark.parametrize(
    'task', [np.int64(1), torch.tensor(1), torch.tensor([1]), torch.tensor(1, dtype=torch.uint8), True]
)
def test_a_task_may_be_any_number_and_is_never_all_tasks(task):
    """A tensor of bytes, and True, index all elements of a tensor: every task counted as learned, or was forgotten."""
    _, model = build('mlp')
    x = torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model.train()(x, task=task, progress=1).sum().backward()
        model.end_task(task)
        assert model.learned.tolist() == [False, True, False]
        torch.testing.assert_close(hat.prune(model, task)(x), model.eval()(x, task=task))
    model.train()(x, task=0, progress=1)
    model.end_task(0)
    hat.forget(model, task)
    assert model.learned.tolist() == [True, False, False]


@pytest.mark.parametrize('name', NETS)
def test_the_default_device_makes_no_difference(name):
    """On 'meta' a tensor that is made there by mistake has no values."""
    net, x, y = NETS[name](), torch.randn(4, 3, 8, 8), torch.randint(4, (4,))
    with torch.device('meta'):
        model = hat.convert(net, 2, x, n_classes=[4, 5])
        (F.cross_entropy(model.train()(x, task=0, progress=0.5), y) + model.regularization()).backward()
        model.end_task(0)
        torch.testing.assert_close(hat.prune(model, 0)(x), model.eval()(x, task=0))
        hat.forget(model, 0)
        assert hat.used(model) == {} and model.add_task() == 2


@pytest.mark.filterwarnings('ignore:end_task')
@pytest.mark.parametrize('name', NETS)
def test_autocast_around_convert_and_prune_makes_no_difference(name):
    """Weights that are cast looked computed, and channels that are zero were not found."""
    found = []
    for enabled in False, True:
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            _, model = build(name, n_tasks=1)
            model.end_task(0)
            sizes = [p.shape for p in hat.prune(model, 0).parameters()]
        found.append((sizes, model.plan.operations, model.plan.gating.keys(), model.plan.outputs.keys()))
    assert found[0] == found[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_a_task_may_go_on_on_another_device():
    _, model = build(next(iter(NETS)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for device in 'cpu', 'cuda':
        model.to(device)
        x, y = torch.randn(4, 3, 8, 8, device=device), torch.arange(4, device=device)
        for progress in 0, 1:
            F.cross_entropy(model.train()(x, task=0, progress=progress), y).backward()
            optimizer.step()
    model.end_task(0)
    assert model.done[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('name', NETS)
def test_on_a_gpu_outputs_of_learned_tasks_are_bit_identical(name):
    _, model = build(name)
    model.cuda()
    default = torch.get_default_device()
    torch.set_default_device('cuda')
    try:
        one = OPTIMIZERS['adamw'](model.parameters())
        learn(model, 0, one)
        x = torch.randn(20, 3, 8, 8)
        with torch.no_grad():
            learned = model.eval()(x, task=0)
        learn(model, 1, one)
        with torch.no_grad():
            assert same(model.eval()(x, task=0), learned)
    finally:
        torch.set_default_device(default)

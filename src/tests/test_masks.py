"""PackNet and WSN: each task uses some of the weights of each layer, and later tasks do not change them."""

import pytest
import torch
from conftest import outputs, same
from nets import conv, pooled
from torch import nn

import networks
from approaches import APPROACHES
from approaches.common.masks import top
from approaches.wsn import Chosen
from core.errors import UserError
from core.hyperparameters import parse
from networks.external import External

TASKS = 'mnist', 'cifar10', 'svhn'
BOTH = ('packnet', {}), ('packnet', {'share': 'equal'}), ('wsn', {}), ('wsn', {'c': 0.3, 'scores': 'fresh'})
FAST = {'width': 0.1, 'nepochs': 2, 'lr': 0.3, 'batch_size': 16}  # packnet: one of training, one of retraining


def values(tensors):
    return [p.detach().clone() for p in tensors]


def used(approach, t):
    """What the outputs of task t depend on, of each weight."""
    if hasattr(approach, 'masks'):
        return approach.masks[t]
    return [(owner > 0) & (owner <= t + 1) for owner in approach.owners]


@torch.no_grad()
def shake_free(approach, t):
    """Noise, and worse, on all weights that no task up to t uses."""
    for l, p in enumerate(approach.weights):
        free = ~sum((used(approach, u)[l] for u in range(t + 1)), torch.zeros_like(p, dtype=torch.bool))
        assert free.any()
        p[free] = torch.randn(int(free.sum())) * 100
        p[free.nonzero()[0].unbind()] = torch.inf


def with_norms(make_approach, name, **settings):
    """The approach with a network that has batch norms."""
    made = make_approach(name, TASKS, **settings)
    hidden = nn.Sequential(conv(3, 6, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.BatchNorm2d(6, affine=False),
                           conv(6, 8), nn.ReLU(), pooled())  # fmt: skip
    net = External(hidden, 8, [task.n_classes for task in made.tasks], None)
    networks.initialize(net.heads, 0, 'weights')
    torch.manual_seed(0)
    for p in hidden.parameters():
        nn.init.normal_(p, 0.5 if p.ndim == 1 else 0, 0.3)
    return type(made)(net, made.tasks, made.protocol, **APPROACHES[name].defaults() | {
        k: v for k, v in settings.items() if k in APPROACHES[name].parameters})  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('name, settings', BOTH)
@pytest.mark.parametrize('norms, more', [
    (False, {}), (True, {}), (True, {'optimizer': 'adamw', 'lr': 0.01}),
])  # fmt: skip
def test_no_later_task_and_no_noise_changes_an_earlier_ones_outputs_by_one_bit(
    make_approach, name, settings, norms, more
):
    made = with_norms(make_approach, name, **settings, **FAST | more) if norms else make_approach(
        name, TASKS, **settings, **FAST)  # fmt: skip
    learned = []
    for t in range(3):
        before = values(made.weights)
        made.learn(t)
        assert not all(same(p, q) for p, q in zip(made.weights, before, strict=True))
        learned.append(outputs(made, t))
        assert learned[t].std(0).max() > 0  # not the same for all images
        for u in range(t + 1):
            assert same(outputs(made, u), learned[u])
    if settings != {'share': 'equal'}:  # there nothing is left
        shake_free(made, 2)
        assert all(same(outputs(made, u), learned[u]) for u in range(3))


@pytest.mark.parametrize('name', ['packnet', 'wsn'])
def test_biases_and_norms_are_trained_in_the_first_task_only(make_approach, name):
    made = with_norms(make_approach, name, **FAST)
    assert len(made.others) == 3 and len(made.weights) == 2
    kept = [*made.others, *(b for b in made.net.blocks.buffers() if b.is_floating_point())]
    before = values(kept)
    made.learn(0)
    assert not any(same(p, q) for p, q in zip(kept, before, strict=True))
    before = values(kept)
    made.learn(1)
    assert all(same(p, q) for p, q in zip(kept, before, strict=True))


def test_the_largest_values_are_exactly_k_also_of_equal_ones():
    generator = torch.Generator().manual_seed(0)
    for levels in 1, 2, 5, 1000:
        x = torch.randint(levels, (7, 3, 4), generator=generator).float()
        for k in 0, 1, 40, 84:
            mask = top(x, k)
            assert mask.dtype == torch.bool and mask.shape == x.shape and mask.sum() == k
            assert k in (0, 84) or x[mask].min() >= x[~mask].max()


# PackNet


@pytest.mark.parametrize('settings', [{}, {'prune': 0.5}, {'share': 'equal'}])
def test_packnet_gives_each_task_its_share_of_each_layer(make_approach, settings):
    made = make_approach('packnet', TASKS, nepochs=2, **settings)
    for t in range(3):
        free = [int((owner == 0).sum()) for owner in made.owners]
        before = values(made.owners)
        made.learn(t)
        for owner, n, old in zip(made.owners, free, before, strict=True):
            pruned = n * (2 - t) / (3 - t) if 'share' in settings else settings.get('prune', 0.75) * n
            assert abs(int((owner == 0).sum()) - pruned) <= 0.5
            assert same(owner[old > 0], old[old > 0]) and set(owner[old == 0].tolist()) <= {0, t + 1}
    if 'share' in settings:
        for owner in made.owners:
            assert max(abs(int((owner == t).sum()) - owner.numel() / 3) for t in (1, 2, 3)) <= 1


@pytest.mark.slow
def test_packnet_keeps_the_largest_weights_and_retrains_only_them(make_approach):
    made = make_approach('packnet', TASKS, width=0.1, nepochs=6, lr=0.2, batch_size=8)
    pack, trained, packed = made.pack, [], []

    def note(t):
        trained.append(values(made.weights))
        pack(t)
        packed.append((values(made.weights), values(made.owners)))

    made.pack = note
    for t in range(2):
        log = made.learn(t)
        assert [epoch['retraining'] for epoch in log] == [0] * 4 + [1] * 2
        (weights, owners), before = packed[t], trained[t]
        for p, q, w, owner, now in zip(made.weights, weights, before, owners, made.owners, strict=True):
            mine, free = owner == t + 1, owner == 0
            assert same(owner, now) and not p[free].any()
            assert w[mine].abs().min() >= w[free].abs().max()
            assert same(q[~free], w[~free]) and same(p[~mine], q[~mine])
            assert (p[mine] != q[mine]).any()


def test_packnet_retrains_half_as_long_as_it_has_trained_with_the_first_learning_rate(make_approach):
    made = make_approach('packnet', nepochs=50, patience=2, lr_factor=1e6)
    losses, seen, pack, packed = iter([9.0, 5, 4, 3, 3, 3, 8, 7, 6, 6, 6]), [], made.pack, []

    def evaluate(t, images):
        seen.append(values(made.weights))
        return next(losses), 0.9  # before the task; of five epochs; pruned; retrained; kept

    def note(t):
        packed.extend(values(made.weights))
        pack(t)

    made.evaluate, made.pack = evaluate, note
    log = made.learn(0)
    assert [epoch['valid_loss'] for epoch in log] == [5, 4, 3, 3, 3, 7, 6, 6]
    assert {epoch['lr'] for epoch in log} == {0.05}
    assert all(map(same, packed, seen[3])) and not all(map(same, seen[3], seen[5]))  # the best, not the last
    assert all(map(same, made.weights, seen[8]))
    assert made.trained == 0 and made.learned == 1 and made.n_rounds() == 50


@pytest.mark.slow
@pytest.mark.parametrize('nepochs', range(1, 12))
def test_packnet_passes_over_the_images_no_more_often_than_the_others(make_approach, nepochs):
    log = make_approach('packnet', width=0.02, nepochs=nepochs).learn(0)
    retraining = sum(epoch['retraining'] for epoch in log)
    assert len(log) == nepochs and abs(retraining - nepochs / 3) <= 0.5


def test_packnet_without_pruning_and_retraining_is_sgd_frozen(make_approach):
    """All weights are the first task's: others train their heads."""
    made, frozen = (make_approach(name, TASKS, nepochs=1, **more) for name, more in
                    (('packnet', {'prune': 0.0}), ('sgd-frozen', {})))  # fmt: skip
    for t in range(3):
        made.learn(t)
        frozen.learn(t)
        assert same(made.net.state_dict(), frozen.net.state_dict())


# WSN


@pytest.mark.parametrize('c', [0.1, 0.5, 1.0])
def test_wsn_chooses_the_share_c_of_the_largest_scores_of_each_layer(make_approach, c):
    made = make_approach('wsn', TASKS, nepochs=2, c=c, lr=0.5)
    for t in range(2):
        made.learn(t)
        for mask, s in zip(made.masks[t], made.net.scores, strict=True):
            assert mask.sum() == round(c * s.numel())
            assert c == 1 or s[mask].abs().min() > s[~mask].abs().max()
    assert c == 1 or not all(map(torch.equal, *made.masks))


def test_the_gradients_of_wsn_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    w, s, x = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (3, 4), (5, 4)))
    m = top(s.abs(), 6)
    w.requires_grad_()
    s.requires_grad_()
    (x @ Chosen.apply(w, s, m).T).tanh().sum().backward()
    for i in range(3):
        for j in range(4):
            g = 0.0
            for n in range(5):
                z = sum(x[n, k] * w[i, k] * m[i, k] for k in range(4))
                g += (1 - z.tanh() ** 2) * x[n, j]
            torch.testing.assert_close(w.grad[i, j], g * m[i, j])
            torch.testing.assert_close(s.grad[i, j], g * w[i, j] * (1 if s[i, j] > 0 else -1))


@pytest.mark.slow
@pytest.mark.parametrize('scores', ['kept', 'fresh'])
def test_wsn_changes_the_chosen_weights_that_no_earlier_task_has_chosen_and_no_other(make_approach, scores):
    made = make_approach('wsn', TASKS, width=0.1, nepochs=2, lr=0.3, batch_size=8, c=0.4, scores=scores)
    made.learn(0)
    for t in 1, 2:
        before, chosen = values(made.weights), [torch.zeros_like(mask) for mask in made.mask]
        masked = made.masked

        def note(t, chosen=chosen, masked=masked):
            for ever, mask in zip(chosen, made.mask, strict=True):
                ever |= mask
            return masked(t)

        made.masked = note
        made.learn(t)
        made.masked = masked
        for l, (p, q) in enumerate(zip(made.weights, before, strict=True)):
            fixed = made.masks[0][l] | made.masks[t - 1][l]
            moved = p != q
            assert not (moved & (fixed | ~chosen[l])).any()
            assert (made.masks[t][l] & fixed).any()  # it uses weights of earlier tasks
        assert any((p != q).any() for p, q in zip(made.weights, before, strict=True))


def test_fresh_scores_of_wsn_do_not_start_with_the_mask_of_the_task_before(make_approach):
    for scores, shares in ('kept', (1, 1)), ('fresh', (0.3, 0.7)):
        made = make_approach('wsn', width=0.1, nepochs=1, scores=scores)
        made.learn(0)
        made.before_task(1)
        for mask, before in zip(made.mask, made.masks[0], strict=True):
            assert shares[0] <= (mask & before).sum() / before.sum() <= shares[1]


def test_wsn_with_all_weights_learns_its_first_task_as_sgd(make_approach):
    made, sgd = (make_approach(name, nepochs=3, **more) for name, more in (('wsn', {'c': 1.0}), ('sgd', {})))
    logs = [[{**epoch, 'seconds': 0} for epoch in each.learn(0)] for each in (made, sgd)]
    assert logs[0] == logs[1]
    assert all(same(p, made.net.state_dict()[name]) for name, p in sgd.net.state_dict().items())


def test_shares_above_one_are_refused():
    for name, key in ('packnet', 'prune'), ('wsn', 'c'):
        assert parse(f'{key}=1', APPROACHES[name].parameters)[key] == 1
        with pytest.raises(UserError, match='from 0 to 1'):
            parse(f'{key}=1.5', APPROACHES[name].parameters)

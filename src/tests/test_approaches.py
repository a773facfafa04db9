"""What each method claims."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import outputs, same

from approaches import pathnet
from approaches.common.fisher import fisher
from approaches.common.penalty import squared_distance
from approaches.common.training import Training
from approaches.lfl import feature_distance
from approaches.lwf import distillation
from approaches.pathnet import ACTIVE, mutate
from networks.pathnet import MODULES

TASKS = ('mnist', 'cifar10', 'svhn')


def values(approach):
    return {name: value.clone() for name, value in approach.net.state_dict().items()}


def shake(parameters, size=0.01):
    """Move the parameters a little; by how much, as a list."""
    parameters, generator = list(parameters), torch.Generator().manual_seed(0)
    steps = [size * torch.randn(p.shape, generator=generator) for p in parameters]
    with torch.no_grad():
        for p, step in zip(parameters, steps, strict=True):
            p += step
    return steps


def extra_loss(approach, t):
    """What the approach's loss adds to the cross-entropy, on ten images, without dropout."""
    approach.net.eval()
    x, y = approach.tasks[t].batch(approach.tasks[t].train, slice(0, 10))
    loss, logits = approach.loss(x, y, t, 1.0)
    return (loss - F.cross_entropy(logits, y)).item()


def test_fisher_is_the_mean_of_squared_gradients_of_single_images(make_approach):
    approach = make_approach('sgd', nepochs=1)
    net, task = approach.net, approach.tasks[0]
    approach.learn(0)
    found = fisher(net, task, 0)
    net.eval()
    expected = [torch.zeros_like(p) for p in net.blocks.parameters()]
    for i in range(len(task.train.y)):
        net.zero_grad()
        x, y = task.batch(task.train, slice(i, i + 1))
        F.cross_entropy(net(x, 0), y).backward()
        for total, p in zip(expected, net.blocks.parameters(), strict=True):
            total += p.grad**2 / len(task.train.y)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-3, atol=1e-9)
        assert not f.requires_grad and e.sum() > 0


def test_ewc_penalty_is_zero_at_the_old_weights_and_the_fisher_quadratic_elsewhere(make_approach):
    approach = make_approach('ewc', nepochs=1, lamb=300.0)
    assert extra_loss(approach, 0) == 0  # nothing is old yet
    approach.learn(0)
    assert extra_loss(approach, 1) == 0
    importance = [f.clone() for f in approach.fisher]
    steps = shake(approach.shared)
    expected = sum((f * step**2).sum().item() for f, step in zip(importance, steps, strict=True)) * 300 / 2
    assert expected > 1e-4
    assert extra_loss(approach, 1) == pytest.approx(expected, rel=1e-2, abs=1e-6)


def test_ewc_keeps_one_running_fisher(make_approach):
    approach = make_approach('ewc', TASKS, nepochs=1)
    each = []
    for t in range(3):
        approach.learn(t)
        each.append(fisher(approach.net, approach.tasks[t], t))
    for found, *three in zip(approach.fisher, *each, strict=True):
        torch.testing.assert_close(found, sum(three) / 3)


@pytest.mark.parametrize('name', ['imm-mean', 'imm-mode'])
def test_imm_l2_transfer_is_zero_at_the_old_weights_and_quadratic_elsewhere(make_approach, name):
    approach = make_approach(name, nepochs=1, lamb=3.0)
    approach.learn(0)
    approach.before_task(1)
    assert extra_loss(approach, 1) == 0
    steps = shake(approach.shared)
    expected = sum((step**2).sum().item() for step in steps) * 3 / 2
    assert extra_loss(approach, 1) == pytest.approx(expected, rel=1e-3)


def test_squared_distance_by_hand():
    p, q = [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])], [torch.tensor([0.0, 4.0]), torch.tensor([[3.5]])]
    assert squared_distance(p, q) == 1 + 4 + 0.25
    assert squared_distance(p, q, [torch.tensor([2.0, 0.5]), torch.tensor([[4.0]])]) == 2 + 2 + 1


def test_imm_mean_is_the_mean_of_the_weights_of_all_tasks_in_use_but_not_in_training(make_approach):
    approach = make_approach('imm-mean', TASKS, nepochs=1)
    means = []
    for t in range(3):
        approach.before_task(t)
        assert t == 0 or all(same(p, mu) for p, mu in zip(approach.shared, means[-1], strict=True))
        approach.learn(t)
        means.append(approach.mu)
        for p, *mus in zip(approach.shared, *means, strict=True):
            torch.testing.assert_close(p.detach(), sum(mus) / (t + 1))
    assert not same(means[0][0], means[1][0])


def test_imm_mode_is_the_fisher_weighted_mean_of_the_weights(make_approach, monkeypatch):
    approach = make_approach('imm-mode', nepochs=1)
    fishers, means = [], []
    monkeypatch.setattr('approaches.imm.fisher', lambda *a: fishers.append(fisher(*a)) or fishers[-1])
    for t in range(2):
        approach.learn(t)
        means.append(approach.mu)
    for p, f, g, mu, nu in zip(approach.shared, *fishers, *means, strict=True):
        matters = f + g > 1e-6
        torch.testing.assert_close(p.detach()[matters], ((f * mu + g * nu) / (f + g))[matters])
    moved = [not torch.allclose(p, mu) for p, mu in zip(approach.shared, means[1], strict=True)]
    assert all(moved)  # the merge reaches the network


def test_imm_mode_of_two_equal_models_is_that_model(make_approach):
    approach = make_approach('imm-mode', nepochs=1)
    approach.learn(0)
    approach.before_task(1)
    approach.after_task(1)  # nothing learned
    for p, mu in zip(approach.shared, approach.mu, strict=True):
        torch.testing.assert_close(p.detach(), mu)


def test_lwf_distillation_is_smallest_at_the_old_logits():
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(7, 5, generator=generator)
    for T in 0.5, 1.0, 2.0:
        logits = old.clone().requires_grad_()
        least = distillation(logits, old, T)
        (gradient,) = torch.autograd.grad(least, logits)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-7)
        q = torch.softmax(old / T, 1)
        assert least.item() == pytest.approx(-(q * q.log()).sum(1).mean().item(), rel=1e-5)  # the entropy
        for _ in range(20):
            assert distillation(old + 0.3 * torch.randn(7, 5, generator=generator), old, T) > least


def test_lwf_distils_every_old_head_and_no_other(make_approach):
    approach = make_approach('lwf', TASKS, nepochs=1, lamb=2.0)
    approach.learn(0)
    approach.learn(1)
    approach.before_task(2)
    approach.net.eval()
    x, _ = approach.tasks[2].batch(approach.tasks[2].train, slice(0, 10))
    shake(approach.net.heads[2].parameters(), 1.0)  # the new head is not distilled
    entropies = [distillation(approach.net(x, u), approach.net(x, u), 1.0).item() for u in (0, 1)]
    assert extra_loss(approach, 2) == pytest.approx(2 * sum(entropies), rel=1e-4)
    shake(approach.net.heads[0].parameters(), 1.0)
    assert extra_loss(approach, 2) > 2 * sum(entropies) + 0.01


def test_lfl_penalty_is_zero_when_the_features_did_not_change(make_approach):
    approach = make_approach('lfl', nepochs=1, lamb=0.4)
    approach.learn(0)
    approach.before_task(1)
    assert extra_loss(approach, 1) == 0
    shake(approach.net.heads.parameters(), 1.0)
    assert extra_loss(approach, 1) == 0
    x, _ = approach.tasks[1].batch(approach.tasks[1].train, slice(0, 10))
    old = approach.net.features(x)
    shake(approach.net.blocks.parameters(), 0.1)
    new = approach.net.features(x)
    expected = sum(((a - b) ** 2).item() for a, b in zip(new.flatten(), old.flatten(), strict=True))
    assert feature_distance(new, old).item() == pytest.approx(expected, rel=1e-3)
    assert extra_loss(approach, 1) == pytest.approx(0.4 / 2 * expected, rel=1e-3)
    object.__setattr__(approach.protocol, 'batch_size', 5)  # ten images are an evaluation's batch then
    assert extra_loss(approach, 1) == pytest.approx(0.4 / 2 * expected / 2, rel=1e-3)


def test_sgd_frozen_moves_nothing_but_the_new_head_after_task_1(make_approach):
    approach = make_approach('sgd-frozen', TASKS, nepochs=1)
    for t in range(3):
        before = values(approach)
        approach.learn(t)
        for name, value in approach.net.state_dict().items():
            may_move = name.startswith(f'heads.{t}.') or t == 0 and name.startswith('blocks')
            assert same(value, before[name]) != may_move, name


def test_sgd_restart_learns_each_task_as_if_it_were_the_first(make_approach):
    approach = make_approach('sgd-restart', nepochs=2)
    alone = make_approach('sgd', nepochs=2)
    approach.learn(0)
    approach.learn(1)
    alone.learn(1)
    assert same(values(approach), values(alone))


@pytest.mark.parametrize('name', ['pnn', 'pathnet'])
def test_no_later_task_changes_an_earlier_ones_outputs_by_one_bit(make_approach, name):
    approach = make_approach(name, TASKS, width=0.2, nepochs=3, lr=0.5)
    learned = []
    for t in range(3):
        before = values(approach)
        approach.learn(t)
        assert not same(values(approach), before)
        learned.append(outputs(approach, t))
        for u in range(t + 1):
            assert same(outputs(approach, u), learned[u])


def test_pnn_reads_every_earlier_column_through_its_lateral_connections(make_approach):
    approach = make_approach('pnn', TASKS, width=0.2)
    start = outputs(approach, 2)
    for u in range(3):
        net = copy.deepcopy(approach.net)
        shake(approach.net.columns[u].kernels[1].parameters(), 0.5)
        assert not same(outputs(approach, 2), start)
        approach.net = net
    start = outputs(approach, 1)
    shake(approach.net.columns[2].parameters(), 0.5)
    assert same(outputs(approach, 1), start)


@pytest.mark.slow
def test_pathnet_paths_stay_within_their_limits(make_approach):
    approach = make_approach('pathnet', TASKS, width=0.2, nepochs=4, generations=4)
    for t in range(3):
        approach.learn(t)
        path = np.array(approach.paths[t])
        assert path.shape == (5, ACTIVE) and path.min() >= 0 and path.max() < MODULES


def test_pathnet_mutation_stays_in_range_and_changes_one_number_in_the_mean():
    rng = np.random.default_rng(0)
    path = rng.integers(MODULES, size=(5, ACTIVE))
    changed, steps = [], set()
    for _ in range(3000):
        new = np.array(mutate(path.tolist(), rng))
        assert new.shape == path.shape and new.min() >= 0 and new.max() < MODULES
        step = (new - path + MODULES // 2) % MODULES - MODULES // 2  # around the corner
        changed.append((step != 0).sum())
        steps |= set(step.flatten().tolist())
    assert steps == {-2, -1, 0, 1, 2}
    assert np.mean(changed) == pytest.approx(4 / 5, abs=0.05)  # one number in fifteen is drawn, 0 steps included


@pytest.mark.slow
def test_pathnet_trains_the_modules_of_the_two_paths_only_and_keeps_the_better_one(make_approach, monkeypatch):
    approach = make_approach('pathnet', width=0.2, nepochs=12, generations=2)
    tried = []
    epoch = pathnet.Approach.train_epoch

    def note(self, t, number, lr):
        tried.append((number, self.paths[t]))
        before = values(self)
        loss = epoch(self, t, number, lr)
        for name, value in self.net.state_dict().items():
            kind, l, m, *_ = name.split('.')
            active = int(m) in self.paths[t][int(l)] if kind == 'module_layers' else name.startswith('heads.0')
            assert same(value, before[name]) != active, name
        return loss

    monkeypatch.setattr(pathnet.Approach, 'train_epoch', note)
    approach.learn(0)
    assert [number for number, _ in tried] == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]  # 12 passes in all
    assert approach.paths[0] in [path for _, path in tried]
    assert {str(tried[6][1]), str(tried[9][1])} & {str(tried[0][1]), str(tried[3][1])}  # the winner goes on


@pytest.mark.parametrize(
    'nepochs, generations, passes', [(200, 20, 200), (200, 5, 200), (7, 20, 6), (1, 20, 1), (3, 1, 2)]
)
def test_pathnet_passes_over_the_images_no_more_often_than_the_others(make_approach, nepochs, generations, passes):
    approach = make_approach('pathnet', width=0.2, nepochs=nepochs, generations=generations)
    assert approach.n_rounds() == passes


def test_pathnet_starts_from_paths_without_repeats(make_approach):
    approach = make_approach('pathnet', width=0.2)
    for t in range(20):
        assert all(len(set(layer)) == ACTIVE for path in approach.draw(t) for layer in path)


def test_pathnet_goes_on_from_the_best_weights_with_a_learning_rate_for_each_path(make_approach):
    """A tournament played on paper: validation losses are given, weights are what the last epoch has left."""
    approach = make_approach('pathnet', nepochs=200, generations=20)  # 5 epochs a path and generation
    approach.before_task(0)
    approach.training = Training(0.05, 5, approach.snapshot(), 9.0)
    weight = approach.net.heads[0].bias
    first, second = approach.population

    def play(losses):
        rates = []
        for loss in losses:
            rates.append(approach.training.lr)
            approach.paths[0] = approach.population[approach.turn[1]]
            torch.nn.init.constant_(weight, loss)
            approach.decide(0, loss)
        return rates

    assert play([5, 4, 3, 3, 3]) == [0.05] * 5
    assert play([6, 6, 6, 6, 6]) == [0.05] * 5  # four epochs without a better one
    assert approach.winner == 0 and (weight == 3).all() and approach.paths[0] == first == approach.population[0]
    assert approach.population[1] != second
    assert play([4, 4, 4, 2, 2]) == [0.05, 0.05, 0.05, *[pytest.approx(0.05 / 3)] * 2]  # 3 3 4 4 4 and then lower
    assert play([1, 1, 1, 1, 1]) == [0.05] * 5
    assert approach.winner == 1 and (weight == 1).all()
    assert play([9]) == [0.05]  # the loser has the winner's learning rate
    approach.rates = [1e-5, 0.05]
    play([9])
    assert approach.turn[1] == 1  # it is trained no more; the other is
    approach.turn = [19, 1, 4]
    play([9])
    assert approach.training.lr == 0


def test_joint_trains_on_all_tasks_so_far_from_the_same_initial_weights(make_approach, monkeypatch):
    approach = make_approach('joint', TASKS, nepochs=1)
    initial = values(approach)
    for t in range(3):
        shown = []
        batch_loss = approach.batch_loss

        def note(index, t, progress, batch_loss=batch_loss, shown=shown):
            if not shown:
                assert same(values(approach), initial)
            shown.append(index)
            return batch_loss(index, t, progress)

        with monkeypatch.context() as patch:
            patch.setattr(approach, 'batch_loss', note)
            approach.learn(t)
        assert torch.cat(shown).sort().values.tolist() == list(range(170 * (t + 1)))
        assert t == 0 or len({int(i) // 170 for i in shown[0]}) == t + 1  # a batch mixes all tasks


def test_joint_loss_is_the_mean_over_the_images_each_with_its_own_head(make_approach):
    approach = make_approach('joint', TASKS)
    approach.net.eval()
    index = torch.tensor([3, 169, 170, 500, 171, 340])
    expected = 0
    for i in index.tolist():
        task = approach.tasks[i // 170]
        x, y = task.batch(task.train, slice(i % 170, i % 170 + 1))
        expected += F.cross_entropy(approach.net(x, i // 170), y) / len(index)
    torch.testing.assert_close(approach.batch_loss(index, 2, 0.0), expected)


def test_random_accuracy_is_the_sum_of_p_train_times_p_test(make_approach):
    approach = make_approach('random', TASKS)
    for t, task in enumerate(approach.tasks):
        p_train = [(task.train.y == c).double().mean().item() for c in range(task.n_classes)]
        p_test = [(task.test.y == c).double().mean().item() for c in range(task.n_classes)]
        assert approach.learn(t) == []
        expected = sum(a * b for a, b in zip(p_train, p_test, strict=True))
        assert approach.evaluate(t, task.test)[1] == pytest.approx(expected)

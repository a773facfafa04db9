"""ER and DER++: what is in the memory, that nothing else is read, and the loss of what is drawn from it."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import same

from approaches import APPROACHES
from approaches.common.replay import reservoir
from core import seeds

TASKS = ('mnist', 'cifar10', 'svhn')  # 170 training images each
REPLAYING = ('er', 'der')


def learned(approach, tasks=3):
    """The weights after the tasks, and what the epochs have measured."""
    logs = [approach.learn(t) for t in range(tasks)]
    measured = [[epoch | {'seconds': 0} for epoch in log] for log in logs]
    return {name: value.clone() for name, value in approach.net.state_dict().items()}, measured


def sizes(approach):
    return [len(labels) for labels in approach.labels]


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, settings', [('er', {'buffer': 0}), ('der', {'buffer': 0}), ('der', {'alpha': 0, 'beta': 0})]
)
def test_without_its_memory_or_its_terms_it_is_sgd_bit_for_bit(make_approach, name, settings):
    expected = learned(make_approach('sgd', TASKS, nepochs=2))
    found = learned(make_approach(name, TASKS, nepochs=2, **settings))
    assert same(found[0], expected[0]) and found[1] == expected[1]
    assert not same(learned(make_approach(name, TASKS, nepochs=2))[0], expected[0])


def test_each_image_of_a_stream_is_in_the_reservoir_with_the_same_probability():
    """Of three tasks of 10, 20 and 30 images, 6 fit; 4000 streams. Each image of them: 400 times, give or take 19."""
    counts, runs, size = torch.zeros(60), 4000, 6
    for run in range(runs):
        held = []
        for t, (first, n) in enumerate([(0, 10), (10, 20), (30, 30)]):
            places = reservoir(len(held), first, n, size, seeds.generator(run, 'reservoir', t))
            assert len(places) == len(set(places)) == min(size, first + n)
            held = [held[i] if i < len(held) else first + i - len(held) for i in places]
        counts[held] += 1
    assert counts.sum() == runs * size
    assert (counts - 400).abs().max() < 4.5 * 19
    for part in counts.split([10, 20, 30]):  # and the tasks by their sizes
        assert part.mean().item() == pytest.approx(400, abs=4.5 * 19 / len(part) ** 0.5)


@pytest.mark.parametrize('name', REPLAYING)
def test_the_memory_holds_images_of_all_tasks_so_far_as_the_tasks_hold_them(make_approach, name):
    approach = make_approach(name, TASKS, nepochs=1, buffer=200)
    for t in range(3):
        approach.learn(t)
        assert sum(sizes(approach)) == min(200, 170 * (t + 1))
        assert max(sizes(approach)) - min(sizes(approach)) < 60
        for task, stored, labels in zip(approach.tasks, approach.images, approach.labels, strict=False):
            images = task.train.x[task.train.index].flatten(1).tolist()
            at = [images.index(image) for image in stored.flatten(1).tolist()]
            assert stored.dtype == torch.uint8 and stored.shape[1:] == task.train.x.shape[1:]
            assert same(labels, task.train.y[at]) and len(set(at)) == len(at)


def test_the_logits_of_der_are_those_of_the_network_when_the_images_entered_the_memory(make_approach):
    approach = make_approach('der', TASKS, nepochs=1, buffer=200)
    approach.learn(0)
    approach.net.eval()
    task, (images,), (logits,) = approach.tasks[0], approach.images, approach.logits
    x, _ = task.batch(task.train._replace(x=images, index=torch.arange(170)), slice(None))
    torch.testing.assert_close(logits, approach.net(x, 0), rtol=1e-4, atol=1e-5)
    entered = dict(zip(map(tuple, images.flatten(1).tolist()), logits, strict=True))
    approach.learn(1)
    images, logits = approach.images[0], approach.logits[0]
    assert 0 < len(images) < 170 and sizes(approach) == [len(part) for part in approach.logits]
    for image, z in zip(images.flatten(1).tolist(), logits, strict=True):
        assert same(z, entered[tuple(image)])


@pytest.mark.slow
@pytest.mark.parametrize('name', REPLAYING)
def test_nothing_of_an_earlier_task_is_read_but_what_is_in_the_memory(make_approach, name):
    """The images and labels of a task are overwritten as soon as it is learned: all that follows stays the same."""
    expected = learned(make_approach(name, TASKS, nepochs=2, buffer=100))
    approach, logs = make_approach(name, TASKS, nepochs=2, buffer=100), []
    for t in range(3):
        logs.append([epoch | {'seconds': 0} for epoch in approach.learn(t)])
        task = approach.tasks[t]
        splits = {
            split: images._replace(x=torch.full_like(images.x, 77), y=torch.zeros_like(images.y))
            for split, images in (('train', task.train), ('valid', task.valid), ('test', task.test))
        }
        approach.tasks[t] = replace(task, **splits)
    assert same(dict(approach.net.state_dict()), expected[0]) and logs == expected[1]
    changed = make_approach(name, TASKS, nepochs=2, buffer=100)
    changed.learn(0)
    changed.images[0].fill_(77)
    changed.learn(1)
    changed.learn(2)
    assert not same(dict(changed.net.state_dict()), expected[0])


def test_the_loss_of_er_is_the_mean_over_both_halves_each_image_with_its_own_head(make_approach):
    approach = make_approach('er', TASKS, nepochs=1, buffer=200)
    approach.learn(0)
    approach.learn(1)
    approach.before_task(2)
    approach.net.eval()
    index = torch.tensor([3, 169, 11, 42])
    expected = single_losses(approach, index, 0, F.cross_entropy)
    x, y = approach.tasks[2].batch(approach.tasks[2].train, index)
    expected += [F.cross_entropy(approach.net(x[i : i + 1], 2), y[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(approach.batch_loss(index, 2, 0.0), sum(expected) / 8)


def test_the_loss_of_der_has_a_distance_of_logits_and_a_cross_entropy_each_of_a_draw_of_its_own(make_approach):
    approach = make_approach('der', TASKS, nepochs=1, buffer=200, alpha=0.3, beta=0.7)
    approach.learn(0)
    approach.learn(1)
    approach.before_task(2)
    approach.net.eval()
    index = torch.tensor([3, 169, 11, 42])
    assert not same(approach.drawn[0], approach.drawn[1])
    x, y = approach.tasks[2].batch(approach.tasks[2].train, index)
    expected = F.cross_entropy(approach.net(x, 2), y)
    expected += 0.3 * sum(single_losses(approach, index, 0, None)) / 4
    expected += 0.7 * sum(single_losses(approach, index, 1, F.cross_entropy)) / 4
    torch.testing.assert_close(approach.batch_loss(index, 2, 0.0), expected)


def single_losses(approach, index, draw, loss):
    """Of the images that are drawn for the training images `index`, one by one; None: the distance of the logits."""
    images = [(u, k) for u, n in enumerate(sizes(approach)) for k in range(n)]
    found = []
    for u, k in (images[place] for place in approach.drawn[draw][index].tolist()):
        task, labels = approach.tasks[u], approach.labels[u]
        x, y = task.batch(task.train._replace(x=approach.images[u], index=torch.arange(len(labels)), y=labels), [k])
        logits = approach.net(x, u)
        found.append(loss(logits, y) if loss else ((logits - approach.logits[u][k]) ** 2).mean())
    return found


@pytest.mark.parametrize('name', REPLAYING)
def test_each_epoch_draws_anew_from_the_whole_memory(make_approach, name, monkeypatch):
    approach, drawn = make_approach(name, TASKS, nepochs=3, buffer=20), []
    approach.learn(0)
    draw = approach.draw
    monkeypatch.setattr(approach, 'draw', lambda t, epoch: (draw(t, epoch), drawn.append(approach.drawn.clone())))
    approach.learn(1)
    assert approach.drawn.shape == (APPROACHES[name].draws, 170)
    assert same(drawn[0], drawn[1]) and not same(drawn[1], drawn[2]) and not same(drawn[2], drawn[3])
    assert all(places.unique().tolist() == list(range(20)) for places in drawn[1:])

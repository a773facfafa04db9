"""Training that would not train, or not what it should, is warned of."""

import copy
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from test_guarantee import OutOfMemory
from torch import nn

import hat


def small(n_tasks=1):
    torch.manual_seed(0)
    return hat.convert(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)), n_tasks, torch.randn(4, 8))


def steps(model, optimizer, task, progress):
    for each in progress:
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(4, 8), task=task, progress=each), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()


def test_an_optimizer_that_is_older_than_the_task_is_warned_of():
    model = small()
    one = torch.optim.Adam(model.parameters(), 1e-2)
    steps(model.train(), one, 0, (0, 1))
    model.end_task(0)
    task = model.add_task()
    with pytest.warns(UserWarning, match='masks of task 1 do not change: make a new optimizer after add_task'):
        steps(model, one, task, (0, 0.2, 0.4, 0.6, 0.8, 1))
    model, one = small(2), None
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # nothing moves while the learning rate is 0: that is no fault
        steps(model.train(), torch.optim.SGD(model.parameters(), 0), 0, (0, 0.2, 0.4, 0.6, 0.8, 1))


def test_a_task_that_has_changed_nothing_is_warned_of_when_it_ends():
    """As with a new schedule on an optimizer whose learning rate has fallen to 0."""
    model = small(2).train()
    one = torch.optim.Adam(model.parameters(), 1e-2)
    for task in 0, 1:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(one, 4)
        for _ in range(4):
            steps(model, one, task, (0, 1))
            schedule.step()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            model.end_task(task)
        said = [str(w.message) for w in caught]
        assert len(said) == task
    assert said[0].startswith('the training of task 1 has not changed anything: is the learning rate 0')


def assigned(part):
    def replace(model):
        part(model).load_state_dict(copy.deepcopy(part(model).state_dict()), assign=True)

    return replace


def moved(model):
    """As .to() does with PyTorch's setting for it."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        model.double().float()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.mark.parametrize('task', [0, 1])
def test_a_task_whose_first_batch_runs_out_of_memory_begins_with_the_next(task):
    base, failed, n = small(2), True, 0
    for t in range(task):
        steps(base, torch.optim.SGD(base.parameters(), 0.1), t, [0, 1])
        base.end_task(t)
    while failed:
        model, failed, n = copy.deepcopy(base), False, n + 3
        try:
            with OutOfMemory(n):
                model(torch.randn(4, 8), task=task, progress=0)
        except torch.OutOfMemoryError:
            failed = True
        with pytest.warns(UserWarning, match=f'the training of task {task} has not changed anything'):
            steps(model, torch.optim.SGD(model.parameters(), 0.0), task, [b / 5 for b in range(6)])
            model.end_task(task)
    assert n > 20


@pytest.mark.parametrize('replace, message', [
    (assigned(lambda model: model), 'has not changed anything: .* or than a load_state_dict.assign=True.'),
    (moved, 'has not changed anything'),
    (assigned(lambda model: model.net), 'task 0 has trained its masks, but not the weights that tasks share'),
])  # fmt: skip
@pytest.mark.parametrize('trained', [False, True])
@pytest.mark.parametrize('new', [False, True])
def test_an_optimizer_that_is_older_than_the_parameters_is_warned_of_when_the_task_ends(replace, message, trained, new):
    model = small().train()
    one = torch.optim.Adam(model.parameters(), 0.1)
    steps(model, one, 0, (0, 0.5, 1) if trained else ())
    replace(model)
    one = torch.optim.Adam(model.parameters(), 0.1) if new else one
    steps(model, one, 0, (0, 0.5, 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        model.end_task(0)
    assert bool(caught) != new and (new or re.search(message, str(caught[0].message)))


def test_counts_of_batches_start_anew_with_other_parameters():
    """Parts of a batch have one progress; those before and after were counted together."""
    model = small().train()
    for _ in range(2):
        one = torch.optim.Adam(model.parameters(), 0.1)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            steps(model, one, 0, [b // 2 / 4 for b in range(10)])
        model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)


def test_masks_that_are_trained_alone_are_not_warned_of_where_weights_are_frozen():
    """Gradients of the task before may still be there."""
    model = small(2).train()
    steps(model, torch.optim.Adam(model.parameters(), 0.1), 0, (0, 0.5, 1))
    model.end_task(0)
    for p in model.shared.values():
        p.requires_grad_(False)
    steps(model, torch.optim.Adam(model.tasks[1].parameters(), 0.1), 1, (0, 0.5, 1))
    assert any(p.grad is not None and p.grad.any() for p in model.shared.values())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model.end_task(1)


@pytest.mark.parametrize('detached, trained, message', [
    (False, ('net', 'tasks.0.embeddings'), 'task 0 has trained its masks, but not its own, such as a head'),
    (False, ('tasks',), 'task 0 has trained its masks, but not the weights that tasks share'),
    (False, ('net',), 'masks of task 0 do not change: make .* of all parameters of the model'),
    (True, ('',), 'task 0 has trained its masks, but nothing else, .*: is the loss that of a detached output'),
])  # fmt: skip
def test_what_an_optimizer_does_not_train_is_said(detached, trained, message):
    """model.net has weights of every layer, but the head there is not that of a task."""
    model = small(2).train()
    one = torch.optim.Adam([p for name, p in model.named_parameters() if name.startswith(trained)], 0.1)
    for progress in 0, 0.5, 1:
        y = model(torch.randn(4, 8), task=0, progress=progress)
        one.zero_grad()
        ((y.detach() if detached else y).square().mean() + model.regularization()).backward()
        one.step()
    with pytest.warns(UserWarning, match=message):
        model.end_task(0)


def test_a_schedule_may_take_tensors_alone():
    """As the caller passes them; end_task() passed a number."""
    schedule = lambda progress, s_max: s_max * torch.sqrt(progress) + 1 / s_max  # noqa: E731
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    model = hat.convert(net, 1, torch.randn(4, 8), schedule=schedule).train()
    steps(model, torch.optim.Adam(model.parameters(), 0.1), 0, torch.tensor([0, 0.5, 1]))
    model.end_task(0)
    assert model.done == [True]


def test_small_steps_in_half_precision_train_the_weights_that_tasks_share():
    """Sums of weights in half precision do not change with them."""
    torch.manual_seed(0)
    layers = (layer for n in (64, 256) for layer in (nn.Linear(n, 256, bias=False), nn.ReLU()))
    net, x = nn.Sequential(*layers, nn.Linear(256, 3)).bfloat16(), torch.randn(4, 64, dtype=torch.bfloat16)
    model = hat.convert(net, 1, x).train()
    before = copy.deepcopy(model.shared)
    optimizer = torch.optim.SGD(hat.param_groups(model, embeddings=dict(lr=0.1)), 1e-4)
    for progress in range(6):
        optimizer.zero_grad()
        F.cross_entropy(model(x, task=0, progress=progress / 5), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    assert not all(torch.equal(p, before[name]) for name, p in model.shared.items())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model.end_task(0)


@pytest.mark.parametrize('last, warned', [(0.25, True), (0.75, False), (1.0, False)])
def test_a_task_that_ends_in_the_middle_of_an_epoch_is_warned_of(last, warned):
    """As where a loop breaks early, or a trainer goes on with other batches than it stopped before."""
    model = small().train()
    steps(model, torch.optim.Adam(model.parameters(), 0.1), 0, (0, 1, 0, last))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        model.end_task(0)
    expected = f'the last batch of task 0 had progress {last:g}: its masks are still soft there'
    assert [str(w.message).startswith(expected) for w in caught] == [True] * warned


def test_tasks_that_were_trained_in_turns_may_end_in_turn():
    model = small(2).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match='was not called'):
        steps(model, optimizer, 0, [0.0, 1.0])
        steps(model, optimizer, 1, [0.0, 1.0])
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='.*has not been trained')
        model.end_task(0)
        model.end_task(1)


def test_a_task_that_trains_nothing_but_its_head_has_changed_something():
    model = small().train()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        steps(model, torch.optim.SGD(model.tasks[0].own.parameters(), 0.1), 0, (0, 1))
        with pytest.raises(UserWarning, match='the masks of task 0 do not change'):
            model.end_task(0)


def test_training_in_evaluation_mode_and_without_annealing_is_warned_of():
    model = small().eval()
    with pytest.warns(UserWarning, match='in evaluation mode: the masks are rounded and get no gradient'):
        model(torch.randn(4, 8), task=0).sum().backward()
    with pytest.warns(UserWarning, match='progress is 1 in 8 batches of task 0: the gates are not annealed'):
        steps(model.train(), torch.optim.SGD(model.parameters(), 0.1), 0, [1.0] * 8)
    model.add_task()
    with pytest.warns(UserWarning, match=r'end_task\(1\): task 1 has not been trained'):
        model.end_task(1)


def test_the_regularization_goes_by_the_last_batch():
    model = small(2).train()
    with pytest.raises(ValueError, match=r'needs a task: no batch was trained since the last end_task\(\)'):
        model.regularization()
    model(torch.randn(4, 8), task=1, progress=0.25)
    assert model.regularization().item() == model.regularization(1, 0.25).item() != model.regularization(1, 1.0).item()


@pytest.mark.parametrize('n, expected', [(1, [1.0]), (3, [0.0, 0.5, 1.0])])
def test_annealed_batches_go_from_0_to_1(n, expected):
    assert list(hat.annealed(list('abc'[:n]))) == list(zip('abc', expected, strict=False))

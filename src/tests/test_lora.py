"""The example of LoRA: the adapters' rank units have gates, the other weights are frozen."""

import pytest
import torch
from conftest import same

import dataloaders
import example_lora


@torch.no_grad()
def outputs(model, t, task):
    return model.eval()(task.batch(task.test, slice(None))[0], task=t)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in {'DEPTH': 1, 'PRETRAINING': {'mixture': 3}, 'STEPS': {'mixture': 8}, 'NTRAIN': 200}.items():
        monkeypatch.setattr(example_lora, name, value)


@pytest.mark.slow
@pytest.mark.parametrize('adapters', ['with_adapters', 'with_peft'])
def test_learned_tasks_keep_their_outputs_and_frozen_weights_their_values(adapters, small_data):
    if adapters == 'with_peft':
        pytest.importorskip('peft')
    torch.manual_seed(0)
    names = ['fashion-mnist', 'mnist', 'notmnist', 'traffic-signs']
    first, *tasks = dataloaders.load('mixture', small_data, 0, names)
    net = getattr(example_lora, adapters)(example_lora.pretrained([first], 3))
    model, learned = example_lora.converted(net, tasks), []
    trained = {name: p.detach().clone() for name, p in model.shared.items()}
    frozen = {name: model.net.get_buffer(name).clone() for name in model.plan.frozen}
    assert all('lora' in name for name in trained) and not any('lora' in name for name in frozen)
    for t, task in enumerate(tasks):
        example_lora.learn(model, t, task, 8)
        model.end_task(t)
        learned.append(outputs(model, t, task))
        before, trained = trained, {name: model.shared[name].detach().clone() for name in trained}
        assert not any(torch.equal(p, before[name]) for name, p in trained.items())  # each task trains them
    assert all(torch.equal(outputs(model, t, task), learned[t]) for t, task in enumerate(tasks))
    assert frozen and same(frozen, {name: model.net.get_buffer(name) for name in frozen})


@pytest.mark.slow
def test_the_example_forgets_without_gates_alone(small_data, capsys):
    example_lora.main(['--data', str(small_data)])
    out = capsys.readouterr().out
    head, lora, gated = out.split('\n\n')[1:]
    assert head.startswith('head\n') and lora.startswith('LoRA\n') and gated.startswith('LoRA + HAT\n')
    kept = [len({line.split('mnist ')[1].split(' %')[0] for line in part.splitlines()[1:4]}) == 1
            for part in (head, gated)]  # fmt: skip
    assert all(kept) and all('forgetting 0.00 points' in part for part in (head, gated))
    assert 'forgetting 0.00 points' not in lora

"""Tools work with a network, or with a view of one of its tasks, as they are; or they are refused in one line.

Elsewhere: averages of a network, other types and in-place writes in test_guarantee.py; threads and gradients of
gradients in test_forward.py; update_bn and weight decay in test_layers.py; ONNX in test_prune.py; adapters of peft in
test_lora.py.
"""

import copy
import functools
import io
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import same
from test_convert import answers, build
from torch import distributed, nn
from torch.nn.parallel import DataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

import hat

Y = torch.arange(8) % 4  # of each batch


def batches(n=4):
    return [torch.randn(8, 3, 8, 8) for _ in range(n)]


def view_of(model, task, steps=4):
    return model.train().view(task, steps=steps)


def optimizer_of(module):
    return torch.optim.AdamW(hat.param_groups(module, 0.1), 0.01)


def learn(module, forward=None):
    """Train a view. forward: a function that calls it."""
    step = optimizer_of(module)
    for x in batches():
        loss = F.cross_entropy((forward or module.train())(x).float(), Y)
        step.zero_grad()
        loss.backward()
        step.step()


def learn_two(train, model=None, answers=answers):
    """Learn two tasks, each by train(model, task): task 0 is bit-identical after task 1, which has learned."""
    model = build('concatenated', 2)[1] if model is None else model
    torch.manual_seed(1)
    before, learned = [answers(model, t) for t in range(2)], []
    for task in range(2):
        train(model, task)
        model.end_task(task)
        learned.append(answers(model, 0))
    assert same(*learned)
    assert not any(same(answers(model, t), before[t]) for t in range(2))
    return model


# Precision


class Last(nn.Module):
    """The last output of a recurrent module."""

    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x):
        return self.recurrent(x)[0][:, -1]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_and_grad_scaler(dtype):
    def train(model, task):
        view, scaler = view_of(model, task), torch.amp.GradScaler('cpu', init_scale=1024)
        step = optimizer_of(view)
        for x in batches():
            with torch.autocast('cpu', dtype):
                loss = F.cross_entropy(view(x), Y) + 0.1 * model.regularization()
            step.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(step)
            gates = set(view.embeddings.parameters())
            nn.utils.clip_grad_norm_([p for p in view.parameters() if p not in gates], 1.0)
            assert all(p.grad.isfinite().all() for p in view.parameters())
            scaler.step(step)
            scaler.update()

    @torch.autocast('cpu', dtype)
    def lowered(model, task):
        return answers(model, task)

    model = learn_two(train, answers=lowered)
    assert lowered(model, 0).dtype == dtype and answers(model, 0).dtype == torch.float32


@pytest.mark.parametrize('kind', [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_recurrent_layers_in_autocast(kind, dtype, recwarn):
    """The comparison with the example, which is not differentiated, failed in it."""
    net = nn.Sequential(nn.Linear(6, 8), Last(kind(8, 8, batch_first=True)), nn.Linear(8, 3))
    model = hat.convert(net, 2, torch.randn(4, 5, 6), check=True).train()
    with torch.autocast('cpu', torch.bfloat16):
        model(torch.randn(4, 5, 6, dtype=dtype), task=0, progress=0).float().square().mean().backward()
    assert all(e.grad.any() for e in model.tasks[0].embeddings.parameters())
    assert not [w for w in recwarn if 'other operations' in str(w.message)]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_a_view_of_another_type(dtype):
    def train(model, task):
        view = view_of(model, task)
        step = torch.optim.SGD(view.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
        for x in batches():
            step.zero_grad()
            F.cross_entropy(view(x.to(dtype)).float(), Y).backward()
            step.step()

    def outputs(model, task):
        x = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(task)).to(dtype)
        return model.eval()(x, task=task).detach()

    model = build('concatenated', 2)[1]
    model.view(0).to(dtype)
    assert learn_two(train, model, outputs).net.get_parameter('stem.weight').dtype == dtype


# Training loops


def test_gradient_accumulation_has_the_gradients_of_the_whole_batch():
    def gradients(view, parts):
        view.zero_grad()
        for x, y in zip(whole.chunk(parts), Y.chunk(parts), strict=True):
            (F.cross_entropy(view(x), y) / parts).backward()
        return {n: p.grad.clone() for n, p in view.named_parameters()}

    def train(model, task):
        view = model.train().view(task)
        view.progress = 0.01
        torch.testing.assert_close(gradients(view, 4), gradients(view, 1))
        learn(view_of(model, task))

    (whole,) = batches(1)
    learn_two(train, build('mlp', 2)[1])


def timm_ema(view):
    timm = pytest.importorskip('timm', reason='timm is not installed')
    return timm.utils.ModelEmaV3(view, decay=0.5)


def averaged(view):
    return AveragedModel(view, multi_avg_fn=get_ema_multi_avg_fn(0.5))


@pytest.mark.parametrize('average', [averaged, timm_ema])
def test_a_task_may_end_with_the_average_of_its_weights(average):
    def train(model, task):
        view = view_of(model, task)
        ema, step = average(view), optimizer_of(view)
        update = ema.update_parameters if average is averaged else ema.update
        for x in batches():
            step.zero_grad()
            F.cross_entropy(view(x), Y).backward()
            step.step()
            update(view)
        update_bn(batches(), ema.module)
        expected = ema.module.network
        assert expected is not model and not same(answers(expected, task), answers(model, task))
        view.load_state_dict(ema.module.state_dict())
        assert same(answers(expected, task), answers(model, task))
        assert task == 0 or same(answers(expected, 0), answers(model, 0))

    learn_two(train)


class Checkpointed(nn.Module):
    """Norms inside and outside of the parts that are run again."""

    def __init__(self):
        super().__init__()
        self.stem, self.parts = nn.Linear(192, 8), nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.norms, self.head = nn.ModuleList(nn.LayerNorm(8) for _ in range(4)), nn.Linear(8, 4)
        self.reentrant = None

    def forward(self, x):
        h = self.norms[0](self.stem(x.flatten(1)))
        for part, norm in zip(self.parts, self.norms[1:], strict=False):
            run = functools.partial(lambda part, norm, h: h + F.gelu(part(norm(h))), part, norm)
            h = run(h) if self.reentrant is None else checkpoint(run, h, use_reentrant=self.reentrant)
        return self.head(self.norms[3](h))


@pytest.mark.parametrize('reentrant', [True, False])
@pytest.mark.filterwarnings('ignore:None of the inputs have requires_grad')
def test_activation_checkpointing(reentrant):
    def gradients(model, task, kind):
        model.net.reentrant = kind
        view = view_of(model, task)
        view.zero_grad()
        F.cross_entropy(view(x), Y).backward()
        return {n: p.grad.clone() for n, p in view.named_parameters()}

    def train(model, task):
        torch.testing.assert_close(gradients(model, task, reentrant), gradients(model, task, None))
        model.net.reentrant = reentrant
        learn(view_of(model, task))

    (x,) = batches(1)
    torch.manual_seed(0)
    learn_two(train, hat.convert(Checkpointed(), 2, x))


def test_a_validation_loop():
    """As in timm: inference mode, autocast, another memory format; and training goes on after it."""

    @torch.inference_mode()
    def validate(view):
        view.eval()
        outputs = []
        for x in batches(2):
            with torch.autocast('cpu', torch.bfloat16):
                outputs.append(view(x.contiguous(memory_format=torch.channels_last)))
        assert outputs[0].is_inference()
        return torch.cat(outputs).float().argmax(1)

    def train(model, task):
        view = view_of(model, task).to(memory_format=torch.channels_last)
        validate(view)
        learn(view)
        model.end_task(task)
        validate(view)
        validate(model.view(1 - task))

    learn_two(train)


def test_copies_of_a_view_are_of_a_copy_of_its_network():
    def saved(view):
        file = io.BytesIO()
        torch.save(view, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    model = learn_two(lambda model, task: learn(view_of(model, task)))
    hat.forget(model, 1)
    view, kept = view_of(model, 1), answers(model, 0)
    for copied in copy.deepcopy, lambda view: pickle.loads(pickle.dumps(view)), saved:
        other = copied(view)
        assert other.network is not model and same(answers(other.network, 1), answers(model, 1))
        before = answers(model, 1)
        learn(other)
        assert same(answers(model, 1), before) and not same(answers(other.network, 1), before)
        with torch.no_grad():
            other.net.stem.weight.add_(1)
        state = other.state_dict()['net.stem.weight']  # which writes what is kept
        assert same(state, other.network.net.stem.weight) and same(answers(other.network, 0), kept)
        protected = other.network.protected()['stem.weight']
        assert protected.any() and same(state[protected], model.net.stem.weight[protected])


def test_a_view_that_is_resumed_in_the_middle_of_an_epoch_goes_on_annealing_there():
    """As by trainers, which save every n batches, and skip those that have been trained."""

    def resumed(at):
        model = build('concatenated', 1)[1]
        view, all_batches = view_of(model, 0), batches(8)
        step = torch.optim.SGD(view.parameters(), 0.1, momentum=0.9)
        for b, x in enumerate(all_batches):
            if b == at:
                states = copy.deepcopy((view.state_dict(), step.state_dict()))
                model = build('concatenated', 1)[1]
                view = view_of(model, 0)
                step = torch.optim.SGD(view.parameters(), 0.1, momentum=0.9)
                view.load_state_dict(states[0]), step.load_state_dict(states[1])
            step.zero_grad()
            F.cross_entropy(view(x), Y).backward()
            step.step()
        assert model.watch.progress == 1
        return model.state_dict()

    torch.manual_seed(0)
    expected = resumed(None)
    torch.manual_seed(0)
    torch.testing.assert_close(resumed(6), expected, rtol=0, atol=0)


def test_a_view_that_takes_other_weights_at_the_end_of_an_epoch_anneals_from_its_start():
    """The number of batches of an average is that of the view as the average was made."""
    model = build('concatenated', 1)[1]
    view, progress = view_of(model, 0, steps=4), []
    for x in batches(9):
        view(x)
        progress.append(model.watch.progress)
        if len(progress) == 2:
            ema = AveragedModel(view)
        if len(progress) % 4 == 0:
            view.load_state_dict(ema.module.state_dict())
    assert progress == [0, 1 / 3, 2 / 3, 1] * 2 + [0]


@pytest.mark.parametrize('at', [0, 2])
def test_a_view_that_goes_back_to_an_earlier_state_in_the_middle_of_an_epoch_anneals_from_there(at):
    """As by a search for a learning rate, which restores what was before, or by a trainer that was interrupted."""
    model = build('concatenated', 1)[1]
    view, progress = view_of(model, 0, steps=4), []
    for b, x in enumerate(batches(11)):
        if b == at:
            state = copy.deepcopy(view.state_dict())
        if b == 7:
            view.load_state_dict(state)
        view(x)
        progress.append(model.watch.progress)
    assert progress[7:] == [(at + b) % 4 / 3 for b in range(4)]


@pytest.mark.parametrize('at', [0, 4, 5])
def test_a_view_that_evaluates_an_average_in_the_middle_of_an_epoch_goes_on_annealing(at):
    """Also one that was made at an epoch's end: its number of batches is not where the view is in training."""
    model = build('concatenated', 1)[1]
    view, progress = view_of(model, 0, steps=4), []
    for b, x in enumerate(batches(8)):
        if b == at:
            ema = AveragedModel(view)
        if b == 6:
            state = copy.deepcopy(view.state_dict())
            view.load_state_dict(ema.module.state_dict())
            view.eval()(x)
            view.train().load_state_dict(state)
        view(x)
        progress.append(model.watch.progress)
    assert progress == [0, 1 / 3, 2 / 3, 1] * 2


def test_a_batch_without_gradients_does_not_change_what_the_regularization_is_of():
    """As of a teacher, between the forward pass of a batch and its loss."""
    model = build('concatenated', 1)[1]
    view, (x, y) = view_of(model, 0, steps=9), batches(2)
    view(x), view(x)
    gradients = []
    for _ in range(2):
        gradients.append(torch.autograd.grad(model.regularization(), list(view.embeddings.parameters())))
        with torch.no_grad():
            view(y)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_a_view_that_evaluates_in_training_mode_is_warned_of():
    """model.eval() does not reach it: norms took statistics of the test data, and outputs were those of training."""
    model = build('concatenated', 1)[1].train()
    view, (x,) = model.view(0, steps=4), batches(1)
    view(x)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model.eval()
        view(x)
        update_bn([x], view.eval())
        with torch.no_grad():
            view.eval()(x)
            view.train()(x)
        model.train(), view.train(), model.eval()
        with torch.no_grad(), pytest.raises(UserWarning, match='model.eval.. does not reach it, call view.eval..'):
            view(x)


def test_a_view_that_an_earlier_version_has_pickled_trains_and_evaluates():
    model = build('concatenated', 1)[1]
    view, (x,) = view_of(model, 0), batches(1)
    del vars(view)['of_training']
    view = pickle.loads(pickle.dumps(view))
    view(x)
    with torch.no_grad():
        view(x)
    assert view.network.watch.progress == 0


@pytest.mark.parametrize('parameters', [nn.Module.parameters, hat.param_groups])
def test_an_optimizer_of_a_view_has_the_parameters_of_a_task_that_has_been_forgotten(parameters):
    model = build('concatenated', 1)[1]
    view = view_of(model, 0)
    hat.forget(model, 0)
    step, before = torch.optim.SGD(parameters(view), 0.1), copy.deepcopy(model.tasks[0].state_dict())
    F.cross_entropy(view(batches(1)[0]), Y).backward()
    step.step()
    assert not any(same(p, before[n]) for n, p in model.tasks[0].named_parameters())


def test_a_view_loads_a_state_without_a_number_of_batches():
    model = build('concatenated', 1)[1]
    view = view_of(model, 0)
    view(batches(1)[0])
    view.load_state_dict({name: x for name, x in view.state_dict().items() if not name.endswith('_extra_state')})
    assert view.batches == 1


def test_a_view_saves_and_loads_the_tensors_of_its_network_after_another_has_moved_it():
    """They were those from before: loading changed nothing, in silence."""
    model = build('concatenated', 1)[1]
    view, other = view_of(model, 0), view_of(model, 0)
    state = {name: x + 1 if x.is_floating_point() else x for name, x in copy.deepcopy(view.state_dict()).items()}
    other.double()
    assert view.state_dict()['net.norm.running_mean'].dtype == torch.float64
    other.float()
    view.load_state_dict(state)
    assert same(model.tasks[0].own.norm.running_mean, state['net.norm.running_mean'])


@pytest.mark.slow
def test_peft_saves_the_adapters_of_a_task(tmp_path):
    """Where gates are on rank units alone: masks are in no other weight."""
    peft = pytest.importorskip('peft', reason='peft is not installed')
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 4))
    config = peft.LoraConfig(r=4, target_modules=['1'], modules_to_save=['3'])
    adapted = peft.get_peft_model(copy.deepcopy(net), config)
    model = hat.convert(adapted, 2, batches(1)[0], gates=lambda layer: 'lora_A' in layer)
    learn_two(lambda model, task: learn(view_of(model, task)), model)
    hat.plain(model, 0).save_pretrained(tmp_path)
    loaded, (x,) = peft.PeftModel.from_pretrained(net, tmp_path).eval(), batches(1)
    torch.testing.assert_close(loaded(x), model.eval()(x, task=0))


# Gradients of inputs, functional calls, export


def test_gradients_of_inputs_are_those_of_the_plain_network():
    model = learn_two(lambda model, task: learn(view_of(model, task)))
    for task in range(2):
        gradients = []
        for net in model.eval().view(task), hat.plain(model, task), lambda x, task=task: model(x, task=task):
            x = torch.ones(2, 3, 8, 8, requires_grad=True)
            gradients += torch.autograd.grad(net(x)[:, 1].sum(), x)
        assert gradients[0].any() and same(gradients[0], gradients[2])
        torch.testing.assert_close(gradients[0], gradients[1])


def test_transformations_of_functions_are_for_the_plain_network():
    model = learn_two(lambda model, task: learn(view_of(model, task)))
    (x,) = batches(1)
    plain, small, expected = hat.plain(model, 0), hat.prune(model, 0), model.eval()(x, task=0).detach()
    for net in plain, small:
        each = torch.vmap(lambda x, net=net: net(x[None])[0])(x)
        torch.testing.assert_close(each.detach(), expected)
        assert torch.func.jacrev(lambda x, net=net: net(x[None])[0])(x[0]).shape == (4, 3, 8, 8)
    with pytest.raises(RuntimeError, match='it must override the setup_context staticmethod'):
        torch.vmap(lambda x: model(x[None], task=0)[0])(x)


def test_other_parameters_for_one_call_do_not_reach_a_learned_task_and_are_refused_for_a_view():
    model = learn_two(lambda model, task: learn(view_of(model, task)))
    hat.forget(model, 1)
    (x,) = batches(1)
    zeros = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    call = functools.partial(torch.func.functional_call, model.eval(), zeros, x)
    assert same(call({'task': 0}), model(x, task=0)) and not call({'task': 1}).any() and model(x, task=1).any()
    view = model.view(1)
    with pytest.raises(RuntimeError, match='net.stem.weight of the view has been replaced .by functional_call'):
        torch.func.functional_call(view, {name: torch.zeros_like(p) for name, p in view.named_parameters()}, x)
    assert same(view(x), model(x, task=1))


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*torch.jit', 'ignore:Converting a tensor')
def test_torchscript_is_for_the_plain_network():
    """PyTorch failed with an error about its own insides."""
    _, model = build('attention')
    model.end_task(0)
    x = torch.randn(2, 3, 8, 8)
    for part in model.eval().use(0), model.view(0).eval():
        for call in lambda part=part: torch.jit.trace(part, x), lambda part=part: torch.jit.script(part):
            with pytest.raises(TypeError, match=r'^TorchScript has no masks: .* hat.prune\(model, task\)'):
                call()
    torch.testing.assert_close(torch.jit.trace(hat.plain(model, 0), x)(x), model(x, task=0), rtol=1e-4, atol=1e-4)


def test_export():
    model = learn_two(lambda model, task: learn(view_of(model, task)))
    x, other = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 8, 8)
    batch = {0: torch.export.Dim('batch')}
    for net in hat.prune(model, 0), hat.plain(model, 0):
        torch.testing.assert_close(torch.export.export(net, (x,), dynamic_shapes=(batch,)).module()(other), net(other))
    view = model.view(0).eval()
    exported = torch.export.export(view, (x,), dynamic_shapes=((batch,),)).module()
    torch.testing.assert_close(exported(other), view(other))


# Compilation


def compiled_steps(model, whole, compile):
    """Losses of two tasks. compile: whole: a function of model and regularization; not whole: a view."""

    def step(x, task, progress):
        return F.cross_entropy(model(x, task=task, progress=progress), Y) + 0.1 * model.regularization()

    step, losses = compile(step) if whole else step, []

    def train(model, task):
        view = view_of(model, task)
        forward, optimizer = compile(view), optimizer_of(view)
        for _ in range(2):
            for x, progress in hat.annealed(batches(5)):
                if whole:
                    loss = step(x, task, progress)
                else:
                    loss = F.cross_entropy(forward(x), Y) + 0.1 * model.regularization()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        model.end_task(task)
        with torch.no_grad():
            (x,) = batches(1)
            torch.testing.assert_close(forward.eval()(x), model.eval()(x, task=task), rtol=1e-6, atol=1e-6)

    learn_two(train, model)
    return torch.tensor(losses)


@pytest.mark.slow
@pytest.mark.parametrize('name, whole, graphs', [('attention', False, 4), ('concatenated', True, 12)])
def test_compiled_training_is_eager_training_without_a_new_graph_for_each_batch(name, whole, graphs):
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    compile = functools.partial(torch.compile, backend='aot_eager')
    found, expected = (
        compiled_steps(build(name, 2, check=0)[1], whole, how) for how in (compile, lambda function: function)
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    counters = torch._dynamo.utils.counters
    assert len(counters['graph_break']) == 1 and 'Network.prepare' in str(counters['graph_break'])
    assert counters['stats']['unique_graphs'] <= graphs  # in 20 batches of training and 2 of evaluation


@pytest.mark.slow
def test_training_a_compiled_view_takes_one_of_the_graphs_of_pytorchs_limit_for_each_task():
    """Two are compiled for each task if the code before the break reads what changes at its first batch."""
    torch.compiler.reset()
    model = build('concatenated', 2, check=0)[1]
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        for task in 0, 1:
            view = view_of(model.train(), task)
            forward, optimizer = torch.compile(view, backend='eager'), optimizer_of(view)
            for x in batches(4):
                optimizer.zero_grad()
                F.cross_entropy(forward(x), Y).backward()
                optimizer.step()
            model.end_task(task)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:end_task')
def test_a_batch_is_one_graph():
    _, model = build('concatenated', 2, check=0)
    (x,) = batches(1)
    view = model.view(0, steps=4)
    for module, learned in (view.train(), False), (view.eval(), False), (view.eval(), True):
        if learned:
            model.end_task(0)
        torch.compiler.reset()
        explained = torch._dynamo.explain(module)(x)
        assert (explained.graph_count, explained.graph_break_count) == (1, 0)


# Trainers


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*LeafSpec')
def test_lightning():
    lightning = pytest.importorskip('lightning', reason='lightning is not installed')

    class Task(lightning.LightningModule):
        def __init__(self, view):
            super().__init__()
            self.view = view

        def training_step(self, batch, i):
            x, y = batch
            return F.cross_entropy(self.view(x), y) + 0.1 * self.view.network.regularization()

        def configure_optimizers(self):
            return optimizer_of(self.view)

    def train(model, task):
        loader = DataLoader(list(zip(torch.cat(batches()), Y.repeat(4), strict=True)), 8)
        view = view_of(model, task, len(loader))
        trainer = lightning.Trainer(max_epochs=2, accelerator='cpu', logger=False, enable_checkpointing=False,
                                    enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
        trainer.fit(Task(view), loader)
        assert view.batches == 8 and model.watch.progress == 1

    learn_two(train)


@pytest.mark.slow
def test_accelerate():
    accelerate = pytest.importorskip('accelerate', reason='accelerate is not installed')

    def train(model, task):
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        loader = DataLoader(list(zip(torch.cat(batches()), Y.repeat(4), strict=True)), 8)
        view = view_of(model, task, len(loader))
        view, step, loader = accelerator.prepare(view, optimizer_of(view), loader)
        for x, y in loader:
            with accelerator.accumulate(view):
                accelerator.backward(F.cross_entropy(view(x), y) + 0.1 * model.regularization())
                step.step()
                step.zero_grad()

    learn_two(train)


def bert(**more):
    transformers = pytest.importorskip('transformers', reason='transformers is not installed')
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12, num_labels=3, hidden_dropout_prob=0, attention_probs_dropout_prob=0)  # fmt: skip
    net = transformers.BertForSequenceClassification(config)
    if more:
        net.gradient_checkpointing_enable(more)
    words, labels = torch.arange(128).view(16, 8) % 30, torch.arange(16) % 3
    return transformers, hat.convert(net, 2, dict(input_ids=words[:4], labels=labels[:4])), words, labels


@torch.no_grad()
def logits(model, task):
    words = torch.arange(64).view(8, 8) % 30
    return model.eval()(input_ids=words, task=task).logits


@pytest.mark.slow
def test_the_trainer_of_transformers(tmp_path):
    transformers, model, words, labels = bert()
    data = [{'input_ids': x, 'labels': y} for x, y in zip(words, labels, strict=True)]
    arguments = transformers.TrainingArguments(
        tmp_path, use_cpu=True, num_train_epochs=2, per_device_train_batch_size=4, learning_rate=0.01, report_to='none',
        save_strategy='epoch', disable_tqdm=True, remove_unused_columns=False, label_names=['labels'])  # fmt: skip

    def train(model, task):
        view = model.view(task, steps=4, c=0.1)
        trainer = transformers.Trainer(view, arguments, train_dataset=data, eval_dataset=data)
        trainer.train()
        assert view.batches == 8 and model.watch.progress == 1
        model.end_task(task)
        with torch.no_grad():
            expected = model.eval()(input_ids=words, labels=labels, task=task).loss.item()
        assert trainer.evaluate()['eval_loss'] == pytest.approx(expected, rel=1e-4)

    learn_two(train, model, logits)


@pytest.mark.slow
def test_the_trainer_of_transformers_accumulates_gradients_of_the_regularization_as_of_the_loss(tmp_path):
    """It had given the network the size of the whole batch: its loss was divided, and c counted for each part."""
    transformers = pytest.importorskip('transformers', reason='transformers is not installed')
    config = transformers.GPT2Config(vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_positions=8, resid_pdrop=0,
                                     embd_pdrop=0, attn_pdrop=0)  # fmt: skip
    torch.manual_seed(0)
    net, words, trained = transformers.GPT2LMHeadModel(config), torch.arange(128).view(16, 8) % 30, []
    data = [{'input_ids': x, 'labels': x} for x in words]
    for size, parts in (8, 1), (4, 2):
        torch.manual_seed(1)
        view = hat.convert(net, 1, dict(input_ids=words[:4], labels=words[:4])).view(0, steps=1, c=5.0)
        arguments = transformers.TrainingArguments(
            tmp_path, use_cpu=True, per_device_train_batch_size=size, gradient_accumulation_steps=parts, seed=0,
            num_train_epochs=1, learning_rate=0.1, optim='sgd', max_grad_norm=0, save_strategy='no', report_to='none',
            disable_tqdm=True, remove_unused_columns=False, label_names=['labels'])  # fmt: skip
        transformers.Trainer(view, arguments, train_dataset=data).train()
        trained.append([p.detach() for p in view.parameters()])
    torch.testing.assert_close(*trained)


@pytest.mark.slow
@pytest.mark.parametrize('reentrant', [True, False])
@pytest.mark.filterwarnings('ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning')
def test_checkpointing_of_transformers(reentrant):
    gradients = []
    for more in {}, {'use_reentrant': reentrant}:
        _, model, words, labels = bert(**more)
        view = model.train().view(0, steps=4, c=0.1)
        view(input_ids=words, labels=labels).loss.backward()
        gradients.append({n: p.grad for n, p in view.named_parameters()})
    torch.testing.assert_close(*gradients)


# Several devices

RANK = """
import sys, torch, torch.distributed as dist, torch.nn.functional as F, warnings
sys.path[:0] = sys.argv[4:]
import hat
from nets import NETS
from torch.nn.parallel import DistributedDataParallel
warnings.simplefilter('ignore')
rank, kind = int(sys.argv[1]), sys.argv[3]
dist.init_process_group('gloo', init_method=f'file://{sys.argv[2]}', rank=rank, world_size=2)
torch.manual_seed(0)
model = hat.convert(NETS['concatenated'](), 2, torch.randn(2, 3, 8, 8))
x, learned = torch.randn(9, 3, 8, 8, generator=torch.Generator().manual_seed(1)), []
def answers(task=0):
    with torch.no_grad():
        return model.eval()(x, task=task)
before = answers(1)
parallel = DistributedDataParallel(model, find_unused_parameters=True)
for task in 0, 1:
    torch.manual_seed(10 * task + rank)  # each rank has batches of its own
    if kind == 'view':
        parallel = DistributedDataParallel(model.view(task, steps=4))
    one = torch.optim.AdamW(parallel.parameters(), 0.01, weight_decay=0.1)
    for b in range(4):
        named = {} if kind == 'view' else dict(task=task, progress=b / 3)
        out = parallel.train()(torch.randn(8, 3, 8, 8), **named)
        one.zero_grad()
        F.cross_entropy(out, torch.arange(8) % 4).backward()
        one.step()
        if task:
            learned.append(answers())
    model.end_task(task)
    learned.append(answers())
both = [torch.empty_like(learned[0]) for _ in range(2)]
dist.all_gather(both, learned[0])
moved = not torch.equal(answers(1), before)
print(all(torch.equal(a, learned[0]) for a in learned), torch.equal(*both), moved, model.fingerprints.tolist())
dist.destroy_process_group()
hat.forget(model, 1)  # each process goes on by itself
model.train()(torch.randn(8, 3, 8, 8), task=1, progress=0.0)
model.end_task(1)
print(torch.equal(answers(), learned[0]))
"""


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['network', 'view'])
def test_processes_that_train_together_agree_and_none_forgets(kind, tmp_path):
    """DistributedDataParallel with batch norm: the statistics of the ranks are not the same before a task ends."""
    tests = Path(__file__).parent
    command = [sys.executable, '-c', RANK]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path / 'meet'), kind, str(tests.parent), str(tests)],
                              stdout=subprocess.PIPE, text=True) for rank in range(2)]  # fmt: skip
    said = [process.communicate(timeout=120)[0] for process in ranks]
    assert said[0] == said[1] and said[0].startswith('True True True [') and said[0].endswith('True\n')


@pytest.mark.skipif(torch.cuda.is_available(), reason='DataParallel moves the network to the GPU, not its data')
def test_data_parallel_is_refused_on_several_devices_and_works_on_one():
    learn_two(lambda model, task: learn(view := view_of(model, task), DataParallel(view)))
    model = build('concatenated', 2)[1]
    for module in model, model.view(0):
        with pytest.raises(TypeError, match='DataParallel .* DistributedDataParallel'):
            module._replicate_for_data_parallel()


@pytest.fixture
def mesh():
    distributed.init_process_group('gloo', store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.init_device_mesh('cpu', (1,))
    distributed.destroy_process_group()


def test_fully_sharded_parameters_are_refused(mesh):
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    def view(model, **more):
        FullyShardedDataParallel(view_of(model, 0), device_id=torch.device('cpu'), **more)(batches(1)[0])

    def part(model):
        fully_shard(model.net.stem, mesh=mesh)
        model.train()(batches(1)[0], task=0, progress=0.5)

    def part_of_view(model):
        view = view_of(model, 0)
        fully_shard(view.net.stem, mesh=mesh)
        view(batches(1)[0])

    for shard, error, message in (
        (lambda model: fully_shard(model, mesh=mesh), TypeError, 'cuts up .* DistributedDataParallel'),
        (lambda model: fully_shard(model.view(0), mesh=mesh), TypeError, 'cuts up parameters'),
        (part, TypeError, 'net.stem.weight is sharded: .* DistributedDataParallel'),
        (part_of_view, RuntimeError, 'net.stem.weight of the view has been replaced'),
        (view, RuntimeError, 'net.*weight of the view has been replaced'),
        (functools.partial(view, use_orig_params=True), RuntimeError, 'net.*weight of the view has been replaced'),
    ):
        with pytest.raises(error, match=message):
            shard(build('concatenated', 2)[1])


def test_a_checkpointed_view_counts_each_batch_once():
    _, model = build('mlp')
    view, seen = view_of(model, 0, steps=3), []
    for x in batches(3):
        checkpoint(view, x, use_reentrant=False).sum().backward()
        seen.append(model.watch.progress)
    assert seen == [0, 0.5, 1]

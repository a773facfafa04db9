"""Settings travel with the weights; what does not fit is refused."""

import copy
import functools
import io
import os
import pickle
import random
import re
import tempfile
import warnings
import zipfile

import pytest
import torch
import torch.nn.functional as F
from conftest import same
from nets import NETS
from test_convert import OPTIMIZERS, answers, build, learn
from test_guarantee import garbage
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import hat


def test_a_state_of_other_settings_is_refused_with_their_names():
    state = build('mlp')[1].state_dict()
    for settings, name in (
        ({'s_max': 50.0}, 's_max 400.0; here it is 50.0'),
        ({'hard': False}, 'hard True; here it is False'),
        ({'schedule': hat.schedules.cosine}, "schedule 'linear'; here it is 'cosine'"),
        ({'gates': ['1']}, "gates ['1', '3']; here it is ['1']"),
        ({'n_classes': [4, 9, 4]}, 'classes of task 1 4; here it is 9'),
    ):
        with pytest.raises(ValueError, match=re.escape(f'the state was made with {name}')):
            build('mlp', **settings)[1].load_state_dict(state)


def test_a_network_that_renames_its_keys_loads_its_own_state():
    net = nn.Sequential(checkpoint_wrapper(nn.Linear(5, 4)), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    model = hat.convert(net, 2, torch.randn(2, 5))
    model.train()(torch.randn(6, 5), task=0, progress=1.0).sum().backward()
    model.end_task(0)
    state = model.state_dict()
    model.load_state_dict(state)
    del state['tasks.0.own.1.running_mean']
    with pytest.raises(ValueError, match='it has no tasks.0.own.1.running_mean'):
        model.load_state_dict(state, strict=False)
    del state['fingerprints']
    with pytest.raises(ValueError, match='but no fingerprints of tasks'):
        model.load_state_dict(state, strict=False)


@pytest.mark.parametrize('part', ['net.stem.weight', 'tasks.0.own.fc.weight', 'tasks.0.embeddings.1'])
def test_a_part_of_a_state_with_learned_tasks_is_refused(part):
    """Even with strict=False: the task would count as learned, with initial values."""
    _, model = build('concatenated')
    learn(model, 0, OPTIMIZERS['sgd'](model.parameters()))
    state = model.state_dict()
    del state[part]
    for other in build('concatenated')[1], model:
        with pytest.raises(ValueError, match=f'the state is incomplete: tasks are learned in it, but it has no {part}'):
            other.load_state_dict(state, strict=False)


def test_a_state_of_more_or_fewer_tasks_can_be_loaded():
    _, three = build('concatenated')
    one = OPTIMIZERS['momentum'](three.parameters())
    learn(three, 0, one)
    learn(three, 1, one)
    learned = [answers(three, t) for t in range(2)]
    for n in 1, 5:
        _, other = build('concatenated', n_tasks=n)
        other.load_state_dict(three.state_dict())
        assert len(other.tasks) == max(n, 3) and other.learned.tolist() == [
            True,
            True,
            *[False] * (len(other.tasks) - 2),
        ]
        assert all(same(answers(other, t), learned[t]) for t in range(2))
        learn(other, 2, OPTIMIZERS['adamw'](other.parameters()))
        assert all(same(answers(other, t), learned[t]) for t in range(2))
    _, one = build('concatenated', n_tasks=1)
    _, other = build('concatenated', n_tasks=2)
    other.end_task(1)
    with pytest.raises(ValueError, match='task 1 is learned here, but not in the state, which has 1 tasks'):
        other.load_state_dict(one.state_dict())


def test_a_learned_task_is_not_overwritten_by_a_state_and_that_is_said():
    _, model = build('concatenated')
    learn(model, 0, OPTIMIZERS['momentum'](model.parameters()))
    learned = answers(model, 0)
    with pytest.warns(UserWarning, match='task 0 is already learned and is not overwritten by the state'):
        model.load_state_dict(garbage(model.state_dict()))
    assert same(answers(model, 0), learned)
    _, other = build('concatenated')
    learn(other, 0, OPTIMIZERS['adamw'](other.parameters()))
    model.load_state_dict(other.state_dict())  # but one of another run is what it has been there
    assert same(answers(model, 0), answers(other, 0)) and not same(answers(model, 0), learned)


@pytest.mark.parametrize('part', ['state', 'parameters', 'checkpoint'])
def test_a_state_that_is_loaded_where_it_comes_from_changes_nothing(part, tmp_path):
    """As with torch.distributed.checkpoint, which reads into the tensors of a state: a task in training lost its head
    and norms."""
    _, model = build('concatenated')
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    before = copy.deepcopy(model.state_dict())
    if part == 'parameters':
        model.load_state_dict(dict(model.named_parameters()), strict=False)
    elif part == 'state':
        model.load_state_dict(model.state_dict())
    else:
        checkpoint = pytest.importorskip('torch.distributed.checkpoint')
        checkpoint.save({'model': model.state_dict()}, checkpoint_id=tmp_path, no_dist=True)
        _, model = build('concatenated')
        checkpoint.load(state := {'model': model.state_dict()}, checkpoint_id=tmp_path, no_dist=True)
        model.load_state_dict(state['model'])
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_state_from_before_a_task_was_learned_takes_it_back_and_that_is_said():
    """As where the best epoch of an earlier task is loaded: the learned task was forgotten in silence."""
    _, model = build('mlp')
    before = copy.deepcopy(model.state_dict())
    learn(model, 0, OPTIMIZERS['adam'](model.parameters()))
    with pytest.warns(UserWarning, match='task 0 is learned here, but not in the state: it is not learned any more'):
        model.load_state_dict(before)
    assert not model.learned.any()


def test_a_state_that_is_refused_takes_nothing_back_and_is_not_said_to():
    _, model = build('mlp')
    learn(model, 1, OPTIMIZERS['adam'](model.parameters()))
    incomplete = copy.deepcopy(model.state_dict())
    del incomplete[next(name for name in incomplete if name.startswith('net.'))]
    learn(model, 0, OPTIMIZERS['adam'](model.parameters()))
    with warnings.catch_warnings(), pytest.raises(ValueError, match='incomplete: tasks are learned in it, but it has'):
        warnings.simplefilter('error')
        model.load_state_dict(incomplete)
    assert model.learned[:2].all()


def loaded(model, **more):
    file = io.BytesIO()
    hat.save(model, file)
    file.seek(0)
    return hat.load(file, NETS['mlp'](), **more)


def test_a_file_has_the_names_of_the_functions_that_further_tasks_need():
    """They were those by default after load(), in silence."""
    other = loaded(build('mlp', regularizer=hat.regularizers.quota, init=hat.init.dense)[1])
    assert (other.regularizer, other.init) == (hat.regularizers.quota, hat.init.dense)
    assert all(e.eq(1).all() for e in other.tasks[other.add_task()].embeddings)

    def linear(*inputs):
        return hat.schedules.constant(*inputs)

    def mine(*inputs):
        return hat.regularizers.quota(*inputs)

    _, model = build('mlp', regularizer=mine)
    with pytest.warns(UserWarning, match='was made with functions of your own: pass regularizer= or tasks to come are'):
        loaded(model)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert loaded(model, regularizer=mine).regularizer is mine
    with pytest.raises(ValueError, match='its schedule linear is not one of hat.schedules: pass schedule='):
        loaded(build('mlp', schedule=linear)[1])


def test_a_file_that_is_loaded_into_a_network_of_the_same_parameters_with_other_outputs_is_warned_of():
    """As with another activation: learned tasks had other outputs, in silence."""
    _, model = build('flatten')
    learn(model, 0, OPTIMIZERS['adam'](model.parameters()))
    for cast in nn.Module.float, nn.Module.bfloat16:
        hat.save(model, file := io.BytesIO())
        for activation, more in (nn.ReLU(), ()), (nn.SiLU(), ()), (nn.SiLU(), [torch.zeros(2, 3, 8, 8)]):
            file.seek(0)
            net = cast(NETS['flatten']())
            net[1] = net[5] = activation
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter('always')
                hat.load(file, net, None, *more)
            said = ['task 0 has other outputs than as it was saved' in str(w.message) for w in caught]
            assert said == [True] * (isinstance(activation, nn.SiLU) and not more)


class Noisy(nn.Module):
    """Outputs in evaluation are random, as of Monte Carlo dropout."""

    fails = False

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        if self.fails:
            raise NotImplementedError
        return self.b(F.dropout(F.relu(self.a(x)), 0.5, True))


class Residual(nn.Module):
    """Outputs of another precision differ by more than 1 %."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(20))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        for block in self.blocks:
            x = x + 3 * block(x)
        return self.head(x)


@pytest.mark.filterwarnings('ignore:end_task')
@pytest.mark.parametrize('make, cast, fails', [
    (Noisy, nn.Module.float, False), (Noisy, nn.Module.float, True), (Residual, nn.Module.bfloat16, False)
])  # fmt: skip
def test_a_file_that_is_loaded_into_its_own_network_is_not_warned_of(make, cast, fails):
    """Where outputs are random, are not known, or were saved in half precision."""
    torch.manual_seed(3)
    model = hat.convert(make(), 1, torch.randn(4, 8), init=hat.init.dense)
    model.end_task(0)
    model.net.fails = fails
    hat.save(cast(model), file := io.BytesIO())
    file.seek(0)
    net = make()
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        hat.load(file, net)


def test_random_numbers_are_no_change_of_an_attribute():
    torch.manual_seed(0)
    model = hat.convert(Noisy(), 2, torch.randn(4, 8))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        model.end_task(0)
        torch.manual_seed(1)
        model.begin_task(1)
    assert [str(each.message) for each in caught] == ['end_task(0): task 0 has not been trained']


def test_what_is_saved_is_the_network_of_a_compiled_one_and_nothing_else():
    """The file of a compiled network could not be loaded."""
    _, model = build('mlp')
    learn(model, 0, OPTIMIZERS['adam'](model.parameters()))
    assert same(answers(loaded(torch.compile(model, backend='eager')), 0), answers(model, 0))
    with pytest.raises(TypeError, match='takes a converted network .of a view: view.network., not View'):
        loaded(model.view(0))


def test_pretrained_weights_can_come_after_conversion():
    net, model = build('concatenated')
    torch.manual_seed(7)
    other = NETS['concatenated']()
    nn.init.normal_(other.norm.weight)
    model.end_task(0)
    learned = answers(model, 0)
    model.net.load_state_dict(other.state_dict())
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        opened = model.eval().run((x,), 1, [torch.ones_like(a) for a in model.masks(1)])
    protected = model.protected()
    assert same(answers(model, 0), learned) and any(p.any() for p in protected.values())
    assert same(model.tasks[1].own.norm.weight, other.norm.weight) and same(model.tasks[1].own.fc.bias, other.fc.bias)
    _, fresh = build('concatenated')
    fresh.net.load_state_dict(other.state_dict())
    with torch.no_grad():
        opened = fresh.eval().run((x,), 1, [torch.ones_like(a) for a in fresh.masks(1)])
        torch.testing.assert_close(opened, other.eval()(x))


def test_load_says_what_it_cannot_read(tmp_path):
    _, model = build('mlp', schedule=functools.partial(hat.schedules.exponential, above_one=0.5))
    hat.save(model, tmp_path / 'it.pt')
    with pytest.raises(ValueError, match=r'its schedule exponential\(above_one=0.5\) is not one of .*: pass schedule='):
        hat.load(tmp_path / 'it.pt', NETS['mlp']())
    other = hat.load(tmp_path / 'it.pt', NETS['mlp'](), schedule=model.schedule)
    assert same(answers(other, 2), answers(model, 2))
    torch.save({}, tmp_path / 'else.pt')
    with pytest.raises(ValueError, match='else.pt was not written by hat.save'):
        hat.load(tmp_path / 'else.pt', NETS['mlp']())
    for content in b'', b'weights', (tmp_path / 'it.pt').read_bytes()[:500]:
        (tmp_path / 'else.pt').write_bytes(content)
        with pytest.raises(ValueError, match='else.pt was not written by hat.save.., or is damaged$'):
            hat.load(tmp_path / 'else.pt', NETS['mlp']())


def refused_or_the_same(content, model):
    """Load a damaged file. True: it was refused in one line; False: it has all values."""
    try:
        other = hat.load(io.BytesIO(content), NETS['concatenated']())
    except ValueError as error:
        assert '\n' not in str(error) and 'was not written by hat.save(), or is damaged' in str(error)
        return True
    assert same(dict(other.state_dict()), dict(model.state_dict()))  # the damage is to nothing that is read
    return False


@pytest.mark.slow
def test_a_damaged_file_is_refused_and_never_loaded_with_other_values():
    _, model = build('concatenated')
    model.end_task(0)
    hat.save(model, file := io.BytesIO())
    whole, draw = file.getvalue(), random.Random(0)
    assert not refused_or_the_same(whole, model)
    assert all(refused_or_the_same(whole[:n], model) for n in range(0, len(whole), len(whole) // 40))
    weight = whole.find(model.net.stem.weight.detach().numpy().tobytes())
    checked = set()  # places in the parts of the archive, each of which has a checksum
    for part in zipfile.ZipFile(io.BytesIO(whole)).infolist():
        name, more = (int.from_bytes(whole[part.header_offset + n :][:2], 'little') for n in (26, 28))
        start = part.header_offset + 30 + name + more
        checked |= set(range(start, start + part.file_size))
    assert weight in checked
    for place in (weight + 3, *(draw.randrange(len(whole)) for _ in range(200))):
        content = bytearray(whole)
        content[place] ^= 1 << draw.randrange(8)
        assert refused_or_the_same(bytes(content), model) or place not in checked
    torch.serialization.set_crc32_options(False)
    try:
        hat.save(model, file := io.BytesIO())
    finally:
        torch.serialization.set_crc32_options(True)
    assert not refused_or_the_same(file.getvalue(), model)  # it has no checksums


def test_a_file_of_something_else_is_refused(tmp_path):
    _, model = build('mlp')
    hat.save(model, path := tmp_path / 'it.pt')
    content = torch.load(path, weights_only=True)
    others = [model.net.state_dict(), model.state_dict(), [1], 'settings', torch.zeros(2), content | {'settings': '[]'}]
    others += [{k: v for k, v in content.items() if k != key} for key in content]
    for other in others:
        torch.save(other, path)
        with pytest.raises(ValueError, match='it.pt was not written by hat.save.., or is damaged$'):
            hat.load(path, NETS['mlp']())
    for bytes_of in (
        pickle.dumps(content['settings']),
        b'\x89PNG\r\n\x1a\n',
        b'GIF89a',
        b'PK\x03\x04',
        b'{"settings": 1}',
    ):
        path.write_bytes(bytes_of)
        with pytest.raises(ValueError, match='it.pt was not written by hat.save.., or is damaged$'):
            hat.load(path, NETS['mlp']())
    torch.save(content | {'state': {}}, path)
    with pytest.raises(ValueError, match='it.pt does not fit this network, .*: Missing key'):
        hat.load(path, NETS['mlp']())


def test_saving_over_a_file_that_is_interrupted_leaves_it_as_it_was(tmp_path, monkeypatch):
    def stopped(content, path):
        with open(path, 'wb') as file:
            file.write(b'half')
        raise KeyboardInterrupt

    _, model = build('mlp')
    hat.save(model, path := tmp_path / 'it.pt')
    before = path.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, 'save', stopped)
        hat.save(model, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ['it.pt']
    (tmp_path / 'link.pt').symlink_to(path)
    model.end_task(0)
    hat.save(model, tmp_path / 'link.pt')
    assert path.read_bytes() != before and (tmp_path / 'link.pt').is_symlink()
    assert same(answers(hat.load(path, NETS['mlp']()), 0), answers(model, 0))


def test_saving_over_a_file_keeps_its_permissions(tmp_path, monkeypatch):
    """A file for its owner alone was readable by all, a write-protected one was replaced, and a folder that is
    read-only, or in which the file is of another user, was an error."""
    _, model = build('mlp')
    hat.save(model, path := tmp_path / 'it.pt')
    path.chmod(0o600)
    hat.save(model, path)
    assert path.stat().st_mode & 0o777 == 0o600

    def refused(*args, **kwargs):
        raise PermissionError

    model.end_task(0)
    for module, name in (tempfile, 'mkdtemp'), (os, 'replace'):
        path.write_bytes(b'')
        with monkeypatch.context() as patch:
            patch.setattr(module, name, refused)
            hat.save(model, path)
        assert same(answers(hat.load(path, NETS['mlp']()), 0), answers(model, 0)) and os.listdir(tmp_path) == ['it.pt']
    with monkeypatch.context() as patch:  # a write-protected file, which others than root cannot write, is not replaced
        patch.setattr(os, 'access', lambda *_: False)
        patch.setattr(tempfile, 'mkdtemp', None)
        hat.save(model, path)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_a_network_of_another_type_is_loaded_into_one_in_float32(dtype, tmp_path):
    """The example input in the file is of the other type."""
    net = NETS['mlp']()
    model = hat.convert(copy.deepcopy(net).to(dtype), 1, torch.randn(2, 3, 8, 8, dtype=dtype))
    model.end_task(0)
    hat.save(model, path := tmp_path / 'it.pt')
    assert same(answers(hat.load(path, net), 0), answers(model.float(), 0))


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_what_forward_changes_in_training_is_found_in_a_file_of_another_type(dtype, tmp_path):
    class Shrinking(nn.Sequential):
        def forward(self, x):
            output = super().forward(x)
            if self.training:
                with torch.no_grad():
                    self[0].weight.mul_(0.9)
            return output

    net = Shrinking(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model = hat.convert(copy.deepcopy(net).to(dtype), 2, torch.randn(4, 6, dtype=dtype))
    hat.save(model, path := tmp_path / 'it.pt')
    assert hat.load(path, net).plan.changed == model.plan.changed == ['0.weight']


def test_an_example_input_of_another_type_than_the_network_is_refused():
    """The network would not run on it in training, where convert() looks for what forward() changes."""
    with pytest.raises(ValueError, match='fails on example_input .*same dtype'):
        hat.convert(NETS['mlp'](), 1, torch.randn(2, 3, 8, 8, dtype=torch.float64))


def test_loading_into_another_network_is_one_line(tmp_path):
    _, model = build('flatten')
    hat.save(model, path := tmp_path / 'it.pt')
    wide = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 6),
                         nn.ReLU(), nn.Linear(6, 4))  # fmt: skip
    others = {
        'size mismatch for net.0.weight': wide,
        "gates: '0' is none of the layers that tasks share: 1": NETS['mlp'](),
        "gates: '0' is none": nn.Flatten(),
        'the network fails on example_input': nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 4)),
        'size mismatch for net.6': nn.Sequential(*NETS['flatten']()[:-1], nn.Linear(6, 5)),
        'Unexpected key.*bias': nn.Sequential(*NETS['flatten']()[:-1], nn.Linear(6, 4, bias=False)),
    }
    for message, other in others.items():
        with pytest.raises(ValueError, match=f'it.pt does not fit this network, .*{message}') as caught:
            hat.load(path, other)
        assert '\n' not in str(caught.value) and len(str(caught.value)) < 500
    with pytest.raises(TypeError, match='net must be an nn.Module, not NoneType'):
        hat.load(path, None)
    with pytest.raises(TypeError, match="unexpected argument 'gates'"):
        hat.load(path, NETS['flatten'](), gates=None)


@pytest.mark.parametrize('error', [MemoryError(), torch.OutOfMemoryError('CUDA out of memory.')])
def test_a_machine_without_memory_and_a_missing_file_are_not_a_damaged_file(error, tmp_path, monkeypatch):
    _, model = build('mlp')
    hat.save(model, path := tmp_path / 'it.pt')
    with pytest.raises(FileNotFoundError):
        hat.load(tmp_path / 'missing.pt', NETS['mlp']())
    with pytest.raises((IsADirectoryError, PermissionError)):
        hat.load(tmp_path, NETS['mlp']())

    def fails(*_, **__):
        raise error

    for owner, name in (torch, 'load'), (hat.Network, 'load_state_dict'):
        with monkeypatch.context() as patch, pytest.raises(type(error)):
            patch.setattr(owner, name, fails)
            hat.load(path, NETS['mlp']())


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x, scale=1.0):
        return self.head(F.relu(self.one(x * scale)))


def test_inputs_by_keyword():
    x = torch.randn(4, 8)
    for example in {'x': x}, (x,), x, ((x,), {'scale': 1.0}):
        model = hat.convert(Keywords(), 1, example).eval()
        model.end_task(0)
        assert same(model(x=x, scale=1.0, task=torch.tensor(0)), model(x, task=0))
        torch.testing.assert_close(hat.prune(model, 0)(x=x), model(x, task=0))

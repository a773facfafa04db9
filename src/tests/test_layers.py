"""Every spelling of a layer: its weights are protected if a learned task depends on them, and only then."""

import asyncio
import collections
import copy
import dataclasses
import io
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from conftest import same
from torch import nn
from torch.nn.utils import parametrizations

import hat
from hat.nested import tensors_in


class Net(nn.Module):
    """A network of parameters and modules by name, and a function of it and its inputs."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = forward

    def forward(self, *inputs):
        return self.function(self, *inputs)


def weight(*shape):
    return nn.Parameter(torch.randn(shape) / max(shape[-1], 2) ** 0.5)


def linear(n, m):
    return nn.Linear(n, m)


def vectors():
    return (torch.randn(4, 6),)


def sequences():
    return (torch.randn(4, 5, 6),)


def images():
    return (torch.randn(4, 3, 6, 6),)


def words():
    return (torch.arange(20).view(4, 5) % 9,)


class Transposed(nn.Module):
    """Conv1D of GPT-2: (inputs, outputs), by addmm."""

    def __init__(self, n, m):
        super().__init__()
        self.weight, self.bias = weight(n, m), weight(m)

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], -1)


def recurrent(kind, forward=lambda n, x: n.fc(n.rnn(x)[0].mean(1)), **more):
    return lambda: Net(
        forward, rnn=kind(6, 5, batch_first=True, **more), fc=linear(5 * (1 + ('bidirectional' in more)), 3)
    )


def cells(n, x):
    state = None
    for step in x.unbind(1):
        state = n.cell(step, state)
    return n.fc(state[0] if isinstance(state, tuple) else state)


def standardized(n, x):
    w = n.w - n.w.mean((1, 2, 3), keepdim=True)
    return n.conv(F.conv2d(x, w / w.std((1, 2, 3), keepdim=True), padding=1)).mean((2, 3)) @ n.v


def spectral():
    return nn.Sequential(parametrizations.spectral_norm(linear(6, 8)), linear(8, 7), linear(7, 3))


EXACT = {  # products, linear functions of each weight: what a task depends on is seen in its gradients
    'x @ w': (lambda: Net(lambda n, x: n.fc(x @ n.w), w=weight(6, 8), fc=linear(8, 3)), vectors),
    'x @ w + b': (lambda: Net(lambda n, x: n.fc(x @ n.w + n.b) @ n.v, w=weight(6, 8), b=weight(8), fc=linear(8, 7), v=weight(7, 3)),
                  sequences),
    'w @ x': (lambda: Net(lambda n, x: n.fc((n.w @ x.mT).mT), w=weight(8, 6), fc=linear(8, 3)), sequences),
    'mm': (lambda: Net(lambda n, x: n.fc(torch.mm(x, n.w)), w=weight(6, 8), fc=linear(8, 3)), vectors),
    'addmm': (lambda: nn.Sequential(Transposed(6, 8), Transposed(8, 7), linear(7, 3)), sequences),
    'addmv': (lambda: Net(lambda n, x: n.fc(torch.stack([torch.addmv(n.b, n.w, row) for row in x])), w=weight(8, 6), b=weight(8),
                          fc=linear(8, 3)), vectors),
    'inner': (lambda: Net(lambda n, x: n.fc(torch.inner(x, n.w)), w=weight(8, 6), fc=linear(8, 3)), sequences),
    'tensordot': (lambda: Net(lambda n, x: n.fc(torch.tensordot(x, n.w, ([-1], [0]))), w=weight(6, 8), fc=linear(8, 3)), sequences),
    'tensordot over two': (lambda: Net(lambda n, x: n.fc(torch.tensordot(n.w, n.one(x), ([1, 2], [2, 1])).T), w=weight(7, 8, 5),
                                       one=linear(6, 8), fc=linear(7, 3)), sequences),
    'bmm of experts': (lambda: Net(lambda n, x: n.fc(torch.bmm(x.expand(2, -1, -1), n.w).sum(0)), w=weight(2, 6, 8),
                                   fc=linear(8, 3)), vectors),
    'baddbmm': (lambda: Net(lambda n, x: n.fc(torch.baddbmm(n.b, x.expand(2, -1, -1), n.w).sum(0)), w=weight(2, 6, 8),
                            b=weight(2, 1, 8), fc=linear(8, 3)), vectors),
    'one expert of a stack': (lambda: Net(lambda n, x: n.fc(F.linear(x, n.w[0]) + F.linear(x, n.w[1])), w=weight(2, 8, 6),
                                          fc=linear(8, 3)), vectors),
    'F.linear(x, w.t())': (lambda: Net(lambda n, x: n.fc(F.linear(x, n.w.t())), w=weight(6, 8), fc=linear(8, 3)), vectors),
    'einsum': (lambda: Net(lambda n, x: n.fc(torch.einsum('btc,hcd->bhtd', x, n.w).flatten(2, 3).sum(1)), w=weight(2, 6, 4),
                           fc=linear(20, 3)), sequences),
    'einsum with dots': (lambda: Net(lambda n, x: n.fc(torch.einsum('...c,cd->...d', x, n.w)), w=weight(6, 8),
                                     fc=linear(8, 3)), sequences),
    'tensordot as matmul': (lambda: Net(lambda n, x: n.fc(torch.matmul(x, n.w).sum(1)), w=weight(4, 6, 8), fc=linear(8, 3)),
                            lambda: (torch.randn(4, 4, 5, 6).sum(0),)),
    'parts of a weight': (lambda: Net(lambda n, x: n.fc(F.linear(x, n.w[:4]) + F.linear(x, n.w[4:])), w=weight(8, 6),
                                      fc=linear(4, 3)), vectors),
    'a blur between convolutions': (lambda: Net(
        lambda n, x: n.fc(F.conv2d(n.one(x), n.kernel.expand(8, 1, 3, 3), groups=8).mean((2, 3))),
        one=nn.Conv2d(3, 8, 3), kernel=nn.Buffer(torch.ones(1, 1, 3, 3) / 9), fc=linear(8, 3)), images),
    'embedding bag': (lambda: Net(lambda n, i: n.fc(n.bag(i)), bag=nn.EmbeddingBag(9, 8), fc=linear(8, 3)), words),
    'tied embedding': (lambda: Net(lambda n, i: F.linear(n.embed(i) + n.mid(n.embed(i)), n.embed.weight),
                                   embed=nn.Embedding(9, 8), mid=linear(8, 8)), words),
    'one layer at every depth': (lambda: Net(lambda n, x: n.fc(n.body(n.body(n.stem(x)))), stem=linear(6, 8),
                                             body=linear(8, 8), fc=linear(8, 3)), vectors),
    'low rank beside a frozen layer': (lambda: Net(lambda n, x: n.fc(n.base(x) + n.up(n.down(x))),
                                                   base=linear(6, 8).requires_grad_(False), down=linear(6, 4),
                                                   up=linear(4, 8), fc=linear(8, 3)), vectors),
}  # fmt: skip
NETS = EXACT | {
    'bilinear': (lambda: Net(lambda n, x: n.fc(n.pair(n.one(x), n.two(x))), one=linear(6, 5), two=linear(6, 4),
                             pair=nn.Bilinear(5, 4, 7), fc=linear(7, 3)), vectors),
    'lstm': (recurrent(nn.LSTM, num_layers=2), sequences),
    'lstm in both directions': (recurrent(nn.LSTM, num_layers=2, bidirectional=True), sequences),
    'gru': (recurrent(nn.GRU), sequences),
    'rnn without bias': (recurrent(nn.RNN, bias=False, nonlinearity='relu'), sequences),
    'final states': (recurrent(nn.LSTM, lambda n, x: n.fc(n.rnn(x)[1][0][-1] + n.rnn(x)[1][1][-1]), num_layers=2), sequences),
    'a projection': (lambda: Net(lambda n, x: n.fc(n.stem(n.rnn(x)[0].mean(1))), rnn=nn.LSTM(6, 5, proj_size=3, batch_first=True),
                                 stem=linear(3, 8), fc=linear(8, 3)), sequences),
    'a packed sequence': (lambda: Net(
        lambda n, x: n.fc(n.rnn(nn.utils.rnn.pack_padded_sequence(x, [5, 4, 2, 1], batch_first=True))[1].mean(0)),
        rnn=nn.GRU(6, 5, 2, batch_first=True), fc=linear(5, 3)), sequences),
    'gru cell': (lambda: Net(cells, cell=nn.GRUCell(6, 5), fc=linear(5, 3)), sequences),
    'lstm cell': (lambda: Net(cells, cell=nn.LSTMCell(6, 5), fc=linear(5, 3)), sequences),
    'weight norm': (lambda: nn.Sequential(parametrizations.weight_norm(linear(6, 8)), nn.Tanh(), linear(8, 7), linear(7, 3)), vectors),
    'weight norm, old': (lambda: nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Flatten(), linear(128, 3)), images),
    'spectral norm': (spectral, vectors),
    'standardized by hand': (lambda: Net(standardized, w=weight(8, 3, 3, 3), conv=nn.Conv2d(8, 7, 3), v=weight(7, 3)), images),
    'a cosine classifier': (lambda: Net(lambda n, x: 5 * F.linear(F.normalize(n.fc(x)), F.normalize(n.w)), fc=linear(6, 8),
                                        w=weight(3, 8)), vectors),
    'a normed last layer': (lambda: nn.Sequential(linear(6, 8), parametrizations.weight_norm(linear(8, 3))), vectors),
    'a scaled weight': (lambda: Net(lambda n, x: n.fc(n.mid(F.linear(x, n.w * n.scale.exp()))), w=weight(8, 6),
                                    scale=weight(1), mid=linear(8, 7), fc=linear(7, 3)), vectors),
    'a largest norm': (lambda: Net(lambda n, i: n.fc(n.embed(i)), embed=nn.Embedding(9, 8, max_norm=0.5), fc=linear(8, 3)), words),
    'a weight and its transpose': (lambda: Net(lambda n, x: n.fc(F.linear(F.linear(n.stem(x), n.w), n.w.t())),
                                               stem=linear(6, 7), w=weight(8, 7), fc=linear(7, 3)), vectors),
    'low rank in the weight': (lambda: Net(lambda n, x: n.fc(n.mid(F.linear(x, n.w + n.b @ n.a))), w=weight(8, 6),
                                           b=weight(8, 2), a=weight(2, 6), mid=linear(8, 7), fc=linear(7, 3)), vectors),
    'weights for each example': (lambda: Net(
        lambda n, x: n.fc(torch.bmm(n.make(x).view(-1, 8, 6), x[..., None])[..., 0]), make=linear(6, 48), fc=linear(8, 3)), vectors),
    'a weight that is data, too': (lambda: Net(lambda n, x: n.fc(n.one(x) + n.one.weight[:, 0]), one=linear(6, 8),
                                               fc=linear(8, 3)), vectors),
    'an unknown operation': (lambda: Net(lambda n, x: n.fc(torch.cdist(n.one(x), n.codes)), one=linear(6, 8),
                                         codes=weight(7, 8), fc=linear(7, 3)), vectors),
    'a clamped parameter': (lambda: Net(lambda n, x: n.fc(F.softmax(n.one(x) * n.scale.clamp(max=2).exp(), 1)),
                                        one=linear(6, 8), scale=weight(8), fc=linear(8, 3)), vectors),
    'one norm at every depth': (lambda: Net(lambda n, x: n.fc(n.norm(x + n.body(n.norm(n.stem(x))))), stem=linear(6, 6),
                                            body=linear(6, 6), norm=nn.LayerNorm(6), fc=linear(6, 3)), vectors),
}  # fmt: skip


class Outside(nn.Linear):
    """Its bias is added by others."""

    def forward(self, x):
        return x @ self.weight.t()


class Inside(nn.Linear):
    """Uses its output itself."""

    def forward(self, x):
        y = super().forward(x)
        self.side = torch.relu(y)
        return y


class Added(nn.Linear):
    """A sum gives one gradient to two parameters."""

    def __init__(self, n, m):
        super().__init__(n, m)
        self.delta = weight(m, n)

    def forward(self, x):
        return F.linear(x, self.weight + self.delta, self.bias)


def sharing(forward, name='weight', of='bias', **parts):
    """A network in which b has a parameter of a."""

    def build():
        net = Net(forward, **{key: part() for key, part in parts.items()})
        setattr(net.b, name, getattr(net.a, of))
        return net

    return build


def two(n=6, m=8):
    return lambda: linear(n, m)


NETS |= {  # a batch norm that only seems to follow a layer
    'a computed weight before a norm': (lambda: nn.Sequential(
        parametrizations.weight_norm(linear(6, 8)), nn.BatchNorm1d(8), nn.ReLU(), linear(8, 3)), vectors),
    'an output before its norm': (lambda: Net(
        lambda n, x: torch.cat([(y := n.conv(x)).mean((2, 3)), n.fc(torch.relu(n.norm(y)).mean((2, 3)))], 1),
        conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), fc=linear(8, 3)), images),
    'a norm of another dimension': (lambda: Net(lambda n, x: n.fc(n.norm(n.one(x)).mean(1)), one=linear(6, 5),
                                                norm=nn.BatchNorm1d(5), fc=linear(5, 3)), sequences),
    'a norm of another dimension and size': (lambda: Net(lambda n, x: n.fc(n.norm(n.one(x)).mean(1)), one=linear(6, 8),
                                                         norm=nn.BatchNorm1d(5), fc=linear(8, 3)), sequences),
    'a norm of units in another order': (lambda: Net(lambda n, x: n.fc(n.norm(F.linear(x, n.w.flip(0)))), w=weight(8, 6),
                                                     norm=nn.BatchNorm1d(8), fc=linear(8, 3)), vectors),
    'a norm of a part': (lambda: Net(lambda n, x: n.fc(n.norm(F.linear(x, n.w[4:]))), w=weight(8, 6),
                                     norm=nn.BatchNorm1d(4), fc=linear(4, 3)), vectors),
    'a norm with a bias alone': (lambda: Net(lambda n, x: n.fc(n.mid(F.layer_norm(n.one(x), (8,), None, n.b))), b=weight(8),
                                             one=linear(6, 8), mid=linear(8, 7), fc=linear(7, 3)), vectors),
    # parameters that others use, too
    'a bias of two layers': (sharing(lambda n, x: n.fc(n.b(n.a(x))), 'bias', a=two(), b=two(8), fc=two(8, 3)), vectors),
    'a bias that is data': (lambda: Net(lambda n, x: n.fc(n.a(x) + n.a.bias), a=linear(6, 8), fc=linear(8, 3)), vectors),
    'a bias that scales': (lambda: Net(lambda n, x: n.fc(n.a(x)) * n.a.bias.sum(), a=linear(6, 8), fc=linear(8, 3)), vectors),
    'a bias that is returned': (lambda: Net(lambda n, x: torch.cat([n.fc(n.a(x)), n.a.bias.expand(4, 8)], 1), a=linear(6, 8),
                                            fc=linear(8, 3)), vectors),
    'a bias of a layer and a norm': (sharing(lambda n, x: n.fc(n.a(n.b(n.one(x)))), 'bias', a=two(8), b=lambda: nn.LayerNorm(8),
                                             one=two(), fc=two(8, 3)), vectors),
    'two frozen layers with one weight': (sharing(
        lambda n, x: n.fc(n.b(torch.relu(n.a(n.one(x))))), of='weight', a=lambda: linear(8, 8).requires_grad_(False),
        b=lambda: linear(8, 8).requires_grad_(False), one=two(), fc=two(8, 3)), vectors),
    'a recurrent weight in another layer': (lambda: Net(
        lambda n, x: n.fc(n.rnn(F.linear(x, n.rnn.weight_hh_l0))[0].mean(1)), rnn=nn.RNN(6, 6, batch_first=True),
        fc=linear(6, 3)), sequences),
    'a recurrent bias that is data': (lambda: Net(
        lambda n, x: n.fc(n.rnn(x)[0].mean(1)) + n.rnn.bias_ih_l0.sum(), rnn=nn.RNN(6, 5, batch_first=True), fc=linear(5, 3)), sequences),
    'one recurrent weight in two modules': (sharing(
        lambda n, x: n.fc(n.b(n.a(x)[0])[0].mean(1)), 'weight_hh_l0', 'weight_hh_l0', a=lambda: nn.GRU(6, 6, batch_first=True),
        b=lambda: nn.GRU(6, 6, batch_first=True), fc=two(6, 3)), sequences),
    'a row of a transpose': (lambda: Net(lambda n, x: n.fc(F.linear(F.linear(n.one(x), n.w.t()[:1]), n.q)), one=linear(6, 8),
                                         w=weight(8, 5), q=weight(7, 1), fc=linear(7, 3)), vectors),
    # modules whose output is not all that leaves them
    'a bias outside of its module': (lambda: Net(lambda n, x: n.fc(n.one(x) + n.b), one=Outside(6, 8), b=weight(8),
                                                 fc=linear(8, 3)), vectors),
    'an output used inside its module': (lambda: Net(lambda n, x: n.fc(n.one(x) + n.one.side), one=Inside(6, 8),
                                                     fc=linear(8, 3)), vectors),
    'a weighted bag': (lambda: Net(
        lambda n, i: n.fc(F.embedding_bag(i, n.table, mode='sum', per_sample_weights=n.o.weight[:4, :5])) + n.o(n.x),
        table=weight(9, 8), o=linear(6, 8), x=nn.Buffer(torch.randn(4, 6)), fc=linear(8, 8)), words),
    'a scale by einsum': (lambda: Net(lambda n, x: n.fc(torch.einsum('bi,i->bi', n.one(x), n.scale)), one=linear(6, 8),
                                      scale=weight(8), fc=linear(8, 3)), vectors),
    'an outer product': (lambda: Net(lambda n, x: n.fc(torch.einsum('bi,n->bin', n.one(x), n.w).flatten(1)), one=linear(6, 8),
                                     w=weight(4), fc=linear(32, 3)), vectors),
    'experts with biases': (lambda: Net(
        lambda n, x: n.fc(torch.baddbmm(n.b[:, None], n.one(x).expand(2, -1, -1), n.w).sum(0)), one=linear(6, 8), b=weight(2, 7),
        w=weight(2, 8, 7), fc=linear(7, 3)), vectors),
    'the diagonal of a weight': (lambda: Net(lambda n, x: n.fc(F.linear(n.one(x), n.w.diagonal()[:, None].expand(8, 8))),
                                             one=linear(6, 8), w=weight(8, 8), fc=linear(8, 3)), vectors),
    'no gate in the small network': (lambda: Net(
        lambda n, x: F.linear(torch.relu(n.one(x)), F.normalize(n.w)), one=parametrizations.weight_norm(linear(6, 8)), w=weight(3, 8)),
        vectors),
    'an unbatched convolution': (lambda: Net(lambda n, x: n.fc(n.two(torch.relu(n.one(x.mT[0]))).mean(1)), one=nn.Conv1d(6, 8, 3),
                                             two=nn.Conv1d(8, 7, 3), fc=linear(7, 3)), sequences),
    'a sum of two parameters': (lambda: nn.Sequential(Added(6, 8), nn.ReLU(), linear(8, 3)), vectors),
    # nothing
    'a layer of an empty batch': (lambda: Net(
        lambda n, x: n.fc(n.one(x).mean((2, 3)) + n.two(torch.relu(n.boxes(x[:0])).mean((2, 3))).sum(0)), one=nn.Conv2d(3, 8, 3),
        boxes=nn.Conv2d(3, 7, 3), two=linear(7, 8), fc=linear(8, 3)), images),
    'a layer without inputs': (lambda: Net(lambda n, x: n.fc(n.one(x) + F.linear(x[:, :0], n.w, n.b)), one=linear(6, 8),
                                           w=nn.Parameter(torch.zeros(8, 0)), b=weight(8), fc=linear(8, 3)), vectors),
}  # fmt: skip


def converted(name, n_tasks=3, **options):
    build, inputs = NETS[name]
    torch.manual_seed(0)
    net, x = build(), inputs()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return net, hat.convert(net, n_tasks, x, check=0, **options), x


@torch.no_grad()
def outputs(model, x, task=0):
    return model.eval()(*x, task=task).clone()


def learn(model, task, x, optimizer=torch.optim.AdamW):
    step = optimizer(model.parameters(), lr=0.01)
    for progress in 0.0, 0.5, 1.0:
        y = model.train()(*x, task=task, progress=progress)
        step.zero_grad()
        ((y - torch.randn_like(y)).square().mean() + model.regularization()).backward()
        step.step()


@pytest.mark.parametrize('name', NETS)
def test_open_gates_give_the_outputs_of_the_network(name):
    net, model, x = converted(name)
    opened = [torch.ones_like(a) for a in model.masks(0)]
    torch.testing.assert_close(model.eval().run(x, 0, opened), net.eval()(*x))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', NETS)
def test_a_learned_task_keeps_its_outputs(name):
    """When it ends, while others train, and after noise on every parameter."""
    _, model, x = converted(name)
    learn(model, 0, x)
    before = outputs(model, x)
    model.end_task(0)
    torch.testing.assert_close(outputs(model, x), before)
    learned = outputs(model, x)
    learn(model, 1, x)
    model.end_task(1)
    learn(model, 2, x, torch.optim.SGD)
    with torch.no_grad():
        for p in model.parameters():
            p += 3 * torch.randn_like(p)
    assert same(outputs(model, x), learned)
    loaded = copy.deepcopy(model)
    loaded.load_state_dict(model.state_dict())
    assert same(outputs(loaded, x), learned)
    for small in hat.plain(model, 0), hat.prune(model, 0):
        torch.testing.assert_close(small(*x).detach(), learned)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', NETS)
def test_weights_are_protected_if_a_learned_task_depends_on_them_and_products_only_then(name):
    _, model, x = converted(name)
    for p in model.net.parameters():
        p.requires_grad_()
    y = model.eval()(*x, task=0)
    (y * torch.randn_like(y)).sum().backward()
    depends = {
        n: torch.zeros_like(p, dtype=torch.bool) if p.grad is None else p.grad != 0 for n, p in model.shared.items()
    }
    model.end_task(0)
    protected = model.protected()
    for n, needed in depends.items():
        assert not (needed & ~protected[n]).any(), n
        if name in EXACT:
            assert same(protected[n], needed), n
    assert any(p.any() for p in protected.values())
    assert any(not p.all() for p in protected.values()) or model.plan.fixed


def gating(n, x):
    """Mixes positions, with a part of the weight for a sequence that is short (gMLP)."""
    length = x.shape[1]
    return n.fc(n.two(torch.relu(n.w[:length, :length] @ n.one(x))).mean(1))


@pytest.mark.parametrize('net, short, long', {
    'a part of a weight': (lambda: Net(gating, one=linear(6, 8), w=weight(9, 9), two=linear(8, 7), fc=linear(7, 3)), 4, 8),
    'a weight that reads zeros': (NETS['gru cell'][0], 1, 5),
}.values(), ids=['a part of a weight', 'a weight that reads zeros'])  # fmt: skip
def test_what_the_example_does_not_use_of_a_weight_is_kept_for_a_longer_input(net, short, long):
    x = torch.randn(4, long, 6)
    model = hat.convert(net(), 2, x[:, :short], check=0)
    learn(model, 0, (x,))
    before = outputs(model, (x,))
    model.end_task(0)
    torch.testing.assert_close(outputs(model, (x,)), before)
    torch.testing.assert_close(hat.prune(model, 0)(x).detach(), before)


@pytest.mark.slow
def test_layers_have_the_names_of_their_modules():
    names = {name: converted(name)[1].plan.gates for name in NETS}
    assert names['x @ w'] == ['w'] and names['x @ w + b'] == ['w', 'fc'] and names['addmm'] == ['0', '1']
    assert names['tied embedding'] == ['embed', 'mid'] and names['lstm'] == ['rnn.l0', 'rnn.l1']
    assert names['lstm in both directions'] == ['rnn.l0', 'rnn.l0_reverse', 'rnn.l1', 'rnn.l1_reverse']
    assert names['gru cell'] == ['cell'] and names['weight norm'] == ['0', '2']
    assert names['a weight and its transpose'] == ['stem', 'w', 'w (1,)']


def test_tasks_share_a_tied_weight_and_each_use_adds_to_what_is_protected():
    _, model, x = converted('tied embedding')
    assert not model.plan.heads and 'embed.weight' in model.plan.tied
    model.end_task(0)
    embedded, added = (a > 0.5 for a in model.masks(0))
    expected = (embedded | added).expand(9, 8)  # the output layer reads their sum
    assert same(model.protected()['embed.weight'], expected)


def test_a_normed_last_layer_is_a_head():
    original = '1.parametrizations.weight.original'
    for name, head in {
        'a cosine classifier': {'w'},
        'a normed last layer': {f'{original}0', f'{original}1', '1.bias'},
    }.items():
        _, model, x = converted(name, n_classes=[3, 5, 3])
        assert {n for n, _ in model.plan.heads[0].tensors} == head
        assert [outputs(model, x, t).shape[1] for t in range(3)] == [3, 5, 3]


# Recurrent layers


def row_sums(row, x, h, w_ih, w_hh, b_ih, b_hh):
    """What a row of both weights makes of the inputs and of the units below."""
    return (sum(w_ih[row, i] * x[:, i] for i in range(x.shape[1])) + b_ih[row],
            sum(w_hh[row, i] * h[:, i] for i in range(h.shape[1])) + b_hh[row])  # fmt: skip


def by_hand(kind, x, masks, *weights):
    """One layer of gated units, a unit and a time step at a time: what leaves unit j is masks[j] times its state."""
    n = len(masks)
    h, c, outputs = torch.zeros(len(x), n), torch.zeros(len(x), n), []
    for step in x.unbind(1):
        new_h, new_c = [], []
        for j in range(n):
            sums = [row_sums(k * n + j, step, masks * h, *weights) for k in range(len(weights[0]) // n)]
            if kind is nn.LSTM:
                i, f, g, o = map(sum, sums)
                new_c.append(torch.sigmoid(f) * c[:, j] + torch.sigmoid(i) * torch.tanh(g))
                new_h.append(torch.sigmoid(o) * torch.tanh(new_c[-1]))
            elif kind is nn.GRU:
                (r, z), (a, b) = (torch.sigmoid(sum(s)) for s in sums[:2]), sums[2]
                new_h.append((1 - z) * torch.tanh(a + r * b) + z * h[:, j])
            else:
                new_h.append(torch.relu(sum(sums[0])))
        h, c = torch.stack(new_h, 1), torch.stack(new_c, 1) if new_c else c
        outputs.append(h * masks)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize('kind', [nn.LSTM, nn.GRU, nn.RNN])
def test_gates_of_a_recurrent_layer_are_those_of_a_loop_over_units(kind):
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5)
    rnn = kind(5, 6, 2, batch_first=True, **({'nonlinearity': 'relu'} if kind is nn.RNN else {}))
    model = hat.convert(Net(lambda n, x: n.fc(n.rnn(x)[0]), rnn=rnn, fc=nn.Linear(6, 6)), 1, x, heads=False)
    with torch.no_grad():
        model.net.fc.weight.copy_(torch.eye(6))
        model.net.fc.bias.zero_()
    masks = [torch.rand(6), torch.rand(6)]
    h = x
    for layer in range(2):
        h = by_hand(kind, h, masks[layer], *(getattr(rnn, f'{name}_l{layer}') for name in (
            'weight_ih', 'weight_hh', 'bias_ih', 'bias_hh')))  # fmt: skip
    torch.testing.assert_close(model.train().run((x,), 0, masks), h)


@pytest.mark.parametrize('kind, blocks', [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_eq_2_of_a_recurrent_layer_is_that_of_a_loop_over_indices(kind, blocks):
    torch.manual_seed(0)
    rnn = kind(5, 6, 2, batch_first=True)
    model = hat.convert(Net(lambda n, x: n.fc(n.rnn(x)[0]), rnn=rnn, fc=nn.Linear(6, 3)), 1, torch.randn(3, 4, 5))
    model.end_task(0)
    (low, high), found = (a > 0.5 for a in model.masks(0)), model.protected()
    everything = torch.ones(5, dtype=torch.bool)
    for layer, (below, own) in enumerate([(everything, low), (low, high)]):
        for block in range(blocks):
            for j in range(6):
                row = block * 6 + j
                for name, columns in ('weight_ih', below), ('weight_hh', own):
                    for i in range(len(columns)):
                        assert found[f'rnn.{name}_l{layer}'][row, i] == (own[j] and columns[i])
                for name in 'bias_ih', 'bias_hh':
                    assert found[f'rnn.{name}_l{layer}'][row] == own[j]


# What is used by every task


@pytest.mark.parametrize('name, message', {
    'spectral norm': r'0.parametrizations.weight.original: aten.linear.default in 0 \(.*\): each unit needs all of it',
    'an unknown operation': r'codes: aten.cdist.default in the top module \(test_layers.py:\d+\): no rule',
    'a weight that is data, too': 'one.weight: it is a weight and is also used as data',
    'a projection': r'aten.lstm.input in rnn \(.*\): not the call of a recurrent module without projection',
}.items())  # fmt: skip
def test_what_every_task_uses_is_warned_of_with_its_place_and_the_first_task_fixes_it(name, message):
    build, inputs = NETS[name]
    with pytest.warns(UserWarning, match=f'the first task that is learned fixes them.*{message}'):
        model = hat.convert(build(), 2, inputs())
    model.end_task(0)
    assert all(model.protected()[name].all() for name in model.plan.fixed)


def test_modules_layers_and_parameters_can_be_ignored():
    x = torch.randn(2, 6)
    net = nn.Sequential(
        linear(6, 8), nn.LayerNorm(8), nn.Sequential(linear(8, 7), nn.ReLU()), linear(7, 5), linear(5, 3)
    )
    for ignore in ['1', '2', '3.bias'], lambda name: name in ('1', '2', '3.bias'):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            model = hat.convert(net, 2, x, ignore=ignore)
        assert model.plan.gates == ['0', '3'] and '1.weight' not in model.plan.task_specific
        model.end_task(0)
        assert all(model.protected()[name].all() for name in ('1.weight', '1.bias', '2.0.weight', '2.0.bias', '3.bias'))
        assert not model.protected()['0.weight'].all()
    with pytest.raises(ValueError, match="ignore: 'absent' is neither a module nor a parameter"):
        hat.convert(net, 2, x, ignore=['absent'])
    with pytest.raises(ValueError, match="ignore must be a function or a list of names, not '1'"):
        hat.convert(net, 2, x, ignore='1')


@pytest.mark.filterwarnings('ignore:these parameters are used by every task', 'ignore:.*has not been trained')
@pytest.mark.parametrize('name, ignore', [('a projection', ()), ('mlp', ()), ('mlp', ['0']), ('mlp', ['2.bias'])])
def test_the_weights_that_a_task_uses_are_those_that_are_protected(name, ignore):
    """Those that belong to no layer were not counted."""
    build, inputs = NETS.get(name) or (
        lambda: nn.Sequential(linear(6, 8), nn.ReLU(), linear(8, 7), linear(7, 3)),
        vectors,
    )
    torch.manual_seed(0)
    model = hat.convert(build(), 2, inputs(), ignore=ignore)
    model.end_task(0)
    used = sum(layer['weights'] for layer in hat.used(model)[0].values())
    assert used == sum(int(protected.sum()) for protected in model.protected().values())


def test_a_projection_of_an_lstm_is_ignored_in_silence_where_that_is_said():
    build, inputs = NETS['a projection']
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert hat.convert(build(), 2, inputs(), ignore=['rnn']).plan.gates == ['stem']


def test_eq_2_is_applied_once_where_two_parameters_have_one_gradient():
    torch.manual_seed(0)
    x, net = torch.randn(4, 6), nn.Sequential(Added(6, 8), linear(8, 3))
    gradients = []
    for factor in False, True:
        model = hat.convert(net, 2, x, hard=False, s_max=2.0, check=0, generator=torch.Generator().manual_seed(0))
        if factor:
            model.end_task(0)
        model.run((x,), 1, model.masks(1, 1.0)).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.shared.items()})
    for name in '0.weight', '0.delta':
        torch.testing.assert_close(gradients[1][name], gradients[0][name] * model.factors[name])


@pytest.mark.parametrize('ignore', [['0.bias', '2.bias'], ['2'], ['1']])
def test_a_saved_network_is_loaded_with_what_is_ignored(ignore):
    torch.manual_seed(0)
    net, x = nn.Sequential(linear(6, 8), nn.LayerNorm(8), linear(8, 8), nn.ReLU(), linear(8, 3)), vectors()
    model, file = hat.convert(net, 2, x, ignore=ignore), io.BytesIO()
    model.end_task(0)
    hat.save(model, file)
    file.seek(0)
    loaded = hat.load(file, net)
    assert same(outputs(loaded, x), outputs(model, x)) and same(loaded.protected(), model.protected())


def test_a_network_with_two_output_layers_is_saved_and_loaded():
    build, x = (
        lambda: Net(
            lambda n, x: torch.cat([n.a(h := n.one(x)), n.b(h)], 1), one=linear(6, 8), a=linear(8, 3), b=linear(8, 2)
        ),
        vectors(),
    )
    model, file = hat.convert(build(), 2, x), io.BytesIO()
    model.end_task(0)
    hat.save(model, file)
    file.seek(0)
    assert same(outputs(hat.load(file, build()), x), outputs(model, x))
    smaller = hat.convert(build(), 1, x)
    smaller.load_state_dict(model.state_dict())
    assert len(smaller.tasks) == 2 and same(outputs(smaller, x), outputs(model, x))


# Frozen parameters


def test_frozen_parameters_are_shared_without_a_copy_and_no_optimizer_gets_them():
    net, model, x = converted('low rank beside a frozen layer')
    assert model.plan.frozen == ['base.weight', 'base.bias']
    names = dict(model.named_parameters())
    assert not any('base' in name for name in names) and 'base.weight' in dict(model.net.named_buffers())
    held = [
        t
        for t in (*model.parameters(), *model.buffers())
        if t.shape == net.base.weight.shape and same(t, net.base.weight)
    ]
    assert len({t.data_ptr() for t in held}) == 1
    model.requires_grad_(True)
    learn(model, 0, x)
    assert same(model.net.base.weight, net.base.weight)


def test_a_network_may_look_for_its_frozen_parameters():
    net = Net(lambda n, x: n.fc(torch.relu(n.base(x.to(next(n.base.parameters()).dtype)))), base=linear(6, 8).requires_grad_(False),
              fc=linear(8, 3))  # fmt: skip
    x = vectors()
    for heads in True, False:
        model = hat.convert(net, 2, x, heads=heads).double()
        assert outputs(model, x).dtype == torch.float64
        assert not any(p.requires_grad for p in hat.plain(model, 0).base.parameters())
        assert model.view(0)(*x).dtype == torch.float64
    frozen = hat.convert(copy.deepcopy(net).requires_grad_(False), 2, x, heads=False)
    assert not frozen.shared and outputs(frozen, x).shape == (4, 3)


@pytest.mark.parametrize('dtype', [torch.int8, torch.int16, torch.float8_e4m3fn])
@pytest.mark.filterwarnings("ignore:layer 'whole' can have no gate")
def test_a_frozen_weight_of_integers_or_8_bits_has_no_gate_and_its_network_is_pruned(dtype):
    """Masks between 0 and 1 would be 0 in a type of integers, and inputs would be cast to it if it comes first."""
    torch.manual_seed(0)
    whole = nn.Parameter(torch.randint(-2, 3, (8, 8)).to(dtype), requires_grad=False)
    net = Net(lambda n, x: n.fc(torch.relu(F.linear(torch.relu(n.one(x)), n.whole.float()))), whole=whole,
              one=linear(6, 8), fc=linear(8, 3))  # fmt: skip
    x = vectors()
    model = hat.convert(net, 2, x, init=hat.init.dense)
    assert model.plan.gates == ['one'] and (model.train()(*x, task=0, progress=0.0).std(0) > 0).all()
    learn(model, 0, x)
    torch.testing.assert_close(hat.prune(model, 0)(*x), outputs(model, x))


# Memory


def test_a_network_can_be_converted_without_a_copy_of_its_weights():
    net = nn.Sequential(linear(6, 8), nn.ReLU(), linear(8, 3))
    where = net[0].weight.data_ptr()
    assert hat.convert(net, 2, torch.randn(2, 6), copy=False).net[0].weight.data_ptr() == where
    assert hat.convert(net.half(), 2, torch.randn(2, 6).half()).net[0].weight.dtype == torch.float16


def test_a_forward_pass_that_changes_a_parameter_does_not_change_the_network_when_it_is_converted():
    net = Net(lambda n, i: n.fc(n.embed(i)), embed=nn.Embedding(9, 8, max_norm=0.1), fc=linear(8, 3))
    before = net.embed.weight.detach().clone()
    with pytest.warns(UserWarning, match='each unit needs all of it'):
        model = hat.convert(net, 2, words(), copy=False)
    assert same(model.net.embed.weight, before)


# Inputs and outputs as they are


@dataclasses.dataclass
class Batch:
    x: torch.Tensor
    names: list


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    hidden: dict


class Structured(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = linear(6, 8), linear(8, 3)

    def forward(self, batch, *, scale=None):
        h = torch.relu(self.one(batch.x if isinstance(batch, Batch) else batch['x'][0]))
        return Answer(self.two(h) if scale is None else self.two(h) * scale, {'h': [h]})


@pytest.mark.parametrize('batch', [Batch(torch.randn(4, 6), ['a']), {'x': [torch.randn(4, 6)]}])
def test_inputs_and_outputs_may_be_dicts_lists_and_dataclasses(batch):
    model = hat.convert(Structured(), 2, ((batch,), {'scale': torch.ones(1)}))
    y = model.train()(batch, scale=torch.ones(1), task=0, progress=0.5)
    y.logits.sum().backward()
    model.end_task(0)
    small = hat.prune(model, 0)
    found, expected = (tensors_in(net) for net in (small(batch), model.eval()(batch, task=0)))
    assert [t.shape for t in expected] == [(4, 3), (4, 8)]  # hidden values are outputs, too, and are not removed
    torch.testing.assert_close(found, expected)


def test_a_network_with_inputs_by_keyword_is_saved_and_loaded():
    model = hat.convert(Structured(), 2, dict(batch={'x': [torch.randn(4, 6)]}, scale=torch.ones(1)))
    model.end_task(0)
    file = io.BytesIO()
    hat.save(model, file)
    file.seek(0)
    batch = {'x': [torch.randn(4, 6)]}
    assert same(
        hat.load(file, Structured()).eval()(batch=batch, task=0).logits, model.eval()(batch=batch, task=0).logits
    )


def test_a_file_without_its_example_asks_for_one():
    batch = Batch(torch.randn(4, 6), ['a'])
    model, file = hat.convert(Structured(), 2, collections.UserDict(batch=batch)), io.BytesIO()
    model.end_task(0)
    hat.save(model, file)
    file.seek(0)
    with pytest.raises(ValueError, match='has no example input, as it is of a class of its own: pass example_input='):
        hat.load(file, Structured())
    file.seek(0)
    loaded = hat.load(file, Structured(), example_input=(batch,)).eval()
    assert same(loaded(batch, task=0).logits, model.eval()(batch, task=0).logits)


# One task as a module, or as state


def classifier():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), linear(128, 16), nn.ReLU(),
                         linear(16, 3))  # fmt: skip


def viewed(**options):
    torch.manual_seed(0)
    model = hat.convert(classifier(), 2, images(), check=0)
    return model, model.view(0, **options), images()[0]


def test_a_task_can_be_chosen_for_all_calls_or_inside_a_block():
    model, _, x = viewed()
    expected = [model.eval()(x, task=t) for t in range(2)]
    assert same(model.use(1)(x), expected[1])
    with model.task(0):
        assert same(model(x), expected[0]) and same(model(x, task=1), expected[1])
    assert same(model(x), expected[1])
    with pytest.raises(
        TypeError, match=r'task must be a number, as in model\(x, task=0\), or model.use\(0\), not None'
    ):
        model.use(None)(x)
    with model.task(0), model.task(1), pytest.raises(IndexError):
        assert same(model.use(0)(x), expected[0])
        model.use(2)
    assert model.current is None


def test_threads_and_coroutines_may_each_be_in_a_block_of_their_own():
    """They had one task in common, so that some outputs were those of another."""
    model, _, x = viewed()
    expected = [model.eval()(x, task=t) for t in range(2)]

    async def serve(t):
        with model.task(t):
            await asyncio.sleep(0)
            return model(x)

    async def both():
        return await asyncio.gather(*(serve(t) for t in range(2)))

    assert all(map(same, asyncio.run(both()), expected))
    inside = threading.Barrier(2, timeout=60)

    def in_thread(t):
        with model.task(t):
            inside.wait()
            return model(x)

    with ThreadPoolExecutor(2) as pool:
        assert all(map(same, pool.map(in_thread, range(2)), expected))


def test_a_view_trains_what_its_task_trains_and_counts_progress():
    model, view, x = viewed(steps=3)
    names = [name for name, _ in view.named_parameters()]
    assert names[:2] == ['net.0.weight', 'net.0.bias'] and names[-2:] == ['embeddings.0', 'embeddings.1']
    trained = {id(p) for p in (*model.shared.values(), *model.tasks[0].parameters())}
    assert {id(p) for p in view.parameters()} == trained
    progress = []
    for _ in range(4):
        y = view.train()(x)
        progress.append(model.watch.progress)
    assert progress == [0, 0.5, 1, 0]
    y.sum().backward()
    assert model.net.get_parameter('0.weight').grad is view.net[0].weight.grad is not None
    assert same(view.eval()(x), model.eval()(x, task=0))
    assert same(copy.deepcopy(view)(x), model(x, task=0))


def test_a_state_that_a_view_loads_does_not_reach_other_tasks():
    """As at the end of a task with an average of its weights: later tasks started from its head and norms."""
    model, view, x = viewed(steps=3)
    with torch.no_grad():
        for p in model.tasks[1].own.parameters():  # in training, too
            p.add_(1)
    before, state = model.eval()(x, task=1), copy.deepcopy(view.state_dict())
    for name in 'net.1.weight', 'net.6.bias':
        state[name] += 1
    view.load_state_dict(state)
    assert same(model(x, task=1), before) and same(view.eval().net[6].bias, state['net.6.bias'])


def test_a_view_needs_progress_or_the_number_of_steps():
    _, view, x = viewed()
    with pytest.raises(ValueError, match='progress is missing'):
        view.train()(x)
    view.progress = 0.5
    view(x)
    with pytest.raises(ValueError, match='steps must be at least 1, not 0'):
        viewed(steps=0)


def test_statistics_of_norms_are_made_anew_through_a_view():
    model, view, x = viewed(steps=3)
    opened = model.masks(0)
    torch.optim.swa_utils.update_bn([x, x + 1], view)
    inputs = torch.cat([x, x + 1])
    hidden = F.conv2d(inputs, *(model.tensors(0, opened)[f'0.{name}'] for name in ('weight', 'bias')))
    own = model.tasks[0].own.get_submodule('1')
    torch.testing.assert_close(own.running_mean, hidden.mean((0, 2, 3)))
    assert own.num_batches_tracked == 2 and view.batches == 0


def test_a_view_follows_its_network_to_another_type_and_after_forget():
    model, view, x = viewed(steps=3)
    model.double()
    assert view.eval()(x.double()).dtype == torch.float64 and view.net[1].running_mean.dtype == torch.float64
    view.float()
    assert same(model.eval()(x, task=0), view(x))
    hat.forget(model, 0)
    assert same(model(x, task=0), view(x)) and view.embeddings is model.tasks[0].embeddings


class WithLoss(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.net, self.answer = classifier(), answer

    def forward(self, x, labels=None):
        logits = self.net(x)
        return self.answer(loss=F.cross_entropy(logits, labels), logits=logits)


@pytest.mark.parametrize('answer', [dict, lambda **values: dataclasses.make_dataclass('Answer', values)(**values)])
def test_a_view_adds_the_regularization_to_the_loss_of_training_batches(answer):
    x, labels = images()[0], torch.zeros(4, dtype=torch.int64)
    model = hat.convert(WithLoss(answer), 2, dict(x=x, labels=labels), check=0)
    plain, regularized = model.view(0, steps=1), model.view(0, steps=1, c=2.0)

    def loss(view):
        output = view(x=x, labels=labels)
        return output['loss'] if isinstance(output, dict) else output.loss

    plain.train(), regularized.train()
    torch.testing.assert_close(loss(regularized), loss(plain) + 2 * model.regularization(0, 1.0))
    torch.testing.assert_close(loss(regularized.eval()), loss(plain.eval()))
    _, bare, x = viewed(steps=1, c=1.0)
    with pytest.raises(ValueError, match='c is added to the loss in the output of the network, but it has none'):
        bare.train()(x)


def test_weight_decay_is_for_weights_alone():
    model, view, _ = viewed()
    for one in model, view:
        groups = hat.param_groups(one, 0.1, embeddings=dict(lr=0.5))
        assert [g['weight_decay'] for g in groups] == [0.1, 0, 0] and groups[2]['lr'] == 0.5
        assert all(p.ndim > 1 for p in groups[0]['params'])
        gates = {id(e) for task in model.tasks for e in task.embeddings}
        assert all((id(p) in gates) == (g is groups[2]) for g in groups for p in g['params'])
        assert {id(p) for g in groups for p in g['params']} == {id(p) for p in one.parameters()}


class Complex(nn.Module):
    """Pairs of a parameter are complex numbers."""

    def __init__(self, viewed):
        super().__init__()
        self.viewed = viewed
        self.a, self.b, self.head = nn.Linear(6, 7), nn.Linear(7, 8), nn.Linear(8, 3)
        self.pairs = nn.Parameter(torch.randn(8, 8, 2))

    def forward(self, x):
        return self.head((self.b(self.a(x).relu()).to(torch.cfloat) @ self.viewed(self.pairs)).real)


@pytest.mark.filterwarnings('ignore:these parameters are used by every task', 'ignore:.*has not been trained')
def test_a_parameter_of_complex_numbers_is_none_of_those_that_are_protected_together():
    torch.manual_seed(0)
    x = torch.randn(2, 6)
    model = hat.convert(Complex(torch.view_as_complex), 2, x, heads=False)
    model.end_task(0)
    learned = model.eval()(x, task=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        model.train()(x, task=1, progress=1).sum().backward()
        optimizer.step()
    assert torch.equal(model.eval()(x, task=0), learned)


class ComplexRows(Complex):
    """The last dimension of a parameter is twice that of its complex numbers."""

    def __init__(self):
        super().__init__(lambda p: p.view(torch.cfloat))
        self.pairs = nn.Parameter(torch.randn(8, 16))


@pytest.mark.filterwarnings('ignore:these parameters are used by every task', 'ignore:.*has not been trained')
def test_complex_rows_train_after_a_task():
    torch.manual_seed(0)
    x = torch.randn(2, 6)
    model = hat.convert(ComplexRows(), 2, x)
    model.end_task(0)
    model.train()(x, task=1, progress=1).sum().backward()


class Rotated(nn.Module):
    """A buffer in the widest type, for which there are no integers of the same size."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer('turn', torch.polar(torch.ones(8, dtype=torch.double), torch.arange(8.0).double()))

    def forward(self, x):
        return self.head((self.a(x).relu() * self.turn).real.float())


@pytest.mark.filterwarnings('ignore:.*has not been trained')
def test_a_buffer_of_complex128_is_the_tasks_own():
    torch.manual_seed(0)
    x = torch.randn(2, 6)
    model = hat.convert(Rotated(), 2, x).eval()
    before = model(x, task=0)
    model.end_task(0)
    learned = model(x, task=0)
    torch.testing.assert_close(learned, before)
    model.tasks[0].own.turn.mul_(2)
    assert torch.equal(model(x, task=0), learned)
    assert torch.equal(copy.deepcopy(model).double().float()(x, task=0), learned)

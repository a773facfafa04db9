"""Every formula of HAT against a plain loop over indices, written from the paper in float64."""

import math

import numpy as np
import pytest
import torch

import hat
from approaches.hat import HAT
from core.files import ROOT
from hat.functional import CompensatedGate

SIZES = (3, 5, 4)  # units of three layers


def test_each_equation_is_the_docstring_of_one_function():
    """So that a reader finds it, and a second function that says it is the same shows."""
    sources = [path for path in (ROOT / 'src').rglob('*.py') if 'tests' not in path.parts]
    for n in range(1, 6):
        assert sum(path.read_text().count(f'"""Eq. {n}:') for path in sources) == 1


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.fixture
def masks():
    """Attention of three layers, and cumulative attention before it."""
    generator = torch.Generator().manual_seed(1)
    draw = [torch.rand(n, generator=generator, dtype=torch.float64) for n in SIZES * 2]
    return draw[:3], draw[3:]


def test_eq_1_attention():
    e = torch.linspace(-6, 6, 25, dtype=torch.float64)
    for s in (1 / 400, 1, 30):
        expected = [sigmoid(s * x) for x in e.tolist()]
        np.testing.assert_allclose(hat.functional.attention(e, s), expected, rtol=1e-12)


def test_cumulative_attention_is_the_maximum_over_all_tasks(masks):
    a, b = masks[0][0], masks[1][0]
    assert hat.functional.cumulate(a).tolist() == a.tolist()
    assert hat.functional.cumulate(a, b).tolist() == [max(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]


def test_eq_2_share_of_the_gradient(masks):
    a_in, a_out, _ = masks[0]
    share = hat.functional.gradient_factor(a_out.view(-1, 1), a_in.view(1, -1))
    for i, j in np.ndindex(len(a_out), len(a_in)):
        assert share[i, j] == 1 - min(a_out[i], a_in[j])


def test_eq_2_of_the_first_layer_and_of_biases_is_the_output_mask_alone(masks):
    a = masks[0][0]
    assert hat.functional.gradient_factor(a).tolist() == [1 - x for x in a.tolist()]


@pytest.mark.parametrize('s_max', [1, 25, 400, 800, 333.3])
def test_eq_3_annealing(s_max):
    batches = 117
    for b in range(1, batches + 1):
        expected = 1 / s_max + (s_max - 1 / s_max) * (b - 1) / (batches - 1)
        assert hat.schedules.linear((b - 1) / (batches - 1), s_max) == pytest.approx(expected, rel=1e-12)
    assert hat.schedules.linear(0.0, s_max) == 1 / s_max
    assert hat.schedules.linear(1.0, s_max) == s_max


@pytest.mark.parametrize('s', [1 / 400, 0.3, 7.0, 400.0])
def test_section_2_5_embedding_gradient_compensation(s):
    """Both forms of the formula; the first one where its denominator does not vanish."""
    s_max = 400
    e = torch.linspace(-6, 6, 41, dtype=torch.float64)
    q = torch.linspace(-1, 2, 41, dtype=torch.float64)
    compensated = hat.functional.compensate(q, e, s, s_max)
    for i in range(len(e)):
        se = max(-50, min(50, s * e[i].item()))
        second = s_max * (math.cosh(se) + 1) / (s * (math.cosh(e[i]) + 1)) * q[i].item()
        assert compensated[i].item() == pytest.approx(second, rel=1e-12)
        if abs(s * e[i]) < 10:
            slope = sigmoid(se) * (1 - sigmoid(se))
            first = s_max * sigmoid(e[i]) * (1 - sigmoid(e[i])) / (s * slope) * q[i].item()
            assert compensated[i].item() == pytest.approx(first, rel=1e-6)


def test_section_2_5_compensated_gradient_is_that_of_smax_sigmoid_e():
    """What the compensation is for: from any s, the gradient of a loss of a becomes dL/da * s_max * sigmoid'(e)."""
    e = torch.linspace(-1, 1, 9, dtype=torch.float64, requires_grad=True)
    direction = torch.arange(9, dtype=torch.float64)
    expected = direction * 400 * torch.sigmoid(e) * (1 - torch.sigmoid(e))
    for s in (1 / 400, 1.0, 20.0):
        (q,) = torch.autograd.grad((hat.functional.attention(e, s) * direction).sum(), e)
        torch.testing.assert_close(hat.functional.compensate(q, e.detach(), s, 400), expected, rtol=1e-6, atol=0)


def test_eq_5_regularization(masks):
    a, cumulative = masks
    attended = free = 0
    for layer in range(len(SIZES)):
        for i in range(SIZES[layer]):
            attended += a[layer][i].item() * (1 - cumulative[layer][i].item())
            free += 1 - cumulative[layer][i].item()
    assert hat.functional.regularization(a, cumulative).item() == pytest.approx(attended / free, rel=1e-12)


def test_eq_5_of_the_first_task_is_the_mean_attention(masks):
    values = [x for a in masks[0] for x in a.tolist()]
    assert hat.functional.regularization(masks[0]).item() == pytest.approx(sum(values) / len(values), rel=1e-12)


def test_eq_5_of_a_full_network_is_zero(masks):
    full = [torch.ones_like(a) for a in masks[0]]
    assert hat.functional.regularization(masks[0], full).item() == 0


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_eq_5_has_no_gradient_where_no_unit_is_free_whatever_c(dtype):
    a = torch.full((4,), 0.5, dtype=dtype, requires_grad=True)
    (hat.functional.regularization([a], [torch.ones(4, dtype=dtype)]) * 1e4).backward()
    assert torch.equal(a.grad, torch.zeros(4, dtype=dtype))


def test_section_2_5_is_what_the_gate_does_backward():
    e = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    direction, s, s_max = torch.arange(9, dtype=torch.float64), 3.0, 400
    (q,) = torch.autograd.grad((hat.functional.attention(e, s) * direction).sum(), e)
    for gradient, tolerance in ('exact', 1e-12), ('released', 1e-4):  # s e goes up to 6: 1 - a is 0.0025 +- 6e-8
        a = CompensatedGate.apply(e, s, s_max, gradient)
        assert torch.equal(a, hat.functional.attention(e, s))
        (compensated,) = torch.autograd.grad((a * direction).sum(), e)
        expected = hat.functional.compensate(q, e.detach(), s, s_max)
        torch.testing.assert_close(compensated, expected, rtol=tolerance, atol=0)


def gradients(e, s, gradient, dtype, s_max=400.0):
    """Of sum(a), as the gate gives it."""
    e = e.to(dtype).requires_grad_()
    (found,) = torch.autograd.grad(CompensatedGate.apply(e, s, s_max, gradient).sum(), e)
    assert found.dtype == dtype
    return found


@pytest.mark.parametrize('gradient', ['released', 'exact'])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('s', [1 / 400, 0.05, 1.0, 2.7, 3.5, 16.5, 40.0, 200.0, 400.0])
def test_section_2_5_in_every_type(gradient, dtype, s):
    """Against a loop over Python's numbers. `released` is what float32 gives: its gates are rounded to that."""
    e = torch.arange(-192, 193) / 32  # numbers that all types have
    found = gradients(e, s, gradient, dtype)
    a32 = torch.sigmoid(s * e.float()).tolist()
    for value, x, a in zip(found.tolist(), e.tolist(), a32, strict=True):
        if gradient == 'exact':
            expected = 400 * sigmoid(x) * sigmoid(-x) * math.exp(-max(abs(s * x) - 50, 0))
        else:
            expected = 400 * a * (1 - a) * (math.cosh(max(-50, min(50, s * x))) + 1) / (math.cosh(x) + 1)
        tolerance = {torch.float16: 1e-3, torch.bfloat16: 8e-3}.get(dtype, 1e-5)  # half a unit of its last place
        assert value == pytest.approx(expected, rel=tolerance, abs=1e-7)
    if gradient == 'released':
        assert (found[s * e.double() > 17.4] == 0).all()  # open gates
    assert (found[(s * e.double()).abs() < 16] > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize('e, exact, released', [(1, 8019, 2718), (0.3, 33128, 11071), (0.1, 79501, 33770)])
def test_section_2_5_closes_a_unit_more_slowly_than_it_opens_one(e, exact, released):
    """The sum over an epoch of 797 batches; `released` of an open gate, e above 0, loses what rounding takes."""

    def total(e, gradient):
        scales = [hat.schedules.linear(b / 796, 400.0) for b in range(797)]
        return sum(float(gradients(torch.tensor([float(e)]), s, gradient, torch.float32)) for s in scales)

    assert [total(e, 'exact'), total(-e, 'exact'), total(-e, 'released')] == pytest.approx([exact] * 3, rel=2e-4)
    assert total(e, 'released') == pytest.approx(released, rel=2e-3)


def test_eq_4_loss_and_the_gradients_of_the_approach(make_approach):
    """One step of the approach: loss, conditioned gradients, compensated and clamped embeddings."""
    approach = make_approach('hat', c=0.5, smax=50.0)
    assert isinstance(approach, HAT)
    net, hidden, units = approach.net, approach.hidden, approach.net.units
    before = {}
    for conditioned in False, True:
        if conditioned:
            with torch.no_grad():
                for e in hidden.tasks[0].embeddings:
                    e.mul_(0.03)  # masks between 0 and 1
            hidden.end_task(0)
        approach.before_task(1)
        net.eval()  # no dropout
        net.zero_grad()
        x, y = approach.tasks[1].batch(approach.tasks[1].train, slice(0, 20))
        progress = 0.4
        s = 1 / 50 + (50 - 1 / 50) * progress
        loss, logits = approach.loss(x, y, 1, progress)
        a = [torch.sigmoid(s * e) for e in hidden.tasks[1].embeddings]
        cumulative = [torch.sigmoid(50 * e) * conditioned for e in hidden.tasks[0].embeddings]
        attended = sum((a[l] * (1 - cumulative[l])).sum() for l in range(5))
        regularization = attended / sum((1 - c).sum() for c in cumulative)
        cross_entropy = sum(torch.logsumexp(z, 0) - z[label] for z, label in zip(logits, y, strict=True)) / len(y)
        torch.testing.assert_close(loss, cross_entropy + 0.5 * regularization)
        loss.backward()
        if not conditioned:
            before = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    for name, p in hidden.net.named_parameters():
        _, l, *_ = name.split('.')
        l = int(l)
        inputs = p.shape[1] // units[l - 1] if l and p.ndim > 1 else None  # per unit of the layer before
        share = torch.empty(p.shape[:2])
        for index in np.ndindex(*share.shape):
            a_out = cumulative[l][index[0]]
            share[index] = 1 - (min(a_out, cumulative[l - 1][index[1] // inputs]) if inputs else a_out)
        assert share.min() > 0 and share.max() < 1
        share = share.view(*share.shape, *[1] * (p.ndim - share.ndim))
        torch.testing.assert_close(p.grad, before[f'hidden.net.{name}'] * share, rtol=1e-5, atol=1e-9)
    assert set(before) == {n for n, _ in net.named_parameters() if n.startswith(('heads.1', 'hidden.net'))} | {
        f'hidden.tasks.1.embeddings.{l}' for l in range(5)
    }

    e = hidden.tasks[1].embeddings[0]
    with torch.no_grad():
        e[:2] = torch.tensor([7.0, -9.0])
    approach.after_step(1)
    assert e[:2].tolist() == [6, -6]

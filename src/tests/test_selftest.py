"""run.py --selftest finds what is wrong with a machine, and nothing where all is right."""

import random

import pytest
import torch

import run
from approaches.sgd import SGD
from benchmarks import selftest
from dataloaders import demo


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(selftest, 'IMAGES', 120)
    monkeypatch.setattr(demo, 'N_TRAIN', 120)
    monkeypatch.setattr(selftest, 'WIDTH', 0.05)
    monkeypatch.setattr(selftest, 'speed', lambda approaches, device: [])


def test_all_is_right_here(capsys):
    assert run.cli(['--selftest', '--device', 'cpu', '--approaches', 'sgd,random']) == 0
    assert capsys.readouterr().out.endswith('\nall right\n')


def wander(self, t):
    """Another step in each run."""
    with torch.no_grad():
        self.net.heads[t].bias += random.random() / 1000


def fail(self, t):
    raise RuntimeError('no kernel')


@pytest.mark.parametrize('fault, said', [(wander, 'sgd: two runs differ'), (fail, 'sgd: RuntimeError: no kernel')])
def test_a_fault_is_named_and_the_exit_code_is_1(monkeypatch, capsys, fault, said):
    monkeypatch.setattr(SGD, 'after_step', fault)
    assert run.cli(['--selftest', '--device', 'cpu', '--approaches', 'sgd']) == 1
    assert f'FAULTS: {said}' in capsys.readouterr().out


def test_an_operation_that_is_not_deterministic_on_a_gpu_is_one_line(monkeypatch, capsys):
    def main(argv):
        raise RuntimeError(
            'adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set'
        )

    monkeypatch.setattr(run, 'main', main)
    assert run.cli(['--approach', 'sgd', '--experiment', 'demo']) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and 'use another --network or --device cpu' in err and 'but you' not in err


def test_a_number_that_is_not_finite_is_a_fault_whatever_else_differs():
    """max() of Python hides a nan that is not first."""
    right = {name: torch.ones(2) for name in ('a', 'b', 'c')}
    wrong = {'a': torch.ones(2) + 1e-6, 'b': torch.tensor([1, torch.nan]), 'c': torch.ones(2) + 1e-6}
    assert not selftest.distance(wrong, right) < selftest.CLOSE

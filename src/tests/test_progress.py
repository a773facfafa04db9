"""What a run shows of its epochs: a line every ten seconds, each with --verbose."""

import pytest

from runs import progress

EPOCH = {'lr': 0.05, 'train_loss': 1.0, 'valid_loss': 2.0, 'valid_accuracy': 0.5, 'seconds': 3.0}


@pytest.mark.parametrize('verbose, lines', [(False, [4, 8]), (True, list(range(1, 10)))])
def test_a_line_every_ten_seconds_or_for_each_epoch(monkeypatch, capsys, verbose, lines):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
    with progress.TaskProgress('mnist', 200, verbose, 0) as shown:
        for n in range(1, 10):
            shown.update([EPOCH] * n)
    out = capsys.readouterr().out.splitlines()
    assert [int(line.split('epoch')[1].split('/')[0]) for line in out] == lines
    assert out[0].startswith('mnist          epoch') and out[0].endswith(
        'valid loss 2.000, valid acc 50.0 %, lr 0.05, 3.0 s'
    )

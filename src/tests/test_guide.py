"""The Python blocks of the guide run as they stand, in the order of the page, and do what the page says."""

import importlib.util
import re
import warnings
from pathlib import Path

import pytest
import torch

import hat

GUIDE, NETWORKS = (Path(hat.__file__).parent / name for name in ('README.md', 'NETWORKS.md'))


def blocks(path):
    """The blocks of a page that are fenced as ```python, in order: (number of the first line, code) each. Blocks that
    need data or a GPU are fenced as ```python no-run and are left out, and so are ```python needs NAME, if there is no
    such package."""
    text = Path(path).read_text(encoding='utf-8')
    found = re.finditer(r'^```python(?: needs (\w+))?\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)
    return [(text.count('\n', 0, block.start(2)) + 1, block[2])
            for block in found if not block[1] or importlib.util.find_spec(block[1])]  # fmt: skip


def run(path):
    """The names that the blocks of a page leave behind, run one after the other in one namespace."""
    names = {'__name__': 'page'}
    for line, code in blocks(path):
        exec(compile('\n' * (line - 1) + code, str(path), 'exec'), names)  # so that errors have the line of the page
    return names


@pytest.fixture(scope='module')
def names():
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # tasks of a few steps leave few units free
        return run(GUIDE)


def test_blocks_are_found_with_their_lines_and_no_run_is_left_out(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(
        'a\n```python\nx = 1\n```\n```python no-run\n1 / 0\n```\n```sh\nls\n```\n\n```python\ny = x + 1\n```\n'
    )
    assert blocks(page) == [(3, 'x = 1\n'), (13, 'y = x + 1\n')] and run(page)['y'] == 2
    page.write_text('```python needs torch\nx = 1\n```\n```python needs no_such_package\nx = 2\n```\n')
    assert run(page)['x'] == 1
    page.write_text('\n\n```python\n1 / 0\n```\n')
    with pytest.raises(ZeroDivisionError) as error:
        run(page)
    assert error.traceback[-1].lineno + 1 == 4


@pytest.mark.slow
def test_c_counts_where_embeddings_have_a_large_learning_rate(names):
    """The table has the shares of the block before it."""
    rows = re.findall(r'^\| `(normal|dense)` \| (.*) \| (\d+) \| (\d+) \|$', GUIDE.read_text(encoding='utf-8'), re.M)
    table = {
        (init, float(lr), c): int(share) for init, lr, *two in rows for c, share in zip((0.1, 4), two, strict=True)
    }
    assert table.keys() == names['shares'].keys()
    for (init, lr, c), share in names['shares'].items():
        assert 100 * share == pytest.approx(table[init, lr, c], abs=10)
        assert lr == 0.003 or (share > 0.5) == (c == 0.1)


@pytest.mark.slow
def test_the_first_block_is_short_and_shows_that_nothing_is_forgotten(names):
    assert len(blocks(GUIDE)[0][1].splitlines()) <= 20
    accuracy = names['accuracy']
    assert (accuracy.diagonal() > 0.9).all()
    for task in range(3):
        assert len(set(accuracy[task:, task].tolist())) == 1  # not by one image


@pytest.mark.slow
def test_what_the_guide_says_of_gates_and_of_the_guarantee_is_so(names):
    assert set(names['mask'].tolist()) == {0, 1} and len(names['mask']) == 64
    assert names['identical']
    assert '0.parametrizations.weight.original: aten.linear.default in 0 (' in names['warned']
    assert 'each unit needs all of it' in names['warned'] and set(names['ignoring'].plan.fixed.values()) == {''}


@pytest.mark.slow
def test_what_the_guide_says_of_heads_pretrained_weights_and_copies_is_so(names):
    assert names['outputs'].shape == (80, 7)
    assert names['same'] and names['equal'] and names['close']
    sizes = [sum(p.numel() for p in names[name].parameters()) for name in ('small', 'plain')]
    assert sizes[0] <= sizes[1] and not any(isinstance(m, hat.Network) for m in names['small'].modules())
    assert not names['model'].learned.any() and names['loaded'].learned.tolist() == [True, False]


def test_the_example_of_how_a_network_is_read_is_so():
    plan = run(NETWORKS)['plan']
    uses = {name: [ids if ids is None else ids.tolist() for ids in use]
            for name, (_, (use,)) in plan.shared.items()}  # fmt: skip
    assert uses == {
        'a.weight': [[[2], [3], [4]], [[0]]],
        'a.bias': [[2, 3, 4], None],
        'b.weight': [[[5], [6], [7]], [[2, 3, 4]]],
        'b.bias': [[5, 6, 7], None],
    }
    ((combine, left, right),) = plan.units.combined  # ids 8, 9, 10
    assert (combine, left.tolist(), right.tolist()) == (torch.maximum, [2, 3, 4], [5, 6, 7])
    assert plan.units.count == 11 and [name for name, _ in plan.heads[0].tensors] == ['head.weight', 'head.bias']


def test_the_guide_is_no_longer_than_a_guide():
    assert len(GUIDE.read_text(encoding='utf-8').splitlines()) <= 350

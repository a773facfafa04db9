"""Damaged result files, and very large ones."""

import json

import pytest
from invented import JOINT
from test_tables import plot, printed

import plot_results
from core import results
from core.arguments import MAX_FEW
from core.errors import exit_code

DEEP = '[' * 100_000 + ']' * 100_000
BAD_LOSS = {'train_loss': [], 'valid_accuracy': 0.5, 'active': [], 'capacity': []}
BAD = {  # the content of a file of HAT's run with seed 1, or a change of its record; the message
    'text': ('.txt', b'0.1 much', 'cannot be read as an accuracy matrix'),
    'row': ('.txt', b'0.1 0.2', '1 rows of 2 are not an accuracy matrix'),
    'ragged': ('.txt', b'0.1 0.2\n0.3', 'cannot be read as an accuracy matrix'),
    'empty': ('.txt', b'', 'are not an accuracy matrix'),
    'nan': ('.txt', b'nan 0\n0.5 0.5', 'nan is not an accuracy, a number from 0 to 1'),
    'inf': ('.txt', b'0.5 0\n0.5 inf', 'inf is not an accuracy'),
    'percent': ('.txt', b'50 0\n0.5 0.5', '50 is not an accuracy'),
    'bytes': ('.txt', b'\xff\xfe0.1', 'cannot be read as text'),
    'many': ('.txt', b'\n'.join([b' '.join([b'0.5'] * 300)] * 300), '300 tasks, and mixture has 8'),
    'other': ('.txt', b'0.5 0\n0.5 0.5', 'not the accuracy matrix that is in mixture_hat_1.json'),
    'torn': ('.json', b'{"arguments": {', 'cannot be read as JSON'),
    'deep': ('.json', DEEP.encode(), 'cannot be read as JSON: maximum recursion depth'),
    'list': ('.json', b'[1]', 'not the record of a run'),
    'latin': ('.json', b'{"caf\xe9": 1}', 'cannot be read as text'),
    'no arguments': ('.json', b'{"tasks": []}', 'arguments is missing'),
    'arguments': ('arguments', 3, 'arguments is 3, not an object'),
    'argument': ('arguments', {'nepochs': {}}, 'arguments: nepochs is an object, not a plain value'),
    'another run': ('arguments', {'approach': 'sgd'}, 'the record of a run of approach sgd'),
    'parameter': ('arguments', {'parameter': {'c': 'x'}}, 'arguments: parameter: c is "x", not a number'),
    'tasks': ('tasks', 'mnist', 'tasks is "mnist", not a list of 2'),
    'task': ('tasks', [{'name': 'mnist'}, {'name': 'moon'}], 'tasks 2: name is "moon", not the name of one of the 8 t'),
    'nameless': ('tasks', [{'name': 'mnist'}, {}], 'tasks 2: name is missing'),
    'versions': ('versions', ['2.14'], 'versions is a list of 1, not an object'),
    'accuracy': ('accuracy', [[1, 0], [1, 'x']], 'accuracy 2 2 is "x", not a number from 0 to 1'),
    'validation': ('valid_accuracy', [[1, 0]], 'valid_accuracy is a list of 1, not a list of 2'),
    'before': ('before', [0.1, None], 'before 2 is null, not a number from 0 to 1'),
    'epochs': ('epochs', [[], [7]], 'epochs 2 1 is 7, not an object'),
    'epoch': ('epochs', [[], [{'valid_accuracy': 0.5}]], 'epochs 2 1: active is missing'),
    'loss': ('epochs', [[], [BAD_LOSS]], 'epochs 2 1: train_loss is a list of 0, not a number or null'),
    'monitor': ('monitor', {'weights': [0, 1]}, 'monitor: active is missing'),
    'weights': ('monitor', {'weights': [0, 1], 'active': [[1, 1]] * 2, 'reuse': [[1, 1]] * 2}, 'weights 1 is 0, not a'),
    'no monitor': ('monitor', None, 'monitor is null, not an object'),
    'devices': ('devices', {}, 'devices is an object, not a list of texts'),
    'times': ('times', {'total': -1, 'epochs': [[], []]}, 'times: total is -1, not a number of at least 0'),
    'diverged': ('diverged', [{'task': 'mnist'}], 'diverged 1: epoch is missing'),
}


@pytest.mark.parametrize('where, content, message', BAD.values(), ids=BAD.keys())
def test_a_damaged_file_is_left_out_and_named(runs, capsys, where, content, message):
    base = runs.folder / 'mixture_hat_1'
    if where.startswith('.'):
        base.with_suffix(where).write_bytes(content)
    else:
        record = json.loads(base.with_suffix('.json').read_text())
        both = record[where] | content if where == 'arguments' and isinstance(content, dict) else content
        base.with_suffix('.json').write_text(json.dumps(record | {where: both}))
    assert plot(runs, '--approaches', 'hat,sgd') == 0
    notes, table, _ = printed(capsys)
    assert len(notes) == 1 and notes[0].startswith(f'left out: {base}') and message in notes[0]
    assert table['hat'][0] == '2' and table['sgd'][0] == '3'


@pytest.mark.parametrize('content', [DEEP, '[1]', '{"tasks": 3}', '{"tasks": [{}]}', '{"arguments": {"parameter": 1}}'])
def test_a_record_damaged_in_its_identity_counts_as_absent(tmp_path, content):
    (tmp_path / 'a.json').write_text(content)
    assert results.read_record(tmp_path / 'a.json') == {}


def test_the_record_of_the_longest_run_can_be_read():
    """HAT on permuted MNIST: the log of an epoch grows with the number of earlier tasks."""

    def epoch(t):
        loss, layers = 0.12345678901234567, [1_000_000] * 2
        numbers = dict.fromkeys(['lr', 'train_loss', 'valid_loss', 'valid_accuracy', 'regularization'], loss)
        lists = dict.fromkeys(['s', 'active_units', 'active', 'capacity'], layers)
        return len(results.json_text(numbers | lists | {'reuse': [1_000_000] * t}))

    epochs = 100  # about as many as the paper's protocol takes for a task
    assert epochs * MAX_FEW * (epoch(0) + epoch(MAX_FEW)) / 2 < results.MAX_SIZE


def test_a_huge_file_is_not_read(runs, capsys):
    for name in 'mixture_hat_1.txt', 'mixture_sgd_1.json':
        with open(runs.folder / name, 'wb') as file:
            file.truncate(10**12)
    assert plot(runs, '--approaches', 'hat,sgd') == 0
    notes = printed(capsys)[0]
    assert len(notes) == 2 and all('1000000 MB: too large for a result, not read' in note for note in notes)


def test_a_matrix_may_not_be_as_large_as_a_record(runs, capsys):
    """To say what is wrong with one of 400 MB, NumPy takes 4 GB of memory."""
    widest = len(f'{1:.4f} ') * MAX_FEW**2
    with open(runs.folder / 'mixture_hat_1.txt', 'wb') as file:
        file.truncate(10 * widest)
    assert widest < results.MAX_MATRIX < 10 * widest < results.MAX_SIZE
    assert plot(runs, '--approaches', 'hat') == 0
    assert 'mixture_hat_1.txt: 70 MB: too large for a result, not read' in printed(capsys)[0][0]


def test_where_no_run_is_left_there_is_one_line(runs, capsys):
    for seed in 0, 1, 2:
        (runs.folder / f'mixture_hat_{seed}.txt').write_text('much')
    assert plot(runs, '--approaches', 'hat') == 2
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1
    assert 'mixture_hat_0.txt: cannot be read as an accuracy matrix' in err and err.endswith('; and 2 more\n')


def test_a_damaged_record_of_run_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / 'demo_hat_0.json').write_text('{"arguments": {')
    assert exit_code('plot_results.py', plot_results.main, ['--run', str(tmp_path / 'demo_hat_0.json')]) == 2
    assert 'demo_hat_0.json: cannot be read as JSON' in capsys.readouterr().err


def test_a_damaged_entry_of_a_record_of_run_is_named(runs, capsys):
    runs('hat', 0, JOINT, times={'total': 'x'})
    assert exit_code('plot_results.py', plot_results.main, ['--run', str(runs.folder / 'mixture_hat_0.json')]) == 2
    assert 'mixture_hat_0.json: times: total is "x", not a number of at least 0' in capsys.readouterr().err

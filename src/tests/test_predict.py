"""predict.py and the page of one run: what a saved network sees in pictures."""

import json
import re
import shutil

import numpy as np
import pytest
from conftest import pictures
from PIL import Image

import plot_results
import predict
import run
from approaches import APPROACHES
from core.errors import exit_code
from dataloaders import npz
from dataloaders.own import cache
from dataloaders.own.pictures import with_channels

CLASSES = 'cat', 'dog', 'eel'
MODES = 'RGB', 'RGBA', 'P', 'CMYK', 'L'
SMALL = ['--size', '24', '--width', '0.1', '--nepochs', '8', '--lr', '0.1', '--batch-size', '8', '--save']
FAST = 'hat'  # the others in the slow tests
TRAINED = [
    name if name == FAST else pytest.param(name, marks=pytest.mark.slow) for name in APPROACHES if name != 'random'
]


def put(path, x, mode=None):
    """A picture file: a JPEG if the mode needs it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(x[..., 0] if x.shape[2] == 1 else x)
    image.convert(mode or image.mode).save(path.with_suffix('.jpg' if mode == 'CMYK' else '.png'))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Two tasks: of colour pictures, in files of several modes and sizes, and of grey ones, of 16 bits in part."""
    data = tmp_path_factory.mktemp('data')
    for split, n, seed in ('train', 150, 0), ('test', 30, 1):
        x, y = pictures(n, 3, (28, 26, 3), seed)
        for i, (image, c) in enumerate(zip(x, y, strict=True)):
            put(data / 'pets' / split / CLASSES[c] / f'{i}.png', image[: 28 - i % 3], MODES[i % 5])
        x, y = pictures(n, 3, (24, 24, 1), seed + 2)
        for i, (image, c) in enumerate(zip(x[::-1], y[::-1], strict=True)):
            image = image.astype(np.uint16) * 256 if i % 2 else image
            put(data / 'grey' / split / CLASSES[c] / f'{i}.png', image)
    return data


@pytest.fixture(scope='module')
def learned(data, tmp_path_factory):
    """learned(approach): the record of a saved run on a copy of the data, which is gone."""
    found, folder = {}, tmp_path_factory.mktemp('res')

    def learned(approach):
        if approach not in found:
            here = folder / 'data'
            shutil.copytree(data, here)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(cache, 'PLACES', [folder])
                command = ['--experiment', 'folder', '--data', str(here), '--output', str(folder / f'{approach}.txt')]
                assert run.cli(['--approach', approach, *command, *SMALL, '--device', 'cpu']) == 0
            shutil.rmtree(here)
            shutil.rmtree(folder / '.cache')
            found[approach] = folder / f'{approach}.json'
        return found[approach]

    return learned


@pytest.fixture
def cli(capsys):
    """cli(...): exit code, output, error of predict.py."""

    def cli(*words):
        capsys.readouterr()
        code = exit_code('predict.py', predict.main, list(map(str, words)))
        return code, *capsys.readouterr()

    return cli


def answers(cli, *words):
    """The first class of each answer of each picture."""
    code, out, err = cli(*words, '--json')
    assert (code, err) == (0, '')
    lines = [json.loads(line) for line in out.splitlines()]
    return [[answer['classes'][0]['class'] for answer in line['answers']] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize('approach', TRAINED)
def test_the_answers_have_the_accuracy_of_the_record(approach, learned, data, cli):
    """From the files of the pictures; the data that the run used are gone."""
    path = learned(approach)
    record = json.loads(path.read_text())
    accuracies = dict(zip([task['name'] for task in record['tasks']], record['accuracy'][-1], strict=True))
    assert sorted(accuracies) == ['grey', 'pets'] and np.max(record['accuracy']) > 0.4
    for task, accuracy in accuracies.items():
        files = sorted((data / task / 'test').glob('*/*'))
        found = answers(cli, path, *files, '--task', task)
        assert np.mean([name == file.parent.name for [name], file in zip(found, files, strict=True)]) == accuracy


@pytest.mark.parametrize(
    'experiment, tasks, names',
    [
        ('mixture', ['mnist', 'svhn'], [list('0123456789')] * 2),
        ('pmnist', ['pmnist-3', 'pmnist-0'], [list('0123456789')] * 2),
        ('mnist2', ['mnist-0-4', 'mnist-5-9'], [list('01234'), list('56789')]),
        ('cifar', ['cifar10-3', 'cifar10-0'], [list('67'), list('01')]),
    ],
)
def test_pictures_of_the_papers_experiments_too(experiment, tasks, names, small_data, tmp_path, cli):
    """Of their own size; permuted where the task's are. A class without a name is a number."""
    output = tmp_path / 'out.txt'
    command = ['--approach', 'sgd', '--experiment', experiment, '--tasks', ','.join(tasks), '--data', str(small_data)]
    small = ['--width', '0.05', '--nepochs', '3', '--device', 'cpu', '--output', str(output), '--save']
    assert run.cli([*command, *small]) == 0
    accuracies = json.loads(output.with_suffix('.json').read_text())['accuracy'][-1]
    for task, accuracy, classes in zip(tasks, accuracies, names, strict=True):
        source = {'mixture': task, 'cifar': 'cifar10'}.get(experiment, 'mnist')
        _, _, x, y, _ = npz.load(small_data / f'{source}.npz')
        keep = np.isin(y, [int(name) for name in classes])
        files = [tmp_path / task / f'{i:02}.png' for i in range(keep.sum())]
        for file, image in zip(files, x[keep], strict=True):
            put(file, image)
        found = answers(cli, output.with_suffix('.json'), *files, '--task', task)
        assert np.mean([name == str(c) for [name], c in zip(found, y[keep], strict=True)]) == accuracy


@pytest.mark.slow
def test_the_demo_has_names_for_its_classes(tmp_path, cli):
    output = tmp_path / 'out.txt'
    run.cli(['--approach', 'sgd', '--experiment', 'demo', '--tasks', 'faces,shapes', '--output', str(output), '--save'])
    record = json.loads(output.with_suffix('.json').read_text())
    assert record['classes']['faces'][:2] == ['open smile', 'open frown'] and 'heart' in record['classes']['shapes']
    put(tmp_path / 'red.png', np.full((40, 50, 3), 200, np.uint8))
    [[face, shape]] = answers(cli, output.with_suffix('.json'), tmp_path / 'red.png')
    assert face in record['classes']['faces'] and shape in record['classes']['shapes']


@pytest.mark.slow
def test_without_a_task_each_answers_and_the_most_confident_one_is_the_guess(learned, data, cli):
    files = sorted((data / 'pets' / 'test').glob('*/*'))[:4]
    code, out, _ = cli(learned('hat'), *files, '--json', '--top', '2')
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [line['picture'] for line in lines] == list(map(str, files))
    for line in lines:
        found = {answer['task']: answer['classes'] for answer in line['answers']}
        assert sorted(found) == ['grey', 'pets'] and all(len(classes) == 2 for classes in found.values())
        assert all(first['probability'] >= second['probability'] for first, second in found.values())
        assert line['guess'] == max(found, key=lambda task: found[task][0]['probability'])
    code, out, _ = cli(learned('hat'), *files)
    assert code == 0 and len(re.findall(' %( |$)', out, re.M)) == 8 and len(re.findall(r'guess$', out, re.M)) == 4
    assert 'guess: the most confident task' in out
    code, out, _ = cli(learned('hat'), *files, '--task', 'pets')
    assert code == 0 and 'guess' not in out and len(out.splitlines()) == 5


def test_all_classes_have_probabilities_that_add_up(learned, data, cli):
    picture = next((data / 'pets' / 'test').glob('*/*'))
    _, out, _ = cli(learned('hat'), picture, '--json', '--top', '9', '--task', 'pets')
    classes = json.loads(out)['answers'][0]['classes']
    assert {entry['class'] for entry in classes} == set(CLASSES)
    assert sum(entry['probability'] for entry in classes) == pytest.approx(1)


def test_colours_become_luminance_for_a_grey_task_and_grey_is_repeated_for_a_coloured_one():
    x = np.array([[[200, 100, 50]]], np.uint8)
    assert with_channels(x, 1).tolist() == [[[round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)]]]
    assert with_channels(x, 3) is not x and with_channels(x, 3).tolist() == x.tolist()
    assert with_channels(x[..., :1], 3).tolist() == [[[200] * 3]]


def test_bad_input_is_one_line(learned, data, tmp_path, cli):
    saved, good = learned('hat'), next((data / 'pets' / 'test').glob('*/*'))
    record = json.loads(saved.read_text())

    def changed(**entries):
        path = tmp_path / f'changed{len(list(tmp_path.iterdir()))}.json'
        path.write_text(json.dumps({key: v for key, v in (record | entries).items() if v is not None}))
        shutil.copy(saved.with_suffix('.pt'), path.with_suffix('.pt'))
        return path

    def inputs(**entries):
        return changed(inputs={name: given | entries for name, given in record['inputs'].items()})

    (tmp_path / 'alone.json').write_bytes(saved.read_bytes())
    (tmp_path / 'text.png').write_text('no picture')
    for words, message in (
        ([tmp_path / 'none.json', good], 'no such file'),
        ([tmp_path, good], 'not the record of a finished run'),
        ([saved.with_suffix('.txt'), good], f'give the record, {saved.name}'),
        ([tmp_path / 'alone.json', good], 'run.py --save writes it'),
        ([saved, good, '--task', 'moon'], "'moon' is none of "),
        ([saved, tmp_path], 'a folder; name the files in it'),
        ([saved, tmp_path / 'none.png'], 'none.png: No such file'),
        ([saved, tmp_path / 'text.png'], 'text.png: not a picture, or damaged'),
        ([saved], 'required: IMAGE'),
        ([changed(accuracy=[[0.5]]), good], 'its accuracy matrix is missing'),
        ([changed(inputs=None), good], 'run.py --save --fresh'),
        ([changed(inputs={}), good], 'not the record of a run of this version'),
        ([changed(inputs={'pets': 5}), good], 'inputs: pets is 5, not an object'),
        ([inputs(image=[24, 24, 2]), good], 'does not fit its images'),
        ([inputs(mean=[1, 2]), good], 'does not fit its images'),
        ([changed(model='f' * 32), good], 'saved by another run'),
        ([changed(arguments=record['arguments'] | {'approach': 'sgd'}), good], 'not the network of changed'),
        (
            [changed(arguments=record['arguments'] | {'approach': 'xyz'}), good],
            'not the record of a run of this version',
        ),
        ([changed(epochs=[[], []]), good], 'trains no network'),
        ([changed(classes=[]), good], 'classes is a list of 0, not an object'),
        ([changed(classes={'pets': None}), good], 'classes: pets is null, not a list of texts'),
        ([changed(arguments=record['arguments'] | {'network': []}), good], 'network is a list of 0, not a text'),
        (
            [changed(arguments=record['arguments'] | {'parameter': {'c': 'x'}}), good],
            'parameter: c is "x", not a number',
        ),
        ([changed(tasks=[task | {'n_classes': -1} for task in record['tasks']]), good], 'n_classes is -1, not a whole'),
    ):
        code, out, err = cli(*words)
        assert (code, out, err.count('\n')) == (2, '', 1), err
        assert err.startswith('predict.py: error: ') and message in err


def test_a_network_that_other_code_has_trained_answers_with_a_warning(learned, data, tmp_path, recwarn, cli):
    saved, good = learned('hat'), next((data / 'pets' / 'test').glob('*/*'))
    record = json.loads(saved.read_text())
    shutil.copy(saved.with_suffix('.pt'), tmp_path / 'x.pt')
    for code, n in (record['code'], 0), ('0123', 1), (f'0123+{record["code"]}', 1):
        (tmp_path / 'x.json').write_text(json.dumps(record | {'code': code}))
        recwarn.clear()
        assert cli(tmp_path / 'x.json', good)[0] == 0
        assert ['other code' in str(warning.message) for warning in recwarn] == [True] * n


def test_a_bad_picture_does_not_keep_the_others_from_an_answer(learned, data, tmp_path, cli):
    good = next((data / 'pets' / 'test').glob('*/*'))
    code, out, err = cli(learned('hat'), tmp_path / 'a.png', good, tmp_path / 'b.png', '--task', 'pets')
    assert code == 2 and err.count('\n') == 2 and str(good) in out and len(out.splitlines()) == 2


def test_a_result_without_its_inputs_stays_finished(learned, data, tmp_path, capsys):
    """As earlier versions made them: only predict.py needs the inputs."""
    record = json.loads(learned('hat').read_text())
    del record['inputs']
    for suffix in '.txt', '.pt':
        shutil.copy(learned('hat').with_suffix(suffix), tmp_path / f'out{suffix}')
    (tmp_path / 'out.json').write_text(json.dumps(record))
    where = ['--data', str(data), '--output', str(tmp_path / 'out.txt'), '--device', 'cpu']
    assert run.cli(['--approach', 'hat', '--experiment', 'folder', *SMALL, *where]) == 0
    assert 'already finished' in capsys.readouterr().out


# The page of one run


@pytest.fixture
def page(learned, tmp_path, capsys):
    """page(approach, ...): the page of a run, made beside a copy of its files."""

    def page(approach, *words, change=lambda folder: None):
        for suffix in '.txt', '.pt', '.json':
            shutil.copy(learned(approach).with_suffix(suffix), tmp_path / f'mine{suffix}')
        change(tmp_path)
        command = ['--run', str(tmp_path / 'mine.json'), '--html', *map(str, words)]
        assert exit_code('plot_results.py', plot_results.main, command) == 0
        assert 'average accuracy' in capsys.readouterr().out
        return (tmp_path / 'mine.html').read_text(encoding='utf-8')

    return page


@pytest.mark.slow
def test_the_page_of_a_run_has_its_figures_and_pictures_it_gets_right_and_wrong(page, data, learned):
    html = page('hat', '--data', data)
    assert [name for name in re.findall(r'<figure id="(\w+)"', html)] == [
        'matrices',
        'learning',
        'fig5',
        'fig6',
        'active',
    ]
    record = json.loads(learned('hat').read_text())
    for task, accuracy in zip(record['tasks'], record['accuracy'][-1], strict=True):
        part = html.split(f'<h3>{task["name"]}</h3>')[1].split('<h2>')[0].split('<h3>')[0]
        right, wrong = (int(n) for n in re.findall(r'(?:right|wrong): (\d+) of 30', part))
        assert right + wrong == 30 and right / 30 == pytest.approx(accuracy)
        captions = re.findall(r'<figcaption>(\w+) \d+ %(?:; it is (\w+))?</figcaption>', part)
        assert len(captions) == min(right, 8) + min(wrong, 8) and {name for name, _ in captions} <= set(CLASSES)
        assert all(name != truth for name, truth in captions) and sum(bool(truth) for _, truth in captions) == min(
            wrong, 8
        )
    assert 'weights used, %' in html and '&quot;cat&quot;' in html
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)  # everything is in the file


@pytest.mark.slow
def test_the_page_without_network_or_data_says_so_in_a_line(page, data):
    for words, change, reason in (
        ([], lambda folder: None, 'are not in'),
        (['--data', data], lambda folder: (folder / 'mine.pt').unlink(), 'run.py --save writes it'),
        (['--data', data], lambda folder: halve(folder), '% in its run'),
    ):
        html = page('sgd', *words, change=change)
        assert re.search(rf'<p>Left out: [^\n]*{reason}[^\n]*</p>', html)
        assert '<h3>' not in html and re.findall(r'<figure id="(\w+)"', html) == ['matrices', 'learning']


def halve(folder):
    """The accuracies, as if other code had computed them."""
    record = json.loads((folder / 'mine.json').read_text())
    record['accuracy'] = (np.array(record['accuracy']) / 2).tolist()
    (folder / 'mine.json').write_text(json.dumps(record))
    np.savetxt(folder / 'mine.txt', record['accuracy'], '%.4f')


@pytest.mark.parametrize('name', ['none.json', 'mine.txt', ''])
def test_a_page_of_nothing_is_one_line(name, tmp_path, capsys):
    (tmp_path / 'mine.txt').write_text('0.5')
    command = ['--run', str(tmp_path / name) if name else '', '--html']
    assert exit_code('plot_results.py', plot_results.main, command) == 2
    err = capsys.readouterr().err
    assert err.startswith('plot_results.py: error: ') and err.count('\n') == 1 and not list(tmp_path.glob('*.html'))

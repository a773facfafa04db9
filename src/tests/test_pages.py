"""What the pages beside the code say: their examples run, their tables are those of the code."""

import importlib.util
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_guide
from conftest import pictures
from test_protocol import SIZES

import batches
import run
from approaches import ALIASES, APPROACHES
from benchmarks import selftest
from core.files import ROOT
from dataloaders import EXPERIMENTS, npz
from dataloaders.archives import sources
from networks import NETWORKS
from runs import identity

SRC = ROOT / 'src'
PUBLISHED = {'approach': 13, 'experiment': 5}  # with rows in the tables


def page(folder):
    return (SRC / folder / 'README.md').read_text(encoding='utf-8')


def blocks(folder):
    return [code for _, code in test_guide.blocks(SRC / folder / 'README.md')]


def tables(folder):
    """The tables of a page, each a list of rows, a dict each: heading -> cell."""
    found = []
    for text in re.findall(r'(?:^\|.*\|\n)+', page(folder), re.M):
        head, _, *rows = (re.split(r' *\| *', line.strip('| ')) for line in text.splitlines())
        found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


def table(folder, *headings):
    """The only table with these headings."""
    (found,) = (rows for rows in tables(folder) if set(headings) <= set(rows[0]))
    return found


def plain(cell):
    return re.findall(r'`([^`]+)`', cell)


def by_name(rows, heading, known):
    """(name, row, what the code has under this name) for each row. What is not published needs no row."""
    names = [plain(row[heading])[0] for row in rows]
    assert len(set(names)) >= PUBLISHED[heading]
    return [(name, row, known[name]) for name, row in zip(names, rows, strict=True)]


@pytest.fixture
def register(tmp_path, monkeypatch):
    """register('dataloaders.animals', code): a module as if it stood in src."""

    def register(name, code):
        path = tmp_path / f'{name}.py'
        path.write_text(code, encoding='utf-8')
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(identity.SOURCES, SRC / f'{name.replace(".", "/")}.py', code.encode())
        spec.loader.exec_module(module)
        return module

    identity.code.cache_clear()
    yield register
    identity.code.cache_clear()
    identity.parse.cache_clear()


# All pages


def pages():
    paths = (ROOT / name for name in subprocess.check_output(['git', 'ls-files', '*.md'], cwd=ROOT, text=True).split())
    return {os.path.relpath(path, ROOT): path.read_text(encoding='utf-8') for path in paths}


def test_the_example_of_the_readme_runs():
    assert test_guide.run(ROOT / 'README.md')['model'].learned.all()


@pytest.mark.parametrize('path', pages())
def test_every_command_in_a_page_has_arguments_that_its_script_takes(path, tmp_path):
    """Placeholders are folders."""
    text = re.sub(r'\b(DATA|DIR)\b', str(tmp_path), pages()[path])
    for line in set(re.findall(r'python src/\w+\.py[^\n`|)#]*', text)):
        _, script, *argv = shlex.split(line)
        script = importlib.import_module(Path(script).stem)
        if script.__name__ == 'benchmark':
            name = argv.pop(0) if argv and argv[0] in script.BENCHMARKS else 'speed'
            script = importlib.import_module(f'benchmarks.{name}')
        if script.__name__ in ('run_multi', 'work'):
            argv, rest = batches.split_arguments(argv)
            if '--experiments' in argv:
                run.parse(['--approach', 'hat', '--experiment', 'mixture', *rest])
        script = selftest if '--selftest' in argv else script
        if hasattr(script, 'parse') and not {'NAME', 'HASH', 'animals'} & set(argv):
            script.parse(argv)


def test_the_table_of_arguments_is_that_of_the_help_of_run(capsys):
    with pytest.raises(SystemExit):
        run.parse(['--help'])
    listed, _ = capsys.readouterr().out.split('examples:')
    shown = set(re.findall(r'--[a-z][a-z-]*', listed)) - {'--help'}
    cells = re.findall(r'^\| (`--.*?) \|', page(''), re.M)
    assert {name.split()[0] for cell in cells for name in plain(cell)} == shown


# Approaches


def test_the_table_of_approaches_is_that_of_the_code():
    rows = table('approaches', 'approach', 'file')
    assert {alias: plain(row['approach'])[0] for row in rows for alias in plain(row['approach'])[1:]} == ALIASES
    variants = dict(zip(('', 'hat', 'pathnet', 'pnn'), SIZES['mixture'], strict=True))
    for name, row, approach in by_name(rows, 'approach', APPROACHES):
        assert f'approaches.{row["file"].removesuffix(".py")}' == approach.__module__
        size = '-' if name == 'random' else f'{variants[approach.variant]:,}'
        assert row['parameters of its network on the mixture'] == size


def test_the_hyper_parameters_in_the_table_are_those_of_the_code():
    for _, row, approach in by_name(table('approaches', 'approach', 'file'), 'approach', APPROACHES):
        found = re.findall(r'(\w+)=([^\s,]+)(?: \(([^)]*)\))?', row['hyper-parameters: default (grid)'])
        declared = approach.parameters
        assert [name for name, _, _ in found] == list(declared)
        for name, default, grid in found:
            assert type(declared[name].default)(default) == declared[name].default
            assert sorted(map(float, grid.split())) == sorted(declared[name].grid), (approach, name)


def test_the_hyper_parameters_of_hat_are_explained_with_all_their_values():
    rows, declared = table('approaches', 'name', 'values'), APPROACHES['hat'].parameters
    assert [name for row in rows for name in plain(row['name'])] == list(declared)
    for row in rows:
        for name in plain(row['name']):
            if choices := declared[name].choices:
                assert row['values'] == ', '.join(map(str, choices))


def test_the_table_of_experiments_is_that_of_the_code():
    for _, row, module in by_name(table('dataloaders', 'experiment', 'tasks'), 'experiment', EXPERIMENTS):
        assert row['network'].startswith({'alexnet': 'AlexNet-like', 'mlp': 'MLP'}[module.FAMILY])
        channels, height, width = module.SHAPE
        assert row['input'] == f'{height}x{width}x{channels}'


def test_the_lines_that_register_the_example_of_an_approach_are_there():
    registered = (SRC / 'approaches' / '__init__.py').read_text(encoding='utf-8')
    for line in 'from approaches.si import SI\n', "    'si': SI,\n":
        assert line in page('approaches') and line in registered


# Data sets, and the example of an experiment


def test_the_table_of_data_sets_is_that_of_the_code():
    rows = table('dataloaders', 'set', 'classes')
    assert [row['set'] for row in rows] == list(sources.SOURCES)
    for row, source in zip(rows, sources.SOURCES.values(), strict=True):
        assert row['images (training / test)'] == f'{source.n_train:,} / {source.n_test:,}'
        assert int(row['classes']) == source.n_classes
        assert row['archives in dat/'].split() == [file.path for file in source.files]


@pytest.fixture
def animals(register, tmp_path, monkeypatch, capsys):
    """The module of the page, and the data that its first block writes, in dat/ of the working directory."""
    make, code = blocks('dataloaders')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'dat').mkdir()
    for name, n_classes in ('birds', 5), ('fish', 3):
        arrays = *pictures(100, n_classes, (32, 32, 3), n_classes), *pictures(20, n_classes, (32, 32, 3), 9)
        exec(make.replace('birds', name), dict(zip(npz.ARRAYS, arrays, strict=True)))
        mean = [float(number) for number in re.findall(r'[\d.]+', capsys.readouterr().out)]
        assert mean[:3] == pytest.approx((arrays[0] / 255).mean((0, 1, 2)), rel=1e-5)
    module = register('dataloaders.animals', code)
    monkeypatch.setitem(EXPERIMENTS, 'animals', module)
    assert "'animals': animals," in page('dataloaders')
    return module


def test_the_experiment_of_the_page_runs(animals, tmp_path, capsys):
    arguments = ['--approach', 'hat', '--experiment', 'animals', '--width', '0.1', '--nepochs', '2', '--device', 'cpu',
                 '--data', 'dat', '--output', 'out.txt']  # fmt: skip
    assert run.parse(arguments[:4]).nepochs == animals.DEFAULTS['nepochs']
    run.main(arguments)
    record = json.loads((tmp_path / 'out.json').read_text())
    assert [(task['name'], task['n_classes']) for task in record['tasks']] == list(animals.SETS.items())
    assert [task['data'] for task in record['tasks']] == [npz.fingerprint(f'dat/{name}.npz') for name in animals.NAMES]
    assert math.isfinite(np.loadtxt('out.txt').sum())
    run.main(arguments)
    assert 'already finished' in capsys.readouterr().out


def test_the_experiment_of_the_page_names_a_file_that_is_missing(animals, tmp_path, capsys):
    (tmp_path / 'dat' / 'fish.npz').unlink()
    arguments = ['--approach', 'sgd', '--experiment', 'animals', '--data', 'dat', '--output', 'out.txt']
    assert run.cli(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'fish.npz' in line and 'no such file' in line and 'delete' not in line


# All pages


@pytest.mark.parametrize('path', pages())
def test_links_lead_to_a_page_and_a_heading(path):
    page = ROOT / path
    for target in re.findall(r'\]\(([^)]+)\)', pages()[path]):
        file, _, heading = target.partition('#')
        if not target.startswith('http'):
            there = page.parent / file if file else page
            assert there.exists(), target
            headings = re.findall(r'^#+ (.*)$', there.read_text(encoding='utf-8'), re.M) if heading else ()
            assert not heading or heading in [text.lower().replace(' ', '-') for text in headings], target


@pytest.mark.slow
def test_the_network_of_the_page_runs_with_each_of_its_variants(register, tmp_path, monkeypatch):
    code = next(block for block in blocks('approaches') if 'LeNet' in block)
    names = vars(register('networks.lenet', code))
    (entry,) = re.findall(r"^    'lenet': (.*),$", page('approaches'), re.M)
    monkeypatch.setitem(NETWORKS, 'lenet', eval(entry, names))
    monkeypatch.setattr(EXPERIMENTS['demo'], 'FAMILY', 'lenet')
    for approach in 'hat', 'sgd', 'pathnet', 'pnn':
        output = tmp_path / f'{approach}.txt'
        run.main(['--approach', approach, '--experiment', 'demo', '--tasks', 'shapes,digits', '--ntrain', '40',
                  '--nepochs', '1', '--width', '0.2', '--device', 'cpu', '--output', str(output)])  # fmt: skip
        assert np.loadtxt(output).shape == (2, 2)

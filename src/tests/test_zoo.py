"""Networks of torchvision and timm, the survey, and the example."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torchvision

import dataloaders
import example
import hat
from benchmarks import zoo
from core.errors import exit_code
from core.files import ROOT
from dataloaders.task import Images


def rows(capsys, networks):
    assert exit_code('benchmark.py', zoo.main, ['--networks', networks, '--batch-size', '4', '--rounds', '1']) == 0
    lines = [[cell.strip() for cell in line.split('|')[1:-1]] for line in capsys.readouterr().out.splitlines()]
    head = next(line for line in lines if line)
    return {line[0]: dict(zip(head, line, strict=True)) for line in lines if line}


def check(row):
    assert row['converts'] == row['same after SGD, momentum'] == row['same after AdamW'] == 'yes'
    assert float(row['largest difference, gates open']) <= 1e-5
    assert 10 < float(row['protected, %']) < 90 and 0 < float(row['parameters added, %']) < 10
    assert float(row['step, third task, 4 images'].removesuffix(' x')) > 0


@pytest.mark.slow
def test_networks_of_torchvision(capsys):
    table = rows(capsys, 'resnet18,mobilenet_v3_small')
    check(table['resnet18'])
    check(table['mobilenet_v3_small'])


@pytest.mark.slow
def test_networks_of_timm(capsys):
    pytest.importorskip('timm', reason='timm is not installed')
    table = rows(capsys, 'regnety_002,vit_tiny_patch16_224')
    check(table['regnety_002'])
    check(table['vit_tiny_patch16_224'])


def test_networks_before_one_that_fails_are_in_the_table(monkeypatch, capsys):
    monkeypatch.setattr(
        zoo, 'row', lambda name, args, device: [name] * len(zoo.head(args)) if name == 'resnet18' else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        zoo.main(['--networks', 'resnet18,vgg11_bn'])
    assert capsys.readouterr().out.splitlines()[-1].startswith('| resnet18 |')


def test_an_unknown_network_is_one_line(capsys):
    assert exit_code('benchmark.py', zoo.main, ['--networks', 'resnet18,alexnet']) == 2
    assert capsys.readouterr().err.startswith("benchmark.py: error: --networks: 'alexnet' is none of resnet18, ")


def survey(networks, path, *more):
    """In a process of its own, which starts others. Returns the rows that it prints, and the records."""
    script = ROOT / 'src' / 'benchmark.py'
    command = [sys.executable, script, 'zoo', '--all', '--networks', networks, '--output', path, *more]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines], json.loads(path.read_text())


@pytest.mark.slow
def test_the_survey_keeps_a_record_of_each_network_and_resumes_with_the_missing_ones(tmp_path):
    lines, records = survey('residual,self_attention,a_head_alone', tmp_path / 'zoo.json')
    for name in 'residual', 'self_attention':
        record = records[name]
        assert record['stage'] == 'done' and record['alive'] and record['finite'] and record['identical']
        assert record['open'] <= 1e-5 and record['pruned'] <= 1e-5 and 0.1 < record['kept'] < 1
        assert 0.1 < record['closed'] < 0.9 and 0.1 < record['protected'] < 0.9
    assert records['a_head_alone']['refused'] and 'no layer that could have a gate' in records['a_head_alone']['why']
    assert [line[:3] for line in lines[2:5]] == [
        ['residual', 'hand', 'yes'], ['self_attention', 'hand', 'yes'], ['a_head_alone', 'hand', 'no']]  # fmt: skip
    assert ['all', '3', '3', '2', '2', '2', '2', '2', '2', '1', '0', '0'] in lines
    more = survey('residual,squeeze_and_excite', tmp_path / 'zoo.json', '--limit', '0.001')[1]
    assert more.pop('squeeze_and_excite')['slow'] and more == records


@pytest.mark.slow
def test_dense_blocks_and_residual_streams_are_cut():
    torch.manual_seed(0)
    for net in torchvision.models.densenet121(num_classes=10), torchvision.models.resnet18(num_classes=10):
        x = torch.randn(2, 3, 32, 32)
        model = hat.convert(net, 1, x)
        model.end_task(0)
        small = hat.prune(model, 0)
        with torch.no_grad():
            torch.testing.assert_close(small(x), model.eval()(x, task=0), rtol=1e-4, atol=1e-5)
        size = [sum(p.numel() for p in each.parameters()) for each in (net, small)]
        assert size[1] < 0.5 * size[0]


@pytest.mark.slow
def test_the_example_keeps_the_accuracy_of_earlier_tasks(monkeypatch, capsys):
    """Smaller: one block in place of two, fewer images."""
    load, block = dataloaders.load, torchvision.models.resnet.BasicBlock

    def few(*args, ntrain, **more):
        tasks = load(*args, ntrain=60, **more)
        return [replace(task, test=Images(task.test.x, *(v[:30] for v in task.test[1:]))) for task in tasks]

    monkeypatch.setattr(example.dataloaders, 'load', few)
    monkeypatch.setattr(torchvision.models, 'resnet18', lambda: torchvision.models.ResNet(block, [1, 1, 1, 1]))
    monkeypatch.setattr(example, 'EPOCHS', 1)
    example.main()
    lines = capsys.readouterr().out.splitlines()
    shapes = [line.split('shapes ')[1].split(' %')[0] for line in lines]
    assert len(lines) == 3 and len(set(shapes)) == 1 and lines[2].startswith('after arrows: shapes ')

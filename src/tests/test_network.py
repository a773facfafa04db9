"""run.py --network: networks of torchvision and timm under the same protocol."""

import json
import os
import shlex

import numpy as np
import pytest
import torch
from conftest import same, without
from torchvision import models

import networks
import prune
import run
from approaches import APPROACHES
from core.comparison import agree
from core.errors import UserError
from core.files import ROOT
from core.results import command
from reports.records import load

SMALL = ['--experiment', 'demo', '--network', 'resnet18', '--tasks', 'shapes,digits', '--ntrain', '80',
         '--nepochs', '2', '--batch-size', '32', '--device', 'cpu', '--threads', '1']  # fmt: skip
OWN = 'pathnet', 'pnn'  # approaches with networks of their own


def start(tmp_path, approach, *more):
    txt = tmp_path / f'{approach}.txt'
    usual = ['--approach', approach, *without(SMALL, more), '--output', str(txt), '--tmp', str(tmp_path)]
    return run.cli([*usual, *more]), txt


@pytest.mark.slow
@pytest.mark.parametrize('approach', [name for name in APPROACHES if name not in OWN])
def test_an_approach_trains_a_network_of_torchvision(approach, tmp_path):
    code, txt = start(tmp_path, approach, '--ntrain', '40', '--nepochs', '1')
    record = json.loads(txt.with_suffix('.json').read_text())
    assert code == 0 and np.loadtxt(txt).shape == (2, 2) and record['arguments']['network'] == 'resnet18'
    assert record['n_parameters'] > 11e6


@pytest.mark.slow
def test_hat_forgets_nothing_and_the_network_is_pruned(tmp_path, capsys):
    code, txt = start(tmp_path, 'hat', '--parameter', 'hard=1', '--save')
    accuracy = np.loadtxt(txt)
    assert code == 0 and accuracy[1, 0] == accuracy[0, 0] > 0
    assert start(tmp_path, 'hat', '--parameter', 'hard=1', '--save')[0] == 0
    assert 'already finished' in capsys.readouterr().out
    assert prune.main([str(txt.with_suffix('.json')), '--rounds', '1']) == 0


def test_approaches_start_from_the_same_weights_drawn_by_the_seed():
    def weights(variant, seed):
        net = networks.build('alexnet', variant, (3, 32, 32), [3, 2], 1, seed, 'resnet18')
        hidden = net.hidden.net if variant else net.blocks[0]
        return [hidden.conv1.weight.detach(), hidden.layer4[1].conv2.weight.detach(), net.heads[1].weight.detach()]

    torch.manual_seed(1)
    one = weights('', 5)
    torch.manual_seed(2)
    assert all(map(torch.equal, one, weights('hat', 5))) and not any(map(torch.equal, one, weights('', 6)))


def test_frozen_layers_keep_their_statistics():
    net = networks.build('alexnet', '', (3, 32, 32), [3, 2], 1, 0, 'resnet18')
    net.blocks.requires_grad_(False)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net.train()(torch.randn(4, 3, 32, 32), 0)
    assert same(dict(net.named_buffers()), before)


@pytest.mark.parametrize('name, message', {
    'nonsense': "torchvision has no classifier 'nonsense'",
    'timm:nonsense': "timm has no classifier 'nonsense'",
    'keras:resnet18': 'networks are of torchvision',
    'resnet18,depth': "'depth' is not like name=value",
    'resnet18,depth=3': 'resnet18: .*depth',
    'squeezenet1_1': 'squeezenet1_1 does not end with one linear layer',
    'inception_v3': 'inception_v3',
    'timm:vit_tiny_patch16_224,patch_size=64': 'vit_tiny_patch16_224',
}.items())  # fmt: skip
def test_what_is_no_network_is_said_in_one_line(name, message):
    if name.startswith('timm'):
        pytest.importorskip('timm')
    with pytest.raises(UserError, match=f'^--network: .*{message}') as error:
        networks.build('alexnet', '', (3, 32, 32), [3, 2], 1, 0, name)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('approach', OWN)
def test_approaches_with_networks_of_their_own_refuse_another(approach, tmp_path, capsys):
    assert start(tmp_path, approach)[0] == 2
    assert f'--network: {approach} makes networks of its own' in capsys.readouterr().err
    assert start(tmp_path, 'hat', '--width', '0.5')[0] == 2


@pytest.mark.slow
def test_the_record_has_the_version_of_the_library(tmp_path):
    timm = pytest.importorskip('timm')
    code, txt = start(tmp_path, 'sgd', '--network', 'timm:test_resnet', '--nepochs', '1')
    assert code == 0 and json.loads(txt.with_suffix('.json').read_text())['versions']['timm'] == timm.__version__
    assert start(tmp_path, 'sgd')[0] == 0
    assert 'timm' not in json.loads(txt.with_suffix('.json').read_text())['versions']


def test_a_transformer_of_timm_takes_settings_of_its_constructor():
    pytest.importorskip('timm')
    name = 'timm:vit_tiny_patch16_224,patch_size=8,depth=2'
    net = networks.build('alexnet', 'hat', (3, 32, 32), [3, 2], 1, 0, name)
    assert net.hidden.net.patch_embed.num_patches == 16 and len(net.hidden.net.blocks) == 2
    assert net(torch.randn(4, 3, 32, 32), 1, net.hidden.masks(1)).shape == (4, 2)


def save_weights(tmp_path, name='resnet18', **settings):
    torch.manual_seed(9)
    net = models.get_model(name, **settings)
    torch.save({'state_dict': net.state_dict()}, tmp_path / f'{name}.pth')
    return net, tmp_path / f'{name}.pth'


@pytest.mark.slow
@pytest.mark.parametrize('variant', ['', 'hat'])
def test_a_network_starts_from_the_weights_of_a_file(tmp_path, variant):
    whole, path = save_weights(tmp_path)
    net = networks.build('alexnet', variant, (3, 32, 32), [3, 2], 1, 0, 'resnet18', path)
    hidden = net.hidden.net if variant else net.blocks[0]
    if not variant:
        x = torch.randn(2, 3, 32, 32)
        assert same(whole.eval().fc(net.eval()(x)), whole(x))
    small = networks.build('alexnet', variant, (3, 32, 32), [3, 2], 1, 0, 'resnet18,stem=small', path)
    own = small.hidden.net if variant else small.blocks[0]
    assert own.conv1.weight.shape == (64, 3, 3, 3) and own.conv1.stride == (1, 1)
    assert same(own.layer4[1].conv2.weight, whole.layer4[1].conv2.weight)
    assert same(hidden.conv1.weight, whole.conv1.weight) and isinstance(own.maxpool, torch.nn.Identity)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, message',
    [
        ('resnet34', 'it also has layer1.2'),
        ('resnet50', 'it also has layer1.0'),
        ('shufflenet_v2_x0_5', 'it lacks conv1'),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, name, message):
    _, path = save_weights(tmp_path, name)
    with pytest.raises(UserError, match=message):
        networks.build('alexnet', '', (3, 32, 32), [3, 2], 1, 0, 'resnet18', path)


@pytest.mark.parametrize('content', [b'', b'no weights', None])
def test_a_file_without_weights_is_one_line(tmp_path, capsys, content):
    path = tmp_path / 'x.pth'
    if content is not None:
        path.write_bytes(content)
    assert start(tmp_path, 'sgd', '--pretrained', str(path))[0] == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and f'--pretrained: {path}' in err


@pytest.mark.slow
def test_other_weights_are_another_run(tmp_path, capsys):
    _, path = save_weights(tmp_path)
    code, txt = start(tmp_path, 'random', '--pretrained', str(path))
    assert code == 0 and start(tmp_path, 'random', '--pretrained', str(path))[0] == 0
    assert 'already finished' in capsys.readouterr().out
    again = command(json.loads(txt.with_suffix('.json').read_text()))
    assert (
        f'--pretrained {os.path.relpath(path, ROOT)}' in again
        and run.parse(shlex.split(again)[2:]).network == 'resnet18'
    )
    assert start(tmp_path, 'random')[0] == 0 and 'weights is' in capsys.readouterr().out


@pytest.mark.slow
def test_a_stem_that_is_small_already_is_refused():
    with pytest.raises(UserError, match='stem=small'):
        networks.build('alexnet', '', (3, 32, 32), [3, 2], 1, 0, 'vgg11,stem=small')


@pytest.mark.slow
def test_grey_images_are_repeated_on_three_channels(tmp_path, small_data):
    more = ['--experiment', 'mnist2', '--tasks', 'mnist-0-4,mnist-5-9', '--data', str(small_data)]
    code, txt = start(tmp_path, 'sgd', *more, '--nepochs', '1')
    assert code == 0 and json.loads(txt.with_suffix('.json').read_text())['inputs']['mnist-0-4']['shape'] == [3, 28, 28]


def test_a_batch_of_one_image_is_refused_before_training_where_there_are_batch_norms(tmp_path, capsys):
    assert start(tmp_path, 'sgd', '--ntrain', '38', '--batch-size', '32')[0] == 2  # 33 of them for training
    assert 'a batch of shapes has one image only' in capsys.readouterr().err


@pytest.mark.slow
def test_weights_of_other_numbers_are_refused_and_old_files_lack_a_counter(tmp_path):
    net, path = save_weights(tmp_path)
    weights = net.state_dict()
    torch.save({k: v for k, v in weights.items() if 'num_batches' not in k}, path)
    networks.build('alexnet', '', (3, 32, 32), [3, 2], 1, 0, 'resnet18', path)
    torch.save(weights | {'layer1.0.conv1.weight': weights['layer1.0.conv1.weight'].to(torch.int8)}, path)
    with pytest.raises(UserError, match='another kind of numbers has layer1.0.conv1.weight'):
        networks.build('alexnet', '', (3, 32, 32), [3, 2], 1, 0, 'resnet18', path)


@pytest.mark.slow
def test_runs_of_other_initial_weights_are_in_no_table_together(tmp_path):
    _, path = save_weights(tmp_path)
    facts = []
    for seed, more in (0, []), (1, ['--pretrained', str(path)]):
        txt = tmp_path / f'demo_sgd_{seed}.txt'
        assert start(tmp_path, 'sgd', '--seed', str(seed), '--nepochs', '1', *more, '--output', str(txt))[0] == 0
        facts.append(load(txt, 'demo', 'sgd', seed).facts)
    assert not agree(*facts) and agree(*({**each, 'weights': None} for each in facts))

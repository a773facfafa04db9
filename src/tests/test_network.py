"""run.py --network: networks of torchvision and timm under the same protocol."""

import json

import numpy as np
import pytest
import torch
from conftest import same

import networks
import prune
import run
from approaches import APPROACHES
from core.errors import UserError

SMALL = ['--experiment', 'demo', '--network', 'resnet18', '--tasks', 'shapes,digits', '--ntrain', '80',
         '--nepochs', '2', '--batch-size', '32', '--device', 'cpu', '--threads', '1']  # fmt: skip
OWN = 'pathnet', 'pnn'  # approaches with networks of their own


def start(tmp_path, approach, *more):
    txt = tmp_path / f'{approach}.txt'
    return run.cli(['--approach', approach, *SMALL, '--output', str(txt), '--tmp', str(tmp_path), *more]), txt


@pytest.mark.slow
@pytest.mark.parametrize('approach', [name for name in APPROACHES if name not in OWN])
def test_an_approach_trains_a_network_of_torchvision(approach, tmp_path):
    code, txt = start(tmp_path, approach)
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

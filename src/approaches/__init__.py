"""The approaches, by name. A new one is a file, its import and its entry in APPROACHES (README.md)."""

from dataclasses import replace

import torch

import dataloaders
import networks
from approaches.adahat import AdaHAT
from approaches.der import DER
from approaches.er import ER
from approaches.ewc import EWC
from approaches.hat import HAT
from approaches.hat_cl import HATCL
from approaches.imm import IMMMean, IMMMode
from approaches.joint import Joint
from approaches.lfl import LFL
from approaches.lwf import LWF
from approaches.mas import MAS
from approaches.packnet import PackNet
from approaches.pathnet import PathNet
from approaches.pnn import PNN
from approaches.random import Random
from approaches.sgd import SGD
from approaches.sgd_frozen import SGDFrozen
from approaches.sgd_restart import SGDRestart
from approaches.si import SI
from approaches.wsn import WSN

APPROACHES = {
    'hat': HAT,
    'sgd': SGD,
    'sgd-frozen': SGDFrozen,
    'sgd-restart': SGDRestart,
    'ewc': EWC,
    'si': SI,
    'mas': MAS,
    'imm-mean': IMMMean,
    'imm-mode': IMMMode,
    'lwf': LWF,
    'lfl': LFL,
    'pathnet': PathNet,
    'pnn': PNN,
    'packnet': PackNet,
    'wsn': WSN,
    'adahat': AdaHAT,
    'hat-cl': HATCL,
    'er': ER,
    'der': DER,
    'joint': Joint,
    'random': Random,
}
ALIASES = {'progressive': 'pnn'}


def canonical(name):
    return ALIASES.get(name, name)


def build(name, experiment, tasks, protocol, width=1.0, parameters=None, network=None, weights=None):
    """An approach with its network, on the device of the tasks.

    network: of another library; None: the experiment's
    weights: path of its initial weights
    parameters: hyper-parameters, name -> value; the others have their defaults
    """
    approach, module = APPROACHES[name], dataloaders.EXPERIMENTS[experiment]
    if network:  # those of other libraries are made for three channels: grey images are repeated
        tasks = [replace(task, shape=(3, *task.shape[1:])) for task in tasks]
    classes, device = [task.n_classes for task in tasks], tasks[0].train.y.device
    shape, seed = tasks[0].shape, protocol.seed
    net = networks.build(module.FAMILY, approach.variant, shape, classes, width, seed, network, weights)
    built = approach(net.to(device), tasks, protocol, **approach.defaults() | (parameters or {}))
    if protocol.precision == 'bf16':
        for method in 'loss', 'batch_loss':  # each in a context of its own: one calls the other
            mixed = torch.autocast(device.type, torch.bfloat16, cache_enabled=False)  # no cache: a step may be captured
            setattr(built, method, mixed(getattr(built, method)))
    return built

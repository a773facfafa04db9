"""The approaches, by name. A new one is a file and a line here."""

import dataloaders
import networks
from approaches.base import Protocol
from approaches.ewc import EWC
from approaches.hat import HAT
from approaches.imm import IMMMean, IMMMode
from approaches.joint import Joint
from approaches.lfl import LFL
from approaches.lwf import LWF
from approaches.pathnet import PathNet
from approaches.pnn import PNN
from approaches.random import Random
from approaches.sgd import SGD
from approaches.sgd_frozen import SGDFrozen
from approaches.sgd_restart import SGDRestart

APPROACHES = {
    'hat': HAT,
    'sgd': SGD,
    'sgd-frozen': SGDFrozen,
    'sgd-restart': SGDRestart,
    'ewc': EWC,
    'imm-mean': IMMMean,
    'imm-mode': IMMMode,
    'lwf': LWF,
    'lfl': LFL,
    'pathnet': PathNet,
    'pnn': PNN,
    'joint': Joint,
    'random': Random,
}
ALIASES = {'progressive': 'pnn'}


def canonical(name):
    return ALIASES.get(name, name)


def build(args, tasks, device):
    """The approach, with its network on the device."""
    approach = APPROACHES[args.approach]
    experiment = dataloaders.EXPERIMENTS[args.experiment]
    classes = [task.n_classes for task in tasks]
    family, shape = experiment.FAMILY, experiment.SHAPE
    net = networks.build(family, approach.variant, shape, classes, args.width, args.seed).to(device)
    protocol = Protocol(seed=args.seed, nepochs=args.nepochs, lr=args.lr, batch_size=args.batch_size)
    return approach(net, tasks, protocol, **args.parameter)

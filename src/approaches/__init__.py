"""The approaches, by name. A new one is a file and a line here."""

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

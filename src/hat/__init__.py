"""Hard attention to the task (HAT) for PyTorch networks. Imports torch and nothing else of this project.

Serra, Suris, Miron, Karatzoglou. Overcoming catastrophic forgetting with hard attention to the task. ICML 2018.

    model = hat.convert(torchvision.models.resnet18(num_classes=10), n_tasks=5, example_input=x)

converts a network. Initial embeddings, annealing, regularization: hat.init, hat.schedules, hat.regularizers. The
formulas of the paper: hat.functional. Operations that keep zeros: hat.rules. Guide: README.md in this folder.
"""

from hat import functional, init, regularizers, rules, schedules
from hat.capacity import used
from hat.convert import convert
from hat.errors import CannotConvert
from hat.functional import objective
from hat.groups import param_groups
from hat.network import Network, forget
from hat.pruning import plain, prune
from hat.saving import load, save
from hat.schedules import annealed
from hat.view import View

__version__ = '1.1.0'
__all__ = [
    'CannotConvert',
    'Network',
    'View',
    'annealed',
    'convert',
    'forget',
    'functional',
    'init',
    'load',
    'objective',
    'param_groups',
    'plain',
    'prune',
    'regularizers',
    'rules',
    'save',
    'schedules',
    'used',
]

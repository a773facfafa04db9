"""Hard attention to the task (HAT) for PyTorch networks. Imports torch and nothing else of this project.

Serra, Suris, Miron, Karatzoglou. Overcoming catastrophic forgetting with hard attention to the task. ICML 2018.

    model = hat.convert(torchvision.models.resnet18(num_classes=10), n_tasks=5, example_input=x)

makes a hat.network.Network. Techniques to choose from are functions in hat.techniques, the paper's formulas in
hat.functional.
"""

from hat.capacity import active, both, count_weights, either, usage, used
from hat.convert import convert
from hat.functional import attention, compensate, cumulate, free_share, linear, objective, regularization
from hat.network import Network, forget
from hat.plan import CannotConvert
from hat.prune import cut, plain, prune
from hat.techniques import (
    INITS,
    REGULARIZERS,
    SCHEDULES,
    by_layer,
    by_network,
    constant,
    cosine,
    dense,
    exponential,
    normal,
    quota,
    uniform,
)

__all__ = [
    'INITS',
    'REGULARIZERS',
    'SCHEDULES',
    'CannotConvert',
    'Network',
    'active',
    'attention',
    'both',
    'by_layer',
    'by_network',
    'compensate',
    'constant',
    'convert',
    'cosine',
    'count_weights',
    'cumulate',
    'cut',
    'dense',
    'either',
    'exponential',
    'forget',
    'free_share',
    'linear',
    'normal',
    'objective',
    'plain',
    'prune',
    'quota',
    'regularization',
    'uniform',
    'usage',
    'used',
]

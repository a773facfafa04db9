"""Hard attention to the task (HAT) for PyTorch networks. Imports torch and nothing else of this project.

Serra, Suris, Miron, Karatzoglou. Overcoming catastrophic forgetting with hard attention to the task. ICML 2018.
"""

from hat.capacity import active, both, count_weights, either, usage
from hat.functional import (
    E_MAX,
    anneal,
    attention,
    compensate,
    cumulate,
    free_share,
    regularization,
)
from hat.gate import INITS, Gate, gated
from hat.prune import cut

__all__ = [
    'E_MAX',
    'INITS',
    'Gate',
    'active',
    'anneal',
    'attention',
    'both',
    'compensate',
    'count_weights',
    'cumulate',
    'cut',
    'either',
    'free_share',
    'gated',
    'regularization',
    'usage',
]

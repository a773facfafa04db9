"""HAT with the settings of HAT-CL (Duan 2023, arXiv 2307.09653), as its example of continual learning has them.

All gates start open; s falls from s_max to 1/s_max within an epoch (HAT-CL: to 1) and rises again; a task may use its
share of each layer without a penalty; the masks of learned tasks are binary (HAT-CL: in protection; the example tests
with sigmoids at s_max).
"""

from approaches.hat import HAT

SETTINGS = {'c': 1.0, 'smax': 100.0, 'hard': 1, 'init': 'dense', 'anneal': 'cosine', 'reg': 'quota'}


class HATCL(HAT):
    parameters = HAT.parameters | {name: HAT.parameters[name]._replace(default=v) for name, v in SETTINGS.items()}

"""Groups of parameters for optimizers."""

from collections.abc import Mapping
from typing import Any

from hat.network import Network
from hat.view import View


def param_groups(model: Network | View, weight_decay: float = 0.0,
                 embeddings: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:  # fmt: skip
    """Groups of a model's parameters for an optimizer: weight decay is for weights alone, not for norms, biases and
    task embeddings, whose decay would move gates towards one half.

    Args:
        model: a converted network, or a view of one of its tasks.
        weight_decay: of weights, which have two dimensions or more.
        embeddings: further settings of the task embeddings, such as dict(lr=0.1).

    Example:
        optimizer = torch.optim.AdamW(hat.param_groups(model, 0.01, embeddings=dict(lr=0.1)), lr=1e-3)
    """
    every = list(model.parameters())  # a view takes over the network's present ones here
    tasks = model.tasks if isinstance(model, Network) else [model]
    gates = [e for task in tasks for e in task.embeddings.parameters()]
    others = [p for p in every if p not in set(gates)]
    weights, vectors = [p for p in others if p.ndim > 1], [p for p in others if p.ndim < 2]
    groups = [{'params': weights, 'weight_decay': weight_decay}, {'params': vectors, 'weight_decay': 0.0},
              {'params': gates, 'weight_decay': 0.0, **(embeddings or {})}]  # fmt: skip
    return [group for group in groups if group['params']]

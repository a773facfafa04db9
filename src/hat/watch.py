"""What would go wrong in silence while a task is trained, and is worth a warning."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hat.errors import warn
from hat.graph import operations

if TYPE_CHECKING:
    from hat.network import Network

FREE = 0.05  # of a layer's units: a task that finds less is warned of
FIRST = 8  # training batches of a task in which it is seen whether its optimizer moves it


class Watch:
    """Of the task in training: `task`, its number; `progress`, that of its last batch; `batches` so far; `shut`, the
    last task whose closed layers somebody else has warned of.

    check: in how many training batches of a task it is seen whether forward() does what it did for example_input.
    """

    def __init__(self, check: int):
        self.check, self.batches, self.constant = check, 0, 0
        self.task: int | None = None
        self.progress: float | Tensor | None = None
        self.shut: int | None = None

    def begin_task(self, network: 'Network', task: int) -> None:
        last, self.task, self.batches, self.constant = self.task, task, 0, 0
        network.refresh()
        if last is not None and last != task and not network.done[last]:
            warn(f'task {last} was trained, but end_task({last}) was not called: its weights are not protected')
        if network.done[task]:
            warn(f'task {task} is learned: nothing of it is trained; hat.forget(model, {task}) makes it new')
            return
        network.agree()
        for name, a in zip(network.plan.gates, network.cumulative or (), strict=False):
            free = int((a < 0.5).sum()) / a.numel()
            if free < FREE:
                warn(f'only {100 * free:.1f} % of the units of layer {name!r} are free for task {task}')
        self.start = present(network, task)

    def before_batch(self, network: 'Network', task: int, progress: float | Tensor | None, inputs: tuple,
                     named: dict[str, Any]) -> None:  # fmt: skip
        ddp = torch.nn.parallel.DistributedDataParallel._get_active_ddp_module()
        network.group = ddp.process_group if ddp else network.group
        before, self.progress = self.progress, checked(progress)
        if task != self.task:
            network.begin_task(task)
        if network.done[task]:
            return
        network.clamp(task)
        self.batches += 1
        if 2 < self.batches <= FIRST and self.stuck(network, task):
            self.batches = FIRST
        if self.batches <= FIRST:
            self.constant += bool(before == self.progress)
            if self.constant == FIRST - 1:
                value = f'{float(self.progress):g}'
                warn(f'progress is {value} in {FIRST} batches of task {task}: the gates are not annealed')
        if self.batches <= self.check and operations(network, task, inputs, named) != network.plan.operations:
            warn('forward() takes another way for this batch than for example_input, for which the gates are made')
            self.check = 0

    def end_task(self, network: 'Network', task: int) -> None:
        if not network.tasks[task].embedding(False).isfinite().all():
            warn(f'task {task} has diverged: its masks are not numbers, and nothing of it is protected')
        elif (layers := closed(network, task)) and self.shut != task:
            warn(f'{shut(layers)} for task {task}')
        if self.task != task:
            warn(f'task {task} ends, and has not been trained')
            return
        if self.batches > 1:
            self.stuck(network, task)
        self.task = self.progress = None

    def stuck(self, network: 'Network', task: int) -> bool:
        """Is the network trained, and the task's masks are not?"""
        embedding, weights = present(network, task)
        stuck = torch.equal(embedding, self.start[0]) and not torch.equal(weights, self.start[1])
        if stuck:
            warn(f'the masks of task {task} do not change: is its optimizer older than add_task() or forget()?')
        return stuck


@torch.no_grad()
def closed(network: 'Network', task: int) -> list[str]:
    """The layers that let nothing of a task through, a list of names."""
    return [name for name, a in zip(network.plan.gates, network.masks(task), strict=True) if not (a > 0.5).any()]


def shut(layers: list[str]) -> str:
    """What a warning says of them."""
    names = f'layer {layers[0]!r}' if len(layers) == 1 else f'the layers {", ".join(map(repr, layers))}'
    return f'all gates of {names} are closed (is c too large, or do embeddings start too low?)'


@torch.no_grad()
def present(network: 'Network', task: int) -> tuple[Tensor, Tensor]:
    """What tells whether a task's embeddings, and the weights, have changed."""
    return network.tasks[task].embedding(False).clone(), torch.stack([p.sum() for p in network.shared.values()])


def checked(progress: float | Tensor | None) -> float | Tensor:
    if progress is None:
        raise ValueError(
            'progress is missing: in training it anneals the gates, from 0 to 1 in each epoch (hat.annealed)'
        )
    if not 0 <= progress <= 1:
        raise ValueError(f'progress must lie between 0 and 1, and is {float(progress):g}')
    return progress

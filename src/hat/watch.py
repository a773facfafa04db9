"""Warnings in training: mistakes that would otherwise pass unnoticed."""

import math
import threading
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hat.errors import warn
from hat.functional import HALF
from hat.kept import bits_type
from hat.names import get_tensor
from hat.nested import distance
from hat.plan import Inputs
from hat.trial import example_outputs, operations, with_kept_alone, with_other_noise

if TYPE_CHECKING:
    from hat.network import Network

FREE = 0.05  # share of a layer's units: a warning where fewer are free for a task
MOVING = 4  # batches after which masks have changed, even where layers start at zero
FIRST = 8  # the first training batches of a task: do its masks change, is it annealed?


class Watch:
    """State of the task in training.

    Attributes:
        task: its number; None: no task is in training.
        begun: numbers of the tasks that have been in training.
        thread: the one that began it; its number is that of no thread in another process, which may share the memory.
        parameters: ids of the shared parameters, as it began or since they were replaced.
        progress: of its last batch.
        batches: number of its batches so far.
        constant: number of its first batches with the progress of the batch before.
        start: its embeddings and a checksum of all weights that it trains, then.
        warned: a task of whose closed layers the caller has warned; end_task() does not repeat it.
        answer: the task that was learned last, and its outputs for the example inputs then; None: they are not known.
        frozen: checksums of the frozen parameters since a task was learned; None: none was, or they are not known.
        check: number of training batches in which operations and gates are compared with those for example_input.
        names: of the tasks, for warnings; None: they are 'task 0', 'task 1' ...
    """

    def __init__(self, check: int):
        self.check, self.batches, self.constant = check, 0, 0
        self.task: int | None = None
        self.begun: set[int] = set()
        self.thread: int | None = None
        self.parameters: set[int] = set()
        self.progress: float | Tensor | None = None
        self.warned: int | None = None
        self.answer: tuple[int, list[Tensor]] | None = None
        self.frozen: list[int] | None = None
        self.names: Sequence[str] | None = None

    def name(self, task: int) -> str:
        return self.names[task] if self.names else f'task {task}'

    def begin_task(self, network: 'Network', task: int) -> None:
        network.refresh()
        self.check_learned(network)
        if (last := self.task) is not None and last != task and not network.done[last]:
            warn(f'task {last} was trained, but end_task({last}) was not called: its weights are not protected')
        if network.done[task]:
            warn(f'task {task} is learned and is not trained further: hat.forget(model, {task}) resets it')
        else:
            network.agree()
            self.check_free(network, task)
        self.start = present(network, task)
        self.begun.add(task)
        self.thread, self.parameters = threading.get_native_id(), set(map(id, network.shared.values()))
        self.task, self.batches, self.constant = task, 0, 0  # last: after an error the next batch begins the task

    def check_free(self, network: 'Network', task: int) -> None:
        """Warn of layers with few units that no task uses."""
        shares = {name: int((a < 0.5).sum()) / a.numel()
                  for name, a in zip(network.plan.gates, network.cumulative or (), strict=False)}  # fmt: skip
        if full := [name for name, free in shares.items() if free < FREE]:
            warn(
                f'less than {100 * FREE:.0f} % of the units of {listed(full)} are free for {self.name(task)}: '
                'learn earlier tasks with a larger c (hat.forget() them first), or use a wider network'
            )

    def follow(self, network: 'Network') -> None:
        """Count changes anew where parameters have been replaced, as by load_state_dict(assign=True): an optimizer
        may still train the ones before."""
        ids = set(map(id, network.shared.values()))
        if self.task is not None and (ids != self.parameters or not self.batches):
            self.parameters, self.batches, self.constant, self.start = ids, 0, 0, present(network, self.task)

    def before_batch(self, network: 'Network', task: int, progress: float | Tensor | None, inputs: tuple,
                     named: dict[str, Any]) -> None:  # fmt: skip
        ddp = torch.nn.parallel.DistributedDataParallel._get_active_ddp_module()
        network.group = ddp.process_group if ddp else network.group
        last, self.progress = self.progress, checked(progress)
        if task != self.task:
            network.begin_task(task)
        if network.done[task]:
            return
        network.clamp(task)
        self.batches += 1
        if MOVING < self.batches <= FIRST and self.stuck(network, task):
            self.batches = FIRST
        if self.batches <= FIRST:
            self.constant += bool(last == self.progress)
            if self.constant == FIRST - 1:
                value = f'{float(self.progress):g}'
                warn(
                    f'progress is {value} in {FIRST} batches of {self.name(task)}: '
                    'the gates are not annealed (hat.annealed)'
                )
        if self.batches <= self.check and operations(network, task, inputs, named) != network.plan.operations:
            warn('forward() runs other operations for this batch than for example_input: the gates may not fit them')
            self.check = 0
        elif self.batches <= self.check and network.hard and unfit(network, task, (inputs, named)):
            warn('the gates do not fit this batch, whose outputs would change in end_task(): is example_input too '
                 'small for all of forward() to count, as a sequence that is shorter than a shift?')  # fmt: skip
            self.check = 0

    @torch.no_grad()
    def check_learned(self, network: 'Network') -> None:
        """Warn of changes that reach learned tasks: of frozen parameters, which are shared without a copy, and, seen by
        the outputs of the last one, of attributes of modules."""
        if not any(network.done):
            return
        last, self.frozen = self.frozen, checksums(get_tensor(network.net, name) for name in network.plan.frozen)
        if last and (names := [n for n, a, b in zip(network.plan.frozen, last, self.frozen, strict=True) if a != b]):
            warn(f'{", ".join(names)}: frozen, but changed since a task was learned: learned tasks have other outputs')
        elif network.hard and self.answer:
            task, answer = self.answer
            d = far(now := example_outputs(network, task), answer)
            if d and not far(with_other_noise(network, task), now):
                warn(f'{self.name(task)} is learned, but its outputs have changed, by up to {d:.1g} of the largest: '
                     'has an attribute that forward() uses been changed?')  # fmt: skip

    def end_task(self, network: 'Network', task: int) -> None:
        self.check_learned(network)
        embedding, weights = present(network, task)
        if self.task == task:  # some parameters are infinite from the start, as the bias of a class that is excluded
            weights = torch.where(self.start[1].isfinite(), weights, 0)
        parts = {'embeddings': embedding, 'weights': weights}
        if diverged := [part for part, values in parts.items() if not values.isfinite().all()]:
            warn(
                f'{self.name(task)} has diverged: its {diverged[0]} are not finite; units whose mask is NaN are not '
                'protected'
            )
        elif (layers := closed(network, task)) and self.warned != task:
            warn(f'{closed_warning(layers)} for {self.name(task)}')
        if task not in self.begun:
            warn(f'end_task({task}): task {task} has not been trained')
        if self.task != task:
            return
        if self.batches > 1 and not self.stuck(network, task) and same(present(network, task), self.start):
            warn(
                f'the training of {self.name(task)} has not changed anything: is the learning rate 0, or the optimizer '
                'older than the task, or than a load_state_dict(assign=True)?'
            )
        elif self.batches > 1 and (left_out := self.left_out(network, task)):
            warn(f'{self.name(task)} has trained its masks, but {left_out}')
        if self.progress is not None:
            both = self.progress, self.progress * 0 + 1.0  # a schedule may take tensors alone
            s, end = (float(network.schedule(progress, network.s_max)) for progress in both)
            if s < end / 2:
                warn(
                    f'the last batch of {self.name(task)} had progress {float(self.progress):.2g}: its masks are still '
                    'soft there; an epoch ends with progress 1 (hat.annealed, steps of a view)'
                )
        self.task = self.progress = None

    def compare(self, task: int, before: list[Tensor], after: list[Tensor]) -> None:
        """Warn if end_task() has changed the outputs of a task for the example inputs."""
        self.answer = task, after
        if d := far(after, before):
            warn(f'end_task({task}) has changed outputs, by up to {d:.1g} of the largest: its gates do not fit what '
                 'forward() does, as where buffers with indices have changed since convert()')  # fmt: skip

    def stuck(self, network: 'Network', task: int) -> bool:
        """Warn if the weights have changed since the task began, but not its masks."""
        embedding, weights = present(network, task)
        stuck = torch.equal(embedding, self.start[0]) and not torch.equal(weights, self.start[1])
        if stuck:
            warn(f'the masks of task {task} do not change: make a new optimizer after add_task() or forget(), of all '
                 'parameters of the model')  # fmt: skip
        return stuck

    def left_out(self, network: 'Network', task: int) -> str:
        """Which weights have not changed though the masks of a task have, and why, in words; '' where nothing is
        wrong."""
        shared, own = list[Tensor](network.shared.values()), list[Tensor](network.tasks[task].own.parameters())
        embedding, weights = present(network, task)
        if torch.equal(embedding, self.start[0]):
            return ''
        moved, n = weights != self.start[1], 2 * len(shared)
        kinds = ('the weights that tasks share', shared, moved[:n]), ('its own, such as a head', own, moved[n:])
        for name, part, changed in kinds:
            if not changed.any() and any(p.requires_grad and p.grad is not None and p.grad.any() for p in part):
                return (f'not {name}, though they have gradients: does the optimizer have them, or others from before '
                        'load_state_dict(assign=True)?')  # fmt: skip
        if not moved.any() and any(p.requires_grad for p in (*shared, *own)) and (
                all(p.grad is None for p in (*shared, *own))):  # fmt: skip
            return 'nothing else, and no weight has a gradient: is the loss that of a detached output?'
        return ''


def unfit(network: 'Network', task: int, batch: Inputs) -> bool:
    """Whether the gates do not fit a batch: see with_kept_alone()."""
    outputs, alone = with_kept_alone(network, task, batch)
    if not far(outputs, alone):
        return False
    again, _ = with_kept_alone(network, task, batch)  # differs for random numbers that are not PyTorch's
    return not far(again, outputs)


@torch.no_grad()
def closed(network: 'Network', task: int) -> list[str]:
    """Names of the layers with no open gate for a task."""
    return [name for name, a in zip(network.plan.gates, network.masks(task), strict=True) if not (a > 0.5).any()]


def closed_warning(layers: list[str]) -> str:
    """The warning for layers with no open gate."""
    return f'all gates of {listed(layers)} are closed (is c too large, or do embeddings start too low?)'


def listed(layers: list[str]) -> str:
    """The names of layers, in words."""
    return f'layer {layers[0]!r}' if len(layers) == 1 else f'the layers {", ".join(map(repr, layers))}'


@torch.no_grad()
def present(network: 'Network', task: int) -> tuple[Tensor, Tensor]:
    """A task's embeddings, and a checksum of the weights: those that tasks share, and the task's own; on the CPU, as
    the network may move to another device between two of these."""
    own = network.tasks[task]
    weights = [*network.shared.values(), *own.own.parameters()]
    sums = (torch.sum, torch.linalg.vector_norm)  # the sum of a head is constant in training, and its norm is not
    wide = [torch.promote_types(p.dtype, torch.float32) for p in weights]  # small steps are lost in a sum in bfloat16
    checksum = torch.stack([f(p, dtype=dtype) for p, dtype in zip(weights, wide, strict=True) for f in sums])
    return own.embedding(False).clone().cpu(), checksum.cpu()


def far(outputs: list[Tensor], expected: list[Tensor]) -> float:
    """The distance of outputs, if it is more than rounding, on a GPU in TF32, too; 0 where some are not known or are
    NaN."""
    d = distance(outputs, expected) if outputs and expected else 0.0
    rounding = 1e-4 if all(x.is_cpu for x in expected) else 0.01
    return d if d > (0.1 if any(x.dtype in HALF for x in expected) else rounding) else 0.0


def checksums(tensors: Iterable[Tensor]) -> list[int]:
    """The sum of the bits of each tensor, which does not depend on the order."""
    sums = [x.contiguous().view(bits_type(x.dtype)).sum(dtype=torch.int64) for x in tensors]
    return torch.stack(sums).tolist() if sums else []


def same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def checked(progress: float | Tensor | None) -> float | Tensor:
    """The progress of a batch. Raises TypeError, ValueError."""
    if progress is None:
        raise ValueError(
            'progress is missing: in training it anneals the gates, from 0 to 1 in each epoch (hat.annealed)'
        )
    if not isinstance(progress, Real) and math.prod(getattr(progress, 'shape', (0,))) != 1:
        raise TypeError(f'progress must be one number between 0 and 1, not {" ".join(repr(progress).split())}')
    if not 0 <= progress <= 1:
        raise ValueError(f'progress must be between 0 and 1, not {float(progress):g}')
    return progress

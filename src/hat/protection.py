"""What protects learned tasks: kept values, the factors of Eq. 2, and when they are brought up to date."""

import functools
import itertools
import threading

import torch
from torch import Tensor, nn

from hat import bundles, parallel, weights
from hat.functional import attention, cumulate, gradient_factor
from hat.kept import Kept
from hat.names import named_tensors
from hat.plan import Plan
from hat.task import TaskParameters
from hat.watch import Watch

LOCK = parallel.lock()  # of refresh(): other threads wait for what it changes
PRIME = 2**31 - 1  # fingerprints are multiples of it; an average of two fingerprints is not


class Protection(nn.Module):
    """The part of a Network that protects learned tasks. All that is here follows from the fingerprints, the kept
    values, and two settings, hard and s_max.

    With hard masks a learned task computes with the kept values (hat.kept) of the weights between its open units, and
    with zeros in place of all other weights. No parameter is read, so nothing that is written to one can reach it.

    Attributes:
        fingerprints: 0 for a task that is not learned, else a checksum that identifies what it learned; (tasks,) int64.
        kept: the kept values of the shared parameters, with the fingerprints of the tasks that they are of.
        done: for each task, whether it is learned.
        cumulative: cumulative attention of all learned tasks, (N,) for each gate; None: there is none.
        factors: of Eq. 2, for each shared parameter; empty with hard masks.
        marks: for parameters with protected elements, 1 at these; None: the kept values tell.
        bundles: of small parameters; whether for tasks that compute with kept values.
        finite: names of the parameters whose kept values are all finite.
    """

    net: nn.Module
    plan: Plan
    tasks: list[TaskParameters]  # an nn.ModuleList
    frozen: set[str]
    watch: Watch
    hard: bool
    s_max: float
    fingerprints: Tensor
    kept: Kept
    done: list[bool]
    cumulative: list[Tensor] | None
    factors: dict[str, Tensor]
    marks: dict[str, Tensor | None]
    bundles: dict[bool, list[bundles.Bundle]]
    finite: set[str]
    state: tuple | None = None  # fingerprints and settings at the last refresh()
    stamp: tuple | None = None  # the same without a look at the device: versions of the buffers

    @torch.inference_mode(False)
    @torch.no_grad()
    def refresh(self) -> None:
        """Update all that depends on the fingerprints, if they have changed: by end_task(), forget(),
        load_state_dict(), or code that copies tensors one by one."""
        if torch.compiler.is_compiling():
            return  # prepare() has called it
        with LOCK:
            self.refresh_now()

    def refresh_now(self) -> None:
        """As refresh(), which has the lock."""
        buffers = self.fingerprints, self.kept.fingerprints
        counts = not any(buffer.is_inference() for buffer in buffers)  # those of inference mode have no version
        versions = [(id(buffer), buffer._version) for buffer in buffers] if counts else None
        last, self.stamp = self.stamp, (versions, self.hard, self.s_max)
        if counts and self.stamp == last and not buffers[0].is_cpu:
            return  # do not wait for the device in every batch; begin_task() checks in any case
        fingerprints, kept_fingerprints = (buffer.tolist() for buffer in buffers)
        state = fingerprints, self.hard, self.s_max
        if fingerprints == kept_fingerprints and state == self.state:
            return
        if any(fingerprint % PRIME for fingerprint in fingerprints + kept_fingerprints):
            raise RuntimeError('the kept values of learned tasks were averaged or overwritten: buffers of a Network '
                               'can be copied, not averaged (AveragedModel: use_buffers=False)')  # fmt: skip
        if fingerprints != kept_fingerprints:
            self.finite = set()  # other threads, which may compute with kept values now, expect NaN
            self.keep(fingerprints, kept_fingerprints)
        before, self.done, self.state = self.done, [f != 0 for f in fingerprints], state
        for task, learned, was in itertools.zip_longest(self.tasks, self.done, before):
            for name, p in task.named_parameters() if learned or was else ():  # else they are as the caller wants them
                p.requires_grad_(not learned and name.removeprefix('own.') not in self.frozen)
                p.grad = None if learned else p.grad
        self.protect()

    def protect(self) -> None:
        """Find what the learned tasks protect: their cumulative attention, the factors of gradients that follow from it
        (hard=False), and where kept values are."""
        self.cumulative, self.factors = None, {}
        if any(self.done):
            self.cumulative = self.cumulated([t for t, learned in enumerate(self.done) if learned])
        if self.cumulative and not self.hard:
            values = self.plan.units.attention(self.cumulative)
            self.factors = {name: functools.reduce(torch.minimum, (
                gradient_factor(values[outs], None if ins is None else values[ins]) for outs, ins in uses))
                for name, (_, uses) in self.plan.shared.items()}  # fmt: skip
        self.finite = {name for name in self.plan.shared if self.kept.value(name).isfinite().all()}
        kept, protected = self.kept, [name for name in self.plan.shared if self.hard and self.kept.bits(name).any()]
        self.marks = {name: (kept.bits(name) != 0).to(kept.dtypes[name]) if kept.has_zeros(name) else None
                      for name in protected}  # fmt: skip
        self.bundles = {kept_only: bundles.pack(self, kept_only, weights.factors_of(self.plan, kept_only))
                        for kept_only in (False, True)}  # fmt: skip

    def keep(self, fingerprints: list[int], kept_fingerprints: list[int]) -> None:
        """Keep the present values of tasks whose fingerprint has changed; the values of all others stay."""
        pairs = list(zip(fingerprints, kept_fingerprints, strict=True))
        for task, (new, old) in zip(self.tasks, pairs, strict=True):
            if new and new != old:
                task.keep()
        unchanged = [t for t, (new, old) in enumerate(pairs) if new and new == old]
        learned = [t for t, new in enumerate(fingerprints) if new]
        before, after = (self.open_units(tasks) if tasks else None for tasks in (unchanged, learned))
        for name, p in self.shared.items():
            value = p if before is None else torch.where(self.between(name, before), self.kept.value(name), p)
            protected = p.new_zeros((), dtype=torch.bool) if after is None else self.between(name, after)
            self.kept.write(name, value, protected)
        self.kept.fingerprints.copy_(self.fingerprints)
        self.watch.frozen = self.watch.answer = None

    def cumulated(self, tasks: list[int]) -> list[Tensor]:
        """Cumulative attention of some learned tasks (at least one), (N,) for each gate."""
        masks = [attention(self.tasks[t].embedding(True), self.s_max) for t in tasks]
        masks = [a.nan_to_num() for a in masks]  # a task that has diverged uses no unit whose mask is NaN
        cumulative = functools.reduce(cumulate, [a.round() for a in masks] if self.hard else masks)
        return list(cumulative.split(self.plan.units.sizes))

    # What the plan and the learned tasks say of the weights

    @property
    def shared(self) -> dict[str, Tensor]:
        """The parameters that tasks share, by name."""
        return {name: p for name, p in named_tensors(self.net) if name in self.plan.shared}

    def between(self, name: str, is_open: Tensor) -> Tensor:
        """Which elements of a shared parameter connect open units: a bool that broadcasts to its shape.

        is_open: for each id of the plan's unit sets, (ids,) bool.
        """
        uses = self.plan.shared[name].uses
        each = [is_open[outs] if ins is None else is_open[outs] & is_open[ins] for outs, ins in uses]
        return functools.reduce(torch.logical_or, each)

    def open_units(self, tasks: list[int]) -> Tensor:
        """Which ids of unit sets are open in at least one of some learned tasks, (ids,) bool."""
        return self.plan.units.attention(self.cumulated(tasks)) > 0.5

    @property
    def writable(self) -> set[int]:
        """Ids of the parameters that the forward pass may write kept values into: in training, and in the thread that
        began the task, as writing in another could undo a step of an optimizer; not those of the caller, as in
        torch.func.functional_call. Otherwise it computes with copies."""
        writes = self.training and not torch.compiler.is_compiling() and self.watch.thread == threading.get_native_id()
        return self.watch.parameters if writes else set()

    def marks_of(self, name: str) -> Tensor:
        """Not 0 at the protected elements of a shared parameter that has some, and 0 elsewhere."""
        marks = self.marks[name]
        return self.kept.value(name) if marks is None else marks

"""A network with hard attention to the task: what all tasks share, what each has of its own, and what is protected."""

import functools
import operator
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Self, SupportsIndex, cast

import torch
from torch import Tensor, distributed, nn

from hat import saving
from hat.errors import warn
from hat.functional import (
    E_MAX,
    CompensatedGate,
    Conditioned,
    Gate,
    Protected,
    RoundedGate,
    attention,
    cumulate,
    gradient_factor,
)
from hat.graph import no_attention_fast_path
from hat.kept import Kept
from hat.names import get_tensor, named_tensors
from hat.plan import Gating, Plan
from hat.replica import Replica
from hat.task import TaskParameters
from hat.watch import Watch, checked

SMALL = 2**14  # elements of a parameter that is protected together with others
PRIME = 2**31 - 1  # fingerprints are multiples of it; an average of two is not


class Network(nn.Module):
    """What convert() makes of a network: tasks are learned in it one after the other, and what a task uses stays.

    With hard masks a learned task computes with values that are kept (hat.kept) where its masks are 1, and with zeros
    elsewhere: nothing that is written to a parameter or a buffer reaches it, by construction.

    net: the network, with the weights that all tasks share. What tasks have of their own is here as new tasks start.
    tasks: a TaskParameters for each.
    fingerprints: 0 for a task that is not learned, else a number that says which one it is; (tasks,) int64.
    plan: what was read off the network's graph; plan.gates names the layers of the masks.
    """

    group: distributed.ProcessGroup | None = None  # that train the network together (DistributedDataParallel)
    net: nn.Module
    tasks: list[TaskParameters]  # an nn.ModuleList
    kept: Kept
    fingerprints: Tensor
    done: list[bool]  # which tasks are learned
    cumulative: list[Tensor] | None  # attention of all learned tasks, (N,) for each gate
    factors: dict[str, Tensor]  # of the gradients (Eq. 2), with soft masks

    def __init__(self, net: nn.Module, plan: Plan, classes: list[int] | list[None], s_max: float, hard: bool,
                 gradient: str, init: Callable, schedule: Callable, regularizer: Callable, check: int = 0,
                 generator: torch.Generator | None = None):  # fmt: skip
        super().__init__()
        self.net, self.plan, self.s_max, self.hard, self.gradient = net, plan, s_max, hard, gradient
        self.init, self.schedule, self.regularizer = init, schedule, regularizer
        self.watch = Watch(check)
        self.state: tuple | None = None
        self.stamp: tuple | None = None
        self.frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
        for name in plan.task_specific:
            get_tensor(net, name).requires_grad_(False)
        device = next(net.parameters()).device
        tasks = [TaskParameters(net, plan, n, init, self.frozen, generator) for n in classes]
        self.tasks = cast('list[TaskParameters]', nn.ModuleList(tasks))
        self.kept = Kept(self.shared.items())
        for module in self, self.kept:
            zeros = torch.zeros(len(classes), dtype=torch.int64, device=device)
            module.register_buffer('fingerprints', zeros, persistent=module is self)
        self.register_state_dict_pre_hook(Network.restore)
        self.register_load_state_dict_pre_hook(saving.before_loading)
        self.register_load_state_dict_post_hook(saving.after_loading)
        net.register_load_state_dict_post_hook(self.start_from)
        self.plan.to(device)
        self.refresh()

    # The way of a batch

    def forward(self, *inputs: Any, task: int | None = None, progress: float | Tensor | None = None,
                **named: Any) -> Any:  # fmt: skip
        """Output of a task.

        Args:
            inputs, named: what the network takes, (B, ...).
            task: number of the task, from 0.
            progress: in training mode, the position in the epoch, from 0 to 1, by which the gates are annealed (Eq. 3):
                (b - 1) / (B - 1) for batch b of B; hat.annealed(batches) counts them.

        Raises:
            TypeError, IndexError: there is no such task.
            ValueError: progress is missing in training mode, or does not lie between 0 and 1.
        """
        t = self.index(task)
        if not self.training:
            return self.run(inputs, t, self.masks(t), named)
        self.watch.before_batch(self, t, progress, inputs, named)
        return self.run(inputs, t, self.masks(t, self.schedule(progress, self.s_max)), named)

    def masks(self, task: int, s: float | Tensor | None = None) -> list[Tensor]:
        """Attention of a task, (N,) for each of plan.gates.

        Args:
            task: number of the task.
            s: scale of the gates while the task is learned. None, and for a learned task: as it is used, at s_max and,
                if `hard`, rounded to {0, 1}.
        """
        self.refresh()
        own, learned = self.tasks[self.index(task)], self.done[task]
        e = own.embedding(learned)  # of all layers at once
        if s is not None and not learned:
            a = CompensatedGate.apply(e, s, self.s_max, self.gradient)
        else:
            a = RoundedGate.apply(e, self.s_max) if self.hard else attention(e, self.s_max)
        return list(a.split([len(units) for units in self.plan.units.of_gate]))

    def run(self, inputs: tuple, task: int, masks: list[Tensor], named: dict[str, Any] | None = None) -> Any:
        """Output of a task for `inputs`, positional, and `named`, by keyword, under given masks."""
        tensors = self.tensors(task, masks)
        hooks: dict[str, Callable] = {}
        if not (self.hard and self.done[task]):  # else weights are zero where a unit is closed
            for name, (gate, _) in self.plan.outputs.items():
                hooks[name] = lambda module, inputs, output, a=masks[gate]: Gate.apply(output, a)
        if not torch.is_grad_enabled():  # PyTorch may multiply otherwise what needs a gradient
            tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        replica = Replica(self.net, tensors, hooks)
        with no_attention_fast_path():
            output = replica.network(*inputs, **(named or {}))
        if not self.done[task]:
            for buffers, key, tensor, name in replica.buffers:
                assigned = buffers.get(key)
                if assigned is not tensor and tensor is not None:  # forward() has assigned it
                    if isinstance(assigned, Tensor) and assigned.shape == tensor.shape:
                        tensor.copy_(assigned.detach())
                    else:
                        warn(f'forward() gives {name} another shape: a buffer keeps the shape it has at conversion')
        return output

    def tensors(self, task: int, masks: list[Tensor], outputs: bool = False) -> dict[str, Tensor]:
        """What to put in the place of the network's parameters and buffers, by name, to make it the task's.

        h' = a * h (section 2.2): the attention to a layer's output is put into its weight and bias, or those of the
        norm that follows. A linear layer, which often has fewer outputs than weights, has its output multiplied, unless
        `outputs`: then it is put into the weights there, too.
        """
        self.refresh()
        kept_only = self.hard and self.done[task]
        tensors = self.tasks[task].tensors(self.done[task])
        values = self.plan.units.attention(masks)
        if kept_only:
            tensors |= {name: self.kept_weight(name, values.detach() > 0.5) for name in self.plan.shared}
        else:
            tensors |= self.protected_weights()
        gating = self.plan.gating | self.output_gates() if outputs else self.plan.gating
        for name, (gate, units) in gating.items():
            if name in self.plan.shared and not kept_only:  # else it is zero already where a unit is closed
                a = values[units] if gate is None else masks[gate].view(units.shape)
                tensors[name] = Gate.apply(tensors[name], a)
        norms = {name: gating.units for name, gating in self.plan.gating.items() if name not in self.plan.shared}
        return tensors | all_at_once(lambda p, units: Gate.apply(p, values[units]), tensors, norms)

    def kept_weight(self, name: str, is_open: Tensor) -> Tensor:
        """What is kept between units that are open, (ids,) bool; 0 elsewhere, and never -0, whose sign would be that of
        what another task has there. A product is several times as fast as a choice."""
        kept = self.kept.value(name)
        if name not in self.finite:
            return torch.where(self.between(name, is_open), kept, 0).add_(0.0)
        _, outs, ins = self.plan.shared[name]
        weight = kept * is_open[outs].to(kept.dtype)
        return (weight if ins is None else weight.mul_(is_open[ins].to(kept.dtype))).add_(0.0)

    def protected_weights(self) -> dict[str, Tensor]:
        """Of a task that is not learned."""
        shared = self.shared
        if self.factors:
            return {name: Conditioned.apply(p, self.factors[name]) for name, p in shared.items()}
        small = {name: self.kept.bits(name) for name in self.held if shared[name].numel() <= SMALL}
        weights = {name: Protected.apply(shared[name], self.kept.bits(name), no_zero)
                   for name, no_zero in self.held.items() if name not in small}  # fmt: skip
        return shared | weights | all_at_once(lambda p, bits: Protected.apply(p, bits, False), shared, small)

    def output_gates(self) -> dict[str, Gating]:
        """Of the weights and biases of layers whose output is multiplied."""
        names = {id(p): name for name, p in self.net.named_parameters()}
        return {names[id(p)]: Gating(gate, units.view(-1, *[1] * (p.ndim - 1)))
                for name, (gate, units) in self.plan.outputs.items()
                for p in self.net.get_submodule(name).parameters(recurse=False)}  # fmt: skip

    def regularization(self, task: int | None = None, progress: float | Tensor | None = None) -> Tensor:
        """Eq. 5, or what was chosen in its place, of the masks that forward() uses in training: a scalar. Without
        arguments: those of the last training batch."""
        if task is None and self.watch.task is None:
            raise ValueError('regularization: there has been no training batch since the last task ended; which task?')
        masks = self.masks(
            self.index(self.watch.task if task is None else task),
            self.schedule(checked(self.watch.progress if progress is None else progress), self.s_max),
        )
        return self.regularizer(masks, self.cumulative, len(self.tasks))

    def index(self, task: SupportsIndex | None) -> int:
        if isinstance(task, (str, bytes, float)) or task is None:
            raise TypeError(f'task must be a number, as in model(x, task=0), not {task!r}')
        t = operator.index(task)
        if not 0 <= t < len(self.tasks):
            raise IndexError(f'task {t}: there are {len(self.tasks)}, numbered from 0')
        return t

    # The life of a task

    def add_task(self, n_classes: int | None = None, generator: torch.Generator | None = None) -> int:
        """One more task, with a head for n_classes (None: as many as the network had). Returns its number.

        An optimizer that is to train it has to be made after this. Raises ValueError where there is no single head."""
        if n_classes is not None and len(self.plan.heads) != 1:
            raise ValueError(f'n_classes requires exactly one output layer; this network has {len(self.plan.heads)}')
        self.tasks.append(TaskParameters(self.net, self.plan, n_classes, self.init, self.frozen, generator))
        for module in self, self.kept:
            module.fingerprints = torch.cat([module.fingerprints, module.fingerprints.new_zeros(1)])
        self.refresh()
        return len(self.tasks) - 1

    def begin_task(self, task: int) -> None:
        """What is to be seen of a task before it is trained: warns of layers with fewer than 5 % of the units free.
        The first training batch does it."""
        self.stamp = None
        self.watch.begin_task(self, self.index(task))

    def end_task(self, task: int) -> None:
        """From now on the task is learned: nothing but forget() changes its outputs. Processes that train the network
        together (DistributedDataParallel) all have to call it; they agree on what the first of them has."""
        self.refresh()
        if self.done[self.index(task)]:
            return
        self.watch.end_task(self, task)
        self.agree()
        self.clamp(task)
        checksum = 0
        for part in (*self.tasks[task].embeddings, *(t for _, t in named_tensors(self.tasks[task].own)),
                     *self.shared.values()):  # fmt: skip
            checksum = zlib.crc32(part.detach().cpu().reshape(-1).view(torch.uint8).numpy(), checksum)
        self.fingerprints[task] = PRIME * (checksum or 1)
        self.refresh()

    @torch.no_grad()
    def clamp(self, task: int) -> None:
        """Keep a task's embeddings within the active range (section 2.5)."""
        for e in self.tasks[task].embeddings.parameters():
            e.clamp_(-E_MAX, E_MAX)

    # What is protected

    @property
    def shared(self) -> dict[str, Tensor]:
        """The parameters that tasks share, by name."""
        return {name: p for name, p in named_tensors(self.net) if name in self.plan.shared}

    @property
    def learned(self) -> Tensor:
        """Which tasks have ended, (tasks,) bool."""
        return self.fingerprints != 0

    def protected(self) -> dict[str, Tensor]:
        """Which elements of each shared parameter no later task changes, bool."""
        self.refresh()
        return {name: self.factors[name].expand(p.shape) == 0 if name in self.factors else self.kept.bits(name) != 0
                for name, p in self.shared.items()}  # fmt: skip

    def between(self, name: str, is_open: Tensor) -> Tensor:
        """Which elements of a parameter lie between units that are open, (ids,) bool; a bool that broadcasts."""
        _, outs, ins = self.plan.shared[name]
        return is_open[outs] if ins is None else is_open[outs] & is_open[ins]

    def open_units(self, tasks: list[int]) -> Tensor:
        """Which ids of units are open in one of some learned tasks, (ids,) bool."""
        return self.plan.units.attention(self.cumulated(tasks)) > 0.5

    @torch.inference_mode(False)
    @torch.no_grad()
    def refresh(self) -> None:
        """Bring what is kept in line with the fingerprints, whoever has written them: end_task(), forget(),
        load_state_dict(), or something that copies tensors one by one."""
        stores = self.fingerprints, self.kept.fingerprints
        before, self.stamp = self.stamp, ([(id(store), store._version) for store in stores], self.hard, self.s_max)
        if self.stamp == before and not stores[0].is_cpu:
            return  # not to wait for the device with every batch; begin_task() looks in any case
        given, held = (store.tolist() for store in stores)
        state = given, self.hard, self.s_max
        if given == held and state == self.state:
            return
        if any(fingerprint % PRIME for fingerprint in given + held):
            raise RuntimeError('what is kept of the learned tasks has been averaged or overwritten: buffers of a hat '
                               'network can be copied, not averaged (AveragedModel: use_buffers=False)')  # fmt: skip
        if given != held:
            self.keep(given, held)
        self.state, self.done, self.cumulative, self.factors = state, [f != 0 for f in given], None, {}
        for task, learned in zip(self.tasks, self.done, strict=True):
            for name, p in task.named_parameters():
                p.requires_grad_(not learned and name.removeprefix('own.') not in self.frozen)
                p.grad = None if learned else p.grad
        if any(self.done):
            self.cumulative = self.cumulated([t for t, learned in enumerate(self.done) if learned])
        if self.cumulative and not self.hard:
            values = self.plan.units.attention(self.cumulative)
            self.factors = {name: gradient_factor(values[outs], None if ins is None else values[ins])
                            for name, (_, outs, ins) in self.plan.shared.items()}  # fmt: skip
        self.finite = {name for name in self.plan.shared if self.kept.value(name).isfinite().all()}
        self.held = {
            name: self.kept.no_zero(name) for name in self.plan.shared if self.hard and self.kept.bits(name).any()
        }

    def keep(self, given: list[int], held: list[int]) -> None:
        """Keep what tasks use of which the fingerprint has changed; all others' values stay."""
        same = [t for t, (a, b) in enumerate(zip(given, held, strict=True)) if a and a == b]
        for t, task in enumerate(self.tasks):
            if given[t] != held[t] and given[t]:
                task.keep()
        learned = [t for t, fingerprint in enumerate(given) if fingerprint]
        before, after = (self.open_units(tasks) if tasks else None for tasks in (same, learned))
        for name, p in self.shared.items():
            value = p if before is None else torch.where(self.between(name, before), self.kept.value(name), p)
            protected = p.new_zeros((), dtype=torch.bool) if after is None else self.between(name, after)
            self.kept.write(name, value, protected)
        self.kept.fingerprints.copy_(self.fingerprints)

    def cumulated(self, tasks: list[int]) -> list[Tensor]:
        """Cumulative attention of some learned tasks, (N,) for each gate."""
        masks = [attention(self.tasks[t].embedding(True), self.s_max).nan_to_num() for t in tasks]  # diverged: unused
        cumulative = functools.reduce(cumulate, [a.round() for a in masks] if self.hard else masks)
        return list(cumulative.split([len(units) for units in self.plan.units.of_gate]))

    @torch.no_grad()
    def restore(self, *_: Any) -> None:
        """Write what is kept into the parameters; for the learned tasks that makes no difference. state_dict() does it,
        which has values that way, and no second copy of them."""
        self.stamp = None
        self.refresh()
        for task, learned in zip(self.tasks, self.done, strict=True):
            if learned:
                task.restore()
        for name in self.held:
            p = self.shared[name]
            p.copy_(torch.where(self.kept.bits(name).bool(), self.kept.value(name), p))

    @torch.no_grad()
    def start_from(self, net: nn.Module, *_: Any) -> None:
        """Tasks that are not learned start anew from what has been loaded into the network itself."""
        for task, learned in zip(self.tasks, self.done, strict=True):
            for name, tensor in named_tensors(task.own):
                if not learned and tensor.shape == get_tensor(net, name).shape:
                    tensor.copy_(get_tensor(net, name))

    # Copies of all kinds

    @torch.no_grad()
    def agree(self) -> None:
        """Processes that train the network together take over everything from the first of them."""
        if self.group is not None and self.group.size() > 1:
            for tensor in (*self.parameters(), *self.buffers()):
                distributed.broadcast(tensor.detach(), distributed.get_global_rank(self.group, 0), self.group)
            self.refresh()

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """DistributedDataParallel need not send with every batch what agree() sends once a task."""
        return [
            name for name, _ in self.named_buffers() if 'kept' in name.split('.')[:3] and not name.startswith('net.')
        ]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.plan.to(self.fingerprints.device)
        self.state = self.stamp = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != 'group'}

    def get_extra_state(self) -> Tensor:
        """Settings that have to be the same where the weights are loaded, as the bytes of a JSON text."""
        return torch.tensor(list(saving.settings(self)), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """before_loading() has looked at it."""


def all_at_once(function: Callable[[Tensor, Tensor], Tensor], tensors: Mapping[str, Tensor],
                others: Mapping[str, Tensor]) -> dict[str, Tensor]:  # fmt: skip
    """function(tensor, other) for some of the tensors, element by element: for those of a type together, as there are
    many and small ones."""
    results: dict[str, Tensor] = {}
    types: dict[torch.dtype, list[str]] = {}
    for name in others:
        types.setdefault(tensors[name].dtype, []).append(name)
    for names in types.values():
        parts = [tensors[name] for name in names]
        flat = function(*(torch.cat([x.reshape(-1) for x in xs]) for xs in (parts, [others[name] for name in names])))
        pieces = flat.split([part.numel() for part in parts])
        results |= {name: piece.view(part.shape) for name, piece, part in zip(names, pieces, parts, strict=True)}
    return results


def forget(network: Network, task: int, generator: torch.Generator | None = None) -> None:
    """The task is as if it had never been learned: its embeddings, head and norms start anew, and weights that it alone
    used are free for others, which find them with the values that they have. Outputs of other tasks stay bit-identical.
    An optimizer that is to train the task again has to be made after this."""
    n_classes = network.tasks[network.index(task)].n_classes
    network.restore()
    network.fingerprints[task] = 0
    network.tasks[task] = TaskParameters(network.net, network.plan, n_classes, network.init, network.frozen, generator)
    network.watch.task = None
    network.refresh()

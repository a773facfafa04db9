"""A network with hard attention to the task: the forward pass of a task, and the life of a task. What protects learned
tasks is in hat.protection."""

import contextlib
import ctypes
import operator
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Self, cast

import torch
from torch import Tensor, distributed, nn

from hat import parallel, states, weights
from hat.errors import warn
from hat.functional import E_MAX, CompensatedGate, attention, rounded, write_kept, write_protected
from hat.graph import no_attention_fast_path
from hat.kept import Kept
from hat.names import as_buffer, get_tensor, named_tensors, set_tensor
from hat.plan import Plan
from hat.protection import PRIME, Protection
from hat.replica import Replica
from hat.task import TaskParameters, size_of_head
from hat.trial import example_outputs
from hat.view import View
from hat.watch import Watch, checked

Progress = float | Tensor | None | Callable[[], float | Tensor | None]
NONE: Mapping[int, int | None] = MappingProxyType({})
IN_BLOCK = ContextVar('IN_BLOCK', default=NONE)  # in a block of task(): the task, by id of the network


class Network(parallel.Whole, Protection):
    """A converted network. It learns tasks one after the other; what a learned task uses does not change any more.

    Attributes:
        net: the network with the weights that all tasks share. Its other parameters and buffers are the initial values
            of new tasks.
        tasks: the task-specific parameters of each task.
        plan: what was read off the network's graph; plan.gates has the names of the layers with masks.
    """

    conversions = 0  # how often it has been moved or cast
    current: int | None = None  # the task that forward() runs where none is passed
    group: distributed.ProcessGroup | None = None  # the processes of DistributedDataParallel

    def __init__(self, net: nn.Module, plan: Plan, classes: list[int] | list[None], s_max: float, hard: bool,
                 gradient: str, init: Callable, schedule: Callable, regularizer: Callable, check: int = 0,
                 generator: torch.Generator | None = None):  # fmt: skip
        super().__init__()
        self.net, self.plan, self.s_max, self.hard, self.gradient = net, plan, s_max, hard, gradient
        self.init, self.schedule, self.regularizer = init, schedule, regularizer
        self.watch, self.done = Watch(check), []
        self.frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
        plan.freeze(self.frozen)
        for name in plan.frozen:
            as_buffer(net, name)
        for name in plan.task_specific:
            get_tensor(net, name).requires_grad_(False)
        device = named_tensors(net)[0][1].device
        tasks = [TaskParameters(net, plan, n, init, self.frozen, generator) for n in classes]
        self.tasks = cast('list[TaskParameters]', nn.ModuleList(tasks))
        self.kept = Kept(self.shared.items())
        for module in self, self.kept:
            zeros = torch.zeros(len(classes), dtype=torch.int64, device=device)
            module.register_buffer('fingerprints', zeros, persistent=module is self)
        self.register_state_dict_pre_hook(Network.restore)
        self.register_load_state_dict_pre_hook(states.before_loading)
        self.register_load_state_dict_post_hook(states.after_loading)
        net.register_load_state_dict_post_hook(self.start_from)
        self.plan.to(device)
        self.refresh()

    # The forward pass

    def forward(self, *inputs: Any, task: int | None = None, progress: float | Tensor | None = None,
                **named: Any) -> Any:  # fmt: skip
        """The output of a task.

        Args:
            inputs, named: the inputs of the network, (B, ...).
            task: number of the task, from 0.
            progress: required in training mode: the position in the epoch, 0 to 1, which anneals the gates (Eq. 3):
                (b - 1) / (B - 1) for batch b of B; hat.annealed(batches) counts it.

        Raises:
            TypeError, IndexError: there is no such task, or progress is no number.
            ValueError: progress is missing in training mode, or is not between 0 and 1.
        """
        t = self.index(IN_BLOCK.get().get(id(self), self.current) if task is None else task)
        return self.train_batch(t, progress, inputs, named) if self.training else self.evaluate(t, inputs, named)

    def evaluate(self, task: int, inputs: tuple, named: dict[str, Any], net: nn.Module | None = None) -> Any:
        """The output of a task in evaluation. net: as in run()."""
        self.prepare(task)
        return self.run(inputs, task, self.masks(task), named, net)

    def train_batch(self, task: int, progress: Progress, inputs: tuple, named: dict[str, Any],
                    net: nn.Module | None = None) -> Any:  # fmt: skip
        """The output of a task in training. progress: may be a function that counts it. net: as in run()."""
        position = self.prepare(task, progress, inputs, named)
        return self.run(inputs, task, self.masks(task, self.schedule(position, self.s_max)), named, net)

    def prepare(self, task: int, *batch: Any) -> Any:
        """What a batch needs before its forward pass. torch.compile does not capture it: one graph holds the rest.

        batch: as in prepare_now().
        """
        compiling = torch.compiler.is_compiling()
        return (outside_of_graphs if compiling else Network.prepare_now)(self, task, compiling, *batch)

    def prepare_now(self, task: int, compiled: bool, progress: Progress = None, *batch: Any) -> Any:
        """Refresh, and check a training batch.

        progress, batch: of a training batch: its progress, inputs and named inputs.

        Returns:
            The progress; in compiled code a tensor, as torch.compile would make a new graph for each new number.
        """
        if torch.jit.is_tracing():
            raise TypeError(parallel.TORCHSCRIPT)
        self.refresh()
        if not batch:
            return None
        progress = progress() if callable(progress) else progress
        if compiled and isinstance(progress, (int, float)):
            progress = torch.tensor(progress, dtype=torch.float64)
        self.watch.before_batch(self, task, progress, *batch)
        return progress

    def use(self, task: int | None) -> Self:
        """Make a task the one that forward() runs where none is passed; None: there is no such task. Inside a block of
        task() until its end."""
        chosen = None if task is None else self.index(task)
        if id(self) in IN_BLOCK.get():
            IN_BLOCK.set({**IN_BLOCK.get(), id(self): chosen})
        else:
            self.current = chosen
        return self

    @contextlib.contextmanager
    def task(self, task: int) -> Iterator[Self]:
        """`with model.task(2):` uses a task inside the block, in this thread and coroutine alone."""
        before = IN_BLOCK.get()
        IN_BLOCK.set({**before, id(self): self.index(task)})
        try:
            yield self
        finally:
            IN_BLOCK.set(before)  # not reset(), which fails where the block ends in another context

    def view(self, task: int, steps: int | None = None, c: float | None = None) -> View:
        """One task as an ordinary module without further arguments: see hat.view.View."""
        return View(self, task, steps, c)

    def masks(self, task: int, s: float | Tensor | None = None) -> list[Tensor]:
        """The masks of a task: attention to each unit, (N,) for each of plan.gates.

        Args:
            task: number of the task.
            s: scale of the gates in training. None: the masks in evaluation, at s_max and, if `hard`, rounded to
                {0, 1}. A learned task has these in any case.
        """
        self.refresh()
        own, learned = self.tasks[self.index(task)], self.done[task]
        e = own.embedding(learned)  # of all layers at once
        if s is not None and not learned:
            a = CompensatedGate.apply(e, s, self.s_max, self.gradient)
        else:
            a = rounded(e, self.s_max) if self.hard else attention(e, self.s_max)
        return list(a.split(self.plan.units.sizes))

    def run(self, inputs: tuple, task: int, masks: list[Tensor], named: dict[str, Any] | None = None,
            net: nn.Module | None = None) -> Any:  # fmt: skip
        """The output of a task with any masks, for positional inputs and inputs by keyword (`named`).

        net: the modules to run, a copy of `self.net`; None: these.
        """
        tensors = self.tensors(task, masks)
        hooks = weights.output_masks(self, masks, self.hard and self.done[task])
        if not torch.is_grad_enabled():  # PyTorch may multiply in another order for tensors that need a gradient
            tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        replica = Replica(net or self.net, tensors, hooks)
        with contextlib.nullcontext() if torch.compiler.is_compiling() else no_attention_fast_path():
            output = replica.network(*inputs, **(named or {}))
        if not self.done[task]:
            for slots, key, tensor, name in (*replica.buffers, *replica.parameters(self.plan.changed)):
                assigned = slots.get(key)
                if assigned is not tensor and tensor is not None:  # forward() has assigned a new tensor
                    if isinstance(assigned, Tensor) and assigned.shape == tensor.shape:
                        with torch.no_grad():
                            tensor.copy_(assigned)
                    else:
                        warn(f'forward() changes the shape of {name}: its value is kept as it was before')
        return output

    def stored(self, task: int) -> dict[str, Tensor]:
        """The parameters and buffers of a task, by the names that they have in the network."""
        frozen = {name: get_tensor(self.net, name) for name in self.plan.frozen}
        return dict(named_tensors(self.tasks[task].own)) | self.shared | frozen

    def tensors(self, task: int, masks: list[Tensor], outputs: bool = False) -> dict[str, Tensor]:
        """The tensors that a task computes with, by name: see hat.weights.tensors."""
        return weights.tensors(self, task, masks, outputs)

    def regularization(self, task: int | None = None, progress: float | Tensor | None = None) -> Tensor:
        """Eq. 5, or the regularizer of convert(), for the masks of a training batch: a scalar.

        Args:
            task, progress: of the batch; None: those of the last training batch.

        Raises:
            ValueError: there has been no training batch since the last end_task(), and no task is passed.
        """
        if task is None and self.watch.task is None:
            raise ValueError('regularization() needs a task: no batch was trained since the last end_task()')
        t = self.index(self.watch.task if task is None else task)
        position: Any = self.watch.progress if progress is None else progress
        if not torch.compiler.is_compiling():  # there before_batch() has checked it
            checked(position)
        masks = self.masks(t, self.schedule(position, self.s_max))
        return self.regularizer(masks, self.cumulative, len(self.tasks))

    def index(self, task: Any) -> int:
        """The number of a task, checked: an int, as True and some tensors would index all tasks at once. Raises
        TypeError, IndexError."""
        try:
            t = int(operator.index(task))
        except TypeError:
            why = f'task must be a number, as in model(x, task=0), or model.use(0), not {task!r}'
            raise TypeError(' '.join(why.split())) from None
        if not 0 <= t < len(self.tasks):
            raise IndexError(f'there is no task {t}: tasks are numbered from 0 to {len(self.tasks) - 1}')
        return t

    # The life of a task

    @torch.inference_mode(False)
    def add_task(self, n_classes: int | None = None, generator: torch.Generator | None = None) -> int:
        """Add a task. An optimizer that is to train it must be made after this.

        Args:
            n_classes: size of its head; None: as in the network that was converted.
            generator: for its initial values.

        Returns:
            The number of the task.

        Raises:
            ValueError: n_classes is passed and is no whole number, or below 1, or the network has not exactly one
                output layer.
        """
        n_classes = size_of_head(n_classes)
        if n_classes is not None and n_classes < 1:
            raise ValueError(f'n_classes must be at least 1, not {n_classes}')
        if n_classes is not None and len(self.plan.heads) != 1:
            raise ValueError(f'n_classes requires exactly one output layer; this network has {len(self.plan.heads)}')
        self.tasks.append(TaskParameters(self.net, self.plan, n_classes, self.init, self.frozen, generator))
        for module in self, self.kept:
            module.fingerprints = torch.cat([module.fingerprints, module.fingerprints.new_zeros(1)])
        self.refresh()
        task = len(self.tasks) - 1
        if n_classes not in (None, *states.sizes_of_heads(self, self.net)) and example_outputs(self, 0):
            self.try_head(task)
        return task

    def try_head(self, task: int) -> None:
        """Warn if the network fails with the head of a task, where this is of another size than its own."""
        n = self.tasks[task].n_classes
        if n is None or n in states.sizes_of_heads(self, self.net) or example_outputs(self, task):
            return
        warn(f'with an output layer of {n} units, as of task {task}, the network fails on example_input: does an '
             'operation after this layer need its size?')  # fmt: skip

    def begin_task(self, task: int) -> None:
        """Start a task: warns of layers with fewer than 5 % of their units free. The first training batch calls it."""
        self.stamp = None
        parallel.check(self)
        self.watch.begin_task(self, self.index(task))

    def end_task(self, task: int) -> None:
        """From now on the task is learned: only forget() changes its outputs.

        With DistributedDataParallel every process must call it; all take over the values of the first process.
        """
        self.refresh()
        task = self.index(task)
        if self.done[task]:
            return
        self.watch.end_task(self, task)
        self.agree()
        self.clamp(task)
        before = example_outputs(self, task)
        checksum = 0
        for part in (*self.tasks[task].embeddings, *(t for _, t in named_tensors(self.tasks[task].own)),
                     *self.shared.values()):  # fmt: skip
            part = part.detach().cpu().contiguous()  # its bytes, without numpy(): torch does not require NumPy
            checksum = zlib.crc32(ctypes.string_at(part.data_ptr(), part.nbytes), checksum)
        self.fingerprints[task] = PRIME * (checksum or 1)
        self.refresh()
        self.watch.check_learned(self)
        self.watch.compare(task, before, example_outputs(self, task))

    @torch.no_grad()
    def clamp(self, task: int) -> None:
        """Keep a task's embeddings within the active range (section 2.5)."""
        for e in self.tasks[task].embeddings.parameters():
            e.clamp_(-E_MAX, E_MAX)

    # What is learned

    @property
    def learned(self) -> Tensor:
        """Which tasks are learned, (tasks,) bool."""
        return self.fingerprints != 0

    def protected(self) -> dict[str, Tensor]:
        """Which elements of each shared parameter no later task changes, bool, by name."""
        self.refresh()
        return {name: self.factors[name].expand(p.shape) == 0 if name in self.factors else self.kept.bits(name) != 0
                for name, p in self.shared.items()}  # fmt: skip

    @torch.no_grad()
    def restore(self, *_: Any) -> None:
        """Write the kept values to the parameters; outputs of learned tasks stay the same. state_dict() calls it, so
        that a state has each value once."""
        self.stamp = None
        self.refresh()
        for task, learned in zip(self.tasks, self.done, strict=True):
            if learned:
                task.restore()
        shared, trains = self.shared, self.watch.thread in (None, threading.get_native_id())
        for name in self.marks:
            (write_kept if trains else write_protected)(shared[name], self.kept.value(name), self.marks_of(name))

    @torch.no_grad()
    def start_from(self, net: nn.Module, *_: Any) -> None:
        """Restart the tasks that are not learned from weights that were loaded into `net`; not from those that a view
        has loaded, which are of its task."""
        if net is not self.net:
            return
        self.watch.follow(self)
        for name in self.plan.frozen:
            as_buffer(net, name)  # load_state_dict(assign=True) has made it a parameter
        for task, learned in zip(self.tasks, self.done, strict=True):
            for name, tensor in named_tensors(task.own):
                if not learned and tensor.shape == get_tensor(net, name).shape:
                    tensor.copy_(get_tensor(net, name))

    # Copies of the network

    @torch.no_grad()
    def agree(self) -> None:
        """All processes of DistributedDataParallel take over the values of the first."""
        if self.group is not None and not distributed.is_initialized():  # any more: this process continues alone
            self.group = None
        if self.group is not None and self.group.size() > 1:
            for tensor in (*self.parameters(), *self.buffers()):
                distributed.broadcast(tensor.detach(), distributed.get_global_rank(self.group, 0), self.group)
            self.refresh()

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """What DistributedDataParallel need not send with every batch: agree() sends it once a task."""
        return [
            name for name, _ in self.named_buffers() if 'kept' in name.split('.')[:3] and not name.startswith('net.')
        ]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        tied: dict[int, list[str]] = {}  # names of each buffer, such as a frozen parameter: PyTorch would untie them
        for name, buffer in self.net.named_buffers(remove_duplicate=False):
            tied.setdefault(id(buffer), []).append(name)
        try:
            super()._apply(fn, recurse)
        finally:
            for first, *others in tied.values():
                for name in others:
                    set_tensor(self.net, name, get_tensor(self.net, first))
        self.plan.to(self.fingerprints.device)
        self.state = self.stamp = self.watch.frozen = self.watch.answer = None
        self.conversions += 1
        self.watch.follow(self)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != 'group'}

    def get_extra_state(self) -> Tensor:
        """Settings that must be equal where the state is loaded, as the bytes of a JSON text."""
        return torch.tensor(list(states.settings(self)), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing to do: before_loading() has compared the settings."""


# As torch.compiler.disable(), which would import the compiler, for seconds, with this module
outside_of_graphs = torch._disable_dynamo(Network.prepare_now)


@torch.inference_mode(False)
def forget(network: Network, task: int, generator: torch.Generator | None = None) -> None:
    """Reset a task, as if it had never been learned. An optimizer that is to train it again must be made after this.

    Its embeddings, head and norms start anew. Weights that no other task uses become free, and keep their values until
    another task trains them. Outputs of other tasks stay bit-identical.
    """
    task = network.index(task)
    n_classes = network.tasks[task].n_classes
    network.restore()
    network.fingerprints[task] = 0
    network.tasks[task] = TaskParameters(network.net, network.plan, n_classes, network.init, network.frozen, generator)
    network.watch.task = None
    network.watch.begun.discard(task)
    network.refresh()

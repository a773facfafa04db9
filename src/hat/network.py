"""A network with hard attention to the task: what all tasks share, what each has of its own, and what is protected."""

import warnings

import torch
from torch import nn
from torch.func import functional_call

from hat.functional import E_MAX, Compensated, Conditioned, attention, cumulate, free_share
from hat.graph import open_attention
from hat.task import Task, find

FREE = 0.05  # of a layer's units: a task that finds less is warned of


class Network(nn.Module):
    """What convert() makes of a network: tasks are learned in it one after the other, and what a task uses stays.

    net      the network itself, with the weights that all tasks share. What tasks have of their own is here as it was,
             for new tasks to start from
    tasks    a Task for each
    learned  which of them have ended, (tasks,) bool
    plan     what was read off the network's graph; plan.gates names the layers of the masks
    """

    current = None  # the task that was trained last

    def __init__(self, net, plan, classes, s_max, hard, init, schedule, regularizer, generator):
        super().__init__()
        self.net, self.plan, self.s_max, self.hard = net, plan, s_max, hard
        self.init, self.schedule, self.regularizer = init, schedule, regularizer
        self.frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
        for name in plan.own:
            find(net, name).requires_grad_(False)
        for name, (_, units) in plan.outputs.items():
            module = net.get_submodule(name)
            module.register_buffer('attention', torch.ones(len(units)), persistent=False)
            module.register_forward_hook(gate_output)
        self.tasks = nn.ModuleList(Task(net, plan, n, init, self.frozen, generator) for n in classes)
        self.register_buffer('learned', torch.zeros(len(classes), dtype=torch.bool))
        self.register_state_dict_pre_hook(before_saving)
        self.register_load_state_dict_post_hook(after_loading)
        self.protect()

    # The way of a batch

    def forward(self, *inputs, task, progress=1.0):
        """Output of a task for inputs (B, ...), by position.

        progress  in training mode, the position in the epoch, 0 to 1, by which the gates are annealed (Eq. 3); without
                  it they are not: s is s_max throughout

        Not for activation checkpointing, which runs parts of the network again without the task's tensors, nor for
        networks that assign to their buffers (batch norm, which changes them in place, is fine).
        """
        if not 0 <= progress <= 1:
            raise ValueError(f'progress must lie between 0 and 1, and is {progress}')
        if self.training and task != self.current:
            self.begin_task(task)
        self.settle(thoroughly=False)
        s = self.schedule(progress, self.s_max) if self.training else None
        return self.run(inputs, task, self.masks(task, s))

    def masks(self, task, s=None):
        """Attention of a task, a list of (N,), one for each of plan.gates.

        s  scale of the gates while the task is learned; None, and for a learned task: as it is used, at s_max and, if
           `hard`, rounded to {0, 1}
        """
        embeddings = list(self.tasks[self.check(task)].embeddings)
        e = torch.cat(embeddings)  # of all layers at once
        if s is not None and not self.done[task]:
            a = Compensated.apply(e, s, self.s_max)
        else:
            a = attention(e, self.s_max)
            a = a.detach().round() if self.hard else a
        return list(a.split([len(e) for e in embeddings]))

    def run(self, inputs, task, masks):
        """Output of a task for `inputs`, a tuple, under given masks."""
        with open_attention():
            return functional_call(self.net, self.tensors(task, masks), inputs)

    def tensors(self, task, masks):
        """What to put in the place of the network's parameters and buffers, by name, to make it the task's.

        h' = a * h (section 2.2): the attention to a layer's output is put into its weight and bias, or those of the
        norm that follows; a linear layer, which often has fewer outputs than weights, has its output multiplied.
        """
        own, done = self.tasks[task].own, self.done[task]
        tensors = dict(own.named_parameters())
        # Statistics of a learned task stay, in training mode, too.
        tensors |= {name: b.clone() if done and self.training else b for name, b in own.named_buffers()}
        tensors |= {name: Conditioned.apply(self.shared[name], share) for name, share in self.shares.items()}
        values = None
        for name, (gate, units) in self.gating.items():
            if gate is None and values is None:
                values = self.plan.units.attention(masks)
            a = values[units] if gate is None else masks[gate].view(units.shape)
            tensors[name] = (tensors[name] if name in tensors else self.shared[name]) * a
        return tensors | {f'{name}.attention': masks[gate] for name, (gate, _) in self.plan.outputs.items()}

    def regularization(self, task, progress=1.0):
        """Eq. 5, or what was chosen in its place, of the masks that forward() uses in training; a scalar."""
        masks = self.masks(task, self.schedule(progress, self.s_max))
        return self.regularizer(masks, self.cumulative, len(self.tasks))

    def check(self, task):
        if not 0 <= task < len(self.tasks):
            raise IndexError(f'task {task}: there are {len(self.tasks)}, numbered from 0')
        return task

    # The life of a task

    def add_task(self, n_classes=None, generator=None):
        """One more task, with a head for n_classes (None: as many as the network had). Returns its number.

        An optimizer that is to train it has to be made after this."""
        if n_classes is not None and len(self.plan.heads) != 1:
            raise ValueError(f'n_classes: the network has {len(self.plan.heads)} heads, which cannot be given a size')
        self.settle()
        self.tasks.append(Task(self.net, self.plan, n_classes, self.init, self.frozen, generator))
        self.learned = torch.cat([self.learned, self.learned.new_zeros(1)])
        self.protect()
        return len(self.tasks) - 1

    def begin_task(self, task):
        """Warn of layers of which a task finds less than 5 % of the units free. Its first training batch does it."""
        last = self.current
        if last not in (None, task) and not self.done[last]:
            warnings.warn(f'task {last} was trained and not ended: nothing protects it (end_task)', stacklevel=5)
        self.current = self.check(task)
        if self.done[task]:
            warnings.warn(f'task {task} is learned: its masks, head and norms are fixed', stacklevel=5)
        for name, a in zip(self.plan.gates, self.cumulative or (), strict=False):
            free = float((a < 0.5).double().mean())
            if free < FREE and not self.done[task]:
                warnings.warn(f'task {task} finds {100 * free:.1f} % of the units of {name} free', stacklevel=5)

    def end_task(self, task):
        """From now on, what the task uses does not change any more."""
        self.settle()
        self.learned[self.check(task)] = True
        self.current = None
        self.protect()

    @torch.no_grad()
    def settle(self, thoroughly=True):
        """Undo what an optimizer did to protected weights, which momentum, Adam's moments and weight decay do not leave
        alone, and keep embeddings within the active range (section 2.5). Weights that are not finite any more, which
        would spoil the learned tasks, too, go back to where they were when the last task ended.

        The next batch does it first, and so do state_dict() and all that begins or ends a task. In between, weights are
        what the optimizer made of them; optimizer.register_step_post_hook(lambda *_: model.settle()) closes that gap.

        thoroughly  whatever they were written by; else only what PyTorch knows to have been written to, as by its
                    optimizers, but not by way of `.data`
        """
        for name, share in self.shares.items():
            p, saved, free = self.shared[name], self.saved[name], share > 0
            known = p._version == self.versions[name]
            if known and (not thoroughly or torch.equal(torch.where(free, p, saved), p)):
                continue  # nothing is written that autograd may still need
            if not p.sum().isfinite():
                free = free & p.isfinite()
            torch.where(free, p, saved, out=p)
            self.versions[name] = p._version
        for i, (p, saved, version) in enumerate(self.finished):
            if p._version != version or thoroughly and not torch.equal(p, saved):
                p.copy_(saved)
                self.finished[i] = p, saved, p._version
        if self.current is not None and any(e.abs().max() > E_MAX for e in self.tasks[self.current].embeddings):
            self.clamp(self.current)

    @torch.no_grad()
    def clamp(self, task):
        """Keep a task's embeddings within the active range (section 2.5)."""
        for e in self.tasks[task].embeddings:
            e.clamp_(-E_MAX, E_MAX)

    @torch.inference_mode(False)
    @torch.no_grad()
    def protect(self):
        """Work out from the learned tasks' masks which of the shared weights are protected, and how much (Eq. 2)."""
        self.done, device = self.learned.tolist(), self.learned.device
        self.shared = {name: find(self.net, name) for name in self.plan.shared}
        self.gating = {n: (g, u.to(device) if g is None else u) for n, (g, u) in self.plan.gating.items()}
        self.plan.units.to(device)
        self.cumulative, self.shares, self.saved, self.versions, self.finished = None, {}, {}, {}, []
        for t, task in enumerate(self.tasks):
            if self.done[t]:
                task.requires_grad_(False).zero_grad()
                self.finished += [(p, p.clone(), p._version) for p in task.parameters()]
                masks = self.masks(t)
                before = self.cumulative or [None] * len(masks)
                self.cumulative = [cumulate(a, b) for a, b in zip(masks, before, strict=True)]
        if self.cumulative:
            values = self.plan.units.attention(self.cumulative)
            for name, (_, writes, reads) in self.plan.shared.items():
                share = free_share(values[writes.to(device)], None if reads is None else values[reads.to(device)])
                if (share < 1).any():
                    p = self.shared[name]
                    self.shares[name], self.saved[name], self.versions[name] = share, p.detach().clone(), p._version

    def _apply(self, fn, recurse=True):
        """To another device or type."""
        self.settle()
        super()._apply(fn, recurse)
        self.protect()
        return self


def forget(network, task, generator=None):
    """The task is as if it had never been learned: its embeddings, head and norms start anew, and weights that it alone
    used are free for others, which find them with the values that they have. Outputs of other tasks stay bit-identical.
    An optimizer that is to train the task again has to be made after this."""
    network.settle()
    network.learned[network.check(task)] = False
    old, network.current = network.tasks[task], None
    network.tasks[task] = Task(network.net, network.plan, old.n_classes, network.init, network.frozen, generator)
    network.protect()


def gate_output(module, inputs, output):
    return output * module.attention


def before_saving(network, prefix, keep_vars):
    network.settle()


def after_loading(network, incompatible_keys):
    for task in network.tasks:
        for name, p in task.named_parameters():
            p.requires_grad_(name.removeprefix('own.') not in network.frozen)
    network.protect()

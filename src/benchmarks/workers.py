"""Those who take turns in speed.py: each trains one approach in one way, an epoch when it is asked to."""

import math
import multiprocessing
import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import dataloaders
import networks
from approaches import APPROACHES
from approaches.base import Approach, Protocol
from benchmarks import eager_loop
from core.device import LARGE_PAGES, choose_device

FIRST = 128  # images of the first task, which is only there to be over
PROC = Path('/proc/self/status')
T = 1  # the task that is trained: one task is learned, and protected
ONEDNN = {  # FLOPs of what PyTorch does not count: shapes of input, (of output) and weight -> number
    torch.ops.aten.mkldnn_linear: lambda x, w, *rest, **more: 2 * math.prod(x) * w[0],
    torch.ops.aten.mkldnn_linear_backward: lambda x, g, w, wanted, **more: 2 * math.prod(x) * w[0] * sum(wanted[:2]),
}


class Apart:
    """A Work in a process of its own, where its settings hold for nothing else and its peak of memory is its own."""

    def __init__(self, *settings):
        context = multiprocessing.get_context('spawn')
        self.pipe, theirs = context.Pipe()
        os.environ.pop(LARGE_PAGES, None)  # which this process has set for itself
        self.process = context.Process(target=serve, args=(theirs, *settings), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, what):
        """What the method of that name of its Work returns."""
        try:
            self.pipe.send(what)
            return self.pipe.recv()
        except (EOFError, BrokenPipeError):
            raise SystemExit('speed.py: a process ended before its time') from None

    def close(self):
        """It ends when what it does just now is done."""
        self.pipe.close()
        self.process.join()


def serve(pipe, *settings):
    try:
        work = Work(*settings)
        while True:
            pipe.send(getattr(work, pipe.recv())())
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass
    except Exception:
        traceback.print_exc()
        sys.exit(1)


class Work:
    """One approach on the second task of an experiment."""

    def __init__(self, args, name, plain, settings=True):
        """plain: by the loop without shortcuts of eager_loop.py. settings: with those of run.py (core/device.py)."""
        self.device = choose_device(args.device) if settings else torch.device(args.device)
        torch.backends.cudnn.allow_tf32 = False
        experiment, kind = dataloaders.EXPERIMENTS[args.experiment], APPROACHES[name]
        tasks = dataloaders.load(args.experiment, args.data, 0, None, None, args.ntrain)
        first = tasks[0].train
        tasks[0] = replace(tasks[0], train=first._replace(index=first.index[:FIRST], y=first.y[:FIRST]))
        tasks = [task.to(self.device) for task in tasks]
        classes = [task.n_classes for task in tasks]
        net = networks.build(experiment.FAMILY, kind.variant, experiment.SHAPE, classes, args.width, 0).to(self.device)
        if plain:
            eager_loop.make_ordinary(net)
        protocol = Protocol(batch_size=args.batch_size)
        self.approach = kind(net, tasks, protocol, **{k: p.default for k, p in kind.parameters.items()})
        self.approach.before_task(0)
        self.approach.after_task(0)
        self.approach.before_task(T)
        self.loop = plain and eager_loop.LOOPS.get(name, eager_loop.Loop)(self.approach, T)

    def epoch(self):
        """Seconds of training, of the loop's further pass over the training images, and of validation."""
        if self.loop:
            parts = (self.loop.train, lambda: self.loop.evaluate('train'), lambda: self.loop.evaluate('valid'))
        else:
            lr = self.approach.protocol.lr
            train = lambda: Approach.train_epoch(self.approach, T, 0, lr)  # noqa: E731  one path of PathNet's two
            parts = (train, lambda: None, lambda: Approach.validate(self.approach, T))
        return [seconds(part, self.device) for part in parts]

    def facts(self):
        """What a training step cannot do without, numbers of images, and the peak of memory of an epoch, in bytes."""
        self.epoch()
        peak = torch.cuda.max_memory_allocated() if self.device.type == 'cuda' else process_peak()
        steps = self.approach.steps
        with FlopCounterMode(display=False, custom_mapping=ONEDNN) as counter:
            steps.b.zero_()
            steps.full_batch()
        weights = sum(p.numel() for p in steps.parameters if p.grad is not None)
        moved = 5 * 4 * weights  # each is read forward and backward and written, its gradient is written and read
        images, valid = self.approach.n_train(T), len(self.approach.tasks[T].valid.y)
        return {'flops': counter.get_total_flops(), 'bytes': moved, 'images': images, 'valid': valid, 'peak': peak}


def seconds(function, device):
    """That a call of it takes, its work on the device included."""
    start = time.perf_counter()
    function()
    if device.type in ('cuda', 'mps'):
        getattr(torch, device.type).synchronize()
    return time.perf_counter() - start


def process_peak():
    """Of this process's memory, in bytes; None where the system does not say it."""
    if PROC.exists():  # on Linux, where what getrusage says holds for the process that started it, too
        (line,) = (line for line in PROC.read_text(encoding='utf-8').splitlines() if line.startswith('VmHWM'))
        return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


class Rates:
    """What the machine can do: multiply-adds of a large matrix product, bytes of a large copy, a second."""

    def __init__(self, device):
        n = 2048 if device.type == 'cpu' else 8192
        self.device, self.a, self.b = device, torch.randn(n, n, device=device), torch.randn(n, n, device=device)
        self.big = torch.randn(64 * 2**20, device=device)
        self.copy = torch.empty_like(self.big)

    def measure(self):
        """FLOP/s and bytes/s."""
        product = seconds(lambda: torch.mm(self.a, self.b), self.device)
        moved = seconds(lambda: self.copy.copy_(self.big), self.device)
        return 2 * len(self.a) ** 3 / product, 2 * self.big.nbytes / moved

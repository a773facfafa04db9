"""The training setups that speed.py measures, in this process and in worker processes, and the peak of the machine."""

import functools
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
from approaches import build
from approaches.base import Approach
from approaches.common.training import Protocol
from benchmarks import eager_loop
from core.device import LARGE_PAGES, setup_device

N_FIRST_TASK_IMAGES = 128  # the first task is learned only so that the second has one before it
PROC = Path('/proc/self/status')
TASK = 1  # the task that is trained, after one that is learned and protected
ONEDNN = {  # FLOPs that PyTorch does not count: shapes of input and weight -> number
    torch.ops.mkldnn._linear_pointwise: lambda x, w, *rest, **more: 2 * math.prod(x) * w[0],
}


class WorkerProcess:
    """A TrainingSetup in a process of its own, with its own settings and its own peak of memory."""

    def __init__(self, *arguments):
        """arguments: of TrainingSetup."""
        context = multiprocessing.get_context('spawn')
        self.pipe, worker_end = context.Pipe()
        os.environ.pop(LARGE_PAGES, None)  # set for this process; the worker decides for itself
        self.process = context.Process(target=worker_main, args=(worker_end, *arguments), daemon=True)
        self.process.start()
        worker_end.close()

    def call(self, method):
        """The result of a method of its TrainingSetup."""
        try:
            self.pipe.send(method)
            return self.pipe.recv()
        except (EOFError, BrokenPipeError):
            raise SystemExit('benchmark.py: a worker process exited unexpectedly') from None

    def close(self):
        """Wait until it has finished the current call."""
        self.pipe.close()
        self.process.join()


def worker_main(pipe, *arguments):
    try:
        setup = TrainingSetup(*arguments)
        while True:
            pipe.send(getattr(setup, pipe.recv())())
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass
    except Exception:
        traceback.print_exc()
        sys.exit(1)


class TrainingSetup:
    """One approach, ready to train the second task of an experiment."""

    def __init__(self, args, name, eager, tuned=True):
        """eager: with the trainer of eager_loop.py. tuned: with the settings of core/device.py, as run.py."""
        self.device = setup_device(args.device) if tuned else torch.device(args.device)
        torch.backends.cudnn.allow_tf32 = False
        tasks = dataloaders.load(args.experiment, args.data, 0, None, None, args.ntrain)
        first = tasks[0].train
        n = N_FIRST_TASK_IMAGES
        tasks[0] = replace(tasks[0], train=first._replace(index=first.index[:n], y=first.y[:n]))
        tasks = [task.to(self.device) for task in tasks]
        self.approach = build(name, args.experiment, tasks, Protocol(batch_size=args.batch_size), args.width)
        if eager:
            eager_loop.use_stock_layers(self.approach.net)
        self.approach.before_task(0)
        self.approach.after_task(0)
        self.approach.before_task(TASK)
        self.trainer = eager and eager_loop.eager_trainer(self.approach, name, TASK)

    def epoch(self):
        """Seconds of training, of the eager trainer's further pass over the training images, and of validation."""
        if self.trainer:
            evaluate = self.trainer.evaluate
            parts = (self.trainer.train, lambda: evaluate('train'), lambda: evaluate('valid'))
        else:
            of_one_path = functools.partial(Approach.train_epoch, self.approach, TASK, 0, self.approach.protocol.lr)
            parts = (of_one_path, lambda: None, lambda: Approach.validate(self.approach, TASK))  # PathNet trains two
        return [seconds(part, self.device) for part in parts]

    def profile(self):
        """The minimal work of a training step: FLOPs and bytes; numbers of images; peak of memory, in bytes."""
        self.epoch()
        peak = torch.cuda.max_memory_allocated() if self.device.type == 'cuda' else process_peak()
        steps = self.approach.steps
        with FlopCounterMode(display=False, custom_mapping=ONEDNN) as counter:
            steps.b.zero_()
            steps.full_batch()
        weights = sum(p.numel() for p in steps.parameters if p.grad is not None)
        moved = 5 * 4 * weights  # each is read forward and backward and written, its gradient is written and read
        images, valid = self.approach.n_train(TASK), len(self.approach.tasks[TASK].valid.y)
        return {'flops': counter.get_total_flops(), 'bytes': moved, 'images': images, 'valid': valid, 'peak': peak}


def seconds(function, device):
    """The duration of a call, with its work on the device."""
    start = time.perf_counter()
    function()
    if device.type in ('cuda', 'mps'):
        getattr(torch, device.type).synchronize()
    return time.perf_counter() - start


def process_peak():
    """The peak of this process's memory, in bytes; None if the system does not report it."""
    if PROC.exists():  # Linux, where ru_maxrss starts with that of the parent
        (line,) = (line for line in PROC.read_text(encoding='utf-8').splitlines() if line.startswith('VmHWM'))
        return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def lower_bound(profile, flops, bandwidth):
    """The least seconds of a training step, of TrainingSetup.profile(), at these rates of the machine."""
    return max(profile['flops'] / flops, profile['bytes'] / bandwidth)


class MachinePeak:
    """The peak rates of the machine, as measured with a large matrix product and a large copy. On a CPU the product is
    the faster one of MKL's and oneDNN's."""

    def __init__(self, device):
        n = 2048 if device.type == 'cpu' else 8192
        self.products = [torch.mm]
        if device.type == 'cpu' and torch.backends.mkldnn.is_available():
            self.products.append(lambda a, b: torch.ops.mkldnn._linear_pointwise(a, b, None, 'none', [], ''))
        self.device, self.a, self.b = device, torch.randn(n, n, device=device), torch.randn(n, n, device=device)
        self.source = torch.randn(64 * 2**20, device=device)
        self.target = torch.empty_like(self.source)

    def measure(self):
        """FLOP/s and bytes/s."""
        product = min(seconds(functools.partial(each, self.a, self.b), self.device) for each in self.products)
        copy = seconds(lambda: self.target.copy_(self.source), self.device)
        return 2 * len(self.a) ** 3 / product, 2 * self.source.nbytes / copy

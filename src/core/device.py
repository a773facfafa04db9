"""What a run runs on: the device, made to compute the same each time; its name, and the versions of what counts."""

import contextlib
import ctypes
import os
import platform
from importlib import metadata

import numpy as np
import torch

from core.errors import UserError

LARGE_PAGES = 'THP_MEM_ALLOC_ENABLE'  # environment variable of PyTorch


def choose_device(text):
    """torch.device of --device, made to compute the same each time."""
    try:
        device = torch.device(text if text != 'auto' else 'cuda' if torch.cuda.is_available() else 'cpu')
    except RuntimeError:
        device = torch.device('meta')
    if device.type not in ('cpu', 'cuda', 'mps'):
        raise UserError(f'--device: {text!r} is none of auto, cpu, cuda, cuda:N, mps')
    if device.type == 'mps' and (device.index or not torch.backends.mps.is_available()):
        raise UserError(f'--device: {text} asked for, and it is not there; --device cpu works everywhere')
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError(f'--device: {text} asked for, {found} CUDA devices found; --device cpu works everywhere')
    if device.type == 'cuda':
        device = torch.device('cuda', device.index or 0)
        torch.cuda.set_device(device)
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # cuBLAS needs it to be deterministic
    torch.set_deterministic_debug_mode('error')  # as torch.use_deterministic_algorithms(True), which loads the compiler
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32, as on the CPU
    torch.set_flush_denormal(True)  # masks near 0 make such numbers, which a CPU is slow at
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads it; filling takes time
    keep_memory()
    return device


def keep_memory():
    """Let the process keep the memory that it frees, and have it in large pages. By default (glibc) large tensors are
    given back to the system and asked for again in each training step, and every page then costs an interrupt."""
    os.environ.setdefault(LARGE_PAGES, '1')  # PyTorch asks for it when it first makes a tensor
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # it is of glibc alone; Windows has no library None
        return
    mallopt(-4, 0)  # M_MMAP_MAX: no memory outside the heap
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap does not shrink


def cores():
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def use_threads(n):
    """Compute with n threads on the CPU, or, None, with as many as PyTorch finds right. OMP_NUM_THREADS goes first."""
    if n and 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(n)


def crowded(device):
    """A hint where this machine has less to spare than this process's threads take, or ''."""
    load, threads = os.getloadavg()[0] if hasattr(os, 'getloadavg') else 0, torch.get_num_threads()
    if device.type != 'cpu' or threads <= cores() - round(load):
        return ''
    advice = ' (--threads 1 may be faster)' if threads > 1 else ''
    return f'the machine is busy: load {load:.1f} on {cores()} cores; threads of this run: {threads}{advice}'


def describe(device):
    if device.type == 'cuda':
        return f'{device} ({torch.cuda.get_device_name(device)})'
    if device.type == 'mps':
        return f'mps ({platform.machine()})'
    return f'cpu ({platform.machine()}, {torch.get_num_threads()} threads)'


def versions():
    modules = {'python': platform.python_version(), 'torch': torch.__version__, 'numpy': np.__version__}
    for name in 'torchvision', 'scipy':  # whose import takes seconds
        with contextlib.suppress(metadata.PackageNotFoundError):
            modules[name] = metadata.version(name)
    return modules

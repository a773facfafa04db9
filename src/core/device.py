"""The device of a run, set up to compute deterministically; what it is called, and the versions of the packages."""

import contextlib
import ctypes
import os
import platform
from importlib import metadata

import numpy as np
import torch

from core.errors import UserError

LARGE_PAGES = 'THP_MEM_ALLOC_ENABLE'  # environment variable of PyTorch


def parse_device(text):
    """torch.device of the argument --device. Changes nothing and does not initialize CUDA. Raises UserError."""
    try:
        device = torch.device(text if text != 'auto' else 'cuda' if torch.cuda.is_available() else 'cpu')
    except RuntimeError:
        device = torch.device('meta')
    if device.type not in ('cpu', 'cuda', 'mps'):
        raise UserError(f'--device: {text!r} is none of auto, cpu, cuda, cuda:N, mps')
    if device.type == 'mps' and (device.index or not torch.backends.mps.is_available()):
        raise UserError(f'--device: {text} is not available; use --device cpu')
    if device.type == 'cuda' and (device.index or 0) >= (n := torch.cuda.device_count()):
        raise UserError(f'--device: {text} is not available: {n} CUDA devices found; use --device cpu')
    return torch.device('cuda', device.index or 0) if device.type == 'cuda' else device


def setup_device(text, precision=None):
    """torch.device of the argument --device; sets this process up to compute deterministically and fast on it.

    precision  'tf32': products on a GPU with 10 bits of mantissa. Raises UserError on other devices
    """
    device = parse_device(text)
    if precision == 'tf32' and device.type != 'cuda':
        raise UserError(f'--precision: tf32 is for CUDA devices, not for {device.type}')
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # cuBLAS needs it to be deterministic
    torch.set_deterministic_debug_mode('error')  # as torch.use_deterministic_algorithms(True), which loads the compiler
    # By default float32 in full, as on the CPU
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == 'tf32'
    torch.set_flush_denormal(True)  # masks near 0 give denormal numbers, on which a CPU is slow
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads it, and filling takes time
    keep_freed_memory()
    return device


def keep_freed_memory():
    """Let the process keep the memory that it frees, in large pages. By default (glibc) large tensors are returned to
    the system and requested again in each training step, and every page then costs a page fault."""
    os.environ.setdefault(LARGE_PAGES, '1')  # PyTorch reads it when it makes the first tensor
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # glibc only; on Windows there is no library None
        return
    mallopt(-4, 0)  # M_MMAP_MAX: no memory outside the heap
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap does not shrink


def cores():
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def use_threads(n):
    """Compute with n threads on the CPU; None: PyTorch's choice. OMP_NUM_THREADS takes precedence."""
    if n and 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(n)


def crowded(device):
    """A hint if this process has more threads than idle cores, or ''."""
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


def versions(*others):
    """Of Python and of packages that a result depends on; others: names of further ones."""
    packages = {'python': platform.python_version(), 'torch': torch.__version__, 'numpy': np.__version__}
    for name in ('torchvision', 'scipy', *others):  # not imported: that takes seconds
        with contextlib.suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return packages

"""Random streams. Each use of randomness has its own seed, derived from --seed and from what it is for, so that no
stream depends on how many numbers another one has drawn (paper, section 4: same task sequence, data split, batch
shuffle and weight initialization for all methods). Augmentation alone shares that of dropout."""

import hashlib

import torch


def derive(seed, *purpose):
    """A 63-bit seed for one purpose, e.g. derive(0, 'batches', task, epoch)."""
    text = '/'.join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), 'big') >> 1


def generator(seed, *purpose):
    """A torch.Generator (CPU) for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))

"""Initial weights from a file: the state_dict of a whole network, as torch.save or safetensors writes it."""

import pickle

import torch

from core.errors import UserError, one_line, require
from core.files import digest

COUNTER = '.num_batches_tracked'  # which older files lack, and batch norms with a momentum do not use
INSIDE = 'state_dict', 'model', 'model_state_dict'  # where training scripts put it


def load(net, path, left_out):
    """Load the weights of `net` from a file; a weight that the file lacks, or one too many, is an error.

    left_out: predicate of the names of tensors that the file may have and the net has not, or has in another shape
    """
    saved, own = read(path), net.state_dict()
    missing = [name for name in own if name not in saved and not left_out(name) and not name.endswith(COUNTER)]
    other = [name for name in saved if name not in own and not left_out(name)]
    both = [name for name in own if name in saved and not left_out(name)]
    shapes = [name for name in both if saved[name].shape != own[name].shape]
    kinds = [name for name in both if saved[name].is_floating_point() != own[name].is_floating_point()]
    reasons = {
        'it lacks': missing,
        'it also has': other,
        'another shape has': shapes,
        'another kind of numbers has': kinds,
    }
    for what, names in reasons.items():
        if names:
            more = f' and {len(names) - 1} more' if len(names) > 1 else ''
            raise UserError(f'--pretrained: {path}: not the weights of this network: {what} {names[0]}{more}')
    net.load_state_dict({name: saved[name] for name in both}, strict=False)


def fingerprint(path):
    """Of a file; None if there is none."""
    return digest(path.read_bytes()).hex() if path.is_file() else None


def read(path):
    """name -> tensor. Raises UserError."""
    if not path.is_file():
        raise UserError(f'--pretrained: {path}: no such file')
    try:
        if path.suffix == '.safetensors':
            require('--pretrained: a .safetensors file needs safetensors', 'safetensors')
            from safetensors.torch import load_file

            return load_file(path)
        saved = torch.load(path, map_location='cpu', weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(f'--pretrained: {path}: not a state_dict: save model.state_dict(), not the model') from error
    except Exception as error:  # whatever a damaged or hostile file may raise
        raise UserError(f'--pretrained: {path}: cannot be read: {one_line(error)}') from error
    saved = next((saved[key] for key in INSIDE if isinstance(saved, dict) and isinstance(saved.get(key), dict)), saved)
    if not isinstance(saved, dict) or not all(isinstance(value, torch.Tensor) for value in saved.values()):
        raise UserError(f'--pretrained: {path}: not a state_dict')
    return {name.removeprefix('module.'): value for name, value in saved.items()}

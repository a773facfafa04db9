"""Random changes of training images, drawn on their device: of each image anew in each batch."""

import torch

SHIFT = 8  # at most an eighth of the side


def flip_crop(x, black):
    """Half of the images mirrored, each shifted by up to an eighth of its sides; (B,C,H,W) like x.

    black: the value outside of an image, broadcast to (B,C,H,W)
    """
    n, _, height, width = x.shape
    rows, inside_rows = _shifted(height, n, x.device)
    columns, inside_columns = _shifted(width, n, x.device)
    mirrored = torch.rand(n, 1, device=x.device) < 0.5
    columns = torch.where(mirrored, width - 1 - columns, columns)
    images = torch.arange(n, device=x.device).view(-1, 1, 1)
    moved = x[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return torch.where(inside_rows[:, None, :, None] & inside_columns[:, None, None, :], moved, black)


def _shifted(side, n, device):
    """For each of n images the row (or column) to take for each one, and whether it is within the image; (n, side)."""
    most = side // SHIFT
    wanted = torch.arange(side, device=device) + torch.randint(-most, most + 1, (n, 1), device=device)
    return wanted.clamp(0, side - 1), (wanted >= 0) & (wanted < side)


AUGMENTATIONS = {'none': lambda x, black: x, 'flip-crop': flip_crop}

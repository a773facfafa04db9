"""Pictures of any kind as uint8 arrays of one size.

Larger pictures are reduced (antialiased, aspect kept) until the longer side fits, smaller ones stay as they are, and
black margins make them square, as they do MNIST in the mixture. Transparent pixels lie on black, the orientation that
EXIF gives is applied, and of an animation the first frame is taken.
"""

import os
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from core.errors import UserError, one_line

FORMATS = 'BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP'  # whatever the name says; none executes anything
RESIZED = 'L', 'LA', 'RGB', 'RGBA', 'CMYK'  # modes that Pillow can reduce


def read(path, side):
    """(side, side, 1) uint8 of a grey picture, (side, side, 3) of any other. May raise anything if it is damaged."""
    with opened(path) as image:
        return fit(image, side)


def longer_side(path):
    """Of a picture. May raise anything."""
    with quiet(), opened(path) as image:
        return max(image.size)


@contextmanager
def opened(path):
    """A file that Pillow opens by its name is mapped into memory, in which grey TIFFs that EXIF turns were sheared."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # to read from a pipe would wait forever
        raise ValueError('not a file')
    with open(path, 'rb') as file, Image.open(file, formats=FORMATS) as image:
        yield image


def fit(image, side):
    if image.mode not in RESIZED or 'transparency' in image.info:
        image = plain(ImageOps.exif_transpose(image))  # what is made anew has no EXIF
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    image = ImageOps.exif_transpose(image)
    mode = 'L' if image.mode in ('L', 'LA') else 'RGB'
    alpha = image.getchannel('A') if image.mode in ('LA', 'RGBA') else None
    canvas = Image.new(mode, (side, side))
    canvas.paste(image.convert(mode), ((side - image.width) // 2, (side - image.height) // 2), alpha)
    return np.asarray(canvas).reshape(side, side, -1)


def with_channels(picture, channels):
    """A picture of fit() as (side, side, channels): grey is repeated, of colours the luminance is taken."""
    if channels == 1 and picture.shape[2] == 3:
        picture = np.asarray(Image.fromarray(picture).convert('L'))[..., None]
    return np.broadcast_to(picture, (*picture.shape[:2], channels))


def plain(image):
    """In one of the modes RESIZED."""
    if image.mode == 'F':
        raise ValueError('its pixels are floats; save it with 8 bits')
    if image.mode.startswith('I'):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() >= 2**16:
            raise ValueError('more than 16 bits a pixel; save it with 8')
        return Image.fromarray((levels >> 8).astype(np.uint8))
    if image.has_transparency_data:
        return image.convert('RGBA')
    return image.convert('L' if image.mode == '1' else 'RGB')


def collect(name, items, read, skip_bad):
    """read(item) of all items, on several threads: x (n, side, side, 3), sums and sums of squares of each picture by
    channel (n, 2, 3), is any in colour?, and the indices of damaged items, whose rows are undefined.

    Raises UserError at the first damaged item unless skip_bad.
    """
    x, moments, failed, colour = None, np.zeros((len(items), 2, 3), np.int64), set(), False
    with quiet():
        pool = ThreadPoolExecutor()  # Pillow decodes without the interpreter's lock
        try:
            results = pool.map(lambda item: attempt(read, item), items)
            for i, (picture, sums) in enumerate(tqdm(results, name, len(items), unit='picture', disable=None)):
                if picture is None and not skip_bad:
                    raise UserError(
                        f'{items[i]}: {sums}; repair or remove it, or leave out such pictures with --skip-bad'
                    )
                if picture is None:
                    failed.add(i)
                    continue
                if x is None:
                    x = np.zeros((len(items), *picture.shape[:2], 3), np.uint8)
                x[i], moments[i] = picture, sums
                colour = colour or picture.shape[2] == 3
        finally:
            pool.shutdown(cancel_futures=True)
    return x, moments, colour, failed


def attempt(read, item):
    """The picture and its moments, or None and the reason."""
    try:
        picture = read(item)
    except UnidentifiedImageError:
        return None, 'not a picture, or damaged'
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return None, f'more than {Image.MAX_IMAGE_PIXELS:,} pixels'
    except Exception as error:  # whatever a damaged file may raise
        return None, one_line(getattr(error, 'strerror', None) or error)
    levels = picture.astype(np.int64)
    return picture, (levels.sum((0, 1)), (levels**2).sum((0, 1)))


@contextmanager
def quiet():
    """No warnings of damaged pictures; a huge one (above Image.MAX_IMAGE_PIXELS) is an error."""
    Image.init()  # loads all formats; not safe within threads
    with warnings.catch_warnings(action='ignore'):
        warnings.simplefilter('error', Image.DecompressionBombWarning)
        yield

"""The file format of a data set: uint8 images (N,H,W,C) and int64 labels (N,), four arrays in an npz."""

import hashlib
import struct
import zipfile
from typing import NamedTuple

import numpy as np

from core.errors import UserError, one_line
from core.files import atomic

ARRAYS = ('train_x', 'train_y', 'test_x', 'test_y')
SHAPES = ((28, 28, 1), (32, 32, 1), (32, 32, 3))  # of an image


class Content(NamedTuple):
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    fingerprint: str


def write(path, arrays, **more):
    """more: other arrays, which the fingerprint leaves out."""
    with atomic(path) as part, open(part, 'wb') as file:
        np.savez(file, **dict(zip(ARRAYS, arrays, strict=True)), **more)


def fingerprint(path):
    """Of the four arrays: a digest of the checksums in the file, which are verified whenever it is read.

    None if there is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _fingerprint(archive)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _fingerprint(archive):
    parts = [archive.getinfo(f'{name}.npy') for name in ARRAYS]
    checksums = [(part.CRC, part.file_size) for part in parts]
    return hashlib.blake2b(repr(checksums).encode(), digest_size=8).hexdigest()


def read(path, n_classes, advice=''):
    """The Content. Raises UserError, which ends with the advice, where the file is damaged or holds something else."""
    content = load(path, advice)
    check(content[:4], n_classes, path)
    return content


def load(path, advice=''):
    """The Content, whatever its arrays are. Raises UserError."""
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = [_array(path, archive, f'{name}.npy') for name in ARRAYS]
            mark = _fingerprint(archive)
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such file; it needs the arrays {", ".join(ARRAYS)}') from error
    except KeyError as error:
        raise UserError(f'{path}: an array is missing; it needs {", ".join(ARRAYS)}') from error
    except Exception as error:  # a damaged or malicious file may raise anything
        raise UserError(f'{path}: cannot be read: {one_line(error)}{advice}') from error
    return Content(*arrays, mark)


def shape(path, name):
    """Of an array, which is not read. May raise anything if the file is damaged."""
    with zipfile.ZipFile(path) as archive, archive.open(f'{name}.npy') as file:
        np.lib.format.read_magic(file)
        return np.lib.format.read_array_header_1_0(file)[0]


def _array(path, archive, name):
    """An array of an npz, mapped into memory: processes share it, and pages are loaded when they are used.

    numpy.load cannot map an npz. A compressed array (numpy.savez_compressed) is read.
    """
    info = archive.getinfo(name)
    with archive.open(info) as file:
        if info.compress_type != zipfile.ZIP_STORED:
            return np.lib.format.read_array(file)
        while file.read(1 << 20):  # to the end, where zipfile verifies the checksum
            pass
        file.seek(0)
        np.lib.format.read_magic(file)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        header = file.tell()
    if dtype.hasobject:
        raise ValueError(f'{name} holds Python objects')
    with open(path, 'rb') as file:
        file.seek(info.header_offset + 26)  # in the zip's local header: how long its name and its extra field are
        begin = info.header_offset + 30 + sum(struct.unpack('<HH', file.read(4)))
    return np.memmap(path, dtype, 'c', begin + header, shape, 'F' if fortran else 'C')


def check(arrays, n_classes, where):
    """Raises UserError unless the four arrays are a data set of n_classes with images of one of SHAPES."""
    for split, x, y in ('train', *arrays[:2]), ('test', *arrays[2:]):
        if x.dtype != np.uint8 or x.shape[1:] not in SHAPES:
            raise UserError(f'{where}: {split} images are {x.dtype} {x.shape}, not uint8 (N, height, width, channels) '
                            f'of {", ".join("x".join(map(str, shape)) for shape in SHAPES)}; --experiment folder takes '
                            'other sizes')  # fmt: skip
        if y.dtype != np.int64 or y.shape != (len(x),) or not len(y):
            raise UserError(f'{where}: {split} labels are {y.dtype} {y.shape}, not int64 ({len(x)},) with one or more')
        if y.min() < 0 or y.max() >= n_classes:
            raise UserError(f'{where}: {split} labels go from {y.min()} to {y.max()}, not within 0..{n_classes - 1}')

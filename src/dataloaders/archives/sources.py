"""Sources of the eight data sets.

A set is read from DIR/<name>.npz (npz.py). If it is missing, it is made once from its archives in DIR; missing archives
are downloaded.
"""

import hashlib
import os
import urllib.request
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from core.errors import UserError, one_line
from core.files import atomic, lock, remove_partial_files
from dataloaders import npz
from dataloaders.archives import readers

TIMEOUT = 20  # seconds without a response from a server


class File(NamedTuple):
    path: str  # in DIR
    url: str
    md5: str | None = None  # None if none is published: then size and content are checked


class Source(NamedTuple):
    n_classes: int
    n_train: int
    n_test: int
    read: callable  # (Source, DIR) -> the four arrays, in the order of npz.ARRAYS
    files: tuple


_GTSRB = 'https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/'


def _file(server, name, md5=None):
    return File(name, server + name, md5)


def _idx_files(folder, server, *md5s):
    parts = ('train-images-idx3', 'train-labels-idx1', 't10k-images-idx3', 't10k-labels-idx1')
    names = [f'{part}-ubyte.gz' for part in parts]  # the two sets use the same names: a folder each
    return tuple(File(f'{folder}/{name}', server + name, md5) for name, md5 in zip(names, md5s, strict=True))


SOURCES = {
    'cifar10': Source(10, 50_000, 10_000, readers.read_cifar, (
        _file('https://www.cs.toronto.edu/~kriz/', 'cifar-10-python.tar.gz', 'c58f30108f718f92721af3b95e74349a'),
    )),
    'cifar100': Source(100, 50_000, 10_000, readers.read_cifar, (
        _file('https://www.cs.toronto.edu/~kriz/', 'cifar-100-python.tar.gz', 'eb9058c3a382ffc7106e4002c42a8d85'),
    )),
    'mnist': Source(10, 60_000, 10_000, readers.read_mnist, _idx_files(
        'mnist', 'https://ossci-datasets.s3.amazonaws.com/mnist/',
        'f68b3c2dcbeaaa9fbdd348bbdeb94873', 'd53e105ee54ea40749a09fcbcd1e9432',
        '9fb629c4189551a2d022fa330f9573f3', 'ec29112dd5afa0611ce80d1b7f02629c',
    )),
    'svhn': Source(10, 73_257, 26_032, readers.read_svhn, (
        _file('http://ufldl.stanford.edu/housenumbers/', 'train_32x32.mat', 'e26dedcc434d2e4c54c9b2d4a06d8373'),
        _file('http://ufldl.stanford.edu/housenumbers/', 'test_32x32.mat', 'eb5a983be6a315427106f1b164d9cef3'),
    )),
    'fashion-mnist': Source(10, 60_000, 10_000, readers.read_mnist, _idx_files(
        'fashion-mnist', 'http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/',
        '8d4fb7e6c68d591d4c3dfef9ec88bf0d', '25c81989df183df01b3e8a0aad5dffbe',
        'bef4ecab320f06d8554ea6380940ec79', 'bb300cfdad3c16e7a12a480ee83cd310',
    )),
    'traffic-signs': Source(43, 39_209, 12_630, readers.read_traffic_signs, (
        _file(_GTSRB, 'GTSRB_Final_Training_Images.zip', 'f33fd80ac59bff73c82d25ab499e03a3'),
        _file(_GTSRB, 'GTSRB_Final_Test_Images.zip', 'c7e4e6327067d32654124b0fe9e82185'),
        _file(_GTSRB, 'GTSRB_Final_Test_GT.zip', 'fe31e9c9270bbcd7b84b7f21a9d9d9e5'),
    )),
    'facescrub': Source(100, 20_600, 2_289, readers.read_facescrub, (
        _file('https://github.com/nkundiushuti/facescrub_subset/raw/master/data/', 'facescrub_100.zip'),
    )),
    'notmnist': Source(10, 16_853, 1_873, readers.read_notmnist, (
        _file('https://github.com/nkundiushuti/notmnist_convert/raw/master/', 'notmnist.zip'),
    )),
}  # fmt: skip


def load(names, folder):
    """Each set, name -> npz.Content.

    Raises UserError: sets that are not available (all in one message), a damaged archive or npz.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f'--data: {folder} is not a folder')
    missing = []
    for name in names:
        if (folder / f'{name}.npz').exists():
            continue
        if not os.access(folder, os.W_OK):
            missing.append(f'{name} (nothing can be written in {folder}; put there by hand: {folder / name}.npz)')
            continue
        with lock(folder / f'.{name}.lock'):  # one of several runs makes it, the others wait
            for path in f'{name}.npz', *(file.path for file in SOURCES[name].files):
                remove_partial_files(folder / path)
            if not (folder / f'{name}.npz').exists():
                missing += prepare(name, folder)
    if missing:
        raise UserError(f'no data for {", ".join(missing)}; --experiment demo needs no files')
    again = '; if it is damaged, delete it to have it made again'
    return {name: npz.read(folder / f'{name}.npz', SOURCES[name].n_classes, again) for name in names}


def prepare(name, folder):
    """Make DIR/<name>.npz, from archives that are downloaded if necessary. Returns what is missing, a list of texts."""
    files = SOURCES[name].files
    for file in files:
        try:
            fetch(file, folder)
        except (OSError, HTTPException) as error:
            wanted = ' '.join(str(folder / f.path) for f in files if not (folder / f.path).exists())
            reason = one_line(getattr(error, 'reason', error))
            return [f'{name} (tried {file.url}: {reason}; put there by hand: {wanted})']
    convert(name, folder)
    return []


def fetch(file, folder):
    """Make sure that the file is in `folder`, complete and with its checksum; download it if it is missing.

    Raises OSError if the server cannot be reached, UserError if the file or the download is damaged.
    """
    path = folder / file.path
    if path.exists():
        return _verify(path, file.md5, 'delete it to have it downloaded, or put a whole one there')
    request = urllib.request.Request(file.url, headers={'User-Agent': 'Mozilla/5.0'})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        size = response.length  # None if the server does not send it
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as part:
            bar = tqdm(desc=path.name, total=size, unit='B', unit_scale=True, disable=None)
            with open(part, 'wb') as out, bar:
                while chunk := _read(response, file.url):
                    out.write(chunk)
                    bar.update(len(chunk))
            if size is not None and part.stat().st_size < size:
                raise UserError(f'{file.url}: only {part.stat().st_size} of {size} bytes came; run again')
            _verify(part, file.md5, f'nothing was kept; get {path} from another place', file.url)


def _read(response, url):
    try:
        return response.read(1 << 20)
    except (OSError, HTTPException) as error:
        raise UserError(f'{url}: the download broke off: {one_line(error)}; run again') from error


def _verify(path, md5, advice, shown=None):
    if md5 is None:
        if not zipfile.is_zipfile(path):
            raise UserError(f'{shown or path}: not a whole zip archive: {advice}')
        return
    with open(path, 'rb') as f:
        found = hashlib.file_digest(f, 'md5').hexdigest()
    if found != md5:
        raise UserError(f'{shown or path}: wrong checksum (MD5 {found}, not {md5}): {advice}')


def convert(name, folder):
    """Make DIR/<name>.npz from the archives."""
    source = SOURCES[name]
    where = ', '.join(str(folder / file.path) for file in source.files)
    print(f'{name}: reading {where}', flush=True)
    try:
        train_x, train_y, test_x, test_y = source.read(source, folder)
        arrays = [_as(np.uint8, train_x), _as(np.int64, train_y), _as(np.uint8, test_x), _as(np.int64, test_y)]
    except Exception as error:  # a damaged or malicious archive may raise anything
        unchecked = any(file.md5 is None for file in source.files)  # the others are intact: the cause is elsewhere
        advice = '; if it is damaged, delete it to have it downloaded again' if unchecked else ''
        raise UserError(f'{name}: cannot read {where}: {one_line(error)}{advice}') from error
    npz.check(arrays, source.n_classes, where)
    if (len(arrays[0]), len(arrays[2])) != (source.n_train, source.n_test):
        raise UserError(
            f'{where}: {len(arrays[0])} training and {len(arrays[2])} test images, '
            f'not the {source.n_train} and {source.n_test} of {name}: another version?'
        )
    npz.write(folder / f'{name}.npz', arrays)


def _as(dtype, values):
    values = np.asarray(values)
    converted = np.ascontiguousarray(values.astype(dtype))
    if not np.array_equal(values, converted):
        raise ValueError(f'values that do not fit {np.dtype(dtype).name}')
    return converted

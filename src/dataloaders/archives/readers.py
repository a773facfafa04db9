"""Readers of the official archives of the eight sets, one function for each format.

Each takes a sources.Source and the folder with its files, and returns train_x, train_y, test_x, test_y: images
(N,H,W,C) in grey levels 0..255, labels from 0.
"""

import csv
import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dataloaders.archives import pickles


def read_cifar(source, folder):
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import extract_archive

    dataset = CIFAR10 if source.n_classes == 10 else CIFAR100
    with tempfile.TemporaryDirectory(prefix='.', dir=folder) as extracted:
        extract_archive(folder / source.files[0].path, extracted)
        train, test = dataset(extracted, train=True), dataset(extracted, train=False)
    return train.data, train.targets, test.data, test.targets


def read_mnist(source, folder):
    from torchvision.datasets import MNIST  # also reads Fashion-MNIST, which has the same format
    from torchvision.datasets.utils import extract_archive

    with tempfile.TemporaryDirectory(prefix='.', dir=folder) as extracted:
        raw = Path(extracted, 'MNIST', 'raw')
        raw.mkdir(parents=True)
        for file in source.files:
            extract_archive(folder / file.path, raw)
        train, test = MNIST(extracted, train=True), MNIST(extracted, train=False)
    return train.data.numpy()[..., None], train.targets.numpy(), test.data.numpy()[..., None], test.targets.numpy()


def read_svhn(source, folder):
    from torchvision.datasets import SVHN  # labels 0..9

    train, test = SVHN(folder, 'train'), SVHN(folder, 'test')
    return train.data.transpose(0, 2, 3, 1), train.labels, test.data.transpose(0, 2, 3, 1), test.labels


def read_traffic_signs(source, folder):
    """GTSRB. torchvision's class has another training set (26,640 images) than the paper."""
    train, test, truth = (folder / file.path for file in source.files)
    with zipfile.ZipFile(train) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith('.ppm'))
        train_x, train_y = _signs(archive, names), [int(Path(name).parent.name) for name in names]
    with zipfile.ZipFile(truth) as archive, archive.open('GT-final_test.csv') as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file, 'utf-8'), delimiter=';'))
    with zipfile.ZipFile(test) as archive:
        test_x = _signs(archive, [f'GTSRB/Final_Test/Images/{row["Filename"]}' for row in rows])
    return train_x, train_y, test_x, [int(row['ClassId']) for row in rows]


def _signs(archive, names):
    images = []
    for name in tqdm(names, desc='traffic-signs', unit='image', disable=None):
        with archive.open(name) as file, Image.open(file) as image:
            images.append(np.asarray(image.convert('RGB').resize((32, 32), Image.Resampling.BILINEAR)))
    return np.stack(images)


def read_facescrub(source, folder):
    return _read_pickles(folder / source.files[0].path, 'facescrub_train_100.pkl', 'facescrub_test_100.pkl')


def read_notmnist(source, folder):
    return _read_pickles(folder / source.files[0].path, 'notmnist_train.pkl', 'notmnist_test.pkl')


def _read_pickles(path, *names):
    """A zip of two pickles, each a dict of 'features' (N,C,32,32), grey levels 0..255, and 'labels' (N,)."""
    arrays = []
    with zipfile.ZipFile(path) as archive:
        for name in names:
            with archive.open(name) as file:
                content = pickles.load(file)
            features = np.asarray(content['features'])
            if features.dtype == np.int8:  # FaceScrub's maker put 0..255 into int8, where 128 became -128
                features = features.view(np.uint8)
            arrays += [features.transpose(0, 2, 3, 1), content['labels']]
    return arrays

"""Small archives of the eight sets, in the formats of the official ones, and a server for them on 127.0.0.1."""

import csv
import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import numpy as np
import scipy.io
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, SVHN


class Small(NamedTuple):
    arrays: tuple  # what has to come out: train_x, train_y, test_x, test_y
    files: dict  # path in the data folder -> bytes
    checks: tuple = ()  # (class of torchvision, attribute, value) that holds the checksums of what is inside


def md5(content):
    return hashlib.md5(content).hexdigest()


def draw(n_train, n_test, n_classes, shape, seed=0):
    """Four arrays. Noise: turned, mirrored or with axes exchanged it is another image. All labels' ends occur."""
    rng = np.random.default_rng(seed)
    arrays = []
    for n in n_train, n_test:
        ends = 0, n_classes - 1
        arrays += [rng.integers(0, 256, (n, *shape), np.uint8), rng.permutation([*ends, *rng.integers(*ends, n - 2)])]
    return tuple(arrays)


# CIFAR-10, CIFAR-100: a tar.gz of Python 2's pickles; a row of data is an image, (channel, height, width)


def cifar10():
    train_x, train_y, test_x, test_y = arrays = draw(20, 6, 10, (32, 32, 3))
    names = [f'data_batch_{k}' for k in range(1, 6)]
    members = {name: _batch(train_x[k::5], labels=train_y[k::5]) for k, name in enumerate(names)}
    members['test_batch'] = _batch(test_x, labels=test_y)
    members['batches.meta'] = python2_pickle({'label_names': list('abcdefghij'), 'num_vis': 3072})
    in_order = np.concatenate([np.arange(20)[k::5] for k in range(5)])
    arrays = train_x[in_order], train_y[in_order], test_x, test_y
    return _cifar(CIFAR10, arrays, members, names, ['test_batch'])


def cifar100():
    train_x, train_y, test_x, test_y = arrays = draw(20, 6, 100, (32, 32, 3))
    members = {
        'train': _batch(train_x, fine_labels=train_y, coarse_labels=train_y // 5),
        'test': _batch(test_x, fine_labels=test_y, coarse_labels=test_y // 5),
        'meta': python2_pickle({'fine_label_names': ['a'] * 100, 'coarse_label_names': ['b'] * 20}),
    }
    return _cifar(CIFAR100, arrays, members, ['train'], ['test'])


def _batch(x, **labels):
    lists = {name: values.tolist() for name, values in labels.items()}
    names = [f'{i}.png' for i in range(len(x))]
    rows = x.transpose(0, 3, 1, 2).reshape(len(x), 3072)
    return python2_pickle({'batch_label': 'a batch', **lists, 'data': rows, 'filenames': names})


def _cifar(dataset, arrays, members, train, test):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz') as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f'{dataset.base_folder}/{name}')
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    checks = (
        (dataset, 'train_list', [[name, md5(members[name])] for name in train]),
        (dataset, 'test_list', [[name, md5(members[name])] for name in test]),
        (dataset, 'meta', dataset.meta | {'md5': md5(members[dataset.meta['filename']])}),
    )
    return Small(arrays, {dataset.filename: file.getvalue()}, checks)


# MNIST, Fashion-MNIST: gzipped IDX, big-endian


def mnist(folder='mnist'):
    train_x, train_y, test_x, test_y = arrays = draw(40, 10, 10, (28, 28, 1))
    parts = {
        'train-images-idx3': train_x[..., 0],
        'train-labels-idx1': train_y,
        't10k-images-idx3': test_x[..., 0],
        't10k-labels-idx1': test_y,
    }
    return Small(arrays, {f'{folder}/{name}-ubyte.gz': gzip.compress(_idx(part)) for name, part in parts.items()})


def _idx(array):
    unsigned_byte = 8
    return struct.pack(f'>HBB{array.ndim}I', 0, unsigned_byte, array.ndim, *array.shape) + array.astype('u1').tobytes()


# SVHN: MATLAB files of X (height, width, channel, N) and y (N,1), where 10 means the digit 0


def svhn():
    train_x, train_y, test_x, test_y = arrays = draw(20, 6, 10, (32, 32, 3))
    files = {'train_32x32.mat': _mat(train_x, train_y), 'test_32x32.mat': _mat(test_x, test_y)}
    splits = {s: ['', f'{s}_32x32.mat', md5(files[f'{s}_32x32.mat'])] for s in ('train', 'test')}
    return Small(arrays, files, ((SVHN, 'split_list', splits),))


def _mat(x, y):
    file = io.BytesIO()
    labels = np.where(y == 0, 10, y).astype(np.uint8)
    scipy.io.savemat(file, {'X': x.transpose(1, 2, 3, 0), 'y': labels[:, None]}, do_compression=True)
    return file.getvalue()


# Traffic signs (GTSRB): zips of PPM images of many sizes; the labels of the test images are in a zip of their own

COLUMNS = ('Filename', 'Width', 'Height', 'Roi.X1', 'Roi.Y1', 'Roi.X2', 'Roi.Y2', 'ClassId')


def traffic_signs():
    rng = np.random.default_rng(0)
    sizes = [(32, 32), (32, 32), (15, 25), (64, 64), (47, 31), (32, 33)]  # height, width
    train = {c: [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes] for c in (0, 7, 42)}
    test = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    test_y = [42, 0, 7, 13, 1, 0]

    folder = 'GTSRB/Final_Training/Images'
    training = {'GTSRB/Readme-Images.txt': b'Read me.'}
    for c, images in train.items():
        names = [f'{k // 4:05}_{k % 4:05}.ppm' for k in range(len(images))]  # track_frame
        training |= {f'{folder}/{c:05}/{n}': _ppm(image) for n, image in zip(names, images, strict=True)}
        training[f'{folder}/{c:05}/GT-{c:05}.csv'] = _annotations(COLUMNS, names, images, [c] * len(images))

    folder = 'GTSRB/Final_Test/Images'
    names = [f'{k:05}.ppm' for k in range(len(test))]
    testing = {f'{folder}/{n}': _ppm(image) for n, image in reversed(list(zip(names, test, strict=True)))}
    testing[f'{folder}/GT-final_test.test.csv'] = _annotations(COLUMNS[:-1], names, test)
    truth = {'GT-final_test.csv': _annotations(COLUMNS, names, test, test_y)}

    train_x = np.stack([_resized(image) for images in train.values() for image in images])
    train_y = np.repeat(list(train), len(sizes))
    return Small((train_x, train_y, np.stack([_resized(image) for image in test]), np.array(test_y)), {
        'GTSRB_Final_Training_Images.zip': zipped(training),
        'GTSRB_Final_Test_Images.zip': zipped(testing),
        'GTSRB_Final_Test_GT.zip': zipped(truth),
    })  # fmt: skip


def _ppm(image):
    height, width, _ = image.shape
    return f'P6\n{width} {height}\n255\n'.encode() + image.tobytes()


def _annotations(columns, names, images, labels=()):
    text = io.StringIO()
    table = csv.writer(text, delimiter=';', lineterminator='\r\n')
    table.writerow(columns)
    for k, (name, image) in enumerate(zip(names, images, strict=True)):
        height, width, _ = image.shape
        table.writerow([name, width, height, 5, 5, width - 5, height - 5, *labels[k : k + 1]])
    return text.getvalue().encode()


def _resized(image):
    if image.shape == (32, 32, 3):
        return image
    return np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR))


# FaceScrub, NotMNIST: a zip of two pickles


def facescrub():
    arrays = draw(20, 6, 100, (32, 32, 3))
    # github.com/nkundiushuti/facescrub_subset, facescrub.py: grey levels 0..255 put into int8, where 128 becomes -128
    return Small(arrays, {'facescrub_100.zip': pickles('facescrub_{}_100.pkl', arrays, grey=np.int8)})


def notmnist():
    arrays = draw(20, 6, 10, (32, 32, 1))
    return Small(arrays, {'notmnist.zip': pickles('notmnist_{}.pkl', arrays)})


def pickles(name, arrays, grey=np.uint8, dump=pickle.dumps, labels=lambda y: y.astype(np.uint8)):
    """A zip as those two sets have it; `dump` makes the bytes of a pickle."""
    splits = zip(('train', 'test'), arrays[::2], arrays[1::2], strict=True)
    contents = {s: {'features': x.transpose(0, 3, 1, 2).astype(grey), 'labels': labels(y)} for s, x, y in splits}
    return zipped({name.format(split): dump(content) for split, content in contents.items()})


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


class _Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and NumPy 1 wrote at protocol 2: strings are bytes, arrays are of numpy.core."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        content = value.encode() if isinstance(value, str) else value
        short = len(content) < 256
        self.write((b'U' + bytes([len(content)]) if short else b'T' + struct.pack('<i', len(content))) + content)
        self.memoize(value)

    def save_global(self, value, name=None):
        module = value.__module__.replace('numpy._core', 'numpy.core')
        self.write(f'c{module}\n{name or value.__name__}\n'.encode())
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(value):
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue()


MAKERS = {
    'cifar10': cifar10,
    'cifar100': cifar100,
    'mnist': mnist,
    'svhn': svhn,
    'fashion-mnist': lambda: mnist('fashion-mnist'),
    'traffic-signs': traffic_signs,
    'facescrub': facescrub,
    'notmnist': notmnist,
}


# The server


class Server(ThreadingHTTPServer):
    """Serves `answers` (path -> bytes, or a function of the handler) and keeps the paths asked for in `requests`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.url = f'http://127.0.0.1:{self.server_port}/'
        self.answers, self.requests, self.closing = {}, [], threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.closing.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.removeprefix('/')
        self.server.requests.append(path)
        answer = self.server.answers.get(path)
        if callable(answer):
            answer(self)
        elif answer is None:
            self.send_error(404)
        else:
            send(self, answer, **{'Content-Length': len(answer)})

    def log_message(self, *args):
        pass


def send(handler, body, **headers):
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


# Answers that break off. Each takes the whole content and gives a function of the handler.


def cut(content):
    return lambda handler: send(handler, content[: len(content) // 2], **{'Content-Length': len(content)})


def cut_within_a_chunk(content):
    body = f'{len(content):x}\r\n'.encode() + content[: len(content) // 2]
    return lambda handler: send(handler, body, **{'Transfer-Encoding': 'chunked'})


def stalled(content):
    def answer(handler):
        cut(content)(handler)
        handler.server.closing.wait(10)

    return answer


def no_http(content):
    return lambda handler: handler.wfile.write(b'SSH-2.0-OpenSSH_9.2\r\n')

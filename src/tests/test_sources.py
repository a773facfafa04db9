"""Where the eight sets come from: small archives in the official formats, from a server on 127.0.0.1."""

import errno
import inspect
import io
import os
import pickle
import sys
from typing import NamedTuple

import archives
import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100, GTSRB, MNIST, SVHN, FashionMNIST

import run
from core.errors import UserError
from dataloaders import mixture, npz
from dataloaders.archives import sources

WITH_CHECKSUM = [name for name in mixture.NAMES if name not in ('facescrub', 'notmnist')]
each_set = pytest.mark.parametrize('name', mixture.NAMES)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('no_proxy', '*')
    server = archives.Server()
    yield server
    server.close()


@pytest.fixture
def offer(server, monkeypatch):
    """offer(name): put a small archive of the set on the server, for sources.SOURCES to ask for; returns the Small."""

    def offer(name, **changes):
        small = archives.MAKERS[name]()._replace(**changes)
        real = sources.SOURCES[name]
        assert list(small.files) == [file.path for file in real.files]
        files = tuple(
            sources.File(file.path, server.url + file.path, file.md5 and archives.md5(small.files[file.path]))
            for file in real.files
        )
        counts = {'n_train': len(small.arrays[0]), 'n_test': len(small.arrays[2])}
        monkeypatch.setitem(sources.SOURCES, name, real._replace(files=files, **counts))
        for dataset, attribute, value in small.checks:
            monkeypatch.setattr(dataset, attribute, value)
        server.answers |= small.files
        return small

    return offer


def put(folder, files):
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def listing(folder):
    """All files with their content, and hidden folders."""
    paths = [path for path in folder.rglob('*') if path.is_file() or path.name.startswith('.')]
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in paths}


def assert_same(arrays, expected):
    for found, wanted, dtype in zip(arrays, expected, (np.uint8, np.int64) * 2, strict=True):
        np.testing.assert_array_equal(found, wanted.astype(dtype), strict=True)  # shape and dtype too


def refusal(names, folder, *words):
    """The text of the UserError that load must raise: one line with all the words. The folder stays as it was."""
    before = listing(folder)
    with pytest.raises(UserError) as caught:
        sources.load(names, folder)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    for word in words:
        assert str(word) in text
    assert listing(folder) == before
    return text


# What is read


@each_set
def test_every_pixel_and_label_of_an_archive_is_read(name, offer, tmp_path):
    small = offer(name)
    assert_same(sources.load([name], tmp_path)[name][:4], small.arrays)
    assert sorted(listing(tmp_path)) == sorted([f'{name}.npz', *small.files])


@each_set
def test_a_second_run_downloads_nothing(name, offer, server, tmp_path):
    small = offer(name)
    sources.load([name], tmp_path)
    assert sorted(server.requests) == sorted(small.files)
    for path in small.files:
        (tmp_path / path).unlink()  # nor does it read the archives
    assert_same(sources.load([name], tmp_path)[name][:4], small.arrays)
    assert len(server.requests) == len(small.files)


@each_set
def test_archives_put_there_by_hand_are_not_downloaded(name, offer, server, tmp_path):
    small = offer(name)
    put(tmp_path, small.files)
    assert_same(sources.load([name], tmp_path)[name][:4], small.arrays)
    assert server.requests == []


def test_only_the_archive_that_is_not_there_is_downloaded(offer, server, tmp_path):
    small = offer('mnist')
    missing = 'mnist/t10k-images-idx3-ubyte.gz'
    put(tmp_path, {path: content for path, content in small.files.items() if path != missing})
    assert_same(sources.load(['mnist'], tmp_path)['mnist'][:4], small.arrays)
    assert server.requests == [missing]


def test_a_run_downloads_trains_and_writes_and_a_second_one_downloads_nothing(offer, server, tmp_path):
    offer('mnist')
    output = tmp_path / 'out.txt'
    settings = '--approach sgd --experiment mixture --tasks mnist --width 0.02 --nepochs 1 --device cpu'
    data = tmp_path / 'dat'
    argv = [*settings.split(), '--data', str(data), '--output', str(output)]
    assert run.cli(argv) == 2 and not server.requests  # the folder is not made: its name may be a slip
    data.mkdir()
    run.main(argv)
    assert len(server.requests) == 4
    first = output.read_text()
    assert 0 <= float(first) <= 1
    assert output.with_suffix('.json').exists()
    output.unlink()
    run.main(argv)
    assert len(server.requests) == 4
    assert output.read_text() == first


# What a pickle may hold

PICKLERS = {
    'Python 2': archives.python2_pickle,
    **{f'protocol {n}': lambda value, n=n: pickle.dumps(value, n) for n in (2, 3, 4, 5)},
}
LABELS = {'array': lambda y: y, 'integers': lambda y: y.tolist(), 'numpy scalars': list}


def facescrub_zip(offer, **options):
    """Offer a facescrub archive of another make."""
    arrays = archives.draw(20, 6, 100, (32, 32, 3))
    content = archives.pickles('facescrub_{}_100.pkl', arrays, **options)
    return offer('facescrub', files={'facescrub_100.zip': content})


@pytest.mark.parametrize('labels', LABELS)
@pytest.mark.parametrize('pickler', PICKLERS)
def test_pickles_of_numpy_arrays_load(pickler, labels, offer, tmp_path):
    small = facescrub_zip(offer, dump=PICKLERS[pickler], labels=LABELS[labels])
    assert_same(sources.load(['facescrub'], tmp_path)['facescrub'][:4], small.arrays)


@pytest.mark.parametrize('order', ['C', 'F', 'N last'])
@pytest.mark.parametrize('pickler', PICKLERS)
def test_arrays_load_from_every_order_in_memory(pickler, order, offer, tmp_path):
    def dump(content):
        x = content['features']
        x = np.moveaxis(np.moveaxis(x, 0, -1).copy(), -1, 0) if order == 'N last' else np.asarray(x, order=order)
        return PICKLERS[pickler](content | {'features': x})

    small = facescrub_zip(offer, dump=dump)
    assert_same(sources.load(['facescrub'], tmp_path)['facescrub'][:4], small.arrays)


@pytest.mark.parametrize('grey', ['u1', 'i1', '>i2', 'i8', 'f4', 'f8'])
def test_grey_levels_load_from_every_type_that_holds_them(grey, offer, tmp_path):
    small = facescrub_zip(offer, grey=grey)
    assert_same(sources.load(['facescrub'], tmp_path)['facescrub'][:4], small.arrays)


@pytest.mark.parametrize('shift', [-1, 0.5, 256])
def test_values_that_are_no_grey_levels_are_refused(shift, offer, tmp_path):
    def dump(content):
        return pickle.dumps(content | {'features': content['features'] + shift})

    put(tmp_path, facescrub_zip(offer, grey='f8', dump=dump).files)
    refusal(['facescrub'], tmp_path, 'facescrub_100.zip', 'uint8')


class Call(NamedTuple):
    """Pickled, it asks the reader to call a function, and to set the state of what comes."""

    function: callable
    args: tuple
    state: tuple | None = None

    def __reduce__(self):
        return tuple(self)


HOSTILE = {
    'os.system': lambda marker: Call(os.system, (f'touch {marker}',)),
    'open': lambda marker: Call(open, (str(marker), 'w')),
    'eval': lambda marker: Call(eval, (f'open({str(marker)!r}, "w")',)),
    'numpy': lambda marker: Call(np.save, (f'{marker}.npy', 0)),
    'numpy function': lambda marker: Call(np.ndarray.tofile, (np.zeros(1), str(marker))),
}


@pytest.mark.parametrize('attack', HOSTILE)
def test_a_hostile_pickle_is_refused_and_not_executed(attack, offer, tmp_path):
    (tmp_path / 'dat').mkdir()
    files = facescrub_zip(offer, dump=lambda content: pickle.dumps([HOSTILE[attack](tmp_path / 'marker')])).files
    put(tmp_path / 'dat', files)
    refusal(['facescrub'], tmp_path / 'dat', 'facescrub_100.zip')
    assert [path.name for path in tmp_path.iterdir()] == ['dat']


def test_a_pickle_cannot_import_a_module(offer, tmp_path, monkeypatch):
    module = 'numpy.f2py.diagnose'
    monkeypatch.delitem(sys.modules, module, raising=False)
    put(tmp_path, facescrub_zip(offer, dump=lambda content: f'c{module}\nndarray\n.'.encode()).files)
    refusal(['facescrub'], tmp_path, 'facescrub_100.zip')
    assert module not in sys.modules


FORGED = {
    'an array over a buffer': Call(np.ndarray, ((1,), 'u1', b'x')),  # of dtype object, bytes would become addresses
    'a dtype with a field of objects': Call(
        np.dtype, ('V8', False, True), (4, '|', None, ('a',), {'a': (np.dtype('O'), 0)}, 8, 1, 0, None)
    ),
}


@pytest.mark.parametrize('forgery', FORGED)
def test_a_pickle_cannot_read_memory_through_a_forged_array(forgery, offer, tmp_path):
    def dump(content):
        return pickle.dumps(content | {'extra': FORGED[forgery]})

    put(tmp_path, facescrub_zip(offer, dump=dump).files)
    refusal(['facescrub'], tmp_path, 'facescrub_100.zip')


# What is refused


@each_set
def test_a_truncated_archive_is_refused(name, offer, tmp_path):
    files = offer(name).files
    last = list(files)[-1]
    put(tmp_path, files | {last: files[last][: len(files[last]) // 2]})
    refusal([name], tmp_path, tmp_path / last)


@pytest.mark.parametrize('name', WITH_CHECKSUM)
def test_an_archive_with_a_wrong_checksum_is_refused(name, offer, server, tmp_path):
    files = offer(name).files
    put(tmp_path, files)
    for path in files:
        put(tmp_path, {path: files[path] + b'\0'})
        refusal([name], tmp_path, tmp_path / path, 'checksum')
        put(tmp_path, {path: files[path]})
    assert server.requests == []


@pytest.mark.parametrize('name', WITH_CHECKSUM)
def test_a_download_with_a_wrong_checksum_is_refused(name, offer, server, tmp_path):
    first = next(iter(offer(name).files))
    server.answers[first] += b'\0'
    refusal([name], tmp_path, server.url + first, 'checksum')


BROKEN = [archives.cut, archives.cut_within_a_chunk, archives.stalled, archives.no_http]


@pytest.mark.parametrize('broken', BROKEN, ids=lambda answer: answer.__name__)
@pytest.mark.parametrize('name', ['mnist', 'facescrub'])
def test_a_download_that_breaks_off_is_refused(name, broken, offer, server, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'TIMEOUT', 0.2)
    first, content = next(iter(offer(name).files.items()))
    server.answers[first] = broken(content)
    text = refusal([name], tmp_path, server.url + first)
    assert 'cannot write' not in text


def test_an_interrupted_download_leaves_nothing(offer, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    offer('facescrub')
    monkeypatch.setattr(sources.tqdm, 'update', interrupt)
    with pytest.raises(KeyboardInterrupt):
        sources.load(['facescrub'], tmp_path)
    assert listing(tmp_path) == {}


@pytest.mark.parametrize('state', ['404', 'no server'])
def test_one_message_names_every_set_that_cannot_be_had(state, offer, server, tmp_path):
    files = {name: next(iter(offer(name).files)) for name in mixture.NAMES}
    if state == '404':
        server.answers.clear()
    else:
        server.close()
    words = [word for name in files for word in (f'{name} ', server.url + files[name], tmp_path / files[name])]
    reason = 'Not Found' if state == '404' else 'refused'
    refusal(mixture.NAMES, tmp_path, *words, reason, '--experiment demo')


def test_a_read_only_folder_without_a_set_is_told_which_file_to_put_there(offer, server, tmp_path, monkeypatch):
    for name in 'mnist', 'svhn', 'notmnist':
        offer(name)
    sources.load(['mnist'], tmp_path)
    requests = list(server.requests)
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    refusal(
        ['mnist', 'svhn', 'notmnist'], tmp_path, tmp_path / 'svhn.npz', tmp_path / 'notmnist.npz', '--experiment demo'
    )
    assert list(sources.load(['mnist'], tmp_path)) == ['mnist'] and server.requests == requests


def test_an_npz_is_to_be_deleted_only_if_it_is_damaged(offer, tmp_path, monkeypatch):
    """It may be the only copy, and memory or a permission may be what is missing."""
    offer('mnist')
    sources.load(['mnist'], tmp_path)

    def without_memory(*_):
        raise MemoryError('Unable to allocate 9 GiB')

    monkeypatch.setattr(np, 'memmap', without_memory)
    refusal(['mnist'], tmp_path, 'Unable to allocate 9 GiB; if it is damaged, delete it')


def test_the_message_names_no_set_that_is_there(offer, server, tmp_path):
    for name in 'mnist', 'svhn':
        offer(name)
    sources.load(['mnist'], tmp_path)
    server.answers.clear()
    assert 'mnist' not in refusal(['mnist', 'svhn'], tmp_path, 'svhn').replace(str(tmp_path), '')


@each_set
@pytest.mark.parametrize('split', ['n_train', 'n_test'])
def test_an_archive_with_another_number_of_images_is_refused(name, split, offer, tmp_path, monkeypatch):
    files = offer(name).files
    source = sources.SOURCES[name]
    source = source._replace(**{split: getattr(source, split) + 1})
    monkeypatch.setitem(sources.SOURCES, name, source)
    put(tmp_path, files)
    words = f'{source.n_train} and {source.n_test} of {name}', *(tmp_path / path for path in files)
    refusal([name], tmp_path, *words)


PICKLE_FAULTS = {
    'cut': lambda content: pickle.dumps(content)[:-1000],
    'empty': lambda content: b'',
    'no dict': lambda content: pickle.dumps([content['features'], content['labels']]),
    'no labels': lambda content: pickle.dumps({'features': content['features']}),
    'too few labels': lambda content: pickle.dumps(content | {'labels': content['labels'][1:]}),
    'a label too large': lambda content: pickle.dumps(content | {'labels': content['labels'] + 1}),
    'features of another shape': lambda content: pickle.dumps(content | {'features': content['features'][..., :31]}),
}


@pytest.mark.parametrize('fault', PICKLE_FAULTS)
def test_a_zip_with_a_damaged_pickle_is_refused(fault, offer, tmp_path):
    put(tmp_path, facescrub_zip(offer, dump=PICKLE_FAULTS[fault]).files)
    refusal(['facescrub'], tmp_path, tmp_path / 'facescrub_100.zip')


def test_a_zip_without_its_pickles_is_refused(offer, tmp_path):
    put(tmp_path, offer('facescrub', files={'facescrub_100.zip': archives.zipped({'readme.txt': b''})}).files)
    refusal(['facescrub'], tmp_path, tmp_path / 'facescrub_100.zip', 'facescrub_train_100.pkl')


def test_a_full_disk_leaves_nothing(offer, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, 'No space left on device')

    put(tmp_path, offer('mnist').files)
    monkeypatch.setattr(np, 'savez', full)
    refusal(['mnist'], tmp_path, tmp_path / 'mnist.npz', 'No space left')
    monkeypatch.setitem(sources.SOURCES, 'mnist', sources.SOURCES['mnist']._replace(read=full))
    assert 'delete' not in refusal(['mnist'], tmp_path, 'mnist', 'No space left')  # the archives are whole


def packed(arrays, **changes):
    file = io.BytesIO()
    np.savez(file, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


NPZ_FAULTS = {  # what the file holds, of four good arrays; words of the refusal
    'an array is missing': (lambda a: packed(a, test_y=None), 'test_y'),
    'a label is too large': (lambda a: packed(a, test_y=a['test_y'] + 1), '0..9'),
    'a label is negative': (lambda a: packed(a, train_y=a['train_y'] - 1), '0..9'),
    'labels are int32': (lambda a: packed(a, train_y=a['train_y'].astype(np.int32)), 'int32'),
    'labels are one-hot': (lambda a: packed(a, train_y=np.eye(10, dtype=np.int64)[a['train_y']]), 'int64'),
    'labels are too few': (lambda a: packed(a, train_y=a['train_y'][1:]), 'labels'),
    'images are float': (lambda a: packed(a, test_x=a['test_x'] / 255), 'float64'),
    'images are channel-first': (lambda a: packed(a, test_x=a['test_x'].transpose(0, 3, 1, 2)), '(10, 1, 28, 28)'),
    'images have another size': (lambda a: packed(a, train_x=a['train_x'][:, 1:]), '(40, 27, 28, 1)'),
    'images are small and in colour': (lambda a: packed(a, train_x=a['train_x'].repeat(3, 3)), '--experiment folder'),
    'there are no images': (lambda a: packed(a, test_x=a['test_x'][:0], test_y=a['test_y'][:0]), '(0,)'),
    'an array is one number': (lambda a: packed(a, test_x=np.uint8(0)), 'uint8'),
    'it is no zip': (lambda a: b'<html>Not here</html>', 'cannot be read'),
    'it is empty': (lambda a: b'', 'cannot be read'),
    'it is cut': (lambda a: packed(a)[:-100], 'cannot be read'),
    'it is a pickle': (lambda a: pickle.dumps(a), 'cannot be read'),
    'it is a single array': (lambda a: npy(a['train_x']), 'cannot be read'),
}


@pytest.mark.parametrize('fault', NPZ_FAULTS)
def test_an_npz_that_is_no_data_set_is_refused(fault, offer, server, tmp_path):
    make, word = NPZ_FAULTS[fault]
    arrays = dict(zip(npz.ARRAYS, offer('mnist').arrays, strict=True))
    put(tmp_path, {'mnist.npz': make(arrays)})
    refusal(['mnist'], tmp_path, tmp_path / 'mnist.npz', word)
    assert server.requests == []


def test_an_npz_of_objects_is_refused_and_not_executed(offer, tmp_path):
    (tmp_path / 'dat').mkdir()
    arrays = dict(zip(npz.ARRAYS, offer('mnist').arrays, strict=True))
    hostile = np.empty(1, object)
    hostile[0] = HOSTILE['open'](tmp_path / 'marker')
    put(tmp_path / 'dat', {'mnist.npz': packed(arrays, test_y=hostile)})
    refusal(['mnist'], tmp_path / 'dat', 'mnist.npz')
    assert [path.name for path in tmp_path.iterdir()] == ['dat']


# The table

TABLE = {  # classes, training images, test images
    'cifar10': (10, 50_000, 10_000),
    'cifar100': (100, 50_000, 10_000),
    'mnist': (10, 60_000, 10_000),
    'svhn': (10, 73_257, 26_032),
    'fashion-mnist': (10, 60_000, 10_000),
    'traffic-signs': (43, 39_209, 12_630),
    'facescrub': (100, 20_600, 2_289),
    'notmnist': (10, 16_853, 1_873),
}


def test_the_sets_have_the_published_numbers_of_classes_and_images():
    found = {name: (s.n_classes, s.n_train, s.n_test) for name, s in sources.SOURCES.items()}
    assert found == TABLE
    assert tuple(TABLE) == mixture.NAMES  # in the order of the tasks' numbers


def test_names_addresses_and_checksums_are_those_of_torchvision():
    expected = {
        'cifar10': [(CIFAR10.filename, CIFAR10.url, CIFAR10.tgz_md5)],
        'cifar100': [(CIFAR100.filename, CIFAR100.url, CIFAR100.tgz_md5)],
        'mnist': [(f'mnist/{file}', MNIST.mirrors[0] + file, md5) for file, md5 in MNIST.resources],
        'fashion-mnist': [
            (f'fashion-mnist/{file}', FashionMNIST.mirrors[0] + file, md5) for file, md5 in FashionMNIST.resources
        ],
        'svhn': [(file, url, md5) for url, file, md5 in (SVHN.split_list['train'], SVHN.split_list['test'])],
    }
    for name, files in expected.items():
        assert [tuple(file) for file in sources.SOURCES[name].files] == files

    _, *test = sources.SOURCES['traffic-signs'].files  # the training images are not those of torchvision
    code = inspect.getsource(GTSRB.download)
    for file in test:
        server = file.url.removesuffix(file.path)
        assert f'"{server}"' in code and file.path in code and f'"{file.md5}"' in code


def test_no_two_files_of_the_table_share_a_place():
    paths = [file.path for source in sources.SOURCES.values() for file in source.files]
    assert len(set(paths)) == len(paths)

"""Untrusted pickles: arrays of numbers and Python's built-in containers are loaded, all else is rejected, not executed.

Not even NumPy's own functions are called: given a forged dtype, they would interpret bytes as addresses.
"""

import codecs
import pickle

import numpy as np


def load(file):
    """What the pickle in the open `file` holds. Raises pickle.UnpicklingError where it names anything else."""
    return _Unpickler(file, encoding='latin1').load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        known = _KNOWN.get((module.replace('numpy._core', 'numpy.core'), name))  # as NumPy 2 and 1 call it
        if known is None:
            raise pickle.UnpicklingError(f'the pickle asks for {module}.{name}, only arrays of numbers are allowed')
        return known


class _Dtype:
    def __init__(self, text, *_):
        self.dtype = np.dtype(str(text))
        if self.dtype.kind not in 'biuf':
            raise pickle.UnpicklingError(f'the pickle holds {self.dtype}, only numbers are allowed')

    def __setstate__(self, state):
        if state[1] in ('<', '>'):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    def __setstate__(self, state):
        _, shape, dtype, fortran, data = state
        self.array = _from_buffer(data, dtype, shape, 'F' if fortran else 'C')

    def __array__(self, dtype=None, copy=None):
        return self.array


def _from_buffer(data, dtype, shape, order, axes=None):
    data = data.encode('latin1') if isinstance(data, str) else data  # Python 2 wrote str
    array = np.frombuffer(data, dtype.dtype)
    return array.reshape(shape).transpose(axes) if order == 'K' else array.reshape(shape, order=order)


_KNOWN = {
    ('numpy', 'ndarray'): 'ndarray',  # occurs only as an argument of _reconstruct
    ('numpy', 'dtype'): _Dtype,
    ('numpy.core.multiarray', '_reconstruct'): lambda *_: _Array(),
    ('numpy.core.multiarray', 'scalar'): lambda dtype, data: _from_buffer(data, dtype, (), 'C')[()],
    ('numpy.core.numeric', '_frombuffer'): _from_buffer,
    ('_codecs', 'encode'): codecs.encode,  # how Python 3 writes bytes at protocol 2
}

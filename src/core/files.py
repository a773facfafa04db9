"""Files that appear whole or not at all, and locks between processes."""

import glob
import hashlib
import io
import os
import sys
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from core.errors import Busy, UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

ROOT = Path(__file__).resolve().parents[2]  # of the repository: default paths start here, not in the working directory
POLL = 0.1  # seconds between two attempts to lock, where the system cannot wait for a lock


@contextmanager
def atomic(path):
    """Yield a temporary path beside `path`; move it to `path` if the block succeeds, remove it otherwise.

    A killed process leaves its temporary file behind, for remove_partial_files(). After a power loss `path` is the old
    file or the new one. Raises UserError if the folder cannot be written or the disk is full.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise UserError(f'cannot write {path}: not a file')
    part = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.part')
    try:
        part.touch()
        yield part
        _sync(part)
        os.replace(part, path)
        if fcntl:  # Windows cannot sync a folder
            _sync(path.parent)
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror or error}') from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write(path, content, errors='strict'):
    """Write bytes or a text, by atomic(). errors: of the text's encoding."""
    with atomic(path) as part:
        part.write_bytes(content.encode(errors=errors) if isinstance(content, str) else content)


def serialize(state):
    """The bytes of torch.save; they depend on the state only: not on the name of a file, and not on which equal texts
    and tuples are one object, as they are no more in a run that has resumed."""
    buffer = io.BytesIO()
    torch.save(_apart(state, {}), buffer)
    return buffer.getbuffer()


def _apart(value, made):
    """A copy of a nest of dicts, lists and tuples: equal texts are one object, tuples never are, lists and dicts where
    they were. made: the copies so far, by id."""
    if id(value) in made:
        return made[id(value)]
    if type(value) is str:
        return sys.intern(value)
    if type(value) is tuple:
        return tuple(_apart(inner, made) for inner in value)
    if type(value) is list:
        copied = made[id(value)] = []
        copied += (_apart(inner, made) for inner in value)
        return copied
    if type(value) is dict:
        copied = made[id(value)] = {}
        copied |= ((_apart(key, made), _apart(inner, made)) for key, inner in value.items())
        return copied
    return value


def digest(content):
    """A hash of the content of a file, 16 bytes."""
    return hashlib.blake2b(content, digest_size=16).digest()


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY if fcntl else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial_files(path):
    """Remove the temporary files of killed processes in atomic(path). The caller holds the lock of `path`."""
    for part in path.parent.glob(f'.{glob.escape(path.name)}.*.part'):
        part.unlink(missing_ok=True)


@contextmanager
def lock(path, message=None):
    """Hold the lock file `path` for the block, then remove it. The lock of a killed process is released.

    If another process holds it: waits, or, with a message, raises Busy(message).
    """
    while True:
        try:
            file = open(path, 'ab')  # noqa: SIM115  (closed below)
        except OSError as error:
            raise UserError(f'cannot write {path}: {error.strerror}') from error
        try:
            _hold(file, wait=not message)
        except OSError as error:
            file.close()
            if isinstance(error, BlockingIOError):
                raise Busy(message) from None
            raise UserError(f'cannot lock {path}: {error.strerror}') from error
        if _is_at(file, path):
            break
        file.close()  # its holder has just removed it: try again with a new file
    try:
        yield
    finally:
        if fcntl:
            path.unlink(missing_ok=True)
        file.close()
        if not fcntl:
            with suppress(OSError):  # another process has it open
                path.unlink()


def _hold(file, wait):
    """Lock an open file, until it is closed. If another process has locked it: waits, or raises BlockingIOError."""
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return
    while True:
        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            return
        except PermissionError as error:
            if not wait:
                raise BlockingIOError from error
            time.sleep(POLL)


def _is_at(file, path):
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False

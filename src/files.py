"""Files that appear whole or not at all."""

import os
import uuid
from contextlib import contextmanager
from pathlib import Path

from errors import UserError

ROOT = Path(__file__).resolve().parent.parent  # of the repository: default paths hang on it, not on where one stands


@contextmanager
def atomic(path):
    """Give a temporary path beside `path`; move it to `path` when the block ends well, remove it otherwise.

    Raises UserError where the folder cannot be written or the disk is full.
    """
    path = Path(path)
    part = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.part')
    try:
        part.touch()
        yield part
        os.replace(part, path)
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror or error}') from error
    finally:
        part.unlink(missing_ok=True)

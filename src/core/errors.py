"""What a user is meant to see: one line, what is wrong, where, what to do."""

import codecs
import errno
import importlib.util
import os
import re
import select
import sys
import warnings

FULL = errno.ENOSPC, getattr(errno, 'EDQUOT', errno.ENOSPC)  # no room, or none for this user
NO_MEMORY = re.compile(r"out of memory|(can't allocate|cannot allocate|not enough) memory|ALLOC_FAILED", re.IGNORECASE)
STAND_INS = {'→': '->', '±': '+-', 'ρ': 'rho', 'τ': 'tau', '≤': '<=', '×': 'x'}  # of what we print, in ASCII
CLOSED_PIPE = 141  # what a shell says of a program that SIGPIPE has ended


class UserError(Exception):
    """Bad input, a missing or damaged file, a place that cannot be written."""

    code = 2  # exit code of a script that ends with it


class Busy(UserError):
    """Another process is at it."""

    code = 75  # "try again later", as in sysexits.h


def one_line(error):
    return ' '.join(str(error).split()) or type(error).__name__


def escape(text):
    """What a terminal shows in one line: control characters, and bytes that are no text, as escapes."""
    return ''.join(c if c.isprintable() else _escape(c) for c in text)


def _escape(c):
    byte = '\udc80' <= c <= '\udcff'  # a byte of a path that is not UTF-8
    return f'\\x{ord(c) - 0xDC00:02x}' if byte else c.encode('unicode_escape').decode()


def _stand_in(error):
    """What stands for characters that a terminal, or a file, does not have."""
    wrong = error.object[error.start : error.end]
    return ''.join(STAND_INS.get(c) or _escape(c) for c in wrong), error.end


codecs.register_error('stand-ins', _stand_in)


def complain(name, text):
    print(f'{name}: {escape(text)}', file=sys.stderr)


def require(what, *packages):
    """Raises UserError where an optional package is not installed."""
    if not all(map(importlib.util.find_spec, packages)):
        raise UserError(f'{what}: pip install {" ".join(packages)}')


def out_of_memory(error):
    return isinstance(error, MemoryError) or bool(NO_MEMORY.search(str(error)))


def exit_code(name, main, argv):
    """Run main(argv) of the script `name` for the shell: errors and warnings are one line; 130 after Ctrl-C, 141 where
    nobody reads on what it prints."""
    warnings.formatwarning = lambda message, *_: f'{name}: warning: {escape(one_line(message))}\n'
    for stream in 'stdout', 'stderr':
        if getattr(sys, stream) is None:  # closed
            setattr(sys, stream, open(os.devnull, 'w', encoding='utf-8'))  # noqa: SIM115
    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, 'reconfigure')]
    for stream in streams:
        stream.reconfigure(errors='stand-ins')
    try:
        try:
            return _exit_code(name, main, argv)
        finally:
            for stream in streams:
                stream.flush()
    except BrokenPipeError:
        if not (closed := [stream for stream in streams if _closed(stream)]):
            raise
        for stream in closed:  # Python flushes them once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return CLOSED_PIPE


def _closed(stream):
    """Has its reader gone?"""
    if not hasattr(select, 'poll'):  # Windows
        return True
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return bool(poll.poll(0))


def _exit_code(name, main, argv):
    try:
        return main(argv) or 0
    except UserError as error:
        complain(name, f'error: {error}')
        return error.code
    except KeyboardInterrupt:
        complain(name, 'interrupted; the same command without --fresh goes on from here')
        return 130
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            complain(name, f'error: {error.strerror}; with room, the same command without --fresh goes on')
        elif isinstance(error, OSError) and error.filename is not None:
            complain(name, f'error: {os.fsdecode(error.filename)}: {error.strerror}')
            return UserError.code
        elif out_of_memory(error):
            complain(name, 'error: out of memory; lower --batch-size, --width or, of a batch of runs, --nproc')
        else:
            raise
        return 1

"""Messages for the user: one line that says what is wrong, where, and what to do."""

import codecs
import errno
import importlib.util
import os
import re
import select
import sys
import warnings

DISK_FULL = errno.ENOSPC, getattr(errno, 'EDQUOT', errno.ENOSPC)  # the disk, or the quota of this user
NO_MEMORY = re.compile(r"out of memory|(can't allocate|cannot allocate|not enough) memory|ALLOC_FAILED", re.IGNORECASE)
SUBSTITUTES = {'→': '->', '±': '+-', 'ρ': 'rho', 'τ': 'tau', '≤': '<=', '×': 'x'}  # in ASCII, of what we print
INTERRUPTED = 130  # exit code of a program that Ctrl-C has ended, in a shell
CLOSED_PIPE = 141  # and SIGPIPE


class UserError(Exception):
    """Invalid input, a missing or damaged file, a folder that cannot be written."""

    code = 2  # exit code of the command


class Busy(UserError):
    """Another process holds the lock."""

    code = 75  # "try again later", as in sysexits.h


def one_line(error):
    return ' '.join(str(error).split()) or type(error).__name__


def escape(text):
    """As one printable line: control characters, and bytes that are not UTF-8, as escapes."""
    return ''.join(c if c.isprintable() else _escape(c) for c in text)


def _escape(c):
    is_byte = '\udc80' <= c <= '\udcff'  # of a path that is not UTF-8
    return f'\\x{ord(c) - 0xDC00:02x}' if is_byte else c.encode('unicode_escape').decode()


def _substitute(error):
    """An error handler for encodings: replaces characters that a terminal or a file does not have."""
    characters = error.object[error.start : error.end]
    return ''.join(SUBSTITUTES.get(c) or _escape(c) for c in characters), error.end


codecs.register_error('substitute', _substitute)


def last_words(text, code):
    """Why a process has failed: the last line that it wrote, or its exit code."""
    return [f'exit code {code}', *text.strip().splitlines()][-1]


def complain(name, text):
    print(f'{name}: {escape(text)}', file=sys.stderr)


def require(purpose, *packages):
    """Raises UserError if an optional package is not installed."""
    if not all(map(importlib.util.find_spec, packages)):
        raise UserError(f'{purpose}: pip install {" ".join(packages)}')


def out_of_memory(error):
    return isinstance(error, MemoryError) or bool(NO_MEMORY.search(str(error)))


def exit_code(name, main, argv, trains=False):
    """Run main(argv) of the command `name`. Returns its exit code: 130 after Ctrl-C, 141 if the reader of its output
    has closed the pipe. Errors and warnings are one line each. trains: the command has --fresh, and sizes to reduce."""
    warnings.formatwarning = lambda message, *_: f'{name}: warning: {escape(one_line(message))}\n'
    for stream in 'stdout', 'stderr':
        if getattr(sys, stream) is None:  # closed
            setattr(sys, stream, open(os.devnull, 'w', encoding='utf-8'))  # noqa: SIM115
    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, 'reconfigure')]
    for stream in streams:
        stream.reconfigure(errors='substitute')
    try:
        try:
            return _exit_code(name, main, argv, trains)
        finally:
            for stream in streams:
                stream.flush()
    except BrokenPipeError:
        if not (closed := [stream for stream in streams if _is_closed(stream)]):
            raise
        for stream in closed:  # Python flushes them once more at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return CLOSED_PIPE


def _is_closed(stream):
    """Has its reader closed the pipe?"""
    if not hasattr(select, 'poll'):  # Windows
        return True
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return bool(poll.poll(0))


def _exit_code(name, main, argv, trains):
    repeat = 'repeat the command' + (' without --fresh to resume' if trains else '')
    try:
        return main(argv) or 0
    except UserError as error:
        complain(name, f'error: {error}')
        return error.code
    except KeyboardInterrupt:
        complain(name, f'interrupted; {repeat}')
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            complain(name, f'error: {error.strerror}; free some disk space and {repeat}')
        elif isinstance(error, OSError) and error.filename is not None:
            complain(name, f'error: {os.fsdecode(error.filename)}: {error.strerror}')
            return UserError.code
        elif out_of_memory(error):
            advice = '; reduce --batch-size, --width or, of many runs at a time, --nproc' if trains else ''
            complain(name, f'error: out of memory{advice}')
        elif 'deterministic implementation' in str(error):
            complain(name, f'error: {one_line(error).split(",")[0]}; use another --network or --device cpu')
            return UserError.code
        else:
            raise
        return 1

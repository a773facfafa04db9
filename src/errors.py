"""What a user is meant to see: one line, what is wrong, where, what to do."""

import errno
import sys
import warnings


class UserError(Exception):
    """Bad input, a missing or damaged file, a place that cannot be written."""

    code = 2  # exit code of a script that ends with it


class Busy(UserError):
    """Another process is at it."""

    code = 75  # "try again later", as in sysexits.h


def one_line(error):
    return ' '.join(str(error).split()) or type(error).__name__


def exit_code(name, main, argv):
    """Run main(argv) of the script `name` for the shell: errors and warnings are one line; 130 after Ctrl-C."""
    warnings.formatwarning = lambda message, *_: f'{name}: warning: {message}\n'
    try:
        return main(argv) or 0
    except UserError as error:
        print(f'{name}: error: {error}', file=sys.stderr)
        return error.code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f'{name}: error: {error.strerror}; with room, the same command without --fresh goes on', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'{name}: interrupted; the same command without --fresh goes on from here', file=sys.stderr)
        return 130

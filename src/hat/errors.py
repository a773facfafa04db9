"""What the library says to its user: errors and warnings, in one line each."""

import sys
import warnings


class CannotConvert(ValueError):
    """HAT cannot be put into a network; the message names the operation, where it is, and why."""


def warn(message: str) -> None:
    """A warning at the line of the user's that led to it."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get('__name__', '').split('.')[0] in ('hat', 'torch'):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)

"""Errors and warnings. Each message is one line: what is wrong, where, and what to do."""

import sys
import warnings


class CannotConvert(ValueError):
    """The network cannot be converted. The message names the operation, its module and source line, and the reason."""


def warn(message: str) -> None:
    """Warn at the line of the caller outside this library and torch."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get('__name__', '').split('.')[0] in ('hat', 'torch'):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)

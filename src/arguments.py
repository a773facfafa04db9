"""What the scripts' arguments share: the parser, whose errors are one line (UserError), and kinds of values."""

import argparse
import sys

from approaches import ALIASES
from errors import UserError


class Parser(argparse.ArgumentParser):
    def __init__(self, description, epilog=None):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, epilog=epilog, formatter_class=form, allow_abbrev=False)

    def error(self, message):
        raise UserError(f'{message} (--help lists all arguments)')


def approach(text):
    return ALIASES.get(text, text)


def count(text):
    return _number(text, int, 1)


def seed(text):
    return _number(text, int, 0, 2**32 - 1)  # what numpy.random.RandomState takes


def positive(text):
    return _number(text, float, sys.float_info.min)


def _number(text, kind, low, high=sys.float_info.max):
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not {"a whole number" if kind is int else "a number"}') from None
    if not low <= value <= high:
        bound = 'above 0' if kind is float else f'of at least {low}' if value < low else f'of at most {high}'
        raise argparse.ArgumentTypeError(f'{text} is not a number {bound}')
    return value


def seeds(text):
    """The seeds in '0,2,5-7'."""
    found = []
    for part in text.split(','):
        first, dash, last = part.partition('-')
        try:
            ends = int(first), int(last if dash else first)
        except ValueError:
            ends = 0, -1
        if ends[0] > ends[1]:
            raise argparse.ArgumentTypeError(f'{text!r} is not like 0-9 or 0,2,5-7')
        found += range(seed(str(ends[0])), seed(str(ends[1])) + 1)
    return list(dict.fromkeys(found))


def names(known):
    """A type: all or some of the names in `known`, comma-separated."""

    def parse(text):
        found = list(known) if text == 'all' else [approach(name) for name in text.split(',')]
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f'{unknown[0]!r} is none of {", ".join(known)}')
        return list(dict.fromkeys(found))

    return parse

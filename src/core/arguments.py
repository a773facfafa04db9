"""What the scripts' arguments share: the parser, whose errors are one line (UserError), and kinds of values."""

import argparse
import sys

from core.errors import UserError

MANY, FEW = 1_000_000, 1_000  # the most of what costs little, and of what costs a run, a task or a measurement each
SHOWN = 40  # characters of a value that is refused


class Parser(argparse.ArgumentParser):
    def __init__(self, description, epilog=None, prog=None):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, epilog=epilog, formatter_class=form, allow_abbrev=False)

    def print_help(self, file=None):
        print(self.format_help(), end='', file=file)  # argparse is silent where nobody reads

    def error(self, message):
        raise UserError(f'{message} (--help lists all arguments)')


def count(text):
    return _number(text, int, 1, MANY)


def few(text):
    return _number(text, int, 1, FEW)


def parallel(text):
    return _number(text, int, 1, 1024)  # processes or threads at a time


def seed(text):
    return _number(text, int, 0, 2**32 - 1)  # what numpy.random.RandomState takes


def positive(text):
    return _number(text, float, sys.float_info.min, sys.float_info.max)


def width(text):
    return _number(text, float, sys.float_info.min, 100)  # memory grows with its square


def _number(text, kind, low, high):
    shown = _shown(text)
    try:
        value = kind(text)
    except ValueError:
        what = 'a whole number' if kind is int else 'a number'
        raise argparse.ArgumentTypeError(f'{shown!r} is not {what}') from None
    if not low <= value <= high:
        over = value > high and high < sys.float_info.max
        bound = f'of at most {high}' if over else 'above 0' if kind is float else f'of at least {low}'
        raise argparse.ArgumentTypeError(f'{shown} is not a number {bound}')
    return value


def _shown(text):
    return text if len(text) <= SHOWN else f'{text[:SHOWN]}...'


def seeds(text):
    """The seeds in '0,2,5-7'."""
    found = {}
    for part in text.split(','):
        first, dash, last = part.partition('-')
        try:
            ends = int(first), int(last if dash else first)
        except ValueError:
            ends = 0, -1
        if ends[0] > ends[1]:
            raise argparse.ArgumentTypeError(f'{_shown(text)!r} is not like 0-9 or 0,2,5-7')
        first, last = (seed(str(end)) for end in ends)
        if last - first >= FEW or len(found := found | dict.fromkeys(range(first, last + 1))) > FEW:
            raise argparse.ArgumentTypeError(f'{_shown(text)} are more than {FEW} seeds')
    return list(found)


def words(text):
    """'a,b' -> ['a', 'b']; none is empty."""
    found = text.split(',')
    if '' in found:
        raise argparse.ArgumentTypeError(f'{text!r}: a name is empty; names stand as A,B,...')
    return found


def names(known, name=str):
    """A type: all or some of the names in `known`, comma-separated; name: a function of each."""

    def parse(text):
        found = list(known) if text == 'all' else [name(part) for part in text.split(',')]
        if unknown := [each for each in found if each not in known]:
            raise argparse.ArgumentTypeError(f'{unknown[0]!r} is none of {", ".join(known)}')
        return list(dict.fromkeys(found))

    return parse

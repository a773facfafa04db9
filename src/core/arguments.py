"""What the commands' argument parsers share: one-line errors (UserError) and argument types."""

import argparse
import sys
from functools import partial

from core.errors import UserError

MAX_FEW = 1_000  # of what costs a run, a task or a measurement each
MAX_SHOWN = 40  # characters of a rejected value in its message


class Parser(argparse.ArgumentParser):
    def __init__(self, description, epilog=None, prog=None):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, epilog=epilog, formatter_class=form, allow_abbrev=False)
        self.register('action', None, Store)

    def print_help(self, file=None):
        print(self.format_help(), end='', file=file)  # argparse hides a broken pipe

    def error(self, message):
        raise UserError(f'{message} (--help lists all arguments)')


class Store(argparse.Action):
    """Stores a value. A list, whose metavar has a comma, may not be given twice: the first one would be lost without a
    word. Of other options the last one counts."""

    given = False

    def __call__(self, parser, namespace, values, option_string=None):
        if values == []:  # of --name=--, in Python 3.11
            parser.error(f'{option_string}: expected a value, not --')
        if self.given and ',' in (self.metavar or ''):
            parser.error(f'{option_string} is given twice; give one list {self.metavar}')
        self.given = True
        setattr(namespace, self.dest, values)


def _number(text, kind, low, high):
    shown = _shorten(text)
    try:
        value = kind(text)
    except ValueError:
        expected = 'a whole number' if kind is int else 'a number'
        raise argparse.ArgumentTypeError(f'{shown!r} is not {expected}') from None
    if not low <= value <= high:
        too_large = value > high and high < sys.float_info.max
        bound = f'of at most {high}' if too_large else 'above 0' if kind is float else f'of at least {low}'
        raise argparse.ArgumentTypeError(f'{shown} is not a number {bound}')
    return value


def _shorten(text):
    return text if len(text) <= MAX_SHOWN else f'{text[:MAX_SHOWN]}...'


count = partial(_number, kind=int, low=1, high=1_000_000)  # of what costs little
few = partial(_number, kind=int, low=1, high=MAX_FEW)
parallel = partial(_number, kind=int, low=1, high=1024)  # processes or threads at a time
side = partial(_number, kind=int, low=20, high=256)  # of an image: a smaller one vanishes in the convolutions
seed = partial(_number, kind=int, low=0, high=2**32 - 1)  # what numpy.random.RandomState accepts
positive = partial(_number, kind=float, low=sys.float_info.min, high=sys.float_info.max)
width = partial(_number, kind=float, low=sys.float_info.min, high=100)  # memory grows with its square


def seeds(text):
    """'0,2,5-7' -> [0, 2, 5, 6, 7]."""
    numbers = {}  # as an ordered set
    for part in text.split(','):
        first, dash, last = part.partition('-')
        try:
            ends = int(first), int(last if dash else first)
        except ValueError:
            ends = 0, -1
        if ends[0] > ends[1]:
            raise argparse.ArgumentTypeError(f'{_shorten(text)!r} is not like 0-9 or 0,2,5-7')
        first, last = (seed(str(end)) for end in ends)
        if last - first >= MAX_FEW or len(numbers := numbers | dict.fromkeys(range(first, last + 1))) > MAX_FEW:
            raise argparse.ArgumentTypeError(f'{_shorten(text)} are more than {MAX_FEW} seeds')
    return list(numbers)


def words(text):
    """'a,b' -> ['a', 'b']; none is empty."""
    parts = text.split(',')
    if '' in parts:
        raise argparse.ArgumentTypeError(f'{text!r}: empty name in a list A,B,...')
    return parts


def names(known, canonical=str, every=None):
    """A type: some of the names in `known`, comma-separated, or 'all': those in `every` (default: in `known`).
    canonical: maps an alias to its name."""

    def parse(text):
        chosen = list(every or known) if text == 'all' else [canonical(part) for part in text.split(',')]
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f'{unknown[0]!r} is none of {", ".join(known)}')
        return list(dict.fromkeys(chosen))

    return parse

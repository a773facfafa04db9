"""Hyper-parameters: how an approach declares them, and how the text of --parameter is parsed."""

import math
from typing import NamedTuple

from core.errors import UserError


def show(values):
    """A dict of values as the text of --parameter."""
    return ','.join(f'{name}={short(value)}' for name, value in values.items())


def short(value):
    """A value as text: a float with few digits, but enough that it is the same."""
    return text if isinstance(value, float) and float(text := format(value, 'g')) == value else str(value)


MOST = 1e30  # the largest value; that of float32 is 3e38


class Parameter(NamedTuple):
    default: float | int | str
    grid: tuple = ()  # values for a search with one seed; for the paper's methods its own (section 4, "Baselines")
    low: float = -math.inf  # the smallest valid value
    choices: tuple = ()  # all valid values, if they are few
    high: float = MOST  # the largest valid value

    def check(self, name, text):
        try:
            value = type(self.default)(text)
        except ValueError:
            kind = f'a whole number, as its default {self.default}' if isinstance(self.default, int) else 'a number'
            raise UserError(f'--parameter: {name} must be {kind}, not {text!r}') from None
        if self.choices and value not in self.choices:
            raise UserError(f'--parameter: {name} must be one of {", ".join(map(str, self.choices))}, not {text}')
        low = max(self.low, -MOST)
        if not self.choices and not low <= value <= self.high:
            raise UserError(f'--parameter: {name} must be a number from {low:g} to {self.high:g}, not {text}')
        return value


def parse(text, declared):
    """The values of all `declared` parameters (name -> Parameter), from '0.75,400', 'smax=400' or '0.75,smax=400'."""
    values = {name: p.default for name, p in declared.items()}
    known = f'it takes {", ".join(f"{n} ({p.default})" for n, p in declared.items())}' if declared else 'it takes none'
    items = [item.strip() for item in text.split(',')] if text else []
    if len(items) > len(declared):
        raise UserError(f'--parameter: {len(items)} values are too many for this approach: {known}')
    given = set()
    for position, item in enumerate(items):
        name, equals, value = item.rpartition('=')
        name = name.strip() if equals else list(declared)[position]
        if name not in declared or name in given:
            raise UserError(f'--parameter: {"twice" if name in given else "unknown"}: {name!r}; {known}')
        given.add(name)
        values[name] = declared[name].check(name, value.strip())
    return values

"""In what do runs differ? The facts of a run are a dict: name -> value, or name -> a dict of values."""

import json
from collections import Counter

from core.hyperparameters import short


def agree(a, b):
    """Do both have the same values under the names that they share?"""
    return all(a[name] == b[name] for name in a.keys() & b.keys())


def differences(facts, others):
    """Yield (name, value, other value) for each difference under the names that both have; within a dict the name is
    such as 'versions: torch'."""
    for name in (name for name in facts if name in others):
        a, b = facts[name], others[name]
        if isinstance(a, dict) or isinstance(b, dict):
            a, b = (each if isinstance(each, dict) else {} for each in (a, b))
            yield from ((f'{name}: {key}', a.get(key), b.get(key)) for key in {**b, **a} if a.get(key) != b.get(key))
        elif a != b:
            yield name, a, b


def explain(differing):
    """Texts such as 'width is 0.5, not 1', of what differences() gives."""
    return [f'{name} is {_show(value)}, not {_show(other)}' for name, value, other in differing]


def _show(value):
    return 'none' if value is None else ','.join(map(str, value)) if isinstance(value, list) else short(value)


def majority(many, defaults):
    """The facts that most of several runs share; on a tie those nearest to the defaults, then those of the first run.

    Runs need not have the same names: what is known of a task is compared among the runs that have learned it.
    """
    texts = [json.dumps(facts, sort_keys=True) for facts in many]
    distinct, counts = dict(zip(texts, many, strict=True)), Counter(texts)

    def rank(text):
        facts = distinct[text]
        agreeing = sum(counts[other] for other, others in distinct.items() if agree(facts, others))
        return -agreeing, sum(facts.get(name) != value for name, value in defaults.items())

    common = {}
    for text in sorted(distinct, key=rank):
        if agree(common, distinct[text]):
            common |= distinct[text]
    return common

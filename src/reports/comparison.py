"""What results have in common. Facts of a result: name -> value, or a dict of values."""

import json
from collections import Counter


def agree(a, b):
    """Are the facts that both have the same?"""
    return all(a[name] == b[name] for name in a.keys() & b.keys())


def majority(many, defaults):
    """Of facts of several results, those in which most agree; as many as the defaults, or the first, where it is a tie.

    Not all need have the same names: what is said of a task is compared where it was learned.
    """
    texts = [json.dumps(facts, sort_keys=True) for facts in many]
    distinct, counts = dict(zip(texts, many, strict=True)), Counter(texts)

    def rank(text):
        facts = distinct[text]
        agreeing = sum(counts[other] for other, its in distinct.items() if agree(facts, its))
        return -agreeing, sum(facts.get(name) != value for name, value in defaults.items())

    common = {}
    for text in sorted(distinct, key=rank):
        if agree(common, distinct[text]):
            common |= distinct[text]
    return common


def differences(facts, common):
    """Texts such as 'width is 0.5, not 1'."""
    found = []
    for name, value in facts.items():
        other = common.get(name, value)
        pairs = {name: (value, other)}
        if isinstance(value, dict):
            pairs = {f'{name}: {key}': (value.get(key), other.get(key)) for key in {**other, **value}}
        found += [f'{what} is {show(a)}, not {show(b)}' for what, (a, b) in pairs.items() if a != b]
    return found


def show(value):
    if isinstance(value, float):
        return f'{value:g}'
    return 'none' if value is None else ','.join(value) if isinstance(value, list) else str(value)

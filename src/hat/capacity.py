"""What of a network the tasks use (section 4.4): units whose attention is above 1/2, and the weights between them."""

import itertools
from math import prod


def active(masks):
    """The units of each layer that are in use: a list of (N,) bool, on the CPU, from a list of attention (N,)."""
    return [(a > 0.5).cpu() for a in masks]


def either(units, others):
    """The units that one of two tasks uses, or both do; lists of (N,) bool."""
    return [u | v for u, v in zip(units, others, strict=True)]


def both(units, others):
    """The units that both of two tasks use; lists of (N,) bool."""
    return [u & v for u, v in zip(units, others, strict=True)]


def count_weights(weights, units):
    """How many weights lie between the chosen units, one number for each layer.

    This is Eq. 2's min(a_out, a_in), binarized and summed up, without making that matrix.

    weights  iterable of (weight or bias, l, l_in): the layer it belongs to and the one it reads; l_in is None for the
             input data and for a bias, whose every input counts
    units    list of (N,) bool, one for each layer
    """
    counts = [0] * len(units)
    for weight, l, l_in in weights:
        fan_in = prod(weight.shape[1:])  # of one output unit
        share = (1, 1) if l_in is None else (int(units[l_in].sum()), len(units[l_in]))
        counts[l] += int(units[l].sum()) * fan_in * share[0] // share[1]
    return counts


def usage(weights, tasks):
    """Who uses what, in numbers of weights: a dict of lists.

    weights  as of count_weights
    tasks    for each task, in the order of learning, its units as of active()

    weights   of each layer in all, [layer]
    active    of each task, [task][layer]
    capacity  of all tasks up to this one together, [task][layer]: what Eq. 2 protects (Fig. 5)
    reuse     used by both of two tasks, [task][task], all layers together; on the diagonal by one (Fig. 6)
    """
    weights = list(weights)
    so_far = list(itertools.accumulate(tasks, either))
    return {
        'weights': count_weights(weights, [u | True for u in tasks[0]]),
        'active': [count_weights(weights, units) for units in tasks],
        'capacity': [count_weights(weights, units) for units in so_far],
        'reuse': [[sum(count_weights(weights, both(units, others))) for others in tasks] for units in tasks],
    }

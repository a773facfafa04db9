"""What of a network the tasks use (section 4.4): units whose attention is above 1/2, and the weights between them."""

import itertools


def active(masks):
    """The units of each gate that are in use: a list of (N,) bool, on the CPU, from a list of attention (N,)."""
    return [(a > 0.5).cpu() for a in masks]


def either(units, others):
    """The units that one of two tasks uses, or both do; lists of (N,) bool."""
    return [u | v for u, v in zip(units, others, strict=True)]


def both(units, others):
    """The units that both of two tasks use; lists of (N,) bool."""
    return [u & v for u, v in zip(units, others, strict=True)]


def count_weights(network, units):
    """How many shared weights lie between the chosen units, one number for each of network.plan.layers.

    This is Eq. 2's min(a_out, a_in), binarized and summed up; where a_out hangs on rows alone and a_in on columns,
    without making the matrix.

    units  list of (N,) bool, one for each of network.plan.gates
    """
    plan = network.plan
    counts = [0] * len(plan.layers)
    chosen = plan.units.attention([u.double().to(network.learned.device) for u in units]).cpu()
    for name, (layer, writes, reads) in plan.shared.items():
        size, ends = network.shared[name].numel(), [chosen[u.cpu()] for u in (writes, reads) if u is not None]
        if len(ends) == 2 and all(1 in pair for pair in zip(ends[0].shape, ends[1].shape, strict=True)):
            share = ends[0].mean() * ends[1].mean()
        else:
            share = (ends[0] if len(ends) == 1 else ends[0] * ends[1]).mean()
        counts[layer] += round(float(share) * size)
    return counts


def usage(network, tasks):
    """Who uses what, in numbers of weights: a dict of lists.

    tasks  for each task, in the order of learning, its units as of active()

    weights   of each layer in all, [layer]
    active    of each task, [task][layer]
    capacity  of all tasks up to this one together, [task][layer]: what Eq. 2 protects (Fig. 5)
    reuse     used by both of two tasks, [task][task], all layers together; on the diagonal by one (Fig. 6)
    """
    so_far = list(itertools.accumulate(tasks, either))
    return {
        'weights': count_weights(network, [u | True for u in tasks[0]]),
        'active': [count_weights(network, units) for units in tasks],
        'capacity': [count_weights(network, units) for units in so_far],
        'reuse': [[sum(count_weights(network, both(units, others))) for others in tasks] for units in tasks],
    }


def used(network):
    """What each learned task uses: {task: {layer: {'units': n, 'of': N, 'weights': n}}}, for layers that have gates."""
    report = {}
    for task, done in enumerate(network.done):
        if done:
            units = active(network.masks(task))
            counts = dict(zip(network.plan.layers, count_weights(network, units), strict=True))
            named = zip(network.plan.gates, units, strict=True)
            report[task] = {n: {'units': int(u.sum()), 'of': len(u), 'weights': counts[n]} for n, u in named}
    return report

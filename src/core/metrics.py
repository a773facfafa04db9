"""Metrics, computed from the accuracy matrix of a run: row t, column tau <= t is the test accuracy of task tau after
learning task t."""

import numpy as np


def square(rows, n_tasks):
    """The accuracy matrix, (T, T), from the rows so far, row t with t + 1 accuracies; 0 elsewhere."""
    accuracy = np.zeros((n_tasks, n_tasks))
    for t, row in enumerate(rows):
        accuracy[t, : t + 1] = row
    return accuracy


def average_accuracies(accuracy):
    """A<=t for t = 1 .. T, (T,): the mean accuracy of tasks 1 .. t after learning task t."""
    return np.array([accuracy[t, : t + 1].mean() for t in range(len(accuracy))])


def average_forgetting(accuracy):
    """Mean over all tasks but the last of the drop from when it was learned to the end; 0 for a single task."""
    return 0.0 - backward_transfer(accuracy)  # never -0.0


def backward_transfer(accuracy):
    """BWT (Lopez-Paz & Ranzato 2017, Eq. 3), from R, the accuracy matrix of T tasks; 0 for a single task.

    BWT = 1 / (T - 1) * sum over i = 1 .. T - 1 of (R[T, i] - R[i, i])
    """
    gain = accuracy[-1] - accuracy.diagonal()
    return float(gain[:-1].mean()) if len(gain) > 1 else 0.0


def forward_transfer(before, initial):
    """FWT (Lopez-Paz & Ranzato 2017, Eq. 4); 0 for a single task.

    FWT = 1 / (T - 1) * sum over i = 2 .. T of (R[i - 1, i] - b[i])

    before   R[i - 1, i], the test accuracy of each task just before it is learned, (T,)
    initial  b[i], the test accuracy of each task with the initial weights, (T,)

    With a head for each task, the head of a task not yet learned is random, so FWT says little: it is noise, of many
    points where a task has few classes.
    """
    gain = np.subtract(before, initial)
    return float(gain[1:].mean()) if len(gain) > 1 else 0.0


def forgetting_ratio(accuracy, joint, random):
    """rho<=t for t = 1 .. T, (T,), from three accuracy matrices of the same tasks (HAT, Eq. 6).

        rho(tau <= t) = (A(tau <= t) - A_R(tau <= t)) / (A_J(tau <= t) - A_R(tau <= t)) - 1

    and rho<=t is its mean over tau = 1 .. t: 0 is as good as joint training, -1 no better than chance; nan or infinite
    where joint training itself is no better than chance.
    """
    rows = zip(accuracy, joint, random, strict=True)
    with np.errstate(divide='ignore', invalid='ignore'):
        return np.array([((a[:t] - r[:t]) / (j[:t] - r[:t]) - 1).mean() for t, (a, j, r) in enumerate(rows, 1)])

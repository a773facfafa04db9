"""The diagonal of the Fisher information, for EWC and IMM-mode."""

import torch
import torch.nn.functional as F

from approaches.common.gradients import mean_over_images


def fisher(net, task, t):
    """Mean over the training images of task t of the squared gradient of log p(label | image), of each shared weight.

    Of single images, in evaluation mode, of the cross-entropy alone. Returns a list, as net.blocks.parameters().
    The label is the given one; with labels drawn from p(. | image), as in Lee et al. 2017, IMM-mode ends a point lower
    (DIFFERENCES.md).
    Original: squares of the gradients of batches of 20, dropout on; for IMM with the L2-transfer term.
    """
    return mean_over_images(torch.square, F.cross_entropy, net, task, t)

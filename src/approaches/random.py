"""Random: a stratified random classifier, the reference A_R of the forgetting ratio (HAT, Eq. 6).

It predicts class c with its frequency in the training images; the expected accuracy is computed without sampling.
"""

import math

import torch

from approaches.base import Approach


class Random(Approach):
    def learn(self, t, after_epoch=None):
        return []

    def evaluate(self, t, images):
        """Loss (of a classifier of probabilities 0 or 1: infinite) and accuracy, the sum over c of p_train(c) p(c)."""
        labels = self.tasks[t].train.y.cpu(), images.y.cpu()  # not every device has float64
        train, given = (torch.bincount(y, minlength=self.tasks[t].n_classes).double() for y in labels)
        return math.inf, float(train @ given / (train.sum() * given.sum()))

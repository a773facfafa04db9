"""Random: a stratified random classifier, the reference A_R of the forgetting ratio (HAT, Eq. 6).

It answers class c as often as c stands in the training images; its expected accuracy needs no sampling.
"""

import math

import torch

from approaches.base import Approach


class Random(Approach):
    def learn(self, t, after_epoch=None):
        return []

    def evaluate(self, t, images):
        """Loss (of a classifier of probabilities 0 or 1: infinite) and accuracy, the sum over c of p_train(c) p(c)."""
        labels = self.tasks[t].train.y.cpu(), images.y.cpu()  # float64 is not everywhere
        train, given = (torch.bincount(y, minlength=self.tasks[t].n_classes).double() for y in labels)
        return math.inf, float(train @ given / (train.sum() * given.sum()))

"""SGD: the plain protocol with dropout (Goodfellow et al. 2014). Nothing is done against forgetting."""

from approaches.base import Approach


class SGD(Approach):
    pass

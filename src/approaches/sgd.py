"""SGD: the plain protocol with dropout (Goodfellow et al. 2014). No measure against forgetting."""

from approaches.base import Approach


class SGD(Approach):
    pass

"""The approaches, by name. A new one is a file and a line here."""

from approaches.hat import HAT
from approaches.sgd import SGD

APPROACHES = {
    'hat': HAT,
    'sgd': SGD,
}

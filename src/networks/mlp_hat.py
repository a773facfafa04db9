"""Two fully-connected layers with gates, for the MNIST experiments (the original code's HAT, as published).

5,600,010 parameters on mnist2, 5,812,100 on pmnist: three times the baselines' mlp.
"""

from networks.gated import Gated
from networks.layers import Layer


class Net(Gated):
    layers = (Layer(2000, 0.5),) * 2
    input_dropout = 0.2

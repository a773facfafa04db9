"""AlexNet-like network: three convolutions, two fully-connected layers, one head for each task (paper, section 4)."""

from torch import nn

from networks.dropout import Dropout


class Net(nn.Module):
    """Input (B, 3, 32, 32) float, output (B, classes[t]) logits of task t. 7,104,229 parameters on the mixture."""

    def __init__(self, shape, classes, width=1):
        super().__init__()
        channels, size, _ = shape
        self.units = [max(1, round(n * width)) for n in (64, 128, 256, 2048, 2048)]
        blocks = []
        for n, kernel, dropout in zip(self.units, (4, 3, 2), (0.2, 0.2, 0.5), strict=False):
            blocks.append(
                nn.Sequential(nn.Conv2d(channels, n, kernel), nn.ReLU(), Dropout(dropout), nn.MaxPool2d(2))
            )
            channels, size = n, (size - kernel + 1) // 2
        features = channels * size * size
        for n in self.units[3:]:
            blocks.append(nn.Sequential(nn.Flatten(), nn.Linear(features, n), nn.ReLU(), Dropout(0.5)))
            features = n
        self.blocks = nn.ModuleList(blocks)
        self.heads = nn.ModuleList(nn.Linear(features, n) for n in classes)

    def features(self, x):
        """Output of the last hidden layer, (B, units[-1])."""
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, x, t):
        return self.heads[t](self.features(x))

"""Small networks, each with something that connects units in its own way. Input (B, 3, 8, 8), output (B, 4)."""

import torch
import torch.nn.functional as F
from torch import nn


def conv(n_in, n_out, kernel=3, **more):
    return nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, **more)


def pooled():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two, self.fc = conv(3, 8), conv(8, 6), conv(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        h = torch.relu(self.stem(x))
        h = torch.relu(h + self.two(torch.relu(self.one(h))))
        return self.fc(h.mean((2, 3)))


class Concatenated(nn.Module):
    """Densely: a norm before each layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.grow = conv(3, 5), nn.BatchNorm2d(5), conv(5, 4)
        self.last, self.fc = nn.BatchNorm2d(9), nn.Linear(9, 4)

    def forward(self, x):
        h = self.stem(x)
        h = torch.cat([h, self.grow(F.relu(self.norm(h)))], 1)
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.last(h)), 1).flatten(1))


class Twice(nn.Module):
    """A layer that is used twice, on different units."""

    def __init__(self):
        super().__init__()
        self.stem, self.other, self.again, self.fc = conv(3, 6), conv(3, 6), conv(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        h = torch.relu(self.again(torch.relu(self.stem(x))))
        h = torch.relu(self.again(torch.relu(self.other(h[:, :3]))))
        return self.fc(h.mean((2, 3)))


class Squeezed(nn.Module):
    """Squeeze and excitation: a product."""

    def __init__(self):
        super().__init__()
        self.stem, self.down, self.up, self.fc = conv(3, 8), conv(8, 4, 1), conv(4, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        h = F.hardswish(self.stem(x))
        scale = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(h, 1)))))
        return self.fc((h * scale).mean((2, 3)))


class Shuffled(nn.Module):
    """Halves, a channel shuffle, and a gated linear unit."""

    def __init__(self):
        super().__init__()
        self.stem, self.right, self.wide, self.fc = conv(3, 8), conv(4, 4), conv(8, 12), nn.Linear(6, 4)

    def forward(self, x):
        left, right = torch.relu(self.stem(x)).chunk(2, 1)
        h = torch.cat([left, torch.relu(self.right(right))], 1)
        h = h.view(len(h), 2, 4, *h.shape[2:]).transpose(1, 2).flatten(1, 2)
        return self.fc(F.glu(self.wide(h), 1).mean((2, 3)))


class Attention(nn.Module):
    """Patches, a class token, positions, layer norm, self-attention, and attention to something else."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8) * 0.1)
        self.before, self.after = nn.LayerNorm(8), nn.LayerNorm(8)
        self.mixed = nn.MultiheadAttention(8, 2, batch_first=True)
        self.crossed = nn.MultiheadAttention(8, 2, batch_first=True)
        self.one, self.two, self.scale = nn.Linear(8, 12), nn.Linear(12, 8), nn.Parameter(torch.ones(8) * 0.5)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        patches = self.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.position
        normal = self.before(h)
        h = h + self.mixed(normal, normal, normal, need_weights=False)[0]
        h = h + self.crossed(self.before(h), patches, patches, need_weights=False)[0]
        h = h + self.scale * self.two(F.gelu(self.one(self.after(h))))
        return self.fc(h[:, 0])


NETS = {
    'mlp': lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(),
                                 nn.Linear(6, 4)),
    'flatten': lambda: nn.Sequential(conv(3, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(80, 6), nn.ReLU(),
                                     nn.Linear(6, 4)),
    'residual': Residual,
    'concatenated': Concatenated,
    'grouped': lambda: nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6, groups=2), nn.ReLU(), pooled(), nn.Linear(6, 4)),
    'depthwise': lambda: nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU6(), conv(8, 8, groups=8),
                                       nn.BatchNorm2d(8), nn.ReLU6(), conv(8, 6, 1), nn.ReLU6(), pooled(),
                                       nn.Linear(6, 4)),
    'twice': Twice,
    'squeezed': Squeezed,
    'shuffled': Shuffled,
    'attention': Attention,
    'layer norm': lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 6),
                                        nn.ReLU(), nn.Linear(6, 4)),
    'group norm': lambda: nn.Sequential(conv(3, 8), nn.GroupNorm(2, 8), nn.ReLU(), conv(8, 6),
                                        nn.InstanceNorm2d(6, affine=True), nn.PReLU(6), pooled(), nn.Linear(6, 4)),
    'transposed': lambda: nn.Sequential(conv(3, 4), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, 2), nn.ReLU(),
                                        nn.ConvTranspose2d(6, 4, 2, 2, groups=2), nn.ReLU(), pooled(), nn.Linear(4, 4)),
}  # fmt: skip

"""Small networks, each with something of its own that people do: the inputs, the parts, and what is done with them.

NETWORKS has them by name: a function that builds the network, and one for each of its inputs.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

N = 4  # classes
NETWORKS = {}


class Net(nn.Module):
    """Parts by name, modules, parameters, buffers or else; and a function of the network and its inputs."""

    def __init__(self, run, parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs):
        return self.run(self, *inputs)


def network(inputs, parts):
    """Make a network of the function that stands below it. parts: a function that makes a dictionary of them."""

    def register(run):
        NETWORKS[run.__name__] = lambda: Net(run, parts()), inputs
        return run

    return register


# Inputs, batches of four
image = partial(torch.randn, 4, 3, 8, 8)
film = partial(torch.randn, 4, 3, 4, 8, 8)
wave = partial(torch.randn, 4, 1, 64)
vector = partial(torch.randn, 4, 16)
sequence = partial(torch.randn, 4, 6, 16)
tokens = partial(torch.randint, 20, (4, 6))


def edges():
    return torch.rand(4, 6, 6) < 0.5


def parameter(*shape):
    return nn.Parameter(torch.randn(shape) * 0.3)


def conv(n_in, n_out, kernel=3, **more):
    return nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, **more)


def normed(n_in, n_out, kernel=3, **more):
    return nn.Sequential(conv(n_in, n_out, kernel, bias=False, **more), nn.BatchNorm2d(n_out), nn.ReLU())


def pooled(width):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, N))


def mlp(*sizes):
    parts = [part for a, b in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*parts[:-1])


def attend(q, k, v, heads=2, bias=0.0):
    """Queries, keys and values are (B, T, D)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


# One layer after the other

SEQUENCES = {
    'grouped': lambda: nn.Sequential(normed(3, 8), normed(8, 12, groups=2), normed(12, 8, groups=4), pooled(8)),
    'depth_multiplier': lambda: nn.Sequential(normed(3, 6), normed(6, 12, groups=6), normed(12, 8, 1), pooled(8)),
    'reflected_edges': lambda: nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, padding_mode='reflect'), nn.ReLU(),
                                             nn.ReplicationPad2d(1), nn.Conv2d(6, 6, 3), nn.ReLU(), pooled(6)),
    'group_and_instance_norm': lambda: nn.Sequential(conv(3, 8), nn.GroupNorm(2, 8), nn.ReLU(), conv(8, 6),
                                                     nn.InstanceNorm2d(6, affine=True), nn.ReLU(), pooled(6)),
    'norms_without_parameters': lambda: nn.Sequential(conv(3, 8), nn.BatchNorm2d(8, affine=False), nn.ReLU(),
                                                      conv(8, 6), nn.InstanceNorm2d(6), nn.ReLU(), nn.Flatten(),
                                                      nn.Linear(384, 8), nn.LayerNorm(8, elementwise_affine=False),
                                                      nn.GELU(), nn.Linear(8, N)),
    'batch_norm_without_statistics': lambda: nn.Sequential(nn.BatchNorm2d(3), conv(3, 8), nn.ReLU(), conv(8, 8),
                                                           nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(),
                                                           pooled(8)),
    'prelu_one_slope_and_many': lambda: nn.Sequential(conv(3, 6), nn.PReLU(), conv(6, 8), nn.PReLU(8), pooled(8)),
    'dropout_of_all_kinds': lambda: nn.Sequential(conv(3, 8), nn.ReLU(), nn.Dropout2d(0.2), conv(8, 8), nn.SELU(),
                                                  nn.AlphaDropout(0.1), nn.Flatten(), nn.Linear(512, 8),
                                                  nn.Dropout(0.3, inplace=True), nn.Linear(8, N)),
    'weight_norm': lambda: nn.Sequential(parametrizations.weight_norm(conv(3, 8)), nn.ReLU(),
                                         parametrizations.weight_norm(conv(8, 8)), nn.ReLU(), pooled(8)),
    'spectral_norm': lambda: nn.Sequential(parametrizations.spectral_norm(conv(3, 8)), nn.LeakyReLU(),
                                           parametrizations.spectral_norm(conv(8, 8)), nn.LeakyReLU(), pooled(8)),
    'autoencoder': lambda: nn.Sequential(conv(3, 8, stride=2), nn.ReLU(), conv(8, 12, stride=2), nn.ReLU(),
                                         nn.Flatten(), nn.Linear(48, 6), nn.Linear(6, 48), nn.ReLU(),
                                         nn.Unflatten(1, (12, 2, 2)), nn.ConvTranspose2d(12, 8, 2, 2), nn.ReLU(),
                                         nn.ConvTranspose2d(8, 3, 2, 2)),
    'a_head_alone': lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, N)),
}  # fmt: skip
NETWORKS |= {name: (build, [image]) for name, build in SEQUENCES.items()}


# Convolutions


@network([image], lambda: dict(stem=normed(3, 8), one=normed(8, 8), two=conv(8, 8), norm=nn.BatchNorm2d(8),
                               three=conv(8, 12, stride=2), short=conv(8, 12, 1, stride=2),
                               head=pooled(12)))  # fmt: skip
def residual(m, x):
    h = m.stem(x)
    h = torch.relu(h + m.norm(m.two(m.one(h))))
    return m.head(torch.relu(m.short(h) + m.three(h)))


@network([image], lambda: dict(norms=nn.ModuleList(nn.BatchNorm2d(3 + 4 * i) for i in range(3)),
                               convs=nn.ModuleList(conv(3 + 4 * i, 4) for i in range(3)), head=pooled(15)))  # fmt: skip
def dense(m, x):
    for norm, layer in zip(m.norms, m.convs, strict=True):
        x = torch.cat([x, layer(F.relu(norm(x)))], 1)
    return m.head(x)


@network([image], lambda: dict(stem=normed(3, 8), gate=mlp(8, 4, 8), head=pooled(8)))
def squeeze_and_excite(m, x):
    h = m.stem(x)
    return m.head(h * m.gate(h.mean((2, 3))).sigmoid()[:, :, None, None])


@network([image], lambda: dict(stem=normed(3, 8), gate=conv(2, 1, 7), head=pooled(8)))
def spatial_gate(m, x):
    """A map of where to look, made of the mean and the maximum over channels."""
    h = m.stem(x)
    return m.head(h * m.gate(torch.cat([h.mean(1, keepdim=True), h.amax(1, keepdim=True)], 1)).sigmoid())


@network([image], lambda: dict(stem=normed(3, 6), wide=normed(6, 18, 1), deep=normed(18, 18, groups=18),
                               narrow=conv(18, 6, 1), norm=nn.BatchNorm2d(6), head=pooled(6)))  # fmt: skip
def inverted_residual(m, x):
    h = m.stem(x)
    return m.head(h + m.norm(m.narrow(m.deep(m.wide(h)))))


@network([image], lambda: dict(stem=normed(3, 8), right=normed(4, 4), last=normed(8, 8), head=pooled(8)))
def channel_shuffle(m, x):
    left, right = m.stem(x).chunk(2, 1)
    h = torch.cat([left, m.right(right)], 1)
    return m.head(m.last(h.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)))


@network([image], lambda: dict(body=mlp(192, 16), mean=nn.Linear(16, 6), log=nn.Linear(16, 6), back=mlp(6, 16, 192)))
def variational(m, x):
    """An autoencoder whose code has noise while it is trained; it returns the code's mean and variance, too."""
    h = torch.tanh(m.body(x.flatten(1)))
    mean, log = m.mean(h), m.log(h)
    code = mean + torch.randn_like(mean) * (0.5 * log).exp() if m.training else mean
    return m.back(code).view_as(x), mean, log


@network([image], lambda: dict(one=normed(3, 4), two=normed(4, 8), three=normed(8, 12), back2=normed(16, 8),
                               back1=normed(8, 4), up2=nn.ConvTranspose2d(12, 8, 2, 2),
                               up1=nn.ConvTranspose2d(8, 4, 2, 2), last=conv(4, N, 1)))  # fmt: skip
def u_net(m, x):
    one = m.one(x)
    two = m.two(F.max_pool2d(one, 2))
    h = m.up2(m.three(F.max_pool2d(two, 2)))
    h = m.up1(m.back2(torch.cat([h, two], 1)))
    return m.last(m.back1(torch.cat([h, one], 1)))


@network([image], lambda: dict(one=normed(3, 4), two=normed(4, 8, stride=2), side1=conv(4, 8, 1), side2=conv(8, 8, 1),
                               smooth=conv(8, 8), head=conv(8, N, 1)))  # fmt: skip
def feature_pyramid(m, x):
    """One head for all levels."""
    one = m.one(x)
    small = m.side2(m.two(one))
    large = m.side1(one) + F.interpolate(small, scale_factor=2.0, mode='nearest')
    return [m.head(F.relu(m.smooth(level))) for level in (large, small)]


@network([image], lambda: dict(one=normed(3, 4, 1), three=normed(3, 6), five=normed(3, 4, 5), pool=normed(3, 2, 1),
                               last=normed(16, 8), head=pooled(8)))  # fmt: skip
def inception(m, x):
    pool = m.pool(F.max_pool2d(x, 3, 1, 1))
    return m.head(m.last(torch.cat([m.one(x), m.three(x), m.five(x), pool], 1)))


@network([image], lambda: dict(stem=normed(3, 8), near=conv(8, 4), far=nn.Conv2d(8, 4, 3, padding=2, dilation=2),
                               whole=conv(8, 4, 1), last=conv(12, N, 1)))  # fmt: skip
def dilated_pyramid(m, x):
    """With the whole image's mean; a class for each pixel."""
    h = m.stem(x)
    whole = F.interpolate(m.whole(F.adaptive_avg_pool2d(h, 1)), h.shape[2:], mode='bilinear')
    return m.last(torch.cat([m.near(h).relu(), m.far(h).relu(), whole], 1))


@network([image], lambda: dict(one=conv(3, 8), two=conv(8, 12), last=conv(3, 3), up=nn.PixelShuffle(2)))
def pixel_shuffle(m, x):
    return F.interpolate(x, scale_factor=2, mode='bicubic') + m.last(m.up(m.two(torch.relu(m.one(x)))))


@network([image], lambda: dict(one=conv(3, 6), two=conv(6, 6), head=pooled(6)))
def interpolate(m, x):
    h = F.interpolate(torch.relu(m.one(x)), scale_factor=2, mode='bilinear', align_corners=False)
    return m.head(F.interpolate(torch.relu(m.two(h)), size=4, mode='area'))


@network([image], lambda: dict(one=conv(3, 6), fc=nn.Linear(24, N), pools=nn.ModuleList(
    [nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), nn.LPPool2d(2, 8), nn.AvgPool2d(8)])))  # fmt: skip
def pools_of_all_kinds(m, x):
    h = torch.relu(m.one(x))
    return m.fc(torch.cat([pool(h).flatten(1) for pool in m.pools], 1))


@network([image], lambda: dict(stem=conv(3, 4), mix=nn.Linear(16, 16), head=pooled(4)))
def unfold_and_fold(m, x):
    patches = F.unfold(torch.relu(m.stem(x)), 2, stride=2).transpose(1, 2)
    return m.head(F.fold(F.gelu(m.mix(patches)).transpose(1, 2), 8, 2, stride=2))


@network([image], lambda: dict(one=conv(5, 8), two=conv(10, 8), head=pooled(8)))
def coordinates(m, x):
    """Where a pixel is, is two more channels."""
    steps = torch.linspace(-1, 1, x.shape[-1])
    where = torch.stack(torch.meshgrid(steps, steps, indexing='ij')).expand(len(x), -1, -1, -1)
    h = torch.relu(m.one(torch.cat([x, where], 1)))
    return m.head(torch.relu(m.two(torch.cat([h, where], 1))))


@network([image], lambda: dict(stem=conv(3, 6), filter=parameter(6, 8, 5, 2), last=conv(6, 6), head=pooled(6)))
def fourier_filter(m, x):
    h = torch.fft.rfft2(torch.relu(m.stem(x)), norm='ortho') * torch.view_as_complex(m.filter)
    return m.head(torch.relu(m.last(torch.fft.irfft2(h, s=(8, 8), norm='ortho'))))


@network([image], lambda: dict(one=conv(3, 8), two=conv(8, 8), head=pooled(8)))
def softmax_over_channels(m, x):
    return m.head(torch.relu(m.two(m.one(x).softmax(1))).log_softmax(1))


@network([image], lambda: dict(one=conv(3, 6), two=conv(12, 8), head=pooled(8)))
def local_response_norm(m, x):
    """After both signs of each channel."""
    h = m.one(x)
    return m.head(torch.relu(m.two(F.local_response_norm(torch.cat([h.relu(), (-h).relu()], 1), 3))))


@network([image], lambda: dict(stem=conv(3, 8), blocks=nn.ModuleList(normed(8, 8) for _ in range(2)), head=pooled(8)))
def stochastic_depth(m, x):
    h = m.stem(x)
    for block in m.blocks:
        h = h + block(h) * (torch.rand(len(x), 1, 1, 1) < 0.8 if m.training else 1.0)
    return m.head(h)


@network([image], lambda: dict(one=conv(3, 8), two=conv(8, 8), head=pooled(8)))
def in_place(m, x):
    h = F.relu(m.one(x), inplace=True).clone()
    h[:, :4] *= 0.5
    h = m.two(h)
    h += x[:, :1]
    h[:, 4:] = h[:, 4:].tanh()
    return m.head(h.clamp_(min=-1))


@network([image], lambda: dict(small=conv(3, 8), large=conv(3, 8, 5), head=pooled(8)))
def branches_on_shape(m, x):
    h = m.small(x) if x.shape[-1] < 16 else m.large(x)
    return m.head(torch.relu(h if h.shape[1] % 2 else h.flip(1)))


@network([image], lambda: dict(body=nn.Sequential(normed(3, 8), normed(8, 8)).requires_grad_(False), more=normed(8, 8),
                               head=pooled(8)))  # fmt: skip
def frozen_body(m, x):
    with torch.no_grad():
        h = m.body(x)
    return m.head(m.more(h))


@network([film], lambda: dict(one=nn.Conv3d(3, 6, 3, padding=1), norm=nn.BatchNorm3d(6),
                              two=nn.Conv3d(6, 8, (3, 1, 1)), fc=nn.Linear(8, N)))  # fmt: skip
def conv3d(m, x):
    h = F.max_pool3d(torch.relu(m.norm(m.one(x))), (1, 2, 2))
    return m.fc(torch.relu(m.two(h)).mean((2, 3, 4)))


@network([film], lambda: dict(each=normed(3, 12), mix=nn.Linear(12, 8), fc=nn.Linear(8, N)))
def frame_by_frame(m, x):
    h = m.each(x.transpose(1, 2).flatten(0, 1)).mean((2, 3))
    return m.fc(torch.relu(m.mix(h)).view(len(x), -1, 8).mean(1))


@network([wave], lambda: dict(one=nn.Conv1d(1, 8, 9, 4), norm=nn.BatchNorm1d(8), two=nn.Conv1d(8, 12, 5, 2),
                              fc=nn.Linear(12, N)))  # fmt: skip
def audio(m, x):
    return m.fc(torch.relu(m.two(torch.relu(m.norm(m.one(x))))).amax(-1))


@network([wave], lambda: dict(first=nn.Conv1d(1, 8, 1), fc=nn.Linear(8, N), convs=nn.ModuleList(
    nn.Conv1d(8, 8, 3, padding=2 * d, dilation=d) for d in (1, 2))))  # fmt: skip
def causal_convolutions(m, x):
    """Dilated, padded on both sides and cut off, residual."""
    h = m.first(x)
    for layer in m.convs:
        h = h + torch.relu(layer(h)[..., : -2 * layer.dilation[0]])
    return m.fc(h[..., -1])


@network([wave], lambda: dict(body=nn.Conv1d(1, 8, 5, 2), gate=mlp(8, 4, 8), score=nn.Linear(8, 1), fc=nn.Linear(8, N)))
def squeeze_over_time(m, x):
    """And a mean weighted by attention."""
    h = torch.relu(m.body(x)).transpose(1, 2)
    h = h * m.gate(h.mean(1, keepdim=True)).sigmoid()
    return m.fc((m.score(h).softmax(1) * h).sum(1))


# Units that are chosen, gated, or multiplied


@network([vector], lambda: dict(first=nn.Linear(16, 8), one=nn.Linear(8, 8), gate=nn.Linear(8, 8), fc=nn.Linear(8, N)))
def highway(m, x):
    h = torch.relu(m.first(x))
    carry = torch.sigmoid(m.gate(h))
    return m.fc(carry * torch.relu(m.one(h)) + (1 - carry) * h)


@network([vector], lambda: dict(one=nn.Linear(16, 24), two=nn.Linear(8, 12), fc=nn.Linear(6, N)))
def maxout(m, x):
    h = m.one(x).view(len(x), 8, 3).amax(-1)
    return m.fc(m.two(h).view(len(x), 2, 6).max(1).values)


@network([vector], lambda: dict(one=nn.Linear(16, 16), two=nn.Linear(8, 16), gate=nn.Linear(8, 12), up=nn.Linear(8, 12),
                                down=nn.Linear(12, 8), fc=nn.Linear(8, N)))  # fmt: skip
def gated_linear_units(m, x):
    """GLU, GEGLU and SwiGLU, one after the other."""
    value, gate = m.two(F.glu(m.one(x))).chunk(2, -1)
    h = value * F.gelu(gate)
    return m.fc(m.down(F.silu(m.gate(h)) * m.up(h)))


@network([image, vector], lambda: dict(stem=conv(3, 8), norm=nn.BatchNorm2d(8, affine=False), film=mlp(16, 8, 16),
                                       head=pooled(8)))  # fmt: skip
def scaled_by_another_input(m, x, y):
    scale, shift = m.film(y)[:, :, None, None].chunk(2, 1)
    return m.head(torch.relu(m.norm(m.stem(x)) * (1 + scale) + shift))


@network([vector], lambda: dict(one=nn.Linear(16, 6), two=nn.Linear(16, 6), fc=nn.Linear(36, N)))
def bilinear(m, x):
    return m.fc(torch.einsum('bi,bj->bij', torch.relu(m.one(x)), torch.tanh(m.two(x))).flatten(1))


@network([vector], lambda: dict(first=nn.Linear(16, 8), w=parameter(8, 8), m=parameter(8, 8), g=parameter(8, 8),
                                fc=nn.Linear(8, N)))  # fmt: skip
def arithmetic_unit(m, x):
    """Sums, and products by way of logarithms, with a gate between them; the weight is a product of two."""
    h = m.first(x)
    weight, gate = torch.tanh(m.w) * torch.sigmoid(m.m), torch.sigmoid(F.linear(h, m.g))
    return m.fc(gate * F.linear(h, weight) + (1 - gate) * F.linear((h.abs() + 1e-3).log(), weight).exp())


@network([vector], lambda: dict(one=nn.Linear(16, 8), two=nn.Linear(16, 8), cross=nn.Linear(8, 8), fc=nn.Linear(8, N)))
def products(m, x):
    h = m.one(x) * m.two(x) + m.one(x) ** 2
    return m.fc(h * m.cross(h) + h)


@network([vector], lambda: dict(one=nn.Linear(16, 8), two=nn.Linear(8, 12), fc=nn.Linear(5, N)))
def sort_top_and_median(m, x):
    h = m.two(m.one(x).sort(-1).values)
    return m.fc(torch.cat([h.topk(4, -1).values, h.median(-1, keepdim=True).values], -1))


@network([vector], lambda: dict(one=nn.Linear(16, 12), two=nn.Linear(12, 12), fc=nn.Linear(12, N)))
def winners_take_all(m, x):
    for layer in (m.one, m.two):
        x = layer(x)
        x = torch.where(x >= x.topk(6, -1).values[..., -1:], x, torch.zeros_like(x))
    return m.fc(x)


@network([vector], lambda: dict(body=mlp(16, 12, 8), classes=parameter(N, 8), scale=parameter(1)))
def cosine_classifier(m, x):
    return m.scale * F.normalize(m.body(x), dim=-1) @ F.normalize(m.classes, dim=-1).T


@network([vector], lambda: dict(one=nn.Linear(16, 8), two=nn.Linear(8, 8), norm=nn.RMSNorm(8), scale=parameter(8),
                                fc=nn.Linear(8, N)))  # fmt: skip
def rms_norms(m, x):
    """PyTorch's, and one by hand."""
    h = F.silu(m.two(m.norm(m.one(x))))
    return m.fc(m.scale * h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6))


@network([vector], lambda: dict(one=nn.Linear(16, 8), beta=parameter(1), fc=nn.Linear(8, N)))
def learned_activation(m, x):
    h = m.one(x)
    return m.fc(h * torch.sigmoid(m.beta * h))


@network([vector], lambda: dict(one=nn.Linear(64, 8), two=nn.Linear(32, 8), fc=nn.Linear(8, N)))
def functions_on_edges(m, x):
    """Sums of Gaussian bumps, with a weight for each."""
    for layer in (m.one, m.two):
        x = layer(torch.exp(-(x.unsqueeze(-1) - torch.linspace(-1, 1, 4)).square()).flatten(1))
    return m.fc(x)


@network([vector], lambda: dict(gate=nn.Linear(16, 3), experts=nn.ModuleList(mlp(16, 8, 8) for _ in range(3)),
                                fc=nn.Linear(8, N)))  # fmt: skip
def experts_all_asked(m, x):
    answers = torch.stack([expert(x) for expert in m.experts], -1)
    return m.fc((answers * m.gate(x).softmax(-1).unsqueeze(1)).sum(-1))


@network([vector], lambda: dict(body=mlp(16, 12, 8), codes=nn.Embedding(6, 8), fc=mlp(8, 8, N)))
def codebook(m, x):
    """The nearest of some learned vectors, with gradients passed straight through."""
    h = m.body(x)
    nearest = m.codes(torch.cdist(h, m.codes.weight).argmin(-1))
    return m.fc(h + (nearest - h).detach())


# Attention


def transformer(m, x, attention):
    """A block with norms before; `attention` takes queries, keys and values at once."""
    h = m.embed(x) + m.position
    h = h + m.out(attention(m.qkv(m.one(h))))
    h = h + m.mlp(m.two(h))
    return m.fc(h.mean(1))


def block(**more):
    return dict(embed=nn.Linear(16, 8), one=nn.LayerNorm(8), two=nn.LayerNorm(8), qkv=nn.Linear(8, 24),
                out=nn.Linear(8, 8), mlp=nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)),
                fc=nn.Linear(8, N), position=parameter(1, 6, 8)) | more  # fmt: skip


def in_heads(qkv):
    return (x.unflatten(-1, (2, 4)).transpose(1, 2) for x in qkv.chunk(3, -1))


@network([sequence], block)
def self_attention(m, x):
    return transformer(m, x, lambda qkv: attend(*qkv.chunk(3, -1)))


@network([sequence], lambda: block(position=torch.outer(torch.arange(6.0), 0.1 ** torch.arange(8.0)).sin()))
def sinusoidal_positions(m, x):
    return transformer(m, x, lambda qkv: attend(*qkv.chunk(3, -1)))


@network([sequence], lambda: block(bias=parameter(11, 2), distance=torch.arange(6)[:, None] - torch.arange(6) + 5))
def relative_position_bias(m, x):
    return transformer(m, x, lambda qkv: attend(*qkv.chunk(3, -1), bias=m.bias[m.distance].permute(2, 0, 1)))


@network([sequence], block)
def rotary_positions(m, x):
    """Causal, with the fused attention of PyTorch."""

    def turn(h):
        angle = torch.arange(6.0)[:, None] / 10 ** torch.arange(2.0)
        left, right = h.chunk(2, -1)
        return torch.cat([left * angle.cos() - right * angle.sin(), left * angle.sin() + right * angle.cos()], -1)

    def attention(qkv):
        q, k, v = in_heads(qkv)
        return F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True).transpose(1, 2).flatten(2)

    return transformer(m, x, attention)


@network([sequence], block)
def linear_attention(m, x):
    """Without a softmax over positions: key and value are multiplied first."""

    def attention(qkv):
        q, k, v = in_heads(qkv)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        return (q @ (k.transpose(-1, -2) @ v) / (q @ k.sum(-2)[..., None])).transpose(1, 2).flatten(2)

    return transformer(m, x, attention)


@network([sequence], lambda: block(qkv=nn.Linear(8, 16)))
def grouped_query_attention(m, x):
    """Two heads of queries, one of keys and values."""
    return transformer(m, x, lambda qkv: attend(qkv[..., :8], *(h.repeat(1, 1, 2) for h in qkv[..., 8:].chunk(2, -1))))


@network([sequence], lambda: dict(embed=nn.Linear(16, 8), weight=parameter(2, 8, 4), fc=nn.Linear(8, N)))
def heads_by_einsum(m, x):
    """Their weights are one parameter of three dimensions."""
    h = torch.einsum('btd,hdk->bthk', torch.relu(m.embed(x)), m.weight)
    return m.fc(torch.relu(h.flatten(2)).mean(1))


@network([image], lambda: dict(patch=nn.Conv2d(3, 8, 4, 4), token=parameter(1, 1, 8), position=parameter(1, 5, 8),
                               body=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True),
                               fc=nn.Linear(8, N)))  # fmt: skip
def class_token(m, x):
    h = torch.cat([m.token.expand(len(x), -1, -1), m.patch(x).flatten(2).transpose(1, 2)], 1)
    return m.fc(m.body(h + m.position)[:, 0])


@network([sequence], lambda: dict(embed=nn.Linear(16, 8), fc=nn.Linear(8, N), body=nn.TransformerEncoder(
    nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False)))  # fmt: skip
def transformer_encoder(m, x):
    """Time first."""
    return m.fc(m.body(m.embed(x.transpose(0, 1))).mean(0))


@network([tokens], lambda: dict(
    embed=nn.Embedding(20, 8, padding_idx=0), position=nn.Embedding(6, 8), fc=nn.Linear(8, N),
    body=nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation='gelu'), 2,
                               enable_nested_tensor=False)))  # fmt: skip
def transformer_encoder_with_padding(m, words):
    padding = words == 0
    h = m.embed(words) + m.position(torch.arange(words.shape[1]))
    h = m.body(h, src_key_padding_mask=padding) * ~padding[..., None]
    return m.fc(h.sum(1) / (~padding).sum(1, keepdim=True).clamp(min=1))


@network([tokens, tokens], lambda: dict(source=nn.Embedding(20, 8), target=nn.Embedding(20, 8), fc=nn.Linear(8, 20),
                                        body=nn.Transformer(8, 2, 1, 1, 16, batch_first=True)))  # fmt: skip
def translator(m, source, target):
    """An encoder, and a decoder with a causal mask; an answer for each token."""
    mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
    return m.fc(m.body(m.source(source), m.target(target), tgt_mask=mask))


@network([sequence, image], lambda: dict(patch=nn.Conv2d(3, 8, 2, 2), embed=nn.Linear(16, 8), fc=nn.Linear(8, N),
                                         mix=nn.MultiheadAttention(8, 2, batch_first=True)))  # fmt: skip
def cross_attention(m, x, picture):
    h, patches = m.embed(x), m.patch(picture).flatten(2).transpose(1, 2)
    return m.fc((h + m.mix(h, patches, patches)[0]).mean(1))


@network([sequence], lambda: dict(latents=parameter(3, 8), embed=nn.Linear(16, 8), norm=nn.LayerNorm(8),
                                  look=nn.MultiheadAttention(8, 2, batch_first=True), mlp=mlp(8, 16, 8),
                                  mix=nn.MultiheadAttention(8, 2, batch_first=True), fc=nn.Linear(8, N)))  # fmt: skip
def learned_queries(m, x):
    """They look at everything, and at each other, twice."""
    h, x = m.latents.expand(len(x), -1, -1), m.embed(x)
    for _ in range(2):
        h = h + m.look(m.norm(h), x, x)[0]
        h = h + m.mix(h, h, h)[0]
    return m.fc((h + m.mlp(h)).mean(1))


@network([sequence], lambda: dict(
    embed=nn.Linear(16, 8), points=parameter(1, 3, 8), seed=parameter(1, 1, 8),
    blocks=nn.ModuleList(nn.ModuleList(nn.Linear(8, 8) for _ in range(4)) for _ in range(3)),
    fc=nn.Linear(8, N)))  # fmt: skip
def set_transformer(m, x):
    """By way of induced points, and pooled by attention of a seed."""

    def look(parts, h, at):
        h = h + attend(parts[0](h), parts[1](at), parts[2](at))
        return h + torch.relu(parts[3](h))

    up, down, pool = m.blocks
    h = m.embed(x)
    h = look(down, h, look(up, m.points.expand(len(x), -1, -1), h))
    return m.fc(look(pool, m.seed.expand(len(x), -1, -1), h).squeeze(1))


@network([image], lambda: dict(
    patch=nn.Conv2d(3, 8, 2, 2), queries=nn.Embedding(3, 8), where=parameter(16, 8), kind=nn.Linear(8, N + 1),
    box=mlp(8, 8, 4), encoder=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    decoder=nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)))  # fmt: skip
def objects_by_queries(m, x):
    memory = m.encoder(m.patch(x).flatten(2).transpose(1, 2) + m.where)
    h = m.decoder(m.queries.weight.expand(len(x), -1, -1), memory)
    return {'classes': m.kind(h), 'boxes': m.box(h).sigmoid()}


@network([image], lambda: dict(patch=nn.Conv2d(3, 8, 2, 2), places=mlp(16, 12, 16), channels=mlp(8, 12, 8),
                               one=nn.LayerNorm(8), two=nn.LayerNorm(8), fc=nn.Linear(8, N)))  # fmt: skip
def mlp_mixer(m, x):
    h = m.patch(x).flatten(2).transpose(1, 2)
    h = h + m.places(m.one(h).transpose(1, 2)).transpose(1, 2)
    return m.fc((h + m.channels(m.two(h))).mean(1))


@network([sequence], lambda: dict(embed=nn.Linear(16, 8), wide=nn.Linear(8, 16), norm=nn.LayerNorm(8),
                                  mix=nn.Conv1d(6, 6, 1), narrow=nn.Linear(8, 8), fc=nn.Linear(8, N)))  # fmt: skip
def spatial_gating_unit(m, x):
    """Half of the channels is mixed across positions, and gates the other half."""
    h = m.embed(x)
    value, gate = F.gelu(m.wide(h)).chunk(2, -1)
    return m.fc((h + m.narrow(value * m.mix(m.norm(gate)))).mean(1))


# Text and tables


@network([tokens], lambda: dict(embed=nn.Embedding(20, 8), fc=nn.Linear(12, N), convs=nn.ModuleList(
    nn.Conv1d(8, 6, kernel, padding=kernel // 2) for kernel in (2, 3))))  # fmt: skip
def text_convolutions(m, words):
    h = m.embed(words).transpose(1, 2)
    return m.fc(torch.cat([torch.relu(layer(h)).amax(-1) for layer in m.convs], 1))


@network([tokens], lambda: dict(embed=nn.EmbeddingBag(20, 8, mode='mean'), body=mlp(8, 8, N)))
def embedding_bag(m, words):
    return m.body(m.embed(words))


@network([tokens], lambda: dict(body=mlp(20, 12, 8, N)))
def bag_of_words(m, words):
    return m.body(F.one_hot(words, 20).float().sum(1).log1p())


@network([tokens], lambda: dict(embed=nn.Embedding(20, 8), body=mlp(8, 16, 8)))
def tied_embeddings(m, words):
    """The output layer's weight is the embedding's; each token sees those before it."""
    h = m.embed(words).cumsum(1) / torch.arange(1, words.shape[1] + 1)[:, None]
    return F.linear(m.body(h), m.embed.weight)


@network([tokens, vector], lambda: dict(embeds=nn.ModuleList(nn.Embedding(20, 4) for _ in range(3)),
                                        norm=nn.BatchNorm1d(16), body=mlp(28, 12, N)))  # fmt: skip
def columns_of_a_table(m, words, x):
    return m.body(torch.cat([*(embed(words[:, i]) for i, embed in enumerate(m.embeds)), m.norm(x)], 1))


@network([tokens], lambda: dict(wide=nn.Embedding(20, 1), embed=nn.Embedding(20, 4), deep=mlp(24, 8, 4),
                                fc=nn.Linear(9, N)))  # fmt: skip
def factorization_machine(m, words):
    v = m.embed(words)
    pairs = 0.5 * (v.sum(1) ** 2 - (v**2).sum(1))
    return m.fc(torch.cat([m.wide(words).sum(1), pairs, m.deep(v.flatten(1))], 1))


# Weights that are used twice, made of others, or hidden


@network([image, image], lambda: dict(encoder=nn.Sequential(normed(3, 6), normed(6, 8), nn.Flatten()),
                                      fc=mlp(1024, 8, N)))  # fmt: skip
def siamese(m, x, y):
    x, y = m.encoder(x), m.encoder(y)
    return m.fc(torch.cat([(x - y).abs(), x * y], 1))


def under_two_names():
    layer = nn.Linear(8, 8)
    return dict(first=nn.Linear(16, 8), one=layer, two=layer, fc=nn.Linear(8, N))


@network([vector], under_two_names)
def module_under_two_names(m, x):
    return m.fc(torch.relu(m.two(torch.relu(m.one(torch.relu(m.first(x)))))))


@network([vector], lambda: dict(first=nn.Linear(16, 8), weight=parameter(8, 8), one=parameter(8), two=parameter(8),
                                fc=nn.Linear(8, N)))  # fmt: skip
def weight_with_two_biases(m, x):
    h = torch.relu(F.linear(torch.relu(m.first(x)), m.weight, m.one))
    return m.fc(torch.relu(F.linear(h, m.weight, m.two)))


@network([vector], lambda: dict(first=nn.Linear(16, 8), mid=nn.Linear(8, 6), back=parameter(8), fc=nn.Linear(8, N)))
def weight_and_its_transpose(m, x):
    h = torch.relu(m.mid(torch.relu(m.first(x))))
    return m.fc(torch.relu(F.linear(h, m.mid.weight.T, m.back)))


@network([sequence], lambda: dict(embed=nn.Linear(16, 8), fc=nn.Linear(8, N),
                                  body=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)))  # fmt: skip
def one_block_three_times(m, x):
    h = m.embed(x)
    for _ in range(3):
        h = m.body(h)
    return m.fc(h.mean(1))


@network([vector], lambda: dict(first=nn.Linear(16, 8), one=nn.Linear(9, 16), two=nn.Linear(16, 8), fc=nn.Linear(8, N)))
def differential_equation(m, x):
    """By Euler's steps; time is one more input."""
    h = m.first(x)
    for step in range(4):
        h = h + 0.25 * m.two(torch.tanh(m.one(torch.cat([h, torch.full_like(h[:, :1], step / 4)], 1))))
    return m.fc(h)


@network([vector], lambda: dict(nets=nn.ModuleList(mlp(8, 12, 16) for _ in range(2))))
def invertible(m, x):
    """Half of the input scales and shifts the other half; it returns the logarithm of a density, too."""
    left, right, total = *x.chunk(2, -1), 0.0
    for net in m.nets:
        scale, shift = net(left).chunk(2, -1)
        left, right, total = right * scale.tanh().exp() + shift, left, total + scale.tanh().sum(-1)
    return torch.cat([left, right], -1), total


@network([vector], lambda: dict(base=nn.Linear(16, 8).requires_grad_(False), down=nn.Linear(16, 2, bias=False),
                                up=nn.Linear(2, 8, bias=False), body=mlp(8, 8, N)))  # fmt: skip
def low_rank_beside_a_frozen_layer(m, x):
    return m.body(torch.relu(m.base(x) + 2 * m.up(m.down(x))))


@network([vector], lambda: dict(base=nn.Linear(16, 8), a=parameter(2, 16), b=parameter(8, 2), body=mlp(8, 8, N)))
def low_rank_in_the_weight(m, x):
    return m.body(torch.relu(F.linear(x, m.base.weight + m.b @ m.a, m.base.bias)))


@network([vector], lambda: dict(make=mlp(16, 8, 48), first=nn.Linear(16, 8), fc=nn.Linear(6, N)))
def weights_for_each_example(m, x):
    return m.fc(torch.relu(torch.bmm(m.make(x).view(-1, 6, 8), torch.relu(m.first(x))[..., None]).squeeze(-1)))


@network([vector], lambda: dict(code=parameter(4), make=nn.Linear(4, 48), first=nn.Linear(16, 8), fc=nn.Linear(6, N)))
def weights_from_a_code(m, x):
    return m.fc(torch.relu(F.linear(torch.relu(m.first(x)), m.make(m.code).view(6, 8))))


@network([image], lambda: dict(one=conv(3, 8), two=conv(8, 8), norm=nn.GroupNorm(2, 8), head=pooled(8)))
def weight_standardization(m, x):
    w = m.two.weight
    w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
    return m.head(torch.relu(m.norm(F.conv2d(torch.relu(m.one(x)), w, padding=1))))


@network([vector], lambda: dict(one=nn.Linear(16, 8), two=nn.Linear(8, 8), fc=nn.Linear(8, N)))
def binary_weights(m, x):
    """With gradients passed straight through."""
    w = m.two.weight
    return m.fc(torch.relu(F.linear(torch.relu(m.one(x)), w + (w.sign() - w).detach(), m.two.bias)))


@network([vector], lambda: dict(first=nn.ModuleList([nn.ModuleDict({'a': nn.Linear(16, 8),
                                                                    'b': nn.ModuleList([nn.Linear(16, 8)])})]),
                                rest=nn.ParameterDict({'weight': parameter(8, 8)}), fc=nn.Linear(8, N)))  # fmt: skip
def containers_in_containers(m, x):
    h = torch.relu(m.first[0]['a'](x)) + torch.relu(m.first[0]['b'][0](x))
    return m.fc(torch.relu(F.linear(h, m.rest['weight'])))


@network([vector], lambda: dict(hidden=[nn.Linear(16, 12)], one=nn.Linear(12, 8), fc=nn.Linear(8, N)))
def layer_in_a_plain_list(m, x):
    """nn.Module knows nothing of it: it is never trained."""
    return m.fc(torch.relu(m.one(torch.relu(m.hidden[0](x)))))


@network([vector], lambda: dict(one=nn.Linear(16, 8), two=nn.Linear(8, 8), fc=nn.Linear(8, N), mean=torch.zeros(8),
                                steps=torch.tensor(0)))  # fmt: skip
def buffers_updated(m, x):
    """In place, by hand: a layer's mean, which is taken off, and a counter."""
    h = m.one(x)
    if m.training:
        with torch.no_grad():
            m.mean.mul_(0.9).add_(0.1 * h.mean(0))
            m.steps += 1
    return m.fc(torch.relu(m.two(torch.relu(h - m.mean))))


# Recurrent


@network([sequence], lambda: dict(body=nn.LSTM(16, 8, batch_first=True), fc=nn.Linear(8, N)))
def lstm(m, x):
    return m.fc(m.body(x)[0][:, -1])


@network([tokens], lambda: dict(embed=nn.Embedding(20, 8), fc=nn.Linear(12, N),
                                body=nn.GRU(8, 6, 2, batch_first=True, bidirectional=True)))  # fmt: skip
def gru_in_both_directions(m, words):
    return m.fc(m.body(m.embed(words))[0].mean(1))


@network([sequence], lambda: dict(cell=nn.RNNCell(16, 8), fc=nn.Linear(8, N)))
def rnn_cell_in_a_loop(m, x):
    h = x.new_zeros(len(x), 8)
    for step in x.unbind(1):
        h = m.cell(step, h)
    return m.fc(h)


@network([sequence], lambda: dict(gates=nn.Linear(24, 16), new=nn.Linear(24, 8), fc=nn.Linear(8, N)))
def recurrent_by_hand(m, x):
    h = x.new_zeros(len(x), 8)
    for step in x.unbind(1):
        reset, update = m.gates(torch.cat([step, h], -1)).sigmoid().chunk(2, -1)
        h = update * h + (1 - update) * torch.tanh(m.new(torch.cat([step, reset * h], -1)))
    return m.fc(h)


@network([sequence], lambda: dict(into=nn.Linear(16, 16), step=nn.Linear(8, 8), decay=parameter(8),
                                  out=nn.Linear(8, 8), fc=nn.Linear(8, N)))  # fmt: skip
def state_space(m, x):
    """A diagonal state that is scanned over time, with steps that depend on the input, and a gate."""
    x, gate = m.into(x).chunk(2, -1)
    delta, h, outputs = F.softplus(m.step(x)), 0.0, []
    for t in range(x.shape[1]):
        h = torch.exp(-delta[:, t] * m.decay.exp()) * h + delta[:, t] * x[:, t]
        outputs.append(h)
    return m.fc(m.out(torch.stack(outputs, 1) * F.silu(gate)).mean(1))


# Sets and graphs


@network([sequence], lambda: dict(each=mlp(16, 12, 8), all=mlp(16, 8, N)))
def deep_sets(m, x):
    h = m.each(x)
    return m.all(torch.cat([h.sum(1), h.amax(1)], 1))


@network([sequence], lambda: dict(turn=nn.Conv1d(16, 8, 1), matrix=nn.Linear(8, 256), body=nn.Conv1d(16, 12, 1),
                                  norm=nn.BatchNorm1d(12), fc=mlp(12, 8, N)))  # fmt: skip
def point_net(m, x):
    """Points are turned by a matrix that is made of them."""
    x = x.transpose(1, 2)
    matrix = m.matrix(torch.relu(m.turn(x)).amax(-1)).view(-1, 16, 16) + torch.eye(16)
    return m.fc(torch.relu(m.norm(m.body(matrix @ x))).amax(-1))


@network([sequence, edges], lambda: dict(one=nn.Linear(16, 8), two=nn.Linear(8, 8), fc=nn.Linear(8, N)))
def graph_convolutions(m, x, near):
    a = near.float() / near.sum(-1, keepdim=True).clamp(min=1)
    return m.fc(torch.relu(a @ m.two(torch.relu(a @ m.one(x)))))


@network([sequence, edges], lambda: dict(one=parameter(16, 8), two=parameter(8, N)))
def graph_convolutions_by_matmul(m, x, near):
    return near.float() @ torch.relu(near.float() @ x @ m.one) @ m.two


@network([sequence, edges], lambda: dict(one=nn.Linear(16, 8), left=nn.Linear(8, 1), right=nn.Linear(8, 1),
                                         fc=nn.Linear(8, N)))  # fmt: skip
def graph_attention(m, x, near):
    h = m.one(x)
    score = F.leaky_relu(m.left(h) + m.right(h).transpose(1, 2), 0.2)
    return m.fc(F.elu(score.masked_fill(~near, -1e9).softmax(-1) @ h))


@network([sequence], lambda: dict(message=mlp(32, 8, 8), update=mlp(24, 8, 8), fc=nn.Linear(8, N),
                                  edges=torch.tensor([[0, 1, 2, 3, 4, 5, 0], [1, 2, 3, 4, 5, 0, 3]])))  # fmt: skip
def message_passing(m, x):
    """Messages along a list of edges are added up where they arrive."""
    source, target = m.edges
    messages = m.message(torch.cat([x[:, source], x[:, target]], -1))
    total = x.new_zeros(*x.shape[:2], 8).index_add(1, target, messages)
    return m.fc(torch.relu(m.update(torch.cat([x, total], -1))).mean(1))


# Several outputs


@network([vector], lambda: dict(body=mlp(16, 12, 12), weight=nn.Linear(12, 3), mean=nn.Linear(12, 6),
                                width=nn.Linear(12, 6)))  # fmt: skip
def mixture_density(m, x):
    h = torch.tanh(m.body(x))
    return m.weight(h).softmax(-1), m.mean(h).view(-1, 3, 2), F.softplus(m.width(h)).view(-1, 3, 2)


@network([image], lambda: dict(body=nn.Sequential(normed(3, 8), normed(8, 8, stride=2), nn.Flatten()),
                               advantage=mlp(128, 8, N), value=mlp(128, 8, 1)))  # fmt: skip
def two_heads(m, x):
    """Values of actions, in two parts; and the second part."""
    h = m.body(x)
    advantage, value = m.advantage(h), m.value(h)
    return value + advantage - advantage.mean(1, keepdim=True), value


@network([vector], lambda: dict(one=nn.Linear(16, 12), early=nn.Linear(12, N), two=nn.Linear(16, 12),
                                late=nn.Linear(12, N)))  # fmt: skip
def head_in_the_middle(m, x):
    """Its answer goes into the rest."""
    h = torch.relu(m.one(x))
    early = m.early(h)
    return m.late(torch.relu(m.two(torch.cat([h, early], 1)))), early

"""Networks of torchvision and timm as hidden layers, with a linear head for each task.

    resnet18                                              of torchvision.models
    timm:vit_tiny_patch16_224,img_size=32,patch_size=4    of timm, with settings of its constructor
    resnet18,stem=small                                   with a first layer for small images (stem.py)

Initial weights are the library's own, drawn by the seed, or those of a file (pretrained.py). Nothing is downloaded.
"""

import ast

import torch
from torch import nn

from core import seeds
from core.errors import UserError, one_line, require
from networks import pretrained, stem
from networks.gated import Gated

N_CLASSES = 997  # of the classifier that is taken off: a number that no hidden layer has


class External(nn.Module):
    """Input (B, *shape) float, output (B, classes[t]) logits of task t; without a task, the features."""

    def __init__(self, hidden, n_features, classes, shape):
        super().__init__()
        self.blocks = nn.ModuleList([hidden])
        self.heads = nn.ModuleList(nn.Linear(n_features, n) for n in classes)

    def features(self, x):
        return self.blocks[0](x)

    def forward(self, x, t=None):
        features = self.features(x)
        return features if t is None else self.heads[t](features)

    def train(self, mode=True):
        """Of frozen layers nothing changes, statistics of norms included."""
        super().train(mode)
        if not any(p.requires_grad for p in self.blocks.parameters()):
            self.blocks.eval()
        return self


VARIANTS = {'': External, 'hat': Gated}


def build(name, variant, shape, classes, seed, weights=None):
    """A network for the tasks; its initial weights are drawn by the seed, or in a file. Raises UserError."""
    if variant not in VARIANTS:
        raise UserError(f'--network: {variant} makes networks of its own; leave out --network')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(seed, 'weights', name))
        hidden = without_classifier(*parse(name), shape, weights)
    with torch.no_grad():
        n_features = run(name, hidden, shape)
    return VARIANTS[variant](hidden, n_features, classes, shape)


def parse(name):
    """'timm:NAME,key=value' -> 'timm', NAME, {key: value}. Raises UserError."""
    text, *pairs = name.split(',')
    package, colon, model = text.rpartition(':')
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition('=')
        if not equals or not key.isidentifier():
            raise UserError(f'--network: {pair!r} is not like name=value')
        try:
            settings[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[key] = value
    if colon and package not in ('timm', 'torchvision'):
        raise UserError(f'--network: {name!r}: networks are of torchvision (resnet18) or timm (timm:resnet10t)')
    return package or 'torchvision', model, settings


def packages(name):
    """The libraries that a network is of, for the record of a run: a list of one name, or none."""
    return [parse(name)[0]] if name else []


def without_classifier(package, model, settings, shape, weights=None):
    """The network up to its features. Raises UserError."""
    require(f'--network {package}:{model} needs {package}', package)
    settings, size = dict(settings), {'img_size': shape[1]}
    small = settings.pop('stem', None)
    if small not in (None, 'small'):
        raise UserError(f'--network: stem={small}: the only other stem is small')
    if package == 'timm':
        import timm

        known, make, fixed = timm.is_model(model), timm.create_model, {'in_chans': shape[0]}
    else:
        from torchvision import models

        known, make, fixed = model in models.list_models(module=models), models.get_model, {}
        size = {'image_size': shape[1]}
    if not known:
        raise UserError(f'--network: {package} has no classifier {model!r}')

    def create(n_classes):
        given = {'num_classes': n_classes, **fixed}
        try:
            return make(model, **given | size | settings)
        except TypeError:  # most convolutional networks take images of any size
            return make(model, **given | settings)

    try:
        net = create(0 if package == 'timm' else N_CLASSES)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f'--network: {model}: {one_line(error)}') from error
    if package == 'torchvision':
        last = [name for name, m in net.named_modules() if isinstance(m, nn.Linear) and m.out_features == N_CLASSES]
        if len(last) != 1:
            raise UserError(f'--network: {model} does not end with one linear layer')
        net.set_submodule(last[0], nn.Identity())
    first = stem.shrink(net, model) if small else None
    if weights:
        classifier = create(N_CLASSES).state_dict().keys() - net.state_dict().keys()
        pretrained.load(net, weights, lambda name: name in classifier or name.rpartition('.')[0] == first)
    return net


def run(name, net, shape):
    """The number of features. Raises UserError: the network cannot run on such images."""
    try:
        features = net.eval()(torch.zeros(2, *shape))
    except Exception as error:
        raise UserError(
            f'--network: {name} does not run on images of {shape[1]}x{shape[2]}: {one_line(error)}'
        ) from error
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        raise UserError(f'--network: {name} is not a classifier with one output')
    return features.shape[1]

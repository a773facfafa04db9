"""Hard attention in a network of another library: torchvision's ResNet-18, for small images, learns three tasks of the
demo in sequence, with a standard optimizer.

    python src/example.py
"""

import sys

import torch
import torch.nn.functional as F
from torch import nn

import dataloaders
import hat
from core.arguments import Parser
from core.errors import exit_code, require

TASKS, EPOCHS, BATCH, C = ['shapes', 'digits', 'arrows'], 6, 32, 0.75


def main(argv=()):
    Parser(__doc__).parse_args(argv)
    require('example.py needs torchvision', 'torchvision')
    import torchvision

    torch.manual_seed(0)
    torch.set_flush_denormal(True)  # masks near 0 give denormal numbers, on which a CPU is slow
    tasks = dataloaders.load('demo', None, seed=0, tasks=TASKS, ntrain=300)
    net = torchvision.models.resnet18()
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    example, _ = tasks[0].batch(tasks[0].train, slice(0, 2))

    model = hat.convert(net, len(tasks), example, n_classes=[task.n_classes for task in tasks])

    for t, task in enumerate(tasks):
        learn(model, t, task)
        model.end_task(t)
        accuracies = [f'{name} {100 * accuracy(model, u, tasks[u]):.1f} %' for u, name in enumerate(TASKS[: t + 1])]
        print(f'after {task.name}: {", ".join(accuracies)}', flush=True)


def learn(model, t, task):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    model.train()
    for _ in range(EPOCHS):
        for index, progress in hat.annealed(torch.randperm(len(task.train.y)).split(BATCH)):
            x, y = task.batch(task.train, index)
            loss = F.cross_entropy(model(x, task=t, progress=progress), y) + C * model.regularization()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model, t, task):
    x, y = task.batch(task.test, slice(None))
    return float((model.eval()(x, task=t).argmax(1) == y).float().mean())


if __name__ == '__main__':
    sys.exit(exit_code('example.py', main, None))

"""HAT over the rank units of low-rank adapters (LoRA). A small vision transformer is trained on some sets of images and
frozen; then three other sets follow in sequence, each in the adapters' weights and a head of its own.

    python src/example_lora.py
    python src/example_lora.py --data DIR

Without --data the sets are those of the demo. Three methods learn the same batches: a head on the frozen features
("head"), one adapter for all sets ("LoRA"), and the same adapter with gates ("LoRA + HAT").
"""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import dataloaders
import hat
from core.arguments import Parser, seed
from core.errors import exit_code, require

SETS = {  # the first are for pretraining; the others are the tasks
    'demo': (['shapes', 'textures'], ['digits', 'clocks', 'faces']),
    'mixture': (['cifar10', 'fashion-mnist'], ['mnist', 'traffic-signs', 'notmnist']),
}
NTRAIN, BATCH = 4000, 64  # images of a set, at most
PRETRAINING = {'demo': 1000, 'mixture': 1500}  # steps
STEPS = {'demo': 300, 'mixture': 500}  # of a task
LR, LR_EMBEDDINGS, C = 0.003, 0.1, 0.05
DIM, DEPTH, RANK, ALPHA = 128, 4, 16, 32  # of the transformer and of an adapter


def parse(argv):
    parser = Parser(__doc__)
    parser.add_argument('--data', type=Path, metavar='DIR', help='real images: a folder with the npz files')
    parser.add_argument('--seed', type=seed, default=0, metavar='N', help='(default 0)')
    parser.add_argument('--peft', action='store_true', help='adapters of the package peft in place of those below')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    require('example_lora.py needs torchvision', 'torchvision')
    if args.peft:
        require('--peft needs PEFT', 'peft')
    torch.set_flush_denormal(True)  # masks near 0 give denormal numbers, on which a CPU is slow
    experiment = 'mixture' if args.data else 'demo'
    first, names = SETS[experiment]
    sets = dataloaders.load(experiment, args.data, args.seed, first + names, ntrain=NTRAIN)
    tasks = sets[len(first) :]

    torch.manual_seed(args.seed)
    net = pretrained(sets[: len(first)], PRETRAINING[experiment])
    total = n_weights(net)
    print(f'pretrained on {", ".join(first)}: {total:,} weights, frozen', flush=True)
    adapted = (with_peft if args.peft else with_adapters)(net)
    methods = {'head': Shared(net, tasks), 'LoRA': Shared(adapted, tasks), 'LoRA + HAT': converted(adapted, tasks)}
    for method, model in methods.items():
        torch.manual_seed(args.seed)  # the same batches for all
        matrix = torch.zeros(len(tasks), len(tasks))
        print(f'\n{method}')
        for t, task in enumerate(tasks):
            learn(model, t, task, STEPS[experiment])
            model.end_task(t)
            for u in range(t + 1):
                matrix[t, u] = 100 * accuracy(model, u, tasks[u])
            row = ', '.join(f'{name} {matrix[t, u]:.1f} %' for u, name in enumerate(names[: t + 1]))
            print(f'  after {task.name}: {row}; weights used: {100 * n_used(model, t) / total:.1f} %', flush=True)
        lost = matrix.diagonal() - matrix[-1]
        print(f'  mean {matrix[-1].mean():.1f} %, forgetting {lost[:-1].mean():.2f} points')


# Networks


def transformer(n_classes):
    """Convolutions with a stride make 4x4 patches: on few images it learns more than with a patch's pixels."""
    from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer

    stem = [ConvStemConfig(width, 3, 2, norm_layer=None) for width in (32, 64, DIM)]
    net = VisionTransformer(32, 8, DEPTH, 4, DIM, 2 * DIM, num_classes=n_classes, conv_stem_configs=stem)
    for module in net.conv_proj:
        if isinstance(module, nn.Sequential):
            nn.init.kaiming_normal_(module[0].weight)  # PyTorch's default is too small without a norm
    return net


def pretrained(sets, steps):
    """A network that has learned all sets at once, frozen, with a new head."""
    xs, ys, n_classes = [], [], 0
    for task in sets:
        x, y = task.batch(task.train, slice(None))
        xs, ys, n_classes = [*xs, x], [*ys, y + n_classes], n_classes + task.n_classes
    x, y, net = torch.cat(xs), torch.cat(ys), transformer(n_classes)
    optimizer, schedule = scheduled(torch.optim.AdamW(net.parameters(), 0.001, weight_decay=0.05), steps)
    for _, index in zip(range(steps), batches(len(y)), strict=False):
        step(F.cross_entropy(net(x[index]), y[index]), optimizer, schedule)
    net.requires_grad_(False).heads = nn.Linear(DIM, 10)
    return net


class LoRA(nn.Module):
    """A frozen linear layer and a trained product of rank RANK (Hu et al. 2021). A unit of lora_A that a gate closes
    is a rank less."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear
        self.lora_A = nn.Linear(linear.in_features, RANK, bias=False)
        self.lora_B = nn.Linear(RANK, linear.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x):
        return self.linear(x) + ALPHA / RANK * self.lora_B(self.lora_A(x))


def with_adapters(net):
    """A copy with an adapter for each linear layer of the blocks' MLPs."""
    net = copy.deepcopy(net)
    for block in net.encoder.layers:
        for i in 0, 3:
            block.mlp[i] = LoRA(block.mlp[i])
    return net


def with_peft(net):
    """The same with the package peft."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=r'.*\.mlp\.[03]')
    net = inject_adapter_in_model(config, copy.deepcopy(net))
    net.heads.requires_grad_(True)
    return net


def converted(net, tasks):
    """The network with a gate for each rank unit."""
    example, _ = tasks[0].batch(tasks[0].train, slice(0, 2))
    sizes = [task.n_classes for task in tasks]
    return hat.convert(net, len(tasks), example, sizes, gates=lambda name: 'lora_A' in name)


class Shared(nn.Module):
    """A network that all tasks train, with a head for each: nothing is protected. Called like a hat.Network."""

    def __init__(self, net, tasks):
        super().__init__()
        self.net, self.tasks = copy.deepcopy(net), []
        self.net.heads = nn.Identity()
        self.heads = nn.ModuleList(nn.Linear(DIM, task.n_classes) for task in tasks)

    def forward(self, x, task, progress=None):
        return self.heads[task](self.net(x))

    def regularization(self):
        return 0.0

    def end_task(self, task):
        pass


# Training


def learn(model, t, task, steps):
    embeddings = [e for own in model.tasks for e in own.embeddings]
    others = [p for p in model.parameters() if p.requires_grad and p not in set(embeddings)]
    groups = [{'params': others}, {'params': embeddings, 'lr': LR_EMBEDDINGS}]
    optimizer, schedule = scheduled(torch.optim.Adam(groups, LR), steps)
    model.train()
    n = len(task.train.y)
    for _ in range(round(steps * BATCH / n)):
        for index, progress in hat.annealed(torch.randperm(n).split(BATCH)):
            x, y = task.batch(task.train, index)
            loss = F.cross_entropy(model(x, task=t, progress=progress), y) + C * model.regularization()
            step(loss, optimizer, schedule)


def scheduled(optimizer, steps):
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def step(loss, optimizer, schedule):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()


def batches(n):
    while True:
        yield from torch.randperm(n).split(BATCH)


@torch.no_grad()
def accuracy(model, t, task):
    model.eval()
    correct = [model(x, task=t).argmax(1) == y for x, y in task.batches(task.test)]
    return float(torch.cat(correct).float().mean())


# What a task uses


def n_weights(module):
    return sum(p.numel() for p in module.parameters())


def n_used(model, t):
    """How many weights a task computes with, beside the frozen ones: its head, and those of the adapters, with HAT
    those from and to open rank units."""
    if isinstance(model, Shared):
        return n_weights(model.heads[t]) + sum(p.numel() for name, p in model.named_parameters() if 'lora' in name)
    return n_weights(model.tasks[t].own.heads) + sum(use['weights'] for use in hat.used(model)[t].values())


if __name__ == '__main__':
    sys.exit(exit_code('example_lora.py', main, None))

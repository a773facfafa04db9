"""An installed hat, without this repository: its import needs torch only; a small network learns two tasks, is saved,
loaded and pruned. A script of its own, since .ci/run runs it where there is no pytest; test_install.py runs it, too."""

import io
import sys
from importlib import metadata
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy


def network():
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 4))


def main():
    before = set(sys.modules)
    import hat

    new = {name.split('.')[0] for name in set(sys.modules) - before}
    assert new - sys.stdlib_module_names <= {'hat', 'torch'}, new
    assert Path(__file__).parents[1] not in Path(hat.__file__).parents, hat.__file__
    assert metadata.version('hat-torch') == hat.__version__

    torch.manual_seed(0)
    y = torch.arange(64) % 4
    xs = [torch.randn(4, 1, 8, 8)[y] + 0.5 * torch.randn(64, 1, 8, 8) for _ in range(2)]
    model = hat.convert(network(), n_tasks=2, example_input=xs[0])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    first = []
    for task, x in enumerate(xs):
        for batch, progress in hat.annealed([x] * 40):
            loss = cross_entropy(model.train()(batch, task=task, progress=progress), y) + 0.75 * model.regularization()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.end_task(task)
        assert (model.eval()(x, task=task).argmax(1) == y).float().mean() > 0.9
        first.append(model(xs[0], task=0))
    assert torch.equal(*first)

    file = io.BytesIO()
    hat.save(model, file)
    file.seek(0)
    assert torch.equal(hat.load(file, network()).eval()(xs[0], task=0), first[0])
    assert torch.allclose(hat.prune(model, 0)(xs[0]), first[0], atol=1e-5)


if __name__ == '__main__':
    main()

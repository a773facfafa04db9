"""The training steps of an epoch. On a CUDA device one step is captured as a CUDA graph and then replayed.

For the replays everything that changes from step to step is in tensors on the device.
"""

import functools

import torch
from tqdm import tqdm

from approaches.common.optimizers import OPTIMIZERS

EXACT = {'cpu': torch.float64, 'cuda': torch.float64, 'mps': torch.float32}  # the last has no float64
WARM_UP = 3  # eager steps before the capture, in which libraries allocate what they cannot during one


class Steps:
    """The steps of one task; there is no host synchronization within an epoch.

    parameters    the trainable ones
    order         indices of the training images in the order of this epoch, (n,)
    b             number of batches done, (1,)
    progress      position of each batch in the epoch, (b - 1) / (B - 1), 0 to 1; a single batch has 1
    total         sum of the losses of the images so far, a scalar
    lr            learning rate, a scalar
    n_not_finite  number of batches whose gradient is not finite, a scalar
    run           calls the step of a full batch: run(step)
    run_rest      the same for the last batch of an epoch, if it is smaller
    """

    def __init__(self, approach, t):
        n, self.size, device = approach.n_train(t), approach.protocol.batch_size, approach.tasks[t].train.y.device
        self.approach, self.t = approach, t
        self.parameters = [p for p in approach.net.parameters() if p.requires_grad]
        last = (n - 1) // self.size
        exact = {'dtype': EXACT[device.type], 'device': device}
        self.progress = torch.arange(last + 1, **exact) / last if last else torch.ones(1, **exact)
        self.order, self.places = torch.arange(n, device=device), torch.arange(self.size, device=device)
        self.b = torch.zeros(1, dtype=torch.int64, device=device)
        self.total, self.lr = (torch.zeros((), **exact) for _ in range(2))
        self.n_not_finite = torch.zeros((), dtype=torch.int64, device=device)
        self.optimizer = OPTIMIZERS[approach.protocol.optimizer](self.parameters, self.lr)
        if training := approach.training:
            for tensor, saved in zip(self.optimizer.state, training.optimizer, strict=bool(training.optimizer)):
                tensor.copy_(saved)
            training.optimizer = self.optimizer.state
        self.run, self.run_rest = runner(approach, device), runner(approach, device)

    def epoch(self, order, lr, description):
        """Train on the images `order`, (n,); returns the mean loss."""
        self.order.copy_(order)
        self.lr.fill_(lr)
        self.b.zero_()
        self.total.zero_()
        self.n_not_finite.zero_()
        full, rest = divmod(len(order), self.size)
        for _ in tqdm(range(full), desc=description, leave=False, disable=None, delay=2):
            self.run(self.full_batch)
        if rest:
            self.run_rest(lambda: self.batch(self.places[:rest]))
        return float(self.total) / len(order)

    def full_batch(self):
        self.batch(self.places)

    def batch(self, places):
        approach, t = self.approach, self.t
        index = self.order.index_select(0, self.b * self.size + places)
        progress = self.progress.index_select(0, self.b).squeeze(0)
        loss = approach.batch_loss(index, t, progress)
        for p in self.parameters:
            p.grad = None
        loss.backward()
        approach.after_backward(t, progress)
        norm = self.optimizer.step(approach.clip)
        approach.after_step(t)
        self.total += loss.detach() * len(index)
        self.n_not_finite += ~norm.isfinite()
        self.b += 1


def runner(approach, device):
    """What calls the step of a full batch again and again."""
    return Graph(lambda: held(approach)) if device.type == 'cuda' else eagerly


def eagerly(step):
    step()


@functools.cache
def side_stream():
    """One for all captures: cuBLAS keeps a workspace for each stream."""
    return torch.cuda.Stream()


class Graph:
    """Calls a function, always the same: the first times eagerly, then it is captured as a CUDA graph and replayed. It
    does not hold the function, so that the memory of a graph is free once its Steps are dropped.

    where: returns the addresses of the tensors that the function may not replace, as held() does
    """

    def __init__(self, where=dict):
        self.where, self.calls, self.graph = where, 0, None

    def __call__(self, function):
        if self.calls < WARM_UP:
            current, stream = torch.cuda.current_stream(), side_stream()
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                function()
            current.wait_stream(stream)
            self.calls += 1
            return
        if self.graph is None:
            self.graph, before = torch.cuda.CUDAGraph(), self.where()
            with torch.cuda.graph(self.graph, stream=side_stream()):
                function()
            check_held(before, self.where())
        self.graph.replay()


def held(approach):
    """The addresses of the tensors that an approach and its network hold: name -> address."""
    found = dict(approach.net.named_parameters()) | dict(approach.net.named_buffers())

    def look(name, value):
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, (list, tuple, dict)):
            for key, each in value.items() if isinstance(value, dict) else enumerate(value):
                look(f'{name}[{key!r}]', each)

    for name, value in vars(approach).items():
        if name != 'tasks':  # of the images none is replaced
            look(f'self.{name}', value)
    return {name: tensor.data_ptr() for name, tensor in found.items()}


def check_held(before, after):
    """Raises RuntimeError if a tensor was replaced: a replayed step uses the tensors of its capture."""
    if moved := [name for name, address in after.items() if before.get(name, address) != address]:
        raise RuntimeError(
            f'a training step replaces the tensor {moved[0]}, which its replays on a GPU would not see: write into it '
            'instead (copy_, add_ ...)'
        )

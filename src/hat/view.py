"""One task of a converted network as an ordinary module."""

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from hat.errors import warn
from hat.names import as_buffer, named_tensors
from hat.parallel import Whole
from hat.replica import Replica

if TYPE_CHECKING:
    from hat.network import Network


class View(Whole, nn.Module):
    """One task of a converted network, as a module that takes the inputs of the original network and has its
    submodules: for trainers, torch.optim.swa_utils.update_bn, and all else that knows nothing of tasks.

    Its parameters and buffers are those that the task trains: the shared ones, its own, and its embeddings. They are
    the network's, so training the view trains the network. end_task(), pruning and saving are the network's.

    Attributes:
        net: copies of the network's modules, as they were when the view was made, with the parameters and buffers of
            the task. Attributes and modes that are set later are those of the view alone, or of the network alone.
        embeddings: of the task.
        progress: of the next training batch; `steps` counts it.
        trained: number of batches after the last one that was trained, where load_state_dict() has not changed it.
        of_training: the network's mode as that of the view was set.
        accepts_loss_kwargs: for the Trainer of transformers: it divides the whole loss by the number of accumulated
            batches. Otherwise the network would divide its part alone, and c would count several times.
    """

    accepts_loss_kwargs = False
    of_training, trained = False, 0  # of views that an earlier version has pickled

    def __init__(self, network: 'Network', task: int, steps: int | None = None, c: float | None = None):
        """
        Args:
            network: a converted network.
            task: number of the task.
            steps: number of training batches in an epoch; None: set `progress` before each batch.
            c: add c * network.regularization() (Eq. 4) to the `loss` in the outputs of training batches; None: do not.

        Raises:
            TypeError, IndexError: there is no such task.
            ValueError: steps is below 1.
        """
        super().__init__()
        if steps is not None and steps < 1:
            raise ValueError(f'steps must be at least 1, not {steps}')
        self.of = (network,)  # not a submodule: its parameters are those of all tasks
        self.task, self.steps, self.c = network.index(task), steps, c
        self.progress: float | Tensor | None = None
        self.batches = 0  # number of training batches so far
        self.source: tuple = ()
        self.refresh()
        self.train(network.training)
        self.register_state_dict_pre_hook(View.restore)
        self.register_load_state_dict_pre_hook(View.before_loading)

    @property
    def network(self) -> 'Network':
        return self.of[0]

    def refresh(self) -> None:
        """Take over the network's tensors, if it has others now: after .to() or hat.forget()."""
        source = self.network.tasks[self.task], self.network.conversions
        if source == self.source:
            self.check()
        else:
            self.source = source
            self.net = Replica(self.network.net, self.network.stored(self.task)).network
            for name in self.network.plan.frozen:
                as_buffer(self.net, name)
            self.embeddings = source[0].embeddings
            super().train(self.training)

    def check(self) -> None:
        """Raises RuntimeError: a tensor of the view is not the network's any more, and training it would be in vain."""
        if torch.compiler.is_compiling():
            return
        stored, here = self.network.stored(self.task), dict(named_tensors(self.net))
        for name in here | stored:
            if here.get(name) is not stored.get(name):
                raise RuntimeError(
                    f'net.{name} of the view has been replaced (by functional_call, fully_shard or load_state_dict('
                    'assign=True), for example): it must stay the tensor of the network'
                )

    def named_parameters(self, *args: Any, **named: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of the network now: an optimizer may be made after .to() or hat.forget(), before a batch."""
        self.refresh()
        return super().named_parameters(*args, **named)

    def train(self, mode: bool = True) -> Self:
        self.of_training = self.network.training
        return super().train(mode)

    def restore(self, *_: Any) -> None:
        """Write the kept values to the parameters, before state_dict() reads them."""
        self.refresh()
        self.network.restore()

    def before_loading(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Hook: load into the network's tensors; a state without a number of batches leaves it as it is."""
        self.refresh()
        state.setdefault(f'{prefix}_extra_state', self.get_extra_state())

    def get_extra_state(self) -> Tensor:
        """The number of batches: a trainer that resumes in the middle of an epoch anneals from there."""
        return torch.tensor(self.batches)

    def set_extra_state(self, state: Tensor) -> None:
        """In the middle of an epoch, and of a new view: a trainer goes back there, also after it has evaluated an
        average. At an epoch's end a view that takes the weights of an average, or of its best batch, stays where it
        is."""
        if not self.batches or self.trained % (self.steps or 1):
            self.batches = int(state)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The output of the task."""
        self.refresh()
        if not self.training:
            return self.network.evaluate(self.task, inputs, named, self.net)
        counts, watch = torch.is_grad_enabled(), self.network.watch
        if not counts and self.of_training and not self.network.training:
            warn('a view in training mode has run without gradients: model.eval() does not reach it, call view.eval()')
        # Where gradients count, torch.compile must not see the watch: it would make another graph whenever that changes
        last = watch.progress if not counts and watch.task == self.task else None
        output = self.network.train_batch(self.task, self.position, inputs, named, self.net)
        if last is not None:
            watch.progress = last  # regularization() is for the batch before
        if counts and self.c is not None:
            add_to_loss(output, self.c * self.network.regularization())
        return output

    def position(self) -> float | Tensor | None:
        """The progress of a training batch. One without gradients, as of update_bn, is one of an epoch's end."""
        if not torch.is_grad_enabled():
            return 1.0
        if torch._C._current_graph_task_id() >= 0:  # checkpointed, and repeated in the backward pass
            return self.network.watch.progress
        if self.steps is None:
            return self.progress
        self.batches += 1
        self.trained = self.batches
        return ((self.batches - 1) % self.steps) / (self.steps - 1) if self.steps > 1 else 1.0

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self.network._apply(fn, recurse)
        self.refresh()
        return self


def add_to_loss(output: Any, term: Tensor) -> None:
    """Add to the `loss` of a dict, or of an object with this attribute, such as a ModelOutput of transformers."""
    is_dict = isinstance(output, MutableMapping)
    loss = output.get('loss') if is_dict else getattr(output, 'loss', None)
    if loss is None:
        raise ValueError('c is added to the loss in the output of the network, but it has none: leave out c, and add '
                         'c * network.regularization() to the loss')  # fmt: skip
    if is_dict:
        output['loss'] = loss + term
    else:
        output.loss = loss + term

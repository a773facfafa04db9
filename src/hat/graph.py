"""The graph of a network: its ATen operations, recorded during one forward pass, as a torch.fx graph.

torch.export makes such a graph, too, but takes seconds to load torch's compiler; torch.fx.symbolic_trace fails at the
first `if` on a shape.
"""

import contextlib
import sys
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from hat import parallel, rules
from hat.errors import CannotConvert
from hat.names import named_tensors
from hat.nested import mapped, tensors_in
from hat.plan import Inputs
from hat.recurrent import MODULES as RECURRENT
from hat.recurrent import is_recurrent
from hat.replica import Replica

STANDARD = nn.Linear, nn.Embedding, nn.EmbeddingBag, nn.Bilinear, nn.modules.conv._ConvNd
FORWARD = [kind.forward for kind in RECURRENT]
PASSED_ON = {'alias', 'clone', 'contiguous', 'copy', 'detach', 'lift_fresh', 'to', '_to_copy'}
SEEN = ('item', '_local_scalar_dense', 'is_nonzero', 'equal')  # operations that give Python the values of a tensor


def record(net: nn.Module, inputs: Inputs) -> 'Recorder':
    """Record net(*args, **kwargs) in evaluation mode, on the CPU: with the network's parameters, or, if it fails
    because of their type or changes them, with copies in float32.

    Nodes of `graph`: `placeholder` for each input, `get_attr` for parameters and buffers (target: the name) and for
    other tensors (target ''), `call_function` for each operation (target: an OpOverload). Their meta: `shape`, the
    torch.Size of the output, or a list of them; `dtype`; `value`, the tensor of a get_attr; `place`, the module and the
    source line of the operation; `path`, the name of the module; `module`, the name of the module of STANDARD that has
    the node as its output; `recurrent`, the name of the recurrent module that calls it.
    """
    types = {p.dtype for p in net.parameters() if p.is_floating_point()}
    with contextlib.suppress(ParameterChanged, *([] if types == {torch.float32} else [ValueError])):
        return attempt(net, inputs, copies=False)
    return attempt(net, inputs, copies=True)


class ParameterChanged(Exception):
    """An operation writes to memory that it may not change: a parameter of the network, or an input."""


def attempt(net: nn.Module, inputs: Inputs, copies: bool) -> 'Recorder':
    """A recording. copies: of the parameters in float32."""
    replica, tensors, (args, kwargs) = copied(net, inputs, copies=copies)
    recorder = Recorder({id(tensor): name for name, tensor in tensors.items()}, tensors_in((args, kwargs)))
    recorder.replaced = {id(tensor): name for name, tensor in named_tensors(net)}
    recorder.constants = {id(tensor) for tensor in replica.tensors.values()}
    if not copies:
        recorder.read_only = addresses(net.parameters())
    for name, module in replica.network.named_modules():
        if module.__dict__['_parameters'] or module._modules:
            recorder.watch(name, module)
    try:
        with whole_operations(), no_attention_fast_path(), recorder:
            output = replica.network(*args, **kwargs)
    except (CannotConvert, ParameterChanged):
        raise
    except Exception as error:
        if higher := str(error).partition('HigherOrderOperator ')[2].split():
            where = recorder.path[-1][0] or 'the top module'
            why = 'operators on functions, as of torch.cond and flex_attention, have no rules'
            raise CannotConvert(f'{higher[0]} in {where}: {why}') from error
        why = f'{type(error).__name__}: {" ".join(str(error).split())}'
        raise ValueError(f'the network fails on example_input (pass several inputs as a tuple): {why}') from error
    recorder.outputs = [recorder.node(x) for x in tensors_in(output)]
    return recorder


def copied(net: nn.Module, inputs: Inputs, training: bool = False,
           copies: bool = True) -> tuple[Replica, dict[str, Tensor], Inputs]:  # fmt: skip
    """A replica of the network, the tensors in it by name, and copies of the inputs, all on the CPU.

    copies: in float32; else buffers are copied, and parameters are those of the network, if they are on the CPU.
    """
    if copies:
        tensors = {name: to_float32(tensor.detach()).clone() for name, tensor in named_tensors(net)}
        return Replica(net, tensors, training=training), tensors, mapped(lambda x: to_float32(x).clone(), inputs)
    tensors = {name: tensor.detach().cpu() if isinstance(tensor, nn.Parameter) else tensor.detach().cpu().clone()
               for name, tensor in named_tensors(net)}  # fmt: skip
    return Replica(net, tensors, training=training), tensors, mapped(lambda x: x.cpu().clone(), inputs)


def addresses(tensors: Iterable[Tensor]) -> set[int]:
    """Where the memory of tensors is; of those that have some in one piece."""
    return {x.untyped_storage().data_ptr() for x in tensors if x.layout is torch.strided and x.numel()}


def to_float32(x: Tensor) -> Tensor:
    return x.cpu().float() if x.is_floating_point() else x.cpu()


@contextlib.contextmanager
def whole_operations() -> Iterator[None]:
    """Operations are not decomposed for autograd: a linear layer is one aten.linear. As in inference mode, but with
    ordinary tensors, which the network may store in a cache of its own."""
    with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
        yield


class no_attention_fast_path:  # noqa: N801
    """Switches off the fast path of nn.MultiheadAttention and nn.TransformerEncoder without gradients: it is a single
    operation, rounds differently, and ignores hooks on a layer's output. Several threads can use it at once."""

    lock, inside, before = parallel.lock(), 0, True

    def __enter__(self) -> None:
        with self.lock:
            if not no_attention_fast_path.inside:
                no_attention_fast_path.before = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            no_attention_fast_path.inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            no_attention_fast_path.inside -= 1
            if not no_attention_fast_path.inside:
                torch.backends.mha.set_fastpath_enabled(no_attention_fast_path.before)


class Recorder(TorchDispatchMode):
    """Records the operations that run inside it.

    Attributes:
        names: names of parameters and buffers, by id.
        replaced: names of the parameters and buffers of the network itself, by id: nothing may use them.
        constants: ids of the network's other tensors.
        read_only: addresses of memory that operations may not change: they raise ParameterChanged.
        written: addresses of memory that operations have changed.
    """

    replaced: Mapping[int, str] = {}
    constants: Collection[int] = ()
    read_only: Collection[int] = ()

    def __init__(self, names: Mapping[int, str], inputs: list[Tensor]):
        super().__init__()
        self.graph, self.names, self.written = torch.fx.Graph(), names, set[int]()
        self.path: list[tuple[str, nn.Module | None]] = [('', None)]  # the modules that are running
        # By id of the tensor, which is stored so that its id stays unique
        self.known: dict[int, tuple[Tensor, Node]] = {}
        self.outputs: list[Node] = []  # nodes of the network's outputs
        for i, x in enumerate(inputs):
            self.note(x, self.graph.placeholder(f'input_{i}'))

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        written = [named[a.name] for a in func._schema.arguments
                   if a.alias_info and a.alias_info.is_write and a.name in named]  # fmt: skip
        if not (memory := addresses(tree_leaves(written))).isdisjoint(self.read_only):
            raise ParameterChanged
        self.written |= memory
        output = func(*args, **kwargs)
        node_args, node_kwargs = tree_map_only(Tensor, self.node, (args, kwargs))
        node = self.graph.call_function(func, node_args, node_kwargs)
        name, module = self.path[-1]
        node.meta |= {'place': self.place(), 'path': name}
        if isinstance(module, RECURRENT) and type(module).forward in FORWARD and is_recurrent(node):
            node.meta['recurrent'] = name
        for changed in written:
            self.overwrite(changed, node)
        if isinstance(output, Tensor):
            self.note(output, node)
        elif isinstance(output, (tuple, list)):
            node.meta['shape'] = [getattr(o, 'shape', None) for o in output]
            for i, o in enumerate(output):
                if isinstance(o, Tensor):
                    self.note(o, self.graph.call_function(item, (node, i)))
        return output

    def operations(self) -> list[str]:
        """Names of all operations in order, without copies and casts."""
        return [name for node in self.graph.nodes if isinstance(node.target, torch._ops.OpOverload)
                if (name := rules.name_of(node.target)) not in PASSED_ON]  # fmt: skip

    def node(self, tensor: Tensor) -> Node:
        """The node of a tensor; a new get_attr, if no operation has made it."""
        if id(tensor) not in self.known:
            if id(tensor) in self.replaced:
                raise CannotConvert(
                    f'{self.replaced[id(tensor)]} is used without its gates {self.place()}: a function stores a '
                    'reference to its module; call the module as an attribute of the network'
                )
            node = self.graph.create_node('get_attr', self.names.get(id(tensor), ''))
            node.meta['value'], node.meta['place'] = tensor.detach(), self.place()
            node.meta['constant'] = id(tensor) in self.constants  # else forward() made it, perhaps from its inputs
            node.meta['trainable'] = tensor.requires_grad
            self.note(tensor, node)
        return self.known[id(tensor)][1]

    def note(self, tensor: Tensor, node: Node) -> None:
        """Remember the node of a tensor."""
        if tensor.is_nested:
            raise CannotConvert(f'a nested tensor {self.place()}: its elements have no indices; use padding and a mask')
        node.meta['shape'], node.meta['dtype'] = tensor.shape, tensor.dtype
        self.known[id(tensor)] = tensor, node

    def overwrite(self, written: Any, node: Node) -> None:
        """After an in-place operation: all tensors that share its memory get a new node, of which nothing is known. The
        output of the operation is noted after this."""
        for changed in tree_leaves(written):
            memory = changed.untyped_storage().data_ptr()
            for tensor, before in list(self.known.values()):
                if tensor.layout is torch.strided and tensor.untyped_storage().data_ptr() == memory:
                    self.note(tensor, self.graph.call_function(overwritten, (node, before)))

    def watch(self, name: str, module: nn.Module) -> None:
        """Add hooks to a module: for the path of the running module, and for the node of the output of a layer."""

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            self.path.pop()
            if isinstance(module, STANDARD) and id(output) in self.known:
                node = self.known[id(output)][1]
                layer = node.all_input_nodes[0] if node.target is item else node
                if not node.users:  # the module itself has not used it
                    layer.meta.setdefault('module', name)

        module._forward_hooks, module._forward_pre_hooks = (OrderedDict(hooks) for hooks in (
            module._forward_hooks, module._forward_pre_hooks))  # copies: these are the network's  # fmt: skip
        module.register_forward_pre_hook(lambda *_: self.path.append((name, module)))
        module.register_forward_hook(after)

    def place(self) -> str:
        """'in <module> (<file>:<line>)': the innermost source line that is neither PyTorch's nor this library's."""
        frame = sys._getframe(2)
        while frame.f_back and frame.f_globals.get('__name__', '').split('.')[0] in ('torch', 'hat'):
            frame = frame.f_back
        source = f'{frame.f_code.co_filename.rpartition("/")[2]}:{frame.f_lineno}'
        return f'in {self.path[-1][0] or "the top module"} ({source})'


def item(outputs: Any, i: int) -> Any:
    """One of several outputs of an operation: target of a node."""
    return outputs[i]


def overwritten(by: Any, before: Any) -> None:
    """A tensor whose memory an in-place operation has changed: target of a node. before: its node until then."""

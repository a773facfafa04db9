"""What a network does, as a torch.fx graph of ATen operations: it is recorded while the network runs once.

torch.export makes such a graph, too, but loads torch's compiler first, for seconds; torch.fx.symbolic_trace stops at
the first `if` on a shape.
"""

import contextlib
import copy

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


def record(net, inputs):
    """The graph of net(*inputs), in evaluation mode; it is a copy, in float32 on the CPU, that runs.

    Nodes: `placeholder` for each input, `get_attr` for parameters and buffers (target: the name) and for other tensors
    (target ''), `call_function` for each operation (target: an OpOverload). meta: `shape`, the torch.Size of the
    output, or a list of them; `value`, the tensor of a get_attr; `module`, the name of the nn.Linear that the node is
    the output of.
    """
    net = copy.deepcopy(net).to('cpu', torch.float32).eval()
    inputs = tree_map_only(torch.Tensor, lambda x: x.cpu().float() if x.is_floating_point() else x.cpu(), inputs)
    recorder = Recorder(net, inputs)
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(recorder.is_output_of(name))
    # In inference mode nothing is taken apart for autograd: a linear layer arrives as aten.linear.
    with torch.inference_mode(), open_attention(), recorder:
        output = net(*inputs)
    recorder.graph.output(tree_map_only(torch.Tensor, recorder.node, output))
    return recorder.graph


@contextlib.contextmanager
def open_attention():
    """Without the fast path that nn.MultiheadAttention and nn.TransformerEncoder take without gradients: it hides all
    operations in one, rounds otherwise, and goes past what multiplies a layer's output."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class Recorder(TorchDispatchMode):
    def __init__(self, net, inputs):
        super().__init__()
        self.graph = torch.fx.Graph()
        self.names = {id(p): name for name, p in [*net.named_buffers(), *net.named_parameters()]}
        self.known = {}  # id of a tensor -> the tensor (which keeps the id its own) and its node
        for i, x in enumerate(tree_leaves(inputs)):
            if isinstance(x, torch.Tensor):
                self.note(x, self.graph.placeholder(f'input_{i}'))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        given = tree_map_only(torch.Tensor, self.node, (args, kwargs))
        node = self.graph.call_function(func, *given)
        named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        for argument in func._schema.arguments:
            if argument.alias_info and argument.alias_info.is_write and argument.name in named:
                self.overwrite(named[argument.name], node)
        if isinstance(output, torch.Tensor):
            self.note(output, node)
        elif isinstance(output, (tuple, list)):
            node.meta['shape'] = [getattr(o, 'shape', None) for o in output]
            for i, o in enumerate(output):
                if isinstance(o, torch.Tensor):
                    self.note(o, self.graph.call_function(item, (node, i)))
        return output

    def node(self, tensor):
        if id(tensor) not in self.known:
            name = self.names.get(id(tensor), '')
            node = self.graph.create_node('get_attr', name)
            node.meta['value'] = tensor.detach()
            self.note(tensor, node)
        return self.known[id(tensor)][1]

    def note(self, tensor, node):
        node.meta['shape'], node.meta['dtype'] = tensor.shape, tensor.dtype
        self.known[id(tensor)] = tensor, node

    def overwrite(self, written, node):
        """An operation in place changes all that shares the memory. What is known of its output is noted after this."""
        for changed in tree_leaves(written):
            memory = changed.untyped_storage().data_ptr()
            for tensor, _ in list(self.known.values()):
                if tensor.untyped_storage().data_ptr() == memory:
                    self.note(tensor, self.graph.call_function(overwritten, (node,)))

    def is_output_of(self, name):
        def hook(module, inputs, output):
            self.known[id(output)][1].meta['module'] = name

        return hook


def item(outputs, i):
    return outputs[i]


def overwritten(by):
    """What is in a tensor whose memory an operation in place has changed."""

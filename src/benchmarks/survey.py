"""A survey of hard attention in all networks of networks.py: a record of each, and tables.

A network is converted for three tasks, which it learns in sequence, in three steps each, with one AdamW for all of
them. Then another optimizer trains the third task further, and noise is added to every parameter. Are the outputs of
the first task still bit-identical to those when it ended? And are those of the pruned network the same?
"""

import copy
import importlib
import json
import multiprocessing
import re
import signal
import time
from collections import Counter

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import hat
from benchmarks.networks import NETWORKS, SOURCES
from core.errors import UserError, one_line
from core.files import write
from core.text_tables import markdown

N_TASKS, STEPS, NOISE = 3, 3, 10.0
TOLERANCE = 1e-5  # of outputs, relative to the largest one
HEAD = ['network', 'source', 'converts', 'seconds', 'difference, gates open', 'closed units', 'protected weights',
        'task 0 identical', 'difference, pruned', 'parameters kept', 'why not']  # fmt: skip
COUNTS = ['source', 'networks', 'tried', 'converted', 'same with open gates', 'trained', 'identical', 'pruned',
          'pruned equal', 'refused', 'failed', 'slow']  # fmt: skip


def survey(names, limit, output=None):
    """Study networks, each in a process of its own and for at most `limit` seconds; print a line for each, then tables.

    output  a JSON file of the records, written after each network; networks that it has already are skipped
    """
    records = read(output) if output and output.exists() else {}
    hat.convert(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), 1, torch.zeros(2, 2))  # imports what children need
    print(markdown(HEAD, []))
    selected = {}
    for name in names:
        if name not in records and installed(NETWORKS[name][0]):
            records[name] = study_in_child(name, limit)
            if output:
                write(output, json.dumps(records, indent=1))
        selected[name] = records.get(name, {'why': 'not installed'})
        print(markdown(HEAD, [row(name, selected[name])]).splitlines()[-1], flush=True)
    tables = markdown(COUNTS, counts(selected)), markdown(['why not', 'networks', 'which'], reasons(selected))
    print('\n' + '\n\n'.join(tables))


def read(path):
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise UserError(f'--output: {path} is not JSON: {error}') from None


def installed(source):
    """Is the package installed? Imports it here, so that no child has to."""
    try:
        return source == 'hand' or bool(importlib.import_module(source))
    except ImportError:
        return False


def study_in_child(name, limit):
    """The record of a network, after at most `limit` seconds."""
    context, end = multiprocessing.get_context('fork'), time.monotonic() + limit
    record = {'stage': 'build', 'seconds': {}}
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_records, args=(name, sender))
    process.start()
    sender.close()
    try:
        while receiver.poll(max(0, end - time.monotonic())):
            record = receiver.recv()
        return record | {'why': f'slow: more than {limit:g} s', 'slow': True}
    except EOFError:
        process.join()
        return record if process.exitcode == 0 else record | {'why': f'the process died ({process.exitcode})'}
    finally:
        process.kill()
        process.join()


def send_records(name, connection):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # after Ctrl-C the parent ends this process
    torch.set_flush_denormal(True)
    for record in Study(NETWORKS[name][1]).stages():
        connection.send(record)


class Study:
    """The study of one network. build: returns the network and its example inputs."""

    def __init__(self, build):
        self.build_network, self.record = build, {'seconds': {}}

    def stages(self):
        """Yield the record before each stage and at the end; `why` says what went wrong."""
        for stage in (self.build, self.convert, self.compare, self.train, self.prune):
            self.record['stage'] = stage.__name__
            yield self.record
            torch.manual_seed(0)
            start = time.perf_counter()
            try:
                stage()
            except hat.CannotConvert as error:
                yield self.record | {'why': one_line(error), 'refused': True}
                return
            except Exception as error:
                yield self.record | {'why': f'{stage.__name__}: {type(error).__name__}: {one_line(error)[:200]}'}
                return
            self.record['seconds'][stage.__name__] = round(time.perf_counter() - start, 3)
        yield self.record | {'stage': 'done'}

    def build(self):
        self.net, self.inputs = self.build_network()
        self.record['parameters'] = size(self.net)
        imitate_training(self.net, self.inputs)

    def convert(self):
        self.model = hat.convert(self.net, N_TASKS, self.inputs)

    def compare(self):
        with torch.no_grad():
            expected = self.net.eval()(*self.inputs)
            opened = [torch.ones_like(a) for a in self.model.masks(0)]
            self.record['open'] = difference(self.model.eval().run(self.inputs, 0, opened), expected)

    def train(self):
        model = self.model
        adam = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        self.learn(0, adam)
        before = self.outputs()
        model.end_task(0)  # from here on weights that are taken for free are zero
        learned = self.outputs()
        self.record['ended'] = difference(learned, before)
        self.record['closed'] = float(torch.cat([a < 0.5 for a in model.masks(0)]).double().mean())
        self.record['finite'] = all(bool(y.isfinite().all()) for y in learned)
        self.record['alive'] = not same(self.outputs(fresh(self.inputs)), learned)
        self.learn(1, adam)
        model.end_task(1)
        self.learn(2, adam)
        momentum = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        self.learn(2, momentum)
        identical = same(self.outputs(), learned)
        protected = model.protected().values()
        self.record['protected'] = sum(int(p.sum()) for p in protected) / sum(p.numel() for p in protected)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(NOISE * torch.randn_like(p))
        identical &= same(self.outputs(), learned)
        self.learn(2, momentum)
        identical &= same(self.outputs(), learned)
        model.end_task(2)
        self.record['identical'] = identical and same(self.outputs(), learned)

    def prune(self):
        small = hat.prune(self.model, 0)
        with torch.no_grad():
            pruned = small(*self.inputs)
        self.record |= {'pruned': difference(pruned, self.outputs()), 'kept': size(small) / self.record['parameters']}

    def learn(self, task, optimizer):
        for b in range(STEPS):
            progress = b / (STEPS - 1)
            output = tensors(self.model.train()(*fresh(self.inputs), task=task, progress=progress))[0]
            loss = (output - torch.randn_like(output)).square().mean()
            loss = loss + 0.75 * self.model.regularization()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def outputs(self, inputs=None):
        """Copies of the outputs of task 0."""
        return [y.clone() for y in tensors(self.model.eval()(*(inputs or self.inputs), task=0))]


@torch.no_grad()
def imitate_training(net, inputs):
    """Add noise to the parameters and set the statistics of norms: many scales, biases and whole layers start at zero,
    which would leave little to compare."""
    for p in net.parameters():
        p.add_(torch.randn_like(p) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.1))
    other = copy.deepcopy(net)  # some networks keep intermediate results of a run
    norms = [module for module in other.modules() if getattr(module, 'momentum', None)]
    for norm in norms:
        norm.momentum = 0.9
    if norms:
        other.train()(*inputs)
        net.load_state_dict(other.state_dict())


def size(net):
    return sum(p.numel() for p in net.parameters())


def tensors(output):
    return [y for y in tree_leaves(output) if isinstance(y, torch.Tensor)]


def fresh(inputs):
    """New inputs of the same shapes: normal numbers, the same integers in another order, the same booleans."""

    def another(x):
        if x.dtype == torch.bool:
            return x
        return torch.randn_like(x) if x.is_floating_point() else x.flatten()[torch.randperm(x.numel())].view_as(x)

    return tuple(another(x) for x in inputs)


def same(actual, expected):
    return all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def difference(actual, expected):
    """The largest difference between two outputs, relative to the largest element."""
    actual, expected = (torch.cat([y.float().flatten() for y in tensors(output)]) for output in (actual, expected))
    return float((actual - expected).abs().max()) / (float(expected.abs().max()) or 1.0)


def row(name, record):
    """The cells under HEAD."""

    def cell(key, form):
        return format(record[key], form) if key in record else ''

    seconds = record.get('seconds', {}).get('convert')
    return [
        name, NETWORKS[name][0], 'no' if seconds is None else 'yes', '' if seconds is None else f'{seconds:.1f}',
        cell('open', '.1g'), cell('closed', '.0%'), cell('protected', '.0%'),
        {None: '', True: 'yes', False: 'no'}[record.get('identical')],
        cell('pruned', '.1g'), cell('kept', '.0%'), '; '.join(faults(record)),
    ]  # fmt: skip


def faults(record):
    """What is wrong, a list of texts."""
    checks = {
        'not the same with open gates': not record.get('open', 0) <= TOLERANCE,
        'outputs are not finite': not record.get('finite', True),
        'outputs do not depend on the inputs': not record.get('alive', True),
        'not the same after end_task': not record.get('ended', 0) <= TOLERANCE,
        "task 0's outputs changed": not record.get('identical', True),
        'not the same when pruned': not record.get('pruned', 0) <= TOLERANCE,
    }
    why = [record['why']] if 'why' in record else []
    return why + [fault for fault, applies in checks.items() if applies]


def counts(records):
    """The lines under COUNTS."""
    sums = {source: Counter() for source in (*SOURCES, 'all')}
    for name, record in records.items():
        refused, slow = 'refused' in record, 'slow' in record
        facts = {
            'networks': True,
            'tried': 'stage' in record,
            'converted': 'convert' in record.get('seconds', ()),
            'same with open gates': record.get('open', 1) <= TOLERANCE,
            'trained': 'identical' in record,
            'identical': record.get('identical'),
            'pruned': 'pruned' in record,
            'pruned equal': record.get('pruned', 1) <= TOLERANCE,
            'refused': refused,
            'failed': 'stage' in record and 'why' in record and not refused and not slow,
            'slow': slow,
        }
        for source in (NETWORKS[name][0], 'all'):
            sums[source].update(fact for fact, is_true in facts.items() if is_true)
    return [[source, *(str(total[fact]) for fact in COUNTS[1:])] for source, total in sums.items() if total]


def reasons(records):
    """Each fault, without line numbers and names of parameters; how often, and in which networks."""
    where = {}
    for name, record in records.items():
        for fault in faults(record):
            fault = re.sub(r'( in \S+)? \(\S+\.py:\d+\)', '', fault)
            where.setdefault(re.sub(r'(?<![\w.])(?!aten\.)\w+(\.\w+)+', '*', fault), []).append(name)
    return [[why, str(len(names)), ', '.join(names)] for why, names in sorted(where.items(), key=lambda w: -len(w[1]))]

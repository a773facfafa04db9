"""What becomes of each network of networks.py with hard attention in it: a record each, and tables of them.

A network is converted for three tasks, which are learned one after the other, in three steps each, with one AdamW for
all of them. Then another optimizer trains the third task further, and noise is written into all that tasks share. Are
the first task's outputs still those it had when it ended, bit for bit? And has the small network that the task is cut
down to the same ones?
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
from core.files import atomic
from core.text_tables import markdown

N_TASKS, STEPS, NOISE = 3, 3, 10.0
CLOSE = 1e-5  # two outputs, of the largest one
HEAD = ['network', 'source', 'converts', 'seconds', 'difference, gates open', 'closed units', 'protected weights',
        'task 0 identical', 'difference, pruned', 'parameters kept', 'why not']  # fmt: skip
COUNTS = ['source', 'networks', 'tried', 'converted', 'same with open gates', 'trained', 'identical', 'pruned',
          'pruned equal', 'refused', 'failed', 'slow']  # fmt: skip


def survey(names, limit, output=None):
    """Study networks, each in a process of its own and for at most `limit` seconds; print a line for each, then tables.

    output  a JSON file of the records, written after each network; those that are there already are not studied again
    """
    records = read(output) if output and output.exists() else {}
    hat.convert(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), 1, torch.zeros(2, 2))  # for what it imports
    print(markdown(HEAD, []))
    found = {}
    for name in names:
        if name not in records and installed(NETWORKS[name][0]):
            records[name] = apart(name, limit)
            if output:
                with atomic(output) as part:
                    part.write_text(json.dumps(records, indent=1), encoding='utf-8')
        found[name] = records.get(name, {'why': 'not installed'})
        print(markdown(HEAD, [row(name, found[name])]).splitlines()[-1], flush=True)
    print(f'\n{markdown(COUNTS, counts(found))}\n\n{markdown(["why not", "networks", "which"], reasons(found))}')


def read(path):
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise UserError(f'--output: {path} is not JSON: {error}') from None


def installed(source):
    """Whether the package is there. Networks are studied by children of this process, which do not import it again."""
    try:
        return source == 'hand' or bool(importlib.import_module(source))
    except ImportError:
        return False


def apart(name, limit):
    """The record of a network, as far as it has come within `limit` seconds."""
    context, end = multiprocessing.get_context('fork'), time.monotonic() + limit
    record = {'stage': 'build', 'seconds': {}}
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=send, args=(name, theirs))
    process.start()
    theirs.close()
    try:
        while ours.poll(max(0, end - time.monotonic())):
            record = ours.recv()
        return record | {'why': f'slow: more than {limit:g} s', 'slow': True}
    except EOFError:
        process.join()
        return record if process.exitcode == 0 else record | {'why': f'the process died ({process.exitcode})'}
    finally:
        process.kill()
        process.join()


def send(name, connection):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # after Ctrl-C the parent ends this process
    torch.set_flush_denormal(True)
    for record in Study(NETWORKS[name][1]).stages():
        connection.send(record)


class Study:
    """Of one network. `build` makes it, and its example inputs."""

    def __init__(self, build):
        self.build_network, self.record = build, {'seconds': {}}

    def stages(self):
        """Yield the record, with what each stage adds to it; `why` says what went wrong."""
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
        make_lively(self.net, self.inputs)

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
        model.end_task(0)
        learned = self.answers()
        self.record['closed'] = float(torch.cat([a < 0.5 for a in model.masks(0)]).double().mean())
        self.record['finite'] = all(bool(y.isfinite().all()) for y in learned)
        self.record['alive'] = not same(self.answers(fresh(self.inputs)), learned)
        self.learn(1, adam)
        model.end_task(1)
        self.learn(2, adam)
        momentum = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        self.learn(2, momentum)
        identical = same(self.answers(), learned)
        protected = model.protected().values()
        self.record['protected'] = sum(int(p.sum()) for p in protected) / sum(p.numel() for p in protected)
        with torch.no_grad():
            for p in model.shared.values():
                p.add_(NOISE * torch.randn_like(p))
        identical &= same(self.answers(), learned)
        self.learn(2, momentum)
        identical &= same(self.answers(), learned)
        model.end_task(2)
        self.record['identical'] = identical and same(self.answers(), learned)

    def prune(self):
        small = hat.prune(self.model, 0)
        with torch.no_grad():
            pruned = small(*self.inputs)
        self.record |= {'pruned': difference(pruned, self.answers()), 'kept': size(small) / self.record['parameters']}

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
    def answers(self, inputs=None):
        """Of task 0, copies."""
        return [y.clone() for y in tensors(self.model.eval()(*(inputs or self.inputs), task=0))]


@torch.no_grad()
def make_lively(net, inputs):
    """As if it had been trained: many scales, biases and whole layers start at zero, and norms' statistics fit nothing;
    then there would be little to compare."""
    for p in net.parameters():
        p.add_(torch.randn_like(p) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.1))
    other = copy.deepcopy(net)  # networks may keep what they work out in a run
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
    """New inputs of the same form: normal numbers, the same integers in another order, the same truth values."""

    def another(x):
        if x.dtype == torch.bool:
            return x
        return torch.randn_like(x) if x.is_floating_point() else x.flatten()[torch.randperm(x.numel())].view_as(x)

    return tuple(another(x) for x in inputs)


def same(actual, expected):
    return all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def difference(actual, expected):
    """The largest between two outputs, as a share of the largest element."""
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
    """What is not as it should be."""
    found = {
        record.get('why'): 'why' in record,
        'not the same with open gates': not record.get('open', 0) <= CLOSE,
        'outputs are not finite': not record.get('finite', True),
        'outputs do not hang on the inputs': not record.get('alive', True),
        "task 0's outputs changed": not record.get('identical', True),
        'not the same when pruned': not record.get('pruned', 0) <= CLOSE,
    }
    return [fault for fault, there in found.items() if there]


def counts(records):
    """Lines under COUNTS."""
    sums = {source: Counter() for source in (*SOURCES, 'all')}
    for name, record in records.items():
        refused, slow = 'refused' in record, 'slow' in record
        facts = {
            'networks': True,
            'tried': 'stage' in record,
            'converted': 'convert' in record.get('seconds', ()),
            'same with open gates': record.get('open', 1) <= CLOSE,
            'trained': 'identical' in record,
            'identical': record.get('identical'),
            'pruned': 'pruned' in record,
            'pruned equal': record.get('pruned', 1) <= CLOSE,
            'refused': refused,
            'failed': 'stage' in record and 'why' in record and not refused and not slow,
            'slow': slow,
        }
        for source in (NETWORKS[name][0], 'all'):
            sums[source].update(fact for fact, true in facts.items() if true)
    return [[source, *(str(found[fact]) for fact in COUNTS[1:])] for source, found in sums.items() if found]


def reasons(records):
    """What is wrong, without places and names of parameters; how often, and where."""
    where = {}
    for name, record in records.items():
        for fault in faults(record):
            fault = re.sub(r'( in \S+)? \(\S+\.py:\d+\)', '', fault)
            where.setdefault(re.sub(r'(?<![\w.])(?!aten\.)\w+(\.\w+)+', '*', fault), []).append(name)
    return [[why, str(len(names)), ', '.join(names)] for why, names in sorted(where.items(), key=lambda w: -len(w[1]))]

"""Learn the tasks of an experiment one after the other with one approach; test on all tasks so far after each."""

import os
import sys
import time
from pathlib import Path

import numpy as np

import dataloaders
from approaches import APPROACHES, build, canonical
from approaches.base import Protocol
from core import metrics, results
from core.arguments import Parser, count, few, parallel, positive, seed, width, words
from core.device import crowded, describe, setup_device, use_threads, versions
from core.errors import UserError, exit_code, require
from core.files import ROOT
from core.hyperparameters import parse as parse_parameters
from core.hyperparameters import show
from core.text_tables import accuracy_matrix
from runs.checkpoints import Checkpoint
from runs.identity import Identity
from runs.tensorboard import TensorBoardLogger

EXAMPLES = """\
examples:
  python src/run.py --approach hat --experiment demo
  python src/run.py --approach hat --experiment mixture --parameter c=0.75,smax=400
  python src/run.py --approach sgd --experiment mixture --tasks mnist,cifar10 --width 0.25 --nepochs 20
"""


def parse(argv):
    """Arguments, complete: what was not given has the experiment's default, `parameter` is a dict of all values."""
    parser = Parser(__doc__, EXAMPLES)
    what = parser.add_argument_group('what to run')
    what.add_argument('--approach', required=True, choices=APPROACHES, type=canonical)
    what.add_argument('--experiment', required=True, choices=dataloaders.EXPERIMENTS)
    what.add_argument('--parameter', default='', metavar='VALUES', help=_parameter_help())
    what.add_argument('--seed', type=seed, default=0, help='sets the task order and everything random (default 0)')
    tasks = parser.add_argument_group('which tasks')
    tasks.add_argument('--tasks', type=words, metavar='NAME,NAME,...', help='exactly these, in this order (default: '
                       'all, shuffled)')  # fmt: skip
    tasks.add_argument('--ntasks', type=few, metavar='N', help='the first N only')
    tasks.add_argument('--ntrain', type=count, metavar='N', help='at most N training images a task, 15 %% of them for '
                       'validation; stratified (default: all)')  # fmt: skip
    protocol = parser.add_argument_group('training (defaults: the paper)')
    protocol.add_argument('--nepochs', type=count, metavar='N', help=f'at most, a task ({_defaults("nepochs")})')
    protocol.add_argument('--lr', type=positive, default=Protocol.lr, help='at the start of a task (default 0.05)')
    protocol.add_argument('--batch-size', type=count, default=Protocol.batch_size, metavar='N', help='(default 64)')
    protocol.add_argument('--width', type=width, metavar='W', help='all hidden layers times W, for small machines '
                          f'({_defaults("width")})')  # fmt: skip
    places = parser.add_argument_group('where')
    places.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:N or mps (default auto: cuda '
                        'if there is one, else cpu)')  # fmt: skip
    places.add_argument('--threads', type=parallel, metavar='N', help='of the CPU (default: what PyTorch finds right, '
                        'demo 1); where the environment has OMP_NUM_THREADS, that counts')  # fmt: skip
    places.add_argument('--data', type=Path, default=ROOT / 'dat', metavar='DIR',
                        help='where <task>.npz or the archives are (default dat)')  # fmt: skip
    places.add_argument('--output', type=Path, metavar='FILE.txt', help='the accuracy matrix; all the rest goes to '
                        'FILE.json (default res/<experiment>_<approach>_<seed>.txt)')  # fmt: skip
    places.add_argument('--tmp', type=Path, metavar='DIR', help='for checkpoints (default $HAT_TMP; or '
                        'tmp; or beside the output where that cannot be written)')  # fmt: skip
    places.add_argument('--save', action='store_true', help='keep the network, too, in FILE.pt (for prune.py)')
    places.add_argument('--tensorboard', action='store_true', help='write what each epoch brings to tensorboard/ '
                        'beside the checkpoint (needs: pip install tensorboard)')  # fmt: skip
    places.add_argument('--fresh', action='store_true', help='start over: not from the checkpoint of a killed run, nor '
                        'content with a result that is there')  # fmt: skip
    places.add_argument('--stale', choices=('keep', 'redo'), help='what other code has computed: keep a result, go on '
                        'from a checkpoint; or do it again (default: keep a result, refuse a checkpoint)')  # fmt: skip
    args = parser.parse_args(argv)
    args.parameter = parse_parameters(args.parameter, APPROACHES[args.approach].parameters)
    for name, value in dataloaders.defaults(args.experiment).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.tensorboard:
        require('--tensorboard needs TensorBoard', 'tensorboard')
    args.output = args.output or ROOT / 'res' / f'{args.experiment}_{args.approach}_{args.seed}.txt'
    return args


def main(argv=None):
    args = parse(argv)
    device = setup_device(args.device)
    use_threads(args.threads)
    output = results.Output(args.output, args.save)
    output.check()
    checkpoint, identity = Checkpoint(output, args.tmp), Identity(args)
    with checkpoint.lock():
        output.remove_partial_files()
        if args.fresh:
            checkpoint.remove()
        if output.finished(identity, args.stale) and not args.fresh:
            again = ', by other code; --stale redo' if output.stale(identity) else '; --fresh'
            print(f'done before{again} does it again')
            if args.tensorboard:
                record = results.read_record(output.json)
                names = [task['name'] for task in record['tasks']]
                TensorBoardLogger(checkpoint, names).write(record['epochs'], record['accuracy'])
        else:
            learn(args, device, output, checkpoint, identity)
        checkpoint.remove()
    print(f'\n{summary(output)}')


def learn(args, device, output, checkpoint, identity):
    """The tasks, one after the other; goes on from the checkpoint if there is one."""
    began = time.perf_counter()
    tasks = dataloaders.load(args.experiment, args.data, args.seed, args.tasks, args.ntasks, args.ntrain)
    tasks = [task.to(device) for task in tasks]
    approach = build(args, tasks, device)
    record = {'arguments': identity.arguments, 'tasks': [task.sizes() for task in tasks], 'code': identity.code,
              'n_parameters': sum(p.numel() for p in approach.net.parameters()), 'versions': versions()}  # fmt: skip
    print(f'{args.approach} on {args.experiment}, seed {args.seed}: {len(tasks)} tasks, '
          f'{record["n_parameters"]:,} parameters, {describe(device)}', flush=True)  # fmt: skip
    if hint := crowded(device):
        print(hint, flush=True)

    done = {name: [] for name in ('initial', 'before', 'accuracy', 'valid_accuracy', 'epochs', 'devices', 'testing')}
    done['seconds'] = 0.0
    if loaded := checkpoint.load(record, device, args.stale):
        saved, code = loaded
        record['code'] = code if code.endswith(identity.code) else f'{code}+{identity.code}'
        approach.load_state(saved['approach'])
        done = saved['done']
        print(f'goes on from {checkpoint.path}', flush=True)
    else:
        output.back_up_existing(identity)
    if describe(device) not in done['devices']:
        done['devices'].append(describe(device))
    before = done['seconds']
    events = args.tensorboard and TensorBoardLogger(checkpoint, [task.name for task in tasks])

    def save():
        done['seconds'] = before + time.perf_counter() - began
        checkpoint.save(record, {'approach': approach.state(), 'done': done})

    def after_epoch():
        if checkpoint.due():
            save()
        show()

    def show():
        if events:
            events.write([*done['epochs'], approach.training.log if approach.training else []], done['accuracy'])

    def accuracy(u, split='test'):
        return approach.evaluate(u, getattr(tasks[u], split))[1]

    done['initial'] = done['initial'] or [accuracy(u) for u in range(len(tasks))]
    for t in range(len(done['epochs']), len(tasks)):
        if len(done['before']) == t:
            done['before'].append(accuracy(t))
        log = approach.learn(t, after_epoch)
        start = time.perf_counter()
        for name, split in ('accuracy', 'test'), ('valid_accuracy', 'valid'):
            done[name].append([accuracy(u, split) for u in range(t + 1)])
        done['testing'].append(time.perf_counter() - start)
        done['epochs'].append(log)
        output.save_matrix(metrics.square(done['accuracy'], len(tasks)))
        save()
        show()
        print(f'{t + 1}/{len(tasks)} {tasks[t].name}: test accuracy {100 * done["accuracy"][t][t]:.2f} % after '
              f'{len(log)} epochs, {sum(epoch["seconds"] for epoch in log):.1f} s', flush=True)  # fmt: skip
    epoch_seconds = [[epoch.pop('seconds') for epoch in log] for log in done['epochs']]
    matrices = {name: metrics.square(done[name], len(tasks)).tolist() for name in ('accuracy', 'valid_accuracy')}
    times = {'total': done['seconds'], 'epochs': epoch_seconds, 'testing': done['testing']}
    lists = {name: done[name] for name in ('initial', 'before', 'epochs', 'devices')}
    if differ := identity.differences(record):
        raise UserError(f'--data: {args.data} is not what it was when the run began: {"; ".join(differ)}')
    rest = {'diverged': diverged(tasks, done['epochs']), 'monitor': approach.report(), 'times': times,
            'folder': os.path.relpath(args.data, ROOT)}  # fmt: skip
    output.save_record({**record, **matrices, **lists, **output.save_model(approach.state()), **rest})


def diverged(tasks, logs):
    """Where something was not finite: the first epoch of each such task."""
    first = {}
    for task, log in zip(tasks, logs, strict=True):
        for e, epoch in enumerate(log, 1):
            if 'diverged' in epoch:
                first.setdefault(task.name, {'task': task.name, 'epoch': e, 'what': epoch['diverged']})
    return list(first.values())


def summary(output):
    """What a finished run has to say, from its files."""
    record = results.read_record(output.json)
    accuracy = np.array(record['accuracy'])
    return (f'{accuracy_matrix([task["name"] for task in record["tasks"]], accuracy)}\n\n'
            f'average accuracy   {100 * metrics.average_accuracies(accuracy)[-1]:6.2f} %\n'
            f'average forgetting {100 * metrics.average_forgetting(accuracy):6.2f} points\n'
            f'time               {record["times"]["total"]:6.0f} s\n'
            f'results            {output.txt}, {output.json.name}')  # fmt: skip


def _defaults(name):
    """What --help says of an argument whose default hangs on the experiment."""
    others = ((experiment, module.DEFAULTS.get(name)) for experiment, module in dataloaders.EXPERIMENTS.items())
    return ', '.join([f'default {dataloaders.PAPER[name]}', *(f'{e} {value}' for e, value in others if value)])


def _parameter_help():
    declared = (
        f'{name}: {show({n: p.default for n, p in approach.parameters.items()})}'
        for name, approach in APPROACHES.items()
        if approach.parameters
    )
    return f'hyper-parameters, comma-separated, in their order or as name=value ({"; ".join(declared)})'


def cli(argv=None):
    return exit_code('run.py', main, argv)


if __name__ == '__main__':
    sys.exit(cli())

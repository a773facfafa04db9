"""Learn the tasks of an experiment one after the other with one approach; test on all tasks so far after each."""

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

import dataloaders
import networks
from approaches import APPROACHES, build, canonical
from approaches.common.optimizers import LR
from approaches.common.training import DEPARTURES, Protocol
from core import metrics, results
from core.arguments import Parser, count, few, parallel, positive, seed, width, words
from core.device import crowded, describe, setup_device, use_threads, versions
from core.errors import UserError, exit_code, require
from core.files import ROOT
from core.hyperparameters import parse as parse_parameters
from core.hyperparameters import show
from core.text_tables import accuracy_matrix
from dataloaders import options
from runs import saved
from runs.checkpoints import Checkpoint
from runs.identity import Identity
from runs.progress import TaskProgress
from runs.tensorboard import TensorBoardLogger

EXAMPLES = """\
instead of a run:
  --selftest            does this machine compute what it should? (--selftest --help lists its arguments)

examples:
  python src/run.py --approach hat --experiment demo
  python src/run.py --approach hat --experiment mixture --parameter c=0.75,smax=400
  python src/run.py --approach sgd --experiment mixture --tasks mnist,cifar10 --width 0.25 --nepochs 20
  python src/run.py --selftest
"""


def make_parser():
    parser = Parser(__doc__, EXAMPLES)
    what = parser.add_argument_group('what to run')
    what.add_argument('--approach', required=True, choices=APPROACHES, type=canonical,
                      help='see src/approaches/README.md')  # fmt: skip
    what.add_argument('--experiment', required=True, choices=dataloaders.EXPERIMENTS,
                      help='the tasks and their data: see src/dataloaders/README.md')  # fmt: skip
    what.add_argument('--network', metavar='NAME', help='another network: of torchvision (resnet18, or '
                      'resnet18,stem=small for small images) or timm '
                      '(timm:vit_tiny_patch16_224,img_size=32,patch_size=4); not for pathnet, pnn')  # fmt: skip
    what.add_argument('--pretrained', type=Path, metavar='FILE', help='its initial weights: a state_dict of torch.save '
                      'or safetensors, without a tensor too few or too many but for the classifier and a new stem '
                      '(default: drawn by the seed)')  # fmt: skip
    what.add_argument('--parameter', default='', metavar='VALUE,...', help=_parameter_help())
    what.add_argument(
        '--seed', type=seed, default=0, help='of task order, data split, batches, weights, dropout (default 0)'
    )
    tasks = parser.add_argument_group('which tasks')
    tasks.add_argument('--tasks', type=words, metavar='NAME,NAME,...', help='exactly these, in this order (default: '
                       'all, shuffled)')  # fmt: skip
    tasks.add_argument('--ntasks', type=few, metavar='N', help='the first N only')
    tasks.add_argument('--ntrain', type=count, metavar='N', help='at most N training images a task, 15 %% of them for '
                       'validation; stratified (default: all)')  # fmt: skip
    options.add(parser)
    protocol = parser.add_argument_group('training (defaults: the paper)')
    protocol.add_argument('--nepochs', type=count, metavar='N', help=f'at most, a task ({_defaults("nepochs")})')
    protocol.add_argument('--lr', type=positive, help='at the start of a task (default 0.05; momentum 0.005, adamw '
                          '0.001)')  # fmt: skip
    protocol.add_argument('--batch-size', type=count, default=Protocol.batch_size, metavar='N', help='(default 64)')
    protocol.add_argument('--width', type=width, metavar='W', help='all hidden layers times W, for small machines '
                          f'({_defaults("width")})')  # fmt: skip
    for name, values in DEPARTURES.items():
        protocol.add_argument(
            f'--{name}', choices=values, help=f'(default {values[0]}; all others depart from the paper)'
        )
    where = parser.add_argument_group('where')
    where.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:N or mps (default auto: cuda '
                       'if there is one, else cpu)')  # fmt: skip
    where.add_argument('--threads', type=parallel, metavar='N', help="CPU threads (default: PyTorch's choice, demo 1) "
                       'unless OMP_NUM_THREADS is set')  # fmt: skip
    where.add_argument('--data', type=Path, metavar='DIR', help='folder of <task>.npz or of the archives (default '
                       'dat), or of your own tasks (no default)')  # fmt: skip
    where.add_argument('--tmp', type=Path, metavar='DIR', help='for checkpoints (default $HAT_TMP, else tmp, or '
                       'beside the output if that is read-only)')  # fmt: skip
    written = parser.add_argument_group('results')
    written.add_argument('--output', type=Path, metavar='FILE.txt', help='the accuracy matrix; the record goes to '
                         'FILE.json (default res/<experiment>_<approach>_<seed>.txt)')  # fmt: skip
    written.add_argument('--save', action='store_true', help='also save the network, as FILE.pt (for predict.py and '
                         'prune.py)')  # fmt: skip
    written.add_argument('--fresh', action='store_true', help='start from scratch: ignore the checkpoint and the '
                         'result of an earlier run')  # fmt: skip
    written.add_argument('--stale', choices=('keep', 'redo'), help='results and checkpoints of other code: keep a '
                         'result and resume from a checkpoint, or redo the run (default: keep a result, reject a '
                         'checkpoint)')  # fmt: skip
    shown = parser.add_argument_group('what is shown')
    shown.add_argument('--verbose', action='store_true', help='print every epoch (default: one every 10 seconds)')
    shown.add_argument('--tensorboard', action='store_true', help='log the metrics of each epoch to tensorboard/ '
                       'beside the checkpoint (needs: pip install tensorboard)')  # fmt: skip
    return parser


def parse(argv):
    """All arguments: missing ones have the default of the experiment, `parameter` is a dict of all values."""
    args = make_parser().parse_args(argv)
    args.parameter = parse_parameters(args.parameter, APPROACHES[args.approach].parameters)
    if args.network and args.width is not None:
        raise UserError('--width is for the networks of the paper: leave it out with --network')
    if args.pretrained and not args.network:
        raise UserError('--pretrained is for a --network of torchvision or timm')
    if args.augment == 'flip-crop' and hasattr(dataloaders.EXPERIMENTS[args.experiment], 'pixels'):
        raise UserError(f'--augment flip-crop: the pixels of {args.experiment} are permuted; leave it out')
    if args.network:
        args.width = 1.0
    for name, values in DEPARTURES.items():
        if getattr(args, name) == values[0]:
            setattr(args, name, None)  # as in records that are older than the choice
    if args.lr is None:
        args.lr = LR[args.optimizer or 'sgd']
    if args.lr < (least := Protocol.of(args).lr_min):
        raise UserError(f'--lr: training stops below {least:g}, so {args.lr:g} trains nothing')
    for name, value in dataloaders.defaults(args.experiment).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.data is None:  # dat/ may hold the sets of other experiments, which are not the user's own tasks
        if options.is_own(args.experiment):
            raise UserError(f'--data: give the folder of your tasks: --experiment {args.experiment} has no default')
        args.data = ROOT / 'dat'
    if args.tensorboard:
        require('--tensorboard needs TensorBoard', 'tensorboard')
    options.apply(args)
    args.output = args.output or ROOT / 'res' / f'{args.experiment}_{args.approach}_{args.seed}.txt'
    return args


def main(argv=None):
    args = parse(argv)
    device = setup_device(args.device, args.precision)
    use_threads(args.threads)
    output = results.Output(args.output, args.save)
    output.check()
    checkpoint, identity = Checkpoint(output, args.tmp), Identity(args)
    with checkpoint.lock():
        output.remove_partial_files()
        if args.fresh:
            checkpoint.remove()
        if output.finished(identity, args.stale) and not args.fresh:
            again = ', by other code (--stale redo' if output.stale(identity) else ' (--fresh'
            print(f'already finished{again} runs it again)')
            if args.tensorboard:
                record = results.read_record(output.json)
                names = [task['name'] for task in record['tasks']]
                TensorBoardLogger(checkpoint, names).write(record['epochs'], record['accuracy'])
        else:
            learn(args, device, output, checkpoint, identity)
        checkpoint.remove()
    print(f'\n{summary(output)}')


@dataclass
class History:
    """What a run has measured so far; part of its checkpoint."""

    initial: list = field(default_factory=list)  # test accuracy of each task with the initial weights
    before: list = field(default_factory=list)  # that of each task just before it is learned
    accuracy: list = field(default_factory=list)  # a row after each task: test accuracy of all tasks so far
    valid_accuracy: list = field(default_factory=list)
    epochs: list = field(default_factory=list)  # for each task, a record for each epoch
    testing: list = field(default_factory=list)  # seconds of testing after each task
    devices: list = field(default_factory=list)
    seconds: float = 0.0  # in all


def learn(args, device, output, checkpoint, identity):
    """Learn the tasks in sequence; resume from the checkpoint if there is one."""
    start = time.perf_counter()
    tasks = dataloaders.load(args.experiment, args.data, args.seed, args.tasks, args.ntasks, args.ntrain)
    tasks = [task.to(device) for task in tasks]
    approach = build(args.approach, args.experiment, tasks, Protocol.of(args), args.width, args.parameter, args.network,
                     args.pretrained)  # fmt: skip
    check_tasks(approach)
    print(one_sided(tasks), end='', flush=True)
    head = {'arguments': identity.arguments, 'tasks': [task.sizes() for task in tasks], 'code': identity.code,
            'n_parameters': sum(p.numel() for p in approach.net.parameters()), 'weights': identity.weights,
            'versions': versions(*networks.external.packages(args.network))}  # fmt: skip
    print(f'{args.approach} on {args.experiment}, seed {args.seed}: {len(tasks)} tasks, '
          f'{head["n_parameters"]:,} parameters, {describe(device)}', flush=True)  # fmt: skip
    if hint := crowded(device):
        print(hint, flush=True)

    history = History()
    if loaded := checkpoint.load(head, device, args.stale):
        state, code = loaded
        head['code'] = code if code.endswith(identity.code) else f'{code}+{identity.code}'
        approach.load_state(state['approach'])
        history = History(**state['history'])
        print(f'resuming from {checkpoint.path}', flush=True)
    else:
        output.back_up_existing(identity)
    if describe(device) not in history.devices:
        history.devices.append(describe(device))
    earlier = history.seconds
    events = args.tensorboard and TensorBoardLogger(checkpoint, [task.name for task in tasks])

    def save():
        history.seconds = earlier + time.perf_counter() - start
        checkpoint.save(head, {'approach': approach.state(), 'history': vars(history)})

    def log_metrics():
        if events:
            current = [approach.training.log] if approach.training else []
            events.write([*history.epochs, *current], history.accuracy)

    def learn_task(t):
        resumed = len(approach.training.log) if approach.training else 0
        with TaskProgress(tasks[t].name, approach.n_rounds(), args.verbose, resumed) as progress:

            def after_epoch(log):
                progress.update(log)
                if checkpoint.due():
                    save()
                log_metrics()

            return approach.learn(t, after_epoch)

    history.initial = history.initial or [test(approach, u) for u in range(len(tasks))]
    for t in range(len(history.epochs), len(tasks)):
        if len(history.before) == t:
            history.before.append(test(approach, t))
        log = learn_task(t)
        tested = time.perf_counter()
        history.accuracy.append([test(approach, u) for u in range(t + 1)])
        history.valid_accuracy.append([test(approach, u, 'valid') for u in range(t + 1)])
        history.testing.append(time.perf_counter() - tested)
        history.epochs.append(log)
        output.save_matrix(metrics.square(history.accuracy, len(tasks)))
        save()
        log_metrics()
        epochs, seconds = f'{len(log)} epoch{"s" * (len(log) > 1)}', sum(epoch['seconds'] for epoch in log)
        print(f'{t + 1}/{len(tasks)} {tasks[t].name}: test accuracy {100 * history.accuracy[t][t]:.2f} % after '
              f'{epochs}, {seconds:.1f} s', flush=True)  # fmt: skip
    if differ := identity.differences(head):
        raise UserError(f'--data: {args.data} is not what it was when the run began: {"; ".join(differ)}')
    places = {'folder': os.path.relpath(args.data, ROOT)}
    if args.pretrained:
        places['pretrained'] = os.path.relpath(args.pretrained, ROOT)
    output.save_record(head | report(history, approach) | output.save_model(approach.state()) | places)


def check_tasks(approach):
    """Raises UserError if images are larger than the input of the network or not uint8, if labels are not those of the
    task's classes, or if a batch norm would have to train on a single image."""
    for task in approach.tasks:
        channels, height, width = task.shape
        for images in task.train, task.valid, task.test:
            least, most = int(images.y.min()), int(images.y.max())
            if least < 0 or most >= task.n_classes:
                what = f'the labels of {task.name} go from {least} to {most}, not within 0..{task.n_classes - 1}'
                raise UserError(f'--data: {what}')
            if images.x.dtype != torch.uint8:
                what = f'the images of {task.name} are {images.x.dtype}, not torch.uint8 (grey levels 0..255)'
                raise UserError(f'--data: {what}')
            size = tuple(images.x.shape[1:])
            if size[0] > height or size[1] > width or size[2] > channels:
                shown, wanted = ('x'.join(map(str, each)) for each in (size, (height, width, channels)))
                what = f'the images of {task.name} are {shown}, and the input of the network is {wanted}'
                raise UserError(f'--data: {what}')
    if any(isinstance(module, _BatchNorm) for module in approach.net.modules()):
        size = approach.protocol.batch_size
        for t, task in enumerate(approach.tasks):
            if size == 1 or approach.n_train(t) % size == 1:
                raise UserError(f'--batch-size {size}: a batch of {task.name} has one image only, on which batch norms '
                                'cannot train')  # fmt: skip


def one_sided(tasks):
    """A line for each task with classes of which no training image is left, or which have no test image."""
    lines = []
    for task in tasks:
        tested, trained = (set(split.y.cpu().unique().tolist()) for split in (task.test, task.train))
        if n := len(tested - trained):
            what = f'no training image of {n} of its {task.n_classes} classes is left (--ntrain; 15 % validate)'
            lines.append(f'{task.name}: {what}\n')
        if n := task.n_classes - len(tested):
            lines.append(f'{task.name}: {n} of its {task.n_classes} classes have no test image\n')
    return ''.join(lines)


def test(approach, t, split='test'):
    """The accuracy of task t."""
    return approach.evaluate(t, getattr(approach.tasks[t], split))[1]


def report(history, approach):
    """What the record says of how the run went."""
    seconds = [[epoch.pop('seconds') for epoch in log] for log in history.epochs]
    matrices = {name: metrics.square(getattr(history, name), len(approach.tasks)).tolist()
                for name in ('accuracy', 'valid_accuracy')}  # fmt: skip
    return {
        **matrices,
        **{name: getattr(history, name) for name in ('initial', 'before', 'epochs', 'devices')},
        'inputs': {task.name: saved.describe_input(task) for task in approach.tasks},
        'diverged': diverged(approach.tasks, history.epochs),
        'monitor': approach.report(),
        'stored': approach.stored(),
        'times': {'total': history.seconds, 'epochs': seconds, 'testing': history.testing},
    }


def diverged(tasks, logs):
    """Of each task the first epoch in which a loss or gradient is not finite, or the last if it is not learned."""
    first = {}
    for task, log in zip(tasks, logs, strict=True):
        for e, epoch in enumerate(log, 1):
            if 'diverged' in epoch:
                first.setdefault(task.name, {'task': task.name, 'epoch': e, 'what': epoch['diverged']})
    return list(first.values())


def summary(output):
    """The summary of a finished run, from its files."""
    record = results.read_record(output.json)
    accuracy = np.array(record['accuracy'])
    return (f'{accuracy_matrix([task["name"] for task in record["tasks"]], accuracy)}\n\n'
            f'average accuracy   {100 * metrics.average_accuracies(accuracy)[-1]:6.2f} %\n'
            f'average forgetting {100 * metrics.average_forgetting(accuracy):z6.2f} points\n'
            f'time               {record["times"]["total"]:6.0f} s\n'
            f'results            {output.txt}, {output.json.name}')  # fmt: skip


def _defaults(name):
    """The help of an argument whose default depends on the experiment."""
    others = ((experiment, module.DEFAULTS.get(name)) for experiment, module in dataloaders.EXPERIMENTS.items())
    return ', '.join([f'default {dataloaders.PAPER[name]}', *(f'{e} {value}' for e, value in others if value)])


def _parameter_help():
    declared = (f'{name}: {show(approach.defaults()).replace(",", ", ")}' for name, approach in APPROACHES.items()
                if approach.parameters)  # with spaces, at which argparse breaks lines  # fmt: skip
    return f'hyper-parameters, comma-separated, in their order or as name=value ({"; ".join(declared)})'


def cli(argv=None):
    argv = sys.argv[1:] if argv is None else list(argv)
    if '--selftest' in argv:
        from benchmarks import selftest

        return exit_code('run.py', selftest.main, argv)
    return exit_code('run.py', main, argv, trains=True)


if __name__ == '__main__':
    sys.exit(cli())

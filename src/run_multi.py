"""Many runs of run.py: experiments x approaches x seeds, on the devices of this machine or on a cluster."""

import itertools
import sys

import batches
from approaches import APPROACHES, canonical
from batches.run import Run
from core.arguments import Parser, few, names, seeds
from core.errors import UserError, exit_code
from core.hyperparameters import parse as parse_parameters
from dataloaders import EXPERIMENTS
from dataloaders.options import is_own

EXAMPLES = """\
Arguments after -- are passed to every run. Finished runs are skipped: repeat the command to complete a batch.

examples:
  python src/run_multi.py --experiments mixture --approaches all --seeds 0-9 --nproc 2
  python src/run_multi.py --experiments demo --approaches hat,sgd --nruns 3 --devices cpu --nproc 2 -- --nepochs 3
  python src/run_multi.py --experiments mixture,cifar --approaches hat --nruns 10 --engine ray
"""


def parse(argv):
    parser = Parser(__doc__, EXAMPLES)
    every = [name for name in EXPERIMENTS if not is_own(name)]
    parser.add_argument('--experiments', required=True, type=names(EXPERIMENTS, every=every), metavar='A,B,...',
                        help=f'some of {", ".join(EXPERIMENTS)}, or all: {", ".join(every)}')  # fmt: skip
    parser.add_argument('--approaches', required=True, type=names(APPROACHES, canonical), metavar='A,B,...',
                        help=f'all, or some of {", ".join(APPROACHES)}')  # fmt: skip
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--seeds', type=seeds, default='0', metavar='N,N-N', help='such as 0-9 or 0,2,5-7 (default 0)')
    which.add_argument('--nruns', type=few, metavar='N', help='the seeds 0 to N - 1')
    parser.add_argument('--parameter', default='', metavar='VALUE,...', help='hyper-parameters, as for run.py')
    batches.add_options(parser)
    return parser.parse_args(argv)


def main(argv=None):
    argv, rest = batches.split_arguments(argv)
    args = parse(argv)
    return batches.execute(create_runs(args, rest), args)


def create_runs(args, rest):
    """The runs of the arguments; rest: those after --."""
    check_parameter(args.parameter, args.approaches)
    numbers = range(args.nruns) if args.nruns else args.seeds
    which = itertools.product(args.experiments, numbers, args.approaches)
    return [Run.create(args, rest, approach, experiment, seed, args.parameter) for experiment, seed, approach in which]


def check_parameter(parameter, approaches):
    """Raises UserError if values without names would be those of other hyper-parameters in each approach, or if an
    approach does not take them."""
    places = [k for k, item in enumerate(parameter.split(',')) if item.strip() and '=' not in item]
    taken = {}  # names of hyper-parameters -> an approach that has them in these places
    for approach in approaches:
        declared = list(APPROACHES[approach].parameters)
        if chosen := [declared[k] for k in places if k < len(declared)]:
            taken[', '.join(chosen)] = approach
    if len(taken) > 1:
        (a, x), (b, y), *_ = taken.items()
        raise UserError(f'--parameter: {parameter} would set {a} of {x}, and {b} of {y}; write name=value')
    for approach in approaches:
        try:
            parse_parameters(parameter, APPROACHES[approach].parameters)
        except UserError as error:
            raise UserError(f'{approach}: {error}') from None


if __name__ == '__main__':
    sys.exit(exit_code('run_multi.py', main, None, trains=True))

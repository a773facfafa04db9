"""Many runs of run.py: all the experiments with all the approaches and all the seeds, over the devices or a cluster."""

import argparse
import itertools
import sys

import batch
import run
from approaches import ALIASES, APPROACHES
from dataloaders import EXPERIMENTS
from errors import UserError, exit_code

EXAMPLES = """\
what stands behind -- goes to each run; runs that are done are skipped, so the same command finishes a batch

examples:
  python src/run_multi.py --experiments mixture --approaches all --seeds 0-9 --nproc 2
  python src/run_multi.py --experiments demo --approaches hat,sgd --nruns 3 --devices cpu --nproc 2 -- --nepochs 3
  python src/run_multi.py --experiments mixture,cifar --approaches hat --nruns 10 --engine ray
"""


def parse(argv):
    parser = run.Parser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('--experiments', required=True, metavar='A,B,...', help=f'all or of {", ".join(EXPERIMENTS)}')
    parser.add_argument('--approaches', required=True, metavar='X,Y,...', help=f'all or of {", ".join(APPROACHES)}')
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument('--seeds', default='0', help='such as 0-9 or 0,2,5-7 (default 0)')
    seeds.add_argument('--nruns', type=run.count, metavar='N', help='the seeds 0 to N - 1')
    parser.add_argument('--parameter', default='', metavar='VALUES', help='hyper-parameters, as of run.py')
    batch.add_options(parser)
    return parser.parse_args(argv)


def main(argv=None):
    argv, rest = batch.split(argv)
    args = parse(argv)
    return batch.execute(plan(args, rest), args)


def plan(args, rest):
    """The list of runs."""
    experiments, approaches = names(args.experiments, EXPERIMENTS), names(args.approaches, APPROACHES)
    seeds = range(args.nruns) if args.nruns else numbers(args.seeds)
    runs = []
    for experiment, seed, approach in itertools.product(experiments, seeds, approaches):
        txt = args.res / f'{experiment}_{approach}_{seed}.txt'
        runs.append(batch.Run.plan(approach, experiment, seed, args.parameter, txt, rest))
    return runs


def names(text, known):
    if text == 'all':
        return list(known)
    found = [ALIASES.get(name, name) for name in text.split(',')]
    if unknown := [name for name in found if name not in known]:
        raise UserError(f'{unknown[0]!r} is none of {", ".join(known)}')
    return list(dict.fromkeys(found))


def numbers(text):
    """The seeds in '0,2,5-7'."""
    try:
        found = []
        for part in text.split(','):
            first, _, last = part.partition('-')
            found += range(int(first), int(last or first) + 1)
        if not found:
            raise ValueError
        return list(dict.fromkeys(found))
    except ValueError:
        raise UserError(f'--seeds: {text!r} is not like 0-9 or 0,2,5-7') from None


if __name__ == '__main__':
    sys.exit(exit_code('run_multi.py', main, None))

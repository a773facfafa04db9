"""The hyper-parameters of one approach: all values of its grid, each a run (paper, section 4, "Baselines"; Fig. 4).

The best is the one of the highest mean validation accuracy over all tasks after the last one; the test images have no
say in it.
"""

import itertools
import sys

import numpy as np

import batch
import results
from approaches import APPROACHES
from approaches.parameters import show
from arguments import Parser, approach, seed
from dataloaders import EXPERIMENTS
from errors import UserError, exit_code

EXAMPLES = """\
what stands behind -- goes to each run; runs that are done are skipped

examples:
  python src/work.py --approach lwf --experiment mixture --seed 0
  python src/work.py --approach hat --experiment demo --vary c --devices cpu --nproc 2 -- --nepochs 5
"""


def parse(argv):
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument('--approach', required=True, choices=APPROACHES, type=approach)
    parser.add_argument('--experiment', required=True, choices=EXPERIMENTS)
    parser.add_argument('--seed', type=seed, default=0, help='(default 0)')
    parser.add_argument('--vary', metavar='NAME,...', help='these hyper-parameters only, the others at their defaults '
                        '(default: all that have a grid, each value with each)')  # fmt: skip
    batch.add_options(parser)
    return parser.parse_args(argv)


def main(argv=None):
    argv, rest = batch.split(argv)
    args = parse(argv)
    runs = []
    for values in combinations(APPROACHES[args.approach].parameters, args.vary):
        parameter = show(values)
        txt = args.res / f'{args.experiment}_{args.approach}_{args.seed}_{parameter.replace(",", "_")}.txt'
        runs.append(batch.Run.plan(args.approach, args.experiment, args.seed, parameter, txt, rest))
    code = batch.execute(runs, args)
    if not args.dry_run:
        report([r for r in runs if r.finished()])
    return code


def combinations(declared, vary):
    """Each with each of the values in the grids of the approach's parameters: dicts."""
    grids = {name: parameter.grid for name, parameter in declared.items() if parameter.grid}
    if not grids:
        raise UserError('--approach: it has no hyper-parameters to vary')
    if vary:
        if unknown := [name for name in vary.split(',') if name not in grids]:
            raise UserError(f'--vary: {unknown[0]!r} is none of {", ".join(grids)}')
        grids = {name: grids[name] for name in vary.split(',')}
    return [dict(zip(grids, values, strict=True)) for values in itertools.product(*grids.values())]


def report(runs):
    """Mean validation accuracy of each, the best last."""
    records = [results.read_record(r.output.json) for r in runs]
    scores = sorted((np.mean(r['valid_accuracy'][-1]), show(r['arguments']['parameter'])) for r in records)
    print('\nmean validation accuracy over all tasks, after the last')
    for score, parameter in scores:
        print(f'  {100 * score:6.2f} %  {parameter}')
    if scores:
        print(f'best: --parameter {scores[-1][1]}')


if __name__ == '__main__':
    sys.exit(exit_code('work.py', main, None))

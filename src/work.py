"""A hyper-parameter sweep: one run for each point in the grid of an approach (paper, section 4, "Baselines"; Fig. 4).

The best point has the highest mean validation accuracy over all tasks after the last one; test images are not used. Of
equal ones a run without the mark ! (diverged, not learned, or a layer closed) is taken, then that with the most default
values, then that with the smallest.
"""

import itertools
import os
import shlex
import sys
from pathlib import Path

import batches
from approaches import APPROACHES, canonical
from batches.run import Run
from core import results
from core.arguments import Parser, seed, words
from core.errors import UserError, exit_code
from core.files import ROOT
from core.hyperparameters import show
from core.shapes import VALIDATION, check
from dataloaders import EXPERIMENTS
from reports import records
from reports.collection import REFERENCES, Collection

EXAMPLES = """\
Arguments after -- are passed to every run. Finished runs are skipped: repeat the command to complete a sweep.

examples:
  python src/work.py --approach lwf --experiment mixture --seed 0
  python src/work.py --approach hat --experiment mixture --vary c --figure res/figures
  python src/work.py --approach hat --experiment demo --vary c --devices cpu --nproc 2 -- --nepochs 5
"""
OUTCOME = 'accuracy', 'valid_accuracy', 'epochs', 'diverged', 'monitor'  # of a record


def parse(argv):
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument('--approach', required=True, choices=APPROACHES, type=canonical)
    parser.add_argument('--experiment', required=True, choices=EXPERIMENTS)
    parser.add_argument('--seed', type=seed, default=0, help='(default 0)')
    parser.add_argument('--vary', type=words, metavar='NAME,...', help='the hyper-parameters to vary, the '
                        'others stay at their defaults (default: all with a grid, in all combinations)')  # fmt: skip
    parser.add_argument('--figure', type=Path, metavar='DIR', help='draw Fig. 4 (.png .pdf); also runs joint and '
                        'random, the references of its forgetting ratios')  # fmt: skip
    batches.add_options(parser)
    return parser.parse_args(argv)


def main(argv=None):
    argv, rest = batches.split_arguments(argv)
    args = parse(argv)
    points = map(show, combinations(APPROACHES[args.approach].parameters, args.vary))
    runs = [Run.create(args, rest, args.approach, args.experiment, args.seed, point, f'_{point.replace(",", "_")}')
            for point in points]  # fmt: skip
    wanted = REFERENCES if args.figure else ()
    references = [Run.create(args, rest, name, args.experiment, args.seed) for name in wanted]
    if args.figure and not args.dry_run:
        results.make_folder(args.figure)
    code = batches.execute(runs, args)
    if not args.dry_run:
        finished = [r for r in runs if r.finished()]
        own = args.res.resolve() != (ROOT / 'res').resolve()
        name = args.res / f'{args.experiment}_{args.approach}_{args.seed}.txt'
        report(finished, len(runs) - len(finished), name if own else None)
    if references:
        code = batches.execute(references, args) or code
        if not args.dry_run:
            draw(args)
    return code


def combinations(declared, vary):
    """All combinations of the values in the grids of the declared parameters, a dict each."""
    grids = {name: parameter.grid for name, parameter in declared.items() if parameter.grid}
    if not grids:
        raise UserError('--approach: it has no hyper-parameters with a grid')
    if vary:
        if unknown := [name for name in vary if name not in grids]:
            raise UserError(f'--vary: {unknown[0]!r} is none of {", ".join(grids)}')
        grids = {name: grids[name] for name in vary}
    return [dict(zip(grids, values, strict=True)) for values in itertools.product(*grids.values())]


def report(runs, n_missing=0, output=None):
    """Print the mean validation accuracy of each finished run, the best last, and its command.

    n_missing  values of the sweep whose runs are not finished
    output     of the command that puts the best value into the tables; None: the default
    """
    swept = []  # records
    for path in (r.output.json for r in runs):
        try:
            check(record := results.load_record(path), VALIDATION, path)
            swept.append(record)
        except UserError as error:
            print(f'left out: {error}')
    swept.sort(key=preference)
    print('\nmean validation accuracy over all tasks after the last')
    for record in swept:
        score, mark = records.validation(record), ' !' if records.flagged(record) else ''
        text = f'{100 * score:6.2f} %' if score >= 0 else 'diverged'
        print(f'  {text}  {show(record["arguments"]["parameter"])}{mark}')
    if any(map(records.flagged, swept)):
        print('! a task diverged (not finite), was not learned, or closed all gates of a layer')
    others = [record for record in swept if record.get('versions') != swept[-1].get('versions')]
    if others:
        names = '; '.join(show(record['arguments']['parameter']) for record in others)
        print(f'by other versions of packages than the best, and so not comparable with it: {names}')
    if n_missing:
        print(f'not finished: {n_missing} of {n_missing + len(runs)} values; repeat the command to complete the sweep')
    if swept and records.validation(swept[-1]) >= 0:
        recommend(swept, output)


def preference(record):
    """The key by which the records of a sweep are sorted, the best last."""
    arguments = record['arguments']
    return records.preference(arguments['parameter'], record, APPROACHES[arguments['approach']].defaults())


def recommend(swept, output):
    """Print the best of the records, the last one, why it is, and its command with `output`."""
    best = swept[-1]
    equal = [record for record in swept if records.validation(record) == records.validation(best)]
    if len(equal) > 1:
        marked = set(map(records.flagged, equal))
        unmarked = 'one without ! counts, then ' if len(marked) > 1 else ''
        order = 'that with the most default values, then that with the smallest'
        print(f'the best {len(equal)} are equal: of these {unmarked}{order}')
    for name in without_effect(swept):
        print(f'{name} changes nothing: runs that differ in it alone have the same losses and accuracies')
    if ends := ends_of_grids(swept):
        print(f'at the end of its grid: {show(ends)}; a value beyond it may be better')
    place = f' --output {shlex.quote(os.path.relpath(output, ROOT))}' if output else ''
    print(f'best: --parameter {show(best["arguments"]["parameter"])}; for the tables:\n{results.command(best)}{place}')


def without_effect(swept):
    """The hyper-parameters that vary among records of which those that differ in it alone are the same."""
    found = []
    for name in swept[-1]['arguments']['parameter']:
        groups = {}  # by the other values: those of each record, and what came of it
        for record in swept:
            others = {key: value for key, value in record['arguments']['parameter'].items() if key != name}
            values, outcomes = groups.setdefault(show(others), (set(), set()))
            values.add(record['arguments']['parameter'].get(name))
            outcomes.add(repr([record.get(key) for key in OUTCOME]))
        varied = [outcomes for values, outcomes in groups.values() if len(values) > 1]
        if varied and all(len(outcomes) == 1 for outcomes in varied):
            found.append(name)
    return found


def ends_of_grids(swept):
    """The hyper-parameters that vary among records and of which the last has the smallest or largest of the grid."""
    *others, best = [record['arguments']['parameter'] for record in swept]
    declared = APPROACHES[swept[-1]['arguments']['approach']].parameters
    grids = {name: p.grid for name, p in declared.items() if p.grid and name in best}
    varied = [name for name in grids if any(other.get(name) != best[name] for other in others)]
    return {name: best[name] for name in varied if best[name] in (min(grids[name]), max(grids[name]))}


def draw(args):
    """Draw Fig. 4 from the finished runs."""
    from reports.figures import save, sweeps  # here, because it imports matplotlib

    collection = Collection(args.experiment, args.res, [], [args.seed], sweeps=[args.approach])
    figures = dict(sweeps(collection))
    lines = [f'drawn: {args.figure / name}.png, .pdf' for name in figures]
    print('\n'.join(['', *collection.notes, *(lines or ['no Fig. 4: it needs two values with a forgetting ratio'])]))
    save(figures, args.figure)


if __name__ == '__main__':
    sys.exit(exit_code('work.py', main, None, trains=True))

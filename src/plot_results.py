"""Tables and figures from the files in res/: Table 1 and Figs. 3 to 7, accuracy matrices, times, pruned networks.

Table 1, Fig. 3 and the matrices need no .json beside the .txt, so results of the original code work, too.
Runs that are missing, damaged, or differ from the others (in tasks, data, protocol or versions; within a row, in
hyper-parameters) are listed and left out.

--run shows a single run; its page has test pictures, too, if the run is saved (run.py --save) and its data are there.
--reproduction updates the tables of README.md and .results/README.md from the files in .results/.
--fig2 draws Fig. 2, which needs no results.
"""

import itertools
import sys
from pathlib import Path

from approaches import APPROACHES, canonical
from core.arguments import Parser, names, positive, seeds
from core.errors import UserError, exit_code
from core.files import ROOT, write
from core.results import make_folder
from core.text_tables import latex, markdown, text
from dataloaders import EXPERIMENTS
from reports import addition, reproduction, setups, verification
from reports.collection import Collection, seeds_of
from reports.tables import pruned, single_tasks, table_1, times

EXAMPLES = """\
examples:
  python src/plot_results.py --experiment mixture
  python src/plot_results.py --experiment demo --seeds 0-2 --output res/figures --html res/demo.html
  python src/plot_results.py --run res/demo_hat_0.json --html
  python src/plot_results.py --fig2 --output res/figures
  python src/plot_results.py --reproduction
  python src/plot_results.py --reproduction --add res --setup mixture-0.25 --commit 0123abc
"""


TABLES = {'tasks': single_tasks, 'table1': table_1, 'times': times, 'pruned': pruned}
TAKES = {  # what is shown -> its options
    'experiment': ('approaches', 'seeds', 'res', 'mixed', 'html', 'output'),
    'run': ('html', 'output', 'data'),
    'reproduction': ('check', 'add', 'setup', 'commit', 'verify', 'data', 'output'),
    'fig2': ('smax', 'output'),
}
BESIDE = Path()  # --html without a name: the page is beside the results


def parse(argv):
    parser = Parser(__doc__, EXAMPLES)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--experiment', choices=EXPERIMENTS, help='its runs in --res')
    what.add_argument('--run', type=Path, metavar='RESULT.json', help='one run')
    what.add_argument('--reproduction', action='store_true', help='the tables of the pages, from .results/')
    what.add_argument('--fig2', action='store_true', help="Fig. 2: the gradient of HAT's embeddings")
    runs = parser.add_argument_group('with --experiment')
    runs.add_argument('--approaches', type=names(APPROACHES, canonical), metavar='X,Y,...',
                      help='all, or some (default: those that are there)')  # fmt: skip
    runs.add_argument('--seeds', type=seeds, metavar='N,N-N', help='such as 0,2,5-7 (default: all that are there)')
    runs.add_argument('--res', type=Path, default=ROOT / 'res', metavar='DIR', help='the results (default res)')
    runs.add_argument('--mixed', action='store_true', help='keep runs that differ from the others, and mark their row')
    parser.add_argument('--html', type=Path, nargs='?', const=BESIDE, metavar='FILE', help='everything on '
                        'one page, readable offline (default RESULT.html, or <experiment>.html in --res)')  # fmt: skip
    parser.add_argument('--output', type=Path, metavar='DIR', help='folder for tables (.txt .md .tex), notes.txt and '
                        'figures (.png .pdf); default: only print the tables; Fig. 2: res/figures; with --reproduction '
                        'figures only')  # fmt: skip
    fig2 = parser.add_argument_group('with --fig2')
    fig2.add_argument('--smax', type=positive, default=400.0, metavar='S', help='(default 400)')
    published = parser.add_argument_group('with --reproduction')
    published.add_argument('--check', action='store_true', help='change nothing; exit code 1 if a page would change')
    published.add_argument('--add', type=Path, metavar='DIR', help='first copy the finished runs of DIR ...')
    published.add_argument('--setup', metavar='NAME', help='... to .results/NAME')
    published.add_argument('--commit', metavar='HASH', help='of the code that computed them')
    published.add_argument('--verify', type=Path, metavar='CHECKOUT', help='first find out, by short runs, which '
                           'results of the code there hold for the code here')  # fmt: skip
    parser.add_argument('--data', type=Path, metavar='DIR', help='folder of the images, for --verify (default dat) and '
                        'the page of --run (default: that of the run)')  # fmt: skip
    args = parser.parse_args(argv)
    shown = next(name for name in TAKES if getattr(args, name))
    for name, value in vars(args).items():
        if name not in (shown, *TAKES[shown]) and value != parser.get_default(name):
            raise UserError(f'--{name}: --{shown} does not take it')
    if args.html and args.html.suffix in ('.txt', '.json', '.pt', '.log'):  # which it would overwrite
        raise UserError(f'--html: {args.html}: the name of a result; give that of the page, FILE.html')
    if len({bool(each) for each in (args.add, args.setup, args.commit)}) > 1:
        raise UserError('--add, --setup and --commit go together')
    if args.check and (args.add or args.verify):
        raise UserError('--check changes nothing: leave it out with --add and --verify')
    if args.data and not (args.verify or args.run and args.html):
        raise UserError('--data: only --verify, and --run with --html, take it')
    return args


def main(argv=None):
    args = parse(argv)
    if args.reproduction:
        if args.add:
            addition.add(args.add, args.setup, args.commit)
        if args.verify:
            verification.verify(args.verify, args.data or ROOT / 'dat')
        if args.output:
            from reports import figures  # here, because it imports matplotlib

            make_folder(args.output)
            figures.save(dict(figures.published(setups.load_all())), args.output)
        return int(bool(reproduction.rewrite(args.check)) and args.check)
    if args.fig2:
        from reports import gradient  # here, because it imports matplotlib

        folder = args.output or ROOT / 'res' / 'figures'
        make_folder(folder)
        return gradient.draw(args.smax, folder)
    if args.run:
        return one_run(args.run, args.output, args.html, args.data)
    numbers = args.seeds or seeds_of(args.experiment, args.res)
    collection = Collection(args.experiment, args.res, args.approaches, numbers, args.mixed)
    tables = {name: table for name, make in TABLES.items() if (table := make(collection))}
    print('\n\n'.join(['\n'.join(collection.notes), *(text(*table) for table in tables.values())]).lstrip('\n'))
    if args.output or args.html:
        page = args.res / f'{args.experiment}.html' if args.html == BESIDE else args.html
        publish(collection, tables, args.output, page)


def one_run(path, folder, page, data):
    """Print the accuracy matrix of the run whose record is `path`; write its figures to a folder, and its page."""
    from reports import figures, single  # here, because they import matplotlib

    result = single.load(path)
    print(single.text(result))
    if folder:
        make_folder(folder)
        figures.remove_old(folder)
        figures.save(dict(single.draw(result)), folder)
        print(f'figures: {folder}', file=sys.stderr)
    if page:
        page = path.with_suffix('.html') if page == BESIDE else page
        make_folder(page.parent)
        write(page, single.page(result, path, data), errors='substitute')  # in paths
        print(f'page: {page}', file=sys.stderr)


def publish(collection, tables, folder, page):
    """Write all tables and figures: to files in a folder, and to a page."""
    from reports.figures import draw, remove_old, save  # here, because it imports matplotlib
    from reports.html import html

    for target in filter(None, [folder, page and page.parent]):
        make_folder(target)
    figures = dict(draw(collection))
    if folder:
        for name, suffix in itertools.product(TABLES, ('txt', 'md', 'tex')):  # of an earlier call
            (folder / f'{name}.{suffix}').unlink(missing_ok=True)
        files = {'notes.txt': '\n'.join(collection.notes)}  # they explain the marks in the tables
        for name, table in tables.items():
            files |= {f'{name}.txt': text(*table), f'{name}.md': markdown(*table), f'{name}.tex': latex(*table)}
        for name, content in files.items():
            write(folder / name, f'{content}\n')
        remove_old(folder)
        save(figures, folder)
    if page:
        write(page, html(collection, tables, figures), errors='substitute')  # in paths
        print(f'page: {page}', file=sys.stderr)


if __name__ == '__main__':
    sys.exit(exit_code('plot_results.py', main, None))

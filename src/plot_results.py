"""Tables and figures from the files in res/: Table 1 and Figs. 3 to 7 of the paper, accuracy matrices, compression.

Table 1, Fig. 3 and the matrices need no .json beside the .txt, so the original code's results serve, too.
What is missing, damaged, or not like the other runs (in tasks, data, protocol or versions; within a row, in
hyper-parameters) is named and left out.
"""

import sys
from pathlib import Path

from approaches import APPROACHES
from arguments import Parser, names, seeds
from collection import Collection
from dataloaders import EXPERIMENTS
from errors import exit_code
from files import ROOT, atomic
from results import make_folder
from tables import compression, latex, markdown, single_tasks, table_1, text, times

EXAMPLES = """\
examples:
  python src/plot_results.py --experiment mixture
  python src/plot_results.py --experiment demo --seeds 0-2 --output res/figures --html res/demo.html
"""


def parse(argv):
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument('--experiment', required=True, choices=EXPERIMENTS)
    parser.add_argument('--approaches', type=names(APPROACHES), default='all', metavar='X,Y,...', help='(default all)')
    parser.add_argument('--seeds', type=seeds, default='0-9', metavar='N,N-N', help='such as 0,2,5-7 (default 0-9)')
    parser.add_argument('--res', type=Path, default=ROOT / 'res', metavar='DIR', help='the results (default res)')
    parser.add_argument('--mixed', action='store_true', help='keep what is not like the others, and mark its row')
    parser.add_argument('--output', type=Path, metavar='DIR', help='for the tables (.txt .md .tex), notes.txt '
                        'and the figures (.png .pdf); without it, and --html, the tables are printed')  # fmt: skip
    parser.add_argument('--html', type=Path, metavar='FILE', help='for all of it as one page that opens from disk')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    runs = Collection(args.experiment, args.res, args.approaches, args.seeds, args.mixed)
    makers = {'tasks': single_tasks} if runs.n_tasks == 1 else {'table1': table_1}
    makers |= {'times': times, 'pruned': compression}
    tables = {name: made for name, make in makers.items() if (made := make(runs))}
    print('\n\n'.join(['\n'.join(runs.notes), *(text(*table) for table in tables.values())]).lstrip('\n'))
    if args.output is None and args.html is None:
        return
    from figures import draw, remove_old, save  # and matplotlib with it
    from page import html

    for folder in filter(None, [args.output, args.html and args.html.parent]):
        make_folder(folder)
    figures = dict(draw(runs))
    if args.output:
        files = {'notes.txt': '\n'.join(runs.notes)}  # what the marks in the tables mean
        for name, table in tables.items():
            files |= {f'{name}.txt': text(*table), f'{name}.md': markdown(*table), f'{name}.tex': latex(*table)}
        for name, content in files.items():
            with atomic(args.output / name) as part:
                part.write_text(f'{content}\n', encoding='utf-8')
        remove_old(args.output)
        save(figures, args.output)
    if args.html is not None:
        with atomic(args.html) as part:
            part.write_text(html(runs, tables, figures), encoding='utf-8', errors='stand-ins')  # of paths


if __name__ == '__main__':
    sys.exit(exit_code('plot_results.py', main, None))

"""The tables of the pages, made from the setups of .results/.

In a page, a table is between the comments <!-- reproduction: <setup> --> and <!-- end -->; `summary` is the table of
all setups, `<setup>, by task` that of the accuracies on each task, `<setup>, sweeps` that of the runs with other
hyper-parameters (work.py), and `compression` that of all compression experiments.
"""

import os

from core.errors import UserError
from core.files import ROOT, write
from core.text_tables import markdown
from reports import setups
from reports.paper import KEPT
from reports.tables import pruned

PAGES = ROOT / 'README.md', ROOT / '.results' / 'README.md'
BEGIN, NAMED, END = '<!-- reproduction: ', ' -->\n', '<!-- end -->'  # the name of a table is between the first two


def tables():
    """name -> Markdown."""
    everything = setups.load_all()
    lines = [row for setup in everything if (row := setup.summary_row())]
    summary = markdown(['setup', 'paper: HAT', 'here: HAT', 'n', 'what differs'], lines)
    more = {f'{setup.name}, {what}': table for setup in everything for what, table in (
        ('by task', setup.table_by_task()), ('sweeps', setup.table_of_sweeps())) if table}  # fmt: skip
    if alone := [setup.collection for setup in everything if setup.alone]:
        more['compression'] = table_of_compression(alone)
    return {'summary': summary} | {setup.name: setup.table() for setup in everything} | more


def table_of_compression(collections):
    """By task: the share of the weights that the paper keeps, the test accuracy of SGD and, for each c and gradient,
    that of HAT and the share of the weights it keeps."""
    header, rows = ['task', 'paper: weights kept, %', 'SGD: accuracy, %'], {}
    for collection in collections:
        chosen, before = next(iter(collection.selected['hat'].values())).parameter, len(header)
        label = f'c={chosen["c"]:g}' + (', exact gradient' if chosen['gradient'] == 'exact' else '')
        header += [f'{label}: accuracy, %', 'weights kept, %']
        _, lines = pruned(collection)
        for (_, result, report), (_, _, sgd, accuracy, kept, *_) in zip(collection.pruned, lines, strict=True):
            row = rows.setdefault(report['task'], [report['task'], str(KEPT.get(report['task'], '')), sgd])
            row += ['-'] * (before - len(row)) + [accuracy + collection.marks([result]), kept]
    return markdown(header, [row + ['-'] * (len(header) - len(row)) for row in rows.values()])


def insert(tables, text, page):
    """The text of a page with its tables replaced. Raises UserError."""
    before, *parts = text.split(BEGIN)
    after = []
    for part in parts:
        name, _, rest = part.partition(NAMED)
        if name not in tables:
            raise UserError(f'{page}: .results/ has no results of {name}')
        if END not in rest:
            raise UserError(f'{page}: {END} is missing after the table {name}')
        after.append(f'{name}{NAMED}{tables[name]}\n{rest[rest.index(END) :]}')
    return BEGIN.join([before, *after])


def rewrite(check=False):
    """Update the tables of all pages; with `check`, change nothing. Returns the pages that differ."""
    current, changed = tables(), []
    for page in PAGES:
        before = page.read_text(encoding='utf-8')
        after = insert(current, before, os.path.relpath(page, ROOT))
        if after != before:
            changed.append(os.path.relpath(page, ROOT))
            if not check:
                write(page, after)
    print(f'changed: {", ".join(changed) or "nothing"}')
    return changed

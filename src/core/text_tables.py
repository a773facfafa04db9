"""A table, a header and lines of cells, as text, Markdown or LaTeX. The name of a task may hold a line break: a row is
one line all the same."""

import re

from core.errors import escape

SPECIAL = str.maketrans({  # of LaTeX, in a task's name
    **{c: f'\\{c}' for c in '&_#$%{}'},
    **{c: f'\\text{name}{{}}' for c, name in (('\\', 'backslash'), ('^', 'asciicircum'), ('~', 'asciitilde'))},
})  # fmt: skip


def text(header, lines, justify=str.ljust):
    """Columns two spaces apart; justify: of all columns but the first, str.ljust or str.rjust."""
    columns = []
    for k, column in enumerate(zip(header, *lines, strict=True)):
        column = list(map(escape, column))
        width = max(map(len, column))
        columns.append([(justify if k else str.ljust)(cell, width) for cell in column])
    return '\n'.join('  '.join(line).rstrip() for line in zip(*columns, strict=True))


def accuracy_matrix(names, accuracy):
    """The accuracy matrix of the tasks `names`, in %, as text."""
    lines = [[f'after {name}', *(f'{100 * a:6.2f}' if u <= t else '' for u, a in enumerate(accuracy[t]))]
             for t, name in enumerate(names)]  # fmt: skip
    return text(['test accuracy in %', *names], lines, str.rjust)


def markdown(header, lines):
    lines = [[escape(cell).replace('|', r'\|') for cell in line] for line in [header, ['---'] * len(header), *lines]]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def latex(header, lines):
    body = [' & '.join(escape(cell).translate(SPECIAL) for cell in line) + r' \\' for line in [header, *lines]]
    body = [re.sub(r'(rho|A)<=(\d+)', r'$\\\1^{\\leq \2}$', line).replace(r'$\A', '$A') for line in body]
    body = [line.replace('±', r'$\pm$').replace('→', r'$\to$') for line in body]
    begin, end = rf'\begin{{tabular}}{{l{"r" * (len(header) - 1)}}}', r'\end{tabular}'
    return '\n'.join([begin, body[0], r'\hline', *body[1:], end])

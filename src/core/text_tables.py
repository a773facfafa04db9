"""A table, a header and lines of cells, as text, Markdown or LaTeX."""

import re


def text(header, lines):
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    padded = ([cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in [header, *lines])
    return '\n'.join('  '.join(line).rstrip() for line in padded)


def markdown(header, lines):
    return '\n'.join(f'| {" | ".join(line)} |' for line in [header, ['---'] * len(header), *lines])


def latex(header, lines):
    body = [' & '.join(re.sub('([&_#])', r'\\\1', cell) for cell in line) + r' \\' for line in [header, *lines]]
    body = [re.sub(r'(rho|A)<=(\d+)', r'$\\\1^{\\leq \2}$', line).replace(r'$\A', '$A') for line in body]
    body = [line.replace('%', r'\%').replace('±', r'$\pm$').replace('→', r'$\to$') for line in body]
    begin, end = rf'\begin{{tabular}}{{l{"r" * (len(header) - 1)}}}', r'\end{tabular}'
    return '\n'.join([begin, body[0], r'\hline', *body[1:], end])

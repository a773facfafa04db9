"""One self-contained page of tables, figures and the details of each run, readable offline."""

import base64
import io
import json
from html import escape

from core.results import command

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto }
th, td { padding: .25em .8em; text-align: left; border-bottom: 1px solid #ccc; white-space: nowrap }
th { white-space: normal; vertical-align: bottom }
th button { font: inherit; font-weight: bold; text-align: left; background: none; border: 0; padding: 0 }
th button { cursor: pointer }
th[aria-sort=ascending] button::after { content: ' ▲' }
th[aria-sort=descending] button::after { content: ' ▼' }
figure { margin: 2em 0 } img { max-width: 100% } figcaption { color: #555 }
.examples { display: flex; flex-wrap: wrap; gap: .8em } .examples figure { margin: 0; width: 6.5em }
.examples img { width: 100%; image-rendering: pixelated } .examples figcaption { font-size: .8em; line-height: 1.3;
overflow-wrap: anywhere }
code { overflow-wrap: anywhere }
pre { background: #f4f4f4; padding: 1em; overflow-x: auto; font-size: .85em }
"""
SCRIPT = """
for (const button of document.querySelectorAll('th button')) button.onclick = () => {
  const head = button.parentElement, up = head.getAttribute('aria-sort') !== 'ascending'
  const body = head.closest('table').tBodies[0], rows = [...body.rows]
  const key = row => row.cells[head.cellIndex].textContent
  const compare = (a, b) => {
    const [x, y] = [parseFloat(key(a)), parseFloat(key(b))]
    if (isNaN(x) !== isNaN(y)) return isNaN(x) - isNaN(y)
    return (isNaN(x) ? key(a).localeCompare(key(b)) : x - y) * (up ? 1 : -1)
  }
  for (const other of head.parentElement.cells) other.removeAttribute('aria-sort')
  head.setAttribute('aria-sort', up ? 'ascending' : 'descending')
  body.append(...rows.sort(compare))
}
"""
RECORD_FIELDS = (  # shown of a record
    'arguments', 'tasks', 'inputs', 'classes', 'skipped', 'n_parameters', 'pretrained', 'weights', 'stored', 'code',
    'versions', 'devices', 'diverged',
)  # fmt: skip
TITLES = {
    'table1': 'Table 1: mean (standard deviation) ± half of the 95 % interval',
    'times': 'Times: mean (standard deviation)',
    'tasks': 'Test accuracy of each task, learned alone',
    'pruned': 'Networks pruned to one task, before → after (prune.py)',
}


def html(collection, tables, figures):
    """The page.

    tables   name, one of TITLES -> (header, lines)
    figures  name -> (caption, Figure)
    """
    title, runs = f'Results of {collection.experiment}', {}
    links = {collection.label(name): name for name in collection.selected}
    for result in collection.all():
        runs.setdefault(result.approach, []).append(result)
    parts = [
        '<p>Click a column head to sort; <a href="#runs">the runs</a> are at the end.</p>',
        *(f'<h2>{TITLES[name]}</h2>{table(*content, links)}' for name, content in tables.items()),
        *(f'<p>{escape(note)}</p>' for note in collection.notes),
        '<h2>Figures</h2>',
        *(picture(name, *content) for name, content in figures.items()),
        '<h2 id="runs">The runs</h2>',
        *(run_details(name, results) for name, results in runs.items()),
        '<h3>Pruned networks</h3>' if 'pruned' in tables else '',
        *(details(f'seed {seed}, {report["task"]}', report) for seed, _, report in collection.pruned),
    ]
    return page(title, parts)


def page(title, parts):
    head = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>',
        f'<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><style>{STYLE}</style>',
        f'<h1>{escape(title)}</h1>',
    ]
    return '\n'.join([*head, *parts, f'<script>{SCRIPT}</script></html>']) + '\n'


def table(header, lines, links=()):
    """The label of an approach's row is a link to its runs; links: label -> name."""
    cells = ([f'<a href="#{links[c]}">{escape(c)}</a>' if c in links else escape(c) for c in line] for line in lines)
    body = '\n'.join(f'<tr>{"".join(f"<td>{c}</td>" for c in row)}</tr>' for row in cells)
    heads = ''.join(f'<th scope="col"><button>{escape(name)}</button></th>' for name in header)
    return f'<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def picture(name, caption, figure):
    image = io.BytesIO()
    figure.savefig(image, format='png', dpi=120)
    return (
        f'<figure id="{name}"><img alt="{escape(caption)}" src="{png(image.getvalue())}">'
        f'<figcaption>{escape(caption)}</figcaption></figure>'
    )


def png(content):
    """The address of an image that is in the page."""
    return f'data:image/png;base64,{base64.b64encode(content).decode()}'


def run_details(name, results):
    """For each run of an approach: its file, its command, and RECORD_FIELDS."""
    parts = [f'<h3 id="{name}">{name}</h3>']
    for result in results:
        line = command(result.record) if 'arguments' in result.record else 'There is no .json.'
        parts.append(details(result.txt.name, shown(result.record), line))
    return ''.join(parts)


def shown(record):
    return {key: value for key, value in record.items() if key in RECORD_FIELDS}


def details(title, content, line=''):
    text = escape(json.dumps(content, indent=1))
    line = f'<p><code>{escape(line)}</code></p>' if line else ''
    return f'<details><summary>{escape(title)}</summary>{line}<pre>{text}</pre></details>'

"""One run: its table, its figures, and a page of both with test pictures."""

import math
from html import escape

import numpy as np

from approaches import APPROACHES
from core import metrics, results
from core.errors import UserError
from core.text_tables import accuracy_matrix
from dataloaders import EXPERIMENTS
from reports import charts, examples, figures, html, records
from runs import saved


def load(path):
    """The Result whose record is `path`. Raises UserError."""
    if path.suffix != '.json':
        raise UserError(f'--run: {path}: give the record, RESULT.json')
    arguments = saved.read(path)['arguments']
    approach, experiment, seed = (arguments.get(name) for name in ('approach', 'experiment', 'seed'))
    if approach not in APPROACHES or experiment not in EXPERIMENTS or seed is None:
        raise UserError(f'--run: {path}: not the record of a run of this version')
    return records.load(path.with_suffix('.txt'), experiment, approach, seed)


def title(result):
    arguments = result.record['arguments']
    network = f' with {arguments["network"]}' if arguments.get('network') else ''
    return f'{result.approach} on {arguments["experiment"]}{network}, seed {arguments["seed"]}'


def text(result):
    return f'{title(result)}\n\n{accuracy_matrix(result.tasks, result.accuracy)}\n\n' + '\n'.join(summary(result))


def summary(result):
    """Lines: what the run has reached, and what went wrong."""
    record = result.record
    found = [f'average accuracy {100 * metrics.average_accuracies(result.accuracy)[-1]:.2f} %',
             f'average forgetting {100 * metrics.average_forgetting(result.accuracy):.2f} points']  # fmt: skip
    if 'times' in record:
        found.append(f'time {record["times"]["total"]:.0f} s on {", ".join(record.get("devices", []))}')
    found += [f'task {d["task"]}, epoch {d["epoch"]}: {d.get("what", "diverged")}' for d in result.diverged]
    return found + [f'all gates closed: task {task}, {", ".join(layers)}' for task, layers in result.closed]


def tasks(result):
    """The table: a line for each task; of HAT also the weights that it uses (section 4.4)."""
    record, monitor, n = result.record, result.record.get('monitor'), len(result.tasks)
    columns = {
        'task': result.tasks,
        'classes': [str(task.get('n_classes', '-')) for task in record['tasks']],
        'training images': [str(task.get('train', '-')) for task in record['tasks']],
        'epochs': [str(len(seconds)) for seconds in record['times']['epochs']] if 'times' in record else ['-'] * n,
        'accuracy when learned, %': percent(result.accuracy.diagonal()),
        'at the end, %': percent(result.accuracy[-1]),
        'forgetting, points': percent(result.accuracy.diagonal() - result.accuracy[-1]),
    }
    if monitor:
        whole, reuse = sum(monitor['weights']), np.array(monitor['reuse'])
        columns['weights used, %'] = percent(np.sum(monitor['active'], 1) / whole, 1)
        if 'capacity' in monitor:
            columns['by the tasks so far, %'] = percent(np.sum(monitor['capacity'], 1) / whole, 1)
        shared = [reuse[t, :t].max() / max(reuse[t, t], 1) if t else np.nan for t in range(n)]
        columns['shared with an earlier task, at most, %'] = percent(shared, 1)
    return list(columns), list(zip(*columns.values(), strict=True))


def percent(values, digits=2):
    return [f'{100 * value:.{digits}f}' if math.isfinite(value) else '-' for value in values]


def draw(result):
    """Yield (name, (caption, matplotlib Figure))."""
    yield 'matrices', figures.accuracy_matrices({result.approach: result}, title(result))
    epochs = result.record.get('epochs', [])
    if any(epochs):
        caption = 'Validation accuracy and losses of each epoch; the model of the lowest validation loss is kept.'
        yield 'learning', (caption, charts.learning(result.tasks, epochs))
    if result.record.get('monitor') and epochs and all(epochs):
        yield from figures.monitor(result.record['arguments']['seed'], result)


def page(result, path, data=None):
    """The page of the run whose record is `path`. data: folder of its images; None: that of the run."""
    try:
        shown = list(examples.of_tasks(result, path, data))
    except UserError as error:
        shown = [f'<p>Left out: {escape(str(error))}</p>']
    return html.page(title(result), [
        f'<p><code>{escape(results.command(result.record))}</code></p>',
        f'<p>{"<br>".join(map(escape, summary(result)))}</p>',
        html.table(*tasks(result)),
        *(html.picture(name, *content) for name, content in draw(result)),
        '<h2>Test pictures</h2>', *shown,
        '<h2>The run</h2>', html.details(path.name, html.shown(result.record)),
    ])  # fmt: skip

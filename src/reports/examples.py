"""Test pictures that a run gets right and wrong, as HTML, from its saved network and its data."""

import io
from html import escape

import torch
from PIL import Image

from reports.charts import labelled
from reports.html import png
from runs import saved

N_EXAMPLES = 8  # of each kind and task


def of_tasks(result, path, data):
    """Yield the parts of the page of the run whose record is `path`. data: folder of its images; None: that of the run.
    Raises UserError."""
    approach = saved.with_data(path, result.record, data, torch.device('cpu'))
    for t in labelled(len(approach.tasks)):
        yield from of_task(approach, t, saved.class_names(result.record, approach.tasks[t]), result.accuracy[-1, t])


def of_task(approach, t, names, run_accuracy):
    task, logits = approach.tasks[t], saved.logits(approach, t, approach.tasks[t].test)
    y, answers, probability = task.test.y, logits.argmax(1), logits.double().softmax(1).amax(1)
    right = answers == y
    saved.check_accuracy(task.name, float(right.double().mean()), run_accuracy)
    yield f'<h3>{escape(task.name)}</h3>'
    for kind, chosen in ('right', right), ('wrong', ~right):
        shown = []
        for i in spread(chosen.nonzero().flatten()):
            truth = '' if right[i] else f'; it is {names[y[i]]}'
            caption = f'{names[answers[i]]} {100 * float(probability[i]):.0f} %{truth}'
            shown.append(picture(task.test.x[task.test.index[i]], caption))
        yield f'<p>{kind}: {int(chosen.sum())} of {len(y)}</p><div class="examples">{"".join(shown)}</div>'


def spread(index):
    """N_EXAMPLES of these, evenly, or all."""
    if not len(index):
        return []
    return index[torch.linspace(0, len(index) - 1, N_EXAMPLES).round().long().unique()].tolist()


def picture(x, caption):
    """x: (H,W,C) uint8."""
    file, x, caption = io.BytesIO(), x.numpy(), escape(caption)
    Image.fromarray(x[..., 0] if x.shape[2] == 1 else x).save(file, 'PNG')
    return f'<figure><img alt="{caption}" src="{png(file.getvalue())}"><figcaption>{caption}</figcaption></figure>'

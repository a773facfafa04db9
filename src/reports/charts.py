"""The look of the figures: each function makes one matplotlib Figure from numbers.

Series differ in marker and in shade; the shades (viridis) differ in lightness, for greyscale and colour blindness. An
approach has the same marker and shade in all figures.
"""

import logging
import os
import warnings

import numpy as np

from approaches import APPROACHES

os.environ['MPLBACKEND'] = 'agg'  # figures go to files; the backend in the environment, such as a notebook's, may fail
import matplotlib  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

logging.getLogger('matplotlib.font_manager').setLevel(logging.ERROR)  # no message for each missing font
warnings.filterwarnings('ignore', 'Glyph .* missing from')  # in the name of a task of your own

MARKERS = 'osv^D<>pXP*hd8H1234+x|'
MAX_LABELS = 30  # with more tasks, not each has a label and numbers
MAX_LAYERS = 12  # with more, not each is in the legend
MIN_ROWS = 4  # of a heat map, for the label of its colours
LINES = '-', '--', '-.', ':'
RATIO = 'forgetting ratio ρ≤{}\n(0: joint training, -1: chance)'


def shades(n):
    return matplotlib.colormaps['viridis'](np.linspace(0, 0.9, n))


def style(approach):
    """Marker and colour, by its place in APPROACHES; neighbours there are about half of the range of shades apart.
    HAT's line is thicker."""
    k, n = list(APPROACHES).index(approach), len(APPROACHES)
    prominent = {'lw': 3.5, 'ms': 9, 'zorder': 3} if approach == 'hat' else {}
    return {'marker': MARKERS[k % len(MARKERS)], 'color': shades(n)[k // 2 + (n + 1) // 2 * (k % 2)], **prominent}


def labelled(n, most=MAX_LABELS):
    """Which of n have a label: all, or every second, every third ..."""
    return range(0, n, -(-n // most))


def literal(name):
    """The name of a task of your own as Matplotlib shows it: no formula is between its $, and a legend has it, too,
    which leaves out what starts with _."""
    return (' ' if name.startswith('_') else '') + name.replace('$', r'\$')


def curves(series, label):
    """Fig. 3: series, approach -> (its label, a value for each t = 1 .. T), over the number of tasks learned."""
    points = {name: (label, range(1, len(values) + 1), values) for name, (label, values) in series.items()}
    n_tasks = max(len(values) for _, values in series.values())
    return lines(points, xlabel='tasks learned, t', ylabel=label, xticks=[t + 1 for t in labelled(n_tasks, 15)])


def lines(series, **settings):
    """series: approach -> (its label, x, y). settings: of the axes."""
    figure = Figure((7, 4.5), layout='constrained')
    axes = figure.subplots()
    for approach, (name, x, y) in series.items():
        axes.plot(x, y, label=name, **style(approach))
    axes.set(**settings)
    axes.grid(alpha=0.3)
    axes.legend(loc='center left', bbox_to_anchor=(1, 0.5), fontsize='small')
    return figure


def gradients(e, scaled, sums):
    """Fig. 2: gradients over an epoch against the embeddings e, name -> values: `scaled` to a maximum of 1 (left), and
    as they are (right)."""
    figure = Figure((11, 4), layout='constrained')
    left, right = figure.subplots(1, 2)
    for k, ((name, values), colour) in enumerate(zip(scaled.items(), shades(len(scaled)), strict=True)):
        left.plot(e, values / values.max(), LINES[k], color=colour, lw=2, label=name)
    left.set(xlabel='embedding e', ylabel='gradient over an epoch, largest: 1', yscale='log', ylim=(1e-7, 2))
    for (name, values), line, colour in zip(sums.items(), ('-', '--'), shades(2), strict=True):
        right.plot(e, values, line, color=colour, lw=2, label=name)
    right.set(xlabel='embedding e (open gates: right)', ylabel='compensated gradient, sum over an epoch', yscale='log')
    for axes in left, right:
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def sweep(panels, n_tasks):
    """Fig. 4: panels, hyper-parameter -> (its values, rho<=T of each)."""
    figure = Figure((1 + 3.5 * len(panels), 3.5), layout='constrained')
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (name, (values, ratios)) in zip(grid, panels.items(), strict=True):
        axes.plot(values, ratios, 'o-', color=shades(2)[0])
        axes.set(xlabel=name)
        axes.set_xscale('symlog', linthresh=min(value for value in values if value > 0))  # log, with a place for 0
        axes.set_xticks(values, [f'{value:g}' for value in values], rotation=60, fontsize='small')
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    grid[0].set_ylabel(RATIO.format(n_tasks))
    return figure


def capacity(names, epochs, weights):
    """Fig. 5: share of the weights in use while the tasks (names) are learned.

    epochs   for each task and epoch, the number of weights in use in each layer
    weights  number of weights of each layer
    """
    used, weights = np.concatenate(epochs), np.array(weights)
    figure = Figure((8, 4.5), layout='constrained')
    axes = figure.subplots()
    x = range(1, len(used) + 1)
    named = labelled(len(weights), MAX_LAYERS)
    for l, colour in enumerate(shades(len(weights))):
        label = f'layer {l + 1}' if l in named else None
        axes.plot(x, 100 * used[:, l] / weights[l], LINES[l % 4], color=colour, lw=1.2, label=label)
    axes.plot(x, 100 * used.sum(1) / weights.sum(), color='black', lw=2.5, label='all layers')
    starts(axes, names, epochs)
    axes.set(xlabel='epoch', ylabel='weights in use by the tasks so far, %', ylim=(0, 102))
    axes.legend(loc='center left', bbox_to_anchor=(1, 0.5), fontsize='small')
    return figure


def starts(axes, names, epochs, titles=True):
    """A line, with its name, where the epochs of each task start."""
    start = 0.5
    for t, (name, task) in enumerate(zip(names, epochs, strict=True)):
        if t in labelled(len(names)):
            if titles:
                place = {'xycoords': ('data', 'axes fraction'), 'textcoords': 'offset points', 'rotation': 30}
                axes.annotate(literal(name), (start, 1), (3, 3), **place, fontsize='small')
            axes.axvline(start, ls='--', lw=0.8, color='grey')
        start += len(task)
    axes.set_xlim(0.5, start)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def learning(names, epochs):
    """Validation accuracy (above) and losses (below) while the tasks (names) are learned.

    epochs  for each task and epoch: its record
    """
    figure = Figure((8, 6), layout='constrained')
    above, below = figure.subplots(2, 1, sharex=True)
    whole = [epoch for task in epochs for epoch in task]
    cuts = np.cumsum([len(task) for task in epochs])[:-1]  # a line ends where its task does
    x = np.insert(np.arange(1.0, len(whole) + 1), cuts, np.nan)
    values = [[epoch.get(key) for epoch in whole] for key in ('valid_accuracy', 'train_loss', 'valid_loss')]
    accuracy, training, validation = np.insert(np.array(values, float), cuts, np.nan, axis=1)  # None is nan
    dark, light = shades(2)
    above.plot(x, 100 * accuracy, '.-', color='black', lw=1.2, ms=4)
    below.plot(x, training, '-', color=dark, lw=1.5, label='training')
    below.plot(x, validation, '--', color=light, lw=1.5, label='validation')
    above.set(ylabel='validation accuracy, %', ylim=(0, 102))
    below.set(xlabel='epoch', ylabel='loss', yscale='log')
    if not ((training > 0) | (validation > 0)).any():  # all epochs have diverged
        below.set_ylim(0.1, 10)  # Matplotlib finds none

    def label(tick, _):
        """At 1, 2 and 5 only, unless the axis has few ticks, which may lack these."""
        low, high = below.get_ylim()
        return f'{tick:g}' if high / low < 10 or f'{tick:.0e}'[0] in '125' else ''

    below.yaxis.set_major_formatter(label)
    below.yaxis.set_minor_formatter(label)
    for axes in above, below:
        starts(axes, names, epochs, titles=axes is above)
        axes.grid(alpha=0.3)
    below.legend(loc='center left', bbox_to_anchor=(1, 0.5), fontsize='small')
    return figure


def heat_maps(panels, label, columns, x_label, y_label):
    """Heat maps of the same tasks: panels, title -> (values in %, names of rows, names of columns); nan is blank."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    height, width = np.minimum(MAX_LABELS, np.max([values.shape for values, _, _ in panels.values()], 0))
    height = max(height, MIN_ROWS)
    figure = Figure((2.2 + columns * (0.5 + 0.42 * width), rows * (1.2 + 0.36 * height)), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for k, (axes, (title, (values, y, x))) in enumerate(zip(grid, panels.items(), strict=False)):
        image = axes.imshow(values, cmap='viridis', vmin=0, vmax=100, aspect='auto')
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value) and max(values.shape) <= MAX_LABELS:
                colour = 'white' if value < 60 else 'black'
                axes.text(j, i, f'{value:.0f}', ha='center', va='center', color=colour, fontsize='x-small')
        axes.set_title(title, fontsize='medium')
        left, lowest = k % columns == 0, k + columns >= len(panels)
        xticks, yticks = labelled(len(x)), labelled(len(y))
        axes.set_xticks(xticks, [literal(x[j]) for j in xticks] if lowest else [], rotation=90, fontsize='x-small')
        axes.set_yticks(yticks, [literal(y[i]) for i in yticks] if left else [], fontsize='x-small')
        axes.set(xlabel=x_label if lowest else '', ylabel=y_label if left else '')
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.colorbar(image, ax=grid, label=label)
    return figure


def compression(series):
    """Fig. 7: series, task -> (weights kept in % and accuracy in %, one per epoch; accuracy of SGD or None)."""
    figure = Figure((7, 4.5), layout='constrained')
    axes = figure.subplots()
    for k, ((name, (kept, accuracy, sgd)), colour) in enumerate(zip(series.items(), shades(len(series)), strict=True)):
        axes.plot(kept, accuracy, MARKERS[k % len(MARKERS)], ms=3.5, color=colour, label=literal(name))
        if sgd is not None:
            axes.plot(100, sgd, MARKERS[k % len(MARKERS)], ms=9, color=colour, mec='black', clip_on=False, zorder=3)
    axes.set(xlabel='weights kept, %', ylabel='validation accuracy of the first task, %', xlim=(0, 104), ylim=(0, 102))
    axes.grid(alpha=0.3)
    title = 'one mark per epoch;\nlarge: SGD, all weights'
    axes.legend(loc='center left', bbox_to_anchor=(1, 0.5), fontsize='small', title=title)
    return figure

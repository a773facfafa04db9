"""demo: eight small tasks of rendered pictures, so that every approach can be tried without any file.

Not in the paper. The tasks look different enough for plain SGD to forget, and are easy enough for a minute on a CPU.
"""

from functools import cache

import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageFont

from core import seeds
from dataloaders.task import Dataset

FAMILY = 'alexnet'
SHAPE = (3, 32, 32)
DEFAULTS = {'nepochs': 7, 'width': 0.25, 'threads': 1}  # more threads gain little and slow down other processes
N_TRAIN, N_TEST = 1800, 300  # pictures of a task, rounded down to the same number for each class
MEAN, STD = (0.4,), (0.12,)  # a third of the pictures' deviation: plain SGD learns faster from larger inputs
SCALE = 4  # pictures are drawn larger by this factor and averaged: smooth edges
SIDE = 32 * SCALE
JITTER = 2  # largest offset from the middle
LIGHT, NOISE = 6, 5  # standard deviations, in grey levels, of a picture's lighting and of a pixel

# Functions that draw a picture: of (pen, c, rng, ink), where c is the class's index or its entry in a table


def character(pen, c, rng, ink):
    x, y, r = place(rng, 52, 60)
    pen.text((x, y), c, ink, font(2 * int(r)), 'mm', stroke_width=3)


@cache
def font(size):
    return ImageFont.load_default(size)


CIRCLE = np.exp(2j * np.pi * np.arange(40) / 40)  # points of the complex plane, x + iy, y down, radius about 1
HEART = [16 * np.sin(t) ** 3 - 1j * (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
         for t in np.linspace(0, 2 * np.pi, 40)]  # fmt: skip
OUTER, INNER = np.linspace(-2.2, 2.2, 30), np.linspace(2, -2, 30)
SHAPES = {
    'disc': CIRCLE,
    'ring': np.concatenate([CIRCLE, [1, 0.55], 0.55 * CIRCLE, [0.55, 1]]),
    'moon': np.concatenate([np.exp(1j * OUTER), 0.45 * np.exp(1j * INNER) - 0.45]),
    'triangle': np.array([-1j, 0.95 + 0.75j, -0.95 + 0.75j]),
    'square': 0.85 * np.array([-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j]),
    'star': -1j * np.exp(2j * np.pi * np.arange(10) / 10) * np.tile([1.1, 0.45], 5),
    'heart': np.array(HEART) / 16,
    'plus': np.concatenate([np.array([-0.33 - 1j, 0.33 - 1j, 0.33 - 0.33j]) * 1j**k for k in range(4)]),
    'arrow': np.array([1, 0.1 + 0.9j, 0.1 + 0.35j, -1 + 0.35j, -1 - 0.35j, 0.1 - 0.35j, 0.1 - 0.9j]),
    'hourglass': np.array([-0.8 - 1j, 0.8 - 1j, -0.8 + 1j, 0.8 + 1j]),
}


def shape(pen, c, rng, ink):
    polygon(pen, SHAPES[c], rng, ink)


def polygon(pen, points, rng, ink):
    """Near the middle, rotated a little."""
    x, y, r = place(rng, 44, 54)
    points = points * r * np.exp(1j * rng.uniform(-0.1, 0.1)) + x + 1j * y
    pen.polygon([(p.real, p.imag) for p in points], ink)


def clock(pen, c, rng, ink):
    """A full hour: the minute hand is up."""
    x, y, r = place(rng, 54, 60)
    disc(pen, x, y, r, ink)
    disc(pen, x, y, 0.85 * r, 'white')
    dx, dy = r * np.sin(np.pi / 6 * c), -r * np.cos(np.pi / 6 * c)
    pen.line((x, y, x + 0.55 * dx, y + 0.55 * dy), 'black', 16)
    pen.line((x, y, x, y - 0.8 * r), 'black', 5)


def arrow(pen, c, rng, ink):
    """Points to hour c."""
    polygon(pen, SHAPES['arrow'] * 1j ** (c / 3 - 1), rng, ink)


FLAGS = {  # how the field is divided, and its colours
    'france': ('columns', 'blue', 'white', 'red'),
    'italy': ('columns', 'green', 'white', 'red'),
    'ireland': ('columns', 'green', 'white', 'orange'),
    'belgium': ('columns', 'black', 'yellow', 'red'),
    'germany': ('rows', 'black', 'red', 'yellow'),
    'netherlands': ('rows', 'red', 'white', 'blue'),
    'austria': ('rows', 'red', 'white', 'red'),
    'ukraine': ('rows', 'blue', 'yellow'),
    'poland': ('rows', 'white', 'red'),
    'sweden': ('cross', 'blue', 'yellow'),
    'denmark': ('cross', 'red', 'white'),
    'finland': ('cross', 'white', 'blue'),
    'japan': ('disc', 'white', 'red'),
    'bangladesh': ('disc', 'green', 'red'),
}


def flag(pen, c, rng, ink):
    (kind, *colours), (x, y, r) = FLAGS[c], place(rng, 50, 60)
    left, top, width, height = x - r, y - 0.7 * r, 2 * r, 1.4 * r
    pen.rectangle((left, top, left + width, top + height), colours[0])
    for k, colour in enumerate(colours):
        share = k / len(colours)
        if kind == 'columns':
            pen.rectangle((left + width * share, top, left + width, top + height), colour)
        elif kind == 'rows':
            pen.rectangle((left, top + height * share, left + width, top + height), colour)
        elif kind == 'disc' and k:
            disc(pen, x, y, 0.4 * r, colour)
        elif kind == 'cross' and k:
            pen.rectangle((left + 0.3 * width, top, left + 0.42 * width, top + height), colour)
            pen.rectangle((left, top + 0.42 * height, left + width, top + 0.58 * height), colour)


TEXTURES = {  # whether there is ink at u (to the right) and v (down), in periods of the pattern
    'rows': lambda u, v: v % 1 < 0.5,
    'columns': lambda u, v: u % 1 < 0.5,
    'rising': lambda u, v: (u + v) % 1.4 < 0.7,
    'falling': lambda u, v: (u - v) % 1.4 < 0.7,
    'grid': lambda u, v: (u % 1 < 0.25) | (v % 1 < 0.25),
    'lattice': lambda u, v: ((u + v) % 1.4 < 0.35) | ((u - v) % 1.4 < 0.35),
    'checks': lambda u, v: (u % 1 < 0.5) ^ (v % 1 < 0.5),
    'dots': lambda u, v: np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.3,
    'waves': lambda u, v: (v + 0.3 * np.sin(np.pi * u)) % 1 < 0.5,
    'bricks': lambda u, v: (v % 1 > 0.25) & ((u / 2 + v // 1 / 2) % 1 > 0.12),
    'rings': lambda u, v: np.hypot(u - 2, v - 2) % 1 < 0.5,
    'rays': lambda u, v: np.arctan2(v - 2, u - 2) % (np.pi / 4) < np.pi / 8,
}


def texture(pen, c, rng, ink):
    v, u = np.mgrid[:SIDE, :SIDE] / rng.uniform(28, 34) + rng.uniform(0, 0.4, (2, 1, 1))
    pen.bitmap((0, 0), Image.fromarray(TEXTURES[c](u, v)), ink)


EYES, MOUTHS = ('open', 'closed', 'wink'), ('smile', 'frown', 'flat', 'round')


def face(pen, c, rng, ink):
    (eyes, mouth), (x, y, r) = c, place(rng, 54, 60)
    disc(pen, x, y, r, 'gold')
    for eye, wide in (x - 0.4 * r, eyes != 'closed'), (x + 0.4 * r, eyes == 'open'):
        if wide:
            disc(pen, eye, y - 0.3 * r, 0.24 * r, 'black')
        else:
            pen.line((eye - 0.22 * r, y - 0.3 * r, eye + 0.22 * r, y - 0.3 * r), 'black', 14)
    if mouth == 'flat':
        pen.line((x - 0.5 * r, y + 0.45 * r, x + 0.5 * r, y + 0.45 * r), 'black', 16)
    elif mouth == 'round':
        disc(pen, x, y + 0.45 * r, 0.28 * r, 'black')
    else:
        up = 0.05 if mouth == 'smile' else 0.35
        pen.arc((x - 0.55 * r, y + (up - 0.3) * r, x + 0.55 * r, y + (up + 0.65) * r),
                *((20, 160) if mouth == 'smile' else (200, 340)), 'black', 16)  # fmt: skip


TASKS = {  # drawing function and classes; the order numbers the tasks
    'digits': (character, '0123456789'),
    'letters': (character, 'ABCDEFGHIJ'),
    'shapes': (shape, tuple(SHAPES)),
    'clocks': (clock, tuple(range(1, 13))),
    'arrows': (arrow, tuple(range(1, 13))),
    'flags': (flag, tuple(FLAGS)),
    'textures': (texture, tuple(TEXTURES)),
    'faces': (face, tuple((e, m) for e in EYES for m in MOUTHS)),
}
NAMES = tuple(TASKS)
FINGERPRINT = f'Pillow {PIL.__version__}'  # of the pictures; the rest is code


def read(names, folder, seed):
    """Datasets of these names, drawn by seed; nothing is read from the folder."""
    datasets = []
    for name in names:
        train = pictures(name, N_TRAIN, seeds.derive(seed, 'demo', name, 'train'))
        test = pictures(name, N_TEST, seeds.derive(seed, 'demo', name, 'test'))
        datasets.append(Dataset(name, len(TASKS[name][1]), MEAN, STD, *train, *test, FINGERPRINT))
    return datasets


def notes(names):
    """For the record of a run: names of the classes."""
    return {
        'classes': {name: [' '.join(c) if isinstance(c, tuple) else str(c) for c in TASKS[name][1]] for name in names}
    }


def pictures(name, n, seed):
    """About `n` pictures of a task and their labels, equally many of each class."""
    draw, classes = TASKS[name]
    rng = np.random.Generator(np.random.PCG64(seed))
    y = np.arange(n // len(classes) * len(classes)) % len(classes)
    x = np.empty((len(y), 32, 32, 3), np.float32)
    for i, c in enumerate(y):
        paper, ink = (tuple(map(int, rng.integers(low, low + 60, 3))) for low in (0, 195))
        image = Image.new('RGB', (SIDE, SIDE), paper)
        draw(ImageDraw.Draw(image), classes[c], rng, ink)
        x[i] = image.reduce(SCALE)
    light = rng.normal(0, LIGHT, (3, len(y), 1, 1, 1))  # constant, from left to right, from top to bottom
    slope = np.linspace(-1, 1, 32)
    x += light[0] + light[1] * slope[:, None] + light[2] * slope[:, None, None]
    x += NOISE * rng.standard_normal(x.shape, np.float32)
    return x.clip(0, 255).astype(np.uint8), y


def place(rng, low, high):
    """Centre, near the middle of the picture, and radius, from low to high."""
    return *rng.uniform(SIDE / 2 - JITTER, SIDE / 2 + JITTER, 2), rng.uniform(low, high)


def disc(pen, x, y, r, colour):
    pen.ellipse((x - r, y - r, x + r, y + r), colour)

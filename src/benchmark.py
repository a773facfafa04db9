"""How fast, how large, on which networks. One of three, each with its own --help:

speed    training steps of the approaches, against a plain loop and against what the machine can do (default)
scaling  time and memory with the number of tasks and of processes
zoo      networks of torchvision, timm and transformers, with hard attention in them
"""

import sys
from importlib import import_module

from core.errors import exit_code

BENCHMARKS = 'speed', 'scaling', 'zoo'


def main(argv=None):
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv.pop(0) if argv and argv[0] in BENCHMARKS else BENCHMARKS[0]
    if argv[:1] in (['-h'], ['--help']):
        print(__doc__)
    return import_module(f'benchmarks.{name}').main(argv)


if __name__ == '__main__':
    sys.exit(exit_code('benchmark.py', main, None))

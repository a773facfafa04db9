"""Benchmarks, each with its own --help:

speed    training steps of the approaches, compared with an eager loop and with a lower bound (default)
scaling  time and memory with the number of tasks and of processes
zoo      networks of torchvision, timm and transformers, converted to hard attention
"""

import sys
from importlib import import_module

from core.arguments import Parser
from core.errors import exit_code

BENCHMARKS = 'speed', 'scaling', 'zoo'


def main(argv=None):
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (['-h'], ['--help']):
        parser = Parser(__doc__)
        parser.usage = f'benchmark.py [{" | ".join(BENCHMARKS)}] [arguments]'
        parser.parse_args(argv)
    name = argv.pop(0) if argv and argv[0] in BENCHMARKS else BENCHMARKS[0]
    return import_module(f'benchmarks.{name}').main(argv)


if __name__ == '__main__':
    sys.exit(exit_code('benchmark.py', main, None))

"""What a result is of: the arguments that matter, the data, the code. In what are two runs not the same?"""

import ast
import functools
import hashlib
from pathlib import Path

import dataloaders
import networks
from approaches import APPROACHES

SRC = Path(__file__).resolve().parents[1]
TEXTS = {path: path.read_bytes() for path in SRC.rglob('*.py') if not {'tests', 'benchmarks'} & set(path.parts)}
# read now: what is edited later does not run in this process
ELSEWHERE = (
    'data',
    'output',
    'device',
    'threads',
    'tmp',
    'save',
    'verbose',
    'tensorboard',
    'fresh',
    'stale',
)  # no more than last bits
TABLES = 'approaches', 'networks', 'dataloaders'  # packages whose __init__ imports all there is: not followed
# modules that print, write and download; the data have a fingerprint of their own
APART = 'core.errors', 'core.files', 'dataloaders.sources'
LOOP = {  # functions that all runs go through
    'run.py': ('main', 'learn', 'test', 'report'),
    'core/device.py': ('choose_device', 'use_threads'),
    'core/results.py': ('square',),
}
SILENT = 'print', 'warn'
TYPES = 'annotation', 'returns', 'ctx'  # fields without a say


class Identity:
    """Of the run with these arguments of run.py, complete."""

    def __init__(self, args):
        self.arguments = {name: value for name, value in vars(args).items() if name not in ELSEWHERE}
        self.approach, self.experiment, self.folder = args.approach, args.experiment, args.data

    @property
    def code(self):
        return code(self.approach, self.experiment)

    def differences(self, record):
        """In what a result is of another run, a list of texts; the code apart."""
        tasks = record.get('tasks', [])
        now = dataloaders.fingerprints(self.experiment, self.folder, [task['name'] for task in tasks])
        here = [task | {'data': now[task['name']]} for task in tasks]
        defaults = {name: p.default for name, p in APPROACHES[self.approach].parameters.items()}
        arguments = record.get('arguments', {})
        there = record | {'arguments': arguments | {'parameter': defaults | arguments.get('parameter', {})}}
        return differences(there, record | {'arguments': self.arguments, 'tasks': here})


def differences(there, here):
    """In what two records disagree, a list of texts; the code apart. Data that are unknown to one may be the same."""
    a, b = facts(there), facts(here)
    unknown = {name for name in (*a, *b) if name.endswith(': data') and {a.get(name), b.get(name)} & {None, 'None'}}
    both = ((name, a.get(name), b.get(name)) for name in dict.fromkeys([*a, *b]) if name not in unknown)
    return [f'{name} {old} there, {new} here' for name, old, new in both if old != new]


def facts(record):
    """What a record is of, name -> text."""
    of = {name: value for name, value in record.get('arguments', {}).items() if name not in ELSEWHERE}
    of |= {name: record.get(name) for name in ('n_parameters', 'versions', 'format')}
    for task in record.get('tasks', []):
        of |= {f'{task["name"]}: {name}': value for name, value in task.items() if name != 'name'}
    return {name: show(value) for name, value in of.items()}


def show(value):
    """As text; 1 and 1.0 are the same."""
    if isinstance(value, dict):
        return ','.join(f'{name}={show(each)}' for name, each in sorted(value.items()))
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


@functools.cache
def code(approach, experiment):
    """A fingerprint of what computes the runs of an approach on an experiment: the syntax trees of its statements.

    Comments, docstrings, annotations of arguments, formatting, texts of errors, and in which file a statement stands do
    not count.
    """
    method, data = APPROACHES[approach], dataloaders.EXPERIMENTS[experiment]
    network = networks.NETWORKS[data.FAMILY][method.variant]
    waiting, seen, found = [method.__module__, network.__module__, data.__name__, *TABLES], set(), set()
    while waiting:
        if (path := locate(name := waiting.pop())) and name not in seen:
            seen.add(name)
            statements, imported = read(path)
            found |= {mark for function, mark in statements if function or name not in TABLES}
            waiting += [other for other in imported if name not in TABLES and other not in APART]
    for path, names in LOOP.items():
        found |= {mark for function, mark in read(SRC / path)[0] if function in names}
    return digest(sorted(found))


def locate(module):
    """The file of a module of this project, or None."""
    path = SRC / module.replace('.', '/')
    return next((p for p in (path.with_suffix('.py'), path / '__init__.py') if p in TEXTS), None)


@functools.cache
def read(path):
    """Of a file, (name if it is a function, fingerprint) of each statement, and the modules that it may import."""
    imported, statements = [], []
    package = path.parent.relative_to(SRC).parts
    for statement in ast.parse(TEXTS[path]).body:
        if content := form(statement, imported, package):
            name = statement.name if isinstance(statement, ast.FunctionDef) else ''
            statements.append((name, digest(content)))
    return statements, imported


def form(node, imported, package):
    """Of a syntax tree what computes, as nested tuples; None where nothing does. Adds to `imported` what it imports.

    package: the folders that the file is in.
    """
    kind = type(node)
    if kind is list:
        parts = ((each, form(each, imported, package)) for each in node)
        return [part for each, part in parts if each is None or part is not None]
    if not isinstance(node, ast.AST):
        return node
    if kind in (ast.Import, ast.ImportFrom):
        return bound(node, imported, package)
    if kind is ast.Raise:
        return 'Raise'
    if kind is ast.Expr and says(node):
        return None
    fields = ((name, getattr(node, name, None)) for name in node._fields if name not in TYPES)
    return kind.__name__, *[(name, form(value, imported, package)) for name, value in fields if value not in (None, [])]


def bound(node, imported, package):
    """What an import makes names stand for, (name, what) each; where a module of this project is does not count."""
    level = getattr(node, 'level', 0)
    above = package[: len(package) - level + 1] if level else ()
    home = '.'.join(filter(None, [*above, getattr(node, 'module', '')]))
    pairs = []
    for alias in node.names:
        full = '.'.join(filter(None, [home, alias.name]))
        imported += filter(None, [home, full])
        ours = locate(full) or home and locate(home)
        pairs.append((alias.asname, alias.name.split('.')[-1] if ours else full))
    return pairs


def says(node):
    """A docstring, or a call that only says something?"""
    called = node.value.func if isinstance(node.value, ast.Call) else None
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, 'id', None)
    return isinstance(node.value, ast.Constant) or name in SILENT


def digest(content):
    return hashlib.blake2b(repr(content).encode(), digest_size=8).hexdigest()

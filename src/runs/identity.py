"""The identity of a run: its arguments, a fingerprint of its data, and one of the code that computes it."""

import ast
import functools
import hashlib
from pathlib import Path

import dataloaders
import networks
from approaches import APPROACHES
from core import comparison
from dataloaders import options
from networks import pretrained

SRC = Path(__file__).resolve().parents[1]
# Read at import: later edits do not affect this process
SOURCES = {path: path.read_bytes() for path in SRC.rglob('*.py') if not {'tests', 'benchmarks'} & set(path.parts)}
# Arguments that change no more than the last bits of a result; what is in --data and --pretrained has a fingerprint
NOT_PART_OF_IDENTITY = (
    'data', 'pretrained', 'output', 'device', 'threads', 'tmp', 'save', 'verbose', 'tensorboard', 'fresh', 'stale',
)  # fmt: skip
REGISTRIES = 'approaches', 'networks', 'dataloaders'  # packages whose __init__ imports all modules: not followed
# Modules that print, write and download: not followed; the data have a fingerprint of their own
NOT_FINGERPRINTED = 'core.errors', 'core.files', 'dataloaders.archives.sources'
ALL_RUNS = {  # functions that every run calls
    'run.py': ('main', 'learn', 'test', 'report'),
    'core/device.py': ('setup_device', 'use_threads'),
    'core/metrics.py': ('square',),
}
MESSAGE_CALLS = 'print', 'warn'
IGNORED_FIELDS = 'annotation', 'returns', 'ctx'  # of a syntax tree: they change no result


class Identity:
    """Of the run with these arguments of run.py, with all defaults filled in."""

    def __init__(self, args):
        self.arguments = {name: value for name, value in vars(args).items() if name not in NOT_PART_OF_IDENTITY}
        self.approach, self.experiment, self.folder = args.approach, args.experiment, args.data
        # The file that the network starts with
        self.weights = pretrained.fingerprint(args.pretrained) if args.pretrained else None

    @property
    def code(self):
        return code(self.approach, self.experiment, self.arguments.get('network'))

    def notes(self, record):
        """What the experiment adds to the record of this run."""
        module = dataloaders.EXPERIMENTS[self.experiment]
        return module.notes([task['name'] for task in record['tasks']]) if hasattr(module, 'notes') else {}

    def differences(self, record):
        """In what the run of a record differs from this one, except in the code: a list of texts."""
        arguments = record.get('arguments', {})
        experiment = arguments.get('experiment', self.experiment)
        if experiment != self.experiment:  # whose tasks are others
            return [f'experiment is {experiment}, not {self.experiment}']
        if other := self.other_tasks(record):
            return other
        approach = arguments.get('approach', self.approach)
        if approach != self.approach:  # whose hyper-parameters are others
            return [f'approach is {approach}, not {self.approach}']
        tasks = record.get('tasks', [])
        current = dataloaders.fingerprints(self.experiment, self.folder, [task['name'] for task in tasks])
        defaults = APPROACHES[self.approach].defaults()
        recorded = record | {'arguments': arguments | {'parameter': defaults | arguments.get('parameter', {})}}
        tasks = [task | {'data': current[task['name']]} for task in tasks]
        return differences(recorded, record | {'arguments': self.arguments, 'tasks': tasks, 'weights': self.weights})

    def other_tasks(self, record):
        """Has a folder of your own other tasks or classes now than in a record? A list of texts."""
        module, names = dataloaders.EXPERIMENTS[self.experiment], [task['name'] for task in record.get('tasks', [])]
        if not options.is_own(self.experiment) or not names or not self.folder.is_dir():
            return []
        now = dataloaders.ordered(self.experiment, *(self.arguments[name] for name in ('seed', 'tasks', 'ntasks')))
        if now != names:
            return [f'the tasks are {",".join(names)}, not {",".join(now)}']
        classes = module.notes(names)['classes']
        renamed = [name for name in names if record.get('classes', classes).get(name) != classes[name]]
        return [f'the names of the classes of {renamed[0]} were others'] if renamed else []


def differences(record, other):
    """In what two records disagree, except in the code: a list of texts. Unknown data agree with any."""
    a, b = facts(record), facts(other)
    empty = dict.fromkeys([*a, *b])
    found = comparison.differences(empty | a, empty | b)
    return comparison.explain(d for d in found if not (d[0].endswith(': data') and None in d[1:]))


def facts(record):
    """What identifies the run of a record: name -> value or a dict of values."""
    arguments = {name: v for name, v in record.get('arguments', {}).items() if name not in NOT_PART_OF_IDENTITY}
    others = {name: record.get(name) for name in ('n_parameters', 'weights', 'versions', 'format')}
    tasks = {of_task(task['name']): {k: v for k, v in task.items() if k != 'name'} for task in record.get('tasks', [])}
    order = [task['name'] for task in record.get('tasks', [])]  # a folder that gets another task may change it
    return arguments | others | {'order of tasks': order} | tasks


def of_task(name):
    """The name of the facts of a task, which may be called as an argument is: lr, seed, size."""
    return f'task {name}'


@functools.cache
def code(approach, experiment, network=None):
    """A fingerprint of the code that computes the runs of an approach on an experiment: the syntax trees of statements.
    Comments, docstrings, annotations of arguments, formatting, error messages, and which file a statement is in do not
    count.

    It is made of all statements in the modules of the approach, the network and the experiment and in all modules that
    these import, however indirectly; of the functions and classes in REGISTRIES, but not their other statements; and of
    ALL_RUNS.
    """
    method, data = APPROACHES[approach], dataloaders.EXPERIMENTS[experiment]
    family = networks.external if network else networks.NETWORKS[data.FAMILY][method.variant]
    architecture = family.__name__ if network else family.__module__
    bases = [c.__module__ for c in method.__mro__]  # of a class in a registry, whose imports are not followed
    queue, seen = [*bases, architecture, data.__name__, *REGISTRIES], set()  # names of modules
    marks = {method.__name__, family.__name__}  # a file may have several
    while queue:
        module = queue.pop()
        path = find_file(module)
        if not path or module in seen:
            continue
        seen.add(module)
        statements, imported = parse(path, SOURCES[path])
        if module in REGISTRIES:
            marks |= {mark for name, mark in statements if name}
        else:
            marks |= {mark for _, mark in statements}
            queue += [other for other in imported if other not in NOT_FINGERPRINTED]
    for path, functions in ALL_RUNS.items():
        statements, _ = parse(SRC / path, SOURCES[SRC / path])
        marks |= {mark for function, mark in statements if function in functions}
    return digest(sorted(marks))


def find_file(module):
    """The file of a module of this project, or None."""
    path = SRC / module.replace('.', '/')
    return next((p for p in (path.with_suffix('.py'), path / '__init__.py') if p in SOURCES), None)


@functools.cache
def parse(path, source):
    """The statements of a file, (name if it is a function or class, fingerprint) each, and the modules that it may
    import."""
    imported, statements = [], []
    package = path.parent.relative_to(SRC).parts
    for statement in ast.parse(source).body:
        if content := normalize(statement, imported, package):
            name = statement.name if isinstance(statement, (ast.FunctionDef, ast.ClassDef)) else ''
            statements.append((name, digest(content)))
    return statements, imported


def normalize(node, imported, package):
    """A syntax tree as nested tuples, without what changes no result; None if nothing is left. Adds to `imported`.

    package: the folders that the file is in.
    """
    kind = type(node)
    if kind is list:
        parts = ((element, normalize(element, imported, package)) for element in node)
        return [part for element, part in parts if element is None or part is not None]
    if not isinstance(node, ast.AST):
        return node
    if kind in (ast.Import, ast.ImportFrom):
        return imported_names(node, imported, package)
    if kind is ast.Raise:
        return 'Raise'
    if kind is ast.Expr and is_message(node):
        return None
    fields = ((name, getattr(node, name, None)) for name in node._fields if name not in IGNORED_FIELDS)
    return kind.__name__, *[(name, normalize(v, imported, package)) for name, v in fields if v not in (None, [])]


def imported_names(node, imported, package):
    """What the names in an import refer to, (name, object) each; the module does not count if it is of this project."""
    level = getattr(node, 'level', 0)
    above = package[: len(package) - level + 1] if level else ()
    home = '.'.join(filter(None, [*above, getattr(node, 'module', '')]))
    pairs = []
    for alias in node.names:
        full = '.'.join(filter(None, [home, alias.name]))
        imported += filter(None, [home, full])
        is_ours = find_file(full) or home and find_file(home)
        pairs.append((alias.asname, alias.name.split('.')[-1] if is_ours else full))
    return pairs


def is_message(node):
    """Is an expression statement a docstring, or a call that prints or warns?"""
    called = node.value.func if isinstance(node.value, ast.Call) else None
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, 'id', None)
    return isinstance(node.value, ast.Constant) or name in MESSAGE_CALLS


def digest(content):
    return hashlib.blake2b(repr(content).encode(), digest_size=8).hexdigest()

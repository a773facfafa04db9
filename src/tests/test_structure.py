"""The structure of src/: which files are commands, and which way imports go."""

import ast
import sys

import pytest

from core.files import ROOT

SRC = ROOT / 'src'
FILES = sorted(path for path in SRC.rglob('*.py') if 'tests' not in path.parts)
COMMANDS = sorted(path.stem for path in SRC.glob('*.py'))
PACKAGES = sorted(
    path.name for path in SRC.iterdir() if path.is_dir() and path.name != 'tests' and list(path.glob('*.py'))
)
MAY_IMPORT = {  # beside itself
    'hat': '',
    'core': '',
    'dataloaders': 'core',
    'networks': 'core hat',
    'approaches': 'core dataloaders hat networks',
    'runs': 'core dataloaders hat networks approaches',
    'reports': 'core dataloaders hat networks approaches runs',
    'benchmarks': 'core dataloaders hat networks approaches runs',
    'batches': 'core dataloaders hat networks approaches runs run',  # `run` is what each process of a batch calls
}


def imports(path):
    """The first names of all modules that a file imports, in functions, too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module if node.level == 0 else path.relative_to(SRC).parts[0])
    return {name.split('.')[0] for name in names}


def test_every_file_at_the_root_is_a_command():
    for name in COMMANDS:
        tests = [ast.unparse(node.test) for node in ast.parse((SRC / f'{name}.py').read_bytes()).body
                 if isinstance(node, ast.If)]  # fmt: skip
        assert "__name__ == '__main__'" in tests, name


def test_every_folder_is_a_package_with_a_place_in_the_order():
    assert sorted(MAY_IMPORT) == PACKAGES


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_go_one_way(path):
    package = path.relative_to(SRC).parts[0]
    allowed = {package, *MAY_IMPORT[package].split()} if package in MAY_IMPORT else set(PACKAGES)
    assert imports(path) & {*COMMANDS, *PACKAGES} <= allowed


def test_hat_needs_torch_only():
    names = set().union(*(imports(path) for path in FILES if path.is_relative_to(SRC / 'hat')))
    assert names - sys.stdlib_module_names == {'hat', 'torch'}


def test_an_import_in_a_function_or_of_a_submodule_is_seen(tmp_path):
    text = 'import torch, hat.layers\ndef f():\n    from reports.tables import times\n    import run_multi as r\n'
    (tmp_path / 'a.py').write_text(text)
    assert imports(tmp_path / 'a.py') == {'torch', 'hat', 'reports', 'run_multi'}

"""The package that pip installs, src/pyproject.toml: what its files hold, and that it works without this repository."""

import email
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import hat
from core.files import ROOT

pytest.importorskip('hatchling', reason='hatchling is not installed')
NAME = f'hat_torch-{hat.__version__}'
FILES = {f'hat/{path.name}' for path in (ROOT / 'src' / 'hat').iterdir() if path.is_file()}


def build(target, source, folder):
    command = [sys.executable, '-m', 'hatchling', 'build', '-t', target, '-d', folder]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope='module')
def sdist(tmp_path_factory):
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp('sdist')
    with tarfile.open(build('sdist', ROOT / 'src', folder)) as file:
        file.extractall(folder, filter='data')
    return folder / NAME


@pytest.fixture(scope='module')
def wheel(sdist, tmp_path_factory):
    """The unpacked wheel, built from the source distribution, as for a release."""
    folder = tmp_path_factory.mktemp('wheel')
    with zipfile.ZipFile(build('wheel', sdist, folder)) as file:
        file.extractall(folder / 'content')
    return folder / 'content'


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}


def test_the_source_distribution_has_hat_and_its_licence_only(sdist):
    assert files(sdist) == FILES | {'LICENSE', 'PKG-INFO', 'pyproject.toml', '.gitignore'}
    assert (sdist / 'LICENSE').read_bytes() == (ROOT / 'LICENSE').read_bytes()


def test_the_wheel_has_hat_and_its_licence_only(wheel):
    info = f'{NAME}.dist-info'
    about = {f'{info}/{name}' for name in ('METADATA', 'RECORD', 'WHEEL', 'licenses/LICENSE')}
    assert files(wheel) == FILES | about and {'hat/py.typed', 'hat/README.md'} <= FILES
    content = email.message_from_bytes((wheel / info / 'METADATA').read_bytes())
    assert content['Version'] == hat.__version__ and content['License-Expression'] == 'MIT'
    assert [text.split('>=')[0] for text in content.get_all('Requires-Dist')] == ['torch']


@pytest.mark.slow
def test_the_installed_package_works_away_from_the_repository(wheel, tmp_path):
    """Without NumPy, too, which torch does not require. Where torch alone is installed: .ci/run."""
    code = "import runpy, sys; sys.modules['numpy'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    command = [sys.executable, '-P', '-c', code, Path(__file__).with_name('smoke.py')]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(wheel)}, check=True)

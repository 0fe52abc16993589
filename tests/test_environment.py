from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = ('upstream', 'onedl')


def test_no_hard_requirement_takes_a_side() -> None:
    """`pip install .` must leave either line, and the torch beside it, as it is."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    hard = config['options']['install_requires'].split('\n')
    names = {re.split(r'[<>=! ]', line)[0] for line in hard if line}
    assert names == {'filelock', 'globox', 'numpy', 'pyyaml', 'rich', 'torch', 'torchvision'}
    assert not [line for line in hard if '==' in line or '<' in line]

    distributions = {'mm': 'mm', 'onedl': 'onedl-mm'}
    for extra, prefix in distributions.items():
        wanted = config['options.extras_require'][extra].split()
        mm = [r for r in wanted if re.match(r'(onedl-)?mm', r)]
        assert len(mm) == 4 and all(r.startswith(prefix) for r in mm)


def test_the_verified_versions_fit_the_extras() -> None:
    """What the environments pin is within what the package says it works with."""
    from packaging.requirements import Requirement

    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    for line, extra in zip(LINES, ('mm', 'onedl'), strict=True):
        text = (ROOT / f'tools/requirements/{line}.txt').read_text()
        pins = dict(r.split('==') for r in text.splitlines() if '==' in r)
        for wanted in config['options.extras_require'][extra].strip().splitlines():
            requirement = Requirement(wanted)
            if requirement.specifier and 'mm' in requirement.name:
                assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_the_check_is_one_command() -> None:
    script = ROOT / '.ci/run'
    lines = script.read_text().splitlines()
    assert len(lines) == 3 and lines[0] == '#!/bin/sh' and lines[-1] == 'make test'
    assert 'set -e' in lines[1] and os.access(script, os.X_OK)


@pytest.mark.skipif(shutil.which('make') is None, reason='make is not installed')
class TestMake:
    def make(self, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs make in a copy with a Python that only records how it was called."""
        project = tmp_path / 'project'
        if not project.exists():
            shutil.copytree(ROOT / 'tools', project / 'tools')
            for name in ('Makefile', 'setup.cfg', 'setup.py', 'pyproject.toml'):
                shutil.copy(ROOT / name, project)
            python = tmp_path / 'python'
            # As `-m venv FOLDER` it puts itself into the folder; as pip it fails when told to.
            python.write_text(
                '#!/bin/sh\n'
                f'echo "$@" >>{tmp_path}/calls\n'
                'if [ "$1 $2" = "-m venv" ]; then mkdir -p $3/bin; cp $0 $3/bin/; cp $0 $3/bin/lint-imports; fi\n'
                f'if [ -e {tmp_path}/fail ] && [ "$2" = pip ]; then exit 1; fi\n'
            )
            python.chmod(0o755)
        env = {k: v for k, v in os.environ.items() if not k.startswith('MAKE') and k not in ('LINE', 'PYTHON', 'VENV')}
        return subprocess.run(
            ['make', f'PYTHON={tmp_path}/python', *arguments], cwd=project, capture_output=True, text=True, env=env
        )

    def calls(self, tmp_path: Path) -> list[str]:
        record = tmp_path / 'calls'
        calls = record.read_text().splitlines() if record.exists() else []
        record.unlink(missing_ok=True)
        return calls

    @pytest.mark.parametrize('line, folder', [('upstream', '.venv'), ('onedl', '.venv-onedl')])
    def test_sets_up_once(self, tmp_path: Path, line: str, folder: str) -> None:
        assert self.make(tmp_path, 'env', f'LINE={line}').returncode == 0
        calls = self.calls(tmp_path)
        assert f'-m venv {folder}' in calls
        assert any('-m pip' in call and f'{line}.txt' in call for call in calls)
        assert self.make(tmp_path, 'env', f'LINE={line}').returncode == 0
        assert self.calls(tmp_path) == []

        # What only the tests need comes with them, once.
        for install in (True, False):
            assert self.make(tmp_path, 'test', f'LINE={line}').returncode == 0
            calls = self.calls(tmp_path)
            assert any('.[dev]' in call for call in calls) == install and '-m pytest' in calls[-1]

        # A changed package is installed again, changed pins start from nothing.
        later = (tmp_path / 'project' / folder / '.ready').stat().st_mtime + 10
        os.utime(tmp_path / 'project/setup.cfg', (later, later))
        self.make(tmp_path, 'env', f'LINE={line}')
        calls = self.calls(tmp_path)
        assert calls and not any('venv' in call.split() for call in calls)
        os.utime(tmp_path / f'project/tools/requirements/{line}.txt', (later, later))
        self.make(tmp_path, 'env', f'LINE={line}')
        assert f'-m venv {folder}' in self.calls(tmp_path)

    def test_an_unfinished_set_up_starts_again(self, tmp_path: Path) -> None:
        (tmp_path / 'fail').touch()
        assert self.make(tmp_path, 'env').returncode != 0
        leftover = tmp_path / 'project/.venv/half-installed'
        leftover.touch()
        (tmp_path / 'fail').unlink()
        assert self.make(tmp_path, 'env').returncode == 0
        assert not leftover.exists()

    def test_leaves_a_foreign_environment_alone(self, tmp_path: Path) -> None:
        self.make(tmp_path, '--version')
        mine = tmp_path / 'project/.venv/mine'
        mine.parent.mkdir()
        mine.touch()
        done = self.make(tmp_path, 'env')
        assert done.returncode != 0 and 'was not made by make' in done.stderr
        assert mine.exists()

    def test_says_what_is_wrong(self, tmp_path: Path) -> None:
        assert 'must be upstream or onedl' in self.make(tmp_path, 'env', 'LINE=fork').stderr
        done = self.make(tmp_path, 'env', 'PYTHON=no-such-python')
        assert done.returncode != 0 and 'PYTHON=no-such-python not found' in done.stderr

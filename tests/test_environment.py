from __future__ import annotations

import configparser
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
LINES = ('upstream', 'onedl')


@pytest.fixture(scope='module')
def build_mmcv() -> ModuleType:
    spec = importlib.util.spec_from_file_location('build_mmcv', ROOT / 'tools/build_mmcv.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_sources(tree: Path, build_mmcv: ModuleType) -> dict[str, str]:
    """An mmcv tree in small: returns each C++ source's text by its path under the source root."""
    plain = ['info.cpp', 'nms.cpp', 'roi_align.cpp', 'spconv.cpp', 'cpu/nms.cpp', 'cpu/voxel.cpp']
    names = [*plain, *build_mmcv.ALONE, *build_mmcv.CLASHING, *build_mmcv.LAST]
    texts = {name: f'// {name}\nint f_{re.sub("[^a-z]", "_", name)}();\n' for name in names}
    for name, text in (texts | {'cuda/nms_cuda.cu': '// device', 'cuda/cudabind.cpp': '//'}).items():
        path = tree / build_mmcv.SOURCE_ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return texts


def test_every_source_is_compiled_exactly_once(build_mmcv: ModuleType, tmp_path: Path) -> None:
    texts = write_sources(tmp_path, build_mmcv)
    root = tmp_path / build_mmcv.SOURCE_ROOT
    build_mmcv.unify(tmp_path)

    # What mmcv's setup finds by its own patterns, with the inclusions followed.
    compiled = [*root.glob('*.cpp'), *root.glob('cpu/*.cpp')]
    seen = []
    for unit in compiled:
        included = re.findall(r'#include "(.+)"', unit.read_text())
        members = [root / name for name in included] or [unit]
        names = [m.relative_to(root).as_posix().removesuffix('.inc') for m in members]
        assert all(m.read_text() == texts[n] for m, n in zip(members, names, strict=True))
        assert len(set(names) & set(build_mmcv.CLASHING)) <= 1
        assert not set(names) & set(build_mmcv.LAST) or names[-1] in build_mmcv.LAST
        assert not set(names) & set(build_mmcv.ALONE) or len(names) == 1
        seen += names
    assert sorted(seen) == sorted(texts)
    assert len(compiled) == len(build_mmcv.ALONE) + len(build_mmcv.CLASHING)
    # The device sources are not touched.
    assert sorted(f.name for f in (root / 'cuda').iterdir()) == ['cudabind.cpp', 'nms_cuda.cu']

    with pytest.raises(FileNotFoundError, match='no C\\+\\+ sources'):
        build_mmcv.unify(tmp_path / 'elsewhere')


def test_units_compile_together_with_the_headers_beside_them(build_mmcv: ModuleType, tmp_path: Path) -> None:
    """A renamed source still finds a header by a path relative to itself."""
    compiler = shutil.which('c++')
    if compiler is None:
        pytest.skip('no C++ compiler')
    write_sources(tmp_path, build_mmcv)
    root = tmp_path / build_mmcv.SOURCE_ROOT
    (root / 'cpu/voxel.h').write_text('int f_cpu_voxel_cpp();\n')
    (root / 'cpu/voxel.cpp').write_text('#include "voxel.h"\n')
    build_mmcv.unify(tmp_path)
    for unit in (*root.glob('*.cpp'), *root.glob('cpu/*.cpp')):
        subprocess.run([compiler, '-fsyntax-only', str(unit)], check=True)


def test_a_wheel_is_kept_for_what_it_was_built_with(build_mmcv: ModuleType) -> None:
    reference = ('mmcv==2.1.0', '2.13.0+cu130', 'cpu')
    others = [
        ('mmcv==2.1.0', '2.13.0+cpu', 'cpu'),
        ('mmcv==2.1.0', '2.12.0+cu130', 'cpu'),
        ('mmcv==2.1.0', '2.13.0+cu130', 'cuda-9.0'),
        ('onedl-mmcv==2.3.6', *reference[1:]),
        ('mmcv==2.1.0', '2.13.0+cu130', 'cuda-8.0 9.0'),
    ]
    keys = {build_mmcv.cache_key(*case) for case in (reference, *others)}
    assert len(keys) == 1 + len(others)
    python = f'{sys.version_info.major}.{sys.version_info.minor}'
    assert all(python in key and re.fullmatch(r'[\w.+-]+', key) for key in keys)
    assert build_mmcv.cache_root({'XDG_CACHE_HOME': '/x'}) == Path('/x/mnv2_backbone/wheels')
    assert build_mmcv.cache_root({'HOME': '/h'}) == Path('/h/.cache/mnv2_backbone/wheels')


def test_a_failed_build_shows_its_error_and_keeps_no_wheel(
    build_mmcv: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch(requirement: str, folder: Path) -> Path:
        tree = folder / 'tree'
        write_sources(tree, build_mmcv)
        lines = [f'line {i}' for i in range(1000)]
        lines[500] = '[1/2] c++'
        lines[700] = 'nms.cpp:3: error: no such type'
        (tree / 'setup.py').write_text('print({!r}, flush=True)\nraise SystemExit(1)\n'.format('\n'.join(lines)))
        return tree

    monkeypatch.setattr(build_mmcv, 'fetch', fetch)
    with pytest.raises(SystemExit, match='did not compile') as error:
        build_mmcv.build('mmcv==2.1.0', tmp_path, 'cpu', 1)
    out, err = capsys.readouterr()
    assert str(tmp_path / 'build.log') in str(error.value)
    assert 'error: no such type' in err and len(err.splitlines()) < 50
    assert len(out.splitlines()) < 10
    assert [f.name for f in tmp_path.iterdir()] == ['build.log']


@pytest.mark.parametrize(
    'arguments, message',
    [
        ([], 'give either'),
        (['mmcv>=2'], 'must be mmcv==... or onedl-mmcv==...'),
        (['-r', 'tools/requirements/torch.txt'], 'expected one line mmcv==VERSION'),
        (['-r', 'nowhere.txt'], 'nowhere.txt'),
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], message: str) -> None:
    done = subprocess.run([sys.executable, 'tools/build_mmcv.py', *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr and 'Traceback' not in done.stderr


def test_a_missing_compiler_is_named_before_any_work() -> None:
    done = subprocess.run(
        [sys.executable, 'tools/build_mmcv.py', '--check'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=dict(os.environ, CXX='no-such-c++'),
    )
    assert done.returncode == 1
    assert "no compiler 'no-such-c++'" in done.stderr


def test_no_hard_requirement_takes_a_side() -> None:
    """`pip install .` must leave either line, and the torch beside it, as it is."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    hard = config['options']['install_requires'].split('\n')
    names = {re.split(r'[<>=! ]', line)[0] for line in hard if line}
    assert names == {'filelock', 'numpy', 'rich', 'torch', 'torchvision'}
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
        assert any('build_mmcv.py' in call and f'{line}.txt' in call for call in calls)
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

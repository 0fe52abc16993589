"""The formats of weights, foreign ones recognized by what is in a file. Nothing here imports PyTorch or a parser."""

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import WeightsError

#: The parts of our networks, by the first part of their keys.
PARTS = ('backbone', 'head', 'neck', 'bbox_head', 'decode_head')
#: The libraries in whose own layout a backbone can be written. MMSegmentation's is MMPretrain's too.
LAYOUTS = ('mmdet', 'mmseg')


@dataclass
class Imported:
    """Weights in our key layout, before anything is left out.

    ``state`` has a ``conv.bias`` for a convolution whose norm was folded into it; ``unknown`` are names in the file
    that have no place in our networks; ``options`` of :class:`mnv2_backbone.MobileNetV2` are implied by the source, if
    not defaults. ``meta`` is what a file in our layout says of itself, of ``backbone``, ``folded`` and
    ``dataset_meta``; None for files of others.
    """

    state: dict[str, Any] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] | None = None


def need(module: str, package: str, what: str) -> Any:
    """Imports an optional library; the error says how to install it, and what cannot be read without it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise WeightsError(
            f'reading {what} needs {package}: pip install {package}, or mnv2_backbone[weights] for all formats'
        ) from error


@dataclass(frozen=True)
class Format:
    """A foreign format; ``matches`` gets a file's path and first bytes, or a folder and no bytes.

    ``importer`` is a module of this package and its function.
    """

    name: str
    matches: Callable[[Path, bytes], bool]
    importer: tuple[str, str]

    def read(self, path: Path) -> Imported:
        """Imports a file."""
        module, function = self.importer
        imported: Imported = getattr(import_module(f'{__package__}.{module}'), function)(path)
        return imported


def _zip_holds(path: Path, head: bytes, suffix: str) -> bool:
    if not head.startswith(b'PK\x03\x04'):
        return False
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.endswith(suffix) for name in file.namelist())
    except zipfile.BadZipFile as error:
        raise WeightsError(f'{path}: this .npz or PyTorch file is damaged or incomplete') from error


def _is_pytorch(path: Path, head: bytes) -> bool:
    return _zip_holds(path, head, 'data.pkl') or head.startswith(b'\x80\x02')


def _is_tfjs(path: Path, head: bytes) -> bool:
    is_json = head.lstrip().startswith(b'{') and b'"weightsManifest"' in path.read_bytes()
    return (path / 'model.json').is_file() or is_json


def _is_tf_checkpoint(path: Path, head: bytes) -> bool:
    parts = (Path(f'{path}.index'), path / 'variables' / 'variables.index')
    return any(part.is_file() for part in parts) or path.suffix == '.index' or '.data-' in path.name


#: In the order in which they are tried; the last is the one without a signature.
FORMATS = (
    Format('Keras (.h5)', lambda path, head: head.startswith(b'\x89HDF\r\n'), ('keras', 'read_keras')),
    Format('TensorFlow Lite (.tflite)', lambda path, head: head[4:8] == b'TFL3', ('tflite', 'read_tflite')),
    Format('PyTorch (.pth)', _is_pytorch, ('pytorch', 'read_pytorch')),
    Format('variables (.npz)', lambda path, head: _zip_holds(path, head, '.npy'), ('variables', 'read_npz')),
    Format('safetensors', lambda path, head: head[8:10] == b'{"', ('pytorch', 'read_safetensors')),
    Format('TensorFlow.js (model.json)', _is_tfjs, ('tensorflow', 'read_tfjs')),
    Format('TensorFlow checkpoint (.ckpt, SavedModel)', _is_tf_checkpoint, ('variables', 'read_tf_checkpoint')),
    Format('TensorFlow frozen graph (.pb)', lambda path, head: head.startswith(b'\n'), ('tensorflow', 'read_frozen')),
)


def recognize(path: str | os.PathLike[str]) -> Format:
    """Finds the format of a file, or of a folder for the formats of several files, by what is in it."""
    path = Path(path)
    head = b''
    if path.is_file():
        with path.open('rb') as file:
            head = file.read(64)
    for candidate in FORMATS:
        if candidate.matches(path, head):
            return candidate
    what = 'is of no format known here' if path.exists() else 'does not exist'
    raise WeightsError(f'{path} {what}. Known are: {", ".join(candidate.name for candidate in FORMATS)}')

"""From any format to a checkpoint of this package."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..files import whole_file
from .arrays import read_npy_folder, read_npz, read_tf_checkpoint
from .detector import class_names, keep_coco_classes, num_classes
from .frozen import read_frozen
from .imported import Imported, WeightsError, listing
from .keras import read_keras
from .layout import PARTS, check_complete, find_options
from .pytorch import read_pytorch, read_safetensors
from .tfjs import read_tfjs
from .tflite import read_tflite
from .unfold import unfold


@dataclass(frozen=True)
class Format:
    """A foreign format.

    Attributes:
        name: For messages and for ``meta['format']``.
        matches: Whether a file (its path and first bytes) or a folder (no bytes) looks like it.
        read: Its importer.
    """

    name: str
    matches: Callable[[Path, bytes], bool]
    read: Callable[[Path], Imported]


def _zip_holds(path: Path, head: bytes, suffix: str) -> bool:
    if not head.startswith(b'PK\x03\x04'):
        return False
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.endswith(suffix) for name in file.namelist())
    except zipfile.BadZipFile as error:
        raise WeightsError(f'{path}: this .npz or PyTorch file is damaged or incomplete') from error


#: In the order in which they are tried; the last is the one without a signature.
FORMATS = (
    Format('Keras (.h5)', lambda path, head: head.startswith(b'\x89HDF\r\n'), read_keras),
    Format('TensorFlow Lite (.tflite)', lambda path, head: head[4:8] == b'TFL3', read_tflite),
    Format(
        'PyTorch (.pth)',
        lambda path, head: _zip_holds(path, head, 'data.pkl') or head.startswith(b'\x80\x02'),
        read_pytorch,
    ),
    Format('slim variables (.npz)', lambda path, head: _zip_holds(path, head, '.npy'), read_npz),
    Format('safetensors', lambda path, head: head[8:10] == b'{"', read_safetensors),
    Format(
        'TensorFlow.js (model.json)',
        lambda path, head: (path / 'model.json').is_file()
        or (head.lstrip().startswith(b'{') and b'"weightsManifest"' in path.read_bytes()),
        read_tfjs,
    ),
    Format(
        'folder of .npy files',
        lambda path, head: path.is_dir() and any(path.rglob('*.npy')),
        read_npy_folder,
    ),
    Format(
        'TensorFlow checkpoint (.ckpt)',
        lambda path, head: Path(f'{path}.index').is_file()
        or path.suffix == '.index'
        or '.data-' in path.name,
        read_tf_checkpoint,
    ),
    Format('TensorFlow frozen graph (.pb)', lambda path, head: head.startswith(b'\n'), read_frozen),
)


@dataclass(frozen=True)
class Converted:
    """Weights ready to be saved.

    Attributes:
        state_dict: The tensors, in the layout of this package.
        meta: ``format``; ``source``, the file's name; ``backbone``, the options of
            :class:`mnv2_backbone.MobileNetV2` the weights are for, other than its defaults, or None where
            no width of the standard table fits; ``folded``, whether the norms' statistics are made up (see
            :mod:`mnv2_backbone.weights.unfold`); ``num_classes`` of a detector, and ``dataset_meta`` with
            its classes where they are known.
    """

    state_dict: dict[str, Tensor]
    meta: dict[str, Any]


def recognise(path: str | os.PathLike[str]) -> Format:
    """Tells the format of weights by what is in them.

    Args:
        path: A file, or a folder for the formats of several files.

    Raises:
        WeightsError: There is nothing there, or it is of no format known here; the message names those that
            are.
    """
    path = Path(path)
    head = b''
    if path.is_file():
        with path.open('rb') as file:
            head = file.read(64)
    for candidate in FORMATS:
        if candidate.matches(path, head):
            return candidate
    known = ', '.join(candidate.name for candidate in FORMATS)
    what = 'is of no format known here' if path.exists() else 'does not exist'
    raise WeightsError(f'{path} {what}. Known are: {known}')


def read(src: str | os.PathLike[str], *, only: Sequence[str] = (), classes: str = 'all') -> Converted:
    """Reads weights of any format into our layout.

    Args:
        src: A file or a folder.
        only: Parts to keep, of ``'backbone'``, ``'head'`` (classifier), ``'neck'``, ``'bbox_head'``,
            ``'decode_head'``; what else there is, known or not, is left out. Everything by default.
        classes: ``'all'``, or ``'coco'`` for the 80 used of COCO's 90 ids in a detector.

    Returns:
        The weights and what is known of them.

    Raises:
        WeightsError: The file is damaged, incomplete, or holds what has no place in our networks.
    """
    for part in only:
        if part not in PARTS:
            raise WeightsError(f'only={part!r}: allowed are {", ".join(PARTS)}')
    if classes not in ('all', 'coco'):
        raise WeightsError(f"classes={classes!r}: allowed are 'all' and 'coco'")
    src = Path(src)
    found = recognise(src)
    try:
        imported = found.read(src)
    except UserError as error:
        raise WeightsError(f'{src} ({found.name}): {error}') from error
    except Exception as error:  # whatever a parser meets in a damaged file
        raise WeightsError(
            f'{src} looks like {found.name}, but is damaged or incomplete: {type(error).__name__}: {error}'
        ) from error
    try:
        return _finish(imported, found.name, src.name, only, classes)
    except WeightsError as error:
        raise WeightsError(f'{src} ({found.name}): {error}') from error


def _finish(
    imported: Imported, format_name: str, source: str, only: Sequence[str], classes: str
) -> Converted:
    if imported.unknown and not only:
        raise WeightsError(
            f'{len(imported.unknown)} tensors have no place in our networks: {listing(imported.unknown)}. '
            'If they may be left out, name the parts to keep (--only backbone)'
        )
    state = {key: x for key, x in imported.state.items() if not only or key.partition('.')[0] in only}
    lacking = [part for part in only if not any(key.startswith(f'{part}.') for key in state)]
    if lacking or not state:
        raise WeightsError(f'there is no {" and no ".join(lacking) or "MobileNetV2"} in it')
    meta: dict[str, Any] = dict(
        format=format_name, source=source, folded=any(key.endswith('conv.bias') for key in state)
    )
    state = unfold(state)
    if any(key.startswith('backbone.') for key in state):
        options = find_options(state)
        if options is not None:
            check_complete(state, options)
        meta['backbone'] = None if options is None else {**options, **imported.options}
    number = num_classes(state)
    if number is not None or classes == 'coco':
        if classes == 'coco':
            state, names = keep_coco_classes(state)
            number = len(names)
            meta['dataset_meta'] = dict(classes=names)
        elif (ids := class_names(number or 0)) is not None:
            meta['dataset_meta'] = dict(classes=ids)
        meta['num_classes'] = number
    return Converted({key: value.clone() for key, value in state.items()}, meta)


def save(converted: Converted, dst: str | os.PathLike[str]) -> None:
    """Writes a checkpoint that ``torch.load(weights_only=True)`` and mmengine read.

    Args:
        converted: What :func:`read` returned.
        dst: The file; it appears whole or not at all.

    Raises:
        WeightsError: It cannot be written.
    """
    try:
        with whole_file(dst) as draft:
            torch.save(dict(state_dict=converted.state_dict, meta=converted.meta), draft)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError where the disk is full
        raise WeightsError(f'{dst} cannot be written: {error}') from error

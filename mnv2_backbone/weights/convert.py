"""From any format to a checkpoint of this package."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, WeightsError, listing, whole_file
from ..network.fit import check_complete, find_options
from .detector import class_names, keep_coco_classes, num_classes, voc_classes
from .formats import PARTS, Imported, recognize
from .unfold import unfold


@dataclass(frozen=True)
class Converted:
    """Weights ready to be saved, in the layout of this package, and what is known about them.

    ``meta`` has ``format``; ``source``, the file's name; ``backbone``, the options of
    :class:`mnv2_backbone.MobileNetV2` that the weights are for, other than its defaults, or None if no width of the
    standard table fits (missing if a file in our layout does not say it); ``folded``, whether the norms have made-up
    statistics (see :mod:`mnv2_backbone.weights.unfold`); ``num_classes`` of a detector; ``dataset_meta`` with the
    classes if they are known.
    """

    state_dict: dict[str, Tensor]
    meta: dict[str, Any]


def read(src: str | os.PathLike[str], *, only: Sequence[str] = (), classes: str = 'all') -> Converted:
    """Reads weights of any format into our layout.

    Args:
        src: A file or a folder.
        only: Parts to keep, of :data:`mnv2_backbone.weights.formats.PARTS`; everything else, known or not, is left out.
        classes: ``'all'``, or ``'coco'`` for the 80 used of COCO's 90 ids in a detector.

    Raises:
        WeightsError: The file is damaged, incomplete, or holds what has no place in our networks.
    """
    for part in only:
        if part not in PARTS:
            raise WeightsError(f'only={part!r}: allowed are {", ".join(PARTS)}')
    if classes not in ('all', 'coco'):
        raise WeightsError(f"classes={classes!r}: allowed are 'all' and 'coco'")
    src = Path(src)
    found = recognize(src)
    try:
        imported = found.read(src)
    except UserError as error:
        raise WeightsError(f'{src} ({found.name}): {error}') from error
    except Exception as error:  # whatever a parser raises for a damaged file
        raise WeightsError(
            f'{src} looks like {found.name}, but is damaged or incomplete: {type(error).__name__}: {error}'
        ) from error
    try:
        return _finish(imported, found.name, src.name, only, classes)
    except WeightsError as error:
        raise WeightsError(f'{src} ({found.name}): {error}') from error


def _finish(imported: Imported, format_name: str, source: str, only: Sequence[str], classes: str) -> Converted:
    if imported.unknown and not only:
        raise WeightsError(
            f'{len(imported.unknown)} tensors belong to no layer of this package: {listing(imported.unknown)}. '
            'If they may be left out, name the parts to keep (--only backbone)'
        )
    state = {key: x for key, x in imported.state.items() if not only or key.partition('.')[0] in only}
    lacking = [part for part in only if not any(key.startswith(f'{part}.') for key in state)]
    if lacking or not state:
        raise WeightsError(f'there is no {" and no ".join(lacking) or "MobileNetV2"} in it')
    own = imported.meta
    folded = any(key.endswith('conv.bias') for key in state) if own is None else bool(own.get('folded'))
    meta: dict[str, Any] = dict(format=format_name, source=source, folded=folded)
    if own is None:  # in our layout a bias belongs to a convolution without a norm
        state = unfold(state)
    if any(key.startswith('backbone.') for key in state):
        options = find_options(state)
        if options is not None:
            check_complete(state, options)
        if own is None:
            meta['backbone'] = None if options is None else {**options, **imported.options}
        elif 'backbone' in own:
            meta['backbone'] = own['backbone']
    # Of TensorFlow's segmenters those of VOC alone are known.
    if own is None and len(state.get('decode_head.conv_seg.bias', ())) == 21:
        meta['dataset_meta'] = voc_classes()
    number = num_classes(state)
    if number is not None or classes == 'coco':
        if classes == 'coco':
            state, names = keep_coco_classes(state)
            number = len(names)
            meta['dataset_meta'] = dict(classes=names)
        elif own is None and (ids := class_names(number or 0)) is not None:
            meta['dataset_meta'] = dict(classes=ids)
        meta['num_classes'] = number
    if own and 'dataset_meta' in own and classes == 'all':
        meta['dataset_meta'] = own['dataset_meta']
    return Converted({key: value.clone() for key, value in state.items()}, meta)


def save(converted: Converted, dst: str | os.PathLike[str]) -> None:
    """Writes a checkpoint that ``torch.load(weights_only=True)`` and mmengine read, whole or not at all."""
    try:
        with whole_file(dst) as draft:
            torch.save(dict(state_dict=converted.state_dict, meta=converted.meta), draft)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError if the disk is full
        raise WeightsError(f'{dst} cannot be written: {error}') from error

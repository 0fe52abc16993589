"""A small detection and segmentation data set that is drawn, not downloaded.

Everything in an image follows from ``(seed, split, index)``, so any number of workers makes the same set. The images
are those of `toy.scene`. NumPy, OpenCV and pycocotools suffice.
"""

import json
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as rle

from mnv2_backbone.errors import whole_file

from .scene import CLASSES, Scene, SceneOptions, draw_scene

SPLITS = ('train', 'val')

GENERATOR = 'mnv2_backbone.toydata'
MANIFEST = 'manifest.json'
#: Raise it whenever the same options draw other pixels, so that sets on disk are written anew.
VERSION = 1

JPEG_QUALITY = 92


def scene_at(seed: int, split: str, index: int, options: SceneOptions | None = None) -> Scene:
    """The scene at one place of a data set, whatever the set's size: image ``index`` of ``'train'`` or ``'val'``.

    Raises:
        ValueError: The split is unknown or a number negative.
    """
    if split not in SPLITS:
        raise ValueError(f'split={split!r}: expected one of {SPLITS}')
    _check_count('seed', seed, 0)
    _check_count('index', index, 0)
    return draw_scene(np.random.default_rng([seed, SPLITS.index(split), index]), options)


def _check_count(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f'{name}={value!r}: expected an integer, {least} or more')


def write_toy_dataset(
    out: str | os.PathLike[str],
    train: int = 600,
    val: int = 150,
    seed: int = 0,
    options: SceneOptions | None = None,
    workers: int | None = None,
) -> Path:
    """Writes a data set in COCO's layout, unless it lies there already.

    ::

        OUT/annotations/instances_{train,val}.json   boxes and masks (RLE) of the visible parts
        OUT/{train,val}/000001.jpg                   images
        OUT/{train,val}_labels/000001.png            semantic labels: 0 ground, class i is i + 1
        OUT/manifest.json                            what was asked for, and whether it is complete

    The same arguments give the same files, for any number of workers, and a larger set starts with the images of a
    smaller one. A set that is complete and was made with the same arguments is left as it is; one that was interrupted
    or made with others is replaced.

    Raises:
        ValueError: A number is out of its range.
        FileExistsError: The folder holds something else, which is left untouched.
    """
    for name, value, least in (('train', train, 1), ('val', val, 1), ('seed', seed, 0)):
        _check_count(name, value, least)
    if workers is None:
        workers = min(os.cpu_count() or 1, 4)
    _check_count('workers', workers, 1)
    options = options or SceneOptions()
    out = Path(out)
    counts = dict(zip(SPLITS, (train, val), strict=True))
    wanted = {'generator': GENERATOR, 'version': VERSION, **counts, 'seed': seed, 'options': asdict(options)}
    wanted = json.loads(json.dumps(wanted))  # tuples become lists, as in the file

    found = _read_manifest(out)
    if found == {**wanted, 'complete': True} and _all_there(out, counts):
        return out
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / MANIFEST, {**wanted, 'complete': False})
    for folder in _folders():
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir()
    with ThreadPoolExecutor(workers) as pool:
        for split, count in counts.items():
            records = pool.map(partial(_write_scene, out, seed, split, options), range(count))
            _write_json(out / 'annotations' / f'instances_{split}.json', _coco(split, records))
    _write_json(out / MANIFEST, {**wanted, 'complete': True})
    return out


def _folders() -> list[str]:
    return ['annotations', *SPLITS, *(f'{split}_labels' for split in SPLITS)]


def _read_manifest(out: Path) -> dict | None:
    """The manifest, or None for a folder that is missing or empty; refuses any other folder."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        manifest = json.loads((out / MANIFEST).read_text())
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get('generator') != GENERATOR:
        raise FileExistsError(
            f'{out} exists and is no data set of this generator (no {MANIFEST} of its own): '
            'name a new or empty folder, or remove this one'
        )
    return manifest


def _all_there(out: Path, counts: dict[str, int]) -> bool:
    """Whether the number of files in each folder is right."""
    expected = {'annotations': len(SPLITS), **counts, **{f'{split}_labels': n for split, n in counts.items()}}
    return all((out / name).is_dir() and len(os.listdir(out / name)) == n for name, n in expected.items())


def _write_json(path: Path, content: dict) -> None:
    with whole_file(path) as draft:
        draft.write_text(json.dumps(content, indent=None if path.name != MANIFEST else 2) + '\n')


def _write_scene(out: Path, seed: int, split: str, options: SceneOptions, index: int) -> tuple[dict, list[dict]]:
    """Writes one image and its labels; returns its record and its annotations without ids."""
    scene = scene_at(seed, split, index, options)
    name = f'{index + 1:06d}'
    height, width = scene.owner.shape
    for path, image, flags in (
        (out / split / f'{name}.jpg', scene.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]),
        (out / f'{split}_labels' / f'{name}.png', scene.label_map(), []),
    ):
        if not cv2.imwrite(str(path), image, flags):
            raise OSError(f'cannot write {path}')
    record = {'id': index + 1, 'file_name': f'{name}.jpg', 'height': height, 'width': width}
    return record, [_annotation(scene, k, record['id']) for k in range(len(scene))]


def _annotation(scene: Scene, index: int, image_id: int) -> dict:
    encoded = rle.encode(np.asfortranarray(scene.mask(index), dtype=np.uint8))
    return {
        'image_id': image_id,
        'category_id': scene.classes[index] + 1,
        'bbox': list(scene.box(index)),
        'area': int(rle.area(encoded)),
        'iscrowd': 0,
        'segmentation': {'size': list(encoded['size']), 'counts': encoded['counts'].decode('ascii')},
    }


def _coco(split: str, records: Iterable[tuple[dict, list[dict]]]) -> dict:
    images: list[dict] = []
    annotations: list[dict] = []
    for image, objects in records:
        images.append(image)
        for annotation in objects:
            annotations.append({'id': len(annotations) + 1, **annotation})
    return {
        'info': {'description': f'Drawn shapes, {split} split', 'version': str(VERSION)},
        'licenses': [],
        'images': images,
        'annotations': annotations,
        'categories': [{'id': k + 1, 'name': name, 'supercategory': 'shape'} for k, name in enumerate(CLASSES)],
    }

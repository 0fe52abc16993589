"""The lists of images that a config names: COCO files, or names and label maps."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as rle

from mnv2_backbone.data.masks import save_indexed_png
from mnv2_backbone.data.samples import Sample
from mnv2_backbone.errors import UserError, listing, one_line, whole_file

from .data import Data


def write_lists(data: Data, work_dir: Path, task: str) -> None:
    """Writes a COCO file for each split, or a list of images and their label maps."""
    if task == 'detect' and data.masks:
        raise UserError('--task detect: the annotations are masks, which have no boxes')
    if task == 'segment' and not data.masks:
        lacking = [sample.image.name for sample in data.samples for thing in sample.things if not thing.outline]
        if len(lacking) == sum(len(sample.things) for sample in data.samples):
            raise UserError('--task segment: the annotations are boxes; a segmenter needs masks or outlines')
        if lacking:
            raise UserError(
                f'--task segment: {len(lacking)} objects are boxes without an outline: {listing(lacking, 4)}'
            )
        data.classes = ['background', *(name for name in data.classes if name != 'background')]
    for split in ('train', 'val', 'test'):
        samples = data.of(split)
        if samples and task == 'detect':
            write_coco(work_dir / f'{split}.json', samples, data.classes, data.root)
        elif samples:
            names = [sample.image.relative_to(data.root) for sample in samples]
            for name, sample in zip(names, samples):
                save_indexed_png(work_dir / 'masks' / f'{name}.png', label_map(data, sample))
            with whole_file(work_dir / f'{split}.txt') as draft:
                draft.write_text(''.join(f'{name}\n' for name in names))


def label_map(data: Data, sample: Sample) -> np.ndarray:
    """The label map (H, W), uint8, of a sample."""
    if data.masks and sample.mask:
        return data.masks.read(sample.mask)
    try:
        return draw_outlines(sample, data.classes)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, cv2.error) as error:
        raise UserError(f'an outline in {sample.image.name} cannot be drawn: {one_line(error)}') from error


def write_coco(path: Path, samples: Sequence[Sample], classes: Sequence[str], root: Path) -> None:
    """Writes samples as a COCO file, with the paths of the images relative to ``root``."""
    numbers = {name: number for number, name in enumerate(classes, start=1)}
    images: list[dict] = []
    annotations: list[dict] = []
    for number, sample in enumerate(samples, start=1):
        name = sample.image.relative_to(root).as_posix() if sample.image.is_relative_to(root) else str(sample.image)
        images.append(dict(id=number, file_name=name, width=sample.size[0], height=sample.size[1]))
        for thing in sample.things:
            if thing.label not in numbers:
                continue
            left, top, right, bottom = thing.box
            box = [left, top, right - left, bottom - top]
            ids = dict(id=len(annotations) + 1, image_id=number, category_id=numbers[thing.label])
            annotations.append(dict(ids, bbox=box, area=box[2] * box[3], iscrowd=int(thing.ignore)))
    categories = [dict(id=number, name=name) for name, number in numbers.items()]
    with whole_file(path) as draft:
        draft.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))


def draw_outlines(sample: Sample, classes: Sequence[str]) -> np.ndarray:
    """The label map (H, W), uint8, of a sample's outlines, larger objects below smaller ones; 0 is the background."""
    width, height = sample.size
    labels = np.zeros((height, width), np.uint8)
    things = [thing for thing in sample.things if thing.outline and thing.label in classes]
    for thing in sorted(things, key=lambda x: -x.area):
        value = 255 if thing.ignore else classes.index(thing.label)
        if isinstance(thing.outline, dict):
            packed = thing.outline
            if isinstance(packed['counts'], list):
                packed = rle.frPyObjects(packed, height, width)
            labels[rle.decode(packed) > 0] = value
        else:
            for points in thing.outline:  # one by one: what two of them cover is inside, too
                cv2.fillPoly(labels, [np.rint(np.array(points, float).reshape(-1, 2)).astype(np.int32)], value)
    return labels

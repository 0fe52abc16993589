"""A few images with boxes and masks, written as labelling tools export them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from pycocotools import mask as rle

from mnv2_backbone.data.masks import save_indexed_png, voc_colormap

CLASSES = ('ellipse', 'ring', 'rectangle', 'triangle', 'star', 'cross', 'crescent', 'arrow')
ROBOFLOW = dict(train='train', val='valid')


@dataclass
class Truth:
    """An image of the toy data set: its file, (width, height), objects (label, left, top, width, height), label map."""

    path: Path
    split: str
    size: tuple[int, int]
    boxes: list[tuple[str, float, float, float, float]]
    outlines: list[list[list[float]]]
    labels: np.ndarray


def read_truth(toy: Path) -> list[Truth]:
    """The images of a toy data set."""
    truths = []
    for split in ('train', 'val'):
        content = json.loads((toy / f'annotations/instances_{split}.json').read_text())
        for image in content['images']:
            own = [x for x in content['annotations'] if x['image_id'] == image['id']]
            path = toy / split / image['file_name']
            truths.append(
                Truth(
                    path,
                    split,
                    (image['width'], image['height']),
                    [(CLASSES[x['category_id'] - 1], *map(float, x['bbox'])) for x in own],
                    [_outline(rle.decode(x['segmentation'])) for x in own],
                    cv2.imread(str(toy / f'{split}_labels' / f'{path.stem}.png'), cv2.IMREAD_UNCHANGED),
                )
            )
    return truths


def _outline(mask: np.ndarray) -> list[list[float]]:
    contours, _ = cv2.findContours(np.asarray(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [contour.ravel().astype(float).tolist() for contour in contours]


def _copy(truth: Truth, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == truth.path.suffix:
        shutil.copy(truth.path, target)
    else:
        cv2.imwrite(str(target), cv2.imread(str(truth.path)))
    return target


def _coco(path: Path, truths: list[Truth], names: list[str], file_name: Callable[[Truth], str]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, truth in enumerate(truths):
        images.append(dict(id=number, file_name=file_name(truth), width=truth.size[0], height=truth.size[1]))
        for (label, *box), outline in zip(truth.boxes, truth.outlines):
            own = dict(id=len(annotations), image_id=number, category_id=names.index(label), bbox=box)
            annotations.append(dict(own, area=box[2] * box[3], segmentation=outline, iscrowd=0))
    categories = [dict(id=i, name=name, supercategory='shapes') for i, name in enumerate(names)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(info={}, images=images, annotations=annotations, categories=categories)))


def _name(truth: Truth) -> str:
    return f'{truth.split}_{truth.path.stem}.jpg'


def coco_roboflow(out: Path, truths: list[Truth]) -> None:
    """One folder for each split, with a category 0 that nothing has."""
    for split, folder in ROBOFLOW.items():
        own = [truth for truth in truths if truth.split == split]
        for truth in own:
            _copy(truth, out / folder / truth.path.name)
        _coco(out / folder / '_annotations.coco.json', own, ['shapes', *CLASSES], lambda truth: truth.path.name)
    (out / 'README.roboflow.txt').write_text('exported\n')


def coco_cvat(out: Path, truths: list[Truth]) -> None:
    """One file for everything, images in images/default."""
    for truth in truths:
        _copy(
            truth,
            out / 'images/default' / _name(truth).replace(truth.split, 'frame' if truth.split == 'train' else 'shot'),
        )
    _coco(
        out / 'annotations/instances_default.json',
        truths,
        list(CLASSES),
        lambda truth: _name(truth).replace(truth.split, 'frame' if truth.split == 'train' else 'shot'),
    )


def coco_label_studio(out: Path, truths: list[Truth]) -> None:
    """result.json beside images/, with the paths of another machine in it."""
    for number, truth in enumerate(truths):
        _copy(truth, out / 'images' / f'{number:08x}-photo.jpg')
    numbers = {id(truth): number for number, truth in enumerate(truths)}
    _coco(out / 'result.json', truths, list(CLASSES), lambda x: f'..\\media\\7\\{numbers[id(x)]:08x}-photo.jpg')


def _xml(path: Path, truth: Truth, image: str) -> None:
    root = ElementTree.Element('annotation')
    ElementTree.SubElement(root, 'filename').text = image
    size = ElementTree.SubElement(root, 'size')
    for side, value in zip(('width', 'height', 'depth'), (*truth.size, 3)):
        ElementTree.SubElement(size, side).text = str(value)
    for label, left, top, width, height in truth.boxes:
        thing = ElementTree.SubElement(root, 'object')
        ElementTree.SubElement(thing, 'name').text = label
        box = ElementTree.SubElement(thing, 'bndbox')
        corners = (left + 1, top + 1, left + width, top + height)
        for side, number in zip(('xmin', 'ymin', 'xmax', 'ymax'), corners):
            ElementTree.SubElement(box, side).text = str(int(number))
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(root).write(path)


def voc_devkit(out: Path, truths: list[Truth]) -> None:
    """JPEGImages, Annotations, ImageSets/Main."""
    (out / 'ImageSets/Main').mkdir(parents=True)
    for split in ('train', 'val'):
        names = [Path(_name(truth)).stem for truth in truths if truth.split == split]
        (out / f'ImageSets/Main/{split}.txt').write_text('\n'.join(names) + '\n')
    for truth in truths:
        _copy(truth, out / 'JPEGImages' / _name(truth))
        _xml(out / 'Annotations' / f'{Path(_name(truth)).stem}.xml', truth, _name(truth))


def voc_flat_png(out: Path, truths: list[Truth]) -> None:
    """PNG images and XML files side by side, as LabelImg writes them, with names of files that were renamed."""
    for number, truth in enumerate(truths):
        _copy(truth, out / f'{number}.png')
        _xml(out / f'{number}.xml', truth, 'C:\\photos\\IMG_1.png')


def _yolo(path: Path, truth: Truth, outlines: bool = False) -> None:
    width, height = truth.size
    lines = []
    for (label, x, y, w, h), outline in zip(truth.boxes, truth.outlines):
        number = CLASSES.index(label)
        if outlines and len(outline) == 1:
            points = (np.array(outline[0]).reshape(-1, 2) / truth.size).ravel()
        else:
            points = np.array([(x + w / 2) / width, (y + h / 2) / height, w / width, h / height])
        lines.append(f'{number} ' + ' '.join(f'{value:.6f}' for value in points))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n')


def yolo_ultralytics(out: Path, truths: list[Truth], outlines: bool = False) -> None:
    """images/ and labels/ with the splits in them, and a data.yaml."""
    for truth in truths:
        _copy(truth, out / 'images' / truth.split / truth.path.name)
        _yolo(out / 'labels' / truth.split / f'{truth.path.stem}.txt', truth, outlines)
    names = '\n'.join(f'  {number}: {name}' for number, name in enumerate(CLASSES))
    (out / 'data.yaml').write_text(f'path: .\ntrain: images/train\nval: images/val\nnames:\n{names}\n')


def yolo_segments(out: Path, truths: list[Truth]) -> None:
    """The same with polygons."""
    yolo_ultralytics(out, truths, outlines=True)


def yolo_roboflow(out: Path, truths: list[Truth]) -> None:
    """Paths in data.yaml that lead one folder too far up, one of them to a folder that was not exported."""
    for truth in truths:
        folder = out / ROBOFLOW[truth.split]
        _copy(truth, folder / 'images' / truth.path.name)
        _yolo(folder / 'labels' / f'{truth.path.stem}.txt', truth)
    paths = 'train: ../train/images\nval: ../valid/images\ntest: ../test/images\n'
    (out / 'data.yaml').write_text(f'{paths}nc: {len(CLASSES)}\nnames: {list(CLASSES)}\n')


def yolo_classes_txt(out: Path, truths: list[Truth]) -> None:
    """Label files beside their images, without data.yaml, as LabelImg writes them."""
    for number, truth in enumerate(truths):
        _copy(truth, out / f'{number}.jpg')
        _yolo(out / f'{number}.txt', truth)
    (out / 'classes.txt').write_text('\n'.join(CLASSES) + '\n')


def _labelme(path: Path, truth: Truth, image: str, polygons: bool) -> None:
    shapes = []
    for (label, x, y, w, h), outline in zip(truth.boxes, truth.outlines):
        drawn = polygons and len(outline) == 1  # a hidden middle makes two parts
        points = np.array(outline[0]).reshape(-1, 2).tolist() if drawn else [[x, y], [x + w, y + h]]
        shapes.append(dict(label=label, points=points, shape_type='polygon' if drawn else 'rectangle', flags={}))
    size = dict(imageWidth=truth.size[0], imageHeight=truth.size[1])
    path.write_text(json.dumps(dict(version='5.5.0', shapes=shapes, imagePath=image, imageData=None, **size)))


def labelme(out: Path, truths: list[Truth], polygons: bool = False) -> None:
    """One JSON file beside each image."""
    for number, truth in enumerate(truths):
        _copy(truth, out / f'{number}.jpg')
        _labelme(out / f'{number}.json', truth, f'..\\{number}.jpg', polygons)


def labelme_polygons(out: Path, truths: list[Truth]) -> None:
    """The same with polygons."""
    labelme(out, truths, polygons=True)


def cvat(out: Path, truths: list[Truth]) -> None:
    """annotations.xml with all images, their splits as subsets."""
    root = ElementTree.Element('annotations')
    for number, truth in enumerate(truths):
        split = dict(train='Train', val='Validation')[truth.split]
        _copy(truth, out / 'images' / f'{number}.jpg')
        width, height = map(str, truth.size)
        own = dict(id=str(number), name=f'{number}.jpg', subset=split, width=width, height=height)
        node = ElementTree.SubElement(root, 'image', own)
        for label, x, y, w, h in truth.boxes:
            sides = dict(xtl=str(x), ytl=str(y), xbr=str(x + w), ybr=str(y + h))
            ElementTree.SubElement(node, 'box', dict(label=label, occluded='0', **sides))
    ElementTree.ElementTree(root).write(out / 'annotations.xml')


def masks_palette(out: Path, truths: list[Truth]) -> None:
    """Indexed PNGs, and the names of their numbers."""
    for truth in truths:
        _copy(truth, out / 'images' / truth.split / truth.path.name)
        save_indexed_png(out / 'masks' / truth.split / f'{truth.path.stem}.png', truth.labels)
    (out / 'classes.txt').write_text('\n'.join(('ground', *CLASSES)) + '\n')


def masks_roboflow(out: Path, truths: list[Truth]) -> None:
    """Grey PNGs called ..._mask.png beside the images."""
    for truth in truths:
        folder = out / ROBOFLOW[truth.split]
        _copy(truth, folder / truth.path.name)
        cv2.imwrite(str(folder / f'{truth.path.stem}_mask.png'), truth.labels)
    rows = [f'{number}, {name}' for number, name in enumerate(('background', *CLASSES))]
    (out / 'train/_classes.csv').write_text('Pixel Value, Class\n' + '\n'.join(rows) + '\n')


def masks_cvat(out: Path, truths: list[Truth]) -> None:
    """Colours, and labelmap.txt that says what they are, in another order."""
    colours = voc_colormap(9)
    for truth in truths:
        _copy(truth, out / 'JPEGImages' / _name(truth))
        target = out / 'SegmentationClass' / f'{Path(_name(truth)).stem}.png'
        target.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(target), colours[truth.labels][..., ::-1])
    named = list(zip(('background', *CLASSES), colours))
    lines = [f'{name}:{",".join(map(str, colour))}::' for name, colour in named]
    (out / 'labelmap.txt').write_text('# label:color_rgb:parts:actions\n' + '\n'.join(lines) + '\n')


def masks_binary(out: Path, truths: list[Truth]) -> None:
    """0 and 255."""
    for number, truth in enumerate(truths):
        _copy(truth, out / 'imgs' / f'{number}.jpg')
        (out / 'gt').mkdir(exist_ok=True)
        cv2.imwrite(str(out / 'gt' / f'{number}.png'), np.where(truth.labels > 0, 255, 0).astype(np.uint8))


BOXES = (
    coco_roboflow,
    coco_cvat,
    coco_label_studio,
    voc_devkit,
    voc_flat_png,
    yolo_ultralytics,
    yolo_segments,
    yolo_roboflow,
    yolo_classes_txt,
    labelme,
    labelme_polygons,
    cvat,
)
MASKS = (masks_palette, masks_roboflow, masks_cvat, masks_binary)
OUTLINES = (coco_roboflow, labelme_polygons, yolo_segments)

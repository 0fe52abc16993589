"""Exports of labelling tools are recognized and read as they were meant; what is wrong with them is said."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from exports import BOXES, CLASSES, MASKS, OUTLINES, Truth, voc_devkit, voc_flat_png, yolo_classes_txt, yolo_ultralytics
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip('mmdet', reason='reading data sets needs MMDetection: pip install .[mm]')

from tuning.labelmaps import MaskReader
from tuning.lists import draw_outlines, write_coco

from mnv2_backbone.data.readers import read, recognize
from mnv2_backbone.data.samples import Faults, Sample, Thing, clean, divide
from mnv2_backbone.errors import UserError

Export = Callable[[Path, 'list[Truth]'], None]


def load(
    path: Path, task: str | None = None, classes: list[str] | None = None
) -> tuple[list[Sample], list[str], Faults]:
    faults = Faults()
    found = recognize(path, task=task)
    samples, names = read(found, classes, faults)
    clean(samples, faults)
    return samples, names, faults


def boxes_of(items: list[tuple[str, tuple[float, ...]]]) -> np.ndarray:
    return np.array([[CLASSES.index(label), *box] for label, box in sorted(items)])


@pytest.mark.parametrize('export', BOXES)
def test_boxes_of_every_tool(export: Export, truths: list[Truth], tmp_path: Path) -> None:
    """Classes, boxes to a pixel, and splits where the export has them."""
    export(tmp_path, truths)
    samples, names, faults = load(tmp_path)
    assert set(names) - {'shapes'} >= {label for truth in truths for label, *_ in truth.boxes}
    assert len(samples) == len(truths) and not faults.lines()
    rest = {tuple(truth.size + tuple(sorted(truth.boxes))): truth for truth in truths}
    for sample in samples:
        found = boxes_of([(thing.label, thing.box) for thing in sample.things])
        close = [
            key
            for key, truth in rest.items()
            if truth.size == sample.size
            and len(truth.boxes) == len(found)
            and (wanted := boxes_of([(a, (x, y, x + w, y + h)) for a, x, y, w, h in truth.boxes])) is not None
            and np.abs(wanted - found).max() <= 1.01
        ]
        assert close, f'{sample.image} has boxes that no image has'
        truth = rest.pop(close[0])
        assert sample.split in ('', truth.split)
    assert not rest
    if not all(sample.split for sample in samples):
        divide(samples, 0.25, 0, faults)
    assert Counter(sample.split for sample in samples).keys() == {'train', 'val'}


@pytest.mark.parametrize('export', MASKS)
def test_masks_of_every_tool(export: Export, truths: list[Truth], tmp_path: Path) -> None:
    """Label maps equal to the original ones."""
    export(tmp_path, truths)
    samples, _, faults = load(tmp_path)
    assert len(samples) == len(truths) and not faults.lines()
    reader = MaskReader(recognize(tmp_path).folder, [sample.mask for sample in samples if sample.mask])
    binary = export.__name__ == 'masks_binary'
    assert reader.classes[1:] == (['object'] if binary else list(CLASSES))
    maps = [reader.read(sample.mask).tobytes() for sample in samples if sample.mask]
    wanted = [(truth.labels > 0 if binary else truth.labels).astype(np.uint8).tobytes() for truth in truths]
    assert sorted(maps) == sorted(wanted)


@pytest.mark.parametrize('export', OUTLINES)
def test_outlines_are_drawn(export: Export, truths: list[Truth], tmp_path: Path) -> None:
    """Of objects in one part, without holes, the label map is that of the data set but for hidden edges."""
    export(tmp_path, truths)
    samples, names, _ = load(tmp_path, task='segment')
    order = np.array([0, *[CLASSES.index(name) + 1 for name in names if name != 'shapes']])
    agreement = []
    for sample in samples:
        labels = draw_outlines(sample, ['background', *[name for name in names if name != 'shapes']])
        known = [truth for truth in truths if truth.labels.shape == labels.shape]
        truth = max(known, key=lambda truth: (order[labels] == truth.labels).mean())
        if all(len(outline) == 1 for outline in truth.outlines) and 'ring' not in {label for label, *_ in truth.boxes}:
            agreement.append((order[labels] == truth.labels).mean())
    assert len(agreement) > 2 and min(agreement) > 0.97, agreement


def put(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda x: (x / 'classes.txt').unlink(), ['class numbers', 'classes.txt', '--classes']),
        (lambda x: put(x / '0.txt', '12 0.5 0.5 0.1 0.1\n'), ['0.txt, line 1 has 12', '0 to 7']),
        (lambda x: put(x / '0.txt', '1 0.5 0.5 0.1\n'), ['0.txt, line 1', 'Syntax error']),
        (lambda x: put(x / '0.txt', '1 0.5 0.5 -0.1 0.1\n'), ['0.txt, line 1', 'xmax']),
        (lambda x: shutil.copy(x / '0.jpg', x / '0.bmp'), ['0.txt', '0.bmp, 0.jpg', 'different names']),
        (lambda x: put(x / '0.xml', '<annotation></annotation>'), ['several formats', '--format']),
        (lambda x: [path.unlink() for path in x.glob('*.txt')], ['no annotations', 'yolo', 'labelme']),
        (lambda x: [path.unlink() for path in x.glob('*.jpg')], ['has no images']),
        (lambda x: put(x / 'data.yaml', 'names: [a]\ntrain: images/train\n'), ['data.yaml', 'train is images/train']),
        (lambda x: put(x / 'data.yaml', 'names: {1: a}\ntrain: .\n'), ['data.yaml', 'numbers 0, 1, 2']),
    ],
)
def test_wrong_yolo(change: Callable[[Path], None], words: list[str], truths: list[Truth], tmp_path: Path) -> None:
    yolo_classes_txt(tmp_path, truths)
    change(tmp_path)
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('change', 'fault'),
    [
        (lambda x: put(x / '0.txt', '1 1.5 0.5 0.2 0.1\n'), '1 boxes outside their images, left out: 0.jpg'),
        (lambda x: put(x / '0.txt', '1 0.95 0.5 0.2 0.1\n'), '1 boxes that reach beyond their images, clipped: 0.jpg'),
        (lambda x: put(x / '0.txt', '1 0.5 0.5 0.2 0.1\n' * 2), '1 boxes drawn twice, counted once: 0.jpg'),
        (lambda x: put(x / '0.txt', '1 0.5 0.5 0 0\n'), '1 boxes smaller than a pixel, left out: 0.jpg'),
        (lambda x: (x / '0.txt').unlink(), '1 images without a label file, taken as background: 0.jpg'),
        (lambda x: (x / '0.jpg').unlink(), '1 annotations without an image, left out: 0.txt'),
        (lambda x: put(x / '0.jpg', 'no image'), '1 images that cannot be read, left out: 0.jpg'),
    ],
)
def test_what_is_left_out_is_named(
    change: Callable[[Path], None], fault: str, truths: list[Truth], tmp_path: Path
) -> None:
    yolo_classes_txt(tmp_path, truths)
    change(tmp_path)
    assert load(tmp_path)[2].lines() == [fault]


def test_wrong_voc_and_coco(truths: list[Truth], tmp_path: Path) -> None:
    voc_devkit(tmp_path / 'voc', truths)
    xml = next((tmp_path / 'voc/Annotations').iterdir())
    text = xml.read_text()
    for wrong, word in (
        (re.sub('<width>[0-9]+', '<width>9', text), 'is for an image of 9x'),
        (text.replace('<xmin>', '<xmin>x'), 'object 1'),
        (text[:-20], 'cannot be read as XML'),
    ):
        xml.write_text(wrong)
        with pytest.raises(UserError, match=word):
            load(tmp_path / 'voc')
    xml.unlink()
    xml.with_name('other.xml').write_text(text)
    lines = load(tmp_path / 'voc')[2].lines()
    assert any(line.startswith('1 images without annotations, not used: JPEGImages/') for line in lines)
    BOXES[0](tmp_path / 'coco', truths)
    file = tmp_path / 'coco/train/_annotations.coco.json'
    content = json.loads(file.read_text())
    content['images'].append(content['images'][0])
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match='images has an id more than once'):
        load(tmp_path / 'coco')
    content['images'].pop()
    content['annotations'][0]['category_id'] = 77
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r'annotations\[0\].category_id is 77, an id that nothing has'):
        load(tmp_path / 'coco')


def test_folders_say_the_split_and_names_of_images_do_not(truths: list[Truth], tmp_path: Path) -> None:
    voc_flat_png(tmp_path, truths)
    for number, name in enumerate(('test_photo', 'steam-train', 'val-thorens')):
        for suffix in ('.png', '.xml'):
            (tmp_path / f'{number}{suffix}').rename(tmp_path / f'{name}{suffix}')
    samples, _, faults = load(tmp_path)
    assert {sample.split for sample in samples} == {''} and not faults.lines()
    (tmp_path / 'test').mkdir()
    for suffix in ('.png', '.xml'):
        (tmp_path / f'steam-train{suffix}').rename(tmp_path / f'test/steam-train{suffix}')
    assert [sample.image.name for sample in load(tmp_path)[0] if sample.split == 'test'] == ['steam-train.png']


def test_lists_of_two_devkits(truths: list[Truth], tmp_path: Path) -> None:
    """Both have a train.txt with the same names; one also names an image that has no annotation."""
    for year in ('VOC2007', 'VOC2012'):
        voc_devkit(tmp_path / year, truths)
    with (tmp_path / 'VOC2007/ImageSets/Main/val.txt').open('a') as file:
        file.write('never seen\n')
    samples, _, faults = load(tmp_path)
    counts = Counter(sample.split for sample in samples)
    assert counts == {split: 2 * count for split, count in Counter(truth.split for truth in truths).items()}
    assert faults.lines() == ['1 names in ImageSets without an annotation: never seen']


def test_keypoints_after_a_box(truths: list[Truth], tmp_path: Path) -> None:
    yolo_ultralytics(tmp_path, truths)
    before = [sample.things for sample in load(tmp_path)[0]]
    for label in (tmp_path / 'labels').rglob('*.txt'):
        put(label, ''.join(f'{line} 0.5 0.5 2 0.1 0.1 1\n' for line in label.read_text().splitlines()))
    with (tmp_path / 'data.yaml').open('a') as file:
        file.write('kpt_shape: [2, 3]\n')
    assert [sample.things for sample in load(tmp_path)[0]] == before


@pytest.mark.parametrize(
    ('values', 'found'),
    [
        ([0, 128, 255], ['has 128', 'a grey level']),
        ([0, 255], {0, 1}),
        ([0, 2, 1, 255], {0, 1, 2, 255}),
        ([0], ['0 only', 'no two classes']),
        ([255], ['nothing only']),
    ],
)
def test_numbers_of_masks(values: list[int], found: set[int] | list[str], truths: list[Truth], tmp_path: Path) -> None:
    mask = np.resize(np.array(values, np.uint8), (truths[0].size[1], truths[0].size[0]))
    for name in ('images', 'masks'):
        (tmp_path / name).mkdir()
    shutil.copy(truths[0].path, tmp_path / 'images/a.jpg')
    cv2.imwrite(str(tmp_path / 'masks/a.png'), mask)
    folder = recognize(tmp_path).folder
    if isinstance(found, set):
        assert set(np.unique(MaskReader(folder, folder.masks).read(folder.masks[0])).tolist()) == found
        return
    with pytest.raises(UserError) as caught:
        MaskReader(folder, folder.masks)
    assert all(word in str(caught.value) for word in found), str(caught.value)


def test_a_yaml_without_splits_names_the_classes(truths: list[Truth], tmp_path: Path) -> None:
    yolo_classes_txt(tmp_path, truths)
    samples, names, _ = load(tmp_path)
    (tmp_path / 'classes.txt').unlink()
    put(tmp_path / 'data.yaml', f'nc: {len(names)}\nnames: {list(names)}\n')
    assert load(tmp_path)[:2] == (samples, names)


def test_a_yaml_elsewhere_names_the_data(truths: list[Truth], tmp_path: Path) -> None:
    yolo_ultralytics(tmp_path / 'set', truths)
    text = (tmp_path / 'set/data.yaml').read_text().replace('path: .', 'path: ../set')
    (tmp_path / 'set/data.yaml').unlink()
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs/shapes.yaml').write_text(text)
    assert len(load(tmp_path / 'configs/shapes.yaml')[0]) == len(truths)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sets(st.sampled_from('abc')), min_size=4, max_size=60), st.floats(0.1, 0.5), st.integers(0, 5))
def test_a_split_keeps_the_shares_of_classes(labels: list[set[str]], share: float, seed: int) -> None:
    """The same seed gives the same split; a class has its share in it to within two images."""

    def run() -> list[Sample]:
        samples = [
            Sample(Path(f'{i}.jpg'), (9, 9), [Thing(name, (0, 0, 5, 5)) for name in sorted(names)])
            for i, names in enumerate(labels)
        ]
        divide(samples, share, seed, Faults())
        return samples

    samples = run()
    assert [sample.split for sample in samples] == [sample.split for sample in run()]
    rarest = min('abc', key=lambda name: (sum(name in names for names in labels), name))
    total = sum(rarest in names for names in labels)
    chosen = sum(rarest in names for names, sample in zip(labels, samples) if sample.split == 'val')
    assert {sample.split for sample in samples} == {'train', 'val'}
    assert total < 2 or abs(chosen - share * total) <= 2


def test_coco_files_are_those_that_mmdetection_reads(truths: list[Truth], tmp_path: Path) -> None:
    from mmdet.datasets import CocoDataset

    yolo_classes_txt(tmp_path, truths)
    samples, names, _ = load(tmp_path)
    write_coco(tmp_path / 'all.json', samples, names, tmp_path)
    data = CocoDataset(
        data_root=str(tmp_path), ann_file='all.json', data_prefix=dict(img=''), metainfo=dict(classes=tuple(names))
    )
    assert len(data) == len(samples)
    read_back = [sorted(names[x['bbox_label']] for x in data.get_data_info(i)['instances']) for i in range(len(data))]
    assert read_back == [sorted(thing.label for thing in sample.things) for sample in samples]

"""What the checks before training find in annotations and masks; each fault ends in one line that names it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from PIL import Image

pytest.importorskip('mmdet', reason="the data sets are MMDetection's and MMSegmentation's")
from mmdet.datasets import CocoDataset, XMLDataset

from mnv2_backbone.data.images import LoadImage, UnreadableImageError
from mnv2_backbone.errors import UserError
from mnv2_backbone.training.annotations import read_coco, read_xml
from mnv2_backbone.training.options import load_config
from mnv2_backbone.training.preflight import check_data

CLASSES = ('cat', 'dog')


def image(path: Path, width: int = 64, height: int = 48, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', (width, height), (90, 120, 30)).save(path, exif=exif)


# --- COCO


def coco() -> dict[str, Any]:
    box = dict(image_id=1, category_id=3, bbox=[4, 4, 20, 16], area=320, iscrowd=0)
    return dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=64, height=48) for i in (1, 2)],
        annotations=[dict(box, id=1), dict(box, id=2, category_id=7, image_id=2)],
        categories=[dict(id=3, name='cat'), dict(id=7, name='dog')],
    )


def check_coco(root: Path, content: object, split: str = 'train', **options: Any) -> str:
    for i in (1, 2):
        if not (root / f'{i}.jpg').exists():
            image(root / f'{i}.jpg')
    (root / 'a.json').write_text(content if isinstance(content, str) else json.dumps(content))
    dataset = dict(type='CocoDataset', data_root=str(root), ann_file='a.json', metainfo=dict(classes=CLASSES))
    loader = dict(batch_size=1, dataset={**dataset, **options})
    return '\n'.join(check_data(Config({'default_scope': 'mmdet', f'{split}_dataloader': loader}), [split]))


def everywhere(part: str, **values: Any) -> Callable[[dict], None]:
    """Sets values in all entries; None removes the field."""

    def change(content: dict) -> None:
        for entry in content[part]:
            for name, value in values.items():
                entry.update({name: value}) if value is not None else entry.pop(name)

    return change


COCO_FAULTS: dict[str, tuple[Callable[[dict], object], str]] = {
    'text ids': (everywhere('annotations', image_id='1'), r"annotations\[0\].image_id is '1', must be int"),
    'text image ids': (everywhere('images', id='1'), r"images\[0\].id is '1', must be int"),
    'id of nothing': (everywhere('annotations', image_id=9), r'annotations\[0\].image_id is 9, an id that nothing has'),
    'category of nothing': (everywhere('annotations', category_id=9), r'annotations\[0\].category_id is 9'),
    'ids from 0': (lambda c: c['annotations'][0].update(id=0), 'annotations has the id 0'),
    'annotation twice': (everywhere('annotations', id=5), 'annotations has the id 5 more than once'),
    'image twice': (everywhere('images', id=1), 'images has the id 1 more than once'),
    'category twice': (everywhere('categories', id=3), 'categories has the id 3 more than once'),
    'no iscrowd': (everywhere('annotations', iscrowd=None), r'annotations\[0\].iscrowd is missing, must be int, 0 for'),
    'no area': (
        everywhere('annotations', area=None),
        r'annotations\[0\].area is missing, must be float, width \* height',
    ),
    'no bbox': (everywhere('annotations', bbox=None), r'annotations\[0\].bbox is missing'),
    'no id': (everywhere('annotations', id=None), r'annotations\[0\].id is missing'),
    'no width': (everywhere('images', width=None), r'images\[0\].width is missing'),
    'text in a box': (everywhere('annotations', bbox=[1, 2, 'x', 4]), r'annotations\[0\].bbox is \[1, 2'),
    'three numbers': (everywhere('annotations', bbox=[1, 2, 3]), r'annotations\[0\].bbox is \[1, 2, 3\], must be'),
    'no surface': (everywhere('annotations', area=0), 'nothing is used: .*2 without an area'),
    'thin boxes': (everywhere('annotations', bbox=[4, 4, 0.5, 9]), 'nothing is used: .*2 without an area'),
    'outside': (everywhere('annotations', bbox=[70, 4, 20, 16]), 'nothing is used: .*2 outside their images'),
    'NaN': (
        everywhere('annotations', bbox=[float('nan'), 4, 20, 16]),
        r'annotations\[0\] has a number that is not finite',
    ),
    'NaN area': (everywhere('annotations', area=float('nan')), r'annotations\[0\] has a number that is not finite'),
    'name twice': (everywhere('categories', name='cat'), 'categories has the name cat more than once'),
    'huge crowd': (everywhere('annotations', iscrowd=10**30), 'nothing is used: .*2 crowds'),
    'crowds only': (everywhere('annotations', iscrowd=1), 'nothing is used: .*2 crowds'),
    'ignored only': (everywhere('annotations', ignore=1), 'nothing is used: .*2 marked ignore'),
    'class without boxes': (everywhere('annotations', category_id=3), r'nothing to learn the class\(es\) dog from'),
    'names in another case': (
        lambda c: c['categories'][1].update(name='Dog'),
        r'class\(es\) dog are not in .* has cat, Dog',
    ),
    'images too small': (lambda c: None, 'nothing is used: .*2 are too small'),
    'size of another image': (everywhere('images', width=48, height=64), '1.jpg is 64x48 once decoded.* is for 48x64'),
}


@pytest.mark.parametrize('fault', COCO_FAULTS)
def test_a_coco_file_that_contradicts_itself_is_refused(fault, tmp_path):
    content = coco()
    change, words = COCO_FAULTS[fault]
    change(content)
    with pytest.raises(UserError, match=words) as error:
        check_coco(tmp_path, content, filter_cfg=dict(min_size=99 if fault == 'images too small' else 0))
    assert 'train_dataloader' in str(error.value) and '\n' not in str(error.value)


def test_what_is_used_of_a_coco_file_is_counted(tmp_path):
    content = coco()
    content['categories'].append(dict(id=9, name='cow'))
    for i, change in enumerate(
        (dict(area=0), dict(iscrowd=1), dict(category_id=9), dict(bbox=[-30, 0, 9, 9])), start=3
    ):
        content['annotations'].append({**content['annotations'][0], 'id': i, **change})
    line = check_coco(tmp_path, content)
    assert '2 images, 2 used' in line and '6 boxes, 2 used' in line and 'cat 1, dog 1' in line
    for reason in ('1 without an area', '1 crowds', '1 of other classes', '1 outside their images'):
        assert reason in line
    with pytest.raises(UserError, match='is not JSON.*BOM'):  # as MMDetection's reader
        check_coco(tmp_path, '\ufeff' + json.dumps(content))
    content['annotations'] = content['annotations'][:1]
    check_coco(tmp_path, content, split='val')  # only learning needs boxes of every class


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_coco_is_read_as_mmdetection_reads_it(tmp_path_factory, data):
    number = st.one_of(st.integers(-80, 80), st.floats(-80, 80, width=16))
    content = coco()
    content['categories'].append(dict(id=1, name='cow'))
    box = st.fixed_dictionaries(
        dict(
            image_id=st.sampled_from([1, 2]),
            category_id=st.sampled_from([1, 3, 7]),
            bbox=st.tuples(number, number, number, number).map(list),
            area=number,
            iscrowd=st.sampled_from([0, 0, 1]),
        ),
        optional=dict(ignore=st.booleans(), segmentation=st.just([[1, 2.5, 3e1, -4, 5, 6]])),
    )
    boxes = data.draw(st.lists(box, max_size=6))
    content['annotations'] = [dict(entry, id=i) for i, entry in enumerate(boxes, start=1)]
    options = dict(filter_empty_gt=data.draw(st.booleans()), min_size=data.draw(st.sampled_from([0, 32, 60])))
    content['images'][1]['width'] = 50
    path = tmp_path_factory.mktemp('coco') / 'a.json'
    path.write_text(json.dumps(content))
    tally = read_coco(path, CLASSES).tally(options)
    theirs = CocoDataset(
        ann_file=str(path), metainfo=dict(classes=CLASSES), lazy_init=True, filter_cfg=options, data_prefix=dict(img='')
    )
    theirs.data_list = theirs.load_data_list()
    counted = [x for info in theirs.data_list for x in info['instances'] if not x['ignore_flag']]
    assert {name: sum(x['bbox_label'] == i for x in counted) for i, name in enumerate(CLASSES)} == {
        name: tally.used[name] for name in CLASSES
    }
    assert tally.images == len(theirs.filter_data())


# --- VOC

OBJECT = (
    '<object><name>{}</name>{}<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>'
)
SIZE = '<size><width>64</width><height>48</height></size>'


def xml(*objects: str, size: str = SIZE) -> str:
    return f'<annotation>{size}{"".join(objects)}</annotation>'


GOOD = xml(OBJECT.format('cat', '', 5, 5, 20, 20), OBJECT.format('dog', '', 1, 1, 9.5, 30))


def voc(root: Path, *texts: str, names: str | None = None) -> Config:
    base = root / 'VOC2007'
    for folder in ('ImageSets/Main', 'Annotations'):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for i, text in enumerate(texts):
        (base / f'Annotations/{i}.xml').write_text(text)
        image(base / f'JPEGImages/{i}.jpg')
    (base / 'ImageSets/Main/train.txt').write_text(names or ''.join(f'{i}\n' for i in range(len(texts))))
    inner = dict(
        type='VOCDataset',
        data_root=str(root),
        ann_file='VOC2007/ImageSets/Main/train.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        metainfo=dict(classes=CLASSES),
    )
    both = dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=2, dataset=inner)])
    return Config(dict(default_scope='mmdet', train_dataloader=dict(dataset=both)))


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (GOOD.replace('>dog<', '>Dog<'), r"class\(es\) dog from: .*1 of the class 'Dog'"),
        (re.sub('<bndbox>.*?</bndbox>', '', GOOD), r'0.xml: object\[0\]/bndbox/xmin is missing, must be float'),
        (GOOD.replace('>64<', '>64.0<'), r"0.xml: size/width is '64.0', must be int"),
        (GOOD.replace('<height>48</height>', ''), r'0.xml: size/height is missing, must be int'),
        (GOOD.replace('</name>', '</name><difficult>no</difficult>'), r"object\[0\]/difficult is 'no', must be int"),
        (GOOD.replace('>20<', '>twenty<'), r"object\[0\]/bndbox/xmax is 'twenty', must be float"),
        (GOOD.replace('>9.5<', '>1<'), r'class\(es\) dog from: .*1 without an area'),
        (GOOD.replace('>1<', '>90<').replace('>9.5<', '>99<').replace('>30<', '>99<'), '1 outside their images'),
        (GOOD.replace('</name>', '</name><difficult>1</difficult>'), 'nothing is used: .*2 marked difficult'),
        (
            GOOD.replace('>64<', '>48<').replace('<height>48', '<height>64'),
            '0.jpg is 64x48 once decoded.* is for 48x64',
        ),
        ('{}', '0.xml is not XML'),
        ('<?xml version="1.0" encoding="foo-8"?>' + GOOD, '0.xml is not XML'),
        (GOOD.replace('>20<', '>inf<'), r"object\[0\]/bndbox/xmax is 'inf', must be float"),
    ],
)
def test_an_xml_file_that_contradicts_itself_is_refused(text, words, tmp_path):
    with pytest.raises(UserError, match=words) as error:
        check_data(voc(tmp_path, text), ['train'])
    assert 'train_dataloader' in str(error.value)


def test_lists_of_names_are_read_to_the_letter(tmp_path):
    line = check_data(voc(tmp_path, GOOD, GOOD), ['train'])
    assert '2 images, 2 used' in line[0] and line[0].startswith('train_dataloader.dataset.datasets.0.dataset: ')
    for names, words in (
        ('0\n\n1\n', "line 2: ''"),
        ('0 \n1\n', "line 1: '0 '"),
        ('\ufeff0\n1\n', 'line 1: '),
        ('0\n7\n', '7.xml'),
    ):
        with pytest.raises(UserError, match=words):
            check_data(voc(tmp_path, GOOD, GOOD, names=names), ['train'])
    (tmp_path / 'VOC2007/ImageSets/Main/train.txt').write_bytes(b'\xff\xfe0\x00')
    cfg = voc(tmp_path, GOOD)
    (tmp_path / 'VOC2007/ImageSets/Main/train.txt').write_bytes(b'\xff\xfe0\x00')
    with pytest.raises(UserError, match='is not a list of image names'):
        check_data(cfg, ['train'])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_xml_is_read_as_mmdetection_reads_it(tmp_path_factory, data):
    root = tmp_path_factory.mktemp('voc')
    number = st.one_of(st.integers(-5, 90), st.floats(-5, 90, width=16))
    thing = st.tuples(
        st.sampled_from(['cat', 'dog', 'cow']), st.sampled_from(['', '<difficult>1</difficult>']), *[number] * 4
    )
    texts = [xml(*(OBJECT.format(*x) for x in data.draw(st.lists(thing, max_size=4)))) for _ in range(2)]
    voc(root, *texts)
    boxes = read_xml(root / 'VOC2007/Annotations', ['0', '1'], CLASSES)
    theirs = XMLDataset(
        ann_file=str(root / 'VOC2007/ImageSets/Main/train.txt'),
        data_prefix=dict(sub_data_root=str(root / 'VOC2007')),
        metainfo=dict(classes=CLASSES),
        lazy_init=True,
    )
    infos = theirs.load_data_list()
    assert boxes.in_image == [len(info['instances']) for info in infos]
    of_classes = {
        name: sum(x['bbox_label'] == i for info in infos for x in info['instances']) for i, name in enumerate(CLASSES)
    }
    left_out = sum(count for reason, count in boxes.left_out.items() if not reason.startswith('of the class'))
    assert boxes.used.total() + left_out == sum(of_classes.values())
    assert boxes.left_out['marked difficult'] == sum(x['ignore_flag'] for info in infos for x in info['instances'])


def test_an_image_turned_by_its_orientation_is_named_or_skipped(tmp_path):
    image(tmp_path / '1.jpg', orientation=6)  # 48x64 once decoded, its boxes are for the stored 64x48
    with pytest.raises(UserError, match='1.jpg is 48x64 once decoded, as its EXIF orientation says'):
        check_coco(tmp_path, coco())
    results = dict(img_path=str(tmp_path / '1.jpg'), height=48, width=64)
    with pytest.raises(UnreadableImageError, match='1.jpg.* 48x64 once decoded'):
        LoadImage().transform(copy.deepcopy(results))
    skipping = LoadImage(skip_corrupt=True)
    skipping.skipped_log = tmp_path / 'skipped.txt'
    assert skipping.transform(results) is None and '48x64' in skipping.skipped_log.read_text()


# --- masks


def check_masks(
    root: Path, masks: dict[str, np.ndarray], evaluator: dict | None = None, ignore: int = 255, **options: Any
) -> str:
    for name, mask in masks.items():
        image(root / f'images/{name}.jpg', 32, 24)
        path = root / f'masks/{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), mask)
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        metainfo=dict(classes=CLASSES),
        pipeline=[dict(type='LoadAnnotations')],
    )
    more = dict(train_evaluator=evaluator) if evaluator else {}
    loader = dict(batch_size=3, drop_last=options.pop('drop_last', False), dataset={**dataset, **options})
    head = dict(num_classes=len(loader['dataset']['metainfo']['classes']), ignore_index=ignore)
    cfg = dict(default_scope='mmseg', model=dict(decode_head=head), train_dataloader=loader, **more)
    return '\n'.join(check_data(Config(cfg), ['train']))


def halves(value: int, dtype: type = np.uint8) -> np.ndarray:
    mask = np.zeros((24, 32), dtype)
    mask[:, 16:] = value
    return mask


@pytest.mark.parametrize(
    ('mask', 'words'),
    [
        (halves(255), r'of the classes cat, dog the masks have cat only, and 1 of 1 have pixels to ignore \(255\)'),
        (halves(7), r'a.png has the label 7; with num_classes=2 allowed are 0 to 1, and 255 for pixels to ignore'),
        (halves(256, np.uint16), 'a.png has the value 256; must be one channel of class numbers, 0 to 255'),
        (halves(257, np.uint16), 'a.png has the value 257'),
        (np.repeat(halves(1)[..., None], 3, 2), 'a.png has the mode RGB'),
        (halves(1)[::2, ::2], 'a.png is 16x12, its image 32x24'),
        (halves(1).T, 'a.png is 24x32, its image 32x24'),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, words, tmp_path):
    with pytest.raises(UserError, match=words):
        check_masks(tmp_path, {'a': mask})


def test_masks_are_sampled_where_there_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr('mnv2_backbone.training.annotations._SAMPLE', 2)
    with pytest.raises(UserError, match='the masks have cat only, and 2 of 2 have pixels to ignore'):
        check_masks(tmp_path, {name: halves(255) for name in 'abc'})
    wrong = {'b': halves(1).astype(np.uint16) * 300}  # not looked at for its classes
    with pytest.raises(UserError, match='b.png has the value 300'):
        check_masks(tmp_path, {'a': halves(1), **wrong, 'c': halves(1)})


def test_masks_are_found_as_mmsegmentation_finds_them(tmp_path):
    masks = {name: halves(1) for name in ('a', 'b', 'more/c')}
    line = check_masks(tmp_path, masks)
    assert '3 images with masks; of 3 masks looked at have pixels of cat 3, dog 3' in line and 'WARNING' not in line
    image(tmp_path / 'images/d.JPG')
    assert 'WARNING: 1 images do not end in .jpg (img_suffix) and are not used: d.JPG' in check_masks(tmp_path, masks)
    (tmp_path / 'images/d.JPG').unlink()
    with pytest.raises(UserError, match='decode_head.ignore_index differ'):
        check_masks(tmp_path, masks, ignore_index=9)
    ignoring = dict(evaluator=dict(type='mnv2_backbone.IndexedIoUMetric', iou_metrics=['mIoU']), ignore=9)
    with pytest.raises(UserError, match='train_evaluator.ignore_index is 255, that of train_dataloader.dataset 9'):
        check_masks(tmp_path, masks, ignore_index=9, **ignoring)
    (tmp_path / 'images/.hidden.jpg').touch()  # of a file system, without a mask
    assert check_masks(tmp_path, masks) == line
    assert 'dog 3' in check_masks(tmp_path, {name: halves(1).astype(np.uint16) for name in masks})
    (tmp_path / 'two.txt').write_text(' a\nmore/c \n')  # MMSegmentation strips blanks
    assert '2 images' in check_masks(tmp_path, masks, ann_file='two.txt')
    with pytest.raises(UserError, match='2 images do not fill one batch of 3'):
        check_masks(tmp_path, masks, ann_file='two.txt', drop_last=True)
    with pytest.raises(UserError, match=r'images ends in \.tif \(img_suffix\)'):
        check_masks(tmp_path, masks, img_suffix='.tif')
    three = dict(metainfo=dict(classes=(*CLASSES, 'cow')))
    assert 'cat 3, dog 3; WARNING: none has cow' in check_masks(tmp_path, masks, **three)
    zero = dict(reduce_zero_label=True)
    with pytest.raises(UserError, match='the masks have cat only, and 3 of 3 have pixels to ignore'):
        check_masks(tmp_path, masks, pipeline=[dict(type='LoadAnnotations', **zero)], **zero)
    (tmp_path / 'masks/b.png').write_bytes(b'no image')
    with pytest.raises(UserError, match='the mask .*b.png cannot be read'):
        check_masks(tmp_path, {'a': halves(1)})
    (tmp_path / 'masks/b.png').unlink()
    with pytest.raises(UserError, match=r'1 of 3 files .* do not exist: .*masks/b.png'):
        check_masks(tmp_path, {'a': halves(1)})


def test_the_real_data_passes(real_data: Path) -> None:
    folders = {'ssdlite_mnv2_coco': 'coco', 'ssdlite_mnv2_voc12': 'VOCdevkit', 'ssdlite_mnv2_bccd': 'BCCD'}
    for name, folder in {**folders, 'deeplabv3lite_mnv2_voc12': 'VOCdevkit'}.items():
        lines = check_data(
            load_config(f'{name}.py', {'data_root': str(real_data / 'data' / folder)}), ['train', 'val', 'test']
        )
        assert lines and all(' used' in line or 'masks' in line for line in lines)


# --- descriptions that contradict each other


def test_data_sets_and_evaluators_agree(tmp_path):
    check_coco(tmp_path, coco())
    (tmp_path / 'other.json').write_text((tmp_path / 'a.json').read_text())
    data = dict(type='CocoDataset', data_root=str(tmp_path), ann_file='a.json')
    loader = dict(batch_size=1, dataset=dict(data, metainfo=dict(classes=CLASSES)))
    evaluator = dict(type='CocoMetric', ann_file=str(tmp_path / 'a.json'))
    good = dict(default_scope='mmdet', train_dataloader=loader, val_dataloader=loader, val_evaluator=evaluator)
    assert len(check_data(Config(good), ['train', 'val'])) == 1
    turned = dict(loader, dataset=dict(data, metainfo=dict(classes=CLASSES[:1])))
    for change, words in (
        (dict(val_dataloader=turned), 'val_dataloader.dataset has the classes cat, train_dataloader.dataset cat, dog'),
        (
            dict(val_evaluator=dict(evaluator, ann_file=str(tmp_path / 'other.json'))),
            'other.json, val_dataloader.dataset has .*a.json',
        ),
        (dict(train_dataloader=dict(dataset=dict(data, metainfo=dict(classes=('cat', 'cat'))))), 'cat occurs twice'),
        (dict(train_dataloader=dict(loader, batch_size=3, drop_last=True)), '2 images do not fill one batch of 3'),
    ):
        with pytest.raises(UserError, match=words):
            check_data(Config({**good, **change}), ['train', 'val'])
    for more in (dict(type='RepeatDataset', times=2, dataset=loader['dataset']),):
        check_data(Config({**good, 'train_dataloader': dict(batch_size=3, drop_last=True, dataset=more)}), ['train'])
    few = dict(batch_size=2, drop_last=True, dataset=dict(loader['dataset'], indices=1))
    with pytest.raises(UserError, match='1 images do not fill one batch of 2'):
        check_data(Config({**good, 'train_dataloader': few}), ['train'])

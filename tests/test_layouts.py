"""Folders as people have them: odd names, lists, links, copies and damaged files change nothing silently."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmdet', reason='reading data sets needs MMDetection: pip install .[mm]')

from tuning.data import Data, read_data, unpacked
from tuning.labelmaps import MaskReader
from tuning.lists import draw_outlines

from mnv2_backbone.data.folder import Folder, split_of
from mnv2_backbone.data.images import LoadImage, decoded_size, is_whole
from mnv2_backbone.data.samples import Faults, Sample, Thing, clean
from mnv2_backbone.errors import UserError

SIZE = (100, 80)
CAT, DOG = '0 0.5 0.5 0.4 0.4\n', '1 0.5 0.5 0.2 0.2\n'


def photo(path: Path, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)).save(path, **options)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def voc(folder: Path, name: str, more: str = '', labels: str | None = None) -> None:
    """An image, and the file that says that there is a cat in it."""
    photo(folder / f'{name}.jpg')
    box = '<bndbox><xmin>10</xmin><ymin>10</ymin><xmax>60</xmax><ymax>50</ymax></bndbox>'
    size = f'<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>'
    text = f'<annotation>{size}<object><name>cat</name>{box}{more}</object></annotation>'
    write((Path(labels) if labels else folder) / f'{name}.xml', text)


def yolo(root: Path, images: str, labels: str, names: str, text: str = CAT) -> None:
    for name in names:
        photo(root / images / f'{name}.jpg')
        write(root / labels / f'{name}.txt', text)


def coco(path: Path, files: list[str], names: list[str], **entry: object) -> None:
    """A COCO file with an object of the last category in each image."""
    content = dict(
        images=[dict(id=i, file_name=name, width=SIZE[0], height=SIZE[1]) for i, name in enumerate(files)],
        categories=[dict(id=i, name=name) for i, name in enumerate(names)],
        annotations=[
            dict(dict(id=i + 1, image_id=i, category_id=len(names) - 1, bbox=[5, 5, 30, 30]), **entry)
            for i in range(len(files))
        ],
    )
    write(path, json.dumps(content))


def data(root: Path, classes: list[str] | None = None, task: str | None = None) -> Data:
    return read_data(root, None, task, classes, 0.25, 0)


def names_of(found: Data, split: str) -> set[str]:
    return {sample.image.stem for sample in found.of(split)}


def test_a_folder_of_test_images_beside_unnamed_ones_stays_apart(tmp_path: Path) -> None:
    for name in 'abcdefgh':
        voc(tmp_path / ('photos_test' if name in 'ab' else 'photos'), name)
    found = data(tmp_path)
    assert names_of(found, 'test') == {'a', 'b'} and len(found.of('train')) + len(found.of('val')) == 6


def test_images_for_validation_and_test_alone_are_refused(tmp_path: Path) -> None:
    for name in 'abcd':
        voc(tmp_path / ('val' if name in 'ab' else 'test'), name)
    with pytest.raises(UserError, match='none to train on'):
        data(tmp_path)


def test_lists_may_be_capitalized(tmp_path: Path) -> None:
    for name in ('a', 'b', 'photo 0', 'photo 1'):
        voc(tmp_path / 'JPEGImages', name, labels=str(tmp_path / 'Annotations'))
    for split, names in dict(Train='a\nphoto 0\n', Validation='b 1\n', Test='photo 1\n').items():
        write(tmp_path / f'ImageSets/Main/{split}.txt', names)
    found = data(tmp_path)
    assert names_of(found, 'train') == {'a', 'photo 0'} and names_of(found, 'val') == {'b'}
    assert names_of(found, 'test') == {'photo 1'} and not found.faults.lines()


def test_darknets_lists_are_the_splits(tmp_path: Path) -> None:
    yolo(tmp_path, 'obj', 'obj', 'abcd')
    write(tmp_path / 'obj.names', 'cat\n')
    write(tmp_path / 'train.txt', 'data/obj/a.jpg\ndata/obj/b.jpg\n')
    write(tmp_path / 'valid.txt', 'data/obj/c.jpg\n')
    found = data(tmp_path)
    assert names_of(found, 'train') == {'a', 'b'} and names_of(found, 'val') == {'c'}
    assert found.faults.lines() == ['1 images that belong to no split, not used: d.jpg']
    write(tmp_path / 'valid.txt', 'data/obj/c.jpg\ndata/obj/x.jpg\n')
    with pytest.raises(UserError, match=r'valid.txt: 1 of 2 lines name no image'):
        data(tmp_path)


def test_an_annotation_does_not_go_to_an_image_of_another_folder(tmp_path: Path) -> None:
    for name in ('A/1.jpg', 'A/2.jpg', 'B/2.jpg', 'B/9.jpg'):
        photo(tmp_path / name)
    coco(tmp_path / 'all.json', ['A/1.jpg', 'A/2.jpg', 'B/2.jpg', 'A/9.jpg'], ['cat'])
    lines = data(tmp_path).faults.lines()
    assert lines[0] == '1 annotations without an image, left out: A/9.jpg in all.json'
    for split, names in dict(train='ab', valid='cd').items():
        yolo(tmp_path / 'yolo', f'{split}/images', f'{split}/labels', names)
    photo(tmp_path / 'yolo/train/images/7.jpg')
    write(tmp_path / 'yolo/valid/labels/7.txt', CAT)
    write(tmp_path / 'yolo/data.yaml', 'names: [cat]\ntrain: train/images\nval: valid/images\n')
    found = data(tmp_path / 'yolo')
    assert [sample.things for sample in found.samples if sample.image.stem == '7'] == [[]]
    assert '1 annotations without an image, left out: valid/labels/7.txt' in found.faults.lines()


def test_lists_of_splits_may_share_a_folder_of_images(tmp_path: Path) -> None:
    for name in 'abcd':
        photo(tmp_path / f'train/{name}.jpg')
    coco(tmp_path / 'annotations/train.json', ['a.jpg', 'b.jpg', 'c.jpg'], ['cat'])
    coco(tmp_path / 'annotations/val.json', ['d.jpg'], ['cat'])
    found = data(tmp_path)
    assert names_of(found, 'val') == {'d'} and not found.faults.lines()


def test_classes_choose_from_the_names_of_the_data(tmp_path: Path) -> None:
    yolo(tmp_path, 'train/images', 'train/labels', 'ab', CAT + DOG)
    yolo(tmp_path, 'val/images', 'val/labels', 'cd', CAT + DOG)
    write(tmp_path / 'data.yaml', 'names: [cat, dog]\ntrain: train/images\nval: val/images\n')
    assert {thing.label: thing.box[0] for thing in data(tmp_path, ['dog', 'cat']).samples[0].things} == dict(
        cat=30, dog=40
    )
    assert data(tmp_path, ['dog', 'cat']).classes == ['dog', 'cat'] and data(tmp_path, ['dog']).classes == ['dog']
    assert data(tmp_path, ['Katze', 'Hund']).classes == ['Katze', 'Hund']  # names for the numbers
    with pytest.raises(UserError, match='--classes bird: the annotations have cat, dog'):
        data(tmp_path, ['cat', 'bird'])


def test_copies_of_a_photo_stay_together(tmp_path: Path) -> None:
    for name in 'abcdefgh':
        for copy in ('1f', '2e', '3d'):
            voc(tmp_path / 'train', f'{name}_jpg.rf.{copy}')
    found = data(tmp_path)
    photos = [{name.partition('.rf.')[0] for name in names_of(found, split)} for split in ('train', 'val')]
    assert not photos[0] & photos[1] and len(photos[1]) == 2 and len(found.of('val')) == 6
    assert 'copies of a photo stay together' in found.division


def test_what_a_yaml_leaves_out_is_counted(tmp_path: Path) -> None:
    for split in ('train', 'val', 'extra'):
        yolo(tmp_path, f'{split}/images', f'{split}/labels', 'ab')
    write(tmp_path / 'train/labels/lonely.txt', CAT)
    write(tmp_path / 'data.yaml', 'names: [cat]\ntrain: train/images\nval: val/images\n')
    assert data(tmp_path).faults.lines() == [
        '1 annotations without an image, left out: train/labels/lonely.txt',
        '2 images that data.yaml does not name, not used: extra/images/a.jpg, extra/images/b.jpg',
    ]


def test_a_link_to_a_folder_above_multiplies_nothing(tmp_path: Path) -> None:
    for name in 'abcd':
        voc(tmp_path / 'photos', name)
    (tmp_path / 'photos/latest').symlink_to('.')
    (tmp_path / 'photos/up').symlink_to(tmp_path)
    assert len(data(tmp_path).samples) == 4


def test_folders_are_left_out_by_their_content_too(tmp_path: Path) -> None:
    for name in 'abcd':
        voc(tmp_path / 'shirts_color', name)
    photo(tmp_path / 'shirts_color/SegmentationClassVisualization/a.jpg')
    assert len(data(tmp_path).samples) == 4
    assert [path.parent.name for path in Folder(tmp_path).images] == ['shirts_color'] * 4


def test_a_png_beside_its_annotation_is_no_mask(tmp_path: Path) -> None:
    for name in 'abcd':
        voc(tmp_path / 'photos', name)
        photo(tmp_path / f'thermal_labelled/{name}.png')
        write(tmp_path / f'thermal_labelled/{name}.xml', (tmp_path / f'photos/{name}.xml').read_text())
    assert len(data(tmp_path).samples) == 8


@pytest.mark.parametrize(('part', 'split'), [('train/images/test drive', 'train'), ('train2017', 'train'), ('a/b', '')])
def test_a_folder_that_is_called_like_a_split_decides(part: str, split: str) -> None:
    assert split_of(part) == split


def test_key_points_are_not_taken_for_outlines(tmp_path: Path) -> None:
    yolo(tmp_path, '.', '.', 'abcd', '0 0.5 0.35 0.3 0.3 0.4 0.4 2 0.5 0.5 2\n')
    write(tmp_path / 'classes.txt', 'person\n')
    with pytest.raises(UserError, match=r'a.txt, line 1 has numbers above 1, .* kpt_shape'):
        data(tmp_path)


def test_names_of_classes_keep_their_numbers(tmp_path: Path) -> None:
    yolo(tmp_path, '.', '.', 'abcd', DOG)
    write(tmp_path / 'classes.txt', 'cat\n\ndog\n\n\n')
    with pytest.raises(UserError, match='must have a name of its own'):
        data(tmp_path)
    (tmp_path / 'classes.txt').unlink()
    write(tmp_path / 'data.yaml', 'names: [on, off]\ntrain: .\nval: .\n')
    with pytest.raises(UserError, match='YAML reads a name as true: put quotes'):
        data(tmp_path)


def test_ignored_objects_are_nothing_to_learn_from(tmp_path: Path) -> None:
    files = [f'{name}.jpg' for name in 'abcdefgh']
    for name in files:
        photo(tmp_path / name)
    coco(tmp_path / 'all.json', files, ['dog', 'cat'], ignore=1)
    with pytest.raises(UserError, match='2 classes without an object to learn from, left out: cat, dog'):
        data(tmp_path)


def test_roboflows_category_0_may_be_called_as_the_class(tmp_path: Path) -> None:
    files = [f'{name}.jpg' for name in 'abcdefgh']
    for name in files:
        photo(tmp_path / name)
    coco(tmp_path / 'all.json', files, ['Fish', 'fish'])
    assert data(tmp_path).classes == ['fish']


def test_the_scores_are_of_images_that_have_the_classes(tmp_path: Path) -> None:
    for split in ('train', 'val'):
        yolo(tmp_path, f'{split}/images', f'{split}/labels', 'abcd')
    yolo(tmp_path, 'test/images', 'test/labels', 'ab', DOG)
    write(tmp_path / 'data.yaml', 'names: [cat, dog]\ntrain: train/images\nval: val/images\ntest: test/images\n')
    found = data(tmp_path)
    assert found.classes == ['cat'] and found.final == 'val'


def test_damaged_images_are_found_before_the_training(tmp_path: Path) -> None:
    for name in 'abcdef':
        voc(tmp_path, name)
    whole = (tmp_path / 'a.jpg').read_bytes()
    (tmp_path / 'a.jpg').write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((SIZE[1], SIZE[0]), np.float64).astype(np.float32)).save(tmp_path / 'b.tif')
    (tmp_path / 'b.jpg').unlink()
    found = data(tmp_path)
    known = [path for path in ('a.jpg', 'b.tif') if not is_whole(tmp_path / path)]
    assert 'a.jpg' in known and len(found.samples) == 6 - len(known)
    assert found.faults.lines() == [f'{len(known)} images that cannot be read, left out: {", ".join(known)}']


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
@pytest.mark.parametrize('kind', ['exif', 'xmp'])
def test_the_size_is_that_of_the_decoded_image(orientation: int, kind: str, tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    photo(tmp_path / 'a.jpg', **(dict(exif=tags) if kind == 'exif' else dict(xmp=xmp)))
    loaded = LoadImage(imdecode_backend='cv2').transform(dict(img_path=str(tmp_path / 'a.jpg')))
    assert loaded is not None and decoded_size(tmp_path / 'a.jpg') == loaded['img'].shape[:2]


def test_masks_of_0_and_255_may_have_one_name(tmp_path: Path) -> None:
    photo(tmp_path / 'images/a.jpg')
    (tmp_path / 'masks').mkdir()
    Image.fromarray(np.resize(np.array([0, 255], np.uint8), SIZE[::-1])).save(tmp_path / 'masks/a.png')
    folder = Folder(tmp_path)
    assert MaskReader(folder, folder.masks, ['road']).classes == ['background', 'road']


def test_a_damaged_zip_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a.txt', 'text ' * 1000)
    content = bytearray((tmp_path / 'a.zip').read_bytes())
    content[38:50] = bytes([255] * 12)
    (tmp_path / 'a.zip').write_bytes(content)
    with pytest.raises(UserError, match=r'a.zip cannot be unpacked'):
        unpacked(tmp_path / 'a.zip', tmp_path / 'work')
    assert not (tmp_path / 'work/data').exists()


def masks(root: Path, **values: list[int]) -> None:
    """Images, and masks of vertical stripes with these values."""
    for name, stripes in values.items():
        photo(root / f'images/{name}.jpg')
        (root / 'masks').mkdir(exist_ok=True)
        Image.fromarray(np.resize(np.array(stripes, np.uint8), SIZE[::-1])).save(root / f'masks/{name}.png')


def test_a_split_of_masks_keeps_the_shares_of_classes(tmp_path: Path) -> None:
    masks(tmp_path, **{f'm{i}': [0, 1, 2] if i % 6 == 5 else [0, 1] for i in range(24)})
    found = data(tmp_path)
    rare = [sum(2 in sample.numbers for sample in found.of(split)) for split in ('train', 'val')]
    assert rare == [3, 1] and len(found.of('val')) == 6 and not found.faults.lines()


def test_classes_that_no_mask_has_are_named(tmp_path: Path) -> None:
    write(tmp_path / 'classes.txt', 'ground\nroad\nriver\n')
    for split in ('train', 'val'):
        masks(tmp_path / split, a=[0, 1], b=[1, 0])
    assert data(tmp_path).faults.lines() == ['1 classes without a pixel in the masks for training: river']
    masks(tmp_path / 'val', a=[0], b=[0, 0])
    with pytest.raises(UserError, match='the 2 masks for val have ground only: no two classes to tell apart'):
        data(tmp_path)


def test_lists_may_name_files_instead_of_names(tmp_path: Path) -> None:
    for name in 'abcd':
        voc(tmp_path / 'JPEGImages', name, labels=str(tmp_path / 'Annotations'))
    write(tmp_path / 'ImageSets/Main/train.txt', 'a.jpg\nJPEGImages/b.jpg\n')
    write(tmp_path / 'ImageSets/Main/val.txt', 'c.jpg\n')
    found = data(tmp_path)
    assert names_of(found, 'train') == {'a', 'b'} and names_of(found, 'val') == {'c'}
    write(tmp_path / 'ImageSets/Main/train.txt', 'x\ny\n')
    write(tmp_path / 'ImageSets/Main/val.txt', 'z\n')
    with pytest.raises(UserError, match=r'none of the 3 names in the lists of ImageSets/Main \(x, y, z\)'):
        data(tmp_path)


def test_lists_for_masks_have_the_names_of_their_images(tmp_path: Path) -> None:
    masks(tmp_path, a=[0, 1], b=[0, 1], c=[0, 1])
    for name in 'abc':
        (tmp_path / f'masks/{name}.png').rename(tmp_path / f'masks/{name}_mask.png')
    write(tmp_path / 'ImageSets/Segmentation/train.txt', 'a\nc\n')
    write(tmp_path / 'ImageSets/Segmentation/val.txt', 'b\nx\n')
    found = data(tmp_path)
    assert names_of(found, 'train') == {'a', 'c'} and names_of(found, 'val') == {'b'}
    assert found.faults.lines() == ['1 names in ImageSets without an annotation: x']


def test_outlines_in_parts_are_drawn_whole() -> None:
    """Parts that overlap are one object; two triangles with the same box are two."""
    square = [10, 10, 60, 10, 60, 60, 10, 60]
    shifted = [30, 30, 70, 30, 70, 70, 30, 70]
    cat = Thing('cat', (10, 10, 70, 70), [square, shifted])
    labels = draw_outlines(Sample(Path('a.jpg'), SIZE, [cat]), ['background', 'cat'])
    assert labels[45, 45] == labels[20, 20] == labels[65, 65] == 1 and labels[65, 20] == 0
    halves = [Thing('cat', (10, 10, 60, 60), [[10, 10, 60, 10, x, y]]) for x, y in ((10, 60), (60, 60))]
    sample, faults = Sample(Path('a.jpg'), SIZE, [*halves, halves[0]]), Faults()
    clean([sample], faults)
    assert len(sample.things) == 2 and faults.lines() == ['1 boxes drawn twice, counted once: a.jpg']


def test_images_of_16_bits_are_named(tmp_path: Path) -> None:
    for name in 'abcd':
        voc(tmp_path, name)
    (tmp_path / 'a.jpg').unlink()
    Image.fromarray(np.full(SIZE[::-1], 4095, np.uint16)).save(tmp_path / 'a.png')
    (line,) = data(tmp_path).faults.lines()
    assert line.startswith('1 images of 16 bits, read as 8') and line.endswith(': a.png')


def test_labels_beside_a_link_to_an_image_are_its_labels(tmp_path: Path) -> None:
    yolo(tmp_path, 'pool', 'labels/train', 'abcd')
    (tmp_path / 'images/train').mkdir(parents=True)
    for name in 'abcd':
        (tmp_path / f'images/train/{name}.jpg').symlink_to(tmp_path / f'pool/{name}.jpg')
    write(tmp_path / 'data.yaml', 'names: [cat]\ntrain: images/train\nval: images/train\n')
    found = data(tmp_path)
    assert all(len(sample.things) == 1 and 'images' in sample.image.parts for sample in found.samples)

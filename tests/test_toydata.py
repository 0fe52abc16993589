"""The drawn data set: its annotations say what its pictures show, and it is always the same."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from toy import dataset as toydata
from toy.dataset import scene_at, write_toy_dataset
from toy.scene import CLASSES, PALETTE, Scene, SceneOptions, draw_scene

ROOT = Path(__file__).parents[1]
TOOL = ROOT / 'tools' / 'make_toy_dataset.py'
SMALL = SceneOptions(side=(96, 140), size=(12, 90))


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1


def inside(outline: tuple[np.ndarray, ...], height: int, width: int) -> np.ndarray:
    """Which pixel centres lie inside an outline, by counting the edges to their right."""
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    odd = np.zeros((height, width), bool)
    for polygon in outline:
        for (xa, ya), (xb, yb) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
            if ya != yb:
                odd ^= ((ya > y) != (yb > y)) & (x < xa + (y - ya) * (xb - xa) / (yb - ya))
    return odd


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


options = st.builds(
    SceneOptions,
    side=st.tuples(st.integers(64, 110), st.integers(110, 160)),
    objects=st.tuples(st.just(1), st.integers(1, 9)),
    size=st.tuples(st.floats(10, 40), st.floats(40, 300)),
    size_skew=st.floats(0.3, 2),
    stretch=st.floats(1, 4),
    min_visible=st.floats(0.3, 0.95),
    max_box_iou=st.floats(0.1, 0.9),
    distractors=st.integers(0, 4),
    blur=st.floats(0, 2),
)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**40), options=options)
def test_scene_keeps_its_promises(seed: int, options: SceneOptions) -> None:
    scene = draw_scene(np.random.default_rng(seed), options)
    height, width = scene.owner.shape
    assert scene.image.shape == (height, width, 3) and scene.image.dtype == np.uint8
    assert all(options.side[0] <= n <= options.side[1] for n in (height, width))
    assert len(scene) == len(scene.outlines) <= options.objects[1]
    assert set(np.unique(scene.owner)) - {-1} == set(range(len(scene)))
    boxes = []
    for k in range(len(scene)):
        mask = scene.mask(k)
        boxes.append(scene.box(k))
        assert scene.box(k) == tight_box(mask)
        # The whole shape, on a canvas with room for what the picture's edge cuts off.
        room = 300
        moved = tuple(polygon + room for polygon in scene.outlines[k])
        whole = inside(moved, height + 2 * room, width + 2 * room)
        # A pixel that is half covered has its centre in the shape or not far from its edge.
        outside = np.argwhere(mask & ~whole[room : room + height, room : room + width])
        for y, x in outside.tolist():
            distances = [
                cv2.pointPolygonTest(p.astype(np.float32), (x + 0.5, y + 0.5), True) for p in scene.outlines[k]
            ]
            assert min(abs(distance) for distance in distances) < 0.9
        # Pixels half covered may count or not, a few along the edge.
        edge = sum(np.linalg.norm(p - np.roll(p, 1, 0), axis=1).sum() for p in moved)
        assert mask.sum() >= options.min_visible * (whole.sum() - 0.1 * edge)
    for a, b in combinations(boxes, 2):
        w, h = (min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in range(2))
        common = max(w, 0) * max(h, 0)
        union = a[2] * a[3] + b[2] * b[3] - common
        assert common <= options.max_box_iou * union + 1e-9
    labels = scene.label_map()
    for k, label in enumerate(scene.classes):
        assert (labels[scene.mask(k)] == label + 1).all()
    assert (labels[scene.owner < 0] == 0).all()


def test_what_is_in_front_hides_what_is_behind() -> None:
    options = SceneOptions(side=(160, 200), objects=(6, 9), distractors=0, min_visible=0.5, max_box_iou=0.9)
    hidden = 0
    for seed in range(12):
        scene = draw_scene(np.random.default_rng(seed), options)
        front = np.full_like(scene.owner, -1)
        for k, outline in enumerate(scene.outlines):
            covered = inside(outline, *front.shape)
            hidden += np.count_nonzero(covered & (front >= 0))
            front[covered] = k
        wrong = (front != scene.owner).astype(np.uint8)
        # The rule for a pixel on an edge may differ, nothing wider than one pixel.
        assert wrong.mean() < 0.01
        assert not cv2.erode(wrong, np.ones((3, 3), np.uint8)).any()
    assert hidden > 1000


def test_objects_can_be_told_from_the_ground() -> None:
    """Without noise and blur, an object's mean colour differs from that of the ground around it."""
    scenes = [scene_at(1, 'val', k, SceneOptions(noise=0, blur=0)) for k in range(20)]
    contrasts = []
    for scene in scenes:
        for k in range(len(scene)):
            mask = scene.mask(k).astype(np.uint8)
            ring = cv2.dilate(mask, np.ones((9, 9), np.uint8)) - mask
            ring[scene.owner >= 0] = 0
            if ring.any():
                inner, outer = (scene.image[m > 0].mean(0) for m in (mask, ring))
                contrasts.append(np.linalg.norm(inner - outer))
    assert np.median(contrasts) > 60
    assert np.mean(np.array(contrasts) > 15) > 0.95


def test_default_set_has_every_class_and_size() -> None:
    scenes = [scene_at(0, 'train', k) for k in range(80)]
    areas = np.array([scene.mask(k).sum() for scene in scenes for k in range(len(scene))])
    small, large = np.mean(areas < 32**2), np.mean(areas > 96**2)
    assert 0.1 < small < 0.35 and 0.15 < large < 0.45
    sides = [max(s.box(k)[2:]) for s in scenes for k in range(len(s))]
    assert min(sides) < 24 and max(sides) > 220
    classes = np.bincount([c for scene in scenes for c in scene.classes], minlength=len(CLASSES))
    assert classes.min() >= 0.5 * classes.mean()
    assert 3 <= np.mean([len(scene) for scene in scenes]) <= 5
    assert len({scene.owner.shape for scene in scenes}) > 60
    assert len(CLASSES) == len(PALETTE) == len(set(CLASSES)) == len(set(PALETTE))


def test_colour_does_not_tell_the_class() -> None:
    """Guessing the class by the nearest mean colour does no better than chance."""
    drawn: list[tuple[int, np.ndarray]] = []
    for k in range(120):
        scene = scene_at(3, 'train', k, SMALL)
        drawn += [(c, scene.image[scene.mask(i)].mean(0)) for i, c in enumerate(scene.classes)]
    labels, colours = np.array([c for c, _ in drawn]), np.array([v for _, v in drawn])
    half = len(labels) // 2
    means = np.stack([colours[:half][labels[:half] == c].mean(0) for c in range(len(CLASSES))])
    guess = np.linalg.norm(colours[half:, None] - means, axis=-1).argmin(1)
    chance = 1 / len(CLASSES)
    spread = math.sqrt(chance * (1 - chance) / (len(labels) - half))
    assert np.mean(guess == labels[half:]) < chance + 4 * spread


def test_files_are_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    one = write_toy_dataset(tmp_path / 'one', 12, 4, 7, SMALL, workers=1)
    three = write_toy_dataset(str(tmp_path / 'three'), 12, 4, 7, SMALL, workers=3)
    assert folder_bytes(one) == folder_bytes(three)
    other = write_toy_dataset(tmp_path / 'other', 12, 4, 8, SMALL)
    assert (other / 'train/000001.jpg').read_bytes() != (one / 'train/000001.jpg').read_bytes()
    assert (one / 'val/000001.jpg').read_bytes() != (one / 'train/000001.jpg').read_bytes()
    larger = write_toy_dataset(tmp_path / 'larger', 15, 4, 7, SMALL)
    ours, theirs = folder_bytes(one), folder_bytes(larger)
    pictures = [name for name in ours if name.endswith(('.jpg', '.png'))]
    assert len(pictures) == 32 and all(ours[name] == theirs[name] for name in pictures)


def test_coco_reads_what_the_pictures_show(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    out = write_toy_dataset(tmp_path / 'set', 10, 5, options=SMALL)
    for split, count in (('train', 10), ('val', 5)):
        coco = COCO(str(out / 'annotations' / f'instances_{split}.json'))
        assert [c['name'] for c in coco.loadCats(sorted(coco.getCatIds()))] == list(CLASSES)
        assert len(coco.getImgIds()) == count
        for index, image in enumerate(coco.loadImgs(sorted(coco.getImgIds()))):
            scene = scene_at(0, split, index, SMALL)
            picture = cv2.imread(str(out / split / image['file_name']))
            assert picture.shape == (image['height'], image['width'], 3)
            # JPEG changes the noise, not what is seen.
            seen, drawn = (cv2.blur(p.astype(np.float32), (7, 7)) for p in (picture, scene.image))
            assert np.abs(seen - drawn).mean() < 3
            name = image['file_name'].replace('.jpg', '.png')
            labels = cv2.imread(str(out / f'{split}_labels' / name), cv2.IMREAD_UNCHANGED)
            painted = np.zeros_like(labels)
            for annotation in coco.loadAnns(coco.getAnnIds(image['id'])):
                mask = coco.annToMask(annotation).astype(bool)
                assert annotation['iscrowd'] == 0
                assert annotation['area'] == mask.sum() > 0
                assert tuple(annotation['bbox']) == tight_box(mask)
                assert not painted[mask].any()
                painted[mask] = annotation['category_id']
            assert labels.dtype == np.uint8 and np.array_equal(painted, labels)


def test_a_finished_set_is_kept_and_any_other_replaced(tmp_path: Path) -> None:
    out = tmp_path / 'set'

    def write(train: int = 5, **more: object) -> dict[str, int]:
        """Writes and returns each file's time of writing."""
        write_toy_dataset(out, train, 2, **{'options': SMALL, **more})
        return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in out.rglob('*.*')}

    first = write()
    assert write() == first == write(workers=2)
    (out / 'val_labels/000002.png').unlink()
    second = write()
    assert second.keys() == first.keys() and second['manifest.json'] > first['manifest.json']
    kept = {name for name in first if '000004' not in name and '000005' not in name}
    assert write(train=3).keys() == kept
    fewer = folder_bytes(out)
    write(train=3, options=SceneOptions(side=(96, 140), size=(12, 91)))
    assert json.loads((out / 'manifest.json').read_text())['options']['size'] == [12, 91]
    write(train=3)
    assert folder_bytes(out) == fewer


def test_an_interrupted_set_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, draw = tmp_path / 'set', toydata.draw_scene
    drawn = []

    def fail_late(*args: object) -> Scene:
        drawn.append(1)
        if len(drawn) == 7:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(toydata, 'draw_scene', fail_late)
    with pytest.raises(KeyboardInterrupt):
        write_toy_dataset(out, 500, 2, options=SMALL, workers=2)
    assert len(drawn) < 20  # what was waiting is not drawn any more
    assert json.loads((out / 'manifest.json').read_text())['complete'] is False
    monkeypatch.undo()
    write_toy_dataset(out, 6, 2, options=SMALL)
    write_toy_dataset(tmp_path / 'fresh', 6, 2, options=SMALL)
    assert folder_bytes(out) == folder_bytes(tmp_path / 'fresh')


def test_a_strangers_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / 'train').mkdir()
    (tmp_path / 'train/cat.jpg').write_bytes(b'cat')
    for manifest in (None, 'no json', '{"generator": "another"}', '[]'):
        if manifest is not None:
            (tmp_path / 'manifest.json').write_text(manifest)
        before = folder_bytes(tmp_path)
        with pytest.raises(FileExistsError, match='no data set of this generator'):
            write_toy_dataset(tmp_path, 2, 1, options=SMALL)
        assert folder_bytes(tmp_path) == before


@pytest.mark.parametrize(
    ('bad', 'message'),
    [
        ({'side': (280,)}, r'side=\(280,\): expected a pair'),
        ({'side': (400, 280)}, 'side=.*: expected a pair'),
        ({'side': (32, 64)}, 'side=.*64 or more'),
        ({'side': (280.5, 300)}, 'side=.*: expected a pair'),
        ({'objects': (0, 3)}, 'objects=.*1 or more'),
        ({'size': (12, math.inf)}, 'size=.*: expected a pair'),
        ({'size': (240, 250)}, 'size=.*three quarters of the least side 280'),
        ({'stretch': 0.5}, 'stretch=0.5: expected a number from 1.0 to 5.0'),
        ({'min_visible': 0}, 'min_visible=0: '),
        ({'min_visible': math.nan}, 'min_visible=nan: '),
        ({'distractors': 1.5}, 'distractors=1.5: expected an integer'),
        ({'noise': 'much'}, "noise='much': expected a number"),
    ],
)
def test_bad_options_are_named(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneOptions(**bad)


@pytest.mark.parametrize(
    ('bad', 'message'),
    [
        ({'train': 0}, 'train=0: expected an integer, 1 or more'),
        ({'val': 2.0}, 'val=2.0: '),
        ({'seed': -1}, 'seed=-1: expected an integer, 0 or more'),
        ({'workers': 0}, 'workers=0: '),
        ({'workers': True}, 'workers=True: '),
    ],
)
def test_bad_arguments_write_nothing(tmp_path: Path, bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_toy_dataset(tmp_path / 'set', **bad)
    assert not (tmp_path / 'set').exists()
    with pytest.raises(ValueError, match="split='test': expected one of"):
        scene_at(0, 'test', 0)


def test_needs_neither_torch_nor_mm() -> None:
    program = (
        f'import sys; sys.path.insert(0, {str(ROOT / "tools")!r})\n'
        'import toy.dataset\n'
        'heavy = {"torch", "torchvision", "mmcv", "mmdet"} & set(sys.modules)\n'
        'sys.exit(f"imported {heavy}" if heavy else 0)\n'
    )
    subprocess.run([sys.executable, '-c', program], check=True)


def test_tool(tmp_path: Path) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(TOOL), *args], capture_output=True, text=True, cwd=tmp_path)

    arguments = ['--train', '3', '--val', '2', '--side', '100', '140', '--seed', '5']
    done = run('set', *arguments, '--preview', 'pictures/sheet.png')
    assert done.returncode == 0, done.stderr
    expected = write_toy_dataset(tmp_path / 'expected', 3, 2, seed=5, options=SceneOptions(side=(100, 140)))
    assert folder_bytes(tmp_path / 'set') == folder_bytes(expected)
    assert cv2.imread(str(tmp_path / 'pictures/sheet.png')).shape[1] == 1280

    shutil.rmtree(tmp_path / 'set')
    failed = run('set', '--train', '-3')
    assert failed.returncode == 2 and not (tmp_path / 'set').exists()
    assert failed.stderr == 'make_toy_dataset: train=-3: expected an integer, 1 or more\n'

"""``mnv2 finetune`` from exports of labelling tools to a file that detects, as a user types it."""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from exports import (
    BOXES,
    MASKS,
    Truth,
    coco_roboflow,
    cvat,
    labelme_polygons,
    voc_flat_png,
    yolo_classes_txt,
    yolo_ultralytics,
)
from mmengine.registry import DATASETS
from mmengine.structures import InstanceData

pytest.importorskip('mmdet', reason='training a detector needs MMDetection: pip install .[mm]')

import finetune
import torch
from mmdet.visualization import DetLocalVisualizer
from mmseg.visualization import SegLocalVisualizer
from rich.console import Console
from tuning.choices import choose
from tuning.data import Data
from tuning.lists import write_coco
from tuning.progress import ProgressHook, epochs_within
from tuning.scores import score_boxes, score_masks

from mnv2_backbone import MobileNetV2
from mnv2_backbone.data.samples import Faults, Sample, Thing
from mnv2_backbone.training.options import load_config
from mnv2_backbone.training.preflight import check_data

Export = Callable[[Path, 'list[Truth]'], None]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command in an empty folder; returns what it printed, the error too."""
    monkeypatch.chdir(tmp_path)

    def finetune_with(*arguments: object, status: int = 0) -> str:
        for kind in (DetLocalVisualizer, SegLocalVisualizer):
            kind._instance_dict.clear()  # mmengine has one for a whole process, which logs to the first run's folder
        monkeypatch.setattr(sys, 'argv', ['mnv2 finetune', *map(str, arguments)])
        found = finetune.main()
        printed = capsys.readouterr()
        assert found == status, printed.out[-2000:] + printed.err[-2000:]
        return printed.out + printed.err

    return finetune_with


ONE_OF_EACH = (coco_roboflow, voc_flat_png, yolo_ultralytics, labelme_polygons, cvat)
SHORT = ('--epochs', 1, '--size', 64, 64, '--batch-size', 4, '--export', 'none')


@pytest.mark.parametrize('export', [*ONE_OF_EACH, *MASKS[::2]])
def test_an_epoch_of_every_format(export: Export, run: Callable[..., str], truths: list[Truth], tmp_path: Path) -> None:
    export(tmp_path / 'set', truths)
    model = 'fpnlite' if export is labelme_polygons else 'ssdlite'
    text = run('set', *SHORT, '--model', model, '--work-dir', 'out')
    assert 'use it:' in text and (tmp_path / 'out/worst.jpg').stat().st_size > 1000
    assert len(list((tmp_path / 'out/training').glob('best_*.pth'))) == 1


@pytest.mark.parametrize('export', [x for x in (*BOXES, *MASKS) if x not in (*ONE_OF_EACH, *MASKS[::2])])
def test_other_exports_pass_the_checks_before_training(
    export: Export, run: Callable[..., str], truths: list[Truth], tmp_path: Path
) -> None:
    """Their samples are the same, see test_readers.py; so one of each format is trained above."""
    export(tmp_path / 'set', truths)
    run('set', *SHORT, '--dry-run', '--work-dir', 'out')
    text = (tmp_path / 'out/config.py').read_text()
    assert len(text.splitlines()) <= 40 and ast.parse(text)
    lines = check_data(load_config(str(tmp_path / 'out/config.py')), ['train', 'val', 'test'])
    assert len(lines) == 2 and not any('WARNING: ' in line for line in lines if 'none has' not in line)


def test_weights_of_a_backbone_take_the_place_of_the_detectors(
    run: Callable[..., str], truths: list[Truth], tmp_path: Path
) -> None:
    coco_roboflow(tmp_path / 'set', truths)
    run('set', '--weights', 'mnv2://imagenet-1.0', '--dry-run', '--work-dir', 'out')
    cfg = load_config('out/config.py')
    assert cfg.load_from is None
    cfg.model.backbone.pop('type')
    backbone, trained = MobileNetV2(**cfg.model.backbone), MobileNetV2(init_cfg=cfg.model.backbone.init_cfg)
    for network in (backbone, trained):
        network.init_weights()
    state = trained.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())
    assert all(module.training for module in backbone.train().modules())  # their norms are not folded


def test_masks_of_many_classes_get_colours(run: Callable[..., str], truths: list[Truth], tmp_path: Path) -> None:
    MASKS[0](tmp_path / 'set', truths)
    classes = [f'class {number}' for number in range(25)]
    run('set', *SHORT, '--dry-run', '--classes', *classes, '--work-dir', 'out')
    loader = load_config(str(tmp_path / 'out/config.py')).train_dataloader
    with DATASETS.switch_scope_and_registry('mmseg') as registry:
        meta = registry.build(loader.dataset).metainfo
    assert list(meta['classes']) == classes and len(meta['palette']) == 25


def test_mistakes_leave_the_folder_as_it_was(run: Callable[..., str], truths: list[Truth], tmp_path: Path) -> None:
    (tmp_path / 'set').mkdir()
    shutil.copy(truths[0].path, tmp_path / 'set/a.jpg')
    (tmp_path / 'own').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'own')
    for folder in ('own', 'link', 'new'):
        assert 'no annotations' in run('set', '--work-dir', folder, status=2)
    assert (tmp_path / 'own').is_dir() and (tmp_path / 'link').is_dir() and not (tmp_path / 'new').exists()
    (tmp_path / 'file').touch()
    assert '--work-dir file/out cannot be created' in run('set', '--work-dir', 'file/out', status=2)


def test_a_segmenter_from_outlines(run: Callable[..., str], truths: list[Truth], tmp_path: Path) -> None:
    coco_roboflow(tmp_path / 'set', truths)
    text = run('set', '--task', 'segment', *SHORT)
    assert 'background' in text and 'IoU' in text


def test_from_a_zip_to_a_file_that_detects(run: Callable[..., str], truths: list[Truth], tmp_path: Path) -> None:
    """YOLO's text files in a zip, and nothing else known; the file's score is that of the model."""
    yolo_classes_txt(tmp_path / 'set', truths)
    shutil.make_archive('set', 'zip', 'set')
    text = run('set.zip', *SHORT[:-2])
    assert 'model.onnx: ' in text and 'mnv2 infer PHOTOS --weights work_dirs/set/model.onnx --score-thr' in text
    for name in ('curves.png', 'confusion.png', 'worst.jpg'):
        assert cv2.imread(str(tmp_path / 'work_dirs/set' / name)) is not None
    text = run('set.zip', '--dry-run')  # a new folder for each run
    assert 'work_dirs/set_2/config.py' in text
    assert not list((tmp_path / 'work_dirs/set_2').rglob('*.pth'))


def test_a_time_limit_sets_the_number_of_epochs(run: Callable[..., str], truths: list[Truth], tmp_path: Path) -> None:
    yolo_classes_txt(tmp_path / 'set', truths)
    text = run('set', *SHORT[2:], '--minutes', 60, '--dry-run')
    (line,) = [line for line in text.splitlines() if line.strip().startswith('epochs')]
    assert 'of 60 minutes' in line and int(line.split()[1]) > 10
    seconds = int(re.search(r'one takes (\d+) s', line)[1])
    assert int(line.split()[1]) * (seconds - 0.5) <= 60 * 60  # seconds are printed as rounded


@pytest.mark.parametrize(('minutes', 'epoch', 'ends'), [(None, 3, False), (5, 3, False), (2, 3, True), (2, 9, False)])
def test_a_training_ends_when_its_time_is_over(
    minutes: float | None, epoch: int, ends: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = ProgressHook('coco/bbox_mAP_50', Console(), minutes)
    loop = SimpleNamespace(stop_training=False)
    runner: Any = SimpleNamespace(iter=0, max_iters=90, epoch=epoch, max_epochs=9, train_loop=loop)
    monkeypatch.setattr('tuning.progress.time.monotonic', lambda: 1000.0)
    hook.before_train(runner)
    monkeypatch.setattr('tuning.progress.time.monotonic', lambda: 1000.0 + 3 * 60)
    hook.after_val_epoch(runner, {'coco/bbox_mAP_50': 0.5})
    assert loop.stop_training == ends
    assert ('ends after 3 of the 9 planned epochs: the 2 minutes are over' in capsys.readouterr().out) == ends


def test_validations_are_part_of_a_time_limit() -> None:
    assert epochs_within(100, training=1, validation=0) == 100
    assert epochs_within(20, training=1, validation=1) == 10  # short trainings are validated after each epoch
    assert epochs_within(75, training=1, validation=1) == 60  # longer ones about 15 times
    assert epochs_within(5, training=9, validation=1) == 1


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['nowhere'], ['nowhere does not exist']),
        (['set', '--size', '100', '32'], ['--size 100 32', 'from 64']),
        (['set', '--epochs', '2', '--minutes', '1'], ['--epochs and --minutes']),
        (['set', '--val', '1'], ['--val 1.0']),
        (['set', '--lr', '7'], ['--lr 7.0']),
        (['set', '--weights', 'my.pth'], ['my.pth does not exist']),
        (['set', '--task', 'segment'], ['boxes', 'masks or outlines']),
        (['set', '--format', 'coco'], ['no annotations of the format coco']),
        (['set', '--work-dir', 'set'], ['--work-dir set', 'not empty']),
        (['set/0.jpg'], ['0.jpg']),
        (['broken.zip'], ['broken.zip cannot be unpacked']),
    ],
)
def test_wrong_options(
    arguments: list[str], words: list[str], run: Callable[..., str], truths: list[Truth], tmp_path: Path
) -> None:
    yolo_classes_txt(tmp_path / 'set', truths)
    (tmp_path / 'broken.zip').write_text('no zip')
    text = run(*arguments, status=2)
    line = text.strip().splitlines()[-1]
    assert text.count('error') == 1 and line.startswith('error: ') and all(word in line for word in words), line
    assert not (tmp_path / 'work_dirs').exists() or not list((tmp_path / 'work_dirs').iterdir())


@pytest.mark.parametrize(('side', 'size', 'reference'), [(60, 300, None), (20, 480, 300), (4, 640, 300)])
def test_the_input_is_chosen_by_the_size_of_the_objects(side: int, size: int, reference: int | None) -> None:
    samples = [
        Sample(Path(f'{i}.jpg'), (100, 100), [Thing('a', (0, 0, side, side))], split='train') for i in range(300)
    ]
    choices = choose(Data(Path('.'), 'voc', samples, ['a'], Faults(), ''))
    assert (choices.size, choices.reference, choices.epochs) == ((size, size), reference, 30)
    assert set(choices.reasons) == {'task', 'size', 'weights', 'epochs'}


def test_scores_of_boxes(tmp_path: Path) -> None:
    """Three objects, one found, one found as another class, one missed, and a box without an object."""
    things = [Thing('a', (0, 0, 10, 10)), Thing('b', (20, 20, 40, 40)), Thing('a', (60, 60, 90, 90))]
    write_coco(tmp_path / 'x.json', [Sample(tmp_path / 'x.jpg', (100, 100), things)], ['a', 'b'], tmp_path)
    found = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [0, 60, 9, 80]]),
        scores=torch.tensor([0.9, 0.8, 0.6]),
        labels=torch.tensor([0, 0, 1]),
    )
    scores = score_boxes(tmp_path / 'x.json', [found], ['a', 'b'])
    # of a's two objects one is found, before any wrong one: precision 1 up to recall 0.5, 51 of 101 points
    assert scores.overall['AP50'] == pytest.approx((51 / 101 + 0) / 2)
    assert scores.threshold == pytest.approx(0.85)
    assert scores.confusion.tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert scores.errors == [2.0]
    assert json.loads((tmp_path / 'x.json').read_text())['annotations'][1]['bbox'] == [20, 20, 20, 20]


def test_scores_of_masks() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], np.uint8)
    found = np.array([[0, 1, 1, 1], [0, 0, 0, 2]], np.uint8)
    scores = score_masks([truth], [found], ['ground', 'thing', 'never'])
    assert [(name, pixels) for name, pixels, _ in scores.rows] == [('ground', 4), ('thing', 3)]
    assert scores.overall['mIoU'] == pytest.approx((3 / 5 + 2 / 4) / 2)
    assert scores.overall['accuracy'] == pytest.approx(5 / 7)

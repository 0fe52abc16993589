""".tflite files: LiteRT computes what PyTorch does, int8 has no float in it, and MediaPipe's metadata are there.

The converter is no part of an ordinary installation: `make test` puts it beside the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, place
from torchvision.ops import box_iou

from mnv2_backbone.deployment import litert
from mnv2_backbone.deployment.backends import FORMATS, open_exported
from mnv2_backbone.deployment.export import ExportOptions, export
from mnv2_backbone.deployment.network import Detector, load_trained
from mnv2_backbone.deployment.predictor import Predictor
from mnv2_backbone.deployment.recipe import Manifest
from mnv2_backbone.errors import UserError
from mnv2_backbone.training.options import load_config

CONFIG = ROOT / 'configs/ssdlite_mnv2_coco_tf.py'
WEIGHTS = 'mnv2://ssdlite-coco'
#: The Python of an environment with mediapipe, which cannot be installed beside opencv-python.
MEDIAPIPE = os.environ.get('MNV2_MEDIAPIPE')


@pytest.fixture(scope='module')
def photos(real_data: Path) -> list[Path]:
    return sorted((real_data / 'data/coco/val2017').glob('*.jpg'))[:6]


@pytest.fixture(scope='module')
def weights(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Google's weights where their name finds them."""
    folder = tmp_path_factory.mktemp('cache')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(folder))
        place(real_data, folder / 'mnv2_backbone/weights', 'ssdlite-coco')
        yield


@pytest.fixture(scope='module')
def detector(weights: None) -> Detector:
    model, _ = load_trained(load_config(CONFIG), WEIGHTS)
    return Detector(model, (300, 300))


@pytest.fixture(scope='module', params=['fp32', 'int8'])
def file(request, weights: None, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Google's detector, exported; nms.tflite beside it is the same with NMS inside."""
    pytest.importorskip('litert_torch')
    path = tmp_path_factory.mktemp(request.param) / 'model.tflite'
    calib = real_data / 'data/coco/train2017' if request.param == 'int8' else None
    with pytest.MonkeyPatch.context() as patch:
        for step in ('convert', 'quantize'):  # once for both
            patch.setattr(litert, step, remembered(getattr(litert, step)))
        export(load_config(CONFIG), WEIGHTS, ExportOptions('tflite', request.param, calib), path)
        nms = ExportOptions('tflite', request.param, calib, nms=True)
        export(load_config(CONFIG), WEIGHTS, nms, path.with_name('nms.tflite'))
    return path


def remembered(step: Callable[..., bytes]) -> Callable[..., bytes]:
    """A step that returns its first result again."""
    results: list[bytes] = []

    def first(*arguments: Any) -> bytes:
        if not results:
            results.append(step(*arguments))
        return results[0]

    return first


def test_boxes_and_scores_are_those_of_pytorch(file: Path, detector: Detector, photos: list[Path]) -> None:
    predictor = Predictor.from_file(file)
    exact = predictor.manifest.precision == 'fp32'
    sure = 0
    for path in photos:
        image = cv2.imread(str(path))
        ((boxes, logits),) = predictor.run([image])
        scores = 1 / (1 + np.exp(-logits))
        with torch.no_grad():
            wanted, wanted_scores = detector(torch.from_numpy(predictor.recipe.resize(image))[None])
        scale = np.array([image.shape[1], image.shape[0]] * 2, np.float32) / 300
        wanted, wanted_scores = wanted[0].numpy() * scale, wanted_scores[0].numpy()
        assert np.abs(scores - wanted_scores).max() < (1e-4 if exact else 0.7)
        assert np.abs(scores - wanted_scores).mean() < (1e-6 if exact else 1e-3)
        chosen = wanted_scores.max(1) > 0.6
        sure += chosen.sum()
        assert (scores[chosen].argmax(1) == wanted_scores[chosen].argmax(1)).all()
        far = np.abs(boxes[chosen] - wanted[chosen]).max(initial=0)
        assert far < (0.01 if exact else 0.1 * max(image.shape))
    assert sure > 20


def test_the_precision_is_what_it_says(file: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(str(file))
    network.allocate_tensors()
    kinds = {np.dtype(tensor['dtype']).name for tensor in network.get_tensor_details()}
    ends = {np.dtype(end['dtype']).name for end in network.get_input_details() + network.get_output_details()}
    if 'int8' in kinds:
        assert kinds == {'int8', 'int32', 'uint8'} and ends == {'uint8'}
        (image,) = network.get_input_details()
        assert image['quantization'] == (1.0, 0)  # pixels go in as they are
        assert file.stat().st_size < 6e6
    else:
        assert ends == {'float32'} and 'int8' not in kinds


def test_what_it_is_stands_in_the_file(file: Path) -> None:
    backend, text = open_exported(file)
    assert backend is FORMATS['tflite']
    manifest = Manifest.from_json(text)
    with zipfile.ZipFile(file) as inside:
        assert tuple(inside.read('labels.txt').decode().splitlines()) == manifest.recipe.classes
    assert b'TFLITE_METADATA' in file.read_bytes() and b'DETECTOR_METADATA' in file.read_bytes()


def test_nms_inside_finds_what_nms_outside_finds(file: Path, photos: list[Path]) -> None:
    inside, predict = Predictor.from_file(file.with_name('nms.tflite')), Predictor.from_file(file)
    assert inside.manifest.nms and not predict.manifest.nms
    for path in photos:
        image = cv2.imread(str(path))
        (found,), (expected,) = inside([image]), predict([image])
        sure = expected[expected.scores > 0.3]
        assert len(sure) and (found.scores > 0.3).sum() == len(sure)
        for box, score, label in zip(sure.bboxes, sure.scores, sure.labels):
            same = found[(found.labels == label) & ((found.scores - score).abs() < 1e-4)]
            # of boxes with equal scores, which are common in int8, either may stay
            assert box_iou(box[None], same.bboxes).max() > (0.99 if predict.manifest.precision == 'fp32' else 0.6)


def test_threads_may_share_a_file(file: Path, photos: list[Path]) -> None:
    predict = Predictor.from_file(file)
    images = [image for photo in photos[:4] if (image := cv2.imread(str(photo))) is not None] * 4
    wanted = [predict([image])[0].bboxes for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: predict([image])[0].bboxes, images))
    assert len(found) == 16 and all(torch.equal(one, other) for one, other in zip(found, wanted))


def test_nms_inside_has_the_outputs_of_sample_programs(file: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(str(file.with_name('nms.tflite')))
    outputs = network.get_output_details()
    assert [tuple(output['shape']) for output in outputs] == [(1, 100, 4), (1, 100), (1, 100), (1,)]
    assert all(output['dtype'] == np.float32 for output in outputs)
    assert set(network.get_signature_list()['serving_default']['outputs']) == {'boxes', 'classes', 'scores', 'count'}


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'model.test_cfg.nms.class_agnostic': True}, 'nms.class_agnostic=True'),
        ({'model.test_cfg.min_bbox_size': 4}, 'min_bbox_size=4'),
        ({'model.test_cfg.nms.type': 'soft_nms'}, "nms.type='soft_nms'"),
    ],
)
def test_nms_of_another_kind_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    pytest.importorskip('litert_torch')
    cfg = load_config(CONFIG, options)
    with pytest.raises(UserError, match=f'--nms: no tflite file has test_cfg.{words} inside'):
        export(cfg, WEIGHTS, ExportOptions('tflite', nms=True), tmp_path / 'model.tflite')


@pytest.mark.skipif(not MEDIAPIPE, reason='MNV2_MEDIAPIPE is not set: the Python of an environment with mediapipe')
@pytest.mark.parametrize('name', ['model.tflite', 'nms.tflite'])
def test_mediapipe_detects_the_same(file: Path, name: str, photos: list[Path]) -> None:
    file = file.with_name(name)
    command = [MEDIAPIPE, str(ROOT / 'tests/mediapipe_detect.py'), str(file), *map(str, photos)]
    theirs = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    predictor = Predictor.from_file(file)
    compared = 0
    for path, found in zip(photos, theirs):
        ours = predictor([cv2.imread(str(path))])[0]
        for name, score, box in found:
            same = ours[ours.labels == predictor.recipe.classes.index(name)]
            overlap, best = box_iou(torch.tensor([box], dtype=torch.float32), same.bboxes)[0].max(0)
            assert overlap > 0.9 and abs(same.scores[best] - score) < 0.05
            compared += 1
    assert compared > 10


def test_a_file_of_another_origin_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'other.tflite'
    path.write_bytes(b'\x1c\x00\x00\x00TFL3' + bytes(100))
    with pytest.raises(UserError, match=r'other\.tflite'):
        Predictor.from_file(path)

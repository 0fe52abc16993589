"""Raw networks, which take one image of a fixed size and do not decode: around them the results are the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import ROOT, shuffled
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mnv2_backbone.deployment.folding import fold_norms
from mnv2_backbone.deployment.network import Detector, Segmenter
from mnv2_backbone.deployment.raw import RawNetwork, RunRaw
from mnv2_backbone.deployment.recipe import Manifest, Recipe

SIZE = (96, 160)


def build(name: str, **head) -> tuple:
    """The model of a shipped config with random weights, and its config."""
    cfg = Config.fromfile(ROOT / 'configs' / name)
    register_all_modules()
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    for name, value in head.items():
        cfg.model.bbox_head[name] = value
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return shuffled(model).eval(), cfg


def run_raw(network, recipe: Recipe, size) -> RunRaw:
    """Around a raw network that PyTorch runs."""
    raw = RawNetwork(network, size).eval()

    def run(x: np.ndarray) -> list[np.ndarray]:
        assert x.shape == (1, *size, 3)
        with torch.no_grad():
            outputs = raw(torch.from_numpy(x).float())
        return [outputs[name].numpy() for name in sorted(outputs)]

    return RunRaw(Manifest(recipe, decoding=raw.decoding), run)


@pytest.mark.parametrize(
    ('config', 'head'),
    [
        ('ssdlite_mnv2_coco_tf.py', {}),
        ('ssdlite_mnv2_coco_tf.py', dict(score_converter='softmax')),
        ('fpnlite_mnv2_320_coco.py', {}),
    ],
)
def test_boxes_and_scores_are_the_detectors(config: str, head: dict) -> None:
    model, cfg = build(config, **head)
    recipe = Recipe('detect', *[tuple(range(80))] * 2, SIZE, 'opencv')
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    with torch.no_grad():
        boxes, scores = Detector(model, SIZE)(torch.from_numpy(image)[None])
    run = run_raw(Detector(model, SIZE), recipe, SIZE)
    ((found, found_scores),) = run([image])
    assert run.logits == (model.bbox_head.score_converter == 'sigmoid')
    found_scores = 1 / (1 + np.exp(-found_scores)) if run.logits else found_scores
    # With random weights rounding counts for more than with trained ones.
    assert np.abs(found - boxes[0].numpy()).max() < 0.2
    assert np.abs(found_scores - scores[0].numpy()).max() < 1e-3
    assert len(np.unique(found.round())) > 50 and np.ptp(found_scores) > 0.01


@pytest.mark.parametrize('option', [dict(target_means=[0.5] * 4), dict(clip_border=False), dict(add_ctr_clamp=True)])
def test_boxes_that_would_be_decoded_otherwise_are_refused(option: dict) -> None:
    coder = dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2], **option)
    model, _ = build('ssdlite_mnv2_coco_tf.py', bbox_coder=coder)
    with pytest.raises(ValueError, match='bbox_coder: only DeltaXYWHBBoxCoder'):
        RawNetwork(Detector(model, SIZE), SIZE)


@pytest.mark.parametrize('norm', [dict(type='GN', num_groups=4), None])
def test_other_norms_than_batch_norm_stay(norm: dict | None) -> None:
    model, _ = build('fpnlite_mnv2_320_coco.py', norm_cfg=norm)
    maps = [torch.rand(1, 128, 5, 7) for _ in range(5)]
    with torch.no_grad():
        for found, wanted in zip(fold_norms(model).bbox_head(maps), model.bbox_head(maps)):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize('resizes', [True, False])
def test_label_maps_are_the_segmenters(resizes: bool) -> None:
    model, cfg = build('deeplabv3lite_mnv2_voc_tf.py')
    recipe = Recipe('segment', *[tuple(range(21))] * 2, SIZE if resizes else None, test_cfg=dict(size=SIZE))
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    expected = recipe.resize(image)
    segmenter = Segmenter(model, SIZE)
    with torch.no_grad():
        logits = segmenter(torch.from_numpy(expected)[None])
        original = image.shape[:2] if resizes else None
        labels = segmenter.labels(logits, expected.shape[:2], original)[0].numpy()
    run = run_raw(Segmenter(model, SIZE), recipe, SIZE)
    ((found,),) = run([image])
    assert found.shape == image.shape[:2]
    assert (found == labels).mean() > 0.99 and len(np.unique(found)) > 1
    large = np.repeat(np.repeat(image, 4, 0), 4, 1)  # made smaller than it is, if need be
    ((found,),) = run([large])
    assert found.shape == large.shape[:2]


@pytest.mark.parametrize(
    ('test_cfg', 'kept'), [({}, [0, 1]), ({'min_bbox_size': -1}, [0, 1]), ({'min_bbox_size': 0}, [0])]
)
def test_boxes_outside_of_the_image_go_if_min_bbox_size_says_so(test_cfg: dict, kept: list[int]) -> None:
    boxes = np.array([[[0.1, 0.2, 0.5, 0.6], [0.3, 1.1, 0.4, 1.3], [0, 0, 0, 0]]], np.float32)  # y1, x1, y2, x2
    outputs = [boxes, np.array([[4, 5, 0]]), np.array([2]), np.array([[0.9, 0.8, 0]])]  # the third is padding
    recipe = Recipe('detect', ('a',) * 6, (), SIZE, test_cfg=test_cfg)
    manifest = Manifest(recipe, nms=True, decoding=dict(anchors=''))
    corners, scores, labels = RunRaw(manifest, lambda _: outputs)([np.zeros((50, 100, 3), np.uint8)])[0]
    assert labels.tolist() == np.array([4, 5])[kept].tolist() and scores.tolist() == np.array([0.9, 0.8])[kept].tolist()
    assert np.allclose(corners, np.array([[20, 5, 60, 25], [100, 15, 100, 20]])[kept])

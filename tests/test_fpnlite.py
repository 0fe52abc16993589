"""FPNLite against the outputs of the Object Detection API's own code, run by TensorFlow."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData

from mnv2_backbone.deployment.graph import WholeDetector
from mnv2_backbone.deployment.network import Detector
from mnv2_backbone.deployment.predictor import suppress
from mnv2_backbone.deployment.recipe import Recipe
from mnv2_backbone.errors import WeightsError
from mnv2_backbone.network.fit import load_into
from mnv2_backbone.weights.convert import read

CASES = ['320x320', '256x384']
SOURCES = ['variables.npz', 'tf2_checkpoint/ckpt-1', 'tf2_checkpoint/ckpt-1.index']


@pytest.fixture(scope='module')
def reference(real_data):
    return real_data / 'reference' / 'fpnlite_tf'


def config(**test_cfg) -> Config:
    """The shipped config, with the API's thresholds and the reference's classes."""
    cfg = Config.fromfile(ROOT / 'configs/fpnlite_mnv2_320_coco.py')
    cfg.model.backbone.init_cfg = None
    cfg.model.bbox_head.num_classes = 3
    cfg.model.test_cfg.update(score_thr=1e-8, **test_cfg)
    return cfg


def network(reference, source=SOURCES[0], **options):
    register_all_modules()
    model = MODELS.build(config(**options).model)
    load_into(model, read(reference / source).state_dict)
    return model.eval()


def swapped(boxes) -> torch.Tensor:
    """TensorFlow's order (y, x, ...) to ours."""
    return torch.from_numpy(boxes)[..., [1, 0, 3, 2]]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def check_found(found, case, height, width, tolerance=1e-3) -> None:
    """Boxes in pixels within a tolerance, scores within 1e-5, labels equal."""
    assert len(found.scores) == case['num'][0]
    assert (found.scores - torch.from_numpy(case['det_scores'][0])).abs().max() < 1e-5
    assert found.labels.tolist() == case['det_classes'][0].tolist()
    expected = swapped(case['det_boxes'][0]) * torch.tensor([width, height] * 2)
    assert (found.bboxes - expected).abs().max() < tolerance


@pytest.mark.parametrize('source', SOURCES)
@pytest.mark.parametrize('name', CASES)
def test_every_output_is_tensorflows(reference, source, name):
    case = np.load(reference / f'case_{name}.npz')
    model = network(reference, source)
    height, width = size = case['input'].shape[1:3]
    pixels = torch.from_numpy(case['input']).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        maps = model.extract_feat(pixels * 2 / 255 - 1)
        outputs = model.bbox_head(maps)
    for level, found in enumerate(maps, start=3):
        assert relative(found, torch.from_numpy(case[f'level_{level}']).permute(0, 3, 1, 2)) < 1e-4
    logits, codes = model.bbox_head.flatten(*outputs)
    assert relative(logits, torch.from_numpy(case['logits'])[..., [1, 2, 3, 0]]) < 1e-4  # the background is last
    assert relative(codes, swapped(case['boxes'])) < 1e-4
    anchors = torch.cat(model.bbox_head.prior_generator.grid_priors([x.shape[2:] for x in maps], size))
    sides = torch.tensor([width, height] * 2)
    assert (anchors / sides - swapped(case['anchors'])).abs().max() < 1e-5
    meta = dict(img_shape=size, batch_input_shape=size, scale_factor=(0.5, 0.25))
    check_found(model.bbox_head.predict_by_feat(*outputs, batch_img_metas=[meta])[0], case, height, width)
    enlarged = model.bbox_head.predict_by_feat(*outputs, batch_img_metas=[meta], rescale=True)[0]
    check_found(enlarged, case, height * 4, width * 2, 4e-3)


@pytest.mark.parametrize('name', CASES)
def test_deployed_forms_find_the_same(reference, name):
    """Folded: the levels' norms leave shared convolutions behind, each with its own weights."""
    case = np.load(reference / f'case_{name}.npz')
    height, width = size = case['input'].shape[1:3]
    cfg = config(nms_pre=-1)
    cfg.test_dataloader.dataset.pipeline[1].scale = (width, height)
    recipe = Recipe.from_config(cfg, meta=dict(classes='abc'))
    detector = Detector(network(reference), size)
    images = torch.from_numpy(case['input'][..., ::-1].copy())  # BGR
    with torch.no_grad():
        boxes, scores = detector(images)
        found = suppress(boxes[0], scores[0], recipe.test_cfg)
        found.bboxes = found.bboxes.clamp(min=0).minimum(torch.tensor([width, height] * 2))
        check_found(found, case, height, width, 1e-2)
        boxes, scores, labels = (x[0] for x in WholeDetector(detector, recipe, nms=True)(images))
    check_found(InstanceData(bboxes=boxes, scores=scores, labels=labels), case, height, width, 1e-2)


def test_the_loss_is_the_apis(reference):
    case = np.load(reference / 'loss_320x320.npz')
    head = network(reference).bbox_head
    sizes = [(40, 40), (20, 20), (10, 10), (5, 5), (3, 3)]

    def maps(values: torch.Tensor) -> list[torch.Tensor]:
        parts = values.split([6 * height * width for height, width in sizes], 1)
        return [x.reshape(2, *size, -1).permute(0, 3, 1, 2) for x, size in zip(parts, sizes)]

    truth = [
        InstanceData(
            bboxes=swapped(case[f'gt_boxes_{i}']) * 320, labels=torch.from_numpy(case[f'gt_classes_{i}']).long()
        )
        for i in range(2)
    ]
    losses = head.loss_by_feat(
        maps(torch.from_numpy(case['logits'])[..., [1, 2, 3, 0]]),
        maps(swapped(case['boxes'])),
        truth,
        [dict(img_shape=(320, 320), batch_input_shape=(320, 320))] * 2,
    )
    assert float(losses['loss_cls']) == pytest.approx(float(case['classification_loss']), rel=1e-4)
    assert float(losses['loss_bbox']) == pytest.approx(float(case['localization_loss']), rel=1e-4)


def test_levels_share_convolutions_and_each_parameter_is_optimized_once():
    register_all_modules()
    cfg = config()
    model = MODELS.build(cfg.model)
    own = dict(model.bbox_head.named_parameters())
    assert sum(name.startswith('convs.0.') for name in own) == 4 * 2
    assert sum(name.startswith('norms.') for name in own) == 5 * 4 * 2
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    assert sum(x.numel() for group in groups for x in group['params']) == sum(x.numel() for x in model.parameters())
    state = model.bbox_head.state_dict()
    assert len({value.data_ptr() for value in state.values() if value.dim()}) == sum(
        x.dim() > 0 for x in state.values()
    )
    with pytest.raises(ValueError, match=r'in_channels=\(8, 8, 8, 8, 16\).*must be the same on all levels'):
        MODELS.build(dict(type='mnv2_backbone.FPNLiteHead', num_classes=3, in_channels=[8, 8, 8, 8, 16]))


@pytest.mark.parametrize('size', [(300, 300), (97, 130), (64, 64)])
def test_any_input_size_trains_and_detects(size):
    register_all_modules()
    model = MODELS.build(config().model).train()
    images = torch.rand(2, 3, *size)
    meta = dict(img_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
    truth = [InstanceData(bboxes=torch.tensor([[5.0, 6, 40, 50]]), labels=torch.tensor([i])) for i in range(2)]
    outputs = model.bbox_head(model.extract_feat(images))
    sum(model.bbox_head.loss_by_feat(*outputs, truth, [meta] * 2).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    found = model.eval().bbox_head.predict_by_feat(*outputs, batch_img_metas=[meta] * 2)
    ends = torch.tensor([size[1], size[0]] * 2)
    assert all((x.bboxes >= 0).all() and (x.bboxes <= ends).all() for x in found)


def test_damaged_checkpoints_are_refused(reference, tmp_path):
    for fault, message in (
        ('index', r'its \.index is damaged'),
        ('data', r'its \d+ bytes at \d+ are not there'),
        ('missing', r'files are missing beside ckpt-1\.index: ckpt-1\.data-00000-of-00001'),
    ):
        folder = tmp_path / fault
        shutil.copytree(reference / 'tf2_checkpoint', folder)
        data = folder / 'ckpt-1.data-00000-of-00001'
        data.chmod(0o644)
        (folder / 'ckpt-1.index').chmod(0o644)
        folder.chmod(0o755)
        if fault == 'index':
            (folder / 'ckpt-1.index').write_bytes((folder / 'ckpt-1.index').read_bytes()[:-9])
        elif fault == 'data':
            data.write_bytes(data.read_bytes()[:2_000_000])
        else:
            data.unlink()
        with pytest.raises(WeightsError, match=message):
            read(folder / 'ckpt-1')
    saved = tmp_path / 'saved_model' / 'variables'  # an exported model has the same variables inside
    saved.mkdir(parents=True)
    for suffix in ('index', 'data-00000-of-00001'):
        shutil.copy(reference / f'tf2_checkpoint/ckpt-1.{suffix}', saved / f'variables.{suffix}')
    found, expected = read(saved.parent), read(reference / 'variables.npz')
    assert found.meta['num_classes'] == 3 and found.state_dict.keys() == expected.state_dict.keys()
    assert all(torch.equal(value, expected.state_dict[key]) for key, value in found.state_dict.items())

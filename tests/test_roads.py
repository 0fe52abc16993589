"""Every config gives one answer by every road: tools, mm's inferencers, ``deploy``, and the graph of exported files.

The files themselves are compared with the trained models in test_export.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip('mmdet', reason='the models are those of MMDetection and MMSegmentation')
from mmdet.apis import inference_detector, init_detector
from mmdet.structures import DetDataSample
from mmseg.apis import MMSegInferencer, inference_model, init_model
from torch.nn.functional import pad

from mnv2_backbone.deployment.deploy import deploy
from mnv2_backbone.deployment.export import ExportOptions, _whole, check_nms
from mnv2_backbone.deployment.network import Detector
from mnv2_backbone.deployment.predictor import Predictor, suppress
from mnv2_backbone.deployment.recipe import Manifest, Recipe, dataset_meta, padding_of
from mnv2_backbone.errors import UserError
from mnv2_backbone.training.options import load_config

#: What a config is run with: those for fine-tuning leave the number of classes to others.
CHANGES = {
    'ssdlite_mnv2_coco_small.py': {'test_dataloader.dataset.pipeline.1.scale': (320, 320)},
    **dict.fromkeys(
        ('deeplabv3lite_mnv2_cityscapes.py', 'lraspp_mnv2_cityscapes.py'),
        {'model.data_preprocessor.test_cfg.size': (257, 513)},
    ),
    **dict.fromkeys(('fpnlite_mnv2_finetune.py', 'ssdlite_mnv2_finetune.py'), {'model.bbox_head.num_classes': 20}),
}
DETECTORS = ('ssdlite', 'fpnlite')
CONFIGS = sorted(path.name for path in (ROOT / 'configs').glob('*.py'))


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def trained(name: str, folder: Path, **options: object):
    """A config and a checkpoint for it, with weights at random that give clear cases, as after training."""
    cfg = load_config(name, {'model.backbone.init_cfg': None, 'model.backbone.widen_factor': 0.35, **options})
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    head = model.bbox_head if cfg.default_scope == 'mmdet' else model.decode_head
    convs = [branch[1] for branch in head.cls_convs] if cfg.default_scope == 'mmdet' else [head.conv_seg]
    if name.startswith('fpnlite'):  # the API's initialization leaves next to nothing of the differences in images
        for conv in [*model.neck.modules(), *head.modules()]:
            if isinstance(conv, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(conv.weight)
        head.reg_convs[0][1].weight.data *= 0.1
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for module in norms:
        module.momentum = 1.0  # so that norms get the statistics of the next batch
    images = torch.stack([torch.from_numpy(photo(161, 193, i)).permute(2, 0, 1) for i in range(8)]) / 127.5 - 1
    with torch.no_grad():
        model.train()(images, mode='tensor')
        for conv in convs:  # scores that differ
            conv.weight *= 2 / conv.weight.flatten(1).norm(dim=1).mean()
        if getattr(head, 'score_converter', '') == 'softmax':
            for conv, scores in zip(convs, model.eval()(images, mode='tensor')[0]):
                conv.weight *= 3 / scores.std()
        if name.startswith('fpnlite'):  # of many anchors a few are objects
            scores = torch.cat([x.flatten() for x in model.eval()(images, mode='tensor')[0]])
            convs[0].weight *= 2 / scores.std()
            convs[0].bias -= scores.topk(1000).values[-1] * 2 / scores.std()
        if cfg.default_scope == 'mmseg':  # no class is ahead in images that are padded as in a test
            (height, width), seen = padding_of(cfg).get('size') or (0, 0), images.shape[2:]
            more = (0, max(width - seen[1], 0), 0, max(height - seen[0], 0))
            head.conv_seg.bias -= model.eval()(pad(images, more), mode='tensor').mean((0, 2, 3))
    path = folder / 'model.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dataset_meta(cfg))), path)
    return cfg, str(path)


def same_objects(found, wanted) -> None:
    assert len(found.scores) == len(wanted.scores) > 5
    torch.testing.assert_close(found.scores, wanted.scores, atol=5e-3, rtol=0)
    near = (found.bboxes[:, None] - wanted.bboxes).abs().amax(2) < 0.5  # of equal scores either may come first
    assert (near & (found.labels[:, None] == wanted.labels)).any(0).float().mean() > 0.9


def graph(model, recipe, image, nms=False):
    """What is written to a file, run by PyTorch; resizing is the identity for images of the network's size."""
    with torch.no_grad():
        return [y[0] for y in _whole(model, Manifest(recipe, nms=nms))[1](torch.from_numpy(image)[None])]


@pytest.mark.parametrize('name', [name for name in CONFIGS if name.startswith(DETECTORS)])
def test_detectors(name, tmp_path):
    cfg, weights = trained(name, tmp_path, **{'model.test_cfg.score_thr': 0.3}, **CHANGES.get(name, {}))
    recipe = Recipe.from_config(cfg)
    image = photo(*recipe.size)
    (wanted,) = Predictor.from_checkpoint(cfg, weights)([image])
    model = init_detector(cfg, weights, device='cpu', palette='random')
    assert list(model.dataset_meta['classes']) == list(recipe.classes)
    cv2.imwrite(str(tmp_path / 'photo.png'), image)
    same_objects(inference_detector(model, str(tmp_path / 'photo.png')).pred_instances, wanted)
    same_objects(inference_detector(model, image).pred_instances, wanted)
    # after MMDetection wrote into the config
    same_objects(deploy(model, engine='eager')([image])[0], wanted)
    boxes, scores = graph(model, recipe, image)
    found = suppress(boxes, scores, recipe.test_cfg)
    found.bboxes = found.bboxes.clamp(min=0).minimum(torch.tensor(image.shape[1::-1] * 2))  # FPNLite's reach beyond
    same_objects(found, wanted)
    boxes, scores, labels = graph(model, recipe, image, nms=True)
    if recipe.test_cfg['nms_pre'] > 0:  # without a limit, files take the 1000 highest-scoring
        found = type(wanted)(bboxes=boxes, scores=scores, labels=labels)
        same_objects(found[scores > 0], wanted)


@pytest.mark.parametrize('name', [name for name in CONFIGS if not name.startswith(DETECTORS)])
def test_segmenters(name, tmp_path):
    cfg, weights = trained(name, tmp_path, **CHANGES.get(name, {}))
    image = photo(120, 161)
    predict = Predictor.from_checkpoint(cfg, weights)
    (wanted,) = predict([image])
    assert wanted.shape == image.shape[:2] and len(np.unique(wanted)) > 1
    model = init_model(cfg, weights, device='cpu')
    assert list(model.dataset_meta['classes']) == list(predict.recipe.classes)
    assert [tuple(colour) for colour in model.dataset_meta['palette']] == list(predict.recipe.palette)
    cv2.imwrite(str(tmp_path / 'photo.png'), image)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        inferencer = MMSegInferencer(cfg, weights, device='cpu')
        labels = [inferencer(str(tmp_path / 'photo.png'))['predictions']]
    labels += [inference_model(model, x).pred_sem_seg.data[0].numpy() for x in (str(tmp_path / 'photo.png'), image)]
    try:
        recipe = Recipe.from_config(cfg)
    except ValueError as error:  # refused by name: the pipeline keeps the ratio of sides
        assert 'ade20k' in name and 'keep_ratio' in str(error)
    else:
        labels += [deploy(model, engine='eager')([image])[0]]
        if recipe.size is None:
            labels += [graph(model, recipe, image)[0].numpy()]
    for found in labels:
        assert found.shape == wanted.shape and (found == wanted).mean() > 0.999


def test_a_segmenter_of_one_score(tmp_path):
    loss = dict(type='CrossEntropyLoss', use_sigmoid=True)
    cfg = load_config('deeplabv3lite_mnv2_voc12.py')
    cfg.model.decode_head.update(num_classes=2, out_channels=1, threshold=0.5, loss_decode=loss)
    for name in ('val_dataloader', 'test_dataloader', 'train_dataloader'):
        cfg[name].dataset.metainfo = dict(classes=('background', 'cat'))
    cfg.dump(tmp_path / 'binary.py')
    size = {'model.data_preprocessor.test_cfg.size': (129, 161)}
    cfg, weights = trained(str(tmp_path / 'binary.py'), tmp_path, **size)
    image = photo(129, 161)
    (wanted,) = Predictor.from_checkpoint(cfg, weights)([image])
    assert 0.02 < wanted.mean() < 0.98
    model = init_model(cfg, weights, device='cpu')
    for found in (deploy(model, engine='eager')([image])[0], graph(model, Recipe.from_config(cfg), image)[0].numpy()):
        assert (found == wanted).mean() > 0.999
    for bad in (dict(num_classes=1, out_channels=None), dict(loss_decode=dict(type='CrossEntropyLoss'))):
        head = {**cfg.model.decode_head, **bad}
        with pytest.raises(ValueError, match=r'num_classes=\d, out_channels=1: the background is a class'):
            MODELS.build({**cfg.model, 'decode_head': head})


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """A small detector, its recipe, an image and what its head sees of it."""
    options = {'test_dataloader.dataset.pipeline.1.scale': (96, 96), 'model.bbox_head.num_classes': 4}
    cfg, weights = trained('ssdlite_mnv2_voc12.py', tmp_path_factory.mktemp('small'), **options)
    model = init_detector(cfg, weights, device='cpu', palette='random')
    parts = model, Recipe.from_config(cfg), photo(96, 96), Detector(model, (96, 96))
    return lambda: parts  # which hypothesis would print at length


@settings(max_examples=40, deadline=None, report_multiple_bugs=False)
@given(
    score_thr=st.sampled_from([0.0, 0.2, 0.5, 0.99]),
    nms_pre=st.sampled_from([-1, 0, 1, 30, 400]),
    max_per_img=st.sampled_from([1, 20, 300]),
    nms=st.fixed_dictionaries(
        dict(iou_threshold=st.sampled_from([0.3, 0.7])),
        optional=dict(
            class_agnostic=st.booleans(),
            split_thr=st.just(50),  # beyond it mmcv goes class by class
            max_num=st.just(7),
            type=st.sampled_from(['nms', 'soft_nms']),
        ),
    ),
    min_bbox_size=st.sampled_from([None, -1, 0, 30]),
)
def test_every_option_of_test_cfg_is_obeyed_or_refused(small, nms, min_bbox_size, **options):
    model, recipe, image, network = small()
    nms = {'type': 'nms', **nms}
    if nms['type'] == 'soft_nms':  # which has other options
        nms = {key: value for key, value in nms.items() if key in ('type', 'iou_threshold', 'class_agnostic')}
    options |= dict(nms=nms) | (dict() if min_bbox_size is None else dict(min_bbox_size=min_bbox_size))
    model.bbox_head.test_cfg = model.test_cfg = type(model.test_cfg)(options)
    meta = dict(img_shape=(96, 96), ori_shape=(96, 96), scale_factor=(1.0, 1.0), batch_input_shape=(96, 96))
    inputs = torch.from_numpy(image).permute(2, 0, 1)
    (sample,) = model.test_step(dict(inputs=[inputs], data_samples=[DetDataSample(metainfo=meta)]))
    wanted = sample.pred_instances
    with torch.no_grad():
        boxes, scores = (y[0] for y in network(torch.from_numpy(image)[None]))
    found = suppress(boxes, scores, options)

    def agree(one, other):
        assert len(one) == len(other)
        torch.testing.assert_close(one.scores, other.scores, atol=5e-3, rtol=0)
        assert len(one) == 0 or (one.bboxes - other.bboxes).abs().amax(1).lt(0.1).float().mean() > 0.9

    agree(found, wanted)
    recipe = Recipe(recipe.task, recipe.classes, recipe.palette, recipe.size, recipe.sampling, options)
    unknown = set(nms) - {'type', 'iou_threshold', 'class_agnostic', 'split_thr'}
    if unknown or nms['type'] != 'nms':
        with pytest.raises(UserError, match=f'--nms: no onnx file has test_cfg.nms.{min(unknown, default="type")}'):
            check_nms(options, ExportOptions('onnx', nms=True))
    else:
        check_nms(options, ExportOptions('onnx', nms=True))
        boxes, scores, labels = graph(model, recipe, image, nms=True)
        real = scores > 0
        agree(type(wanted)(bboxes=boxes[real], scores=scores[real], labels=labels[real]), wanted)


def test_options_that_nothing_reads_are_refused(small):
    from mmengine.config import ConfigDict

    from mnv2_backbone import SSDLiteHead

    with pytest.raises(ValueError, match='test_cfg.score_thresh: no such option; allowed are score_thr'):
        SSDLiteHead(2, (8,), test_cfg=ConfigDict(score_thresh=0.3, max_per_img=5))
    with pytest.raises(ValueError, match='max_per_img=-1'):
        SSDLiteHead(2, (8,), test_cfg=ConfigDict(max_per_img=-1))


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'test_dataloader.dataset.pipeline.1.interpolation': 'nearest'}, "interpolation.*'nearest'"),
        ({'test_dataloader.dataset.pipeline.0.color_type': 'grayscale'}, 'grayscale'),
        ({'model.data_preprocessor.pad_size_divisor': 32}, 'pad_size_divisor=32'),
    ],
)
def test_what_a_deployed_form_would_do_differently_is_refused(change, words, tmp_path):
    cfg = load_config('ssdlite_mnv2_coco_tf.py')
    init_default_scope('mmdet')  # other tests leave others behind
    node = cfg
    for key, value in change.items():
        *path, last = key.split('.')
        for part in path:
            node = node[int(part) if part.isdigit() else part]
        node[last] = value
    model = MODELS.build({**cfg.model, 'backbone': {**cfg.model.backbone, 'init_cfg': None}})
    with pytest.raises(ValueError, match=words):
        deploy(model.eval(), cfg, engine='eager')


def test_models_of_others_are_refused_by_name():
    from mmdet.utils import register_all_modules
    from mmengine.hub import get_config
    from mmengine.utils import is_installed

    if not is_installed('mmdet'):
        pytest.skip('this mmengine does not find the configs of MMDetection by name')
    register_all_modules()
    cfg = get_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    cfg.model.backbone.init_cfg = None
    with pytest.raises(ValueError, match='RetinaNet: only MobileNetV2, SSDLite, FPNLite and DeepLab of this package'):
        deploy(MODELS.build(cfg.model), cfg)

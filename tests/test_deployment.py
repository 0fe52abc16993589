"""Deployed models against the trained ones they come from."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from conftest import ROOT, disturb
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmseg.structures import SegDataSample

import mnv2_backbone
from mnv2_backbone import MobileNetV2
from mnv2_backbone.deployment.backends import OpenVINO, choose_engine
from mnv2_backbone.deployment.deploy import deploy, run_with
from mnv2_backbone.deployment.folding import fold_norms, settle_padding
from mnv2_backbone.deployment.predictor import _highest, suppress
from mnv2_backbone.deployment.recipe import classes_and_palette
from mnv2_backbone.network.layers import ConvNormAct
from mnv2_backbone.training.cpu import multiplies_bfloat16


def build(config, scope, **options):
    register_all_modules()
    cfg = Config.fromfile(ROOT / 'configs' / config)
    cfg.merge_from_dict({'model.backbone.init_cfg': None, 'model.backbone.widen_factor': 0.35, **options})
    init_default_scope(scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return disturb(model), cfg


def picture(height, width, seed=0):
    coarse = np.random.RandomState(seed).randint(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width].copy()


def detected(model, recipe, image):
    resized = recipe.resize(image)
    height, width = resized.shape[:2]
    meta = dict(
        img_shape=(height, width),
        ori_shape=image.shape[:2],
        scale_factor=(width / image.shape[1], height / image.shape[0]),
        batch_input_shape=(height, width),
    )
    inputs = torch.from_numpy(resized).permute(2, 0, 1)
    return model.test_step(dict(inputs=[inputs], data_samples=[DetDataSample(metainfo=meta)]))[0].pred_instances


DETECTORS = {
    # even sizes, where SAME is uneven; equal means
    'tf': ('ssdlite_mnv2_coco_tf.py', {}, (160, 128)),
    # sizes that are even in one layer and odd in the next, means that differ, channels left as they come
    'means': (
        'ssdlite_mnv2_coco.py',
        {
            'model.data_preprocessor.mean': [103.5, 116.3, 123.7],
            'model.data_preprocessor.std': [57.0, 58.4, 57.4],
            'model.data_preprocessor.bgr_to_rgb': False,
        },
        (150, 147),
    ),
    'explicit': ('ssdlite_mnv2_coco.py', {'model.backbone.padding': 'explicit'}, (128, 160)),
}


@pytest.mark.parametrize('name', DETECTORS)
def test_a_deployed_detector_finds_what_the_trained_one_finds(name):
    config, options, size = DETECTORS[name]
    model, cfg = build(config, 'mmdet', **options)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    detect = deploy(model, cfg, size=size, engine='eager')
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    images = [picture(90, 200), picture(*size, seed=1)]
    for image, found in zip(images, detect(images)):
        wanted = detected(model, detect.recipe, image)
        assert len(found) == len(wanted) > 20
        torch.testing.assert_close(found.scores, wanted.scores, atol=1e-5, rtol=0)
        # of equal scores either may come first
        near = (found.labels == wanted.labels) & ((found.bboxes - wanted.bboxes).abs().amax(1) < 0.01)
        assert near.float().mean() > 0.9
    batch = torch.from_numpy(picture(*size))[None]
    with torch.no_grad():
        boxes, scores = detect.run.network(batch)
        inputs = model.data_preprocessor(dict(inputs=[batch[0].permute(2, 0, 1)]))['inputs']
        logits, codes = model.bbox_head.flatten(*model.bbox_head(model.neck(model.backbone(inputs))))
        torch.testing.assert_close(scores, model.bbox_head.scores(logits), atol=1e-5, rtol=0)
        anchors = detect.run.network.anchors
        wanted = model.bbox_head.bbox_coder.decode(anchors, codes[0], max_shape=size)
    torch.testing.assert_close(boxes[0], wanted, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize('engine', ['auto', 'openvino', 'inductor'])
def test_engines_change_nothing_but_the_time(engine):
    if engine == 'openvino':
        pytest.importorskip('openvino', reason='this engine needs pip install .[export]')
    model, cfg = build('ssdlite_mnv2_coco_tf.py', 'mmdet')
    image = picture(64, 64)
    plain = deploy(model, cfg, size=(64, 64), engine='eager')
    fast = mnv2_backbone.deploy(model, cfg, size=(64, 64), engine=engine)
    assert not isinstance(fast.run.network, type(plain.run.network))
    batch = torch.from_numpy(np.stack([image] * 3)).float()
    with torch.no_grad():
        for got, want in zip(fast.run.network(batch), plain.run.network(batch)):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_without_a_compiler_the_folded_network_is_used(caplog):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 7, 3), torch.nn.ReLU6())
    # torch's own way to change them for a while: pytest's leaves them deleted
    without = torch._inductor.config.patch({'cpp.cxx': ('/no/such/compiler',), 'force_disable_caches': True})
    with without, caplog.at_level(logging.WARNING):
        assert run_with(choose_engine('inductor', 'fp32'), network, torch.rand(1, 3, 9, 11)) is network


def test_bfloat16_keeps_anchors_and_boxes_in_float32():
    model, cfg = build('ssdlite_mnv2_coco_tf.py', 'mmdet')
    image = torch.from_numpy(picture(160, 160))[None]
    full = deploy(model, cfg, size=(160, 160), engine='eager').run.network
    half = deploy(model, cfg, size=(160, 160), engine='eager', precision='bf16').run.network
    with torch.no_grad():
        (boxes, scores), (boxes16, scores16) = full(image), half(image)
    assert boxes16.dtype == scores16.dtype == torch.float32
    assert 0 < (scores - scores16).abs().max() < 0.02
    assert (boxes - boxes16).abs().quantile(0.99) < 2


@pytest.mark.parametrize('engine', ['auto', 'eager'])
def test_a_backbone_in_bfloat16_takes_and_gives_float32(engine):
    net = disturb(MobileNetV2(widen_factor=0.35, out_indices=('layer_4', 'layer_19')))
    half = deploy(net, size=(64, 96), precision='bf16', engine=engine)
    rounds = engine == 'eager' or multiplies_bfloat16('cpu')  # OpenVINO computes in float32 elsewhere
    for size in ((64, 96), (75, 50)):
        x = torch.rand(2, 3, *size) * 2 - 1
        with torch.no_grad():
            for got, want in zip(half(x), net(x)):
                assert got.dtype == torch.float32
                error = float((got - want).abs().max() / want.abs().max())
                assert (1e-4 if rounds else 0) < error < 0.05


def test_a_deployed_segmenter_gives_the_trained_one_s_labels():
    model, cfg = build('deeplabv3lite_mnv2_voc_tf.py', 'mmseg', **{'model.data_preprocessor.test_cfg.size': (129, 129)})
    segment = deploy(model, cfg, engine='eager')
    slow = []
    segment.run.network.network.register_forward_hook(lambda module, inputs, output: slow.append(inputs[0].shape[1:3]))
    images = [picture(100, 129), picture(140, 90, seed=1)]  # the second is larger than what it is fast on
    found = segment(images)
    assert slow == [(140, 129)]  # the first is padded to the size that is fast
    for image, labels in zip(images, found):
        inputs = torch.from_numpy(image).permute(2, 0, 1)
        sample = SegDataSample(metainfo=dict(img_shape=image.shape[:2], ori_shape=image.shape[:2]))
        wanted = model.test_step(dict(inputs=[inputs], data_samples=[sample]))[0].pred_sem_seg.data[0].numpy()
        assert labels.shape == wanted.shape and len(np.unique(wanted)) > 1
        assert (labels == wanted).mean() > 0.999


def test_a_backbone_is_deployed_for_one_size_after_another():
    network = MobileNetV2(widen_factor=0.35, out_indices='layer_3').eval()
    for side in (32, 48):  # the translations of both are kept
        x = torch.rand(1, 3, side, side)
        torch.testing.assert_close(deploy(network, size=(side, side))(x)[0], network(x)[0], rtol=1e-4, atol=1e-4)


def test_a_deployed_backbone_takes_every_size():
    net = disturb(MobileNetV2(widen_factor=0.35, out_indices=('layer_4', 'layer_15/expansion_output', 'layer_19')))
    fast = deploy(net, size=(64, 96), engine='eager')
    for size in ((64, 96), (75, 50)):
        x = torch.rand(2, 3, *size) * 2 - 1
        with torch.no_grad():
            for got, want in zip(fast(x), net(x)):
                torch.testing.assert_close(got, want, atol=1e-4 * float(want.abs().max()), rtol=0)


def test_convolutions_that_compute_their_weights_are_left_alone():
    options = dict(widen_factor=0.35, conv_cfg=dict(type='ConvWS'), out_indices=(3,))
    net = disturb(MobileNetV2(frozen_stages=8, **options))
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        (wanted,) = net.eval()(x)
        near = dict(atol=1e-4 * float(wanted.abs().max()), rtol=0)
        torch.testing.assert_close(deploy(net, size=(64, 64), engine='eager')(x)[0], wanted, **near)
        torch.testing.assert_close(net.train()(x)[0], wanted, **near)
    model, cfg = build('ssdlite_mnv2_coco_tf.py', 'mmdet', **{'model.backbone.conv_cfg': dict(type='ConvWS')})
    with pytest.raises(ValueError, match='conv_cfg: ConvWS2d cannot be deployed'):
        deploy(model, cfg, engine='eager')


class NormFirst(torch.nn.Module):
    """A norm that is registered after a convolution, and computed before it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(4, 4, 1), torch.nn.BatchNorm2d(4)

    def forward(self, x):
        return self.conv(self.norm(x))


def test_a_norm_is_folded_only_where_it_follows():
    net, x = disturb(NormFirst()).eval(), torch.rand(1, 4, 5, 5)
    torch.testing.assert_close(fold_norms(net)(x), net(x))


def test_classes_without_colours_get_some():
    for palette in (None, [], [(1, 2, 3)]):
        assert len(classes_and_palette(dict(classes=('a', 'b', 'c'), palette=palette))[1]) == 3
    assert classes_and_palette(dict(classes=('a',), palette=[(1, 2, 3), (4, 5, 6)]))[1][0] == (1, 2, 3)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 6),
    stride=st.integers(1, 3),
    rate=st.integers(1, 2),
    height=st.integers(5, 20),
    width=st.integers(5, 20),
)
def test_settled_padding_is_the_same_padding(kernel, stride, rate, height, width):
    rate = 1 if stride > 1 else rate  # as in every plan
    layer = ConvNormAct(4, 4, kernel, stride, rate, groups=4, norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU6'))
    x = torch.randn(1, 4, height, width)
    settled = fold_norms(layer)
    settle_padding(settled, x)
    with torch.no_grad():
        torch.testing.assert_close(settled(x), layer.eval()(x), atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), anchors=st.integers(1, 300), thr=st.floats(0, 0.99), pre=st.sampled_from([-1, 7, 90])
)
def test_suppression_is_the_trained_model_s(seed, anchors, thr, pre):
    from mmcv.ops import batched_nms
    from mmdet.models.utils import filter_scores_and_topk

    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(anchors, 2, generator=generator) * 80
    boxes = torch.cat([corner, corner + torch.rand(anchors, 2, generator=generator) * 40 + 1], 1)
    scores = ((torch.randperm(3 * anchors, generator=generator) + 1) / (3 * anchors + 1)).view(anchors, 3)  # no ties
    cfg = dict(score_thr=thr, nms_pre=pre, nms=dict(type='nms', iou_threshold=0.4), max_per_img=5)
    found = suppress(boxes, scores, cfg)
    limit = pre if pre > 0 else scores.numel()
    top, labels, _, kept = filter_scores_and_topk(scores, thr, limit, dict(boxes=boxes))
    if not len(top):  # mmcv's function fails on none
        assert len(found) == 0
        return
    wanted, keep = batched_nms(kept['boxes'], top, labels, dict(cfg['nms']))
    assert torch.equal(found.bboxes, wanted[:5, :4]) and torch.equal(found.scores, wanted[:5, 4])
    assert torch.equal(found.labels, labels[keep][:5])
    if not (scores - thr).abs().lt(1e-6).any():
        from_logits = suppress(boxes, scores.logit(), cfg, logits=True)
        assert torch.equal(from_logits.labels, found.labels) and torch.equal(from_logits.bboxes, found.bboxes)
        torch.testing.assert_close(from_logits.scores, found.scores)


@given(st.lists(st.integers(0, 5), max_size=60), st.data())
def test_of_equal_scores_the_first_are_taken(scores, data):
    values = np.array(scores, np.float32) / 5
    count = data.draw(st.integers(0, len(values)))
    assert _highest(values, count).tolist() == np.argsort(-values, kind='stable')[:count].tolist()


@pytest.mark.parametrize(
    ('change', 'options', 'words'),
    [
        ({}, dict(engine='steam'), "engine='steam': allowed for fp32 are auto, onnxruntime, openvino, inductor, eager"),
        (
            {},
            dict(engine='onnxruntime', precision='bf16'),
            "engine='onnxruntime': allowed for bf16 are auto, openvino, inductor, eager",
        ),
        ({}, dict(precision='int4'), "precision='int4': allowed are 'fp32', 'bf16'"),
        ({'test_dataloader.dataset.pipeline.1.keep_ratio': True}, {}, 'the test pipeline has'),
    ],
)
def test_what_cannot_be_deployed_is_said(change, options, words):
    model, cfg = build('ssdlite_mnv2_coco_tf.py', 'mmdet', **change)
    with pytest.raises(ValueError, match=words):
        deploy(model, cfg, **options)
    with pytest.raises(ValueError, match='size: a bare backbone needs'):
        deploy(model.backbone)


@pytest.mark.parametrize(
    ('option', 'words'),
    [
        ({'model.data_preprocessor.pad_val': 50}, 'pad_val=50: only 0'),
        ({'model.decode_head.num_classes': 300}, 'num_classes=300: at most 256'),
    ],
)
def test_what_a_segmenter_could_not_do_the_same_is_said(option, words):
    model, cfg = build('deeplabv3lite_mnv2_voc.py', 'mmseg', **option)
    with pytest.raises(ValueError, match=words):
        deploy(model, cfg, size=(64, 64), engine='eager')


def test_a_segmenter_that_resizes_can_be_deployed_for_another_size():
    options = {'model.data_preprocessor.test_cfg.size': (64, 64), 'test_dataloader.dataset.pipeline.1.scale': (64, 64)}
    model, cfg = build('deeplabv3lite_mnv2_demo.py', 'mmseg', **options)
    predictor = deploy(model, cfg, size=(96, 128), engine='eager')
    assert predictor.recipe.size == (96, 128) and predictor.run.network.shape == (96, 128, 3)
    assert predictor([picture(70, 90)])[0].shape == (70, 90)


def test_an_engine_that_is_not_installed_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setattr(OpenVINO, 'libraries', ('no_such_library',))
    with pytest.raises(ValueError, match=r"engine='openvino' needs no_such_library: pip install .*\[export\]"):
        deploy(MobileNetV2(), size=(32, 32), engine='openvino')
    assert choose_engine('auto', 'bf16').name == 'inductor'

"""SSDLite against the paper's counts, MMDetection's loss and boxes, and its own promises."""

from __future__ import annotations

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch.utils.flop_counter import FlopCounterMode

from mnv2_backbone.network.anchors import TFAnchorGenerator
from mnv2_backbone.network.ssdlite import SSDLiteHead


@pytest.fixture(scope='module', autouse=True)
def mmdet_scope():
    """Other tests leave other default scopes behind."""
    register_all_modules()


TRAIN = ConfigDict(
    assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.0, gt_max_assign_all=False),
    neg_pos_ratio=3,
    smoothl1_beta=1.0,
    allowed_border=-1,
    pos_weight=-1,
)
TEST = ConfigDict(score_thr=0.02, nms_pre=-1, nms=dict(type='nms', iou_threshold=0.5), max_per_img=50, min_bbox_size=0)


def detector(num_classes=80, head=None, neck=None, **backbone):
    cfg = dict(
        type='mnv2_backbone.SSDLite',
        backbone=dict(
            type='mnv2_backbone.MobileNetV2', out_indices=('layer_15/expansion_output', 'layer_19'), **backbone
        ),
        neck=dict(type='mnv2_backbone.SSDLiteNeck', **(neck or {})),
        bbox_head=dict(type='mnv2_backbone.SSDLiteHead', num_classes=num_classes, **(head or {})),
        train_cfg=TRAIN,
        test_cfg=TEST,
    )
    return MODELS.build(cfg)


def samples(sizes, image, seed=0, num_classes=8):
    """Ground truth of ``sizes`` boxes a picture, at least a tenth of the picture wide."""
    generator = torch.Generator().manual_seed(seed)
    height, width = image
    out = []
    for count in sizes:
        corner = torch.rand(count, 2, generator=generator) * 0.6
        extent = 0.1 + torch.rand(count, 2, generator=generator) * 0.3
        scale = torch.tensor([width, height, width, height])
        boxes = torch.cat([corner, corner + extent], 1) * scale
        labels = torch.randint(num_classes, (count,), generator=generator)
        sample = DetDataSample(metainfo=dict(img_shape=image, batch_input_shape=image, scale_factor=(1.0, 1.0)))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        out.append(sample)
    return out


@pytest.mark.parametrize(
    ('options', 'params', 'madds'),
    [
        (dict(), 4.337, 0.789),
        (dict(widen_factor=0.35, finegrain=True), 1.50, 0.222),
        (dict(widen_factor=0.5, finegrain=True), 2.01, 0.317),
        (dict(widen_factor=0.75, finegrain=True), 3.05, 0.573),
        (dict(widen_factor=1.4, finegrain=True), 7.64, 1.456),
        (dict(widen_factor=0.35), 0.891, 0.161),
        (dict(widen_factor=0.5), 1.480, 0.265),
    ],
)
def test_counts_are_tensorflows(options, params, madds):
    net = detector(**options).eval()
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        net(torch.rand(1, 3, 320, 320))
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(params, rel=5e-3)
    assert flops.get_total_flops() / 2e9 == pytest.approx(madds, rel=5e-3)


def test_anchors():
    generator = TFAnchorGenerator()
    assert generator.num_base_priors == [3, 6, 6, 6, 6, 6]
    for side, total in ((300, 1917), (320, 2034)):
        maps = [-(-side // stride) for stride in (16, 32, 64, 128, 256, 512)]
        levels = generator.grid_priors([(n, n) for n in maps], (side, side))
        assert sum(len(level) for level in levels) == total
    # a picture twice as wide: same boxes as the square of its shorter side, spread over the width
    levels = generator.grid_priors([(10, 20), (5, 10), (3, 5), (2, 3), (1, 2), (1, 1)], (160, 320))
    first = levels[0].view(10, 20, 3, 4)
    centres = (first[..., :2] + first[..., 2:]) / 2
    assert torch.allclose(centres[0, :, 0, 0], (torch.arange(20) + 0.5) * 16)
    assert torch.allclose(centres[:, 0, 0, 1], (torch.arange(10) + 0.5) * 16)
    sides = first[0, 0, :, 2:] - first[0, 0, :, :2]
    expected = torch.tensor([[0.1, 0.1], [0.2 * 2**0.5, 0.2 / 2**0.5], [0.2 / 2**0.5, 0.2 * 2**0.5]]) * 160
    assert torch.allclose(sides, expected, rtol=1e-5)
    last = levels[-1]
    sides = last[:, 2:] - last[:, :2]
    assert sides[0].tolist() == pytest.approx([152, 152])  # 0.95 of 160
    assert sides[-1].tolist() == pytest.approx([160 * 0.95**0.5] * 2, rel=1e-5)


def test_anchors_of_a_reference_size_keep_their_pixels_at_any_input():
    maps = [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1), (1, 1)]
    usual = TFAnchorGenerator().grid_priors(maps, (128, 128))
    kept = TFAnchorGenerator(reference_size=128).grid_priors([(2 * h, 2 * w) for h, w in maps], (256, 256))
    for boxes, level, (h, w) in zip(usual, kept, maps):
        sides, more = (
            (x[..., 2:] - x[..., :2]).view(n, m, -1, 2) for x, n, m in ((boxes, h, w), (level, 2 * h, 2 * w))
        )
        assert torch.allclose(sides[0, 0], more[-1, -1], rtol=1e-4)
    with pytest.raises(ValueError, match='reference_size=0: allowed are None and numbers of pixels above 0'):
        TFAnchorGenerator(reference_size=0)


class _Anchors:
    """Our anchors behind the interface that MMDetection's head calls."""

    def __init__(self, image):
        self.ours, self.image = TFAnchorGenerator(), image
        self.num_levels, self.num_base_priors = self.ours.num_levels, self.ours.num_base_priors

    def grid_priors(self, sizes, dtype=torch.float32, device='cpu'):
        return self.ours.grid_priors(sizes, self.image)

    def valid_flags(self, sizes, pad_shape, device='cpu'):
        return [torch.ones(h * w * n, dtype=torch.bool) for (h, w), n in zip(sizes, self.num_base_priors)]


@pytest.fixture(scope='module')
def predictions():
    image = (160, 224)
    torch.manual_seed(0)
    ours = detector(num_classes=8, widen_factor=0.35).bbox_head
    maps = [(10, 14), (5, 7), (3, 4), (2, 2), (1, 1), (1, 1)]
    cls = [torch.randn(3, n * 9, *size) for n, size in zip([3, 6, 6, 6, 6, 6], maps)]
    box = [torch.randn(3, n * 4, *size) for n, size in zip([3, 6, 6, 6, 6, 6], maps)]
    theirs = MODELS.build(
        dict(
            type='mmdet.SSDHead',
            num_classes=8,
            in_channels=(8,) * 6,
            anchor_generator=dict(
                type='SSDAnchorGenerator',
                scale_major=False,
                strides=[16, 32, 64, 107, 160, 320],
                ratios=[[2]] + [[2, 3]] * 5,
                min_sizes=[48, 100, 150, 202, 253, 304],
                max_sizes=[100, 150, 202, 253, 304, 320],
            ),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
            train_cfg=TRAIN,
            test_cfg=TEST,
        )
    )
    theirs.prior_generator = _Anchors(image)
    return ours, theirs, cls, box, image


def test_loss_equals_mmdetections(predictions):
    ours, theirs, cls, box, image = predictions
    batch = samples((4, 1, 7), image)
    truth = [sample.gt_instances for sample in batch]
    metas = [dict(sample.metainfo, pad_shape=image) for sample in batch]
    leaves = [x.clone().requires_grad_() for x in (*cls, *box)]
    found = ours.loss_by_feat(leaves[:6], leaves[6:], truth, metas)
    sum(found.values()).backward()
    gradients = [x.grad.clone() for x in leaves]
    for leaf in leaves:
        leaf.grad = None
    expected = theirs.loss_by_feat(leaves[:6], leaves[6:], truth, metas)
    sum(sum(value) for value in expected.values()).backward()
    for name in ('loss_cls', 'loss_bbox'):
        assert found[name].item() == pytest.approx(float(sum(expected[name])), rel=1e-5), name
    for gradient, leaf in zip(gradients, leaves):
        assert torch.allclose(gradient, leaf.grad, atol=1e-6)


def test_a_box_without_an_area_does_not_count(predictions):
    ours, _, cls, box, image = predictions
    metas = [sample.metainfo for sample in samples((2, 2, 2), image)]
    truth = [sample.gt_instances for sample in samples((2, 2, 2), image)]
    expected = ours.loss_by_feat(cls, box, truth, metas)
    for gt in truth[:2]:
        gt.bboxes[1, 2] = gt.bboxes[1, 0]
    found = ours.loss_by_feat(cls, box, truth, metas)
    left_out = ours.loss_by_feat(cls, box, [truth[0][:1], truth[1][:1], truth[2]], metas)
    assert found == left_out and found['loss_bbox'].isfinite() and found != expected


def test_boxes_equal_mmdetections(predictions):
    ours, theirs, cls, box, image = predictions
    # MMDetection 3.2 and 3.3 ask the head for the loss_cls that it does not have
    theirs.loss_cls = torch.nn.Identity()
    metas = [dict(img_shape=image, batch_input_shape=image, scale_factor=(2.0, 0.5))] * 3
    found = ours.predict_by_feat(cls, box, batch_img_metas=metas, rescale=True)
    expected = theirs.predict_by_feat(cls, box, batch_img_metas=metas, rescale=True)
    for a, b in zip(found, expected):
        assert len(a) == 50
        assert torch.equal(a.labels, b.labels)
        assert torch.allclose(a.scores, b.scores, atol=1e-6)
        assert torch.allclose(a.bboxes, b.bboxes, atol=1e-4)


def test_pictures_without_objects_and_sigmoid_scores():
    torch.manual_seed(0)
    head = detector(num_classes=3, head=dict(score_converter='sigmoid'), widen_factor=0.35).bbox_head
    head.train_cfg = ConfigDict(TRAIN, min_negatives=3)
    maps = [(4, 4), (2, 2), (1, 1), (1, 1), (1, 1), (1, 1)]
    cls = [torch.randn(2, n * 4, *size) for n, size in zip([3, 6, 6, 6, 6, 6], maps)]
    box = [torch.randn(2, n * 4, *size, requires_grad=True) for n, size in zip([3, 6, 6, 6, 6, 6], maps)]
    batch = samples((0, 0), (64, 64), num_classes=3)
    metas = [sample.metainfo for sample in batch]
    loss = head.loss_by_feat(cls, box, [sample.gt_instances for sample in batch], metas)
    flat = torch.cat([x.permute(0, 2, 3, 1).reshape(2, -1, 4) for x in cls], 1)
    target = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand_as(flat)
    each = torch.nn.functional.binary_cross_entropy_with_logits(flat, target, reduction='none').sum(-1)
    assert loss['loss_cls'].item() == pytest.approx(each.topk(3).values.sum().item(), rel=1e-5)
    assert loss['loss_bbox'].item() == 0
    assert torch.equal(head.scores(flat), flat.sigmoid()[..., :3])


@pytest.mark.parametrize('image', [(233, 417), (300, 300), (65, 64)])
@pytest.mark.parametrize('padding', ['same', 'explicit'])
def test_any_size_trains_and_predicts(image, padding):
    torch.manual_seed(0)
    net = detector(num_classes=8, widen_factor=0.35, padding=padding, neck=dict(padding=padding))
    net.init_weights()
    batch = samples((2, 3), image)
    x = torch.rand(2, 3, *image) * 2 - 1
    losses = net(x, batch, mode='loss')
    sum(losses.values()).backward()
    # the last two maps may be a single pixel, whose batch norm over two pictures is still defined
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    results = net.eval()(x, batch, mode='predict')
    for result in results:
        boxes = result.pred_instances.bboxes
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([image[1], image[0]] * 2)).all()


def test_it_learns_to_find_one_box():
    torch.manual_seed(0)
    norm = dict(type='GN', num_groups=1)
    net = detector(3, dict(norm_cfg=norm), dict(norm_cfg=norm), widen_factor=0.35, norm_cfg=norm)
    net.init_weights()
    batch = samples((1,), (128, 128), seed=3, num_classes=3)
    x = torch.rand(1, 3, 128, 128) * 2 - 1
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(net(x, batch, mode='loss').values()).backward()
        optimizer.step()
    truth = batch[0].gt_instances
    best = net.eval()(x, batch, mode='predict')[0].pred_instances[:1]
    assert best.labels.item() == truth.labels.item() and best.scores.item() > 0.5
    assert (best.bboxes - truth.bboxes).abs().max() < 3


def test_channels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError) as error:
        detector(neck=dict(in_channels=(96, 1280)))
    assert '(96, 1280)' in str(error.value) and '(576, 1280)' in str(error.value)
    with pytest.raises(ValueError) as error:
        detector(head=dict(in_channels=(576, 1280, 512, 256, 256, 256)))
    assert '(576, 1280, 512, 256, 256, 128)' in str(error.value)
    with pytest.raises(ValueError, match='score_converter'):
        detector(head=dict(score_converter='tanh'))
    with pytest.raises(ValueError, match='num_levels'):
        detector(head=dict(anchor_generator=dict(type='mnv2_backbone.TFAnchorGenerator', num_levels=5)))


def test_more_or_fewer_maps_than_levels_are_refused():
    generator = TFAnchorGenerator(num_levels=3)
    for count in (2, 4):
        with pytest.raises(ValueError, match=f'{count} feature maps for num_levels=3: must be equal'):
            generator.grid_priors([(4, 4)] * count, (64, 64))
    head = SSDLiteHead(2, (8, 8, 8), anchor_generator=dict(type='mnv2_backbone.TFAnchorGenerator', num_levels=3))
    with pytest.raises(ValueError, match='2 feature maps for the 3 levels of the head: must be equal'):
        head([torch.zeros(1, 8, 4, 4)] * 2)

"""The backbone under other people's necks and heads: the memory format inside it changes none of their results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import disturb

pytest.importorskip('mmdet', reason='the heads are those of MMDetection and MMSegmentation: pip install .[mm]')
import mmcv._ext
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import is_installed

from mnv2_backbone import feature_info, operators

OUT_INDICES = (1, 2, 4, 6)
DENSE = (
    'centernet/centernet-update_r50-caffe_fpn_ms-1x',
    'reppoints/reppoints-moment_r50_fpn_1x',
    'vfnet/vfnet_r50_fpn_1x',
)
TWO_STAGES = (
    'faster_rcnn/faster-rcnn_r50_fpn_1x',
    'mask_rcnn/mask-rcnn_r50_fpn_1x',
    'cascade_rcnn/cascade-rcnn_r50_fpn_1x',
)
SEGMENTERS = ['psanet/psanet_r50-d8_4xb2-40k', 'dmnet/dmnet_r50-d8_4xb2-40k']


def both_formats(scope: str, name: str) -> tuple[Any, Any]:
    """A stock model on our backbone twice, with the same weights: computing in channels-last or not."""
    if not is_installed(MODULE2PACKAGE[scope]):
        pytest.skip(f'this mmengine does not find the configs of {scope} by name')
    init_default_scope(scope)
    built = []
    for channels_last in (False, True):
        cfg = get_config(f'{scope}::{name}.py').model
        points = feature_info(out_indices=OUT_INDICES)
        cfg.backbone = dict(type='mnv2_backbone.MobileNetV2', out_indices=OUT_INDICES, channels_last=channels_last)
        if scope == 'mmdet':
            cfg.neck.in_channels = [point.channels for point in points]
        else:
            cfg.pretrained, cfg.auxiliary_head = None, None
            cfg.decode_head.in_channels = points[-1].channels
            cfg.decode_head.norm_cfg.type = 'BN'
        torch.manual_seed(0)
        model = MODELS.build(cfg)
        model.backbone.init_weights()
        built.append(disturb(model))
    built[1].load_state_dict(built[0].state_dict())
    return built[0].eval(), built[1].eval()


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [x for part in value for x in tensors(part)]


def assert_equal(one: Any, other: Any) -> None:
    assert len(tensors(one)) == len(tensors(other)) > 0
    for a, b in zip(tensors(one), tensors(other)):
        assert a.std() > 0
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max()))


@pytest.mark.parametrize(
    'scope, name',
    [
        *(('mmdet', f'{name}_coco') for name in DENSE),
        *(('mmseg', f'{name}_cityscapes-512x1024') for name in SEGMENTERS),
    ],
)
def test_dense_detectors_and_segmenters(scope, name):
    one, other = both_formats(scope, name)
    x = torch.rand(2, 3, 128, 160)
    if name.startswith('psanet') and mmcv._ext.__file__ == operators.__file__:
        with pytest.raises(NotImplementedError, match='psamask_forward needs a compiled mmcv'):
            one(x, mode='tensor')
        return
    with torch.no_grad():
        assert_equal(one(x, mode='tensor'), other(x, mode='tensor'))


@pytest.mark.parametrize('name', TWO_STAGES)
def test_features_of_regions(name):
    one, other = both_formats('mmdet', f'{name}_coco')
    x, rois = torch.rand(2, 3, 128, 160), torch.tensor([[0.0, 8, 8, 60, 90], [1, 30, 20, 150, 120], [1, 0, 0, 20, 24]])
    found = []
    for model in (one, other):
        extract = model.roi_head.bbox_roi_extractor
        extract = extract[0] if isinstance(extract, torch.nn.ModuleList) else extract
        maps = model.backbone(x)[: extract.num_inputs]
        assert all(y.is_contiguous() for y in maps)
        found.append([layer(y, rois) for layer, y in zip(extract.roi_layers, maps)])  # as without a neck
        found[-1] += [extract(model.extract_feat(x)[: extract.num_inputs], rois)]
    assert_equal(*found)

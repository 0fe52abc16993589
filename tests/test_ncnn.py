"""ncnn's files: it computes what PyTorch does, for every kind of network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_raw import SIZE, build

from mnv2_backbone.deployment.backends import FORMATS
from mnv2_backbone.deployment.network import Detector, Segmenter
from mnv2_backbone.deployment.raw import RawNetwork


@pytest.mark.parametrize(
    'config',
    [
        'ssdlite_mnv2_coco_tf.py',
        'fpnlite_mnv2_320_coco.py',
        'deeplabv3_mnv2_sepaspp_voc.py',
        'lraspp_mnv2_cityscapes.py',
    ],
)
def test_outputs_are_those_of_pytorch(config: str, tmp_path: Path) -> None:
    model, _ = build(config)
    network = Detector(model, SIZE) if hasattr(model, 'bbox_head') else Segmenter(model, SIZE)
    raw = RawNetwork(network, SIZE).eval()
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3)).astype(np.float32))
    ncnn, path = FORMATS['ncnn'], tmp_path / 'model.param'
    ncnn.write(ncnn.convert(raw, image), path, '{}')
    with torch.no_grad():
        wanted = [output.numpy() for output in raw(image).values()]
    found = ncnn.load(path, 'fp32', 1)(image.numpy())
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted):
        assert ours.shape == theirs.shape and np.ptp(theirs) > 0
        # ncnn's convolutions by Winograd's method round more, and random weights carry that on
        assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()

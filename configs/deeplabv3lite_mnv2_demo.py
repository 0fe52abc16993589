"""Segmentation of the embedded data set from scratch, in minutes on two CPU cores.

    python tools/make_toy_dataset.py data/toy
    python tools/train.py configs/deeplabv3lite_mnv2_demo.py
"""

_base_ = [
    './_base_/models/deeplabv3lite_mnv2.py',
    './_base_/datasets/toy_segmentation.py',
    './_base_/schedules/deeplab_poly.py',
    './_base_/seg_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(257, 257), test_cfg=dict(size=(257, 257))),
    backbone=dict(init_cfg=None),
    decode_head=dict(num_classes=9),
)

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

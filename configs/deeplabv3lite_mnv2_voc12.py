"""DeepLabv3-lite-MobileNetV2 with VOC 2012 only, without SBD: trained on train, tested on val.

mnv2 train deeplabv3lite_mnv2_voc12.py
"""

_base_ = [
    './_base_/models/deeplabv3lite_mnv2.py',
    './_base_/datasets/voc12.py',
    './_base_/schedules/deeplab_poly.py',
    './_base_/seg_runtime.py',
]

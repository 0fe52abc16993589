"""DeepLabv3-lite-MobileNetV2 on VOC 2012 with SBD's masks at output stride 16: 2.11 M, 2.74 G multiply-adds.

    mnv2 train deeplabv3lite_mnv2_voc.py
    mnv2 test deeplabv3lite_mnv2_voc.py CHECKPOINT --cfg-options model.backbone.output_stride=8

The recipe is DeepLab's: 46 epochs are its 30000 iterations. It has not been run to its end; the paper reports 75.32
mIoU for this network with pre-training on COCO, and without it users of the original report 70 to 71.
"""

_base_ = [
    './_base_/models/deeplabv3lite_mnv2.py',
    './_base_/datasets/voc12_sbd.py',
    './_base_/schedules/deeplab_poly.py',
    './_base_/seg_runtime.py',
]

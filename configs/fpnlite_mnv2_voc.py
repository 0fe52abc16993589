"""FPNLite-MobileNetV2 on VOC 2007 + 2012 at 320x320, from ImageNet weights, tested on VOC 2007.

    mnv2 train fpnlite_mnv2_voc.py

The recipe of ssdlite_mnv2_voc.py. It has not been run to its end on the full data.
"""

_base_ = [
    './_base_/models/fpnlite_mnv2.py',
    './_base_/datasets/voc_detection.py',
    './_base_/schedules/ssdlite_adamw_long.py',
    './_base_/default_runtime.py',
]
norm_cfg = dict(momentum=0.03)
model = dict(
    backbone=dict(norm_cfg=norm_cfg), neck=dict(norm_cfg=norm_cfg), bbox_head=dict(num_classes=20, norm_cfg=norm_cfg)
)
train_dataloader = dict(batch_size=16)

"""SSDLite-MobileNetV2 on VOC 2007 + 2012 at 320x320, tested on VOC 2007.

    mnv2 train ssdlite_mnv2_voc.py

AdamW, because on 480 of these images it is far ahead of the COCO recipe's SGD after equally many steps (see
docs/results.md). This recipe has not been run to its end on the full data.
"""

_base_ = [
    './_base_/models/ssdlite_mnv2.py',
    './_base_/datasets/voc_detection.py',
    './_base_/schedules/ssdlite_adamw_long.py',
    './_base_/default_runtime.py',
]
model = dict(bbox_head=dict(num_classes=20))
train_dataloader = dict(batch_size=16)

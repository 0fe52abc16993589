"""SSDLite-MobileNetV2 on VOC 2007 + 2012 at 320x320, tested on VOC 2007.

    python tools/train.py configs/ssdlite_mnv2_voc.py

AdamW, because on 480 of these pictures it is far ahead of the COCO recipe's SGD after equally many steps (see
docs/results.md). This recipe has not been run to its end on the full data.
"""

_base_ = [
    './_base_/models/ssdlite_mnv2.py',
    './_base_/datasets/voc_detection.py',
    './_base_/schedules/ssdlite_adamw.py',
    './_base_/default_runtime.py',
]
model = dict(bbox_head=dict(num_classes=20))

max_epochs = 240
train_dataloader = dict(batch_size=16)
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
param_scheduler = _base_.param_scheduler  # noqa: F821 - mmengine provides it
param_scheduler[0]['end'] = 500
param_scheduler[1].update(T_max=max_epochs, end=max_epochs)

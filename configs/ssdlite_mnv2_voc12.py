"""SSDLite-MobileNetV2 with VOC 2012 only: trained on its train part, tested on its val part.

mnv2 train ssdlite_mnv2_voc12.py
"""

_base_ = [
    './_base_/models/ssdlite_mnv2.py',
    './_base_/datasets/voc12_detection.py',
    './_base_/schedules/ssdlite_adamw_long.py',
    './_base_/default_runtime.py',
]
model = dict(bbox_head=dict(num_classes=20))
train_dataloader = dict(batch_size=16)
test_dataloader = _base_.val_dataloader  # noqa: F821 - mmengine provides it

"""SSDLite-MobileNetV2 on a few hundred images of VOC 2012, from ImageNet weights.

    mnv2 train ssdlite_mnv2_voc_short.py

Trained on VOC 2012 train, validated on its val, tested on VOC 2007 test.
"""

_base_ = [
    './_base_/models/ssdlite_mnv2.py',
    './_base_/datasets/voc12_detection.py',
    './_base_/schedules/ssdlite_adamw.py',
    './_base_/default_runtime.py',
]
model = dict(bbox_head=dict(num_classes=20))

# A few epochs leave no time to learn from images that are strongly zoomed or cropped.
train_pipeline = _base_.train_pipeline  # noqa: F821 - mmengine provides it
train_pipeline[1] = dict(train_pipeline[1], expand=None, crop=dict(min_ious=(0.5, 0.7, 0.9), min_crop_size=0.5))
# Small batches: twice the steps in the same time.
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=8)
train_dataloader = dict(batch_size=8, num_workers=2, dataset=dict(pipeline=train_pipeline))
train_cfg = dict(val_interval=2)

"""SSDLite-MobileNetV2 on the toy data set from ImageNet weights, in a few minutes on two CPU cores.

    mnv2 toy data/toy
    mnv2 train ssdlite_mnv2_demo.py

AP50 0.71 on the held-out images after 6 epochs: in two and a half minutes with bfloat16.
"""

_base_ = [
    './_base_/models/ssdlite_mnv2.py',
    './_base_/datasets/toy_detection.py',
    './_base_/schedules/ssdlite_adamw.py',
    './_base_/default_runtime.py',
]

input_size = (240, 240)
resize = dict(type='Resize', scale=input_size, keep_ratio=False)

model = dict(bbox_head=dict(num_classes=8))

# A few minutes of training leave no time to learn from strongly distorted images.
train_pipeline = _base_.train_pipeline  # noqa: F821 - mmengine provides it
train_pipeline[1] = dict(
    train_pipeline[1],
    scale=input_size,
    photometric=None,
    expand=None,
    crop=dict(min_ious=(0.5, 0.7, 0.9), min_crop_size=0.5),
)
test_pipeline = _base_.test_pipeline  # noqa: F821
test_pipeline[1] = resize
# Batches of 8 at the schedule's learning rate: twice the steps.
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

auto_scale_lr = dict(base_batch_size=8)
train_cfg = dict(val_interval=3)

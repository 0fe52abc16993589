"""DeepLabv3-lite-MobileNetV2 on CamVid, 480x360, 11 classes, from ImageNet weights: 2.11 M, 1.74 G multiply-adds.

mnv2 train deeplabv3lite_mnv2_camvid.py

This recipe has not been run to its end.
"""

_base_ = [
    './_base_/models/deeplabv3lite_mnv2.py',
    './_base_/datasets/camvid.py',
    './_base_/schedules/deeplab_poly.py',
    './_base_/seg_runtime.py',
]
max_epochs = 120
model = dict(
    data_preprocessor=dict(
        size={{_base_.input_size}}, seg_pad_val={{_base_.void}}, test_cfg=dict(size={{_base_.input_size}})
    ),
    # Few steps, so running statistics must adapt fast.
    backbone=dict(norm_cfg=dict(momentum=0.03)),
    decode_head=dict(num_classes=11, ignore_index={{_base_.void}}, norm_cfg=dict(momentum=0.03)),
)
optim_wrapper = dict(
    _delete_=True, type='mnv2_backbone.BFloat16OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.01)
)
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = _base_.param_scheduler  # noqa: F821 - mmengine provides it
param_scheduler[0]['end'] = max_epochs

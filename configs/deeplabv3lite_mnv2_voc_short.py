"""DeepLabv3-lite-MobileNetV2 on a few hundred images of VOC 2012, in minutes on a CPU.

    mnv2 train deeplabv3lite_mnv2_voc_short.py

From ImageNet weights; whole images at 257x257, in training up to one and a half times enlarged and cropped.
"""

_base_ = './deeplabv3lite_mnv2_voc12.py'

max_epochs = 6
input_size = (257, 257)
model = dict(
    data_preprocessor=dict(size=input_size, test_cfg=dict(size=input_size)),
    # Few steps, so running statistics must adapt fast.
    backbone=dict(norm_cfg=dict(momentum=0.03)),
    decode_head=dict(norm_cfg=dict(momentum=0.03)),
)
train_dataloader = dict(
    num_workers=2,
    dataset=dict(
        pipeline=[
            dict(type='mnv2_backbone.LoadImage', skip_corrupt=True),
            dict(type='LoadAnnotations'),
            dict(type='RandomResize', scale=input_size, ratio_range=(1.0, 1.5), keep_ratio=False),
            dict(type='RandomCrop', crop_size=input_size),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ]
    ),
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=input_size, keep_ratio=False),
    # Loaded after Resize: evaluated at the original size.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
tta_pipeline = None  # --tta: as it is tested, and mirrored
optim_wrapper = dict(
    _delete_=True, type='mnv2_backbone.BFloat16OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01)
)
train_cfg = dict(max_epochs=max_epochs, val_interval=3)
param_scheduler = _base_.param_scheduler  # noqa: F821 - mmengine provides it
param_scheduler[0]['end'] = max_epochs
